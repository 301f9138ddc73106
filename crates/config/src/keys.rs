//! The one table of keys. Parsing, ranges, suggestions, the JSON Schema and the reference in the
//! guide all derive from it; a key is defined here and nowhere else.
//!
//! Owns: every key's section, name, kind, range, default and documentation.
//! Refuses: to know what keys mean together; that is `check.rs`.
//! Driven by: the [`section`](crate::section) reader and the generators in `reference.rs`.

use fourfold_balance::Algorithm;

use crate::plan::{EngineChoice, LogFormat, LogLevel, Mode, PortMode};

pub(crate) const LISTENERS_MAX: usize = 1_024;
pub(crate) const POOLS_MAX: usize = 1_024;
pub(crate) const SERVERS_PER_POOL_MAX: usize = 4_096;
pub(crate) const SOURCES_PER_POOL_MAX: usize = 1_024;
/// A hundred million connections need 400 GB in the kernel alone; more is a slip of the finger.
pub(crate) const CONNECTIONS_MAX: u64 = 100_000_000;
/// Longer than any connection is meant to live, and far from overflow when added to a clock.
const DURATION_MS_MAX: u64 = 366 * DAY_MS;

const SECOND_MS: u64 = 1_000;
const HOUR_MS: u64 = 3_600 * SECOND_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Top,
    Log,
    Listener,
    Pool,
    Server,
}

impl Section {
    pub(crate) const ALL: [Section; 5] =
        [Section::Top, Section::Log, Section::Listener, Section::Pool, Section::Server];

    pub(crate) fn keys(self) -> &'static [&'static Key] {
        match self {
            Section::Top => top::KEYS,
            Section::Log => log::KEYS,
            Section::Listener => listener::KEYS,
            Section::Pool => pool::KEYS,
            Section::Server => server::KEYS,
        }
    }

    /// The section's header in TOML.
    pub(crate) fn header(self) -> &'static str {
        match self {
            Section::Top => "at the top of the file",
            Section::Log => "[log]",
            Section::Listener => "[[listener]]",
            Section::Pool => "[[pool]]",
            Section::Server => "[[pool.server]]",
        }
    }
}

/// A key of the configuration.
#[derive(Debug)]
pub(crate) struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub default: Default,
    /// The version that first had it.
    pub since: &'static str,
    pub doc: &'static str,
}

#[derive(Debug)]
pub(crate) enum Default {
    /// Must be written.
    Required,
    /// As one would write it.
    Text(&'static str),
    /// Worked out elsewhere; in words.
    Derived(&'static str),
}

#[derive(Debug)]
pub(crate) enum Kind {
    /// `unit` is what is counted.
    Count {
        min: u64,
        max: u64,
        unit: &'static str,
    },
    /// A count or `"auto"`.
    CountOrAuto {
        min: u64,
        max: u64,
        unit: &'static str,
    },
    Duration {
        min_ms: u64,
        max_ms: u64,
    },
    Choice {
        now: fn() -> Vec<&'static str>,
        later: &'static [&'static str],
    },
    Name,
    PoolName,
    Bind,
    Server,
    Sources,
    Ports,
    Table(Section),
    Tables {
        section: Section,
        max: usize,
    },
    /// Known, and refused as not available in this version.
    Later,
}

/// A type whose values are chosen by name.
pub(crate) trait Choices: Copy + 'static {
    const ALL: &'static [(&'static str, Self)];

    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|(name, _)| *name).collect()
    }
}

impl Choices for EngineChoice {
    const ALL: &'static [(&'static str, Self)] =
        &[("auto", EngineChoice::Auto), ("uring", EngineChoice::Uring), ("epoll", EngineChoice::Epoll)];
}

impl Choices for LogLevel {
    const ALL: &'static [(&'static str, Self)] = &[
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
}

impl Choices for LogFormat {
    const ALL: &'static [(&'static str, Self)] = &[("human", LogFormat::Human), ("json", LogFormat::Json)];
}

