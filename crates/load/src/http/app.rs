//! The load of one shard.
//!
//! ```text
//! Connecting ──Connected──► (Handshaking) ──► Idle ──request──► Waiting ──answer──► Idle
//!  │ ▲ ▲  │ tuple taken          │              │ peer leaves      │ └─close announced─► Parting
//!  ▼ │ │  ▼                      │ failed       ▼                  ▼ lost                 │ FIN
//! Parked Retrying              Closing ──Closed──► connects again, rests, or is gone ◄─────┘
//! ```
//! A client outlives its connections. Where every request has a connection of its own, an idle client has none.

mod check;
mod close;
mod exchange;
mod open;

use super::answer::{Expected, Outgoing, Reader, id, request_head};
use super::measure::{HttpCounters, Kind, Loss, Record};
use super::{HttpConfig, HttpMail, Pace, Protocol, Verify};
use crate::message::Message;
use crate::pace::Pace as Schedule;
use crate::tcp::share;
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
/// When buffers have run out, a client looks for one again after this.
const BUFFER_RETRY_MS: Millis = 2;
/// How often a shard that is ready looks whether the others are.
const SETTLED_POLL_MS: Millis = 10;
/// How long the end of the load waits for requests that are under way.
pub const DRAIN_MS: Millis = 5_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Connecting,
    Handshaking,
    Idle,
    Waiting,
    /// Answered for the last time; the peer is to close first, so that TIME_WAIT is not ours.
    Parting,
    /// The tuple was somebody else's: another one once this socket is closed.
    Retrying,
    /// Without a socket until there is a free tuple.
    Parked,
    /// Without a socket after a failed connect.
    Resting,
    Closing,
}

/// What a client does once its socket is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum After {
    Gone,
    Reconnect,
    Rest,
    /// Idle without a connection.
    Free,
}

/// How far a connection is in [`HttpMail::CheckEach`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Check {
    Due,
    UnderWay,
    Done,
}

struct Client {
    sock: Sock,
    lease: Option<Lease>,
    number: u32,
    /// Of the present request or message.
    round: u32,
    /// Bytes of it that have been handed to the engine.
    sent: u64,
    reader: Reader,
    /// When the present request was intended.
    intended_us: u64,
    connecting_since_us: u64,
    /// Answers on the present connection.
    served: u32,
    attempts: u16,
    phase: Phase,
    after: After,
    check: Check,
    /// How the tuple comes back.
    ending: Release,
    /// The present request is one of the POSTs among others.
    post: bool,
    /// A request is under way that waits for this client's connection.
    attached: bool,
    settled: bool,
    /// In the queue of idle clients.
    queued: bool,
}

pub(crate) struct ShardConfig {
    pub load: HttpConfig,
    pub index: usize,
    pub shards: usize,
    pub slots: usize,
    /// Connections under way at a time.
    pub pending_max: u32,
    pub slice: Option<Slice>,
    pub counters: Arc<HttpCounters>,
    /// Of every shard, this one included: the schedule begins for all at once.
    pub everyone: Vec<Arc<HttpCounters>>,
    /// Dropped when the load of this shard is over, or its thread has died.
    pub end: Option<Sender<()>>,
    pub clock_us: fn() -> u64,
}

/// The app of one shard.
pub struct HttpLoad {
    config: ShardConfig,
    clients: Slab<Client>,
    wheel: Wheel,
    due: Vec<u32>,
    record: Record,
    /// A request, or a message.
    outgoing: Outgoing,
    /// A POST among other requests.
    posted: Outgoing,
    /// The head of a WebSocket's handshake without the key.
    handshake: Vec<u8>,
    quota: u64,
    created: u64,
    pending: u32,
    opening: Option<Schedule>,
    /// Requests that may still be started.
    budget: u64,
    schedule: Option<Schedule>,
    /// Every shard's connections are there, and the duration runs.
    has_begun: bool,
    /// Requests started by the schedule.
    begun: u64,
    /// The slot at which checking each connection goes on.
    checking: Option<u32>,
    checks_under_way: u32,
    verifying: Option<Schedule>,
    verifications_begun: u64,
    rng: Prng,
    idle: VecDeque<Key>,
    parked: VecDeque<Key>,
    parked_until: Millis,
    starved: Vec<Key>,
    starved_until: Millis,
    end_us: Option<u64>,
    /// Nothing more is started; closing begins at the latest then.
    draining_until: Option<Millis>,
    /// The slot at which closing goes on.
    closing: Option<u32>,
    next_ms: Option<Millis>,
    input: Vec<u8>,
}

