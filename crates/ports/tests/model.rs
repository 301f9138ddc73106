//! The space against a naive model: sets of tuples and a list of those that rest.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use fourfold_ports::{
    Headroom, Lease, Mode, PortSet, PortSpan, Release, Slice, SourceSet, Space, SpaceConfig,
};
use proptest::prelude::*;

const TIME_WAIT_MS: u64 = 100;
const FOREIGN_MS: u64 = 250;

type Tuple = (u64, u16);

fn tuple(lease: &Lease) -> Tuple {
    (lease.source_index(), lease.port())
}

/// What the space should be, in sets.
struct Model {
    all: HashSet<Tuple>,
    used: HashSet<Tuple>,
    resting: BTreeMap<Tuple, (u64, Release)>,
    /// Foreign because a look at the sockets found them, not because a connect failed.
    found: HashSet<Tuple>,
}

impl Model {
    fn new(config: &SpaceConfig) -> Model {
        let ports =
            (config.span.first()..=config.span.last()).filter(|port| !config.reserved.contains(*port));
        let sources = config.sources.len() as u64;
        let all = ports.flat_map(|port| (0..sources).map(move |source| (source, port))).collect();
        Model { all, used: HashSet::new(), resting: BTreeMap::new(), found: HashSet::new() }
    }

    fn expire(&mut self, now: u64) {
        self.resting.retain(|_, (until, _)| *until > now);
        self.found.retain(|tuple| self.resting.contains_key(tuple));
    }

    fn is_free(&self, tuple: Tuple) -> bool {
        self.all.contains(&tuple) && !self.used.contains(&tuple) && !self.resting.contains_key(&tuple)
    }

    fn headroom(&self) -> Headroom {
        self.headroom_where(|_| true)
    }

    fn headroom_of(&self, source: u64) -> Headroom {
        self.headroom_where(|tuple| tuple.0 == source)
    }

