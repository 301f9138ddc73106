//! One shard's way to the tuples of a space.
//!
//! Owns: nothing that another shard could want; free tuples stay in the space, where others can borrow
//! them. Keeps which sources are ejected, as paths are judged per shard.
//! Driven by: the shard, with the time as an argument.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::bag::{BLOCK_PORTS, Look};
use crate::central::Central;
use crate::ejection::Ejections;
use crate::lease::{Lease, Release};
use crate::shard::{NEVER, Shard};
use crate::space::{Exhausted, Space};

/// Tuples freed from quarantine by the way of one lease. More than one, so that it keeps up.
const EXPIRED_PER_LEASE: usize = 8;

/// Tuples freed from quarantine at once while looking for any.
const EXPIRED_PER_SEARCH: usize = 64;

/// A search can miss a tuple that is released behind its back. It looks again this often before it
/// refuses while the counters say that there is one.
const SEARCHES_MAX: usize = 3;

/// Sources passed by in search of a certain one.
const SOURCES_SEARCHED_MAX: u64 = 1024;

/// The share of one shard in a [`Space`].
#[derive(Debug)]
pub struct Slice {
    space: Arc<Space>,
    shard: usize,
    ejections: Ejections,
    next_victim: usize,
}

/// Which sources a search accepts; each next one is tried when the one before found nothing anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accept {
    /// Neither ejected nor to be avoided.
    Good,
    /// Ejected: trying a path that failed a while ago beats refusing.
    Ejected,
    /// Also the one to be avoided.
    Any,
    Only(u64),
}

impl Slice {
    pub(crate) fn new(space: Arc<Space>, shard: usize) -> Slice {
        Slice { space, shard, ejections: Ejections::default(), next_victim: shard + 1 }
    }

    #[must_use]
    pub fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// Leases a tuple. Refuses only when no slice of the space has a free one.
    ///
    /// Ejected sources come last: they are used, in turn, when no other source has a free tuple.
    pub fn lease(&mut self, now_ms: u64) -> Result<Lease, Exhausted> {
        self.lease_but(now_ms, None)
    }

    /// Leases a tuple of another source than this one if any has one, even an ejected one; else of this
    /// source. For the retry on another path: compare [`Lease::source_index`] to see whether it is one.
    pub fn lease_avoiding(&mut self, now_ms: u64, source_index: u64) -> Result<Lease, Exhausted> {
        self.lease_but(now_ms, Some(source_index))
    }

    /// Leases a tuple of this source and of no other, ejected or not: for who wants to know how its path is.
    /// Costs a step per source, so it is for few sources, or for few calls.
    pub fn lease_from(&mut self, now_ms: u64, source_index: u64) -> Result<Lease, Exhausted> {
        self.end_ejections(now_ms);
        for _ in 0..SEARCHES_MAX {
            if !self.space.may_have_free(now_ms) {
                break;
            }
            if let Some(lease) = self.search_accepting(now_ms, Accept::Only(source_index), None) {
                return Ok(lease);
            }
        }
        Err(self.space.exhausted())
    }

    /// Gives a tuple back. It must come from the same space, but may come from another slice of it.
    pub fn release(&mut self, lease: Lease, now_ms: u64, how: Release) {
        let shape = self.space.shape();
        debug_assert!(shape.contains(lease.source_index(), lease.port()), "{lease:?} is of another space");
        if !shape.contains(lease.source_index(), lease.port()) {
            return;
        }
        if how == Release::Foreign {
            self.space.foreign_hits.fetch_add(1, Relaxed);
        }
        let surplus = self.own().with(|state, counters| {
            state.release(lease, now_ms, how, counters);
            state.has_surplus()
        });
        if surplus {
            self.give_back(now_ms);
        }
    }

