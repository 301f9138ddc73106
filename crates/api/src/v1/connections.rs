use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// A page of the clients that are connected, in no particular order. They come and go between pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// All there are, on this page or not.
    pub total: u64,
    pub connections: Vec<Connection>,
    /// What to ask the next page with; `None`: that was the last.
    pub next: Option<String>,
    /// The shard that should have answered was too busy for it; asking again may help.
    pub silent_shard: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionsQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// [`Connections::next`] of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    pub shard: u32,
    pub listener: String,
    pub state: ConnectionState,
    /// `None`: it has left already.
    pub client: Option<SocketAddr>,
    pub pool: Option<String>,
    pub server: Option<SocketAddr>,
    /// `None`: the kernel chose.
    pub source: Option<IpAddr>,
    /// Of the source.
    pub port: Option<u16>,
    /// Since something last moved; `None`: not known.
    pub quiet_ms: Option<u64>,
    /// HTTP requests so far.
    pub requests: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConnectionState {
    /// For a tuple, a server or a connection.
    Waiting,
    Connecting,
    /// A tunnel.
    Open,
    /// An HTTP request is being served.
    Busy,
    /// An HTTP client between requests.
    Idle,
    Closing,
    #[serde(other)]
    Other,
}
