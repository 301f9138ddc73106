//! How many retries a pool may afford (Finagle's retry budget).
//!
//! Owns: what the requests of the last seconds have paid in and the retries have taken out. A retry costs one;
//! a request pays in its part, say a fifth, which it takes along when it is older than the window. A few retries a
//! second are free, so that a quiet pool can retry at all. Refuses retries once it is empty: when everything fails,
//! the load on the servers grows by that part and no more. Driven by one shard; a clone each.

use fourfold_base::Millis;

const SLOTS: usize = 10;
/// In thousandths of a retry.
const RETRY: u64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetRules {
    /// Retries for a hundred requests.
    pub percent: u32,
    /// Retries that each second affords with no request at all.
    pub per_second_min: u32,
    /// How long a request's part can be spent.
    pub window_ms: u64,
}

impl Default for BudgetRules {
    /// Finagle's.
    fn default() -> Self {
        BudgetRules { percent: 20, per_second_min: 10, window_ms: 10_000 }
    }
}

#[derive(Clone, Debug)]
pub struct RetryBudget {
    rules: BudgetRules,
    /// Paid in and not yet spent, by the time of the request: a ring.
    slots: [u64; SLOTS],
    /// Slots since the beginning of time: that of the newest.
    newest: u64,
}

impl RetryBudget {
    #[must_use]
    pub fn new(rules: BudgetRules, now: Millis) -> RetryBudget {
        let mut budget = RetryBudget { rules, slots: [0; SLOTS], newest: 0 };
        budget.newest = now / budget.slot_ms();
        // As if it had stood idle until now.
        budget.slots = [budget.slot_min(); SLOTS];
        budget
    }

    /// A request (not a retry) is being sent.
    pub fn handle_request(&mut self, now: Millis) {
        self.advance(now);
        let part = u64::from(self.rules.percent) * RETRY / 100;
        self.slots[self.newest as usize % SLOTS] += part;
    }

    /// Takes a retry out of the budget, if it is there: the oldest money first.
    #[must_use]
    pub fn take_retry(&mut self, now: Millis) -> bool {
        self.advance(now);
        if self.slots.iter().sum::<u64>() < RETRY {
            return false;
        }
        let mut owed = RETRY;
        for age in (0..SLOTS as u64).rev() {
            let slot = &mut self.slots[(self.newest + SLOTS as u64 - age) as usize % SLOTS];
            let paid = owed.min(*slot);
            *slot -= paid;
            owed -= paid;
        }
        true
    }

    /// Whole retries that could be taken now.
    #[must_use]
    pub fn left(&mut self, now: Millis) -> u64 {
        self.advance(now);
        self.slots.iter().sum::<u64>() / RETRY
    }

    fn advance(&mut self, now: Millis) {
        let slot = now / self.slot_ms();
        let passed = slot.saturating_sub(self.newest).min(SLOTS as u64);
        self.newest = self.newest.max(slot);
        for age in 0..passed {
            self.slots[(self.newest + SLOTS as u64 - age) as usize % SLOTS] = self.slot_min();
        }
    }

    fn slot_ms(&self) -> u64 {
        (self.rules.window_ms / SLOTS as u64).max(1)
    }

    /// What a slot's time affords by itself.
    fn slot_min(&self) -> u64 {
        u64::from(self.rules.per_second_min) * self.slot_ms() * RETRY / 1000
    }
}
