//! A proxy with its shards, servers that do as they are told, and clients that ask, in virtual time.

use fourfold_base::Millis;
use fourfold_base::prng::Prng;
use fourfold_config::http::Http;
use fourfold_config::{
    EngineChoice, HostPort, Listener, Log, LogFormat, LogLevel, Mode, Plan, Pool, Server, SourceSet,
};
use fourfold_engine::sim::{
    self, Answer, Attempt, Behaviour, Director, Ended, Move, Script, SharedMachine, SimConfig, SimNet, Style,
};
use fourfold_engine::{App, Errno, ListenerId, Mailbox, Net, Step, mailbox};
use fourfold_ports::{PortSet, PortSpan};
use fourfold_proxy::{Fitness, Machine, Mail, Proxy, Shared, Totals};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// How a server is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// Answers with this status, after so long.
    Status(u16, Millis),
    Refuse,
    /// Takes requests, answers none.
    Silent,
    /// Resets once it has the request.
    Reset,
    /// Sends an answer's head and part of its content, and then resets...
    BreakOff,
    /// ...or goes on for ever.
    Linger,
}

/// So much later than its beginning an answer breaks off: both are seen.
const BREAK_MS: Millis = 5;

pub const WELL: Manner = Manner::Status(200, 1);

#[derive(Default)]
pub struct Servers {
    manners: HashMap<SocketAddr, Manner>,
    /// Sources whose packets do not arrive there.
    blocked: HashSet<(IpAddr, SocketAddr)>,
    /// What each was asked for.
    asked: Vec<(SocketAddr, String)>,
    connects: HashMap<SocketAddr, usize>,
}

type Board = Rc<RefCell<Servers>>;

#[derive(Clone)]
struct Weather(Board);

impl Director for Weather {
    fn connect(&mut self, _: &mut Prng, attempt: &Attempt) -> Answer {
        let mut servers = self.0.borrow_mut();
        *servers.connects.entry(attempt.remote).or_default() += 1;
        let refused = servers.manners.get(&attempt.remote).is_none_or(|manner| *manner == Manner::Refuse)
            || servers.blocked.contains(&(attempt.source, attempt.remote));
        let outcome = match refused {
            true => Err((Step::Connect, Errno::ECONNREFUSED)),
            false => Ok(Behaviour::default()),
        };
        Answer { after: 1, outcome }
    }

    fn script(&mut self, _: &mut Prng, attempt: &Attempt) -> Option<Box<dyn Script>> {
        let (servers, address) = (Rc::clone(&self.0), attempt.remote);
        Some(Box::new(Speaker {
            servers,
            address,
            heard: Vec::new(),
            due: None,
            part: None,
            breaks_at: None,
            gone: false,
        }))
    }
}

struct Speaker {
    servers: Board,
    address: SocketAddr,
    heard: Vec<u8>,
    due: Option<(Millis, u16)>,
    part: Option<Manner>,
    /// When it resets in the midst of an answer.
    breaks_at: Option<Millis>,
    gone: bool,
}

impl Script for Speaker {
    fn hear(&mut self, now: Millis, bytes: &[u8]) {
        self.heard.extend_from_slice(bytes);
        if !self.heard.ends_with(b"\r\n\r\n") {
            return;
        }
        let mut servers = self.servers.borrow_mut();
        servers.asked.push((self.address, String::from_utf8_lossy(&self.heard).into_owned()));
        self.heard.clear();
        match servers.manners.get(&self.address).copied() {
            Some(Manner::Status(status, after)) => self.due = Some((now + after, status)),
            Some(Manner::Reset) => self.gone = true,
            Some(part @ (Manner::BreakOff | Manner::Linger)) => self.part = Some(part),
            _ => {}
        }
    }

    fn hear_end(&mut self, _: Millis, _: Ended) {
        self.gone = true;
    }

