//! The io_uring backend: direct descriptors, multishot receive into provided buffers, and per socket at most one
//! send and one receive in flight.
//!
//! A receive is multishot while traffic is interactive. Once a reader is slower than its sender the app pauses the sender;
//! the multishot is cancelled and the socket is read on demand, [`BULK_BUFFERS`] at a time, until a read comes back short.
//!
//! A slot is closed only when none of its operations is in flight, so a completion never meets the slot's successor.

use crate::net::{
    Close, Event, Handler, LONG_TURN_US, ListenerId, NO_OWNER, Net, NetStats, Pressure, Refused, Sock,
    Unspliced,
};
use crate::net::{SEND_QUEUE_HIGH, SEND_QUEUE_LOW};
use crate::splice::{Returned, Splices};
use fourfold_base::Millis;
use fourfold_base::tables::ACCEPTS_MAX;
use fourfold_sys::Errno;
use fourfold_sys::bpf::Splicer;
use fourfold_sys::buffers::{BUFFER_BYTES, Buf, Pool, Queue};
use fourfold_sys::clock::monotonic_us;
use fourfold_sys::descriptors;
use fourfold_sys::epoll::Waker;
use fourfold_sys::socket::{self, Local, Step};
use fourfold_sys::uring::{Completion, Ring, Unavailable};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

/// Buffers read at once from a socket that is read on demand.
const BULK_BUFFERS: usize = SEND_QUEUE_HIGH / BUFFER_BYTES;
/// Buffers lent to the kernel at first; doubled each time that they do not suffice. Running out costs a receive one more
/// submission, while every buffer lent is touched sooner or later and then resident.
const PROVIDED_START: usize = 64;
/// Most buffers lent: one for so many sockets, within these bounds and half of the pool.
const PROVIDED_SOCKETS: usize = 64;
const PROVIDED_FEWEST_MAX: usize = 128;
const PROVIDED_MOST_MAX: usize = 2048;

/// How often, and how long each time, a net that is dropped waits for its listeners to be let go.
const FAREWELL_TURNS: usize = 100;
const FAREWELL_TURN_MS: u64 = 10;

/// How long two sockets may take to become quiet before they are spliced.
const PREPARING_MS: Millis = 100;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Free,
    Connecting,
    Open,
    /// Broken: reported, waiting for the app's close.
    Dead,
    /// Closed by the app; waiting for operations in flight.
    Closing,
    /// The close itself is in flight.
    Closed,
}

/// What a completion belongs to: the top byte of its data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Op {
    Accept = 1,
    Waker,
    Socket,
    Option,
    Bind,
    Connect,
    Receive,
    Bulk,
    Send,
    Install,
    Shutdown,
    Quit,
    Cancel,
    Close,
    Peer,
    Watch,
    /// The end of a spliced socket.
    Hangup,
    Splicer,
}

impl Op {
    const ALL: [Op; 18] = {
        use Op::*;
        [
            Accept, Waker, Socket, Option, Bind, Connect, Receive, Bulk, Send, Install, Shutdown, Quit,
            Cancel, Close, Peer, Watch, Hangup, Splicer,
        ]
    };
    fn of(step: Step) -> Self {
        match step {
            Step::Socket => Op::Socket,
            Step::Option => Op::Option,
            Step::Bind => Op::Bind,
            Step::Connect => Op::Connect,
        }
    }
}

const GENERATIONS: u32 = 0xFF_FFFF;

fn pack(op: Op, sock: Sock) -> u64 {
    (op as u64) << 56 | u64::from(sock.generation & GENERATIONS) << 32 | u64::from(sock.index)
}

fn unpack(data: u64) -> Option<(Op, Sock)> {
    let op = *Op::ALL.get(((data >> 56) as usize).checked_sub(1)?)?;
    Some((op, Sock { index: data as u32, generation: (data >> 32) as u32 & GENERATIONS }))
}

struct State {
    owner: u64,
    generation: u32,
    queue: Queue,
    phase: Phase,
    /// Operations that will still complete.
    in_flight: u8,
    /// Index into `bulks` while a bulk read is in flight.
    bulk_op: u16,
    /// Why the connection could not be made, until its last step completes.
    error: Option<(Step, Errno)>,
    wanted: bool,
    /// A receive is in flight.
    armed: bool,
    cancelling: bool,
    bulk: bool,
    ended: bool,
    sending: bool,
    finish: bool,
    /// The peer has reset: nothing more is sent, and what it had said before is read to its end.
    broken: Option<Errno>,
    full: bool,
    /// All that was queued at some time since somebody asked has been sent.
    emptied: bool,
    reset: bool,
    dirty: bool,
    starved: bool,
    watch: Watch,
    splice: Splice,
    /// Its end is waited for as a spliced socket's.
    hangup: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Splice {
    Not,
    /// Not read any more; what is on its way arrives.
    Preparing,
    /// The kernel's, until [`Event::Unspliced`].
    Carried,
}

/// Two sockets on their way to the kernel.
struct Preparing {
    socks: [Sock; 2],
    until: Millis,
}

/// Whether the end of a socket that is not read is waited for. It is asked once: after the peer's FIN every further question
/// would be answered at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Watch {
    Not,
    InFlight,
    Over,
}

impl State {
    fn new(generation: u32) -> Self {
        Self {
            owner: NO_OWNER,
            generation,
            queue: Queue::default(),
            phase: Phase::Free,
            in_flight: 0,
            bulk_op: 0,
            error: None,
            wanted: false,
            armed: false,
            cancelling: false,
            bulk: false,
            ended: false,
            sending: false,
            finish: false,
            broken: None,
            full: false,
            emptied: false,
            reset: false,
            dirty: false,
            starved: false,
            watch: Watch::Not,
            splice: Splice::Not,
            hangup: false,
        }
    }
}

