//! Machines written by hand, one for each check: what is said of them, and what of the remedy.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod machines;

use fourfold_doctor::{
    Bound, CHECKS, Conntrack, Fact, Facts, Finding, Held, Interface, Measure, Nofile, Report, Sockets,
    Status, Usable, Wanted, WantedEngine, examine,
};
use machines::{large, wanted};

fn found(report: &Report, check: &str) -> Finding {
    report.findings.iter().find(|one| one.check == check).unwrap_or_else(|| panic!("{check}")).clone()
}

/// What is said of a machine on which one thing is different.
fn with(change: impl Fn(&mut Facts, &mut Wanted), check: &str) -> Finding {
    let (mut facts, mut wanted) = (large(), wanted(100_000));
    change(&mut facts, &mut wanted);
    found(&examine(&facts, &wanted), check)
}

fn count(facts: &mut Facts, counter: &str) {
    facts.counters.insert(counter.into(), 7);
}

#[track_caller]
fn fails_at(finding: &Finding, number: u64) {
    assert_eq!(finding.status, Status::Fail, "{finding:#?}");
    assert_eq!(finding.limit.unwrap().number, number, "{finding:#?}");
    assert!(!finding.remedies.is_empty() && !finding.why.is_empty(), "{finding:#?}");
}

#[test]
fn a_large_machine_passes_everything() {
    let report = examine(&large(), &wanted(100_000));
    let bad: Vec<&Finding> = report.findings.iter().filter(|one| one.status != Status::Pass).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    for check in CHECKS {
        found(&report, check.id);
    }
    assert!(report.changes().is_empty() && !report.has_failed());
}

#[test]
fn an_unknown_machine_is_said_to_be_unknown() {
    let report = examine(&Facts::default(), &wanted(100_000));
    for check in ["nofile", "file-max", "memory", "cgroup-memory", "tcp-mem", "conntrack", "tuples"] {
        let finding = found(&report, check);
        assert_eq!(finding.status, Status::Warn, "{finding:#?}");
        assert!(finding.what.contains("not known"), "{finding:#?}");
    }
    assert_eq!(report.first_limit, None);
}

#[test]
fn nofile_bounds_each_shards_table() {
    let nofile = |hard| Fact::Known(Nofile { soft: hard, hard });
    let alone = with(|facts, wanted| (facts.nofile, wanted.shards) = (nofile(1_000), Some(1)), "nofile");
    // 1000, less 64 for the program, a listener, a waker, 64 to refuse, 16 accepts; two sockets each.
    fails_at(&alone, (1_000 - 64 - 1 - 1 - 64 - 16) / 2);
    let drop_in = alone.remedies.iter().flat_map(|remedy| &remedy.lasting).find(|way| way.way == "systemd");
    assert!(drop_in.unwrap().text.contains("LimitNOFILE="));
    let many = with(|facts, _| facts.nofile = nofile(20_000), "nofile");
    assert_eq!(many.status, Status::Pass, "shards are made as it takes: {many:#?}");
    let one_table = with(
        |facts, wanted| {
            facts.nofile = nofile(20_000);
            facts.private_tables = Fact::Known(false);
            wanted.engine = WantedEngine::Epoll;
        },
        "nofile",
    );
    assert_eq!(one_table.status, Status::Fail);
    assert!(one_table.limit.unwrap().number < 10_000, "{one_table:#?}");
    // More than the kernel allows needs another setting first.
    let above = with(
        |facts, wanted| {
            facts.set("fs.nr_open", "65536");
            (facts.nofile, wanted.shards) = (nofile(1_000), Some(1));
        },
        "nofile",
    );
    assert!(
        above.remedies.iter().any(|remedy| remedy.command.starts_with("sysctl -w fs.nr_open=")),
        "{above:#?}"
    );
}

#[test]
fn files_are_the_machines_unless_one_is_exempt() {
    let few = |facts: &mut Facts| {
        facts.set("fs.file-max", "50000");
        facts.files_open = Fact::Known(10_000);
    };
    fails_at(&with(|facts, _| few(facts), "file-max"), (40_000 - 64) / 2);
    let loopback = with(
        |facts, wanted| {
            few(facts);
            wanted.listeners[0].clients_here = true;
            wanted.pools[0].servers[0].here = true;
        },
        "file-max",
    );
    fails_at(&loopback, (40_000 - 64) / 4);
    let exempt = with(
        |facts, _| {
            few(facts);
            facts.capabilities = Fact::Known(vec!["CAP_SYS_ADMIN".into()]);
        },
        "file-max",
    );
    assert_eq!(exempt.status, Status::Pass);
}

