//! The section of `docs/benchmarks.md`.

use super::Million;
use super::measured::Verdict;
use std::fmt::Write;

/// The most user memory that the proxy may take, however many it holds.
const PROXY_BYTES_MAX: u64 = 400_000_000;
const PLAN_PERCENT: f64 = 10.0;
const PER_SECOND_MIN: f64 = 20_000.0;

/// `name`: of the file with the figures.
pub fn section(name: &str, million: &Million) -> String {
    let mut text = format!("## {} {}\n\n", grouped(million.connections), million.what());
    let flag = if million.websockets { " --ws" } else { "" };
    // Writing into a String cannot fail.
    let _ = write!(
        text,
        "From [`benches/results/{name}`](../benches/results/{name}); repeat with `cargo xtask bench million{flag}`.\n\n\
         Measured {} at commit {} ({}) on {} cores ({}), {} GiB, Linux {}, local ports {}; {:.1} % of the machine was busy \
         before anything was started. Client, proxy and origin are on this machine, one process each, so that {} connections are \
         {} sockets{}; every process has a hard limit of {} descriptors. Engine {}. Proxy: {}.\n\n\
         Every connection carries a token of its own when it is made and another one once all are up; after that {} random ones \
         per second are verified for as long as they are held.\n\n",
        million.date,
        million.commit,
        million.version,
        million.machine.cores,
        million.machine.cpu,
        million.machine.memory_gib,
        million.machine.kernel,
        million.machine.local_ports,
        million.machine.background * 100.0,
        grouped(million.connections),
        grouped(million.sockets()),
        million.chains.map_or(String::new(), |chains| {
            format!(" in a network namespace, whose table of connections has {} chains", grouped(chains))
        }),
        grouped(million.descriptors),
        million.engine,
        shards(&million.layout.proxy),
        grouped(million.verify_per_s),
    );
    if let Some(aborted) = &million.aborted {
        let _ = write!(text, "**Ended early: {aborted}.**\n\n");
    }
    if let Some(verdict) = million.verdict() {
        text.push_str(&table(million, &verdict));
    }
    for (file, _) in super::pictures(million) {
        let _ = write!(text, "![Timeline](images/{file})\n\n");
    }
    text
}

fn table(million: &Million, verdict: &Verdict) -> String {
    let each = |bytes: u64| bytes as f64 / million.connections.max(1) as f64;
    let is = |good: bool| if good { "" } else { " **MISSED**" };
    let mut rows = vec![
        row("held at once", &format!("{}{}", grouped(verdict.held), is(verdict.held == million.connections))),
        row(
            "failed, lost, wrong bytes",
            &format!(
                "{}, {}, {}{}",
                verdict.failed,
                verdict.lost,
                verdict.wrong_bytes,
                is(verdict.failed + verdict.lost + verdict.wrong_bytes == 0)
            ),
        ),
        row(
            "verified again once all were up",
            &format!("{}{}", grouped(verdict.checked), is(verdict.checked == million.connections)),
        ),
        row("random verifications after that", &grouped(verdict.again)),
        row(
            "building up",
            &format!(
                "{:.1} s, {} per second{}",
                verdict.opening_s,
                grouped(verdict.per_second as u64),
                is(verdict.per_second >= PER_SECOND_MIN)
            ),
        ),
        row(
            "user memory of the proxy, at most",
            &format!(
                "{:.0} MB, {:.0} bytes per connection{}",
                verdict.proxy_bytes as f64 / 1e6,
                each(verdict.proxy_bytes),
                is(verdict.proxy_bytes <= PROXY_BYTES_MAX)
            ),
        ),
        row(
            "memory of the machine",
            &format!(
                "{:.2} GB, {:.0} bytes per connection, of which {:.0} in slabs",
                verdict.machine_bytes as f64 / 1e9,
                each(verdict.machine_bytes),
                each(verdict.slab_bytes)
            ),
        ),
    ];
    if let Some(plan) = million.plan_bytes {
        let off = (plan as f64 / verdict.machine_bytes.max(1) as f64 - 1.0) * 100.0;
        let within = is(off.abs() <= PLAN_PERCENT);
        rows.push(row("`fourfold plan` says", &format!("{:.2} GB, {off:+.1} %{within}", plan as f64 / 1e9)));
    }
    let latency = |key: &str| {
        let one = &million.report[key];
        let ms = |key: &str| Some(format!("{:.1}", one[key].as_f64()? / 1e3));
        Some(format!("{} / {} / {} ms", ms("p50")?, ms("p99")?, ms("max")?))
    };
    let names = [
        ("connect_us", "connect, p50 / p99 / max"),
        ("echo_us", "first token"),
        ("round_us", "later tokens"),
        ("latency_us", "messages"),
    ];
    rows.extend(names.iter().filter_map(|(key, name)| Some(row(name, &latency(key)?))));
    format!("| | |\n|---|---|\n{}\n", rows.concat())
}

fn row(name: &str, value: &str) -> String {
    format!("| {name} | {value} |\n")
}

/// 1 000 000.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let (head, rest) = digits.split_at(first);
    let groups = rest.as_bytes().chunks(3).map(|group| String::from_utf8_lossy(group).into_owned());
    let groups = std::iter::once(head.to_string()).filter(|head| !head.is_empty()).chain(groups);
    groups.collect::<Vec<_>>().join(" ")
}

/// Of a log line, what it says of shards.
fn shards(line: &str) -> &str {
    let Some(at) = line.find(" shards") else { return line };
    let digits = line[..at].bytes().rev().take_while(u8::is_ascii_digit).count();
    &line[at - digits..]
}

#[cfg(test)]
mod tests {
    use super::super::measured::tests::example;
    use super::*;

    #[test]
    fn what_was_missed_is_said_in_words() {
        let text = section("million-2026-01-01.json", &example());
        assert!(text.contains("| held at once | 1 000 |") && text.contains("+6.2 % |"), "{text}");
        assert!(text.contains("250 per second **MISSED**"), "{text}");
    }

    #[test]
    fn shards_are_cut_out_of_a_log_line() {
        let line = "2026-01-01T00:00:00Z  INFO 108 shards: 1000000 connections of 2 sockets; max_connections 1000000";
        assert!(shards(line).starts_with("108 shards: 1000000"));
        assert_eq!(grouped(1_234_567), "1 234 567");
        assert_eq!((grouped(12), grouped(123)), ("12".into(), "123".into()));
    }
}
