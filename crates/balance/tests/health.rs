//! Checks, ejection, breakers, panic, and whose fault it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::sync::Arc;

use fourfold_balance::health::{
    Action, Bar, Board, BreakerRules, Change, Check, CheckRules, EjectionRules, Fault, Health, LatencyRules,
    Notice, Outcome, Reason, Rules, Standing, Streaks, SuccessRules,
};
use proptest::prelude::*;

mod checks {
    use super::*;

    const RULES: CheckRules = CheckRules {
        interval_ms: 5000,
        fast_interval_ms: 1000,
        timeout_ms: 300,
        rise: 2,
        fall: 3,
        jitter_percent: 10,
    };

    /// Lets the check run as its results say; the time and standing after each.
    fn run(check: &mut Check, results: &[Outcome]) -> Vec<(u64, Standing)> {
        let mut seen = Vec::new();
        for result in results {
            let now = check.poll_timeout();
            assert_eq!(check.handle_timeout(now), Some(Action::Probe));
            check.handle_result(now, *result);
            seen.push((now, check.standing()));
        }
        seen
    }

    fn standings(results: &[Outcome]) -> Vec<Standing> {
        run(&mut Check::new(RULES, 7, 0), results).into_iter().map(|seen| seen.1).collect()
    }

    const OK: Outcome = Outcome::Success;
    const BAD: Outcome = Outcome::Unreachable;

    #[test]
    fn the_first_result_decides_and_then_it_takes_several() {
        use Standing::{Down, Up};
        assert_eq!(standings(&[OK, BAD, BAD, BAD, OK, OK]), [Up, Up, Up, Down, Down, Up]);
        assert_eq!(standings(&[BAD, OK, OK]), [Down, Down, Up]);
    }

    #[test]
    fn a_flapping_server_keeps_its_standing() {
        use Standing::Up;
        assert_eq!(standings(&[OK, BAD, BAD, OK, BAD, BAD, OK, BAD, OK]), [Up; 9]);
    }

    #[test]
    fn a_local_shortage_is_no_result() {
        use Standing::{Checking, Down, Up};
        let short = Outcome::Shortage;
        assert_eq!(
            standings(&[short, short, OK, BAD, short, BAD, short, short, BAD]),
            [Checking, Checking, Up, Up, Up, Up, Up, Up, Down]
        );
    }

    #[test]
    fn results_that_contradict_are_followed_up_fast() {
        let mut check = Check::new(RULES, 3, 0);
        let times: Vec<u64> = run(&mut check, &[OK, OK, BAD, BAD, BAD, BAD, Outcome::Shortage, BAD])
            .into_iter()
            .map(|seen| seen.0)
            .collect();
        let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let within = |gap: u64, interval: u64| gap.abs_diff(interval) <= interval / 10;
        for (gap, interval) in gaps.into_iter().zip([5000, 5000, 1000, 1000, 5000, 5000, 1000]) {
            assert!(within(gap, interval), "{times:?}");
        }
    }

    #[test]
    fn checks_do_not_march_in_step() {
        let mut starts: Vec<u64> = (0..50).map(|seed| Check::new(RULES, seed, 0).poll_timeout()).collect();
        assert!(starts.iter().all(|start| *start < 1000));
        starts.sort_unstable();
        starts.dedup();
        assert!(starts.len() > 40, "{starts:?}");
    }

    #[test]
    fn a_probe_without_an_answer_fails_and_its_late_answer_is_not_heard() {
        let mut check = Check::new(RULES, 1, 0);
        let now = check.poll_timeout();
        assert_eq!(check.handle_timeout(now), Some(Action::Probe));
        assert_eq!(check.poll_timeout(), now + 300);
        assert_eq!(check.handle_timeout(now + 299), None);
        assert_eq!(check.handle_timeout(now + 300), Some(Action::GiveUp { changed: Some(Standing::Down) }));
        assert_eq!(check.handle_result(now + 301, OK), None);
        assert_eq!(check.standing(), Standing::Down);
    }

    #[test]
    fn one_good_path_makes_a_good_server() {
        use Standing::{Checking, Down, Up};
        assert_eq!(Standing::of_server([Down, Up, Down]), Up);
        assert_eq!(Standing::of_server([Down, Checking]), Checking);
        assert_eq!(Standing::of_server([Down, Down]), Down);
        assert_eq!(Standing::of_server([]), Checking);
    }
}

