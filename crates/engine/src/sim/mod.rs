//! A machine that does not exist: the third backend. Seeded, with virtual time, without a kernel.
//!
//! Owns: one shard's sockets, and the connections behind them with a small model of TCP (buffers, FIN, RST, backlog,
//! TIME_WAIT) and scripted peers at their other ends. What all shards share, the table of tuples, is the [`Machine`]'s.
//! Refuses nothing that an app may do; what it must not do (a tuple taken twice, an operation on a closed socket) is
//! recorded, see [`SimNet::take_violations`].
//! Driven by: an app like every backend; the world's part by whoever adds clients and answers for servers ([`Director`]).
//!
//! Both real backends' manners are covered. [`Style::Readiness`]: calls have effect at once, a socket is looked at when its
//! turn comes, as with epoll. [`Style::Completion`]: operations complete turns later, a batch of completions is fixed before
//! the first of them is handled, so bytes may come after `pause`, and a close takes its time, as with io_uring.

mod config;
mod conn;
pub mod content;
mod machine;
mod peer;
mod script;
mod splice;
#[cfg(test)]
mod tests;
mod turn;

pub use config::{Attempt, Director, Fault, SimConfig, SimStats, Style};
pub use conn::{Answer, AppEnd, Behaviour, Break, Connection, End, Kind, PeerEnd, RECEIVE_BUFFER, Start};
pub use machine::{Machine, SharedMachine, Tuple};
pub use script::{Ended, Move, Script};

use crate::net::SEND_QUEUE_HIGH;
use crate::net::{Close, Handler, ListenerId, NO_OWNER, Net, NetStats, Pressure, Refused, Sock};
use fourfold_base::Millis;
use fourfold_base::prng::Prng;
use fourfold_sys::Errno;
use fourfold_sys::buffers::{Buf, Pool};
use fourfold_sys::socket::{Local, Step};
use machine::Taking;
use script::Talk;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Free,
    Connecting,
    Open,
    /// Broken: reported, waiting for the app's close.
    Dead,
    /// Closed by the app, not yet by the kernel.
    Closing,
}

struct Slot {
    generation: u32,
    phase: Phase,
    owner: u64,
    conn: usize,
    queue: VecDeque<Buf>,
    queued: usize,
    wanted: bool,
    /// The app was told the end.
    ended: bool,
    finish: bool,
    full: bool,
    emptied: bool,
    /// Completion style: a send is in flight. Readiness style: the last one was not taken whole.
    sending: bool,
    /// Completion style: a pause takes effect after this turn.
    lingers_until: u64,
    how: Close,
    /// With whom the kernel carries it.
    carried: Option<splice::Carried>,
    /// In `active`.
    active: bool,
    /// In `dirty`.
    dirty: bool,
}

impl Slot {
    fn new(generation: u32) -> Self {
        Self {
            generation,
            phase: Phase::Free,
            owner: NO_OWNER,
            conn: 0,
            queue: VecDeque::new(),
            queued: 0,
            wanted: false,
            ended: false,
            finish: false,
            full: false,
            emptied: false,
            sending: false,
            lingers_until: 0,
            how: Close::Orderly,
            carried: None,
            active: false,
            dirty: false,
        }
    }
}

struct Listener {
    open: bool,
    accepting: bool,
    backlog: VecDeque<usize>,
}

/// What happens at a time. The order of variants is of no importance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Action {
    Arrive(usize),
    Answer(usize),
    Write(usize),
    /// A peer that speaks makes its next move.
    Step(usize),
    Read(usize),
    Break(usize),
    /// The kernel gives the peer up, or learns that the peer has.
    Lost(usize, i32),
    /// Look at this slot.
    Look(u32, u32),
    Close(u32, u32),
}

