//! Requests and answers, or messages both ways.

use super::{After, BUFFER_RETRY_MS, HttpLoad, Phase, millis};
use crate::http::answer::{Fault, Reader, Whole};
use crate::http::measure::{Cause, Stage};
use crate::http::{Pace, Protocol};
use fourfold_base::Millis;
use fourfold_base::slab::Key;
use fourfold_engine::{Buf, Close, Errno, Net, Pressure, Sock};
use fourfold_ports::Release;

/// A peer that has announced to close is given so long for it.
const PARTING_MS: Millis = 1_000;
/// Started later than this after it was intended, a request counts as late.
const LATE_US: u64 = 1_000;

impl HttpLoad {
    /// The client can take a request: begins one, or waits for its turn.
    pub(super) fn ready<N: Net>(&mut self, net: &mut N, key: Key) {
        let holds = self.holds();
        let Some(client) = self.clients.get_mut(key) else { return };
        client.phase = Phase::Idle;
        if std::mem::take(&mut client.attached) {
            return self.send_first(net, key);
        }
        if self.draining_until.is_some() {
            return;
        }
        let proving = holds && !client.settled;
        if !proving {
            self.settle(key);
        }
        match self.config.load.pace {
            _ if proving => self.begin_now(net, key),
            Pace::Closed => self.begin_now(net, key),
            Pace::Rate(_) | Pace::Interval(_) => self.enqueue(key),
            Pace::Hold => {}
        }
    }

    pub(super) fn settle(&mut self, key: Key) {
        let Some(client) = self.clients.get_mut(key) else { return };
        if std::mem::replace(&mut client.settled, true) {
            return;
        }
        let since_us = client.connecting_since_us;
        self.counters().settled.add(1);
        if self.holds() {
            self.counters().verify_us.add(self.now_us().saturating_sub(since_us));
            self.leave_pending();
        }
    }

    fn enqueue(&mut self, key: Key) {
        if let Some(client) = self.clients.get_mut(key)
            && !std::mem::replace(&mut client.queued, true)
        {
            self.idle.push_back(key);
        }
    }

    pub(super) fn begin_now<N: Net>(&mut self, net: &mut N, key: Key) {
        let now_us = self.now_us();
        self.begin(net, key, now_us);
    }

    /// Begins the requests that are due.
    pub(super) fn begin_due<N: Net>(&mut self, net: &mut N) {
        let Some(schedule) = self.schedule.filter(|_| !self.is_draining()) else { return };
        let now_us = self.now_us();
        while self.budget > 0
            && let Some(intended_us) = schedule.take(self.begun, now_us)
        {
            // Every client is busy: the request stays due, and its time runs.
            let Some(key) = self.next_idle() else { return };
            self.begun += 1;
            self.begin(net, key, intended_us);
        }
    }

    fn next_idle(&mut self) -> Option<Key> {
        loop {
            let key = self.idle.pop_front()?;
            let Some(client) = self.clients.get_mut(key) else { continue };
            client.queued = false;
            if client.phase == Phase::Idle {
                return Some(key);
            }
        }
    }

    pub(super) fn begin<N: Net>(&mut self, net: &mut N, key: Key, intended_us: u64) {
        let now_us = self.now_us();
        let post = self.is_post(self.counters().started.get());
        let Some(client) = self.clients.get_mut(key).filter(|_| self.budget > 0) else { return };
        self.budget -= 1;
        client.post = post;
        client.round = client.round.wrapping_add(1).max(1);
        client.intended_us = intended_us;
        let connected = client.sock != Sock::NONE;
        client.attached = !connected;
        self.record.started_us = self.record.started_us.min(intended_us);
        self.counters().started.add(1);
        self.counters().in_flight.add(1);
        if now_us.saturating_sub(intended_us) > LATE_US {
            self.counters().late.add(1);
        }
        match connected {
            true => self.send_first(net, key),
            false => self.connect(net, key, now_us),
        }
    }

    fn send_first<N: Net>(&mut self, net: &mut N, key: Key) {
        let Some(client) = self.clients.get_mut(key) else { return };
        (client.phase, client.sent) = (Phase::Waiting, 0);
        self.wheel.set(key.slot, net.now() + millis(self.config.load.timeout));
        self.send_more(net, key);
    }

    /// Sends the present request on from where it is, until the socket is full; `Drained` continues.
    pub(super) fn send_more<N: Net>(&mut self, net: &mut N, key: Key) {
        let Some(client) = self.clients.get(key).filter(|client| client.phase == Phase::Waiting) else {
            return;
        };
        let (sock, mut sent, message) = (client.sock, client.sent, self.message(client));
        let outgoing = self.outgoing(client);
        let length = outgoing.len();
        while sent < length {
            let Some(mut buf) = net.alloc() else {
                self.starved.push(key);
                self.starved_until = net.now() + BUFFER_RETRY_MS;
                break;
            };
            buf.truncate((length - sent).min(u64::from(u16::MAX)) as usize);
            outgoing.fill(&message, sent, net.bytes_mut(&mut buf));
            sent += buf.len() as u64;
            if net.send(sock, buf) == Pressure::Full {
                break;
            }
        }
        if let Some(client) = self.clients.get_mut(key) {
            client.sent = sent;
        }
    }

