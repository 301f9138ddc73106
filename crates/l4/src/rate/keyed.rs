//! A limit for each key in a table of fixed size.
//!
//! ```text
//!              hash ─▶ set of 8 places: │key, full at│key, full at│ … │
//!  the key is in its set                 its place is spent
//!  a place whose limit is full again     is taken: forgetting it changes nothing
//!  none: every place is still spent      the one that is nearest to full is taken *with its debt*
//! ```
//! The last line is what makes forgetting safe (it is the idea of Space-Saving, Metwally 2005): the least debt in a set never
//! shrinks while the set is full, so that a key which was pushed out comes back to at least the debt that it left with. Nobody
//! gains a fresh allowance by flooding the table with other keys. The price is paid under such a flood only: new keys inherit
//! some debt, and are refused once it takes more than [`Rate`]'s worth of events for *every* place of a set.

use super::gcra::{Rate, RetryAfter, ns};

/// Places that a key may have: 64 bytes of keys to look through, and as many of times.
const WAYS: usize = 8;
/// Places per key asked for: sets do not fill evenly, and half-full ones hardly ever overflow (1 in 50 at the very worst).
const PLACES_PER_KEY: usize = 2;
/// More keys than this are as many as this: 2 GB.
const KEYS_MAX: usize = 1 << 26;

pub struct Keyed {
    rate: Rate,
    /// Both in sets of [`WAYS`]. Zeroed memory that the kernel provides when it is first touched.
    keys: Vec<u64>,
    full_at_ns: Vec<u64>,
    set_mask: u64,
}

impl Keyed {
    /// Tells at least `keys_max` keys apart that are active at the same time, for 32 to 64 bytes each.
    #[must_use]
    pub fn new(rate: Rate, keys_max: usize) -> Self {
        let sets = (keys_max.clamp(1, KEYS_MAX) * PLACES_PER_KEY).div_ceil(WAYS).next_power_of_two();
        let places = sets * WAYS;
        Self { rate, keys: vec![0; places], full_at_ns: vec![0; places], set_mask: sets as u64 - 1 }
    }

    /// Counts one event of `key`, which must be a hash ([`KeyMaker`](super::KeyMaker)) that its owner cannot choose, or says how
    /// long to wait; a refused event does not count. Constant time.
    pub fn take(&mut self, key: u64, now_us: u64) -> Result<(), RetryAfter> {
        let first = (key & self.set_mask) as usize * WAYS;
        let (Some(keys), Some(full_at_ns)) =
            (self.keys.get_mut(first..first + WAYS), self.full_at_ns.get_mut(first..first + WAYS))
        else {
            return Ok(());
        };
        let place = place_of(keys, full_at_ns, key, ns(now_us));
        if let (Some(owner), Some(full_at)) = (keys.get_mut(place), full_at_ns.get_mut(place)) {
            *full_at = self.rate.spend(*full_at, now_us)?;
            *owner = key;
        }
        Ok(())
    }

    /// Takes over another rate; what has been spent stays spent.
    pub fn set_rate(&mut self, rate: Rate) {
        self.rate = rate;
    }
}

/// The key's own place while anything is spent there, else the one that is nearest to full.
fn place_of(keys: &[u64], full_at_ns: &[u64], key: u64, now_ns: u64) -> usize {
    let mut nearest = (u64::MAX, 0);
    for (place, (owner, full_at)) in keys.iter().zip(full_at_ns).enumerate() {
        if *owner == key && *full_at > now_ns {
            return place;
        }
        if *full_at < nearest.0 {
            nearest = (*full_at, place);
        }
    }
    nearest.1
}
