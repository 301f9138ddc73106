//! What clients' requests meet decides.

use crate::world::{Manner, WELL, World, pool};
use fourfold_balance::health::{BreakerRules, EjectionRules, LatencyRules, Rules, Streaks};
use fourfold_config::{Pool, SourceSet};
use fourfold_proxy::Fitness;

const BAD: Manner = Manner::Status(500, 1);

fn outliers(servers: usize) -> Pool {
    let mut pool = pool(servers);
    pool.health.rules = Rules {
        streaks: Streaks { errors: 5, gateway_errors: 5, unreachable: 5 },
        ejection: EjectionRules { base_ms: 3_000, max_ms: 60_000, max_percent: 50, interval_ms: 10_000 },
        ..pool.health.rules
    };
    pool
}

fn served_by(world: &mut World, requests: usize, server: usize) -> usize {
    world.ask(requests).iter().filter(|got| got.server == Some(server)).count()
}

#[test]
fn a_server_of_errors_is_left_out_and_comes_back() {
    let mut world = World::http(2, outliers(3));
    world.set(0, BAD);
    world.ask(60);
    assert_eq!(world.fitness(0), Fitness::Ejected);
    assert_eq!(world.asked(0), 5, "no more than it takes");
    assert_eq!(served_by(&mut world, 30, 0), 0);
    world.set(0, WELL);
    world.run(3_000);
    assert_eq!(world.fitness(0), Fitness::Up);
    assert!(served_by(&mut world, 60, 0) > 5);
    assert_eq!((world.count("servers_ejected"), world.count("servers_returned")), (1, 1));
    world.stop();
}

#[test]
fn one_that_goes_on_failing_is_left_out_longer_each_time() {
    let mut world = World::http(1, outliers(2));
    world.set(1, Manner::Reset);
    world.ask(40);
    assert_eq!(world.fitness(1), Fitness::Ejected);
    world.run(3_000);
    world.ask(40);
    world.run(3_000);
    assert_eq!(world.fitness(1), Fitness::Ejected, "six seconds the second time");
    world.run(3_000);
    assert_eq!(world.fitness(1), Fitness::Up);
    world.stop();
}

/// The good beginning of an answer does not make up for its end.
#[test]
fn a_server_whose_answers_break_off_is_left_out() {
    let mut world = World::http(2, outliers(3));
    world.set(0, Manner::BreakOff);
    world.ask(60);
    assert_eq!((world.fitness(0), world.asked(0)), (Fitness::Ejected, 5));
    assert!((1..3).all(|server| world.fitness(server) == Fitness::Up));
    world.stop();
}

#[test]
fn an_ejection_ends_in_a_drain_too() {
    let mut world = World::http(2, outliers(2));
    world.set(0, BAD);
    world.ask(40);
    assert_eq!(world.fitness(0), Fitness::Ejected);
    world.set(1, Manner::Status(200, 20_000));
    let last = world.get(1, "/");
    world.run(10);
    world.drain(60_000);
    world.run(100);
    assert!(world.has_ended(0) && !world.has_ended(1), "the one that keeps the pool's time has ended");
    world.run(3_000);
    assert_eq!(world.fitness(0), Fitness::Up);
    world.run(30_000);
    assert_eq!(last.got().unwrap().status, 200);
    world.stop();
}

#[test]
fn a_slow_server_is_left_out() {
    let mut pool = outliers(4);
    pool.health.rules.latency = Some(LatencyRules { percent: 400, requests_min: 10, servers_min: 3 });
    let mut world = World::http(2, pool);
    (0..4).for_each(|server| world.set(server, Manner::Status(200, 10)));
    world.set(3, Manner::Status(200, 100));
    while world.now < 11_000 {
        world.ask(8);
    }
    assert_eq!(world.fitness(3), Fitness::Ejected);
    assert!((0..3).all(|server| world.fitness(server) == Fitness::Up));
    world.stop();
}

fn with_breaker(servers: usize) -> Pool {
    let mut pool = pool(servers);
    pool.health.rules.breaker = Some(BreakerRules {
        window_ms: 10_000,
        requests_min: 10,
        error_percent: 50,
        open_ms: 2_000,
        open_ms_max: 60_000,
        probes: 3,
    });
    pool
}

