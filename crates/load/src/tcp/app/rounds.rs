//! Messages: the first token, and the rounds after it.

use super::{BUFFER_RETRY_MS, Check, Phase, TcpLoad, millis};
use crate::message::{Message, TOKEN_BYTES};
use crate::pace::Pace;
use crate::tcp::Work;
use crate::tcp::measure::{DECILES, Reason};
use fourfold_base::slab::Key;
use fourfold_engine::{Buf, Net, Pressure};
use fourfold_ports::Release;

/// Looks here and there for a connection to verify or release before searching on.
const RANDOM_LOOKS: usize = 16;

impl TcpLoad {
    pub(super) fn message_len(&self, round: u32) -> u32 {
        match self.config.load.work {
            Work::Requests { bytes, .. } if round > 0 => bytes,
            _ => TOKEN_BYTES,
        }
    }

    /// Sends the present message on from where it is, until the socket is full; [`Event::Drained`] continues.
    pub(super) fn send_more<N: Net>(&mut self, net: &mut N, key: Key) {
        let Some(conn) = self.conns.get(key).filter(|c| matches!(c.phase, Phase::First | Phase::Waiting))
        else {
            return;
        };
        let len = self.message_len(conn.round);
        let message =
            Message { seed: self.config.load.seed, number: u64::from(conn.number), round: conn.round };
        let (sock, mut sent) = (conn.sock, conn.sent);
        while sent < len {
            let Some(mut buf) = net.alloc() else {
                self.starved.push(key);
                self.starved_until = net.now() + BUFFER_RETRY_MS;
                break;
            };
            buf.truncate((len - sent) as usize);
            message.fill(sent as usize, net.bytes_mut(&mut buf));
            sent += buf.len() as u32;
            if net.send(sock, buf) == Pressure::Full {
                break;
            }
        }
        if let Some(conn) = self.conns.get_mut(key) {
            conn.sent = sent;
        }
    }

    pub(super) fn on_received<N: Net>(&mut self, net: &mut N, key: Key, buf: Buf) {
        // Once the account is settled, nothing that comes counts.
        let live = self.conns.get_mut(key).filter(|conn| conn.phase != Phase::Closing);
        let Some(conn) = live.filter(|_| self.closing.is_none()) else { return net.free(buf) };
        let message =
            Message { seed: self.config.load.seed, number: u64::from(conn.number), round: conn.round };
        let bytes = net.bytes(&buf);
        let expected = match conn.phase {
            Phase::First | Phase::Waiting => (conn.sent - conn.received) as usize,
            _ => 0,
        };
        let (answer, surplus) = bytes.split_at(bytes.len().min(expected));
        let wrong = message.wrong(conn.received as usize, answer) + surplus.len();
        conn.received += answer.len() as u32;
        let (received, round) = (conn.received, conn.round);
        net.free(buf);
        if wrong > 0 {
            self.counters().wrong_bytes.add(wrong as u64);
            self.end(net, key, Reason::WrongBytes, Release::Clean);
        } else if received == self.message_len(round) {
            self.on_echo(net, key);
        }
    }

    pub(super) fn on_echo<N: Net>(&mut self, net: &mut N, key: Key) {
        let now_us = self.now_us();
        let Some(conn) = self.conns.get_mut(key) else { return };
        let first = conn.phase == Phase::First;
        conn.phase = Phase::Idle;
        let took_us = now_us.saturating_sub(conn.sent_us);
        let (since_us, number) = (conn.since_us, conn.number);
        self.wheel.cancel(key.slot);
        match first {
            true => self.on_verified(u64::from(number), since_us, took_us, now_us),
            false => {
                self.record.rounds.record(took_us);
                self.counters().rounds.add(1);
                self.on_checked(key);
            }
        }
        match self.config.load.work {
            Work::Hold { .. } => {}
            Work::Requests { rate: None, .. } => self.begin_round(net, key, now_us),
            Work::Requests { rate: Some(_), .. } => self.idle.push_back(key),
            Work::Churn => self.release_one(net, key),
        }
    }

    pub(super) fn on_verified(&mut self, number: u64, since_us: u64, took_us: u64, now_us: u64) {
        self.leave_pending();
        self.counters().verified.add(1);
        self.counters().held.add(1);
        self.counters().verify_us.add(now_us.saturating_sub(since_us));
        self.record.echo.record(took_us);
        self.record.last_verified_us = now_us;
        let order = number / self.config.shards as u64;
        let decile = order * DECILES as u64 / self.first_quota.max(1);
        if let Some(decile) = self.record.deciles.get_mut(decile as usize) {
            decile.record(now_us.saturating_sub(since_us));
        }
    }

