//! An origin to put a proxy in front of: every connection is echoed, swallowed or flooded.
//!
//! Owns: accepted connections, a slab entry of 12 bytes each, and counters that other threads may read.
//! Refuses: nothing; beyond its limit connections wait in the backlog until others leave.
//! Driven by: the engine's shards ([`start`]), or any other [`Net`].
//!
//! ```text
//! Accepted ──► open ──Eof──► ending ──Finished──► closing ──Closed──► gone
//!               └──────────────┴─────Failed, Stop───┘
//! ```

use crate::StartError;
use crate::door::Door;
use crate::machine::plan;
use fourfold_base::Millis;
use fourfold_base::slab::{Key, Slab};
use fourfold_engine::{
    App, BUFFER_BYTES, Buf, Close, Demand, Engine, EpollNet, Event, Handler, Listen, Net, Pressure, Shard,
    ShardPlan, Sock, SpawnError, UringNet, spawn,
};
use fourfold_sys::{Errno, socket};
use std::net::SocketAddr;
use std::sync::Arc;

/// Connections that the kernel completes ahead of us, per shard; net.core.somaxconn bounds it further.
pub const BACKLOG: u32 = 65_535;
/// When buffers have run out, a flooding connection looks for one again after this.
pub const BUFFER_RETRY_MS: Millis = 2;
/// A port that the kernel has just named can be taken by another program before the shards bind it.
const PORT_ATTEMPTS: usize = 8;

/// What the origin does with a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Behaviour {
    /// Sends back what it gets, byte for byte, as fast as the peer takes it.
    #[default]
    Echo,
    /// Accepts and never reads. It does not see the peer leave either; connections end with the origin.
    Sink,
    /// Sends for ever and drops what it gets.
    Source,
}

fourfold_base::counters! {
    /// Of one shard.
    pub struct OriginCounters {
        accepted: "Connections accepted",
        open: "Connections open now",
        failed: "Connections that ended by a reset or another error",
        accept_errors: "Times that accepting failed and was tried again later",
        received_bytes: "Bytes received",
        sent_bytes: "Bytes handed to the engine for sending",
    }
}

/// A sum over all shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OriginStats {
    pub accepted: u64,
    pub open: u64,
    pub failed: u64,
    pub accept_errors: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

impl OriginStats {
    fn add(mut self, shard: &OriginCounters) -> Self {
        self.accepted += shard.accepted.get();
        self.open += shard.open.get();
        self.failed += shard.failed.get();
        self.accept_errors += shard.accept_errors.get();
        self.received_bytes += shard.received_bytes.get();
        self.sent_bytes += shard.sent_bytes.get();
        self
    }
}

/// What other threads may tell an origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OriginMail {
    /// Reset every connection and end.
    Stop,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The peer has sent FIN; ours follows the last byte.
    Ending,
    Closing,
}

struct Conn {
    sock: Sock,
    phase: Phase,
}

/// The app of one shard.
pub struct Origin {
    behaviour: Behaviour,
    conns: Slab<Conn>,
    counters: Arc<OriginCounters>,
    door: Door,
    /// Flooding connections that found no buffer.
    starved: Vec<Key>,
    starved_until: Millis,
}

impl Origin {
    /// Accepts up to `connections_max` at a time; `slots` is what the net may hand it before it has stopped accepting.
    pub fn new(
        behaviour: Behaviour,
        connections_max: usize,
        slots: usize,
        counters: Arc<OriginCounters>,
    ) -> Self {
        Self {
            behaviour,
            conns: Slab::new(slots.max(connections_max)),
            counters,
            door: Door::new(connections_max),
            starved: Vec::new(),
            starved_until: 0,
        }
    }

    fn on_accepted<N: Net>(&mut self, net: &mut N, sock: Sock) {
        if self.door.is_stopping() {
            return net.close(sock, Close::Reset);
        }
        let Ok(key) = self.conns.insert(Conn { sock, phase: Phase::Open }) else {
            return net.close(sock, Close::Reset);
        };
        self.counters.accepted.add(1);
        self.counters.open.add(1);
        net.adopt(sock, key.to_bits());
        self.door.entered(net, self.conns.len());
        if self.behaviour != Behaviour::Sink {
            net.receive(sock);
        }
        if self.behaviour == Behaviour::Source {
            self.flood(net, key);
        }
    }

