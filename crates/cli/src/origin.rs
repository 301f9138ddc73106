//! `fourfold origin`: a backend to try things against.

use crate::args::{EngineArg, OriginArgs, OriginMode};
use crate::load::duration;
use anyhow::Context;
use fourfold_engine::Engine;
use fourfold_load::http_origin::{self, HttpOriginConfig, HttpOriginStats, Options};
use fourfold_load::origin::{self, Behaviour, OriginConfig, OriginStats};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

pub fn run(args: &OriginArgs) -> anyhow::Result<ExitCode> {
    match args.mode {
        OriginMode::Echo => run_tcp(args, Behaviour::Echo),
        OriginMode::Sink => run_tcp(args, Behaviour::Sink),
        OriginMode::Http => run_http(args),
    }
}

fn run_tcp(args: &OriginArgs, behaviour: Behaviour) -> anyhow::Result<ExitCode> {
    let config = OriginConfig {
        behaviour,
        engine: engine(args.engine),
        connections: args.max_connections.as_deref().map(count).transpose()?,
        shards: args.shards,
        ..OriginConfig::new(args.listen)
    };
    let running = origin::start(&config)?;
    eprintln!("origin: listening on {}, {}", running.address(), running.plan().reason);
    until_told_to_stop(|| print(&running.stats()))?;
    print(&running.stop()?);
    Ok(ExitCode::SUCCESS)
}

fn run_http(args: &OriginArgs) -> anyhow::Result<ExitCode> {
    let options = Options {
        bytes: count(&args.bytes).context("--bytes")?,
        delay_ms: duration(&args.delay).context("--delay")?.as_millis() as u64,
        close_after: args.close_after,
    };
    let config = HttpOriginConfig {
        options,
        engine: engine(args.engine),
        connections: args.max_connections.as_deref().map(count).transpose()?,
        shards: args.shards,
        record: args.record.clone(),
        ..HttpOriginConfig::new(args.listen)
    };
    let running = http_origin::start(&config)?;
    eprintln!("origin: listening on {}, {}", running.address(), running.plan().reason);
    until_told_to_stop(|| print_http(&running.stats()))?;
    print_http(&running.stop()?);
    Ok(ExitCode::SUCCESS)
}

/// Until SIGTERM or SIGINT; SIGUSR1 asks for a `report`.
fn until_told_to_stop(report: impl Fn()) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the control runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut asked = signal(SignalKind::user_defined1())?;
        loop {
            tokio::select! {
                _ = terminate.recv() => return anyhow::Ok(()),
                result = tokio::signal::ctrl_c() => return Ok(result?),
                _ = asked.recv() => report(),
            }
        }
    })
}

fn print(stats: &OriginStats) {
    let OriginStats { accepted, open, failed, accept_errors, received_bytes, sent_bytes } = stats;
    eprintln!(
        "origin: accepted={accepted} open={open} failed={failed} accept_errors={accept_errors} \
         received_bytes={received_bytes} sent_bytes={sent_bytes}"
    );
}

fn print_http(stats: &HttpOriginStats) {
    let counts: Vec<String> = stats.counts().iter().map(|(name, value)| format!("{name}={value}")).collect();
    eprintln!("origin: {}", counts.join(" "));
}

pub fn engine(argument: EngineArg) -> Option<Engine> {
    match argument {
        EngineArg::Auto => None,
        EngineArg::Uring => Some(Engine::Uring),
        EngineArg::Epoll => Some(Engine::Epoll),
    }
}

/// A number as people write it: 120_000, 20k, 1M.
pub fn count(text: &str) -> anyhow::Result<u64> {
    fourfold_config::parse_count(text).map_err(|error| anyhow::anyhow!("{error}"))
}
