//! Clients that wait for a tuple or a server: first in, first out, per shard and pool. The bound over all shards is kept in
//! [`PoolState`](crate::PoolState); this is only the order.

use fourfold_base::Millis;
use fourfold_base::slab::Key;
use std::collections::VecDeque;

/// Why the head of the queue waits; tells what refuses it at the deadline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shortage {
    Tuples,
    Servers,
    /// Nothing to wait for: whoever could be used is left alone on purpose.
    Breaker,
    Local,
}

#[derive(Default)]
pub(crate) struct WaitQueue {
    keys: VecDeque<Key>,
    /// Live entries; others in `keys` have gone meanwhile.
    pub live: usize,
    pub shortage: Option<Shortage>,
    /// When to look again without being woken.
    pub retry_at: Option<Millis>,
}

/// A queue looks again at least this often: tuples rest, servers come back.
pub(crate) const RETRY_MS: Millis = 50;

impl WaitQueue {
    pub fn push(&mut self, key: Key) {
        self.keys.push_back(key);
        self.live += 1;
    }

    /// The first entry for which `waits` holds; others are forgotten.
    pub fn head(&mut self, waits: impl Fn(Key) -> bool) -> Option<Key> {
        while let Some(key) = self.keys.front() {
            if waits(*key) {
                return Some(*key);
            }
            self.keys.pop_front();
        }
        None
    }

    /// The head has got what it waited for, or was refused.
    pub fn leave(&mut self) {
        self.live = self.live.saturating_sub(1);
        // Entries of clients that left from the middle are dropped once they outnumber the rest.
        if self.live == 0 {
            self.keys.clear();
            (self.shortage, self.retry_at) = (None, None);
        }
    }

    pub fn compact(&mut self, waits: impl Fn(Key) -> bool) {
        if self.keys.len() > 64 && self.keys.len() > 2 * self.live {
            self.keys.retain(|key| waits(*key));
        }
    }
}
