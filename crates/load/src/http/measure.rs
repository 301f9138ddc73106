//! What a load over HTTP has seen: live counters, histograms, what was lost and how far it had come, and the report.

use super::answer::Fault;
use crate::latency::{Latencies, Latency, per_second, seconds};
use fourfold_sys::Errno;
use fourfold_sys::socket::Step;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

fourfold_base::counters! {
    /// Of one shard.
    pub struct HttpCounters {
        settled: "Connections that were made and, where that is asked, proven, or have failed, for the first time",
        pending: "Connections that are being made, or that are to be held and not yet proven",
        opened: "Connections made",
        connect_failed: "Connections that could not be made",
        held: "Connections open now",
        checked: "Of those, the ones verified again since every connection was to be",
        connect_us: "Sum of the times from the intended start to the connection made",
        verify_us: "Sum of the times from the intended start until a connection that is held was proven",
        lost: "Connections that were to be held and then ended by the peer or an error",
        closed_idle: "Idle connections that the peer closed, as it may; others were opened",
        started: "Requests or messages started",
        in_flight: "Requests or messages under way",
        answered: "Requests or messages answered whole and right",
        failed: "Requests or messages that were not",
        late: "Requests or messages that started more than a millisecond after they were intended",
        received_bytes: "Bytes received",
        tuple_retries: "Tuples that turned out to be held by another socket; another one was taken",
    }
}

/// A live sum over all shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct HttpSnapshot {
    pub wanted: u64,
    pub settled: u64,
    pub pending: u64,
    pub opened: u64,
    pub connect_failed: u64,
    pub held: u64,
    pub checked: u64,
    pub connect_us: u64,
    pub verify_us: u64,
    pub lost: u64,
    pub closed_idle: u64,
    pub started: u64,
    pub in_flight: u64,
    pub answered: u64,
    pub failed: u64,
    pub late: u64,
    pub received_bytes: u64,
    pub tuple_retries: u64,
    pub elapsed_s: f64,
}

impl HttpSnapshot {
    pub(crate) fn add(mut self, shard: &HttpCounters) -> Self {
        self.settled += shard.settled.get();
        self.pending += shard.pending.get();
        self.opened += shard.opened.get();
        self.connect_failed += shard.connect_failed.get();
        self.held += shard.held.get();
        self.checked += shard.checked.get();
        self.connect_us += shard.connect_us.get();
        self.verify_us += shard.verify_us.get();
        self.lost += shard.lost.get();
        self.closed_idle += shard.closed_idle.get();
        self.started += shard.started.get();
        self.in_flight += shard.in_flight.get();
        self.answered += shard.answered.get();
        self.failed += shard.failed.get();
        self.late += shard.late.get();
        self.received_bytes += shard.received_bytes.get();
        self.tuple_retries += shard.tuple_retries.get();
        self
    }
}

/// How far a request had come when it was lost: what decides whether it may have been carried out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// There was no connection to send it on.
    NeverSent,
    /// It was sent, at least in part, and no byte of an answer came.
    SentUnanswered,
    /// A part of the answer had come, or a wrong one.
    Answering,
}

/// Why a request or a connection was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    Connect(Step, Errno),
    ConnectTimeout,
    NoTuple,
    /// FIN in place of the answer.
    PeerClosed,
    /// The same, on a connection that had been used before: the peer took it for idle.
    PeerClosedReused,
    Broken(Errno),
    BrokenReused(Errno),
    Timeout,
    Fault(Fault),
    /// Bytes that nobody had asked for.
    Surplus,
    /// The answer to a WebSocket handshake.
    NotUpgraded(u16),
    WrongAccept,
    /// The load ended before it was answered.
    Unfinished,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(Step::Connect, errno) => write!(f, "connect: {errno}"),
            Self::Connect(Step::Bind, errno) => write!(f, "bind: {errno}"),
            Self::Connect(Step::Option, errno) => write!(f, "socket option: {errno}"),
            Self::Connect(Step::Socket, errno) => write!(f, "socket: {errno}"),
            Self::ConnectTimeout => f.write_str("connect timeout"),
            Self::NoTuple => f.write_str("no free tuple"),
            Self::PeerClosed => f.write_str("closed by the peer"),
            Self::PeerClosedReused => f.write_str("closed by the peer on reuse"),
            Self::Broken(errno) => write!(f, "broken: {errno}"),
            Self::BrokenReused(errno) => write!(f, "broken on reuse: {errno}"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Fault(Fault::Malformed(why)) => write!(f, "malformed: {why}"),
            Self::Fault(Fault::WrongBody) => f.write_str("wrong body"),
            Self::Fault(Fault::WrongLength) => f.write_str("wrong length"),
            Self::Fault(Fault::Goodbye) => f.write_str("websocket closed by the peer"),
            Self::Surplus => f.write_str("bytes that nobody asked for"),
            Self::NotUpgraded(status) => write!(f, "not upgraded: status {status}"),
            Self::WrongAccept => f.write_str("not upgraded: wrong Sec-WebSocket-Accept"),
            Self::Unfinished => f.write_str("unfinished"),
        }
    }
}