    fn next(&mut self, now: Millis, saying: bool) -> Move {
        if self.gone || self.breaks_at.is_some_and(|at| at <= now) {
            return Move::Reset;
        }
        if let Some(part) = self.part.take() {
            self.breaks_at = (part == Manner::BreakOff).then_some(now + BREAK_MS);
            let port = self.address.port();
            let said = format!("HTTP/1.1 200 Said\r\nX-Server: {port}\r\nContent-Length: 20\r\n\r\nhi");
            return Move::Say(said.into_bytes());
        }
        match self.due {
            Some((at, status)) if at <= now && !saying => {
                self.due = None;
                let port = self.address.port();
                Move::Say(
                    format!("HTTP/1.1 {status} Said\r\nX-Server: {port}\r\nContent-Length: 2\r\n\r\nhi")
                        .into_bytes(),
                )
            }
            Some((at, _)) => Move::Wait(Some(at)),
            None => Move::Wait(self.breaks_at),
        }
    }
}

struct Client {
    request: Option<Vec<u8>>,
    answer: Rc<RefCell<Vec<u8>>>,
    ended: bool,
    /// Whether it closes when it has seen the end.
    closes: bool,
}

impl Script for Client {
    fn hear(&mut self, _: Millis, bytes: &[u8]) {
        self.answer.borrow_mut().extend_from_slice(bytes);
    }
    fn hear_end(&mut self, _: Millis, _: Ended) {
        self.ended = true;
    }
    fn next(&mut self, _: Millis, saying: bool) -> Move {
        match self.request.take() {
            Some(request) => Move::Say(request),
            None if self.ended && self.closes && !saying => Move::Close,
            None => Move::Wait(None),
        }
    }
}

/// What a client got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Got {
    pub status: u16,
    /// Number of the server, when one answered.
    pub server: Option<usize>,
    pub text: String,
}

impl Got {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        if !text.contains("\r\n\r\n") {
            return None;
        }
        let status = text.split(' ').nth(1)?.parse().ok()?;
        let server = text.lines().find_map(|line| line.strip_prefix("X-Server: ")?.parse::<usize>().ok());
        Some(Self { status, server: server.map(|port| port - 9000), text })
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

pub struct Ticket(Rc<RefCell<Vec<u8>>>);

impl Ticket {
    pub fn got(&self) -> Option<Got> {
        Got::parse(&self.0.borrow())
    }
}

struct Shard {
    net: SimNet,
    app: Proxy,
    mailbox: Mailbox<Mail>,
    mail: VecDeque<Mail>,
}

pub struct World {
    pub shared: Arc<Shared>,
    pub machine: SharedMachine,
    pub now: Millis,
    board: Board,
    shards: Vec<Shard>,
    next_client: u16,
}

pub fn address(server: usize) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, 1], 9000 + server as u16))
}

/// A pool of so many servers.
pub fn pool(servers: usize) -> Pool {
    let servers = (0..servers).map(|server| Server::new(HostPort::Ip(address(server)))).collect();
    Pool { sources: SourceSet::parse("10.0.0.1").unwrap(), ..Pool::new("chat", servers) }
}

fn machine() -> Machine {
    Machine {
        kernel: (6, 18),
        local_port_range: PortSpan::parse("32768-60999").unwrap(),
        reserved_ports: PortSet::default(),
        tw_reuse: 2,
        tw_reuse_delay_ms: 1000,
        tcp_timestamps: true,
        seed: 7,
        secret: [7, 8],
    }
}

pub fn plan(http: Http, mode: Mode, pools: Vec<Pool>) -> Plan {
    let listener = Listener {
        mode,
        pool: Some(0),
        http: (mode == Mode::Http).then(|| Box::new(Http { explain_errors: true, ..http })),
        ..Listener::tcp("edge", "127.0.0.1:80".parse().unwrap(), 0)
    };
    Plan {
        max_connections: None,
        shards: None,
        engine: EngineChoice::Auto,
        splice: fourfold_config::Splice::OFF,
        buffer_memory_bytes: None,
        drain_timeout_ms: 1000,
        admin: fourfold_config::AdminListen::Off,
        log: Log { level: LogLevel::Info, format: LogFormat::Human },
        listeners: vec![listener],
        pools,
    }
}

