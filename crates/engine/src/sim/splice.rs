//! The virtual kernel's way of carrying a tunnel: it takes what a socket receives, holds it for a while, and hands it to the other
//! socket's peer as that one has room. There is no pressure backwards until so much waits that the tunnel is given back.

use super::{Phase, SimNet, Style};
use crate::net::{Event, Handler, Sock, Unspliced};
use fourfold_base::Millis;
use fourfold_sys::Errno;
use fourfold_sys::buffers::BUFFER_BYTES;
use std::collections::VecDeque;

/// What may wait between two sockets before the tunnel is given back.
const BACKLOG_TOLD: usize = 48 * 1024;
/// One look in so many finds a tunnel to move too much.
const BULK_IN: u32 = 200;
/// What is on its way may take so long to arrive before two sockets are handed over.
const PREPARING_MS: Millis = 100;

/// One socket of a spliced tunnel.
pub(super) struct Carried {
    peer: Sock,
    /// The kernel has taken over; before, what is on its way arrives.
    begun: bool,
    until: Millis,
    /// Taken from the socket, not yet given to the peer's.
    backlog: VecDeque<u8>,
    bytes: u64,
    leaving: Option<Unspliced>,
}

impl SimNet {
    pub(super) fn start_splice(&mut self, a: Sock, b: Sock) -> bool {
        let may = |slot: &mut super::Slot| {
            let open = slot.phase == Phase::Open && slot.wanted && !slot.ended;
            open && !slot.full && !slot.finish && slot.carried.is_none()
        };
        let both = [a, b].iter().all(|sock| self.live(*sock).is_some_and(may));
        if !both || self.rng.chance(1, 8) {
            return false;
        }
        let until = self.now + PREPARING_MS;
        let late = self.config.style == Style::Completion && self.rng.chance(1, 2);
        let turns = self.turns;
        for (sock, peer) in [(a, b), (b, a)] {
            let Some(slot) = self.live(sock) else { continue };
            let backlog = VecDeque::new();
            slot.carried = Some(Carried { peer, begun: false, until, backlog, bytes: 0, leaving: None });
            if late {
                slot.lingers_until = turns + 1;
            }
            self.schedule(until, super::Action::Look(sock.index, sock.generation));
        }
        self.preparing.push([a, b]);
        true
    }

    /// Hands over the pairs of which nothing is on its way any more, and gives up those of which something is for ever.
    pub(super) fn prepare_splices<H: Handler<Self>>(&mut self, handler: &mut H) {
        for socks in std::mem::take(&mut self.preparing) {
            match self.verdict(socks) {
                None => self.preparing.push(socks),
                Some(true) => {
                    for sock in socks {
                        let carried = self.live(sock).and_then(|slot| slot.carried.as_mut());
                        carried.into_iter().for_each(|carried| carried.begun = true);
                        self.mark_active(sock.index);
                    }
                }
                Some(false) => socks.iter().for_each(|sock| self.give_back(*sock, Unspliced::Never, handler)),
            }
        }
    }

    /// Whether a pair begins now, or never. `None`: it still waits.
    pub(super) fn verdict(&self, socks: [Sock; 2]) -> Option<bool> {
        let slots = socks.map(|sock| {
            self.slots.get(sock.index as usize).filter(|slot| slot.generation == sock.generation)
        });
        let [Some(a), Some(b)] = slots else { return Some(false) };
        let fit = |slot: &super::Slot| slot.phase == Phase::Open && !slot.ended && !slot.finish && !slot.full;
        let still = |slot: &super::Slot| slot.queued == 0 && !slot.sending && slot.lingers_until < self.turns;
        let late = a.carried.as_ref().is_none_or(|carried| carried.until <= self.now);
        if !fit(a) || !fit(b) || (late && !(still(a) && still(b))) {
            return Some(false);
        }
        (still(a) && still(b)).then_some(true)
    }

    pub(super) fn can_carry(&self, index: u32) -> bool {
        let Some((slot, conn)) = self.parts(index) else { return false };
        let Some(carried) = slot.carried.as_ref().filter(|carried| carried.begun) else { return false };
        let incoming = self.backlog_for(carried.peer, index);
        let takes = carried.leaving.is_none() && (conn.available() > 0 || conn.fin);
        let done = carried.leaving.is_some() && carried.backlog.is_empty();
        conn.broken.is_some() || takes || done || (incoming > 0 && conn.room() > 0)
    }

    /// Bytes that wait at `from` for the socket at `index`.
    fn backlog_for(&self, from: Sock, index: u32) -> usize {
        let slot = self.slots.get(from.index as usize).filter(|slot| slot.generation == from.generation);
        let carried = slot.and_then(|slot| slot.carried.as_ref()).filter(|one| one.peer.index == index);
        carried.map_or(0, |carried| carried.backlog.len())
    }

    /// The kernel looks at one socket.
    pub(super) fn carry<H: Handler<Self>>(&mut self, sock: Sock, handler: &mut H) {
        let open = self.live(sock).filter(|slot| slot.phase == Phase::Open);
        let Some(slot) = open else { return };
        let conn = slot.conn;
        let Some(Carried { peer, begun: true, .. }) = slot.carried else { return };
        if let Some(errno) = self.conns.get(conn).and_then(|conn| conn.broken) {
            return self.fail_carried(sock, conn, errno, handler);
        }
        self.give_to_peer(peer, sock, conn);
        self.take_in(sock, conn);
        self.mark_active(peer.index);
        let carried = self.live(sock).and_then(|slot| slot.carried.as_ref());
        if let Some(Carried { leaving: Some(why), backlog, .. }) = carried
            && backlog.is_empty()
        {
            let why = *why;
            self.give_back(sock, why, handler);
        }
    }

