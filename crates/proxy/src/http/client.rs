//! The client's side: heads are waited for and read, content is taken in as fast as the server takes it, and the end comes in
//! order.

use super::Http;
use super::judge::Verdict;
use super::reply::{self, Reason, To};
use super::state::{Client, Exchange, Stage, UNKNOWN};
use crate::access::Ending;
use crate::core::Cx;
use crate::owner::{Tag, owner};
use crate::preface::{Caller, Early};
use crate::stash::Stash;
use fourfold_base::slab::Key;
use fourfold_engine::{Buf, Close, Net, Sock};
use fourfold_http::h1;

/// How long a client may go on sending after our FIN before it is cut off.
const LINGER_MS: u64 = 2_000;
/// How much of what it still sends is thrown away before that.
const LINGER_BYTES_MAX: u32 = 1 << 20;

impl Http {
    /// Takes in a client that has been counted. `false`: there is no slot.
    pub fn accept<N: Net>(
        &mut self,
        cx: &mut Cx<'_, N>,
        listener: u16,
        sock: Sock,
        caller: &mut Caller,
    ) -> bool {
        let now = cx.net.now();
        let first = self
            .settings
            .get(usize::from(listener))
            .and_then(|one| Some(one.as_ref()?.first_byte_timeout_ms));
        let client = Client {
            sock,
            stage: Stage::Head,
            stash: Stash::default(),
            deadline: now + first.unwrap_or(0),
            peer: caller.address.into(),
            listener,
            requests: 0,
            taken: UNKNOWN,
            thrown_away: 0,
            scanned: 0,
            paused: false,
            full: false,
            leaving: false,
            ended: false,
            finished: false,
            last: false,
            proceeding: false,
        };
        let deadline = client.deadline;
        let Ok(key) = self.clients.insert(client) else { return false };
        cx.net.adopt(sock, owner(key, Tag::HttpClient));
        cx.net.receive(sock);
        self.client_timers.set(key.slot, deadline);
        self.take_early(cx, key, caller.read.take().unwrap_or_default());
        true
    }

