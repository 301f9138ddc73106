//! Sources that a slice should rather not use for now, because a path from them failed.
//!
//! Owns: until when each is ejected. Bounded by [`EJECTED_SOURCES_MAX`].

use std::collections::BTreeSet;

use crate::hash::Map;

/// Sources that one slice can have ejected at once. Looking for a block walks past ejected sources,
/// so this also bounds that walk. More bad paths than this mean that it is not the source.
pub const EJECTED_SOURCES_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Ejections {
    until: Map<u64, u64>,
    order: BTreeSet<(u64, u64)>,
}

impl Ejections {
    pub fn len(&self) -> usize {
        self.until.len()
    }

    pub fn contains(&self, source: u64) -> bool {
        !self.until.is_empty() && self.until.contains_key(&source)
    }

    /// Ejects a source, or moves the end of its ejection. False when there are too many.
    pub fn insert(&mut self, source: u64, until_ms: u64) -> bool {
        if !self.until.contains_key(&source) && self.until.len() >= EJECTED_SOURCES_MAX {
            return false;
        }
        self.remove(source);
        self.until.insert(source, until_ms);
        self.order.insert((until_ms, source));
        true
    }

    pub fn remove(&mut self, source: u64) -> bool {
        match self.until.remove(&source) {
            Some(until_ms) => self.order.remove(&(until_ms, source)),
            None => false,
        }
    }

    pub fn pop_expired(&mut self, now_ms: u64) -> Option<u64> {
        let &(until_ms, source) = self.order.first()?;
        if until_ms > now_ms {
            return None;
        }
        self.remove(source);
        Some(source)
    }

    pub fn pop_any(&mut self) -> Option<u64> {
        self.pop_expired(u64::MAX)
    }
}