pub struct SimNet {
    rng: Prng,
    config: SimConfig,
    machine: SharedMachine,
    director: Box<dyn Director>,
    now: Millis,
    conns: Vec<Connection>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    accepted_open: usize,
    sockets: usize,
    listeners: Vec<Listener>,
    pool: Pool,
    agenda: BinaryHeap<Reverse<(Millis, u64, Action)>>,
    /// Slots of which something may be new.
    active: Vec<u32>,
    dirty: Vec<u32>,
    closed: VecDeque<u64>,
    preparing: Vec<[Sock; 2]>,
    buffer_shortages: u64,
    turns: u64,
    idle_turns: u32,
    stats: SimStats,
    violations: Vec<String>,
    trace: VecDeque<String>,
}

/// Ports that the virtual kernel chooses from.
const KERNEL_PORTS: std::ops::Range<u16> = 32_768..61_000;

impl SimNet {
    pub fn new(config: SimConfig, machine: SharedMachine, director: Box<dyn Director>) -> Self {
        let listener = |_| Listener { open: true, accepting: false, backlog: VecDeque::new() };
        Self {
            rng: Prng::new(config.seed),
            listeners: (0..config.listeners).map(listener).collect(),
            pool: Pool::new(config.buffers_max),
            config,
            machine,
            director,
            now: 0,
            conns: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
            accepted_open: 0,
            sockets: 0,
            agenda: BinaryHeap::new(),
            active: Vec::new(),
            dirty: Vec::new(),
            closed: VecDeque::new(),
            preparing: Vec::new(),
            buffer_shortages: 0,
            turns: 0,
            idle_turns: 0,
            stats: SimStats::default(),
            violations: Vec::new(),
            trace: VecDeque::new(),
        }
    }

    /// A client that will come at `at`; its index in [`Self::connections`].
    pub fn add_client(
        &mut self,
        listener: ListenerId,
        from: SocketAddr,
        at: Millis,
        behaviour: Behaviour,
    ) -> usize {
        let stream = self.machine.borrow_mut().next_stream();
        self.conns.push(Connection::new(Kind::Client(listener), stream, from, behaviour));
        let conn = self.conns.len() - 1;
        self.schedule(at, Action::Arrive(conn));
        conn
    }

    /// As [`Self::add_client`], one that speaks.
    pub fn add_speaker(
        &mut self,
        listener: ListenerId,
        from: SocketAddr,
        at: Millis,
        behaviour: Behaviour,
        script: Box<dyn Script>,
    ) -> usize {
        let conn = self.add_client(listener, from, at, behaviour);
        if let Some(entry) = self.conns.get_mut(conn) {
            entry.talk = Some(Talk::new(script));
        }
        conn
    }

    pub fn connections(&self) -> &[Connection] {
        &self.conns
    }

    /// When something happens next by itself; `now` when it already has. `None`: never.
    pub fn next_event(&mut self) -> Option<Millis> {
        if self.has_ready() {
            return Some(self.now);
        }
        self.agenda.peek().map(|entry| entry.0.0)
    }

    /// What the app did that it must not, and what it did to its peers' bytes; empties the list.
    pub fn take_violations(&mut self) -> Vec<String> {
        std::mem::take(&mut self.violations)
    }

    pub fn sim_stats(&self) -> SimStats {
        self.stats
    }

    /// The last events, oldest first.
    pub fn trace(&self) -> impl Iterator<Item = &str> {
        self.trace.iter().map(String::as_str)
    }

    /// Sockets waiting in backlogs.
    pub fn backlog(&self) -> usize {
        self.listeners.iter().map(|listener| listener.backlog.len()).sum()
    }

    fn schedule(&mut self, at: Millis, action: Action) {
        // Things of the same time happen in any order.
        let order = self.rng.next_u64();
        self.agenda.push(Reverse((at, order, action)));
    }

    fn delay(&mut self) -> Millis {
        u64::from(self.rng.below(self.config.delay_ms + 1))
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.config.trace > 0 {
            if self.trace.len() >= self.config.trace {
                self.trace.pop_front();
            }
            self.trace.push_back(format!("{:>7} {}", self.now, text()));
        }
    }

