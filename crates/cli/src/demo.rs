//! `fourfold demo`: an origin, the proxy and a load in one process, on loopback, and what there is to see of it.

use crate::args::{DemoArgs, HeldArgs};
use crate::load::stages::{Counts, Order, Stages};
use crate::load::{closing, duration};
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
/// While they are held, one in so many is verified again every second.
const VERIFY_SHARE: u64 = 100;
/// Four sockets on this machine, with what the kernel and this program have for them, rounded up; and what is left to others.
const CONNECTION_BYTES_MAX: u64 = 18_500;
const MEMORY_FLOOR_BYTES: u64 = 768 << 20;
/// Connections under way at a time: more keep many shards busier, and every one waits longer.
const PENDING: (u64, u64) = (512, 2_048);
/// Of a source's tuples towards one address, the part that the demo plans with.
const FILL_PERCENT: u64 = 90;
/// How long opening may take for each 1 000 connections before the demo gives up.
const PATIENCE_PER_1000: Duration = Duration::from_secs(2);

pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let connections = count(&args.connections).context("--connections")?;
    anyhow::ensure!((1..=MAX).contains(&connections), "--connections: from 1 to {MAX}");
    let hold = duration(&args.duration).context("--duration")?;
    check_memory(connections, machine::memory_left_bytes())?;
    let before = Memory::now();
    let origin = origin::start(&OriginConfig {
        engine: engine(args.engine),
        connections: Some(connections),
        ..OriginConfig::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    })?;
    let proxy = start_proxy(args, connections, origin.address())?;
    let (_, listen) = proxy.shared.plan.binds().next().context("no listener")?;
    let load = tcp::start(&LoadConfig {
        sources: sources(1, connections)?,
        work: Work::Hold { verify_rate: 0.0 },
        pending: (connections / 256).clamp(PENDING.0, PENDING.1) as u32,
        engine: engine(args.engine),
        // Thousands of ports in TIME_WAIT would be in the way of the next demo.
        reset: true,
        ..LoadConfig::new(listen, connections)
    })?;
    let demo = Demo {
        origin,
        proxy,
        load,
        before,
        started: Instant::now(),
        terminal: std::io::stdout().is_terminal(),
    };
    demo.introduce(listen);
    demo.play(connections, hold)
}

/// 127.0.0.0/24 and 127.0.1.0/24 have this many addresses to spare, each good for at least a thousand times as many tuples.
const MAX: u64 = 4_000_000;

/// A machine that runs out of memory in the middle would take other programs with it.
fn check_memory(connections: u64, left: u64) -> anyhow::Result<()> {
    let room = left.saturating_sub(MEMORY_FLOOR_BYTES) / CONNECTION_BYTES_MAX;
    anyhow::ensure!(
        connections <= room,
        "{connections} connections are {} sockets on this machine and take up to {} MB with all that belongs to them; {} MB are \
         free, of which {} MB stay so: enough for --connections {room}",
        connections * 4,
        connections * CONNECTION_BYTES_MAX / 1_000_000,
        left / 1_000_000,
        MEMORY_FLOOR_BYTES / 1_000_000,
    );
    Ok(())
}

#[derive(Clone, Copy)]
struct Memory {
    resident: u64,
    left: u64,
}