    pub(super) fn on_received<N: Net>(&mut self, net: &mut N, key: Key, buf: Buf) {
        self.counters().received_bytes.add(buf.len() as u64);
        let live = self.clients.get_mut(key).filter(|client| client.phase != Phase::Closing);
        // Once the account is settled, nothing that comes counts.
        let Some(client) = live.filter(|_| self.closing.is_none()) else { return net.free(buf) };
        let mut input = std::mem::take(&mut self.input);
        input.clear();
        if let Reader::Http(answers) = &mut client.reader {
            input.append(&mut answers.leftover);
        }
        input.extend_from_slice(net.bytes(&buf));
        net.free(buf);
        self.take(net, key, &mut input);
        self.input = input;
    }

    fn take<N: Net>(&mut self, net: &mut N, key: Key, input: &mut [u8]) {
        let Some(client) = self.clients.get(key) else { return };
        match client.phase {
            Phase::Handshaking => {
                let Some(used) = self.take_handshake(net, key, input) else { return };
                let rest = input.get_mut(used..).unwrap_or_default();
                if !rest.is_empty() {
                    self.take_messages(net, key, rest);
                }
            }
            Phase::Waiting | Phase::Idle if self.config.load.protocol == Protocol::WebSocket => {
                self.take_messages(net, key, input);
            }
            Phase::Waiting => self.take_answer(net, key, input),
            Phase::Idle => self.lose(net, key, Cause::Surplus),
            _ => {}
        }
    }

    fn take_answer<N: Net>(&mut self, net: &mut N, key: Key, input: &[u8]) {
        let Some(client) = self.clients.get(key) else { return };
        let expected = self.expected(client);
        let Some(client) = self.clients.get_mut(key) else { return };
        let Reader::Http(answers) = &mut client.reader else { return };
        match answers.read(input, &expected) {
            Err(fault) => self.fail(net, key, Cause::Fault(fault)),
            Ok((used, None)) => self.keep(key, input.get(used..).unwrap_or_default()),
            Ok((used, Some(whole))) => self.on_answer(net, key, whole, used < input.len()),
        }
    }

    fn on_answer<N: Net>(&mut self, net: &mut N, key: Key, whole: Whole, surplus: bool) {
        self.count_answer(key);
        self.count_status(key, whole.status);
        let keep_alive = self.config.load.keep_alive;
        let length = self.clients.get(key).map_or(0, |client| self.outgoing(client).len());
        let Some(client) = self.clients.get_mut(key) else { return };
        client.served = client.served.saturating_add(1);
        if surplus {
            client.phase = Phase::Idle;
            return self.lose(net, key, Cause::Surplus);
        }
        if client.sent < length {
            // Answered before the request was sent whole: what is left of it must not follow.
            return self.part(net, key, Close::Reset);
        }
        if !whole.keep_alive || !keep_alive {
            client.phase = Phase::Parting;
            return self.wheel.set(key.slot, net.now() + PARTING_MS);
        }
        self.ready(net, key);
    }

    /// The connection ends as announced.
    pub(super) fn part<N: Net>(&mut self, net: &mut N, key: Key, how: Close) {
        let after = match (self.holds(), self.config.load.keep_alive) {
            (true, _) => return self.lose(net, key, Cause::PeerClosed),
            (false, true) => After::Reconnect,
            (false, false) => After::Free,
        };
        self.wheel.cancel(key.slot);
        self.counters().held.sub(1);
        self.leave(net, key, after, Release::Clean, how);
    }

    fn count_answer(&mut self, key: Key) {
        let now_us = self.now_us();
        let Some(client) = self.clients.get(key) else { return };
        let (post, us) = (client.post, now_us.saturating_sub(client.intended_us));
        self.kind(post).answered += 1;
        self.kind(post).latency.record(us);
        self.counters().answered.add(1);
        self.counters().in_flight.sub(1);
        self.wheel.cancel(key.slot);
        self.settle(key);
        self.on_checked(key);
    }

    fn count_status(&mut self, key: Key, status: u16) {
        let Some(post) = self.clients.get(key).map(|client| client.post) else { return };
        self.kind(post).statuses.add(status);
        if status >= 400 {
            self.name_lost(key, status.to_string());
        }
    }