    fn fail_carried<H: Handler<Self>>(&mut self, sock: Sock, conn: usize, errno: Errno, handler: &mut H) {
        let Some(slot) = self.live(sock) else { return };
        slot.phase = Phase::Dead;
        let owner = slot.owner;
        self.clear_queue(sock.index);
        self.conns.get_mut(conn).into_iter().for_each(|conn| conn.failure_told = true);
        self.tell(handler, Event::Failed { sock, owner, errno });
    }

    /// What waits at `from` goes to the peer of `to`, as far as there is room.
    fn give_to_peer(&mut self, from: Sock, to: Sock, conn: usize) {
        let waiting = self.backlog_for(from, to.index);
        let room = self.conns.get(conn).map_or(0, super::Connection::room);
        let most = (waiting as u64).min(room).min(BUFFER_BYTES as u64) as u32;
        if most == 0 {
            return;
        }
        let count = if self.rng.chance(1, 3) { 1 + self.rng.below(most) } else { most };
        let Some(carried) = self.live(from).and_then(|slot| slot.carried.as_mut()) else { return };
        let bytes: Vec<u8> = carried.backlog.drain(..count as usize).collect();
        let now = self.now;
        let Some(entry) = self.conns.get_mut(conn) else { return };
        entry.taken_at = now;
        if let Err(wrong) = entry.take(&bytes) {
            let text = format!("c{conn} got a wrong carried byte at {}", wrong.position);
            self.violations.push(text);
        }
        self.stats.sends += 1;
        self.after_send(conn);
    }

    fn take_in(&mut self, sock: Sock, conn: usize) {
        let Some(entry) = self.conns.get_mut(conn) else { return };
        let (available, fin, now) = (entry.available(), entry.fin, self.now);
        let Some(carried) = self.live(sock).and_then(|slot| slot.carried.as_ref()) else { return };
        if carried.leaving.is_some() {
            return;
        }
        let peer = carried.peer;
        if available == 0 {
            if fin {
                self.leave(sock, peer, Unspliced::Ended);
            }
            return;
        }
        let mut bytes = vec![0; 1 + self.rng.below(available.min(BUFFER_BYTES as u64) as u32) as usize];
        let Some(entry) = self.conns.get_mut(conn) else { return };
        entry.deliver(&mut bytes);
        entry.moved_at = now;
        let count = bytes.len() as u64;
        let Some(carried) = self.live(sock).and_then(|slot| slot.carried.as_mut()) else { return };
        carried.backlog.extend(bytes);
        carried.bytes += count;
        let slow = carried.backlog.len() > BACKLOG_TOLD;
        self.stats.carried += count;
        self.stats.sends += 1;
        self.room_for_writer(conn);
        if slow {
            self.leave(sock, peer, Unspliced::Slow);
        } else if self.rng.chance(1, BULK_IN) {
            self.leave(sock, peer, Unspliced::Bulk);
        }
    }

    /// Neither of two takes anything more.
    fn leave(&mut self, sock: Sock, peer: Sock, why: Unspliced) {
        for one in [sock, peer] {
            if let Some(carried) = self.live(one).and_then(|slot| slot.carried.as_mut()) {
                carried.leaving.get_or_insert(why);
            }
            self.mark_active(one.index);
        }
    }

    pub(super) fn ask_back(&mut self, sock: Sock) {
        let Some(carried) = self.live(sock).and_then(|slot| slot.carried.as_mut()) else { return };
        let peer = carried.peer;
        match carried.begun {
            true => self.leave(sock, peer, Unspliced::Asked),
            // As if what is on its way had taken too long.
            false => carried.until = 0,
        }
    }

    pub(super) fn carried_bytes(&self, sock: Sock) -> u64 {
        let slot = self.slots.get(sock.index as usize).filter(|slot| slot.generation == sock.generation);
        slot.and_then(|slot| slot.carried.as_ref()).map_or(0, |carried| carried.bytes)
    }

    pub(super) fn waiting_bytes(&self, sock: Sock) -> u64 {
        let slot = self.slots.get(sock.index as usize).filter(|slot| slot.generation == sock.generation);
        slot.and_then(|slot| slot.carried.as_ref()).map_or(0, |carried| carried.backlog.len() as u64)
    }

    fn give_back<H: Handler<Self>>(&mut self, sock: Sock, why: Unspliced, handler: &mut H) {
        let Some(slot) = self.live(sock) else { return };
        let Some(carried) = slot.carried.take() else { return };
        let (owner, bytes) = (slot.owner, carried.bytes);
        if slot.phase == Phase::Open {
            self.tell(handler, Event::Unspliced { sock, owner, bytes, why });
            self.mark_active(sock.index);
        }
    }

    /// One of two is closed: the other is not carried any more either.
    pub(super) fn dissolve(&mut self, sock: Sock) {
        self.preparing.retain(|socks| !socks.contains(&sock));
        let slot = self.slots.get_mut(sock.index as usize);
        let Some(carried) = slot.and_then(|slot| slot.carried.take()) else { return };
        if let Some(slot) = self.live(carried.peer) {
            slot.carried = None;
            self.mark_active(carried.peer.index);
        }
    }
}