    fn live(&mut self, sock: Sock) -> Option<&mut Slot> {
        live(&mut self.slots, sock)
    }

    /// As [`Self::live`], for operations of the app: it should know what it has closed.
    fn operand(&mut self, sock: Sock) -> Option<&mut Slot> {
        let known = live(&mut self.slots, sock);
        if known.is_none() && sock != Sock::NONE {
            self.stats.stale_operations += 1;
        }
        known
    }

    fn conn_of(&mut self, index: u32) -> Option<&mut Connection> {
        self.conns.get_mut(self.slots.get(index as usize)?.conn)
    }

    fn open_slot(&mut self, conn: usize, phase: Phase) -> Sock {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::new(0));
            self.slots.len() as u32 - 1
        });
        self.sockets += 1;
        let mut sock = Sock { index, generation: 0 };
        if let Some(slot) = self.slots.get_mut(index as usize) {
            (slot.phase, slot.conn) = (phase, conn);
            sock.generation = slot.generation;
        }
        if let Some(conn) = self.conns.get_mut(conn) {
            conn.app = AppEnd::Open(sock);
        }
        sock
    }

    fn has_connect_slot(&self) -> bool {
        match self.config.style {
            Style::Readiness => self.sockets < self.config.accept_slots + self.config.connect_slots,
            Style::Completion => self.sockets - self.accepted_open < self.config.connect_slots,
        }
    }

    fn has_accept_slot(&self) -> bool {
        match self.config.style {
            Style::Readiness => self.sockets < self.config.accept_slots + self.config.connect_slots,
            Style::Completion => self.accepted_open < self.config.accept_slots,
        }
    }

    fn mark_dirty(&mut self, sock: Sock) {
        if let Some(slot) = self.live(sock)
            && !std::mem::replace(&mut slot.dirty, true)
        {
            self.dirty.push(sock.index);
        }
    }

    fn mark_active(&mut self, index: u32) {
        if let Some(slot) = self.slots.get_mut(index as usize)
            && !std::mem::replace(&mut slot.active, true)
        {
            self.active.push(index);
        }
    }

    fn clear_queue(&mut self, index: u32) {
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        slot.queued = 0;
        for buf in slot.queue.drain(..) {
            self.pool.free(buf);
        }
    }

    /// Takes the tuple as the kernel does, the last step before the SYN.
    fn take_tuple(
        &mut self,
        conn: usize,
        local: Local,
        remote: SocketAddr,
    ) -> Result<Attempt, (Step, Errno)> {
        let default: IpAddr = match remote.ip() {
            ip if ip.is_loopback() => ip,
            IpAddr::V4(_) => Ipv4Addr::new(10, 0, 0, 1).into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let mut machine = self.machine.borrow_mut();
        let (source, port, taking) = match local {
            Local::Late { ip, port } => (ip.unwrap_or(default), port, Taking::Late),
            Local::Early { ip, port } => (ip, port, Taking::Early),
            Local::Kernel => {
                let span = u32::from(KERNEL_PORTS.end - KERNEL_PORTS.start);
                let first = self.rng.below(span);
                let free =
                    |port: &u16| machine.is_free(&Tuple { source: default, port: *port, remote }, self.now);
                let port = (0..span)
                    .map(|n| KERNEL_PORTS.start + ((first + n) % span) as u16)
                    .find(free)
                    .ok_or((Step::Connect, Errno::EADDRNOTAVAIL))?;
                (default, port, Taking::Late)
            }
        };
        let tuple = Tuple { source, port, remote };
        machine.acquire(tuple, taking, self.now)?;
        if let Some(conn) = self.conns.get_mut(conn) {
            conn.tuple = Some(tuple);
        }
        Ok(Attempt { source, port, remote, now: self.now })
    }
}

impl Net for SimNet {
    fn accept(&mut self, listener: ListenerId) {
        if let Some(entry) = self.listeners.get_mut(listener.0 as usize) {
            entry.accepting = entry.open;
        }
    }

