//! What every algorithm promises, and what each promises for itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::cell::Cell;

use fourfold_balance::{Algorithm, Ask, Picker};
use proptest::prelude::*;

const SEED: u64 = 0x00f0_0d1e;
const ASK: Ask = Ask { key: None, now: 0 };

fn picker(algorithm: Algorithm, weights: &[u32]) -> Picker {
    println!("seed {SEED}");
    Picker::new(algorithm, weights, SEED)
}

/// How often each server was picked, with nobody loaded.
fn shares(picker: &mut Picker, picks: usize) -> Vec<usize> {
    let mut counts = vec![0; picker.servers().len()];
    for _ in 0..picks {
        counts[picker.pick(ASK, |_| Some(0)).unwrap()] += 1;
    }
    counts
}

/// Six standard deviations of a binomial count: a false alarm once in 500 million.
#[track_caller]
fn assert_share(count: usize, picks: usize, share: f64) {
    let expected = picks as f64 * share;
    let slack = 6.0 * (picks as f64 * share * (1.0 - share)).sqrt() + 1.0;
    assert!((count as f64 - expected).abs() <= slack, "{count} of {picks}, expected {expected} +- {slack}");
}

fn algorithm() -> impl Strategy<Value = Algorithm> {
    proptest::sample::select(Algorithm::ALL.to_vec())
}

proptest! {
    #[test]
    fn picks_a_usable_server_iff_there_is_one(
        algorithm in algorithm(),
        servers in proptest::collection::vec((prop_oneof![Just(0), 1..5u32, Just(u32::MAX)], any::<bool>(), 0..3u32), 0..40),
        seed: u64,
    ) {
        let weights: Vec<u32> = servers.iter().map(|server| server.0).collect();
        let usable = |server: usize| servers[server].0 > 0 && servers[server].1;
        let any_usable = (0..servers.len()).any(usable);
        let mut picker = Picker::new(algorithm, &weights, seed);
        for _ in 0..20 {
            match picker.pick(ASK, |server| servers[server].1.then_some(servers[server].2)) {
                Some(server) => prop_assert!(usable(server)),
                None => prop_assert!(!any_usable),
            }
        }
    }

    #[test]
    fn the_same_seed_picks_the_same(algorithm in algorithm(), seed: u64, weights in proptest::collection::vec(0..9u32, 1..20)) {
        let mut one = Picker::new(algorithm, &weights, seed);
        let mut two = Picker::new(algorithm, &weights, seed);
        for round in 0..50usize {
            let load = |server: usize| (server % 7 != round % 7).then_some((server % 3) as u32);
            prop_assert_eq!(one.pick(ASK, load), two.pick(ASK, load));
        }
    }

    #[test]
    fn round_robin_is_exact_over_each_period(weights in proptest::collection::vec(0..7u32, 1..12), seed: u64) {
        let period: u32 = weights.iter().sum();
        prop_assume!(period > 0);
        let mut picker = Picker::new(Algorithm::RoundRobin, &weights, seed);
        // With equal weights a turn of one each is exact, which a full period is made of.
        for _ in 0..3 {
            let mut counts = vec![0; weights.len()];
            for _ in 0..period {
                counts[picker.pick(ASK, |_| Some(0)).unwrap()] += 1;
            }
            prop_assert_eq!(&counts, &weights);
        }
    }

    #[test]
    fn least_connections_picks_the_least(servers in proptest::collection::vec((1..9u32, proptest::option::of(0..50u32)), 1..30), seed: u64) {
        let weights: Vec<u32> = servers.iter().map(|server| server.0).collect();
        let mut picker = Picker::new(Algorithm::LeastConnections, &weights, seed);
        let ratio = |server: usize| servers[server].1.map(|load| f64::from(load) / f64::from(servers[server].0));
        let least = (0..servers.len()).filter_map(ratio).fold(f64::INFINITY, f64::min);
        if let Some(picked) = picker.pick(ASK, |server| servers[server].1) {
            prop_assert!((ratio(picked).unwrap() - least).abs() < 1e-9);
        }
    }
}

#[test]
fn names_round_trip_and_errors_list_them() {
    for algorithm in Algorithm::ALL {
        assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
    }
    let error = "p3c".parse::<Algorithm>().unwrap_err().to_string();
    for algorithm in Algorithm::ALL {
        assert!(error.contains(algorithm.name()) && error.contains("p3c"), "{error}");
    }
}

#[test]
fn round_robin_is_smooth() {
    let mut picker = picker(Algorithm::RoundRobin, &[5, 1, 1]);
    let picks: Vec<usize> = (0..7).map(|_| picker.pick(ASK, |_| Some(0)).unwrap()).collect();
    let heavy: Vec<bool> = picks.iter().map(|server| *server == 0).collect();
    assert_eq!(heavy, [true, true, false, true, false, true, true], "{picks:?}");
    assert_ne!(picks[2], picks[4]);
}

