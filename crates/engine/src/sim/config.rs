//! What a virtual machine is told at its start, whom it asks, and what it counts.

use super::conn::Answer;
use super::script::Script;
use fourfold_base::Millis;
use fourfold_base::prng::Prng;
use fourfold_sys::Errno;
use std::net::{IpAddr, SocketAddr};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    Readiness,
    Completion,
}

#[derive(Clone, Debug)]
pub struct SimConfig {
    pub seed: u64,
    pub style: Style,
    pub listeners: usize,
    /// Clients that may wait to be accepted, per listener.
    pub backlog: usize,
    /// With [`Style::Readiness`] only the sum counts.
    pub accept_slots: usize,
    pub connect_slots: usize,
    pub buffers_max: usize,
    /// Completions take up to this long.
    pub delay_ms: u32,
    pub fault: Option<Fault>,
    /// Events kept for [`SimNet::trace`](super::SimNet::trace); 0: none, and nothing is spent on them.
    pub trace: usize,
}

impl SimConfig {
    pub fn new(seed: u64, style: Style) -> Self {
        Self {
            seed,
            style,
            listeners: 1,
            backlog: 64,
            accept_slots: 1024,
            connect_slots: 1024,
            buffers_max: 4096,
            delay_ms: 2,
            fault: None,
            trace: 0,
        }
    }
}

/// A deliberate breach of the contract of [`Net`](crate::Net), as if the app had made the mistake: proves that a judge sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// `Closed` is told at once, while the kernel still has the socket: a lease goes back too early.
    EarlyClosed,
    /// A FIN that is asked for while bytes are queued never leaves.
    LostFin,
    /// A full socket does not say so.
    NoPressure,
    /// A full socket drops what it is given.
    LostBytes,
}

/// A connect that somebody must answer.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    pub source: IpAddr,
    pub port: u16,
    pub remote: SocketAddr,
    pub now: Millis,
}

/// Decides what the world beyond the app's own doing is like.
pub trait Director {
    fn connect(&mut self, rng: &mut Prng, attempt: &Attempt) -> Answer;
    /// Who answers, if it is one that speaks. Asked after a connect that works.
    fn script(&mut self, _rng: &mut Prng, _attempt: &Attempt) -> Option<Box<dyn Script>> {
        None
    }
    /// An error for the next accept.
    fn accept_error(&mut self, _rng: &mut Prng, _now: Millis) -> Option<Errno> {
        None
    }
}

/// The counts that a run is judged by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimStats {
    /// Operations on a socket that the app had closed.
    pub stale_operations: u64,
    pub events: u64,
    /// Bytes that the kernel carried from one socket to the other.
    pub carried: u64,
    /// Times that the kernel took bytes.
    pub sends: u64,
    /// The longest row of turns without an event, without bytes sent, and without time passing.
    pub idle_turns_max: u32,
    pub accepted: u64,
    pub connects: u64,
    /// The most bytes that ever waited on one socket.
    pub queued_max: usize,
    pub queued_buffers_max: usize,
    /// Accepted sockets with an owner, of which `Closed` has not been told.
    pub adopted: usize,
}
