//! Active check of one path, source to server.
//!
//! ```text
//!              one success                      `fall` failures
//!   Checking ──────────────▶ Up ─────────────────────────────────▶ Down
//!       │                     ◀─────────────────────────────────── ▲
//!       │                                `rise` successes          │
//!       └──────────────────────── one failure ─────────────────────┘
//! ```
//! Owns: when to probe, and what the results amount to. The caller sends the probes. While results contradict the
//! standing, probes follow each other faster.

use fourfold_base::Millis;

use super::Outcome;
use crate::hash::mix;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckRules {
    pub interval_ms: u64,
    /// Until it is clear where the results tend.
    pub fast_interval_ms: u64,
    pub timeout_ms: u64,
    /// Successes that bring a server up again.
    pub rise: u8,
    /// Failures that take it down.
    pub fall: u8,
    /// Intervals are shorter or longer by up to this, so that checks of many servers and instances do not march in step.
    pub jitter_percent: u8,
}

impl Default for CheckRules {
    fn default() -> Self {
        CheckRules {
            interval_ms: 5_000,
            fast_interval_ms: 1_000,
            timeout_ms: 3_000,
            rise: 2,
            fall: 3,
            jitter_percent: 10,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is known yet.
    Checking,
    Up,
    Down,
}

impl Standing {
    /// What the paths of a server say of it: a single good one shows that it works.
    #[must_use]
    pub fn of_server(paths: impl IntoIterator<Item = Standing>) -> Standing {
        let mut server = None;
        for path in paths {
            server = match (server, path) {
                (_, Standing::Up) => return Standing::Up,
                (Some(Standing::Checking), _) | (_, Standing::Checking) => Some(Standing::Checking),
                _ => Some(Standing::Down),
            };
        }
        server.unwrap_or(Standing::Checking)
    }
}

/// What [`Check::handle_timeout`] wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a probe and report its result.
    Probe,
    /// The probe has taken too long: drop it. It counts as failed, which may have changed the standing.
    GiveUp { changed: Option<Standing> },
}

#[derive(Clone, Debug)]
pub struct Check {
    rules: CheckRules,
    standing: Standing,
    /// Results in a row that contradict the standing.
    against: u8,
    state: State,
    seed: u64,
    round: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Waiting { due: Millis },
    Probing { deadline: Millis },
}

impl Check {
    /// The first probe comes within the fast interval: those of many checks are spread over it.
    #[must_use]
    pub fn new(rules: CheckRules, seed: u64, now: Millis) -> Check {
        let due = now + mix(seed, 0) % rules.fast_interval_ms.max(1);
        let (standing, state) = (Standing::Checking, State::Waiting { due });
        Check { rules, standing, against: 0, state, seed, round: 0 }
    }

    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// When [`Self::handle_timeout`] is to be called next; ask again after each call of anything.
    #[must_use]
    pub fn poll_timeout(&self) -> Millis {
        match self.state {
            State::Waiting { due } => due,
            State::Probing { deadline } => deadline,
        }
    }

    #[must_use]
    pub fn handle_timeout(&mut self, now: Millis) -> Option<Action> {
        match self.state {
            State::Waiting { due } if now >= due => {
                self.state = State::Probing { deadline: now + self.rules.timeout_ms };
                Some(Action::Probe)
            }
            State::Probing { deadline } if now >= deadline => {
                Some(Action::GiveUp { changed: self.handle_result(now, Outcome::Unreachable) })
            }
            _ => None,
        }
    }

    /// The result of the probe; `Some` if the standing has changed. One that comes after it was given up is not heard.
    pub fn handle_result(&mut self, now: Millis, result: Outcome) -> Option<Standing> {
        let State::Probing { .. } = self.state else { return None };
        let before = self.standing;
        // A shortage of ours only costs a round: the probe is sent again soon.
        if result != Outcome::Shortage {
            self.count(result == Outcome::Success);
        }
        let is_settled =
            self.against == 0 && self.standing != Standing::Checking && result != Outcome::Shortage;
        let interval_ms = if is_settled { self.rules.interval_ms } else { self.rules.fast_interval_ms };
        self.round += 1;
        self.state = State::Waiting { due: now + self.jittered(interval_ms) };
        (self.standing != before).then_some(self.standing)
    }

    fn count(&mut self, ok: bool) {
        let (contradicts, limit, other) = match self.standing {
            Standing::Checking => (true, 1, if ok { Standing::Up } else { Standing::Down }),
            Standing::Up => (!ok, self.rules.fall, Standing::Down),
            Standing::Down => (ok, self.rules.rise, Standing::Up),
        };
        self.against = if contradicts { self.against + 1 } else { 0 };
        if contradicts && self.against >= limit {
            self.standing = other;
            self.against = 0;
        }
    }

    fn jittered(&self, interval_ms: u64) -> u64 {
        let spread = interval_ms * u64::from(self.rules.jitter_percent.min(100)) / 100;
        (interval_ms - spread + mix(self.seed, self.round) % (2 * spread + 1)).max(1)
    }
}
