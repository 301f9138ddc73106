//! One turn: what is due happens, what is ready is told.

use super::conn::{Connection, PeerEnd};
use super::{Phase, SimNet, Style};
use crate::net::{Event, Handler, ListenerId, SEND_QUEUE_LOW, Sock};
use fourfold_base::Millis;
use fourfold_sys::Errno;
use fourfold_sys::buffers::{BUFFER_BYTES, Buf};
use fourfold_sys::socket::Step;
use std::collections::VecDeque;

/// Connections accepted from one listener in a turn, at most.
const ACCEPT_BATCH: u32 = 8;
/// Buffers filled from one socket in a turn, at most.
const RECEIVE_BATCH: u32 = 4;

/// Something that has completed; told when its place in the batch comes.
enum Done {
    Connected,
    ConnectFailed(Step, Errno),
    Received(Buf),
    Eof,
    Failed(Errno),
    Sent,
    Finished,
}

/// One direction of one socket: its completions keep their order.
struct Lane {
    sock: Sock,
    done: VecDeque<Done>,
}

impl SimNet {
    pub(super) fn run_turn<H: Handler<Self>>(&mut self, deadline: Option<Millis>, handler: &mut H) {
        let before = (self.now, self.stats.events, self.stats.sends);
        self.settle(handler);
        self.prepare_splices(handler);
        if !self.has_ready() && self.stats.events == before.1 {
            let next = self.agenda.peek().map(|entry| entry.0.0);
            let until = [next, deadline].into_iter().flatten().min();
            self.now = self.now.max(until.unwrap_or(self.now));
        }
        self.turns += 1;
        while let Some(entry) = self.agenda.peek().filter(|entry| entry.0.0 <= self.now) {
            let action = entry.0.2;
            self.agenda.pop();
            self.act(action);
        }
        self.accept_some(handler);
        match self.config.style {
            Style::Readiness => self.tell_ready(handler),
            Style::Completion => self.tell_completed(handler),
        }
        self.settle(handler);
        self.prepare_splices(handler);
        self.idle_turns =
            if before == (self.now, self.stats.events, self.stats.sends) { self.idle_turns + 1 } else { 0 };
        self.stats.idle_turns_max = self.stats.idle_turns_max.max(self.idle_turns);
    }

    pub(super) fn tell<H: Handler<Self>>(&mut self, handler: &mut H, event: Event) {
        self.stats.events += 1;
        self.note(|| describe(&event));
        handler.on_event(self, event);
    }

    /// Something can be told without time passing. Forgets the slots of which nothing can.
    pub(super) fn has_ready(&mut self) -> bool {
        let mut active = std::mem::take(&mut self.active);
        active.retain(|index| {
            let can = self.can_progress(*index);
            if !can && let Some(slot) = self.slots.get_mut(*index as usize) {
                slot.active = false;
            }
            can
        });
        // Slots that wait for nothing but a buffer stay listed.
        let buffers = self.pool.can_read();
        let ready = active.iter().any(|index| buffers || !self.waits_for_buffer(*index));
        self.active = active;
        ready
            || !self.closed.is_empty()
            || !self.dirty.is_empty()
            || self.preparing.iter().any(|socks| self.verdict(*socks).is_some())
            || self.listeners.iter().any(|entry| entry.accepting && !entry.backlog.is_empty())
    }

    pub(super) fn parts(&self, index: u32) -> Option<(&super::Slot, &Connection)> {
        let slot = self.slots.get(index as usize)?;
        Some((slot, self.conns.get(slot.conn)?))
    }

    fn can_progress(&self, index: u32) -> bool {
        let Some((slot, conn)) = self.parts(index) else { return false };
        match slot.phase {
            Phase::Connecting => conn.made_at.is_some() || conn.peer == PeerEnd::Gone,
            Phase::Open => self.can_receive(index) || self.can_send(index) || self.can_carry(index),
            Phase::Free | Phase::Dead | Phase::Closing => false,
        }
    }

    fn can_receive(&self, index: u32) -> bool {
        self.parts(index).is_some_and(|(slot, conn)| {
            let wanted = slot.wanted && slot.carried.is_none();
            let reads =
                (wanted || (slot.lingers_until >= self.turns && !self.can_carry(index))) && !slot.ended;
            reads && (conn.available() > 0 || (wanted && (conn.fin || conn.broken.is_some())))
        })
    }

    fn can_send(&self, index: u32) -> bool {
        self.parts(index).is_some_and(|(slot, conn)| {
            let broken = conn.broken.is_some();
            let finishing = self.config.style == Style::Completion && slot.finish && slot.queued == 0;
            finishing || (slot.sending && slot.queued > 0 && (conn.room() > 0 || broken))
        })
    }

