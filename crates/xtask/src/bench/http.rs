//! `cargo xtask bench http`: the rounds, and what many clients cost that mostly keep quiet.
//!
//! Where CPU is measured the client is [`super::client`], which reads the machine's time itself; where latency, memory or
//! connections are, it is `fourfold load`. The origin is `fourfold origin --mode http` everywhere.

use super::Flags;
use super::faults::{self, FAULTS};
use super::report::{self, Place};
use super::results::{Grown, HoldSample, PacedSample, Protocol, Results, ReuseSample};
use super::rounds::{self, Settings, absent};
use super::slow::{self, SLOW};
use super::subject::{Kind, Programs, Running, Size};
use crate::workspace;
use anyhow::{Context, Result, bail};
use fourfold_testkit::{Proc, Reserved, Signal};
use serde_json::Value;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// Name, connections (concurrency in `new`).
const SCENARIOS: &[(&str, usize)] = &[("small", 64), ("10k", 64), ("new", 16), ("ws", 64)];
const LATENCY: &str = "latency";
const IDLE: &str = "idle";
const WS_IDLE: &str = "ws-idle";
const REUSE: &str = "reuse";
/// Connections of the open loop.
const LATENCY_CONNECTIONS: usize = 64;
/// Of what the slower yardstick can do.
const LOAD: f64 = 0.5;

const HOLD_DEADLINE: Duration = Duration::from_secs(180);
/// Longer than any of them is held.
const HOLD_DURATION: &str = "900s";
/// Holding many connections takes its time and memory does not vary: one round.
const HOLD_ROUNDS_MAX: u32 = 1;
/// The first step's clients and the second's must not meet each other's tuples.
const SOURCES: [&str; 2] = ["127.0.2.1-127.0.2.8", "127.0.3.1-127.0.3.8"];
/// What the origin must be able to hold beside the clients of the scenario.
const ORIGIN_CONNECTIONS: &str = "120000";
/// WebSockets go to so many.
const PAIR_ORIGINS: usize = 2;

const INTERVAL: Duration = Duration::from_secs(10);
const QUICK_INTERVAL: Duration = Duration::from_secs(2);
/// How often the origin is asked for its connections.
const LOOK: Duration = Duration::from_secs(1);

pub fn run(flags: &Flags) -> Result<()> {
    let others = [LATENCY, IDLE, WS_IDLE, REUSE, FAULTS, SLOW];
    let all: Vec<&str> = SCENARIOS.iter().map(|(name, _)| *name).chain(others).collect();
    let mut settings = Settings::from_flags(flags, Protocol::Http, &all)?;
    let mut results = rounds::begin(&mut settings, Protocol::Http)?;
    let place = Place::free("http", &results.date)?;
    let folder = workspace::target_dir().join("bench");
    let windows: Vec<_> = SCENARIOS.iter().copied().filter(|(name, _)| settings.wants(name)).collect();
    if !windows.is_empty() || settings.wants(LATENCY) {
        let (origin, address) = start_origin(&["--shards", "1", "--engine", "epoll"])?;
        let mut subjects = rounds::start_subjects(&settings, &mut results, Protocol::Http, address, &folder)?;
        rounds::measure_rounds(&settings, &mut results, &windows, &mut subjects, origin.pid())?;
        if settings.wants(LATENCY) {
            measure_latencies(&settings, &mut results, &mut subjects, origin.pid())?;
        }
        place.write(&results)?;
    }
    for (scenario, sizes) in
        [(IDLE, Kind::idle_sizes as fn(Kind) -> Option<(usize, usize)>), (WS_IDLE, Kind::pair_sizes)]
    {
        if settings.wants(scenario) {
            measure_holds(&settings, &mut results, &folder, scenario, sizes);
            place.write(&results)?;
        }
    }
    if settings.wants(REUSE) {
        measure_reuses(&settings, &mut results, &folder);
    }
    if settings.wants(SLOW) {
        slow::measure(&settings, &mut results, &folder)?;
        place.write(&results)?;
    }
    if settings.wants(FAULTS) {
        faults::measure(&settings, &mut results, &folder);
    }
    place.write(&results)?;
    print!("{}", report::tables(&results));
    Ok(())
}

