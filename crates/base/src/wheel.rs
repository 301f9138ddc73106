//! Timer wheel: one deadline per small integer id, O(1) to set, move and cancel, nothing allocated per timer but a link.
//!
//! Four levels of 64 slots over ticks of [`TICK_MS`]: exact to one tick up to 1 s, then as exact as the level; a timer
//! never fires early, and late by at most one tick because a coarse slot is spread over the finer level when its time comes.
//!
//! Of thousands that are due at once, those of a crowd that came at once, [`EXPIRED_MAX`] are told at a time, so that their owner
//! can see to its other work before it asks for the next.

use crate::Millis;

/// Resolution. A timer fires at the first tick at or after its deadline.
pub const TICK_MS: Millis = 16;
/// Ids that one [`Wheel::expire`] tells. What is done about each, an answer and a close say, takes some 20 us: a millisecond.
pub const EXPIRED_MAX: usize = 64;
const LEVELS: usize = 4;
const SLOTS: usize = 64;
const PAGE: usize = 1024;
const NONE: u32 = u32::MAX;
/// Deadlines further away than this (about 74 hours) are parked at the edge and looked at again there.
const SPAN_TICKS: u64 = (SLOTS as u64).pow(LEVELS as u32) - 1;

#[derive(Clone, Copy)]
struct Link {
    prev: u32,
    next: u32,
    /// Deadline in ticks since the wheel's start, truncated; 2^32 ticks are two years.
    deadline: u32,
    /// level * SLOTS + slot, DUE or IDLE.
    home: u16,
}

const IDLE: u16 = u16::MAX;
/// The list of those whose tick has come and that have not been told.
const DUE: usize = LEVELS * SLOTS;
const VACANT: Link = Link { prev: NONE, next: NONE, deadline: 0, home: IDLE };

pub struct Wheel {
    start: Millis,
    /// Ticks fully processed.
    tick: u64,
    heads: [u32; DUE + 1],
    /// One bit per non-empty slot and level.
    occupied: [u64; LEVELS],
    pages: Vec<Vec<Link>>,
    armed: usize,
}

