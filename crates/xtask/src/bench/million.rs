//! `cargo xtask bench million`: one Fourfold process between a client and an origin on this machine, a million connections
//! through it, each proved, and what all of it cost.
//!
//! ```text
//!   fourfold load ──► fourfold run ──► fourfold origin      four sockets for each connection, all of them here
//! ```
//! Three processes, each under a hard limit of descriptors. The client proves every connection by a token when it is made and
//! by another once all are up, then random ones for as long as they are held. What the machine and the processes take is read
//! with every line of progress that the client prints. A run that the machine cannot hold is refused before it starts, and one
//! that comes near the end of memory is ended.

mod measured;
mod picture;
mod setting;
mod text;

pub use measured::Million;
pub use picture::pictures;
pub use text::section;

use super::Flags;
use super::report;
use crate::workspace;
use anyhow::{Context, Result, bail};
use fourfold_testkit::stat::machine_memory;
use fourfold_testkit::{Proc, Reserved};
use measured::{Moment, Progress};
use setting::{MEMORY_FLOOR_BYTES, Setting};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

const START_DEADLINE: Duration = Duration::from_secs(60);
/// Between two lines of progress; a machine that is busy with a million handshakes may be late.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(60);
const CLOSE_DEADLINE: Duration = Duration::from_secs(300);
const PROGRESS: &str = "500ms";

pub fn run(flags: &Flags) -> Result<()> {
    let setting = Setting::from_flags(flags)?;
    setting.check_machine()?;
    setting.build()?;
    let chains = setting.enter_network();
    let mut result = Million { chains, ..Million::begin(&setting)? };
    let ended = drive(&setting, &mut result);
    if let Err(error) = &ended {
        result.aborted = Some(format!("{error:#}"));
    }
    if !result.moments.is_empty() {
        report::Place::free("million", &result.date)?.write(&result)?;
        println!("\n{}", text::section("", &result));
    }
    ended?;
    match result.complaints().as_slice() {
        [] => Ok(()),
        complaints => bail!("{}", complaints.join("; ")),
    }
}

fn drive(setting: &Setting, result: &mut Million) -> Result<()> {
    let (origin_at, proxy_at) = (Reserved::loopback()?.release(), Reserved::loopback()?.release());
    result.plan_bytes = setting.plan(proxy_at, origin_at);
    let origin = start(&mut setting.origin(origin_at), "origin: listening", &mut result.layout.origin)?;
    let mut proxy = start(&mut setting.proxy(proxy_at, origin_at), " shards", &mut result.layout.proxy)?;
    proxy.wait_for_line("ready", START_DEADLINE)?;
    let load = Proc::spawn(&mut setting.load(proxy_at))?;
    let mut watch = Watch { pids: [proxy.pid(), load.pid(), origin.pid()], began: Instant::now() };
    result.empty = Some(watch.moment(Progress::default())?);
    let watched = follow(&load, &mut watch, result);
    let mut load = load;
    if let Err(error) = watched {
        return Err(error.context(tail(&load)));
    }
    load.wait_exit(CLOSE_DEADLINE)?;
    result.report = serde_json::from_str(&json_of(&load.lines())).context("the client's report")?;
    proxy.stop(CLOSE_DEADLINE)?;
    result.proxy_totals = proxy.wait_for_line("stopped:", START_DEADLINE).unwrap_or_default();
    result.layout.load = format!("{} shards", result.report["shards"]);
    Ok(())
}

fn start(command: &mut Command, sign: &str, line: &mut String) -> Result<Proc> {
    let proc = Proc::spawn(command)?;
    *line = proc.wait_for_line(sign, START_DEADLINE)?;
    Ok(proc)
}

/// Until the client's output ends with its report.
fn follow(load: &Proc, watch: &mut Watch, result: &mut Million) -> Result<()> {
    let mut mark = 0;
    loop {
        let next = load.wait_for_after(mark, "progress", PROGRESS_DEADLINE, |line| match line {
            "{" => Some(None),
            line => serde_json::from_str(line).ok().map(Some),
        })?;
        mark = load.mark();
        let Some(progress) = next else { return Ok(()) };
        let moment = watch.moment(progress)?;
        print_moment(&moment, result.moments.last());
        let short = moment.free_bytes < MEMORY_FLOOR_BYTES;
        result.moments.push(moment);
        if short {
            bail!(
                "ended before the machine is out of memory: less than {} MiB are left",
                MEMORY_FLOOR_BYTES >> 20
            );
        }
    }
}

struct Watch {
    /// Proxy, client, origin.
    pids: [u32; 3],
    began: Instant,
}

impl Watch {
    fn moment(&self, progress: Progress) -> Result<Moment> {
        Moment::now(self.began, self.pids, progress)
    }
}

fn print_moment(now: &Moment, before: Option<&Moment>) {
    let rate = before.map_or(0.0, |before| now.rate_since(before));
    println!(
        "{:>6.1} s {:<9} held {:>8}  {:>6.0}/s  again {:>8}  failed {} lost {}  proxy {:>4} MB  machine {:>6} MB used, {} MB left  tcp {}",
        now.at_s,
        now.progress.stage,
        now.progress.held,
        rate,
        now.progress.checked,
        now.progress.failed(),
        now.progress.lost,
        now.proxy.private_bytes / 1_000_000,
        now.used_bytes / 1_000_000,
        now.free_bytes / 1_000_000,
        now.tcp_sockets,
    );
}

fn tail(proc: &Proc) -> String {
    let lines = proc.lines();
    lines.iter().rev().take(5).rev().cloned().collect::<Vec<_>>().join("\n")
}

/// The report, which a program prints over many lines behind its progress.
fn json_of(lines: &[String]) -> String {
    let from = lines.iter().position(|line| line == "{").unwrap_or(lines.len());
    let to = lines.iter().rposition(|line| line == "}").map_or(lines.len(), |last| last + 1);
    lines.get(from..to).unwrap_or_default().join("\n")
}

/// Memory that could still be had without anything's being taken away from a program.
pub(super) fn memory_left() -> Result<u64> {
    let memory = machine_memory()?;
    Ok(memory.free + memory.cache)
}

fn program() -> PathBuf {
    workspace::target_dir().join("release/fourfold")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_found_behind_the_progress() {
        let lines = ["{\"stage\":\"opening\"}", "{", "  \"held\": 1", "}"].map(String::from);
        assert_eq!(json_of(&lines), "{\n  \"held\": 1\n}");
        assert_eq!(json_of(&[]), "");
    }
}
