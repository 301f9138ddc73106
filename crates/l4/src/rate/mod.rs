//! Rate limits: how often somebody may come, for the many somebodies of the internet.
//!
//! Owns: the algorithm (GCRA, the generic cell rate algorithm: a token bucket kept as one point in time), keys from addresses
//! and names, and a table of fixed size for all of them.
//! Refuses: to grow, and to let anybody pass more often than the rate says, whatever the table forgot.
//! Driven by: whoever counts connections or requests; `now_us` is a time in microseconds on one steady clock.
//!
//! [`Gcra`] is one limit. [`Keyed`] is a limit for each key, owned by one thread. [`Limiter`] is the same for all shards
//! together: a client whose connections are spread over shards has one allowance, not one per shard.

mod gcra;
mod key;
mod keyed;
mod limiter;

pub use gcra::{Gcra, Rate, RetryAfter};
pub use key::{KeyMaker, V4_PREFIX_DEFAULT, V6_PREFIX_DEFAULT};
pub use keyed::Keyed;
pub use limiter::Limiter;
