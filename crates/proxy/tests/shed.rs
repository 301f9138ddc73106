//! Slow clients go when buffers run out, and only they: in a world with virtual time and few buffers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use fourfold_base::Millis;
use fourfold_base::prng::Prng;
use fourfold_config::{HostPort, Listener, LogFormat, LogLevel, Plan, Pool, Server};
use fourfold_engine::sim::{
    self, AppEnd, Attempt, Behaviour, Connection, Director, End, Move, Script, SimNet,
};
use fourfold_engine::{App, Close, ListenerId, Net};
use fourfold_ports::PortSpan;
use fourfold_proxy::{Machine, Proxy, Shared, Totals};
use std::net::SocketAddr;
use std::sync::Arc;

const BUFFERS: usize = 400;
const BODY_BYTES: usize = 1 << 20;
const END_MS: Millis = 5_000;

fn plan(listener: Listener) -> Plan {
    let server = Server::new(HostPort::Ip(address(9000)));
    Plan {
        max_connections: Some(10_000),
        shards: Some(1),
        engine: fourfold_config::EngineChoice::Auto,
        splice: fourfold_config::Splice::OFF,
        buffer_memory_bytes: None,
        drain_timeout_ms: 0,
        admin: fourfold_config::AdminListen::Off,
        log: fourfold_config::Log { level: LogLevel::Error, format: LogFormat::Human },
        listeners: vec![listener],
        pools: vec![Pool::new("chat", vec![server])],
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn machine() -> Machine {
    Machine {
        kernel: (6, 18),
        local_port_range: PortSpan::new(20_000, 60_000).unwrap(),
        reserved_ports: Default::default(),
        tw_reuse: 1,
        tw_reuse_delay_ms: 1000,
        tcp_timestamps: true,
        seed: 1,
        secret: [1, 2],
    }
}

/// A server that answers whatever it is asked, or speaks first.
struct Servers {
    http: bool,
}

impl Director for Servers {
    fn connect(&mut self, _: &mut Prng, _: &Attempt) -> sim::Answer {
        let send_bytes = if self.http { 0 } else { BODY_BYTES as u64 };
        sim::Answer {
            after: 1,
            outcome: Ok(Behaviour { send_bytes, end: End::Finish, ..Behaviour::default() }),
        }
    }
    fn script(&mut self, _: &mut Prng, _: &Attempt) -> Option<Box<dyn Script>> {
        self.http.then(|| Box::new(Answers { heard: Vec::new() }) as Box<dyn Script>)
    }
}

struct Answers {
    heard: Vec<u8>,
}

impl Script for Answers {
    fn hear(&mut self, _: Millis, bytes: &[u8]) {
        self.heard.extend_from_slice(bytes);
    }
    fn hear_end(&mut self, _: Millis, _: sim::Ended) {}
    fn next(&mut self, _: Millis, saying: bool) -> Move {
        if saying || !self.heard.ends_with(b"\r\n\r\n") {
            return Move::Wait(None);
        }
        self.heard.clear();
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY_BYTES}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + BODY_BYTES, b'x');
        Move::Say(answer)
    }
}

