//! The epoll backend: every socket is registered once, edge-triggered; what an edge said is remembered until a call finds the
//! socket empty or full. An accepted socket asks about output only once one was full: at first it would be told at once. One hot buffer serves most of the traffic: it is filled, passed on and free
//! again before the next socket is looked at.

use crate::net::{
    Close, Event, Handler, LONG_TURN_US, ListenerId, NO_OWNER, Net, NetStats, Pressure, Refused, Sock,
    Unspliced,
};
use crate::net::{SEND_QUEUE_HIGH, SEND_QUEUE_LOW};
use crate::splice::{Returned, Splices};
use fourfold_base::Millis;
use fourfold_sys::bpf::Splicer;
use fourfold_sys::buffers::{BUFFER_BYTES, Buf, Pool, Queue};
use fourfold_sys::clock::monotonic_us;
use fourfold_sys::epoll::{Epoll, Ready, Waker};
use fourfold_sys::socket::{self, Local, Step};
use fourfold_sys::{Errno, descriptors};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

/// Descriptors reported by one wait.
const BATCH: usize = 512;
/// Connections accepted from one listener before others get their turn.
const ACCEPT_BATCH: usize = 64;
/// Buffers read at once from a socket that fills them.
const BULK_BUFFERS: usize = SEND_QUEUE_HIGH / BUFFER_BYTES;
/// Sockets read without another look at the kernel; bounds the time between waits.
const CARRY_BATCH: usize = 256;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Free,
    Connecting,
    Open,
    /// Broken: reported, waiting for the app's close.
    Dead,
}

struct State {
    owner: u64,
    generation: u32,
    queue: Queue,
    phase: Phase,
    /// We made the connection.
    made: bool,
    /// The app wants bytes.
    wanted: bool,
    /// The kernel may have bytes, or an end.
    readable: bool,
    /// FIN has been seen, so a short read does not mean empty.
    ended: bool,
    /// The last send was not taken whole; an edge will come.
    blocked: bool,
    /// Registered for output.
    output: bool,
    finish: bool,
    /// The peer has reset: nothing more is sent, and what it had said before is read to its end.
    broken: Option<Errno>,
    full: bool,
    /// The queue has been sent to its end since somebody asked.
    emptied: bool,
    /// The last read filled its buffers: take more at once.
    bulk: bool,
    /// In `carried`.
    carried: bool,
    /// In `dirty`.
    dirty: bool,
    /// The kernel carries what comes.
    spliced: bool,
}

impl State {
    fn new() -> Self {
        Self {
            owner: NO_OWNER,
            generation: 0,
            queue: Queue::default(),
            phase: Phase::Free,
            made: false,
            wanted: false,
            readable: false,
            ended: false,
            blocked: false,
            output: false,
            finish: false,
            broken: None,
            full: false,
            emptied: false,
            bulk: false,
            carried: false,
            dirty: false,
            spliced: false,
        }
    }
}

struct Listener {
    fd: Option<OwnedFd>,
    accepting: bool,
}

pub struct EpollNet {
    epoll: Epoll,
    ready: Vec<Ready>,
    waker: Waker,
    /// Indexed by descriptor.
    states: Vec<State>,
    sockets: usize,
    sockets_max: usize,
    listeners: Vec<Listener>,
    pool: Pool,
    scratch: Vec<Buf>,
    /// Sockets with more to read, or waiting for a buffer.
    carried: VecDeque<Sock>,
    dirty: Vec<Sock>,
    closed: VecDeque<u64>,
    splices: Splices,
    /// To be spliced once what the app sent has left.
    preparing: Vec<[Sock; 2]>,
    now_us: u64,
    buffer_shortages: u64,
    turns: u64,
    long_turns: u64,
}

/// Marks the data of listeners, of the waker and of the splicer apart from sockets, whose generation never has the top bit.
const LISTENER: u64 = 1 << 63;
const WAKER: u64 = u64::MAX;
const SPLICER: u64 = u64::MAX - 1;
const GENERATIONS: u32 = 0x7FFF_FFFF;

