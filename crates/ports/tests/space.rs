//! Scenarios of a space, one promise each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fourfold_ports::{
    Family, Lease, Mode, PortSet, PortSpan, Release, Slice, SourceSet, Space, SpaceConfig, SpaceError,
};

fn config(sources: &str, span: &str) -> SpaceConfig {
    SpaceConfig::new(SourceSet::parse(sources).unwrap(), PortSpan::parse(span).unwrap(), Mode::Late)
}

fn space(sources: &str, span: &str, shards: usize) -> Arc<Space> {
    Space::new(SpaceConfig { shards, ..config(sources, span) }).unwrap()
}

fn lease_all(slice: &mut Slice, now: u64) -> Vec<Lease> {
    std::iter::from_fn(|| slice.lease(now).ok()).collect()
}

fn ports(leases: &[Lease]) -> HashSet<u16> {
    leases.iter().map(Lease::port).collect()
}

#[test]
fn a_span_of_one_port_has_one_tuple() {
    let space = space("10.0.0.1", "65535-65535", 2);
    let (mut a, mut b) = (space.slice(0), space.slice(1));
    let lease = a.lease(0).unwrap();
    assert_eq!(lease.port(), 65_535);
    assert_eq!(b.lease(0).unwrap_err().headroom.used, 1);
    a.release(lease, 0, Release::Clean);
    assert_eq!(b.lease(0).unwrap().port(), 65_535);
}

#[test]
fn a_certain_source_can_be_had_until_it_has_no_tuple_left() {
    let space = space("10.0.0.1-10.0.0.3", "1000-1099", 2);
    let (mut own, mut other) = (space.slice(0), space.slice(1));
    own.eject_source(2, 1_000_000);
    let held: Vec<Lease> = std::iter::from_fn(|| other.lease(0).ok()).take(150).collect();
    for source in [2, 0, 1, 2] {
        assert_eq!(own.lease_from(0, source).unwrap().source_index(), source);
    }
    held.into_iter().for_each(|lease| other.release(lease, 0, Release::Clean));
    let rest: Vec<Lease> = std::iter::from_fn(|| own.lease_from(0, 1).ok()).collect();
    assert_eq!(rest.len(), 99, "one is held");
    assert!(own.lease(0).is_ok(), "others have some left");
}

#[test]
fn every_port_number_can_be_leased() {
    let space = space("10.0.0.1", "1-65535", 1);
    let leases = lease_all(&mut space.slice(0), 0);
    assert_eq!(ports(&leases), (1..=65_535).collect());
}

#[test]
fn reserved_ports_are_skipped() {
    let reserved = PortSet::parse("1000,1064-1127,1200-60000").unwrap();
    let space = Space::new(SpaceConfig { reserved, ..config("10.0.0.1-10.0.0.2", "1000-1210") }).unwrap();
    assert_eq!(space.headroom().total, 2 * (200 - 1 - 64));
    let leases = lease_all(&mut space.slice(0), 0);
    assert_eq!(leases.len(), 270);
    assert_eq!(ports(&leases), (1001..1064).chain(1128..1200).collect());
}

#[test]
fn spaces_without_a_tuple_are_refused() {
    let family = SpaceConfig { family: Some(Family::V6), ..config("10.0.0.1", "1-9") };
    assert!(matches!(Space::new(family), Err(SpaceError::NoSourceOfFamily { .. })));
    let reserved = SpaceConfig { reserved: PortSet::parse("1-9").unwrap(), ..config("10.0.0.1", "2-9") };
    assert!(matches!(Space::new(reserved), Err(SpaceError::AllPortsReserved { .. })));
    let shards = SpaceConfig { shards: 0, ..config("10.0.0.1", "2-9") };
    assert!(matches!(Space::new(shards), Err(SpaceError::Shards { shards: 0 })));
}

#[test]
fn only_sources_of_the_destinations_family_are_used() {
    let sources = SourceSet::parse_all(["fd00::1", "10.0.0.1", "fd00::7"]).unwrap();
    let span = PortSpan::parse("100-101").unwrap();
    let config = SpaceConfig { family: Some(Family::V6), ..SpaceConfig::new(sources, span, Mode::Late) };
    let space = Space::new(config).unwrap();
    let leases = lease_all(&mut space.slice(0), 0);
    assert_eq!(leases.len(), 4);
    let address = |lease: &Lease| space.source_address(lease.source_index()).unwrap();
    assert!(leases.iter().all(|lease| address(lease).is_ipv6()));
}

