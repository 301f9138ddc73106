//! What can be wrong with a header: one name per rule, for counters, logs and tests. The sender is always to blame: abort
//! the connection, do not answer.

use std::fmt;

macro_rules! malformed {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $explanation:literal;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Malformed { $($(#[$doc])* $variant,)* }

        impl Malformed {
            pub const ALL: &'static [Malformed] = &[$(Malformed::$variant,)*];

            /// Stable, for counters and logs.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Malformed::$variant => $name,)* }
            }

            /// The rule that was broken and its section of `proxy-protocol.txt`.
            #[must_use]
            pub fn explain(self) -> &'static str {
                match self { $(Malformed::$variant => $explanation,)* }
            }
        }
    };
}

malformed! {
    V1TooLong = "v1_too_long",
        "no CRLF within the 107 bytes that a version 1 line may have (section 2.1)";
    V1LineEnd = "v1_line_end",
        "a version 1 line must end with CRLF, a CR or LF of its own ends nothing (section 2.1)";
    V1Family = "v1_family",
        "a version 1 line must name TCP4, TCP6 or UNKNOWN (section 2.1)";
    V1Fields = "v1_fields",
        "a version 1 line must have exactly two addresses and two ports, one space before each and none at the end (section 2.1)";
    V1Address = "v1_address",
        "an address of a version 1 line must be of the line's family in its canonical form, without heading zeroes (section 2.1)";
    V1Port = "v1_port",
        "a port of a version 1 line must be a decimal number from 0 to 65535 without heading zeroes (section 2.1)";
    V2Version = "v2_version",
        "the binary header must be of version 2 (section 2.2)";
    V2Command = "v2_command",
        "the command of a version 2 header must be LOCAL or PROXY (section 2.2)";
    V2Family = "v2_family",
        "the address family of a version 2 header must be UNSPEC, INET, INET6 or UNIX (section 2.2)";
    V2Transport = "v2_transport",
        "the transport of a version 2 header must be UNSPEC, STREAM or DGRAM (section 2.2)";
    V2TooLong = "v2_too_long",
        "a version 2 header may announce at most 4096 bytes of addresses and TLVs (a limit of this program)";
    V2Addresses = "v2_addresses",
        "the length of a version 2 header is too small for the addresses of its family (section 2.2)";
    V2Tlv = "v2_tlv",
        "a TLV runs over the end of its version 2 header (section 2.2)";
    V2Checksum = "v2_checksum",
        "the CRC32c TLV of a version 2 header must be there once, have 4 bytes and be right (section 2.2.3)";
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.explain())
    }
}

impl std::error::Error for Malformed {}
