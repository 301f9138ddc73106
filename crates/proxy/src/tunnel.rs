//! One client's connection and its upstream half: what an idle connection costs is this struct, a timer link, and a few
//! bytes per socket in the engine.
//!
//! ```text
//!            no tuple, no server                     answered
//! accepted ──────────────────────▶ Waiting ─▶ Connecting ─────▶ Open ──▶ Closing ──▶ gone
//!     │                              ▲  ▲          │ failed              ▲
//!     └──────────────────────────────┼──┴─ Failing ◀┘                     │ both sides ended, reset,
//!                                    │ another path                      │ time-out, drain, refusal
//! ```

use crate::access::Ending;
use crate::core::Core;
use crate::health::Answerer;
use crate::splice::Carrier;
use crate::stash::Stash;
use crate::{http, tcp};
use fourfold_base::Millis;
use fourfold_engine::Sock;
use fourfold_l4::proxy_protocol::Addresses;
use fourfold_ports::{Lease, Release};

/// Which socket of a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Client,
    Server,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// For a tuple or a server, in the pool's queue.
    Waiting,
    Connecting,
    /// The attempt failed; its socket is being closed before the next.
    Failing,
    Open,
    Closing,
}

/// A set of facts about a tunnel; one byte each way.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Direction {
    /// The reader has been told to stop, since the writer is full.
    pub paused: bool,
    /// FIN came from this side.
    pub ended: bool,
    /// The FIN for this side has left.
    pub finished: bool,
    /// The engine still has this side's socket.
    pub open: bool,
}

pub(crate) struct Upstream {
    /// Index into the shard's paths: the space that the lease is from.
    pub path: u32,
    pub server: u32,
    pub lease: Lease,
}

/// What only some tunnels have.
#[derive(Default)]
pub(crate) struct Extra {
    /// What a server that wants to know is told of the client.
    pub addresses: Option<Addresses>,
    /// What a keyed algorithm goes by.
    pub key: Option<u64>,
    /// What the client sent before there was a server.
    pub early: Stash,
    /// FIN came behind it.
    pub early_end: bool,
    pub log: Option<Line>,
}

/// What the access log will say at its end.
pub(crate) enum Line {
    /// Of the request that it began as.
    Request(Box<http::Entry>),
    Connection(Box<tcp::Entry>),
}

impl Line {
    pub fn add(&mut self, up: u64, down: u64) {
        match self {
            Line::Request(entry) => entry.add(up, down),
            Line::Connection(entry) => entry.add(up, down),
        }
    }

    pub fn write(&self, core: &mut Core, ending: Ending, now_us: u64) {
        match self {
            Line::Request(entry) => entry.write(core, ending, now_us),
            Line::Connection(entry) => entry.write(core, ending, now_us),
        }
    }
}

pub(crate) struct Tunnel {
    pub client: Sock,
    pub server: Sock,
    pub upstream: Option<Upstream>,
    pub listener: u16,
    pub pool: u16,
    pub phase: Phase,
    /// Attempts that failed by a fault of the path.
    pub attempts: u8,
    /// Attempts that failed by a fault of ours.
    pub stumbles: u8,
    /// Counted in the pool's queue.
    pub queued: bool,
    pub client_side: Direction,
    pub server_side: Direction,
    /// What the kernel keeps of the upstream tuple once the socket is closed.
    pub release: Release,
    /// When something last moved; before that, when the phase began.
    pub active: Millis,
    /// Bytes queued for either side when it was last found without an event.
    pub unsent: u32,
    /// Its own; 0: the listener's.
    pub idle_timeout_s: u32,
    /// When a waiting client is refused.
    pub wait_until: Millis,
    pub carrier: Carrier,
    pub extra: Option<Box<Extra>>,
}

impl Tunnel {
    pub fn new(client: Sock, listener: u16, pool: u16, now: Millis) -> Self {
        Self {
            client,
            server: Sock::NONE,
            upstream: None,
            listener,
            pool,
            phase: Phase::Waiting,
            attempts: 0,
            stumbles: 0,
            queued: false,
            client_side: Direction { open: true, ..Direction::default() },
            server_side: Direction::default(),
            release: Release::Clean,
            active: now,
            unsent: 0,
            idle_timeout_s: 0,
            wait_until: 0,
            carrier: Carrier::NEW,
            extra: None,
        }
    }

    /// Of a connection that will be logged.
    pub fn log(&mut self) -> Option<&mut tcp::Entry> {
        match self.extra.as_mut()?.log.as_mut()? {
            Line::Connection(entry) => Some(entry),
            Line::Request(_) => None,
        }
    }

    /// Whom it connects or is connected to.
    pub fn answerer(&self) -> Option<Answerer> {
        let Upstream { server, lease, .. } = self.upstream.as_ref()?;
        Some(Answerer {
            pool: usize::from(self.pool),
            server: *server as usize,
            source: lease.source_index(),
        })
    }

    pub fn sock(&self, side: Side) -> Sock {
        match side {
            Side::Client => self.client,
            Side::Server => self.server,
        }
    }

    pub fn side(&self, side: Side) -> &Direction {
        match side {
            Side::Client => &self.client_side,
            Side::Server => &self.server_side,
        }
    }

    pub fn side_mut(&mut self, side: Side) -> &mut Direction {
        match side {
            Side::Client => &mut self.client_side,
            Side::Server => &mut self.server_side,
        }
    }
}

impl Side {
    pub fn other(self) -> Self {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_tunnel_stays_small() {
        assert!(size_of::<Tunnel>() <= 104, "{}", size_of::<Tunnel>());
    }

    /// What one costs beyond that while its end will be logged; the guide says so.
    #[test]
    fn a_log_to_come_stays_small() {
        let both = size_of::<Extra>() + size_of::<tcp::Entry>();
        assert!(both <= 280, "{both}");
    }
}
