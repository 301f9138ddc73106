//! The load of one shard.
//!
//! ```text
//! start ──► Connecting ──Connected──► First ──echo──► Idle ──message──► Waiting
//!            │ ▲ ▲  │                   │              ▲ │ ◄────echo────  │
//!   no tuple │ │ │  │ tuple taken       │ failed       │ │ lost, released │
//!            ▼ │ │  ▼                   ▼                ▼                ▼
//!         Parked Retrying             Closing ──Closed──► gone, tuple given back
//! ```
//! A retry waits for its socket's Closed; whatever is parked or retrying is still pending, and its time runs.

mod close;
mod open;
mod rounds;

pub use open::TUPLE_ATTEMPTS_MAX;
pub(crate) use open::TUPLE_RETRY_MS;

use super::measure::{LoadCounters, Reason, Record};
use super::{LoadConfig, Work};
use crate::pace::Pace;
use fourfold_base::Millis;
use fourfold_base::prng::Prng;
use fourfold_base::slab::{Key, Slab};
use fourfold_base::wheel::Wheel;
use fourfold_engine::{App, Close, Event, Handler, Net, Sock};
use fourfold_ports::{Lease, Release, Slice};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

/// Connections started per turn, so that events are not kept waiting.
const STARTS_PER_TURN: usize = 64;
/// When buffers have run out, a connection looks for one again after this.
const BUFFER_RETRY_MS: Millis = 2;

/// What other threads may tell a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoadMail {
    Release(u64),
    Open(u64),
    /// A message over every held connection.
    CheckEach,
    /// From now on so many random ones per second, over all shards.
    VerifyAt(u32),
    Stop,
}

/// How far a connection is in [`LoadMail::CheckEach`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Check {
    Due,
    UnderWay,
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Connecting,
    First,
    Idle,
    Waiting,
    /// The tuple was somebody else's: another one once this socket is closed.
    Retrying,
    /// Without a socket until there is a free tuple.
    Parked,
    Closing,
}

struct Conn {
    sock: Sock,
    lease: Option<Lease>,
    number: u32,
    /// Of the present message.
    round: u32,
    sent: u32,
    received: u32,
    /// The intended start.
    since_us: u64,
    /// The intended send of the present message.
    sent_us: u64,
    phase: Phase,
    check: Check,
    attempts: u16,
    /// How the tuple comes back.
    ending: Release,
}

const _: () = assert!(size_of::<Conn>() <= 64);

pub(crate) struct ShardConfig {
    pub load: LoadConfig,
    pub index: usize,
    pub shards: usize,
    pub slots: usize,
    /// Connections under way at a time.
    pub pending_max: u32,
    pub slice: Option<Slice>,
    pub counters: Arc<LoadCounters>,
    /// Dropped when the load of this shard is over, or its thread has died.
    pub end: Option<Sender<()>>,
    pub clock_us: fn() -> u64,
}

/// Part `index` of `total` things spread over `shards`.
pub(crate) fn share(total: u64, index: usize, shards: usize) -> u64 {
    let (shards, index) = (shards as u64, index as u64);
    total / shards + u64::from(index < total % shards)
}

/// The app of one shard.
pub struct TcpLoad {
    config: ShardConfig,
    conns: Slab<Conn>,
    wheel: Wheel,
    due: Vec<u32>,
    rng: Prng,
    record: Record,
    /// Connections to start in all, at first, and so far.
    quota: u64,
    first_quota: u64,
    started: u64,
    pending: u32,
    opening: Option<Pace>,
    rounds: Option<Pace>,
    rounds_begun: u64,
    /// The slot at which checking each connection goes on.
    checking: Option<u32>,
    checks_under_way: u32,
    /// Connections that found no tuple.
    parked: VecDeque<Key>,
    parked_until: Millis,
    /// Connections that wait for their turn to send a request.
    idle: VecDeque<Key>,
    /// Connections that found no buffer.
    starved: Vec<Key>,
    starved_until: Millis,
    end_us: Option<u64>,
    /// The slot at which closing goes on.
    closing: Option<u32>,
    next_ms: Option<Millis>,
}

impl TcpLoad {
    pub(crate) fn new(config: ShardConfig) -> Self {
        let quota = share(config.load.connections, config.index, config.shards);
        let now_us = (config.clock_us)();
        Self {
            conns: Slab::new(config.slots),
            wheel: Wheel::new(now_us / 1000),
            due: Vec::new(),
            rng: Prng::new(config.load.seed ^ (config.index as u64) << 32),
            record: Record::new(),
            quota,
            first_quota: quota,
            started: 0,
            pending: 0,
            opening: None,
            rounds: None,
            rounds_begun: 0,
            checking: None,
            checks_under_way: 0,
            parked: VecDeque::new(),
            parked_until: 0,
            idle: VecDeque::new(),
            starved: Vec::new(),
            starved_until: 0,
            end_us: None,
            closing: None,
            next_ms: None,
            config,
        }
    }

    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    fn now_us(&self) -> u64 {
        (self.config.clock_us)()
    }

