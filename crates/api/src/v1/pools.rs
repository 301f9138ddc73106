use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pools {
    pub pools: Vec<Pool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    pub name: String,
    /// Algorithm, by its name in the configuration.
    pub balance: String,
    /// Clients that wait for a tuple or a server.
    pub waiting: u32,
    pub waiting_max: u32,
    /// Connections to servers that lie ready.
    pub idle: u64,
    pub servers: Vec<Server>,
    /// Paths that are left alone although the server is not.
    pub avoided: Vec<AvoidedPath>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// As it is written in the configuration.
    pub name: String,
    /// Where it is; `None`: its name does not resolve.
    pub address: Option<SocketAddr>,
    pub state: ServerState,
    pub weight: u16,
    /// Connections made or being made.
    pub connections: u32,
    pub max_connections: Option<u32>,
    /// HTTP requests in flight.
    pub requests: u32,
    /// Failures in a row.
    pub failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerState {
    Up,
    /// Its check fails, or it failed a moment ago and is left alone.
    Down,
    /// It is an outlier.
    Ejected,
    BreakerOpen,
    BreakerHalfOpen,
    /// Its name has no address.
    Unresolved,
    #[serde(other)]
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AvoidedPath {
    pub source: IpAddr,
    /// A server's name; `None`: all of the pool.
    pub server: Option<String>,
    pub for_ms: u64,
}
