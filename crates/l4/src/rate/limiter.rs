//! One table for all shards.

use super::{Keyed, Rate, RetryAfter};
use std::sync::{Mutex, PoisonError};

/// Locks over the table: with many more of them than shards hardly anybody ever finds one taken.
const STRIPES: usize = 64;

/// [`Keyed`] behind a shared reference. Shards' clocks may differ by the length of a turn, which is the error of the limit.
pub struct Limiter {
    stripes: Vec<Mutex<Keyed>>,
}

impl Limiter {
    /// Tells at least `keys_max` keys apart that are active at the same time.
    #[must_use]
    pub fn new(rate: Rate, keys_max: usize) -> Self {
        let stripe = || Mutex::new(Keyed::new(rate, keys_max.div_ceil(STRIPES)));
        Self { stripes: std::iter::repeat_with(stripe).take(STRIPES).collect() }
    }

    /// As [`Keyed::take`].
    pub fn take(&self, key: u64, now_us: u64) -> Result<(), RetryAfter> {
        // The low bits choose the set inside the stripe.
        let stripe = (key >> 32) as usize % STRIPES;
        self.stripes.get(stripe).map_or(Ok(()), |stripe| lock(stripe).take(key, now_us))
    }

    /// Takes over another rate; what has been spent stays spent.
    pub fn set_rate(&self, rate: Rate) {
        self.stripes.iter().for_each(|stripe| lock(stripe).set_rate(rate));
    }
}

/// A table is right after every step, also of a thread that died.
fn lock(stripe: &Mutex<Keyed>) -> std::sync::MutexGuard<'_, Keyed> {
    stripe.lock().unwrap_or_else(PoisonError::into_inner)
}
