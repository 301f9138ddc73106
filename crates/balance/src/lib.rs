//! Which server gets the next connection or request, which servers are fit to, and how many second tries there are.
//!
//! A [`Picker`] picks among the servers of one pool, for one shard, by one [`Algorithm`]. It is pure: seed and time
//! are arguments, loads and usability are asked of the caller at each pick. No pick allocates.
//!
//! | algorithm | picks | cost of a pick | when |
//! |---|---|---|---|
//! | `p2c` | two different ones at random by weight, of these the lower load / weight | 1 | the default: close to the least loaded, at any number of servers, and shards do not fall upon the same one |
//! | `least-connections` | the lowest load / weight; among equals by weight at random | one step per server | few servers and connections that stay for long |
//! | `peak-ewma` | two as `p2c`, of these the lower latency x (load / weight + 1); follows a peak at once, forgets it in seconds | 1 | requests, and servers of unequal or changing speed |
//! | `round-robin` | smoothly in turn by weight, as nginx does: 5,1,1 gives a a b a c a a | 1 with equal weights, else one step per server | equal servers, equal requests; exact shares |
//! | `random` | at random by weight | 1 | as `round-robin`, without its state |
//! | `maglev` | by the key, from a table | 1 | keys with even load: sticky clients, caches; all instances agree; shares within a few percent |
//! | `ring-hash` | by the key, on a ring, none above 1.25 of its fair share of the load | log of the points; a bound adds 16 looks | keys of which some are hot |
//!
//! "1" holds while most servers are usable. When few are, the servers are walked, so a usable one is always
//! found. **Weight 0 means drained**: never picked, not even when no other server is left, since whoever drains a
//! server wants no new connection on it. [`Picker::pick`] then returns `None`.
//!
//! Measured against a picker that knows how fast each server is (`tests/quality.rs`: 20 servers with a queue each,
//! Poisson arrivals at 0.5 and 0.8 of what they can do), mean latency is at most this many times the best:
//!
//! | servers | `least-connections` | `p2c` | `peak-ewma` | `round-robin`, `random` |
//! |---|---|---|---|---|
//! | equal | 1.02 | 1.9 | 1.9 | 2.8, 5.0 |
//! | half of them four times slower | 1.9 | 4.2 | 2.8 | without bound: the slow ones drown |
//! | one twenty times slower | 1.2 | 2.3 | 2.5 | without bound |
//!
//! In front of every algorithm without a key stand, by [`Options`]:
//! - **slow start**: a server that has come up begins with a tenth of its weight and has all of it after
//!   `slow_start_ms`;
//! - **zone**: the own zone is used alone while its part of the usable weight is no less than its part of the work
//!   (each zone is taken to have the same to do); else it keeps what loads it no more than the other zones, and the
//!   rest spills to them;
//! - **aperture**: each peer keeps to its slice of the servers; the rest is used when none of the slice can be.
//!
//! [`health`] says which servers are fit; [`retry`] what second tries may cost; [`sticky`] writes and reads the
//! cookie that keeps a client at its server.
//!
//! ```
//! use fourfold_balance::{Algorithm, Ask, Picker};
//!
//! let connections = [10, 3, 5];
//! let down = 1;
//! let mut picker = Picker::new(Algorithm::LeastConnections, &[1, 1, 1], 42);
//! let picked = picker.pick(Ask::default(), |server| (server != down).then(|| connections[server]));
//! assert_eq!(picked, Some(2));
//! ```
#![forbid(unsafe_code)]

mod algorithm;
mod aperture;
mod census;
mod draw;
mod ewma;
mod group;
mod hash;
pub mod health;
mod keyed;
mod options;
mod picker;
pub mod retry;
pub mod sticky;
mod warmth;

pub use algorithm::{Algorithm, UnknownAlgorithm};
pub use hash::{hash_key, server_id};
pub use options::{Aperture, BOUND_PERCENT, MAGLEV_SLOTS, Options, Server};
pub use picker::{Ask, Picker};
