//! What a configuration means, once it has been found right.
//!
//! Owns: the immutable `Plan` and its parts. A `Plan` in hand has passed every check that needs no
//! machine: names are unique, every listener's pool exists, spaces of different pools do not collide.
//! What only the machine can tell (is the address here, is the port free) is the program's to check.
//! Driven by: [`parse`](crate::parse) and [`from_flags`](crate::from_flags) build it, nothing alters it.

pub mod http;
pub mod pool;
pub mod template;

use std::fmt;
use std::net::SocketAddr;

use fourfold_balance::Algorithm;
use fourfold_l4::Cidrs;
use fourfold_ports::{PortSpan, SourceSet};

use http::{AccessLog, Action, Content, Http, RateLimit};
use pool::{Aperture, HashKey, Health, PoolHttp, ProxyProtocol, StickyCookie};

/// A whole configuration, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Connections over all listeners; `None`: as many as the machine's limits allow.
    pub max_connections: Option<u64>,
    /// Number of shards; `None`: derived from cores, `max_connections` and the descriptor limit.
    pub shards: Option<u32>,
    pub engine: EngineChoice,
    pub splice: Splice,
    /// For the buffers of all shards; `None`: a part of the machine's memory.
    pub buffer_memory_bytes: Option<u64>,
    /// How long a graceful stop waits for connections to end; 0: not at all.
    pub drain_timeout_ms: u64,
    pub log: Log,
    pub admin: AdminListen,
    pub listeners: Vec<Listener>,
    pub pools: Vec<Pool>,
}

impl Plan {
    /// Every address that is listened on, with the index of its listener, in their order.
    pub fn binds(&self) -> impl Iterator<Item = (usize, SocketAddr)> + '_ {
        let of = |(n, listener): (usize, &Listener)| {
            listener.binds.iter().map(move |bind| (n, *bind)).collect::<Vec<_>>()
        };
        self.listeners.iter().enumerate().flat_map(of)
    }

    /// The listener whose address stands at `socket` in [`Plan::binds`].
    #[must_use]
    pub fn listener_of(&self, socket: usize) -> Option<usize> {
        let mut before = 0;
        self.listeners.iter().position(|listener| {
            before += listener.binds.len();
            socket < before
        })
    }

    /// What comes from files.
    pub(crate) fn contents_mut(&mut self) -> impl Iterator<Item = &mut Content> {
        self.listeners.iter_mut().filter_map(|one| one.http.as_mut()).flat_map(|http| {
            let Http { error_pages, routes, .. } = &mut **http;
            let responses = routes.actions_mut().filter_map(|action| match action {
                Action::Respond { content, .. } => Some(content),
                Action::Pool(_) | Action::Split(_) | Action::Redirect { .. } => None,
            });
            error_pages.iter_mut().map(|page| &mut page.content).chain(responses)
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    /// Probe, and choose by evidence.
    Auto,
    Uring,
    Epoll,
}

/// Where the running instance can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminListen {
    /// A socket where such sockets are found, named by the program.
    Default,
    Off,
    /// The socket's path.
    Unix(String),
    /// On the loopback.
    Tcp(SocketAddr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpliceMode {
    /// What costs less: copying, on every kernel measured so far.
    Auto,
    /// BPF, or nothing is started.
    Bpf,
    Off,
}

/// When tunnels are carried by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Splice {
    pub mode: SpliceMode,
    /// Messages in a row that make a tunnel busy.
    pub messages: u8,
    /// The longest time between two of them.
    pub gap_ms: u64,
}

impl Splice {
    pub const OFF: Self = Self { mode: SpliceMode::Off, messages: 1, gap_ms: 1 };
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

/// A service: one or several listening addresses, and where what comes in goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub name: String,
    /// Never empty.
    pub binds: Vec<SocketAddr>,
    pub mode: Mode,
    /// Index into [`Plan::pools`]. Always there in tcp mode; in http mode it is the last of the routes.
    pub pool: Option<usize>,
    /// `None`: only the global limit applies.
    pub max_connections: Option<u64>,
    /// A tcp connection without a byte in either direction for this long is closed; 0: never.
    pub idle_timeout_ms: u64,
    /// `None`: the machine's `somaxconn`.
    pub backlog: Option<u32>,
    /// New connections; every one of them must have room. Keys are never fields.
    pub connection_rates: Vec<RateLimit>,
    pub proxy_protocol: Option<ProxyProtocolIn>,
    pub access_log: Option<AccessLog>,
    /// There in http mode, and only there.
    pub http: Option<Box<Http>>,
}

impl Listener {
    /// In tcp mode, with the defaults.
    #[must_use]
    pub fn tcp(name: &str, bind: SocketAddr, pool: usize) -> Listener {
        Listener {
            name: name.to_owned(),
            binds: vec![bind],
            mode: Mode::Tcp,
            pool: Some(pool),
            max_connections: None,
            idle_timeout_ms: 3_600_000,
            backlog: None,
            connection_rates: Vec::new(),
            proxy_protocol: None,
            access_log: None,
            http: None,
        }
    }

    /// In http mode, with the defaults and everything going to one pool.
    #[must_use]
    pub fn http(name: &str, bind: SocketAddr, pool: usize) -> Listener {
        let http = Some(Box::new(Http::to_pool(pool)));
        Listener { mode: Mode::Http, http, ..Listener::tcp(name, bind, pool) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Tcp,
    Http,
}

/// PROXY protocol from clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocolIn {
    /// A header from these is believed; what others send is data.
    pub trust: Cidrs,
    /// One of these without a header is refused.
    pub required: bool,
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
    pub hash_key: HashKey,
    /// Most of its fair share of the load that a server gets by hash; 0: no bound.
    pub hash_bound_percent: u32,
    pub sticky: Option<StickyCookie>,
    pub health: Health,
    /// How long a server's share grows after it came up; 0: it has all of it at once.
    pub slow_start_ms: u64,
    /// Where this Fourfold is; servers of the same zone are preferred.
    pub zone: Option<String>,
    pub aperture: Option<Aperture>,
    /// Every connection to a server begins with who the client is.
    pub proxy_protocol: Option<ProxyProtocol>,
    pub http: PoolHttp,
    /// Never empty.
    pub servers: Vec<Server>,
}

impl Pool {
    /// With the defaults.
    #[must_use]
    pub fn new(name: &str, servers: Vec<Server>) -> Pool {
        Pool {
            name: name.to_owned(),
            balance: Algorithm::P2c,
            sources: SourceSet::kernel_chosen(),
            ports: None,
            port_mode: PortMode::Auto,
            connect_timeout_ms: 5_000,
            connect_attempts: 3,
            queue_timeout_ms: 5_000,
            queue_max: None,
            retry_backoff_ms: 100,
            retry_backoff_max_ms: 10_000,
            hash_key: HashKey::Address,
            hash_bound_percent: 0,
            sticky: None,
            health: Health::default(),
            slow_start_ms: 0,
            zone: None,
            aperture: None,
            proxy_protocol: None,
            http: PoolHttp::default(),
            servers,
        }
    }
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
    /// Requests in flight; more wait.
    pub max_requests: Option<u32>,
    pub zone: Option<String>,
}

impl Server {
    /// With the defaults.
    #[must_use]
    pub fn new(address: HostPort) -> Server {
        Server { address, weight: 1, max_connections: None, max_requests: None, zone: None }
    }
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
