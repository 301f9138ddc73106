//! The world's part: peers write, read and break off by their scripts, and the kernel answers for closed sockets.

use super::conn::{AppEnd, Break, Connection, End, Kind, PeerEnd, RECEIVE_BUFFER};
use super::script::Ended;
use super::{Action, Fault, Phase, SimNet, Slot};
use crate::net::{Close, Sock};
use fourfold_base::Millis;
use fourfold_sys::Errno;

/// A dropped SYN comes again after this time.
const SYN_RETRY_MS: Millis = 1000;
/// When the kernel gives up on a peer that acknowledges nothing (net.ipv4.tcp_retries2).
const RETRIES_MS: Millis = 924_000;

impl SimNet {
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Arrive(conn) => self.arrive(conn),
            Action::Answer(conn) => self.answer(conn),
            Action::Write(conn) => self.peer_writes(conn),
            Action::Step(conn) => self.step(conn),
            Action::Read(conn) => self.peer_reads(conn),
            Action::Break(conn) => self.peer_breaks(conn),
            Action::Lost(conn, errno) => self.break_connection(conn, Errno(errno)),
            Action::Look(index, generation) => self.look(index, generation),
            Action::Close(index, generation) => self.finish_close(Sock { index, generation }),
        }
    }

    fn arrive(&mut self, conn: usize) {
        let Some(Connection { kind: Kind::Client(listener), app, .. }) = self.conns.get_mut(conn) else {
            return;
        };
        let Some(entry) = self.listeners.get_mut(listener.0 as usize) else { return };
        if !entry.open {
            return self.turn_away(conn);
        }
        if entry.backlog.len() >= self.config.backlog {
            return self.schedule(self.now + SYN_RETRY_MS, Action::Arrive(conn));
        }
        entry.backlog.push_back(conn);
        *app = AppEnd::Backlog;
        self.note(|| format!("client c{conn} in the backlog"));
        self.made(conn);
    }

    /// A client without a listener.
    pub(super) fn turn_away(&mut self, conn: usize) {
        self.note(|| format!("client c{conn} turned away"));
        let now = self.now;
        if let Some(conn) = self.conns.get_mut(conn) {
            (conn.app, conn.peer, conn.peer_reset) = (AppEnd::Never, PeerEnd::Gone, true);
            conn.closed_at = Some(now);
        }
        self.tell_reset(conn);
    }

    /// A connect that failed.
    pub(super) fn never_was(&mut self, conn: usize) {
        let Some(conn) = self.conns.get_mut(conn) else { return };
        conn.peer = PeerEnd::Gone;
        conn.app = if matches!(conn.app, AppEnd::Open(_)) { conn.app } else { AppEnd::Never };
        if let Some(tuple) = conn.tuple.take() {
            self.machine.borrow_mut().release(&tuple);
        }
    }

    fn answer(&mut self, conn: usize) {
        let Some(Connection { app: AppEnd::Open(sock), refusal, .. }) = self.conns.get(conn) else { return };
        let (sock, error) = (*sock, *refusal);
        // A cancelled connect may have got through.
        let phase = self.slots.get(sock.index as usize).map(|slot| slot.phase);
        if phase != Some(Phase::Connecting) && self.rng.chance(1, 2) {
            return;
        }
        match error {
            Some(_) => self.never_was(conn),
            None => self.made(conn),
        }
        self.mark_active(sock.index);
    }

    fn made(&mut self, conn: usize) {
        let Some(entry) = self.conns.get_mut(conn) else { return };
        entry.made_at = Some(self.now);
        if let Some((after, _)) = entry.behaviour.break_after {
            self.schedule(self.now + after, Action::Break(conn));
        }
        self.wake_writer(conn);
        self.step(conn);
    }

    pub(super) fn wake_writer(&mut self, conn: usize) {
        let Some(entry) = self.conns.get_mut(conn) else { return };
        if entry.fin || entry.write_due || entry.peer != PeerEnd::Open || entry.is_silent() {
            return;
        }
        entry.write_due = true;
        let gap = if entry.wrote_first { entry.behaviour.write_gap_ms } else { 0 };
        let at = self.now + u64::from(self.rng.below(gap + 1));
        self.schedule(at, Action::Write(conn));
    }

    pub(super) fn wake_reader(&mut self, conn: usize) {
        let Some(entry) = self.conns.get_mut(conn) else { return };
        let eof = entry.fin_sent && !entry.peer_eof && entry.taken() == entry.read;
        if entry.read_due || entry.peer != PeerEnd::Open || (entry.readable_by_peer() == 0 && !eof) {
            return;
        }
        entry.read_due = true;
        let at = self.now + u64::from(self.rng.below(entry.behaviour.read_gap_ms + 1));
        self.schedule(at, Action::Read(conn));
    }

    fn peer_writes(&mut self, conn: usize) {
        let Some(entry) = self.conns.get_mut(conn) else { return };
        entry.write_due = false;
        if entry.peer != PeerEnd::Open || entry.fin {
            return;
        }
        let left = entry.left_to_write();
        if left == 0 {
            return if entry.talk.is_some() { self.step(conn) } else { self.peer_ends(conn) };
        }
        let room = RECEIVE_BUFFER.saturating_sub(entry.available());
        if room == 0 {
            entry.write_blocked = true;
            return;
        }
        let piece = 1 + u64::from(self.rng.below(entry.behaviour.write_max));
        entry.write(piece.min(left).min(room));
        entry.wrote_first = true;
        if !matches!(entry.app, AppEnd::Closed(_)) {
            entry.moved_at = self.now;
        }
        match entry.app {
            AppEnd::Closed(_) => return self.answer_by_reset(conn),
            AppEnd::Open(sock) => self.mark_active(sock.index),
            _ => {}
        }
        match self.conns.get(conn).is_some_and(|entry| entry.talk.is_some() && entry.is_silent()) {
            true => self.step(conn),
            false => self.wake_writer(conn),
        }
    }

    fn peer_ends(&mut self, conn: usize) {
        let Some(entry) = self.conns.get_mut(conn).filter(|entry| entry.may_end()) else { return };
        match entry.behaviour.end {
            End::Stay => {}
            End::Reset => self.peer_resets(conn),
            End::Close => self.peer_closes(conn),
            End::Finish | End::FinishAfterEof => self.peer_sends_fin(conn),
        }
    }

    pub(super) fn peer_closes(&mut self, conn: usize) {
        let Some(entry) = self.conns.get_mut(conn) else { return };
        // A close with bytes unread is a reset.
        if entry.taken() > entry.read {
            return self.peer_resets(conn);
        }
        entry.leave(PeerEnd::Closed);
        if !entry.fin {
            self.peer_sends_fin(conn);
        }
    }

    pub(super) fn peer_sends_fin(&mut self, conn: usize) {
        self.note(|| format!("c{conn} peer sends FIN"));
        let now = self.now;
        let Some(entry) = self.conns.get_mut(conn) else { return };
        entry.fin = true;
        match entry.app {
            AppEnd::Closed(_) => {
                if let Some(tuple) = entry.tuple {
                    self.machine.borrow_mut().fin_in_fin_wait(tuple, now);
                }
            }
            AppEnd::Open(sock) => {
                if entry.fin_sent {
                    entry.time_wait_since = Some(now);
                }
                self.mark_active(sock.index);
            }
            _ => {}
        }
    }

    fn peer_breaks(&mut self, conn: usize) {
        let Some(entry) = self.conns.get_mut(conn).filter(|entry| !entry.is_over_for_peer()) else { return };
        match entry.behaviour.break_after {
            Some((_, Break::Reset)) => self.peer_resets(conn),
            Some((_, Break::Vanish)) => {
                entry.leave(PeerEnd::Vanished);
                self.note(|| format!("c{conn} peer vanishes"));
                self.expect_timeout(conn);
            }
            None => {}
        }
    }

    /// Bytes that nobody acknowledges end a connection, late.
    pub(super) fn expect_timeout(&mut self, conn: usize) {
        let Some(entry) = self.conns.get(conn) else { return };
        if entry.peer == PeerEnd::Vanished && entry.taken() > entry.read {
            self.schedule(self.now + RETRIES_MS, Action::Lost(conn, Errno::ETIMEDOUT.0));
        }
    }

    pub(super) fn peer_resets(&mut self, conn: usize) {
        self.note(|| format!("c{conn} peer sends RST"));
        if let Some(entry) = self.conns.get_mut(conn) {
            entry.leave(PeerEnd::Gone);
        }
        self.break_connection(conn, Errno::ECONNRESET);
    }

    /// An RST, or worse, has come from the peer's side.
    fn break_connection(&mut self, conn: usize, errno: Errno) {
        let Some(entry) = self.conns.get_mut(conn) else { return };
        match entry.app {
            AppEnd::Closed(_) => {
                if let Some(tuple) = entry.tuple.take() {
                    self.machine.borrow_mut().reset_in_fin_wait(&tuple);
                }
            }
            AppEnd::Open(sock) => {
                entry.broken.get_or_insert(errno);
                self.mark_active(sock.index);
            }
            AppEnd::Early | AppEnd::Backlog | AppEnd::Never => {
                entry.broken.get_or_insert(errno);
            }
        }
    }

    /// The peer has sent to a socket that the app has closed.
    fn answer_by_reset(&mut self, conn: usize) {
        let Some(entry) = self.conns.get_mut(conn) else { return };
        (entry.peer_reset, entry.peer) = (true, PeerEnd::Gone);
        if let Some(tuple) = entry.tuple.take() {
            self.machine.borrow_mut().reset_in_fin_wait(&tuple);
        }
        self.note(|| format!("c{conn} peer gets RST from a closed socket"));
        self.tell_reset(conn);
    }

    fn peer_reads(&mut self, conn: usize) {
        let Some(entry) = self.conns.get_mut(conn) else { return };
        entry.read_due = false;
        if entry.peer != PeerEnd::Open {
            return;
        }
        let piece = 1 + u64::from(self.rng.below(entry.behaviour.read_max));
        let piece = piece.min(entry.readable_by_peer());
        entry.read += piece;
        if let Some(talk) = &mut entry.talk {
            talk.read(self.now, piece as usize);
        }
        if !matches!(entry.app, AppEnd::Closed(_)) {
            entry.read_at = self.now;
        }
        if entry.fin_sent && entry.read == entry.taken() && !entry.peer_eof {
            entry.peer_eof = true;
            if let Some(talk) = &mut entry.talk {
                talk.end(self.now, Ended::Fin);
            }
            let read = entry.read;
            self.note(|| format!("c{conn} peer reads FIN after {read} bytes"));
        }
        if let Some(AppEnd::Open(sock)) = self.conns.get(conn).map(|entry| entry.app) {
            self.mark_active(sock.index);
        }
        self.wake_reader(conn);
        self.wake_writer(conn);
        self.step(conn);
    }

    /// Bytes have been read out of our receive buffer.
    pub(super) fn room_for_writer(&mut self, conn: usize) {
        if let Some(entry) = self.conns.get_mut(conn)
            && std::mem::take(&mut entry.write_blocked)
        {
            self.wake_writer(conn);
        }
    }

    /// Our FIN leaves.
    pub(super) fn send_fin(&mut self, conn: usize) {
        let Some(entry) = self.conns.get_mut(conn).filter(|entry| !entry.fin_sent) else { return };
        entry.fin_sent = true;
        self.note(|| format!("c{conn} app's FIN leaves"));
        self.wake_reader(conn);
    }

    /// Bytes that a peer which has closed its socket gets are answered by RST.
    pub(super) fn after_send(&mut self, conn: usize) {
        let Some(entry) = self.conns.get(conn) else { return };
        match entry.peer {
            PeerEnd::Closed => {
                let at = self.now + self.delay();
                self.schedule(at, Action::Lost(conn, Errno::ECONNRESET.0));
            }
            PeerEnd::Vanished => self.expect_timeout(conn),
            PeerEnd::Open => self.wake_reader(conn),
            PeerEnd::Gone => {}
        }
    }

    fn look(&mut self, index: u32, generation: u32) {
        if self.slots.get(index as usize).is_some_and(|slot| slot.generation == generation) {
            self.mark_active(index);
        }
    }

    /// Completion style: the cancelled operations have come back, the kernel closes.
    fn finish_close(&mut self, sock: Sock) {
        let Some(slot) = self.slots.get(sock.index as usize) else { return };
        // A send that was cancelled may have got some bytes away.
        if slot.sending && slot.queued > 0 && self.rng.chance(1, 2) {
            let conn = slot.conn;
            let before = self.conns.get(conn).map_or(0, |conn| conn.taken_at);
            self.kernel_takes(sock.index, conn);
            self.conns.get_mut(conn).into_iter().for_each(|conn| conn.taken_at = before);
        }
        self.clear_queue(sock.index);
        self.close_slot(sock);
    }

    /// The kernel's close, and the slot is free for another.
    pub(super) fn close_slot(&mut self, sock: Sock) {
        let Some(slot) = self.slots.get_mut(sock.index as usize) else { return };
        let (conn, how, owner) = (slot.conn, slot.how, slot.owner);
        let fresh = Slot::new(slot.generation.wrapping_add(1));
        let old = std::mem::replace(slot, fresh);
        (slot.active, slot.dirty) = (old.active, old.dirty);
        self.free.push(sock.index);
        self.sockets -= 1;
        if matches!(self.conns.get(conn), Some(Connection { kind: Kind::Client(_), .. })) {
            self.accepted_open -= 1;
            self.stats.adopted -= usize::from(self.conns.get(conn).is_some_and(|conn| conn.owner.is_some()));
        }
        if self.config.fault != Some(Fault::EarlyClosed) {
            self.closed.push_back(owner);
        }
        self.close_connection(conn, how);
    }

    fn close_connection(&mut self, conn: usize, how: Close) {
        let now = self.now;
        let Some(entry) = self.conns.get_mut(conn) else { return };
        (entry.app, entry.closed_at) = (AppEnd::Closed(how), Some(now));
        (entry.unread_at_close, entry.room_at_close) = (entry.available(), entry.room());
        if entry.made_at.is_none() || entry.broken.is_some() {
            entry.peer = if entry.broken.is_none() { PeerEnd::Gone } else { entry.peer };
            if let Some(tuple) = entry.tuple.take() {
                self.machine.borrow_mut().release(&tuple);
            }
            return;
        }
        if let (Some(tuple), Some(since)) = (entry.tuple, entry.time_wait_since) {
            // In TIME_WAIT already: no way of closing ends it.
            entry.tuple = None;
            return self.machine.borrow_mut().release_to_time_wait(tuple, since, now);
        }
        // RFC 2525, 2.17: a close with bytes unread is a reset.
        if how == Close::Reset || entry.available() > 0 {
            return self.send_reset(conn);
        }
        match entry.tuple {
            // The peer closed first; LAST_ACK is over in no time.
            Some(tuple) if entry.fin => {
                entry.tuple = None;
                self.machine.borrow_mut().release(&tuple);
            }
            Some(tuple) => self.machine.borrow_mut().release_to_fin_wait(tuple, now),
            None => {}
        }
        entry.fin_by_close = !entry.fin_sent;
        self.send_fin(conn);
    }

    fn send_reset(&mut self, conn: usize) {
        let Some(entry) = self.conns.get_mut(conn) else { return };
        if let Some(tuple) = entry.tuple.take() {
            self.machine.borrow_mut().release(&tuple);
        }
        if entry.peer == PeerEnd::Open && !(entry.fin && entry.peer_eof) {
            entry.peer_reset = true;
            entry.peer = PeerEnd::Gone;
            self.note(|| format!("c{conn} peer gets RST"));
            self.tell_reset(conn);
        }
    }
}
