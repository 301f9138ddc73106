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

pub use app::{LoadMail, TcpLoad};
pub use measure::{LoadCounters, Reason, Report, Snapshot};

use crate::StartError;
use crate::machine::{WaitError, plan};
use crate::tuples::{self, Wanted};
use app::ShardConfig;
pub(crate) use app::{TUPLE_ATTEMPTS_MAX, TUPLE_RETRY_MS, share};
use fourfold_engine::{Demand, Engine, Shard, ShardPlan, spawn};
use fourfold_ports::{Mode, PortSpan, SourceSet, Space};
use fourfold_sys::clock::monotonic_us;
use fourfold_sys::{Errno, machine};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Connections that may be under way (being made, or their token not back) unless the user says otherwise: few enough to stay
/// within the target's backlog and to be served soon, enough to keep it busy.
pub const PENDING: u32 = 512;
/// The longest message in [`Work::Requests`].
pub const MESSAGE_BYTES_MAX: u32 = 16 << 20;
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
    /// Connections under way at a time, in all; each shard has its part, and one at least.
    pub pending: u32,
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
            pending: PENDING,
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
    let space = config.mode.map(|mode| tuples::space(&wanted(config), mode, plan.shards)).transpose()?;
    let counters: Vec<_> = (0..plan.shards).map(|_| Arc::new(LoadCounters::default())).collect();
    let (end, ends) = channel();
    let shards = spawn(&plan, &[], None, |index| {
        TcpLoad::new(ShardConfig {
            load: config.clone(),
            index,
            shards: plan.shards,
            slots: plan.connect_slots as usize,
            pending_max: share(u64::from(config.pending), index, plan.shards).max(1) as u32,
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
    if config.pending == 0 {
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

fn wanted(config: &LoadConfig) -> Wanted<'_> {
    let LoadConfig { target, connections, sources, span, .. } = config;
    Wanted { target: *target, connections: *connections, sources, span: *span }
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

    /// Sends a message over every connection that is held now; [`Snapshot::checked`] counts those that came back.
    pub fn check_each(&self) {
        self.tell(LoadMail::CheckEach);
    }

    /// Verifies random connections again, so many per second from now on.
    pub fn verify_at(&self, per_second: u32) {
        self.tell(LoadMail::VerifyAt(per_second));
    }

    /// Begins to close everything; [`Self::wait`] tells when that is done.
    pub fn stop(&self) {
        self.tell(LoadMail::Stop);
    }

    fn tell(&self, mail: LoadMail) {
        for shard in &self.shards {
            let _ = shard.sender.send(mail);
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
