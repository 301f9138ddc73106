//! A judge that never convicts is no judge: a machine that breaks its contract on purpose is caught, and soon.

use fourfold_sim::{Fault, Scenario, run};

/// Seeds within which each fault must show.
const SEEDS: u64 = 300;

fn worlds(seed: u64) -> [Scenario; 3] {
    [Scenario::new(seed), Scenario::http(seed), Scenario::edge(seed)]
}

#[track_caller]
fn caught(fault: Fault, invariants: &[&str]) {
    caught_in(Scenario::new, fault, invariants);
}

#[track_caller]
fn caught_in(world: fn(u64) -> Scenario, fault: Fault, invariants: &[&str]) {
    let failures = (0..SEEDS).filter_map(|seed| run(&world(seed), Some(fault), 0).err());
    let found: Vec<String> = failures.map(|failure| failure.invariant.to_string()).collect();
    println!("{fault:?}: {} of {SEEDS} seeds, {:?}", found.len(), found.first());
    for invariant in invariants {
        assert!(found.iter().any(|found| found == invariant), "{fault:?}: not by {invariant:?}, {found:?}");
    }
}

#[test]
fn a_lease_given_back_at_close_and_not_at_closed_is_caught() {
    caught(Fault::EarlyClosed, &["every lease is one tuple, given back once and not too early"]);
}

#[test]
fn a_fin_dropped_behind_queued_bytes_is_caught() {
    caught(Fault::LostFin, &["FIN is passed on"]);
}

#[test]
fn pressure_that_is_ignored_is_caught() {
    caught(Fault::NoPressure, &["a send queue is bounded"]);
}

#[test]
fn bytes_dropped_under_pressure_are_caught() {
    caught(Fault::LostBytes, &["bytes arrive in order"]);
}

#[test]
fn a_lease_given_back_too_early_is_caught_among_requests() {
    let invariant = "every lease is one tuple, given back once and not too early";
    caught_in(Scenario::http, Fault::EarlyClosed, &[invariant]);
}

#[test]
fn bytes_dropped_from_a_message_are_caught() {
    caught_in(Scenario::http, Fault::LostBytes, &["an origin gets one well-formed request after the other"]);
}

#[test]
fn bytes_dropped_from_a_tunnel_are_caught() {
    caught_in(Scenario::edge, Fault::LostBytes, &["a tunnel's bytes come as they were said"]);
}

#[test]
fn without_a_fault_all_is_well() {
    for scenario in (0..SEEDS).flat_map(worlds) {
        let failure = run(&scenario, None, 0).err();
        assert!(failure.is_none(), "{}", failure.map_or_else(String::new, |failure| failure.to_string()));
    }
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    for scenario in (0..20).flat_map(worlds) {
        let runs = [0, 1].map(|_| run(&scenario, None, 0).unwrap());
        let [a, b] = runs.map(|run| (run.totals, run.ended_at, run.events, run.turns));
        assert_eq!(a, b, "seed {}", scenario.seed);
    }
}
