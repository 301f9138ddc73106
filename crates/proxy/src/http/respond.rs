//! The server's side: response heads are read and written anew, content goes on as fast as the client takes it.

use super::Http;
use super::client::send_all;
use super::head::{Back, Down};
use super::log::Entry;
use super::reply::Reason;
use super::state::{Conn, Role, UNKNOWN};
use crate::access::Ending;
use crate::core::Cx;
use crate::stash::Stash;
use crate::tcp::{Handover, Tcp};
use crate::tunnel::Upstream;
use fourfold_balance::health::Outcome;
use fourfold_base::slab::Key;
use fourfold_config::http::FieldOps;
use fourfold_engine::{Buf, Close, Errno, Net, Pressure};
use fourfold_http::h1::{self, BodyReader, Limits, Method, Reject, Version, encode};

/// Interim responses (RFC 9110 15.2) to one request.
const INTERIM_MAX: u8 = 16;
/// Content of this size goes out with its framing in one piece; more is sent from where it was received.
const COPIED_BYTES_MAX: usize = 2048;

impl Http {
    pub(super) fn on_server_received<N: Net>(
        &mut self,
        cx: &mut Cx<'_, N>,
        tcp: &mut Tcp,
        key: Key,
        buf: Buf,
    ) {
        let Some(conn) = self.conns.get_mut(key) else { return cx.net.free(buf) };
        match conn.role {
            Role::Closing | Role::Connecting(_) | Role::Warming => cx.net.free(buf),
            // Nobody has asked for anything.
            Role::Idle => {
                cx.net.free(buf);
                cx.core.counters().http_unasked.add(1);
                self.drop_conn(cx, key);
            }
            Role::Busy(exchange)
                if self.exchanges.get(exchange).is_some_and(|exchange| exchange.answered) =>
            {
                self.relay(cx, key, exchange, buf);
            }
            Role::Busy(exchange) => {
                let Some(head) = self.join_response(cx, key, buf) else {
                    return self.fail(cx, exchange, Reason::BadResponse(Reject::HeadTooLarge));
                };
                self.read_response(cx, tcp, key, exchange, head);
                self.read_rest(cx, key, exchange);
            }
        }
    }

