//! Who goes when a shard's buffers are nearly used up: clients that hold them and stand still, so that the others have buffers to
//! be served with.
//!
//! Owns the thresholds, the measure of slowness, and the order. Refuses to touch whoever moves: when everybody does, reads wait, and
//! nobody is reset. Its shard drives it once per turn; without pressure nothing is looked at and nothing kept.

use fourfold_base::Millis;
use fourfold_base::slab::Key;
use fourfold_engine::{BUFFER_BYTES, Net, SEND_QUEUE_HIGH, Sock};
use std::collections::{HashMap, VecDeque};

/// Of a shard's buffers, the share in use at which slow clients are reset, and at which that ends again. From there on they are
/// watched: by the time that they have to go it must be known who they are, or the rest is used up meanwhile.
const START_PERCENT: usize = 85;
const STOP_PERCENT: usize = 70;
const _: () = assert!(STOP_PERCENT < START_PERCENT && START_PERCENT < 100);
/// Between two looks at all clients of a shard.
const INTERVAL_MS: Millis = 100;
/// A client that would take what waits for it within this time, at its pace, moves: 26 KB/s with a full queue.
const PACE_MS: Millis = 5_000;
/// For how long a client must have been slower than that.
const STALLED_MS: Millis = 250;
/// Clients reset in one turn, at some 20 us each; others are served before the next ones go.
const BATCH: usize = 64;
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
    /// Where there are some, everything had been taken at some time since the last look: they are others than those.
    pub emptied: bool,
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

    fn next(self, now: Millis, Holder { unsent, emptied, .. }: &Holder) -> Self {
        // A full queue is not added to: it was emptied and has filled again.
        let refilled = self.last >= SEND_QUEUE_HIGH && *unsent > self.last;
        let taken = self.unsent.saturating_sub(*unsent) as u64;
        let due = (self.unsent as u64).saturating_mul(now - self.at) / PACE_MS;
        match *emptied || refilled || (taken > 0 && taken >= due) {
            true => Self::new(now, *unsent),
            false => Self { last: *unsent, ..self },
        }
    }
}

#[derive(Default)]
pub(crate) struct Shedder {
    /// Many buffers are in use: when to look again.
    next: Option<Millis>,
    paces: HashMap<Whose, Pace>,
    /// Those that go, and how many buffers each holds.
    chosen: VecDeque<(Whose, usize)>,
}

impl Shedder {
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        if self.chosen.is_empty() { self.next } else { Some(0) }
    }

    /// How many buffers are to come free, when it is time to look.
    pub fn handle_timeout<N: Net>(&mut self, net: &N) -> Option<usize> {
        let Some(excess) = excess(net) else {
            self.next = None;
            self.paces.clear();
            self.chosen.clear();
            return None;
        };
        let due = self.chosen.is_empty() && self.next.is_none_or(|next| next <= net.now());
        due.then(|| {
            self.next = Some(net.now() + INTERVAL_MS);
            excess
        })
    }

    /// Those that go in this turn, and how many buffers they hold. To be asked in every turn.
    #[must_use]
    pub fn poll_chosen(&mut self) -> (Vec<Whose>, usize) {
        let batch = self.chosen.drain(..self.chosen.len().min(BATCH));
        let mut buffers = 0;
        let whose = batch.map(|(whose, held)| {
            buffers += held;
            whose
        });
        (whose.collect(), buffers)
    }

    /// Chooses those that go so that `excess` buffers come free, the costliest first.
    pub fn choose(&mut self, holders: Vec<Holder>, excess: usize, now: Millis) {
        let before = std::mem::take(&mut self.paces);
        let mut slow = Vec::new();
        for holder in holders {
            let pace = before
                .get(&holder.whose)
                .map_or_else(|| Pace::new(now, holder.unsent), |pace| pace.next(now, &holder));
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
        for (_, buffers, whose) in slow {
            if freed >= excess {
                break;
            }
            freed += buffers;
            self.chosen.push_back((whose, buffers));
        }
    }
}

