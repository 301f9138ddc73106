//! Ends: of a connection that failed, was lost or released, and of the whole load.

use super::open::TUPLE_RETRY_MS;
use super::{Phase, TcpLoad};
use crate::tcp::Work;
use crate::tcp::measure::Reason;
use fourfold_base::slab::Key;
use fourfold_engine::{Close, Net};
use fourfold_ports::Release;

/// Connections closed per turn: a pace, not a burst.
const CLOSES_PER_TURN: usize = 256;

impl TcpLoad {
    pub(super) fn leave_pending(&mut self) {
        self.pending = self.pending.saturating_sub(1);
        self.counters().pending.sub(1);
    }

    pub(super) fn count_failure(&mut self, reason: Reason) {
        self.leave_pending();
        self.counters().failed.add(1);
        self.record.failed.add(reason, 1);
    }

    /// Failed or lost, by how far it had come.
    pub(super) fn end<N: Net>(&mut self, net: &mut N, key: Key, reason: Reason, ending: Release) {
        let Some(conn) = self.conns.get(key) else { return };
        match conn.phase {
            Phase::Connecting | Phase::First | Phase::Retrying => self.count_failure(reason),
            Phase::Idle | Phase::Waiting if self.closing.is_none() => {
                self.counters().held.sub(1);
                self.counters().lost.add(1);
                self.record.lost.add(reason, 1);
            }
            Phase::Idle | Phase::Waiting => self.counters().held.sub(1),
            Phase::Parked | Phase::Closing => return,
        }
        let how = if reason == Reason::PeerClosed { Close::Orderly } else { Close::Reset };
        self.wheel.cancel(key.slot);
        self.close(net, key, Phase::Closing, ending, how);
    }

    pub(super) fn close<N: Net>(&mut self, net: &mut N, key: Key, phase: Phase, ending: Release, how: Close) {
        self.forget_check(key);
        let Some(conn) = self.conns.get_mut(key) else { return };
        (conn.phase, conn.ending) = (phase, ending);
        net.close(conn.sock, how);
    }

    /// We close a held connection first.
    pub(super) fn release_one<N: Net>(&mut self, net: &mut N, key: Key) {
        self.counters().held.sub(1);
        self.wheel.cancel(key.slot);
        if self.closing.is_none() {
            self.counters().released.add(1);
        }
        let (ending, how) = match self.config.load.reset {
            true => (Release::Clean, Close::Reset),
            false => (Release::TimeWait, Close::Orderly),
        };
        self.close(net, key, Phase::Closing, ending, how);
        if self.config.load.work == Work::Churn && self.closing.is_none() {
            self.quota += 1;
        }
    }

    pub(super) fn release_some<N: Net>(&mut self, net: &mut N, count: u64) {
        for _ in 0..count {
            let Some(key) = self.random_held() else { return };
            self.release_one(net, key);
        }
    }

    pub(super) fn on_closed<N: Net>(&mut self, net: &mut N, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let (lease, ending, phase) = (conn.lease.take(), conn.ending, conn.phase);
        self.give_back(lease, net.now(), ending);
        if phase == Phase::Retrying && self.closing.is_none() {
            return self.attempt(net, key);
        }
        match phase {
            Phase::Retrying => self.forget(key, Reason::Unfinished),
            _ => drop(self.conns.remove(key)),
        }
    }

    pub(super) fn on_timeout<N: Net>(&mut self, net: &mut N, key: Key) {
        let now_us = self.now_us();
        let Some(conn) = self.conns.get(key) else { return };
        let (age_us, waited_us) = (now_us.saturating_sub(conn.since_us), now_us.saturating_sub(conn.sent_us));
        match conn.phase {
            Phase::Connecting => {
                self.record.connect.record(age_us);
                self.end(net, key, Reason::ConnectTimeout, Release::Clean);
            }
            Phase::First => {
                self.record.echo.record(waited_us);
                self.end(net, key, Reason::EchoTimeout, Release::Clean);
            }
            Phase::Waiting => {
                self.record.rounds.record(waited_us);
                self.end(net, key, Reason::EchoTimeout, Release::Clean);
            }
            Phase::Parked => {
                self.record.connect.record(age_us);
                self.forget(key, Reason::NoTuple);
            }
            // Looked at again once it has closed.
            Phase::Retrying => self.wheel.set(key.slot, net.now() + TUPLE_RETRY_MS),
            Phase::Idle | Phase::Closing => {}
        }
    }

    /// Settles the account, ends what is under way, and lets [`Self::close_some`] close the rest.
    pub(super) fn begin_close<N: Net>(&mut self, net: &mut N) {
        if self.closing.is_some() {
            return;
        }
        let now_us = self.now_us();
        self.record.held = self.counters().held.get();
        self.record.checked = self.counters().checked.get();
        self.record.ended_us = now_us;
        self.account_unstarted(now_us);
        self.closing = Some(0);
        for slot in 0..self.conns.slots() {
            if let Some(key) = self.conns.key_at(slot) {
                self.account_unfinished(net, key, now_us);
            }
        }
    }

    pub(super) fn account_unstarted(&mut self, now_us: u64) {
        if self.config.load.work == Work::Churn {
            return;
        }
        let missing = self.quota.saturating_sub(self.started);
        self.record.failed.add(Reason::NotStarted, missing);
        self.counters().failed.add(missing);
        if let Some(pace) = self.opening {
            for index in self.started..pace.due_count(now_us).min(self.quota) {
                self.record.connect.record(now_us.saturating_sub(pace.due_us(index)));
            }
        }
    }

    pub(super) fn account_unfinished<N: Net>(&mut self, net: &mut N, key: Key, now_us: u64) {
        let Some(conn) = self.conns.get(key) else { return };
        match conn.phase {
            Phase::Connecting => {
                self.record.connect.record(now_us.saturating_sub(conn.since_us));
                self.end(net, key, Reason::Unfinished, Release::Clean);
            }
            Phase::First => {
                self.record.echo.record(now_us.saturating_sub(conn.sent_us));
                self.end(net, key, Reason::Unfinished, Release::Clean);
            }
            Phase::Waiting => {
                self.record.rounds.record(now_us.saturating_sub(conn.sent_us));
                self.record.rounds_unfinished += 1;
            }
            Phase::Retrying => self.record.connect.record(now_us.saturating_sub(conn.since_us)),
            Phase::Parked => {
                self.record.connect.record(now_us.saturating_sub(conn.since_us));
                self.forget(key, Reason::Unfinished);
            }
            Phase::Idle | Phase::Closing => {}
        }
    }

    pub(super) fn close_some<N: Net>(&mut self, net: &mut N) {
        let Some(first) = self.closing else { return };
        let mut slot = first;
        let mut closed = 0;
        while slot < self.conns.slots() && closed < CLOSES_PER_TURN {
            if let Some(key) = self.conns.key_at(slot).filter(|key| self.is_held(*key)) {
                self.release_one(net, key);
                closed += 1;
            }
            slot += 1;
        }
        self.closing = Some(slot);
    }

    pub(super) fn is_over(&self) -> bool {
        self.closing.is_some() && self.conns.is_empty()
    }
}
