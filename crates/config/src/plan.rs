//! What a configuration means, once it has been found right.
//!
//! Owns: the immutable `Plan` and its parts. A `Plan` in hand has passed every check that needs no
//! machine: names are unique, every listener's pool exists, spaces of different pools do not collide.
//! What only the machine can tell (is the address here, is the port free) is the program's to check.
//! Driven by: [`parse`](crate::parse) and [`from_flags`](crate::from_flags) build it, nothing alters it.

use std::fmt;
use std::net::SocketAddr;

use fourfold_balance::Algorithm;
use fourfold_ports::{PortSpan, SourceSet};

/// A whole configuration, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Connections over all listeners; `None`: as many as the machine's limits allow.
    pub max_connections: Option<u64>,
    /// Number of shards; `None`: derived from cores, `max_connections` and the descriptor limit.
    pub shards: Option<u32>,
    pub engine: EngineChoice,
    /// How long a graceful stop waits for connections to end; 0: not at all.
    pub drain_timeout_ms: u64,
    pub log: Log,
    pub listeners: Vec<Listener>,
    pub pools: Vec<Pool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    /// Probe, and choose by evidence.
    Auto,
    Uring,
    Epoll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}

/// One listening address and where its connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub name: String,
    pub bind: SocketAddr,
    pub mode: Mode,
    /// Index into [`Plan::pools`].
    pub pool: usize,
    /// `None`: only the global limit applies.
    pub max_connections: Option<u64>,
    /// A connection without a byte in either direction for this long is closed; 0: never.
    pub idle_timeout_ms: u64,
    /// `None`: the machine's `somaxconn`.
    pub backlog: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Tcp,
}

/// Servers that can stand in for each other, and the four-tuples that may be used to reach them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    pub name: String,
    pub balance: Algorithm,
    /// Kernel-chosen when the configuration names none.
    pub sources: SourceSet,
    /// `None`: the machine's `ip_local_port_range`.
    pub ports: Option<PortSpan>,
    pub port_mode: PortMode,
    pub connect_timeout_ms: u64,
    /// Paths (source and server) that are tried before a client is given up.
    pub connect_attempts: u8,
    /// How long a client waits for a tuple or a server; 0: not at all.
    pub queue_timeout_ms: u64,
    /// Clients that may wait at once; `None`: derived from `max_connections`; 0: none.
    pub queue_max: Option<u32>,
    /// How long a server that refused or hung is left alone, at first; doubles up to the maximum.
    pub retry_backoff_ms: u64,
    pub retry_backoff_max_ms: u64,
    /// Never empty.
    pub servers: Vec<Server>,
}

/// How a port is pinned; see [`fourfold_ports`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortMode {
    /// Late where the kernel has it and the span lies inside `ip_local_port_range`, else early.
    Auto,
    Late,
    Early,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub address: HostPort,
    /// 0: takes no new connections.
    pub weight: u16,
    pub max_connections: Option<u32>,
}

/// Where a server is: an address, or a name to be resolved by the program.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPort {
    Ip(SocketAddr),
    /// `host` is lower case and a valid host name; `port` is not 0.
    Name {
        host: String,
        port: u16,
    },
}

impl HostPort {
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            HostPort::Ip(addr) => addr.port(),
            HostPort::Name { port, .. } => *port,
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPort::Ip(addr) => write!(f, "{addr}"),
            HostPort::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}