#[test]
fn a_breaker_opens_tries_and_closes() {
    let mut world = World::http(2, with_breaker(1));
    world.set(0, BAD);
    world.ask(10);
    assert_eq!(world.fitness(0), Fitness::BreakerOpen);
    let began = world.now;
    let got = world.ask(1).remove(0);
    assert_eq!((got.status, got.field("X-Fourfold-Reason")), (503, Some("breaker_open")));
    assert!(world.now < began + 50, "refused at once");
    assert_eq!(world.asked(0), 10);
    // Still bad: one probe tells, and it takes twice as long.
    world.run(2_000);
    assert_eq!(world.fitness(0), Fitness::BreakerHalfOpen);
    assert_eq!(world.ask(1)[0].status, 500);
    assert_eq!(world.fitness(0), Fitness::BreakerOpen);
    world.set(0, WELL);
    world.run(2_000);
    assert_eq!(world.ask(1)[0].status, 503);
    world.run(2_000);
    assert!(world.ask(20).iter().all(|got| got.status == 200));
    assert_eq!(world.fitness(0), Fitness::Up);
    assert_eq!((world.count("breakers_opened"), world.count("breakers_closed")), (2, 1));
    assert!(world.count("refused_breaker_open") >= 2);
    world.stop();
}

#[test]
fn answers_that_go_on_close_a_breaker_and_ones_that_break_off_open_it() {
    let mut world = World::http(2, with_breaker(1));
    world.set(0, Manner::BreakOff);
    world.ask(10);
    world.run(100);
    assert_eq!(world.fitness(0), Fitness::BreakerOpen);
    world.run(2_000);
    world.set(0, Manner::Linger);
    let streams: Vec<_> = (0..3).map(|n| world.get(n % 2, "/")).collect();
    world.run(100);
    assert!(streams.iter().all(|stream| stream.got().unwrap().status == 200));
    assert_eq!(world.fitness(0), Fitness::Up, "event streams have no end that could be waited for");
    world.stop();
}

#[test]
fn a_half_open_breaker_lets_only_its_probes_through() {
    let mut world = World::http(2, with_breaker(1));
    world.set(0, BAD);
    world.ask(10);
    world.set(0, Manner::Status(200, 500));
    world.run(2_000);
    let tickets: Vec<_> = (0..20).map(|n| world.get(n % 2, "/")).collect();
    world.run(1_000);
    let good = tickets.iter().filter(|ticket| ticket.got().unwrap().status == 200).count();
    assert_eq!((good, world.asked(0)), (3, 13));
    assert_eq!(world.fitness(0), Fitness::Up);
    world.stop();
}

#[test]
fn with_too_few_left_all_are_used() {
    let mut pool = outliers(4);
    pool.health.rules.ejection.max_percent = 100;
    pool.health.rules.panic_percent = 50;
    let mut world = World::http(1, pool);
    (0..3).for_each(|server| world.set(server, BAD));
    world.ask(60);
    assert_eq!(world.count("pools_panicked"), 1);
    let asked: Vec<usize> = (0..4).map(|server| world.asked(server)).collect();
    world.ask(60);
    assert!((0..4).all(|server| world.asked(server) > asked[server]));
    world.stop();
}

#[test]
fn a_shortage_of_ours_harms_no_server() {
    let mut pool = outliers(2);
    pool.ports = Some(fourfold_config::PortSpan::parse("40000-40003").unwrap());
    pool.health.rules.streaks = Streaks { errors: 1, gateway_errors: 1, unreachable: 1 };
    pool.health.rules.breaker =
        Some(BreakerRules { requests_min: 1, error_percent: 1, ..BreakerRules::default() });
    pool.queue_timeout_ms = 200;
    let mut world = World::http(2, pool);
    (0..2).for_each(|server| world.set(server, Manner::Status(200, 1_000)));
    let tickets: Vec<_> = (0..40).map(|n| world.get(n % 2, "/")).collect();
    world.run(2_000);
    let refused = |reason: &str| {
        tickets.iter().filter(|one| one.got().unwrap().field("X-Fourfold-Reason") == Some(reason)).count()
    };
    assert_eq!(refused("no_tuple"), 32);
    assert!((0..2).all(|server| world.fitness(server) == Fitness::Up));
    assert_eq!(world.count("servers_ejected") + world.count("breakers_opened"), 0);
    world.stop();
}

#[test]
fn a_client_that_leaves_says_nothing_about_the_server() {
    let mut pool = outliers(2);
    pool.health.rules.streaks.unreachable = 1;
    let mut world = World::http(1, pool);
    (0..2).for_each(|server| world.set(server, Manner::Silent));
    let tickets: Vec<_> = (0..20).map(|_| world.get(0, "/")).collect();
    world.run(50);
    assert_eq!(world.asked(0) + world.asked(1), 20);
    drop(tickets);
    assert!((0..2).all(|server| world.fitness(server) == Fitness::Up));
    world.stop();
}