#[test]
fn the_kernels_choice_has_tuples_but_no_address() {
    let span = PortSpan::parse("100-163").unwrap();
    let space = Space::new(SpaceConfig::new(SourceSet::kernel_chosen(), span, Mode::Late)).unwrap();
    let lease = space.slice(0).lease(0).unwrap();
    assert_eq!(space.source_address(lease.source_index()), None);
    assert_eq!(space.headroom().total, 64);
}

#[test]
fn a_64_prefix_spreads_over_its_addresses_and_starts_at_once() {
    let space = space("fd00:1::/64", "32768-60999", 4);
    assert_eq!(space.headroom().total, u64::MAX);
    let mut slice = space.slice(3);
    let leases: Vec<Lease> = (0..10_000).map(|_| slice.lease(0).unwrap()).collect();
    let sources: HashSet<u64> = leases.iter().map(Lease::source_index).collect();
    assert!(sources.len() > 100, "{} sources", sources.len());
    assert_eq!(space.headroom().used, 10_000);
    leases.into_iter().for_each(|lease| slice.release(lease, 0, Release::Clean));
    assert_eq!(space.headroom().used, 0);
}

#[test]
fn load_spreads_over_the_sources() {
    let space = space("10.0.0.1-10.0.0.8", "32768-60999", 1);
    let mut slice = space.slice(0);
    let mut counts = [0; 8];
    for _ in 0..8 * 6400 {
        counts[slice.lease(0).unwrap().source_index() as usize] += 1;
    }
    assert!(counts.iter().all(|count| (6336..=6464).contains(count)), "{counts:?}");
}

#[test]
fn one_slice_reaches_what_all_others_hold() {
    let space = space("10.0.0.1-10.0.0.3", "32768-40000", 5);
    let total = space.headroom().total as usize;
    let leases = lease_all(&mut space.slice(0), 0);
    for (n, lease) in leases.into_iter().enumerate() {
        space.slice(n % 4).release(lease, 0, Release::Clean);
    }
    assert_eq!(space.headroom().free as usize, total);
    let leases = lease_all(&mut space.slice(4), 0);
    let distinct: HashSet<_> = leases.iter().map(|lease| (lease.source_index(), lease.port())).collect();
    assert_eq!((leases.len(), distinct.len()), (total, total));
}

#[test]
fn quarantine_ends_to_the_millisecond_for_every_slice() {
    let config = SpaceConfig {
        time_wait_quarantine_ms: 1000,
        foreign_recheck_ms: 30_000,
        shards: 2,
        ..config("10.0.0.1", "100-101")
    };
    let space = Space::new(config).unwrap();
    let (mut a, mut b) = (space.slice(0), space.slice(1));
    let (one, two) = (a.lease(0).unwrap(), a.lease(0).unwrap());
    let first = one.port();
    a.release(one, 500, Release::TimeWait);
    a.release(two, 500, Release::Foreign);
    assert_eq!(a.poll_timeout(), Some(1500));
    let refused = b.lease(1499).unwrap_err();
    assert_eq!(refused.next_free_ms, Some(1500));
    assert_eq!((refused.headroom.quarantined, refused.headroom.foreign), (1, 1));
    // The owner is idle: another slice must get it all the same.
    assert_eq!(b.lease(1500).unwrap().port(), first);
    assert_eq!(b.lease(30_499).unwrap_err().next_free_ms, Some(30_500));
    a.handle_timeout(30_500);
    assert_eq!(a.poll_timeout(), None);
    assert!(b.lease(30_500).is_ok());
    assert_eq!((space.headroom().used, space.foreign_hits()), (2, 1));
}

#[test]
fn early_mode_reuses_at_once() {
    let sources = SourceSet::parse("10.0.0.1").unwrap();
    let space = Space::new(SpaceConfig::new(sources, PortSpan::parse("9").unwrap(), Mode::Early)).unwrap();
    let mut slice = space.slice(0);
    let lease = slice.lease(7).unwrap();
    slice.release(lease, 7, Release::TimeWait);
    assert!(slice.lease(7).is_ok());
}

