//! `fourfold run`: configuration and machine into shards, then signals until the end.

use crate::args::{LogFormatArg, LogLevelArg, RunArgs, SpliceArg};
use crate::{check, doctor, foreign, logging, machine, targets};
use anyhow::Context;
use fourfold_base::Millis;
use fourfold_config::{Checked, EngineChoice, Flags, LogFormat, LogLevel, Plan, SpliceMode};
use fourfold_control::place::{self, Bound};
use fourfold_control::{About, server, watch};
use fourfold_engine::{
    Demand, Engine, Kernel, Limits, Listen, Shard, ShardPlan, choose_engine, plan_shards, spawn,
};
use fourfold_proxy::access::Writer;
use fourfold_proxy::{AvoidedPath, Mail, Proxy, Shared, SharedLog, Totals};
use fourfold_sys::clock::{monotonic_ms, monotonic_us};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::signal::unix::{SignalKind, signal};

pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    if args.file.is_none() && args.listen.is_empty() {
        eprintln!("error: what to run? A FILE, or --listen ADDR and --to ADDR; see fourfold run --help");
        return Ok(ExitCode::from(2));
    }
    let Some(plan) = read_plan(args)? else { return Ok(ExitCode::from(1)) };
    let guard = logging::start(plan.log.format, plan.log.level);
    let started =
        Instance::start(plan).inspect_err(|error| tracing::error!("{error:#}; nothing was started"));
    let ended = started.is_ok_and(|instance| {
        serve(instance, args.file.as_deref()).inspect_err(|error| tracing::error!("{error:#}")).is_ok()
    });
    drop(guard);
    Ok(ExitCode::from(u8::from(!ended)))
}

/// `None`: the diagnostics have been printed.
fn read_plan(args: &RunArgs) -> anyhow::Result<Option<Plan>> {
    let result = match &args.file {
        Some(path) => {
            let name = path.display().to_string();
            let bytes = check::read(path).with_context(|| format!("cannot read {name}"))?;
            check::parse(path, &bytes)
        }
        None => fourfold_config::from_flags(&Flags {
            listen: &args.listen,
            mode: Some(&args.mode),
            to: &args.to,
            source: &args.source,
            max_connections: args.max_connections.as_deref(),
            shards: args.shards.as_deref(),
            engine: args.engine.map(|engine| engine.as_str()),
            admin: args.admin.as_deref(),
        }),
    };
    let Checked { mut plan, warnings, .. } = match result {
        Ok(checked) => checked,
        Err(errors) => {
            eprint!("{}", errors.render_human());
            return Ok(None);
        }
    };
    eprint!("{}", warnings.render_human());
    if let Some(splice) = args.splice {
        plan.splice.mode = match splice {
            SpliceArg::Auto => SpliceMode::Auto,
            SpliceArg::Bpf => SpliceMode::Bpf,
            SpliceArg::Off => SpliceMode::Off,
        };
    }
    // Of a file's plan it overrides what is written; of flags it has been judged with the others.
    if let Some(text) = args.admin.as_deref().filter(|_| args.file.is_some()) {
        match fourfold_config::parse_admin(text) {
            Ok(listen) => plan.admin = listen,
            Err(error) => {
                eprintln!("--admin {error}");
                return Ok(None);
            }
        }
    }
    if let Some(format) = args.log.log_format {
        plan.log.format = if format == LogFormatArg::Json { LogFormat::Json } else { LogFormat::Human };
    }
    if let Some(level) = args.log.log_level {
        plan.log.level = match level {
            LogLevelArg::Error => LogLevel::Error,
            LogLevelArg::Warn => LogLevel::Warn,
            LogLevelArg::Info => LogLevel::Info,
            LogLevelArg::Debug => LogLevel::Debug,
            LogLevelArg::Trace => LogLevel::Trace,
        };
    }
    Ok(Some(plan))
}