    fn on_received<N: Net>(&mut self, net: &mut N, sock: Sock, buf: Buf) {
        let bytes = buf.len() as u64;
        self.counters.received_bytes.add(bytes);
        if self.behaviour != Behaviour::Echo {
            return net.free(buf);
        }
        self.counters.sent_bytes.add(bytes);
        if net.send(sock, buf) == Pressure::Full {
            net.pause(sock);
        }
    }

    fn on_drained<N: Net>(&mut self, net: &mut N, key: Key) {
        match (self.behaviour, self.conns.get(key)) {
            (Behaviour::Source, Some(_)) => self.flood(net, key),
            (_, Some(Conn { sock, phase: Phase::Open })) => net.receive(*sock),
            _ => {}
        }
    }

    fn on_eof<N: Net>(&mut self, net: &mut N, key: Key) {
        let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.phase == Phase::Open) else { return };
        if self.behaviour == Behaviour::Source {
            return self.close(net, key, Close::Orderly);
        }
        conn.phase = Phase::Ending;
        net.finish(conn.sock);
    }

    fn close<N: Net>(&mut self, net: &mut N, key: Key, how: Close) {
        let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.phase != Phase::Closing) else { return };
        conn.phase = Phase::Closing;
        net.close(conn.sock, how);
    }

    fn on_closed<N: Net>(&mut self, net: &mut N, key: Key) {
        if self.conns.remove(key).is_none() {
            return;
        }
        self.counters.open.sub(1);
        self.door.left(net, self.conns.len());
    }

    /// Sends until the socket is full; its [`Event::Drained`] continues.
    fn flood<N: Net>(&mut self, net: &mut N, key: Key) {
        let Some(conn) = self.conns.get(key).filter(|conn| conn.phase == Phase::Open) else { return };
        loop {
            let Some(mut buf) = net.alloc() else {
                self.starved_until = net.now() + BUFFER_RETRY_MS;
                return self.starved.push(key);
            };
            // Whose bytes were in it before is nobody's business.
            net.bytes_mut(&mut buf).fill(0);
            self.counters.sent_bytes.add(BUFFER_BYTES as u64);
            if net.send(conn.sock, buf) == Pressure::Full {
                return;
            }
        }
    }

    fn stop<N: Net>(&mut self, net: &mut N) {
        self.door.stop(net);
        for slot in 0..self.conns.slots() {
            if let Some(key) = self.conns.key_at(slot) {
                self.close(net, key, Close::Reset);
            }
        }
    }
}

impl<N: Net> Handler<N> for Origin {
    fn on_event(&mut self, net: &mut N, event: Event) {
        match event {
            Event::Accepted { sock, .. } => self.on_accepted(net, sock),
            Event::AcceptFailed { .. } => {
                self.counters.accept_errors.add(1);
                self.door.failed(net.now());
            }
            Event::Received { sock, buf, .. } => self.on_received(net, sock, buf),
            Event::Eof { owner, .. } => self.on_eof(net, Key::from_bits(owner)),
            Event::Drained { owner, .. } => self.on_drained(net, Key::from_bits(owner)),
            Event::Finished { owner, .. } => self.close(net, Key::from_bits(owner), Close::Orderly),
            Event::Failed { owner, .. } => {
                self.counters.failed.add(1);
                self.close(net, Key::from_bits(owner), Close::Orderly);
            }
            Event::Closed { owner } => self.on_closed(net, Key::from_bits(owner)),
            Event::Unspliced { .. } => {}
            Event::Connected { sock, .. } | Event::ConnectFailed { sock, .. } => {
                net.close(sock, Close::Reset)
            }
        }
    }
}

impl<N: Net> App<N> for Origin {
    type Mail = OriginMail;

    fn start(&mut self, net: &mut N) {
        self.door.open(net);
    }

    fn on_mail(&mut self, net: &mut N, mail: OriginMail) {
        match mail {
            OriginMail::Stop => self.stop(net),
        }
    }

    fn on_turn(&mut self, net: &mut N) {
        self.door.handle_timeout(net);
        if !self.starved.is_empty() && self.starved_until <= net.now() {
            for key in std::mem::take(&mut self.starved) {
                self.flood(net, key);
            }
        }
    }

    fn poll_timeout(&self) -> Option<Millis> {
        let starved = (!self.starved.is_empty()).then_some(self.starved_until);
        self.door.poll_timeout().into_iter().chain(starved).min()
    }

