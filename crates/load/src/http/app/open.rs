//! Making connections: the schedule, the tuple, the attempts, the handshake.

use super::{After, Check, Client, HttpLoad, Phase, STARTS_PER_TURN, millis};
use crate::http::Protocol;
use crate::http::answer::{Answers, Messages, Reader, finish_handshake};
use crate::http::measure::Cause;
use crate::tcp::{TUPLE_ATTEMPTS_MAX, TUPLE_RETRY_MS};
use crate::tuples::{self, is_foreign};
use crate::wire::frame;
use fourfold_base::Millis;
use fourfold_base::slab::Key;
use fourfold_engine::{Close, Errno, Net, Sock, Step};
use fourfold_ports::{Lease, Release};

/// After a connection that could not be made, its client rests so long: no spin against a closed port.
const REST_MS: Millis = 100;

impl HttpLoad {
    pub(super) fn may_create(&self) -> bool {
        !self.is_draining()
            && self.created < self.quota
            && self.pending < self.config.pending_max
            && !self.clients.is_full()
    }

    pub(super) fn create_due<N: Net>(&mut self, net: &mut N) {
        for _ in 0..STARTS_PER_TURN {
            if !self.may_create() {
                return;
            }
            let now_us = self.now_us();
            let due = self.opening.map_or(Some(now_us), |opening| opening.take(self.created, now_us));
            let Some(since_us) = due else { return };
            self.create(net, since_us);
        }
    }

    fn create<N: Net>(&mut self, net: &mut N, since_us: u64) {
        // Unique over all shards.
        let number = self.created * self.config.shards as u64 + self.config.index as u64;
        let client = Client {
            sock: Sock::NONE,
            lease: None,
            number: number as u32,
            round: 0,
            sent: 0,
            reader: Reader::new(),
            intended_us: since_us,
            connecting_since_us: since_us,
            served: 0,
            attempts: 0,
            phase: Phase::Idle,
            after: After::Gone,
            check: Check::Due,
            ending: Release::Clean,
            post: false,
            attached: false,
            settled: false,
            queued: false,
        };
        let Ok(key) = self.clients.insert(client) else { return };
        self.created += 1;
        match self.config.load.keep_alive || self.holds() {
            true => self.connect(net, key, since_us),
            false => self.ready(net, key),
        }
    }

    pub(super) fn connect<N: Net>(&mut self, net: &mut N, key: Key, since_us: u64) {
        let Some(client) = self.clients.get_mut(key) else { return };
        (client.connecting_since_us, client.attempts) = (since_us, 0);
        self.pending += 1;
        self.counters().pending.add(1);
        self.wheel.set(key.slot, net.now() + millis(self.config.load.connect_timeout));
        self.attempt(net, key);
    }

    /// Connects from a tuple that is free, as far as we know.
    pub(super) fn attempt<N: Net>(&mut self, net: &mut N, key: Key) {
        let cause = loop {
            let lease = match self.config.slice.as_mut().map(|slice| slice.lease(net.now())) {
                Some(Err(exhausted)) => return self.park(net.now(), key, exhausted.next_free_ms),
                Some(Ok(lease)) => Some(lease),
                None => None,
            };
            let target = self.config.load.target;
            let local = tuples::local(self.config.slice.as_ref(), lease.as_ref(), target.ip());
            let Some(client) = self.clients.get_mut(key) else { return };
            client.phase = Phase::Connecting;
            client.attempts += 1;
            match net.connect(&target, local, key.to_bits()) {
                Ok(sock) => return (client.sock, client.lease) = (sock, lease),
                Err(refused) => {
                    let again = is_foreign(refused.step, refused.errno, local);
                    let more = client.attempts < TUPLE_ATTEMPTS_MAX;
                    self.give_back(lease, net.now(), if again { Release::Foreign } else { Release::Clean });
                    if !(again && more) {
                        break Cause::Connect(refused.step, refused.errno);
                    }
                    self.counters().tuple_retries.add(1);
                }
            }
        };
        self.fail_connect(net, key, cause);
    }