struct Listener {
    fd: Option<OwnedFd>,
    /// The app wants connections.
    wanted: bool,
    /// The accepts in flight, a bit each.
    armed: u32,
    /// The descriptor goes as soon as no accept is in flight.
    closing: bool,
}

pub struct UringNet {
    ring: Ring,
    /// Reused by every turn.
    batch: Vec<Completion>,
    /// Completions that came while an answer was awaited; handled in the next turn.
    completions: Vec<Completion>,
    waker: Waker,
    /// Indexed by slot.
    states: Vec<State>,
    /// Slots below this are the kernel's to give to accepted connections.
    accept_slots: u32,
    /// Those that neither a socket nor an accept in flight has: the kernel drops connections for which it finds none.
    accept_room: u32,
    /// In flight for each listener, given room.
    accepts: u32,
    /// There was none.
    unarmed: bool,
    /// Free slots for connections that we make, and the first never used one.
    free_slots: Vec<u32>,
    fresh_slot: u32,
    sockets: usize,
    listeners: Vec<Listener>,
    pool: Pool,
    provided_target: usize,
    provided_max: usize,
    /// The kernel has run out of lent buffers since the last time that they were lent.
    short: bool,
    bulks: Vec<Vec<Buf>>,
    free_bulks: Vec<u16>,
    dirty: Vec<Sock>,
    starved: VecDeque<Sock>,
    closed: VecDeque<u64>,
    splices: Splices,
    preparing: Vec<Preparing>,
    /// To be taken back.
    leaving: Vec<(Sock, Unspliced)>,
    /// Ordinary descriptors of sockets that leave.
    leaving_fds: HashMap<Sock, OwnedFd>,
    /// An ordinary descriptor of the socket whose event is being handled, if there happens to be one.
    at_hand: Option<(Sock, OwnedFd)>,
    now_us: u64,
    buffer_shortages: u64,
    turns: u64,
    long_turns: u64,
}

impl UringNet {
    /// A net of at most `accept_slots` accepted and `connect_slots` made connections. Call it on the shard's own thread.
    pub fn new(
        listeners: Vec<OwnedFd>,
        waker: Waker,
        accept_slots: u32,
        connect_slots: u32,
        buffers_max: usize,
    ) -> Result<Self, Unavailable> {
        let mut ring = Ring::new(accept_slots + connect_slots, accept_slots)?;
        ring.watch(waker.as_raw_fd(), pack(Op::Waker, Sock { index: 0, generation: 0 }));
        let accepts = accept_slots / 4 / listeners.len().max(1) as u32;
        let listener = |fd| Listener { fd: Some(fd), wanted: false, armed: 0, closing: false };
        let listeners = listeners.into_iter().map(listener).collect();
        let pool = Pool::new(buffers_max);
        let by_sockets = (accept_slots + connect_slots) as usize / PROVIDED_SOCKETS;
        let provided_max =
            by_sockets.clamp(PROVIDED_FEWEST_MAX, PROVIDED_MOST_MAX).min(pool.limit() / 2).max(1);
        Ok(Self {
            ring,
            batch: Vec::new(),
            completions: Vec::new(),
            waker,
            states: Vec::with_capacity((accept_slots + connect_slots) as usize),
            accept_slots,
            accept_room: accept_slots,
            accepts: accepts.clamp(1, ACCEPTS_MAX),
            unarmed: false,
            free_slots: Vec::new(),
            fresh_slot: accept_slots,
            sockets: 0,
            listeners,
            provided_target: PROVIDED_START.min(provided_max),
            provided_max,
            short: false,
            pool,
            bulks: Vec::new(),
            free_bulks: Vec::new(),
            dirty: Vec::new(),
            starved: VecDeque::new(),
            closed: VecDeque::new(),
            splices: Splices::none(),
            preparing: Vec::new(),
            leaving: Vec::new(),
            leaving_fds: HashMap::new(),
            at_hand: None,
            now_us: monotonic_us(),
            buffer_shortages: 0,
            turns: 0,
            long_turns: 0,
        })
    }

    /// Lets the kernel carry tunnels.
    pub fn set_splicer(&mut self, splicer: Splicer) {
        self.ring.watch(splicer.events_fd(), pack(Op::Splicer, Sock { index: 0, generation: 0 }));
        self.splices = Splices::new(splicer);
    }
}

impl Net for UringNet {
    fn accept(&mut self, listener: ListenerId) {
        let Some(entry) = self.listeners.get_mut(listener.0 as usize) else { return };
        entry.wanted = !entry.closing;
        self.arm_accept(listener);
    }

    fn stop_accepting(&mut self, listener: ListenerId) {
        let Some(entry) = self.listeners.get_mut(listener.0 as usize) else { return };
        if std::mem::replace(&mut entry.wanted, false) {
            for number in (0..ACCEPTS_MAX).filter(|number| entry.armed & 1 << number != 0) {
                let accept = Sock { index: listener.0, generation: number };
                self.ring.cancel(pack(Op::Accept, accept), pack(Op::Cancel, accept));
            }
        }
    }

    fn close_listener(&mut self, listener: ListenerId) {
        self.stop_accepting(listener);
        if let Some(entry) = self.listeners.get_mut(listener.0 as usize) {
            entry.closing = true;
            entry.fd.take_if(|_| entry.armed == 0);
        }
    }

    fn listeners(&self) -> usize {
        self.listeners.len()
    }

    fn connect(&mut self, remote: &SocketAddr, local: Local, owner: u64) -> Result<Sock, Refused> {
        let Some(slot) = self.take_slot() else {
            return Err(Refused { step: Step::Socket, errno: Errno::EMFILE });
        };
        let sock = self.open(slot, Phase::Connecting);
        if let Some(state) = live(&mut self.states, sock) {
            state.owner = owner;
            state.in_flight = 1;
        }
        self.ring.connect(slot, remote, local, |step| pack(Op::of(step), sock));
        Ok(sock)
    }

