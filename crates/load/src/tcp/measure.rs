//! What a load has seen: live counters, histograms, reasons, and the report made of them.

use crate::latency::{Latencies, Latency, per_second, seconds};
use fourfold_sys::Errno;
use fourfold_sys::socket::Step;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

fourfold_base::counters! {
    /// Of one shard.
    pub struct LoadCounters {
        started: "Connections started",
        pending: "Connections that are being made, or whose first token is not back",
        opened: "Connections that were made",
        verified: "Connections whose first token came back right",
        held: "Connections that are open and verified now",
        checked: "Of those, the ones verified again since every connection was to be",
        connect_us: "Sum of the times from the intended start to the connection made",
        verify_us: "Sum of the times from the intended start to the first token's return",
        failed: "Connections that failed before they were verified",
        lost: "Connections that were held and then ended by the peer or an error",
        released: "Connections that were closed because the user or the work asked for it",
        rounds: "Messages that came back right after the first one",
        wrong_bytes: "Bytes that came back wrong, or that nobody had sent",
        tuple_retries: "Tuples that turned out to be held by another socket; another one was taken",
    }
}

/// A live sum over all shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Snapshot {
    pub wanted: u64,
    pub started: u64,
    pub pending: u64,
    pub opened: u64,
    pub verified: u64,
    pub held: u64,
    pub checked: u64,
    pub connect_us: u64,
    pub verify_us: u64,
    pub failed: u64,
    pub lost: u64,
    pub released: u64,
    pub rounds: u64,
    pub wrong_bytes: u64,
    pub tuple_retries: u64,
    pub elapsed_s: f64,
}

impl Snapshot {
    pub(crate) fn add(mut self, shard: &LoadCounters) -> Self {
        self.started += shard.started.get();
        self.pending += shard.pending.get();
        self.opened += shard.opened.get();
        self.verified += shard.verified.get();
        self.held += shard.held.get();
        self.checked += shard.checked.get();
        self.connect_us += shard.connect_us.get();
        self.verify_us += shard.verify_us.get();
        self.failed += shard.failed.get();
        self.lost += shard.lost.get();
        self.released += shard.released.get();
        self.rounds += shard.rounds.get();
        self.wrong_bytes += shard.wrong_bytes.get();
        self.tuple_retries += shard.tuple_retries.get();
        self
    }
}

/// Why a connection failed or was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    Connect(Step, Errno),
    ConnectTimeout,
    EchoTimeout,
    PeerClosed,
    Broken(Errno),
    WrongBytes,
    NoTuple,
    /// The load ended before the connection was verified.
    Unfinished,
    /// The load ended before the connection was started.
    NotStarted,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(Step::Connect, errno) => write!(f, "connect: {errno}"),
            Self::Connect(Step::Bind, errno) => write!(f, "bind: {errno}"),
            Self::Connect(Step::Option, errno) => write!(f, "socket option: {errno}"),
            Self::Connect(Step::Socket, errno) => write!(f, "socket: {errno}"),
            Self::ConnectTimeout => f.write_str("connect timeout"),
            Self::EchoTimeout => f.write_str("no echo in time"),
            Self::PeerClosed => f.write_str("closed by the peer"),
            Self::Broken(errno) => write!(f, "broken: {errno}"),
            Self::WrongBytes => f.write_str("wrong bytes"),
            Self::NoTuple => f.write_str("no free tuple"),
            Self::Unfinished => f.write_str("unfinished"),
            Self::NotStarted => f.write_str("not started"),
        }
    }
}

/// Counts by reason; there are few.
#[derive(Default)]
pub(crate) struct Tally(Vec<(Reason, u64)>);

impl Tally {
    pub fn add(&mut self, reason: Reason, n: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += n,
            None if n > 0 => self.0.push((reason, n)),
            None => {}
        }
    }

    pub fn count(&self, reason: Reason) -> u64 {
        self.0.iter().filter(|(known, _)| *known == reason).map(|(_, count)| count).sum()
    }

    fn sum_into(&self, sum: &mut BTreeMap<String, u64>) {
        for (reason, count) in &self.0 {
            *sum.entry(reason.to_string()).or_default() += count;
        }
    }
}

pub(crate) const DECILES: usize = 10;

/// What one shard has recorded.
pub(crate) struct Record {
    pub connect: Latencies,
    pub echo: Latencies,
    pub rounds: Latencies,
    pub deciles: [Latencies; DECILES],
    pub failed: Tally,
    pub lost: Tally,
    pub rounds_unfinished: u64,
    /// Held when the load began to close.
    pub held: u64,
    pub checked: u64,
    pub started_us: u64,
    pub last_verified_us: u64,
    pub first_round_us: u64,
    pub ended_us: u64,
}