impl World {
    pub fn http(shards: usize, pool: Pool) -> Self {
        Self::of(shards, plan(Http::to_pool(0), Mode::Http, vec![pool]))
    }

    pub fn tcp(shards: usize, pool: Pool) -> Self {
        Self::of(shards, plan(Http::default(), Mode::Tcp, vec![pool]))
    }

    /// All servers are well.
    pub fn of(shards: usize, plan: Plan) -> Self {
        let board = Board::default();
        for server in plan.pools.iter().flat_map(|pool| &pool.servers) {
            if let HostPort::Ip(address) = server.address {
                board.borrow_mut().manners.insert(address, WELL);
            }
        }
        let shared = Shared::new(Arc::new(plan), machine(), shards, 10_000, 1000).unwrap();
        shared.set_literal_targets().unwrap();
        let machine = sim::Machine::new(1000, true);
        let mut world = Self { shared, machine, now: 0, board, shards: Vec::new(), next_client: 1000 };
        for number in 0..shards {
            let shard = world.shard(number);
            world.shards.push(shard);
        }
        world
    }

    fn shard(&self, number: usize) -> Shard {
        let style = if number.is_multiple_of(2) { Style::Readiness } else { Style::Completion };
        let config =
            SimConfig { accept_slots: 4096, connect_slots: 4096, ..SimConfig::new(number as u64, style) };
        let mut net = SimNet::new(config, self.machine.clone(), Box::new(Weather(Rc::clone(&self.board))));
        let (sender, mailbox) = mailbox().unwrap();
        self.shared.shards[number].set_sender(sender);
        let mut app = Proxy::new(Arc::clone(&self.shared), number, 0);
        app.start(&mut net);
        Shard { net, app, mailbox, mail: VecDeque::new() }
    }

    pub fn set(&self, server: usize, manner: Manner) {
        self.board.borrow_mut().manners.insert(address(server), manner);
    }

    pub fn block(&self, source: &str, server: usize) {
        self.board.borrow_mut().blocked.insert((source.parse().unwrap(), address(server)));
    }

    pub fn unblock(&self) {
        self.board.borrow_mut().blocked.clear();
    }

    pub fn asked(&self, server: usize) -> usize {
        self.board.borrow().asked.iter().filter(|(to, _)| *to == address(server)).count()
    }

    pub fn requests(&self, server: usize) -> Vec<String> {
        let servers = self.board.borrow();
        servers.asked.iter().filter(|(to, _)| *to == address(server)).map(|(_, text)| text.clone()).collect()
    }

    pub fn connects(&self, server: usize) -> usize {
        self.board.borrow().connects.get(&address(server)).copied().unwrap_or(0)
    }

    pub fn fitness(&self, server: usize) -> Fitness {
        self.shared.pools[0].fitness(server, self.now)
    }

    pub fn count(&self, name: &str) -> u64 {
        Totals::of(&self.shared).get(name)
    }

    pub fn active(&self, server: usize) -> u32 {
        self.shared.pools[0].servers[server].active.load(Relaxed)
    }

    /// A request that comes now.
    pub fn send(&mut self, shard: usize, request: &str) -> Ticket {
        self.next_client = self.next_client.wrapping_add(1).max(1000);
        let from = SocketAddr::from(([192, 0, 2, 1], self.next_client));
        self.send_from(shard, from, request)
    }

    pub fn send_from(&mut self, shard: usize, from: SocketAddr, request: &str) -> Ticket {
        self.client(shard, from, request, true)
    }

    /// From a client that keeps its connection whatever it is told.
    pub fn send_and_stay(&mut self, shard: usize, request: &str) -> Ticket {
        self.next_client = self.next_client.wrapping_add(1).max(1000);
        let from = SocketAddr::from(([192, 0, 2, 1], self.next_client));
        self.client(shard, from, request, false)
    }