    fn stop_accepting(&mut self, listener: ListenerId) {
        if let Some(entry) = self.listeners.get_mut(listener.0 as usize) {
            entry.accepting = false;
        }
    }

    fn close_listener(&mut self, listener: ListenerId) {
        let Some(entry) = self.listeners.get_mut(listener.0 as usize) else { return };
        (entry.open, entry.accepting) = (false, false);
        for conn in std::mem::take(&mut entry.backlog) {
            self.turn_away(conn);
        }
    }

    fn listeners(&self) -> usize {
        self.listeners.len()
    }

    fn connect(&mut self, remote: &SocketAddr, local: Local, owner: u64) -> Result<Sock, Refused> {
        self.stats.connects += 1;
        if !self.has_connect_slot() {
            return Err(Refused { step: Step::Socket, errno: Errno::EMFILE });
        }
        let stream = self.machine.borrow_mut().next_stream();
        self.conns.push(Connection::new(Kind::Server, stream, *remote, Behaviour::default()));
        let conn = self.conns.len() - 1;
        let (after, error) = match self.take_tuple(conn, local, *remote) {
            Err(error) => (0, Some(error)),
            Ok(attempt) => {
                let Answer { after, outcome } = self.director.connect(&mut self.rng, &attempt);
                let error = outcome.map(|behaviour| self.conns[conn].behaviour = behaviour).err();
                if error.is_none() {
                    self.conns[conn].talk = self.director.script(&mut self.rng, &attempt).map(Talk::new);
                }
                (after, error)
            }
        };
        self.conns[conn].refusal = error;
        self.conns[conn].owner = Some(owner);
        self.note(|| format!("connect c{conn} {local:?} {remote}: {error:?} after {after}"));
        if let (Some((step, errno)), 0, Style::Readiness) = (error, after, self.config.style) {
            self.never_was(conn);
            return Err(Refused { step, errno });
        }
        let sock = self.open_slot(conn, Phase::Connecting);

        if let Some(slot) = self.live(sock) {
            slot.owner = owner;
        }
        self.schedule(self.now + after, Action::Answer(conn));
        Ok(sock)
    }

    fn adopt(&mut self, sock: Sock, owner: u64) {
        let Some(slot) = self.operand(sock) else { return };
        slot.owner = owner;
        let Some(conn) = self.conn_of(sock.index) else { return };
        let first = conn.owner.replace(owner).is_none();
        self.stats.adopted += usize::from(first);
    }

    fn receive(&mut self, sock: Sock) {
        if let Some(slot) = self.operand(sock) {
            slot.wanted = !slot.ended;
            self.mark_active(sock.index);
        }
    }

    fn pause(&mut self, sock: Sock) {
        let late = self.config.style == Style::Completion && self.rng.chance(1, 2);
        let turns = self.turns;
        if let Some(slot) = self.operand(sock)
            && std::mem::replace(&mut slot.wanted, false)
            && late
        {
            slot.lingers_until = turns + 1;
        }
    }

    fn send(&mut self, sock: Sock, buf: Buf) -> Pressure {
        let fault = self.config.fault;
        let lost = |slot: &&mut Slot| fault == Some(Fault::LostBytes) && slot.full;
        self.operand(sock);
        let open = live(&mut self.slots, sock).filter(|slot| slot.phase == Phase::Open);
        let Some(slot) = open.filter(|slot| !lost(slot) && !buf.is_empty()) else {
            self.pool.free(buf);
            return Pressure::Room;
        };
        slot.queued += buf.len();
        // As the real queue does it: small pieces share a buffer.
        match slot.queue.back_mut() {
            Some(tail) if self.pool.fits(tail, &buf) => drop(self.pool.join(tail, buf)),
            _ => slot.queue.push_back(buf),
        }
        let buffers = slot.queue.len();
        slot.full |= slot.queued >= SEND_QUEUE_HIGH;
        let full = slot.full && fault != Some(Fault::NoPressure);
        let queued = slot.queued;
        self.stats.queued_max = self.stats.queued_max.max(queued);
        self.stats.queued_buffers_max = self.stats.queued_buffers_max.max(buffers);
        self.mark_dirty(sock);
        if full { Pressure::Full } else { Pressure::Room }
    }

