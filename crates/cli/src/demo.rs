//! `fourfold demo`: an origin, the proxy and a load in one process, on loopback, and what there is to see of it.

use crate::args::DemoArgs;
use crate::load::{CLOSING, duration};
use crate::origin::{count, engine};
use crate::run::Instance;
use anyhow::Context;
use fourfold_base::Millis;
use fourfold_config::{Flags, PortSpan, SourceSet};
use fourfold_load::origin::{self, OriginConfig, RunningOrigin};
use fourfold_load::tcp::{self, LoadConfig, Report, RunningLoad, Work};
use fourfold_sys::clock::monotonic_ms;
use fourfold_sys::machine;
use std::io::{IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(250);
/// Random connections verified again while they are held.
const VERIFY_RATE: f64 = 2_000.0;
/// Of a source's tuples towards one address, the part that the demo plans with.
const FILL_PERCENT: u64 = 90;
/// How long opening may take for each 1 000 connections before the demo gives up.
const PATIENCE_PER_1000: Duration = Duration::from_secs(2);

pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let connections = count(&args.connections).context("--connections")?;
    anyhow::ensure!((1..=MAX).contains(&connections), "--connections: from 1 to {MAX}");
    let hold = duration(&args.duration).context("--duration")?;
    let memory = machine::resident_bytes();
    let origin = origin::start(&OriginConfig {
        engine: engine(args.engine),
        connections: Some(connections),
        ..OriginConfig::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    })?;
    let proxy = start_proxy(args, connections, origin.address())?;
    let (_, listen) = proxy.shared.plan.binds().next().context("no listener")?;
    let load = tcp::start(&LoadConfig {
        sources: sources(1, connections)?,
        work: Work::Hold { verify_rate: VERIFY_RATE },
        engine: engine(args.engine),
        // Thousands of ports in TIME_WAIT would be in the way of the next demo.
        reset: true,
        ..LoadConfig::new(listen, connections)
    })?;
    let demo = Demo {
        origin,
        proxy,
        load,
        memory,
        started: Instant::now(),
        terminal: std::io::stdout().is_terminal(),
    };
    demo.introduce(listen);
    demo.play(connections, hold)
}

/// 127.0.0.0/24 and 127.0.1.0/24 have this many addresses to spare, each good for at least a thousand times as many tuples.
const MAX: u64 = 4_000_000;

/// As many addresses of 127.0.`third`.0/24 as the connections need.
fn sources(third: u8, connections: u64) -> anyhow::Result<SourceSet> {
    let (first, last) = machine::local_port_range();
    let span = PortSpan::new(first, last)?;
    let each = u64::from(span.len()) * FILL_PERCENT / 100;
    let count = connections.div_ceil(each.max(1));
    anyhow::ensure!(
        count <= 250,
        "net.ipv4.ip_local_port_range ({span}) is too narrow for {connections} connections"
    );
    Ok(SourceSet::parse(&format!("127.0.{third}.2-127.0.{third}.{}", count + 1))?)
}

fn start_proxy(args: &DemoArgs, connections: u64, origin: SocketAddr) -> anyhow::Result<Instance> {
    // A free port, found by asking for any; another program may take it in between, which is then said.
    let listen = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let checked = fourfold_config::from_flags(&Flags {
        listen: &[listen.to_string()],
        to: &[origin.to_string()],
        source: &[sources(0, connections)?.to_string()],
        max_connections: Some(&connections.to_string()),
        engine: Some(args.engine.as_str()),
        ..Flags::default()
    });
    let checked = checked.map_err(|errors| anyhow::anyhow!("{}", errors.render_human()))?;
    Instance::start(checked.plan)
}

struct Demo {
    origin: RunningOrigin,
    proxy: Instance,
    load: RunningLoad,
    /// Resident before anything was started.
    memory: u64,
    started: Instant,
    terminal: bool,
}

impl Demo {
    fn introduce(&self, listen: SocketAddr) {
        let layout = &self.proxy.layout;
        println!("Fourfold on loopback, all in this process");
        println!(
            "  clients  {}  ->  proxy {listen}  ->  origin {}",
            self.load.plan().connections,
            self.origin.address()
        );
        println!("  engine   {}; {}", layout.engine, layout.reason);
        let sources: Vec<String> =
            self.proxy.shared.spaces().iter().map(|(_, space)| space.sources().to_string()).collect();
        println!("  sources  {} towards one origin address\n", sources.join(" "));
    }

