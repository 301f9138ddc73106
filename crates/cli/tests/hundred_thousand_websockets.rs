//! 100 000 WebSockets through one port to two origins: each says something once it is open, and again when all of them are.
//! Every frame comes back to whom it belongs, and clients, Fourfold and origins count the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::tools::{HttpOrigin, Load};
use common::{Config, Engine, Lab, Program};
use serde_json::Value;
use std::time::Instant;

on_both_engines!(hundred_thousand_websockets_to_two_origins);

const ALL: u64 = 100_000;
/// Each client speaks once in this time when all are open.
const INTERVAL: &str = "8s";

fn hundred_thousand_websockets_to_two_origins(engine: Engine) {
    let Some(_lab) = Lab::private() else { return };
    let origins = [(); 2].map(|()| HttpOrigin::holding(ALL, engine));
    let config = Config::to(engine, &origins.each_ref().map(|origin| origin.address))
        .top("max_connections = 101_000")
        .listener("mode = \"http\"")
        .pool("sources = [\"127.0.1.1-127.0.1.8\"]");
    let program = Program::run(&config);
    let sum = |name: &str| origins.iter().map(|origin| origin.count(name)).sum::<u64>();

    let (began, connections) = (Instant::now(), ALL.to_string());
    let more = ["--connections", &connections, "--source", "127.0.2.1-127.0.2.8", "--timeout", "10m"];
    let load = Load::start(
        "ws",
        engine,
        program.address,
        &[&more[..], &["--interval", INTERVAL, "--duration", "1h"]].concat(),
    );
    let report = program.report_when("all are tunnels", |report| report.count("http_upgrades") == ALL);
    eprintln!("{engine:?}: {ALL} WebSockets after {:.1} s", began.elapsed().as_secs_f64());
    assert_eq!((report.connections, report.used()), (ALL, ALL), "{report:?}");
    let active: Vec<u64> = report.servers.iter().map(|server| server.active).collect();
    assert_eq!(active.iter().sum::<u64>(), ALL);
    assert!(active.iter().all(|server| *server > ALL / 3), "{active:?}");
    program.report_when("everybody has spoken twice", |_| sum("frames") >= 2 * ALL);
    assert_eq!((sum("websockets"), sum("open"), sum("malformed")), (ALL, ALL, 0));
    let load = load.stop();
    eprintln!("{engine:?}: {} frames after {:.1} s", load["answered"], began.elapsed().as_secs_f64());

    let said = load["started"].as_u64().unwrap();
    expect(&load, [("opened", ALL), ("held", ALL), ("answered", said)]);
    expect(&load, ["failed", "connect_failed", "lost", "closed_idle"].map(|name| (name, 0)));
    assert!(said >= 2 * ALL);
    assert_eq!(sum("frames"), said);
    let report = program.report_when_empty();
    let counted = ["http_upgrades", "accepted", "connected", "connect_failed", "queued", "http_retries"];
    assert_eq!(counted.map(|name| report.count(name)), [ALL, ALL, ALL, 0, 0, 0], "{report:?}");
    program.stop();
}

#[track_caller]
fn expect<const N: usize>(report: &Value, counts: [(&str, u64); N]) {
    for (name, count) in counts {
        assert_eq!(report[name].as_u64(), Some(count), "{name}: {report:#}");
    }
}
