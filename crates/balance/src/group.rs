//! Servers among which one algorithm picks: the whole pool, or the part of it that is to be tried first.
//!
//! Owns: the state of an algorithm that needs no key. Refuses: weight 0 and servers for which the caller's load
//! says `None`. Driven by the picker.

use std::cmp::Ordering;

use fourfold_base::Millis;
use fourfold_base::prng::Prng;

use crate::algorithm::Algorithm;
use crate::draw::{Draw, below};
use crate::ewma::Latencies;
use crate::warmth::{WARM, Warmth};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub server: u32,
    /// How often it is to be picked.
    pub share: u32,
    /// What its load is held against: more than the share when others, whose connections are counted too, have
    /// a share of it as well.
    pub capacity: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Group {
    members: Vec<Member>,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// All shares that are not 0 are equal: whose turn is next.
    Cycle {
        next: usize,
    },
    /// nginx's smooth weighted round robin: what each is owed, in thousandths.
    Smooth {
        owed: Vec<i64>,
        first: usize,
    },
    LeastConnections,
    Random(Draw),
    P2c(Draw),
    PeakEwma(Draw),
}

/// What a pick may look at. Servers are meant by their place in the group.
pub(crate) struct View<'a, L> {
    members: &'a [Member],
    load: &'a L,
    sky: &'a Sky<'a>,
    except: Option<usize>,
}

/// What holds for all groups.
pub(crate) struct Sky<'a> {
    pub warmth: &'a Warmth,
    pub latencies: &'a Latencies,
    pub now: Millis,
}

/// A usable server, as it is now.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    place: usize,
    server: u32,
    load: u32,
    pub warmth: u32,
    /// Share and capacity times warmth.
    pub share: u64,
    capacity: u64,
}

impl Group {
    pub fn new(algorithm: Algorithm, members: Vec<Member>, random: &mut Prng) -> Group {
        let first = below(random, members.len() as u64) as usize;
        let draw = || Draw::new(members.iter().map(|member| member.share));
        let state = match algorithm {
            Algorithm::RoundRobin if all_equal(&members) => State::Cycle { next: first },
            Algorithm::RoundRobin => State::Smooth { owed: vec![0; members.len()], first },
            Algorithm::LeastConnections => State::LeastConnections,
            Algorithm::P2c => State::P2c(draw()),
            Algorithm::PeakEwma => State::PeakEwma(draw()),
            // Keyed ones without a key.
            Algorithm::Random | Algorithm::RingHash | Algorithm::Maglev => State::Random(draw()),
        };
        Group { members, state }
    }

    pub fn pick(
        &mut self,
        random: &mut Prng,
        sky: &Sky,
        load: &impl Fn(usize) -> Option<u32>,
    ) -> Option<usize> {
        let view = View { members: &self.members, load, sky, except: None };
        let seen = match &mut self.state {
            State::Cycle { next } => cycle(next, random, &view),
            State::Smooth { owed, first } => smooth(owed, *first, &view),
            State::LeastConnections => least_connections(random, &view),
            State::Random(draw) => draw.usable(random, &view),
            State::P2c(draw) => better_of_two(draw, random, view, Seen::is_freer),
            State::PeakEwma(draw) => better_of_two(draw, random, view, |two, one| sky.is_cheaper(two, one)),
        };
        seen.map(|seen| seen.server as usize)
    }
}

impl<L: Fn(usize) -> Option<u32>> View<'_, L> {
    pub fn look(&self, place: usize) -> Option<Seen> {
        let member = self.members.get(place).filter(|member| member.share > 0)?;
        if self.except == Some(place) {
            return None;
        }
        let load = (self.load)(member.server as usize)?;
        let warmth = self.sky.warmth.of(member.server as usize, self.sky.now);
        let warmed = |weight| u64::from(weight) * u64::from(warmth);
        let (share, capacity) = (warmed(member.share), warmed(member.capacity));
        Some(Seen { place, server: member.server, load, warmth, share, capacity })
    }

    /// The usable ones.
    pub fn all(&self) -> impl Iterator<Item = Seen> {
        (0..self.members.len()).filter_map(|place| self.look(place))
    }

    /// The usable ones, beginning with `first`.
    fn from(&self, first: usize) -> impl Iterator<Item = Seen> {
        (first..self.members.len()).chain(0..first).filter_map(|place| self.look(place))
    }
}

