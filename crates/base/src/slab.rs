//! A slab with generations: a [`Key`] of a removed entry never reaches the entry that took its place.
//!
//! Entries live in pages that are never moved or copied, so growth costs one page and memory follows the peak of use.
//! Fully empty pages at the end are given back.

const PAGE: usize = 512;

/// Slot and generation. Packs into 60 bits to travel through the kernel as user data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    pub slot: u32,
    pub generation: u32,
}

impl Key {
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }
    pub fn from_bits(bits: u64) -> Self {
        Self { slot: bits as u32, generation: (bits >> 32) as u32 }
    }
}

enum Entry<T> {
    Free { next: u32, generation: u32 },
    Used { generation: u32, value: T },
}

pub struct Slab<T> {
    pages: Vec<Vec<Entry<T>>>,
    free: u32,
    len: usize,
    limit: usize,
}

const NONE: u32 = u32::MAX;
/// Generations leave the top four bits of a packed key to its user.
const GENERATIONS: u32 = 0x0FFF_FFFF;

impl<T> Slab<T> {
    /// Holds at most `limit` entries.
    pub fn new(limit: usize) -> Self {
        Self { pages: Vec::new(), free: NONE, len: 0, limit: limit.min(NONE as usize) }
    }

    pub fn len(&self) -> usize {
        self.len
    }
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    pub fn is_full(&self) -> bool {
        self.len >= self.limit
    }

    /// Gives the value back when the slab is full.
    pub fn insert(&mut self, value: T) -> Result<Key, T> {
        if self.is_full() {
            return Err(value);
        }
        if self.free == NONE {
            self.grow();
        }
        let slot = self.free;
        let Some(entry) = self.entry_mut(slot) else { return Err(value) };
        let Entry::Free { next, generation } = *entry else { return Err(value) };
        *entry = Entry::Used { generation, value };
        self.free = next;
        self.len += 1;
        Ok(Key { slot, generation })
    }

    pub fn get(&self, key: Key) -> Option<&T> {
        match self.pages.get(key.slot as usize / PAGE)?.get(key.slot as usize % PAGE)? {
            Entry::Used { generation, value } if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.entry_mut(key.slot)? {
            Entry::Used { generation, value } if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        let next = self.free;
        let entry = self.entry_mut(key.slot)?;
        let vacant = Entry::Free { next, generation: (key.generation + 1) & GENERATIONS };
        let Entry::Used { value, .. } = std::mem::replace(entry, vacant) else { return None };
        self.free = key.slot;
        self.len -= 1;
        Some(value)
    }

    /// The live key in `slot`, for walks that must survive changes made on the way.
    pub fn key_at(&self, slot: u32) -> Option<Key> {
        match self.pages.get(slot as usize / PAGE)?.get(slot as usize % PAGE)? {
            Entry::Used { generation, .. } => Some(Key { slot, generation: *generation }),
            Entry::Free { .. } => None,
        }
    }

    /// Slots that exist: every live key has a slot below this.
    pub fn slots(&self) -> u32 {
        (self.pages.len() * PAGE) as u32
    }

    fn entry_mut(&mut self, slot: u32) -> Option<&mut Entry<T>> {
        self.pages.get_mut(slot as usize / PAGE)?.get_mut(slot as usize % PAGE)
    }

    fn grow(&mut self) {
        let first = self.slots();
        let last = first + PAGE as u32 - 1;
        let link = |slot| Entry::Free { next: if slot == last { NONE } else { slot + 1 }, generation: 0 };
        self.pages.push((first..=last).map(link).collect());
        self.free = first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prng::Prng;
    use std::collections::HashMap;

    #[test]
    fn agrees_with_a_map_and_never_serves_a_stale_key() {
        let mut rng = Prng::new(1);
        let mut slab = Slab::new(5000);
        let (mut live, mut dead) = (HashMap::new(), Vec::new());
        for step in 0..200_000u32 {
            if rng.chance(11, 20) {
                match slab.insert(step) {
                    Ok(key) => assert!(live.insert(key, step).is_none()),
                    Err(value) => assert_eq!((value, live.len()), (step, 5000)),
                }
            } else if let Some(key) = live.keys().next().copied() {
                assert_eq!(slab.remove(key), live.remove(&key));
                dead.push(key);
            }
            if let Some(&key) = dead.last() {
                assert!(slab.get(key).is_none() && slab.remove(key).is_none());
            }
            assert_eq!(slab.len(), live.len());
        }
        assert!(live.iter().all(|(key, value)| slab.get(*key) == Some(value)));
        let walked = (0..slab.slots()).filter_map(|slot| slab.key_at(slot)).count();
        assert_eq!(walked, live.len());
    }

    #[test]
    fn key_survives_packing() {
        let key = Key { slot: 0xDEAD_BEEF, generation: 0x7234_5678 };
        assert_eq!(Key::from_bits(key.to_bits()), key);
    }
}
