//! What a picker is made of: the servers, and what stands in front of the algorithm.

use crate::algorithm::Algorithm;
use crate::hash::mix;

/// One server of a pool as a picker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// Names the server wherever instances have to agree: [`server_id`](crate::server_id) of its address.
    pub id: u64,
    /// 0: drained.
    pub weight: u32,
    /// Any numbering; equal numbers are the same zone.
    pub zone: u16,
}

impl Server {
    /// Servers that have nothing but a weight; they are told apart by their place.
    #[must_use]
    pub fn by_place(weights: &[u32]) -> Vec<Server> {
        let server = |(place, &weight): (usize, &u32)| Server { id: mix(place as u64, 0), weight, zone: 0 };
        weights.iter().enumerate().map(server).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// A server that has just come up gets its whole weight only after this long. 0: at once. Keyed algorithms do
    /// not heed it: keys would move twice.
    pub slow_start_ms: u64,
    /// Servers of this zone first, while they can take their share. `None`: all zones alike. Keys know no zones.
    pub zone: Option<u16>,
    /// Only for algorithms without a key.
    pub aperture: Option<Aperture>,
    /// Keyed algorithms: no server holds more than this percentage of its fair share of the load. 0: no bound.
    pub bound_percent: u32,
    /// Slots of Maglev's table, raised to the next prime. More: finer balance, less disruption, more memory.
    pub maglev_slots: u32,
}

/// 1.25, which the paper and HAProxy's documentation recommend: far from even enough to pass few keys on,
/// near enough to matter.
pub const BOUND_PERCENT: u32 = 125;
/// The paper's small table: a hundred slots per server up to 655 servers; 256 KB, shared by all shards.
pub const MAGLEV_SLOTS: u32 = 65_537;

impl Options {
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Options {
        let bound_percent = if algorithm == Algorithm::RingHash { BOUND_PERCENT } else { 0 };
        Options { slow_start_ms: 0, zone: None, aperture: None, bound_percent, maglev_slots: MAGLEV_SLOTS }
    }
}

/// Deterministic subsetting, as Finagle's aperture: peers (instances, or shards of all instances) share the
/// servers out among themselves by their numbers alone, each a slice of the same ring, so that every server is
/// wanted equally and each peer keeps connections to few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aperture {
    /// Which of the peers this is, from 0.
    pub peer: u32,
    pub peers: u32,
    /// So many neighbours (`peer / together` being equal) count the loads together: the shards of a process. A
    /// server's load is then held against what all of them have of it.
    pub together: u32,
    /// Servers that a peer wants at least.
    pub servers_min: u32,
}