impl EpollNet {
    /// The descriptors of `listeners` and `waker` must be in the calling thread's table, which bounds the sockets.
    pub fn new(
        listeners: Vec<OwnedFd>,
        waker: Waker,
        sockets_max: usize,
        buffers_max: usize,
    ) -> Result<Self, Errno> {
        let epoll = Epoll::new(BATCH)?;
        epoll.add_input(waker.as_raw_fd(), WAKER)?;
        let listeners = listeners.into_iter().map(|fd| Listener { fd: Some(fd), accepting: false }).collect();
        Ok(Self {
            epoll,
            ready: Vec::with_capacity(BATCH),
            waker,
            states: Vec::with_capacity(sockets_max.min(1 << 20) + 64),
            sockets: 0,
            sockets_max,
            listeners,
            pool: Pool::new(buffers_max),
            scratch: Vec::with_capacity(BULK_BUFFERS),
            carried: VecDeque::new(),
            dirty: Vec::new(),
            closed: VecDeque::new(),
            splices: Splices::none(),
            preparing: Vec::new(),
            now_us: monotonic_us(),
            buffer_shortages: 0,
            turns: 0,
            long_turns: 0,
        })
    }

    /// Lets the kernel carry tunnels. The splicer's descriptors must be in the calling thread's table.
    pub fn set_splicer(&mut self, splicer: Splicer) -> Result<(), Errno> {
        self.epoll.add_input(splicer.events_fd(), SPLICER)?;
        self.splices = Splices::new(splicer);
        Ok(())
    }
}

impl Net for EpollNet {
    fn accept(&mut self, listener: ListenerId) {
        let Some(Listener { fd: Some(fd), accepting }) = self.listeners.get_mut(listener.0 as usize) else {
            return;
        };
        if !std::mem::replace(accepting, true) {
            // Fails only for want of kernel memory; the listener then waits for the app's next try.
            *accepting = self.epoll.add_input(fd.as_raw_fd(), LISTENER | u64::from(listener.0)).is_ok();
        }
    }

    fn stop_accepting(&mut self, listener: ListenerId) {
        let Some(Listener { fd: Some(fd), accepting }) = self.listeners.get_mut(listener.0 as usize) else {
            return;
        };
        if std::mem::replace(accepting, false) {
            let _ = self.epoll.remove(fd.as_raw_fd());
        }
    }

    fn close_listener(&mut self, listener: ListenerId) {
        if let Some(entry) = self.listeners.get_mut(listener.0 as usize) {
            *entry = Listener { fd: None, accepting: false };
        }
    }

    fn listeners(&self) -> usize {
        self.listeners.len()
    }

    fn connect(&mut self, remote: &SocketAddr, local: Local, owner: u64) -> Result<Sock, Refused> {
        if self.sockets >= self.sockets_max {
            return Err(Refused { step: Step::Socket, errno: Errno::EMFILE });
        }
        let fd = socket::connect(remote, local).map_err(|(step, errno)| Refused { step, errno })?;
        let sock =
            self.register(fd, Phase::Connecting).map_err(|errno| Refused { step: Step::Socket, errno })?;
        self.adopt(sock, owner);
        Ok(sock)
    }

    fn adopt(&mut self, sock: Sock, owner: u64) {
        if let Some(state) = self.state(sock) {
            state.owner = owner;
        }
    }

    fn receive(&mut self, sock: Sock) {
        let Some(state) = self.state(sock) else { return };
        state.wanted = true;
        if state.readable && state.phase == Phase::Open {
            self.carry(sock);
        }
    }