impl Record {
    pub fn new() -> Self {
        Self {
            connect: Latencies::new(3),
            echo: Latencies::new(3),
            rounds: Latencies::new(3),
            deciles: std::array::from_fn(|_| Latencies::new(2)),
            failed: Tally::default(),
            lost: Tally::default(),
            rounds_unfinished: 0,
            held: 0,
            checked: 0,
            started_us: u64::MAX,
            last_verified_us: 0,
            first_round_us: u64::MAX,
            ended_us: 0,
        }
    }

    fn merge(&mut self, other: &Self) {
        self.connect.add(&other.connect);
        self.echo.add(&other.echo);
        self.rounds.add(&other.rounds);
        self.deciles.iter_mut().zip(&other.deciles).for_each(|(sum, other)| sum.add(other));
        self.rounds_unfinished += other.rounds_unfinished;
        self.held += other.held;
        self.checked += other.checked;
        self.started_us = self.started_us.min(other.started_us);
        self.last_verified_us = self.last_verified_us.max(other.last_verified_us);
        self.first_round_us = self.first_round_us.min(other.first_round_us);
        self.ended_us = self.ended_us.max(other.ended_us);
    }
}

/// What a load came to. Times are microseconds unless the name says otherwise; a late connection counts from when it was
/// intended, and one that never came is in the figures with its age at the end.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub target: SocketAddr,
    pub engine: String,
    pub shards: usize,
    /// Connections asked for.
    pub wanted: u64,
    /// Connections made.
    pub opened: u64,
    /// Connections whose first token came back right.
    pub verified: u64,
    /// Connections open and verified when the load ended and began to close them.
    pub held: u64,
    /// Of those, the ones verified again after [`super::RunningLoad::check_each`].
    pub checked: u64,
    pub failed: BTreeMap<String, u64>,
    pub failed_total: u64,
    /// Of the failed ones, those that were still under way at the end; their ages are in the figures.
    pub unfinished: u64,
    /// Held, and then ended by the peer or an error.
    pub lost: u64,
    pub lost_by: BTreeMap<String, u64>,
    /// Closed on request, or by the churn.
    pub released: u64,
    pub wrong_bytes: u64,
    pub tuple_retries: u64,
    /// From the intended start to the connection made.
    pub connect_us: Latency,
    /// From the first token sent to its echo.
    pub echo_us: Latency,
    /// Later messages: from the intended send to the whole echo.
    pub round_us: Latency,
    pub rounds: u64,
    pub rounds_unfinished: u64,
    pub rounds_per_s: f64,
    /// Medians of the time from the intended start to the verified echo, per tenth of the connections in order of start.
    pub decile_medians_us: [u64; DECILES],
    /// Verified connections per second, from the start to the last of them.
    pub rate_per_s: f64,
    /// From the start to the last verified connection.
    pub opening_s: f64,
    /// From the start until closing began.
    pub duration_s: f64,
}

impl Report {
    pub(crate) fn new<'a>(
        target: SocketAddr,
        engine: String,
        records: impl Iterator<Item = &'a Record>,
        live: &Snapshot,
    ) -> Self {
        let (mut all, mut shards) = (Record::new(), 0);
        let (mut failed, mut lost_by, mut unfinished) = (BTreeMap::new(), BTreeMap::new(), 0);
        for record in records {
            all.merge(record);
            record.failed.sum_into(&mut failed);
            record.lost.sum_into(&mut lost_by);
            unfinished += record.failed.count(Reason::Unfinished) + record.failed.count(Reason::NotStarted);
            shards += 1;
        }
        let opening_s = seconds(all.started_us, all.last_verified_us);
        let rounds_s = seconds(all.first_round_us, all.ended_us);
        Self {
            target,
            engine,
            shards,
            wanted: live.wanted,
            opened: live.opened,
            verified: live.verified,
            held: all.held,
            checked: all.checked,
            failed_total: failed.values().sum(),
            failed,
            unfinished,
            lost: live.lost,
            lost_by,
            released: live.released,
            wrong_bytes: live.wrong_bytes,
            tuple_retries: live.tuple_retries,
            connect_us: all.connect.summary(),
            echo_us: all.echo.summary(),
            round_us: all.rounds.summary(),
            rounds: live.rounds,
            rounds_unfinished: all.rounds_unfinished,
            rounds_per_s: per_second(live.rounds, rounds_s),
            decile_medians_us: std::array::from_fn(|i| all.deciles.get(i).map_or(0, Latencies::median)),
            rate_per_s: per_second(live.verified, opening_s),
            opening_s,
            duration_s: seconds(all.started_us, all.ended_us),
        }
    }
}
