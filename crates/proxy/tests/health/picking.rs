//! Which server gets a request.

use crate::world::{Manner, WELL, World, address, pool};
use fourfold_balance::health::{EjectionRules, Streaks};
use fourfold_config::Algorithm;
use fourfold_config::pool::{HashKey, SameSite, StickyCookie};

fn with_cookie(servers: usize) -> fourfold_config::Pool {
    let mut pool = pool(servers);
    pool.sticky = Some(StickyCookie {
        name: "stay".into(),
        ttl_ms: 60_000,
        path: "/".into(),
        secure: true,
        same_site: SameSite::Lax,
    });
    pool
}

fn cookie(got: &crate::world::Got) -> Option<String> {
    Some(got.field("Set-Cookie")?.split(';').next().unwrap().to_owned())
}

#[test]
fn a_cookie_keeps_a_client_at_its_server() {
    let mut world = World::http(2, with_cookie(4));
    let first = world.ask(1).remove(0);
    let set = first.field("Set-Cookie").unwrap();
    assert!(set.ends_with("; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure"), "{set}");
    assert!(!set.contains("10.1"), "{set}");
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\nCookie: a=b; {}\r\n", cookie(&first).unwrap());
    for n in 0..20 {
        let got = world.ask_once(n % 2, &head);
        assert_eq!((got.server, got.field("Set-Cookie")), (first.server, None));
    }
    // Gone: another, and its cookie.
    world.set(first.server.unwrap(), Manner::Refuse);
    let next = world.ask_once(0, &head);
    // The connections that lay ready die with it.
    assert_eq!(next.status, 200);
    world.run(100);
    let other = (0..10).map(|_| world.ask_once(0, &head)).find(|got| got.server != first.server);
    assert!(other.is_none_or(|got| cookie(&got).is_some_and(|new| Some(new) != cookie(&first))));
    world.stop();
}

#[test]
fn a_forged_cookie_is_replaced() {
    let mut world = World::http(1, with_cookie(2));
    let got = world.ask_once(0, "GET / HTTP/1.1\r\nHost: x\r\nCookie: stay=0123456789abcdef0123\r\n");
    assert!(cookie(&got).is_some());
    world.stop();
}

#[test]
fn a_key_stays_with_its_server() {
    for balance in [Algorithm::Maglev, Algorithm::RingHash] {
        let mut pool = pool(5);
        pool.balance = balance;
        pool.hash_key = HashKey::Header("x-user".into());
        let mut world = World::http(2, pool);
        let mut servers = std::collections::HashSet::new();
        for user in 0..20 {
            let head = format!("GET /{user} HTTP/1.1\r\nHost: x\r\nX-User: {user}\r\n");
            let by: Vec<_> = (0..4).map(|n| world.ask_once(n % 2, &head).server.unwrap()).collect();
            assert!(by.iter().all(|one| *one == by[0]), "{balance}: {by:?}");
            servers.insert(by[0]);
        }
        assert!(servers.len() >= 3, "{balance}: {servers:?}");
        world.stop();
    }
}

#[test]
fn a_tunnel_goes_by_its_clients_address() {
    let mut pool = pool(5);
    pool.balance = Algorithm::Maglev;
    let mut world = World::tcp(2, pool);
    let mut servers = std::collections::HashSet::new();
    for client in 1..20u8 {
        let tickets: Vec<_> = (0..3)
            .map(|n| {
                let from = std::net::SocketAddr::from(([192, 0, 2, client], 2000 + n as u16));
                world.send_from(n % 2, from, "GET / HTTP/1.1\r\n\r\n")
            })
            .collect();
        world.run(100);
        let by: Vec<_> = tickets.iter().map(|ticket| ticket.got().unwrap().server.unwrap()).collect();
        assert!(by.iter().all(|one| *one == by[0]), "{by:?}");
        servers.insert(by[0]);
    }
    assert!(servers.len() >= 3);
    world.stop();
}

