//! What all shards see: limits, servers and their tuple spaces, and the way to each other.
//!
//! Shards share counters and tuple spaces, nothing else; a tunnel never crosses from one to another.

use crate::counters::Counters;
use crate::health::PoolHealth;
use crate::logs::{self, SharedLog};
use crate::rates::Rates;
use crate::reason::{LOG_INTERVAL_MS, Notices};
use crate::roster::Inquiry;
use fourfold_balance::health::Bar;
use fourfold_balance::{Aperture, Options, Picker, hash_key, server_id};
use fourfold_base::Millis;
use fourfold_base::gate::Gate;
use fourfold_config::{HostPort, Listener, Plan, Pool, PortMode};
use fourfold_engine::{Local, Sender};
use fourfold_ports::{Family, Mode, PortSet, PortSpan, Space, SpaceConfig};
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What of this machine decides how tuples are used. Gathered by the program, so that tests and the simulator can say
/// something else.
#[derive(Clone, Debug)]
pub struct Machine {
    pub kernel: (u32, u32),
    /// net.ipv4.ip_local_port_range
    pub local_port_range: PortSpan,
    /// net.ipv4.ip_local_reserved_ports
    pub reserved_ports: PortSet,
    /// net.ipv4.tcp_tw_reuse: 0 never, 1 always, 2 on loopback
    pub tw_reuse: u64,
    /// net.ipv4.tcp_tw_reuse_delay
    pub tw_reuse_delay_ms: u64,
    pub tcp_timestamps: bool,
    /// For numbers that nobody should guess or meet twice, such as request ids.
    pub seed: u64,
    /// Which keys of a rate limit share a place in its table: nobody outside may know.
    pub secret: [u64; 2],
}

impl Machine {
    /// Whether ports can be pinned without binding.
    pub fn has_late(&self) -> bool {
        self.kernel >= LATE_SINCE
    }
}

/// Linux 6.3 brought IP_LOCAL_PORT_RANGE.
const LATE_SINCE: (u32, u32) = (6, 3);
/// A tuple rests a little longer than the kernel asks, so that a lease never comes too early by a rounding.
const QUARANTINE_MARGIN_MS: u64 = 100;

/// A message to a shard.
#[derive(Debug)]
pub enum Mail {
    /// A tuple or a server of this pool has come free elsewhere.
    Wake { pool: usize },
    /// A server has got another address.
    Target { pool: usize, server: usize },
    /// A server has come up, and is to be loaded slowly.
    Up { pool: usize, server: usize, since: Millis },
    /// A server's checks have taken it down.
    Down { pool: usize, server: usize },
    /// A source does not get through to a server, or to any; others do. `until` 0: it does again.
    Avoid { pool: usize, server: Option<usize>, source: IpAddr, until: Millis },
    /// A client of another shard waits for what idle connections hold.
    Reclaim { pool: usize },
    /// Something is due earlier than it was.
    Look,
    /// Stop accepting, end when all connections have, reset what is left at `deadline`.
    Drain { deadline: Millis },
    /// Give idle memory back.
    Trim,
    /// Who is connected?
    Roster(Inquiry),
}

/// Where a server is at present, and the tuples towards it.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: SocketAddr,
    pub space: Arc<Space>,
    pub pin: Pin,
}

/// How a lease becomes a socket's local end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pin {
    Late,
    Early,
    /// The kernel is too old to pin ports without a source address: it chooses, the lease only counts.
    None,
}

impl Target {
    pub(crate) fn local(&self, source_index: u64, port: u16) -> Local {
        match (self.pin, self.space.source_address(source_index)) {
            (Pin::Late, ip) => Local::Late { ip, port },
            (Pin::Early, Some(ip)) => Local::Early { ip, port },
            (Pin::Early | Pin::None, _) => Local::Kernel,
        }
    }
}

#[derive(Debug)]
pub struct ServerState {
    target: Mutex<Option<Target>>,
    /// Connections made or being made, over all shards.
    pub active: AtomicU32,
    /// Requests in flight, over all shards.
    pub requests: AtomicU32,
    /// Failures in a row.
    failures: AtomicU32,
    failed_at: AtomicU64,
    /// Left alone until then.
    retry_at: AtomicU64,
    pub(crate) notice: Gate,
}

impl Default for ServerState {
    fn default() -> Self {
        Self {
            target: Mutex::default(),
            active: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            failed_at: AtomicU64::new(0),
            retry_at: AtomicU64::new(0),
            notice: Gate::new(LOG_INTERVAL_MS),
        }
    }
}