    fn adopt(&mut self, sock: Sock, owner: u64) {
        if let Some(state) = live(&mut self.states, sock) {
            state.owner = owner;
        }
    }

    fn receive(&mut self, sock: Sock) {
        if let Some(state) = live(&mut self.states, sock) {
            state.wanted = true;
            mark_dirty(&mut self.dirty, state, sock);
        }
    }

    fn pause(&mut self, sock: Sock) {
        let Some(state) = live(&mut self.states, sock) else { return };
        state.wanted = false;
        state.bulk = true;
        // A receive would tell that the peer is gone, and there will be none for as long as the other side takes nothing.
        if state.watch == Watch::Not {
            state.watch = Watch::InFlight;
            state.in_flight += 1;
            self.ring.watch_end(sock.index, pack(Op::Watch, sock));
        }
        if state.armed && state.bulk_op == 0 && !std::mem::replace(&mut state.cancelling, true) {
            self.ring.cancel(pack(Op::Receive, sock), pack(Op::Cancel, sock));
        }
    }

    fn send(&mut self, sock: Sock, buf: Buf) -> Pressure {
        let Some(state) = live(&mut self.states, sock).filter(|state| state.phase == Phase::Open) else {
            self.pool.free(buf);
            return Pressure::Room;
        };
        state.queue.push(&mut self.pool, buf);
        state.full |= state.queue.bytes() >= SEND_QUEUE_HIGH;
        let pressure = if state.full { Pressure::Full } else { Pressure::Room };
        mark_dirty(&mut self.dirty, state, sock);
        pressure
    }

    fn finish(&mut self, sock: Sock) {
        if let Some(state) = live(&mut self.states, sock) {
            state.finish = true;
            mark_dirty(&mut self.dirty, state, sock);
        }
    }

    fn close(&mut self, sock: Sock, how: Close) {
        let Some(state) = live(&mut self.states, sock) else { return };
        let connecting = state.phase == Phase::Connecting;
        state.phase = Phase::Closing;
        state.reset = how == Close::Reset;
        state.wanted = false;
        if !state.sending {
            state.queue.clear(&mut self.pool);
        }
        // A multishot receive is ended by its socket: a cancel searches all operations that wait, on 256 lists.
        if state.armed && state.bulk_op == 0 && !std::mem::replace(&mut state.cancelling, true) {
            match self.at_hand.as_ref().filter(|(whose, _)| *whose == sock) {
                Some((_, fd)) => socket::end_receive(fd.as_raw_fd()),
                None => {
                    state.in_flight += 1;
                    self.ring.install(sock.index, pack(Op::Quit, sock));
                }
            }
        }
        let send = state.sending.then_some(Op::Send);
        let watch = (state.watch == Watch::InFlight).then_some(Op::Watch);
        let hangup = state.hangup.then_some(Op::Hangup);
        self.dissolve(sock);
        for op in [send, watch, hangup, connecting.then_some(Op::Connect)].into_iter().flatten() {
            self.ring.cancel(pack(op, sock), pack(Op::Cancel, sock));
        }
        self.close_when_quiet(sock);
    }

    fn unsent(&self, sock: Sock) -> usize {
        self.states
            .get(sock.index as usize)
            .filter(|s| s.generation == sock.generation)
            .map_or(0, |s| s.queue.bytes())
    }

    fn was_emptied(&mut self, sock: Sock) -> bool {
        live(&mut self.states, sock).is_some_and(|state| std::mem::take(&mut state.emptied))
    }

    fn peer_address(&mut self, sock: Sock) -> Result<SocketAddr, Errno> {
        let fd = self.ordinary(sock)?;
        socket::peer_address(fd.as_raw_fd())
    }

    fn local_address(&mut self, sock: Sock) -> Result<SocketAddr, Errno> {
        let fd = self.ordinary(sock)?;
        socket::local_address(fd.as_raw_fd())
    }

    fn acked(&mut self, sock: Sock) -> Option<u64> {
        let fd = self.ordinary(sock).ok()?;
        socket::bytes_acked(fd.as_raw_fd(), sock.index >= self.accept_slots).ok()
    }

    fn splice(&mut self, a: Sock, b: Sock) -> bool {
        let may = |state: &mut State| {
            let open = state.phase == Phase::Open && state.wanted && !state.ended;
            open && !state.full && !state.finish && state.splice == Splice::Not
        };
        let both = [a, b].iter().all(|sock| live(&mut self.states, *sock).is_some_and(may));
        if !both || !self.splices.has_room() {
            return false;
        }
        for sock in [a, b] {
            let Some(state) = live(&mut self.states, sock) else { continue };
            state.splice = Splice::Preparing;
            if state.armed && state.bulk_op == 0 && !std::mem::replace(&mut state.cancelling, true) {
                self.ring.cancel(pack(Op::Receive, sock), pack(Op::Cancel, sock));
            }
            mark_dirty(&mut self.dirty, state, sock);
        }
        self.preparing.push(Preparing { socks: [a, b], until: self.now() + PREPARING_MS });
        true
    }

    fn unsplice(&mut self, sock: Sock) {
        self.leaving.push((sock, Unspliced::Asked));
    }

    fn carried(&self, sock: Sock) -> u64 {
        self.splices.carried(sock)
    }

    fn under_way(&self, sock: Sock) -> u64 {
        self.splices.under_way(sock)
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }
    fn pool_mut(&mut self) -> &mut Pool {
        &mut self.pool
    }

