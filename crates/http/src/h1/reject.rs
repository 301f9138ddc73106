//! Why a message is refused: one reason per rule, with what to answer, what to count, and where the rule is written.

macro_rules! rejects {
    ($($variant:ident $status:literal $name:literal $explain:literal)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[non_exhaustive]
        pub enum Reject {
            $(#[doc = $explain] $variant,)*
        }

        impl Reject {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// What to answer when a client sent it. From an origin all of them are a 502.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// For counters and logs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// For people, with the section that has the rule.
            pub const fn explain(self) -> &'static str {
                match self { $(Self::$variant => $explain,)* }
            }
        }
    };
}

rejects! {
    // The request line.
    EmptyLines 400 "empty_lines" "more than two empty lines before a message, or any before a response (RFC 9112 2.2)"
    MethodInvalid 400 "method_invalid" "the method is not a token (RFC 9110 9.1)"
    MethodTooLong 400 "method_too_long" "the method is longer than 32 bytes (RFC 9110 9.1)"
    RequestLineInvalid 400 "request_line_invalid" "the request line is not: method, one space, target, one space, version (RFC 9112 3)"
    TargetTooLong 414 "target_too_long" "the request line is longer than the limit (RFC 9112 3)"
    TargetInvalid 400 "target_invalid" "the target holds a control or 8-bit byte, or is empty (RFC 9112 3.2)"
    TargetFragment 400 "target_fragment" "the target holds a # (RFC 9112 3.2)"
    TargetForm 400 "target_form" "the target is in none of the four forms, or in one that its method does not have (RFC 9112 3.2)"
    TargetScheme 400 "target_scheme" "the target is absolute with a scheme other than http and https (RFC 9110 4.2)"
    TargetUserInfo 400 "target_userinfo" "the target names a user (RFC 9110 4.2.4)"
    VersionMissing 400 "version_missing" "the request line has no version: HTTP/0.9 is not spoken here (RFC 9112 3)"
    VersionInvalid 400 "version_invalid" "the version is not HTTP/ digit . digit in capitals (RFC 9112 2.3)"
    VersionUnsupported 505 "version_unsupported" "the version is neither HTTP/1.0 nor HTTP/1.1 (RFC 9110 15.6.6)"
    // The status line.
    StatusLineInvalid 502 "status_line_invalid" "the status line is not: version, space, three digits, space, reason (RFC 9112 4)"
    StatusInvalid 502 "status_invalid" "the status is not within 100-999 (RFC 9110 15)"
    SwitchingUnasked 502 "switching_unasked" "a 101 although no upgrade was asked for (RFC 9110 7.8)"
    SwitchingInvalid 502 "switching_invalid" "a 101 without exactly one protocol in Upgrade and upgrade in Connection (RFC 9110 15.2.2)"
    // Lines and fields.
    HeadMalformed 400 "head_malformed" "the head does not end where its empty line is (RFC 9112 2.1)"
    HeadTooLarge 431 "head_too_large" "the head is larger than the limit (RFC 6585 5)"
    FieldsTooMany 431 "fields_too_many" "more fields than the limit (RFC 6585 5)"
    FieldTooLong 431 "field_too_long" "a field line is longer than the limit (RFC 6585 5)"
    BareLf 400 "bare_lf" "a line ends with LF alone (RFC 9112 2.2)"
    BareCr 400 "bare_cr" "a CR is not followed by LF (RFC 9112 2.2)"
    FieldNameEmpty 400 "field_name_empty" "a field has no name (RFC 9110 5.1)"
    FieldNameInvalid 400 "field_name_invalid" "a field name is not a token (RFC 9110 5.1)"
    FieldNameTooLong 431 "field_name_too_long" "a field name is longer than 256 bytes (RFC 6585 5)"
    FieldColonMissing 400 "field_colon_missing" "a field line has no colon (RFC 9112 5)"
    FieldSpaceBeforeColon 400 "field_space_before_colon" "a blank between field name and colon (RFC 9112 5.1)"
    FieldFolded 400 "field_folded" "a line starts with a blank: folded fields are obsolete (RFC 9112 5.2)"
    FieldValueInvalid 400 "field_value_invalid" "a field value holds NUL or another control byte (RFC 9110 5.5)"
    // Host.
    HostMissing 400 "host_missing" "HTTP/1.1 without Host (RFC 9112 3.2)"
    HostRepeated 400 "host_repeated" "more than one Host (RFC 9112 3.2)"
    HostEmpty 400 "host_empty" "the host is empty (RFC 9110 4.2.1)"
    HostInvalid 400 "host_invalid" "the host is neither a name nor an address (RFC 9110 7.2)"
    HostPortInvalid 400 "host_port_invalid" "the port behind the host is not 1-65535 without leading zeros (RFC 9110 7.2)"
    HostMismatch 400 "host_mismatch" "the target and Host name different authorities (RFC 9112 3.2.2)"
    // Framing.
    ContentLengthInvalid 400 "content_length_invalid" "Content-Length is not a plain decimal number (RFC 9110 8.6)"
    ContentLengthRepeated 400 "content_length_repeated" "more than one Content-Length, be they the same (RFC 9112 6.3)"
    LengthConflict 400 "length_conflict" "Content-Length and Transfer-Encoding in one message (RFC 9112 6.3)"
    TransferEncodingRepeated 400 "transfer_encoding_repeated" "more than one Transfer-Encoding (RFC 9112 6.1)"
    TransferEncodingInvalid 400 "transfer_encoding_invalid" "Transfer-Encoding is not chunked and nothing else (RFC 9112 6.1)"
    TransferCodingUnknown 501 "transfer_coding_unknown" "a transfer coding other than chunked (RFC 9112 6.1)"
    TransferEncodingInHttp10 400 "transfer_encoding_in_http10" "Transfer-Encoding in an HTTP/1.0 message (RFC 9112 6.1)"
    BodyForbidden 400 "body_forbidden" "TRACE or CONNECT with content (RFC 9110 9.3.6, 9.3.8)"
    LengthForbidden 502 "length_forbidden" "a 1xx or 204 that announces content (RFC 9110 8.6, RFC 9112 6.1)"
    ConnectionInvalid 400 "connection_invalid" "Connection is not a list of tokens (RFC 9110 7.6.1)"
    ConnectionTooMany 431 "connection_too_many" "Connection names more than 16 options beyond close, keep-alive and upgrade (RFC 9110 7.6.1)"
    ExpectUnknown 417 "expect_unknown" "Expect asks for something other than 100-continue (RFC 9110 10.1.1)"
    // Bodies.
    ChunkSizeInvalid 400 "chunk_size_invalid" "a chunk size is not plain hexadecimal digits (RFC 9112 7.1)"
    ChunkSizeTooLarge 400 "chunk_size_too_large" "a chunk size of more than 16 digits or beyond 63 bits (RFC 9112 7.1)"
    ChunkExtensionInvalid 400 "chunk_extension_invalid" "a chunk extension is malformed (RFC 9112 7.1.1)"
    ChunkExtensionTooLong 400 "chunk_extension_too_long" "chunk extensions outweigh the data they come with (RFC 9112 7.1.1)"
    ChunkLineEnd 400 "chunk_line_end" "a chunk size line does not end with CR LF (RFC 9112 7.1)"
    ChunkDataEnd 400 "chunk_data_end" "the data of a chunk is not followed by CR LF (RFC 9112 7.1)"
    TrailersTooLarge 431 "trailers_too_large" "the trailer section is larger than the limit (RFC 6585 5)"
    BodyTruncated 400 "body_truncated" "the connection ended before the message did (RFC 9112 8)"
    // Paths.
    PathInvalid 400 "path_invalid" "the path does not start with / or holds a byte that no path has (RFC 3986 3.3)"
    PathPercent 400 "path_percent" "a % without two hexadecimal digits (RFC 3986 2.1)"
    PathNul 400 "path_nul" "an encoded NUL in the path (RFC 3986 7.3)"
    PathBackslash 400 "path_backslash" "a backslash in the path: some servers take it for a slash (RFC 3986 3.3)"
    PathAboveRoot 400 "path_above_root" "dot segments lead above the root (RFC 3986 5.2.4)"
    PathHiddenDots 400 "path_hidden_dots" "dot segments behind an encoded slash or before a semicolon (RFC 3986 3.3, 7.3)"
    PathSlashes 400 "path_slashes" "repeated slashes, which the listener forbids (RFC 3986 3.3)"
    PathEncodedSlash 400 "path_encoded_slash" "an encoded slash, which the listener forbids (RFC 3986 2.2)"
}

impl std::fmt::Display for Reject {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.explain())
    }
}

impl std::error::Error for Reject {}

impl Reject {
    /// The reason with this [`Reject::name`].
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reject| reject.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_snake_case_and_rules_are_cited() {
        for reject in Reject::ALL {
            let name = reject.name();
            assert_eq!(Reject::named(name), Some(*reject), "{name} is taken twice");
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{name}"
            );
            assert!(reject.explain().contains("RFC "), "{name} cites nothing");
            assert!((400..600).contains(&reject.status()), "{name}");
        }
    }
}