/// A pool and the shards that use it.
struct Pool {
    health: Health,
    board: Arc<Board>,
    now: u64,
    changes: Vec<Change>,
    notices: usize,
}

impl Pool {
    fn new(rules: Rules, servers: usize) -> Pool {
        let (health, board) = Health::new(rules, servers, 0);
        Pool { health, board, now: 0, changes: Vec::new(), notices: 0 }
    }

    /// A connection from `source` and, if it comes about, a request on it.
    fn record_from(&mut self, source: u32, server: usize, outcome: Outcome) -> Fault {
        if !matches!(outcome, Outcome::Unreachable | Outcome::Shortage) {
            let notice = self.board.connected(server, source, self.now);
            self.tell(server, source, notice);
        }
        self.record_after(source, server, outcome, 1000)
    }

    fn record_after(&mut self, source: u32, server: usize, outcome: Outcome, latency_us: u64) -> Fault {
        let notice = self.board.record(server, outcome, latency_us);
        self.tell(server, source, notice)
    }

    fn tell(&mut self, server: usize, source: u32, notice: Option<Notice>) -> Fault {
        let Some(notice) = notice else { return Fault::Undecided };
        self.notices += 1;
        let fault = self.health.handle_notice(self.now, server, source, notice);
        self.collect();
        fault
    }

    fn record(&mut self, server: usize, outcome: Outcome, times: usize) {
        for _ in 0..times {
            self.record_from(0, server, outcome);
        }
    }

    /// Time passes, with all that falls due.
    fn advance(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.health.poll_timeout() <= end {
            self.now = self.now.max(self.health.poll_timeout());
            self.health.handle_timeout(self.now);
            assert!(self.health.poll_timeout() > self.now, "a timeout that has been handled is still due");
            self.collect();
        }
        self.now = end;
    }

    fn collect(&mut self) {
        while let Some(change) = self.health.poll_change() {
            self.changes.push(change);
        }
    }

    fn usable(&self, server: usize) -> bool {
        self.board.is_usable(server)
    }
}

mod ejection {
    use super::*;

    fn only(streaks: Streaks) -> Rules {
        Rules { streaks, ..Rules::default() }
    }

    const OFF: Streaks = Streaks { errors: 0, gateway_errors: 0, unreachable: 0 };

    #[test]
    fn streaks_of_each_kind_have_their_own_limit() {
        let cases = [
            (Streaks { errors: 3, ..OFF }, Outcome::ServerError, Some(Reason::Errors)),
            (Streaks { errors: 3, ..OFF }, Outcome::GatewayError, Some(Reason::Errors)),
            (Streaks { errors: 3, ..OFF }, Outcome::Unreachable, Some(Reason::Errors)),
            (Streaks { gateway_errors: 3, ..OFF }, Outcome::ServerError, None),
            (Streaks { gateway_errors: 3, ..OFF }, Outcome::GatewayError, Some(Reason::GatewayErrors)),
            (Streaks { gateway_errors: 3, ..OFF }, Outcome::Unreachable, Some(Reason::GatewayErrors)),
            (Streaks { gateway_errors: 3, ..OFF }, Outcome::NoAnswer, Some(Reason::GatewayErrors)),
            (Streaks { unreachable: 3, ..OFF }, Outcome::GatewayError, None),
            (Streaks { unreachable: 3, ..OFF }, Outcome::NoAnswer, None),
            (Streaks { unreachable: 3, ..OFF }, Outcome::Unreachable, Some(Reason::Unreachable)),
            (OFF, Outcome::ServerError, None),
        ];
        for (streaks, outcome, expected) in cases {
            let mut pool = Pool::new(only(streaks), 3);
            pool.record(1, outcome, 2);
            assert_eq!(pool.changes, [], "{streaks:?} {outcome:?}: too early");
            pool.record(1, outcome, 1);
            let expected: Vec<Change> = expected
                .map(|reason| Change::Ejected { server: 1, reason, until: 30_000 })
                .into_iter()
                .collect();
            assert_eq!(pool.changes, expected, "{streaks:?} {outcome:?}");
            assert_eq!(pool.usable(1), expected.is_empty());
        }
    }