#[test]
fn threads_are_what_shards_are() {
    let pids = |max| Fact::Known(Bound { max: Some(max), used: 2, file: "/sys/fs/cgroup/pids.max".into() });
    let finding = with(
        |facts, _| {
            (facts.cgroup_pids, facts.nofile) = (pids(16), Fact::Known(Nofile { soft: 2_000, hard: 2_000 }))
        },
        "threads",
    );
    assert_eq!(finding.status, Status::Fail, "{finding:#?}");
    assert!(finding.remedies[0].lasting.iter().any(|way| way.text.contains("TasksMax=")));
}

#[test]
fn memory_is_what_sockets_take() {
    let finding = with(
        |facts, _| {
            let memory = facts.memory.get().copied().unwrap();
            facts.memory = Fact::Known(fourfold_doctor::Memory { available_bytes: 500 << 20, ..memory });
        },
        "memory",
    );
    assert_eq!(finding.status, Status::Fail);
    let number = finding.limit.unwrap().number;
    assert!((44_000..49_000).contains(&number), "450 MiB at some 9.9 KB: {number}");
}

#[test]
fn a_control_group_counts_what_is_charged_to_it() {
    let finding = with(
        |facts, _| {
            let file = "/sys/fs/cgroup/memory.max".into();
            facts.cgroup_memory = Fact::Known(Bound { max: Some(512 << 20), used: 12 << 20, file });
        },
        "cgroup-memory",
    );
    assert_eq!(finding.status, Status::Fail);
    let change = finding.remedies[0].change.clone().unwrap();
    assert_eq!(change.file, "/sys/fs/cgroup/memory.max");
    assert!(change.value.parse::<u64>().unwrap() > 512 << 20);
}

#[test]
fn queues_of_tcp_are_bounded_by_pages() {
    let small = |facts: &mut Facts, wanted: &mut Wanted| {
        facts.set("net.ipv4.tcp_mem", "10000 10000 10000");
        facts.sockets = Fact::Known(Sockets { tcp_pages: 1_000, orphans: 0, time_wait: 0 });
        wanted.queued_bytes = Some(65_536);
    };
    fails_at(&with(small, "tcp-mem"), 9_000 / 17);
    // Above the second number a socket gets its share of the third: 20000 pages over two sockets of 17 pages each.
    let shared = with(
        |facts, wanted| {
            small(facts, wanted);
            facts.set("net.ipv4.tcp_mem", "5000 10000 20000");
        },
        "tcp-mem",
    );
    fails_at(&shared, 20_000 / (2 * 17));
    let idle = with(
        |facts, wanted| {
            small(facts, wanted);
            wanted.queued_bytes = None;
        },
        "tcp-mem",
    );
    assert_eq!(idle.status, Status::Warn, "an empty queue takes its first segment: {idle:#?}");
}

#[test]
fn tuples_are_sources_times_ports_times_servers() {
    let narrow = |facts: &mut Facts| facts.set("net.ipv4.ip_local_port_range", "40000 40999");
    let one = |wanted: &mut Wanted| wanted.pools[0].servers[0].sources = 1;
    let finding = with(
        |facts, wanted| {
            narrow(facts);
            one(wanted);
        },
        "tuples",
    );
    fails_at(&finding, 1_000);
    let change = finding.remedies[0].change.clone().unwrap();
    assert_eq!(
        (change.setting.as_str(), change.value.as_str()),
        ("net.ipv4.ip_local_port_range", "1024 65535")
    );
    // Reserved ports, the server's own port from its own address, and what others hold are not there.
    let fewer = with(
        |facts, wanted| {
            narrow(facts);
            one(wanted);
            facts.set("net.ipv4.ip_local_reserved_ports", "40000-40099,50000");
            wanted.pools[0].servers[0].own_port = Some(40_500);
            facts.held = vec![Held { server: wanted.pools[0].servers[0].address.clone(), tuples: 9 }];
        },
        "tuples",
    );
    fails_at(&fewer, 1_000 - 100 - 1 - 9);
    let two = with(
        |facts, wanted| {
            narrow(facts);
            one(wanted);
            let server = wanted.pools[0].servers[0].clone();
            wanted.pools[0].servers.push(server);
        },
        "tuples",
    );
    fails_at(&two, 2_000);
    let http = with(
        |facts, wanted| {
            narrow(facts);
            one(wanted);
            wanted.pools[0].http = true;
            wanted.busy_percent = 10;
        },
        "tuples",
    );
    assert_eq!(
        (http.status, http.limit.unwrap().number),
        (Status::Warn, 10_000),
        "nobody said how many are busy"
    );
}