    fn headroom_where(&self, counts: impl Fn(&Tuple) -> bool) -> Headroom {
        let counted = |tuples: &HashSet<Tuple>| tuples.iter().filter(|tuple| counts(tuple)).count() as u64;
        let resting =
            |how| self.resting.iter().filter(|(tuple, (_, why))| counts(tuple) && *why == how).count() as u64;
        let total = counted(&self.all);
        let used = counted(&self.used);
        let (quarantined, foreign) = (resting(Release::TimeWait), resting(Release::Foreign));
        Headroom { total, used, free: total - used - quarantined - foreign, quarantined, foreign }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Lease { slice: usize, count: usize, avoid: Option<u64> },
    Release { slice: usize, which: usize, count: usize, how: Release },
    Pass { ms: u64 },
    Eject { slice: usize, source: u64, ms: u64 },
    MarkForeign { source: u64, port: u16 },
    Timeout { slice: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let how = prop_oneof![Just(Release::Clean), Just(Release::TimeWait), Just(Release::Foreign)];
    prop_oneof![
        5 => (0..4usize, 1..200usize, proptest::option::weighted(0.1, 0..6u64))
            .prop_map(|(slice, count, avoid)| Step::Lease { slice, count, avoid }),
        4 => (0..4usize, any::<usize>(), 1..200usize, how)
            .prop_map(|(slice, which, count, how)| Step::Release { slice, which, count, how }),
        2 => (0..200u64).prop_map(|ms| Step::Pass { ms }),
        1 => (0..4usize, 0..6u64, 0..300u64).prop_map(|(slice, source, ms)| Step::Eject { slice, source, ms }),
        1 => (0..6u64, 0..400u16).prop_map(|(source, port)| Step::MarkForeign { source, port }),
        1 => (0..4usize).prop_map(|slice| Step::Timeout { slice }),
    ]
}

fn config() -> impl Strategy<Value = SpaceConfig> {
    let start = prop_oneof![Just(1u16), Just(63), Just(64), Just(32_768), Just(65_400), Just(65_535)];
    let reserved = proptest::collection::vec((0..300u16, 0..90u16), 0..3);
    (1..6u8, start, 0..300u16, reserved, 1..5usize).prop_filter_map(
        "every port is reserved",
        |(sources, first, len, reserved, shards)| {
            let sources = SourceSet::parse(&format!("127.0.0.1-127.0.0.{sources}")).unwrap();
            let span = PortSpan::new(first, first.saturating_add(len)).unwrap();
            let reserved: PortSet = reserved
                .into_iter()
                .map(|(at, len)| first.saturating_add(at)..=first.saturating_add(at).saturating_add(len))
                .map(|range| PortSpan::new(*range.start(), *range.end()).unwrap())
                .collect();
            let config = SpaceConfig {
                reserved,
                shards,
                time_wait_quarantine_ms: TIME_WAIT_MS,
                foreign_recheck_ms: FOREIGN_MS,
                ..SpaceConfig::new(sources, span, Mode::Late)
            };
            Space::new(config.clone()).is_ok().then_some(config)
        },
    )
}

struct World {
    space: Arc<Space>,
    slices: Vec<Slice>,
    held: Vec<Lease>,
    model: Model,
    now: u64,
}

impl World {
    fn new(config: SpaceConfig) -> World {
        let model = Model::new(&config);
        let shards = config.shards;
        let space = Space::new(config).unwrap();
        let slices = (0..shards).map(|shard| space.slice(shard)).collect();
        World { space, slices, held: Vec::new(), model, now: 0 }
    }

    fn slice(&mut self, number: usize) -> &mut Slice {
        let count = self.slices.len();
        &mut self.slices[number % count]
    }

    fn apply(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Lease { slice, count, avoid } => (0..count).for_each(|_| self.lease(slice, avoid)),
            Step::Release { slice, which, count, how } => {
                (0..count).for_each(|n| self.release(slice, which.wrapping_add(n * 7), how));
            }
            Step::Pass { ms } => {
                self.now += ms;
                self.model.expire(self.now);
            }
            Step::Eject { slice, source, ms } => {
                let exists = u128::from(source) < self.space.sources().len();
                assert_eq!(self.slice(slice).eject_source(source, now + ms), exists);
            }
            Step::MarkForeign { source, port } => self.mark_foreign(source, port),
            Step::Timeout { slice } => self.slice(slice).handle_timeout(now),
        }
    }

    fn lease(&mut self, slice: usize, avoid: Option<u64>) {
        let now = self.now;
        let slice = self.slice(slice);
        let leased = match avoid {
            Some(source) => slice.lease_avoiding(now, source),
            None => slice.lease(now),
        };
        match leased {
            Ok(lease) => {
                let tuple = tuple(&lease);
                assert!(self.model.is_free(tuple), "{tuple:?} was not free");
                if Some(lease.source_index()) == avoid {
                    let other = self
                        .model
                        .all
                        .iter()
                        .find(|other| Some(other.0) != avoid && self.model.is_free(**other));
                    assert_eq!(other, None, "the avoided source was leased although another had a tuple");
                }
                self.model.used.insert(tuple);
                self.held.push(lease);
            }
            Err(refused) => {
                assert_eq!(self.model.headroom(), refused.headroom);
                assert_eq!(refused.headroom.free, 0);
                let next = self.model.resting.values().map(|(until, _)| *until).min();
                assert_eq!(refused.next_free_ms, next);
            }
        }
    }

    fn release(&mut self, slice: usize, which: usize, how: Release) {
        if self.held.is_empty() {
            return;
        }
        let lease = self.held.swap_remove(which % self.held.len());
        let (tuple, now) = (tuple(&lease), self.now);
        self.model.used.remove(&tuple);
        match how {
            Release::Clean => {}
            Release::TimeWait => drop(self.model.resting.insert(tuple, (now + TIME_WAIT_MS, how))),
            Release::Foreign => drop(self.model.resting.insert(tuple, (now + FOREIGN_MS, how))),
        }
        self.slice(slice).release(lease, now, how);
    }

    fn mark_foreign(&mut self, source: u64, offset: u16) {
        let Some(address) = self.space.source_address(source) else {
            return;
        };
        let (port, now) = (self.space.span().first().saturating_add(offset), self.now);
        // What rests because of a release is left alone, so let everything that is over be free.
        (0..self.slices.len()).for_each(|slice| self.slices[slice].handle_timeout(now));
        let free = self.model.is_free((source, port));
        let marked = self.space.mark_foreign(address, port, now);
        assert_eq!(marked, free, "{address}:{port}");
        if marked {
            self.model.found.insert((source, port));
        }
        if self.model.found.contains(&(source, port)) {
            self.model.resting.insert((source, port), (now + FOREIGN_MS, Release::Foreign));
        }
        assert_eq!(self.space.headroom(), self.model.headroom());
    }

    /// Everything comes back, and every single tuple can be leased from one slice.
    fn finish(mut self, slice: usize) {
        while !self.held.is_empty() {
            self.release(slice + 1, 0, Release::TimeWait);
        }
        self.now += FOREIGN_MS + TIME_WAIT_MS;
        self.model.expire(self.now);
        assert_eq!(self.model.resting.len(), 0);
        for _ in 0..self.model.all.len() {
            self.lease(slice, None);
        }
        assert_eq!(self.model.used, self.model.all);
        assert_eq!(self.space.headroom(), self.model.headroom());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_sets_of_tuples(
        config in config(),
        steps in proptest::collection::vec(step(), 0..60),
        last in 0..4usize,
    ) {
        let mut world = World::new(config);
        for step in steps {
            world.apply(step);
            let now = world.now;
            world.slices.iter_mut().for_each(|slice| slice.handle_timeout(now));
            assert_eq!(world.space.headroom(), world.model.headroom());
            for usage in world.space.by_source() {
                assert_eq!(usage.headroom, world.model.headroom_of(usage.source_index));
            }
            let used: u64 = world.space.by_source().iter().map(|usage| usage.headroom.used).sum();
            assert_eq!(used, world.model.used.len() as u64, "no source is left out");
        }
        world.finish(last);
    }

    /// As above without the timeouts: leases alone must find all that has rested long enough.
    #[test]
    fn lease_finds_what_nobody_expired(
        config in config(),
        steps in proptest::collection::vec(step(), 0..60),
        last in 0..4usize,
    ) {
        let mut world = World::new(config);
        for step in steps.into_iter().filter(|step| !matches!(step, Step::Timeout { .. } | Step::MarkForeign { .. })) {
            world.apply(step);
        }
        world.finish(last);
    }
}