    #[test]
    fn a_success_ends_the_streak_and_a_narrower_error_does_too() {
        let mut pool = Pool::new(only(Streaks { errors: 5, ..OFF }), 3);
        for _ in 0..50 {
            pool.record(0, Outcome::ServerError, 4);
            pool.record(0, Outcome::Success, 1);
        }
        assert_eq!(pool.changes, []);

        let mut pool = Pool::new(only(Streaks { gateway_errors: 3, ..OFF }), 3);
        for _ in 0..50 {
            pool.record(0, Outcome::GatewayError, 2);
            pool.record(0, Outcome::ServerError, 1);
        }
        assert_eq!(pool.changes, []);
    }

    #[test]
    fn a_local_shortage_never_counts() {
        let rules =
            Rules { streaks: Streaks { errors: 1, gateway_errors: 1, unreachable: 1 }, ..Rules::default() };
        let breaker = BreakerRules { requests_min: 1, error_percent: 1, ..BreakerRules::default() };
        let mut pool =
            Pool::new(Rules { breaker: Some(breaker), success: Some(SuccessRules::default()), ..rules }, 4);
        for _ in 0..500 {
            pool.record(0, Outcome::Shortage, 1);
            pool.record(1, Outcome::Success, 1);
            pool.advance(100);
        }
        assert_eq!((pool.changes.len(), pool.notices), (0, 0));
    }

    #[test]
    fn it_lasts_twice_as_long_each_time_up_to_the_limit_and_is_forgiven() {
        let mut pool = Pool::new(only(Streaks { errors: 1, ..OFF }), 2);
        let mut lengths = Vec::new();
        for _ in 0..6 {
            pool.record(0, Outcome::ServerError, 1);
            let Some(Change::Ejected { until, .. }) = pool.changes.last() else { panic!("not ejected") };
            let until = *until;
            lengths.push(until - pool.now);
            pool.advance(until - pool.now - 1);
            assert!(!pool.usable(0));
            pool.advance(1);
            assert!(pool.usable(0));
        }
        assert_eq!(lengths[0], 30_000);
        assert!(lengths.windows(2).all(|pair| pair[1] >= pair[0]), "{lengths:?}");
        assert_eq!(lengths.last(), Some(&300_000), "{lengths:?}");
        pool.advance(600_000);
        pool.record(0, Outcome::ServerError, 1);
        assert!(
            matches!(pool.changes.last(), Some(Change::Ejected { until, .. }) if *until == pool.now + 30_000)
        );
    }

    #[test]
    fn what_was_on_its_way_when_it_was_ejected_is_not_held_against_it_later() {
        let mut pool = Pool::new(only(Streaks { errors: 5, ..OFF }), 2);
        pool.record(0, Outcome::ServerError, 5 + 4);
        pool.advance(30_000);
        pool.record(0, Outcome::ServerError, 4);
        assert!(pool.usable(0));
        pool.record(0, Outcome::ServerError, 1);
        assert!(!pool.usable(0));
    }

    #[test]
    fn only_so_many_at_once() {
        let ejection = EjectionRules { max_percent: 30, ..EjectionRules::default() };
        let mut pool = Pool::new(Rules { ejection, ..only(Streaks { errors: 2, ..OFF }) }, 10);
        (0..10).for_each(|server| pool.record(server, Outcome::ServerError, 2));
        assert_eq!((0..10).filter(|server| !pool.usable(*server)).count(), 3);
        assert_eq!(pool.changes[3], Change::NotEjected { server: 3, reason: Reason::Errors });
        // One out of two may go, the only one may not.
        for (servers, ejected) in [(2, 1), (1, 0)] {
            let mut pool = Pool::new(only(Streaks { errors: 2, ..OFF }), servers);
            (0..servers).for_each(|server| pool.record(server, Outcome::ServerError, 2));
            assert_eq!((0..servers).filter(|server| !pool.usable(*server)).count(), ejected);
        }
    }

