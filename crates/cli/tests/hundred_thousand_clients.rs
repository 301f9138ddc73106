//! 100 000 keep-alive clients, each with a request every ten seconds, served over few connections to two origins: clients,
//! Fourfold and origins count the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::tools::{HttpOrigin, Load};
use common::{Config, Engine, Lab, Program};
use serde_json::Value;
use std::time::Duration;

on_both_engines!(hundred_thousand_clients_over_two_hundred_connections);

const ALL: u64 = 100_000;
const UPSTREAM_MAX: u64 = 200;
/// Everybody twice, and a little longer.
const LENGTH: &str = "22s";
const LOOK: Duration = Duration::from_millis(500);

fn hundred_thousand_clients_over_two_hundred_connections(engine: Engine) {
    let Some(_lab) = Lab::private() else { return };
    let origins = [(); 2].map(|()| HttpOrigin::start(engine, &[]));
    let mut config = Config::to(engine, &origins.each_ref().map(|origin| origin.address))
        .top("max_connections = 101_000")
        .listener("mode = \"http\"");
    for (_, lines) in &mut config.servers {
        *lines = format!("max_connections = {}", UPSTREAM_MAX / 2);
    }
    let program = Program::run(&config);
    let sum = |name: &str| origins.iter().map(|origin| origin.count(name)).sum::<u64>();

    let connections = ALL.to_string();
    let more = ["--connections", &connections, "--source", "127.0.2.1-127.0.2.8", "--timeout", "10m"];
    let paced = ["--interval", "10s", "--duration", LENGTH, "--verify", "pattern", "--expect-bytes", "100"];
    let mut load = Load::start("http", engine, program.address, &[&more[..], &paced].concat());
    let (mut clients, mut upstream) = (0, 0);
    while load.is_running() {
        let report = program.report();
        (clients, upstream) = (report.connections.max(clients), report.used().max(upstream));
        std::thread::sleep(LOOK);
    }
    let load = load.report();
    eprintln!(
        "{engine:?}: {} requests of {clients} clients over {upstream} connections ({} made); latency {}",
        load["answered"],
        sum("accepted"),
        load["latency_us"]
    );

    let asked = load["started"].as_u64().unwrap();
    expect(&load, [("opened", ALL), ("held", ALL), ("answered", asked)]);
    expect(&load, ["failed", "connect_failed", "lost", "closed_idle"].map(|name| (name, 0)));
    assert_eq!(load["statuses"], serde_json::json!({ "200": asked }));
    assert!(asked >= 2 * ALL, "{load:#}");
    assert_eq!((sum("completed"), sum("requests"), sum("malformed")), (asked, asked, 0));
    assert_eq!(clients, ALL);
    assert!(upstream <= UPSTREAM_MAX, "{upstream} at a time");
    let report = program.report();
    assert_eq!((report.count("http_requests"), report.count("http_2xx")), (asked, asked), "{report:?}");
    assert_eq!(report.count("connects"), sum("accepted"));
    assert_eq!(report.count("http_reused"), asked - report.count("connects"), "{report:?}");
    program.stop();
}

#[track_caller]
fn expect<const N: usize>(report: &Value, counts: [(&str, u64); N]) {
    for (name, count) in counts {
        assert_eq!(report[name].as_u64(), Some(count), "{name}: {report:#}");
    }
}
