//! What shards write for each answer and read for each pick.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use fourfold_base::Millis;

use super::Outcome;
use super::outlier::{Reason, Streaks};

/// One per pool, shared by all shards.
#[derive(Debug)]
pub struct Board {
    streaks: Streaks,
    servers: Vec<Tally>,
    /// So few servers are usable that all of them are used, but those whose breaker is open.
    panicking: AtomicBool,
}

/// What a shard has seen that [`Health`](super::Health) has to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// So many errors one after the other.
    Streak(Reason),
    /// Enough errors that the breaker may have to open.
    Errors,
    /// A probe of a half-open breaker was answered.
    Probe { ok: bool },
    /// No way to the server, from some source.
    Unreachable,
    /// By a source that had failed to, or by one whose number is like that one's.
    Reached,
}

/// Why a server is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// Its check fails.
    Down,
    Ejected,
    Open,
    /// A few requests try it.
    HalfOpen,
}

/// A line of the cache: servers do not disturb each other.
#[derive(Debug)]
#[repr(align(64))]
struct Tally {
    /// Why the server is not to be used: bits of [`Mark`]. Mostly 0.
    marks: AtomicU32,
    /// Attempts that a half-open breaker still lets through.
    probes: AtomicU32,
    /// Three lengths of streaks, 16 bits each. Mostly 0.
    streaks: AtomicU64,
    good: AtomicU64,
    bad: AtomicU64,
    /// At so many bad ones the breaker wants to be asked.
    ask_at: AtomicU64,
    latency_us: AtomicU64,
    reached_at: AtomicU64,
    /// Sources that failed to reach it, a bit for those of equal number modulo 64. Mostly 0.
    doubted: AtomicU64,
}

const _: () = assert!(size_of::<Tally>() == 64);

/// Bits of a server's marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(u32);

impl Mark {
    /// The active check says so.
    pub const DOWN: Mark = Mark(1);
    pub const EJECTED: Mark = Mark(1 << 1);
    pub const OPEN: Mark = Mark(1 << 2);
    /// Usable for as many attempts as there are probes.
    pub const HALF_OPEN: Mark = Mark(1 << 3);
    const BARRED: u32 = Mark::DOWN.0 | Mark::EJECTED.0 | Mark::OPEN.0;
}

/// Since the beginning. Differences are what counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub good: u64,
    pub bad: u64,
    pub latency_us: u64,
}

impl Counts {
    pub fn since(self, before: Counts) -> Counts {
        Counts {
            good: self.good.wrapping_sub(before.good),
            bad: self.bad.wrapping_sub(before.bad),
            latency_us: self.latency_us.wrapping_sub(before.latency_us),
        }
    }

    pub fn total(self) -> u64 {
        self.good + self.bad
    }
}

impl Board {
    #[must_use]
    pub fn new(servers: usize, streaks: Streaks) -> Board {
        Board { streaks, servers: (0..servers).map(|_| Tally::new()).collect(), panicking: false.into() }
    }

    /// Whether a pick may take it. Two loads, mostly of 0.
    #[must_use]
    pub fn is_usable(&self, server: usize) -> bool {
        let Some(tally) = self.servers.get(server) else { return false };
        let marks = tally.marks.load(Relaxed);
        if marks & (Mark::BARRED | Mark::HALF_OPEN.0) == 0 {
            return true;
        }
        // Panic doubts checks and comparisons. A breaker has seen the requests fail.
        let passes = match marks & (Mark::OPEN.0 | Mark::HALF_OPEN.0) {
            0 => true,
            half_open if half_open == Mark::HALF_OPEN.0 => tally.probes.load(Relaxed) > 0,
            _ => false,
        };
        passes && (marks & (Mark::DOWN.0 | Mark::EJECTED.0) == 0 || self.is_panicking())
    }

    /// Why it is not used, or only tried; the first of several reasons that holds.
    #[must_use]
    pub fn bar(&self, server: usize) -> Option<Bar> {
        let tally = self.servers.get(server)?;
        let bars = [
            (Mark::DOWN, Bar::Down),
            (Mark::OPEN, Bar::Open),
            (Mark::HALF_OPEN, Bar::HalfOpen),
            (Mark::EJECTED, Bar::Ejected),
        ];
        bars.into_iter().find(|(mark, _)| tally.has(*mark)).map(|(_, bar)| bar)
    }

