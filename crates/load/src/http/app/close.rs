//! Ends: of a connection, and of the whole load.

use super::{DRAIN_MS, HttpLoad, Phase};
use crate::http::Pace;
use crate::http::measure::Cause;
use fourfold_base::slab::Key;
use fourfold_engine::{Close, Net, Sock};
use fourfold_ports::Release;

/// Connections closed per turn: a pace, not a burst.
const CLOSES_PER_TURN: usize = 256;

impl HttpLoad {
    pub(super) fn close<N: Net>(&mut self, net: &mut N, key: Key, phase: Phase, ending: Release, how: Close) {
        self.forget_check(key);
        let Some(client) = self.clients.get_mut(key) else { return };
        (client.phase, client.ending) = (phase, ending);
        net.close(client.sock, how);
    }

    pub(super) fn on_closed<N: Net>(&mut self, net: &mut N, key: Key) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let (lease, ending, phase) = (client.lease.take(), client.ending, client.phase);
        client.sock = Sock::NONE;
        self.give_back(lease, net.now(), ending);
        match phase {
            Phase::Retrying if self.closing.is_none() => self.attempt(net, key),
            Phase::Retrying => drop(self.clients.remove(key)),
            _ => self.go_on_without(net, key),
        }
    }

    pub(super) fn on_timeout<N: Net>(&mut self, net: &mut N, key: Key) {
        let Some(client) = self.clients.get(key) else { return };
        match client.phase {
            Phase::Connecting | Phase::Retrying => self.fail_connect(net, key, Cause::ConnectTimeout),
            Phase::Parked => self.fail_connect(net, key, Cause::NoTuple),
            Phase::Handshaking => self.fail_connect(net, key, Cause::Timeout),
            Phase::Waiting => self.fail(net, key, Cause::Timeout),
            Phase::Parting => self.part(net, key, Close::Reset),
            Phase::Resting => self.end_rest(net, key),
            Phase::Idle | Phase::Closing => {}
        }
    }

    fn end_rest<N: Net>(&mut self, net: &mut N, key: Key) {
        let now_us = self.now_us();
        match self.config.load.keep_alive && !self.is_draining() {
            true => self.connect(net, key, now_us),
            false => self.ready(net, key),
        }
    }

    /// All requests that were asked for have been started, and none is under way.
    pub(super) fn is_spent(&self) -> bool {
        self.budget == 0 && self.counters().in_flight.get() == 0 && self.config.load.pace != Pace::Hold
    }

    /// Starts nothing more.
    pub(super) fn begin_drain<N: Net>(&mut self, net: &mut N) {
        if self.is_draining() {
            return;
        }
        self.draining_until = Some(net.now() + DRAIN_MS);
        self.record.ended_us = self.now_us();
        self.account_unstarted();
    }

    /// Requests that were due and found no free client.
    fn account_unstarted(&mut self) {
        let Some(schedule) = self.schedule else { return };
        let now_us = self.now_us();
        let due = schedule.due_count(now_us).min(self.begun.saturating_add(self.budget));
        for index in self.begun..due {
            let post = self.is_post(index);
            self.kind(post).latency.record(now_us.saturating_sub(schedule.due_us(index)));
            self.record.not_started += 1;
        }
    }

    pub(super) fn close_when_drained<N: Net>(&mut self, net: &mut N) {
        let Some(until) = self.draining_until.filter(|_| self.closing.is_none()) else { return };
        if self.counters().in_flight.get() > 0 && until > net.now() {
            return;
        }
        self.record.held = self.counters().held.get();
        self.record.checked = self.counters().checked.get();
        for slot in 0..self.clients.slots() {
            if let Some(key) = self.clients.key_at(slot) {
                self.fail_request(key, Cause::Unfinished);
                self.lose_attached(key, Cause::Unfinished);
            }
        }
        self.closing = Some(0);
    }

    pub(super) fn close_some<N: Net>(&mut self, net: &mut N) {
        let Some(mut slot) = self.closing else { return };
        let mut closed = 0;
        while slot < self.clients.slots() && closed < CLOSES_PER_TURN {
            if let Some(key) = self.clients.key_at(slot) {
                self.dismiss(net, key);
                closed += 1;
            }
            slot += 1;
        }
        self.closing = Some(slot);
    }

    fn dismiss<N: Net>(&mut self, net: &mut N, key: Key) {
        let Some(client) = self.clients.get(key) else { return };
        self.wheel.cancel(key.slot);
        match client.phase {
            // Its Closed is on its way.
            Phase::Closing | Phase::Retrying => {}
            _ if client.sock == Sock::NONE => drop(self.clients.remove(key)),
            Phase::Connecting => self.close(net, key, Phase::Closing, Release::Clean, Close::Reset),
            _ => {
                self.counters().held.sub(1);
                self.close(net, key, Phase::Closing, Release::TimeWait, Close::Orderly);
            }
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.closing.is_some() && self.clients.is_empty()
    }
}
