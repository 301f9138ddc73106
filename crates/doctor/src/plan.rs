//! `plan`: what a wanted load takes, what this machine has of it, and where each limit lies.

use crate::capacity::{Capacity, SOCKETS};
use crate::cost;
use crate::facts::Facts;
use crate::report::{Report, examine};
use crate::wanted::{Wanted, WantedPool};
use serde::Serialize;

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Need {
    pub what: &'static str,
    pub needed: u64,
    /// `None`: not known, or nothing bounds it.
    pub here: Option<u64>,
    pub unit: &'static str,
    /// How it is reckoned.
    pub how: String,
}

/// A load, what it takes, and where this machine ends.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Load {
    pub version: u32,
    pub connections: u64,
    pub needs: Vec<Need>,
    /// Machines like this one that hold all of it.
    pub machines: u64,
    /// Each limit of this machine, the first one first.
    pub limits: Vec<PlannedLimit>,
}

/// A limit as a picture shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlannedLimit {
    pub check: &'static str,
    pub title: &'static str,
    /// `max_connections` at which it binds.
    pub connections: u64,
}

/// Connections that live shorter and come more often: what a client does besides being connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How long a connection lives. With a rate and a number of connections, one follows from the others.
    pub hold_ms: Option<u64>,
    /// Requests per second, and how long a server takes for one: in HTTP mode connections to servers are shared.
    pub requests: Option<u64>,
    pub request_ms: u64,
}

/// The arithmetic for a load.
#[must_use]
pub fn plan(facts: &Facts, wanted: &Wanted, traffic: Traffic) -> Load {
    let capacity = Capacity::new(facts, wanted);
    let connections = capacity.connections();
    let rate = rate(&capacity, traffic);
    let mut needs = vec![
        tuples(&capacity, connections),
        sources(&capacity, connections),
        descriptors(&capacity, connections),
        shards(&capacity, connections),
        files(&capacity, connections),
    ];
    needs.extend(memory(&capacity, connections));
    needs.extend(upstream(&capacity, connections, traffic));
    needs.extend(wanted.pools.iter().map(|pool| time_wait(&capacity, pool, rate)));
    needs.push(burst(&capacity, rate));
    let report =
        examine(facts, &Wanted { rate: wanted.rate.or(traffic.hold_ms.map(|_| rate)), ..wanted.clone() });
    Load {
        version: crate::REPORT_VERSION,
        connections,
        machines: machines(&report, connections),
        limits: limits(&report),
        needs,
    }
}

/// Little's law: how many there are is how many come times how long they stay.
fn rate(capacity: &Capacity<'_>, traffic: Traffic) -> u64 {
    let by_hold = |ms: u64| capacity.connections().saturating_mul(1000).div_ceil(ms.max(1));
    capacity.wanted.rate.or(traffic.hold_ms.map(by_hold)).unwrap_or_else(|| capacity.rate())
}

fn need(
    what: &'static str,
    needed: u64,
    here: Option<u64>,
    unit: &'static str,
    how: impl Into<String>,
) -> Need {
    Need { what, needed, here, unit, how: how.into() }
}

fn tuples(capacity: &Capacity<'_>, connections: u64) -> Need {
    let pools = &capacity.wanted.pools;
    let here = pools.iter().map(|pool| capacity.tuples(pool)).try_fold(0u64, |sum, one| Some(sum + one?));
    need(
        "four-tuples",
        connections,
        here,
        "",
        "one for each connection to a server: sources × ports × servers",
    )
}

fn sources(capacity: &Capacity<'_>, connections: u64) -> Need {
    let pool = capacity.wanted.pools.first();
    let needed = pool.map_or(1, |pool| crate::check::sources_for(capacity, pool, connections));
    let here = pool.and_then(|pool| pool.servers.iter().map(|server| server.sources).max());
    let ports = capacity.local_range().map_or_else(|| "?".into(), |(first, last)| format!("{first}-{last}"));
    need(
        "source addresses",
        needed,
        here,
        "",
        format!("towards {} server(s), local ports {ports}", servers(capacity)),
    )
}

fn servers(capacity: &Capacity<'_>) -> usize {
    capacity.wanted.pools.iter().map(|pool| pool.servers.len()).sum()
}

fn descriptors(capacity: &Capacity<'_>, connections: u64) -> Need {
    let shards = capacity.shards() as u64;
    let here = capacity.tables().map(|tables| tables.descriptors.saturating_mul(shards));
    let how = format!("one for each socket, {SOCKETS} sockets for each connection; {shards} tables here");
    need("descriptors", connections * SOCKETS, here, "", how)
}