#[test]
fn round_robin_does_not_flood_a_server_that_comes_back() {
    for weights in [[3, 2, 3], [1, 1, 1]] {
        let mut picker = picker(Algorithm::RoundRobin, &weights);
        for _ in 0..1000 {
            picker.pick(ASK, |server| (server != 1).then_some(0)).unwrap();
        }
        let period = weights.iter().sum::<u32>() as usize;
        let back = (0..period).filter(|_| picker.pick(ASK, |_| Some(0)) == Some(1)).count();
        assert!(back <= weights[1] as usize + 1, "picked {back} times of {period}");
    }
}

#[test]
fn shards_begin_round_robin_at_different_servers() {
    let first = |seed| Picker::new(Algorithm::RoundRobin, &[1; 8], seed).pick(ASK, |_| Some(0));
    assert!((1..64).any(|seed| first(seed) != first(0)));
}

#[test]
fn random_follows_the_weights() {
    let mut picker = picker(Algorithm::Random, &[1, 0, 2, 7]);
    let counts = shares(&mut picker, 100_000);
    assert_eq!(counts[1], 0);
    for (server, share) in [(0, 0.1), (2, 0.2), (3, 0.7)] {
        assert_share(counts[server], 100_000, share);
    }
}

#[test]
fn random_follows_the_weights_when_few_are_usable() {
    let mut weights = vec![50; 1000];
    (weights[10], weights[990]) = (10, 30);
    let mut picker = picker(Algorithm::Random, &weights);
    let mut counts = [0; 2];
    for _ in 0..4000 {
        match picker.pick(ASK, |server| matches!(server, 10 | 990).then_some(0)) {
            Some(10) => counts[0] += 1,
            Some(990) => counts[1] += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_share(counts[0], 4000, 0.25);
}

#[test]
fn p2c_never_picks_the_worst_of_distinct_loads() {
    let mut picker = picker(Algorithm::P2c, &[1; 5]);
    let loads = [4, 9, 1, 7, 3];
    let mut counts = [0; 5];
    for _ in 0..50_000 {
        counts[picker.pick(ASK, |server| Some(loads[server])).unwrap()] += 1;
    }
    // The r-th best of n wins when the other is worse: 2 (n - r) / (n (n - 1)).
    for (server, share) in [(2, 0.4), (4, 0.3), (0, 0.2), (3, 0.1), (1, 0.0)] {
        assert_share(counts[server], 50_000, share);
    }
}

#[test]
fn p2c_compares_load_for_weight() {
    let mut picker = picker(Algorithm::P2c, &[10, 1]);
    for _ in 0..1000 {
        assert_eq!(picker.pick(ASK, |server| Some([9, 1][server])), Some(0));
    }
}

#[test]
fn idle_pools_are_loaded_by_weight() {
    for algorithm in [Algorithm::LeastConnections, Algorithm::Random, Algorithm::PeakEwma] {
        let mut picker = picker(algorithm, &[4, 1]);
        assert_share(shares(&mut picker, 20_000)[0], 20_000, 0.8);
    }
}

#[test]
fn connections_that_stay_end_up_in_proportion() {
    for algorithm in Algorithm::ALL {
        let weights = [1, 2, 5];
        let mut picker = picker(algorithm, &weights);
        let mut loads = [0u32; 3];
        for _ in 0..8000 {
            loads[picker.pick(ASK, |server| Some(loads[server])).unwrap()] += 1;
        }
        for (load, weight) in loads.into_iter().zip(weights) {
            assert!(load.abs_diff(weight * 1000) < 250, "{algorithm}: {loads:?}");
        }
    }
}

#[test]
fn a_drained_server_is_never_picked() {
    for algorithm in Algorithm::ALL {
        let mut picker = picker(algorithm, &[1, 1]);
        picker.set_weights(&[0, 3]);
        assert_eq!(shares(&mut picker, 100), [0, 100]);
        picker.set_weights(&[0, 0]);
        assert_eq!(picker.pick(ASK, |_| Some(0)), None);
        picker.set_weights(&[]);
        assert_eq!(picker.pick(ASK, |_| Some(0)), None);
    }
}

#[test]
fn ten_thousand_servers_cost_a_few_looks() {
    for algorithm in [Algorithm::RoundRobin, Algorithm::Random, Algorithm::P2c, Algorithm::PeakEwma] {
        let mut picker = picker(algorithm, &[1; 10_000]);
        let looks = Cell::new(0);
        for _ in 0..10_000 {
            let picked = picker.pick(ASK, |server| {
                looks.set(looks.get() + 1);
                (server % 10 != 0).then_some(0)
            });
            assert!(picked.is_some());
        }
        assert!(looks.get() < 30_000, "{algorithm}: {} looks", looks.get());
    }
}
