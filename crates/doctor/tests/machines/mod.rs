//! Machines to judge.

#![allow(dead_code, reason = "each test binary uses its part")]

use fourfold_doctor::{
    Bound, Conntrack, Fact, Facts, Interface, Memory, Nofile, PairMemory, Sockets, Usable, Wanted,
    WantedListener, WantedPool, WantedServer,
};

/// A server of 64 GiB and eight processors, tuned for a hundred thousand connections.
pub fn large() -> Facts {
    let mut facts = Facts {
        kernel: Fact::Known((6, 12)),
        processors: Fact::Known(8),
        first_network: Fact::Known(true),
        nofile: Fact::Known(Nofile { soft: 1_024, hard: 1_048_576 }),
        files_open: Fact::Known(2_000),
        private_tables: Fact::Known(true),
        unit: Fact::Known("fourfold.service".into()),
        memory: Fact::Known(Memory { total_bytes: 64 << 30, available_bytes: 60 << 30 }),
        cgroup_memory: Fact::Known(Bound { max: None, used: 0, file: String::new() }),
        cgroup_pids: Fact::Known(Bound { max: None, used: 0, file: String::new() }),
        sockets: Fact::Known(Sockets { tcp_pages: 100, orphans: 0, time_wait: 0 }),
        pair: Fact::Known(PairMemory { bytes: 7_900, charged_bytes: 7_500 }),
        conntrack: Fact::Known(Conntrack { by: None, count: 0 }),
        neighbours: Fact::Known(10),
        interfaces: Fact::Known(vec![Interface { name: "eth0".into(), receive_queues: 8, rps: false }]),
        io_uring: Fact::Known(Usable { usable: true, why: String::new() }),
        seccomp: Fact::Known(0),
        capabilities: Fact::Known(vec![
            "CAP_BPF".into(),
            "CAP_NET_ADMIN".into(),
            "CAP_NET_BIND_SERVICE".into(),
        ]),
        btf: Fact::Known(true),
        clock_source: Fact::Known("tsc".into()),
        ..Facts::default()
    };
    for (name, value) in [
        ("fs.file-max", "9223372036854775807"),
        ("fs.nr_open", "1073741816"),
        ("kernel.io_uring_disabled", "0"),
        ("net.core.somaxconn", "4096"),
        ("net.ipv4.ip_local_port_range", "32768 60999"),
        ("net.ipv4.ip_local_reserved_ports", ""),
        ("net.ipv4.neigh.default.gc_thresh3", "1024"),
        ("net.ipv4.tcp_congestion_control", "cubic"),
        ("net.ipv4.tcp_ehash_entries", "524288"),
        ("net.ipv4.tcp_fin_timeout", "60"),
        ("net.ipv4.tcp_max_orphans", "262144"),
        ("net.ipv4.tcp_max_syn_backlog", "4096"),
        ("net.ipv4.tcp_max_tw_buckets", "262144"),
        ("net.ipv4.tcp_mem", "767484 1023314 1534968"),
        ("net.ipv4.tcp_rmem", "4096 131072 33554432"),
        ("net.ipv4.tcp_syncookies", "1"),
        ("net.ipv4.tcp_timestamps", "1"),
        ("net.ipv4.tcp_tw_reuse", "2"),
        ("net.ipv4.tcp_wmem", "4096 16384 4194304"),
        ("net.netfilter.nf_conntrack_max", "262144"),
    ] {
        facts.set(name, value);
    }
    facts
}

/// One listener, one pool with one server, sixteen sources.
pub fn wanted(connections: u64) -> Wanted {
    let server = WantedServer {
        address: "10.0.1.1:9000".into(),
        sources: 16,
        own_port: None,
        here: false,
        connections_max: None,
    };
    let listener = WantedListener { name: "edge".into(), port: 8080, backlog: None, clients_here: false };
    let pool =
        WantedPool { name: "chat".into(), http: false, servers: vec![server], ports: None, early: false };
    Wanted {
        connections: Some(connections),
        listeners: vec![listener],
        pools: vec![pool],
        ..Wanted::default()
    }
}
