//! The one table of keys. Parsing, ranges, suggestions, the JSON Schema and the reference in the
//! guide all derive from it; a key is defined here and nowhere else.
//!
//! Owns: every key's section, name, kind, range, default and documentation.
//! Refuses: to know what keys mean together; that is `check.rs`.
//! Driven by: the [`section`](crate::section) reader and the generators in `reference.rs`.

use fourfold_balance::Algorithm;

use crate::form::{self, Form};
use crate::plan::http::{AccessFormat, ErrorFormat, Forwarded, ServerHeader};
use crate::plan::pool::{ProxyProtocol, SameSite};
use crate::plan::{EngineChoice, LogFormat, LogLevel, Mode, PortMode, SpliceMode};
use fourfold_http::path::{EncodedSlashes, Slashes};

pub(crate) const LISTENERS_MAX: usize = 1_024;
pub(crate) const POOLS_MAX: usize = 1_024;
pub(crate) const SERVERS_PER_POOL_MAX: usize = 4_096;
pub(crate) const SOURCES_PER_POOL_MAX: usize = 1_024;
pub(crate) const BINDS_MAX: usize = 64;
pub(crate) const CIDRS_MAX: usize = 4_096;
/// Entries of a table with keys of the user's.
pub(crate) const PAIRS_MAX: usize = 64;
/// A hundred million connections need 400 GB in the kernel alone; more is a slip of the finger.
pub(crate) const CONNECTIONS_MAX: u64 = 100_000_000;
/// Longer than any connection is meant to live, and far from overflow when added to a clock.
const DURATION_MS_MAX: u64 = 366 * DAY_MS;

const SECOND_MS: u64 = 1_000;
const HOUR_MS: u64 = 3_600 * SECOND_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

macro_rules! sections {
    ($($name:ident = $module:ident, $header:literal;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Section { $($name,)* }

        impl Section {
            pub(crate) const ALL: &'static [Section] = &[$(Section::$name,)*];

            pub(crate) fn keys(self) -> &'static [&'static Key] {
                match self { $(Section::$name => $module::KEYS,)* }
            }

            /// The section's header in TOML.
            pub(crate) fn header(self) -> &'static str {
                match self { $(Section::$name => $header,)* }
            }
        }
    };
}

sections! {
    Top = top, "at the top of the file";
    Log = log, "[log]";
    Splice = splice, "[splice]";
    Admin = admin, "[admin]";
    Listener = listener, "[[listener]]";
    ProxyProtocol = proxy_protocol, "[listener.proxy_protocol]";
    ConnectionRate = connection_rate, "[[listener.connection_rate]]";
    RequestRate = request_rate, "[[listener.request_rate]]";
    AccessLog = access_log, "[listener.access_log]";
    ErrorPage = error_page, "[[listener.error_page]]";
    Route = route, "[[listener.route]]";
    Header = header, "[[listener.route.header]]";
    Query = query, "[[listener.route.query]]";
    Split = split, "[[listener.route.split]]";
    Redirect = redirect, "[listener.route.redirect]";
    Respond = respond, "[listener.route.respond]";
    Rewrite = rewrite, "[listener.route.rewrite]";
    RequestHeaders = request_headers, "[listener.route.request_headers]";
    ResponseHeaders = response_headers, "[listener.route.response_headers]";
    Mirror = mirror, "[listener.route.mirror]";
    Pool = pool, "[[pool]]";
    Sticky = sticky, "[pool.sticky]";
    Aperture = aperture, "[pool.aperture]";
    Health = health, "[pool.health]";
    Outlier = outlier, "[pool.outlier]";
    Breaker = breaker, "[pool.breaker]";
    Server = server, "[[pool.server]]";
}

/// A key of the configuration.
#[derive(Debug)]
pub(crate) struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub default: Default,
    pub modes: Modes,
    /// The version that first had it.
    pub since: &'static str,
    pub doc: &'static str,
}

/// The modes of a listener in which a key means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Modes {
    Any,
    Only(Mode),
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
    /// One address or a list of them.
    Binds,
    Server,
    Bool,
    Bytes {
        min: u64,
        max: u64,
    },
    Percent {
        min: u64,
        max: u64,
    },
    Text(&'static Form),
    /// One text or a list of them.
    Texts {
        form: &'static Form,
        max: usize,
    },
    /// A table with keys of the user's.
    Pairs {
        name: &'static Form,
        value: &'static Form,
    },
    Cidrs,
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

impl Choices for SpliceMode {
    const ALL: &'static [(&'static str, Self)] =
        &[("auto", SpliceMode::Auto), ("bpf", SpliceMode::Bpf), ("off", SpliceMode::Off)];
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

impl Choices for Slashes {
    const ALL: &'static [(&'static str, Self)] =
        &[("merge", Slashes::Merge), ("keep", Slashes::Keep), ("reject", Slashes::Reject)];
}