#[test]
fn a_clock_that_steps_back_loses_nothing() {
    let space = space("10.0.0.1", "100-101", 1);
    let mut slice = space.slice(0);
    let (one, two) = (slice.lease(50).unwrap(), slice.lease(50).unwrap());
    slice.release(one, 1000, Release::TimeWait);
    slice.release(two, 0, Release::TimeWait);
    assert!(slice.lease(60_999).is_err());
    assert_eq!(lease_all(&mut slice, 61_000).len(), 2);
}

#[test]
fn foreign_sockets_leave_the_circulation_wherever_their_tuple_is() {
    let space = space("10.0.0.1", "128-1000", 2);
    let (mut a, mut b) = (space.slice(0), space.slice(1));
    let address = "10.0.0.1".parse().unwrap();
    let ours = a.lease(0).unwrap();
    assert_eq!(ours.port(), 128);
    assert!(!space.mark_foreign(address, 128, 0), "leased: it is our own socket");
    assert!(space.mark_foreign(address, 130, 0), "in the bag of a slice");
    assert!(space.mark_foreign(address, 900, 0), "beyond the frontier");
    assert!(!space.mark_foreign(address, 900, 0), "known");
    assert!(!space.mark_foreign(address, 1001, 0), "outside of the span");
    assert!(!space.mark_foreign("10.0.0.2".parse().unwrap(), 900, 0), "not our source");
    assert_eq!(space.headroom().foreign, 2);
    space.mark_foreign(address, 900, 10_000);
    let leases = lease_all(&mut b, 29_999);
    assert_eq!(leases.len(), 1000 - 128 + 1 - 3);
    assert!(!ports(&leases).contains(&130) && !ports(&leases).contains(&900));
    assert_eq!(a.lease(30_000).unwrap().port(), 130);
    assert_eq!(a.poll_timeout(), Some(40_000));
    a.handle_timeout(40_000);
    assert_eq!(space.headroom().foreign, 0);
    assert_eq!(b.lease(40_000).unwrap().port(), 900);
}

#[test]
fn ejected_sources_are_used_only_when_no_other_has_a_tuple() {
    let space = space("10.0.0.1-10.0.0.3", "1000-1099", 2);
    let (mut a, mut b) = (space.slice(0), space.slice(1));
    assert!(a.eject_source(1, 500));
    assert!(!a.eject_source(3, 500), "no such source");
    let leases: Vec<Lease> = (0..200).map(|_| a.lease(0).unwrap()).collect();
    assert!(leases.iter().all(|lease| lease.source_index() != 1));
    let last = a.lease(0).unwrap();
    assert_eq!(last.source_index(), 1, "a path that failed a while ago beats refusing");
    a.release(last, 0, Release::Clean);
    for lease in leases {
        b.release(lease, 0, Release::Clean);
    }
    assert_ne!(
        a.lease(499).unwrap().source_index(),
        1,
        "others have tuples, though another slice holds them"
    );
    let after: HashSet<u64> = (0..250).map(|_| a.lease(500).unwrap().source_index()).collect();
    assert!(after.contains(&1), "the ejection is over");
}

#[test]
fn when_all_are_ejected_they_take_turns() {
    let space = space("10.0.0.1-10.0.0.4", "1000-1999", 1);
    let mut slice = space.slice(0);
    for lease in (0..4 * 64).map(|_| slice.lease(0).unwrap()).collect::<Vec<_>>() {
        slice.release(lease, 0, Release::Clean);
    }
    for source in [2, 0, 3, 1] {
        slice.eject_source(source, 1000);
    }
    let order: Vec<u64> = (0..4).map(|_| slice.lease(0).unwrap().source_index()).collect();
    assert_eq!(order, [2, 0, 3, 1], "least recently ejected first");
    slice.readmit_source(3);
    assert_eq!(slice.lease(0).unwrap().source_index(), 3);
}

#[test]
fn a_retry_goes_over_another_source_while_there_is_one() {
    let space = space("10.0.0.1-10.0.0.2", "1000-1009", 1);
    let mut slice = space.slice(0);
    let others = (0..10).map(|_| slice.lease_avoiding(0, 0).unwrap().source_index()).collect::<HashSet<_>>();
    assert_eq!(others, HashSet::from([1]));
    assert_eq!(slice.lease_avoiding(0, 0).unwrap().source_index(), 0, "better than a refusal");
}

#[test]
fn a_slice_that_goes_away_leaves_its_tuples_to_the_others() {
    let space = space("10.0.0.1-10.0.0.2", "1000-1999", 2);
    let mut gone = space.slice(0);
    let lease = gone.lease(0).unwrap();
    gone.eject_source(0, u64::MAX);
    gone.release(lease, 0, Release::TimeWait);
    drop(gone);
    assert_eq!(lease_all(&mut space.slice(1), 60_000).len(), 2000);
}

