//! Held connections, verified again: each of them once, and random ones at a rate.

use super::{Check, HttpLoad, Phase};
use crate::pace::Pace as Schedule;
use fourfold_base::slab::Key;
use fourfold_engine::Net;

/// Looks here and there for a connection to verify; a load that is busy everywhere verifies itself.
const RANDOM_LOOKS: usize = 16;

impl HttpLoad {
    /// Begins with the messages of [`super::HttpMail::CheckEach`], as many at a time as connections may be under way.
    pub(super) fn check_some<N: Net>(&mut self, net: &mut N) {
        let Some(mut slot) = self.checking.filter(|_| !self.is_draining()) else { return };
        while slot < self.clients.slots() && self.checks_under_way < self.config.pending_max {
            let due = |key: &Key| self.clients.get(*key).is_some_and(|client| client.check == Check::Due);
            if let Some(key) = self.clients.key_at(slot).filter(due) {
                match self.clients.get_mut(key) {
                    Some(client) if client.phase == Phase::Idle => {
                        client.check = Check::UnderWay;
                        self.checks_under_way += 1;
                        self.begin_now(net, key);
                    }
                    // The message that is under way was sent before this was asked for; its answer or its end is near.
                    Some(client) if client.phase == Phase::Waiting => break,
                    _ => {}
                }
            }
            slot += 1;
        }
        self.checking = (slot < self.clients.slots()).then_some(slot);
    }

    pub(super) fn on_checked(&mut self, key: Key) {
        let Some(client) = self.clients.get_mut(key).filter(|client| client.check == Check::UnderWay) else {
            return;
        };
        client.check = Check::Done;
        self.checks_under_way -= 1;
        self.counters().checked.add(1);
    }

    /// The connection ends.
    pub(super) fn forget_check(&mut self, key: Key) {
        let Some(client) = self.clients.get_mut(key) else { return };
        match std::mem::replace(&mut client.check, Check::Due) {
            Check::Due => {}
            Check::UnderWay => self.checks_under_way -= 1,
            Check::Done => self.counters().checked.sub(1),
        }
    }

    pub(super) fn verify_at(&mut self, rate: u32) {
        self.verifying = Schedule::new(self.now_us(), self.part_of(f64::from(rate)));
        self.verifications_begun = 0;
    }

    pub(super) fn verify_due<N: Net>(&mut self, net: &mut N) {
        let Some(schedule) = self.verifying.filter(|_| !self.is_draining()) else { return };
        let now_us = self.now_us();
        while let Some(intended_us) = schedule.take(self.verifications_begun, now_us) {
            self.verifications_begun += 1;
            if let Some(key) = self.random_idle() {
                self.begin(net, key, intended_us);
            }
        }
    }

    fn random_idle(&mut self) -> Option<Key> {
        let slots = self.clients.slots();
        (0..RANDOM_LOOKS).find_map(|_| {
            let key = self.clients.key_at(self.rng.below(slots))?;
            self.clients.get(key).is_some_and(|client| client.phase == Phase::Idle).then_some(key)
        })
    }
}
