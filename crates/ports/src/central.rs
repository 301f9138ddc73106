//! What no slice owns: blocks given back, blocks never used so far, and foreign sockets found.
//!
//! Owns: the central bag, the frontier, the list of discovered foreign sockets.
//! Driven by: the space, under the central lock. Every move of tokens between slices happens under that
//! lock too, so whoever holds it and finds nothing knows that nothing is on its way either.

use std::collections::VecDeque;

use crate::bag::{Bag, BlockKey, Look};
use crate::frontier::{Frontier, Shape};
use crate::hash::Map;

#[derive(Debug)]
pub(crate) struct Central {
    pub bag: Bag,
    pub frontier: Frontier,
    pub foreign: ForeignSockets,
    /// Bits on their way from one slice to another; empty whenever the lock is free.
    pub transit: Vec<(BlockKey, u64)>,
}

impl Central {
    pub fn new(shape: &Shape) -> Central {
        Central {
            bag: Bag::new(),
            frontier: Frontier::new(shape),
            foreign: ForeignSockets::default(),
            transit: Vec::new(),
        }
    }

    /// A block of an allowed source. Blocks of other sources that come up at the frontier meanwhile are
    /// kept in the central bag; `refused_most` says how many sources can be refused in a row.
    pub fn take_block(
        &mut self,
        shape: &Shape,
        refused_most: usize,
        allow: impl Fn(u64) -> bool,
    ) -> Option<(BlockKey, u64)> {
        if let Some(block) = self.bag.take_block(Look::All, &allow) {
            return Some(block);
        }
        for _ in 0..=refused_most {
            let (key, mask) = self.frontier.next(shape)?;
            if allow(key.source) {
                return Some((key, mask));
            }
            self.bag.put(key, mask);
        }
        None
    }
}

/// Tuples that a look at the kernel's sockets showed to be held by somebody else.
#[derive(Debug, Default)]
pub(crate) struct ForeignSockets {
    until_ms: Map<(u64, u16), u64>,
    /// A renewed entry is pushed again; the older one is stale and skipped.
    order: VecDeque<(u64, u64, u16)>,
}

impl ForeignSockets {
    pub fn contains(&self, source: u64, port: u16) -> bool {
        self.until_ms.contains_key(&(source, port))
    }

    pub fn insert(&mut self, source: u64, port: u16, until_ms: u64) {
        let newest = self.order.back().map_or(0, |(until, ..)| *until);
        let until_ms = until_ms.max(newest);
        // Renewing within the same millisecond would only fill the queue.
        if self.until_ms.insert((source, port), until_ms) != Some(until_ms) {
            self.order.push_back((until_ms, source, port));
        }
        self.drop_stale();
    }

    pub fn pop_expired(&mut self, now_ms: u64) -> Option<(u64, u16)> {
        let &(until_ms, source, port) = self.order.front()?;
        if until_ms > now_ms {
            return None;
        }
        self.order.pop_front();
        self.until_ms.remove(&(source, port));
        self.drop_stale();
        Some((source, port))
    }

    /// The front is always a valid entry, so that it tells the next expiry.
    fn drop_stale(&mut self) {
        while let Some(&(until_ms, source, port)) = self.order.front() {
            if self.until_ms.get(&(source, port)) == Some(&until_ms) {
                return;
            }
            self.order.pop_front();
        }
    }

    /// The sources of all that are known, in no order.
    pub fn sources(&self) -> impl Iterator<Item = u64> + '_ {
        self.until_ms.keys().map(|(source, _)| *source)
    }

    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.order.front().map(|(until_ms, ..)| *until_ms)
    }
}
