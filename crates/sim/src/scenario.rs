//! What a seed stands for: a machine, a configuration, clients, servers, weather, and when it is all to end.

use crate::http::Web;
use crate::weather::{Habit, ServerPlan, Weather};
use fourfold_base::Millis;
use fourfold_base::prng::Prng;
use fourfold_config::{
    AdminListen, Algorithm, EngineChoice, HostPort, Listener, Log, LogFormat, LogLevel, Plan, Pool, PortMode,
    Server, Splice, SpliceMode,
};
use fourfold_engine::sim::{Behaviour, Style, Tuple};
use fourfold_ports::{PortSet, PortSpan, SourceSet};
use fourfold_proxy::Machine;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

#[derive(Clone, Debug)]
pub struct ClientPlan {
    pub shard: usize,
    pub listener: u32,
    pub from: SocketAddr,
    pub at: Millis,
    pub behaviour: Behaviour,
}

/// A server that moves, or whose name stops resolving.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    pub at: Millis,
    pub pool: usize,
    pub server: usize,
    pub to: Option<SocketAddr>,
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub style: Style,
    pub shards: usize,
    pub plan: Plan,
    pub machine: Machine,
    pub connections_max: u64,
    pub connections_per_shard: usize,
    pub accept_slots: usize,
    pub connect_slots: usize,
    pub buffers_max: usize,
    pub backlog: usize,
    pub delay_ms: u32,
    pub weather: Weather,
    /// Tuples that other programs hold.
    pub foreign: Vec<Tuple>,
    pub clients: Vec<ClientPlan>,
    pub moves: Vec<Move>,
    pub drain_at: Millis,
    pub drain_deadline: Millis,
    /// A second signal.
    pub stop_at: Option<Millis>,
    /// In the worlds of requests.
    pub web: Option<Web>,
    /// Its name, to play it again.
    pub world: &'static str,
}

fn ip(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    Ipv4Addr::new(a, b, c, d).into()
}

/// One of `choices`.
pub(crate) fn one<T: Clone>(rng: &mut Prng, choices: &[T]) -> Option<T> {
    choices.get(rng.below(choices.len() as u32) as usize).cloned()
}

/// `low..=high`, low twice as often as high for wide ranges: small worlds have the corners.
pub(crate) fn between(rng: &mut Prng, low: u32, high: u32) -> u32 {
    let a = low + rng.below(high - low + 1);
    let b = low + rng.below(high - low + 1);
    a.min(b)
}

/// Of its own number, so that the worlds of old seeds stay what they were. Half of them splice, and soon: after a few messages.
fn splice(seed: u64) -> Splice {
    let rng = &mut Prng::new(!seed);
    if rng.chance(1, 2) {
        return Splice::OFF;
    }
    Splice {
        mode: SpliceMode::Bpf,
        messages: between(rng, 1, 6) as u8,
        gap_ms: u64::from(between(rng, 1, 2_000)),
    }
}

impl Scenario {
    pub fn new(seed: u64) -> Self {
        let rng = &mut Prng::new(seed);
        let style = if rng.chance(1, 2) { Style::Readiness } else { Style::Completion };
        let shards = between(rng, 1, 3) as usize;
        let machine = machine(rng);
        let pools: Vec<Pool> =
            (0..between(rng, 1, 2)).filter_map(|number| pool(rng, number as u8, &machine)).collect();
        let listeners: Vec<Listener> =
            (0..between(rng, 1, 2)).map(|number| listener(rng, number as u16, pools.len())).collect();
        let plan = Plan {
            admin: AdminListen::Off,
            max_connections: None,
            shards: None,
            engine: EngineChoice::Auto,
            splice: splice(seed),
            buffer_memory_bytes: None,
            drain_timeout_ms: 1000,
            log: Log { level: LogLevel::Info, format: LogFormat::Human },
            listeners,
            pools,
        };
        let count = between(rng, 10, 160);
        let weather = weather(rng, &plan);
        let tight = rng.chance(1, 4);
        let room = if tight { between(rng, 4, 40) as usize } else { 400 };
        let arrivals = between(rng, 1, 2500);
        let clients = (0..count).map(|n| {
            let behaviour = weather.client(rng);
            ClientPlan {
                shard: rng.below(shards as u32) as usize,
                listener: rng.below(plan.listeners.len() as u32),
                from: (ip(192, 0, 2, (n % 250) as u8 + 1), 2000 + n as u16).into(),
                at: u64::from(rng.below(arrivals)),
                behaviour,
            }
        });
        let clients = clients.collect();
        let drain_at = u64::from(if rng.chance(1, 2) { between(rng, 1, arrivals) } else { 6000 });
        let drain_deadline = drain_at + u64::from(rng.below(4000));
        Self {
            seed,
            style,
            shards,
            connections_max: if tight { u64::from(between(rng, 3, 60)) } else { 1000 },
            connections_per_shard: room,
            accept_slots: if rng.chance(1, 8) { room / 2 + 1 } else { room + 8 },
            connect_slots: if rng.chance(1, 8) { room / 2 + 1 } else { room },
            buffers_max: if rng.chance(1, 3) { between(rng, 1, 24) as usize } else { 512 },
            backlog: if rng.chance(1, 4) { between(rng, 1, 8) as usize } else { 128 },
            delay_ms: rng.below(4),
            foreign: foreign(rng, &plan),
            moves: moves(rng, &plan),
            stop_at: rng.chance(1, 6).then(|| drain_at + u64::from(rng.below(500))),
            plan,
            machine,
            weather,
            clients,
            drain_at,
            drain_deadline,
            web: None,
            world: "tcp",
        }
    }