impl ServerState {
    pub fn target(&self) -> Option<Target> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn is_down(&self, now: Millis) -> bool {
        self.failures.load(Relaxed) > 0 && now < self.retry_at.load(Relaxed)
    }

    pub fn failures(&self) -> u32 {
        self.failures.load(Relaxed)
    }

    /// Counts a connection in, unless there are `limit` already. Shards compete for the last one.
    pub(crate) fn admit(&self, limit: Option<u32>) -> bool {
        let before = self.active.fetch_add(1, Relaxed);
        let admitted = limit.is_none_or(|limit| before < limit);
        if !admitted {
            self.dismiss();
        }
        admitted
    }

    pub(crate) fn dismiss(&self) {
        self.active.fetch_sub(1, Relaxed);
    }

    /// The same for a request.
    pub(crate) fn admit_request(&self, limit: Option<u32>) -> bool {
        let before = self.requests.fetch_add(1, Relaxed);
        let admitted = limit.is_none_or(|limit| before < limit);
        if !admitted {
            self.dismiss_request();
        }
        admitted
    }

    pub(crate) fn dismiss_request(&self) {
        self.requests.fetch_sub(1, Relaxed);
    }

    pub(crate) fn retry_at(&self) -> Millis {
        self.retry_at.load(Relaxed)
    }

    /// A server that has failed is tried by one client at a time: who gets `true` is the one, for as long as it may take.
    pub(crate) fn claim(&self, now: Millis, probe_ms: u64) -> bool {
        if self.failures.load(Relaxed) == 0 {
            return true;
        }
        let retry_at = self.retry_at.load(Relaxed);
        now >= retry_at && self.retry_at.compare_exchange(retry_at, now + probe_ms, Relaxed, Relaxed).is_ok()
    }

    /// The attempt of whoever claimed it has said nothing about it: the next one may find out.
    pub(crate) fn unclaim(&self, now: Millis) {
        if self.failures.load(Relaxed) > 0 {
            self.retry_at.store(now, Relaxed);
        }
    }

    pub(crate) fn succeeded(&self) {
        if self.failures.load(Relaxed) > 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// Doubles the time that it is left alone. Connections that were under way when the last failure came say nothing new.
    pub(crate) fn failed(&self, started: Millis, now: Millis, backoff_ms: u64, backoff_max_ms: u64) {
        let failures = self.failures.load(Relaxed);
        if failures > 0 && started <= self.failed_at.load(Relaxed) {
            return;
        }
        self.failed_at.store(now, Relaxed);
        let backoff = backoff_ms.saturating_mul(1 << failures.min(20)).min(backoff_max_ms);
        self.failures.store(failures.saturating_add(1), Relaxed);
        self.retry_at.store(now + backoff.max(1), Relaxed);
    }
}

#[derive(Debug)]
pub struct PoolState {
    pub servers: Vec<ServerState>,
    pub health: PoolHealth,
    /// What shards make theirs of: large tables are there once.
    pub(crate) picker: Picker,
    /// Sticky cookies name servers by these.
    pub(crate) ids: HashMap<u64, u32>,
    /// Tells this pool's cookies from others'.
    pub(crate) salt: u64,
    /// Requests in flight, where the pool has a limit to them.
    pub(crate) requests: AtomicU32,
    /// Clients waiting, over all shards.
    pub waiting: AtomicU32,
    pub queue_max: u32,
}

/// How fit a server is, for reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fitness {
    Up,
    /// Its check fails, or it failed a moment ago and is left alone.
    Down,
    Ejected,
    BreakerOpen,
    BreakerHalfOpen,
}

impl fmt::Display for Fitness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fitness::Up => "up",
            Fitness::Down => "down",
            Fitness::Ejected => "ejected",
            Fitness::BreakerOpen => "breaker-open",
            Fitness::BreakerHalfOpen => "breaker-half-open",
        })
    }
}

impl PoolState {
    fn new(pool: &Pool, shards: usize, queue_max: u32) -> Self {
        let servers = servers_of(pool);
        let ids = servers.iter().enumerate().map(|(index, server)| (server.id, index as u32)).collect();
        Self {
            servers: pool.servers.iter().map(|_| ServerState::default()).collect(),
            health: PoolHealth::new(pool.health.rules, servers.len()),
            picker: Picker::with_options(pool.balance, &servers, &options(pool, shards), 0),
            ids,
            salt: hash_key(pool.name.as_bytes()),
            requests: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            queue_max,
        }
    }