    /// To be asked once a server is picked: a half-open breaker lets only so many attempts through. Each that is
    /// admitted has to be recorded, whatever comes of it.
    #[must_use]
    pub fn admit(&self, server: usize) -> bool {
        let Some(tally) = self.servers.get(server) else { return false };
        let take = |left: u32| left.checked_sub(1);
        self.is_usable(server)
            && (!tally.has(Mark::HALF_OPEN) || tally.probes.fetch_update(Relaxed, Relaxed, take).is_ok())
    }

    /// A new connection from the source address of this number has come about. Answers on old ones do not show
    /// that there is still a way. `Some`: tell [`Health`](super::Health).
    #[must_use]
    pub fn connected(&self, server: usize, source: u32, now: Millis) -> Option<Notice> {
        let tally = self.servers.get(server)?;
        tally.reached_at.store(now, Relaxed);
        let is_doubted = tally.doubted.load(Relaxed) & source_bit(source) != 0;
        is_doubted.then_some(Notice::Reached)
    }

    /// What came of an attempt to connect or, in a protocol that has them, of a request. `Some`: tell
    /// [`Health`](super::Health).
    #[must_use]
    pub fn record(&self, server: usize, outcome: Outcome, latency_us: u64) -> Option<Notice> {
        let tally = self.servers.get(server)?;
        match outcome {
            Outcome::Success => {
                tally.succeed(latency_us);
                tally.probe_is_good()
            }
            Outcome::Answering => tally.probe_is_good(),
            Outcome::Answered => {
                tally.succeed(latency_us);
                None
            }
            Outcome::ServerError | Outcome::GatewayError | Outcome::NoAnswer | Outcome::Broken => {
                tally.fail(outcome, self.streaks)
            }
            // Whose fault it is, is found out first.
            Outcome::Unreachable => Some(Notice::Unreachable),
            Outcome::Shortage => {
                tally.give_probe_back();
                None
            }
        }
    }

    #[must_use]
    pub fn is_panicking(&self) -> bool {
        self.panicking.load(Relaxed)
    }

    /// It is the server that cannot be reached.
    pub(super) fn count_unreachable(&self, server: usize) -> Option<Notice> {
        self.servers.get(server)?.fail(Outcome::Unreachable, self.streaks)
    }

    /// The attempt has said nothing about the server.
    pub(super) fn give_probe_back(&self, server: usize) {
        if let Some(tally) = self.servers.get(server) {
            tally.give_probe_back();
        }
    }

    /// By the numbers of sources modulo 64.
    pub(super) fn set_doubted(&self, server: usize, sources: u64) {
        if let Some(tally) = self.servers.get(server) {
            tally.doubted.store(sources, Relaxed);
        }
    }

    pub(super) fn set_panicking(&self, panicking: bool) {
        self.panicking.store(panicking, Relaxed);
    }

    pub(super) fn len(&self) -> usize {
        self.servers.len()
    }

    pub(super) fn set(&self, server: usize, mark: Mark, on: bool) {
        let Some(tally) = self.servers.get(server) else { return };
        match on {
            true => tally.marks.fetch_or(mark.0, Relaxed),
            false => tally.marks.fetch_and(!mark.0, Relaxed),
        };
    }

    pub(super) fn has(&self, server: usize, mark: Mark) -> bool {
        self.servers.get(server).is_some_and(|tally| tally.has(mark))
    }

    pub(super) fn is_barred(&self, server: usize) -> bool {
        self.servers.get(server).is_some_and(|tally| tally.marks.load(Relaxed) & Mark::BARRED != 0)
    }

    pub(super) fn set_probes(&self, server: usize, probes: u32) {
        if let Some(tally) = self.servers.get(server) {
            tally.probes.store(probes, Relaxed);
        }
    }

    pub(super) fn ask_at(&self, server: usize, bad: u64) {
        if let Some(tally) = self.servers.get(server) {
            tally.ask_at.store(bad, Relaxed);
        }
    }

    pub(super) fn forget_streaks(&self, server: usize) {
        if let Some(tally) = self.servers.get(server) {
            tally.streaks.store(0, Relaxed);
        }
    }

