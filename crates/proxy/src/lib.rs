//! The front door: accepts clients, picks a server, leases a four-tuple, connects, and tunnels both directions with backpressure,
//! half-close and reset passed on as they were meant, or exchanges HTTP requests over connections that all clients share.
//!
//! [`Shared`] is what all shards see: limits, servers, tuple spaces. [`Proxy`] is one shard's state machine, an
//! [`App`](fourfold_engine::App) that runs on any backend. Nothing here reads a clock or makes a system call, except the
//! [access log](access)'s writer in a thread of its own.

pub mod access;
mod check;
mod core;
mod counters;
mod health;
mod http;
mod logs;
mod owner;
mod preface;
mod rates;
mod reason;
pub mod roster;
mod shard;
mod shared;
mod shed;
mod splice;
mod stash;
mod tcp;
mod tunnel;
mod upstream;
mod wait;

pub use counters::{Counters, Totals};
pub use health::{AvoidedPath, PoolHealth};
pub use logs::SharedLog;
pub use reason::Refusal;
pub use shard::Proxy;
pub use shared::{
    Fitness, Machine, Mail, Pin, PoolState, ServerState, SetupError, ShardState, Shared, Target, TargetError,
};
