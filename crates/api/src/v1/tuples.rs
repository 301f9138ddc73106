use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// Every destination with the tuples that may be used towards it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tuples {
    pub destinations: Vec<Destination>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TuplesQuery {
    /// Only destinations of this pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Only this address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<SocketAddr>,
    /// Only destinations that are at least so full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<Fill>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Destination {
    pub address: SocketAddr,
    /// Those that connect to it. None: a server was there, and connections to it are left.
    pub pools: Vec<String>,
    pub mode: PinMode,
    /// Ports, `first-last`.
    pub ports: String,
    #[serde(flatten)]
    pub headroom: Headroom,
    #[serde(flatten)]
    pub flow: Flow,
    pub state: Fill,
    pub sources: Vec<Source>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// `None`: the kernel chooses, or these are several.
    pub address: Option<IpAddr>,
    /// More than one: the remaining ones of a large set, counted together.
    pub sources: u64,
    #[serde(flatten)]
    pub headroom: Headroom,
    #[serde(flatten)]
    pub flow: Flow,
    pub state: Fill,
}

/// `total = used + free + quarantined + foreign`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Headroom {
    pub total: u64,
    pub used: u64,
    pub free: u64,
    /// Resting because our side closed first.
    pub quarantined: u64,
    /// Held by sockets of other programs.
    pub foreign: u64,
}

/// Averages over the last seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// Tuples taken per second.
    pub leases_per_s: f64,
    /// Tuples per second by which what is free shrinks; below zero: it grows.
    pub growth_per_s: f64,
    /// When none is free, if this goes on.
    pub exhausted_in_ms: Option<u64>,
}

/// How full, as far as anybody need care.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fill {
    #[default]
    Ok,
    /// More than half is taken.
    Half,
    /// Most is taken, or it will be soon.
    Near,
    /// None is free.
    Exhausted,
}

impl Fill {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Fill::Ok => "ok",
            Fill::Half => "half",
            Fill::Near => "near",
            Fill::Exhausted => "exhausted",
        }
    }
}

/// How a port is given to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinMode {
    Late,
    Early,
    /// The kernel chooses the port: tuples are only counted.
    Kernel,
    #[serde(other)]
    Other,
}