/// A running proxy.
pub struct Instance {
    pub shared: Arc<Shared>,
    pub shards: Vec<Shard<Proxy, Mail>>,
    pub layout: ShardPlan,
    logs: Vec<Writer>,
}

impl Instance {
    /// Starts everything or nothing.
    pub fn start(mut plan: Plan) -> anyhow::Result<Self> {
        let machine_facts = machine::facts().context("net.ipv4.ip_local_port_range holds no ports")?;
        let problems =
            check::problems_of_ports(&plan, &machine_facts).into_iter().chain(check::sources_missing(&plan));
        let problems: Vec<String> = problems.collect();
        anyhow::ensure!(problems.is_empty(), "{}", problems.join("; "));
        let wanted = match plan.engine {
            EngineChoice::Auto => None,
            EngineChoice::Uring => Some(Engine::Uring),
            EngineChoice::Epoll => Some(Engine::Epoll),
        };
        let limits = Limits::of_this_machine().context("reading the descriptor limit")?;
        let (engine, why) = choose_engine(wanted).map_err(|missing| {
            anyhow::anyhow!("io_uring cannot be used ({missing}); use engine = \"epoll\"")
        })?;
        tracing::info!("engine {engine}: {why}");
        let kernel = choose_splice(plan.splice.mode)?;
        if kernel.is_none() {
            plan.splice.mode = SpliceMode::Off;
        }
        let demand = Demand {
            connections: plan.max_connections,
            shards: plan.shards.map(|shards| shards as usize),
            accepts: 1,
            connects: 1,
            listeners: plan.binds().count(),
        };
        let mut layout = plan_shards(engine, &demand, &limits).map_err(anyhow::Error::msg)?;
        if let Some(bytes) = plan.buffer_memory_bytes {
            layout = layout.with_buffer_memory(bytes);
        }
        let backlog = machine::backlog();
        let listen: Vec<Listen> = plan
            .binds()
            .filter_map(|(n, address)| {
                let listener = plan.listeners.get(n)?;
                let backlog = listener.backlog.unwrap_or(backlog);
                Some(Listen { address, backlog })
            })
            .collect();
        let shared = Shared::new(
            Arc::new(plan),
            machine_facts,
            layout.shards,
            layout.connections,
            layout.connections_per_shard as usize,
        )?;
        shared.set_literal_targets()?;
        let logs = shared.logs.iter().map(start_log).collect::<anyhow::Result<_>>()?;
        let now = monotonic_ms();
        let shards =
            spawn(&layout, &listen, kernel.as_ref(), |index| Proxy::new(Arc::clone(&shared), index, now))?;
        for (state, shard) in shared.shards.iter().zip(&shards) {
            state.set_sender(shard.sender.clone());
        }
        // Types of the kernel, some 60 MB of them, which every shard has loaded its program by.
        drop(kernel);
        fourfold_sys::machine::release_memory();
        Ok(Self { shared, shards, layout, logs })
    }

    /// Ends gracefully; `deadline` is when what is left is reset.
    pub fn drain(&self, deadline: Millis) {
        for shard in &self.shared.shards {
            // Unlike other mail this must arrive: a full mailbox empties within a turn.
            while !shard.tell(Mail::Drain { deadline }) {
                if self.shards.iter().all(|shard| shard.thread.is_finished()) {
                    return;
                }
                std::thread::yield_now();
            }
        }
    }

    pub fn is_finished(&self) -> bool {
        self.shards.iter().all(|shard| shard.thread.is_finished())
    }

    /// Log files were renamed: opens them anew.
    fn reopen_logs(&self) {
        self.logs.iter().for_each(Writer::reopen);
    }

    /// The first shard that ended by an error, if any did. What shards have logged is written.
    pub fn join(self) -> anyhow::Result<()> {
        let ended = join_shards(self.shards);
        for (log, SharedLog { target, .. }) in self.logs.into_iter().zip(&self.shared.logs) {
            if !log.stop(LOG_PATIENCE) {
                tracing::warn!("access log {target}: it takes no more lines; what was left is lost");
            }
        }
        ended
    }
}

