//! What is known of a machine: plain data, so that a test writes a machine by hand and a report can be judged elsewhere.
//!
//! Refuses to guess: what could not be read says why, and a check that needs it says so too.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A value, or why it is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Fact<T> {
    Missing { missing: String },
    Known(T),
}

impl<T> Default for Fact<T> {
    fn default() -> Self {
        Fact::Missing { missing: "it was not looked at".into() }
    }
}

impl<T> From<Result<T, String>> for Fact<T> {
    fn from(result: Result<T, String>) -> Self {
        result.map_or_else(|missing| Fact::Missing { missing }, Fact::Known)
    }
}

impl<T> Fact<T> {
    pub fn get(&self) -> Option<&T> {
        match self {
            Fact::Known(value) => Some(value),
            Fact::Missing { .. } => None,
        }
    }

    /// Empty when it is known.
    pub fn why_missing(&self) -> &str {
        match self {
            Fact::Known(_) => "",
            Fact::Missing { missing } => missing,
        }
    }
}

/// How far a setting reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// This network namespace: a container has its own.
    Network,
    /// Everything that runs on this kernel.
    Machine,
    /// A control group.
    Group,
}

/// A kernel setting that a check reads.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub name: &'static str,
    pub scope: Scope,
}

const fn network(name: &'static str) -> Setting {
    Setting { name, scope: Scope::Network }
}

const fn machine(name: &'static str) -> Setting {
    Setting { name, scope: Scope::Machine }
}

/// Every kernel setting that is read, and the only ones that are ever changed.
pub const SETTINGS: &[Setting] = &[
    machine("fs.file-max"),
    machine("fs.nr_open"),
    machine("kernel.io_uring_disabled"),
    machine("kernel.threads-max"),
    machine("kernel.unprivileged_bpf_disabled"),
    machine("net.core.netdev_max_backlog"),
    network("net.core.somaxconn"),
    machine("net.ipv4.neigh.default.gc_thresh3"),
    machine("net.ipv6.neigh.default.gc_thresh3"),
    network("net.ipv4.ip_local_port_range"),
    network("net.ipv4.ip_local_reserved_ports"),
    network("net.ipv4.ip_nonlocal_bind"),
    network("net.ipv4.ip_unprivileged_port_start"),
    network("net.ipv4.tcp_available_congestion_control"),
    network("net.ipv4.tcp_congestion_control"),
    network("net.ipv4.tcp_ehash_entries"),
    network("net.ipv4.tcp_fin_timeout"),
    machine("net.ipv4.tcp_max_orphans"),
    network("net.ipv4.tcp_max_syn_backlog"),
    network("net.ipv4.tcp_max_tw_buckets"),
    machine("net.ipv4.tcp_mem"),
    network("net.ipv4.tcp_rmem"),
    network("net.ipv4.tcp_syncookies"),
    network("net.ipv4.tcp_timestamps"),
    network("net.ipv4.tcp_tw_recycle"),
    network("net.ipv4.tcp_tw_reuse"),
    network("net.ipv4.tcp_tw_reuse_delay"),
    network("net.ipv4.tcp_wmem"),
    machine("net.netfilter.nf_conntrack_max"),
];

/// How far the setting of this name reaches; one that is not in the table is taken to reach far.
#[must_use]
pub fn scope_of(name: &str) -> Scope {
    SETTINGS.iter().find(|setting| setting.name == name).map_or(Scope::Machine, |setting| setting.scope)
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    pub kernel: Fact<(u32, u32)>,
    pub processors: Fact<u64>,
    /// Kernel settings by their dotted names.
    pub settings: BTreeMap<String, Fact<String>>,
    /// TcpExt counters of this network namespace (/proc/net/netstat).
    pub counters: BTreeMap<String, u64>,
    /// Whether this is the machine's own network namespace.
    pub first_network: Fact<bool>,
    pub nofile: Fact<Nofile>,
    /// Files open on the whole machine.
    pub files_open: Fact<u64>,
    /// Whether a thread may have a descriptor table of its own.
    pub private_tables: Fact<bool>,
    /// The systemd service that this runs under.
    pub unit: Fact<String>,
    pub memory: Fact<Memory>,
    pub cgroup_memory: Fact<Bound>,
    pub cgroup_pids: Fact<Bound>,
    pub sockets: Fact<Sockets>,
    pub pair: Fact<PairMemory>,
    pub conntrack: Fact<Conntrack>,
    /// Entries of the neighbour tables.
    pub neighbours: Fact<u64>,
    pub interfaces: Fact<Vec<Interface>>,
    pub io_uring: Fact<Usable>,
    /// 0 off, 1 strict, 2 filter (proc(5), Seccomp).
    pub seccomp: Fact<u64>,
    /// Effective capabilities by name, `CAP_SYS_ADMIN`.
    pub capabilities: Fact<Vec<String>>,
    /// Whether the kernel describes its types to BPF programs.
    pub btf: Fact<bool>,
    pub clock_source: Fact<String>,
    /// Tuples that other programs hold.
    pub held: Vec<Held>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nofile {
    pub soft: u64,
    pub hard: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub total_bytes: u64,
    pub available_bytes: u64,
}

/// A limit of a control group, the nearest that binds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// `None`: no group on the way to the root has a limit.
    pub max: Option<u64>,
    /// What cannot be had back.
    pub used: u64,
    /// The file that holds the limit.
    pub file: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sockets {
    /// Pages that TCP's queues hold, the whole machine.
    pub tcp_pages: u64,
    pub orphans: u64,
    pub time_wait: u64,
}

/// What the two ends of a TCP connection cost in the kernel while nothing is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairMemory {
    /// Of the machine: whole slabs.
    pub bytes: u64,
    /// Of a control group: objects.
    pub charged_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conntrack {
    /// What makes connections of this network namespace be tracked; `None`: nothing does.
    pub by: Option<String>,
    pub count: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    pub name: String,
    pub receive_queues: u64,
    /// Some queue has a set of processors to spread over (rps_cpus).
    pub rps: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usable {
    pub usable: bool,
    /// Why not.
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub server: String,
    pub tuples: u64,
}

impl Facts {
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name)?.get().map(String::as_str)
    }

    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.setting(name)?.trim().parse().ok()
    }

    /// Numbers with blanks between them, as `tcp_mem` has.
    #[must_use]
    pub fn numbers(&self, name: &str) -> Vec<u64> {
        let words = self.setting(name).unwrap_or_default().split_whitespace();
        words.filter_map(|word| word.parse().ok()).collect()
    }

    #[must_use]
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    /// `None`: not known.
    #[must_use]
    pub fn has_capability(&self, name: &str) -> Option<bool> {
        self.capabilities.get().map(|all| all.iter().any(|one| one == name))
    }

    /// Puts a value in, as a test or a fix does.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.insert(name.to_owned(), Fact::Known(value.to_owned()));
    }
}