    fn waits_for_buffer(&self, index: u32) -> bool {
        self.parts(index).is_some_and(|(slot, conn)| {
            let moves = self.can_send(index) || self.can_carry(index);
            slot.phase == Phase::Open && conn.available() > 0 && !moves
        })
    }

    fn accept_some<H: Handler<Self>>(&mut self, handler: &mut H) {
        for number in 0..self.listeners.len() as u32 {
            let listener = ListenerId(number);
            // A batch that has completed is told even if the first of it made the app stop.
            let entry = self.listeners.get(number as usize);
            let fixed = self.config.style == Style::Completion && entry.is_some_and(|entry| entry.accepting);
            for _ in 0..=self.rng.below(ACCEPT_BATCH) {
                if !self.accept_one(listener, fixed, handler) {
                    break;
                }
            }
        }
    }

    fn accept_one<H: Handler<Self>>(&mut self, listener: ListenerId, fixed: bool, handler: &mut H) -> bool {
        let room = self.has_accept_slot();
        let Some(entry) = self.listeners.get_mut(listener.0 as usize) else { return false };
        if !(entry.accepting || fixed) || entry.backlog.is_empty() {
            return false;
        }
        let error =
            if room { self.director.accept_error(&mut self.rng, self.now) } else { Some(Errno::EMFILE) };
        if let Some(errno) = error {
            entry.accepting = false;
            self.tell(handler, Event::AcceptFailed { listener, errno });
            return false;
        }
        let Some(conn) = entry.backlog.pop_front() else { return false };
        self.accepted_open += 1;
        self.stats.accepted += 1;
        let sock = self.open_slot(conn, Phase::Open);
        let now = self.now;
        self.told(conn, |conn| conn.told_at = Some(now));
        let peer = self.conns.get(conn).map(|conn| conn.remote);
        self.note(|| format!("accept s{} c{conn}", sock.index));
        self.tell(handler, Event::Accepted { listener, sock, peer });
        if self.config.style == Style::Readiness {
            self.settle(handler);
        }
        true
    }

    fn shuffled_active(&mut self) -> Vec<u32> {
        let mut active = std::mem::take(&mut self.active);
        for index in &active {
            if let Some(slot) = self.slots.get_mut(*index as usize) {
                slot.active = false;
            }
        }
        shuffle(&mut self.rng, &mut active);
        active
    }

    fn sock_at(&self, index: u32) -> Option<Sock> {
        let slot = self.slots.get(index as usize)?;
        Some(Sock { index, generation: slot.generation })
    }

    // ---- readiness ----

    fn tell_ready<H: Handler<Self>>(&mut self, handler: &mut H) {
        for index in self.shuffled_active() {
            let Some(sock) = self.sock_at(index).filter(|_| self.can_progress(index)) else { continue };
            match self.live(sock).map(|slot| slot.phase) {
                Some(Phase::Connecting) => self.tell_connect(sock, handler),
                Some(Phase::Open) => {
                    if self.can_send(index) {
                        self.live(sock).into_iter().for_each(|slot| slot.sending = false);
                        self.transmit(sock, handler);
                    }
                    self.carry(sock, handler);
                    self.read(sock, handler);
                }
                _ => {}
            }
            self.settle(handler);
            if self.can_progress(index) {
                self.mark_active(index);
            }
        }
    }

    fn tell_connect<H: Handler<Self>>(&mut self, sock: Sock, handler: &mut H) {
        let Some(conn) = self.conn_of(sock.index) else { return };
        let done = match conn.refusal {
            None => Done::Connected,
            Some((step, errno)) => Done::ConnectFailed(step, errno),
        };
        self.tell_done(sock, done, handler);
    }

    fn read<H: Handler<Self>>(&mut self, sock: Sock, handler: &mut H) {
        for _ in 0..=self.rng.below(RECEIVE_BATCH) {
            if self.live(sock).is_none() || !self.can_receive(sock.index) {
                return;
            }
            let Some(done) = self.receive_one(sock) else { return };
            self.tell_done(sock, done, handler);
        }
    }

    /// The next that a receive would give. `None`: no buffer.
    fn receive_one(&mut self, sock: Sock) -> Option<Done> {
        let conn = self.conn_of(sock.index)?;
        if conn.available() == 0 {
            return Some(conn.broken.map_or(Done::Eof, Done::Failed));
        }
        let Some(mut buf) = self.pool.alloc_to_read() else {
            self.buffer_shortages += 1;
            self.mark_active(sock.index);
            return None;
        };
        let index = self.slots.get(sock.index as usize)?.conn;
        let conn = self.conns.get_mut(index)?;
        let most = conn.available().min(BUFFER_BYTES as u64) as u32;
        let short = self.rng.chance(1, 3);
        buf.truncate(if short { 1 + self.rng.below(most) } else { most } as usize);
        conn.deliver(self.pool.bytes_mut(&mut buf));
        conn.moved_at = self.now;
        self.room_for_writer(index);
        Some(Done::Received(buf))
    }

