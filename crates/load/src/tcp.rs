//! A load of TCP connections to one target, each proven by a token of its own, then held, re-verified, driven with requests,
//! or closed and replaced.
//!
//! Owns: the shards that run [`TcpLoad`], the space of tuples that they lease from, and the report in the end.
//! Refuses: more connections than the sources have tuples; a load generator that hits the port wall measures itself.
//! Driven by: [`start`] and [`RunningLoad`].
//!
//! Nothing slow is left out: a connection or message that is due while the load is behind counts from when it was due, one
//! that times out counts with its time-out, and what is still under way in the end counts with its age.

mod app;
mod measure;
mod pace;

pub use app::{LoadMail, TcpLoad};
pub use measure::{LATENCY_MAX, Latency, LoadCounters, Reason, Report, Snapshot};

use crate::StartError;
use crate::machine::plan;
use app::{ShardConfig, share};
use fourfold_base::Millis;
use fourfold_engine::{Demand, Engine, Shard, ShardPlan, spawn};
use fourfold_ports::{Family, Mode, PortSet, PortSpan, SourceSet, Space, SpaceConfig, TIME_WAIT_MS};
use fourfold_sys::clock::monotonic_us;
use fourfold_sys::{Errno, machine};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Connections per shard that may be under way (being made, or their token not back) unless the user says otherwise:
/// few enough to stay within the target's backlog, enough to keep it busy.
pub const PENDING_PER_SHARD: u32 = 256;
/// The longest message in [`Work::Requests`].
pub const MESSAGE_BYTES_MAX: u32 = 16 << 20;
/// Where the kernel lets go of a tuple in TIME_WAIT early, it does so a second after the peer's FIN, which comes after our
/// close; older kernels count whole seconds.
const TIME_WAIT_REUSED_MS: Millis = 2000;
/// A tuple held by another socket is mostly the TIME_WAIT of a load that ended just now: worth another try so soon.
const FOREIGN_RECHECK_MS: Millis = TIME_WAIT_REUSED_MS;

/// What is done with a connection once it is verified.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Work {
    /// It is held; random ones are verified again, this many per second in all.
    Hold { verify_rate: f64 },
    /// It sends messages of this many bytes and waits for the echo each time: as fast as it can, or in turn with the others
    /// so that all send `rate` per second.
    Requests { bytes: u32, rate: Option<f64> },
    /// It is closed, and the next one takes its place.
    Churn,
}

/// What to start. Begin with [`LoadConfig::new`].
#[derive(Clone, Debug)]
pub struct LoadConfig {
    pub target: SocketAddr,
    pub connections: u64,
    pub work: Work,
    pub sources: SourceSet,
    /// `None`: the system's (`net.ipv4.ip_local_port_range`).
    pub span: Option<PortSpan>,
    /// How tuples are pinned; `None`: the kernel chooses ports, with the cost that has.
    pub mode: Option<Mode>,
    /// Connections started per second; `None`: as fast as they go.
    pub rate: Option<f64>,
    /// Connections under way at a time, per shard.
    pub pending_per_shard: u32,
    pub connect_timeout: Duration,
    /// For the first token and for re-verifications; requests may take as long as they want.
    pub echo_timeout: Duration,
    /// From the start until closing begins; `None`: until [`RunningLoad::stop`].
    pub duration: Option<Duration>,
    /// Close by RST, which leaves no TIME_WAIT behind.
    pub reset: bool,
    /// `None`: the best that works here.
    pub engine: Option<Engine>,
    /// `None`: derived.
    pub shards: Option<usize>,
    /// Makes the tokens, and the choice of connections that are verified again.
    pub seed: u64,
}

impl LoadConfig {
    /// Holds `connections` until stopped.
    pub fn new(target: SocketAddr, connections: u64) -> Self {
        Self {
            target,
            connections,
            work: Work::Hold { verify_rate: 0.0 },
            sources: SourceSet::kernel_chosen(),
            span: None,
            // IP_LOCAL_PORT_RANGE came with Linux 6.3.
            mode: (machine::kernel() >= (6, 3)).then_some(Mode::Late),
            rate: None,
            pending_per_shard: PENDING_PER_SHARD,
            connect_timeout: Duration::from_secs(10),
            echo_timeout: Duration::from_secs(30),
            duration: None,
            reset: false,
            engine: None,
            shards: None,
            seed: 1,
        }
    }
}

