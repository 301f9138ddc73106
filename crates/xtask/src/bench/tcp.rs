//! `cargo xtask bench tcp`: the rounds.

use super::Flags;
use super::machine;
use super::report::{self, Place};
use super::results::{FillSample, Grown, HoldSample, Protocol, Results};
use super::rounds::{self, Settings, absent, ourselves};
use super::subject::{Kind, Running, Size};
use crate::workspace;
use anyhow::{Context, Result, bail};
use fourfold_testkit::{Proc, Reserved};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// Name, connections (concurrency in `new`).
const SCENARIOS: &[(&str, usize)] = &[("small", 64), ("new", 16), ("bulk-1", 1), ("bulk-64", 64)];
const HOLD: &str = "hold";
const FILL: &str = "fill";
/// Of one source's ports, as many as fit beside the few that other programs may hold.
const FILL_PERCENT: usize = 99;
const CHURN_PERCENT: usize = 95;
const BASELINE_PERCENT: usize = 5;
const CHURN_ROUNDS: usize = 10_000;

/// Threads of client and origin in `hold`: their descriptors are bounded per thread.
const HOLD_THREADS: usize = 8;
const HOLD_DEADLINE: Duration = Duration::from_secs(180);
/// Holding 120 000 connections takes its time and memory does not vary: fewer rounds.
const HOLD_ROUNDS_MAX: u32 = 3;

pub fn run(flags: &Flags) -> Result<()> {
    let all: Vec<&str> = SCENARIOS.iter().map(|(name, _)| *name).chain([HOLD, FILL]).collect();
    let mut settings = Settings::from_flags(flags, Protocol::Tcp, &all)?;
    let mut results = rounds::begin(&mut settings, Protocol::Tcp)?;
    let place = Place::free("tcp", &results.date)?;
    let folder = workspace::target_dir().join("bench");
    let windows: Vec<_> = SCENARIOS.iter().copied().filter(|(name, _)| settings.wants(name)).collect();
    if !windows.is_empty() {
        let (origin, address) = start_origin(1)?;
        let mut subjects = rounds::start_subjects(&settings, &mut results, Protocol::Tcp, address, &folder)?;
        rounds::measure_rounds(&settings, &mut results, &windows, &mut subjects, origin.pid())?;
        place.write(&results)?;
    }
    if settings.wants(HOLD) {
        measure_holds(&settings, &mut results, &folder);
        place.write(&results)?;
    }
    if settings.wants(FILL) {
        measure_fills(&settings, &mut results, &folder);
    }
    place.write(&results)?;
    print!("{}", report::tables(&results));
    Ok(())
}

fn start_origin(threads: usize) -> Result<(Proc, SocketAddr)> {
    let address = Reserved::loopback()?.release();
    let (listen, threads) = (address.to_string(), threads.to_string());
    let mut origin = Proc::spawn(&mut ourselves(&["origin", "--listen", &listen, "--threads", &threads]))?;
    fourfold_testkit::eventually(Duration::from_secs(20), "the origin to listen", || {
        std::net::TcpStream::connect(address).is_ok() || !origin.is_running().unwrap_or(false)
    })?;
    if !origin.is_running()? {
        bail!("the origin does not start: {}", origin.lines().join("\n"));
    }
    Ok((origin, address))
}

fn measure_holds(settings: &Settings, results: &mut Results, folder: &Path) {
    for round in 0..settings.rounds.min(HOLD_ROUNDS_MAX) {
        for kind in &settings.kinds {
            match measure_hold(*kind, round, settings, folder) {
                Ok(Some(sample)) => {
                    print_hold(&sample);
                    results.holds.push(sample);
                }
                Ok(None) => {}
                Err(error) => absent(results, *kind, &error.context("hold")),
            }
        }
    }
}

fn print_hold(sample: &HoldSample) {
    let full = &sample.full;
    println!(
        "round {} hold     {:<15} {} held, {} failed in {:.2} s, {:.0} B each; waits {} -> {} us {:?}",
        sample.round,
        sample.subject,
        full.held,
        sample.first.failed + full.failed,
        sample.seconds(),
        sample.bytes_per_connection().unwrap_or(f64::NAN),
        sample.first.first_tenth_us,
        full.last_tenth_us,
        full.failures
    );
}