    /// The same world with requests in it.
    pub fn http(seed: u64) -> Self {
        let mut scenario = Self::new(seed);
        let rng = &mut Prng::new(seed ^ 0x0068_7474_7000_0000);
        scenario.clients.truncate(between(rng, 5, 60) as usize);
        // What makes HTTP hard are not servers that are not there.
        if rng.chance(1, 2) {
            scenario.weather.servers.values_mut().for_each(|server| server.habit = Habit::Serves);
        }
        let web = Web::new(rng, &mut scenario.plan, &scenario.clients, &scenario.weather);
        Self { web: Some(web), world: "http", ..scenario }
    }

    /// The same with all that an edge does beside.
    pub fn edge(seed: u64) -> Self {
        let mut scenario = Self::http(seed);
        scenario.add_edge(&mut Prng::new(seed ^ 0x6564_6765_0000_0000));
        scenario.world = "edge";
        scenario
    }

    /// How long the virtual kernel keeps a late tuple in TIME_WAIT; servers are never on loopback here.
    pub fn time_wait_ms(&self) -> Millis {
        let reuses = self.machine.tw_reuse == 1 && self.machine.tcp_timestamps;
        if reuses { self.machine.tw_reuse_delay_ms } else { fourfold_ports::TIME_WAIT_MS }
    }
}

const LOCAL_PORTS: (u16, u16) = (20_000, 60_999);

#[expect(clippy::expect_used, reason = "constants, in order")]
fn machine(rng: &mut Prng) -> Machine {
    Machine {
        kernel: if rng.chance(1, 5) { (5, 15) } else { (6, 18) },
        local_port_range: PortSpan::new(LOCAL_PORTS.0, LOCAL_PORTS.1).expect("a span"),
        reserved_ports: PortSet::default(),
        tw_reuse: u64::from(rng.below(3)),
        tw_reuse_delay_ms: 1000,
        seed: 1,
        secret: [2, 3],
        tcp_timestamps: !rng.chance(1, 4),
    }
}

/// Pools differ in their servers' addresses, so that any spans and modes go together; ports differ by mode.
pub(crate) fn pool(rng: &mut Prng, number: u8, machine: &Machine) -> Option<Pool> {
    let sources = match rng.below(4) {
        0 => SourceSet::kernel_chosen(),
        n => SourceSet::parse(&format!("10.0.0.10-10.0.0.{}", 9 + n)).ok()?,
    };
    let late_works = machine.kernel >= (6, 3);
    let port_mode = match rng.below(3) {
        0 => PortMode::Auto,
        1 if late_works => PortMode::Late,
        _ if sources.is_kernel_chosen() => PortMode::Auto,
        _ => PortMode::Early,
    };
    let length = if rng.chance(1, 2) { between(rng, 1, 30) } else { between(rng, 60, 600) } as u16;
    // A span of its own for each pool; an early one outside of the kernel's range.
    let base = if port_mode == PortMode::Early { 10_000 } else { LOCAL_PORTS.0 };
    let first = base + 1000 * u16::from(number);
    let pinned = late_works || !sources.is_kernel_chosen();
    let ports = PortSpan::new(first, first + length - 1).ok().filter(|_| pinned);
    let count = between(rng, 1, 3);
    let server = |n: u32| Server::new(HostPort::Ip((ip(10, 0, 1 + number, 1 + n as u8), 9000).into()));
    let mut servers: Vec<Server> = (0..count).map(server).collect();
    for server in &mut servers {
        server.weight = rng.below(4) as u16;
        server.max_connections = rng.chance(1, 5).then(|| between(rng, 1, 20));
    }
    if let Some(first) = servers.first_mut() {
        first.weight = 1;
    }
    Some(Pool {
        balance: one(
            rng,
            &[Algorithm::RoundRobin, Algorithm::LeastConnections, Algorithm::Random, Algorithm::P2c],
        )?,
        sources,
        ports,
        port_mode,
        connect_timeout_ms: u64::from(between(rng, 20, 800)),
        connect_attempts: between(rng, 1, 4) as u8,
        queue_timeout_ms: if rng.chance(1, 5) { 0 } else { u64::from(between(rng, 50, 2500)) },
        queue_max: one(rng, &[None, Some(0), Some(1), Some(10), Some(100)])?,
        retry_backoff_ms: u64::from(between(rng, 5, 200)),
        retry_backoff_max_ms: u64::from(between(rng, 200, 1000)),
        ..Pool::new(&format!("pool{number}"), servers)
    })
}