    #[test]
    fn the_one_with_fewer_good_answers_than_the_rest_goes() {
        let success = Some(SuccessRules { points: 20, requests_min: 100, servers_min: 3 });
        let mut pool = Pool::new(Rules { success, ..only(OFF) }, 5);
        let round = |pool: &mut Pool, errors_of_ten: [usize; 5]| {
            for (server, errors) in errors_of_ten.into_iter().enumerate() {
                pool.record(server, Outcome::ServerError, errors * 20);
                pool.record(server, Outcome::Success, (10 - errors) * 20);
            }
            pool.advance(10_000);
        };
        round(&mut pool, [3, 3, 4, 3, 3]);
        assert_eq!(pool.changes, [], "all are bad: none is an outlier");
        round(&mut pool, [0, 0, 4, 0, 1]);
        assert!(matches!(pool.changes[..], [Change::Ejected { server: 2, reason: Reason::SuccessRate, .. }]));
        // What it did before it was ejected does not eject it again.
        pool.advance(60_000);
        assert_eq!(pool.changes[1..], [Change::Returned { server: 2 }]);
    }

    #[test]
    fn the_slow_one_goes() {
        let latency = Some(LatencyRules { percent: 400, requests_min: 50, servers_min: 3 });
        let mut pool = Pool::new(Rules { latency, ..only(OFF) }, 4);
        for (server, latency_us) in [1000, 3000, 1500, 20_000].into_iter().enumerate() {
            for _ in 0..60 {
                pool.record_after(0, server, Outcome::Success, latency_us);
            }
        }
        pool.advance(10_000);
        assert!(matches!(pool.changes[..], [Change::Ejected { server: 3, reason: Reason::Latency, .. }]));
    }

    #[test]
    fn few_requests_or_few_servers_say_nothing() {
        let (success, latency) = (Some(SuccessRules::default()), Some(LatencyRules::default()));
        for (servers, requests) in [(5, 99), (2, 1000)] {
            let mut pool = Pool::new(Rules { success, latency, ..only(OFF) }, servers);
            pool.record(0, Outcome::ServerError, requests);
            (1..servers).for_each(|server| pool.record(server, Outcome::Success, requests));
            pool.advance(20_000);
            assert_eq!(pool.changes, [], "{servers} servers, {requests} requests");
        }
    }
}

mod breaker {
    use super::*;

    fn pool() -> Pool {
        let breaker = BreakerRules {
            window_ms: 10_000,
            requests_min: 20,
            error_percent: 50,
            open_ms: 5000,
            open_ms_max: 30_000,
            probes: 3,
        };
        let streaks = Streaks { errors: 0, gateway_errors: 0, unreachable: 0 };
        Pool::new(Rules { breaker: Some(breaker), streaks, ..Rules::default() }, 2)
    }

    #[test]
    fn it_opens_at_the_ratio_and_not_before_there_are_enough_requests() {
        let mut pool = pool();
        pool.record(0, Outcome::ServerError, 19);
        assert_eq!(pool.changes, [], "19 requests say nothing");
        pool.record(0, Outcome::ServerError, 1);
        assert_eq!(pool.changes, [Change::Opened { server: 0, until: 5000 }]);
        assert!(!pool.usable(0) && pool.usable(1));
    }

    #[test]
    fn good_answers_hold_it_closed() {
        let mut pool = pool();
        pool.record(0, Outcome::Success, 30);
        pool.record(0, Outcome::ServerError, 29);
        assert_eq!(pool.changes, [], "29 of 59");
        pool.record(0, Outcome::ServerError, 1);
        assert_eq!(pool.changes.len(), 1, "30 of 60");
    }

    #[test]
    fn errors_older_than_the_window_are_forgotten() {
        let mut pool = pool();
        for _ in 0..20 {
            pool.record(0, Outcome::ServerError, 15);
            pool.advance(11_001);
        }
        assert_eq!(pool.changes, []);
    }

    #[test]
    fn it_closes_after_good_probes_and_only_they_are_let_through() {
        let mut pool = pool();
        pool.record(0, Outcome::ServerError, 20);
        pool.advance(4999);
        assert!(!pool.usable(0) && !pool.board.admit(0));
        pool.advance(1);
        assert!(pool.usable(0));
        let admitted = (0..10).filter(|_| pool.board.admit(0)).count();
        assert_eq!(admitted, 3);
        assert!(!pool.usable(0));
        pool.record(0, Outcome::Success, 2);
        assert!(!pool.usable(0));
        pool.record(0, Outcome::Success, 1);
        assert!(pool.usable(0) && pool.board.admit(0));
        let expected = [
            Change::Opened { server: 0, until: 5000 },
            Change::HalfOpened { server: 0 },
            Change::Closed { server: 0 },
        ];
        assert_eq!(pool.changes, expected);
        // The errors before do not count again.
        pool.record(0, Outcome::ServerError, 19);
        assert_eq!(pool.changes.len(), 3);
    }

