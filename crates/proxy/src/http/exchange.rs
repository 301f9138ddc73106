//! A request's way: a server and a connection to it, the queue when there is none, content sent on, another try when the server
//! failed and nothing can have happened twice, and the end.

use super::Http;
use super::client::send_all;
use super::head::Down;
use super::log::Facts;
use super::place::outcome_of;
use super::reply::{Reason, To};
use super::state::{Client, Exchange, Phase, Role, Stage, UNKNOWN};
use crate::access::Ending;
use crate::core::{Core, Cx};
use crate::reason::Refusal;
use crate::upstream::{Choice, Want};
use crate::wait::{RETRY_MS, Shortage};
use fourfold_balance::health::Outcome;
use fourfold_base::Millis;
use fourfold_base::slab::Key;
use fourfold_config::http::Route;
use fourfold_config::pool::RetryOn;
use fourfold_engine::{Buf, Close, Net, Pressure};
use fourfold_http::h1::{self, Asked, Body, BodyReader, Version, encode};

/// How much of a request is kept to be sent again.
const REPEAT_BYTES_MAX: usize = 64 << 10;
/// Attempts of one request that fail by a fault of ours before it waits its turn again.
const STUMBLES_MAX: u8 = 8;
/// Warm connections that may turn out dead for one request before that counts as a try.
const STALE_MAX: u8 = 3;

/// A request that goes to a pool.
pub(super) struct Begun {
    pub pool: u16,
    pub listener: u16,
    pub route: u32,
    pub asked: Asked,
    pub version: Version,
    pub keep_alive: bool,
    pub json: bool,
    pub expects: bool,
    pub body: Body,
    pub hash: Option<u64>,
    pub stay: Option<u32>,
    pub mirror: Option<u16>,
    pub response_fields: Vec<u8>,
    pub sent: Vec<u8>,
    pub log: Option<Facts>,
}

impl Exchange {
    pub(super) fn new(client: Key, begun: Begun, now: Millis) -> Self {
        Self {
            client,
            conn: None,
            phase: Phase::Waiting,
            listener: begun.listener,
            pool: begun.pool,
            route: begun.route,
            asked: begun.asked,
            version: begun.version,
            keep_alive: begun.keep_alive,
            json: begun.json,
            expects: begun.expects,
            request: BodyReader::new(begun.body),
            chunked_up: begun.body == Body::Chunked,
            response: BodyReader::new(Body::None),
            down: Down::Nothing,
            answered: false,
            interim: 0,
            response_fields: begun.response_fields,
            sent: begun.sent,
            repeatable: true,
            queued: false,
            attempts: 0,
            stumbles: 0,
            tries: 0,
            denied: false,
            stale: 0,
            avoid: Vec::new(),
            hash: begun.hash,
            stay: begun.stay,
            place: None,
            mirror: begun.mirror,
            shadow: false,
            wait_until: 0,
            active: now,
            up_bytes: 0,
            down_bytes: 0,
            log: begun.log,
            connect_us: 0,
            open_us: 0,
            answered_us: 0,
            status: 0,
        }
    }

    /// How to speak to its client when it fails.
    fn to(&self) -> To {
        To {
            version: self.version,
            head_only: self.asked.method == h1::Method::Head,
            close: !self.keep_alive || !self.request.is_done(),
            json: self.json,
            retry_after_s: None,
        }
    }
}

impl Http {
    pub(super) fn begin<N: Net>(&mut self, cx: &mut Cx<'_, N>, client: Key, begun: Begun) {
        cx.core.counters().http_requests.add(1);
        let now = cx.net.now();
        if let Some(budget) = self.budgets.get_mut(usize::from(begun.pool)) {
            budget.handle_request(now);
        }
        let exchange = Exchange::new(client, begun, now);
        match self.exchanges.insert(exchange) {
            Ok(key) => {
                if let Some(client) = self.clients.get_mut(client) {
                    client.stage = Stage::Busy(key);
                    client.taken = UNKNOWN;
                }
                self.start(cx, key);
                self.hold_early(cx, client, key);
                if self.clients.get(client).is_some_and(|client| client.ended) {
                    self.on_content_eof(cx, key);
                }
            }
            // There are as many as clients, and a client has one at a time.
            Err(_) => self.refuse(cx, client, Reason::Local, To::STRANGER),
        }
    }

