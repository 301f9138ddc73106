//! Source addresses, ports, TIME_WAIT.

use crate::capacity::Capacity;
use crate::cost;
use crate::finding::{Found, Limit, Measure, Remedy};
use crate::wanted::WantedPool;

/// Where a widened range may begin, the mildest first: services listen below.
const RANGE_STARTS: &[u16] = &[16_384, 10_240, 1_024];

pub fn held(capacity: &Capacity<'_>) -> Vec<Found> {
    capacity.wanted.pools.iter().map(|pool| held_by(capacity, pool)).collect()
}

fn held_by(capacity: &Capacity<'_>, pool: &WantedPool) -> Found {
    let facts = capacity.facts;
    let Some(most) = capacity.by_tuples(pool) else {
        return Found::warn(
            format!("pool {}: its tuples are not known", pool.name),
            "net.ipv4.ip_local_port_range cannot be read",
        );
    };
    let connections = capacity.connections();
    let tuples = capacity.tuples(pool).unwrap_or(most);
    let sources = pool.servers.iter().map(|server| server.sources).max().unwrap_or(0);
    let held: u64 = facts.held.iter().map(|held| held.tuples).sum();
    let what = format!(
        "pool {}: {sources} source{} × ports × {} server{}, {held} held by others: {tuples} tuples, {most} connections",
        pool.name,
        plural(sources),
        pool.servers.len(),
        plural(pool.servers.len() as u64),
    );
    let why = "a connection is source address, source port, server address, server port; a tuple exists once";
    let found = Found::at(Limit::held(most, connections), what, why);
    let found = match pool.http || capacity.wanted.pools.len() > 1 {
        // How many requests are in flight, and which pool they go to, nobody has said.
        true => found.at_most_warn(),
        false => found,
    };
    let needed = connections * pool_share(capacity, pool) / 100;
    let found = match widen(capacity, pool, needed) {
        Some(remedy) => found.remedy(remedy),
        None => found,
    };
    let more = sources_for(capacity, pool, needed);
    found.remedy(Remedy::configuration(
        format!("{more} source addresses: sources = [\"10.0.0.10-10.0.0.{}\"]", 9 + more.min(246)),
        "the addresses must be this machine's, and routed back to it",
    ))
}

fn pool_share(capacity: &Capacity<'_>, pool: &WantedPool) -> u64 {
    if pool.http { capacity.wanted.busy_percent.clamp(1, 100) } else { 100 }
}

fn plural(n: u64) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// Source addresses with which `connections` have a tuple each.
#[must_use]
pub fn sources_for(capacity: &Capacity<'_>, pool: &WantedPool, connections: u64) -> u64 {
    let tuples = capacity.tuples(pool).unwrap_or(0);
    let sources = pool.servers.iter().map(|server| server.sources).max().unwrap_or(1).max(1);
    let each = tuples / sources;
    if each == 0 { u64::MAX } else { connections.div_ceil(each) }
}

/// A wider `ip_local_port_range`, if that is what bounds the pool and the mildest one that is enough, or else the widest.
fn widen(capacity: &Capacity<'_>, pool: &WantedPool, needed: u64) -> Option<Remedy> {
    if pool.ports.is_some() {
        return None;
    }
    let (first, _) = capacity.local_range()?;
    let unprivileged = capacity.facts.number("net.ipv4.ip_unprivileged_port_start").unwrap_or(1024);
    let starts = RANGE_STARTS.iter().filter(|start| u64::from(**start) >= unprivileged);
    let with = |start: u16| {
        let mut facts = capacity.facts.clone();
        facts.set("net.ipv4.ip_local_port_range", &format!("{start} 65535"));
        Capacity::new(&facts, capacity.wanted).tuples(pool).unwrap_or(0)
    };
    let enough = needed + needed * cost::SPARE_PERCENT / 100;
    let candidates: Vec<u16> = starts.copied().map(|start| start.min(first)).collect();
    let start =
        candidates.iter().copied().find(|start| with(*start) >= enough).or(candidates.last().copied())?;
    let risk = "ports from there on may be taken when a service wants to listen on one: keep such ports out of it by \
                net.ipv4.ip_local_reserved_ports";
    let value = format!("{start} 65535");
    Some(Remedy::setting(capacity.facts, "net.ipv4.ip_local_port_range", value, risk))
}

