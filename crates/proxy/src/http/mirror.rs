//! Copies of requests for a pool whose answers nobody waits for.
//!
//! A copy is sent once its request is over, so that it neither delays nor fails it; it is an exchange without a client, that
//! waits in no queue and is tried once. Refuses requests of which not all was kept, and more than [`SHADOWS_MAX`] at a time.

use super::Http;
use super::exchange::Begun;
use super::state::Exchange;
use crate::core::Cx;
use fourfold_balance::health::Outcome;
use fourfold_base::slab::Key;
use fourfold_config::http::Mirror;
use fourfold_engine::{Buf, Net};
use fourfold_http::h1::{Asked, Body, BodyReader, Limits};

/// Copies on their way, on one shard. Each holds up to what is kept of a request to be repeated.
pub(super) const SHADOWS_MAX: usize = 256;

/// The client of a copy.
const NOBODY: Key = Key { slot: u32::MAX, generation: 0 };

impl Http {
    /// The pool that gets a copy, if this request is one of those.
    pub(super) fn mirror_of(mirror: Option<&Mirror>, asked: Asked, random: u64) -> Option<u16> {
        let mirror = mirror.filter(|mirror| !asked.upgrade && random % 100 < u64::from(mirror.percent))?;
        u16::try_from(mirror.pool).ok()
    }

    /// A request is over: the copy of it goes out.
    pub(super) fn mirror<N: Net>(&mut self, cx: &mut Cx<'_, N>, over: &mut Exchange) {
        let Some(pool) = over.mirror.take() else { return };
        let whole = over.request.is_done() && over.repeatable;
        // A server that wants to know who the client is has none to be told of.
        let impossible = Self::is_pinned(cx.core, usize::from(pool));
        if !whole || impossible || self.shadows >= SHADOWS_MAX || cx.core.draining {
            return cx.core.counters().http_mirror_skipped.add(1);
        }
        let begun = Begun {
            pool,
            listener: over.listener,
            route: over.route,
            asked: over.asked,
            version: over.version,
            keep_alive: true,
            json: false,
            expects: false,
            // All of it lies in `sent`.
            body: Body::None,
            hash: over.hash,
            stay: None,
            mirror: None,
            response_fields: Vec::new(),
            sent: std::mem::take(&mut over.sent),
            log: None,
        };
        let mut shadow = Exchange::new(NOBODY, begun, cx.net.now());
        (shadow.shadow, shadow.tries, shadow.attempts) = (true, u8::MAX, u8::MAX);
        let Ok(key) = self.exchanges.insert(shadow) else {
            return cx.core.counters().http_mirror_skipped.add(1);
        };
        self.shadows += 1;
        cx.core.counters().http_mirrored.add(1);
        if !self.connect(cx, key) {
            self.drop_shadow(cx, key);
        }
    }

    pub(super) fn is_shadow(&self, key: Key) -> bool {
        self.exchanges.get(key).is_some_and(|exchange| exchange.shadow)
    }

    /// It has failed, and nobody cares.
    pub(super) fn drop_shadow<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        if let Some(conn) = self.exchanges.get(key).and_then(|exchange| exchange.conn) {
            self.drop_conn(cx, conn);
        }
        cx.core.counters().http_mirror_failed.add(1);
        self.remove(cx, key);
    }

    /// The head of its answer has come.
    pub(super) fn answer_shadow<N: Net>(
        &mut self,
        cx: &mut Cx<'_, N>,
        conn: Key,
        key: Key,
        mut buf: Buf,
        length: usize,
    ) {
        let outcome = Outcome::of_status(self.response.status);
        if outcome != Outcome::Success {
            self.tell(cx, key, outcome);
        }
        if let Some(exchange) = self.exchanges.get_mut(key) {
            exchange.answered = true;
            exchange.response = BodyReader::new(self.response.body);
        }
        if let Some(conn) = self.conns.get_mut(conn) {
            conn.last = !self.response.keep_alive;
        }
        buf.advance(length);
        self.swallow(cx, conn, key, buf);
    }

    pub(super) fn swallow<N: Net>(&mut self, cx: &mut Cx<'_, N>, conn: Key, key: Key, mut buf: Buf) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return cx.net.free(buf) };
        let decoded = exchange.response.decode(cx.net.bytes_mut(&mut buf), &Limits::default());
        let beside = decoded.as_ref().is_ok_and(|decoded| decoded.used < buf.len());
        cx.net.free(buf);
        match decoded {
            Err(_) => {
                self.tell(cx, key, Outcome::ServerError);
                self.drop_shadow(cx, key);
            }
            Ok(decoded) if decoded.done => {
                let reusable = !beside && self.conns.get(conn).is_some_and(|conn| !conn.last);
                self.end_shadow(cx, key, reusable);
            }
            Ok(_) => {
                self.tell(cx, key, Outcome::Answering);
                self.extend(cx, key);
            }
        }
    }

    pub(super) fn end_shadow<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, reusable: bool) {
        self.tell(cx, key, Outcome::Success);
        if let Some(conn) = self.exchanges.get(key).and_then(|exchange| exchange.conn) {
            self.release(cx, conn, reusable);
        }
        self.remove(cx, key);
    }

    pub(super) fn drop_shadows<N: Net>(&mut self, cx: &mut Cx<'_, N>) {
        for slot in 0..self.exchanges.slots() {
            if let Some(key) = self.exchanges.key_at(slot).filter(|key| self.is_shadow(*key)) {
                self.drop_shadow(cx, key);
            }
        }
    }
}
