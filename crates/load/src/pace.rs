//! A schedule: when each of a series of events is intended, whether or not those before it were on time.

/// How much too early an event may start, since event loops wake on whole milliseconds.
pub(crate) const EARLY_US: u64 = 1000;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    start_us: u64,
    per_second: f64,
}

impl Pace {
    /// `None` for a rate that schedules nothing.
    pub fn new(start_us: u64, per_second: f64) -> Option<Self> {
        (per_second > 0.0).then_some(Self { start_us, per_second })
    }

    /// When event `index` is intended.
    pub fn due_us(&self, index: u64) -> u64 {
        self.start_us.saturating_add((index as f64 * 1e6 / self.per_second) as u64)
    }

    /// The first millisecond in which event `index` may start.
    pub fn due_ms(&self, index: u64) -> u64 {
        self.due_us(index) / 1000
    }

    /// The time from which event `index` is measured if it starts now; `None`: it is too early.
    pub fn take(&self, index: u64, now_us: u64) -> Option<u64> {
        let due = self.due_us(index);
        (due < now_us + EARLY_US).then_some(due.min(now_us))
    }

    /// Events intended up to `now_us`.
    pub fn due_count(&self, now_us: u64) -> u64 {
        (now_us.saturating_sub(self.start_us) as f64 * self.per_second / 1e6) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_event_is_measured_from_its_intended_time() {
        let pace = Pace::new(1_000_000, 100.0).unwrap();
        assert_eq!((pace.due_us(0), pace.due_us(100)), (1_000_000, 2_000_000));
        assert_eq!(pace.take(1, 1_500_000), Some(1_010_000));
        assert_eq!(pace.take(1, 1_005_000), None);
        // Within the millisecond in which the loop wakes up.
        assert_eq!(pace.take(1, 1_009_500), Some(1_009_500));
        assert!(pace.take(7, pace.due_ms(7) * 1000).is_some());
        assert_eq!(pace.due_count(1_500_000), 50);
        assert!(Pace::new(0, 0.0).is_none());
    }
}
