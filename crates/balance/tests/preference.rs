//! What stands in front of the algorithms: slow start, zones, apertures; and what peak-ewma believes of whom.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use fourfold_balance::{Algorithm, Aperture, Ask, Options, Picker, Server};
use proptest::prelude::*;

const SEED: u64 = 0x51_0e;
const WARMED: [Algorithm; 5] = [
    Algorithm::RoundRobin,
    Algorithm::LeastConnections,
    Algorithm::Random,
    Algorithm::P2c,
    Algorithm::PeakEwma,
];

fn at(now: u64) -> Ask {
    Ask { key: None, now }
}

/// Shares of an idle pool's picks.
fn shares(picker: &mut Picker, now: u64, usable: impl Fn(usize) -> bool) -> Vec<f64> {
    const PICKS: usize = 20_000;
    let mut counts = vec![0; picker.servers().len()];
    for _ in 0..PICKS {
        counts[picker.pick(at(now), |server| usable(server).then_some(0)).unwrap()] += 1;
    }
    counts.into_iter().map(|count| f64::from(count) / PICKS as f64).collect()
}

fn warming(algorithm: Algorithm, weights: &[u32]) -> Picker {
    let options = Options { slow_start_ms: 10_000, ..Options::new(algorithm) };
    Picker::with_options(algorithm, &Server::by_place(weights), &options, SEED)
}

#[test]
fn slow_start_climbs_from_a_tenth_to_all() {
    for algorithm in WARMED {
        for weights in [[1, 1, 1, 1], [2, 2, 3, 3]] {
            let mut picker = warming(algorithm, &weights);
            picker.set_up_since(0, 50_000);
            let full = f64::from(weights[0]) / f64::from(weights.iter().sum::<u32>());
            let mut before = 0.0;
            for step in 0..=10u64 {
                let share = shares(&mut picker, 50_000 + step * 1000, |_| true)[0];
                let warmth = 0.1 + 0.09 * step as f64;
                let others = f64::from(weights[1..].iter().sum::<u32>());
                let own = f64::from(weights[0]) * warmth;
                let expected = own / (own + others);
                assert!(
                    (share - expected).abs() < 0.02,
                    "{algorithm} {step} s: {share:.3}, {expected:.3}, seed {SEED}"
                );
                assert!(
                    share > before - 0.015,
                    "{algorithm} {step} s: {share:.3} after {before:.3}, seed {SEED}"
                );
                before = share;
            }
            assert!((before - full).abs() < 0.02, "{algorithm}: {before:.3}, seed {SEED}");
        }
    }
}

#[test]
fn connections_follow_the_warmth_too() {
    for algorithm in [Algorithm::LeastConnections, Algorithm::P2c] {
        let mut picker = warming(algorithm, &[1, 1]);
        picker.set_up_since(0, 0);
        let mut loads = [0u32; 2];
        for _ in 0..1000 {
            loads[picker.pick(at(0), |server| Some(loads[server])).unwrap()] += 1;
        }
        assert!((85..=97).contains(&loads[0]), "{algorithm}: {loads:?}, a tenth is 91, seed {SEED}");
    }
}

#[test]
fn a_pool_that_starts_as_a_whole_is_loaded_evenly() {
    for algorithm in WARMED {
        let mut picker = warming(algorithm, &[1; 4]);
        (0..4).for_each(|server| picker.set_up_since(server, 1_000_000));
        for share in shares(&mut picker, 1_001_000, |_| true) {
            assert!((share - 0.25).abs() < 0.02, "{algorithm}: {share}, seed {SEED}");
        }
    }
}

#[test]
fn a_cold_server_is_used_when_it_is_the_only_one() {
    for algorithm in WARMED {
        let mut picker = warming(algorithm, &[1; 3]);
        picker.set_up_since(2, 0);
        assert_eq!(shares(&mut picker, 0, |server| server == 2)[2], 1.0);
    }
}

/// Three zones of four servers; this is zone 0.
fn zoned(algorithm: Algorithm) -> Picker {
    let server = |n: u16| Server { zone: n / 4, ..Server::by_place(&[1; 12])[usize::from(n)] };
    let servers: Vec<Server> = (0..12).map(server).collect();
    let options = Options { zone: Some(0), ..Options::new(algorithm) };
    Picker::with_options(algorithm, &servers, &options, SEED)
}

#[test]
fn a_zone_keeps_what_it_can_take_and_spills_the_rest() {
    for algorithm in WARMED {
        for (local_down, kept) in [(0, 1.0), (1, 9.0 / 11.0), (2, 0.6), (3, 1.0 / 3.0), (4, 0.0)] {
            let shares = shares(&mut zoned(algorithm), 0, |server| server >= local_down);
            let local: f64 = shares[..4].iter().sum();
            assert!((local - kept).abs() < 0.02, "{algorithm}, {local_down} down: {local:.3}, seed {SEED}");
            // Whatever spills is spread evenly.
            for share in &shares[4..] {
                assert!((share - (1.0 - kept) / 8.0).abs() < 0.02, "{algorithm}: {shares:?}, seed {SEED}");
            }
        }
    }
}