impl Seen {
    /// Its load for its capacity against another's, without a division.
    fn compare(&self, other: &Seen) -> Ordering {
        if self.capacity == other.capacity {
            return self.load.cmp(&other.load);
        }
        let relative = |load: u32, capacity: u64| u128::from(load) * u128::from(capacity);
        relative(self.load, other.capacity).cmp(&relative(other.load, self.capacity))
    }

    fn is_freer(&self, other: &Seen) -> bool {
        self.compare(other) == Ordering::Less
    }
}

impl Sky<'_> {
    /// The load counts for the capacity, the request itself does not: a light server that is idle is as good as a
    /// heavy one, and the draw sees to it that it is idle more often.
    fn is_cheaper(&self, two: &Seen, one: &Seen) -> bool {
        let most = two.capacity.max(one.capacity) as f64;
        let now_us = self.now.saturating_mul(1000);
        let load = |seen: &Seen| f64::from(seen.load) * most / seen.capacity as f64;
        let cost = |seen: &Seen| self.latencies.cost(seen.server as usize, load(seen), now_us);
        cost(two) < cost(one)
    }
}

/// Leaving 0 aside.
fn all_equal(members: &[Member]) -> bool {
    let mut shares = members.iter().map(|member| member.share).filter(|share| *share > 0);
    let first = shares.next();
    shares.all(|share| Some(share) == first)
}

/// A cold server lets its turn pass as often as its weight is short.
fn cycle(next: &mut usize, random: &mut Prng, view: &View<impl Fn(usize) -> Option<u32>>) -> Option<Seen> {
    let mut passed = None;
    let takes = |seen: &Seen| {
        let takes = seen.warmth == WARM || random.chance(seen.warmth, WARM);
        passed = passed.or(Some(*seen));
        takes
    };
    let found = view.from(*next).find(takes);
    let seen = found.or(passed)?;
    *next = (seen.place + 1) % view.members.len();
    Some(seen)
}

/// Each usable server is owed its weight per pick; the one that is owed most is picked and pays for
/// all. Servers that cannot be used are neither owed nor forgotten, so one that comes back is not
/// flooded. Costs one step per server.
fn smooth(owed: &mut [i64], first: usize, view: &View<impl Fn(usize) -> Option<u32>>) -> Option<Seen> {
    let mut total = 0;
    let mut most: Option<Seen> = None;
    for seen in view.from(first) {
        owed[seen.place] += seen.share as i64;
        total += seen.share as i64;
        if most.is_none_or(|most| owed[seen.place] > owed[most.place]) {
            most = Some(seen);
        }
    }
    let most = most?;
    owed[most.place] -= total;
    Some(most)
}

/// Among equals each wins with its share of their weight, so an idle pool is loaded by weight too.
fn least_connections(random: &mut Prng, view: &View<impl Fn(usize) -> Option<u32>>) -> Option<Seen> {
    let mut best: Option<Seen> = None;
    let mut tied = 0;
    for seen in view.all() {
        let order = best.map_or(Ordering::Less, |best| seen.compare(&best));
        tied = match order {
            Ordering::Less => seen.share,
            Ordering::Equal => tied + seen.share,
            Ordering::Greater => continue,
        };
        if order == Ordering::Less || below(random, tied) < seen.share {
            best = Some(seen);
        }
    }
    best
}

/// Two different servers by weight: the second, if it is better.
fn better_of_two(
    draw: &Draw,
    random: &mut Prng,
    mut view: View<impl Fn(usize) -> Option<u32>>,
    better: impl Fn(&Seen, &Seen) -> bool,
) -> Option<Seen> {
    let one = draw.usable(random, &view)?;
    view.except = Some(one.place);
    let two = draw.usable(random, &view);
    Some(two.filter(|two| better(two, &one)).unwrap_or(one))
}