/// Bytes that wait to be taken, and whether they are others than at the last look on every side that has some.
pub(crate) fn unsent_of<N: Net>(net: &mut N, sides: &[Sock]) -> (usize, bool) {
    sides.iter().fold((0, true), |(sum, others), side| {
        let (unsent, emptied) = (net.unsent(*side), net.was_emptied(*side));
        (sum + unsent, others && (emptied || unsent == 0))
    })
}

/// What is lent to the kernel to receive into is nobody's.
fn excess<N: Net>(net: &N) -> Option<usize> {
    let held = net.stats().buffers_in_use;
    let lent = net.pool().in_use().saturating_sub(held);
    excess_of(held, net.pool().limit().saturating_sub(lent))
}

/// `None`: there is nothing to see yet.
fn excess_of(held: usize, room: usize) -> Option<usize> {
    let stop = room * STOP_PERCENT / 100;
    match held * 100 >= room * START_PERCENT {
        true => Some(held - stop),
        false => (held > stop).then_some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whose(slot: u32) -> Whose {
        Whose::Client(Key { slot, generation: 1 })
    }

    fn holder(slot: u32, unsent: usize) -> Holder {
        Holder { whose: whose(slot), unsent, emptied: false, kept: 0, head_since: None }
    }

    fn head(slot: u32, since: Millis) -> Holder {
        Holder { whose: whose(slot), unsent: 0, emptied: false, kept: 1, head_since: Some(since) }
    }

    const KB: usize = 1024;

    /// What is shed at the last of several looks, 100 ms apart.
    fn shed(looks: &[usize]) -> bool {
        let mut shedder = Shedder::default();
        let look = |(at, unsent): (usize, &usize)| {
            shedder.choose(vec![holder(1, *unsent)], 1, 1_000 + 100 * at as u64);
            shedder.poll_chosen().0
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
    fn who_has_another_answer_of_the_same_length_at_every_look_stays() {
        let mut shedder = Shedder::default();
        for look in 0..20 {
            let busy = Holder { emptied: true, ..holder(1, 165) };
            shedder.choose(vec![busy, holder(2, 165)], 2, 1_000 + 100 * look);
            let (gone, _) = shedder.poll_chosen();
            assert!(!gone.contains(&whose(1)) && (look < 3 || gone == [whose(2)]), "{look}: {gone:?}");
        }
    }

    #[test]
    fn costliest_go_first_and_no_more_than_needed() {
        let all = || vec![head(1, 91_000), head(2, 99_000), head(3, 99_800), head(4, 50_000)];
        let chosen = |excess| {
            let mut shedder = Shedder::default();
            shedder.choose(all(), excess, 100_000);
            shedder.poll_chosen()
        };
        assert_eq!(chosen(1), (vec![whose(4)], 1));
        assert_eq!(chosen(9), (vec![whose(4), whose(1), whose(2)], 3), "the fourth has only begun");
        assert_eq!(chosen(0), (vec![], 0));
    }

    #[test]
    fn a_crowd_goes_in_parts() {
        let mut shedder = Shedder::default();
        let crowd = (0..3 * BATCH as u32).map(|slot| head(slot, 0)).collect();
        shedder.choose(crowd, 2 * BATCH + 1, 100_000);
        let parts: Vec<usize> = (0..4).map(|_| shedder.poll_chosen().1).collect();
        assert_eq!(parts, [BATCH, BATCH, 1, 0]);
    }

    #[test]
    fn shedding_starts_high_and_goes_low() {
        assert_eq!((excess_of(70, 100), excess_of(71, 100), excess_of(84, 100)), (None, Some(0), Some(0)));
        assert_eq!(excess_of(85, 100), Some(15));
        assert_eq!(excess_of(100, 100), Some(30));
    }
}
