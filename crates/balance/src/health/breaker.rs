//! Circuit breaker of one server.
//!
//! ```text
//!            too many errors of enough requests in the window
//!   Closed ────────────────────────────────────────────────────▶ Open
//!     ▲                                            any failure │ ▲ │ after a time that doubles
//!     │                                                        │ │ ▼
//!     └──────────────────── all probes good ────────────────── HalfOpen
//! ```

use fourfold_base::Millis;

use super::board::Counts;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerRules {
    pub window_ms: u64,
    /// Fewer requests in the window than this say nothing.
    pub requests_min: u32,
    pub error_percent: u32,
    /// How long it is open the first time; twice as long each time that the probes fail...
    pub open_ms: u64,
    /// ...up to this.
    pub open_ms_max: u64,
    /// Good answers that close it.
    pub probes: u32,
}

impl Default for BreakerRules {
    fn default() -> Self {
        BreakerRules {
            window_ms: 10_000,
            requests_min: 20,
            error_percent: 50,
            open_ms: 5_000,
            open_ms_max: 60_000,
            probes: 3,
        }
    }
}

const SLOTS: usize = 10;

#[derive(Clone, Debug)]
pub(super) struct Breaker {
    rules: BreakerRules,
    state: State,
    /// Times in a row that it has opened.
    openings: u32,
    /// The counts at the beginning of each slot of the window: a ring, the oldest at `next`.
    starts: [Counts; SLOTS],
    next: usize,
    slot_ends: Millis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Closed,
    Open {
        until: Millis,
    },
    /// Probes that are never answered are given out again at `again`.
    HalfOpen {
        wanted: u32,
        again: Millis,
    },
}

impl Breaker {
    pub fn new(rules: BreakerRules, now: Millis, counts: Counts) -> Breaker {
        let slot_ends = now + slot_ms(&rules);
        let starts = [counts; SLOTS];
        Breaker { rules, state: State::Closed, openings: 0, starts, next: 0, slot_ends }
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn probes(&self) -> u32 {
        self.rules.probes.max(1)
    }

    pub fn poll_timeout(&self) -> Millis {
        match self.state {
            State::Closed => self.slot_ends,
            State::Open { until } => until,
            State::HalfOpen { again, .. } => again,
        }
    }

    pub fn handle_timeout(&mut self, now: Millis, counts: Counts) {
        match self.state {
            State::Closed => self.slide(now, counts),
            State::Open { until } if now >= until => self.half_open(now),
            State::HalfOpen { again, .. } if now >= again => self.half_open(now),
            _ => {}
        }
    }

    /// There have been errors.
    pub fn handle_errors(&mut self, now: Millis, counts: Counts) {
        if self.state == State::Closed && self.is_bad(counts) {
            self.open(now);
        }
    }

    pub fn handle_probe(&mut self, now: Millis, ok: bool, counts: Counts) {
        let State::HalfOpen { wanted, again } = self.state else { return };
        match (ok, wanted) {
            (false, _) => self.open(now),
            (true, 0 | 1) => *self = Breaker::new(self.rules, now, counts),
            (true, _) => self.state = State::HalfOpen { wanted: wanted - 1, again },
        }
    }

    /// At so many errors altogether it may have to open, whatever else comes until then: so many that they are
    /// enough of the fewest requests, and enough of those that there have been in the window.
    pub fn ask_at(&self, counts: Counts) -> u64 {
        let window = counts.since(self.starts[self.next]);
        let percent = u64::from(self.rules.error_percent.clamp(1, 100));
        let of_fewest =
            (u64::from(self.rules.requests_min) * percent).div_ceil(100).saturating_sub(window.bad);
        let short = (percent * window.total()).saturating_sub(100 * window.bad);
        let of_seen = match 100 - percent {
            0 if short > 0 => return u64::MAX,
            0 => 0,
            rest => short.div_ceil(rest),
        };
        counts.bad + of_fewest.max(of_seen).max(1)
    }

    fn is_bad(&self, counts: Counts) -> bool {
        let window = counts.since(self.starts[self.next]);
        window.total() >= u64::from(self.rules.requests_min)
            && window.bad * 100 >= u64::from(self.rules.error_percent) * window.total()
    }

    fn slide(&mut self, now: Millis, counts: Counts) {
        let mut slots = 0;
        while now >= self.slot_ends && slots < SLOTS {
            self.starts[self.next] = counts;
            self.next = (self.next + 1) % SLOTS;
            self.slot_ends += slot_ms(&self.rules);
            slots += 1;
        }
        if now >= self.slot_ends {
            self.slot_ends = now + slot_ms(&self.rules);
        }
    }

    fn open(&mut self, now: Millis) {
        let open_ms = self.rules.open_ms.saturating_mul(1 << self.openings.min(20));
        self.openings += 1;
        self.state = State::Open { until: now + open_ms.min(self.rules.open_ms_max).max(1) };
    }

    fn half_open(&mut self, now: Millis) {
        self.state = State::HalfOpen { wanted: self.probes(), again: now + self.rules.open_ms.max(1) };
    }
}

fn slot_ms(rules: &BreakerRules) -> u64 {
    (rules.window_ms / SLOTS as u64).max(1)
}