    fn transmit<H: Handler<Self>>(&mut self, sock: Sock, handler: &mut H) {
        let Some(slot) = self.live(sock).filter(|slot| slot.phase == Phase::Open) else { return };
        let conn = slot.conn;
        while self.live(sock).is_some_and(|slot| slot.queued > 0) {
            let Some(entry) = self.conns.get(conn) else { return };
            if let Some(errno) = entry.broken {
                return self.tell_done(sock, Done::Failed(errno), handler);
            }
            if entry.room() == 0 {
                self.live(sock).into_iter().for_each(|slot| slot.sending = true);
                break;
            }
            self.kernel_takes(sock.index, conn);
        }
        let Some(slot) = self.live(sock) else { return };
        let finished = slot.queued == 0 && std::mem::take(&mut slot.finish);
        self.tell_drained(sock, handler);
        if finished && self.live(sock).is_some() {
            self.tell_done(sock, Done::Finished, handler);
        }
    }

    fn tell_drained<H: Handler<Self>>(&mut self, sock: Sock, handler: &mut H) {
        let Some(slot) = self.live(sock) else { return };
        if slot.full && slot.queued <= SEND_QUEUE_LOW {
            slot.full = false;
            let owner = slot.owner;
            self.tell(handler, Event::Drained { sock, owner });
        }
    }

    /// Some bytes, as many as there is room for, go from the queue to the peer.
    pub(super) fn kernel_takes(&mut self, index: u32, conn: usize) {
        let (Some(slot), Some(entry)) = (self.slots.get_mut(index as usize), self.conns.get_mut(conn)) else {
            return;
        };
        self.stats.sends += 1;
        entry.taken_at = self.now;
        let mut left = entry.room().min(slot.queued as u64) as usize;
        if left > 1 && self.rng.chance(1, 4) {
            left = 1 + self.rng.below(left as u32 - 1) as usize;
        }
        while left > 0 {
            let Some(mut buf) = slot.queue.pop_front() else { break };
            let n = left.min(buf.len());
            if let Some(bytes) = self.pool.bytes(&buf).get(..n)
                && let Err(wrong) = entry.take(bytes)
            {
                let text = format!(
                    "c{conn} got a wrong byte at {} of stream {:?}",
                    wrong.position,
                    entry.reader.stream()
                );
                self.violations.push(text);
            }
            buf.advance(n);
            left -= n;
            slot.queued -= n;
            slot.emptied |= slot.queued == 0;
            match buf.is_empty() {
                true => self.pool.free(buf),
                false => slot.queue.push_front(buf),
            }
        }
        self.after_send(conn);
    }

    // ---- completion ----

    fn tell_completed<H: Handler<Self>>(&mut self, handler: &mut H) {
        let mut lanes: Vec<Lane> = Vec::new();
        for index in self.shuffled_active() {
            let Some(sock) = self.sock_at(index).filter(|_| self.can_progress(index)) else { continue };
            if self.rng.chance(1, 8) {
                let at = self.now + 1 + self.delay();
                self.schedule(at, super::Action::Look(sock.index, sock.generation));
                continue;
            }
            self.carry(sock, handler);
            self.collect(sock, &mut lanes);
        }
        let mut order: Vec<usize> = Vec::new();
        for (number, lane) in lanes.iter().enumerate() {
            order.extend(std::iter::repeat_n(number, lane.done.len()));
        }
        shuffle(&mut self.rng, &mut order);
        for number in order {
            let Some(lane) = lanes.get_mut(number) else { continue };
            let (sock, Some(done)) = (lane.sock, lane.done.pop_front()) else { continue };
            self.tell_done(sock, done, handler);
        }
        for lane in lanes {
            if self.can_progress(lane.sock.index) {
                self.mark_active(lane.sock.index);
            }
        }
    }

