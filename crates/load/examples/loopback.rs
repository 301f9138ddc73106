//! Holds connections between an origin and a load in one process and tells what they cost:
//! `cargo run --release -p fourfold-load --example loopback -- [CONNECTIONS] [uring|epoll] [hold|requests|churn]
//! [SOURCES] [RATE]`

use fourfold_engine::Engine;
use fourfold_load::origin::{self, OriginConfig};
use fourfold_load::tcp::{self, LoadConfig, Work};
use fourfold_ports::SourceSet;
use fourfold_sys::machine::resident_bytes;
use std::error::Error;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let connections: u64 = args.next().map_or(Ok(20_000), |text| text.parse())?;
    let engine = match args.next().as_deref() {
        Some("uring") => Some(Engine::Uring),
        Some("epoll") => Some(Engine::Epoll),
        _ => None,
    };
    let (work, duration) = match args.next().as_deref() {
        Some("requests") => (Work::Requests { bytes: 64, rate: None }, Some(Duration::from_secs(3))),
        Some("churn") => (Work::Churn, Some(Duration::from_secs(3))),
        _ => (Work::Hold { verify_rate: 1000.0 }, None),
    };
    let sources = args.next().unwrap_or("127.0.1.1-127.0.1.8".into());
    let sources = SourceSet::parse(&sources)?;
    let rate = args.next().map(|text| text.parse()).transpose()?;

    let listen = "127.0.0.1:0".parse()?;
    let demand = Some(connections);
    let origin = origin::start(&OriginConfig { engine, connections: demand, ..OriginConfig::new(listen) })?;
    println!("origin: {} on {}, {}", origin.plan().engine, origin.address(), origin.plan().reason);
    let target = origin.address();
    let config = LoadConfig { sources, work, duration, rate, engine, ..LoadConfig::new(target, connections) };
    let before = resident_bytes();
    let mut load = tcp::start(&config)?;
    println!("load: {}", load.plan().reason);

    let mut shown = Instant::now();
    while load.snapshot().verified + load.snapshot().failed < connections {
        std::thread::sleep(Duration::from_millis(20));
        if shown.elapsed() > Duration::from_secs(1) {
            shown = Instant::now();
            println!("{:?}", load.snapshot());
        }
    }
    let per_connection = resident_bytes().saturating_sub(before) / connections;
    println!("resident memory per connection, both ends: {per_connection} bytes");
    if duration.is_none() {
        std::thread::sleep(Duration::from_secs(2));
        load.stop();
    }
    let report = load.wait(Duration::from_secs(60))?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    println!("{:?}", origin.stop()?);
    Ok(())
}
