//! A bag of free tuples.
//!
//! Owns: free bits, as 64-bit masks over blocks of 64 ports of one source, on a list per source; the
//! sources that have any are on one of two rings, in use or parked (ejected). Taking and putting one
//! tuple touches a constant number of nodes at any fill level; nothing ever walks over ports.
//! Refuses: nothing; a bit put twice is a broken invariant of ours and asserted in debug builds.
//! Driven by: a slice (its own bag, under its own lock) and the space (the central bag).

use crate::arena::{Arena, List, NIL};
use crate::hash::{Map, Set};
use crate::probe;

pub(crate) const BLOCK_PORTS: u32 = 64;

/// One block: ports `block * 64 ..= block * 64 + 63` of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BlockKey {
    pub source: u64,
    pub block: u16,
}

impl BlockKey {
    /// The block of a tuple and the tuple's bit in it.
    pub fn of(source: u64, port: u16) -> (BlockKey, u64) {
        (BlockKey { source, block: port >> 6 }, 1 << (port & 63))
    }

    fn port(self, bit: u32) -> u16 {
        (self.block << 6) | (bit as u16 & 63)
    }
}

#[derive(Debug)]
struct Block {
    key: BlockKey,
    mask: u64,
}

#[derive(Debug)]
struct Source {
    index: u64,
    blocks: List,
    parked: bool,
}

#[derive(Debug)]
pub(crate) struct Bag {
    blocks: Arena<Block>,
    sources: Arena<Source>,
    block_ids: Map<BlockKey, u32>,
    source_ids: Map<u64, u32>,
    in_use: List,
    parked: List,
    parked_sources: Set<u64>,
    free: u64,
    whole: u32,
}

/// Which of the bag's sources a taker looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Those in use; parked ones are known to be unwanted.
    InUse,
    /// All, those in use first.
    All,
}

impl Bag {
    pub fn new() -> Bag {
        Bag {
            blocks: Arena::new(),
            sources: Arena::new(),
            block_ids: Map::default(),
            source_ids: Map::default(),
            in_use: List::EMPTY,
            parked: List::EMPTY,
            parked_sources: Set::default(),
            free: 0,
            whole: 0,
        }
    }

    /// Free tuples in the bag.
    pub fn free(&self) -> u64 {
        self.free
    }

    /// Blocks of which all 64 ports are free.
    pub fn whole_blocks(&self) -> u32 {
        self.whole
    }

    /// Takes one tuple of the next allowed source: (source, port).
    pub fn take(&mut self, look: Look, allow: impl Fn(u64) -> bool) -> Option<(u64, u16)> {
        let source = self.next_source(look, allow)?;
        self.rotate(source);
        let id = self.sources.get(source).blocks.head;
        let Block { key, mask } = *self.blocks.get(id);
        let bit = mask.trailing_zeros();
        self.remove(id, 1 << bit);
        Some((key.source, key.port(bit)))
    }

    /// Takes what is free of one block of the next allowed source.
    pub fn take_block(&mut self, look: Look, allow: impl Fn(u64) -> bool) -> Option<(BlockKey, u64)> {
        self.take_bits(look, allow, BLOCK_PORTS)
    }

    /// Takes up to `most` free ports of one block.
    pub fn take_bits(
        &mut self,
        look: Look,
        allow: impl Fn(u64) -> bool,
        most: u32,
    ) -> Option<(BlockKey, u64)> {
        let source = self.next_source(look, allow)?;
        self.rotate(source);
        let id = self.sources.get(source).blocks.head;
        let Block { key, mask } = *self.blocks.get(id);
        let bits = lowest_bits(mask, most);
        self.remove(id, bits);
        Some((key, bits))
    }

    /// Takes a block that is wholly free, if it still is.
    pub fn take_whole(&mut self, key: BlockKey) -> bool {
        match self.block_ids.get(&key) {
            Some(&id) if self.blocks.get(id).mask == u64::MAX => {
                self.remove(id, u64::MAX);
                true
            }
            _ => false,
        }
    }

    /// Takes one given tuple, if it is here.
    pub fn take_exactly(&mut self, source: u64, port: u16) -> bool {
        let (key, bit) = BlockKey::of(source, port);
        match self.block_ids.get(&key) {
            Some(&id) if self.blocks.get(id).mask & bit != 0 => {
                self.remove(id, bit);
                true
            }
            _ => false,
        }
    }