/// Says one thing and listens.
struct Says(Option<&'static str>);

impl Script for Says {
    fn hear(&mut self, _: Millis, _: &[u8]) {}
    fn hear_end(&mut self, _: Millis, _: sim::Ended) {}
    fn next(&mut self, _: Millis, saying: bool) -> Move {
        match self.0.take_if(|_| !saying) {
            Some(text) => Move::Say(text.as_bytes().to_vec()),
            None => Move::Wait(None),
        }
    }
}

struct World {
    net: SimNet,
    app: Proxy,
    shared: Arc<Shared>,
    most_held: usize,
}

impl World {
    fn new(listener: Listener, style: sim::Style) -> Self {
        let http = listener.http.is_some();
        let shared = Shared::new(Arc::new(plan(listener)), machine(), 1, 10_000, 10_000).unwrap();
        shared.set_literal_targets().unwrap();
        let config = sim::SimConfig { buffers_max: BUFFERS, ..sim::SimConfig::new(7, style) };
        let net = SimNet::new(config, sim::Machine::new(1000, true), Box::new(Servers { http }));
        let app = Proxy::new(Arc::clone(&shared), 0, 0);
        Self { net, app, shared, most_held: 0 }
    }

    /// Clients that come from `at` on, one each millisecond.
    fn add(
        &mut self,
        count: usize,
        at: Millis,
        says: Option<&'static str>,
        behaviour: &Behaviour,
    ) -> Vec<usize> {
        let add = |number: usize| {
            let (from, at) = (address(1024 + number as u16), at + number as u64);
            match says {
                Some(_) => {
                    let script = Box::new(Says(says));
                    self.net.add_speaker(ListenerId(0), from, at, behaviour.clone(), script)
                }
                None => self.net.add_client(ListenerId(0), from, at, behaviour.clone()),
            }
        };
        (0..count).map(add).collect()
    }

    fn run(&mut self) {
        App::start(&mut self.app, &mut self.net);
        let mut now = 0;
        while now < END_MS {
            let wakes = [App::<SimNet>::poll_timeout(&self.app), self.net.next_event()];
            now = now.max(wakes.into_iter().flatten().min().unwrap_or(END_MS));
            self.net.turn(Some(now), &mut self.app).unwrap();
            App::on_turn(&mut self.app, &mut self.net);
            self.most_held = self.most_held.max(self.net.stats().buffers_in_use);
        }
        assert_eq!(self.net.take_violations(), Vec::<String>::new());
    }

    fn shed(&self) -> usize {
        Totals::of(&self.shared).get("shed") as usize
    }

    fn of<'a>(&'a self, clients: &'a [usize]) -> impl Iterator<Item = &'a Connection> {
        clients.iter().map(|client| &self.net.connections()[*client])
    }

    fn reset(&self, clients: &[usize]) -> usize {
        self.of(clients).filter(|client| client.app == AppEnd::Closed(Close::Reset)).count()
    }

    fn served(&self, clients: &[usize]) -> usize {
        self.of(clients).filter(|client| client.read >= BODY_BYTES as u64).count()
    }
}

fn never_reads() -> Behaviour {
    Behaviour { read_stop: Some(0), end: End::Stay, ..Behaviour::default() }
}

fn styles() -> [sim::Style; 2] {
    [sim::Style::Readiness, sim::Style::Completion]
}

#[test]
fn tunnels_that_are_not_read_go_and_others_stay() {
    for style in styles() {
        let mut world = World::new(Listener::tcp("edge", address(80), 0), style);
        let slow = world.add(80, 0, None, &never_reads());
        let fast = world.add(40, 1_000, None, &Behaviour::default());
        world.run();
        assert_eq!(world.served(&fast), 40, "{style:?}");
        assert!(world.shed() > 0 && world.reset(&slow) == world.shed(), "{style:?}: {}", world.shed());
        assert!(world.shed() < 80, "{style:?}: no more than needed");
        assert!(world.net.stats().buffers_in_use < BUFFERS * 85 / 100, "{style:?}");
    }
}

const ASK: Option<&str> = Some("GET / HTTP/1.1\r\nHost: a\r\n\r\n");

#[test]
fn requests_that_stand_still_go_and_others_are_answered() {
    for style in styles() {
        let mut world = World::new(Listener::http("edge", address(80), 0), style);
        let heads = world.add(250, 0, Some("GET / HTTP/1.1\r\nHo"), &never_reads());
        let readers = world.add(40, 500, ASK, &never_reads());
        let fast = world.add(40, 1_500, ASK, &Behaviour::default());
        world.run();
        assert_eq!(world.served(&fast), 40, "{style:?}");
        assert_eq!(world.reset(&fast), 0, "{style:?}");
        assert_eq!(world.reset(&heads) + world.reset(&readers), world.shed(), "{style:?}");
        assert!(world.shed() > 0, "{style:?}: {} buffers at most", world.most_held);
        assert!(world.net.stats().buffers_in_use < BUFFERS * 85 / 100, "{style:?}");
    }
}

#[test]
fn nobody_goes_while_there_are_buffers() {
    let mut world = World::new(Listener::tcp("edge", address(80), 0), sim::Style::Readiness);
    let slow = world.add(20, 0, None, &never_reads());
    world.run();
    assert_eq!((world.shed(), world.reset(&slow)), (0, 0));
}