    /// What came behind a PROXY header.
    fn take_early<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, mut early: Early) {
        while let Some(buf) = early.bytes.pop() {
            self.on_client_received(cx, key, buf);
        }
        if early.ended {
            self.on_client_eof(cx, key);
        }
    }

    pub(super) fn on_client_received<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, buf: Buf) {
        let Some(client) = self.clients.get_mut(key) else { return cx.net.free(buf) };
        match client.stage {
            Stage::Closing => cx.net.free(buf),
            Stage::Linger => {
                client.thrown_away = client.thrown_away.saturating_add(buf.len() as u32);
                let spent = client.thrown_away > LINGER_BYTES_MAX;
                cx.net.free(buf);
                if spent {
                    self.close_client(cx, key, Close::Reset);
                }
            }
            Stage::Head if client.stash.is_empty() => self.read_head(cx, key, buf),
            Stage::Head => {
                client.stash.push(buf);
                self.proceed(cx, key);
            }
            Stage::Busy(exchange) => {
                let behind = !client.stash.is_empty();
                match !behind && self.takes_content(exchange) {
                    true => self.feed(cx, key, exchange, buf),
                    false => self.hold(cx, key, buf),
                }
            }
        }
    }

    /// Keeps bytes that nobody takes yet, and reads no more of them.
    fn hold<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, buf: Buf) {
        let Some(client) = self.clients.get_mut(key) else { return cx.net.free(buf) };
        client.stash.push(buf);
        if !std::mem::replace(&mut client.paused, true) {
            cx.net.pause(client.sock);
        }
    }

    /// Goes on with what came before its time, and reads again once there is none left. One loop however many requests lie
    /// there: what it calls comes back here instead of going deeper.
    pub(super) fn proceed<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let Some(client) = self.clients.get_mut(key) else { return };
        if std::mem::replace(&mut client.proceeding, true) {
            return;
        }
        while self.take_one(cx, key) {}
        if let Some(client) = self.clients.get_mut(key) {
            client.proceeding = false;
        }
    }

    /// The next piece that lies there. `false`: there is none, or nobody takes it now.
    fn take_one<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) -> bool {
        let Some(stage) = self.clients.get(key).map(|client| client.stage) else { return false };
        let takes = match stage {
            Stage::Head => true,
            Stage::Busy(exchange) => self.takes_content(exchange),
            Stage::Linger | Stage::Closing => false,
        };
        if !takes {
            return false;
        }
        let Some(client) = self.clients.get_mut(key) else { return false };
        let Some(buf) = client.stash.pop() else {
            self.read_on(cx, key);
            return false;
        };
        if let Stage::Busy(exchange) = stage {
            self.feed(cx, key, exchange, buf);
            return true;
        }
        self.read_head(cx, key, buf);
        // Only a beginning?
        let Some(client) = self.clients.get(key).filter(|client| client.stage == Stage::Head) else {
            return true;
        };
        if client.scanned == 0 || self.merge(cx, key) {
            return true;
        }
        self.read_on(cx, key);
        false
    }

    /// There is nothing left that lies there: the client may say more, unless it has ended.
    fn read_on<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let Some(client) = self.clients.get_mut(key) else { return };
        match client.stage {
            Stage::Head if client.ended => return self.dismiss_client(cx, key),
            Stage::Busy(exchange) if client.ended => return self.on_content_eof(cx, exchange),
            _ => {}
        }
        if std::mem::take(&mut client.paused) {
            cx.net.receive(client.sock);
        }
    }

    /// Joins the first two pieces of a head. `false`: there is only one.
    fn merge<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) -> bool {
        let Some(client) = self.clients.get_mut(key) else { return false };
        let Some(mut head) = client.stash.pop() else { return false };
        let Some(next) = client.stash.pop() else {
            client.stash.push_front(head);
            return false;
        };
        let before = head.len();
        let Some(rest) = cx.net.join(&mut head, next) else {
            client.stash.push_front(head);
            return true;
        };
        // What lies before it in the buffer was used already: moved to the front there is room for all that a head may have.
        let bytes = cx.net.bytes(&head).to_vec();
        cx.net.free(head);
        let Some(mut moved) = cx.net.write(&bytes) else {
            cx.net.free(rest);
            self.refuse(cx, key, Reason::Local, To::STRANGER);
            return true;
        };
        let left = cx.net.join(&mut moved, rest);
        let grown = moved.len() > before;
        if let Some(left) = left {
            client.stash.push_front(left);
        }
        client.stash.push_front(moved);
        // A whole buffer and still no end: no head is that large.
        if !grown {
            let to = To::stranger(&bytes);
            self.refuse(cx, key, Reason::Rejected(h1::Reject::HeadTooLarge), to);
        }
        true
    }

    fn read_head<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, mut buf: Buf) {
        let now = cx.net.now();
        let Some(client) = self.clients.get_mut(key) else { return cx.net.free(buf) };
        let listener = client.listener;
        let Some(settings) = self.settings(listener) else { return cx.net.free(buf) };
        let Some(client) = self.clients.get_mut(key) else { return cx.net.free(buf) };
        let bytes = cx.net.bytes(&buf);
        let fresh = client.scanned == 0;
        let mut scanned = usize::from(client.scanned);
        let found = h1::head_end(bytes, &mut scanned);
        let Some(length) = found else {
            if let Some(reject) = h1::hopeless(bytes, &settings.limits) {
                let (began_us, garbled) = (self.began_us(key, cx.net.micros()), cx.net.bytes(&buf));
                let facts = self.facts(cx.core, key, began_us, cx.net.micros());
                self.heard = facts.map(|facts| facts.garbled(garbled));
                let to = To::stranger(garbled);
                cx.net.free(buf);
                return self.refuse(cx, key, Reason::Rejected(reject), to);
            }
            client.scanned = scanned as u16;
            if fresh {
                client.deadline = now + settings.header_timeout_ms;
                self.client_timers.set(key.slot, client.deadline);
            }
            // In front of what may have come after it.
            client.stash.push_front(buf);
            return;
        };
        client.requests = client.requests.saturating_add(1);
        let head = bytes.get(..length).unwrap_or_default();
        let now_us = cx.net.micros();
        let began_us = self.began_us(key, now_us);
        self.heard = self.facts(cx.core, key, began_us, now_us);
        if let Some(client) = self.clients.get_mut(key) {
            client.scanned = 0;
        }
        let verdict = self.judge_request(cx.core, key, &settings, head, now_us);
        buf.advance(length);
        match verdict {
            Ok(Verdict::Forward(begun)) => {
                self.stash_front(cx, key, buf);
                self.begin(cx, key, *begun);
            }
            Ok(Verdict::Answered { status, close }) => {
                self.stash_front(cx, key, buf);
                cx.core.counters().http_local.add(1);
                self.count_status(cx.core, status);
                self.log_local(cx, key, status, None);
                self.say(cx, key, close);
            }
            Err((reason, to)) => {
                self.stash_front(cx, key, buf);
                self.refuse(cx, key, reason, to);
            }
        }
    }

    fn stash_front<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, buf: Buf) {
        match self.clients.get_mut(key) {
            Some(client) if !buf.is_empty() => client.stash.push_front(buf),
            _ => cx.net.free(buf),
        }
    }

    /// Sends what lies in `out`; then the connection ends, or the next request comes.
    pub(super) fn say<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, close: bool) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let sock = client.sock;
        client.stage = Stage::Head;
        if !send_all(cx.net, sock, &self.out) {
            return self.close_client(cx, key, Close::Reset);
        }
        if close { self.end_client(cx, key) } else { self.await_next(cx, key) }
    }

    /// Answers a request that goes no further with an error, and ends the connection unless `to` says otherwise.
    pub(super) fn refuse<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, reason: Reason, to: To) {
        self.write_refusal(key, reason, &to);
        self.log_local(cx, key, reason.status(), Some(reason));
        self.say_refusal(cx, key, reason, &to);
    }

    pub(super) fn write_refusal(&mut self, key: Key, reason: Reason, to: &To) {
        let Some(client) = self.clients.get(key) else { return };
        let Some(settings) = self.settings(client.listener) else { return };
        self.out.clear();
        reply::error(&settings, reason, to, &mut self.out);
    }

    pub(super) fn say_refusal<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, reason: Reason, to: &To) {
        self.count_reason(cx.core, reason);
        self.count_status(cx.core, reason.status());
        tracing::debug!(shard = cx.core.shard, reason = reason.name(), "request refused");
        self.say(cx, key, to.close);
    }

    /// The next request on this connection.
    pub(super) fn await_next<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let now = cx.net.now();
        let Some(client) = self.clients.get_mut(key) else { return };
        let Some(Some(settings)) = self.settings.get(usize::from(client.listener)) else { return };
        let (idle, send) = (settings.keep_alive_timeout_ms, settings.send_timeout_ms);
        client.stage = Stage::Head;
        client.scanned = 0;
        // A response that nobody reads is not held for as long as an idle connection may be.
        client.leaving = send < idle && cx.net.unsent(client.sock) > 0;
        client.taken = UNKNOWN;
        client.deadline = now + if client.leaving { send } else { idle };
        self.client_timers.ensure(key.slot, client.deadline);
        if cx.core.draining && client.stash.is_empty() {
            return self.end_client(cx, key);
        }
        if !client.stash.is_empty() || client.paused || client.ended {
            self.proceed(cx, key);
        }
    }

    /// Closes a connection on which no request is open. The last response may not have left yet.
    fn dismiss_client<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        self.log_head(cx, key, Ending::ClientGoneRequest);
        let Some(client) = self.clients.get(key) else { return };
        match cx.net.unsent(client.sock) {
            0 => self.close_client(cx, key, Close::Orderly),
            _ => self.end_client(cx, key),
        }
    }

    /// FIN after what is queued; then the client has a moment to end as well.
    pub(super) fn end_client<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let now = cx.net.now();
        let Some(client) = self.clients.get_mut(key) else { return };
        if matches!(client.stage, Stage::Linger | Stage::Closing) {
            return;
        }
        client.last &= client.stash.is_empty();
        client.stash.clear(cx.net);
        let send = self
            .settings
            .get(usize::from(client.listener))
            .and_then(|one| Some(one.as_ref()?.send_timeout_ms));
        client.stage = Stage::Linger;
        client.taken = UNKNOWN;
        client.deadline = now + send.unwrap_or(0);
        self.client_timers.ensure(key.slot, client.deadline);
        if std::mem::take(&mut client.paused) {
            cx.net.receive(client.sock);
        }
        cx.net.finish(client.sock);
    }

    pub(super) fn on_client_finished<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let now = cx.net.now();
        let Some(client) = self.clients.get_mut(key).filter(|client| client.stage == Stage::Linger) else {
            return;
        };
        client.finished = true;
        if client.ended || client.last {
            return self.close_client(cx, key, Close::Orderly);
        }
        client.deadline = now + LINGER_MS;
        self.client_timers.set(key.slot, client.deadline);
    }

    pub(super) fn on_client_eof<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let Some(client) = self.clients.get_mut(key) else { return };
        client.ended = true;
        match client.stage {
            // Between requests, or in the midst of a head that will never be whole.
            Stage::Head => self.dismiss_client(cx, key),
            Stage::Linger if client.finished => self.close_client(cx, key, Close::Orderly),
            Stage::Busy(exchange) => self.on_content_eof(cx, exchange),
            Stage::Linger | Stage::Closing => {}
        }
    }

    pub(super) fn on_client_failed<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let stage = client.stage;
        client.ended = true;
        if let Stage::Busy(exchange) = stage {
            cx.core.counters().http_client_gone.add(1);
            let ending = self.exchanges.get(exchange).map_or(Ending::ClientGone, Exchange::left);
            self.abort(cx, exchange, ending);
        }
        self.log_head(cx, key, Ending::ClientGoneRequest);
        self.close_client(cx, key, Close::Reset);
    }

    pub(super) fn on_client_drained<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let Some(client) = self.clients.get_mut(key) else { return };
        client.full = false;
        if let Stage::Busy(exchange) = client.stage {
            self.resume_server(cx, exchange);
        }
    }

    pub(super) fn close_client<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, how: Close) {
        let Some(client) = self.clients.get_mut(key).filter(|client| client.stage != Stage::Closing) else {
            return;
        };
        client.stage = Stage::Closing;
        client.stash.clear(cx.net);
        self.client_timers.cancel(key.slot);
        cx.net.close(client.sock, how);
        self.unpin(cx, key);
    }

    pub(super) fn on_client_closed<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        if let Some(client) = self.clients.remove(key) {
            cx.core.dismiss(usize::from(client.listener));
        }
    }

    pub(super) fn on_client_due<N: Net>(&mut self, cx: &mut Cx<'_, N>, slot: u32) {
        let now = cx.net.now();
        let Some(key) = self.clients.key_at(slot) else { return };
        let Some(client) = self.clients.get_mut(key) else { return };
        if now < client.deadline {
            return self.client_timers.set(slot, client.deadline);
        }
        match client.stage {
            Stage::Head if client.stash.is_empty() => self.on_idle(cx, key),
            Stage::Head => self.refuse(cx, key, Reason::HeaderTimeout, To::STRANGER),
            Stage::Busy(exchange) => self.on_stall(cx, key, exchange),
            Stage::Linger if client.finished => self.close_client(cx, key, Close::Orderly),
            Stage::Linger => self.on_send_stall(cx, key),
            Stage::Closing => {}
        }
    }

    /// Nothing of a next request has come.
    fn on_idle<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let Some(client) = self.clients.get_mut(key) else { return };
        if client.leaving && cx.net.unsent(client.sock) > 0 {
            return self.on_send_stall(cx, key);
        }
        if std::mem::take(&mut client.leaving)
            && let Some(Some(settings)) = self.settings.get(usize::from(client.listener))
        {
            let since = client.deadline.saturating_sub(settings.send_timeout_ms);
            client.deadline = since + settings.keep_alive_timeout_ms;
            if cx.net.now() < client.deadline {
                return self.client_timers.set(key.slot, client.deadline);
            }
        }
        cx.core.counters().http_idle_closed.add(1);
        self.dismiss_client(cx, key);
    }

    /// Bytes that the client does not take, for a whole send_timeout.
    pub(super) fn on_send_stall<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let now = cx.net.now();
        let Some(client) = self.clients.get_mut(key) else { return };
        let unsent = cx.net.unsent(client.sock) as u64;
        // Without the kernel's word, what has left our queue: that grows in large steps, and shrinks when there is more to send.
        let taken = cx.net.acked(client.sock).unwrap_or(UNKNOWN - 1 - unsent);
        let timeout = self
            .settings
            .get(usize::from(client.listener))
            .and_then(|one| Some(one.as_ref()?.send_timeout_ms));
        if unsent > 0 && taken == client.taken {
            cx.core.counters().http_send_timeout.add(1);
            if let Stage::Busy(exchange) = client.stage {
                self.abort(cx, exchange, Ending::SendTimeout);
            }
            return self.close_client(cx, key, Close::Reset);
        }
        client.taken = taken;
        client.deadline = now + timeout.unwrap_or(0).max(1);
        self.client_timers.set(key.slot, client.deadline);
    }

    /// No more clients come: those between two requests go now, the others after their answer.
    pub fn drain<N: Net>(&mut self, cx: &mut Cx<'_, N>) {
        for slot in 0..self.clients.slots() {
            let Some(key) = self.clients.key_at(slot) else { continue };
            let idle = |client: &&Client| {
                client.stage == Stage::Head && client.stash.is_empty() && client.requests > 0
            };
            let Some(client) = self.clients.get(key).filter(idle) else { continue };
            match self.idle_since(client) + LINGER_MS <= cx.net.now() {
                // What it was sent last has long arrived: no reset can overtake it.
                true => self.close_client(cx, key, Close::Orderly),
                false => self.end_client(cx, key),
            }
        }
        self.drop_shadows(cx);
        self.close_idle(cx);
    }

    /// Of a client between two requests.
    fn idle_since(&self, client: &Client) -> u64 {
        let Some(Some(settings)) = self.settings.get(usize::from(client.listener)) else { return 0 };
        let waits = if client.leaving { settings.send_timeout_ms } else { settings.keep_alive_timeout_ms };
        client.deadline.saturating_sub(waits)
    }

    /// Resets whatever is left.
    pub fn cut<N: Net>(&mut self, cx: &mut Cx<'_, N>) {
        for slot in 0..self.clients.slots() {
            let Some(key) = self.clients.key_at(slot) else { continue };
            let Some(client) = self.clients.get(key) else { continue };
            match client.stage {
                Stage::Closing => continue,
                Stage::Busy(exchange) => self.abort(cx, exchange, Ending::Drained),
                Stage::Head => self.log_head(cx, key, Ending::Drained),
                Stage::Linger => {}
            }
            cx.core.counters().drain_cut.add(1);
            self.close_client(cx, key, Close::Reset);
        }
        self.close_conns(cx);
    }
}

/// Queues bytes, however many. `false`: there was no buffer.
pub(super) fn send_all<N: Net>(net: &mut N, sock: Sock, bytes: &[u8]) -> bool {
    for piece in bytes.chunks(fourfold_engine::BUFFER_BYTES) {
        let Some(buf) = net.write(piece) else { return false };
        let _ = net.send(sock, buf);
    }
    true
}