    /// Adds free bits. True when this made the block wholly free.
    pub fn put(&mut self, key: BlockKey, bits: u64) -> bool {
        let id = match self.block_ids.get(&key) {
            Some(&id) => id,
            None => self.add_block(key),
        };
        let block = self.blocks.get_mut(id);
        debug_assert_eq!(block.mask & bits, 0, "tuples of {key:?} returned twice");
        let added = bits & !block.mask;
        block.mask |= bits;
        let became_whole = added != 0 && block.mask == u64::MAX;
        self.free += u64::from(added.count_ones());
        self.whole += u32::from(became_whole);
        became_whole
    }

    /// Parks a source or puts it back in use. [`Look::InUse`] does not see parked ones.
    pub fn set_parked(&mut self, source: u64, parked: bool) {
        let changed =
            if parked { self.parked_sources.insert(source) } else { self.parked_sources.remove(&source) };
        if !changed {
            return;
        }
        if let Some(&id) = self.source_ids.get(&source) {
            self.unlink_source(id);
            self.sources.get_mut(id).parked = parked;
            self.link_source(id);
        }
    }

    fn next_source(&self, look: Look, allow: impl Fn(u64) -> bool) -> Option<u32> {
        let rings = [self.in_use, if look == Look::All { self.parked } else { List::EMPTY }];
        for ring in rings {
            let mut id = ring.head;
            while id != NIL {
                probe::step();
                if allow(self.sources.get(id).index) {
                    return Some(id);
                }
                id = self.sources.next(id);
            }
        }
        None
    }

    /// To the end of its ring, so that load spreads over the sources.
    fn rotate(&mut self, source: u32) {
        self.unlink_source(source);
        self.link_source(source);
    }

    /// New blocks go to the end of the source's list: what was closed last is used again last, which
    /// gives the peer's own TIME_WAIT the longest time to pass.
    fn add_block(&mut self, key: BlockKey) -> u32 {
        probe::step();
        let source = match self.source_ids.get(&key.source) {
            Some(&id) => id,
            None => self.add_source(key.source),
        };
        let id = self.blocks.insert(Block { key, mask: 0 });
        self.block_ids.insert(key, id);
        self.blocks.push_back(&mut self.sources.get_mut(source).blocks, id);
        id
    }

    fn add_source(&mut self, index: u64) -> u32 {
        let parked = !self.parked_sources.is_empty() && self.parked_sources.contains(&index);
        let id = self.sources.insert(Source { index, blocks: List::EMPTY, parked });
        self.source_ids.insert(index, id);
        self.link_source(id);
        id
    }

    fn remove(&mut self, id: u32, bits: u64) {
        probe::step();
        let block = self.blocks.get_mut(id);
        self.whole -= u32::from(block.mask == u64::MAX);
        self.free -= u64::from(bits.count_ones());
        block.mask &= !bits;
        if block.mask == 0 {
            self.drop_block(id);
        }
    }

    fn drop_block(&mut self, id: u32) {
        let key = self.blocks.get(id).key;
        self.block_ids.remove(&key);
        if let Some(&source) = self.source_ids.get(&key.source) {
            self.blocks.unlink(&mut self.sources.get_mut(source).blocks, id);
            if self.sources.get(source).blocks.is_empty() {
                self.unlink_source(source);
                self.source_ids.remove(&key.source);
                self.sources.vacate(source);
            }
        }
        self.blocks.vacate(id);
    }

    fn link_source(&mut self, id: u32) {
        let ring = if self.sources.get(id).parked { &mut self.parked } else { &mut self.in_use };
        self.sources.push_back(ring, id);
    }

    fn unlink_source(&mut self, id: u32) {
        let ring = if self.sources.get(id).parked { &mut self.parked } else { &mut self.in_use };
        self.sources.unlink(ring, id);
    }
}

fn lowest_bits(mask: u64, most: u32) -> u64 {
    if mask.count_ones() <= most {
        return mask;
    }
    let mut rest = mask;
    for _ in 0..most {
        rest &= rest.wrapping_sub(1);
    }
    mask ^ rest
}
