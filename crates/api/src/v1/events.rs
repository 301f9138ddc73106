use serde::{Deserialize, Serialize};

/// What happened lately, oldest first. Only the last few hundred are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    pub events: Vec<Event>,
    /// What to ask with for those that come after these.
    pub next: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventsQuery {
    /// Only those from this number on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up from 0.
    pub id: u64,
    pub at_ms: u64,
    pub kind: EventKind,
    pub severity: Severity,
    /// Listeners, pools or destinations that it is about.
    pub of: Vec<String>,
    /// The kernel's counter that told, if one did.
    pub counter: Option<String>,
    /// By how much it has grown.
    pub count: u64,
    /// What happened and why.
    pub message: String,
    /// What to do; commands where a command does it.
    pub remedy: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    Info,
    Warning,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    TuplesHalf,
    TuplesNear,
    TuplesExhausted,
    TuplesRelieved,
    AcceptQueueFull,
    SynQueueFull,
    SynCookies,
    SynDropped,
    TimeWaitOverflow,
    TcpMemoryPressure,
    OrphanLimit,
    TcpMemoryAbort,
    ConntrackFull,
    ConntrackInsertFailed,
    NeighbourTableFull,
    MemoryStall,
    CgroupMemory,
    #[serde(other)]
    Other,
}

impl EventKind {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::TuplesHalf => "tuples-half",
            EventKind::TuplesNear => "tuples-near",
            EventKind::TuplesExhausted => "tuples-exhausted",
            EventKind::TuplesRelieved => "tuples-relieved",
            EventKind::AcceptQueueFull => "accept-queue-full",
            EventKind::SynQueueFull => "syn-queue-full",
            EventKind::SynCookies => "syn-cookies",
            EventKind::SynDropped => "syn-dropped",
            EventKind::TimeWaitOverflow => "time-wait-overflow",
            EventKind::TcpMemoryPressure => "tcp-memory-pressure",
            EventKind::OrphanLimit => "orphan-limit",
            EventKind::TcpMemoryAbort => "tcp-memory-abort",
            EventKind::ConntrackFull => "conntrack-full",
            EventKind::ConntrackInsertFailed => "conntrack-insert-failed",
            EventKind::NeighbourTableFull => "neighbour-table-full",
            EventKind::MemoryStall => "memory-stall",
            EventKind::CgroupMemory => "cgroup-memory",
            EventKind::Other => "other",
        }
    }
}
