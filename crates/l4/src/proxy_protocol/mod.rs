//! The PROXY protocol, versions 1 and 2, as of HAProxy's `proxy-protocol.txt`: who the client of a proxy in front of us is.
//!
//! Owns: the bytes of the header, in both directions.
//! Refuses: to guess. A header is wholly right or [`Malformed`], and a verdict on some bytes is never changed by later ones, so
//! that it does not matter how the network cut them up.
//! Driven by: a listener that expects the header from trusted addresses, and by connections to servers that want one.
//!
//! Waiting is bounded by [`V1_BYTES_MAX`] and [`V2_BYTES_MAX`]: whoever has more bytes than that has a verdict.
//! A server that wants the header gets it once per connection, so that such a connection must not be shared by clients
//! (section 2, "MUST NOT implement this protocol on multiplexed connections").

mod malformed;
mod v1;
mod v2;
mod write;

pub use malformed::Malformed;
pub use write::{write_v1, write_v2};

use std::net::SocketAddr;

/// Section 2.1: the longest possible line, its CRLF included.
pub const V1_BYTES_MAX: usize = 107;
/// Addresses and TLVs of version 2: room for a certificate's names and no more. The format itself would allow 64 KB.
pub const V2_LENGTH_MAX: usize = 4096;
/// The fixed part of version 2: signature, version and command, family and transport, length.
pub(crate) const V2_FIXED_BYTES: usize = 16;
pub const V2_BYTES_MAX: usize = V2_FIXED_BYTES + V2_LENGTH_MAX;

pub(crate) const V1_SIGNATURE: &[u8] = b"PROXY ";
pub(crate) const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Where the connection came from and where it went to, as the client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// So far this is the beginning of a header.
    More,
    /// Certainly not a header: these bytes belong to whatever is spoken without one.
    None,
    Header {
        /// Bytes of the header; what follows is the client's.
        used: usize,
        /// `None`: LOCAL, UNKNOWN, or a family without IP addresses. The connection's own addresses hold.
        addresses: Option<Addresses>,
    },
}

/// Looks at all bytes received so far. IPv4-mapped IPv6 addresses come back as the IPv4 addresses that they are, so that no
/// rule about an IPv4 address is passed by writing it differently.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if bytes.starts_with(V1_SIGNATURE) {
        v1::parse(bytes)
    } else if bytes.starts_with(V2_SIGNATURE) {
        v2::parse(bytes)
    } else if V1_SIGNATURE.starts_with(bytes) || V2_SIGNATURE.starts_with(bytes) {
        Ok(Parsed::More)
    } else {
        Ok(Parsed::None)
    }
}

impl Addresses {
    /// Both addresses in their shortest truth: mapped ones as IPv4, no flow label, no zone.
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        Self { source: canonical(source), destination: canonical(destination) }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests;
