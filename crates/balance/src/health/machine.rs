//! All that is known about the servers of a pool, and the marks on the [`Board`] that follow from it.
//!
//! Owns: ejections, breakers, faults, panic. Driven by whoever holds its lock: by notices from shards, by changes of
//! checks, by time.

use std::collections::VecDeque;
use std::sync::Arc;

use fourfold_base::Millis;

use super::board::{Board, Counts, Mark, Notice};
use super::breaker::{Breaker, BreakerRules, State};
use super::check::Standing;
use super::fault::{Fault, FaultRules, Faults};
use super::outlier::{EjectionRules, LatencyRules, Reason, Streaks, SuccessRules, by_latency, by_success};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    pub streaks: Streaks,
    pub ejection: EjectionRules,
    pub success: Option<SuccessRules>,
    pub latency: Option<LatencyRules>,
    pub breaker: Option<BreakerRules>,
    pub fault: FaultRules,
    /// With fewer of the servers usable than this, all are used: they are more likely loaded than broken. An open
    /// breaker stays open.
    pub panic_percent: u32,
}

/// Something to be logged and counted; a server that is back may want a slow start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Ejected {
        server: usize,
        reason: Reason,
        until: Millis,
    },
    /// The pool has as many ejected as it may.
    NotEjected {
        server: usize,
        reason: Reason,
    },
    Returned {
        server: usize,
    },
    Opened {
        server: usize,
        until: Millis,
    },
    HalfOpened {
        server: usize,
    },
    Closed {
        server: usize,
    },
    CheckedDown {
        server: usize,
    },
    CheckedUp {
        server: usize,
    },
    Panic {
        on: bool,
    },
}

/// Changes that nobody has asked for are dropped, oldest first.
const CHANGES_MAX: usize = 1024;

#[derive(Debug)]
pub struct Health {
    rules: Rules,
    board: Arc<Board>,
    servers: Vec<Patient>,
    faults: Faults,
    compare_at: Millis,
    changes: VecDeque<Change>,
}

#[derive(Debug)]
struct Patient {
    sources: u32,
    ejected_until: Option<Millis>,
    /// Ejections that are not forgiven yet.
    ejections: u32,
    returned_at: Millis,
    /// At the beginning of the interval.
    counts: Counts,
    breaker: Option<Breaker>,
}

impl Health {
    /// The board is for the shards to keep.
    #[must_use]
    pub fn new(rules: Rules, servers: usize, now: Millis) -> (Health, Arc<Board>) {
        let board = Arc::new(Board::new(servers, rules.streaks));
        let patient = || Patient {
            sources: 1,
            ejected_until: None,
            ejections: 0,
            returned_at: now,
            counts: Counts::default(),
            breaker: rules.breaker.map(|rules| Breaker::new(rules, now, Counts::default())),
        };
        let health = Health {
            rules,
            board: Arc::clone(&board),
            servers: (0..servers).map(|_| patient()).collect(),
            faults: Faults::new(rules.fault),
            compare_at: now + rules.ejection.interval_ms.max(1),
            changes: VecDeque::new(),
        };
        for server in 0..servers {
            health.ask(server);
        }
        (health, board)
    }

    /// How many source addresses lead to the server.
    pub fn set_sources(&mut self, server: usize, sources: u32) {
        if let Some(patient) = self.servers.get_mut(server) {
            patient.sources = sources.max(1);
        }
    }

    /// What [`Board::record`] or [`Board::connected`] asked to be told; `source` is the address that was used. The fault is for the caller
    /// to act on: only it can keep a path or a source out of the way.
    pub fn handle_notice(&mut self, now: Millis, server: usize, source: u32, notice: Notice) -> Fault {
        match notice {
            Notice::Unreachable => return self.handle_unreachable(now, server, source),
            Notice::Streak(reason) => self.eject(now, server, reason),
            Notice::Errors => self.with_breaker(server, |breaker, counts| breaker.handle_errors(now, counts)),
            Notice::Probe { ok } => {
                self.with_breaker(server, |breaker, counts| breaker.handle_probe(now, ok, counts));
            }
            Notice::Reached => {
                self.faults.handle_success(server as u32, source);
                self.board.set_doubted(server, self.faults.doubted(server as u32));
            }
        }
        Fault::Undecided
    }

    /// A server's checks have come to another conclusion.
    pub fn handle_check(&mut self, server: usize, standing: Standing) {
        let is_down = standing == Standing::Down;
        if server >= self.servers.len() || self.board.has(server, Mark::DOWN) == is_down {
            return;
        }
        self.board.set(server, Mark::DOWN, is_down);
        self.push(if is_down { Change::CheckedDown { server } } else { Change::CheckedUp { server } });
        self.judge_panic();
    }

    /// When [`Self::handle_timeout`] is to be called next; ask again after each call of anything.
    #[must_use]
    pub fn poll_timeout(&self) -> Millis {
        let of = |patient: &Patient| {
            let breaker = patient.breaker.as_ref().map_or(Millis::MAX, Breaker::poll_timeout);
            breaker.min(patient.ejected_until.unwrap_or(Millis::MAX))
        };
        self.servers.iter().map(of).min().unwrap_or(Millis::MAX).min(self.compare_at)
    }

    pub fn handle_timeout(&mut self, now: Millis) {
        for server in 0..self.servers.len() {
            self.return_if_due(now, server);
            self.with_breaker(server, |breaker, counts| breaker.handle_timeout(now, counts));
        }
        if now >= self.compare_at {
            self.compare_at = now + self.rules.ejection.interval_ms.max(1);
            self.compare(now);
            for server in self.faults.forget(now) {
                self.board.set_doubted(server as usize, self.faults.doubted(server));
            }
        }
    }

