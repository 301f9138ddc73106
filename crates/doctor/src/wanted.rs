//! What is wanted of a machine: the part of a configuration, or of flags, that costs something.

use fourfold_config::{EngineChoice, HostPort, Listener, Mode, Plan, Pool, PortMode, SpliceMode};
use fourfold_ports::Family;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wanted {
    /// Connections of clients at once. `None`: as many as the machine holds by itself.
    pub connections: Option<u64>,
    pub engine: WantedEngine,
    /// `None`: as many as it takes.
    pub shards: Option<u64>,
    pub listeners: Vec<WantedListener>,
    pub pools: Vec<WantedPool>,
    /// New connections per second that last. `None`: all of them within [`RETURN_SECONDS`](crate::cost::RETURN_SECONDS).
    pub rate: Option<u64>,
    /// Connections that come in one moment. `None`: what comes in [`PAUSE_MS`](crate::cost::PAUSE_MS) at the rate.
    pub burst: Option<u64>,
    /// Bytes that each connection has waiting in a kernel queue. `None`: a few have a little.
    pub queued_bytes: Option<u64>,
    /// Of clients in HTTP mode, those with a request in flight at once.
    pub busy_percent: u64,
    /// Busy tunnels are to be carried by the kernel.
    pub splice: bool,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            connections: None,
            engine: WantedEngine::Auto,
            shards: None,
            listeners: Vec::new(),
            pools: Vec::new(),
            rate: None,
            burst: None,
            queued_bytes: None,
            busy_percent: 100,
            splice: false,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WantedEngine {
    #[default]
    Auto,
    Uring,
    Epoll,
}

/// One listening address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedListener {
    pub name: String,
    pub port: u16,
    /// `None`: the machine's `somaxconn`.
    pub backlog: Option<u64>,
    /// Clients are on this machine too, so that their ends count.
    pub clients_here: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedPool {
    pub name: String,
    pub http: bool,
    pub servers: Vec<WantedServer>,
    /// `None`: the machine's `ip_local_port_range`.
    pub ports: Option<(u16, u16)>,
    pub early: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedServer {
    pub address: String,
    /// Source addresses of the server's family.
    pub sources: u64,
    /// The server's port, when its address is one of the sources: from there a connection would meet itself.
    pub own_port: Option<u16>,
    /// The server is on this machine too.
    pub here: bool,
    pub connections_max: Option<u64>,
}

impl Wanted {
    #[must_use]
    pub fn of_plan(plan: &Plan) -> Wanted {
        Wanted {
            connections: plan.max_connections,
            engine: match plan.engine {
                EngineChoice::Auto => WantedEngine::Auto,
                EngineChoice::Uring => WantedEngine::Uring,
                EngineChoice::Epoll => WantedEngine::Epoll,
            },
            shards: plan.shards.map(u64::from),
            listeners: plan
                .binds()
                .filter_map(|(n, bind)| Some(WantedListener::of(plan.listeners.get(n)?, bind)))
                .collect(),
            pools: plan.pools.iter().enumerate().map(|(n, pool)| WantedPool::of(plan, n, pool)).collect(),
            splice: plan.splice.mode == SpliceMode::Bpf,
            ..Wanted::default()
        }
    }
}

impl WantedListener {
    fn of(listener: &Listener, bind: SocketAddr) -> WantedListener {
        WantedListener {
            name: listener.name.clone(),
            port: bind.port(),
            backlog: listener.backlog.map(u64::from),
            clients_here: bind.ip().is_loopback(),
        }
    }
}

impl WantedPool {
    fn of(plan: &Plan, number: usize, pool: &Pool) -> WantedPool {
        let tunnels = |listener: &Listener| listener.mode == Mode::Tcp && listener.pool == Some(number);
        WantedPool {
            name: pool.name.clone(),
            http: !plan.listeners.iter().any(tunnels),
            servers: pool.servers.iter().map(|server| WantedServer::of(pool, server)).collect(),
            ports: pool.ports.map(|span| (span.first(), span.last())),
            early: pool.port_mode == PortMode::Early,
        }
    }
}

impl WantedServer {
    fn of(pool: &Pool, server: &fourfold_config::Server) -> WantedServer {
        let ip = match &server.address {
            HostPort::Ip(address) => Some(address.ip()),
            HostPort::Name { .. } => None,
        };
        let sources = match ip {
            Some(ip) => pool.sources.of_family(Family::of(ip)).map_or(0, |set| set.len()),
            None => pool.sources.len(),
        };
        let meets_itself = ip.is_some_and(|ip| pool.sources.contains(ip));
        WantedServer {
            address: server.address.to_string(),
            sources: u64::try_from(sources).unwrap_or(u64::MAX),
            own_port: meets_itself.then(|| server.address.port()),
            here: ip.is_some_and(|ip: IpAddr| ip.is_loopback()),
            connections_max: server.max_connections.map(u64::from),
        }
    }
}