    /// Sends the next message of an idle connection; its time counts from `intended_us`.
    pub(super) fn begin_round<N: Net>(&mut self, net: &mut N, key: Key, intended_us: u64) {
        let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.phase == Phase::Idle) else { return };
        conn.phase = Phase::Waiting;
        conn.round = conn.round.wrapping_add(1).max(1);
        (conn.sent, conn.received, conn.sent_us) = (0, 0, intended_us);
        self.record.first_round_us = self.record.first_round_us.min(intended_us);
        if matches!(self.config.load.work, Work::Hold { .. }) {
            self.wheel.set(key.slot, net.now() + millis(self.config.load.echo_timeout));
        }
        self.send_more(net, key);
    }

    /// Begins with the messages of [`super::LoadMail::CheckEach`], as many at a time as connections may be under way.
    pub(super) fn check_some<N: Net>(&mut self, net: &mut N) {
        let Some(mut slot) = self.checking.filter(|_| self.closing.is_none()) else { return };
        let now_us = self.now_us();
        while slot < self.conns.slots() && self.checks_under_way < self.config.pending_max {
            let due = |key: &Key| self.conns.get(*key).is_some_and(|conn| conn.check == Check::Due);
            if let Some(key) = self.conns.key_at(slot).filter(due) {
                match self.conns.get_mut(key) {
                    Some(conn) if conn.phase == Phase::Idle => {
                        conn.check = Check::UnderWay;
                        self.checks_under_way += 1;
                        self.begin_round(net, key, now_us);
                    }
                    // The message that is under way was sent before this was asked for; its echo or its end is near.
                    Some(conn) if conn.phase == Phase::Waiting => break,
                    _ => {}
                }
            }
            slot += 1;
        }
        self.checking = (slot < self.conns.slots()).then_some(slot);
    }

    fn on_checked(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.check == Check::UnderWay) else { return };
        conn.check = Check::Done;
        self.checks_under_way -= 1;
        self.counters().checked.add(1);
    }

    /// The connection ends.
    pub(super) fn forget_check(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        match std::mem::replace(&mut conn.check, Check::Due) {
            Check::Due => {}
            Check::UnderWay => self.checks_under_way -= 1,
            Check::Done => self.counters().checked.sub(1),
        }
    }

    /// The schedule of random verifications begins anew.
    pub(super) fn verify_at(&mut self, rate: u32) {
        self.rounds = Pace::new(self.now_us(), self.part_of(f64::from(rate)));
        self.rounds_begun = 0;
    }

    pub(super) fn rounds_rate(&self) -> f64 {
        match self.config.load.work {
            Work::Hold { verify_rate } => verify_rate,
            Work::Requests { rate, .. } => rate.unwrap_or(0.0),
            Work::Churn => 0.0,
        }
    }

    /// Begins the rounds that are due. The schedule starts with the first verified connection.
    pub(super) fn begin_due_rounds<N: Net>(&mut self, net: &mut N) {
        let now_us = self.now_us();
        if self.rounds.is_none() && self.counters().held.get() > 0 {
            self.rounds = Pace::new(now_us, self.part_of(self.rounds_rate()));
        }
        let Some(pace) = self.rounds.filter(|_| self.closing.is_none()) else { return };
        while let Some(intended_us) = pace.take(self.rounds_begun, now_us) {
            match self.config.load.work {
                Work::Requests { .. } => {
                    // Every connection is busy: the round stays due, and its time runs.
                    let Some(key) = self.idle.pop_front() else { return };
                    if !self.is_idle(key) {
                        continue;
                    }
                    self.begin_round(net, key, intended_us);
                }
                _ => {
                    if let Some(key) = self.random_idle() {
                        self.begin_round(net, key, intended_us);
                    }
                }
            }
            self.rounds_begun += 1;
        }
    }

    pub(super) fn is_idle(&self, key: Key) -> bool {
        self.conns.get(key).is_some_and(|conn| conn.phase == Phase::Idle)
    }

    pub(super) fn is_held(&self, key: Key) -> bool {
        self.conns.get(key).is_some_and(|conn| matches!(conn.phase, Phase::Idle | Phase::Waiting))
    }

    pub(super) fn random_key(&mut self) -> Option<Key> {
        let slot = self.rng.below(self.conns.slots());
        self.conns.key_at(slot)
    }

    pub(super) fn random_idle(&mut self) -> Option<Key> {
        (0..RANDOM_LOOKS).find_map(|_| self.random_key().filter(|key| self.is_idle(*key)))
    }

    /// Searches on from a random slot when looking here and there finds none.
    pub(super) fn random_held(&mut self) -> Option<Key> {
        let found = (0..RANDOM_LOOKS).find_map(|_| self.random_key().filter(|key| self.is_held(*key)));
        found.or_else(|| {
            let slots = self.conns.slots();
            let first = self.rng.below(slots);
            let mut keys = (first..slots).chain(0..first).filter_map(|slot| self.conns.key_at(slot));
            keys.find(|key| self.is_held(*key))
        })
    }
}
