//! `fourfold load`: opens connections, holds or drives them, reports.

mod http;
pub mod stages;

use crate::args::{LoadArgs, LoadCommand};
use crate::origin::{count, engine};
use anyhow::Context;
use fourfold_config::{SourceSet, parse_duration_ms};
use fourfold_load::tcp::{self, LoadConfig, Report, RunningLoad, Work};
use stages::{Counts, Order, Stages};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// How long closing may take once the load has been told to stop: a minute, and a second for so many connections.
pub fn closing(connections: u64) -> Duration {
    Duration::from_secs(60 + connections / 5_000)
}

const TICK: Duration = Duration::from_millis(100);

pub fn run(command: &LoadCommand) -> anyhow::Result<ExitCode> {
    match command {
        LoadCommand::Tcp(args) => run_tcp(args),
        LoadCommand::Http(args) => http::run(&http::requests(args)?, None, args.drive.json),
        LoadCommand::Ws(args) => http::run_websockets(args),
    }
}

fn run_tcp(args: &LoadArgs) -> anyhow::Result<ExitCode> {
    let config = config(args)?;
    let hold = duration(&args.duration).context("--duration")?;
    let stages = Stages::new(&args.held, hold, Instant::now())?;
    let mut running = tcp::start(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the control runtime")?;
    runtime.block_on(watch(&running, stages))?;
    running.stop();
    let report = running.wait(closing(config.connections))?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print(&report),
    }
    let clean = report.failed_total == 0 && report.lost == 0 && report.wrong_bytes == 0;
    Ok(ExitCode::from(u8::from(!clean)))
}

fn config(args: &LoadArgs) -> anyhow::Result<LoadConfig> {
    let mut config = LoadConfig::new(args.target, count(&args.connections).context("--connections")?);
    if !args.source.is_empty() {
        config.sources = SourceSet::parse_all(args.source.iter().map(String::as_str)).context("--source")?;
    }
    let timeout = duration(&args.timeout).context("--timeout")?;
    config.rate = args.rate.map(f64::from);
    if let Some(pending) = &args.pending {
        config.pending = count(pending)?.try_into().context("--pending")?;
    }
    config.work = match args.message {
        Some(bytes) => Work::Requests { bytes, rate: None },
        None => Work::Hold { verify_rate: 0.0 },
    };
    config.reset = args.reset;
    (config.connect_timeout, config.echo_timeout) = (timeout, timeout);
    config.engine = engine(args.engine);
    Ok(config)
}

pub fn duration(text: &str) -> anyhow::Result<Duration> {
    parse_duration_ms(text).map(Duration::from_millis).map_err(|error| anyhow::anyhow!("{error}"))
}

/// Until every connection is up or has failed, and then for as long as they are to be held; or until a signal.
async fn watch(running: &RunningLoad, mut stages: Stages) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut tick = tokio::time::interval(TICK);
    let live = std::io::stderr().is_terminal();
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            result = tokio::signal::ctrl_c() => { result?; break }
            _ = tick.tick() => {}
        }
        let now = running.snapshot();
        if live {
            eprint!(
                "\r\x1b[Kheld {} of {}  pending {}  failed {}  lost {}  {:.1} s",
                now.held, now.wanted, now.pending, now.failed, now.lost, now.elapsed_s
            );
        }
        stages.print_progress(&now, Instant::now())?;
        let settled = now.verified + now.failed;
        let counts = Counts { wanted: now.wanted, settled, held: now.held, checked: now.checked };
        match stages.advance(counts, Instant::now()) {
            Some(Order::CheckEach) => running.check_each(),
            Some(Order::VerifyAt(rate)) => running.verify_at(rate),
            Some(Order::End) => break,
            None => {}
        }
    }
    if live {
        eprintln!();
    }
    Ok(())
}

fn print(report: &Report) {
    let Report { wanted, opened, verified, held, failed_total, lost, wrong_bytes, .. } = report;
    println!("{} on {} with {} shards", report.target, report.engine, report.shards);
    println!("connections  wanted {wanted}  opened {opened}  verified {verified}  held {held}");
    if report.checked > 0 {
        println!("             each verified again once all were up: {} of {held}", report.checked);
    }
    println!("opening      {:.1} s, {:.0} per second", report.opening_s, report.rate_per_s);
    println!("failures     failed {failed_total}  lost {lost}  wrong bytes {wrong_bytes}");
    for (reason, n) in report.failed.iter().chain(&report.lost_by).filter(|(_, n)| **n > 0) {
        println!("  {reason}: {n}");
    }
    let rows = [("connect", &report.connect_us), ("first echo", &report.echo_us), ("echo", &report.round_us)];
    for (name, latency) in rows.into_iter().filter(|(_, latency)| latency.count > 0) {
        println!(
            "{name:<12} p50 {} us  p90 {} us  p99 {} us  max {} us  ({})",
            latency.p50, latency.p90, latency.p99, latency.max, latency.count
        );
    }
    if report.rounds > 0 {
        println!("messages     {} echoed, {:.0} per second", report.rounds, report.rounds_per_s);
    }
    let tenths: Vec<String> = report.decile_medians_us.iter().map(u64::to_string).collect();
    println!("to verified  median of each tenth, us: {}", tenths.join(" "));
}
