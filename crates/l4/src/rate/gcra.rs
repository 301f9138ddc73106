//! One limit: the rate, and the point in time at which its allowance is whole again.

const NS_PER_US: u64 = 1_000;
const US_PER_SECOND: u64 = 1_000_000;

/// `count` per `period_us` in the long run, and `burst` at once after a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// From one event to the next; rounded up, so that the rate is never exceeded.
    interval_ns: u64,
    /// How far the allowance may be spent ahead: `burst - 1` intervals.
    tolerance_ns: u64,
}

impl Rate {
    /// A zero counts as one in each of the three.
    #[must_use]
    pub fn new(count: u32, period_us: u64, burst: u32) -> Self {
        let period_ns = period_us.max(1).saturating_mul(NS_PER_US);
        let interval_ns = period_ns.div_ceil(u64::from(count.max(1)));
        let ahead = u64::from(burst.max(1) - 1);
        Self { interval_ns, tolerance_ns: interval_ns.saturating_mul(ahead) }
    }

    #[must_use]
    pub fn per_second(count: u32, burst: u32) -> Self {
        Self::new(count, US_PER_SECOND, burst)
    }

    /// What a limit that is full until `full_at_ns` says to one more event: when it is full then, or how long to wait.
    pub(super) fn spend(self, full_at_ns: u64, now_us: u64) -> Result<u64, RetryAfter> {
        let now_ns = ns(now_us);
        let full_at_ns = full_at_ns.max(now_ns);
        let ahead_ns = full_at_ns - now_ns;
        if ahead_ns > self.tolerance_ns {
            return Err(RetryAfter { us: (ahead_ns - self.tolerance_ns).div_ceil(NS_PER_US) });
        }
        Ok(full_at_ns.saturating_add(self.interval_ns))
    }
}

pub(super) fn ns(us: u64) -> u64 {
    us.saturating_mul(NS_PER_US)
}

/// Too early: after this time the event would pass, if nothing else comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryAfter {
    pub us: u64,
}

impl RetryAfter {
    /// For the Retry-After field (RFC 9110 10.2.3): whole seconds, never so few that the next try comes too early.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.us.div_ceil(US_PER_SECOND).max(1)
    }
}

/// One limit without a key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gcra {
    full_at_ns: u64,
}

impl Gcra {
    pub fn take(&mut self, rate: Rate, now_us: u64) -> Result<(), RetryAfter> {
        self.full_at_ns = rate.spend(self.full_at_ns, now_us)?;
        Ok(())
    }
}