    /// When it last answered anybody.
    #[must_use]
    pub fn reached_at(&self, server: usize) -> Option<Millis> {
        let at = self.servers.get(server)?.reached_at.load(Relaxed);
        (at != NEVER).then_some(at)
    }

    pub(super) fn counts(&self, server: usize) -> Counts {
        let counts = |tally: &Tally| Counts {
            good: tally.good.load(Relaxed),
            bad: tally.bad.load(Relaxed),
            latency_us: tally.latency_us.load(Relaxed),
        };
        self.servers.get(server).map(counts).unwrap_or_default()
    }
}

pub(super) fn source_bit(source: u32) -> u64 {
    1 << (source % u64::BITS)
}

const NEVER: Millis = Millis::MAX;

impl Tally {
    fn new() -> Tally {
        Tally {
            marks: 0.into(),
            probes: 0.into(),
            streaks: 0.into(),
            good: 0.into(),
            bad: 0.into(),
            ask_at: u64::MAX.into(),
            latency_us: 0.into(),
            reached_at: NEVER.into(),
            doubted: 0.into(),
        }
    }

    fn give_probe_back(&self) {
        if self.has(Mark::HALF_OPEN) {
            self.probes.fetch_add(1, Relaxed);
        }
    }

    fn has(&self, mark: Mark) -> bool {
        self.marks.load(Relaxed) & mark.0 != 0
    }

    fn succeed(&self, latency_us: u64) {
        if self.streaks.load(Relaxed) != 0 {
            self.streaks.store(0, Relaxed);
        }
        self.good.fetch_add(1, Relaxed);
        self.latency_us.fetch_add(latency_us, Relaxed);
    }

    /// A half-open breaker waits for the answer, not for its end: that of an event stream may never come.
    fn probe_is_good(&self) -> Option<Notice> {
        self.has(Mark::HALF_OPEN).then_some(Notice::Probe { ok: true })
    }

    fn fail(&self, outcome: Outcome, limits: Streaks) -> Option<Notice> {
        let bad = self.bad.fetch_add(1, Relaxed) + 1;
        let streak = self.extend(outcome, limits);
        let marks = self.marks.load(Relaxed);
        if marks & Mark::HALF_OPEN.0 != 0 {
            return Some(Notice::Probe { ok: false });
        }
        // What was on its way when the server was barred says nothing new.
        if marks & Mark::BARRED != 0 {
            return None;
        }
        let errors = (bad >= self.ask_at.load(Relaxed)).then_some(Notice::Errors);
        streak.map(Notice::Streak).or(errors)
    }

    /// A streak that has reached its limit begins anew: one shard is told, and once.
    fn extend(&self, outcome: Outcome, limits: Streaks) -> Option<Reason> {
        let mut reached = None;
        let update = |packed| {
            let mut lanes = Lanes::unpack(packed);
            reached = lanes.extend(outcome, limits);
            Some(lanes.pack())
        };
        let _ = self.streaks.fetch_update(Relaxed, Relaxed, update);
        reached
    }
}

/// The present lengths: of errors of any kind, of those that are not the server's own, of failures to reach it.
struct Lanes([u16; 3]);

impl Lanes {
    fn unpack(packed: u64) -> Lanes {
        Lanes([packed as u16, (packed >> 16) as u16, (packed >> 32) as u16])
    }

    fn pack(self) -> u64 {
        let [errors, gateway, unreachable] = self.0.map(u64::from);
        errors | gateway << 16 | unreachable << 32
    }

    /// An error of one kind belongs to the wider kinds too, and ends the streaks of the narrower ones.
    fn extend(&mut self, outcome: Outcome, limits: Streaks) -> Option<Reason> {
        let width = match outcome {
            Outcome::Unreachable => 3,
            Outcome::GatewayError | Outcome::NoAnswer | Outcome::Broken => 2,
            _ => 1,
        };
        let limits = [
            (limits.errors, Reason::Errors),
            (limits.gateway_errors, Reason::GatewayErrors),
            (limits.unreachable, Reason::Unreachable),
        ];
        let mut reached = None;
        for (lane, (length, (limit, reason))) in self.0.iter_mut().zip(limits).enumerate() {
            *length = if lane < width { length.saturating_add(1) } else { 0 };
            if limit > 0 && *length >= limit {
                *length = 0;
                reached = Some(reason);
            }
        }
        reached
    }
}