    fn turn<H: Handler<Self>>(&mut self, deadline: Option<Millis>, handler: &mut H) -> Result<(), Errno> {
        // What the app did outside events: start, mail, timers.
        self.settle(handler);
        self.lend_buffers();
        self.arm_unarmed();
        let kept = std::mem::take(&mut self.completions);
        let preparing = self.preparing.first().map(|first| first.until);
        let deadline = [deadline, preparing, self.splices.due()].into_iter().flatten().min();
        let over_us = monotonic_us();
        self.long_turns += u64::from(self.turns > 0 && over_us - self.now_us > LONG_TURN_US);
        let timeout = match deadline {
            _ if !kept.is_empty() => Some(0),
            Some(deadline) => Some(deadline.saturating_sub(over_us / 1000)),
            None => None,
        };
        let mut batch = std::mem::take(&mut self.batch);
        let result = self.ring.wait(timeout, &mut batch);
        self.now_us = monotonic_us();
        self.turns += 1;
        for completion in kept.iter().chain(&batch) {
            self.handle(completion, handler);
        }
        self.batch = batch;
        self.settle(handler);
        self.give_up_preparing(handler);
        self.take_back(handler);
        result
    }

    fn micros(&self) -> u64 {
        self.now_us
    }

    fn stats(&self) -> NetStats {
        NetStats {
            sockets: self.sockets,
            sockets_max: self.ring.slots() as usize,
            buffers_in_use: self.pool.in_use() - self.ring.provided(),
            buffers_max: self.pool.limit(),
            buffer_shortages: self.buffer_shortages,
            turns: self.turns,
            long_turns: self.long_turns,
        }
    }

    fn trim(&mut self) {
        self.pool.trim();
    }
}

impl UringNet {
    /// A direct descriptor has no system calls of its own: an ordinary one is installed for the question. Completions that
    /// arrive meanwhile are kept for the next turn.
    fn ordinary(&mut self, sock: Sock) -> Result<OwnedFd, Errno> {
        live(&mut self.states, sock).ok_or(Errno::EBADF)?;
        self.ring.install(sock.index, pack(Op::Peer, sock));
        let mut kept = std::mem::take(&mut self.completions);
        let mut fresh = Vec::new();
        let mut answer = None;
        while answer.is_none() {
            self.ring.wait(None, &mut fresh)?;
            for completion in fresh.drain(..) {
                match unpack(completion.data) {
                    Some((Op::Peer, _)) => answer = Some(completion.outcome()),
                    _ => kept.push(completion),
                }
            }
        }
        self.completions = kept;
        let fd = answer.unwrap_or(Err(Errno::EBADF))?;
        Ok(descriptors::own(fd as i32))
    }

    fn take_slot(&mut self) -> Option<u32> {
        self.free_slots.pop().or_else(|| {
            let slot = self.fresh_slot;
            (slot < self.ring.slots()).then(|| self.fresh_slot += 1)?;
            Some(slot)
        })
    }

    fn open(&mut self, slot: u32, phase: Phase) -> Sock {
        while self.states.len() <= slot as usize {
            self.states.push(State::new(0));
        }
        self.sockets += 1;
        let generation = self.states.get_mut(slot as usize).map_or(0, |state| {
            state.phase = phase;
            state.generation
        });
        Sock { index: slot, generation }
    }

    fn arm_accept(&mut self, listener: ListenerId) {
        let Some(entry) = self.listeners.get_mut(listener.0 as usize) else { return };
        let Listener { fd: Some(fd), wanted: true, armed, .. } = entry else { return };
        let idle = !*armed;
        for number in (0..self.accepts).filter(|number| idle & 1 << number != 0) {
            if self.accept_room == 0 {
                self.unarmed = true;
                return;
            }
            self.accept_room -= 1;
            *armed |= 1 << number;
            let data = pack(Op::Accept, Sock { index: listener.0, generation: number });
            self.ring.accept(fd.as_raw_fd(), place(listener, number), data);
        }
    }

    /// Sockets have gone since there was no room.
    fn arm_unarmed(&mut self) {
        if self.accept_room > 0 && std::mem::take(&mut self.unarmed) {
            (0..self.listeners.len()).for_each(|listener| self.arm_accept(ListenerId(listener as u32)));
        }
    }

    fn handle<H: Handler<Self>>(&mut self, completion: &Completion, handler: &mut H) {
        let Some((op, sock)) = unpack(completion.data) else { return };
        match op {
            Op::Accept => self.on_accept(completion, ListenerId(sock.index), sock.generation, handler),
            Op::Waker => self.on_waker(completion),
            Op::Socket => self.note_error(sock, Step::Socket, completion),
            Op::Option => self.note_error(sock, Step::Option, completion),
            Op::Bind => self.note_error(sock, Step::Bind, completion),
            Op::Connect => self.on_connect(completion, sock, handler),
            Op::Receive => self.on_receive(completion, sock, handler),
            Op::Bulk => self.on_bulk(completion, sock, handler),
            Op::Send => self.on_send(completion, sock, handler),
            Op::Install => self.on_install(completion, sock, handler),
            Op::Shutdown => self.on_finished(sock, handler),
            Op::Quit => self.on_quit(completion, sock),
            Op::Watch => self.on_watch(completion, sock, handler),
            Op::Close => self.on_close(sock),
            Op::Hangup => self.on_hangup(completion, sock, handler),
            Op::Splicer => self.on_splicer(completion),
            // A cancel reports only that there was nothing to cancel; a peer question is answered where it is asked.
            Op::Cancel | Op::Peer => {}
        }
    }

