//! Twenty thousand clients that do as little as they can, while others work.
//!
//! What the others notice is compared with what the same clients notice at the same time of a second proxy of the same
//! configuration that has them alone: whatever else the machine does, the attackers' own work included, slows both, so that the
//! difference is what the attack does inside of the proxy. `cargo xtask bench http --scenarios slow` compares with the time before
//! the attack instead, which takes a machine with nothing else to do.

use crate::common::lab::set;
use crate::common::program::{Report, fourfold};
use crate::common::tools::HttpOrigin;
use crate::common::{Config, Engine, Lab, Program, eventually};
use crate::on_both_engines;
use fourfold_testkit::siege::{Attack, Drip, Siege};
use serde_json::Value;
use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

on_both_engines!(
    slow_heads_do_not_hinder_others,
    slow_bodies_do_not_hinder_others,
    slow_readers_do_not_hinder_others,
    slow_readers_go_when_memory_runs_out,
);

const ATTACKERS: usize = 20_000;
/// As in real attacks each says something just before its time is over: 2 500 drips a second.
const EVERY: Duration = Duration::from_secs(8);
const TIMEOUT: &str = "12s";
/// Those that are thrown out come again; on two processors they share with all else, faster would be a flood and not a slow attack.
const PER_SECOND: usize = 2_500;
const _: () = assert!(ATTACKERS / PER_SECOND < 12, "all of them stand before the first is thrown out");

/// Windows in which latencies are compared, each of a second.
const WINDOWS: usize = 11;
/// Of what they would be without the attack.
const P99_MAX: u64 = 2;

struct Slow {
    opening: &'static str,
    drip: Drip,
    timeout: &'static str,
    /// By which they are counted when their time is over.
    counter: &'static str,
    /// Of the proxy's memory, for each.
    bytes_each_max: u64,
}

fn slow_heads_do_not_hinder_others(engine: Engine) {
    let slow = Slow {
        opening: "GET / HTTP/1.1\r\nHost: a\r\n",
        drip: Drip::Say("X: y\r\n"),
        timeout: "header_timeout",
        counter: "http_header_timeout",
        // A buffer, of which one page is touched, where the pages are of 4 KiB.
        bytes_each_max: 6 << 10,
    };
    besiege(engine, &slow);
}

fn slow_bodies_do_not_hinder_others(engine: Engine) {
    let slow = Slow {
        opening: "POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx",
        drip: Drip::Say("x"),
        timeout: "body_timeout",
        counter: "http_body_timeout",
        bytes_each_max: 4 << 10,
    };
    besiege(engine, &slow);
}

fn slow_readers_do_not_hinder_others(engine: Engine) {
    let slow = Slow {
        opening: "GET /bytes/30000 HTTP/1.1\r\nHost: a\r\n\r\n",
        drip: Drip::Take(1),
        timeout: "send_timeout",
        counter: "http_send_timeout",
        // The answer in pieces, as it came.
        bytes_each_max: 48 << 10,
    };
    besiege(engine, &slow);
}

fn besiege(engine: Engine, slow: &Slow) {
    let _lab = narrow_lab();
    let origin = HttpOrigin::holding(25_000, engine);
    let config =
        Config::to(engine, &[origin.address]).top("max_connections = 21_000\nbuffer_memory = \"2GiB\"");
    let config = config.listener("mode = \"http\"").listener(&format!("{} = \"{TIMEOUT}\"", slow.timeout));
    // Each with tuples of its own: bodies take most of a source's towards the origin.
    let [program, twin] = ["127.0.4.1", "127.0.5.1"]
        .map(|source| Program::run(&config.clone().pool(&format!("sources = [\"{source}\"]"))));
    let calm = Others::of(program.address);
    let before = program.resident_bytes();

    let attack = Attack { opening: slow.opening, drip: slow.drip, every: EVERY, per_second: PER_SECOND };
    let siege = Siege::start(program.address, ATTACKERS, attack);
    eventually("they are all there", || (siege.standing() >= ATTACKERS * 99 / 100).then_some(()));
    eventually("they go on", || (siege.drips() > ATTACKERS as u64 / 4).then_some(()));
    let mut memory = 0;
    let windows = (0..WINDOWS).map(|_| {
        memory = memory.max(program.resident_bytes().saturating_sub(before));
        std::thread::scope(|scope| {
            let undisturbed = scope.spawn(|| Others::of(twin.address));
            (Others::of(program.address), undisturbed.join().unwrap())
        })
    });
    let (besieged, undisturbed): (Vec<Others>, Vec<Others>) = windows.unzip();
    let standing = siege.standing();
    siege.hush();
    let report = program
        .report_when("each has been counted out", |report| report.count(slow.counter) >= ATTACKERS as u64);

    let (p99, base) = (percentile_of_p99(&besieged, 50), percentile_of_p99(&undisturbed, 75));
    println!(
        "{engine:?}, {}: {standing} standing, {} came again; p99 of others {p99} us, without them {base} us (before: {} us); \
         {} bytes each; {} long turns",
        slow.timeout,
        siege.ended(),
        calm.p99_us,
        memory / ATTACKERS as u64,
        report.count("long_turns"),
    );
    assert!(besieged.iter().chain(&undisturbed).all(|window| window.lost == 0), "{besieged:?}: {report:?}");
    assert!(standing >= ATTACKERS / 2, "{standing} are there");
    assert!(p99 <= base * P99_MAX, "{p99} us, without them {base} us: {besieged:?}\n{undisturbed:?}");
    assert!(memory <= ATTACKERS as u64 * slow.bytes_each_max, "{memory} bytes of memory");
    assert_none_refused(&report);
    siege.stop().unwrap();
    program.report_when("they are gone", |report| report.connections == 0);
    program.stop();
}

