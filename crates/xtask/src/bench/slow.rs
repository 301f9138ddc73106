//! `slow`: what other clients notice of twenty thousand that do as little as they can.
//!
//! The same open loop runs before the attack and during it, through the same subject.

use super::http::{number, report_of, start_load, start_origin};
use super::results::{Protocol, Results, SlowSample};
use super::rounds::{Settings, absent};
use super::subject::{Kind, Running, Size};
use anyhow::{Context, Result, bail};
use fourfold_testkit::poll;
use fourfold_testkit::siege::{Attack, Drip, Siege};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

pub const SLOW: &str = "slow";
const ATTACKERS_MAX: usize = 20_000;
/// 2 500 drips a second, and as many that come, or come again when they were thrown out.
const EVERY: Duration = Duration::from_secs(8);
const PER_SECOND: usize = 2_500;
/// For all of them to stand.
const GATHER_DEADLINE: Duration = Duration::from_secs(60);
/// Of the others, per second.
const RATE: &str = "1000";
const CONNECTIONS: &str = "32";
/// Rounds take minutes for every subject.
const ROUNDS_MAX: u32 = 1;

/// Name, opening, drip, and whether each also takes a connection to the origin.
const ATTACKS: &[(&str, &str, Drip, bool)] = &[
    ("heads", "GET / HTTP/1.1\r\nHost: a\r\n", Drip::Say("X: y\r\n"), false),
    ("bodies", "POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx", Drip::Say("x"), true),
    ("readers", "GET /bytes/30000 HTTP/1.1\r\nHost: a\r\n\r\n", Drip::Take(1), false),
];

pub fn measure(settings: &Settings, results: &mut Results, folder: &Path) -> Result<()> {
    poll::raise_descriptor_limit()?;
    for round in 0..settings.rounds.min(ROUNDS_MAX) {
        for kind in &settings.kinds {
            for attack in ATTACKS {
                match measure_one(*kind, round, attack, settings, folder) {
                    Ok(Some(sample)) => {
                        say(&sample);
                        results.slow.push(sample);
                    }
                    Ok(None) => {}
                    Err(error) => absent(results, *kind, &error.context(attack.0)),
                }
            }
        }
    }
    Ok(())
}

fn say(sample: &SlowSample) {
    println!(
        "round {} slow {:<8} {:<15} {} attackers: p99 {} us, before {} us ({:.2}), {} failed, {:.0} B each",
        sample.round,
        sample.attack,
        sample.subject,
        sample.attackers,
        sample.p99_us,
        sample.calm_p99_us,
        sample.ratio(),
        sample.failed,
        sample.bytes_per_attacker()
    );
}

/// `None`: there is nobody to attack.
fn measure_one(
    kind: Kind,
    round: u32,
    (name, opening, drip, upstream): &(&str, &'static str, Drip, bool),
    settings: &Settings,
    folder: &Path,
) -> Result<Option<SlowSample>> {
    let sizes = if *upstream { kind.hold_sizes() } else { kind.idle_sizes() };
    let Some((_, most)) = sizes else { return Ok(None) };
    let attackers = most.min(ATTACKERS_MAX).min(settings.clients.unwrap_or(ATTACKERS_MAX));
    let (_origin, address) = start_origin(&["--max-connections", "25000"])?;
    let subject = Running::start(kind, (Protocol::Http, Size::Hold), &[address], &settings.programs, folder)?;
    let (calm_p50_us, calm_p99_us, _) = others(subject.address, settings.seconds)?;
    let rss_before_bytes = subject.rss_bytes()?;
    let attack = Attack { opening, drip: *drip, every: EVERY, per_second: PER_SECOND };
    let siege = Siege::start(subject.address, attackers, attack);
    let gathered = fourfold_testkit::eventually(GATHER_DEADLINE, "all attackers to stand", || {
        siege.standing() >= attackers * 99 / 100
    });
    gathered.with_context(|| format!("{} of {attackers} stand", siege.standing()))?;
    let rss_bytes = subject.rss_bytes()?;
    let (p50_us, p99_us, failed) = others(subject.address, settings.seconds)?;
    let sample = SlowSample {
        round,
        subject: kind.name().into(),
        attack: (*name).into(),
        attackers: siege.standing() as u64,
        calm_p50_us,
        calm_p99_us,
        p50_us,
        p99_us,
        failed,
        rss_before_bytes,
        rss_bytes: rss_bytes.max(subject.rss_bytes()?),
    };
    siege.stop()?;
    Ok(Some(sample))
}

/// p50, p99 and how many were lost.
fn others(address: SocketAddr, seconds: f64) -> Result<(u64, u64, u64)> {
    let length = format!("{}ms", (seconds * 1e3) as u64);
    let fixed = ["--shards", "1", "--engine", "epoll", "--connections", CONNECTIONS, "--rate", RATE];
    let report =
        report_of(&mut start_load("http", address, &[&fixed[..], &["--duration", &length]].concat())?)?;
    let lost = ["/failed", "/connect_failed", "/lost"].iter().map(|path| number(&report, path)).sum();
    let (p50, p99) = (number(&report, "/latency_us/p50"), number(&report, "/latency_us/p99"));
    if p99 == 0 {
        bail!("nobody was answered");
    }
    Ok((p50, p99, lost))
}