pub fn start_origin(more: &[&str]) -> Result<(Proc, SocketAddr)> {
    let address = Reserved::loopback()?.release();
    Ok((start_origin_at(address, more)?, address))
}

pub fn start_origin_at(address: SocketAddr, more: &[&str]) -> Result<Proc> {
    let mut command = Programs::tool();
    command.args(["origin", "--mode", "http", "--listen", &address.to_string()]).args(more);
    let mut origin = Proc::spawn(&mut command)?;
    fourfold_testkit::eventually(Duration::from_secs(20), "the origin to listen", || {
        TcpStream::connect(address).is_ok() || !origin.is_running().unwrap_or(false)
    })?;
    if !origin.is_running()? {
        bail!("the origin does not start: {}", origin.lines().join("\n"));
    }
    Ok(origin)
}

/// A load that prints its report as JSON.
pub fn start_load(kind: &str, to: SocketAddr, arguments: &[&str]) -> Result<Proc> {
    let mut command = Programs::tool();
    command.args(["load", kind, &to.to_string(), "--json"]).args(arguments);
    Proc::spawn(&mut command)
}

/// What a load has printed in the end. What it lost is in there, so its exit status does not matter.
pub fn report_of(load: &mut Proc) -> Result<Value> {
    load.wait_exit(HOLD_DEADLINE)?;
    // The readers of its output may be a moment behind its end.
    load.wait_for("report", Duration::from_secs(20), |line| (line == "}").then_some(()))?;
    let lines = load.lines();
    let start = lines.iter().position(|line| line == "{").with_context(|| lines.join("\n"))?;
    let text = lines.get(start..).unwrap_or_default().join("\n");
    serde_json::from_str(&text).with_context(|| text)
}

pub fn number(report: &Value, path: &str) -> u64 {
    report.pointer(path).and_then(Value::as_u64).unwrap_or(0)
}

fn measure_latencies(
    settings: &Settings,
    results: &mut Results,
    subjects: &mut [Running],
    origin: u32,
) -> Result<()> {
    let rate = common_rate(settings, subjects, origin)?;
    println!("latency: {rate:.0} requests per second, {LOAD} of what the slower yardstick can do");
    for round in 0..settings.rounds {
        subjects.rotate_left(1);
        for subject in subjects.iter() {
            let sample = measure_latency(subject, round, rate, settings.seconds)
                .with_context(|| format!("latency through {}: {:?}", subject.kind.name(), subject.log()))?;
            println!(
                "round {round} latency  {:<15} p50 {} us, p99 {} us, p99.9 {} us, {} failed, {} not started",
                sample.subject,
                sample.p50_us,
                sample.p99_us,
                sample.p999_us,
                sample.failed,
                sample.not_started
            );
            results.paced.push(sample);
        }
    }
    Ok(())
}

/// The same for everybody: a part of what the slower of nginx and HAProxy, or else of all that are here, can do.
fn common_rate(settings: &Settings, subjects: &[Running], origin: u32) -> Result<f64> {
    let yardstick = |subject: &&Running| matches!(subject.kind, Kind::Nginx | Kind::Haproxy);
    let mut judged: Vec<&Running> = subjects.iter().filter(yardstick).collect();
    if judged.is_empty() {
        judged = subjects.iter().filter(|subject| subject.kind != Kind::Direct).collect();
    }
    let mut slowest = f64::MAX;
    for subject in judged {
        let measured = rounds::measure(subject, "small", LATENCY_CONNECTIONS, settings.seconds, origin)?;
        slowest = slowest.min(measured.operations as f64 / measured.seconds);
    }
    if slowest == f64::MAX {
        bail!("latency needs a subject to measure");
    }
    Ok((slowest * LOAD / 100.0).floor().max(1.0) * 100.0)
}

fn measure_latency(subject: &Running, round: u32, rate: f64, seconds: f64) -> Result<PacedSample> {
    subject.resume()?;
    let (rate_text, length) = (format!("{rate:.0}"), format!("{}ms", (seconds * 1e3) as u64));
    let connections = LATENCY_CONNECTIONS.to_string();
    let arguments =
        ["--shards", "1", "--rate", &rate_text, "--duration", &length, "--connections", &connections];
    let report = report_of(&mut start_load("http", subject.address, &arguments)?)?;
    subject.pause()?;
    let us = |name: &str| number(&report, &format!("/latency_us/{name}"));
    Ok(PacedSample {
        round,
        subject: subject.kind.name().into(),
        rate,
        answered: number(&report, "/answered"),
        failed: number(&report, "/failed") + number(&report, "/connect_failed"),
        not_started: number(&report, "/not_started"),
        p50_us: us("p50"),
        p90_us: us("p90"),
        p99_us: us("p99"),
        p999_us: us("p999"),
        max_us: us("max"),
    })
}