/// A load on threads of its own. Dropping it leaves it running; [`Self::stop`] and [`Self::wait`] end it.
pub struct RunningLoad {
    config: LoadConfig,
    plan: ShardPlan,
    space: Option<Arc<Space>>,
    shards: Vec<Shard<TcpLoad, LoadMail>>,
    counters: Vec<Arc<LoadCounters>>,
    ends: Receiver<()>,
    wanted: u64,
    started: Instant,
}

/// Why there is no report.
#[derive(Debug)]
pub enum WaitError {
    /// The load goes on; wait again, or stop it first.
    StillRunning,
    Shard(Errno),
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StillRunning => f.write_str("the load is still running"),
            Self::Shard(errno) => write!(f, "a shard of the load ended: {errno}"),
        }
    }
}

impl std::error::Error for WaitError {}

/// Begins at once.
pub fn start(config: &LoadConfig) -> Result<RunningLoad, StartError> {
    check(config)?;
    let demand = Demand {
        connections: Some(config.connections),
        shards: config.shards,
        accepts: 0,
        connects: 1,
        listeners: 0,
    };
    let plan = plan(config.engine, &demand)?;
    let space = config.mode.map(|mode| space(config, mode, plan.shards)).transpose()?;
    let counters: Vec<_> = (0..plan.shards).map(|_| Arc::new(LoadCounters::default())).collect();
    let (end, ends) = channel();
    let shards = spawn(&plan, &[], |index| {
        TcpLoad::new(ShardConfig {
            load: config.clone(),
            index,
            shards: plan.shards,
            slots: plan.connect_slots as usize,
            slice: space.as_ref().map(|space| space.slice(index)),
            counters: counters.get(index).map(Arc::clone).unwrap_or_default(),
            end: Some(end.clone()),
            clock_us: monotonic_us,
        })
    })?;
    let wanted = config.connections;
    Ok(RunningLoad {
        config: config.clone(),
        plan,
        space,
        shards,
        counters,
        ends,
        wanted,
        started: Instant::now(),
    })
}

fn check(config: &LoadConfig) -> Result<(), StartError> {
    let refuse = |why: &str| Err(StartError::Config(why.into()));
    if config.connections == 0 || config.connections > u64::from(u32::MAX) {
        return refuse("a load has from 1 to 4294967295 connections");
    }
    if config.pending_per_shard == 0 {
        return refuse("no connection can be made when none may be pending");
    }
    if config.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
        return refuse("a rate is a number above 0");
    }
    match config.work {
        Work::Requests { bytes, .. } if bytes == 0 || bytes > MESSAGE_BYTES_MAX => {
            Err(StartError::Config(format!("a request has from 1 to {MESSAGE_BYTES_MAX} bytes")))
        }
        Work::Requests { rate: Some(rate), .. } | Work::Hold { verify_rate: rate }
            if !rate.is_finite() || rate < 0.0 =>
        {
            refuse("a rate is a number above 0")
        }
        _ => Ok(()),
    }
}

/// The tuples towards the target; enough of them.
fn space(config: &LoadConfig, mode: Mode, shards: usize) -> Result<Arc<Space>, StartError> {
    let refuse = |error: &dyn fmt::Display| StartError::Config(error.to_string());
    let (first, last) = machine::local_port_range();
    let span = match config.span {
        Some(span) => span,
        None => PortSpan::new(first, last).map_err(|error| refuse(&error))?,
    };
    if mode == Mode::Late && (span.first() < first || span.last() > last) {
        return Err(StartError::Config(format!(
            "ports {span} are not within net.ipv4.ip_local_port_range ({first}-{last}), where the kernel lets a port be pinned late"
        )));
    }
    let spans = machine::reserved_ports().into_iter().filter_map(|(a, b)| PortSpan::new(a, b).ok());
    let space = Space::new(SpaceConfig {
        time_wait_quarantine_ms: time_wait_ms(mode, config.target.ip().is_loopback()),
        foreign_recheck_ms: FOREIGN_RECHECK_MS,
        reserved: if mode == Mode::Late { PortSet::new(spans) } else { PortSet::default() },
        family: Some(Family::of(config.target.ip())),
        shards,
        ..SpaceConfig::new(config.sources.clone(), span, mode)
    })
    .map_err(|error| refuse(&error))?;
    let total = space.headroom().total;
    if total < config.connections {
        return Err(StartError::Config(format!(
            "{} connections to {} need as many source ports; ports {span} of {} source address(es) make {total}: name more --source addresses",
            config.connections,
            config.target,
            space.sources().len(),
        )));
    }
    Ok(space)
}

