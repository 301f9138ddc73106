//! Making connections: the schedule, the tuple, the attempts.

use super::{Check, Conn, Phase, STARTS_PER_TURN, TcpLoad, millis};
use crate::tcp::measure::Reason;
use crate::tuples::{self, is_foreign};
use fourfold_base::Millis;
use fourfold_base::slab::Key;
use fourfold_engine::{Close, Errno, Local, Net, Sock, Step};
use fourfold_ports::{Lease, Release};

/// Tuples tried for one connection before it fails. A load that ended a moment ago leaves as many in TIME_WAIT as it had.
pub const TUPLE_ATTEMPTS_MAX: u16 = 1024;
/// How soon a parked connection looks for a free tuple again if nothing says when there will be one.
pub(crate) const TUPLE_RETRY_MS: Millis = 50;

impl TcpLoad {
    pub(super) fn may_start(&self) -> bool {
        self.closing.is_none()
            && self.started < self.quota
            && self.pending < self.config.pending_max
            && !self.conns.is_full()
    }

    pub(super) fn start_due<N: Net>(&mut self, net: &mut N) {
        for _ in 0..STARTS_PER_TURN {
            if !self.may_start() {
                return;
            }
            let now_us = self.now_us();
            let since = self.opening.map_or(Some(now_us), |pace| pace.take(self.started, now_us));
            let Some(since_us) = since else { return };
            self.start_one(net, since_us);
        }
    }

    pub(super) fn start_one<N: Net>(&mut self, net: &mut N, since_us: u64) {
        // Unique over all shards.
        let number = self.started * self.config.shards as u64 + self.config.index as u64;
        let conn = Conn {
            sock: Sock::NONE,
            lease: None,
            number: number as u32,
            round: 0,
            sent: 0,
            received: 0,
            since_us,
            sent_us: 0,
            phase: Phase::Connecting,
            check: Check::Due,
            attempts: 0,
            ending: Release::Clean,
        };
        let Ok(key) = self.conns.insert(conn) else { return };
        self.started += 1;
        self.pending += 1;
        self.counters().started.add(1);
        self.counters().pending.add(1);
        self.wheel.set(key.slot, net.now() + millis(self.config.load.connect_timeout));
        self.attempt(net, key);
    }

    /// Connects from a tuple that is free, as far as we know.
    pub(super) fn attempt<N: Net>(&mut self, net: &mut N, key: Key) {
        let reason = loop {
            let lease = match self.config.slice.as_mut().map(|slice| slice.lease(net.now())) {
                Some(Err(exhausted)) => return self.park(net.now(), key, exhausted.next_free_ms),
                Some(Ok(lease)) => Some(lease),
                None => None,
            };
            let local = self.local(lease.as_ref());
            let Some(conn) = self.conns.get_mut(key) else { return };
            conn.phase = Phase::Connecting;
            conn.attempts += 1;
            match net.connect(&self.config.load.target, local, key.to_bits()) {
                Ok(sock) => return (conn.sock, conn.lease) = (sock, lease),
                Err(refused) => {
                    let again = is_foreign(refused.step, refused.errno, local);
                    let more = conn.attempts < TUPLE_ATTEMPTS_MAX;
                    self.give_back(lease, net.now(), if again { Release::Foreign } else { Release::Clean });
                    if !(again && more) {
                        break Reason::Connect(refused.step, refused.errno);
                    }
                    self.counters().tuple_retries.add(1);
                }
            }
        };
        self.forget(key, reason);
    }

    /// A connection that has no socket fails.
    pub(super) fn forget(&mut self, key: Key, reason: Reason) {
        self.count_failure(reason);
        self.wheel.cancel(key.slot);
        self.conns.remove(key);
    }

    /// Until there is a free tuple, or the connect time-out.
    pub(super) fn park(&mut self, now: Millis, key: Key, next_free_ms: Option<Millis>) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.phase = Phase::Parked;
        self.parked.push_back(key);
        self.parked_until = next_free_ms.unwrap_or(now + TUPLE_RETRY_MS).clamp(now + 1, now + TUPLE_RETRY_MS);
    }

    pub(super) fn retry_parked<N: Net>(&mut self, net: &mut N) {
        for _ in 0..STARTS_PER_TURN {
            if self.closing.is_some() || self.parked_until > net.now() {
                return;
            }
            let Some(key) = self.parked.pop_front() else { return };
            // It may have timed out meanwhile.
            if self.conns.get(key).is_some_and(|conn| conn.phase == Phase::Parked) {
                self.attempt(net, key);
            }
        }
    }

    pub(super) fn local(&self, lease: Option<&Lease>) -> Local {
        tuples::local(self.config.slice.as_ref(), lease, self.config.load.target.ip())
    }

    pub(super) fn give_back(&mut self, lease: Option<Lease>, now: Millis, how: Release) {
        if let (Some(slice), Some(lease)) = (&mut self.config.slice, lease) {
            slice.release(lease, now, how);
        }
    }

    pub(super) fn on_connected<N: Net>(&mut self, net: &mut N, key: Key) {
        let now_us = self.now_us();
        let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.phase == Phase::Connecting) else {
            return;
        };
        conn.phase = Phase::First;
        conn.sent_us = now_us;
        let (since_us, sock) = (conn.since_us, conn.sock);
        let took_us = now_us.saturating_sub(since_us);
        self.record.connect.record(took_us);
        self.counters().connect_us.add(took_us);
        self.counters().opened.add(1);
        self.wheel.set(key.slot, net.now() + millis(self.config.load.echo_timeout));
        net.receive(sock);
        self.send_more(net, key);
    }

    pub(super) fn on_connect_failed<N: Net>(&mut self, net: &mut N, key: Key, step: Step, errno: Errno) {
        let Some(conn) = self.conns.get(key).filter(|conn| conn.phase == Phase::Connecting) else { return };
        let local = self.local(conn.lease.as_ref());
        if is_foreign(step, errno, local) && conn.attempts < TUPLE_ATTEMPTS_MAX {
            self.counters().tuple_retries.add(1);
            return self.close(net, key, Phase::Retrying, Release::Foreign, Close::Orderly);
        }
        self.end(net, key, Reason::Connect(step, errno), Release::Clean);
    }
}
