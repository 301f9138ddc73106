//! Which server gets the next connection.
//!
//! A [`Picker`] picks among the servers of one pool, for one shard, by one [`Algorithm`]. It is pure:
//! the seed is an argument, loads and usability are asked of the caller at each pick.
//!
//! | algorithm | picks | cost of a pick |
//! |---|---|---|
//! | `round-robin` | smoothly in turn by weight, as nginx does: 5,1,1 gives a a b a c a a | 1 with equal weights, else one step per server |
//! | `least-connections` | the lowest load / weight; among equals by weight at random | one step per server |
//! | `random` | at random by weight | 1 |
//! | `p2c` | two different ones at random by weight, of these the lower load / weight | 1 |
//! | `peak-ewma` | as `p2c`, by latency x (load + 1) / weight | 1 |
//! | `ring-hash`, `maglev` | by the key's hash | one step per server |
//!
//! "1" holds while most servers are usable. When few are, the servers are walked, so a usable one is
//! always found. **Weight 0 means drained**: never picked, not even when no other server is left, since
//! whoever drains a server wants no new connection on it. [`Picker::pick`] then returns `None`.
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
