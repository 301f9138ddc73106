//! How far a load of held connections is: all are opened, each may be verified once more, then they are held, random ones
//! verified, until the time is over.
//!
//! Driven by: the loop that watches the load, which carries out the [`Order`]s.

use crate::args::HeldArgs;
use crate::load::duration;
use anyhow::Context;
use serde::Serialize;
use std::time::{Duration, Instant};

/// What the watcher is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    CheckEach,
    VerifyAt(u32),
    End,
}

/// Of a snapshot, what decides.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    pub wanted: u64,
    /// Verified for the first time, or failed.
    pub settled: u64,
    pub held: u64,
    pub checked: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Opening,
    Checking,
    Holding { since: Instant },
}

pub struct Stages {
    stage: Stage,
    check_each: bool,
    verify_rate: u32,
    hold: Duration,
    progress: Option<Duration>,
    printed: Instant,
}

impl Stages {
    pub fn new(args: &HeldArgs, hold: Duration, now: Instant) -> anyhow::Result<Self> {
        Ok(Self {
            stage: Stage::Opening,
            check_each: args.verify_all,
            verify_rate: args.verify,
            hold,
            progress: args.progress.as_deref().map(duration).transpose().context("--progress")?,
            printed: now,
        })
    }

    pub fn advance(&mut self, counts: Counts, now: Instant) -> Option<Order> {
        match self.stage {
            Stage::Opening if counts.settled >= counts.wanted && self.check_each => {
                self.stage = Stage::Checking;
                Some(Order::CheckEach)
            }
            Stage::Opening if counts.settled >= counts.wanted => Some(self.begin_hold(now)),
            Stage::Checking if counts.checked >= counts.held => Some(self.begin_hold(now)),
            Stage::Holding { since } if now.duration_since(since) >= self.hold => Some(Order::End),
            _ => None,
        }
    }

    fn begin_hold(&mut self, now: Instant) -> Order {
        self.stage = Stage::Holding { since: now };
        Order::VerifyAt(self.verify_rate)
    }

    /// Prints the counters when they are due.
    pub fn print_progress(&mut self, counters: &impl Serialize, now: Instant) -> anyhow::Result<()> {
        if self.progress.is_none_or(|each| now.duration_since(self.printed) < each) {
            return Ok(());
        }
        self.printed = now;
        let stage = match self.stage {
            Stage::Opening => "opening",
            Stage::Checking => "checking",
            Stage::Holding { .. } => "holding",
        };
        eprintln!("{}", serde_json::to_string(&Progress { stage, counters })?);
        Ok(())
    }
}

#[derive(Serialize)]
struct Progress<'a, T> {
    stage: &'static str,
    #[serde(flatten)]
    counters: &'a T,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stages(verify_all: bool) -> (Stages, Instant) {
        let now = Instant::now();
        let args = HeldArgs { verify: 7, verify_all, progress: None };
        (Stages::new(&args, Duration::from_secs(60), now).unwrap(), now)
    }

    #[test]
    fn each_is_checked_before_the_time_of_holding_begins() {
        let (mut stages, now) = stages(true);
        let counts = |settled, checked| Counts { wanted: 10, settled, held: 9, checked };
        assert_eq!(stages.advance(counts(9, 0), now), None);
        assert_eq!(stages.advance(counts(10, 0), now), Some(Order::CheckEach));
        assert_eq!(stages.advance(counts(10, 8), now + Duration::from_secs(99)), None);
        let held = now + Duration::from_secs(100);
        assert_eq!(stages.advance(counts(10, 9), held), Some(Order::VerifyAt(7)));
        assert_eq!(stages.advance(counts(10, 9), held + Duration::from_secs(59)), None);
        assert_eq!(stages.advance(counts(10, 9), held + Duration::from_secs(60)), Some(Order::End));
    }

    #[test]
    fn without_a_check_holding_begins_when_all_are_up() {
        let (mut stages, now) = stages(false);
        let up = Counts { wanted: 10, settled: 10, held: 10, checked: 0 };
        assert_eq!(stages.advance(up, now), Some(Order::VerifyAt(7)));
    }
}
