//! The TCP front door: accepts clients, picks a server, leases a four-tuple, connects, and tunnels both directions with
//! backpressure, half-close and reset passed on as they were meant.
//!
//! [`Shared`] is what all shards see: limits, servers, tuple spaces. [`Proxy`] is one shard's state machine, an
//! [`App`](fourfold_engine::App) that runs on any backend. Nothing here reads a clock or makes a system call.

mod core;
mod counters;
mod owner;
mod reason;
mod shard;
mod shared;
mod tcp;
mod tunnel;
mod upstream;
mod wait;

pub use counters::{Counters, Totals};
pub use reason::Refusal;
pub use shard::Proxy;
pub use shared::{
    Machine, Mail, PoolState, ServerState, SetupError, ShardState, Shared, Target, TargetError,
};