impl HttpLoad {
    pub(crate) fn new(config: ShardConfig) -> Self {
        let load = &config.load;
        let mixed = load.post_percent > 0;
        let plain_bytes = if mixed { 0 } else { load.body_bytes };
        let (outgoing, handshake) = match load.protocol {
            Protocol::Http => (Outgoing::request(load, &load.method, plain_bytes), Vec::new()),
            Protocol::WebSocket => {
                (Outgoing::message(load.body_bytes, load.seed), request_head(load, &load.method, 0))
            }
        };
        let posted = Outgoing::request(load, "POST", load.body_bytes);
        let budget = load.requests.map_or(u64::MAX, |total| share(total, config.index, config.shards));
        Self {
            clients: Slab::new(config.slots),
            wheel: Wheel::new((config.clock_us)() / 1000),
            due: Vec::new(),
            record: Record::new(),
            outgoing,
            posted,
            handshake,
            quota: share(load.connections, config.index, config.shards),
            created: 0,
            pending: 0,
            opening: None,
            budget,
            schedule: None,
            has_begun: false,
            begun: 0,
            checking: None,
            checks_under_way: 0,
            verifying: None,
            verifications_begun: 0,
            rng: Prng::new(load.seed ^ (config.index as u64) << 32),
            idle: VecDeque::new(),
            parked: VecDeque::new(),
            parked_until: 0,
            starved: Vec::new(),
            starved_until: 0,
            end_us: None,
            draining_until: None,
            closing: None,
            next_ms: None,
            input: Vec::new(),
            config,
        }
    }

    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    fn now_us(&self) -> u64 {
        (self.config.clock_us)()
    }

    fn counters(&self) -> &HttpCounters {
        &self.config.counters
    }

    /// This shard's part of a rate of the whole load.
    fn part_of(&self, rate: f64) -> f64 {
        rate * self.quota as f64 / self.config.load.connections as f64
    }

    fn is_draining(&self) -> bool {
        self.draining_until.is_some()
    }

    /// A lost connection of this load is a loss, and nothing replaces it.
    fn holds(&self) -> bool {
        self.config.load.pace == Pace::Hold || self.config.load.protocol == Protocol::WebSocket
    }

    fn expected(&self, client: &Client) -> Expected {
        let load = &self.config.load;
        let echo = (load.verify == Verify::Echo).then_some(self.outgoing(client).body_bytes);
        Expected {
            head_only: load.method == "HEAD" && !client.post,
            verify: load.verify,
            bytes: load.expect_bytes.or(echo),
            message: self.message(client),
        }
    }

    fn outgoing(&self, client: &Client) -> &Outgoing {
        if client.post { &self.posted } else { &self.outgoing }
    }

    /// Whether request number `n` of this shard is one of the POSTs.
    fn is_post(&self, n: u64) -> bool {
        let percent = u64::from(self.config.load.post_percent);
        (n + 1) * percent / 100 > n * percent / 100
    }

    fn kind(&mut self, post: bool) -> &mut Kind {
        if post { &mut self.record.posts } else { &mut self.record.others }
    }

    /// A request that was not answered as it should have been.
    fn name_lost(&mut self, key: Key, why: String) {
        let now_us = self.now_us();
        let Some(client) = self.clients.get(key).filter(|_| self.config.load.identify) else { return };
        let method = if client.post { "POST" } else { &self.config.load.method };
        let loss = Loss {
            id: id(&self.message(client)),
            method: method.to_owned(),
            why,
            age_us: now_us.saturating_sub(client.intended_us),
        };
        self.record.add_loss(loss);
    }

    fn message(&self, client: &Client) -> Message {
        Message { seed: self.config.load.seed, number: u64::from(client.number), round: client.round }
    }

    fn scheduled_rate(&self) -> Option<f64> {
        let load = &self.config.load;
        match load.pace {
            Pace::Rate(rate) => Some(rate),
            Pace::Interval(interval) => Some(load.connections as f64 / interval.as_secs_f64()),
            Pace::Closed | Pace::Hold => None,
        }
    }

    /// The schedule and the duration begin once every connection is there or has failed.
    fn begin_schedule(&mut self) {
        if self.has_begun || self.config.load.pace == Pace::Closed || !self.all_settled() {
            return;
        }
        self.has_begun = true;
        let now_us = self.now_us();
        self.schedule = self.scheduled_rate().and_then(|rate| Schedule::new(now_us, self.part_of(rate)));
        self.set_end(now_us);
    }