/// Counts by what they are of; there are few.
pub(crate) struct Counts<T>(Vec<(T, u64)>);

impl<T: PartialEq + Copy> Counts<T> {
    pub fn new() -> Self {
        Self(Vec::new())
    }

    pub fn add(&mut self, what: T) {
        match self.0.iter_mut().find(|(known, _)| *known == what) {
            Some((_, count)) => *count += 1,
            None => self.0.push((what, 1)),
        }
    }

    fn sum_into(&self, sum: &mut BTreeMap<String, u64>, name: impl Fn(T) -> String) {
        for (what, count) in &self.0 {
            *sum.entry(name(*what)).or_default() += count;
        }
    }
}

/// What became of requests of one method, or of messages.
pub(crate) struct Kind {
    pub answered: u64,
    pub latency: Latencies,
    pub statuses: Counts<u16>,
    pub failed: Counts<(Stage, Cause)>,
}

impl Kind {
    fn new() -> Self {
        Self { answered: 0, latency: Latencies::new(3), statuses: Counts::new(), failed: Counts::new() }
    }

    fn report<'a>(records: impl Iterator<Item = &'a Self>) -> MethodReport {
        let (mut latency, mut sum) = (Latencies::new(3), MethodReport::default());
        for record in records {
            sum.answered += record.answered;
            latency.add(&record.latency);
            record.statuses.sum_into(&mut sum.statuses, |status| status.to_string());
            sum.failed += record.failed.0.iter().map(|(_, count)| count).sum::<u64>();
        }
        sum.latency_us = latency.summary();
        sum
    }
}

/// Requests of one method.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MethodReport {
    pub answered: u64,
    pub failed: u64,
    pub statuses: BTreeMap<String, u64>,
    pub latency_us: Latency,
}

/// A request that was answered with an error, or not at all.
#[derive(Clone, Debug, Serialize)]
pub struct Loss {
    pub id: String,
    pub method: String,
    /// The status, or what happened.
    pub why: String,
    pub age_us: u64,
}

/// Lost requests of a shard that are named; the others are counted.
const LOSSES_MAX: usize = 1_000;

/// What one shard has recorded.
pub(crate) struct Record {
    pub connect: Latencies,
    pub posts: Kind,
    /// All that are not POSTs among others.
    pub others: Kind,
    pub losses: Vec<Loss>,
    pub connect_failed: Counts<Cause>,
    pub lost: Counts<Cause>,
    /// Requests that were due and never started, for want of a free connection.
    pub not_started: u64,
    /// Open when the load began to close.
    pub held: u64,
    pub checked: u64,
    /// When the first request could have started.
    pub started_us: u64,
    pub ended_us: u64,
}

impl Record {
    pub fn new() -> Self {
        Self {
            connect: Latencies::new(3),
            posts: Kind::new(),
            others: Kind::new(),
            losses: Vec::new(),
            connect_failed: Counts::new(),
            lost: Counts::new(),
            not_started: 0,
            held: 0,
            checked: 0,
            started_us: u64::MAX,
            ended_us: 0,
        }
    }

    pub fn add_loss(&mut self, loss: Loss) {
        if self.losses.len() < LOSSES_MAX {
            self.losses.push(loss);
        }
    }
}

