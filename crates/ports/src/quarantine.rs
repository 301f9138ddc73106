//! Tuples that must rest before they may be leased again.
//!
//! Owns: two queues, since there are two delays; within one queue the delay is constant, so the order
//! of arrival is the order of expiry and both ends cost O(1).
//! Driven by: a slice, under its lock.

use std::collections::VecDeque;

use crate::lease::Lease;

/// Below this a queue keeps its memory.
const SHRINK_ABOVE: usize = 1024;

#[derive(Debug)]
pub(crate) struct Queue {
    resting: VecDeque<(u64, Lease)>,
    delay_ms: u64,
}

impl Queue {
    pub fn new(delay_ms: u64) -> Queue {
        Queue { resting: VecDeque::new(), delay_ms }
    }

    pub fn delay_ms(&self) -> u64 {
        self.delay_ms
    }

    pub fn push(&mut self, now_ms: u64, lease: Lease) {
        // A clock that steps back must not break the order of the queue.
        let newest = self.resting.back().map_or(0, |(until, _)| *until);
        let until = now_ms.saturating_add(self.delay_ms).max(newest);
        self.resting.push_back((until, lease));
    }

    pub fn pop_expired(&mut self, now_ms: u64) -> Option<Lease> {
        if self.next_expiry_ms()? > now_ms {
            return None;
        }
        let (_, lease) = self.resting.pop_front()?;
        self.shrink();
        Some(lease)
    }

    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.resting.front().map(|(until, _)| *until)
    }

    /// Gives memory back after a burst, halving at most, so that it is amortised over the pops.
    fn shrink(&mut self) {
        let capacity = self.resting.capacity();
        if capacity > SHRINK_ABOVE && self.resting.len() < capacity / 8 {
            self.resting.shrink_to(capacity / 2);
        }
    }
}

#[derive(Debug)]
pub(crate) struct Quarantine {
    pub time_wait: Queue,
    pub foreign: Queue,
}

impl Quarantine {
    pub fn next_expiry_ms(&self) -> Option<u64> {
        [self.time_wait.next_expiry_ms(), self.foreign.next_expiry_ms()].into_iter().flatten().min()
    }
}