    fn take_messages<N: Net>(&mut self, net: &mut N, key: Key, input: &mut [u8]) {
        let Some(client) = self.clients.get(key) else { return };
        let (expected, waiting) = (self.expected(client), client.phase == Phase::Waiting);
        let Some(client) = self.clients.get_mut(key) else { return };
        let Reader::WebSocket(messages) = &mut client.reader else { return };
        let mut pongs = Vec::new();
        let result = messages.read(input, &expected, &mut pongs);
        let sock = client.sock;
        if !pongs.is_empty()
            && let Some(mut buf) = net.alloc()
        {
            buf.truncate(pongs.len());
            let n = buf.len();
            net.bytes_mut(&mut buf).copy_from_slice(pongs.get(..n).unwrap_or_default());
            // Control frames are few and short.
            let _ = net.send(sock, buf);
        }
        match (result, waiting) {
            (Ok(0), _) => {}
            (Ok(1), true) => {
                self.count_answer(key);
                if let Some(client) = self.clients.get_mut(key) {
                    client.served = client.served.saturating_add(1);
                }
                self.ready(net, key);
            }
            (Ok(_), _) => self.fail(net, key, Cause::Surplus),
            (Err(fault), _) => self.fail(net, key, Cause::Fault(fault)),
        }
    }

    /// The peer's FIN, or a broken connection.
    pub(super) fn on_end<N: Net>(&mut self, net: &mut N, key: Key, errno: Option<Errno>) {
        let Some(client) = self.clients.get(key) else { return };
        let reused = client.served > 0 && !client.reader.has_begun();
        let cause = match (errno, reused) {
            (None, false) => Cause::PeerClosed,
            (None, true) => Cause::PeerClosedReused,
            (Some(errno), false) => Cause::Broken(errno),
            (Some(errno), true) => Cause::BrokenReused(errno),
        };
        match client.phase {
            Phase::Waiting if errno.is_none() => self.on_last_answer(net, key, cause),
            Phase::Waiting => self.fail(net, key, cause),
            Phase::Handshaking => self.fail_connect(net, key, cause),
            Phase::Idle if self.holds() => self.lose(net, key, cause),
            Phase::Idle => {
                self.counters().closed_idle.add(1);
                self.part(net, key, Close::Orderly);
            }
            Phase::Parting => self.part(net, key, Close::Orderly),
            _ => {}
        }
    }

    /// A body may last until the connection's end.
    fn on_last_answer<N: Net>(&mut self, net: &mut N, key: Key, cause: Cause) {
        let Some(client) = self.clients.get(key) else { return };
        let expected = self.expected(client);
        let Some(client) = self.clients.get_mut(key) else { return };
        let whole = match &mut client.reader {
            Reader::Http(answers) => answers.on_eof(&expected),
            Reader::WebSocket(_) => Ok(None),
        };
        match whole {
            Ok(Some(whole)) => {
                self.count_answer(key);
                self.count_status(key, whole.status);
                self.part(net, key, Close::Orderly);
            }
            Ok(None) => self.fail(net, key, cause),
            Err(fault) => self.fail(net, key, Cause::Fault(fault)),
        }
    }

    /// A request that waited for its connection.
    pub(super) fn lose_attached(&mut self, key: Key, cause: Cause) {
        if let Some(client) = self.clients.get_mut(key)
            && std::mem::take(&mut client.attached)
        {
            self.count_failure(key, Stage::NeverSent, cause);
        }
    }

    fn count_failure(&mut self, key: Key, stage: Stage, cause: Cause) {
        let now_us = self.now_us();
        let Some(client) = self.clients.get(key) else { return };
        let (post, us) = (client.post, now_us.saturating_sub(client.intended_us));
        self.kind(post).latency.record(us);
        self.kind(post).failed.add((stage, cause));
        self.name_lost(key, cause.to_string());
        self.counters().failed.add(1);
        self.counters().in_flight.sub(1);
    }

    /// Accounts for a request that is under way.
    pub(super) fn fail_request(&mut self, key: Key, cause: Cause) {
        let Some(client) = self.clients.get(key).filter(|client| client.phase == Phase::Waiting) else {
            return;
        };
        let wrong =
            matches!(cause, Cause::Fault(fault) if fault != Fault::Goodbye) || cause == Cause::Surplus;
        let stage = match (client.reader.has_begun() || wrong, client.sent) {
            (true, _) => Stage::Answering,
            (false, 0) => Stage::NeverSent,
            (false, _) => Stage::SentUnanswered,
        };
        self.count_failure(key, stage, cause);
    }

    /// The present request fails, and its connection with it.
    pub(super) fn fail<N: Net>(&mut self, net: &mut N, key: Key, cause: Cause) {
        self.fail_request(key, cause);
        self.settle(key);
        self.wheel.cancel(key.slot);
        if self.holds() {
            return self.lose(net, key, cause);
        }
        let after = if self.config.load.keep_alive { After::Reconnect } else { After::Free };
        self.counters().held.sub(1);
        self.leave(net, key, after, Release::Clean, Close::Reset);
    }

    /// A connection ends that should not have.
    fn lose<N: Net>(&mut self, net: &mut N, key: Key, cause: Cause) {
        self.counters().held.sub(1);
        self.counters().lost.add(1);
        self.record.lost.add(cause);
        self.wheel.cancel(key.slot);
        let after = match (self.holds(), self.config.load.keep_alive) {
            (true, _) => After::Gone,
            (false, true) => After::Reconnect,
            (false, false) => After::Free,
        };
        self.leave(net, key, after, Release::Clean, Close::Reset);
    }
}
