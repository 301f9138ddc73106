//! Weighted random draws.
//!
//! Owns: an alias table (Walker 1977, Vose 1991) in whole numbers, so that a draw costs the same for
//! two servers and for ten thousand. Refuses nothing; weight 0 is never drawn.

use fourfold_base::prng::Prng;

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
    pub fn new(weights: &[u32]) -> Draw {
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let count = weights.len() as u128;
        // How much of the columns' common area each server still has to be given.
        let mut left: Vec<u128> = weights.iter().map(|weight| u128::from(*weight) * count).collect();
        let height = u128::from(total);
        let (mut low, mut high): (Vec<usize>, Vec<usize>) =
            (0..weights.len()).partition(|server| left[*server] < height);
        let mut columns: Vec<Column> =
            (0..weights.len()).map(|server| Column { own: total, other: server as u32 }).collect();
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

    /// A server by weight, usable or not.
    fn one(&self, random: &mut Prng) -> usize {
        let server = random.below(self.columns.len() as u32) as usize;
        let column = self.columns[server];
        if below(random, self.total) < column.own { server } else { column.other as usize }
    }

    /// A usable server by weight, and its load.
    pub fn usable(
        &self,
        weights: &[u32],
        random: &mut Prng,
        load: impl Fn(usize) -> Option<u32>,
    ) -> Option<(usize, u32)> {
        if self.total == 0 {
            return None;
        }
        for _ in 0..DRAWS_MAX {
            let server = self.one(random);
            if let Some(load) = load(server) {
                return Some((server, load));
            }
        }
        walk(weights, random, load)
    }
}

/// Among few usable servers: each takes the lead with its share of the weight seen so far.
fn walk(weights: &[u32], random: &mut Prng, load: impl Fn(usize) -> Option<u32>) -> Option<(usize, u32)> {
    let mut seen = 0;
    let mut leader = None;
    for (server, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0) {
        if let Some(load) = load(server) {
            seen += u64::from(weight);
            if below(random, seen) < u64::from(weight) {
                leader = Some((server, load));
            }
        }
    }
    leader
}

/// Uniform in `0..bound`; the bias is at most `bound / 2^64`.
pub(crate) fn below(random: &mut Prng, bound: u64) -> u64 {
    ((u128::from(random.next_u64()) * u128::from(bound)) >> 64) as u64
}