/// Whose server it is, by its address.
pub(crate) fn pool_of(server: SocketAddr) -> Option<usize> {
    let IpAddr::V4(ip) = server.ip() else { return None };
    usize::from(ip.octets()[2]).checked_sub(1)
}

fn listener(rng: &mut Prng, number: u16, pools: usize) -> Listener {
    let pool = rng.below(pools as u32) as usize;
    Listener {
        max_connections: rng.chance(1, 6).then(|| u64::from(between(rng, 1, 30))),
        idle_timeout_ms: if rng.chance(1, 2) { 0 } else { u64::from(between(rng, 100, 3000)) },
        ..Listener::tcp(&format!("listener{number}"), (ip(127, 0, 0, 1), 8000 + number).into(), pool)
    }
}

fn addresses(plan: &Plan) -> impl Iterator<Item = SocketAddr> + '_ {
    plan.pools.iter().flat_map(|pool| &pool.servers).filter_map(|server| match server.address {
        HostPort::Ip(address) => Some(address),
        HostPort::Name { .. } => None,
    })
}

/// Where a server may move to.
fn moved(address: SocketAddr) -> SocketAddr {
    (address.ip(), address.port() + 1).into()
}

fn weather(rng: &mut Prng, plan: &Plan) -> Weather {
    let calm = rng.chance(1, 3);
    let mut servers = HashMap::new();
    for address in addresses(plan) {
        let habit = one(rng, &Habit::ALL).filter(|_| !calm && rng.chance(1, 2)).unwrap_or(Habit::Serves);
        let mends_at = if rng.chance(1, 2) { u64::from(rng.below(3000)) } else { Millis::MAX };
        servers.insert(address, ServerPlan { habit, mends_at });
        servers.insert(moved(address), ServerPlan { habit: Habit::Serves, mends_at: 0 });
    }
    let missing =
        if rng.chance(1, 6) { vec![(ip(10, 0, 0, 10), u64::from(rng.below(4000)))] } else { vec![] };
    Weather {
        servers,
        latency_ms: one(rng, &[0, 1, 20, 200]).unwrap_or(1),
        rough: if calm { 0 } else { between(rng, 5, 90) },
        local_faults: if calm { 0 } else { one(rng, &[0, 0, 5, 80]).unwrap_or(0) },
        missing,
    }
}

fn foreign(rng: &mut Prng, plan: &Plan) -> Vec<Tuple> {
    let mut tuples = Vec::new();
    if !rng.chance(1, 4) {
        return tuples;
    }
    for pool in &plan.pools {
        let Some(span) = pool.ports else { continue };
        for _ in 0..rng.below(12) {
            let source = u64::from(rng.below(pool.sources.len().min(8) as u32));
            let source = pool.sources.get(source).unwrap_or(ip(10, 0, 0, 1));
            let port = span.first() + rng.below(span.len()) as u16;
            let servers: Vec<SocketAddr> = addresses(plan).collect();
            tuples.extend(one(rng, &servers).map(|remote| Tuple { source, port, remote }));
        }
    }
    tuples
}

fn moves(rng: &mut Prng, plan: &Plan) -> Vec<Move> {
    let mut moves = Vec::new();
    for (pool, plan) in plan.pools.iter().enumerate() {
        for (server, plan) in plan.servers.iter().enumerate() {
            let HostPort::Ip(address) = plan.address else { continue };
            if rng.chance(1, 12) {
                let to = rng.chance(2, 3).then(|| moved(address));
                moves.push(Move { at: u64::from(rng.below(1500)), pool, server, to });
                if rng.chance(1, 2) {
                    moves.push(Move {
                        at: u64::from(1500 + rng.below(1500)),
                        pool,
                        server,
                        to: Some(address),
                    });
                }
            }
        }
    }
    moves
}