    #[test]
    fn a_bad_probe_opens_it_again_for_longer() {
        let mut pool = pool();
        pool.record(0, Outcome::ServerError, 20);
        let mut lengths = Vec::new();
        for _ in 0..5 {
            let Some(Change::Opened { until, .. }) = pool.changes.last() else {
                panic!("{:?}", pool.changes)
            };
            lengths.push(until - pool.now);
            pool.advance(until - pool.now);
            assert!(pool.board.admit(0));
            pool.record(0, Outcome::ServerError, 1);
            assert!(!pool.usable(0));
        }
        assert_eq!(lengths, [5000, 10_000, 20_000, 30_000, 30_000]);
    }

    #[test]
    fn probes_that_say_nothing_are_not_lost() {
        let mut pool = pool();
        pool.record(0, Outcome::ServerError, 20);
        pool.advance(5000);
        for _ in 0..50 {
            assert!(pool.board.admit(0));
            pool.record(0, Outcome::Shortage, 1);
        }
        // Nor those whose client went away.
        assert_eq!((0..4).filter(|_| pool.board.admit(0)).count(), 3);
        pool.advance(5000);
        assert!(pool.board.admit(0));
    }
}

mod fault {
    use super::*;

    fn pool(servers: usize, sources: u32) -> Pool {
        let streaks = Streaks { errors: 0, gateway_errors: 0, unreachable: 2 };
        let mut pool = Pool::new(Rules { streaks, ..Rules::default() }, servers);
        (0..servers).for_each(|server| pool.health.set_sources(server, sources));
        pool
    }

    #[test]
    fn all_sources_failing_is_the_server() {
        let mut pool = pool(4, 16);
        assert_eq!(pool.record_from(0, 1, Outcome::Unreachable), Fault::Undecided);
        assert_eq!(pool.record_from(1, 1, Outcome::Unreachable), Fault::Undecided);
        assert_eq!(pool.record_from(2, 1, Outcome::Unreachable), Fault::Server);
        assert_eq!(pool.record_from(3, 1, Outcome::Unreachable), Fault::Server);
        assert!(!pool.usable(1) && pool.usable(0));
    }

    #[test]
    fn failures_before_a_success_do_not_add_up() {
        let mut pool = pool(4, 16);
        for source in 0..12 {
            pool.now += 1;
            assert_eq!(pool.record_from(source, 1, Outcome::Unreachable), Fault::Undecided);
            if source % 2 == 1 {
                pool.now += 1;
                pool.record_from(15, 1, Outcome::Success);
            }
        }
    }

    #[test]
    fn a_server_that_dies_is_the_server_though_a_source_had_failed_before() {
        let mut pool = pool(2, 2);
        for _ in 0..3 {
            pool.now += 1;
            pool.record_from(0, 0, Outcome::Unreachable);
            pool.now += 1;
            pool.record_from(1, 0, Outcome::Success);
        }
        pool.now += 1;
        assert_eq!(pool.record_from(0, 0, Outcome::Unreachable), Fault::Path);
        pool.now += 1;
        assert_eq!(pool.record_from(1, 0, Outcome::Unreachable), Fault::Server);
        pool.now += 1;
        assert_eq!(pool.record_from(0, 0, Outcome::Unreachable), Fault::Server);
    }

    #[test]
    fn answers_on_old_connections_do_not_show_that_there_is_a_way() {
        let mut pool = pool(2, 16);
        let mut faults = Vec::new();
        for source in 0..4 {
            pool.now += 1;
            pool.record_after(9, 0, Outcome::Success, 1000);
            faults.push(pool.record_from(source, 0, Outcome::Unreachable));
        }
        assert_eq!(faults, [Fault::Undecided, Fault::Undecided, Fault::Server, Fault::Server]);
    }

    #[test]
    fn with_a_single_source_there_is_nobody_else_to_blame() {
        let mut pool = pool(2, 1);
        assert_eq!(pool.record_from(0, 0, Outcome::Unreachable), Fault::Server);
    }

