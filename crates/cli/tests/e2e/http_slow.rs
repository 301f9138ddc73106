//! Thousands of clients that do as little as they can, while others work.

use crate::common::crowd::connect;
use crate::common::http::{Caller, Scripted, ok, plain};
use crate::common::lab::set;
use crate::common::{Config, DEADLINE, Engine, Lab, Program};
use crate::on_both_engines;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

on_both_engines!(
    slow_heads_do_not_hinder_others,
    slow_bodies_do_not_hinder_others,
    slow_readers_do_not_hinder_others
);

/// As many as this process may have open beside all else, and a table of descriptors has 20 000 on a machine of CI.
const ATTACKERS: usize = 8_000;
/// Of whom each may have this much of the proxy's memory; without a bound it would be the whole of what they send or ask for.
const BYTES_EACH_MAX: u64 = 4 << 10;

struct Attack {
    /// What everybody says first.
    opening: &'static str,
    /// What each says from time to time.
    drip: &'static str,
    /// By which the attackers are counted out.
    counter: &'static str,
}

fn run(
    engine: Engine,
    attack: &Attack,
    bytes_each_max: u64,
    attackers: usize,
    adapt: impl Fn(Config) -> Config,
) {
    let lab = Lab::new();
    if lab.private {
        // On loopback, with its huge segments, the kernel would take megabytes for each socket.
        set("net/ipv4/tcp_wmem", "4096 65536 131072");
    }
    let large = "x".repeat(1_000_000);
    let origin = Scripted::start(move |line| {
        while let Some(request) = line.request() {
            line.say(&ok(if request.target() == "/large" { &large } else { "hi" }));
        }
    });
    let config = plain(engine, &[origin.address]).top("max_connections = 9000");
    let program = Program::run(&adapt(config));
    let workers = Workers::start(program.address, 4);
    workers.settle(200);
    let calm = workers.slowest();
    let before = program.resident_bytes();
    let mut attackers: Vec<TcpStream> =
        (0..attackers).map(|number| attacker(program.address, number, attack.opening)).collect();
    program.report_when("they are all there", |report| report.connections as usize >= attackers.len());
    let began = Instant::now();
    let mut most = 0;
    // Until each one has been counted out.
    while program.report().count(attack.counter) < attackers.len() as u64 {
        assert!(began.elapsed() < DEADLINE, "{} counted out", program.report().count(attack.counter));
        for stream in &mut attackers {
            let _ = stream.write(attack.drip.as_bytes());
        }
        most = most.max(program.resident_bytes().saturating_sub(before));
    }
    let served = workers.count();
    let slowest = workers.slowest();
    workers.stop();
    println!(
        "served {served}, slowest {slowest:?} (calm {calm:?}), {} bytes each",
        most / attackers.len() as u64
    );
    assert!(served > 200, "{served} requests served");
    assert!(most < attackers.len() as u64 * bytes_each_max + (8 << 20), "grew by {most} bytes");
    drop(attackers);
    program.report_when("they are gone", |report| report.connections == 0);
    program.stop();
}

/// From one of several source addresses, as a port range is soon used up.
fn attacker(target: SocketAddr, number: usize, opening: &str) -> TcpStream {
    let source = format!("127.0.1.{}:0", 1 + number / 4_000).parse().unwrap();
    let stream = connect(target, Some(source)).unwrap();
    // A small window: what it does not read stays with the proxy.
    let size: i32 = 4096;
    // SAFETY: the option's value is an int that outlives the call.
    unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(&stream),
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            (&raw const size).cast(),
            4,
        )
    };
    let mut waits =
        libc::pollfd { fd: std::os::fd::AsRawFd::as_raw_fd(&stream), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one struct, which outlives the call.
    unsafe { libc::poll(&raw mut waits, 1, 10_000) };
    let _ = (&stream).write(opening.as_bytes());
    stream
}

/// Clients that ask one thing after another.
struct Workers {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
    seen: Arc<std::sync::Mutex<(usize, Duration)>>,
}

impl Workers {
    fn start(address: SocketAddr, count: usize) -> Self {
        let (stop, seen) =
            (Arc::new(AtomicBool::new(false)), Arc::new(std::sync::Mutex::new((0, Duration::ZERO))));
        let work = |_| {
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            std::thread::spawn(move || {
                let mut client = Caller::at(address);
                while !stop.load(Relaxed) {
                    let asked = Instant::now();
                    assert_eq!(client.get("/").text(), "hi");
                    let mut seen = seen.lock().unwrap();
                    *seen = (seen.0 + 1, seen.1.max(asked.elapsed()));
                }
            })
        };
        let threads = (0..count).map(work).collect();
        Self { stop, threads, seen }
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().0
    }

    /// Since it was last asked.
    fn slowest(&self) -> Duration {
        std::mem::take(&mut self.seen.lock().unwrap().1)
    }

    fn settle(&self, count: usize) {
        crate::common::eventually("the workers work", || (self.count() > count).then_some(()));
    }

    /// Every one of them must have been served to the end.
    fn stop(self) {
        self.stop.store(true, Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

fn slow_heads_do_not_hinder_others(engine: Engine) {
    let attack =
        Attack { opening: "GET / HTTP/1.1\r\nHost: a\r\n", drip: "X: y\r\n", counter: "http_header_timeout" };
    // A head that is not whole takes a buffer.
    run(engine, &attack, 17 << 10, ATTACKERS, |config| config.listener("header_timeout = \"2s\""));
}

fn slow_bodies_do_not_hinder_others(engine: Engine) {
    let attack = Attack {
        opening: "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx",
        drip: "",
        counter: "http_body_timeout",
    };
    run(engine, &attack, BYTES_EACH_MAX, ATTACKERS / 8, |config| config.listener("body_timeout = \"2s\""));
}

fn slow_readers_do_not_hinder_others(engine: Engine) {
    let attack =
        Attack { opening: "GET /large HTTP/1.1\r\nHost: a\r\n\r\n", drip: "", counter: "http_send_timeout" };
    run(engine, &attack, 256 << 10, ATTACKERS / 10, |config| config.listener("send_timeout = \"2s\""));
}
