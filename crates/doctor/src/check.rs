//! The table of checks. A check is a function of what is known and what is wanted; its name, title and source stand here once.

mod backlog;
mod descriptors;
mod engine;
mod memory;
mod network;
mod tuples;

pub use tuples::sources_for;

use crate::capacity::Capacity;
use crate::finding::Found;
use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    Descriptors,
    Memory,
    Ports,
    Listening,
    Network,
    Kernel,
    Folklore,
}

impl Group {
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Group::Descriptors => "Descriptors and threads",
            Group::Memory => "Memory",
            Group::Ports => "Ports and tuples",
            Group::Listening => "Listening",
            Group::Network => "Network",
            Group::Kernel => "Kernel and privileges",
            Group::Folklore => "Settings that do not do what is said of them",
        }
    }
}

pub struct Check {
    /// For programs, and for `--json`.
    pub id: &'static str,
    pub group: Group,
    pub title: &'static str,
    /// Where it is written: a manual page, or a function of the kernel.
    pub reference: &'static str,
    pub look: fn(&Capacity<'_>) -> Vec<Found>,
}

const fn check(
    group: Group,
    id: &'static str,
    title: &'static str,
    reference: &'static str,
    look: fn(&Capacity<'_>) -> Vec<Found>,
) -> Check {
    Check { id, group, title, reference, look }
}

/// In the order in which a tie of limits is told.
pub const CHECKS: &[Check] = &[
    check(
        Group::Kernel,
        "io-uring",
        "io_uring",
        "kernel: Documentation/admin-guide/sysctl/kernel.rst, io_uring_disabled; io_uring/io_uring.c, io_uring_allowed",
        engine::io_uring,
    ),
    check(
        Group::Descriptors,
        "nofile",
        "descriptors of a table",
        "getrlimit(2), RLIMIT_NOFILE; kernel: fs/file.c, alloc_fd",
        descriptors::nofile,
    ),
    check(
        Group::Descriptors,
        "file-max",
        "files of the machine",
        "proc(5), file-max; kernel: fs/file_table.c, alloc_empty_file",
        descriptors::file_max,
    ),
    check(
        Group::Descriptors,
        "threads",
        "threads",
        "kernel: Documentation/admin-guide/cgroup-v2.rst, pids.max",
        descriptors::threads,
    ),
    check(
        Group::Memory,
        "memory",
        "memory of the machine",
        "proc(5), MemAvailable; kernel: include/net/sock.h, struct sock",
        memory::machine,
    ),
    check(
        Group::Memory,
        "cgroup-memory",
        "memory of the control group",
        "kernel: Documentation/admin-guide/cgroup-v2.rst, memory.max; mm/memcontrol.c, try_charge_memcg",
        memory::cgroup,
    ),
    check(
        Group::Memory,
        "tcp-mem",
        "memory of TCP's queues",
        "tcp(7), tcp_mem; kernel: net/core/sock.c, __sk_mem_raise_allocated",
        memory::tcp_mem,
    ),
    check(
        Group::Memory,
        "orphans",
        "orphaned sockets",
        "tcp(7), tcp_max_orphans; kernel: net/ipv4/tcp.c, tcp_check_oom",
        memory::orphans,
    ),
    check(
        Group::Ports,
        "tuples",
        "tuples to the servers",
        "ip(7), ip_local_port_range; kernel: net/ipv4/inet_hashtables.c, __inet_hash_connect",
        tuples::held,
    ),
    check(
        Group::Ports,
        "time-wait",
        "tuples in TIME_WAIT",
        "RFC 9293, 3.6.1; kernel: net/ipv4/tcp_ipv4.c, tcp_twsk_unique",
        tuples::time_wait,
    ),
    check(
        Group::Ports,
        "late-ports",
        "ports pinned without binding",
        "ip(7), IP_LOCAL_PORT_RANGE and IP_BIND_ADDRESS_NO_PORT (Linux 6.3)",
        tuples::late,
    ),
    check(
        Group::Listening,
        "somaxconn",
        "connections that wait to be accepted",
        "listen(2); kernel: include/net/sock.h, sk_acceptq_is_full",
        backlog::somaxconn,
    ),
    check(
        Group::Listening,
        "syn-backlog",
        "connections being made",
        "tcp(7), tcp_max_syn_backlog and tcp_syncookies; kernel: net/ipv4/tcp_input.c, tcp_conn_request",
        backlog::syn,
    ),
    check(
        Group::Listening,
        "overflows",
        "connections dropped so far",
        "kernel: Documentation/networking/snmp_counter.rst, TcpExtListenOverflows",
        backlog::overflows,
    ),
    check(
        Group::Network,
        "conntrack",
        "connection tracking",
        "kernel: Documentation/networking/nf_conntrack-sysctl.rst; net/netfilter/nf_conntrack_core.c, __nf_conntrack_alloc",
        network::conntrack,
    ),
    check(
        Group::Network,
        "neighbours",
        "neighbour table",
        "arp(7), gc_thresh3; kernel: net/core/neighbour.c, neigh_alloc",
        network::neighbours,
    ),
    check(
        Group::Network,
        "queues",
        "receive queues and processors",
        "kernel: Documentation/networking/scaling.rst",
        network::queues,
    ),
    check(
        Group::Network,
        "established",
        "table of connections",
        "kernel: Documentation/networking/ip-sysctl.rst, tcp_ehash_entries; net/ipv4/inet_hashtables.c, __inet_lookup_established",
        network::established,
    ),
    check(
        Group::Network,
        "congestion",
        "congestion control",
        "tcp(7), tcp_congestion_control",
        network::congestion,
    ),
    check(
        Group::Kernel,
        "bpf",
        "BPF",
        "bpf(2); kernel: Documentation/admin-guide/sysctl/kernel.rst, unprivileged_bpf_disabled",
        engine::bpf,
    ),
    check(
        Group::Kernel,
        "privileges",
        "capabilities",
        "capabilities(7), CAP_NET_BIND_SERVICE",
        engine::privileges,
    ),
    check(
        Group::Kernel,
        "clock",
        "clock source",
        "kernel: Documentation/admin-guide/kernel-parameters.txt, clocksource",
        engine::clock,
    ),
];
