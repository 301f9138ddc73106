//! What one line says.

use super::Ending;
use std::net::{IpAddr, SocketAddr};

pub const METHOD_BYTES_MAX: usize = 32;
pub const HOST_BYTES_MAX: usize = 255;
pub const PATH_BYTES_MAX: usize = 1024;
pub const QUERY_BYTES_MAX: usize = 1024;
pub const REFERER_BYTES_MAX: usize = 512;
pub const USER_AGENT_BYTES_MAX: usize = 512;
pub const REQUEST_ID_BYTES_MAX: usize = 128;
/// Of a listener, a route, a pool.
pub const NAME_BYTES_MAX: usize = 128;

/// One request, or in TCP mode one connection. Fields longer than their limits are cut, with a mark that no peer can write.
/// What is empty or `None` does not exist: the request ended before, or the mode knows no such thing.
#[derive(Clone, Debug, Default)]
pub struct Record<'a> {
    /// When the request's first byte came, on the shard's clock in microseconds.
    pub started_us: u64,
    pub listener: &'a str,
    pub route: &'a str,
    /// Who asked, as far as trusted proxies say so.
    pub client: Option<IpAddr>,
    /// Who is at the other end of the connection.
    pub peer: Option<SocketAddr>,
    pub method: &'a [u8],
    pub host: &'a [u8],
    pub path: &'a [u8],
    pub query: Option<&'a [u8]>,
    /// As on the wire: `HTTP/1.1`.
    pub version: &'a str,
    /// What the client was answered.
    pub status: Option<u16>,
    pub received: Bytes,
    pub sent: Bytes,
    pub phases: Phases,
    pub pool: &'a str,
    pub server: Option<SocketAddr>,
    /// Our own end of the connection to the server.
    pub source: Option<SocketAddr>,
    /// The connection to the server had carried a request before.
    pub reused: bool,
    /// Attempts on servers.
    pub tries: u32,
    pub ending: Ending,
    pub request_id: &'a [u8],
    pub referer: &'a [u8],
    pub user_agent: &'a [u8],
}

/// Of a message on the client's side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    pub head: u64,
    pub body: u64,
}

/// How long each step took, in microseconds; `None` if it was not reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// From the first byte of the request's head to its last.
    pub request: Option<u64>,
    /// Waiting for a server or a tuple.
    pub queue: Option<u64>,
    /// Connecting to the server; 0 on a connection that was open already.
    pub connect: Option<u64>,
    /// From the request sent to the response's head.
    pub response: Option<u64>,
    /// From the response's head to the last byte of its body.
    pub body: Option<u64>,
    pub total: u64,
}