    fn counters(&self) -> &LoadCounters {
        &self.config.counters
    }

    /// This shard's part of a rate of the whole load.
    fn part_of(&self, rate: f64) -> f64 {
        rate * self.first_quota as f64 / self.config.load.connections as f64
    }

    fn fire_timers<N: Net>(&mut self, net: &mut N) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(net.now(), &mut due);
        for slot in due.drain(..) {
            if let Some(key) = self.conns.key_at(slot) {
                self.on_timeout(net, key);
            }
        }
        self.due = due;
    }

    fn feed_starved<N: Net>(&mut self, net: &mut N) {
        if !self.starved.is_empty() && self.starved_until <= net.now() {
            for key in std::mem::take(&mut self.starved) {
                self.send_more(net, key);
            }
        }
    }

    fn plan_next(&self) -> Option<Millis> {
        if let Some(slot) = self.closing {
            return (slot < self.conns.slots()).then_some(0);
        }
        let start = self.may_start().then(|| self.opening.map_or(0, |pace| pace.due_ms(self.started)));
        let may_round = !matches!(self.config.load.work, Work::Requests { .. }) || !self.idle.is_empty();
        let round = self.rounds.filter(|_| may_round).map(|pace| pace.due_ms(self.rounds_begun));
        let starved = (!self.starved.is_empty()).then_some(self.starved_until);
        let parked = (!self.parked.is_empty()).then_some(self.parked_until);
        let end = self.end_us.map(|us| us.div_ceil(1000));
        [start, round, starved, parked, end, self.wheel.poll_timeout()].into_iter().flatten().min()
    }
}

impl<N: Net> Handler<N> for TcpLoad {
    fn on_event(&mut self, net: &mut N, event: Event) {
        match event {
            Event::Connected { owner, .. } => self.on_connected(net, Key::from_bits(owner)),
            Event::ConnectFailed { owner, step, errno, .. } => {
                self.on_connect_failed(net, Key::from_bits(owner), step, errno);
            }
            Event::Received { owner, buf, .. } => self.on_received(net, Key::from_bits(owner), buf),
            Event::Drained { owner, .. } => self.send_more(net, Key::from_bits(owner)),
            Event::Eof { owner, .. } => {
                self.end(net, Key::from_bits(owner), Reason::PeerClosed, Release::Clean);
            }
            Event::Failed { owner, errno, .. } => {
                self.end(net, Key::from_bits(owner), Reason::Broken(errno), Release::Clean);
            }
            Event::Closed { owner } => self.on_closed(net, Key::from_bits(owner)),
            // A load neither listens, finishes nor splices.
            Event::Accepted { sock, .. } => net.close(sock, Close::Reset),
            Event::AcceptFailed { .. } | Event::Finished { .. } | Event::Unspliced { .. } => {}
        }
    }
}

impl<N: Net> App<N> for TcpLoad {
    type Mail = LoadMail;

    fn start(&mut self, net: &mut N) {
        let now_us = self.now_us();
        self.record.started_us = now_us;
        self.end_us = self.config.load.duration.map(|duration| now_us + duration.as_micros() as u64);
        let part = self.config.load.rate.map_or(0.0, |rate| self.part_of(rate));
        self.opening = Pace::new(now_us, part);
        self.start_due(net);
        self.next_ms = self.plan_next();
    }

    fn on_mail(&mut self, net: &mut N, mail: LoadMail) {
        match mail {
            LoadMail::Release(count) => self.release_some(net, count),
            LoadMail::Open(count) => self.quota += count,
            LoadMail::CheckEach => self.checking = Some(0),
            LoadMail::VerifyAt(rate) => self.verify_at(rate),
            LoadMail::Stop => self.begin_close(net),
        }
    }

    fn on_turn(&mut self, net: &mut N) {
        self.fire_timers(net);
        if self.end_us.is_some_and(|end| end <= self.now_us()) {
            self.begin_close(net);
        }
        self.close_some(net);
        self.retry_parked(net);
        self.start_due(net);
        self.begin_due_rounds(net);
        self.check_some(net);
        self.feed_starved(net);
        self.next_ms = self.plan_next();
        if self.is_over() {
            self.config.end = None;
        }
    }

    fn poll_timeout(&self) -> Option<Millis> {
        self.next_ms
    }

    fn is_finished(&self) -> bool {
        self.is_over()
    }
}

fn millis(duration: Duration) -> Millis {
    duration.as_millis() as Millis
}
