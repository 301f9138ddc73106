//! What a lease and a release cost, in steps, at different fill levels.

use fourfold_base::prng::Prng;

use crate::probe::steps;
use crate::{Lease, Mode, PortSpan, Release, Slice, SourceSet, Space, SpaceConfig};

const SEED: u64 = 99;

fn config(sources: &str, shards: usize) -> SpaceConfig {
    let span = PortSpan::parse("32768-60999").unwrap();
    SpaceConfig { shards, ..SpaceConfig::new(SourceSet::parse(sources).unwrap(), span, Mode::Late) }
}

fn fill(slice: &mut Slice, count: u64) -> Vec<Lease> {
    (0..count).map(|_| slice.lease(0).unwrap()).collect()
}

/// The most steps that one lease or one release took over many random pairs of them.
fn worst_pair(slice: &mut Slice, held: &mut Vec<Lease>, rounds: u32) -> u64 {
    println!("seed {SEED}");
    let mut random = Prng::new(SEED);
    let mut worst = 0;
    for _ in 0..rounds {
        let lease = held.swap_remove(random.below(held.len() as u32) as usize);
        let before = steps();
        slice.release(lease, 0, Release::Clean);
        let between = steps();
        held.push(slice.lease(0).unwrap());
        worst = worst.max(between - before).max(steps() - between);
    }
    worst
}

#[test]
fn a_full_space_costs_what_an_empty_one_does() {
    let space = Space::new(config("10.0.0.1-10.0.0.4", 1)).unwrap();
    let mut slice = space.slice(0);
    let mut held = Vec::new();
    let total = space.headroom().total;
    for percent in [1, 50, 90, 99, 100] {
        let more = total * percent / 100 - held.len() as u64;
        held.extend(fill(&mut slice, more));
        let worst = worst_pair(&mut slice, &mut held, 10_000);
        assert!(worst <= 8, "{worst} steps at {percent} %");
    }
}

#[test]
fn scattered_holes_cost_no_search() {
    let space = Space::new(config("10.0.0.1-10.0.0.4", 1)).unwrap();
    let mut slice = space.slice(0);
    let mut held = fill(&mut slice, space.headroom().total);
    let mut random = Prng::new(SEED);
    for _ in 0..space.headroom().total / 100 {
        let lease = held.swap_remove(random.below(held.len() as u32) as usize);
        slice.release(lease, 0, Release::Clean);
    }
    assert!(worst_pair(&mut slice, &mut held, 20_000) <= 8);
}

#[test]
fn filling_from_one_slice_while_others_hold_the_rest_is_linear() {
    let space = Space::new(config("10.0.0.1-10.0.0.4", 8)).unwrap();
    let total = space.headroom().total;
    let mut slices: Vec<Slice> = (0..8).map(|shard| space.slice(shard)).collect();
    // All is leased and comes back through the others, so that every free tuple is theirs.
    for (n, lease) in fill(&mut slices[0], total).into_iter().enumerate() {
        slices[1 + n * 31 % 7].release(lease, 0, Release::Clean);
    }
    let before = steps();
    let held = fill(&mut slices[0], total);
    let per_lease = (steps() - before) / held.len() as u64;
    assert!(per_lease <= 8, "{per_lease} steps per lease");
}

#[test]
fn refusing_costs_no_search() {
    let space = Space::new(config("10.0.0.1", 4)).unwrap();
    let mut slice = space.slice(0);
    let held = fill(&mut slice, space.headroom().total);
    let before = steps();
    assert!(slice.lease(0).is_err());
    assert_eq!(steps(), before);
    drop(held);
}

#[test]
fn an_ejected_source_is_not_walked_past_at_every_lease() {
    let space = Space::new(config("10.0.0.1-10.0.1.0", 1)).unwrap();
    let mut slice = space.slice(0);
    for lease in fill(&mut slice, 256 * 64) {
        slice.release(lease, 0, Release::Clean);
    }
    for source in 0..200 {
        assert!(slice.eject_source(source, 1000));
    }
    let before = steps();
    let held = fill(&mut slice, 56 * 64);
    assert!(held.iter().all(|lease| lease.source_index() >= 200));
    let per_lease = (steps() - before) / held.len() as u64;
    assert!(per_lease <= 16, "{per_lease} steps per lease");
}