    fn all_settled(&self) -> bool {
        let settled: u64 = self.config.everyone.iter().map(|shard| shard.settled.get()).sum();
        settled >= self.config.load.connections
    }

    fn set_end(&mut self, from_us: u64) {
        self.end_us = self.config.load.duration.map(|duration| from_us + duration.as_micros() as u64);
    }

    fn fire_timers<N: Net>(&mut self, net: &mut N) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(net.now(), &mut due);
        for slot in due.drain(..) {
            if let Some(key) = self.clients.key_at(slot) {
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
            return (slot < self.clients.slots()).then_some(0);
        }
        let start = self.may_create().then(|| self.opening.map_or(0, |opening| opening.due_ms(self.created)));
        let may_begin = !self.idle.is_empty() && !self.is_draining() && self.budget > 0;
        let begin = self.schedule.filter(|_| may_begin).map(|schedule| schedule.due_ms(self.begun));
        let verify = self.verifying.filter(|_| !self.is_draining());
        let verify = verify.map(|schedule| schedule.due_ms(self.verifications_begun));
        let starved = (!self.starved.is_empty()).then_some(self.starved_until);
        let parked = (!self.parked.is_empty()).then_some(self.parked_until);
        let end = self.end_us.filter(|_| !self.is_draining()).map(|us| us.div_ceil(1000));
        let wheel = self.wheel.poll_timeout();
        // Other shards do not say when they are ready.
        let waits = !self.has_begun && !self.is_draining() && self.config.load.pace != Pace::Closed;
        let settled = (waits && self.counters().settled.get() >= self.quota)
            .then(|| self.now_us() / 1000 + SETTLED_POLL_MS);
        [settled, start, begin, verify, starved, parked, end, self.draining_until, wheel]
            .into_iter()
            .flatten()
            .min()
    }
}

impl<N: Net> Handler<N> for HttpLoad {
    fn on_event(&mut self, net: &mut N, event: Event) {
        match event {
            Event::Connected { owner, .. } => self.on_connected(net, Key::from_bits(owner)),
            Event::ConnectFailed { owner, step, errno, .. } => {
                self.on_connect_failed(net, Key::from_bits(owner), step, errno);
            }
            Event::Received { owner, buf, .. } => self.on_received(net, Key::from_bits(owner), buf),
            Event::Drained { owner, .. } => self.send_more(net, Key::from_bits(owner)),
            Event::Eof { owner, .. } => self.on_end(net, Key::from_bits(owner), None),
            Event::Failed { owner, errno, .. } => self.on_end(net, Key::from_bits(owner), Some(errno)),
            Event::Closed { owner } => self.on_closed(net, Key::from_bits(owner)),
            // A load neither listens, finishes nor splices.
            Event::Accepted { sock, .. } => net.close(sock, Close::Reset),
            Event::AcceptFailed { .. } | Event::Finished { .. } | Event::Unspliced { .. } => {}
        }
    }
}

impl<N: Net> App<N> for HttpLoad {
    type Mail = HttpMail;

    fn start(&mut self, net: &mut N) {
        let now_us = self.now_us();
        if self.config.load.pace == Pace::Closed {
            self.set_end(now_us);
        }
        let part = self.config.load.connect_rate.map_or(0.0, |rate| self.part_of(rate));
        self.opening = Schedule::new(now_us, part);
        self.create_due(net);
        // Clients that connect for each request are all there already.
        self.next_ms = Some(0);
    }

    fn on_mail(&mut self, net: &mut N, mail: HttpMail) {
        match mail {
            HttpMail::CheckEach => self.checking = Some(0),
            HttpMail::VerifyAt(rate) => self.verify_at(rate),
            HttpMail::Stop => self.begin_drain(net),
        }
    }

    fn on_turn(&mut self, net: &mut N) {
        self.fire_timers(net);
        self.retry_parked(net);
        self.create_due(net);
        self.begin_schedule();
        self.begin_due(net);
        self.check_some(net);
        self.verify_due(net);
        self.feed_starved(net);
        if self.end_us.is_some_and(|end| end <= self.now_us()) || self.is_spent() {
            self.begin_drain(net);
        }
        self.close_when_drained(net);
        self.close_some(net);
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
