//! Version 1.
//!
//! | path | type |
//! |---|---|
//! | `/api/v1/instance` | [`Instance`] |
//! | `/api/v1/listeners` | [`Listeners`] |
//! | `/api/v1/pools` | [`Pools`] |
//! | `/api/v1/tuples` | [`Tuples`], filtered by [`TuplesQuery`] |
//! | `/api/v1/connections` | [`Connections`], a page chosen by [`ConnectionsQuery`] |
//! | `/api/v1/limits` | [`Limits`] |
//! | `/api/v1/counters` | [`Counters`] |
//! | `/api/v1/events` | [`Events`], from [`EventsQuery`] on |
//!
//! Times are milliseconds since 1970, durations milliseconds, rates per second, sizes bytes unless a name says otherwise.

mod connections;
mod counters;
mod events;
mod limits;
mod listeners;
mod pools;
mod tuples;

pub use connections::{Connection, ConnectionState, Connections, ConnectionsQuery};
pub use counters::{Counter, Counters};
pub use events::{Event, EventKind, Events, EventsQuery, Severity};
pub use limits::{Limit, Limits};
pub use listeners::{Bind, Listener, Listeners, Mode};
pub use pools::{AvoidedPath, Pool, Pools, Server, ServerState};
pub use tuples::{Destination, Fill, Flow, Headroom, PinMode, Source, Tuples, TuplesQuery};

use serde::{Deserialize, Serialize};

/// As it stands in paths.
pub const VERSION: &str = "v1";

pub const INSTANCE: &str = "/api/v1/instance";
pub const LISTENERS: &str = "/api/v1/listeners";
pub const POOLS: &str = "/api/v1/pools";
pub const TUPLES: &str = "/api/v1/tuples";
pub const CONNECTIONS: &str = "/api/v1/connections";
pub const LIMITS: &str = "/api/v1/limits";
pub const COUNTERS: &str = "/api/v1/counters";
pub const EVENTS: &str = "/api/v1/events";

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    pub name: String,
    /// Of the program.
    pub version: String,
    pub pid: u32,
    /// The configuration's file; `None`: it was given by flags.
    pub config: Option<String>,
    pub started_at_ms: u64,
    pub uptime_ms: u64,
    /// `uring` or `epoll`.
    pub engine: String,
    pub shards: u32,
    pub connections: u64,
    pub max_connections: u64,
    /// It accepts no more, and ends when its connections have.
    pub draining: bool,
}