    /// Fixes what has completed on one socket.
    fn collect(&mut self, sock: Sock, lanes: &mut Vec<Lane>) {
        if self.live(sock).is_some_and(|slot| slot.phase == Phase::Connecting) {
            let Some(conn) = self.conn_of(sock.index) else { return };
            let done = match conn.refusal {
                None => Done::Connected,
                Some((step, errno)) => Done::ConnectFailed(step, errno),
            };
            return lanes.push(Lane { sock, done: [done].into() });
        }
        if self.can_send(sock.index) {
            let queued = self.live(sock).map_or(0, |slot| slot.queued);
            let done = if queued > 0 { Done::Sent } else { Done::Finished };
            lanes.push(Lane { sock, done: [done].into() });
        }
        let mut done = VecDeque::new();
        for _ in 0..=self.rng.below(RECEIVE_BATCH) {
            if !self.can_receive(sock.index) {
                break;
            }
            let Some(next) = self.receive_one(sock) else { break };
            let last = !matches!(next, Done::Received(_));
            done.push_back(next);
            if last {
                break;
            }
        }
        if !done.is_empty() {
            lanes.push(Lane { sock, done });
        }
    }

    // ---- both ----

    /// Tells what was done, unless the app has closed the socket meanwhile.
    fn tell_done<H: Handler<Self>>(&mut self, sock: Sock, done: Done, handler: &mut H) {
        let open = self.live(sock).filter(|slot| matches!(slot.phase, Phase::Open | Phase::Connecting));
        let Some(slot) = open else {
            if let Done::Received(buf) = done {
                self.pool.free(buf);
            }
            return;
        };
        let (owner, conn) = (slot.owner, slot.conn);
        match done {
            Done::Connected => {
                slot.phase = Phase::Open;
                let now = self.now;
                self.told(conn, |conn| conn.told_at = Some(now));
                self.tell(handler, Event::Connected { sock, owner });
                self.mark_active(sock.index);
            }
            Done::ConnectFailed(step, errno) => {
                slot.phase = Phase::Dead;
                self.tell(handler, Event::ConnectFailed { sock, owner, step, errno });
            }
            Done::Received(buf) => self.tell(handler, Event::Received { sock, owner, buf }),
            Done::Eof => {
                (slot.ended, slot.wanted) = (true, false);
                let now = self.now;
                self.told(conn, |conn| conn.eof_told_at = Some(now));
                self.tell(handler, Event::Eof { sock, owner });
            }
            Done::Failed(errno) => {
                slot.phase = Phase::Dead;
                self.clear_queue(sock.index);
                self.told(conn, |conn| conn.failure_told = true);
                self.tell(handler, Event::Failed { sock, owner, errno });
            }
            Done::Sent => self.sent(sock, conn, handler),
            Done::Finished => {
                slot.finish = false;
                self.send_fin(conn);
                self.tell(handler, Event::Finished { sock, owner });
            }
        }
    }

    fn told(&mut self, conn: usize, what: impl FnOnce(&mut Connection)) {
        if let Some(conn) = self.conns.get_mut(conn) {
            what(conn);
        }
    }

    fn sent<H: Handler<Self>>(&mut self, sock: Sock, conn: usize, handler: &mut H) {
        if let Some(errno) = self.conns.get(conn).and_then(|conn| conn.broken) {
            return self.tell_done(sock, Done::Failed(errno), handler);
        }
        self.kernel_takes(sock.index, conn);
        self.live(sock).into_iter().for_each(|slot| slot.sending = false);
        self.mark_dirty(sock);
        self.tell_drained(sock, handler);
    }

    /// Starts what the app asked for and reports what was closed, until there is nothing of either.
    pub(super) fn settle<H: Handler<Self>>(&mut self, handler: &mut H) {
        loop {
            if let Some(index) = self.dirty.pop() {
                let Some(slot) = self.slots.get_mut(index as usize) else { continue };
                slot.dirty = false;
                let sock = Sock { index, generation: slot.generation };
                if slot.phase != Phase::Open || slot.sending {
                    continue;
                }
                match self.config.style {
                    Style::Readiness => self.transmit(sock, handler),
                    Style::Completion => {
                        slot.sending = slot.queued > 0;
                        if slot.sending || slot.finish {
                            let at = self.now + self.delay();
                            self.schedule(at, super::Action::Look(index, sock.generation));
                        }
                    }
                }
            } else if let Some(owner) = self.closed.pop_front() {
                self.tell(handler, Event::Closed { owner });
            } else {
                return;
            }
        }
    }
}

fn shuffle<T>(rng: &mut fourfold_base::prng::Prng, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        items.swap(last, rng.below(last as u32 + 1) as usize);
    }
}

fn describe(event: &Event) -> String {
    match event {
        Event::Received { sock, owner, buf } => {
            format!("Received s{} {owner:x} {} bytes", sock.index, buf.len())
        }
        Event::Closed { owner } => format!("Closed {owner:x}"),
        other => format!("{other:?}"),
    }
}
