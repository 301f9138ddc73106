//! Copies of requests go to another pool, and nobody notices.

use crate::world::{Manner, WELL, World, address, plan, pool};
use fourfold_config::http::{Http, Mirror, Route, Routes};
use fourfold_config::{HostPort, Mode, Pool, Server};

fn mirrored(percent: u8) -> World {
    let route = Route { mirror: Some(Mirror { pool: 1, percent }), ..Route::everything(0) };
    let http = Http { routes: Routes::new(vec![route]), ..Http::default() };
    let shadow =
        Pool { name: "shadow".into(), servers: vec![Server::new(HostPort::Ip(address(5)))], ..pool(1) };
    World::of(2, plan(http, Mode::Http, vec![pool(1), shadow]))
}

#[test]
fn the_mirror_gets_what_the_server_got() {
    let mut world = mirrored(100);
    world.ask(4);
    let post = "POST /pay HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nConnection: close\r\n\r\n\r\n\r\n";
    let ticket = world.send(0, post);
    world.run(1_000);
    assert_eq!(ticket.got().unwrap().status, 200);
    assert_eq!((world.asked(0), world.asked(5)), (5, 5));
    let sorted = |mut requests: Vec<String>| {
        requests.sort();
        requests
    };
    assert_eq!(sorted(world.requests(0)), sorted(world.requests(5)));
    assert_eq!((world.count("http_mirrored"), world.count("http_requests")), (5, 5));
    assert!(world.connects(5) <= 3, "its connections are kept too");
    world.stop();
}

#[test]
fn a_mirror_that_fails_harms_nobody() {
    for manner in [Manner::Refuse, Manner::Silent, Manner::Reset, Manner::Status(500, 10_000)] {
        let mut world = mirrored(100);
        world.set(5, manner);
        let began = world.now;
        assert!(world.ask(50).iter().all(|got| got.status == 200), "{manner:?}");
        assert!(world.now < began + 1_000, "{manner:?}: {}", world.now);
        assert_eq!(world.count("http_5xx"), 0);
        world.set(5, WELL);
        world.stop();
    }
}

#[test]
fn copies_are_bounded() {
    let mut world = mirrored(100);
    world.set(5, Manner::Silent);
    let tickets: Vec<_> = (0..600).map(|n| world.get(n % 2, "/")).collect();
    // Backlogs are short: not all come at once.
    world.run(20_000);
    assert!(tickets.iter().all(|ticket| ticket.got().unwrap().status == 200));
    assert_eq!(world.asked(5), 512, "256 on each shard");
    assert_eq!(world.count("http_mirror_skipped"), 88);
    world.stop();
}

#[test]
fn a_share_of_the_requests_is_copied() {
    let mut world = mirrored(30);
    world.ask(400);
    world.run(100);
    assert!((80..160).contains(&world.asked(5)), "{}", world.asked(5));
    world.stop();
}