fn measure_holds(
    settings: &Settings,
    results: &mut Results,
    folder: &Path,
    scenario: &str,
    sizes: fn(Kind) -> Option<(usize, usize)>,
) {
    for round in 0..settings.rounds.min(HOLD_ROUNDS_MAX) {
        for kind in &settings.kinds {
            let Some(sizes) = sizes(*kind).map(|sizes| at_most(sizes, settings.clients)) else { continue };
            match measure_hold(*kind, round, scenario, sizes, settings, folder) {
                Ok(sample) => {
                    println!(
                        "round {round} {scenario:<8} {:<15} {} held, {} failed in {:.2} s, {:.0} B each",
                        sample.subject,
                        sample.full.held,
                        sample.first.failed + sample.full.failed,
                        sample.seconds(),
                        sample.bytes_per_connection().unwrap_or(f64::NAN),
                    );
                    results.holds.push(sample);
                }
                Err(error) => absent(results, *kind, &error.context(scenario.to_string())),
            }
        }
    }
}

/// The sizes, or smaller ones in proportion.
fn at_most((first, full): (usize, usize), most: Option<usize>) -> (usize, usize) {
    match most {
        Some(most) if most < full => ((first * most / full).max(1), most),
        _ => (first, full),
    }
}

/// Fresh origins, subject and clients: nothing is left of the run before.
fn measure_hold(
    kind: Kind,
    round: u32,
    scenario: &str,
    (first_size, full_size): (usize, usize),
    settings: &Settings,
    folder: &Path,
) -> Result<HoldSample> {
    let (size, count) = if scenario == IDLE { (Size::Hold, 1) } else { (Size::Pairs, PAIR_ORIGINS) };
    let start = |_| start_origin(&["--max-connections", ORIGIN_CONNECTIONS]);
    let (_origins, addresses): (Vec<_>, Vec<_>) = (0..count).map(start).collect::<Result<_>>()?;
    let subject = Running::start(kind, (Protocol::Http, size), &addresses, &settings.programs, folder)?;
    let mut steps = Vec::new();
    for (count, source) in [first_size, full_size - first_size].into_iter().zip(SOURCES) {
        let mut load = start_holding(scenario, subject.address, count, source)?;
        let grown = wait_open(&mut load, count)?;
        steps.push((load, grown, subject.rss_bytes()?));
    }
    let held_before: u64 = steps.first().map_or(0, |(_, grown, _)| grown.held);
    let mut measured = Vec::new();
    for (mut load, mut grown, rss) in steps {
        load.signal(Signal::Term)?;
        let report = report_of(&mut load)?;
        grown.failed += number(&report, "/lost") + number(&report, "/failed");
        measured.push((grown, rss));
    }
    let mut measured = measured.into_iter();
    let (Some((first, rss_first_bytes)), Some((mut full, rss_full_bytes))) =
        (measured.next(), measured.next())
    else {
        bail!("two steps");
    };
    full.held += held_before;
    let (scenario, subject) = (scenario.to_string(), kind.name().to_string());
    Ok(HoldSample { round, scenario, subject, first, full, rss_first_bytes, rss_full_bytes })
}

fn start_holding(scenario: &str, to: SocketAddr, count: usize, source: &str) -> Result<Proc> {
    let count = count.to_string();
    let common = ["--connections", &count, "--duration", HOLD_DURATION, "--source", source];
    match scenario {
        IDLE => start_load("http", to, &[&["--hold"], &common[..]].concat()),
        _ => start_load("ws", to, &common),
    }
}

/// Waits for `load: open N of M after S s`.
fn wait_open(load: &mut Proc, count: usize) -> Result<Grown> {
    load.wait_for("open connections", HOLD_DEADLINE, |line| {
        let words: Vec<&str> = line.strip_prefix("load: open ")?.split(' ').collect();
        let (held, seconds) = (words.first()?.parse().ok()?, words.get(4)?.parse().ok()?);
        let failed = (count as u64).saturating_sub(held);
        Some(Grown { held, failed, seconds, ..Grown::default() })
    })
}