    #[test]
    fn one_source_failing_towards_several_servers_is_the_source() {
        let mut pool = pool(3, 16);
        let mut faults = Vec::new();
        for round in 0..20 {
            for server in 0..3 {
                pool.now += 1;
                let source = (round * 3 + server as u32) % 4;
                match source {
                    2 => faults.push(pool.record_from(2, server, Outcome::Unreachable)),
                    _ => assert_eq!(pool.record_from(source, server, Outcome::Success), Fault::Undecided),
                }
            }
        }
        assert!(faults.contains(&Fault::Source), "{faults:?}");
        assert!(!faults.contains(&Fault::Server), "{faults:?}");
        assert_eq!(pool.changes, [], "no server pays for it");
    }

    #[test]
    fn one_source_failing_towards_one_server_is_the_path() {
        let mut pool = pool(3, 16);
        let mut faults = Vec::new();
        for _ in 0..5 {
            pool.now += 10;
            faults.push(pool.record_from(2, 0, Outcome::Unreachable));
            pool.now += 10;
            pool.record_from(1, 0, Outcome::Success);
            pool.record_from(2, 1, Outcome::Success);
        }
        assert_eq!(faults[0], Fault::Undecided);
        assert_eq!(faults[1..], [Fault::Path; 4]);
        assert_eq!(pool.changes, []);
    }

    #[test]
    fn a_source_that_gets_through_is_cleared() {
        let mut pool = pool(3, 16);
        for _ in 0..20 {
            for server in 0..3 {
                pool.now += 1;
                assert_eq!(pool.record_from(2, server, Outcome::Unreachable), Fault::Undecided);
                pool.now += 1;
                pool.record_from(2, server, Outcome::Success);
                pool.record_from(1, server, Outcome::Success);
            }
        }
    }

    #[test]
    fn a_failed_path_does_not_send_the_others_through_the_lock() {
        let mut pool = pool(2, 16);
        pool.record_from(2, 0, Outcome::Unreachable);
        let before = pool.notices;
        (0..16).filter(|source| *source != 2).for_each(|source| {
            pool.record_from(source, 0, Outcome::Success);
        });
        assert_eq!(pool.notices, before);
        pool.record_from(2, 0, Outcome::Success);
        pool.record_from(2, 0, Outcome::Success);
        assert_eq!(pool.notices, before + 1);
    }

    #[test]
    fn a_source_s_fault_does_not_spend_a_half_open_servers_probe() {
        let breaker = Some(BreakerRules { requests_min: 5, probes: 1, ..BreakerRules::default() });
        let streaks = Streaks { errors: 0, gateway_errors: 0, unreachable: 0 };
        let mut pool = Pool::new(Rules { breaker, streaks, ..Rules::default() }, 1);
        pool.health.set_sources(0, 16);
        for _ in 0..2 {
            pool.record_from(2, 0, Outcome::Unreachable);
            pool.now += 1;
            pool.record_from(1, 0, Outcome::Success);
        }
        pool.record(0, Outcome::ServerError, 5);
        pool.advance(6000);
        assert!(pool.board.admit(0));
        assert_eq!(pool.record_from(2, 0, Outcome::Unreachable), Fault::Path);
        assert!(pool.board.admit(0));
    }
}

#[test]
fn good_answers_never_reach_the_lock() {
    let rules = Rules {
        success: Some(SuccessRules::default()),
        latency: Some(LatencyRules::default()),
        breaker: Some(BreakerRules::default()),
        panic_percent: 50,
        ..Rules::default()
    };
    let mut pool = Pool::new(rules, 8);
    for n in 0..10_000 {
        pool.record_from(n as u32 % 3, n % 8, Outcome::Success);
    }
    assert_eq!(pool.notices, 0);
    // Nor do a few errors, but for a look now and then whether the breaker is to open.
    for n in 0..10_000 {
        let outcome = if n % 50 == 0 { Outcome::ServerError } else { Outcome::Success };
        pool.record_from(n as u32 % 3, n % 8, outcome);
    }
    assert!(pool.notices <= 200 / 10, "{} of 200 errors", pool.notices);
    assert_eq!(pool.changes, []);
}

