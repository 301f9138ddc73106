//! What the benchmarks have in common: what is asked for, what is built and found, and the interleaved rounds.

use super::Flags;
use super::machine::{self, first_line};
use super::results::{FORMAT, Measured, Protocol, Results, Sample};
use super::subject::{self, Kind, Programs, Running, Size};
use crate::workspace;
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const BACKGROUND_MAX: f64 = 0.05;

pub struct Settings {
    pub rounds: u32,
    pub seconds: f64,
    pub kinds: Vec<Kind>,
    scenarios: Vec<String>,
    pub programs: Programs,
    /// Most connections that a scenario opens; `None`: as many as it is about.
    pub clients: Option<usize>,
    pub quick: bool,
}

impl Settings {
    /// `all`: the scenarios that there are.
    pub fn from_flags(flags: &Flags, protocol: Protocol, all: &[&str]) -> Result<Settings> {
        let quick = flags.has("quick");
        let kinds: Vec<Kind> = match flags.list("peers") {
            Some(names) => names.into_iter().map(Kind::from_name).collect::<Result<_>>()?,
            None => subject::ALL.iter().copied().filter(|kind| kind.is_usual(protocol)).collect(),
        };
        let scenarios = flags.list("scenarios").unwrap_or_else(|| all.to_vec());
        if let Some(stranger) = scenarios.iter().find(|name| !all.contains(name)) {
            bail!("no scenario {stranger:?}; known: {}", all.join(" "));
        }
        Ok(Settings {
            rounds: flags.get("rounds")?.unwrap_or(if quick { 2 } else { 7 }),
            seconds: flags.get("seconds")?.unwrap_or(if quick { 1.0 } else { 3.0 }),
            kinds: kinds.into_iter().filter(|kind| *kind != Kind::Direct).collect(),
            scenarios: scenarios.into_iter().map(String::from).collect(),
            programs: Programs { fourfold: flags.text("fourfold").map(PathBuf::from) },
            clients: flags.get("clients")?,
            quick,
        })
    }

    pub fn wants(&self, scenario: &str) -> bool {
        self.scenarios.iter().any(|wanted| wanted == scenario)
    }
}

/// Builds what is needed, looks at the machine, and finds the subjects.
pub fn begin(settings: &mut Settings, protocol: Protocol) -> Result<Results> {
    build(settings, protocol)?;
    let mut results = Results {
        format: FORMAT,
        protocol,
        date: machine::today(),
        commit: first_line("git", &["rev-parse", "--short=12", "HEAD"]),
        machine: machine::describe()?,
        rounds: settings.rounds,
        seconds_per_window: settings.seconds,
        ..Results::default()
    };
    warn_of_noise(&results);
    find_subjects(settings, &mut results, protocol);
    Ok(results)
}

fn warn_of_noise(results: &Results) {
    let background = results.machine.background;
    if background > BACKGROUND_MAX {
        println!("WARNING: {:.0} % of this machine is busy with something else", background * 100.0);
    }
}

/// Clients and origins are this program and Fourfold in their release builds, so that they cost as little as they can.
fn build(settings: &Settings, protocol: Protocol) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["build", "--quiet", "--release", "--package", "xtask"]).current_dir(workspace::root());
    let ours = settings.kinds.iter().any(|kind| kind.is_ours());
    if protocol == Protocol::Http || (ours && settings.programs.fourfold.is_none()) {
        command.args(["--package", "fourfold"]);
    }
    let status = command.stdin(Stdio::null()).status().context("cargo build")?;
    if !status.success() {
        bail!("cargo build --release: {status}");
    }
    Ok(())
}

/// Leaves out what is not here, and says so in the results.
fn find_subjects(settings: &mut Settings, results: &mut Results, protocol: Protocol) {
    settings.kinds.retain(|kind| match kind.version(&settings.programs, protocol) {
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

pub fn absent(results: &mut Results, kind: Kind, error: &anyhow::Error) {
    println!("LEFT OUT {}: {error:#}", kind.name());
    let line = format!("{error:#}").lines().next().unwrap_or_default().to_string();
    results.absent.push(format!("{}: {line}", kind.name()));
}

pub fn ourselves(words: &[&str]) -> Command {
    let mut command = Command::new(workspace::target_dir().join("release/xtask"));
    command.arg("bench").args(words);
    command
}

/// The direct path and every subject, each of one thread, paused until it is measured.
pub fn start_subjects(
    settings: &Settings,
    results: &mut Results,
    protocol: Protocol,
    origin: SocketAddr,
    folder: &Path,
) -> Result<Vec<Running>> {
    let start =
        |kind| Running::start(kind, (protocol, Size::OneThread), &[origin], &settings.programs, folder);
    let mut subjects = vec![start(Kind::Direct)?];
    for kind in &settings.kinds {
        match start(*kind) {
            Ok(running) => subjects.push(running),
            Err(error) => absent(results, *kind, &error),
        }
    }
    subjects.iter().try_for_each(Running::pause)?;
    Ok(subjects)
}

/// The scenarios that are one window each; `windows` says how many connections each has.
pub fn measure_rounds(
    settings: &Settings,
    results: &mut Results,
    windows: &[(&str, usize)],
    subjects: &mut [Running],
    origin: u32,
) -> Result<()> {
    for round in 0..settings.rounds {
        for (scenario, connections) in windows {
            // Everybody is first, second, … equally often.
            subjects.rotate_left(1);
            for subject in subjects.iter() {
                let measured = measure(subject, scenario, *connections, settings.seconds, origin)
                    .with_context(|| {
                        format!("{} through {}: {:?}", scenario, subject.kind.name(), subject.log())
                    })?;
                print_window(round, scenario, subject.kind, &measured);
                let (scenario, subject) = (scenario.to_string(), subject.kind.name().to_string());
                results.samples.push(Sample { round, scenario, subject, measured });
            }
        }
    }
    Ok(())
}

pub fn measure(
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
    client.args(["--protocol", subject.protocol.name()]);
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
