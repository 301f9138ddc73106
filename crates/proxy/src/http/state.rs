//! What is kept of a client, of a request in flight, and of a connection to a server.
//!
//! ```text
//! client    Head ──head complete──▶ Busy(exchange) ──answered, kept alive──▶ Head
//!             │ timeout, reject          │ answered, to be closed
//!             └──────────▶ Linger ◀──────┘        Linger ──▶ Closing ──▶ gone
//!
//! exchange  Waiting ──▶ Connecting ──▶ Open ──▶ gone             Open ──server failed, safe to repeat──▶ Waiting
//!
//! upstream  Connecting ──▶ Busy(exchange) ◀──▶ Idle               any ──▶ Closing ──▶ gone
//! ```

use super::head::Down;
use super::log::Facts;
use super::place::Place;
use crate::stash::Stash;
use fourfold_base::Millis;
use fourfold_base::slab::Key;
use fourfold_engine::{Buf, Sock};
use fourfold_http::h1::{Asked, BodyReader, Version};
use fourfold_ports::{Lease, Release};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// An address in as few bytes as it takes: most of a million clients are idle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    ip: [u8; 16],
    pub port: u16,
}

impl Peer {
    pub fn ip(&self) -> IpAddr {
        Ipv6Addr::from(self.ip).to_canonical()
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self { ip: ip.octets(), port: address.port() }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Waiting for a request, or in the midst of its head.
    Head,
    Busy(Key),
    /// Our FIN is on its way; what still comes is thrown away, so that the answer is not lost to a reset (RFC 9112 9.6).
    Linger,
    Closing,
}

/// Of what a client has taken: no look has been had yet.
pub(super) const UNKNOWN: u64 = u64::MAX;

pub(super) struct Client {
    pub sock: Sock,
    pub stage: Stage,
    /// A head's beginning; or pipelined requests and content that nobody takes yet.
    pub stash: Stash,
    /// When the present stage times out.
    pub deadline: Millis,
    pub peer: Peer,
    pub listener: u16,
    pub requests: u32,
    /// How much it had taken when that was last looked at; or [`UNKNOWN`].
    pub taken: u64,
    /// Bytes thrown away while lingering.
    pub thrown_away: u32,
    /// How far a head's beginning has been looked through.
    pub scanned: u16,
    /// Reading has been stopped.
    pub paused: bool,
    /// More is queued for the client than it takes.
    pub full: bool,
    /// Between two requests: the last response may not have left, and is looked after first.
    pub leaving: bool,
    /// What lies in the stash is being gone through.
    pub proceeding: bool,
    /// FIN came.
    pub ended: bool,
    /// Our FIN has left.
    pub finished: bool,
    /// It said that it sends nothing after this request (RFC 9112 9.6).
    pub last: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// For a tuple, a server or a connection, in the pool's queue.
    Waiting,
    Connecting,
    /// The request's head is on its way.
    Open,
}

/// One request and its response.
pub(super) struct Exchange {
    pub client: Key,
    pub conn: Option<Key>,
    pub phase: Phase,
    pub listener: u16,
    pub pool: u16,
    pub route: u32,
    pub asked: Asked,
    pub version: Version,
    /// The client wants to go on after this one.
    pub keep_alive: bool,
    pub json: bool,
    pub expects: bool,
    pub request: BodyReader,
    /// The request's content goes on in chunks.
    pub chunked_up: bool,
    pub response: BodyReader,
    pub down: Down,
    /// The response's head has gone to the client.
    pub answered: bool,
    pub interim: u8,
    /// Lines that the user adds to the response.
    pub response_fields: Vec<u8>,
    /// What has been sent to the server, to be sent to another one.
    pub sent: Vec<u8>,
    /// `sent` is all of it.
    pub repeatable: bool,
    /// Counted in the pool's queue.
    pub queued: bool,
    /// Connections that failed by a fault of the path.
    pub attempts: u8,
    /// Attempts that failed by a fault of ours.
    pub stumbles: u8,
    /// Servers that had the request, or part of it, and failed.
    pub tries: u8,
    /// It would have been sent once more, had the pool's retry budget not been spent.
    pub denied: bool,
    /// Of those tries, connections that had died in the pool.
    pub stale: u8,
    pub avoid: Vec<u32>,
    pub hash: Option<u64>,
    /// The server that its cookie names.
    pub stay: Option<u32>,
    pub place: Option<Place>,
    /// The pool that gets a copy in the end.
    pub mirror: Option<u16>,
    /// It is such a copy, and has no client.
    pub shadow: bool,
    pub wait_until: Millis,
    /// When something last moved.
    pub active: Millis,
    pub up_bytes: u64,
    pub down_bytes: u64,
    pub log: Option<Facts>,
    pub connect_us: u64,
    pub open_us: u64,
    pub answered_us: u64,
    pub status: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Connecting(Key),
    Busy(Key),
    /// Made ahead, for nobody in particular.
    Warming,
    Idle,
    Closing,
}

/// A connection to a server.
pub(super) struct Conn {
    pub sock: Sock,
    pub role: Role,
    pub pool: u16,
    pub server: u32,
    pub path: u32,
    pub lease: Lease,
    pub release: Release,
    pub started: Millis,
    /// When it became idle.
    pub idle_since: Millis,
    pub uses: u32,
    /// The server has said that it ends with this response.
    pub last: bool,
    /// Idle, and this client's alone.
    pub pinned: Option<Key>,
    /// The beginning of a response's head.
    pub partial: Option<Buf>,
    pub scanned: u16,
    /// Bytes given to it, and how many of those before the present request.
    pub sent: u64,
    pub before: u64,
    pub paused: bool,
    /// More is queued for the server than it takes.
    pub full: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_client_stays_small() {
        assert!(size_of::<Client>() <= 88, "{}", size_of::<Client>());
    }

    #[test]
    fn peer_keeps_address_and_port() {
        for text in ["127.0.0.1:80", "[2001:db8::1]:443"] {
            let address: SocketAddr = text.parse().unwrap();
            let peer = Peer::from(address);
            assert_eq!((peer.ip(), peer.port), (address.ip(), address.port()));
        }
    }
}
