//! Each answer of the admin API as text for people.

use super::table::{Align, Table, ago, count, duration, maybe};
use fourfold_api::v1::{
    Connections, Counters, Destination, Events, Flow, Headroom, Instance, Limits, Listeners, Pools,
    ServerState, Severity, Source, Tuples,
};
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};

const L: Align = Align::Left;
const R: Align = Align::Right;

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The name under which a value of the API is written.
fn name(value: impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

pub fn instance(one: &Instance) -> String {
    let state = if one.draining { "draining" } else { "running" };
    let mut table = Table::new(&[("INSTANCE", L), ("", L)]);
    let mut row = |key: &str, value: String| table.row([key.to_owned(), value]);
    row("name", one.name.clone());
    row("version", one.version.clone());
    row("state", format!("{state} for {}", duration(one.uptime_ms)));
    row("pid", one.pid.to_string());
    row("config", one.config.clone().unwrap_or_else(|| "flags".into()));
    row("engine", format!("{}, {} shards", one.engine, one.shards));
    row("connections", format!("{} of {}", count(one.connections), count(one.max_connections)));
    table.render()
}

pub fn listeners(all: &Listeners) -> String {
    let mut table = Table::new(&[
        ("LISTENER", L),
        ("ADDRESS", L),
        ("MODE", L),
        ("POOL", L),
        ("CONNECTIONS", R),
        ("MAX", R),
        ("QUEUED", R),
        ("BACKLOG", R),
        ("DROPPED", R),
    ]);
    for one in &all.listeners {
        for bind in &one.binds {
            let known = |n: u64| maybe((bind.sockets > 0).then_some(n), count);
            table.row([
                one.name.clone(),
                bind.address.to_string(),
                name(one.mode),
                maybe(one.pool.clone(), |pool| pool),
                count(one.connections),
                maybe(one.max_connections, count),
                known(bind.queued),
                known(u64::from(bind.backlog)),
                known(bind.dropped),
            ]);
        }
    }
    table.render()
}

pub fn pools(all: &Pools) -> String {
    let mut table = Table::new(&[
        ("POOL", L),
        ("SERVER", L),
        ("ADDRESS", L),
        ("STATE", L),
        ("WEIGHT", R),
        ("CONNECTIONS", R),
        ("MAX", R),
        ("REQUESTS", R),
        ("FAILURES", R),
    ]);
    let mut notes = String::new();
    for pool in &all.pools {
        for one in &pool.servers {
            table.row([
                pool.name.clone(),
                one.name.clone(),
                maybe(one.address, |address| address.to_string()),
                name(one.state),
                one.weight.to_string(),
                count(u64::from(one.connections)),
                maybe(one.max_connections, |max| count(u64::from(max))),
                count(u64::from(one.requests)),
                count(u64::from(one.failures)),
            ]);
        }
        let up = pool.servers.iter().filter(|one| one.state == ServerState::Up).count();
        notes.push_str(&format!(
            "pool {}: {}, {up} of {} servers up, {} of {} clients waiting, {} warm connections\n",
            pool.name,
            pool.balance,
            pool.servers.len(),
            count(u64::from(pool.waiting)),
            count(u64::from(pool.waiting_max)),
            count(pool.idle)
        ));
        for path in &pool.avoided {
            let to = path.server.as_deref().unwrap_or("all servers");
            notes.push_str(&format!(
                "  path {} to {to}: avoided for {}\n",
                path.source,
                duration(path.for_ms)
            ));
        }
    }
    format!("{}\n{notes}", table.render())
}

pub fn tuples(all: &Tuples, sum: bool) -> String {
    let mut table = Table::new(&[
        ("DESTINATION", L),
        ("SOURCE", L),
        ("USED", R),
        ("FREE", R),
        ("QUARANTINED", R),
        ("FOREIGN", R),
        ("TOTAL", R),
        ("TAKEN", R),
        ("LEASES/S", R),
        ("GROWTH/S", R),
        ("NONE LEFT IN", R),
        ("STATE", L),
        ("POOL", L),
    ]);
    for one in &all.destinations {
        let pools = if one.pools.is_empty() { "-".to_owned() } else { one.pools.join(",") };
        let lead = |source: String| [one.address.to_string(), source];
        let row = |lead: [String; 2], room, flow, state: &str| {
            lead.into_iter().chain(numbers(room, flow)).chain([state.to_owned(), pools.clone()])
        };
        if sum || one.sources.len() != 1 {
            table.row(row(lead(sources_of(one)), &one.headroom, &one.flow, one.state.as_str()));
        }
        for source in one.sources.iter().filter(|_| !sum) {
            table.row(row(lead(source_name(source)), &source.headroom, &source.flow, source.state.as_str()));
        }
    }
    match table.is_empty() {
        true => "no such destination\n".to_owned(),
        false => table.render(),
    }
}

fn sources_of(one: &Destination) -> String {
    match one.sources.as_slice() {
        [only] => source_name(only),
        all => format!("all {}", count(all.iter().map(|source| source.sources).fold(0, u64::saturating_add))),
    }
}

fn source_name(source: &Source) -> String {
    match (source.address, source.sources) {
        (Some(address), _) => address.to_string(),
        (None, 1) => "kernel's choice".to_owned(),
        (None, _) => "further ones".to_owned(),
    }
}

fn numbers(room: &Headroom, flow: &Flow) -> [String; 9] {
    let taken = room.total.saturating_sub(room.free) as f64 * 100.0 / room.total.max(1) as f64;
    [
        count(room.used),
        endless(room.free),
        count(room.quarantined),
        count(room.foreign),
        endless(room.total),
        format!("{taken:.1}%"),
        format!("{:.1}", flow.leases_per_s),
        format!("{:+.1}", flow.growth_per_s),
        maybe(flow.exhausted_in_ms, duration),
    ]
}

/// Of an IPv6 prefix nobody wants to read twenty digits.
fn endless(n: u64) -> String {
    if n > 1_000_000_000_000 { "endless".to_owned() } else { count(n) }
}

pub fn connections(all: &Connections) -> String {
    let mut table = Table::new(&[
        ("CLIENT", L),
        ("LISTENER", L),
        ("STATE", L),
        ("SOURCE", L),
        ("SERVER", L),
        ("POOL", L),
        ("QUIET", R),
        ("REQUESTS", R),
        ("SHARD", R),
    ]);
    for one in &all.connections {
        let source = match (one.source, one.port) {
            (Some(ip), Some(port)) => std::net::SocketAddr::new(ip, port).to_string(),
            (None, Some(port)) => format!("*:{port}"),
            (Some(ip), None) => ip.to_string(),
            (None, None) => "-".to_owned(),
        };
        table.row([
            maybe(one.client, |client| client.to_string()),
            one.listener.clone(),
            name(one.state),
            source,
            maybe(one.server, |server| server.to_string()),
            maybe(one.pool.clone(), |pool| pool),
            maybe(one.quiet_ms, duration),
            maybe(one.requests, |n| count(u64::from(n))),
            one.shard.to_string(),
        ]);
    }
    let silent = maybe(all.silent_shard, |n| format!("; shard {n} did not answer in time"));
    let silent = if all.silent_shard.is_some() { silent } else { String::new() };
    let (shown, total) = (count(all.connections.len() as u64), count(all.total));
    format!("{}{shown} of {total} connections{silent}\n", table.render())
}

pub fn limits(all: &Limits) -> String {
    let columns = [
        ("LIMIT", L),
        ("OF", L),
        ("USED", R),
        ("MAX", R),
        ("", R),
        ("UNIT", L),
        ("STATE", L),
        ("MORE BY", L),
    ];
    let mut table = Table::new(&columns);
    for one in &all.limits {
        table.row([
            one.name.clone(),
            maybe(one.of.clone(), |of| of),
            count(one.used),
            count(one.max),
            format!("{:.1}%", one.used as f64 * 100.0 / one.max.max(1) as f64),
            one.unit.clone(),
            one.state.as_str().to_owned(),
            one.remedy.clone(),
        ]);
    }
    table.render()
}

/// What has happened at all.
pub fn counters(all: &Counters) -> String {
    let mut table = Table::new(&[("COUNTER", L), ("VALUE", R), ("COUNTS", L)]);
    for one in all.counters.iter().filter(|one| one.value > 0) {
        table.row([one.name.clone(), count(one.value), one.help.clone()]);
    }
    table.render()
}

pub fn events(all: &Events) -> String {
    if all.events.is_empty() {
        return "nothing has happened\n".to_owned();
    }
    let now = now_ms();
    let mut text = String::new();
    for event in &all.events {
        let mark = if event.severity == Severity::Warning { "warning" } else { "info" };
        text.push_str(&format!(
            "{} ({}), {mark}: {}\n",
            ago(event.at_ms, now),
            event.kind.as_str(),
            event.message
        ));
        event.remedy.iter().for_each(|remedy| text.push_str(&format!("    {remedy}\n")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use fourfold_api::v1::{Fill, PinMode};

    #[test]
    fn tuples_have_a_line_for_all_sources_and_one_for_each() {
        let headroom = Headroom { total: 56_464, used: 30_000, free: 26_464, quarantined: 0, foreign: 0 };
        let flow = Flow { leases_per_s: 120.0, growth_per_s: 100.0, exhausted_in_ms: Some(264_640) };
        let source = |address: &str| Source {
            address: address.parse().ok(),
            sources: 1,
            headroom: Headroom { total: 28_232, used: 15_000, free: 13_232, ..Headroom::default() },
            flow: Flow::default(),
            state: Fill::Half,
        };
        let destination = Destination {
            address: "10.0.1.1:9000".parse().unwrap(),
            pools: vec!["chat".into()],
            mode: PinMode::Late,
            ports: "32768-60999".into(),
            headroom,
            flow,
            state: Fill::Half,
            sources: vec![source("10.0.0.1"), source("10.0.0.2")],
        };
        let all = Tuples { destinations: vec![destination] };
        let text = tuples(&all, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(
            lines[1].contains("all 2") && lines[1].contains("30_000") && lines[1].contains("4m 24s"),
            "{text}"
        );
        assert!(lines[2].contains("10.0.0.1 ") && lines[2].contains("53.1%"), "{text}");
        assert_eq!(tuples(&all, true).lines().count(), 2);
        assert_eq!(tuples(&Tuples { destinations: vec![] }, false), "no such destination\n");
    }
}