/// One source of four cannot reach one server of two.
fn a_blocked_path(world: &mut World) {
    world.ask(20);
    world.block("10.0.0.2", 0);
    world.ask(400);
    assert_eq!(world.fitness(0), Fitness::Up, "others reach it");
    assert_eq!((world.count("servers_ejected"), world.fitness(1)), (0, Fitness::Up));
    assert!(world.count("paths_ejected") > 0);
    let avoided = world.shared.pools[0].health.avoided(world.now);
    assert_eq!(avoided.len(), 1, "{avoided:?}");
    assert_eq!((avoided[0].source, avoided[0].server), ("10.0.0.2".parse().unwrap(), Some(0)));
}

#[test]
fn the_path_is_left_out_and_not_the_server() {
    let mut pool = outliers(2);
    pool.sources = SourceSet::parse("10.0.0.1-10.0.0.4").unwrap();
    // Every request over a connection of its own.
    pool.http.idle_max = 0;
    let mut world = World::http(2, pool);
    a_blocked_path(&mut world);
    let (failed, refused) = (world.count("connect_refused"), world.asked(0));
    world.ask(200);
    assert!(world.asked(0) > refused + 50, "the server has its share");
    assert!(world.count("connect_refused") <= failed + 2, "and the path is not tried again and again");
    world.unblock();
    world.run(20_000);
    assert!(world.shared.pools[0].health.avoided(world.now).is_empty());
    world.stop();
}

#[test]
fn a_server_that_no_source_reaches_is_left_alone() {
    let mut pool = outliers(2);
    pool.sources = SourceSet::parse("10.0.0.1-10.0.0.4").unwrap();
    pool.http.idle_max = 0;
    let mut world = World::http(2, pool);
    world.set(0, Manner::Refuse);
    for got in world.ask(300) {
        assert_eq!(got.status, 200, "{}", got.text);
    }
    assert_ne!(world.fitness(0), Fitness::Up);
    assert_eq!(world.count("paths_ejected"), 0, "no path is worse than another");
    assert!(world.connects(0) < 40, "{}", world.connects(0));
    world.stop();
}

#[test]
fn retries_end_with_their_budget() {
    let mut pool = pool(3);
    pool.http.retry_budget.per_second_min = 1;
    pool.http.retry_on.status_503 = true;
    let mut world = World::http(1, pool);
    (0..3).for_each(|server| world.set(server, Manner::Status(503, 1)));
    let got = world.ask(200);
    assert!(got.iter().all(|got| got.status == 503));
    let asked: usize = (0..3).map(|server| world.asked(server)).sum();
    // A fifth, and what ten seconds afford by themselves.
    assert!((200..=200 + 40 + 12).contains(&asked), "{asked}");
    assert!(world.count("http_retry_budget_spent") > 100);
    world.stop();
}

#[test]
fn a_503_is_asked_again_elsewhere() {
    let mut pool = pool(2);
    pool.http.retry_on.status_503 = true;
    let mut world = World::http(1, pool);
    world.set(0, Manner::Status(503, 1));
    assert!(world.ask(20).iter().all(|got| got.status == 200));
    assert!(world.count("http_retries_status") > 0);
    // Not what may not be done twice.
    let post = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n";
    let got: Vec<u16> = (0..20).map(|_| world.ask_once(0, post).status).collect();
    assert!(got.contains(&503) && got.contains(&200), "{got:?}");
    world.stop();
}

#[test]
fn tunnels_leave_out_a_server_that_refuses() {
    let mut world = World::tcp(2, outliers(2));
    world.set(0, Manner::Refuse);
    let tickets: Vec<_> = (0..50).map(|n| world.send(n % 2, "GET / HTTP/1.1\r\n\r\n")).collect();
    world.run(500);
    assert!(tickets.iter().all(|ticket| ticket.got().unwrap().server == Some(1)));
    world.stop();
}

/// Clients that keep their connections, as pools of clients do.
#[test]
fn a_stop_waits_for_no_idle_client_that_has_long_had_its_answer() {
    let mut world = World::http(1, pool(1));
    let ticket = world.send_and_stay(0, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    world.run(100);
    assert_eq!(ticket.got().unwrap().status, 200);
    world.run(5_000);
    let late = world.send_and_stay(0, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    world.run(100);
    assert_eq!(late.got().unwrap().status, 200);
    world.drain(60_000);
    world.run(100);
    // A reset could still overtake what the late one was sent.
    assert_eq!((world.has_ended(0), world.connections(0)), (false, 1));
    world.run(3_000);
    assert!(world.has_ended(0));
    world.stop();
}