impl Memory {
    fn now() -> Self {
        Self { resident: machine::resident_bytes(), left: machine::memory_left_bytes() }
    }
}

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
    /// Before anything was started.
    before: Memory,
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
        let report = self.load.wait(closing(connections))?;
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
        let held = HeldArgs {
            verify: (self.load.snapshot().wanted / VERIFY_SHARE).max(1) as u32,
            verify_all: true,
            progress: None,
        };
        let mut stages = Stages::new(&held, hold, Instant::now())?;
        let mut view = View { stage: "opening", drawn: false, last: (0, Instant::now()) };
        loop {
            tokio::select! {
                result = tokio::signal::ctrl_c() => { result?; return Ok(view.stage == "holding") }
                _ = tick.tick() => {}
            }
            let now = self.load.snapshot();
            self.draw(&now, &mut view)?;
            let settled = now.verified + now.failed;
            let counts = Counts { wanted: now.wanted, settled, held: now.held, checked: now.checked };
            match stages.advance(counts, Instant::now()) {
                Some(Order::CheckEach) => {
                    self.load.check_each();
                    view.stage = "checking";
                }
                Some(Order::VerifyAt(rate)) => {
                    self.load.verify_at(rate);
                    view.stage = "holding";
                }
                Some(Order::End) => return Ok(true),
                None if self.started.elapsed() > patience => return Ok(true),
                None => {}
            }
            if machine::memory_left_bytes() < MEMORY_FLOOR_BYTES / 2 {
                anyhow::bail!("ended before the machine is out of memory");
            }
        }
    }

    fn draw(&self, now: &tcp::Snapshot, view: &mut View) -> anyhow::Result<()> {
        // First tokens while opening, further ones after that.
        let proven = now.verified + now.rounds;
        let rate = (proven - view.last.0) as f64 / view.last.1.elapsed().as_secs_f64().max(0.001);
        view.last = (proven, Instant::now());
        let (used, total) = self.tuples_used();
        let (user, machine) = self.memory_per_connection();
        let wait = now.verify_us.checked_div(now.verified).unwrap_or(0) as f64 / 1e3;
        let lines = [
            format!("  held       {} {} of {}", bar(now.held, now.wanted), now.held, now.wanted),
            format!(
                "  again      {} {} verified once more, all being up",
                bar(now.checked, now.wanted),
                now.checked
            ),
            format!(
                "  {:<9}  {rate:>9.0} tokens per second; {wait:.1} ms until the first is back, mean",
                view.stage
            ),
            format!("  tuples     {used} of {total} in use, one destination"),
            format!(
                "  memory     {user} bytes per connection: client, proxy and origin together; {machine} with the kernel's"
            ),
            format!(
                "  failed     {}   lost {}   wrong bytes {}   {:.1} s",
                now.failed, now.lost, now.wrong_bytes, now.elapsed_s
            ),
        ];
        let mut out = std::io::stdout().lock();
        match self.terminal {
            true => {
                if std::mem::replace(&mut view.drawn, true) {
                    write!(out, "\x1b[{}A", lines.len())?;
                }
                lines.iter().try_for_each(|line| writeln!(out, "\x1b[K{line}"))?;
            }
            false => writeln!(
                out,
                "{}: held {} of {}  again {}  {rate:.0}/s  tuples {used} of {total}  {user} B/connection  failed {}  lost {}",
                view.stage, now.held, now.wanted, now.checked, now.failed, now.lost
            )?,
        }
        out.flush()?;
        Ok(())
    }

    fn tuples_used(&self) -> (u64, u64) {
        let rooms = self.proxy.shared.spaces().into_iter().map(|(_, space)| space.headroom());
        rooms.fold((0, 0), |(used, total), room| (used + room.used, total + room.total))
    }

    /// Of this program, and of the machine; others change the latter too.
    fn memory_per_connection(&self) -> (u64, u64) {
        let (held, now) = (self.load.snapshot().held, Memory::now());
        let each = |bytes: u64| bytes.checked_div(held).unwrap_or(0);
        (
            each(now.resident.saturating_sub(self.before.resident)),
            each(self.before.left.saturating_sub(now.left)),
        )
    }
}

/// What is on the screen.
struct View {
    stage: &'static str,
    drawn: bool,
    last: (u64, Instant),
}

fn bar(part: u64, whole: u64) -> String {
    let share = (part * BAR).checked_div(whole).unwrap_or(0).min(BAR) as usize;
    format!("{}{}", "█".repeat(share), "░".repeat(BAR as usize - share))
}

const BAR: u64 = 40;
const DRAIN_MS: Millis = 5_000;

fn conclude(report: &Report, (used, total): (u64, u64), (user, machine): (u64, u64), took: Duration) {
    println!("\n{} connections held at once through one port to one origin address.", report.held);
    println!(
        "  {} verified by a token of their own, {} by another once all were up, {} times random ones after that",
        report.verified,
        report.checked,
        report.rounds.saturating_sub(report.checked)
    );
    println!("  {} failed, {} lost, {} wrong bytes", report.failed_total, report.lost, report.wrong_bytes);
    println!(
        "  opened at {:.0} per second; connect p50 {} us, p99 {} us",
        report.rate_per_s, report.connect_us.p50, report.connect_us.p99
    );
    println!(
        "  {used} of {total} tuples; {user} bytes of user memory per connection, client, proxy and origin together; {machine} with \
         the kernel's"
    );
    println!("  all closed again after {:.1} s", took.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_too_small_is_told_what_fits() {
        assert!(check_memory(1_000_000, 22_000_000_000).is_ok());
        let error = check_memory(1_000_000, 8_000_000_000).unwrap_err().to_string();
        assert!(
            error.contains("4000000 sockets") && error.contains("enough for --connections 388"),
            "{error}"
        );
    }

    #[test]
    fn a_million_has_addresses_enough() {
        let (clients, proxy) = (sources(1, 1_000_000).unwrap(), sources(0, 1_000_000).unwrap());
        assert_ne!(clients, proxy);
    }
}
