//! Rate limit for repeated messages: the first one passes, later ones are counted and reported with the next that passes.
//! Shared by threads, so that a program with many shards says a thing once.

use crate::Millis;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[derive(Debug)]
pub struct Gate {
    interval: Millis,
    next: AtomicU64,
    suppressed: AtomicU64,
}

impl Gate {
    pub const fn new(interval: Millis) -> Self {
        Self { interval, next: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    /// `Some(n)`: say it, and that it was left unsaid `n` times since. `None`: counted, stay silent.
    #[must_use]
    pub fn pass(&self, now: Millis) -> Option<u64> {
        let next = self.next.load(Relaxed);
        if now >= next && self.next.compare_exchange(next, now + self.interval, Relaxed, Relaxed).is_ok() {
            return Some(self.suppressed.swap(0, Relaxed));
        }
        self.suppressed.fetch_add(1, Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_it_hides() {
        let gate = Gate::new(1000);
        assert_eq!(gate.pass(0), Some(0));
        assert_eq!((gate.pass(1), gate.pass(999)), (None, None));
        assert_eq!(gate.pass(1000), Some(2));
        assert_eq!(gate.pass(5000), Some(0));
    }
}