/// More clients that take nothing than there is memory for. Whoever else asks meanwhile is answered: [`Others::of`] sees to it.
fn slow_readers_go_when_memory_runs_out(engine: Engine) {
    const MEMORY: u64 = 48 << 20;
    const READERS: usize = 1_000;
    let _lab = narrow_lab();
    let origin = HttpOrigin::start(engine, &[]);
    let config =
        Config::to(engine, &[origin.address]).top("max_connections = 4_000\nbuffer_memory = \"48MiB\"");
    let program = Program::run(&config.listener("mode = \"http\""));
    let before = program.resident_bytes();
    let opening = "GET /bytes/1000000 HTTP/1.1\r\nHost: a\r\n\r\n";
    let attack = Attack { opening, drip: Drip::Take(1), every: EVERY, per_second: 250 };
    let siege = Siege::start(program.address, READERS, attack);
    let (memory, served) = (Cell::new(0), Cell::new(0));
    let report = program.report_when("many have gone, and others have come for them", |report| {
        let others = Others::of(program.address);
        assert_eq!(others.lost, 0, "{others:?}: {report:?}");
        served.set(served.get() + others.answered);
        memory.set(memory.get().max(program.resident_bytes().saturating_sub(before)));
        report.count("shed") > READERS as u64
    });
    let memory = memory.get();
    println!(
        "{engine:?}: {} shed, {memory} bytes of memory, {} served, {} of the attackers met their end",
        report.count("shed"),
        served.get(),
        siege.ended()
    );
    assert!(memory < MEMORY + (8 << 20), "{memory} bytes");
    assert_none_refused(&report);
    let said = program.warnings("slow clients that held");
    assert!(
        said.iter().all(|line| line.contains("raise buffer_memory or lower max_connections")),
        "{said:?}"
    );
    assert!(!said.is_empty(), "{}", program.log());
    siege.stop().unwrap();
    let report = program.report_when("they are gone", |report| report.connections == 0);
    assert_eq!(report.count("http_send_timeout"), 0, "nobody's time was over");
    program.stop();
}

/// On loopback, with its huge segments, the kernel would take megabytes for each socket, and what a client does not take would never
/// come to lie in the proxy.
fn narrow_lab() -> Lab {
    let lab = Lab::new();
    if lab.private {
        set("net/ipv4/tcp_wmem", "4096 16384 16384");
        set("net/ipv4/tcp_rmem", "4096 16384 16384");
    }
    lab
}

fn assert_none_refused(report: &Report) {
    for name in ["refused_max_connections", "refused_shard_full", "refused_queue_full", "accept_descriptors"]
    {
        assert_eq!(report.count(name), 0, "{name}: {report:?}");
    }
}

const RATE: u64 = 1_000;

/// Clients that ask one thing after another for a second; all of them are answered.
#[derive(Debug)]
struct Others {
    p99_us: u64,
    answered: u64,
    lost: u64,
}

impl Others {
    fn of(address: SocketAddr) -> Self {
        let (address, rate) = (address.to_string(), RATE.to_string());
        let fixed =
            ["--json", "--engine", "epoll", "--shards", "1", "--connections", "32", "--duration", "1s"];
        let finished = fourfold(&[&["load", "http", &address, "--rate", &rate], &fixed[..]].concat());
        let report: Value =
            serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"));
        // No status is counted that did not come.
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        Self {
            p99_us: number(&report["latency_us"]["p99"]),
            answered: number(&report["statuses"]["200"]),
            lost: ["failed", "connect_failed", "lost"].iter().map(|name| number(&report[name])).sum(),
        }
    }
}

/// Of the windows. A neighbour that takes a processor away for a moment spoils some of them for one proxy or the other: the besieged
/// one is judged by its median window, by the worse ones of the other. Without neighbours they are all alike.
fn percentile_of_p99(windows: &[Others], percent: usize) -> u64 {
    let mut all: Vec<u64> = windows.iter().map(|window| window.p99_us).collect();
    all.sort_unstable();
    all[all.len() * percent / 100]
}