impl Choices for Mode {
    const ALL: &'static [(&'static str, Self)] = &[("tcp", Mode::Tcp), ("http", Mode::Http)];
}

/// The names are `fourfold-balance`'s; an algorithm added there fails to compile here until it is listed.
const ALGORITHMS: [(&str, Algorithm); 7] = {
    let [a, b, c, d, e, f, g] = Algorithm::ALL;
    [(a.name(), a), (b.name(), b), (c.name(), c), (d.name(), d), (e.name(), e), (f.name(), f), (g.name(), g)]
};

impl Choices for Algorithm {
    const ALL: &'static [(&'static str, Self)] = &ALGORITHMS;
}

impl Choices for PortMode {
    const ALL: &'static [(&'static str, Self)] =
        &[("auto", PortMode::Auto), ("late", PortMode::Late), ("early", PortMode::Early)];
}

const fn choice<T: Choices>(later: &'static [&'static str]) -> Kind {
    Kind::Choice { now: T::names, later }
}

const fn duration(min_ms: u64) -> Kind {
    Kind::Duration { min_ms, max_ms: DURATION_MS_MAX }
}

macro_rules! section {
    ($module:ident { $($id:ident = $name:literal, $kind:expr, $default:expr, $since:literal, $doc:literal;)* }) => {
        pub(crate) mod $module {
            use super::*;
            $(pub(crate) static $id: Key =
                Key { name: $name, kind: $kind, default: $default, since: $since, doc: $doc };)*
            pub(crate) static KEYS: &[&Key] = &[$(&$id),*];
        }
    };
}

section! { top {
    MAX_CONNECTIONS = "max_connections",
        Kind::Count { min: 1, max: CONNECTIONS_MAX, unit: "connections" },
        Default::Derived("as many as the machine's limits allow"), "0.1",
        "Connections over all listeners. Shards, buffers and queues are sized from it.";
    SHARDS = "shards",
        Kind::CountOrAuto { min: 1, max: 1_024, unit: "threads" },
        Default::Text("auto"), "0.1",
        "Event loops. `auto` takes one per core, more only where the descriptor limit forces it.";
    ENGINE = "engine",
        choice::<EngineChoice>(&[]),
        Default::Text("auto"), "0.1",
        "Kernel interface. `auto` probes io_uring and says at start what it chose and why.";
    DRAIN_TIMEOUT = "drain_timeout",
        duration(0),
        Default::Text("30s"), "0.1",
        "How long a graceful stop waits for connections to end. `0s`: not at all.";
    LOG = "log",
        Kind::Table(Section::Log),
        Default::Derived("the defaults of its keys"), "0.1",
        "What is logged and how.";
    LISTENER = "listener",
        Kind::Tables { section: Section::Listener, max: LISTENERS_MAX },
        Default::Required, "0.1",
        "Addresses to listen on.";
    POOL = "pool",
        Kind::Tables { section: Section::Pool, max: POOLS_MAX },
        Default::Required, "0.1",
        "Servers, and how to reach them.";
    ADMIN = "admin",
        Kind::Later,
        Default::Derived("none"), "",
        "Metrics, health and the dashboard.";
} }

section! { log {
    LEVEL = "level",
        choice::<LogLevel>(&[]),
        Default::Text("info"), "0.1",
        "The least severe messages that are logged.";
    FORMAT = "format",
        choice::<LogFormat>(&[]),
        Default::Text("human"), "0.1",
        "Lines for people, or one JSON object per line.";
} }

