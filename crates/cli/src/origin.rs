//! `fourfold origin`: a backend to try things against.

use crate::args::{EngineArg, OriginArgs, OriginMode};
use anyhow::Context;
use fourfold_engine::Engine;
use fourfold_load::origin::{self, Behaviour, OriginConfig, OriginStats};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

pub fn run(args: &OriginArgs) -> anyhow::Result<ExitCode> {
    let connections = args.max_connections.as_deref().map(count).transpose()?;
    let config = OriginConfig {
        behaviour: match args.mode {
            OriginMode::Echo => Behaviour::Echo,
            OriginMode::Sink => Behaviour::Sink,
        },
        engine: engine(args.engine),
        connections,
        shards: args.shards,
        ..OriginConfig::new(args.listen)
    };
    let running = origin::start(&config)?;
    eprintln!("origin: listening on {}, {}", running.address(), running.plan().reason);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the control runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut report = signal(SignalKind::user_defined1())?;
        loop {
            tokio::select! {
                _ = terminate.recv() => return anyhow::Ok(()),
                result = tokio::signal::ctrl_c() => return Ok(result?),
                _ = report.recv() => print(&running.stats()),
            }
        }
    })?;
    print(&running.stop()?);
    Ok(ExitCode::SUCCESS)
}

fn print(stats: &OriginStats) {
    let OriginStats { accepted, open, failed, accept_errors, received_bytes, sent_bytes } = stats;
    eprintln!(
        "origin: accepted={accepted} open={open} failed={failed} accept_errors={accept_errors} \
         received_bytes={received_bytes} sent_bytes={sent_bytes}"
    );
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
