//! Servers that fail: who takes them out, who brings them back, and who stays with whom.

use crate::common::http::{Caller, Scripted, plain};
use crate::common::{Engine, Lab, Program, eventually};
use crate::on_both_engines;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

on_both_engines!(
    a_check_takes_a_server_out_and_brings_it_back,
    an_outlier_is_left_out_for_a_while,
    a_breaker_refuses_at_once,
    a_cookie_keeps_a_client_at_its_server,
    a_503_is_asked_again_elsewhere,
);

/// Answers with the status of the moment, and its name.
fn server(name: &'static str) -> (Scripted, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(200));
    let own = Arc::clone(&status);
    let server = Scripted::start(move |line| {
        while line.request().is_some() {
            let status = own.load(Relaxed);
            let length = name.len();
            line.say(format!("HTTP/1.1 {status} Said\r\nContent-Length: {length}\r\n\r\n{name}").as_bytes());
        }
    });
    (server, status)
}

/// How many of so many requests each of the two answers.
fn shares(client: &mut Caller, requests: usize) -> (usize, usize) {
    let by: Vec<String> = (0..requests).map(|_| client.get("/").text()).collect();
    (by.iter().filter(|name| *name == "a").count(), by.iter().filter(|name| *name == "b").count())
}

fn a_check_takes_a_server_out_and_brings_it_back(engine: Engine) {
    let _lab = Lab::new();
    let ((a, status), (b, _)) = (server("a"), server("b"));
    let config = plain(engine, &[a.address, b.address]).pool("balance = \"round-robin\"").more(
        "[pool.health]\npath = \"/up\"\ninterval = \"100ms\"\nfast_interval = \"100ms\"\ntimeout = \"100ms\"\nfall = 2\nrise = 2",
    );
    let program = Program::run(&config);
    let mut client = Caller::to(&program);
    assert_eq!(shares(&mut client, 10), (5, 5));
    status.store(500, Relaxed);
    program.report_when("it is down", |report| !report.servers[0].up);
    assert_eq!(shares(&mut client, 10), (0, 10));
    let why = program.warnings(&format!("server {} is down: it answered 500", a.address));
    assert_eq!(why.len(), 1, "{}", program.log());
    status.store(200, Relaxed);
    program.report_when("it is up", |report| report.servers[0].up);
    assert_eq!(shares(&mut client, 10), (5, 5));
    program.stop();
}

fn an_outlier_is_left_out_for_a_while(engine: Engine) {
    let _lab = Lab::new();
    let ((a, status), (b, _)) = (server("a"), server("b"));
    let config = plain(engine, &[a.address, b.address])
        .pool("balance = \"round-robin\"")
        .more("[pool.outlier]\nfailures = 3\neject = \"1s\"\neject_share_max = \"50%\"");
    let program = Program::run(&config);
    let mut client = Caller::to(&program);
    status.store(500, Relaxed);
    assert_eq!(shares(&mut client, 20), (3, 17), "no more than it takes");
    let report = program.report();
    assert_eq!((report.servers[0].up, report.count("servers_ejected")), (false, 1));
    status.store(200, Relaxed);
    eventually("it is used again", || (shares(&mut client, 2).0 > 0).then_some(()));
    program.stop();
}

fn a_breaker_refuses_at_once(engine: Engine) {
    let _lab = Lab::new();
    let (a, status) = server("a");
    let config =
        plain(engine, &[a.address]).more("[pool.breaker]\nrequests_min = 5\nopen = \"500ms\"\nprobes = 2");
    let program = Program::run(&config);
    let mut client = Caller::to(&program);
    status.store(500, Relaxed);
    (0..5).for_each(|_| assert_eq!(client.get("/").status(), 500));
    let refused = client.get("/");
    assert_eq!((refused.status(), refused.field("x-fourfold-reason")), (503, Some("breaker_open")));
    assert_eq!(a.requests().len(), 5);
    status.store(200, Relaxed);
    eventually("it closes", || (client.get("/").status() == 200).then_some(()));
    (0..10).for_each(|_| assert_eq!(client.get("/").status(), 200));
    let report = program.report();
    assert_eq!((report.count("breakers_opened"), report.count("breakers_closed")), (1, 1));
    program.stop();
}

fn a_cookie_keeps_a_client_at_its_server(engine: Engine) {
    let _lab = Lab::new();
    let ((a, _), (b, _)) = (server("a"), server("b"));
    let config = plain(engine, &[a.address, b.address])
        .pool("balance = \"round-robin\"")
        .more("[pool.sticky]\ncookie = \"stay\"");
    let program = Program::run(&config);
    let mut client = Caller::to(&program);
    for _ in 0..2 {
        let first = client.get("/");
        let cookie = first.field("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        for _ in 0..10 {
            client.say(format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n"));
            let next = client.reply();
            assert_eq!((next.text(), next.field("set-cookie")), (first.text(), None));
        }
    }
    assert!(!a.requests().is_empty() && !b.requests().is_empty());
    program.stop();
}

fn a_503_is_asked_again_elsewhere(engine: Engine) {
    let _lab = Lab::new();
    let ((a, status), (b, _)) = (server("a"), server("b"));
    let config = plain(engine, &[a.address, b.address])
        .pool("balance = \"round-robin\"\nretry_on = [\"connect\", \"reset\", \"503\"]");
    let program = Program::run(&config);
    let mut client = Caller::to(&program);
    status.store(503, Relaxed);
    assert_eq!(shares(&mut client, 20), (0, 20));
    let asked = a.requests().len() as u64;
    assert!(asked >= 8, "{asked}");
    // What may not be done twice is answered as the server did.
    let posts: Vec<u16> = (0..4)
        .map(|_| {
            client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nxy");
            client.reply_to("POST").status()
        })
        .collect();
    assert!(posts.contains(&503) && posts.contains(&200), "{posts:?}");
    let report = program.report();
    assert_eq!((report.count("http_retries_status"), report.count("http_retries")), (asked, asked));
    program.stop();
}
