//! Weighted random draws.
//!
//! Owns: an alias table (Walker 1977, Vose 1991) in whole numbers, so that a draw costs the same for
//! two servers and for ten thousand. Refuses nothing; weight 0 is never drawn.

use fourfold_base::prng::Prng;

use crate::group::{Seen, View};
use crate::warmth::WARM;

/// Draws that may hit an unusable server before the servers are walked instead. With 9 of 10 usable
/// one in a hundred million picks walks; with 1 of 10, two in five do.
const DRAWS_MAX: u32 = 8;

#[derive(Clone, Debug)]
pub(crate) struct Draw {
    columns: Vec<Column>,
    /// Sum of all weights.
    total: u64,
}

/// Each column is as high as `total`; its lower part is its own server's, the rest another's.
#[derive(Clone, Copy, Debug)]
struct Column {
    own: u64,
    other: u32,
}

impl Draw {
    pub fn new(weights: impl ExactSizeIterator<Item = u32> + Clone) -> Draw {
        let count = weights.len();
        let total: u64 = weights.clone().map(u64::from).sum();
        // How much of the columns' common area each server still has to be given.
        let mut left: Vec<u128> = weights.map(|weight| u128::from(weight) * count as u128).collect();
        let height = u128::from(total);
        let (mut low, mut high): (Vec<usize>, Vec<usize>) =
            (0..count).partition(|server| left[*server] < height);
        let mut columns: Vec<Column> =
            (0..count).map(|server| Column { own: total, other: server as u32 }).collect();
        while let (Some(small), Some(&large)) = (low.pop(), high.last()) {
            columns[small] = Column { own: left[small] as u64, other: large as u32 };
            left[large] -= height - left[small];
            if left[large] < height {
                high.pop();
                low.push(large);
            }
        }
        Draw { columns, total }
    }

    /// A place by weight, usable or not.
    fn one(&self, random: &mut Prng) -> usize {
        let place = random.below(self.columns.len() as u32) as usize;
        let column = self.columns[place];
        if below(random, self.total) < column.own { place } else { column.other as usize }
    }

    /// A usable server by weight. One that is still cold is passed over as often as its weight is short.
    pub fn usable(&self, random: &mut Prng, view: &View<impl Fn(usize) -> Option<u32>>) -> Option<Seen> {
        if self.total == 0 {
            return None;
        }
        for _ in 0..DRAWS_MAX {
            let place = self.one(random);
            if let Some(seen) = view.look(place)
                && (seen.warmth == WARM || random.chance(seen.warmth, WARM))
            {
                return Some(seen);
            }
        }
        walk(random, view)
    }
}

/// Among few usable servers: each takes the lead with its share of the weight seen so far.
fn walk(random: &mut Prng, view: &View<impl Fn(usize) -> Option<u32>>) -> Option<Seen> {
    let mut total = 0;
    let mut leader = None;
    for seen in view.all() {
        total += seen.share;
        if below(random, total) < seen.share {
            leader = Some(seen);
        }
    }
    leader
}

/// Uniform in `0..bound`; the bias is at most `bound / 2^64`.
pub(crate) fn below(random: &mut Prng, bound: u64) -> u64 {
    ((u128::from(random.next_u64()) * u128::from(bound)) >> 64) as u64
}