    /// Whether it would be used if it had room.
    pub(crate) fn is_fit(&self, plan: &Pool, server: usize, now: Millis) -> bool {
        self.health.board.is_usable(server)
            && self.servers.get(server).is_some_and(|server| !server.is_down(now))
            && plan.servers.get(server).is_some_and(|server| server.weight > 0)
    }

    pub fn fitness(&self, server: usize, now: Millis) -> Fitness {
        match self.health.board.bar(server) {
            Some(Bar::Down) => Fitness::Down,
            Some(Bar::Ejected) => Fitness::Ejected,
            Some(Bar::Open) => Fitness::BreakerOpen,
            Some(Bar::HalfOpen) => Fitness::BreakerHalfOpen,
            None if self.servers.get(server).is_some_and(|server| server.is_down(now)) => Fitness::Down,
            None => Fitness::Up,
        }
    }
}

/// Zones are numbered by their first mention; the pool's own may have no server.
fn servers_of(pool: &Pool) -> Vec<fourfold_balance::Server> {
    let zones = zones(pool);
    let number = |zone: &Option<String>| zones.iter().position(|known| known == zone).unwrap_or(0) as u16;
    let server = |server: &fourfold_config::Server| fourfold_balance::Server {
        id: server_id(&server.address.to_string()),
        weight: u32::from(server.weight),
        zone: number(&server.zone),
    };
    pool.servers.iter().map(server).collect()
}

fn zones(pool: &Pool) -> Vec<Option<String>> {
    let mut zones = vec![pool.zone.clone()];
    for server in &pool.servers {
        if !zones.contains(&server.zone) {
            zones.push(server.zone.clone());
        }
    }
    zones
}

/// Loads are counted over all shards, which are peers of their own in an aperture.
fn options(pool: &Pool, shards: usize) -> Options {
    let shards = shards.max(1) as u32;
    let aperture = pool.aperture.as_ref().map(|aperture| Aperture {
        peer: aperture.instance.saturating_mul(shards),
        peers: aperture.instances.saturating_mul(shards),
        together: shards,
        servers_min: aperture.servers_min,
    });
    Options {
        slow_start_ms: pool.slow_start_ms,
        zone: pool.zone.is_some().then_some(0),
        aperture,
        bound_percent: pool.hash_bound_percent,
        ..Options::new(pool.balance)
    }
}

/// What others may know of a shard.
#[derive(Default)]
pub struct ShardState {
    pub counters: Counters,
    /// Per pool: clients of this shard that wait.
    pub(crate) waiting: Vec<AtomicU32>,
    /// Per pool: connections to servers that lie ready.
    pub(crate) idle: Vec<AtomicU32>,
    sender: OnceLock<Sender<Mail>>,
}

/// How often clients may come to a listener.
pub(crate) struct ListenerRates {
    pub connections: Rates,
    pub requests: Rates,
}

impl ListenerRates {
    fn new(listener: &Listener, secret: [u64; 2]) -> Self {
        let requests = listener.http.as_deref().map(|http| Rates::new(&http.request_rates, secret));
        Self {
            connections: Rates::new(&listener.connection_rates, secret),
            requests: requests.unwrap_or_default(),
        }
    }
}

pub struct Shared {
    pub plan: Arc<Plan>,
    pub machine: Machine,
    pub connections_max: u64,
    /// Clients accepted and not yet gone.
    pub connections: AtomicU64,
    /// Per listener.
    pub listener_connections: Vec<AtomicU64>,
    /// The program starts their writers.
    pub logs: Vec<SharedLog>,
    pub(crate) rates: Vec<ListenerRates>,
    pub pools: Vec<PoolState>,
    pub shards: Vec<ShardState>,
    pub connections_per_shard: usize,
    /// Two pools with the same servers and sources draw from the same tuples.
    spaces: Mutex<HashMap<SpaceKey, Arc<Space>>>,
    next_wake: AtomicU32,
    pub(crate) notices: Notices,
}

type SpaceKey = (SocketAddr, String, PortSpan, Mode);

/// Of the connections that may be open, the part that may wait for a tuple or a server when queue_max is not given.
const QUEUE_SHARE: u64 = 4;
const QUEUE_MIN: u64 = 128;