    /// To be asked until `None` after each call of anything else.
    #[must_use]
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    fn handle_unreachable(&mut self, now: Millis, server: usize, source: u32) -> Fault {
        let Some(patient) = self.servers.get(server) else { return Fault::Undecided };
        let reached_at = self.board.reached_at(server);
        let fault = self.faults.handle_failure(now, server as u32, source, patient.sources, reached_at);
        self.board.set_doubted(server, self.faults.doubted(server as u32));
        let notice = match fault {
            Fault::Server => self.board.count_unreachable(server),
            // Whoever it is: this probe has not shown that the server is back.
            Fault::Undecided if self.board.has(server, Mark::HALF_OPEN) => Some(Notice::Probe { ok: false }),
            Fault::Undecided => None,
            Fault::Path | Fault::Source => {
                self.board.give_probe_back(server);
                None
            }
        };
        if let Some(notice) = notice {
            self.handle_notice(now, server, source, notice);
        }
        fault
    }

    fn eject(&mut self, now: Millis, server: usize, reason: Reason) {
        let has_room = self.has_room_for_ejection();
        let rules = self.rules.ejection;
        let Some(patient) = self.servers.get_mut(server).filter(|patient| patient.ejected_until.is_none())
        else {
            return;
        };
        if !has_room {
            return self.push(Change::NotEjected { server, reason });
        }
        let ms = rules.base_ms.saturating_mul(1 << patient.ejections.min(20)).min(rules.max_ms).max(1);
        let until = now + ms;
        patient.ejections += 1;
        patient.ejected_until = Some(until);
        self.board.set(server, Mark::EJECTED, true);
        self.push(Change::Ejected { server, reason, until });
        self.judge_panic();
    }

    fn has_room_for_ejection(&self) -> bool {
        let ejected = self.servers.iter().filter(|patient| patient.ejected_until.is_some()).count();
        let percent = self.rules.ejection.max_percent.min(100) as usize;
        let most = match self.servers.len() * percent / 100 {
            0 if percent > 0 && self.servers.len() > 1 => 1,
            most => most,
        };
        ejected < most
    }

    fn return_if_due(&mut self, now: Millis, server: usize) {
        let Some(patient) = self.servers.get_mut(server) else { return };
        if patient.ejected_until.is_none_or(|until| now < until) {
            return;
        }
        patient.ejected_until = None;
        patient.returned_at = now;
        self.board.forget_streaks(server);
        self.board.set(server, Mark::EJECTED, false);
        self.push(Change::Returned { server });
        self.judge_panic();
    }

    fn compare(&mut self, now: Millis) {
        let interval_ms = self.rules.ejection.interval_ms;
        let mut interval = Vec::with_capacity(self.servers.len());
        for (server, patient) in self.servers.iter_mut().enumerate() {
            let counts = self.board.counts(server);
            let since = counts.since(patient.counts);
            patient.counts = counts;
            if patient.ejected_until.is_none() && now >= patient.returned_at + interval_ms {
                patient.ejections = patient.ejections.saturating_sub(1);
            }
            interval.push(if self.board.is_barred(server) { Counts::default() } else { since });
        }
        let by_success = self.rules.success.map(|rules| by_success(&rules, &interval)).unwrap_or_default();
        let by_latency = self.rules.latency.map(|rules| by_latency(&rules, &interval)).unwrap_or_default();
        for server in by_success {
            self.eject(now, server, Reason::SuccessRate);
        }
        for server in by_latency {
            self.eject(now, server, Reason::Latency);
        }
    }

    /// Lets the breaker change its state and marks the board accordingly.
    fn with_breaker(&mut self, server: usize, change: impl FnOnce(&mut Breaker, Counts)) {
        let counts = self.board.counts(server);
        let Some(breaker) = self.servers.get_mut(server).and_then(|patient| patient.breaker.as_mut()) else {
            return;
        };
        let before = breaker.state();
        change(breaker, counts);
        let (after, probes) = (breaker.state(), breaker.probes());
        self.ask(server);
        match (before, after) {
            (before, after) if before == after => return,
            (_, State::Open { until }) => self.push(Change::Opened { server, until }),
            (State::HalfOpen { again: before, .. }, State::HalfOpen { again, .. }) if before == again => {
                return;
            }
            (_, State::HalfOpen { .. }) => {
                self.board.set_probes(server, probes);
                self.push(Change::HalfOpened { server });
            }
            (_, State::Closed) => {
                self.board.forget_streaks(server);
                self.push(Change::Closed { server });
            }
        }
        self.board.set(server, Mark::HALF_OPEN, matches!(after, State::HalfOpen { .. }));
        self.board.set(server, Mark::OPEN, matches!(after, State::Open { .. }));
        self.judge_panic();
    }

    /// When the breaker wants to hear of errors.
    fn ask(&self, server: usize) {
        if let Some(breaker) = self.servers.get(server).and_then(|patient| patient.breaker.as_ref()) {
            self.board.ask_at(server, breaker.ask_at(self.board.counts(server)));
        }
    }

    fn judge_panic(&mut self) {
        let usable = (0..self.board.len()).filter(|server| !self.board.is_barred(*server)).count();
        let on = usable * 100 < self.rules.panic_percent.min(100) as usize * self.board.len();
        if on != self.board.is_panicking() {
            self.board.set_panicking(on);
            self.push(Change::Panic { on });
        }
    }

    fn push(&mut self, change: Change) {
        if self.changes.len() >= CHANGES_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }
}
