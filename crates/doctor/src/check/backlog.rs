//! Connections that come faster than they are accepted.

use crate::capacity::Capacity;
use crate::finding::{Found, Limit, Measure, Remedy};

/// Below this a burst of nobody's making is enough.
const BACKLOG_MIN: u64 = 4096;

pub fn somaxconn(capacity: &Capacity<'_>) -> Vec<Found> {
    let mut backlogs: Vec<(String, Option<u64>)> = Vec::new();
    for listener in &capacity.wanted.listeners {
        backlogs.push((format!("listener {}: ", listener.name), listener.backlog));
    }
    if backlogs.is_empty() {
        backlogs.push((String::new(), None));
    }
    backlogs.into_iter().filter_map(|(who, backlog)| of(capacity, &who, backlog)).collect()
}

fn of(capacity: &Capacity<'_>, who: &str, backlog: Option<u64>) -> Option<Found> {
    let facts = capacity.facts;
    let somaxconn = facts.number("net.core.somaxconn")?;
    let most = capacity.by_backlog(backlog)?;
    let burst = capacity.burst();
    let shards = capacity.shards();
    let each = backlog.unwrap_or(somaxconn).min(somaxconn);
    let what =
        format!("{who}a backlog of {each} for each of {shards} shards: {most} connections in one moment");
    let why = "a connection that finds the queue full is dropped, and comes again after a second (ListenOverflows); listen(2) \
               cuts every backlog to net.core.somaxconn";
    let limit = Limit::scaled(Measure::AtOnce, most, burst, capacity.connections());
    let found = Found::at(limit, what, why);
    let needed = (burst / shards as u64 * 5 / 4).max(BACKLOG_MIN).next_power_of_two();
    let risk = "none: an entry takes memory only while it is used";
    let found = match somaxconn < needed {
        true => found.remedy(Remedy::setting(facts, "net.core.somaxconn", needed, risk)),
        false => found,
    };
    Some(match backlog {
        Some(backlog) if backlog < needed => {
            found.remedy(Remedy::configuration(format!("backlog = {needed}, or leave it out"), risk))
        }
        _ => found,
    })
}

pub fn syn(capacity: &Capacity<'_>) -> Vec<Found> {
    let facts = capacity.facts;
    let Some(max) = facts.number("net.ipv4.tcp_max_syn_backlog") else { return Vec::new() };
    if facts.number("net.ipv4.tcp_syncookies").unwrap_or(1) > 0 {
        return vec![Found::pass(format!("{max} connections being made, and SYN cookies beyond that"))];
    }
    let burst = capacity.burst();
    let shards = capacity.shards() as u64;
    let what = format!("{max} connections being made for each of {shards} shards, and no SYN cookies");
    let why =
        "without SYN cookies a flood of SYNs shuts everybody out once three quarters of the queue are taken";
    let limit = Limit::scaled(Measure::AtOnce, max * shards * 3 / 4, burst, capacity.connections());
    let found = Found { status: crate::Status::Warn, ..Found::at(limit, what, why) };
    let risk = "none: cookies are only sent when the queue is full";
    vec![found.remedy(Remedy::setting(facts, "net.ipv4.tcp_syncookies", 1, risk))]
}

pub fn overflows(capacity: &Capacity<'_>) -> Vec<Found> {
    let facts = capacity.facts;
    let (overflows, drops) = (facts.counter("ListenOverflows"), facts.counter("ListenDrops"));
    let full = facts.counter("TCPReqQFullDrop");
    if overflows + drops + full == 0 {
        return vec![Found::pass("none has been dropped by a listener in this network namespace")];
    }
    let what = format!(
        "{overflows} found an accept queue full, {full} a SYN queue, {drops} were dropped by a listener for any reason, since \
         this network namespace began"
    );
    let why = "some program here accepted too slowly or listens with a short backlog: ss -ltn shows Recv-Q near Send-Q";
    vec![Found::warn(what, why)]
}