/// A fresh origin, subject and client: nothing is left of the run before.
fn measure_hold(kind: Kind, round: u32, settings: &Settings, folder: &Path) -> Result<Option<HoldSample>> {
    let Some((first_size, full_size)) = kind.hold_sizes() else { return Ok(None) };
    let (_origin, address) = start_origin(HOLD_THREADS)?;
    let subject = Running::start(kind, (Protocol::Tcp, Size::Hold), &[address], &settings.programs, folder)?;
    let (to, threads) = (subject.address.to_string(), HOLD_THREADS.to_string());
    let mut client = Proc::spawn_with_stdin(&mut ourselves(&["hold", "--to", &to, "--threads", &threads]))?;
    let first = grow(&mut client, first_size)?;
    let rss_first_bytes = subject.rss_bytes()?;
    let full = grow(&mut client, full_size)?;
    let rss_full_bytes = subject.rss_bytes()?;
    client.close_stdin();
    client.wait_exit(HOLD_DEADLINE)?;
    Ok(Some(HoldSample {
        round,
        scenario: HOLD.into(),
        subject: kind.name().into(),
        first,
        full,
        rss_first_bytes,
        rss_full_bytes,
    }))
}

fn measure_fills(settings: &Settings, results: &mut Results, folder: &Path) {
    for round in 0..settings.rounds.min(HOLD_ROUNDS_MAX) {
        for kind in settings.kinds.iter().filter(|kind| kind.fills()) {
            match measure_fill(*kind, round, settings, folder) {
                Ok(sample) => {
                    println!(
                        "round {round} fill     {:<15} {} held, {} failed; last to first tenth {:.2}; churn {} failed, full to empty {:.2}",
                        sample.subject,
                        sample.filled.held,
                        sample.filled.failed,
                        sample.last_to_first_tenth(),
                        sample.churned.failed,
                        sample.churn_to_baseline()
                    );
                    results.fills.push(sample);
                }
                Err(error) => absent(results, *kind, &error.context("fill")),
            }
        }
    }
}

fn measure_fill(kind: Kind, round: u32, settings: &Settings, folder: &Path) -> Result<FillSample> {
    let ports = machine::local_ports()?;
    let (_origin, address) = start_origin(HOLD_THREADS)?;
    let subject = Running::start(kind, (Protocol::Tcp, Size::Fill), &[address], &settings.programs, folder)?;
    let (to, threads) = (subject.address.to_string(), HOLD_THREADS.to_string());
    let mut client = Proc::spawn_with_stdin(&mut ourselves(&["hold", "--to", &to, "--threads", &threads]))?;
    let churn = format!("churn {CHURN_ROUNDS}");
    grow(&mut client, ports * BASELINE_PERCENT / 100)?;
    let baseline = command(&mut client, &churn)?;
    grow(&mut client, 0)?;
    let filled = grow(&mut client, ports * FILL_PERCENT / 100)?;
    grow(&mut client, ports * CHURN_PERCENT / 100)?;
    let churned = command(&mut client, &churn)?;
    client.close_stdin();
    client.wait_exit(HOLD_DEADLINE)?;
    Ok(FillSample { round, subject: kind.name().into(), baseline, filled, churned })
}

fn grow(client: &mut Proc, target: usize) -> Result<Grown> {
    command(client, &target.to_string())
}

fn command(client: &mut Proc, line: &str) -> Result<Grown> {
    let mark = client.mark();
    let stdin = client.stdin().context("the client has no stdin")?;
    writeln!(stdin, "{line}").context("the client has ended")?;
    client.wait_for_after(mark, "report", HOLD_DEADLINE, |line| serde_json::from_str(line).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_direct_path_is_always_measured_and_never_listed_twice() {
        let settings = Settings::from_flags(
            &Flags::parse(&["--peers", "direct,nginx", "--quick"]).unwrap(),
            Protocol::Tcp,
            &["small"],
        )
        .unwrap();
        assert_eq!(settings.kinds, [Kind::Nginx]);
        assert_eq!(Kind::Direct.name(), super::super::results::DIRECT);
        assert!(
            Settings::from_flags(&Flags::parse(&["--scenarios", "smal"]).unwrap(), Protocol::Tcp, &["small"])
                .is_err()
        );
    }
}