#[test]
fn in_panic_all_are_used() {
    let mut pool = Pool::new(Rules { panic_percent: 50, ..Rules::default() }, 4);
    for server in 0..2 {
        pool.health.handle_check(server, Standing::Down);
        assert!(!pool.usable(server));
    }
    pool.health.handle_check(2, Standing::Down);
    assert!((0..4).all(|server| pool.usable(server) && pool.board.admit(server)));
    pool.health.handle_check(0, Standing::Up);
    assert!(pool.usable(0) && !pool.usable(1) && pool.usable(3));
    pool.collect();
    let panics: Vec<&Change> =
        pool.changes.iter().filter(|change| matches!(change, Change::Panic { .. })).collect();
    assert_eq!(panics, [&Change::Panic { on: true }, &Change::Panic { on: false }]);
}

/// Or a pool of one server could never have a breaker.
#[test]
fn panic_does_not_close_a_breaker() {
    let breaker = Some(BreakerRules { requests_min: 4, probes: 1, ..BreakerRules::default() });
    let mut pool = Pool::new(Rules { breaker, panic_percent: 100, ..Rules::default() }, 1);
    (0..4).for_each(|_| pool.record(0, Outcome::ServerError, 5));
    assert!(pool.board.is_panicking());
    assert!(!pool.usable(0) && !pool.board.admit(0));
    assert_eq!(pool.board.bar(0), Some(Bar::Open));
    pool.advance(6000);
    assert!(pool.board.admit(0), "a probe");
    assert!(!pool.board.admit(0), "and no more than that");
}

#[test]
fn a_server_that_its_check_takes_down_comes_back_with_it() {
    let mut pool = Pool::new(Rules::default(), 2);
    pool.health.handle_check(0, Standing::Down);
    pool.health.handle_check(0, Standing::Down);
    pool.record(0, Outcome::Success, 100);
    assert!(!pool.usable(0), "the check decides");
    pool.health.handle_check(0, Standing::Up);
    assert!(pool.usable(0));
    pool.collect();
    assert_eq!(pool.changes, [Change::CheckedDown { server: 0 }, Change::CheckedUp { server: 0 }]);
}

#[test]
fn a_server_that_is_not_there_harms_nobody() {
    let mut pool = Pool::new(Rules::default(), 1);
    pool.record(7, Outcome::ServerError, 10);
    pool.health.handle_check(7, Standing::Down);
    pool.health.handle_notice(0, 7, 0, Notice::Unreachable);
    pool.health.handle_notice(0, 7, 0, Notice::Streak(Reason::Errors));
    assert!(!pool.usable(7) && pool.usable(0));
}

proptest! {
    /// Whatever happens: never more ejected than allowed, everybody comes back in the end, and a server that is
    /// usable can be admitted.
    #[test]
    fn anything_may_happen(
        servers in 1..12usize,
        max_percent in 0..=100u32,
        panic_percent in 0..=100u32,
        steps in proptest::collection::vec((0..12usize, 0..5u32, 0..6u8, 0..3000u64), 1..400),
    ) {
        let rules = Rules {
            ejection: EjectionRules { max_percent, ..EjectionRules::default() },
            success: Some(SuccessRules { requests_min: 5, ..SuccessRules::default() }),
            latency: Some(LatencyRules { requests_min: 5, ..LatencyRules::default() }),
            breaker: Some(BreakerRules { requests_min: 4, ..BreakerRules::default() }),
            panic_percent,
            ..Rules::default()
        };
        let mut pool = Pool::new(rules, servers);
        (0..servers).for_each(|server| pool.health.set_sources(server, 5));
        let mut ejected = std::collections::HashSet::new();
        for (server, source, outcome, ms) in steps {
            let outcomes =
                [Outcome::Success, Outcome::ServerError, Outcome::GatewayError, Outcome::Unreachable, Outcome::Shortage, Outcome::NoAnswer];
            let server = server % servers;
            if pool.board.admit(server) {
                pool.record_from(source, server, outcomes[usize::from(outcome)]);
            }
            pool.advance(ms);
            for change in std::mem::take(&mut pool.changes) {
                match change {
                    Change::Ejected { server, .. } => prop_assert!(ejected.insert(server)),
                    Change::Returned { server } => prop_assert!(ejected.remove(&server)),
                    _ => {}
                }
                let most = (servers * max_percent as usize / 100).max(usize::from(max_percent > 0 && servers > 1));
                prop_assert!(ejected.len() <= most);
            }
        }
        pool.advance(1_000_000);
        for server in 0..servers {
            prop_assert!(pool.usable(server) && pool.board.admit(server));
        }
    }
}