    fn play(mut self, connections: u64, hold: Duration) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let patience = hold + Duration::from_secs(30) + PATIENCE_PER_1000 * (connections / 1000) as u32;
        let complete = runtime.block_on(self.watch(hold, patience))?;
        let per_connection = self.memory_per_connection();
        let used = self.tuples_used();
        self.load.stop();
        let report = self.load.wait(CLOSING)?;
        self.proxy.drain(monotonic_ms() + DRAIN_MS);
        self.proxy.join()?;
        self.origin.stop()?;
        conclude(&report, used, per_connection, self.started.elapsed());
        let clean = report.failed_total == 0 && report.lost == 0 && report.wrong_bytes == 0;
        Ok(ExitCode::from(u8::from(complete && !clean)))
    }

    /// `false`: interrupted before everything was up.
    async fn watch(&self, hold: Duration, patience: Duration) -> anyhow::Result<bool> {
        let mut tick = tokio::time::interval(TICK);
        let mut up: Option<Instant> = None;
        let mut drawn = false;
        let mut last = (0, Instant::now());
        loop {
            tokio::select! {
                result = tokio::signal::ctrl_c() => { result?; return Ok(up.is_some()) }
                _ = tick.tick() => {}
            }
            let now = self.load.snapshot();
            if up.is_none() && now.verified + now.failed >= now.wanted {
                up = Some(Instant::now());
            }
            // First tokens while opening, further ones after that.
            let proven = now.verified + now.rounds;
            let rate = (proven - last.0) as f64 / last.1.elapsed().as_secs_f64().max(0.001);
            last = (proven, Instant::now());
            self.draw(&now, rate, up.is_some(), &mut drawn)?;
            if up.is_some_and(|since| since.elapsed() >= hold) || self.started.elapsed() > patience {
                return Ok(true);
            }
        }
    }

    fn draw(&self, now: &tcp::Snapshot, rate: f64, up: bool, drawn: &mut bool) -> anyhow::Result<()> {
        let (used, total) = self.tuples_used();
        let share = (now.held * BAR).checked_div(now.wanted).unwrap_or(0).min(BAR) as usize;
        let bar = format!("{}{}", "█".repeat(share), "░".repeat(BAR as usize - share));
        let memory = self.memory_per_connection();
        let lines = [
            format!("  held       {bar} {} of {}", now.held, now.wanted),
            format!("  {}  {rate:>9.0} per second", if up { "verifying" } else { "opening  " }),
            format!("  tuples     {used} of {total} in use, one destination"),
            format!("  memory     {memory} bytes per connection: client, proxy and origin together"),
            format!(
                "  failed     {}   lost {}   wrong bytes {}   {:.1} s",
                now.failed, now.lost, now.wrong_bytes, now.elapsed_s
            ),
        ];
        let mut out = std::io::stdout().lock();
        match self.terminal {
            true => {
                if std::mem::replace(drawn, true) {
                    write!(out, "\x1b[{}A", lines.len())?;
                }
                lines.iter().try_for_each(|line| writeln!(out, "\x1b[K{line}"))?;
            }
            false => writeln!(
                out,
                "held {} of {}  {rate:.0}/s  tuples {used} of {total}  {memory} B/connection  failed {}  lost {}",
                now.held, now.wanted, now.failed, now.lost
            )?,
        }
        out.flush()?;
        Ok(())
    }

    fn tuples_used(&self) -> (u64, u64) {
        let rooms = self.proxy.shared.spaces().into_iter().map(|(_, space)| space.headroom());
        rooms.fold((0, 0), |(used, total), room| (used + room.used, total + room.total))
    }

    fn memory_per_connection(&self) -> u64 {
        let held = self.load.snapshot().held;
        machine::resident_bytes().saturating_sub(self.memory).checked_div(held).unwrap_or(0)
    }
}

const BAR: u64 = 40;
const DRAIN_MS: Millis = 5_000;

fn conclude(report: &Report, (used, total): (u64, u64), per_connection: u64, took: Duration) {
    println!("\n{} connections held at once through one port to one origin address.", report.held);
    println!(
        "  {} verified by a token of their own, {} verified again; {} failed, {} lost, {} wrong bytes",
        report.verified, report.rounds, report.failed_total, report.lost, report.wrong_bytes
    );
    println!(
        "  opened at {:.0} per second; connect p50 {} us, p99 {} us",
        report.rate_per_s, report.connect_us.p50, report.connect_us.p99
    );
    println!(
        "  {used} of {total} tuples; {per_connection} bytes of user memory per connection, client, proxy and origin together"
    );
    println!("  all closed again after {:.1} s", took.as_secs_f64());
}
