//! A load of HTTP/1.1 requests or WebSocket messages to one target, by a client that never tries twice: every request is
//! answered whole and right, or counted as lost with how far it had come.
//!
//! Owns: the shards that run [`HttpLoad`], the space of tuples that they lease from, and the report in the end.
//! Refuses: more connections than the sources have tuples; a load generator that hits the port wall measures itself.
//! Driven by: [`start`] and [`RunningHttpLoad`].
//!
//! Nothing slow is left out: a request that is due while the load is behind counts from when it was due, one that is lost
//! counts with its age, and one that never started counts with its age in the end.

mod answer;
mod app;
mod measure;

pub use answer::Fault;
pub use app::HttpLoad;
pub use measure::{Cause, HttpCounters, HttpReport, HttpSnapshot, Loss, MethodReport, Stage};

use crate::StartError;
use crate::machine::{WaitError, plan};
use crate::tcp::share;
use crate::tuples::{self, Wanted};
use app::ShardConfig;
use fourfold_engine::{Demand, Engine, Shard, ShardPlan, spawn};
use fourfold_ports::{Mode, PortSpan, SourceSet};
use fourfold_sys::clock::monotonic_us;
use fourfold_sys::{Errno, machine};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Connections that may be under way unless the user says otherwise.
pub const PENDING: u32 = 512;
/// The longest body or message that is made.
pub const BODY_BYTES_MAX: u64 = 4 << 30;
/// The field that carries a request's id.
pub const ID_FIELD: &str = "X-Request-Id";
/// The message that proves a WebSocket, if the user names no other length.
pub const MESSAGE_BYTES: u64 = 32;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Http,
    WebSocket,
}

/// When the next request starts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// As soon as the one before on its connection is answered.
    Closed,
    /// So many per second in all, answered or not.
    Rate(f64),
    /// One per connection in each interval.
    Interval(Duration),
    /// One per connection, which is then held.
    Hold,
}

/// What an answer is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verify {
    /// It is whole.
    Framing,
    /// It is what `fourfold origin --mode http` sends.
    Pattern,
    /// It is the request's body.
    Echo,
}

/// What to start. Begin with [`HttpConfig::new`].
#[derive(Clone, Debug)]
pub struct HttpConfig {
    pub target: SocketAddr,
    pub protocol: Protocol,
    pub host: String,
    pub path: String,
    pub method: String,
    /// So many of a hundred requests are POST, evenly spread; the others have no body.
    pub post_percent: u8,
    /// Every request carries an id of its own in [`ID_FIELD`], and the report names those that were lost.
    pub identify: bool,
    /// Further fields of the request.
    pub fields: Vec<(String, String)>,
    /// Of a request, or of a message.
    pub body_bytes: u64,
    pub verify: Verify,
    /// Length of the body of an answer with status 200.
    pub expect_bytes: Option<u64>,
    pub keep_alive: bool,
    pub connections: u64,
    pub pace: Pace,
    /// So many in all.
    pub requests: Option<u64>,
    /// From when all connections are there, or with [`Pace::Closed`] from the start; `None`: until stopped.
    pub duration: Option<Duration>,
    /// Connections started per second; `None`: as fast as they go.
    pub connect_rate: Option<f64>,
    pub sources: SourceSet,
    /// `None`: the system's (`net.ipv4.ip_local_port_range`).
    pub span: Option<PortSpan>,
    /// How tuples are pinned; `None`: the kernel chooses ports, with the cost that has.
    pub mode: Option<Mode>,
    /// Connections under way at a time, in all, those that are to be held until they are proven; each shard has its part, and
    /// one at least.
    pub pending: u32,
    pub connect_timeout: Duration,
    pub timeout: Duration,
    /// `None`: the best that works here.
    pub engine: Option<Engine>,
    /// `None`: derived.
    pub shards: Option<usize>,
    /// Makes the bodies and messages.
    pub seed: u64,
}

impl HttpConfig {
    /// GET / over `connections`, as fast as they are answered, until stopped.
    pub fn new(target: SocketAddr, connections: u64) -> Self {
        Self {
            target,
            protocol: Protocol::Http,
            host: target.to_string(),
            path: "/".into(),
            method: "GET".into(),
            post_percent: 0,
            identify: false,
            fields: Vec::new(),
            body_bytes: 0,
            verify: Verify::Framing,
            expect_bytes: None,
            keep_alive: true,
            connections,
            pace: Pace::Closed,
            requests: None,
            duration: None,
            connect_rate: None,
            sources: SourceSet::kernel_chosen(),
            span: None,
            // IP_LOCAL_PORT_RANGE came with Linux 6.3.
            mode: (machine::kernel() >= (6, 3)).then_some(Mode::Late),
            pending: PENDING,
            connect_timeout: Duration::from_secs(10),
            timeout: Duration::from_secs(30),
            engine: None,
            shards: None,
            seed: 1,
        }
    }

    /// WebSockets at /ws, each proven by a message and then held.
    pub fn websockets(target: SocketAddr, connections: u64) -> Self {
        Self {
            protocol: Protocol::WebSocket,
            path: "/ws".into(),
            body_bytes: MESSAGE_BYTES,
            verify: Verify::Echo,
            expect_bytes: Some(MESSAGE_BYTES),
            pace: Pace::Hold,
            ..Self::new(target, connections)
        }
    }
}

/// What other threads may tell a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HttpMail {
    /// A message over every held connection.
    CheckEach,
    /// From now on messages over so many random ones per second, over all shards.
    VerifyAt(u32),
    /// Start nothing more, wait a while for what is under way, close.
    Stop,
}