/// What a load came to. Times are microseconds unless the name says otherwise. A request counts from when it was intended;
/// one that was lost or never started counts with its age.
#[derive(Clone, Debug, Serialize)]
pub struct HttpReport {
    pub target: SocketAddr,
    pub host: String,
    pub path: String,
    pub engine: String,
    pub shards: usize,
    /// Connections asked for.
    pub connections: u64,
    /// Connections made, those that replaced others included.
    pub opened: u64,
    pub connect_failed: u64,
    pub connect_failed_by: BTreeMap<String, u64>,
    /// Open when the load began to close.
    pub held: u64,
    /// Of those, the ones answered again after [`super::RunningHttpLoad::check_each`].
    pub checked: u64,
    /// To be held, and then ended by the peer or an error.
    pub lost: u64,
    pub lost_by: BTreeMap<String, u64>,
    pub closed_idle: u64,
    /// Requests or messages.
    pub started: u64,
    pub answered: u64,
    pub statuses: BTreeMap<String, u64>,
    /// Started and not answered as they should have been.
    pub failed: u64,
    pub never_sent: u64,
    pub sent_unanswered: u64,
    pub answering: u64,
    pub failed_by: BTreeMap<String, u64>,
    /// Started more than a millisecond after they were intended.
    pub late: u64,
    /// Due, and never started.
    pub not_started: u64,
    pub received_bytes: u64,
    pub tuple_retries: u64,
    pub connect_us: Latency,
    pub latency_us: Latency,
    /// The same by method.
    pub methods: BTreeMap<String, MethodReport>,
    /// Requests with ids that were lost or answered with an error.
    pub losses: Vec<Loss>,
    pub requests_per_s: f64,
    pub duration_s: f64,
}

impl HttpReport {
    pub(crate) fn new<'a>(
        config: &super::HttpConfig,
        (engine, shards): (String, usize),
        records: impl Iterator<Item = &'a Record> + Clone,
        live: &HttpSnapshot,
    ) -> Self {
        let (mut connect, mut latency) = (Latencies::new(3), Latencies::new(3));
        let (mut statuses, mut failed_by, mut connect_failed_by, mut lost_by) =
            (BTreeMap::new(), BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut stages = [0; 3];
        let (mut not_started, mut held, mut checked, mut started_us, mut ended_us) = (0, 0, 0, u64::MAX, 0);
        let mut methods = BTreeMap::from([(
            config.method.clone(),
            Kind::report(records.clone().map(|record| &record.others)),
        )]);
        if config.post_percent > 0 {
            methods.insert("POST".into(), Kind::report(records.clone().map(|record| &record.posts)));
        }
        let losses = records.clone().flat_map(|record| record.losses.iter().cloned()).collect();
        for kind in records.clone().flat_map(|record| [&record.others, &record.posts]) {
            latency.add(&kind.latency);
            kind.statuses.sum_into(&mut statuses, |status| status.to_string());
            kind.failed.sum_into(&mut failed_by, |(_, cause)| cause.to_string());
            for ((stage, _), count) in &kind.failed.0 {
                stages.iter_mut().skip(*stage as usize).take(1).for_each(|sum| *sum += count);
            }
        }
        for record in records {
            connect.add(&record.connect);
            record.connect_failed.sum_into(&mut connect_failed_by, |cause| cause.to_string());
            record.lost.sum_into(&mut lost_by, |cause| cause.to_string());
            (not_started, held) = (not_started + record.not_started, held + record.held);
            checked += record.checked;
            (started_us, ended_us) = (started_us.min(record.started_us), ended_us.max(record.ended_us));
        }
        let duration_s = seconds(started_us, ended_us);
        let [never_sent, sent_unanswered, answering] = stages;
        Self {
            target: config.target,
            host: config.host.clone(),
            path: config.path.clone(),
            engine,
            shards,
            connections: config.connections,
            opened: live.opened,
            connect_failed: live.connect_failed,
            connect_failed_by,
            held,
            checked,
            lost: live.lost,
            lost_by,
            closed_idle: live.closed_idle,
            started: live.started,
            answered: live.answered,
            statuses,
            failed: live.failed,
            never_sent,
            sent_unanswered,
            answering,
            failed_by,
            late: live.late,
            not_started,
            received_bytes: live.received_bytes,
            tuple_retries: live.tuple_retries,
            connect_us: connect.summary(),
            latency_us: latency.summary(),
            methods,
            losses,
            requests_per_s: per_second(live.answered, duration_s),
            duration_s,
        }
    }

    /// Everything that was started was answered, with a status below 400, and nothing that was to be held was lost.
    pub fn is_clean(&self) -> bool {
        let refused = self.statuses.keys().any(|status| status.as_str() >= "400");
        !refused && self.failed + self.connect_failed + self.lost + self.not_started == 0
    }
}
