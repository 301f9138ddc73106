//! A server of two dies, or stands still, while clients ask.

use crate::common::http::{Caller, plain};
use crate::common::lab::free_port;
use crate::common::program::{BINARY, Program, die_with_parent};
use crate::common::{Engine, Lab, eventually};
use crate::on_both_engines;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

on_both_engines!(killed_servers_lose_nothing_that_was_not_delivered, a_frozen_server_costs_one_timeout,);

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// `fourfold origin`, killed when dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Server {
    pub fn start(address: SocketAddr) -> Self {
        Self::start_with(Command::new(BINARY), address, &[])
    }

    /// With `command` in place of the plain program: in another namespace, say.
    pub fn start_with(mut command: Command, address: SocketAddr, more: &[&str]) -> Self {
        command.args(["origin", "--mode", "http", "--listen", &address.to_string()]).args(more);
        die_with_parent(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // The kernel tears the rings of a killed program down when it finds the time, and its listeners with them.
        eventually("the origin listens", || {
            let mut child = command.spawn().unwrap();
            let mut said = BufReader::new(child.stderr.take().unwrap());
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            if line.contains("another program does") {
                child.wait().unwrap();
                return None;
            }
            assert!(line.contains("listening on"), "{line}");
            // It may have more to say.
            std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
            Some(Self { child, address })
        })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(mut self) -> SocketAddr {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.address
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: no pointers; the child has not been waited for, so the id is its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.child.id());
        let stopped = |task: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('T'))
        };
        eventually("every thread stands still", || {
            std::fs::read_dir(&tasks).unwrap().filter_map(Result::ok).all(stopped).then_some(())
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    good: AtomicUsize,
    lost_posts: AtomicUsize,
}

/// Asks without a second try of its own; half are POST.
fn strict_client(address: SocketAddr, tally: &Tally) {
    let mut client = Caller::at(address);
    for number in 0.. {
        if tally.stop.load(Relaxed) {
            return;
        }
        let post = number % 2 == 1;
        match post {
            true => client.say("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"),
            false => client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        }
        let reply = client.reply_to(if post { "POST" } else { "GET" });
        let reason = reply.field("x-fourfold-reason");
        match reply.status() {
            200 => drop(tally.good.fetch_add(1, Relaxed)),
            // It was delivered, and what became of it nobody knows.
            502 if post && matches!(reason, Some("server_reset" | "server_closed")) => {
                tally.lost_posts.fetch_add(1, Relaxed);
            }
            status => panic!("{status} {reason:?}, POST: {post}"),
        }
    }
}

fn killed_servers_lose_nothing_that_was_not_delivered(engine: Engine) {
    const CLIENTS: usize = 4;
    const KILLS: usize = 5;
    let _lab = Lab::new();
    let (mut one, other) = (Server::start(free_port(HERE)), Server::start(free_port(HERE)));
    let config = plain(engine, &[one.address, other.address]).pool("retry_backoff_max = \"100ms\"");
    let program = Program::run(&config);
    let tally = Arc::new(Tally::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (tally, address) = (Arc::clone(&tally), program.address);
            std::thread::spawn(move || strict_client(address, &tally))
        })
        .collect();
    let served = |more: usize| {
        let before = tally.good.load(Relaxed);
        eventually("requests are answered", || (tally.good.load(Relaxed) >= before + more).then_some(()));
    };
    for _ in 0..KILLS {
        served(200);
        let address = one.kill();
        served(200);
        one = Server::start(address);
    }
    served(200);
    tally.stop.store(true, Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    let lost = tally.lost_posts.load(Relaxed);
    assert!(lost <= KILLS * CLIENTS, "{lost} of {}", tally.good.load(Relaxed));
    let report = program.report();
    assert_eq!(report.count("http_server_lost"), lost as u64);
    program.stop();
}

fn a_frozen_server_costs_one_timeout(engine: Engine) {
    let _lab = Lab::new();
    let (frozen, other) = (Server::start(free_port(HERE)), Server::start(free_port(HERE)));
    let config = plain(engine, &[frozen.address, other.address])
        .pool("balance = \"round-robin\"\nresponse_timeout = \"1s\"");
    let program = Program::run(&config);
    let mut clients: Vec<Caller> = (0..6).map(|_| Caller::to(&program)).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.get("/").status(), 200));
    frozen.freeze();
    let began = Instant::now();
    clients.iter_mut().for_each(|client| client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    for client in &mut clients {
        assert_eq!(client.reply().status(), 200);
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(900), "nobody met the frozen one: {took:?}");
    // A second more than one time-out, for machines that are shared and slow.
    assert!(took < Duration::from_millis(2_500), "{took:?}");
    assert!(program.report().count("http_retries") >= 1);
    frozen.signal(libc::SIGCONT);
    program.stop();
}