/// Slices of four threads on one space: no tuple is ever held twice, none is lost, and nobody is
/// refused while plenty is free somewhere.
#[test]
fn threads_share_a_space() {
    const THREADS: usize = 4;
    const HELD_MOST: usize = 200;
    const ROUNDS: usize = 60_000;
    let config = SpaceConfig {
        time_wait_quarantine_ms: 1,
        shards: THREADS,
        ..config("10.0.0.1-10.0.0.4", "1000-1299")
    };
    let space = Space::new(config).unwrap();
    let claimed: Vec<AtomicU64> = (0..4 * 300).map(|_| AtomicU64::new(0)).collect();
    let claim =
        |lease: &Lease| &claimed[lease.source_index() as usize * 300 + usize::from(lease.port() - 1000)];
    let work = |shard: usize| {
        let mut slice = space.slice(shard);
        let mut random = fourfold_base::prng::Prng::new(shard as u64);
        let mut held: Vec<Lease> = Vec::new();
        for now in 0..ROUNDS as u64 {
            // Swings between empty and full, each thread at its own pace, so that tuples must move.
            let wanted = random.below(HELD_MOST as u32) as usize;
            if held.len() < wanted {
                let lease = slice.lease(now).expect("400 tuples are free or rest for a moment");
                assert_eq!(claim(&lease).swap(1, Ordering::SeqCst), 0, "{lease:?} is held twice");
                held.push(lease);
            } else if !held.is_empty() {
                let lease = held.swap_remove(random.below(held.len() as u32) as usize);
                assert_eq!(claim(&lease).swap(0, Ordering::SeqCst), 1);
                slice.release(lease, now, Release::Clean);
            }
        }
        for lease in held {
            claim(&lease).store(0, Ordering::SeqCst);
            slice.release(lease, 0, Release::TimeWait);
        }
    };
    std::thread::scope(|scope| {
        for shard in 0..THREADS {
            scope.spawn(move || work(shard));
        }
    });
    assert_eq!(space.headroom().used, 0);
    assert_eq!(lease_all(&mut space.slice(0), u64::MAX).len(), 1200);
}

#[test]
fn what_has_rested_is_free_though_no_slice_looks() {
    let space = space("10.0.0.1", "1000-1999", 2);
    let (mut own, mut other) = (space.slice(0), space.slice(1));
    for lease in lease_all(&mut own, 0) {
        other.release(lease, 0, Release::TimeWait);
    }
    space.handle_timeout(59_999);
    assert_eq!((space.headroom().free, space.headroom().quarantined), (0, 1000));
    space.handle_timeout(60_000);
    assert_eq!((space.headroom().free, space.headroom().quarantined), (1000, 0));
    assert_eq!(space.by_source()[0].headroom, space.headroom());
    assert_eq!(lease_all(&mut own, 60_000).len(), 1000);
}

#[test]
fn sources_are_counted_one_by_one_and_those_of_a_prefix_together_after_a_while() {
    let space = space("fd00::/64", "1024-1087", 2);
    let (mut own, mut other) = (space.slice(0), space.slice(1));
    // A block of 64 ports is one source's.
    let held: Vec<Lease> = (0..300 * 64).map(|_| own.lease(0).unwrap()).collect();
    let usage = space.by_source();
    assert_eq!(usage.len(), 257);
    assert!(usage[..256].iter().all(|one| (one.sources, one.headroom.used, one.headroom.free) == (1, 64, 0)));
    assert_eq!((usage[256].headroom.used, usage[256].leases), (44 * 64, 44 * 64));
    assert_eq!(usage[256].sources, u64::MAX - 256, "of the prefix so many can be used");
    for lease in held {
        other.release(lease, 0, Release::TimeWait);
    }
    let usage = space.by_source();
    assert!(usage[..256].iter().all(|one| (one.headroom.used, one.headroom.quarantined) == (0, 64)));
    own.handle_timeout(100_000);
    other.handle_timeout(100_000);
    let usage = space.by_source();
    assert!(usage.iter().all(|one| (one.headroom.used, one.headroom.quarantined) == (0, 0)));
    assert_eq!(usage.iter().map(|one| one.leases).sum::<u64>(), 300 * 64);
}