    fn is_finished(&self) -> bool {
        self.door.is_stopping() && self.conns.is_empty()
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub struct OriginConfig {
    /// Port 0: the kernel names one, see [`RunningOrigin::address`].
    pub listen: SocketAddr,
    pub behaviour: Behaviour,
    /// `None`: the best that works here.
    pub engine: Option<Engine>,
    /// How many it must be able to hold. `None`: what one shard per processor can.
    pub connections: Option<u64>,
    /// `None`: derived.
    pub shards: Option<usize>,
}

impl OriginConfig {
    pub fn new(listen: SocketAddr) -> Self {
        Self { listen, behaviour: Behaviour::Echo, engine: None, connections: None, shards: None }
    }
}

/// An origin on threads of its own. Dropping it leaves it running; [`Self::stop`] ends it.
pub struct RunningOrigin {
    address: SocketAddr,
    plan: ShardPlan,
    shards: Vec<Shard<Origin, OriginMail>>,
    counters: Vec<Arc<OriginCounters>>,
}

/// Opens the listeners and accepts.
pub fn start(config: &OriginConfig) -> Result<RunningOrigin, StartError> {
    let plan = plan_origin(config.engine, config.connections, config.shards)?;
    let counters: Vec<_> = (0..plan.shards).map(|_| Arc::new(OriginCounters::default())).collect();
    let (limit, slots) = (plan.connections_per_shard as usize, plan.accept_slots as usize);
    let (address, shards) = spawn_on(config.listen, &plan, |shard| {
        let counters = counters.get(shard).map(Arc::clone).unwrap_or_default();
        Origin::new(config.behaviour, limit, slots, counters)
    })?;
    Ok(RunningOrigin { address, plan, shards, counters })
}

pub(crate) fn plan_origin(
    engine: Option<Engine>,
    connections: Option<u64>,
    shards: Option<usize>,
) -> Result<ShardPlan, StartError> {
    plan(engine, &Demand { connections, shards, accepts: 1, connects: 0, listeners: 1 })
}

/// Spawns one app per shard on `listen`, and says where that is.
pub(crate) fn spawn_on<A, M>(
    listen: SocketAddr,
    plan: &ShardPlan,
    mut make: impl FnMut(usize) -> A,
) -> Result<(SocketAddr, Vec<Shard<A, M>>), StartError>
where
    A: App<EpollNet, Mail = M> + App<UringNet, Mail = M> + Send + 'static,
    M: Send + 'static,
{
    let mut attempts = 0..PORT_ATTEMPTS;
    loop {
        let address = name_port(listen).map_err(StartError::Port)?;
        let listen_on = Listen { address, backlog: BACKLOG };
        match spawn(plan, &[listen_on], None, &mut make) {
            Ok(shards) => return Ok((address, shards)),
            Err(SpawnError::Listen { errno: Errno::EADDRINUSE, .. })
                if listen.port() == 0 && attempts.next().is_some() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// All shards listen on one port, so a free one is found out beforehand.
fn name_port(listen: SocketAddr) -> Result<SocketAddr, Errno> {
    if listen.port() != 0 {
        return Ok(listen);
    }
    socket::free_port(&listen)
}

impl RunningOrigin {
    /// Where it listens, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn plan(&self) -> &ShardPlan {
        &self.plan
    }

    pub fn stats(&self) -> OriginStats {
        self.counters.iter().fold(OriginStats::default(), |sum, shard| sum.add(shard))
    }

    /// Resets all connections, closes the listeners and ends the threads.
    pub fn stop(self) -> Result<OriginStats, Errno> {
        stop_shards(self.shards)
            .map(|()| self.counters.iter().fold(OriginStats::default(), |sum, shard| sum.add(shard)))
    }
}

pub(crate) fn stop_shards<A>(shards: Vec<Shard<A, OriginMail>>) -> Result<(), Errno> {
    for shard in &shards {
        // Its mailbox is full or the shard has ended; joining it tells.
        let _ = shard.sender.send(OriginMail::Stop);
    }
    let mut result = Ok(());
    for shard in shards {
        // All are joined, whatever has become of the first.
        let ended = shard.thread.join().unwrap_or(Err(Errno::ECANCELED));
        result = result.and(ended.map(drop));
    }
    result
}