    fn client(&mut self, shard: usize, from: SocketAddr, request: &str, closes: bool) -> Ticket {
        let answer = Rc::default();
        let request = Some(request.as_bytes().to_vec());
        let script = Client { request, answer: Rc::clone(&answer), ended: false, closes };
        let net = &mut self.shards[shard].net;
        net.add_speaker(ListenerId(0), from, self.now, Behaviour::default(), Box::new(script));
        Ticket(answer)
    }

    pub fn get(&mut self, shard: usize, path: &str) -> Ticket {
        self.send(shard, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    }

    /// Asks one after the other, on the shards in turn.
    pub fn ask(&mut self, count: usize) -> Vec<Got> {
        (0..count).map(|n| self.ask_once(n % self.shards.len(), "GET / HTTP/1.1\r\nHost: x\r\n")).collect()
    }

    pub fn ask_once(&mut self, shard: usize, head: &str) -> Got {
        let ticket = self.send(shard, &format!("{head}Connection: close\r\n\r\n"));
        let deadline = self.now + 120_000;
        while self.now < deadline {
            if let Some(got) = ticket.got() {
                return got;
            }
            self.run(1);
        }
        panic!("no answer at {}", self.now);
    }

    /// Lets so much time pass.
    pub fn run(&mut self, ms: Millis) {
        let until = self.now + ms;
        let mut turns = 0;
        loop {
            let now = self.now;
            let next = self.shards.iter_mut().filter_map(|shard| shard.wake(now)).min();
            let Some(next) = next.filter(|next| *next <= until) else { break };
            self.now = self.now.max(next);
            for shard in &mut self.shards {
                if shard.wake(self.now).is_some_and(|at| at <= self.now) {
                    shard.turn(self.now);
                    turns += 1;
                    assert!(turns < 2_000_000, "it spins at {}", self.now);
                }
            }
        }
        self.now = until;
    }

    /// Every shard is told to end in order, within so long.
    pub fn drain(&mut self, within: Millis) {
        for shard in &mut self.shards {
            shard.mail.push_back(Mail::Drain { deadline: self.now + within });
        }
    }

    /// Its thread would have ended.
    pub fn has_ended(&self, shard: usize) -> bool {
        App::<SimNet>::is_finished(&self.shards[shard].app)
    }

    /// Clients that a shard has.
    pub fn connections(&self, shard: usize) -> usize {
        self.shards[shard].app.len()
    }

    /// Everything is given back at a stop.
    pub fn stop(mut self) {
        self.drain(0);
        self.run(5_000);
        for (number, shard) in self.shards.iter_mut().enumerate() {
            assert!(App::<SimNet>::is_finished(&shard.app), "shard {number}");
            assert_eq!(shard.net.take_violations(), Vec::<String>::new());
            assert_eq!(shard.net.sim_stats().stale_operations, 0);
            assert_eq!(shard.net.stats().buffers_in_use, 0);
        }
        assert_eq!(self.machine.borrow_mut().take_violations(), Vec::<String>::new());
        for (_, space) in self.shared.spaces() {
            assert_eq!(space.headroom().used, 0);
        }
        for server in self.shared.pools.iter().flat_map(|pool| &pool.servers) {
            assert_eq!((server.active.load(Relaxed), server.requests.load(Relaxed)), (0, 0));
        }
    }
}

impl Shard {
    fn wake(&mut self, now: Millis) -> Option<Millis> {
        while let Some(mail) = self.mailbox.take() {
            self.mail.push_back(mail);
        }
        if App::<SimNet>::is_finished(&self.app) {
            return None;
        }
        if !self.mail.is_empty() {
            return Some(now);
        }
        [App::<SimNet>::poll_timeout(&self.app), self.net.next_event()].into_iter().flatten().min()
    }

    fn turn(&mut self, now: Millis) {
        self.net.turn(Some(now), &mut self.app).unwrap();
        while let Some(mail) = self.mail.pop_front() {
            self.app.on_mail(&mut self.net, mail);
        }
        self.app.on_turn(&mut self.net);
    }
}
