//! Who goes when a shard's buffers are nearly used up: clients that hold bytes and stand still, so that the others have buffers to be
//! served with.
//!
//! Owns the thresholds and the order. Refuses to touch whoever moves: when everybody does, reads wait, and nobody is reset.

use fourfold_base::Millis;
use fourfold_base::slab::Key;
use fourfold_engine::{BUFFER_BYTES, Net, Sock};

/// Of a shard's buffers, the share in use at which slow clients are reset, and at which that ends again.
const START_PERCENT: usize = 85;
const STOP_PERCENT: usize = 70;
const _: () = assert!(STOP_PERCENT < START_PERCENT && START_PERCENT < 100);
/// Between two looks at all clients of a shard.
pub(crate) const INTERVAL_MS: Millis = 100;
/// A client in whose connection something has moved since then is not slow.
const STALLED_MS: Millis = 250;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Whose {
    Tunnel(Key),
    Client(Key),
}

/// A client that holds buffers and stands still.
pub(crate) struct Slow {
    pub whose: Whose,
    pub buffers: usize,
    stalled_ms: Millis,
}

impl Slow {
    /// `None`: it holds nothing, or moves.
    pub fn new(whose: Whose, buffers: usize, stalled_ms: Millis) -> Option<Self> {
        (buffers > 0 && stalled_ms >= STALLED_MS).then_some(Self { whose, buffers, stalled_ms })
    }

    /// What it has cost so far: buffers, for as long as they stood still.
    fn cost(&self) -> u64 {
        (self.buffers as u64).saturating_mul(self.stalled_ms)
    }
}

/// How many buffers are to come free, if they are nearly used up. What is lent to the kernel to receive into is nobody's.
pub(crate) fn excess<N: Net>(net: &N) -> Option<usize> {
    let held = net.stats().buffers_in_use;
    let lent = net.pool().in_use().saturating_sub(held);
    excess_of(held, net.pool().limit().saturating_sub(lent))
}

fn excess_of(held: usize, room: usize) -> Option<usize> {
    (held * 100 >= room * START_PERCENT).then(|| held - room * STOP_PERCENT / 100)
}

/// Those that go so that `excess` buffers come free, the costliest first.
pub(crate) fn choose(mut slow: Vec<Slow>, excess: usize) -> Vec<Slow> {
    slow.sort_by_key(|slow| std::cmp::Reverse(slow.cost()));
    let mut freed = 0;
    let mut needed = |slow: &Slow| {
        let before = freed;
        freed += slow.buffers;
        before < excess
    };
    slow.into_iter().take_while(|slow| needed(slow)).collect()
}

/// Buffers that a socket's unsent bytes take, at least.
pub(crate) fn unsent_buffers<N: Net>(net: &N, sock: Sock) -> usize {
    net.unsent(sock).div_ceil(BUFFER_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(slot: u32, buffers: usize, stalled_ms: Millis) -> Option<Slow> {
        Slow::new(Whose::Client(Key { slot, generation: 1 }), buffers, stalled_ms)
    }

    fn slots(chosen: &[Slow]) -> Vec<u32> {
        let slot = |slow: &Slow| match slow.whose {
            Whose::Client(key) | Whose::Tunnel(key) => key.slot,
        };
        chosen.iter().map(slot).collect()
    }

    #[test]
    fn costliest_go_first_and_no_more_than_needed() {
        let all = || [slow(1, 1, 9_000), slow(2, 8, 2_000), slow(3, 8, 300)].into_iter().flatten().collect();
        assert_eq!(slots(&choose(all(), 1)), [2]);
        assert_eq!(slots(&choose(all(), 9)), [2, 1]);
        assert_eq!(slots(&choose(all(), 10)), [2, 1, 3]);
        assert!(choose(all(), 0).is_empty());
    }

    #[test]
    fn who_moves_or_holds_nothing_is_not_slow() {
        assert!(slow(1, 8, STALLED_MS - 1).is_none());
        assert!(slow(1, 0, 60_000).is_none());
    }

    #[test]
    fn shedding_starts_high_and_goes_low() {
        assert_eq!(excess_of(84, 100), None);
        assert_eq!(excess_of(85, 100), Some(15));
        assert_eq!(excess_of(100, 100), Some(30));
    }
}
