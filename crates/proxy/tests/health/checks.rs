//! Servers are asked how they are.

use crate::world::{Manner, WELL, World, pool};
use fourfold_balance::health::CheckRules;
use fourfold_config::pool::{ActiveCheck, CheckRequest};
use fourfold_config::{Pool, SourceSet};
use fourfold_proxy::Fitness;

fn checked(servers: usize) -> Pool {
    let mut pool = pool(servers);
    let rules = CheckRules {
        interval_ms: 1_000,
        fast_interval_ms: 200,
        timeout_ms: 300,
        rise: 2,
        fall: 3,
        jitter_percent: 10,
    };
    let request = CheckRequest { path: "/up".into(), host: None, expect: vec![(200, 299)] };
    pool.health.active = Some(ActiveCheck { request: Some(request), rules });
    pool
}

#[test]
fn a_server_that_says_no_is_taken_out_and_brought_back() {
    let mut world = World::http(3, checked(3));
    world.run(3_000);
    assert!((0..3).all(|server| world.asked(server) >= 2 && world.fitness(server) == Fitness::Up));
    assert!(world.requests(0)[0].starts_with("GET /up HTTP/1.1\r\nHost: 10.1.0.1:9000\r\n"));
    for manner in [Manner::Status(500, 1), Manner::Silent, Manner::Refuse, Manner::Reset] {
        world.set(0, manner);
        world.run(4_000);
        assert_eq!(world.fitness(0), Fitness::Down, "{manner:?}");
        assert!(world.ask(20).iter().all(|got| got.server != Some(0)));
        world.set(0, WELL);
        world.run(3_000);
        assert_eq!(world.fitness(0), Fitness::Up, "{manner:?}");
    }
    assert_eq!((world.count("servers_checked_down"), world.count("servers_checked_up")), (4, 4));
    assert_eq!(world.fitness(1), Fitness::Up);
    world.stop();
}

#[test]
fn connections_that_come_about_are_enough_without_a_path() {
    let mut pool = checked(2);
    pool.health.active.as_mut().unwrap().request = None;
    let mut world = World::tcp(2, pool);
    world.set(1, Manner::Refuse);
    world.run(4_000);
    assert_eq!((world.fitness(0), world.fitness(1)), (Fitness::Up, Fitness::Down));
    assert_eq!(world.asked(0), 0);
    world.set(1, WELL);
    world.run(3_000);
    assert_eq!(world.fitness(1), Fitness::Up);
    world.stop();
}

#[test]
fn flapping_changes_nothing() {
    let mut world = World::http(2, checked(2));
    world.run(2_000);
    // Two bad answers at most between good ones.
    for _ in 0..20 {
        let before = world.asked(0);
        world.set(0, Manner::Status(500, 1));
        while world.asked(0) < before + 2 {
            world.run(10);
        }
        world.set(0, WELL);
        while world.asked(0) < before + 3 {
            world.run(10);
        }
    }
    assert_eq!(world.count("servers_checked_down"), 0);
    assert_eq!(world.fitness(0), Fitness::Up);
    world.stop();
}

#[test]
fn each_path_is_checked_by_one_shard() {
    let mut pool = checked(2);
    pool.sources = SourceSet::parse("10.0.0.1-10.0.0.4").unwrap();
    let mut world = World::http(3, pool);
    world.run(10_000);
    // Four sources, once a second.
    for server in 0..2 {
        let asked = world.asked(server);
        assert!((36..=50).contains(&asked), "{asked}");
    }
    world.stop();
}

#[test]
fn a_source_that_fails_is_avoided_and_the_server_is_not_down() {
    let mut pool = checked(2);
    pool.sources = SourceSet::parse("10.0.0.1-10.0.0.3").unwrap();
    pool.http.idle_max = 0;
    let mut world = World::http(2, pool);
    world.block("10.0.0.2", 0);
    world.run(4_000);
    assert_eq!(world.fitness(0), Fitness::Up);
    let avoided = world.shared.pools[0].health.avoided(world.now);
    assert_eq!(avoided.len(), 1, "{avoided:?}");
    let refused = world.count("connect_refused");
    assert!(world.ask(100).iter().all(|got| got.status == 200));
    assert_eq!(world.count("connect_refused"), refused, "no request has met it");
    // All three down, and it is the server.
    world.set(0, Manner::Refuse);
    world.run(4_000);
    assert_eq!(world.fitness(0), Fitness::Down);
    world.set(0, WELL);
    world.unblock();
    world.run(4_000);
    assert_eq!(world.fitness(0), Fitness::Up);
    assert!(world.shared.pools[0].health.avoided(world.now).is_empty());
    world.stop();
}

#[test]
fn a_shortage_of_ours_takes_no_server_down() {
    let mut pool = checked(1);
    pool.ports = Some(fourfold_config::PortSpan::parse("40000-40001").unwrap());
    let mut world = World::http(1, pool);
    world.run(2_000);
    world.set(0, Manner::Status(200, 8_000));
    // Both tuples are in use, so nothing can be asked.
    let tickets = [world.get(0, "/"), world.get(0, "/")];
    world.run(100);
    let skipped = world.count("checks_skipped");
    world.run(6_000);
    assert!(world.count("checks_skipped") > skipped + 5);
    assert_eq!(world.fitness(0), Fitness::Up);
    world.run(3_000);
    assert!(tickets.iter().all(|ticket| ticket.got().unwrap().status == 200));
    world.stop();
}

#[test]
fn a_server_that_moves_is_checked_where_it_is() {
    let mut world = World::http(2, checked(2));
    world.set(0, Manner::Refuse);
    world.run(4_000);
    assert_eq!(world.fitness(0), Fitness::Down);
    world.set(7, WELL);
    world.shared.set_target(0, 0, Some(crate::world::address(7))).unwrap();
    world.run(2_000);
    assert_eq!(world.fitness(0), Fitness::Up);
    assert!(world.asked(7) > 0);
    world.stop();
}

/// Four requests at a time from each shard: as many warm connections afterwards.
fn warm_up(world: &mut World) -> usize {
    let tickets: Vec<_> = (0..8).map(|n| world.get(n % 2, "/")).collect();
    world.run(100);
    assert!(tickets.iter().all(|ticket| ticket.got().is_some()));
    world.active(0) as usize
}

/// Requests went out over connections made before a path failed, until each had cost a time-out; one that may not be sent twice
/// was lost.
#[test]
fn warm_connections_of_a_path_that_fails_are_given_up() {
    let mut pool = checked(1);
    pool.sources = SourceSet::parse("10.0.0.1-10.0.0.2").unwrap();
    let mut world = World::http(2, pool);
    world.run(2_000);
    let warm = warm_up(&mut world);
    assert!(warm >= 4, "{warm}");
    world.block("10.0.0.2", 0);
    world.run(4_000);
    let left = world.active(0) as usize;
    assert!(left > 0 && left < warm, "{left} of {warm}, those of the other source");
    assert_eq!(world.fitness(0), Fitness::Up);
    world.stop();
}

/// A server that was down may have come back without them.
#[test]
fn warm_connections_to_a_server_that_is_down_are_given_up() {
    let mut world = World::http(2, checked(2));
    world.run(2_000);
    assert!(warm_up(&mut world) >= 2);
    world.set(0, Manner::Status(500, 1));
    world.run(4_000);
    assert_eq!((world.fitness(0), world.active(0)), (Fitness::Down, 0));
    world.stop();
}