    /// Joins the pieces of a head. What has no room behind them stays in `partial`. `None`: a whole buffer was no head yet.
    fn join_response<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, buf: Buf) -> Option<Buf> {
        let Some(mut head) = self.conns.get_mut(key).and_then(|conn| conn.partial.take()) else {
            return Some(buf);
        };
        let before = head.len();
        let Some(rest) = cx.net.join(&mut head, buf) else { return Some(head) };
        // What lies before it in the buffer was used already.
        let bytes = cx.net.bytes(&head).to_vec();
        cx.net.free(head);
        let Some(mut moved) = cx.net.write(&bytes) else {
            cx.net.free(rest);
            return None;
        };
        let left = cx.net.join(&mut moved, rest);
        if let (Some(left), Some(conn)) = (left, self.conns.get_mut(key)) {
            conn.partial = Some(left);
        }
        if moved.len() == before {
            cx.net.free(moved);
            return None;
        }
        Some(moved)
    }

    /// The content that had no room behind its head. A connection that something is left on is not taken by another request, so
    /// that this is the same exchange's or nobody's.
    fn read_rest<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, exchange: Key) {
        let ours = |conn: &&mut Conn| conn.role == Role::Busy(exchange);
        let Some(conn) = self.conns.get_mut(key).filter(ours) else { return };
        if self.exchanges.get(exchange).is_some_and(|exchange| exchange.answered)
            && let Some(rest) = conn.partial.take()
        {
            self.relay(cx, key, exchange, rest);
        }
    }

    fn read_response<N: Net>(
        &mut self,
        cx: &mut Cx<'_, N>,
        tcp: &mut Tcp,
        key: Key,
        exchange: Key,
        mut buf: Buf,
    ) {
        loop {
            let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.role == Role::Busy(exchange)) else {
                return cx.net.free(buf);
            };
            let bytes = cx.net.bytes(&buf);
            let mut scanned = usize::from(conn.scanned);
            let Some(length) = h1::head_end(bytes, &mut scanned) else {
                conn.scanned = scanned as u16;
                let Some(rest) = conn.partial.replace(buf) else { return self.extend(cx, exchange) };
                match self.join_response(cx, key, rest) {
                    Some(joined) => buf = joined,
                    None => return self.fail(cx, exchange, Reason::BadResponse(Reject::HeadTooLarge)),
                }
                continue;
            };
            conn.scanned = 0;
            let Some(asked) = self.exchanges.get(exchange).map(|exchange| exchange.asked) else {
                return cx.net.free(buf);
            };
            let head = bytes.get(..length).unwrap_or_default();
            if let Err(reject) = self.response.parse(head, &Limits::default(), &asked) {
                cx.net.free(buf);
                return self.fail(cx, exchange, Reason::BadResponse(reject));
            }
            if self.response.status == 101 {
                self.tell(cx, exchange, Outcome::Success);
                self.stick(cx, exchange);
                let head = cx.net.bytes(&buf).get(..length).unwrap_or_default();
                self.write_head(exchange, head, Down::Nothing, false);
                buf.advance(length);
                return self.switch(cx, tcp, key, exchange, buf);
            }
            if !self.response.is_interim() {
                if self.is_shadow(exchange) {
                    return self.answer_shadow(cx, key, exchange, buf, length);
                }
                let Some(buf) = self.retry_status(cx, exchange, buf, length) else { return };
                return self.respond(cx, key, exchange, buf, length);
            }
            if !self.pass_interim(cx, exchange, &buf, length) {
                cx.net.free(buf);
                return self.fail(cx, exchange, Reason::BadResponse(Reject::SwitchingInvalid));
            }
            buf.advance(length);
            if buf.is_empty() {
                cx.net.free(buf);
                match self.conns.get_mut(key).and_then(|conn| conn.partial.take()) {
                    Some(rest) => buf = rest,
                    None => return self.extend(cx, exchange),
                }
            }
        }
    }

    /// RFC 9110 15.2: a proxy MUST forward 1xx responses, unless the client speaks HTTP/1.0 or the proxy asked for them.
    fn pass_interim<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, buf: &Buf, length: usize) -> bool {
        let Some(exchange) = self.exchanges.get_mut(key) else { return false };
        exchange.interim += 1;
        if exchange.interim > INTERIM_MAX {
            return false;
        }
        let unwanted = self.response.status == 100 && !exchange.expects;
        if exchange.version == Version::Http10 || unwanted {
            return true;
        }
        let client = exchange.client;
        let head = cx.net.bytes(buf).get(..length).unwrap_or_default();
        self.write_head(key, head, Down::Nothing, false);
        self.count_head(key);
        let Some(client) = self.clients.get(client) else { return true };
        send_all(cx.net, client.sock, &self.out)
    }

    /// The response's head as the client gets it, into `out`.
    fn write_head(&mut self, key: Key, head: &[u8], down: Down, close: bool) {
        self.out.clear();
        let Some(exchange) = self.exchanges.get(key) else { return };
        let Some(settings) = self.settings.get(usize::from(exchange.listener)).and_then(Option::as_ref)
        else {
            return;
        };
        static NONE: FieldOps = FieldOps { remove: Vec::new(), set: Vec::new(), add: Vec::new() };
        let ops = settings.routes.get(exchange.route as usize).map_or(&NONE, |route| &route.response_fields);
        let back = Back {
            http: settings,
            ops,
            fields: &exchange.response_fields,
            down,
            client: exchange.version,
            close,
            announces: match self.response.status {
                ..200 | 204 => false,
                304 => true,
                _ => exchange.asked.method == Method::Head,
            },
        };
        back.write(&self.response, head, &mut self.out);
    }

    /// For the log: what lies in `out` goes to the client.
    fn count_head(&mut self, key: Key) {
        if let Some(facts) = self.exchanges.get_mut(key).and_then(|exchange| exchange.log.as_mut()) {
            facts.sent_head += self.out.len() as u32;
        }
    }

    /// The final response begins.
    fn respond<N: Net>(
        &mut self,
        cx: &mut Cx<'_, N>,
        key: Key,
        exchange_key: Key,
        mut buf: Buf,
        length: usize,
    ) {
        let body = self.response.body;
        // Of a good one it is not known yet whether it will be whole.
        let outcome = Outcome::of_status(self.response.status);
        if outcome != Outcome::Success {
            self.tell(cx, exchange_key, outcome);
        }
        self.stick(cx, exchange_key);
        let Some(exchange) = self.exchanges.get_mut(exchange_key) else { return cx.net.free(buf) };
        let down = Down::of(body, exchange.version);
        exchange.down = down;
        exchange.answered = true;
        exchange.status = self.response.status;
        exchange.response = BodyReader::new(body);
        exchange.answered_us = cx.net.micros();
        exchange.keep_alive &= !cx.core.draining && down != Down::UntilClose;
        let close = !exchange.keep_alive;
        let reusable = self.response.keep_alive;
        if let Some(conn) = self.conns.get_mut(key) {
            conn.last = !reusable;
        }
        let head = cx.net.bytes(&buf).get(..length).unwrap_or_default();
        self.write_head(exchange_key, head, down, close);
        self.count_head(exchange_key);
        buf.advance(length);
        let mut out = std::mem::take(&mut self.out);
        self.pass_content(cx, key, exchange_key, buf, &mut out);
        self.out = out;
        self.tell(cx, exchange_key, Outcome::Answering);
    }

    fn relay<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, exchange: Key, buf: Buf) {
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        self.pass_content(cx, key, exchange, buf, &mut out);
        self.out = out;
    }

    /// Sends `out` and then the content in `buf`, and ends the exchange when that was all.
    fn pass_content<N: Net>(
        &mut self,
        cx: &mut Cx<'_, N>,
        key: Key,
        exchange_key: Key,
        mut buf: Buf,
        out: &mut Vec<u8>,
    ) {
        if self.is_shadow(exchange_key) {
            return self.swallow(cx, key, exchange_key, buf);
        }
        let Some(exchange) = self.exchanges.get_mut(exchange_key) else { return cx.net.free(buf) };
        let decoded = match exchange.response.decode(cx.net.bytes_mut(&mut buf), &Limits::default()) {
            Ok(decoded) => decoded,
            Err(reject) => {
                cx.net.free(buf);
                // What was right before it goes out; the client sees that it is not all.
                return self.fail(cx, exchange_key, Reason::BadResponse(reject));
            }
        };
        // Bytes behind the response belong to nothing that was asked for.
        let beside = decoded.used < buf.len();
        buf.advance(decoded.data.start);
        buf.truncate(decoded.data.len());
        exchange.down_bytes += buf.len() as u64;
        let chunked = exchange.down == Down::Chunked;
        let client_key = exchange.client;
        let Some(client) = self.clients.get_mut(client_key) else { return cx.net.free(buf) };
        let sock = client.sock;
        if chunked && !buf.is_empty() {
            encode::chunk_head(buf.len(), out);
        }
        let mut pressure = Pressure::Room;
        let mut sent = true;
        if buf.len() <= COPIED_BYTES_MAX {
            out.extend_from_slice(cx.net.bytes(&buf));
            if chunked && !buf.is_empty() {
                out.extend_from_slice(encode::CHUNK_END);
            }
            cx.net.free(buf);
        } else {
            // Our head goes where the server's lay, which is seldom shorter: one piece, and the content stays where it is.
            sent = cx.net.prepend(&mut buf, out) || send_all(cx.net, sock, out);
            out.clear();
            pressure = cx.net.send(sock, buf);
            if chunked {
                out.extend_from_slice(encode::CHUNK_END);
            }
        }
        if decoded.done && chunked {
            encode::last_chunk(exchange.response.trailers(), out);
        }
        if !out.is_empty() {
            match cx.net.write(out.get(..out.len().min(fourfold_engine::BUFFER_BYTES)).unwrap_or_default()) {
                Some(piece) => pressure = cx.net.send(sock, piece),
                None => sent = false,
            }
            sent &= send_all(cx.net, sock, out.get(fourfold_engine::BUFFER_BYTES..).unwrap_or_default());
        }
        if !sent {
            return self.fail(cx, exchange_key, Reason::Local);
        }
        if decoded.done {
            let reusable = !beside && self.conns.get(key).is_some_and(|conn| !conn.last);
            if beside {
                cx.core.counters().http_unasked.add(1);
            }
            return self.finish(cx, exchange_key, reusable);
        }
        if pressure == Pressure::Full {
            client.full = true;
            self.stop_server(cx, key);
        }
        self.extend(cx, exchange_key);
    }

    /// The client takes no more for now.
    fn stop_server<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Role::Busy(exchange) = conn.role else { return };
        if !std::mem::replace(&mut conn.paused, true) {
            cx.net.pause(conn.sock);
        }
        let now = cx.net.now();
        let Some(client_key) = self.exchanges.get(exchange).map(|exchange| exchange.client) else { return };
        let Some(client) = self.clients.get_mut(client_key) else { return };
        let timeout = self
            .settings
            .get(usize::from(client.listener))
            .and_then(|one| Some(one.as_ref()?.send_timeout_ms));
        client.taken = UNKNOWN;
        client.deadline = now + timeout.unwrap_or(0).max(1);
        self.client_timers.ensure(client_key.slot, client.deadline);
    }

    pub(super) fn resume_server<N: Net>(&mut self, cx: &mut Cx<'_, N>, exchange: Key) {
        let Some(conn) = self.exchanges.get(exchange).and_then(|exchange| exchange.conn) else { return };
        if let Some(conn) = self.conns.get_mut(conn)
            && std::mem::take(&mut conn.paused)
        {
            cx.net.receive(conn.sock);
        }
        self.extend(cx, exchange);
    }

    pub(super) fn on_server_drained<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.full = false;
        let Role::Busy(exchange) = conn.role else { return };
        self.extend(cx, exchange);
        if let Some(client) = self.exchanges.get(exchange).map(|exchange| exchange.client) {
            self.proceed(cx, client);
        }
    }

    fn entry_of_tunnel<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) -> Option<Box<Entry>> {
        self.count_head(key);
        let exchange = self.exchanges.get_mut(key)?;
        (exchange.answered, exchange.answered_us, exchange.status) = (true, cx.net.micros(), 101);
        self.entry(cx, key).map(Box::new)
    }

    /// Both sides have agreed on another protocol: from here on bytes pass as they come.
    fn switch<N: Net>(&mut self, cx: &mut Cx<'_, N>, tcp: &mut Tcp, key: Key, exchange_key: Key, early: Buf) {
        let Some(exchange) = self.exchanges.get(exchange_key) else { return cx.net.free(early) };
        let (client_key, listener, pool) = (exchange.client, exchange.listener, exchange.pool);
        let route = self.route(exchange).and_then(|route| route.upgrade_timeout_ms);
        let settings = self.settings.get(usize::from(listener)).and_then(Option::as_ref);
        let idle_timeout = route.or(settings.map(|one| one.upgrade_timeout_ms)).unwrap_or(0);
        let log = self.entry_of_tunnel(cx, exchange_key);
        self.remove(cx, exchange_key);
        let (Some(client), Some(conn)) = (self.clients.get(client_key), self.conns.get(key)) else {
            return cx.net.free(early);
        };
        let socks = (client.sock, conn.sock);
        if !send_all(cx.net, socks.0, &self.out) {
            cx.net.free(early);
            log.inspect(|log| log.write(cx.core, Ending::Local, cx.net.micros()));
            self.drop_conn(cx, key);
            return self.close_client(cx, client_key, Close::Reset);
        }
        self.conn_timers.cancel(key.slot);
        self.client_timers.cancel(client_key.slot);
        self.unpin(cx, client_key);
        let (Some(client), Some(conn)) = (self.clients.remove(client_key), self.conns.remove(key)) else {
            return cx.net.free(early);
        };
        let mut from_server = Stash::default();
        from_server.push(early);
        conn.partial.into_iter().for_each(|rest| from_server.push(rest));
        cx.core.counters().http_upgrades.add(1);
        self.count_status(cx.core, 101);
        tcp.take_over(
            cx,
            Handover {
                client: socks.0,
                server: socks.1,
                upstream: Upstream { path: conn.path, server: conn.server, lease: conn.lease },
                listener,
                pool,
                idle_timeout,
                from_client: client.stash,
                from_server,
                client_ended: client.ended,
                log,
            },
        );
    }

    pub(super) fn on_server_eof<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Role::Busy(exchange_key) = conn.role else { return self.drop_conn(cx, key) };
        let begun = conn.partial.is_some();
        let Some(exchange) = self.exchanges.get_mut(exchange_key) else { return self.drop_conn(cx, key) };
        if !exchange.answered {
            return match begun {
                true => self.fail(cx, exchange_key, Reason::BadResponse(Reject::BodyTruncated)),
                false => self.on_lost(cx, exchange_key, Reason::ServerClosed),
            };
        }
        if let Err(reject) = exchange.response.on_eof() {
            return self.fail(cx, exchange_key, Reason::BadResponse(reject));
        }
        if exchange.down == Down::Chunked
            && let Some(client) = self.clients.get(exchange.client)
        {
            self.out.clear();
            encode::last_chunk(b"", &mut self.out);
            if !send_all(cx.net, client.sock, &self.out) {
                return self.fail(cx, exchange_key, Reason::Local);
            }
        }
        self.finish(cx, exchange_key, false);
    }

    pub(super) fn on_server_failed<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, errno: Errno) {
        let Some(conn) = self.conns.get(key) else { return };
        let Role::Busy(exchange_key) = conn.role else { return self.drop_conn(cx, key) };
        let begun = conn.partial.is_some();
        tracing::debug!(shard = cx.core.shard, %errno, "server connection failed");
        let answered = self.exchanges.get(exchange_key).is_some_and(|exchange| exchange.answered);
        if answered || begun {
            return self.fail(cx, exchange_key, Reason::ServerReset);
        }
        // EPIPE: a reset that came after the FIN.
        let closed = errno == Errno::EPIPE;
        self.on_lost(cx, exchange_key, if closed { Reason::ServerClosed } else { Reason::ServerReset });
    }
}