impl Wheel {
    pub fn new(now: Millis) -> Self {
        Self {
            start: now,
            tick: 0,
            heads: [NONE; DUE + 1],
            occupied: [0; LEVELS],
            pages: Vec::new(),
            armed: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.armed
    }
    pub fn is_empty(&self) -> bool {
        self.armed == 0
    }

    /// Sets or moves the one timer of `id`.
    pub fn set(&mut self, id: u32, deadline: Millis) {
        self.cancel(id);
        let ticks = deadline.saturating_sub(self.start).div_ceil(TICK_MS).max(self.tick + 1);
        while self.pages.len() * PAGE <= id as usize {
            self.pages.push(vec![VACANT; PAGE]);
        }
        self.place(id, ticks);
        self.armed += 1;
    }

    /// Sees to it that the timer of `id` fires by `deadline`; leaves one alone that fires earlier. For deadlines that move on
    /// with every message: whoever is told too early sets it anew.
    pub fn ensure(&mut self, id: u32, deadline: Millis) {
        let ticks = deadline.saturating_sub(self.start).div_ceil(TICK_MS).max(self.tick + 1);
        match self.link(id) {
            Some(link) if link.home != IDLE && (ticks as u32).wrapping_sub(link.deadline) as i32 >= 0 => {}
            _ => self.set(id, deadline),
        }
    }

    pub fn cancel(&mut self, id: u32) {
        let Some(link) = self.link(id) else { return };
        if link.home != IDLE {
            self.unlink(id, link);
            self.armed -= 1;
        }
    }

    pub fn is_set(&self, id: u32) -> bool {
        self.link(id).is_some_and(|link| link.home != IDLE)
    }

    /// When to call [`Self::expire`] next; never later than the nearest deadline's tick.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        if self.armed == 0 {
            return None;
        }
        let next = match self.has_due() {
            true => self.tick,
            false => self.next_tick()?,
        };
        Some(self.start + next * TICK_MS)
    }

    /// Appends ids whose deadline has come to `due`, each disarmed. At most [`EXPIRED_MAX`]: [`Self::poll_timeout`] says whether
    /// there are more. A tick comes when nobody of the one before is left, so that nobody is overtaken for ever.
    pub fn expire(&mut self, now: Millis, due: &mut Vec<u32>) {
        let target = now.saturating_sub(self.start) / TICK_MS;
        for _ in 0..EXPIRED_MAX {
            while !self.has_due() {
                if self.tick >= target {
                    return;
                }
                match self.next_tick().filter(|next| *next <= target) {
                    Some(next) => self.turn(next),
                    None => self.tick = target,
                }
            }
            let id = self.heads.get(DUE).copied().unwrap_or(NONE);
            self.cancel(id);
            due.push(id);
        }
    }

    fn has_due(&self) -> bool {
        self.heads.get(DUE).is_some_and(|id| *id != NONE)
    }

    /// The first after the present one at which a slot comes up.
    fn next_tick(&self) -> Option<u64> {
        (0..LEVELS).filter_map(|level| self.next_slot_tick(level)).min()
    }

    /// First tick after the present one at which a slot of `level` comes up.
    fn next_slot_tick(&self, level: usize) -> Option<u64> {
        let occupied = *self.occupied.get(level)?;
        if occupied == 0 {
            return None;
        }
        let shift = 6 * level as u32;
        let here = self.tick >> shift;
        // Rotate so that bit 0 is the slot after the current one.
        let ahead = occupied.rotate_right(((here + 1) % SLOTS as u64) as u32).trailing_zeros();
        Some((here + 1 + u64::from(ahead)) << shift)
    }

    /// Goes on to `tick` and empties every slot that comes up then: due ids to their list, later ones to a finer level.
    fn turn(&mut self, tick: u64) {
        self.tick = tick;
        for level in (0..LEVELS).rev() {
            let shift = 6 * level as u32;
            if self.tick & ((1 << shift) - 1) != 0 {
                continue;
            }
            let home = level * SLOTS + ((self.tick >> shift) % SLOTS as u64) as usize;
            let mut id = self.heads.get(home).copied().unwrap_or(NONE);
            while let Some(link) = self.link(id) {
                self.unlink(id, link);
                let ticks = self.tick + u64::from(link.deadline.wrapping_sub(self.tick as u32));
                match ticks == self.tick {
                    true => self.push(id, DUE, ticks as u32),
                    false => self.place(id, ticks),
                }
                id = link.next;
            }
        }
    }

    /// `ticks` is in the future.
    fn place(&mut self, id: u32, ticks: u64) {
        let distance = (ticks - self.tick).min(SPAN_TICKS);
        let at = self.tick + distance;
        // The level is the highest 6-bit digit in which `at` differs from now, so the slot is never the current one.
        let differs = 63 - (at ^ self.tick).leading_zeros();
        let level = ((differs / 6) as usize).min(LEVELS - 1);
        let slot = ((at >> (6 * level)) % SLOTS as u64) as usize;
        self.push(id, level * SLOTS + slot, ticks as u32);
    }

    fn push(&mut self, id: u32, home: usize, deadline: u32) {
        let Some(head) = self.heads.get_mut(home) else { return };
        let next = std::mem::replace(head, id);
        if let Some(bits) = self.occupied.get_mut(home / SLOTS) {
            *bits |= 1 << (home % SLOTS);
        }
        if let Some(link) = self.link_mut(next) {
            link.prev = id;
        }
        if let Some(link) = self.link_mut(id) {
            *link = Link { prev: NONE, next, deadline, home: home as u16 };
        }
    }

    fn unlink(&mut self, id: u32, link: Link) {
        if let Some(next) = self.link_mut(link.next) {
            next.prev = link.prev;
        }
        match self.link_mut(link.prev) {
            Some(prev) => prev.next = link.next,
            None => {
                let home = usize::from(link.home);
                if let Some(head) = self.heads.get_mut(home) {
                    *head = link.next;
                }
                if link.next == NONE
                    && let Some(bits) = self.occupied.get_mut(home / SLOTS)
                {
                    *bits &= !(1 << (home % SLOTS));
                }
            }
        }
        if let Some(slot) = self.link_mut(id) {
            *slot = VACANT;
        }
    }

    fn link(&self, id: u32) -> Option<Link> {
        self.pages.get(id as usize / PAGE)?.get(id as usize % PAGE).copied()
    }
    fn link_mut(&mut self, id: u32) -> Option<&mut Link> {
        self.pages.get_mut(id as usize / PAGE)?.get_mut(id as usize % PAGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ensured_timer_fires_at_the_earliest_that_was_asked_for() {
        let mut wheel = Wheel::new(0);
        let mut due = Vec::new();
        wheel.ensure(3, 1_000);
        wheel.ensure(3, 5_000);
        wheel.expire(900, &mut due);
        assert!(due.is_empty());
        wheel.expire(1_016, &mut due);
        assert_eq!(due, [3]);
        wheel.ensure(3, 9_000);
        wheel.ensure(3, 2_000);
        wheel.expire(2_016, &mut due);
        assert_eq!(due, [3, 3]);
    }

    #[test]
    fn a_crowd_is_told_in_parts_and_in_the_order_of_its_ticks() {
        let mut wheel = Wheel::new(0);
        let most = EXPIRED_MAX as u32;
        (0..3 * most).for_each(|id| wheel.set(id, 100));
        wheel.set(3 * most, 90);
        let mut due = Vec::new();
        wheel.expire(5_000, &mut due);
        assert_eq!((due.len(), due[0]), (EXPIRED_MAX, 3 * most), "the earliest first");
        assert_eq!(wheel.len(), 2 * EXPIRED_MAX + 1);
        assert!(wheel.poll_timeout().is_some_and(|at| at <= 5_000), "there are more");
        // Whoever is not told yet can still be spared, and whoever comes meanwhile waits for its tick.
        let spared = (0..3 * most).find(|id| wheel.is_set(*id)).unwrap();
        wheel.cancel(spared);
        wheel.set(9_000, 0);
        due.clear();
        (0..3).for_each(|_| wheel.expire(5_000, &mut due));
        assert_eq!(due.last(), Some(&9_000));
        assert!(wheel.is_empty() && !due.contains(&spared));
        assert_eq!(wheel.poll_timeout(), None);
    }

    use crate::prng::Prng;
    use std::collections::HashMap;

    #[test]
    fn fires_each_timer_once_never_early_at_most_a_tick_late() {
        for seed in 0..20 {
            let mut rng = Prng::new(seed);
            let mut now = 1_000_000 + seed;
            let mut wheel = Wheel::new(now);
            let mut model: HashMap<u32, Millis> = HashMap::new();
            for _ in 0..5_000 {
                let id = rng.below(3000);
                match rng.below(4) {
                    0 => {
                        wheel.cancel(id);
                        model.remove(&id);
                    }
                    1 | 2 => {
                        let reach = [50, 5_000, 600_000, 100_000_000][rng.below(4) as usize];
                        let deadline = now + u64::from(rng.below(reach));
                        wheel.set(id, deadline);
                        model.insert(id, deadline);
                    }
                    _ => {
                        // Walk as the event loop does: to the announced time, or a jump beyond it.
                        let hop = wheel.poll_timeout().unwrap_or(now).max(now);
                        now = if rng.chance(1, 4) { hop + u64::from(rng.below(1 << 22)) } else { hop };
                        let mut due = Vec::new();
                        while wheel.poll_timeout().is_some_and(|at| at <= now) {
                            wheel.expire(now, &mut due);
                        }
                        for id in due {
                            let deadline = model.remove(&id).expect("fired without being set");
                            assert!(deadline <= now, "seed {seed}: early by {}", deadline - now);
                        }
                        let late = model.values().filter(|d| **d + TICK_MS <= now).count();
                        assert_eq!(late, 0, "seed {seed}: overdue timers did not fire");
                    }
                }
                assert_eq!(wheel.len(), model.len());
                if let (Some(at), Some(first)) = (wheel.poll_timeout(), model.values().min()) {
                    assert!(
                        at < *first.max(&now) + 2 * TICK_MS,
                        "seed {seed}: would sleep through a deadline"
                    );
                }
            }
        }
    }
}
