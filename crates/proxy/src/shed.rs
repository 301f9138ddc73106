//! Who goes when a shard's buffers are nearly used up: clients that hold them and stand still, so that the others have buffers to
//! be served with.
//!
//! Owns the thresholds, the measure of slowness, and the order. Refuses to touch whoever moves: when everybody does, reads wait, and
//! nobody is reset. Its shard drives it once per turn; without pressure nothing is looked at and nothing kept.

use fourfold_base::Millis;
use fourfold_base::slab::Key;
use fourfold_engine::{BUFFER_BYTES, Net, SEND_QUEUE_HIGH};
use std::collections::HashMap;

/// Of a shard's buffers, the share in use at which slow clients are reset, and at which that ends again.
const START_PERCENT: usize = 85;
const STOP_PERCENT: usize = 70;
const _: () = assert!(STOP_PERCENT < START_PERCENT && START_PERCENT < 100);
/// Between two looks at all clients of a shard.
const INTERVAL_MS: Millis = 100;
/// A client that would take what waits for it within this time, at its pace, moves: 26 KB/s with a full queue.
const PACE_MS: Millis = 5_000;
/// For how long a client must have been slower than that.
const STALLED_MS: Millis = 250;
const _: () = assert!(INTERVAL_MS < STALLED_MS && STALLED_MS < PACE_MS);

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Whose {
    Tunnel(Key),
    Client(Key),
}

/// A client that holds buffers.
pub(crate) struct Holder {
    pub whose: Whose,
    /// Bytes that wait to be taken, on either side.
    pub unsent: usize,
    /// Buffers that hold something else.
    pub kept: usize,
    /// Since when a head is being waited for that has begun.
    pub head_since: Option<Millis>,
}

impl Holder {
    fn buffers(&self) -> usize {
        self.kept + self.unsent.div_ceil(BUFFER_BYTES)
    }
}

/// A client was on its pace then.
#[derive(Clone, Copy)]
struct Pace {
    at: Millis,
    unsent: usize,
    /// At the last look.
    last: usize,
}

impl Pace {
    fn new(now: Millis, unsent: usize) -> Self {
        Self { at: now, unsent, last: unsent }
    }

    fn next(self, now: Millis, unsent: usize) -> Self {
        // A full queue is not added to: it was emptied and has filled again.
        let refilled = self.last >= SEND_QUEUE_HIGH && unsent > self.last;
        let taken = self.unsent.saturating_sub(unsent) as u64;
        let due = (self.unsent as u64).saturating_mul(now - self.at) / PACE_MS;
        match refilled || (taken > 0 && taken >= due) {
            true => Self::new(now, unsent),
            false => Self { last: unsent, ..self },
        }
    }
}

#[derive(Default)]
pub(crate) struct Shedder {
    /// Buffers are nearly used up: when to look again.
    next: Option<Millis>,
    paces: HashMap<Whose, Pace>,
}

impl Shedder {
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        self.next
    }

    /// How many buffers are to come free, when it is time to look.
    pub fn handle_timeout<N: Net>(&mut self, net: &N) -> Option<usize> {
        let Some(excess) = excess(net) else {
            self.next = None;
            self.paces.clear();
            return None;
        };
        let due = self.next.is_none_or(|next| next <= net.now());
        due.then(|| {
            self.next = Some(net.now() + INTERVAL_MS);
            excess
        })
    }

    /// Those that go so that `excess` buffers come free, the costliest first, and how many they hold.
    pub fn choose(&mut self, holders: Vec<Holder>, excess: usize, now: Millis) -> (Vec<Whose>, usize) {
        let before = std::mem::take(&mut self.paces);
        let mut slow = Vec::new();
        for holder in holders {
            let pace = before
                .get(&holder.whose)
                .map_or_else(|| Pace::new(now, holder.unsent), |pace| pace.next(now, holder.unsent));
            self.paces.insert(holder.whose, pace);
            let stalled_ms = now.saturating_sub(holder.head_since.unwrap_or(pace.at));
            if stalled_ms >= STALLED_MS {
                // What it has cost so far: buffers, for as long as they stood still.
                let cost = (holder.buffers() as u64).saturating_mul(stalled_ms);
                slow.push((cost, holder.buffers(), holder.whose));
            }
        }
        slow.sort_by_key(|(cost, ..)| std::cmp::Reverse(*cost));
        let mut freed = 0;
        let mut chosen = Vec::new();
        for (_, buffers, whose) in slow {
            if freed >= excess {
                break;
            }
            freed += buffers;
            chosen.push(whose);
        }
        (chosen, freed)
    }
}

/// What is lent to the kernel to receive into is nobody's.
fn excess<N: Net>(net: &N) -> Option<usize> {
    let held = net.stats().buffers_in_use;
    let lent = net.pool().in_use().saturating_sub(held);
    excess_of(held, net.pool().limit().saturating_sub(lent))
}

fn excess_of(held: usize, room: usize) -> Option<usize> {
    (held * 100 >= room * START_PERCENT).then(|| held - room * STOP_PERCENT / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whose(slot: u32) -> Whose {
        Whose::Client(Key { slot, generation: 1 })
    }

    fn holder(slot: u32, unsent: usize) -> Holder {
        Holder { whose: whose(slot), unsent, kept: 0, head_since: None }
    }

    fn head(slot: u32, since: Millis) -> Holder {
        Holder { whose: whose(slot), unsent: 0, kept: 1, head_since: Some(since) }
    }

    const KB: usize = 1024;

    /// What is shed at the last of several looks, 100 ms apart.
    fn shed(looks: &[usize]) -> bool {
        let mut shedder = Shedder::default();
        let look = |(at, unsent): (usize, &usize)| {
            shedder.choose(vec![holder(1, *unsent)], 1, 1_000 + 100 * at as u64).0
        };
        looks.iter().enumerate().map(look).last() == Some(vec![whose(1)])
    }

    #[test]
    fn who_takes_nothing_or_drips_goes_and_who_moves_stays() {
        assert!(shed(&[128 * KB; 4]));
        assert!(!shed(&[128 * KB; 3]), "not at first sight");
        assert!(shed(&[128 * KB, 127 * KB, 126 * KB, 125 * KB]));
        assert!(shed(&[10 * KB, 20 * KB, 30 * KB, 40 * KB]), "more comes, none goes");
        assert!(!shed(&[128 * KB, 120 * KB, 112 * KB, 104 * KB]));
        assert!(!shed(&[130 * KB, 131 * KB, 140 * KB, 141 * KB]), "emptied and filled again");
    }

    #[test]
    fn costliest_go_first_and_no_more_than_needed() {
        let all = || vec![head(1, 91_000), head(2, 99_000), head(3, 99_800), head(4, 50_000)];
        let chosen = |excess| Shedder::default().choose(all(), excess, 100_000);
        assert_eq!(chosen(1), (vec![whose(4)], 1));
        assert_eq!(chosen(9), (vec![whose(4), whose(1), whose(2)], 3), "the fourth has only begun");
        assert_eq!(chosen(0), (vec![], 0));
    }

    #[test]
    fn shedding_starts_high_and_goes_low() {
        assert_eq!(excess_of(84, 100), None);
        assert_eq!(excess_of(85, 100), Some(15));
        assert_eq!(excess_of(100, 100), Some(30));
    }
}