/// `None`: tunnels are copied.
fn choose_splice(mode: SpliceMode) -> anyhow::Result<Option<Arc<Kernel>>> {
    if mode != SpliceMode::Bpf {
        return Ok(None);
    }
    let kernel = Kernel::probe().map_err(|why| {
        anyhow::anyhow!("tunnels cannot be carried by the kernel ({why}); use splice.mode = \"auto\"")
    })?;
    if let Some(fault) = fourfold_sys::bpf::known_fault() {
        tracing::warn!("splice bpf: {fault}");
    }
    tracing::info!("splice bpf: the kernel carries busy tunnels");
    Ok(Some(Arc::new(kernel)))
}

/// How long a log may take to be written when the program ends.
const LOG_PATIENCE: Duration = Duration::from_secs(5);

fn start_log(log: &SharedLog) -> anyhow::Result<Writer> {
    let started = Writer::start(Arc::clone(&log.queue), log.target.clone(), monotonic_us);
    started.with_context(|| format!("opening the access log {}", log.target))
}

fn join_shards(shards: Vec<Shard<Proxy, Mail>>) -> anyhow::Result<()> {
    let join = |(index, shard): (usize, Shard<Proxy, Mail>)| match shard.thread.join() {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(errno)) => Err(anyhow::anyhow!("shard {index} failed: {errno}")),
        Err(_) => Err(anyhow::anyhow!("shard {index} panicked")),
    };
    let ended: Vec<_> = shards.into_iter().enumerate().map(join).collect();
    ended.into_iter().collect()
}