/// New connections per second when Fourfold is the side that closes.
pub fn time_wait(capacity: &Capacity<'_>) -> Vec<Found> {
    let mut found: Vec<Found> =
        capacity.wanted.pools.iter().filter_map(|pool| rate(capacity, pool)).collect();
    found.extend(buckets(capacity));
    found
}

fn rate(capacity: &Capacity<'_>, pool: &WantedPool) -> Option<Found> {
    let wanted = capacity.wanted.rate?;
    let most = capacity.rate_by_tuples(pool)?;
    let rest = pool.servers.iter().map(|server| capacity.rest_ms(pool, server)).max().unwrap_or(0);
    let what = format!(
        "pool {}: a tuple that our side closed rests {rest} ms: {most} new connections per second",
        pool.name
    );
    let why = "TIME_WAIT stays on the side that closed first, on Fourfold's only where the client closes before the server";
    let limit = Limit::scaled(Measure::PerSecond, most, wanted, capacity.connections());
    let found = Found::at(limit, what, why).at_most_warn();
    let risk = "none: timestamps tell old segments from new ones (RFC 6191)";
    let facts = capacity.facts;
    let found = match facts.number("net.ipv4.tcp_timestamps") {
        Some(0) => found.remedy(Remedy::setting(facts, "net.ipv4.tcp_timestamps", 1, risk)),
        _ => found,
    };
    let found = match facts.number("net.ipv4.tcp_tw_reuse") {
        Some(1) => found,
        _ => found.remedy(Remedy::setting(facts, "net.ipv4.tcp_tw_reuse", 1, risk)),
    };
    Some(found.remedy(Remedy::configuration(
        "port_mode = \"early\" with `ports` of its own: tuples are used again at once",
        "those ports must lie outside of ip_local_port_range",
    )))
}

/// Beyond `tcp_max_tw_buckets` the kernel forgets TIME_WAIT at once, which is harmless until an old segment comes.
fn buckets(capacity: &Capacity<'_>) -> Option<Found> {
    let facts = capacity.facts;
    let max = facts.number("net.ipv4.tcp_max_tw_buckets")?;
    let overflows = facts.counter("TCPTimeWaitOverflow");
    let what = format!("{max} sockets may be in TIME_WAIT");
    if overflows == 0 {
        return Some(Found::pass(what));
    }
    let why = format!(
        "{overflows} were ended before their time (TCPTimeWaitOverflow): an old segment can reset a new connection"
    );
    let risk = "a socket in TIME_WAIT takes about 300 bytes";
    let remedy = Remedy::setting(facts, "net.ipv4.tcp_max_tw_buckets", max * 2, risk);
    Some(Found::warn(what, why).remedy(remedy))
}

/// Linux 6.3 brought IP_LOCAL_PORT_RANGE.
const LATE_SINCE: (u32, u32) = (6, 3);

pub fn late(capacity: &Capacity<'_>) -> Vec<Found> {
    let Some((major, minor)) = capacity.facts.kernel.get().copied() else { return Vec::new() };
    if (major, minor) >= LATE_SINCE {
        return vec![Found::pass(format!("Linux {major}.{minor} pins ports without binding them"))];
    }
    let what = format!("Linux {major}.{minor} pins ports by binding them only");
    let why = "before Linux 6.3 connect() searches a port by itself, ever slower as they run out, unless one is bound; \
               that needs named sources";
    let remedy = Remedy::configuration("name each pool's `sources`", "none");
    vec![Found::warn(what, why).remedy(remedy)]
}