    /// Until there is a free tuple, or the connect time-out.
    fn park(&mut self, now: Millis, key: Key, next_free_ms: Option<Millis>) {
        let Some(client) = self.clients.get_mut(key) else { return };
        client.phase = Phase::Parked;
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
            if self.clients.get(key).is_some_and(|client| client.phase == Phase::Parked) {
                self.attempt(net, key);
            }
        }
    }

    pub(super) fn give_back(&mut self, lease: Option<Lease>, now: Millis, how: Release) {
        if let (Some(slice), Some(lease)) = (&mut self.config.slice, lease) {
            slice.release(lease, now, how);
        }
    }

    pub(super) fn leave_pending(&mut self) {
        self.pending = self.pending.saturating_sub(1);
        self.counters().pending.sub(1);
    }

    pub(super) fn on_connected<N: Net>(&mut self, net: &mut N, key: Key) {
        let now_us = self.now_us();
        let Some(client) = self.clients.get_mut(key).filter(|client| client.phase == Phase::Connecting)
        else {
            return;
        };
        (client.reader, client.served) = (Reader::new(), 0);
        let (since_us, sock) = (client.connecting_since_us, client.sock);
        let took_us = now_us.saturating_sub(since_us);
        self.record.connect.record(took_us);
        self.counters().connect_us.add(took_us);
        if !self.holds() {
            self.leave_pending();
        }
        self.counters().opened.add(1);
        self.counters().held.add(1);
        net.receive(sock);
        match self.config.load.protocol {
            Protocol::Http => {
                self.wheel.cancel(key.slot);
                self.ready(net, key);
            }
            Protocol::WebSocket => self.shake_hands(net, key),
        }
    }

    pub(super) fn on_connect_failed<N: Net>(&mut self, net: &mut N, key: Key, step: Step, errno: Errno) {
        let Some(client) = self.clients.get(key).filter(|client| client.phase == Phase::Connecting) else {
            return;
        };
        let target = self.config.load.target.ip();
        let local = tuples::local(self.config.slice.as_ref(), client.lease.as_ref(), target);
        if is_foreign(step, errno, local) && client.attempts < TUPLE_ATTEMPTS_MAX {
            self.counters().tuple_retries.add(1);
            return self.close(net, key, Phase::Retrying, Release::Foreign, Close::Orderly);
        }
        self.fail_connect(net, key, Cause::Connect(step, errno));
    }

    /// No connection came about, or no WebSocket on it.
    pub(super) fn fail_connect<N: Net>(&mut self, net: &mut N, key: Key, cause: Cause) {
        let Some(client) = self.clients.get(key) else { return };
        let (phase, since_us) = (client.phase, client.connecting_since_us);
        match phase {
            Phase::Connecting | Phase::Parked | Phase::Retrying => {
                self.record.connect.record(self.now_us().saturating_sub(since_us));
                if !self.holds() {
                    self.leave_pending();
                }
            }
            Phase::Handshaking => self.counters().held.sub(1),
            _ => return,
        }
        self.counters().connect_failed.add(1);
        self.record.connect_failed.add(cause);
        self.wheel.cancel(key.slot);
        self.lose_attached(key, cause);
        self.settle(key);
        let after = if self.holds() { After::Gone } else { After::Rest };
        self.leave(net, key, after, Release::Clean, Close::Reset);
    }

    /// Goes on without the connection: at once if there is no socket, else once it is closed.
    pub(super) fn leave<N: Net>(&mut self, net: &mut N, key: Key, after: After, ending: Release, how: Close) {
        let Some(client) = self.clients.get_mut(key) else { return };
        client.after = after;
        match client.sock == Sock::NONE {
            // Its socket is being closed already.
            _ if matches!(client.phase, Phase::Retrying | Phase::Closing) => client.phase = Phase::Closing,
            true => self.go_on_without(net, key),
            false => self.close(net, key, Phase::Closing, ending, how),
        }
    }

    pub(super) fn go_on_without<N: Net>(&mut self, net: &mut N, key: Key) {
        let draining = self.is_draining();
        let Some(client) = self.clients.get_mut(key) else { return };
        match client.after {
            _ if self.closing.is_some() => drop(self.clients.remove(key)),
            After::Gone => drop(self.clients.remove(key)),
            After::Rest => {
                client.phase = Phase::Resting;
                self.wheel.set(key.slot, net.now() + REST_MS);
            }
            After::Reconnect if !draining => {
                let now_us = self.now_us();
                self.connect(net, key, now_us);
            }
            After::Reconnect | After::Free => self.ready(net, key),
        }
    }

    fn shake_hands<N: Net>(&mut self, net: &mut N, key: Key) {
        let Some(client) = self.clients.get_mut(key) else { return };
        client.phase = Phase::Handshaking;
        let sock = client.sock;
        let mut head = self.handshake.clone();
        finish_handshake(&mut head, &self.websocket_key(key));
        self.wheel.set(key.slot, net.now() + millis(self.config.load.timeout));
        let Some(mut buf) = net.alloc() else {
            return self.fail_connect(net, key, Cause::Connect(Step::Socket, Errno::ENOBUFS));
        };
        buf.truncate(head.len());
        let n = buf.len();
        net.bytes_mut(&mut buf).copy_from_slice(head.get(..n).unwrap_or_default());
        // The first bytes on a connection do not fill it.
        let _ = net.send(sock, buf);
    }

    /// RFC 6455 4.1: 16 bytes of the connection's own.
    fn websocket_key(&self, key: Key) -> String {
        let Some(client) = self.clients.get(key) else { return String::new() };
        let mut bytes = [0; 16];
        self.message(client).fill(16, &mut bytes);
        frame::key(bytes)
    }

    /// How much of `input` was the answer to the handshake; what follows it is the WebSocket's.
    pub(super) fn take_handshake<N: Net>(&mut self, net: &mut N, key: Key, input: &[u8]) -> Option<usize> {
        let (response, used) = match Answers::read_handshake(input) {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                self.keep(key, input);
                return None;
            }
            Err(fault) => {
                self.fail_connect(net, key, Cause::Fault(fault));
                return None;
            }
        };
        let accept = frame::accept(&self.websocket_key(key));
        let cause = match response.status {
            101 if response.fields.agrees_to_websocket() && response.fields.websocket_key == accept => {
                self.wheel.cancel(key.slot);
                if let Some(client) = self.clients.get_mut(key) {
                    client.reader = Reader::WebSocket(Box::<Messages>::default());
                }
                self.ready(net, key);
                return Some(used);
            }
            101 => Cause::WrongAccept,
            status => Cause::NotUpgraded(status),
        };
        self.fail_connect(net, key, cause);
        None
    }

    pub(super) fn keep(&mut self, key: Key, rest: &[u8]) {
        if let Some(Client { reader: Reader::Http(answers), .. }) = self.clients.get_mut(key) {
            answers.leftover.extend_from_slice(rest);
        }
    }
}