fn serve(instance: Instance, file: Option<&Path>) -> anyhow::Result<()> {
    let ShardPlan { connections, reason, .. } = &instance.layout;
    tracing::info!("{reason}; max_connections {connections}");
    for line in fourfold_doctor::impossible(&instance.shared.plan) {
        tracing::warn!("{line}");
    }
    if let Some(line) = doctor::first_limit(&instance.shared.plan) {
        tracing::info!("{line}");
    }
    for (address, space) in instance.shared.spaces() {
        tracing::info!("tuples towards {address}: {}", space.headroom().total);
    }
    let plan = &instance.shared.plan;
    for (listener, bind) in plan.binds().filter_map(|(n, bind)| Some((plan.listeners.get(n)?, bind))) {
        tracing::info!(listener = %listener.name, "listening on {bind}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the control runtime")?;
    let known = fourfold_control::Instance::new(about(&instance, file), Arc::clone(&instance.shared));
    let admin = bind_admin(&known);
    runtime.block_on(control(&instance, known, admin))?;
    let shared = Arc::clone(&instance.shared);
    let result = instance.join();
    tracing::info!("stopped: {}", Totals::of(&shared));
    result
}

fn about(instance: &Instance, file: Option<&Path>) -> About {
    let stem = file.and_then(Path::file_stem).map(|stem| stem.to_string_lossy().into_owned());
    About {
        name: stem.unwrap_or_else(|| "fourfold".into()),
        version: env!("CARGO_PKG_VERSION").into(),
        config: file.map(|file| file.display().to_string()),
        engine: instance.layout.engine.to_string(),
        started: SystemTime::now(),
    }
}

/// Without it the proxy is as good, and only harder to ask.
fn bind_admin(known: &fourfold_control::Instance) -> Option<Bound> {
    let bound = place::bind(&known.shared.plan.admin, &known.about.name);
    let bound = bound.inspect_err(|error| {
        tracing::warn!(
            "no admin listener: {error}; the proxy runs on, `fourfold show` cannot ask it; set [admin] listen"
        );
    });
    let bound = bound.ok().flatten();
    if let Some(bound) = &bound {
        tracing::info!("admin listener at {}", bound.place);
    }
    bound
}

/// How often a draining instance is asked whether it is done.
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// And one that serves, whether its shards have failed: an idle instance sleeps.
const WATCH_POLL: Duration = Duration::from_secs(1);

async fn control(
    instance: &Instance,
    known: Arc<fourfold_control::Instance>,
    admin: Option<Bound>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut report = signal(SignalKind::user_defined1()).context("SIGUSR1")?;
    let mut reopen = signal(SignalKind::user_defined2()).context("SIGUSR2")?;
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP")?;
    tokio::spawn(targets::follow(Arc::clone(&instance.shared)));
    tokio::spawn(foreign::follow(Arc::clone(&instance.shared)));
    tokio::spawn(watch::follow(Arc::clone(&known)));
    if let Some(admin) = admin {
        tokio::spawn(server::serve(admin, Arc::clone(&known)));
    }
    tracing::info!("ready");
    let mut draining = false;
    loop {
        let poll = if draining { DRAIN_POLL } else { WATCH_POLL };
        tokio::select! {
            _ = terminate.recv() => stop(instance, &known, &mut draining),
            _ = interrupt.recv() => stop(instance, &known, &mut draining),
            _ = report.recv() => print_report(&instance.shared),
            _ = reopen.recv() => instance.reopen_logs(),
            _ = hangup.recv() => tracing::warn!("SIGHUP: reloading is not available in this version"),
            _ = tokio::time::sleep(poll) => {
                if instance.is_finished() {
                    return Ok(());
                }
            }
        }
    }
}

fn stop(instance: &Instance, known: &fourfold_control::Instance, draining: &mut bool) {
    known.set_draining();
    let open = instance.shared.connections.load(std::sync::atomic::Ordering::Relaxed);
    let timeout = instance.shared.plan.drain_timeout_ms;
    if std::mem::replace(draining, true) {
        tracing::info!("stopping now: {open} connections are reset");
        return instance.drain(0);
    }
    tracing::info!("draining: {open} connections have {} s; a second signal stops now", timeout / 1000);
    instance.drain(monotonic_ms() + timeout);
}

/// Counters and headroom, one line each.
fn print_report(shared: &Shared) {
    let open = shared.connections.load(std::sync::atomic::Ordering::Relaxed);
    tracing::info!("connections={open} max_connections={} {}", shared.connections_max, Totals::of(shared));
    for (address, space) in shared.spaces() {
        let room = space.headroom();
        tracing::info!(
            "tuples towards {address}: used={} free={} quarantined={} foreign={} total={}",
            room.used,
            room.free,
            room.quarantined,
            room.foreign,
            room.total
        );
    }
    for log in &shared.logs {
        let stats = log.queue.stats();
        let (written, dropped, lost) = (stats.written, stats.dropped, stats.lost);
        tracing::info!("access log {}: written={written} dropped={dropped} lost={lost}", log.target);
    }
    let now = monotonic_ms();
    for (pool, state) in shared.plan.pools.iter().zip(&shared.pools) {
        let waiting = state.waiting.load(std::sync::atomic::Ordering::Relaxed);
        tracing::info!("pool {}: waiting={waiting} queue_max={}", pool.name, state.queue_max);
        for (index, (server, one)) in pool.servers.iter().zip(&state.servers).enumerate() {
            let active = one.active.load(std::sync::atomic::Ordering::Relaxed);
            let (health, failures) = (state.fitness(index, now), one.failures());
            tracing::info!("server {}: {health} active={active} failures={failures}", server.address);
        }
        for AvoidedPath { source, server, until } in state.health.avoided(now) {
            let server = server.and_then(|index| pool.servers.get(index));
            let to = server.map_or_else(|| "all servers".into(), |server| server.address.to_string());
            let ms = until.saturating_sub(now);
            tracing::info!("path {source} to {to}: avoided for {ms} ms, others get through");
        }
    }
}
