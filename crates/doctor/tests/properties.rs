//! What holds for every machine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod machines;

use fourfold_doctor::{
    Bound, Conntrack, Fact, Facts, Memory, Nofile, Report, Scope, Sockets, Traffic, Wanted, examine, picture,
    plan,
};
use machines::{large, wanted};
use proptest::prelude::*;

/// The limits of a machine, each of which may be raised.
#[derive(Clone, Debug)]
struct Limits {
    nofile: u64,
    file_max: u64,
    available: u64,
    group: u64,
    tcp_mem: u64,
    first_port: u64,
    somaxconn: u64,
    conntrack: u64,
    pids: u64,
}

const COUNT: usize = 9;

impl Limits {
    fn facts(&self) -> Facts {
        let mut facts = large();
        facts.nofile = Fact::Known(Nofile { soft: 1_024.min(self.nofile), hard: self.nofile });
        facts.set("fs.file-max", &self.file_max.to_string());
        facts.memory = Fact::Known(Memory { total_bytes: 1 << 40, available_bytes: self.available });
        let bound = |max, file: &str| Fact::Known(Bound { max: Some(max), used: 0, file: file.into() });
        facts.cgroup_memory = bound(self.group, "/group/memory.max");
        facts.cgroup_pids = bound(self.pids, "/group/pids.max");
        facts.sockets = Fact::Known(Sockets { tcp_pages: 100, orphans: 0, time_wait: 0 });
        facts.set("net.ipv4.tcp_mem", &format!("{0} {0} {0}", self.tcp_mem));
        facts.set("net.ipv4.ip_local_port_range", &format!("{} 61000", self.first_port));
        facts.set("net.core.somaxconn", &self.somaxconn.to_string());
        let by = Some("tracked".to_owned());
        facts.conntrack = Fact::Known(Conntrack { by, count: 10 });
        facts.set("net.netfilter.nf_conntrack_max", &self.conntrack.to_string());
        facts
    }

    /// One of them, as much further as it may be.
    fn raised(&self, which: usize, by: u64) -> Limits {
        let mut raised = self.clone();
        let limit = match which {
            0 => &mut raised.nofile,
            1 => &mut raised.file_max,
            2 => &mut raised.available,
            3 => &mut raised.group,
            4 => &mut raised.tcp_mem,
            5 => {
                raised.first_port = raised.first_port.saturating_sub(by).max(1_024);
                return raised;
            }
            6 => &mut raised.somaxconn,
            7 => &mut raised.conntrack,
            _ => &mut raised.pids,
        };
        *limit += by;
        raised
    }
}

fn limits() -> impl Strategy<Value = Limits> {
    let memory = || 1u64 << 20..1 << 36;
    (
        (0u64..100_000, 2_000u64..1_000_000, memory(), memory(), 100u64..1_000_000),
        (1_024u64..61_000, 1u64..10_000, 10u64..1_000_000, 1u64..2_000),
    )
        .prop_map(
            |((nofile, file_max, available, group, tcp_mem), (first_port, somaxconn, conntrack, pids))| {
                Limits { nofile, file_max, available, group, tcp_mem, first_port, somaxconn, conntrack, pids }
            },
        )
}

fn load() -> impl Strategy<Value = Wanted> {
    let shards = prop_oneof![Just(None), (1u64..64).prop_map(Some)];
    (1u64..2_000_000, shards, prop_oneof![Just(None), (1u64..200_000).prop_map(Some)], 1u64..64).prop_map(
        |(connections, shards, queued_bytes, sources)| {
            let mut wanted = Wanted { shards, queued_bytes, ..wanted(connections) };
            wanted.pools[0].servers[0].sources = sources;
            wanted
        },
    )
}

fn first(report: &Report) -> u64 {
    report.first().unwrap().limit.unwrap().connections
}

/// As the kernel would be after `--fix`, a limit of a control group included.
fn fixed(facts: &Facts, report: &Report) -> Facts {
    let mut after = facts.clone();
    for change in report.changes() {
        match change.scope {
            Scope::Group => {
                let bound = facts.cgroup_memory.get().unwrap().clone();
                let max = Some(change.value.parse().unwrap());
                after.cgroup_memory = Fact::Known(Bound { max, ..bound });
            }
            _ => after.set(&change.setting, &change.value),
        }
    }
    after
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn raising_a_limit_never_lowers_the_number(limits in limits(), wanted in load(), which in 0..COUNT, by in 0u64..1 << 32) {
        let before = examine(&limits.facts(), &wanted);
        let after = examine(&limits.raised(which, by).facts(), &wanted);
        for one in &before.findings {
            let same = |other: &&fourfold_doctor::Finding| other.check == one.check;
            // The backlog is each shard's, and a larger table needs fewer of them.
            if one.check == "somaxconn" && which != 6 {
                continue;
            }
            if let (Some(limit), Some(other)) = (one.limit, after.findings.iter().find(same).and_then(|other| other.limit)) {
                prop_assert!(other.number >= limit.number, "{}: {} then {}", one.check, limit.number, other.number);
            }
        }
    }

    #[test]
    fn after_a_fix_what_it_changed_is_no_longer_short(limits in limits(), wanted in load()) {
        let facts = limits.facts();
        let before = examine(&facts, &wanted);
        let after = examine(&fixed(&facts, &before), &wanted);
        prop_assert!(first(&after) >= first(&before));
        for one in &after.findings {
            let lifted = one.remedies.iter().any(|remedy| remedy.change.is_some());
            // A range of ports ends at 65535, and queues may not take more than half of the memory.
            if lifted && one.limit.is_some() && one.check != "tuples" {
                prop_assert!(one.limit.unwrap().is_enough(), "{one:#?}");
            }
        }
    }

    #[test]
    fn the_ranking_is_by_connections(limits in limits(), wanted in load()) {
        let report = examine(&limits.facts(), &wanted);
        let numbers: Vec<u64> = report.findings.iter().filter_map(|one| Some(one.limit?.connections)).collect();
        prop_assert!(numbers.is_sorted());
        prop_assert_eq!(report.first_limit, Some(0));
    }

    #[test]
    fn a_plan_and_its_picture_come_of_everything(limits in limits(), wanted in load(), hold_ms in 1u64..1_000_000) {
        let traffic = Traffic { hold_ms: Some(hold_ms), requests: Some(1_000), request_ms: 20 };
        let load = plan(&limits.facts(), &wanted, traffic);
        let report = examine(&limits.facts(), &Wanted { rate: Some(wanted.connections.unwrap() * 1000 / hold_ms + 1), ..wanted });
        prop_assert!(load.machines >= 1);
        let bars = load.limits.len();
        prop_assert!(bars >= report.findings.iter().filter(|one| one.limit.is_some()).count() - 1);
        let svg = picture(&load);
        prop_assert!(svg.matches("<rect").count() == bars + 1 && !svg.contains("NaN"));
    }
}