#[test]
fn a_zone_is_loaded_no_more_than_the_others() {
    // Each zone has the same to do and half of zone 0 is down: what zone 0 keeps must load its servers as the rest.
    let local: f64 = shares(&mut zoned(Algorithm::P2c), 0, |server| server >= 2)[..4].iter().sum();
    let per_local_server = local / 2.0;
    let per_other_server = (2.0 + 1.0 - local) / 8.0;
    assert!(
        (per_local_server - per_other_server).abs() < 0.02,
        "{per_local_server} {per_other_server}, seed {SEED}"
    );
}

#[test]
fn other_zones_are_used_when_the_own_has_nothing() {
    let mut picker = zoned(Algorithm::LeastConnections);
    let others = shares(&mut picker, 0, |server| server == 9);
    assert_eq!(others[9], 1.0);
}

fn aperture(servers: &[Server], aperture: Aperture, algorithm: Algorithm) -> Picker {
    let options = Options { aperture: Some(aperture), ..Options::new(algorithm) };
    Picker::with_options(algorithm, servers, &options, SEED)
}

#[test]
fn peers_share_the_servers_out_evenly() {
    for (count, peers, servers_min) in [(10, 4, 3), (100, 14, 12), (7, 7, 2), (5, 3, 1), (12, 30, 4)] {
        let servers = Server::by_place(&vec![1; count]);
        let mut all = vec![0.0; count];
        for peer in 0..peers {
            let slice = Aperture { peer, peers, together: 1, servers_min };
            let shares = shares(&mut aperture(&servers, slice, Algorithm::P2c), 0, |_| true);
            let used = shares.iter().filter(|share| **share > 0.0).count();
            assert!(used >= servers_min as usize, "{count} {peers}: {used}, seed {SEED}");
            // The least number in whole slices, and a part of a server at each end.
            let slice_servers = (f64::from(servers_min) * f64::from(peers) / count as f64).ceil()
                * count as f64
                / f64::from(peers);
            assert!(used as f64 <= slice_servers.ceil() + 1.0, "{count} {peers}: {used}, seed {SEED}");
            shares.into_iter().zip(&mut all).for_each(|(share, sum)| *sum += share);
        }
        for sum in all {
            let even = f64::from(peers) / count as f64;
            assert!((sum / even - 1.0).abs() < 0.1, "{count} {peers}: {sum} of {even}, seed {SEED}");
        }
    }
}