/// How long a tuple rests that we closed first.
fn time_wait_ms(mode: Mode, loopback: bool) -> Millis {
    let timestamps = machine::sysctl_number("net.ipv4.tcp_timestamps").unwrap_or(1) != 0;
    match (mode, machine::sysctl_number("net.ipv4.tcp_tw_reuse").unwrap_or(0)) {
        _ if !timestamps => TIME_WAIT_MS,
        (Mode::Early, _) => 0,
        (Mode::Late, 1) => TIME_WAIT_REUSED_MS,
        (Mode::Late, 2) if loopback => TIME_WAIT_REUSED_MS,
        (Mode::Late, _) => TIME_WAIT_MS,
    }
}

impl RunningLoad {
    pub fn plan(&self) -> &ShardPlan {
        &self.plan
    }

    /// The tuples that it uses; `None`: the kernel chooses.
    pub fn space(&self) -> Option<&Arc<Space>> {
        self.space.as_ref()
    }

    pub fn snapshot(&self) -> Snapshot {
        let sum = self.counters.iter().fold(Snapshot::default(), |sum, shard| sum.add(shard));
        Snapshot { wanted: self.wanted, elapsed_s: self.started.elapsed().as_secs_f64(), ..sum }
    }

    /// Closes this many held connections, chosen at random; fewer if fewer are held.
    pub fn release(&self, connections: u64) {
        let mut rest = connections;
        let mut held: u64 = self.counters.iter().map(|shard| shard.held.get()).sum();
        for (shard, counters) in self.shards.iter().zip(&self.counters) {
            let here = counters.held.get();
            // In proportion; what rounding leaves over falls to those that come later.
            let n =
                if held == 0 { 0 } else { (u128::from(rest) * u128::from(here) / u128::from(held)) as u64 };
            let n = n.min(here);
            (rest, held) = (rest - n, held.saturating_sub(here));
            let _ = shard.sender.send(LoadMail::Release(n));
        }
    }

    /// Opens this many more, within what the plan can hold.
    pub fn open(&mut self, connections: u64) {
        self.wanted += connections;
        for (index, shard) in self.shards.iter().enumerate() {
            let _ = shard.sender.send(LoadMail::Open(share(connections, index, self.plan.shards)));
        }
    }

    /// Begins to close everything; [`Self::wait`] tells when that is done.
    pub fn stop(&self) {
        for shard in &self.shards {
            let _ = shard.sender.send(LoadMail::Stop);
        }
    }

    /// Waits until the load has ended, by its duration or by [`Self::stop`], but no longer than `patience`.
    pub fn wait(&mut self, patience: Duration) -> Result<Report, WaitError> {
        let deadline = Instant::now() + patience;
        loop {
            match self.ends.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(()) => {}
                // Every shard has ended, and with it its sender.
                Err(RecvTimeoutError::Disconnected) => return self.report(),
                Err(RecvTimeoutError::Timeout) => return Err(WaitError::StillRunning),
            }
        }
    }

    fn report(&mut self) -> Result<Report, WaitError> {
        let mut apps = Vec::with_capacity(self.shards.len());
        for shard in self.shards.drain(..) {
            let ended = shard.thread.join().unwrap_or(Err(Errno::ECANCELED));
            apps.push(ended.map_err(WaitError::Shard)?);
        }
        let (live, engine) = (self.snapshot(), self.plan.engine.to_string());
        let wanted = if self.config.work == Work::Churn { live.started } else { live.wanted };
        let records = apps.iter().map(TcpLoad::record);
        Ok(Report::new(self.config.target, engine, records, &Snapshot { wanted, ..live }))
    }
}
