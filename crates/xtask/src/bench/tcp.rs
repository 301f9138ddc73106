//! `cargo xtask bench tcp`: the rounds.

use super::machine::{self, first_line};
use super::results::{FORMAT, FillSample, Grown, HoldSample, Measured, Results, Sample};
use super::subject::{self, Kind, Programs, Running, Size};
use super::{Flags, report};
use crate::workspace;
use anyhow::{Context, Result, bail};
use fourfold_testkit::{Proc, Reserved};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
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
const BACKGROUND_MAX: f64 = 0.05;

struct Settings {
    rounds: u32,
    seconds: f64,
    kinds: Vec<Kind>,
    scenarios: Vec<String>,
    programs: Programs,
}

impl Settings {
    fn from_flags(flags: &Flags) -> Result<Settings> {
        let quick = flags.has("quick");
        let kinds: Vec<Kind> = match flags.list("peers") {
            Some(names) => names.into_iter().map(Kind::from_name).collect::<Result<_>>()?,
            None => subject::ALL.to_vec(),
        };
        let all = SCENARIOS.iter().map(|(name, _)| *name).chain([HOLD, FILL]);
        let scenarios = flags.list("scenarios").unwrap_or_else(|| all.clone().collect());
        if let Some(stranger) = scenarios.iter().find(|name| !all.clone().any(|known| known == **name)) {
            bail!("no scenario {stranger:?}; known: {}", all.collect::<Vec<_>>().join(" "));
        }
        Ok(Settings {
            rounds: flags.get("rounds")?.unwrap_or(if quick { 2 } else { 7 }),
            seconds: flags.get("seconds")?.unwrap_or(if quick { 1.0 } else { 3.0 }),
            kinds: kinds.into_iter().filter(|kind| *kind != Kind::Direct).collect(),
            scenarios: scenarios.into_iter().map(String::from).collect(),
            programs: Programs { fourfold: flags.text("fourfold").map(PathBuf::from) },
        })
    }
}

pub fn run(flags: &Flags) -> Result<()> {
    let mut settings = Settings::from_flags(flags)?;
    build(&settings)?;
    let mut results = Results {
        format: FORMAT,
        date: machine::today(),
        commit: first_line("git", &["rev-parse", "--short=12", "HEAD"]),
        machine: machine::describe()?,
        rounds: settings.rounds,
        seconds_per_window: settings.seconds,
        ..Results::default()
    };
    warn_of_noise(&results);
    find_subjects(&mut settings, &mut results);
    let folder = workspace::target_dir().join("bench");
    measure_rounds(&settings, &mut results, &folder)?;
    if settings.scenarios.iter().any(|scenario| scenario == HOLD) {
        measure_holds(&settings, &mut results, &folder);
    }
    if settings.scenarios.iter().any(|scenario| scenario == FILL) {
        measure_fills(&settings, &mut results, &folder);
    }
    report::save(&results)?;
    print!("{}", report::tables(&results));
    Ok(())
}

fn warn_of_noise(results: &Results) {
    let background = results.machine.background;
    if background > BACKGROUND_MAX {
        println!("WARNING: {:.0} % of this machine is busy with something else", background * 100.0);
    }
}

/// Client and origin are this program in its release build, so that they cost as little as they can.
fn build(settings: &Settings) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["build", "--quiet", "--release", "--package", "xtask"]).current_dir(workspace::root());
    let ours = settings.kinds.iter().any(|kind| matches!(kind, Kind::FourfoldUring | Kind::FourfoldEpoll));
    if ours && settings.programs.fourfold.is_none() {
        command.args(["--package", "fourfold"]);
    }
    let status = command.stdin(Stdio::null()).status().context("cargo build")?;
    if !status.success() {
        bail!("cargo build --release: {status}");
    }
    Ok(())
}

/// Leaves out what is not here, and says so in the results.
fn find_subjects(settings: &mut Settings, results: &mut Results) {
    settings.kinds.retain(|kind| match kind.version(&settings.programs) {
        Ok(version) => {
            println!("{:<16} {version}", kind.name());
            results.versions.insert(kind.name().into(), version);
            true
        }
        Err(error) => {
            absent(results, *kind, &error);
            false
        }
    });
}

fn absent(results: &mut Results, kind: Kind, error: &anyhow::Error) {
    println!("LEFT OUT {}: {error:#}", kind.name());
    let line = format!("{error:#}").lines().next().unwrap_or_default().to_string();
    results.absent.push(format!("{}: {line}", kind.name()));
}