fn shards(capacity: &Capacity<'_>, connections: u64) -> Need {
    let needed = capacity.tables().and_then(|tables| tables.shards_for(connections)).unwrap_or(usize::MAX);
    let limit = capacity.tables().map_or(0, |tables| tables.descriptors);
    let how = format!("a limit of {limit} descriptors bounds each shard's table");
    need("shards", needed as u64, Some(capacity.shards_max() as u64), "", how)
}

fn files(capacity: &Capacity<'_>, connections: u64) -> Need {
    let sockets = capacity.sockets_here();
    let here = capacity.facts.number("fs.file-max").zip(capacity.facts.files_open.get().copied());
    let how = format!("{sockets} for each connection; fs.file-max, but for CAP_SYS_ADMIN");
    need("files", connections * sockets, here.map(|(max, open)| max.saturating_sub(open)), "", how)
}

fn memory(capacity: &Capacity<'_>, connections: u64) -> [Need; 3] {
    let sockets = capacity.sockets_here();
    let kernel = connections * (capacity.pair().bytes * sockets / 2 + capacity.watch_bytes() * sockets);
    let user = capacity.process_bytes() + connections * capacity.user_bytes() * (sockets - 1);
    let all = capacity.process_bytes() + connections * capacity.bytes_here();
    let available = capacity.facts.memory.get().map(|memory| memory.available_bytes);
    let pair = capacity.pair().bytes / 2 + capacity.watch_bytes();
    [
        need(
            "kernel memory",
            kernel,
            None,
            "B",
            format!("{pair} B for each of {sockets} sockets on this machine, idle"),
        ),
        need(
            "user memory",
            user,
            None,
            "B",
            format!("{} B for each connection, and the process", capacity.user_bytes() * (sockets - 1)),
        ),
        need("memory", all, available, "B", "both, and what is queued in the kernel"),
    ]
}

/// Connections to servers: as many as clients in TCP mode; in HTTP mode one for each request that is in flight.
fn upstream(capacity: &Capacity<'_>, connections: u64, traffic: Traffic) -> Option<Need> {
    let requests = traffic.requests?;
    let in_flight = requests.saturating_mul(traffic.request_ms).div_ceil(1000).max(1);
    let how = format!(
        "with reuse: {requests}/s × {} ms in flight; without: {connections} clients, and {requests} connects per second",
        traffic.request_ms
    );
    let here = capacity.wanted.pools.first().and_then(|pool| capacity.tuples(pool));
    Some(need("connections to servers", in_flight.min(connections), here, "", how))
}

fn time_wait(capacity: &Capacity<'_>, pool: &WantedPool, rate: u64) -> Need {
    let rest = pool.servers.iter().map(|server| capacity.rest_ms(pool, server)).max().unwrap_or(0);
    let resting = rate.saturating_mul(rest) / 1000;
    let how = format!(
        "{rate} connects/s, if our side always closes first: a tuple rests {rest} ms, so {resting} rest at a time"
    );
    need("connects per second", rate, capacity.rate_by_tuples(pool), "/s", how)
}

fn burst(capacity: &Capacity<'_>, rate: u64) -> Need {
    let burst = capacity.wanted.burst.unwrap_or(rate * cost::PAUSE_MS / 1000).max(1);
    let here = capacity.by_backlog(capacity.wanted.listeners.first().and_then(|one| one.backlog));
    let how = format!("what comes in {} ms; net.core.somaxconn for each shard", cost::PAUSE_MS);
    need("connections in one moment", burst, here, "", how)
}

/// How often this machine is needed: what it holds of each thing, but for what another setting or source would lift, is its memory.
fn machines(report: &Report, connections: u64) -> u64 {
    let hard = ["memory", "cgroup-memory"];
    let limits = report.findings.iter().filter(|one| hard.contains(&one.check)).filter_map(|one| one.limit);
    let least = limits.map(|limit| limit.connections).min().unwrap_or(u64::MAX).max(1);
    connections.div_ceil(least)
}

fn limits(report: &Report) -> Vec<PlannedLimit> {
    let one = |finding: &crate::Finding| {
        let limit = finding.limit?;
        Some(PlannedLimit { check: finding.check, title: finding.title, connections: limit.connections })
    };
    report.findings.iter().filter_map(one).collect()
}