    /// What came with the head beyond the request itself stays with us, and nothing more is read meanwhile.
    fn hold_early<N: Net>(&mut self, cx: &mut Cx<'_, N>, client: Key, exchange: Key) {
        if self.takes_content(exchange) {
            return;
        }
        let ours = |client: &&mut Client| client.stage == Stage::Busy(exchange);
        let Some(client) = self.clients.get_mut(client).filter(ours) else { return };
        if !client.stash.is_empty() && !std::mem::replace(&mut client.paused, true) {
            cx.net.pause(client.sock);
        }
    }

    fn start<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let Some(pool) = self.exchanges.get(key).map(|exchange| usize::from(exchange.pool)) else { return };
        if self.queued(pool) > 0 || !self.connect(cx, key) {
            self.wait(cx, key);
        }
    }

    /// Takes a connection that lies ready, or makes one. `false`: the request has to wait, and its queue knows for what.
    pub(super) fn connect<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) -> bool {
        loop {
            let now = cx.net.now();
            let Some(exchange) = self.exchanges.get(key) else { return true };
            let pool = usize::from(exchange.pool);
            if let Some(conn) = self.take_pinned(key) {
                if self.enter(cx, key, conn) {
                    self.attach(cx, key, conn);
                    return true;
                }
                self.drop_conn(cx, conn);
            }
            let Some(exchange) = self.exchanges.get(key) else { return true };
            let idle = &self.idle;
            let want = Want {
                key: exchange.hash,
                stay: exchange.stay,
                request: true,
                warm: &|server| idle.has(pool, server),
                avoid: &exchange.avoid,
            };
            let attempt = match cx.core.upstreams.attempt(pool, &want, now) {
                Ok(Choice::Warm(server)) => {
                    let conn = self.idle.take(pool, server as usize);
                    self.idle.show(cx.core, pool);
                    let source =
                        conn.and_then(|conn| self.conns.get(conn)).map(|conn| conn.lease.source_index());
                    self.take_place(key, server, source.unwrap_or(0));
                    if let Some(conn) = conn {
                        self.attach(cx, key, conn);
                        return true;
                    }
                    self.give_place_up(cx, key);
                    continue;
                }
                // Nothing to wait for.
                Err((Shortage::Breaker, _)) => {
                    self.fail(cx, key, Reason::BreakerOpen);
                    return true;
                }
                Ok(Choice::Fresh(attempt)) => attempt,
                Err((shortage, retry_at)) => {
                    self.expect(pool, shortage, retry_at, now);
                    return false;
                }
            };
            let opened = self.open(cx, key, attempt);
            if opened.is_err() {
                self.give_place_up(cx, key);
            }
            match opened {
                Ok(()) => return true,
                Err(shortage @ (Shortage::Local | Shortage::Tuples)) => {
                    self.expect(pool, shortage, None, now);
                    return false;
                }
                Err(Shortage::Servers | Shortage::Breaker) => {}
            }
            let most = self.connects_max(cx.core, key);
            let Some(exchange) = self.exchanges.get_mut(key) else { return true };
            if exchange.attempts >= most {
                self.fail(cx, key, Reason::Attempts);
                return true;
            }
            if exchange.stumbles >= STUMBLES_MAX {
                exchange.stumbles = 0;
                self.expect(pool, Shortage::Tuples, None, now);
                return false;
            }
        }
    }

    fn expect(&mut self, pool: usize, shortage: Shortage, retry_at: Option<Millis>, now: Millis) {
        if let Some(queue) = self.queues.get_mut(pool) {
            queue.shortage = Some(shortage);
            queue.retry_at = Some(retry_at.unwrap_or(u64::MAX).clamp(now + 1, now + RETRY_MS));
        }
    }

    /// An attempt of this request's has failed: another path, unless that were too many.
    pub(super) fn try_another<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let most = self.connects_max(cx.core, key);
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        (exchange.conn, exchange.phase) = (None, Phase::Waiting);
        let stumbled = exchange.stumbles >= STUMBLES_MAX;
        if exchange.attempts >= most {
            self.leave_place(cx, key);
            return self.fail(cx, key, Reason::Attempts);
        }
        // Whoever waits for a place would take it to fail the same way, give it up for the next, and so on without end.
        self.give_place_up(cx, key);
        if stumbled || !self.connect(cx, key) {
            self.wait(cx, key);
        }
    }

    // Requests wait.

    fn wait<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let now = cx.net.now();
        if self.is_shadow(key) {
            return self.drop_shadow(cx, key);
        }
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if exchange.queued {
            return;
        }
        let pool = usize::from(exchange.pool);
        exchange.phase = Phase::Waiting;
        exchange.stumbles = 0;
        let (Some(plan), Some(queue)) = (cx.core.shared.plan.pools.get(pool), self.queues.get_mut(pool))
        else {
            return self.fail(cx, key, Reason::NoServer);
        };
        if exchange.wait_until == 0 {
            exchange.wait_until = now + plan.queue_timeout_ms;
        }
        if now >= exchange.wait_until {
            let reason = reason_for(queue.shortage);
            return self.fail(cx, key, reason);
        }
        if let Err(refusal) = cx.core.join_queue(pool) {
            return self.fail(
                cx,
                key,
                if refusal == Refusal::QueueFull { Reason::QueueFull } else { Reason::NoServer },
            );
        }
        self.exchange_timers.set(key.slot, exchange.wait_until);
        exchange.queued = true;
        queue.push(key);
        queue.retry_at.get_or_insert(now + RETRY_MS);
        cx.core.ask_for_idle(pool);
    }

    fn leave_queue(&mut self, core: &Core, key: Key) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if !std::mem::take(&mut exchange.queued) {
            return;
        }
        let pool = usize::from(exchange.pool);
        let exchanges = &self.exchanges;
        let waits = |other: Key| exchanges.get(other).is_some_and(|exchange| exchange.queued);
        if let Some(queue) = self.queues.get_mut(pool) {
            queue.leave();
            queue.compact(waits);
        }
        core.leave_queue(pool);
    }

    /// Lets waiting requests go on, in order, until one still has to wait.
    pub fn pump<N: Net>(&mut self, cx: &mut Cx<'_, N>, pool: usize) {
        loop {
            let exchanges = &self.exchanges;
            let waits = |key: Key| exchanges.get(key).is_some_and(|exchange| exchange.queued);
            let Some(queue) = self.queues.get_mut(pool).filter(|queue| queue.live > 0) else { return };
            let Some(key) = queue.head(waits) else { return };
            if !self.connect(cx, key) {
                return;
            }
            self.leave_queue(cx.core, key);
        }
    }

    // The request goes out.

    /// A connection is this request's: sends what there is of it.
    pub(super) fn attach<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, conn_key: Key) {
        let now = cx.net.now();
        let (Some(exchange), Some(conn)) = (self.exchanges.get_mut(key), self.conns.get_mut(conn_key)) else {
            return;
        };
        conn.role = Role::Busy(key);
        conn.uses = conn.uses.saturating_add(1);
        conn.before = conn.sent;
        conn.scanned = 0;
        (exchange.conn, exchange.phase, exchange.active) = (Some(conn_key), Phase::Open, now);
        exchange.open_us = cx.net.micros();
        if conn.uses > 1 {
            exchange.connect_us = 0;
            cx.core.counters().http_reused.add(1);
        }
        let (client, sock) = (exchange.client, conn.sock);
        conn.sent += exchange.sent.len() as u64;
        if !send_all(cx.net, sock, &exchange.sent) {
            return self.fail(cx, key, Reason::Local);
        }
        let route = self.response_timeout(cx.core, key);
        self.exchange_timers.ensure(key.slot, now + route);
        if let Some(exchange) = self.exchanges.get(key)
            && !exchange.request.is_done()
        {
            self.await_content(cx, client);
            self.proceed(cx, client);
        }
    }

    fn await_content<N: Net>(&mut self, cx: &mut Cx<'_, N>, client: Key) {
        let Some(client_state) = self.clients.get_mut(client) else { return };
        let Some(settings) = self.settings.get(usize::from(client_state.listener)).and_then(Option::as_ref)
        else {
            return;
        };
        client_state.deadline = cx.net.now() + settings.body_timeout_ms;
        self.client_timers.ensure(client.slot, client_state.deadline);
    }

    /// Whether the server's side takes more of the request's content now.
    pub(super) fn takes_content(&self, key: Key) -> bool {
        let Some(exchange) = self.exchanges.get(key) else { return false };
        let conn = exchange.conn.and_then(|conn| self.conns.get(conn));
        exchange.phase == Phase::Open && !exchange.request.is_done() && conn.is_some_and(|conn| !conn.full)
    }

    /// A piece of the request's content.
    pub(super) fn feed<N: Net>(&mut self, cx: &mut Cx<'_, N>, client: Key, key: Key, mut buf: Buf) {
        let now = cx.net.now();
        let Some(exchange) = self.exchanges.get_mut(key) else { return cx.net.free(buf) };
        let Some(settings) = self.settings.get(usize::from(exchange.listener)).and_then(Option::as_ref)
        else {
            return cx.net.free(buf);
        };
        exchange.active = now;
        let decoded = match exchange.request.decode(cx.net.bytes_mut(&mut buf), &settings.limits) {
            Ok(decoded) => decoded,
            Err(reject) => {
                cx.net.free(buf);
                return self.fail(cx, key, Reason::Rejected(reject));
            }
        };
        exchange.up_bytes += decoded.data.len() as u64;
        let route = settings.routes.get(exchange.route as usize);
        let most = route.and_then(|route| route.body_bytes_max).or(settings.body_bytes_max);
        if most.is_some_and(|most| exchange.up_bytes > most) {
            // With the beginning of what follows.
            exchange.keep_alive = false;
            cx.net.free(buf);
            return self.fail(cx, key, Reason::BodyTooLarge);
        }
        if decoded.used < buf.len() {
            self.put_back(cx, client, key, &buf, decoded.used);
        }
        let empty = decoded.data.is_empty();
        buf.advance(decoded.data.start);
        buf.truncate(decoded.data.len());
        if empty {
            cx.net.free(buf)
        } else {
            self.send_up(cx, key, buf)
        }
        self.await_content(cx, client);
        if decoded.done {
            self.content_done(cx, key);
        }
    }

    /// The bytes of `buf` behind `used` are the next request's.
    fn put_back<N: Net>(&mut self, cx: &mut Cx<'_, N>, client: Key, key: Key, buf: &Buf, used: usize) {
        let rest = cx.net.bytes(buf).get(used..).unwrap_or_default().to_vec();
        let rest = cx.net.write(&rest);
        let Some(client) = self.clients.get_mut(client) else { return };
        match rest {
            Some(rest) => client.stash.push_front(rest),
            // Nothing after this request can be understood.
            None => {
                client.ended = true;
                if let Some(exchange) = self.exchanges.get_mut(key) {
                    exchange.keep_alive = false;
                }
            }
        }
    }

    fn send_up<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, buf: Buf) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return cx.net.free(buf) };
        let Some(conn) = exchange.conn.and_then(|conn| self.conns.get_mut(conn)) else {
            return cx.net.free(buf);
        };
        let mut frame = Vec::new();
        if exchange.chunked_up {
            encode::chunk_head(buf.len(), &mut frame);
        }
        let size = frame.len() + buf.len() + if exchange.chunked_up { encode::CHUNK_END.len() } else { 0 };
        exchange.repeatable &= exchange.sent.len() + size <= REPEAT_BYTES_MAX;
        if exchange.repeatable {
            exchange.sent.extend_from_slice(&frame);
            exchange.sent.extend_from_slice(cx.net.bytes(&buf));
            exchange.sent.extend_from_slice(if exchange.chunked_up { encode::CHUNK_END } else { b"" });
        }
        conn.sent += size as u64;
        let sock = conn.sock;
        let mut sent = send_all(cx.net, sock, &frame);
        let pressure = cx.net.send(sock, buf);
        if exchange.chunked_up {
            sent &= send_all(cx.net, sock, encode::CHUNK_END);
        }
        if pressure == Pressure::Full {
            conn.full = true;
        }
        if !sent {
            return self.fail(cx, key, Reason::Local);
        }
        if pressure == Pressure::Full {
            let client = exchange.client;
            if let Some(client) = self.clients.get_mut(client)
                && !std::mem::replace(&mut client.paused, true)
            {
                cx.net.pause(client.sock);
            }
        }
    }

    /// The request has been received whole.
    fn content_done<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let client = exchange.client;
        if exchange.chunked_up {
            let mut last = Vec::new();
            encode::last_chunk(exchange.request.trailers(), &mut last);
            let Some(conn) = exchange.conn.and_then(|conn| self.conns.get_mut(conn)) else { return };
            exchange.repeatable &= exchange.sent.len() + last.len() <= REPEAT_BYTES_MAX;
            if exchange.repeatable {
                exchange.sent.extend_from_slice(&last);
            }
            conn.sent += last.len() as u64;
            if !send_all(cx.net, conn.sock, &last) {
                return self.fail(cx, key, Reason::Local);
            }
        }
        self.extend(cx, key);
        // What comes now is the next request's: it waits, but whoever leaves is noticed.
        if let Some(client) = self.clients.get_mut(client)
            && client.stash.is_empty()
            && std::mem::take(&mut client.paused)
        {
            cx.net.receive(client.sock);
        }
    }

    /// The client has sent FIN.
    pub(super) fn on_content_eof<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let client = exchange.client;
        // What it had sent before is served: the rest of this request, or the next ones.
        if self.clients.get(client).is_some_and(|client| !client.stash.is_empty()) {
            return;
        }
        exchange.keep_alive = false;
        // A client that closes its sending side may still read; one that closes in the midst of its request has gone. What it
        // was told before that still leaves.
        if !exchange.request.is_done() {
            let answered = exchange.answered;
            cx.core.counters().http_client_gone.add(1);
            let ending = exchange.left();
            self.abort(cx, key, ending);
            match answered {
                true => self.close_client(cx, client, Close::Reset),
                false => self.end_client(cx, client),
            }
        }
    }

    // The server's side fails.

    /// The connection failed before the response began. `closed` without an error: FIN.
    pub(super) fn on_lost<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, reason: Reason) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let Some(conn_key) = exchange.conn else { return };
        let Some(conn) = self.conns.get(conn_key) else { return };
        let stale = conn.uses > 1 && reason != Reason::ResponseTimeout;
        // RFC 9110 9.2.2: a proxy MUST NOT repeat other requests, unless it can tell that the first was never applied. A FIN that
        // acknowledges nothing of it tells: the server had closed before. A reset does not: servers read what their kernel
        // has yet to acknowledge.
        let harmless = exchange.asked.method.is_idempotent()
            || reason == Reason::ServerClosed
                && cx.net.acked(conn.sock).is_some_and(|acked| acked <= conn.before);
        let server = conn.server;
        let settings = self.settings.get(usize::from(exchange.listener)).and_then(Option::as_ref);
        let route = settings.and_then(|one| one.routes.get(exchange.route as usize));
        let may = exchange.repeatable && harmless && exchange.interim == 0;
        // It died while nobody used it, which says nothing about the server.
        let forgiven = stale && exchange.stale < STALE_MAX;
        let allowed = match forgiven {
            true => {
                exchange.stale += 1;
                may
            }
            false => {
                let wanted = match reason {
                    Reason::ResponseTimeout => retry_on(cx.core, exchange, route).timeout,
                    _ => retry_on(cx.core, exchange, route).reset,
                };
                let allowed = may && wanted && exchange.tries < retries_max(cx.core, exchange, route);
                exchange.tries = exchange.tries.saturating_add(1);
                exchange.avoid.push(server);
                allowed
            }
        };
        let outcome = if forgiven { Outcome::Shortage } else { Outcome::NoAnswer };
        self.tell(cx, key, outcome);
        if !allowed || !(forgiven || self.afford_retry(cx, key)) {
            return self.fail(cx, key, reason);
        }
        cx.core.counters().http_retries.add(1);
        self.drop_conn(cx, conn_key);
        self.try_another(cx, key);
    }

    /// A server that says that it cannot is left for another, where the user wants that. `None`: it was, and the response is gone.
    pub(super) fn retry_status<N: Net>(
        &mut self,
        cx: &mut Cx<'_, N>,
        key: Key,
        buf: Buf,
        length: usize,
    ) -> Option<Buf> {
        let status = self.response.status;
        if !self.may_retry_status(cx.core, key, status) || !self.afford_retry(cx, key) {
            return Some(buf);
        }
        self.tell(cx, key, Outcome::of_status(status));
        let exchange = self.exchanges.get_mut(key)?;
        let conn = exchange.conn.take();
        exchange.tries = exchange.tries.saturating_add(1);
        exchange.avoid.extend(exchange.place.map(|place| place.who.server as u32));
        let whole = match self.response.body {
            Body::None => buf.len() == length,
            Body::Length(content) => (buf.len() - length) as u64 == content,
            Body::Chunked | Body::UntilClose => false,
        };
        let reusable = whole && self.response.keep_alive && exchange.request.is_done();
        cx.net.free(buf);
        cx.core.counters().http_retries.add(1);
        cx.core.counters().http_retries_status.add(1);
        if let Some(conn) = conn {
            self.release(cx, conn, reusable);
        }
        self.try_another(cx, key);
        None
    }

    fn may_retry_status(&self, core: &Core, key: Key, status: u16) -> bool {
        let Some(exchange) = self.exchanges.get(key) else { return false };
        let route = self.route(exchange);
        let servers = core.shared.pools.get(usize::from(exchange.pool)).map_or(0, |pool| pool.servers.len());
        retry_on(core, exchange, route).status(status)
            && exchange.tries < retries_max(core, exchange, route)
            && exchange.repeatable
            && exchange.asked.method.is_idempotent()
            && exchange.interim == 0
            && exchange.avoid.len() + 1 < servers
    }

    /// Takes a retry out of the pool's budget.
    fn afford_retry<N: Net>(&mut self, cx: &Cx<'_, N>, key: Key) -> bool {
        let Some(pool) = self.exchanges.get(key).map(|exchange| usize::from(exchange.pool)) else {
            return false;
        };
        let afforded = self.budgets.get_mut(pool).is_some_and(|budget| budget.take_retry(cx.net.now()));
        if !afforded {
            cx.core.counters().http_retry_budget_spent.add(1);
            if let Some(exchange) = self.exchanges.get_mut(key) {
                exchange.denied = true;
            }
        }
        afforded
    }

    /// Paths that may fail one request.
    fn connects_max(&self, core: &Core, key: Key) -> u8 {
        let Some(exchange) = self.exchanges.get(key) else { return 1 };
        let pool = core.shared.plan.pools.get(usize::from(exchange.pool));
        match retry_on(core, exchange, self.route(exchange)).connect {
            true => pool.map_or(1, |pool| pool.connect_attempts),
            false => 1,
        }
    }

    /// The request gets an answer of ours, or, when one has begun, none but a broken connection.
    pub(super) fn fail<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, reason: Reason) {
        if self.is_shadow(key) {
            self.tell(cx, key, outcome_of(reason));
            return self.drop_shadow(cx, key);
        }
        let Some(exchange) = self.exchanges.get(key) else { return };
        let (client, answered, to) = (exchange.client, exchange.answered, exchange.to());
        let conn = exchange.conn;
        self.tell(cx, key, outcome_of(reason));
        if !answered {
            self.write_refusal(client, reason, &to);
        }
        self.log_failed(cx, key, reason);
        if let Some(conn) = conn {
            self.drop_conn(cx, conn);
        }
        self.remove(cx, key);
        if answered {
            self.count_reason(cx.core, reason);
            return self.close_client(cx, client, Close::Reset);
        }
        self.say_refusal(cx, client, reason, &to);
    }

    /// Nobody wants the response any more.
    pub(super) fn abort<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, ending: Ending) {
        self.log_exchange(cx, key, ending);
        if let Some(conn) = self.exchanges.get(key).and_then(|exchange| exchange.conn) {
            self.drop_conn(cx, conn);
        }
        self.remove(cx, key);
    }

    pub(super) fn remove<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        self.leave_queue(cx.core, key);
        self.leave_place(cx, key);
        if let Some(mut exchange) = self.exchanges.remove(key) {
            self.shadows -= usize::from(exchange.shadow);
            self.mirror(cx, &mut exchange);
            self.give_spare(exchange.sent);
        }
    }

    // Time passes.

    pub(super) fn route<'a>(&'a self, exchange: &Exchange) -> Option<&'a Route> {
        let settings = self.settings.get(usize::from(exchange.listener))?.as_ref()?;
        settings.routes.get(exchange.route as usize)
    }

    /// How long the server's side may be silent now.
    pub(super) fn response_timeout(&self, core: &Core, key: Key) -> Millis {
        let Some(exchange) = self.exchanges.get(key) else { return 0 };
        let (route, pool) = (self.route(exchange), core.shared.plan.pools.get(usize::from(exchange.pool)));
        let (own, pools) = match exchange.answered {
            false => (
                route.and_then(|route| route.response_timeout_ms),
                pool.map(|pool| pool.http.response_timeout_ms),
            ),
            true => (
                route.and_then(|route| route.response_idle_timeout_ms),
                pool.map(|pool| pool.http.response_idle_timeout_ms),
            ),
        };
        own.or(pools).unwrap_or(0)
    }

    /// Something has moved.
    pub(super) fn extend<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let now = cx.net.now();
        let timeout = self.response_timeout(cx.core, key);
        if let Some(exchange) = self.exchanges.get_mut(key) {
            exchange.active = now;
            self.exchange_timers.ensure(key.slot, now + timeout);
        }
    }

    pub(super) fn on_exchange_due<N: Net>(&mut self, cx: &mut Cx<'_, N>, slot: u32) {
        let now = cx.net.now();
        let Some(key) = self.exchanges.key_at(slot) else { return };
        let Some(exchange) = self.exchanges.get(key) else { return };
        match exchange.phase {
            Phase::Waiting if now < exchange.wait_until => {
                self.exchange_timers.set(slot, exchange.wait_until)
            }
            Phase::Waiting => {
                let shortage = self.queues.get(usize::from(exchange.pool)).and_then(|queue| queue.shortage);
                self.fail(cx, key, reason_for(shortage));
            }
            Phase::Connecting => self.on_connect_due(cx, key),
            Phase::Open => self.on_open_due(cx, key),
        }
    }

    fn on_open_due<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let now = cx.net.now();
        let timeout = self.response_timeout(cx.core, key);
        let awaited = self.takes_content(key);
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let stalled = self.clients.get(exchange.client).is_some_and(|client| client.full);
        // A request on its way is body_timeout's business, unless the server takes nothing of it or has begun to answer; a client
        // that does not read is send_timeout's.
        if awaited && !exchange.answered || stalled {
            exchange.active = now;
        }
        if timeout == 0 {
            return;
        }
        if now < exchange.active + timeout {
            return self.exchange_timers.set(key.slot, exchange.active + timeout);
        }
        if exchange.answered {
            return self.fail(cx, key, Reason::ResponseTimeout);
        }
        self.on_lost(cx, key, Reason::ResponseTimeout);
    }

    /// The client's timer, in the midst of an exchange.
    pub(super) fn on_stall<N: Net>(&mut self, cx: &mut Cx<'_, N>, client: Key, key: Key) {
        let waits = |exchange: &&Exchange| !exchange.request.is_done() && !exchange.answered;
        if self.takes_content(key) && self.exchanges.get(key).as_ref().is_some_and(waits) {
            return self.fail(cx, key, Reason::BodyTimeout);
        }
        self.on_send_stall(cx, client);
    }

    // The end.

    /// Request and response have passed whole, or the response has and the rest of the request is not wanted.
    pub(super) fn finish<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, reusable: bool) {
        if self.is_shadow(key) {
            return self.end_shadow(cx, key, reusable);
        }
        self.tell(cx, key, Outcome::Success);
        let Some(exchange) = self.exchanges.get(key) else { return };
        let (client, conn, whole) = (exchange.client, exchange.conn, exchange.request.is_done());
        let close = !exchange.keep_alive || !whole || exchange.down == Down::UntilClose;
        self.count_status(cx.core, exchange.status);
        cx.core.counters().bytes_up.add(exchange.up_bytes);
        cx.core.counters().bytes_down.add(exchange.down_bytes);
        self.log_exchange(cx, key, if exchange.denied { Ending::RetryBudget } else { Ending::Ok });
        if let Some(conn) = conn {
            self.release(cx, conn, reusable && whole);
        }
        self.remove(cx, key);
        if close { self.end_client(cx, client) } else { self.await_next(cx, client) }
    }

    pub(super) fn count_status(&self, core: &Core, status: u16) {
        let counters = core.counters();
        match status {
            ..200 => &counters.http_1xx,
            200..300 => &counters.http_2xx,
            300..400 => &counters.http_3xx,
            400..500 => &counters.http_4xx,
            _ => &counters.http_5xx,
        }
        .add(1);
    }

    pub(super) fn count_reason(&self, core: &Core, reason: Reason) {
        let counters = core.counters();
        match reason {
            Reason::Rejected(_) => &counters.http_rejected,
            Reason::BadResponse(_) => &counters.http_bad_response,
            Reason::NoRoute | Reason::MethodUnsupported | Reason::BodyTooLarge => &counters.http_refused,
            Reason::RateLimited => &counters.http_rate_limited,
            Reason::HeaderTimeout => &counters.http_header_timeout,
            Reason::BodyTimeout => &counters.http_body_timeout,
            Reason::NoServer => &counters.refused_no_server,
            Reason::BreakerOpen => &counters.refused_breaker_open,
            Reason::QueueFull => &counters.refused_queue_full,
            Reason::Tuples => &counters.refused_tuples,
            Reason::Local => &counters.refused_local,
            Reason::Attempts => &counters.refused_attempts,
            Reason::ServerClosed | Reason::ServerReset => &counters.http_server_lost,
            Reason::ResponseTimeout => &counters.http_response_timeout,
        }
        .add(1);
    }
}

fn retry_on(core: &Core, exchange: &Exchange, route: Option<&Route>) -> RetryOn {
    let pool = core.shared.plan.pools.get(usize::from(exchange.pool));
    let own = route.and_then(|route| route.retry_on);
    own.or(pool.map(|pool| pool.http.retry_on)).unwrap_or(RetryOn::NEVER)
}

fn retries_max(core: &Core, exchange: &Exchange, route: Option<&Route>) -> u8 {
    let pool = core.shared.plan.pools.get(usize::from(exchange.pool));
    route.and_then(|route| route.retries).or(pool.map(|pool| pool.http.retries)).unwrap_or(0)
}

fn reason_for(shortage: Option<Shortage>) -> Reason {
    match shortage {
        Some(Shortage::Tuples) => Reason::Tuples,
        Some(Shortage::Local) => Reason::Local,
        Some(Shortage::Breaker) => Reason::BreakerOpen,
        Some(Shortage::Servers) | None => Reason::NoServer,
    }
}