impl Choices for EncodedSlashes {
    const ALL: &'static [(&'static str, Self)] =
        &[("keep", EncodedSlashes::Keep), ("reject", EncodedSlashes::Reject)];
}

impl Choices for Forwarded {
    const ALL: &'static [(&'static str, Self)] = &[
        ("x", Forwarded::X),
        ("rfc7239", Forwarded::Rfc7239),
        ("both", Forwarded::Both),
        ("off", Forwarded::Off),
    ];
}

impl Choices for ServerHeader {
    const ALL: &'static [(&'static str, Self)] = &[
        ("pass", ServerHeader::Pass),
        ("remove", ServerHeader::Remove),
        ("overwrite", ServerHeader::Overwrite),
    ];
}

impl Choices for ErrorFormat {
    const ALL: &'static [(&'static str, Self)] = &[
        ("auto", ErrorFormat::Auto),
        ("html", ErrorFormat::Html),
        ("json", ErrorFormat::Json),
        ("text", ErrorFormat::Text),
    ];
}

impl Choices for AccessFormat {
    const ALL: &'static [(&'static str, Self)] = &[
        ("json", AccessFormat::Json),
        ("combined", AccessFormat::Combined),
        ("tcplog", AccessFormat::Tcplog),
    ];
}

impl Choices for SameSite {
    const ALL: &'static [(&'static str, Self)] =
        &[("lax", SameSite::Lax), ("strict", SameSite::Strict), ("none", SameSite::None)];
}

impl Choices for Option<ProxyProtocol> {
    const ALL: &'static [(&'static str, Self)] =
        &[("off", None), ("v1", Some(ProxyProtocol::V1)), ("v2", Some(ProxyProtocol::V2))];
}

const fn choice<T: Choices>(later: &'static [&'static str]) -> Kind {
    Kind::Choice { now: T::names, later }
}

const fn duration(min_ms: u64) -> Kind {
    Kind::Duration { min_ms, max_ms: DURATION_MS_MAX }
}

const fn bytes(min: u64, max: u64) -> Kind {
    Kind::Bytes { min, max }
}

macro_rules! modes {
    () => {
        Modes::Any
    };
    (http) => {
        Modes::Only(Mode::Http)
    };
    (tcp) => {
        Modes::Only(Mode::Tcp)
    };
}

/// `#[http]` or `#[tcp]` above a key: it means something in that mode only.
macro_rules! section {
    ($module:ident { $($(#[$mode:ident])? $id:ident = $name:literal, $kind:expr, $default:expr, $since:literal, $doc:literal;)* }) => {
        pub(crate) mod $module {
            use super::*;
            $(pub(crate) static $id: Key = Key {
                name: $name,
                kind: $kind,
                default: $default,
                modes: modes!($($mode)?),
                since: $since,
                doc: $doc,
            };)*
            pub(crate) static KEYS: &[&Key] = &[$(&$id),*];
        }
    };
}

#[path = "keys/listener.rs"]
mod of_listener;
#[path = "keys/pool.rs"]
mod of_pool;
#[path = "keys/route.rs"]
mod of_route;

pub(crate) use of_listener::*;
pub(crate) use of_pool::*;
pub(crate) use of_route::*;

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
    SPLICE = "splice",
        Kind::Table(Section::Splice),
        Default::Derived("the defaults of its keys"), "0.1",
        "Busy tunnels of small messages, WebSockets among them, are carried by the kernel alone (BPF sockmap).";
    BUFFER_MEMORY = "buffer_memory",
        bytes(1 << 20, 1 << 40),
        Default::Derived("an eighth of the machine's memory, or of the cgroup's limit"), "0.1",
        "Memory, over all shards, for what waits for slow clients and servers: bytes that are not taken, heads that are not whole. When \
         most of it is in use, slow clients go first. At least 1 MiB for each shard.";
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
        Kind::Table(Section::Admin),
        Default::Derived("the defaults of its keys"), "0.1",
        "Where the running instance can be asked.";
} }

section! { admin {
    LISTEN = "listen",
        Kind::Text(&form::ADMIN_LISTEN),
        Default::Derived("a socket in the runtime directory, see the guide"), "0.1",
        "Where `fourfold show` and others ask: a UNIX socket that only its owner may use, or a TCP address of this \
         machine's loopback, which every local user may use. `off`: nowhere.";
} }

section! { splice {
    SPLICE_MODE = "mode",
        choice::<SpliceMode>(&[]),
        Default::Text("auto"), "0.1",
        "`bpf` hands busy tunnels to the kernel, and refuses to start where the kernel does not permit it or fails a trial; \
         `auto` takes what costs less processor time, which is copying on every kernel measured so far; `off` copies.";
    MESSAGES = "messages",
        Kind::Count { min: 1, max: 250, unit: "messages" },
        Default::Text("64"), "0.1",
        "A tunnel is busy after so many messages in a row, in both directions together, each of less than 16 KiB.";
    GAP = "gap",
        duration(1),
        Default::Text("100ms"), "0.1",
        "The longest time between two messages of such a row.";
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