#[test]
fn a_slice_out_of_use_falls_back_on_the_rest() {
    let servers = Server::by_place(&[1; 20]);
    let slice = Aperture { peer: 1, peers: 4, together: 1, servers_min: 5 };
    for algorithm in WARMED {
        let inside: Vec<usize> = {
            let shares = shares(&mut aperture(&servers, slice, algorithm), 0, |_| true);
            (0..20).filter(|server| shares[*server] > 0.0).collect()
        };
        assert!((5..=6).contains(&inside.len()), "{algorithm}: {inside:?}");
        let rest = shares(&mut aperture(&servers, slice, algorithm), 0, |server| !inside.contains(&server));
        assert!((rest.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{algorithm}");
    }
}

/// Shards of one process see each other's connections: a server that two of them share must not look twice as busy.
#[test]
fn shards_that_count_together_load_shared_servers_evenly() {
    let servers = Server::by_place(&[1; 6]);
    let mut shards: Vec<Picker> = (0..4)
        .map(|peer| Aperture { peer, peers: 4, together: 4, servers_min: 1 })
        .map(|slice| aperture(&servers, slice, Algorithm::LeastConnections))
        .collect();
    let mut loads = [0u32; 6];
    for _ in 0..600 {
        for shard in &mut shards {
            loads[shard.pick(at(0), |server| Some(loads[server])).unwrap()] += 1;
        }
    }
    for load in loads {
        assert!((360..=440).contains(&load), "{loads:?}, seed {SEED}");
    }
}

#[test]
fn zone_and_slice_go_together() {
    let servers: Vec<Server> = Server::by_place(&[1; 12])
        .into_iter()
        .enumerate()
        .map(|(n, s)| Server { zone: n as u16 / 6, ..s })
        .collect();
    let slice = Aperture { peer: 0, peers: 3, together: 1, servers_min: 2 };
    let options = Options { zone: Some(1), aperture: Some(slice), ..Options::new(Algorithm::P2c) };
    let mut picker = Picker::with_options(Algorithm::P2c, &servers, &options, SEED);
    let shares = shares(&mut picker, 0, |_| true);
    assert_eq!(shares[..6].iter().sum::<f64>(), 0.0);
    assert_eq!(shares[6..].iter().filter(|share| **share > 0.0).count(), 2);
}

proptest! {
    #[test]
    fn every_option_still_finds_the_usable_ones(
        algorithm in proptest::sample::select(Algorithm::ALL.to_vec()),
        servers in proptest::collection::vec((0..4u32, 0..3u16, any::<bool>()), 1..30),
        zone in proptest::option::of(0..4u16),
        slice in proptest::option::of((0..9u32, 0..9u32, 0..5u32, 0..9u32)),
        key in proptest::option::of(any::<u64>()),
        up_since in proptest::collection::vec((0..30usize, 0..20_000u64), 0..5),
        seed: u64,
    ) {
        let ids = Server::by_place(&vec![1; servers.len()]);
        let list: Vec<Server> =
            servers.iter().zip(ids).map(|(&(weight, zone, _), server)| Server { weight, zone, ..server }).collect();
        let aperture =
            slice.map(|(peer, peers, together, servers_min)| Aperture { peer, peers, together, servers_min });
        let options = Options { slow_start_ms: 5000, zone, aperture, ..Options::new(algorithm) };
        let mut picker = Picker::with_options(algorithm, &list, &options, seed);
        for (server, since) in up_since {
            picker.set_up_since(server, since);
        }
        let usable = |server: usize| servers[server].2;
        let any_usable = (0..list.len()).any(|server| list[server].weight > 0 && usable(server));
        for now in [0, 10_000, 10_001, 60_000] {
            let picked = picker.pick(Ask { key, now }, |server| usable(server).then_some(server as u32));
            prop_assert_eq!(picked.is_some(), any_usable);
            prop_assert!(picked.is_none_or(|server| usable(server) && list[server].weight > 0));
        }
    }
}

fn ewma(latencies_ms: &[u64]) -> Picker {
    let mut picker = Picker::new(Algorithm::PeakEwma, &vec![1; latencies_ms.len()], SEED);
    for (server, ms) in latencies_ms.iter().enumerate().filter(|(_, ms)| **ms > 0) {
        picker.observe(server, ms * 1000, true, 0);
    }
    picker
}

#[test]
fn peak_ewma_weighs_latency_by_what_is_in_flight() {
    let mut picker = ewma(&[10, 30]);
    assert_eq!(picker.pick(at(0), |server| Some([1, 0][server])), Some(0), "20 ms against 30");
    assert_eq!(picker.pick(at(0), |server| Some([3, 0][server])), Some(1), "40 ms against 30");
}

#[test]
fn peak_ewma_believes_a_peak_at_once_and_forgets_it_slowly() {
    let mut picker = ewma(&[10, 20]);
    picker.observe(0, 500_000, true, 1000);
    let prefers_first = |picker: &mut Picker, now| picker.pick(at(now), |_| Some(0)) == Some(0);
    assert!(!prefers_first(&mut picker, 1));
    let mut now = 0;
    while !prefers_first(&mut picker, now) {
        now += 1000;
        // One good answer a second from each.
        picker.observe(0, 10_000, true, now * 1000);
        picker.observe(1, 20_000, true, now * 1000);
    }
    assert!((20_000..60_000).contains(&now), "back after {now} ms");
}

#[test]
fn a_server_that_fails_fast_is_not_a_fast_server() {
    let mut picker = ewma(&[10, 10]);
    for now in (0..60_000).step_by(200) {
        picker.observe(0, 100, false, now * 1000);
        picker.observe(1, 10_000, true, now * 1000);
        assert_eq!(picker.pick(at(now), |_| Some(0)), Some(1), "after {now} ms");
    }
}

#[test]
fn an_unknown_server_counts_as_an_average_one() {
    let mut picker = ewma(&[10, 0, 40]);
    let order = |picker: &mut Picker, a: usize, b: usize| {
        picker.pick(at(0), |server| [a, b].contains(&server).then_some(0)).unwrap()
    };
    assert_eq!(order(&mut picker, 1, 2), 1);
    assert_eq!(order(&mut picker, 1, 0), 0);
}

#[test]
fn long_silence_leaves_peak_ewma_with_the_connections() {
    let mut picker = ewma(&[10, 10]);
    let later = 3_600_000;
    assert!((0..100).all(|_| picker.pick(at(later), |server| Some([100, 3][server])) == Some(1)));
}

#[test]
fn a_server_long_silent_is_not_flooded_for_it() {
    let mut picker = ewma(&[10, 10]);
    let later = 3_600_000;
    for _ in 0..100 {
        picker.observe(1, 10_000, true, later * 1000);
    }
    // A tenth of what is usual is all that the silence is worth.
    assert_eq!(picker.pick(at(later), |server| Some([20, 0][server])), Some(1));
    assert_eq!(picker.pick(at(later), |server| Some([5, 0][server])), Some(0));
}
