//! One shard's share of a space.
//!
//! Owns: a bag and a quarantine behind a lock that is contended only while somebody borrows, and the
//! counters that others read without it.
//! Driven by: the shard's [`Slice`](crate::Slice), and by others' slices when they are short.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::bag::{Bag, BlockKey};
use crate::lease::{Lease, Release};
use crate::quarantine::{Quarantine, Queue};

/// Wholly free blocks that a slice keeps for itself; what is above goes back to the centre.
const WHOLE_BLOCKS_KEPT: u32 = 4;

/// Sources that are counted one by one. What further ones hold (of an IPv6 prefix, say) is counted together.
pub(crate) const SOURCES_COUNTED_MAX: usize = 256;

/// "No expiry" in an atomic.
pub(crate) const NEVER: u64 = u64::MAX;

/// A value poisoned by a panicking thread elsewhere is still a consistent set of tokens: every mutation
/// is complete before anything that could panic runs.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
pub(crate) struct State {
    pub bag: Bag,
    quarantine: Quarantine,
    /// Blocks that became wholly free while there were enough of them. Hints: checked again on use.
    surplus: Vec<BlockKey>,
    /// By source, as far as sources have been used; the last place is that of all further ones.
    by_source: Vec<Count>,
}

/// What one source has in the hands of one shard. Signed for the same reason as [`Counters`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub used: i64,
    pub quarantined: i64,
    pub foreign: i64,
    /// Leases ever made.
    pub leases: u64,
}

/// Counters are per shard and only their sum means something: a lease may come back through another
/// shard's slice, and an expired tuple may be reclaimed by a borrower. Hence signed.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub used: AtomicI64,
    pub quarantined: AtomicI64,
    pub foreign: AtomicI64,
}

// A line of its own (and its neighbour's, which the CPU prefetches): shards must not share them.
#[repr(align(128))]
#[derive(Debug)]
pub(crate) struct Shard {
    state: Mutex<State>,
    pub counters: Counters,
    /// Copies of what is behind the lock, so that a borrower need not lock in vain.
    free: AtomicU64,
    next_expiry_ms: AtomicU64,
}

impl Shard {
    pub fn new(time_wait_quarantine_ms: u64, foreign_recheck_ms: u64) -> Shard {
        let quarantine = Quarantine {
            time_wait: Queue::new(time_wait_quarantine_ms),
            foreign: Queue::new(foreign_recheck_ms),
        };
        Shard {
            state: Mutex::new(State {
                bag: Bag::new(),
                quarantine,
                surplus: Vec::new(),
                by_source: Vec::new(),
            }),
            counters: Counters::default(),
            free: AtomicU64::new(0),
            next_expiry_ms: AtomicU64::new(NEVER),
        }
    }

    /// Runs `f` under the lock and publishes what changed.
    pub fn with<R>(&self, f: impl FnOnce(&mut State, &Counters) -> R) -> R {
        let mut state = lock(&self.state);
        let result = f(&mut state, &self.counters);
        self.free.store(state.bag.free(), Relaxed);
        self.next_expiry_ms.store(state.quarantine.next_expiry_ms().unwrap_or(NEVER), Relaxed);
        result
    }

    /// Looks under the lock and changes nothing.
    pub fn look<R>(&self, f: impl FnOnce(&State) -> R) -> R {
        f(&lock(&self.state))
    }

    pub fn next_expiry_ms(&self) -> u64 {
        self.next_expiry_ms.load(Relaxed)
    }

    /// Whether there is anything to borrow.
    pub fn may_lend(&self, now_ms: u64) -> bool {
        self.free.load(Relaxed) > 0 || self.next_expiry_ms() <= now_ms
    }
}

impl State {
    pub fn lease(&mut self, tuple: (u64, u16), counters: &Counters) -> Lease {
        counters.used.fetch_add(1, Relaxed);
        let count = self.count(tuple.0);
        count.used += 1;
        count.leases += 1;
        Lease::new(tuple.0, tuple.1)
    }

    pub fn by_source(&self) -> &[Count] {
        &self.by_source
    }

    fn count(&mut self, source: u64) -> &mut Count {
        let place = usize::try_from(source).unwrap_or(SOURCES_COUNTED_MAX).min(SOURCES_COUNTED_MAX);
        if place >= self.by_source.len() {
            self.by_source.resize_with(place + 1, Count::default);
        }
        &mut self.by_source[place]
    }

    pub fn release(&mut self, lease: Lease, now_ms: u64, how: Release, counters: &Counters) {
        counters.used.fetch_sub(1, Relaxed);
        let source = lease.source_index();
        self.count(source).used -= 1;
        let (queue, counter) = match how {
            Release::Clean => return self.put(&lease),
            Release::TimeWait => (&mut self.quarantine.time_wait, &counters.quarantined),
            Release::Foreign => (&mut self.quarantine.foreign, &counters.foreign),
        };
        if queue.delay_ms() == 0 {
            return self.put(&lease);
        }
        counter.fetch_add(1, Relaxed);
        queue.push(now_ms, lease);
        match how {
            Release::Foreign => self.count(source).foreign += 1,
            Release::Clean | Release::TimeWait => self.count(source).quarantined += 1,
        }
    }

    /// Frees up to `most` tuples whose quarantine is over.
    pub fn expire(&mut self, now_ms: u64, most: usize, counters: &Counters) {
        for _ in 0..most {
            if let Some(lease) = self.quarantine.time_wait.pop_expired(now_ms) {
                counters.quarantined.fetch_sub(1, Relaxed);
                self.count(lease.source_index()).quarantined -= 1;
                self.put(&lease);
            } else if let Some(lease) = self.quarantine.foreign.pop_expired(now_ms) {
                counters.foreign.fetch_sub(1, Relaxed);
                self.count(lease.source_index()).foreign -= 1;
                self.put(&lease);
            } else {
                return;
            }
        }
    }

    pub fn has_surplus(&self) -> bool {
        !self.surplus.is_empty()
    }

    /// A wholly free block that this shard need not keep.
    pub fn take_surplus(&mut self) -> Option<BlockKey> {
        while let Some(key) = self.surplus.pop() {
            if self.bag.whole_blocks() > WHOLE_BLOCKS_KEPT && self.bag.take_whole(key) {
                return Some(key);
            }
        }
        None
    }

    fn put(&mut self, lease: &Lease) {
        let (key, bit) = BlockKey::of(lease.source_index(), lease.port());
        if self.bag.put(key, bit) && self.bag.whole_blocks() > WHOLE_BLOCKS_KEPT {
            self.surplus.push(key);
        }
    }
}