/// A load on threads of its own. Dropping it leaves it running; [`Self::stop`] and [`Self::wait`] end it.
pub struct RunningHttpLoad {
    config: HttpConfig,
    plan: ShardPlan,
    shards: Vec<Shard<HttpLoad, HttpMail>>,
    counters: Vec<Arc<HttpCounters>>,
    ends: Receiver<()>,
    started: Instant,
}

/// Begins at once.
pub fn start(config: &HttpConfig) -> Result<RunningHttpLoad, StartError> {
    check(config)?;
    let demand = Demand {
        connections: Some(config.connections),
        shards: config.shards,
        accepts: 0,
        connects: 1,
        listeners: 0,
    };
    let mut plan = plan(config.engine, &demand)?;
    // A shard without a connection would have nothing to do but to be waited for.
    plan.shards = plan.shards.min(config.connections as usize);
    let HttpConfig { target, connections, sources, span, .. } = config;
    let wanted = Wanted { target: *target, connections: *connections, sources, span: *span };
    let space = config.mode.map(|mode| tuples::space(&wanted, mode, plan.shards)).transpose()?;
    let counters: Vec<_> = (0..plan.shards).map(|_| Arc::new(HttpCounters::default())).collect();
    let (end, ends) = channel();
    let shards = spawn(&plan, &[], None, |index| {
        HttpLoad::new(ShardConfig {
            load: config.clone(),
            index,
            shards: plan.shards,
            slots: plan.connect_slots as usize,
            pending_max: share(u64::from(config.pending), index, plan.shards).max(1) as u32,
            slice: space.as_ref().map(|space| space.slice(index)),
            counters: counters.get(index).map(Arc::clone).unwrap_or_default(),
            everyone: counters.clone(),
            end: Some(end.clone()),
            clock_us: monotonic_us,
        })
    })?;
    Ok(RunningHttpLoad { config: config.clone(), plan, shards, counters, ends, started: Instant::now() })
}

fn check(config: &HttpConfig) -> Result<(), StartError> {
    let refuse = |why: &str| Err(StartError::Config(why.into()));
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if config.connections == 0 || config.connections > u64::from(u32::MAX) {
        return refuse("a load has from 1 to 4294967295 connections");
    }
    if config.pending == 0 {
        return refuse("no connection can be made when none may be pending");
    }
    if !plain(&config.path) || !config.path.starts_with('/') {
        return refuse("a path begins with / and has neither spaces nor control characters");
    }
    if !plain(&config.host) || !plain(&config.method) {
        return refuse("host and method have neither spaces nor control characters");
    }
    let odd = |(name, value): &(String, String)| !plain(name) || value.bytes().any(|byte| byte < b' ');
    if config.fields.iter().any(odd) {
        return refuse("a header is NAME: VALUE without control characters");
    }
    if config.post_percent > 100 {
        return refuse("of a hundred requests at most a hundred are POST");
    }
    if config.body_bytes > BODY_BYTES_MAX {
        return Err(StartError::Config(format!("a body has at most {BODY_BYTES_MAX} bytes")));
    }
    let rate = match config.pace {
        Pace::Rate(rate) => Some(rate),
        Pace::Interval(interval) => Some(1.0 / interval.as_secs_f64()),
        Pace::Closed | Pace::Hold => None,
    };
    if rate.into_iter().chain(config.connect_rate).any(|rate| !rate.is_finite() || rate <= 0.0) {
        return refuse("a rate is a number above 0, and so is an interval");
    }
    Ok(())
}

impl RunningHttpLoad {
    pub fn plan(&self) -> &ShardPlan {
        &self.plan
    }

    pub fn snapshot(&self) -> HttpSnapshot {
        let sum = self.counters.iter().fold(HttpSnapshot::default(), |sum, shard| sum.add(shard));
        HttpSnapshot {
            wanted: self.config.connections,
            elapsed_s: self.started.elapsed().as_secs_f64(),
            ..sum
        }
    }

    /// Sends a message, or a request, over every connection that is held now; [`HttpSnapshot::checked`] counts those that were
    /// answered. For loads that hold.
    pub fn check_each(&self) {
        self.tell(HttpMail::CheckEach);
    }

    /// Does so over random ones, so many per second from now on.
    pub fn verify_at(&self, per_second: u32) {
        self.tell(HttpMail::VerifyAt(per_second));
    }

    /// Begins to end; [`Self::wait`] tells when that is done.
    pub fn stop(&self) {
        self.tell(HttpMail::Stop);
    }

    fn tell(&self, mail: HttpMail) {
        for shard in &self.shards {
            let _ = shard.sender.send(mail);
        }
    }

    /// Waits until the load has ended, by its duration, its number of requests or by [`Self::stop`], but no longer than
    /// `patience`.
    pub fn wait(&mut self, patience: Duration) -> Result<HttpReport, WaitError> {
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

    fn report(&mut self) -> Result<HttpReport, WaitError> {
        let mut apps = Vec::with_capacity(self.shards.len());
        for shard in self.shards.drain(..) {
            let ended = shard.thread.join().unwrap_or(Err(Errno::ECANCELED));
            apps.push(ended.map_err(WaitError::Shard)?);
        }
        let made_by = (self.plan.engine.to_string(), self.plan.shards);
        let records = apps.iter().map(HttpLoad::record);
        Ok(HttpReport::new(&self.config, made_by, records, &self.snapshot()))
    }
}