impl Shared {
    pub fn new(
        plan: Arc<Plan>,
        machine: Machine,
        shards: usize,
        connections_max: u64,
        connections_per_shard: usize,
    ) -> Result<Arc<Self>, SetupError> {
        for pool in &plan.pools {
            pin(pool.port_mode, pool.ports, &pool.sources, &machine)
                .map_err(|why| SetupError { pool: pool.name.clone(), why })?;
        }
        let queue_max = |asked: Option<u32>| {
            asked.unwrap_or_else(|| {
                (connections_max / QUEUE_SHARE).max(QUEUE_MIN).min(u64::from(u32::MAX)) as u32
            })
        };
        let pools = plan.pools.iter().map(|pool| PoolState::new(pool, shards, queue_max(pool.queue_max)));
        let shard = |_| ShardState {
            waiting: plan.pools.iter().map(|_| AtomicU32::new(0)).collect(),
            idle: plan.pools.iter().map(|_| AtomicU32::new(0)).collect(),
            ..ShardState::default()
        };
        Ok(Arc::new(Self {
            pools: pools.collect(),
            shards: (0..shards).map(shard).collect(),
            listener_connections: plan.listeners.iter().map(|_| AtomicU64::new(0)).collect(),
            connections: AtomicU64::new(0),
            logs: logs::of_plan(&plan, shards),
            rates: plan.listeners.iter().map(|one| ListenerRates::new(one, machine.secret)).collect(),
            spaces: Mutex::default(),
            next_wake: AtomicU32::new(0),
            notices: Notices::default(),
            plan,
            machine,
            connections_max,
            connections_per_shard,
        }))
    }

    /// Servers named by address, which need no resolving.
    pub fn set_literal_targets(&self) -> Result<(), TargetError> {
        for (p, pool) in self.plan.pools.iter().enumerate() {
            for (s, server) in pool.servers.iter().enumerate() {
                if let HostPort::Ip(address) = server.address {
                    self.set_target(p, s, Some(address))?;
                }
            }
        }
        Ok(())
    }

    /// Where a server is now; `None` when its name does not resolve. Shards are told.
    pub fn set_target(
        &self,
        pool: usize,
        server: usize,
        address: Option<SocketAddr>,
    ) -> Result<(), TargetError> {
        let target = address.map(|address| self.make_target(pool, address)).transpose()?;
        let Some(state) = self.server(pool, server) else { return Ok(()) };
        if let (Some(target), Some(pool)) = (&target, self.pools.get(pool)) {
            pool.health.set_sources(server, target.space.sources().len());
        }
        if let Some(pool) = self.pools.get(pool) {
            pool.health.reset_checks(server, target.as_ref());
        }
        *state.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
        for shard in &self.shards {
            shard.tell(Mail::Target { pool, server });
        }
        Ok(())
    }

    fn make_target(&self, pool: usize, address: SocketAddr) -> Result<Target, TargetError> {
        let failed = |why: String| TargetError { address, why };
        let pool = self.plan.pools.get(pool).ok_or_else(|| failed("no such pool".into()))?;
        let pin = pin(pool.port_mode, pool.ports, &pool.sources, &self.machine).map_err(failed)?;
        let mode = if pin == Pin::Early { Mode::Early } else { Mode::Late };
        let span = pool.ports.unwrap_or(self.machine.local_port_range);
        let mut spaces = self.spaces.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (address, pool.sources.to_string(), span, mode);
        if let Some(space) = spaces.get(&key) {
            return Ok(Target { address, space: Arc::clone(space), pin });
        }
        let family = (!pool.sources.is_kernel_chosen()).then(|| Family::of(address.ip()));
        // From its own address and port a connection would meet itself once the server is gone (RFC 9293, 3.5: simultaneous open).
        let reserved = match pool.sources.contains(address.ip()) {
            true => self.machine.reserved_ports.with(address.port()),
            false => self.machine.reserved_ports.clone(),
        };
        let config = SpaceConfig {
            time_wait_quarantine_ms: self.quarantine_ms(mode, &address),
            reserved,
            family,
            shards: self.shards.len(),
            ..SpaceConfig::new(pool.sources.clone(), span, mode)
        };
        let space = Space::new(config).map_err(|error| failed(error.to_string()))?;
        spaces.insert(key, Arc::clone(&space));
        Ok(Target { address, space, pin })
    }