fn ourselves(words: &[&str]) -> Command {
    let mut command = Command::new(workspace::target_dir().join("release/xtask"));
    command.arg("bench").args(words);
    command
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

fn measure_rounds(settings: &Settings, results: &mut Results, folder: &Path) -> Result<()> {
    let windows: Vec<(&str, usize)> = SCENARIOS
        .iter()
        .copied()
        .filter(|(name, _)| settings.scenarios.iter().any(|wanted| wanted == name))
        .collect();
    if windows.is_empty() {
        return Ok(());
    }
    let (origin, address) = start_origin(1)?;
    let mut subjects =
        vec![Running::start(Kind::Direct, Size::OneThread, address, &settings.programs, folder)?];
    for kind in &settings.kinds {
        match Running::start(*kind, Size::OneThread, address, &settings.programs, folder) {
            Ok(running) => subjects.push(running),
            Err(error) => absent(results, *kind, &error),
        }
    }
    subjects.iter().try_for_each(Running::pause)?;
    for round in 0..settings.rounds {
        for (scenario, connections) in &windows {
            // Everybody is first, second, … equally often.
            subjects.rotate_left(1);
            for subject in &subjects {
                let measured = measure(subject, scenario, *connections, settings.seconds, origin.pid())
                    .with_context(|| {
                        format!("{} through {}: {:?}", scenario, subject.kind.name(), subject.log())
                    })?;
                print_window(round, scenario, subject.kind, &measured);
                let (scenario, subject) = (scenario.to_string(), subject.kind.name().to_string());
                results.samples.push(Sample { round, scenario, subject, measured });
            }
        }
    }
    subjects.iter().try_for_each(Running::resume)
}

fn measure(
    subject: &Running,
    scenario: &str,
    connections: usize,
    seconds: f64,
    origin: u32,
) -> Result<Measured> {
    subject.resume()?;
    let watch: Vec<String> = subject.pids()?.into_iter().chain([origin]).map(|pid| pid.to_string()).collect();
    let (to, connections, seconds) =
        (subject.address.to_string(), connections.to_string(), seconds.to_string());
    let mut client = ourselves(&["client", "--scenario", scenario, "--to", &to]);
    client.args(["--connections", &connections, "--seconds", &seconds, "--watch", &watch.join(",")]);
    let output = client.stdin(Stdio::null()).output().context("client")?;
    subject.pause()?;
    if !output.status.success() {
        bail!("client: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("what the client printed")
}

fn print_window(round: u32, scenario: &str, kind: Kind, measured: &Measured) {
    let busy = measured.cpu.busy();
    let figure = if scenario.starts_with("bulk") {
        format!(
            "{:.2} GB/s, {:.2} GB per CPU second",
            giga(measured.bytes, measured.seconds),
            giga(measured.bytes, busy)
        )
    } else {
        let operations = measured.operations.max(1) as f64;
        format!("{:.0}/s, {:.1} us CPU each", operations / measured.seconds, busy * 1e6 / operations)
    };
    println!("round {round} {scenario:<8} {:<15} {figure}, {} failed", kind.name(), measured.failures);
}

fn giga(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 / seconds / 1e9
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
    let subject = Running::start(kind, Size::Hold, address, &settings.programs, folder)?;
    let (to, threads) = (subject.address.to_string(), HOLD_THREADS.to_string());
    let mut client = Proc::spawn_with_stdin(&mut ourselves(&["hold", "--to", &to, "--threads", &threads]))?;
    let first = grow(&mut client, first_size)?;
    let rss_first_bytes = subject.rss_bytes()?;
    let full = grow(&mut client, full_size)?;
    let rss_full_bytes = subject.rss_bytes()?;
    client.close_stdin();
    client.wait_exit(HOLD_DEADLINE)?;
    Ok(Some(HoldSample { round, subject: kind.name().into(), first, full, rss_first_bytes, rss_full_bytes }))
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
    let subject = Running::start(kind, Size::Fill, address, &settings.programs, folder)?;
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
        let settings =
            Settings::from_flags(&Flags::parse(&["--peers", "direct,nginx", "--quick"]).unwrap()).unwrap();
        assert_eq!(settings.kinds, [Kind::Nginx]);
        assert_eq!(Kind::Direct.name(), super::super::results::DIRECT);
        assert!(Settings::from_flags(&Flags::parse(&["--scenarios", "smal"]).unwrap()).is_err());
    }
}