#[test]
fn a_server_that_is_back_gets_its_share_slowly() {
    let mut pool = pool(2);
    pool.balance = Algorithm::RoundRobin;
    pool.slow_start_ms = 20_000;
    pool.health.rules.streaks = Streaks { errors: 3, gateway_errors: 0, unreachable: 0 };
    pool.health.rules.ejection =
        EjectionRules { base_ms: 1_000, max_percent: 50, ..EjectionRules::default() };
    let mut world = World::http(2, pool);
    world.set(0, Manner::Status(500, 1));
    world.ask(10);
    world.set(0, WELL);
    world.run(1_000);
    let share = |world: &mut World| {
        let got = world.ask(200);
        got.iter().filter(|got| got.server == Some(0)).count()
    };
    let cold = share(&mut world);
    world.run(8_000);
    let warmer = share(&mut world);
    world.run(20_000);
    let warm = share(&mut world);
    assert!((5..50).contains(&cold), "{cold}");
    assert!(cold < warmer && warmer < warm, "{cold} {warmer} {warm}");
    assert_eq!(warm, 100);
    world.stop();
}

#[test]
fn more_requests_than_a_server_takes_wait() {
    let mut pool = pool(1);
    pool.servers[0].max_requests = Some(3);
    let mut world = World::http(2, pool);
    world.set(0, Manner::Status(200, 100));
    let tickets: Vec<_> = (0..12).map(|n| world.get(n % 2, "/")).collect();
    world.run(50);
    assert_eq!(world.asked(0), 3);
    world.run(1_000);
    assert!(tickets.iter().all(|ticket| ticket.got().unwrap().status == 200));
    assert_eq!(world.connects(0).min(6), world.connects(0), "{}", address(0));
    world.stop();
}

#[test]
fn the_quicker_server_is_preferred_by_peak_ewma() {
    let mut pool = pool(2);
    pool.balance = Algorithm::PeakEwma;
    let mut world = World::http(1, pool);
    world.set(0, Manner::Status(200, 200));
    let got = world.ask(100);
    let slow = got.iter().filter(|got| got.server == Some(0)).count();
    assert!(slow < 20, "{slow}");
    world.stop();
}

#[test]
fn idle_connections_of_a_shard_go_to_requests_of_another() {
    let mut pool = pool(1);
    pool.ports = Some(fourfold_config::PortSpan::parse("40000-40003").unwrap());
    pool.queue_timeout_ms = 1_000;
    let mut world = World::http(2, pool);
    world.set(0, Manner::Status(200, 20));
    // All four tuples end as warm connections of the first shard.
    let tickets: Vec<_> = (0..4).map(|_| world.get(0, "/")).collect();
    world.run(200);
    assert!(tickets.iter().all(|ticket| ticket.got().unwrap().status == 200));
    assert_eq!(world.active(0), 4);
    let tickets: Vec<_> = (0..3).map(|_| world.get(1, "/")).collect();
    world.run(900);
    assert!(tickets.iter().all(|ticket| ticket.got().is_some_and(|got| got.status == 200)));
    assert!((1..=4).contains(&world.count("http_reclaimed")), "{}", world.count("http_reclaimed"));
    world.stop();
}

#[test]
fn a_place_held_by_an_idle_connection_is_given_up_too() {
    let mut pool = pool(1);
    pool.servers[0].max_connections = Some(2);
    let mut world = World::http(3, pool);
    let tickets: Vec<_> = (0..2).map(|_| world.get(0, "/")).collect();
    world.run(100);
    assert!(tickets.iter().all(|ticket| ticket.got().is_some()));
    let began = world.now;
    for shard in [1, 2, 1, 0] {
        assert_eq!(world.ask_once(shard, "GET / HTTP/1.1\r\nHost: x\r\n").status, 200);
    }
    assert!(world.now < began + 1_000, "{}", world.now - began);
    world.stop();
}

#[test]
fn connections_are_kept_ready() {
    let mut pool = pool(2);
    pool.http.preconnect = 3;
    let mut world = World::http(2, pool);
    world.run(2_000);
    assert_eq!((world.active(0), world.active(1)), (6, 6));
    let connects = world.count("connects");
    world.ask(20);
    assert_eq!(world.count("connects"), connects, "nobody waited for a connection");
    // One that refuses is not pressed.
    world.set(1, Manner::Refuse);
    world.run(120_000);
    assert_eq!(world.active(0), 6);
    assert!(world.connects(1) < 60, "{}", world.connects(1));
    world.set(1, WELL);
    world.stop();
}