    fn on_accept<H: Handler<Self>>(
        &mut self,
        completion: &Completion,
        listener: ListenerId,
        number: u32,
        handler: &mut H,
    ) {
        let Some(entry) = self.listeners.get_mut(listener.0 as usize) else { return };
        entry.armed &= !(1 << number);
        entry.fd.take_if(|_| entry.closing && entry.armed == 0);
        match completion.outcome() {
            Ok(slot) => {
                // The slot may be one that was closed in this very batch: its last owner is told first, so that an app that
                // counts its connections never has more of them than there are slots.
                self.tell_closed(handler);
                let sock = self.open(slot as u32, Phase::Open);
                let peer = self.ring.caller(place(listener, number));
                handler.on_event(self, Event::Accepted { listener, sock, peer });
            }
            Err(errno) => {
                self.accept_room += 1;
                self.on_accept_error(listener, errno, handler);
            }
        }
        self.arm_accept(listener);
    }

    fn on_accept_error<H: Handler<Self>>(&mut self, listener: ListenerId, errno: Errno, handler: &mut H) {
        if matches!(
            errno,
            Errno::ECANCELED | Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED | Errno::EPROTO
        ) {
            return;
        }
        // The others in flight fail likewise.
        if self.listeners.get(listener.0 as usize).is_some_and(|entry| entry.wanted) {
            self.stop_accepting(listener);
            handler.on_event(self, Event::AcceptFailed { listener, errno });
        }
    }

    fn on_waker(&mut self, completion: &Completion) {
        self.waker.clear();
        if !completion.more {
            self.ring.watch(self.waker.as_raw_fd(), pack(Op::Waker, Sock { index: 0, generation: 0 }));
        }
    }

    /// Keeps the first error of a connection's steps; those after it fail for want of the first.
    fn note_error(&mut self, sock: Sock, step: Step, completion: &Completion) {
        if let (Some(state), Err(errno)) = (known(&mut self.states, sock), completion.outcome()) {
            state.error.get_or_insert((step, errno));
        }
    }

    fn on_connect<H: Handler<Self>>(&mut self, completion: &Completion, sock: Sock, handler: &mut H) {
        self.note_error(sock, Step::Connect, completion);
        let Some(state) = known(&mut self.states, sock) else { return };
        let (owner, error) = (state.owner, state.error.take());
        if state.phase == Phase::Connecting {
            state.phase = if error.is_none() { Phase::Open } else { Phase::Dead };
            state.in_flight -= 1;
            let event = match error {
                None => Event::Connected { sock, owner },
                Some((step, errno)) => Event::ConnectFailed { sock, owner, step, errno },
            };
            return handler.on_event(self, event);
        }
        self.landed(sock);
    }

    fn on_receive<H: Handler<Self>>(&mut self, completion: &Completion, sock: Sock, handler: &mut H) {
        let buf = self.ring.take(completion);
        let Some(state) = known(&mut self.states, sock) else { return self.discard(buf) };
        if !completion.more {
            (state.armed, state.cancelling) = (false, false);
            state.in_flight -= 1;
        }
        let (owner, open) = (state.owner, state.phase == Phase::Open);
        if !open {
            self.discard(buf);
            return self.close_when_quiet(sock);
        }
        match (completion.outcome(), buf) {
            (Ok(bytes), Some(buf)) if bytes > 0 => {
                handler.on_event(self, Event::Received { sock, owner, buf })
            }
            (Ok(_), buf) => {
                self.discard(buf);
                self.on_end(sock, handler);
            }
            (Err(Errno::ENOBUFS), _) => return self.starve(sock),
            (Err(Errno::ECANCELED | Errno::EAGAIN | Errno::EINTR), _) => {}
            (Err(errno), _) => return self.fail(sock, errno, handler),
        }
        if !completion.more
            && let Some(state) = live(&mut self.states, sock)
        {
            mark_dirty(&mut self.dirty, state, sock);
        }
    }

    fn on_end<H: Handler<Self>>(&mut self, sock: Sock, handler: &mut H) {
        self.abort_splice(sock, handler);
        let Some(state) = live(&mut self.states, sock) else { return };
        // The send that failed has taken the error: an end is what is left of it.
        if let Some(errno) = state.broken {
            return self.fail(sock, errno, handler);
        }
        (state.ended, state.wanted) = (true, false);
        let owner = state.owner;
        handler.on_event(self, Event::Eof { sock, owner });
    }

    fn on_bulk<H: Handler<Self>>(&mut self, completion: &Completion, sock: Sock, handler: &mut H) {
        let Some(state) = known(&mut self.states, sock) else { return };
        (state.armed, state.cancelling) = (false, false);
        state.in_flight -= 1;
        let (owner, open, op) = (state.owner, state.phase == Phase::Open, std::mem::take(&mut state.bulk_op));
        let mut buffers = self.bulks.get_mut(usize::from(op) - 1).map(std::mem::take).unwrap_or_default();
        self.free_bulks.push(op);
        let outcome = completion.outcome();
        let mut left = if open { outcome.unwrap_or(0) } else { 0 };
        state.bulk = left > SEND_QUEUE_HIGH - BUFFER_BYTES;
        for mut buf in buffers.drain(..) {
            buf.truncate(left.min(BUFFER_BYTES));
            left -= buf.len().min(left);
            match buf.is_empty() {
                true => self.pool.free(buf),
                false => handler.on_event(self, Event::Received { sock, owner, buf }),
            }
        }
        if let Some(spare) = self.bulks.get_mut(usize::from(op) - 1) {
            *spare = buffers;
        }
        match outcome {
            _ if !open => return self.close_when_quiet(sock),
            Ok(0) => self.on_end(sock, handler),
            Ok(_) | Err(Errno::EAGAIN | Errno::ECANCELED | Errno::EINTR) => {}
            Err(errno) => return self.fail(sock, errno, handler),
        }
        if let Some(state) = live(&mut self.states, sock) {
            mark_dirty(&mut self.dirty, state, sock);
        }
    }