    /// How long a tuple rests that our side closed first: `inet_csk_get_port`/`tcp_twsk_unique` decide when it may be used.
    fn quarantine_ms(&self, mode: Mode, remote: &SocketAddr) -> u64 {
        let machine = &self.machine;
        let reusable = match (mode, machine.tw_reuse) {
            (Mode::Early, _) => return if machine.tcp_timestamps { 0 } else { fourfold_ports::TIME_WAIT_MS },
            (Mode::Late, 1) => machine.tcp_timestamps,
            (Mode::Late, 2) => machine.tcp_timestamps && remote.ip().is_loopback(),
            (Mode::Late, _) => false,
        };
        let ms = if reusable { machine.tw_reuse_delay_ms } else { fourfold_ports::TIME_WAIT_MS };
        ms + QUARANTINE_MARGIN_MS
    }

    pub fn server(&self, pool: usize, server: usize) -> Option<&ServerState> {
        self.pools.get(pool)?.servers.get(server)
    }

    /// Every space once, with the address that it leads to.
    pub fn spaces(&self) -> Vec<(SocketAddr, Arc<Space>)> {
        let spaces = self.spaces.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = spaces.iter().map(|(key, space)| (key.0, Arc::clone(space))).collect();
        all.sort_by_key(|(address, _)| *address);
        all
    }

    /// Tells one shard with clients waiting, other than `from`, that something of `pool` has come free.
    pub(crate) fn wake_another(&self, pool: usize, from: usize) {
        let count = self.shards.len();
        let first = self.next_wake.fetch_add(1, Relaxed) as usize;
        let waits = |index: &usize| {
            let shard = self.shards.get(*index);
            *index != from
                && shard.and_then(|s| s.waiting.get(pool)).is_some_and(|waiting| waiting.load(Relaxed) > 0)
        };
        if let Some(index) = (0..count).map(|step| (first + step) % count).find(waits)
            && let Some(shard) = self.shards.get(index)
        {
            shard.tell(Mail::Wake { pool });
        }
    }
}

impl ShardState {
    /// Called once, before the shard runs.
    pub fn set_sender(&self, sender: Sender<Mail>) {
        let _ = self.sender.set(sender);
    }

    /// Connections to servers of this pool that lie ready.
    pub fn idle(&self, pool: usize) -> u32 {
        self.idle.get(pool).map_or(0, |idle| idle.load(Relaxed))
    }

    /// A full mailbox means that the shard is about to look anyway: every mail but `Drain` is a hint.
    pub fn tell(&self, mail: Mail) -> bool {
        self.sender.get().is_some_and(|sender| sender.send(mail).is_ok())
    }
}

/// How ports are pinned for a pool, or why they cannot be.
fn pin(
    mode: PortMode,
    ports: Option<PortSpan>,
    sources: &fourfold_ports::SourceSet,
    machine: &Machine,
) -> Result<Pin, String> {
    let range = machine.local_port_range;
    let span = ports.unwrap_or(range);
    let inside = range.contains(span.first()) && range.contains(span.last());
    let has_late = machine.has_late();
    let (major, minor) = machine.kernel;
    match mode {
        PortMode::Late if !has_late => Err(format!(
            "port_mode \"late\" needs Linux 6.3 (IP_LOCAL_PORT_RANGE), this is {major}.{minor}: use \"early\""
        )),
        // ip(7): outside of the range the option is ignored without an error.
        PortMode::Late if !inside => Err(format!(
            "ports {span} reach outside of net.ipv4.ip_local_port_range ({range}), where the kernel would ignore them: \
             widen it (sysctl -w net.ipv4.ip_local_port_range=\"{} {}\") or set port_mode = \"early\"",
            span.first().min(range.first()),
            span.last().max(range.last())
        )),
        PortMode::Late => Ok(Pin::Late),
        PortMode::Auto if has_late && inside => Ok(Pin::Late),
        PortMode::Auto | PortMode::Early if sources.is_kernel_chosen() => match (mode, ports) {
            (PortMode::Auto, None) => Ok(Pin::None),
            _ => Err(format!(
                "ports {span} must be bound before connecting, which needs an address to bind: name the pool's `sources`"
            )),
        },
        PortMode::Auto | PortMode::Early => Ok(Pin::Early),
    }
}

/// A pool that cannot work on this machine.
#[derive(Debug)]
pub struct SetupError {
    pub pool: String,
    pub why: String,
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool \"{}\": {}", self.pool, self.why)
    }
}
impl std::error::Error for SetupError {}

/// A server address that the pool cannot reach by its own rules.
#[derive(Debug)]
pub struct TargetError {
    pub address: SocketAddr,
    pub why: String,
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server {}: {}", self.address, self.why)
    }
}
impl std::error::Error for TargetError {}