#[test]
fn time_wait_binds_a_rate_and_only_where_tuples_rest() {
    let rate = |facts: &mut Facts, wanted: &mut Wanted| {
        wanted.rate = Some(50_000);
        wanted.pools[0].servers[0].sources = 1;
        wanted.connections = Some(10_000);
        facts.set("net.ipv4.tcp_tw_reuse", "2");
    };
    let finding = with(rate, "time-wait");
    assert_eq!(finding.status, Status::Warn, "{finding:#?}");
    let limit = finding.limit.unwrap();
    assert_eq!((limit.measure, limit.number), (Measure::PerSecond, 28_232 / 60));
    assert_eq!(limit.connections, 10_000 * (28_232 / 60) / 50_000);
    let early = with(
        |facts, wanted| {
            rate(facts, wanted);
            wanted.pools[0].early = true;
        },
        "time-wait",
    );
    assert_eq!(early.status, Status::Pass);
    let overflow = with(|facts, _| count(facts, "TCPTimeWaitOverflow"), "time-wait");
    assert_eq!(overflow.status, Status::Warn);
}

#[test]
fn an_old_kernel_needs_named_sources() {
    assert_eq!(with(|facts, _| facts.kernel = Fact::Known((6, 2)), "late-ports").status, Status::Warn);
    assert_eq!(with(|facts, _| facts.kernel = Fact::Known((6, 3)), "late-ports").status, Status::Pass);
}

#[test]
fn a_backlog_takes_one_more_for_each_shard() {
    let small = |facts: &mut Facts, wanted: &mut Wanted| {
        facts.set("net.core.somaxconn", "128");
        wanted.burst = Some(1_000);
        wanted.shards = Some(4);
    };
    let finding = with(small, "somaxconn");
    fails_at(&finding, 4 * 129);
    assert_eq!(finding.limit.unwrap().connections, 100_000 * 4 * 129 / 1_000);
    let own = with(
        |facts, wanted| {
            small(facts, wanted);
            facts.set("net.core.somaxconn", "4096");
            wanted.listeners[0].backlog = Some(10);
        },
        "somaxconn",
    );
    fails_at(&own, 4 * 11);
    assert!(
        own.remedies.iter().all(|remedy| remedy.change.is_none()),
        "the setting is large enough: {own:#?}"
    );
    let cookies = with(|facts, _| facts.set("net.ipv4.tcp_syncookies", "0"), "syn-backlog");
    assert_eq!(cookies.status, Status::Warn);
    let seen = with(|facts, _| count(facts, "ListenOverflows"), "overflows");
    assert_eq!(seen.status, Status::Warn);
}

#[test]
fn tracked_flows_are_two_for_each_connection() {
    let by = Some("connections of this network namespace are tracked".to_owned());
    let finding = with(
        |facts, _| {
            facts.conntrack = Fact::Known(Conntrack { by: by.clone(), count: 1_000 });
            facts.set("net.netfilter.nf_conntrack_max", "65536");
        },
        "conntrack",
    );
    fails_at(&finding, (65_536 - 1_000) / 2);
    assert!(finding.remedies.iter().any(|remedy| remedy.command.contains("notrack")));
}

#[test]
fn full_neighbour_tables_and_lone_queues_are_warned_of() {
    let full = with(|facts, _| facts.neighbours = Fact::Known(1_000), "neighbours");
    assert_eq!(full.status, Status::Warn);
    let lone = |rps| Fact::Known(vec![Interface { name: "eth0".into(), receive_queues: 1, rps }]);
    let queues = with(|facts, _| facts.interfaces = lone(false), "queues");
    assert_eq!(queues.status, Status::Warn);
    assert!(queues.remedies[0].command.contains("echo ff "), "eight processors: {queues:#?}");
    assert_eq!(with(|facts, _| facts.interfaces = lone(true), "queues").status, Status::Pass);
}