    fn on_send<H: Handler<Self>>(&mut self, completion: &Completion, sock: Sock, handler: &mut H) {
        let Some(state) = known(&mut self.states, sock) else { return };
        state.sending = false;
        state.in_flight -= 1;
        if state.phase != Phase::Open {
            state.queue.clear(&mut self.pool);
            return self.close_when_quiet(sock);
        }
        match completion.outcome() {
            // A send completes when all is taken that was queued as it began.
            Ok(sent) => {
                state.queue.consume(&mut self.pool, sent);
                state.emptied = true;
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return self.fail_send(sock, errno, handler),
        }
        if !state.queue.is_empty() || state.finish || state.splice == Splice::Preparing {
            mark_dirty(&mut self.dirty, state, sock);
        }
        if state.full && state.queue.bytes() <= SEND_QUEUE_LOW {
            state.full = false;
            let owner = state.owner;
            handler.on_event(self, Event::Drained { sock, owner });
        }
    }

    fn on_install<H: Handler<Self>>(&mut self, completion: &Completion, sock: Sock, handler: &mut H) {
        match completion.outcome() {
            Ok(fd) => {
                let fd = descriptors::own(fd as i32);
                // ENOTCONN: the peer has reset; receiving tells.
                let _ = socket::shutdown_write(fd.as_raw_fd());
                self.at_hand = Some((sock, fd));
            }
            // Not all that it was to follow has been sent.
            Err(Errno::ECANCELED) => {
                if let Some(state) = live(&mut self.states, sock) {
                    state.finish = true;
                    mark_dirty(&mut self.dirty, state, sock);
                }
                return self.landed(sock);
            }
            // No descriptor to spare: the slow way, through a kernel thread.
            Err(_) => return self.ring.shutdown(sock.index, pack(Op::Shutdown, sock)),
        }
        self.on_finished(sock, handler);
        self.at_hand = None;
    }

    /// A closed socket's receive is told to end; its own completion follows.
    fn on_quit(&mut self, completion: &Completion, sock: Sock) {
        match completion.outcome() {
            Ok(fd) => socket::end_receive(descriptors::own(fd as i32).as_raw_fd()),
            // No descriptor to spare.
            Err(_) => self.ring.cancel(pack(Op::Receive, sock), pack(Op::Cancel, sock)),
        }
        self.landed(sock);
    }

    fn on_watch<H: Handler<Self>>(&mut self, completion: &Completion, sock: Sock, handler: &mut H) {
        let Some(state) = known(&mut self.states, sock) else { return };
        state.watch = Watch::Over;
        if completion.is_broken() && state.phase == Phase::Open && !state.wanted {
            self.fail(sock, Errno::ECONNRESET, handler);
        }
        self.landed(sock);
    }

    fn on_finished<H: Handler<Self>>(&mut self, sock: Sock, handler: &mut H) {
        self.landed(sock);
        if let Some(state) = live(&mut self.states, sock).filter(|state| state.phase == Phase::Open) {
            let owner = state.owner;
            handler.on_event(self, Event::Finished { sock, owner });
        }
    }

    // Tunnels that the kernel carries.

    fn preparing_with(&self, sock: Sock) -> Option<usize> {
        self.preparing.iter().position(|one| one.socks.contains(&sock))
    }

    /// Hands two sockets over once nothing of theirs is on its way.
    fn begin_splice<H: Handler<Self>>(&mut self, sock: Sock, handler: &mut H) {
        let Some(index) = self.preparing_with(sock) else { return };
        let Some(Preparing { socks: [a, b], .. }) = self.preparing.get(index) else { return };
        let (a, b) = (*a, *b);
        let quiet = |state: &mut State| {
            let still = !state.armed && !state.sending && state.queue.is_empty() && !state.finish;
            still && state.phase == Phase::Open && !state.ended
        };
        if ![a, b].iter().all(|sock| live(&mut self.states, *sock).is_some_and(quiet)) {
            return;
        }
        let fds = self.ordinary(a).and_then(|fd_a| Ok([fd_a, self.ordinary(b)?]));
        let Ok([fd_a, fd_b]) = &fds else { return self.abort_splice(sock, handler) };
        if !self.splices.begin([(a, fd_a.as_raw_fd()), (b, fd_b.as_raw_fd())]) {
            return self.abort_splice(sock, handler);
        }
        self.preparing.remove(index);
        for sock in [a, b] {
            let Some(state) = live(&mut self.states, sock) else { continue };
            state.splice = Splice::Carried;
            if !std::mem::replace(&mut state.hangup, true) {
                state.in_flight += 1;
                self.ring.watch_end(sock.index, pack(Op::Hangup, sock));
            }
        }
    }

    /// Two sockets stay with user space after all.
    fn abort_splice<H: Handler<Self>>(&mut self, sock: Sock, handler: &mut H) {
        let Some(index) = self.preparing_with(sock) else { return };
        let Preparing { socks, .. } = self.preparing.remove(index);
        for sock in socks {
            let Some(state) = live(&mut self.states, sock) else { continue };
            state.splice = Splice::Not;
            mark_dirty(&mut self.dirty, state, sock);
            let owner = state.owner;
            handler.on_event(self, Event::Unspliced { sock, owner, bytes: 0, why: Unspliced::Never });
        }
    }

    fn give_up_preparing<H: Handler<Self>>(&mut self, handler: &mut H) {
        let now = self.now();
        while let Some(Preparing { socks: [sock, _], .. }) =
            self.preparing.first().filter(|first| first.until <= now)
        {
            self.abort_splice(*sock, handler);
        }
    }

    fn on_hangup<H: Handler<Self>>(&mut self, completion: &Completion, sock: Sock, handler: &mut H) {
        let Some(state) = known(&mut self.states, sock) else { return };
        state.hangup = false;
        if state.splice == Splice::Carried && state.phase == Phase::Open {
            match completion.is_broken() {
                true => self.fail(sock, Errno::ECONNRESET, handler),
                false => self.leaving.push((sock, Unspliced::Ended)),
            }
        }
        self.landed(sock);
    }

    fn on_splicer(&mut self, completion: &Completion) {
        while let Some(told) = self.splices.told() {
            self.leaving.push(told);
        }
        if !completion.more
            && let Some(fd) = self.splices.events_fd()
        {
            self.ring.watch(fd, pack(Op::Splicer, Sock { index: 0, generation: 0 }));
        }
    }

    fn leave<H: Handler<Self>>(&mut self, sock: Sock, why: Unspliced, handler: &mut H) {
        if self.preparing_with(sock).is_some() {
            return self.abort_splice(sock, handler);
        }
        let Some(peer) = self.splices.carrying_with(sock) else { return };
        for one in [sock, peer] {
            match self.ordinary(one) {
                Ok(fd) => drop(self.leaving_fds.insert(one, fd)),
                // No descriptor to spare for the way back.
                Err(errno) => return self.fail(sock, errno, handler),
            }
        }
        let number = |sock: &Sock| self.leaving_fds.get(sock).map(AsRawFd::as_raw_fd);
        if let (Some(fd), Some(peer_fd)) = (number(&sock), number(&peer)) {
            self.splices.leave([(sock, fd), (peer, peer_fd)], why, self.now_us / 1000);
        }
    }

    /// Gives back what the kernel has done with.
    fn take_back<H: Handler<Self>>(&mut self, handler: &mut H) {
        loop {
            let fds = &self.leaving_fds;
            let fd_of = |sock: Sock| fds.get(&sock).map(AsRawFd::as_raw_fd);
            let Some(returned) = self.splices.returned(self.now_us / 1000, fd_of) else { return };
            self.leaving_fds.remove(&returned.peer);
            self.give_back(returned, handler);
            self.settle(handler);
        }
    }

    fn give_back<H: Handler<Self>>(&mut self, returned: Returned, handler: &mut H) {
        let Returned { sock, bytes, rest, why, .. } = returned;
        let Some(state) = live(&mut self.states, sock).filter(|state| state.phase == Phase::Open) else {
            return;
        };
        state.splice = Splice::Not;
        let owner = state.owner;
        handler.on_event(self, Event::Unspliced { sock, owner, bytes, why });
        for piece in rest.chunks(BUFFER_BYTES) {
            if live(&mut self.states, sock).is_none() {
                return;
            }
            match self.write(piece) {
                Some(buf) => handler.on_event(self, Event::Received { sock, owner, buf }),
                None => return self.fail(sock, Errno::ENOBUFS, handler),
            }
        }
        if let Some(state) = live(&mut self.states, sock) {
            mark_dirty(&mut self.dirty, state, sock);
        }
    }

    /// One of two is closed: whatever was with them ends. Descriptors would keep a socket open.
    fn dissolve(&mut self, sock: Sock) {
        self.preparing.retain(|one| !one.socks.contains(&sock));
        if let Some(peer) = self.splices.dissolve(sock) {
            [sock, peer].iter().for_each(|one| drop(self.leaving_fds.remove(one)));
        }
    }

    /// One operation has completed.
    fn landed(&mut self, sock: Sock) {
        if let Some(state) = known(&mut self.states, sock) {
            state.in_flight -= 1;
            self.close_when_quiet(sock);
        }
    }

    fn on_close(&mut self, sock: Sock) {
        let Some(state) = known(&mut self.states, sock) else { return };
        self.closed.push_back(state.owner);
        *state = State::new((state.generation + 1) & GENERATIONS);
        self.sockets -= 1;
        match sock.index >= self.accept_slots {
            true => self.free_slots.push(sock.index),
            false => self.accept_room += 1,
        }
    }

    fn close_when_quiet(&mut self, sock: Sock) {
        let Some(state) = known(&mut self.states, sock) else { return };
        if state.phase == Phase::Closing && state.in_flight == 0 {
            state.queue.clear(&mut self.pool);
            state.phase = Phase::Closed;
            self.ring.close(sock.index, state.reset, pack(Op::Close, sock));
        }
    }

    /// A server may answer, and reset, before it has read the whole of a request (RFC 9112 9.3): the answer lies ready to be
    /// read.
    fn fail_send<H: Handler<Self>>(&mut self, sock: Sock, errno: Errno, handler: &mut H) {
        let Some(state) = live(&mut self.states, sock) else { return };
        if !state.wanted || !errno.is_reset() {
            return self.fail(sock, errno, handler);
        }
        state.queue.clear(&mut self.pool);
        state.broken = Some(errno);
    }

    fn fail<H: Handler<Self>>(&mut self, sock: Sock, errno: Errno, handler: &mut H) {
        let Some(state) = live(&mut self.states, sock) else { return };
        if !state.sending {
            state.queue.clear(&mut self.pool);
        }
        state.phase = Phase::Dead;
        let owner = state.owner;
        handler.on_event(self, Event::Failed { sock, owner, errno });
    }

    fn discard(&mut self, buf: Option<Buf>) {
        if let Some(buf) = buf {
            self.pool.free(buf);
        }
    }

    /// The kernel had no buffer for this socket: lend it more, and read again once there are some.
    fn starve(&mut self, sock: Sock) {
        self.buffer_shortages += 1;
        self.short = true;
        if let Some(state) = live(&mut self.states, sock)
            && !std::mem::replace(&mut state.starved, true)
        {
            self.starved.push_back(sock);
        }
    }

    fn lend_buffers(&mut self) {
        // However many sockets found none: a burst of them is one shortage.
        if std::mem::take(&mut self.short) {
            self.provided_target = (self.provided_target * 2).min(self.provided_max);
        }
        while self.ring.provided() < self.provided_target {
            let Some(buf) = self.pool.alloc_to_read() else { break };
            if !self.ring.provide(&mut self.pool, buf) {
                break;
            }
        }
        for _ in 0..self.starved.len().min(self.ring.provided()) {
            let Some(sock) = self.starved.pop_front() else { return };
            if let Some(state) = live(&mut self.states, sock) {
                state.starved = false;
                self.arm(sock);
            }
        }
    }

    fn tell_closed<H: Handler<Self>>(&mut self, handler: &mut H) {
        while let Some(owner) = self.closed.pop_front() {
            handler.on_event(self, Event::Closed { owner });
        }
    }

    /// Starts what the app asked for and reports what was closed, until there is nothing of either.
    fn settle<H: Handler<Self>>(&mut self, handler: &mut H) {
        loop {
            if let Some(sock) = self.dirty.pop() {
                let Some(state) = live(&mut self.states, sock) else { continue };
                state.dirty = false;
                let preparing = state.splice == Splice::Preparing;
                self.transmit(sock);
                self.arm(sock);
                if preparing {
                    self.begin_splice(sock, handler);
                }
            } else if let Some((sock, why)) = self.leaving.pop() {
                self.leave(sock, why, handler);
            } else if let Some(owner) = self.closed.pop_front() {
                handler.on_event(self, Event::Closed { owner });
            } else {
                return;
            }
        }
    }

    fn transmit(&mut self, sock: Sock) {
        let Some(state) = live(&mut self.states, sock).filter(|s| s.phase == Phase::Open && !s.sending)
        else {
            return;
        };
        if !state.queue.is_empty() {
            state.sending = true;
            state.in_flight += 1;
            let data = pack(Op::Send, sock);
            if !state.finish {
                return self.ring.send(sock.index, &self.pool, &state.queue, data);
            }
            let install = pack(Op::Install, sock);
            if self.ring.send_last(sock.index, &self.pool, &state.queue, data, install) {
                state.finish = false;
                state.in_flight += 1;
            }
        } else if state.broken.is_none() && std::mem::take(&mut state.finish) {
            state.in_flight += 1;
            self.ring.install(sock.index, pack(Op::Install, sock));
        }
    }

    fn arm(&mut self, sock: Sock) {
        let Some(state) = live(&mut self.states, sock) else { return };
        if state.phase != Phase::Open || !state.wanted || state.armed || state.ended || state.starved {
            return;
        }
        if state.splice != Splice::Not {
            return;
        }
        // While buffers are scarce nobody gets more than one.
        if state.bulk && self.pool.available() > self.pool.limit() / 4 {
            return self.arm_bulk(sock);
        }
        state.armed = true;
        state.in_flight += 1;
        self.ring.receive(sock.index, SEND_QUEUE_HIGH as u32, pack(Op::Receive, sock));
    }

    fn arm_bulk(&mut self, sock: Sock) {
        let op = self.free_bulks.pop().unwrap_or_else(|| {
            self.bulks.push(Vec::with_capacity(BULK_BUFFERS));
            self.bulks.len() as u16
        });
        let Some(buffers) = self.bulks.get_mut(usize::from(op) - 1) else { return };
        buffers.extend(std::iter::from_fn(|| self.pool.alloc_to_read()).take(BULK_BUFFERS));
        if buffers.is_empty() {
            self.free_bulks.push(op);
            return self.starve(sock);
        }
        let Some(state) = live(&mut self.states, sock) else { return };
        (state.armed, state.bulk_op) = (true, op);
        state.in_flight += 1;
        self.ring.receive_now(sock.index, &self.pool, buffers, pack(Op::Bulk, sock));
    }
}

/// The kernel tears a ring down when it finds the time, and until then an accept in flight keeps its listener on its address:
/// clients would still be taken in by a shard that has ended.
impl Drop for UringNet {
    fn drop(&mut self) {
        for listener in 0..self.listeners.len() {
            self.close_listener(ListenerId(listener as u32));
        }
        let mut batch = Vec::new();
        for _ in 0..FAREWELL_TURNS {
            if self.listeners.iter().all(|listener| listener.armed == 0) {
                return;
            }
            if self.ring.wait(Some(FAREWELL_TURN_MS), &mut batch).is_err() {
                return;
            }
            for completion in batch.iter().filter(|completion| !completion.more) {
                if let Some((Op::Accept, sock)) = unpack(completion.data)
                    && let Some(listener) = self.listeners.get_mut(sock.index as usize)
                {
                    listener.armed &= !(1 << sock.generation);
                    listener.fd.take_if(|_| listener.armed == 0);
                }
            }
        }
    }
}

/// Of an accept, among all of a ring.
fn place(listener: ListenerId, number: u32) -> usize {
    (listener.0 * ACCEPTS_MAX + number) as usize
}

/// A socket that the app has not closed.
fn live(states: &mut [State], sock: Sock) -> Option<&mut State> {
    known(states, sock).filter(|state| !matches!(state.phase, Phase::Closing | Phase::Closed))
}

/// A socket of which the kernel still knows.
fn known(states: &mut [State], sock: Sock) -> Option<&mut State> {
    states
        .get_mut(sock.index as usize)
        .filter(|state| state.generation == sock.generation && state.phase != Phase::Free)
}

fn mark_dirty(dirty: &mut Vec<Sock>, state: &mut State, sock: Sock) {
    if !std::mem::replace(&mut state.dirty, true) {
        dirty.push(sock);
    }
}
