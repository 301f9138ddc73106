//! The sizes that the program is for: more connections than one source has ports, than one descriptor table has room.
//!
//! Sizes and memory are asserted, time never is: machines differ. What was seen is printed (`--nocapture`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::lab::free_port;
use common::program::{BINARY, Ended};
use common::tools::Load;
use common::{Config, Crowd, Engine, Lab, Program, eventually};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Instant;

on_both_engines!(
    hundred_and_twenty_thousand_connections_to_one_address,
    forty_thousand_clients_for_the_tuples_of_one_source,
);

/// A message of the load generator: its token.
const TOKEN_BYTES: u64 = 32;
/// Every tuple of one source towards one address, by the kernel's default ip_local_port_range.
const SPAN: u64 = 60_999 - 32_768 + 1;

/// `fourfold origin`, for as many connections as any test here has.
struct Backend {
    program: Program,
}

impl Backend {
    fn start(engine: Engine, connections: u64) -> Self {
        let address = free_port(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let mut command = Command::new(BINARY);
        command.args(["origin", "--listen", &address.to_string(), "--engine", engine.name()]);
        command.args(["--max-connections", &connections.to_string()]);
        let program = Program::spawn(command, address);
        eventually("the origin listens", || program.log().contains("listening on ").then_some(()));
        Self { program }
    }
}

/// `fourfold load tcp`, until it is told to stop.
fn start_load(engine: Engine, target: SocketAddr, connections: u64, sources: &str) -> Load {
    let connections = connections.to_string();
    let more = ["--connections", &connections, "--source", sources, "--duration", "1h", "--timeout", "10m"];
    Load::start("tcp", engine, target, &[&more[..], &["--verify", "200"]].concat())
}

#[track_caller]
fn expect_all_verified(report: &Value, connections: u64) {
    let seen = ["verified", "held", "failed_total", "lost", "wrong_bytes"].map(|key| report[key].as_u64());
    assert_eq!(seen, [Some(connections), Some(connections), Some(0), Some(0), Some(0)], "{report}");
}

/// Resident memory per idle connection that is not to be exceeded.
fn growth_max(engine: Engine) -> u64 {
    if engine == Engine::Uring { 400 } else { 512 }
}

fn hundred_and_twenty_thousand_connections_to_one_address(engine: Engine) {
    let Some(_lab) = Lab::private() else { return };
    const FIRST: u64 = 20_000;
    const ALL: u64 = 120_000;
    let origin = Backend::start(engine, ALL + 1_000);
    let config = Config::to(engine, &[origin.program.address])
        .top("max_connections = 121_000")
        .pool("sources = [\"127.0.1.1-127.0.1.8\"]");
    let program = Program::run(&config);
    let held = |connections: u64| {
        program.report_when("all are in and have their token back", |report| {
            report.connections == connections
                && report.count("connected") == connections
                && report.count("bytes_down") >= connections * TOKEN_BYTES
        })
    };
    let first = start_load(engine, program.address, FIRST, "127.0.2.1-127.0.2.4");
    held(FIRST);
    let before = program.resident_bytes();
    let began = Instant::now();
    let rest = start_load(engine, program.address, ALL - FIRST, "127.0.3.1-127.0.3.8");
    let report = held(ALL);
    let took = began.elapsed();
    let after = program.resident_bytes();
    let each = after.saturating_sub(before) / (ALL - FIRST);
    eprintln!(
        "{engine:?}: {ALL} connections to one address; resident {before} bytes at {FIRST}, {after} at {ALL}: {each} bytes \
         per connection; {:.1} s for the last {}",
        took.as_secs_f64(),
        ALL - FIRST
    );
    assert_eq!((report.used(), report.tuples.len()), (ALL, 1));
    assert_eq!(report.servers[0].active, ALL);
    for name in ["connect_failed", "connect_local", "tuples_foreign", "accept_descriptors", "queued"] {
        assert_eq!(report.count(name), 0, "{name}: {report:?}");
    }
    assert!(each <= growth_max(engine), "{each} bytes per connection");
    let (rest, first) = (rest.stop(), first.stop());
    expect_all_verified(&rest, ALL - FIRST);
    expect_all_verified(&first, FIRST);
    eprintln!("{engine:?}: medians of each tenth, us: {}", rest["decile_medians_us"]);
    program.report_when_empty();
    let Ended { messages, .. } = program.stop();
    assert!(!messages.iter().any(|message| message.starts_with("client refused")), "{messages:?}");
}

fn forty_thousand_clients_for_the_tuples_of_one_source(engine: Engine) {
    let Some(_lab) = Lab::private() else { return };
    const LOADED: usize = 25_000;
    const CROWD: usize = 15_000;
    const NEXT: usize = 5_000;
    let origin = Backend::start(engine, SPAN + 1_000);
    let config = Config::to(engine, &[origin.program.address])
        .top("max_connections = 50_000")
        .pool("sources = [\"127.0.1.1\"]\nqueue_timeout = \"20s\"\nqueue_max = 20_000");
    let program = Program::run(&config);
    let load = start_load(engine, program.address, LOADED as u64, "127.0.2.1-127.0.2.2");
    program.report_when("the first are in", |report| report.used() == LOADED as u64);

    let mut crowd = Crowd::from(program.address, "127.0.3.1");
    crowd.open(CROWD);
    let tally = crowd.until("the rest is refused at the deadline", |tally| tally.undecided() == 0);
    let report = program.report();
    assert_eq!((report.used(), report.tuples[0].foreign), (SPAN, 0), "{report:?}");
    let held = SPAN as usize - LOADED;
    assert_eq!((tally.held, tally.reset, tally.odd), (held, CROWD - held, 0));
    assert_eq!(report.count("refused_tuples") as usize, CROWD - held, "{report:?}");
    assert_eq!((report.servers[0].up, report.servers[0].failures), (true, 0), "{report:?}");
    // One per ten seconds: a slow machine may take longer than that to refuse them all.
    let said = program.warnings("every four-tuple to the servers is in use");
    assert!((1..=3).contains(&said.len()), "{said:?}");

    let mut next = Crowd::from(program.address, "127.0.4.1");
    next.open(NEXT);
    program.report_when("others wait", |report| report.waiting as usize == NEXT);
    let load = load.stop();
    next.until("as the first leave, those who wait get in", |tally| tally.held == NEXT);
    expect_all_verified(&load, LOADED as u64);
    crowd.ask_again();
    crowd.until("nobody else has noticed", |tally| tally.held == held && tally.odd == 0);
    drop((crowd, next));
    let report = program.report_when_empty();
    assert_eq!(report.count("refused_tuples") as usize, CROWD - held, "{report:?}");
    program.stop();
}