    /// Frees what has rested long enough. Calling it late loses nothing: lease looks for itself, only
    /// the headroom shown is behind meanwhile.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        self.end_ejections(now_ms);
        let surplus = self.own().with(|state, counters| {
            state.expire(now_ms, usize::MAX, counters);
            state.has_surplus()
        });
        if surplus || self.space.foreign_expiry_ms() <= now_ms {
            self.give_back(now_ms);
        }
    }

    /// When [`handle_timeout`](Slice::handle_timeout) has something to do. Changes with every release;
    /// ask again before sleeping.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let next = self.own().next_expiry_ms().min(self.space.foreign_expiry_ms());
        (next != NEVER).then_some(next)
    }

    /// Has this slice avoid a source until then, because its path to the destination failed. A later
    /// call moves the end. False when the source does not exist or
    /// [`EJECTED_SOURCES_MAX`](crate::EJECTED_SOURCES_MAX) are ejected already.
    pub fn eject_source(&mut self, source_index: u64, until_ms: u64) -> bool {
        if source_index >= self.space.shape().sources || !self.ejections.insert(source_index, until_ms) {
            return false;
        }
        self.set_parked(source_index, true);
        true
    }

    /// Ends an ejection early, when the path works again.
    pub fn readmit_source(&mut self, source_index: u64) {
        if self.ejections.remove(source_index) {
            self.set_parked(source_index, false);
        }
    }

    /// Whether the source is ejected; an ejection that is over counts until the next call with a time.
    #[must_use]
    pub fn is_ejected(&self, source_index: u64) -> bool {
        self.ejections.contains(source_index)
    }

    fn own(&self) -> &Shard {
        &self.space.shards()[self.shard]
    }

    fn lease_but(&mut self, now_ms: u64, avoid: Option<u64>) -> Result<Lease, Exhausted> {
        self.end_ejections(now_ms);
        let lease = self.own().with(|state, counters| {
            state.expire(now_ms, EXPIRED_PER_LEASE, counters);
            let tuple = state.bag.take(Look::InUse, |source| Some(source) != avoid)?;
            Some(state.lease(tuple, counters))
        });
        lease.or_else(|| self.search(now_ms, avoid)).ok_or_else(|| self.space.exhausted())
    }

    fn search(&mut self, now_ms: u64, avoid: Option<u64>) -> Option<Lease> {
        for _ in 0..SEARCHES_MAX {
            if !self.space.may_have_free(now_ms) {
                return None;
            }
            for accept in [Accept::Good, Accept::Ejected, Accept::Any] {
                let same_as_before = match accept {
                    Accept::Good => false,
                    Accept::Ejected => self.ejections.len() == 0,
                    Accept::Any => avoid.is_none(),
                    Accept::Only(_) => true,
                };
                if same_as_before {
                    continue;
                }
                if let Some(lease) = self.search_accepting(now_ms, accept, avoid) {
                    return Some(lease);
                }
            }
        }
        None
    }

    /// Own bag, then the centre, then the other slices.
    fn search_accepting(&mut self, now_ms: u64, accept: Accept, avoid: Option<u64>) -> Option<Lease> {
        let ejections = &self.ejections;
        let allow = |source: u64| match accept {
            Accept::Good => Some(source) != avoid && !ejections.contains(source),
            Accept::Ejected => Some(source) != avoid,
            Accept::Any => true,
            Accept::Only(only) => source == only,
        };
        let space = &self.space;
        let own = &space.shards()[self.shard];
        let mut central = space.central(now_ms);
        let lease = own.with(|state, counters| {
            state.expire(now_ms, EXPIRED_PER_SEARCH, counters);
            let tuple = state.bag.take(Look::All, allow)?;
            Some(state.lease(tuple, counters))
        });
        if lease.is_some() {
            return lease;
        }
        let refused_most = match accept {
            Accept::Only(_) => space.shape().sources.min(SOURCES_SEARCHED_MAX) as usize,
            // All ejected ones and the avoided one may come up in a row.
            _ => ejections.len() + 1,
        };
        if let Some(block) = central.take_block(space.shape(), refused_most, allow) {
            central.transit.push(block);
        } else {
            self.next_victim = borrow(space, &mut central, self.shard, self.next_victim, now_ms, allow);
        }
        own.with(|state, counters| {
            for (key, bits) in central.transit.drain(..) {
                state.bag.put(key, bits);
            }
            let tuple = state.bag.take(Look::All, allow)?;
            Some(state.lease(tuple, counters))
        })
    }

    fn give_back(&mut self, now_ms: u64) {
        let mut central = self.space.central(now_ms);
        self.own().with(|state, _| {
            while let Some(key) = state.take_surplus() {
                central.bag.put(key, u64::MAX);
            }
        });
    }

    fn end_ejections(&mut self, now_ms: u64) {
        while let Some(source) = self.ejections.pop_expired(now_ms) {
            self.set_parked(source, false);
        }
    }

    fn set_parked(&self, source: u64, parked: bool) {
        self.own().with(|state, _| state.bag.set_parked(source, parked));
    }
}

/// A slice that goes away leaves no opinion about sources behind.
impl Drop for Slice {
    fn drop(&mut self) {
        while let Some(source) = self.ejections.pop_any() {
            self.set_parked(source, false);
        }
    }
}

/// Moves half of what the next other slice with anything allowed has into the transit, a block's worth
/// at most. Returns where to begin next time.
fn borrow(
    space: &Space,
    central: &mut Central,
    borrower: usize,
    first_victim: usize,
    now_ms: u64,
    allow: impl Fn(u64) -> bool,
) -> usize {
    let shards = space.shards();
    for step in 0..shards.len() {
        let victim = (first_victim + step) % shards.len();
        if victim == borrower || !shards[victim].may_lend(now_ms) {
            continue;
        }
        shards[victim].with(|state, counters| {
            state.expire(now_ms, EXPIRED_PER_SEARCH, counters);
            let half = state.bag.free().div_ceil(2).min(u64::from(BLOCK_PORTS)) as u32;
            let mut wanted = half;
            while wanted > 0 {
                let Some((key, bits)) = state.bag.take_bits(Look::All, &allow, wanted) else {
                    break;
                };
                wanted -= bits.count_ones();
                central.transit.push((key, bits));
            }
        });
        if !central.transit.is_empty() {
            return victim + 1;
        }
    }
    first_victim
}
