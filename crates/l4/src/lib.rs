//! What a balancer decides from addresses alone: who a client is (PROXY protocol), whom to trust (prefixes), and how often
//! somebody may come (rate limits).
//!
//! Pure: no socket, no clock, no randomness. Time is microseconds of any steady clock and seeds are arguments.
#![forbid(unsafe_code)]

pub mod cidr;
mod crc32c;
pub mod proxy_protocol;
pub mod rate;

#[cfg(any(test, feature = "check"))]
mod check;

#[cfg(any(test, feature = "check"))]
pub use check::check_proxy_protocol;
pub use cidr::{CidrError, Cidrs};