    fn pause(&mut self, sock: Sock) {
        if let Some(state) = self.state(sock) {
            state.wanted = false;
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
        if !state.blocked && !std::mem::replace(&mut state.dirty, true) {
            self.dirty.push(sock);
        }
        pressure
    }

    fn finish(&mut self, sock: Sock) {
        let Some(state) = self.state(sock) else { return };
        state.finish = true;
        if !state.blocked && !std::mem::replace(&mut state.dirty, true) {
            self.dirty.push(sock);
        }
    }

    fn close(&mut self, sock: Sock, how: Close) {
        let Some(state) = live(&mut self.states, sock) else { return };
        state.queue.clear(&mut self.pool);
        self.splices.dissolve(sock);
        let fresh = State { generation: (state.generation + 1) & GENERATIONS, ..State::new() };
        let owner = std::mem::replace(state, fresh).owner;
        if how == Close::Reset {
            socket::reset_on_close(sock.index as RawFd);
        }
        descriptors::close(sock.index as RawFd);
        self.sockets -= 1;
        self.closed.push_back(owner);
    }

    fn unsent(&self, sock: Sock) -> usize {
        self.states
            .get(sock.index as usize)
            .filter(|s| s.generation == sock.generation)
            .map_or(0, |s| s.queue.bytes())
    }

    fn was_emptied(&mut self, sock: Sock) -> bool {
        self.state(sock).is_some_and(|state| std::mem::take(&mut state.emptied))
    }

    fn peer_address(&mut self, sock: Sock) -> Result<SocketAddr, Errno> {
        self.state(sock).ok_or(Errno::EBADF)?;
        socket::peer_address(sock.index as RawFd)
    }

    fn local_address(&mut self, sock: Sock) -> Result<SocketAddr, Errno> {
        self.state(sock).ok_or(Errno::EBADF)?;
        socket::local_address(sock.index as RawFd)
    }

    fn acked(&mut self, sock: Sock) -> Option<u64> {
        let made = self.state(sock)?.made;
        socket::bytes_acked(sock.index as RawFd, made).ok()
    }

    fn splice(&mut self, a: Sock, b: Sock) -> bool {
        let may = |state: &mut State| {
            let open = state.phase == Phase::Open && state.wanted && !state.ended;
            open && !state.full && !state.finish && !state.spliced
        };
        if !self.splices.has_room() || ![a, b].iter().all(|sock| self.state(*sock).is_some_and(may)) {
            return false;
        }
        for sock in [a, b] {
            self.state(sock).into_iter().for_each(|state| state.spliced = true);
        }
        self.preparing.push([a, b]);
        true
    }

    fn unsplice(&mut self, sock: Sock) {
        self.leave(sock, Unspliced::Asked);
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
        // What the app did outside events: start, mail, timers. If that tells it something new, its deadline is void, and it
        // may even be finished: then this turn does not wait.
        let told = self.settle(handler);
        let deadline = [deadline, self.splices.due()].into_iter().flatten().min();
        let over_us = monotonic_us();
        self.long_turns += u64::from(self.turns > 0 && over_us - self.now_us > LONG_TURN_US);
        let timeout = match deadline {
            _ if told || (!self.carried.is_empty() && self.pool.can_read()) => Some(0),
            Some(deadline) => Some(deadline.saturating_sub(over_us / 1000)),
            None => None,
        };
        let mut ready = std::mem::take(&mut self.ready);
        let result = self.epoll.wait(timeout, &mut ready);
        self.now_us = monotonic_us();
        self.turns += 1;
        for event in &ready {
            self.handle_ready(event, handler);
            self.settle(handler);
        }
        self.ready = ready;
        self.take_back(handler);
        self.read_carried(handler);
        result
    }

    fn micros(&self) -> u64 {
        self.now_us
    }

    fn stats(&self) -> NetStats {
        NetStats {
            sockets: self.sockets,
            sockets_max: self.sockets_max,
            buffers_in_use: self.pool.in_use(),
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

impl EpollNet {
    fn state(&mut self, sock: Sock) -> Option<&mut State> {
        live(&mut self.states, sock)
    }

    fn register(&mut self, fd: OwnedFd, phase: Phase) -> Result<Sock, Errno> {
        let index = fd.as_raw_fd() as usize;
        while self.states.len() <= index {
            self.states.push(State::new());
        }
        let Some(state) = self.states.get_mut(index) else { return Err(Errno::EMFILE) };
        let sock = Sock { index: index as u32, generation: state.generation };
        let made = phase == Phase::Connecting;
        self.epoll.add_socket(fd.as_raw_fd(), pack(sock), made)?;
        (state.phase, state.made, state.output) = (phase, made, made);
        let _ = fd.into_raw_fd();
        self.sockets += 1;
        Ok(sock)
    }

    fn handle_ready<H: Handler<Self>>(&mut self, ready: &Ready, handler: &mut H) {
        if ready.data == WAKER {
            return self.waker.clear();
        }
        if ready.data == SPLICER {
            return self.leave_told();
        }
        if ready.data & LISTENER != 0 {
            return self.accept_some(ListenerId((ready.data & !LISTENER) as u32), handler);
        }
        let sock = Sock { index: ready.data as u32, generation: (ready.data >> 32) as u32 };
        let Some(state) = self.state(sock) else { return };
        state.readable |= ready.readable || ready.ended || ready.error;
        state.ended |= ready.ended || ready.error;
        let (phase, owner, wanted, readable) = (state.phase, state.owner, state.wanted, state.readable);
        let (spliced, ended) = (state.spliced, state.ended);
        match phase {
            Phase::Connecting if ready.error => {
                let errno = socket::take_error(sock.index as RawFd).err().unwrap_or(Errno::ECONNRESET);
                self.fail_connect(sock, owner, errno, handler);
            }
            Phase::Connecting if ready.writable => {
                self.set_phase(sock, Phase::Open);
                handler.on_event(self, Event::Connected { sock, owner });
            }
            Phase::Open => {
                if ready.writable && std::mem::take(&mut self.states[sock.index as usize].blocked) {
                    self.transmit(sock, handler);
                }
                if spliced && !ready.broken {
                    if ended {
                        self.leave(sock, Unspliced::Ended);
                    }
                } else if readable && wanted && !spliced {
                    self.read(sock, handler);
                } else if ready.broken {
                    // Nobody reads, so nobody else would find out.
                    let errno = socket::take_error(sock.index as RawFd).err().unwrap_or(Errno::ECONNRESET);
                    self.fail(sock, errno, handler);
                }
            }
            Phase::Connecting | Phase::Dead | Phase::Free => {}
        }
    }

    fn fail_connect<H: Handler<Self>>(&mut self, sock: Sock, owner: u64, errno: Errno, handler: &mut H) {
        self.set_phase(sock, Phase::Dead);
        handler.on_event(self, Event::ConnectFailed { sock, owner, step: Step::Connect, errno });
    }

    fn set_phase(&mut self, sock: Sock, phase: Phase) {
        if let Some(state) = self.state(sock) {
            state.phase = phase;
        }
    }

    fn accept_some<H: Handler<Self>>(&mut self, listener: ListenerId, handler: &mut H) {
        for _ in 0..ACCEPT_BATCH {
            let Some(Listener { fd: Some(fd), accepting: true }) = self.listeners.get(listener.0 as usize)
            else {
                return;
            };
            let accepted = match self.sockets < self.sockets_max {
                true => socket::accept(fd.as_raw_fd()),
                false => Err(Errno::EMFILE),
            };
            match accepted.and_then(|(fd, peer)| Ok((self.register(fd, Phase::Open)?, peer))) {
                Ok((sock, peer)) => {
                    handler.on_event(self, Event::Accepted { listener, sock, peer });
                    self.settle(handler);
                }
                Err(Errno::EAGAIN) => return,
                // accept(2): errors of the connection itself are to be taken like EAGAIN, and the next one tried.
                Err(Errno::EINTR | Errno::ECONNABORTED | Errno::EPROTO | Errno::EPERM | Errno::ENETDOWN) => {}
                Err(errno) => {
                    self.stop_accepting(listener);
                    return handler.on_event(self, Event::AcceptFailed { listener, errno });
                }
            }
        }
    }

    /// Reads once and hands the bytes on.
    fn read<H: Handler<Self>>(&mut self, sock: Sock, handler: &mut H) {
        let readable = |state: &&mut State| state.phase == Phase::Open && state.wanted && !state.spliced;
        let Some(state) = live(&mut self.states, sock).filter(readable) else { return };
        let (owner, bulk) = (state.owner, state.bulk);
        let mut buffers = std::mem::take(&mut self.scratch);
        // While buffers are scarce nobody gets more than one.
        let count = if bulk && self.pool.available() > self.pool.limit() / 2 { BULK_BUFFERS } else { 1 };
        buffers.extend(std::iter::from_fn(|| self.pool.alloc_to_read()).take(count));
        if buffers.is_empty() {
            self.scratch = buffers;
            self.buffer_shortages += 1;
            return self.carry(sock);
        }
        let result = socket::receive(sock.index as RawFd, &mut self.pool, &mut buffers);
        let Some(state) = self.state(sock) else { return };
        let result = match state.broken {
            // The send that failed has taken the error: an end is what is left of it.
            Some(errno) if !matches!(&result, Ok(received) if received.bytes > 0) => Err(errno),
            _ => result,
        };
        match result {
            Ok(received) if received.bytes > 0 => {
                // epoll(7): a short read from a stream means that it was emptied; an end already seen is still to be read.
                state.readable = received.filled || state.ended;
                state.bulk = received.bytes >= BUFFER_BYTES;
                for buf in buffers.drain(..) {
                    handler.on_event(self, Event::Received { sock, owner, buf });
                }
                self.scratch = buffers;
                if self.state(sock).is_some_and(|state| state.readable && state.wanted) {
                    self.carry(sock);
                }
                return;
            }
            Ok(_) => {
                (state.wanted, state.readable) = (false, false);
                handler.on_event(self, Event::Eof { sock, owner });
            }
            Err(Errno::EAGAIN) => (state.readable, state.ended) = (false, false),
            Err(Errno::EINTR) => self.carry(sock),
            Err(errno) => self.fail(sock, errno, handler),
        }
        self.scratch = buffers;
    }

    /// A server may answer, and reset, before it has read the whole of a request (RFC 9112 9.3): the answer lies ready to be
    /// read. `true`: the app was told.
    fn fail_send<H: Handler<Self>>(&mut self, sock: Sock, errno: Errno, handler: &mut H) -> bool {
        let Some(state) = live(&mut self.states, sock) else { return false };
        if !state.wanted || !errno.is_reset() {
            self.fail(sock, errno, handler);
            return true;
        }
        state.queue.clear(&mut self.pool);
        (state.broken, state.readable, state.ended) = (Some(errno), true, true);
        self.carry(sock);
        false
    }

    fn fail<H: Handler<Self>>(&mut self, sock: Sock, errno: Errno, handler: &mut H) {
        let Some(state) = live(&mut self.states, sock) else { return };
        state.queue.clear(&mut self.pool);
        state.phase = Phase::Dead;
        let owner = state.owner;
        handler.on_event(self, Event::Failed { sock, owner, errno });
    }

    /// `false`: both stay with user space, which was told so unless they are gone.
    fn begin_splice<H: Handler<Self>>(&mut self, socks: [Sock; 2], handler: &mut H) -> bool {
        let quiet = |state: &mut State| {
            state.phase == Phase::Open && state.queue.is_empty() && !state.finish && !state.ended
        };
        let ready = socks.iter().all(|sock| self.state(*sock).is_some_and(quiet));
        if !ready || !self.splices.begin(socks.map(|sock| (sock, sock.index as RawFd))) {
            for sock in socks {
                let Some(state) = self.state(sock) else { continue };
                state.spliced = false;
                let owner = state.owner;
                self.carry(sock);
                handler.on_event(self, Event::Unspliced { sock, owner, bytes: 0, why: Unspliced::Never });
            }
            return false;
        }
        for sock in socks {
            // Without it nobody would learn of the end.
            if self.epoll.watch_end(sock.index as RawFd, pack(sock)).is_err() {
                self.leave(sock, Unspliced::Never);
            }
        }
        true
    }

    fn leave(&mut self, sock: Sock, why: Unspliced) {
        let Some(peer) = self.splices.carrying_with(sock) else { return };
        self.splices.leave([sock, peer].map(|sock| (sock, sock.index as RawFd)), why, self.now_us / 1000);
    }

    fn leave_told(&mut self) {
        while let Some((sock, why)) = self.splices.told() {
            self.leave(sock, why);
        }
    }

    /// Gives back what the kernel has done with.
    fn take_back<H: Handler<Self>>(&mut self, handler: &mut H) {
        let fd_of = |sock: Sock| Some(sock.index as RawFd);
        while let Some(returned) = self.splices.returned(self.now_us / 1000, fd_of) {
            self.give_back(returned, handler);
            self.settle(handler);
        }
    }

    fn give_back<H: Handler<Self>>(&mut self, returned: Returned, handler: &mut H) {
        let Returned { sock, bytes, rest, why, .. } = returned;
        let Some(state) = live(&mut self.states, sock).filter(|state| state.phase == Phase::Open) else {
            return;
        };
        state.spliced = false;
        state.readable = true;
        let (owner, output) = (state.owner, state.output);
        let watched = self.epoll.watch_again(sock.index as RawFd, pack(sock), output);
        handler.on_event(self, Event::Unspliced { sock, owner, bytes, why });
        for piece in rest.chunks(BUFFER_BYTES) {
            if self.state(sock).is_none() {
                return;
            }
            match self.write(piece) {
                Some(buf) => handler.on_event(self, Event::Received { sock, owner, buf }),
                None => return self.fail(sock, Errno::ENOBUFS, handler),
            }
        }
        match watched {
            Ok(()) => self.carry(sock),
            Err(errno) => self.fail(sock, errno, handler),
        }
    }

    fn carry(&mut self, sock: Sock) {
        let Some(state) = live(&mut self.states, sock) else { return };
        if !std::mem::replace(&mut state.carried, true) {
            self.carried.push_back(sock);
        }
    }

    fn read_carried<H: Handler<Self>>(&mut self, handler: &mut H) {
        for _ in 0..self.carried.len().min(CARRY_BATCH) {
            // Sends that leave give buffers back, and each wakes the shard.
            if !self.pool.can_read() {
                return;
            }
            let Some(sock) = self.carried.pop_front() else { return };
            let Some(state) = self.state(sock) else { continue };
            state.carried = false;
            self.read(sock, handler);
            self.settle(handler);
        }
    }

    /// Sends what the app queued and reports what was closed, until there is nothing of either. `true`: the app was told of
    /// something.
    fn settle<H: Handler<Self>>(&mut self, handler: &mut H) -> bool {
        let mut told = false;
        loop {
            if let Some(sock) = self.dirty.pop() {
                let Some(state) = self.state(sock) else { continue };
                state.dirty = false;
                told |= self.transmit(sock, handler);
            } else if let Some(owner) = self.closed.pop_front() {
                told = true;
                handler.on_event(self, Event::Closed { owner });
            } else if let Some(socks) = self.preparing.pop() {
                told |= !self.begin_splice(socks, handler);
            } else {
                return told;
            }
        }
    }

    /// `true`: the app was told of something.
    fn transmit<H: Handler<Self>>(&mut self, sock: Sock, handler: &mut H) -> bool {
        let Some(state) = live(&mut self.states, sock).filter(|state| state.phase == Phase::Open) else {
            return false;
        };
        if let Some(errno) = state.broken {
            return self.fail_send(sock, errno, handler);
        }
        while !state.queue.is_empty() && !state.blocked {
            let mut result =
                socket::transmit(sock.index as RawFd, &mut self.pool, &mut state.queue, state.finish);
            state.blocked = result == Err(Errno::EAGAIN);
            if state.blocked && !std::mem::replace(&mut state.output, true) {
                result = self.epoll.watch_again(sock.index as RawFd, pack(sock), true).map(|()| false);
            }
            match result {
                Ok(_) | Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return self.fail_send(sock, errno, handler),
            }
        }
        let owner = state.owner;
        state.emptied |= state.queue.is_empty();
        let finished = state.queue.is_empty() && std::mem::take(&mut state.finish);
        let drained = state.full && state.queue.bytes() <= SEND_QUEUE_LOW;
        if drained {
            state.full = false;
            handler.on_event(self, Event::Drained { sock, owner });
        }
        if finished && self.state(sock).is_some() {
            // ENOTCONN: the peer has reset; reading tells.
            let _ = socket::shutdown_write(sock.index as RawFd);
            handler.on_event(self, Event::Finished { sock, owner });
        }
        drained || finished
    }
}

impl Drop for EpollNet {
    fn drop(&mut self) {
        for (fd, state) in self.states.iter().enumerate() {
            if state.phase != Phase::Free {
                descriptors::close(fd as RawFd);
            }
        }
    }
}

fn live(states: &mut [State], sock: Sock) -> Option<&mut State> {
    states
        .get_mut(sock.index as usize)
        .filter(|state| state.generation == sock.generation && state.phase != Phase::Free)
}

fn pack(sock: Sock) -> u64 {
    u64::from(sock.generation) << 32 | u64::from(sock.index)
}