fn measure_reuses(settings: &Settings, results: &mut Results, folder: &Path) {
    for round in 0..settings.rounds.min(HOLD_ROUNDS_MAX) {
        for kind in &settings.kinds {
            let Some(sizes) = kind.idle_sizes() else { continue };
            let (_, clients) = at_most(sizes, settings.clients);
            match measure_reuse(*kind, round, clients, settings, folder) {
                Ok(sample) => {
                    println!(
                        "round {round} reuse    {:<15} {} clients over {} upstream connections ({} made), {} answered, {} failed, p99 {} us",
                        sample.subject,
                        sample.held,
                        sample.upstream_max,
                        sample.upstream_made,
                        sample.answered,
                        sample.failed,
                        sample.p99_us
                    );
                    results.reuses.push(sample);
                }
                Err(error) => absent(results, *kind, &error.context(REUSE)),
            }
        }
    }
}

fn measure_reuse(
    kind: Kind,
    round: u32,
    clients: usize,
    settings: &Settings,
    folder: &Path,
) -> Result<ReuseSample> {
    let (origin, address) = start_origin(&["--max-connections", ORIGIN_CONNECTIONS])?;
    let subject = Running::start(kind, (Protocol::Http, Size::Hold), &[address], &settings.programs, folder)?;
    let interval = if settings.quick { QUICK_INTERVAL } else { INTERVAL };
    let (count, every) = (clients.to_string(), format!("{}s", interval.as_secs()));
    // Everybody twice, and a little longer.
    let length = format!("{}s", interval.as_secs() * 2 + 1);
    let arguments =
        ["--connections", &count, "--interval", &every, "--duration", &length, "--source", SOURCES[0]];
    let mut load = start_load("http", subject.address, &arguments)?;
    let began = Instant::now();
    let mut upstream = origin_counts(&origin)?;
    while load.is_running()? {
        if began.elapsed() > HOLD_DEADLINE {
            bail!("the load does not end");
        }
        std::thread::sleep(LOOK);
        let (open, made) = origin_counts(&origin)?;
        upstream = (upstream.0.max(open), made);
    }
    let report = report_of(&mut load)?;
    let us = |name: &str| number(&report, &format!("/latency_us/{name}"));
    Ok(ReuseSample {
        round,
        subject: kind.name().into(),
        clients: clients as u64,
        interval_s: interval.as_secs_f64(),
        held: number(&report, "/held"),
        answered: number(&report, "/answered"),
        failed: ["/failed", "/connect_failed", "/lost", "/not_started"]
            .iter()
            .map(|path| number(&report, path))
            .sum(),
        upstream_max: upstream.0,
        upstream_made: upstream.1,
        p50_us: us("p50"),
        p99_us: us("p99"),
        p999_us: us("p999"),
    })
}

/// Connections that the origin has open, and that it has accepted in all.
fn origin_counts(origin: &Proc) -> Result<(u64, u64)> {
    let mark = origin.mark();
    origin.signal(Signal::Usr1)?;
    origin.wait_for_after(mark, "counters", Duration::from_secs(20), |line| {
        let value = |name: &str| {
            let word = line.split(' ').find_map(|word| word.strip_prefix(name));
            word.and_then(|word| word.parse::<u64>().ok())
        };
        Some((value("open=")?, value("accepted=")?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_shrink_in_proportion_and_never_grow() {
        assert_eq!(at_most((20_000, 100_000), Some(1_000)), (200, 1_000));
        assert_eq!(at_most((20_000, 100_000), Some(200_000)), (20_000, 100_000));
        assert_eq!(at_most((20_000, 100_000), None), (20_000, 100_000));
    }

    #[test]
    fn what_a_load_says_of_its_connections_is_understood() {
        let mut shell = std::process::Command::new("echo");
        let mut proc = Proc::spawn(shell.arg("load: open 95 of 100 after 1.250 s")).unwrap();
        let grown = wait_open(&mut proc, 100).unwrap();
        assert_eq!((grown.held, grown.failed, grown.seconds), (95, 5, 1.25));
    }
}
