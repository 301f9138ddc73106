//! The part of a space that nobody has asked for yet.
//!
//! Owns: the shape of the space (sources x usable ports, in blocks of 64) and a cursor over it. Blocks
//! come into being when they are first needed, so a space costs what is used of it, not what it spans.
//! Order: block by block, and within a block number over all sources, so that load spreads over them.
//! Driven by: the space, under the central lock.

use crate::bag::{BLOCK_PORTS, BlockKey};
use crate::hash::Map;
use crate::probe;
use crate::span::{PortSet, PortSpan};

/// The shape of a space: which (source, port) pairs exist.
#[derive(Debug)]
pub(crate) struct Shape {
    /// Source indices are below this.
    pub sources: u64,
    pub span: PortSpan,
    pub reserved: PortSet,
}

impl Shape {
    /// Usable ports per source.
    pub fn ports(&self) -> u32 {
        self.span.len() - self.reserved.within(self.span).map(PortSpan::len).sum::<u32>()
    }

    pub fn contains(&self, source: u64, port: u16) -> bool {
        source < self.sources && self.span.contains(port) && !self.reserved.contains(port)
    }

    /// The ports of a block that belong to the space.
    fn mask(&self, block: u16) -> u64 {
        let first = u32::from(block) * BLOCK_PORTS;
        let Ok(whole) = PortSpan::new(first.max(1) as u16, (first + BLOCK_PORTS - 1) as u16) else {
            return 0;
        };
        let Some(inside) = whole.intersection(self.span) else {
            return 0;
        };
        self.reserved.within(inside).fold(span_bits(inside), |mask, reserved| mask & !span_bits(reserved))
    }
}

/// The bits of a span that lies within one block.
fn span_bits(span: PortSpan) -> u64 {
    (u64::MAX << (span.first() & 63)) & (u64::MAX >> (63 - (span.last() & 63)))
}

#[derive(Debug)]
pub(crate) struct Frontier {
    source: u64,
    block: u32,
    mask: u64,
    /// Bits that were taken one by one ahead of their block, by [`Frontier::take_ahead`].
    ahead: Map<BlockKey, u64>,
}

impl Frontier {
    pub fn new(shape: &Shape) -> Frontier {
        let block = shape.span.first() >> 6;
        Frontier { source: 0, block: u32::from(block), mask: shape.mask(block), ahead: Map::default() }
    }

    /// The next block that has any port, and its ports.
    pub fn next(&mut self, shape: &Shape) -> Option<(BlockKey, u64)> {
        loop {
            probe::step();
            let key = BlockKey { source: self.source, block: self.block_within(shape)? };
            let mask = self.mask;
            self.advance(shape);
            let ahead = if self.ahead.is_empty() { 0 } else { self.ahead.remove(&key).unwrap_or(0) };
            if mask & !ahead != 0 {
                return Some((key, mask & !ahead));
            }
        }
    }

    /// Takes one tuple out of turn. False when its block has been handed out already.
    pub fn take_ahead(&mut self, source: u64, port: u16) -> bool {
        let (key, bit) = BlockKey::of(source, port);
        let handed_out = (u32::from(key.block), source) < (self.block, self.source);
        let taken = self.ahead.get(&key).is_some_and(|bits| bits & bit != 0);
        if handed_out || taken {
            return false;
        }
        *self.ahead.entry(key).or_insert(0) |= bit;
        true
    }

    fn block_within(&self, shape: &Shape) -> Option<u16> {
        u16::try_from(self.block).ok().filter(|block| *block <= shape.span.last() >> 6)
    }

    fn advance(&mut self, shape: &Shape) {
        self.source += 1;
        // A block number whose ports are all reserved is empty for every source: skip it at once.
        if self.source >= shape.sources || self.mask == 0 {
            self.source = 0;
            self.block += 1;
            self.mask = self.block_within(shape).map_or(0, |block| shape.mask(block));
        }
    }
}