    fn finish(&mut self, sock: Sock) {
        let fault = self.config.fault;
        if let Some(slot) = self.operand(sock)
            && !(fault == Some(Fault::LostFin) && slot.queued > 0)
        {
            slot.finish = true;
            self.mark_dirty(sock);
        }
    }

    fn close(&mut self, sock: Sock, how: Close) {
        let style = self.config.style;
        if self.operand(sock).is_none() {
            return;
        }
        self.dissolve(sock);
        let Some(slot) = self.live(sock) else { return };
        slot.how = how;
        slot.phase = Phase::Closing;
        let (conn, owner) = (slot.conn, slot.owner);
        if self.config.fault == Some(Fault::EarlyClosed) {
            self.closed.push_back(owner);
        }
        self.note(|| format!("close s{} c{conn} {how:?}", sock.index));
        match style {
            Style::Readiness => {
                self.clear_queue(sock.index);
                self.close_slot(sock);
            }
            Style::Completion => {
                let at = self.now + self.delay();
                self.schedule(at, Action::Close(sock.index, sock.generation));
            }
        }
    }

    fn unsent(&self, sock: Sock) -> usize {
        let slot = self.slots.get(sock.index as usize).filter(|slot| slot.generation == sock.generation);
        slot.map_or(0, |slot| slot.queued)
    }

    fn was_emptied(&mut self, sock: Sock) -> bool {
        self.live(sock).is_some_and(|slot| std::mem::take(&mut slot.emptied))
    }

    fn peer_address(&mut self, sock: Sock) -> Result<SocketAddr, Errno> {
        self.operand(sock).ok_or(Errno::EBADF)?;
        self.conn_of(sock.index).map(|conn| conn.remote).ok_or(Errno::ENOTCONN)
    }

    /// The virtual kernel keeps no addresses of its own.
    fn local_address(&mut self, _sock: Sock) -> Result<SocketAddr, Errno> {
        Err(Errno::ENOTCONN)
    }

    fn acked(&mut self, sock: Sock) -> Option<u64> {
        self.operand(sock)?;
        self.conn_of(sock.index).map(|conn| conn.acked())
    }

    fn splice(&mut self, a: Sock, b: Sock) -> bool {
        self.start_splice(a, b)
    }

    fn unsplice(&mut self, sock: Sock) {
        self.ask_back(sock);
    }

    fn carried(&self, sock: Sock) -> u64 {
        self.carried_bytes(sock)
    }

    fn under_way(&self, sock: Sock) -> u64 {
        self.waiting_bytes(sock)
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }
    fn pool_mut(&mut self) -> &mut Pool {
        &mut self.pool
    }

    /// Time passes only when nothing is ready: to the next event or the deadline, whichever comes first.
    fn turn<H: Handler<Self>>(&mut self, deadline: Option<Millis>, handler: &mut H) -> Result<(), Errno> {
        self.run_turn(deadline, handler);
        Ok(())
    }

    fn micros(&self) -> u64 {
        self.now * 1000
    }

    fn stats(&self) -> NetStats {
        NetStats {
            sockets: self.sockets,
            sockets_max: self.config.accept_slots + self.config.connect_slots,
            buffers_in_use: self.pool.in_use(),
            buffers_max: self.pool.limit(),
            buffer_shortages: self.buffer_shortages,
            turns: self.turns,
            long_turns: 0,
        }
    }

    fn trim(&mut self) {
        self.pool.trim();
    }
}

/// A socket that the app has not closed.
fn live(slots: &mut [Slot], sock: Sock) -> Option<&mut Slot> {
    slots.get_mut(sock.index as usize).filter(|slot| {
        slot.generation == sock.generation && !matches!(slot.phase, Phase::Free | Phase::Closing)
    })
}
