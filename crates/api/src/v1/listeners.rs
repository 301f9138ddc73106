use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listeners {
    pub listeners: Vec<Listener>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    pub name: String,
    pub mode: Mode,
    /// The pool that gets what no route takes.
    pub pool: Option<String>,
    pub connections: u64,
    /// `None`: only the instance's own limit holds.
    pub max_connections: Option<u64>,
    pub binds: Vec<Bind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    Tcp,
    Http,
    #[serde(other)]
    Other,
}

/// An address that is listened on, and its kernel queues of connections that nobody has accepted so far: one for each shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    pub address: SocketAddr,
    /// Sockets of this address; 0: the kernel did not say, and the rest is unknown as well.
    pub sockets: u32,
    /// Waiting in all queues, and in the longest.
    pub queued: u64,
    pub queued_most: u32,
    /// What one queue holds.
    pub backlog: u32,
    /// Connections that the kernel has dropped, since it listens.
    pub dropped: u64,
}