#[test]
fn io_uring_is_a_limit_only_when_it_is_asked_for() {
    let forbidden = |facts: &mut Facts| {
        facts.io_uring = Fact::Known(Usable { usable: false, why: "EPERM".into() });
        facts.set("kernel.io_uring_disabled", "2");
    };
    let asked = with(
        |facts, wanted| {
            forbidden(facts);
            wanted.engine = WantedEngine::Uring;
        },
        "io-uring",
    );
    fails_at(&asked, 0);
    let auto = with(|facts, _| forbidden(facts), "io-uring");
    assert_eq!((auto.status, auto.limit), (Status::Warn, None));
    assert_eq!(auto.remedies[0].change.clone().unwrap().value, "0");
    let filtered = with(
        |facts, _| {
            forbidden(facts);
            facts.set("kernel.io_uring_disabled", "0");
            facts.seccomp = Fact::Known(2);
        },
        "io-uring",
    );
    assert!(filtered.remedies[0].lasting.iter().any(|way| way.text.contains("seccomp")));
}

#[test]
fn privileges_and_clocks() {
    let low = with(
        |facts, wanted| {
            wanted.listeners[0].port = 443;
            facts.capabilities = Fact::Known(vec![]);
        },
        "privileges",
    );
    fails_at(&low, 0);
    assert_eq!(
        with(|facts, _| facts.clock_source = Fact::Known("hpet".into()), "clock").status,
        Status::Warn
    );
    let none = with(|facts, _| facts.capabilities = Fact::Known(vec![]), "bpf");
    assert_eq!((none.status, none.limit), (Status::Pass, None));
    let needed = with(
        |facts, wanted| {
            wanted.splice = true;
            facts.capabilities = Fact::Known(vec![]);
        },
        "bpf",
    );
    fails_at(&needed, 0);
}

#[test]
fn long_chains_are_told_and_a_shared_table_is_counted() {
    let shared = with(|facts, _| facts.set("net.ipv4.tcp_ehash_entries", "-1024"), "established");
    assert_eq!((shared.status, shared.limit), (Status::Warn, None));
    assert!(shared.remedies[0].lasting.iter().any(|way| way.text.contains("thash_entries=")), "{shared:#?}");
    let enough = with(|facts, _| facts.set("net.ipv4.tcp_ehash_entries", "16777216"), "established");
    assert_eq!(enough.status, Status::Pass);
}

#[test]
fn folklore_is_told_where_a_setting_betrays_it() {
    for (setting, value, belief, better) in [
        ("net.ipv4.tcp_tw_recycle", "1", "tw-recycle", "0"),
        ("net.ipv4.tcp_fin_timeout", "5", "fin-timeout", "60"),
        ("net.ipv4.tcp_timestamps", "0", "timestamps", "1"),
        ("net.ipv4.tcp_rmem", "4096 16777216 33554432", "huge-buffers", "4096 131072 33554432"),
        ("net.ipv4.tcp_wmem", "4096 16777216 33554432", "huge-buffers", "4096 16384 33554432"),
    ] {
        let finding = with(|facts, _| facts.set(setting, value), belief);
        assert_eq!(finding.status, Status::Warn, "{finding:#?}");
        assert_eq!(finding.remedies[0].change.clone().unwrap().value, better, "{setting}");
    }
    let beliefs: Vec<&str> = fourfold_doctor::FOLKLORE.iter().map(|one| one.id).collect();
    assert!(beliefs.contains(&"two-descriptors") && beliefs.contains(&"64k-clients"));
}

#[test]
fn what_binds_first_is_first() {
    let (mut facts, mut wanted) = (large(), wanted(100_000));
    facts.set("net.ipv4.ip_local_port_range", "40000 40999");
    facts.set("net.core.somaxconn", "16");
    (wanted.burst, wanted.shards) = (Some(1_000), Some(8));
    let report = examine(&facts, &wanted);
    let order: Vec<&str> = report.of(Status::Fail).map(|one| one.check).collect();
    // 8 * 17 of 1000 at once is 13.6 % of what is wanted; 16 sources of 1000 ports are 16 %.
    assert_eq!(order.first(), Some(&"somaxconn"), "{order:?}");
    assert_eq!(report.first().unwrap().check, "somaxconn");
    assert_eq!(order.get(1), Some(&"tuples"));
}

#[test]
fn facts_survive_json() {
    let facts = large();
    let text = serde_json::to_string(&facts).unwrap();
    assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), facts);
    let unknown = Facts::default();
    let text = serde_json::to_string(&unknown).unwrap();
    assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), unknown);
}