section! { listener {
    NAME = "name",
        Kind::Name,
        Default::Required, "0.1",
        "Unique among listeners; appears in logs and counters.";
    BIND = "bind",
        Kind::Bind,
        Default::Required, "0.1",
        "Address of this machine and port. Host names are refused.";
    MODE = "mode",
        choice::<Mode>(&[]),
        Default::Text("tcp"), "0.1",
        "What is spoken: `tcp` passes bytes on as they come, `http` is HTTP/1.1.";
    POOL = "pool",
        Kind::PoolName,
        Default::Required, "0.1",
        "The pool that connections go to.";
    MAX_CONNECTIONS = "max_connections",
        Kind::Count { min: 1, max: CONNECTIONS_MAX, unit: "connections" },
        Default::Derived("only the global limit applies"), "0.1",
        "Connections through this listener.";
    IDLE_TIMEOUT = "idle_timeout",
        duration(0),
        Default::Text("1h"), "0.1",
        "A connection without a byte in either direction for this long is closed. `0s`: never. Push and chat \
         clients send something every few minutes; a whole silent hour means that the peer is gone.";
    BACKLOG = "backlog",
        Kind::Count { min: 1, max: 1 << 24, unit: "connections" },
        Default::Derived("the machine's `net.core.somaxconn`"), "0.1",
        "Connections that the kernel holds until they are accepted. The kernel cuts it to `somaxconn`.";
    ROUTE = "route",
        Kind::Later,
        Default::Derived("none"), "",
        "Pools by host and path.";
} }

section! { pool {
    NAME = "name",
        Kind::Name,
        Default::Required, "0.1",
        "Unique among pools; listeners refer to it.";
    BALANCE = "balance",
        choice::<Algorithm>(&[]),
        Default::Text("p2c"), "0.1",
        "How a server is picked. `p2c` takes the less loaded of two random ones.";
    SOURCES = "sources",
        Kind::Sources,
        Default::Derived("the one address that the kernel's routing picks"), "0.1",
        "Local addresses to connect from. Each adds its ports once more for every server.";
    PORTS = "ports",
        Kind::Ports,
        Default::Derived("the machine's `net.ipv4.ip_local_port_range`"), "0.1",
        "Local ports to connect from, on every source.";
    PORT_MODE = "port_mode",
        choice::<PortMode>(&[]),
        Default::Text("auto"), "0.1",
        "How a port is pinned: `late` (Linux 6.3, ports inside `ip_local_port_range`), `early` (any other port), \
         or what fits.";
    CONNECT_TIMEOUT = "connect_timeout",
        duration(1),
        Default::Text("5s"), "0.1",
        "How long one attempt to connect may take.";
    CONNECT_ATTEMPTS = "connect_attempts",
        Kind::Count { min: 1, max: 16, unit: "attempts" },
        Default::Text("3"), "0.1",
        "Paths (source and server) that are tried before a client is given up.";
    QUEUE_TIMEOUT = "queue_timeout",
        duration(0),
        Default::Text("5s"), "0.1",
        "How long a client waits when four-tuples or servers are short. `0s`: not at all.";
    QUEUE_MAX = "queue_max",
        Kind::Count { min: 0, max: CONNECTIONS_MAX, unit: "connections" },
        Default::Derived("from `max_connections`"), "0.1",
        "Clients that may wait at once. `0`: none.";
    RETRY_BACKOFF = "retry_backoff",
        duration(1),
        Default::Text("100ms"), "0.1",
        "How long a server that refused or hung is left alone at first; doubles with every failure.";
    RETRY_BACKOFF_MAX = "retry_backoff_max",
        duration(1),
        Default::Text("10s"), "0.1",
        "What that doubles up to.";
    SERVER = "server",
        Kind::Tables { section: Section::Server, max: SERVERS_PER_POOL_MAX },
        Default::Required, "0.1",
        "The servers of the pool, at least one.";
} }

section! { server {
    ADDRESS = "address",
        Kind::Server,
        Default::Required, "0.1",
        "Where the server is. A name that does not resolve makes the server down, not the configuration wrong.";
    WEIGHT = "weight",
        Kind::Count { min: 0, max: 65_535, unit: "shares" },
        Default::Text("1"), "0.1",
        "Share of new connections relative to the other servers. `0`: none.";
    MAX_CONNECTIONS = "max_connections",
        Kind::Count { min: 1, max: CONNECTIONS_MAX, unit: "connections" },
        Default::Derived("no limit"), "0.1",
        "Connections to this server; more wait in the pool's queue.";
} }
