//! Connections to servers: made for a request, kept warm for whoever comes next, given up when they have served their time.

use super::Http;
use super::place::Told;
use super::reply::Reason;
use super::state::{Conn, Phase, Role};
use crate::core::{Core, Cx, Trial};
use crate::health::Answerer;
use crate::owner::{Tag, owner};
use crate::shared::Shared;
use crate::upstream::{Attempt, Blame, blame};
use crate::wait::Shortage;
use fourfold_base::Millis;
use fourfold_base::slab::Key;
use fourfold_engine::{Close, Errno, Net, Refused, Step};
use fourfold_ports::{Lease, Release};
use std::sync::atomic::Ordering::Relaxed;

/// Warm connections, per pool and server.
pub(super) struct Idle {
    /// The connection used last is taken first: the others may grow old and go.
    warm: Vec<Vec<Vec<Key>>>,
    /// Being made ahead, per pool and server.
    warming: Vec<Vec<u32>>,
}

impl Idle {
    pub fn new(shared: &Shared) -> Self {
        Self {
            warm: shared.pools.iter().map(|pool| pool.servers.iter().map(|_| Vec::new()).collect()).collect(),
            warming: shared.pools.iter().map(|pool| vec![0; pool.servers.len()]).collect(),
        }
    }

    fn stack(&mut self, pool: usize, server: usize) -> Option<&mut Vec<Key>> {
        self.warm.get_mut(pool)?.get_mut(server)
    }

    pub fn has(&self, pool: usize, server: usize) -> bool {
        self.warm.get(pool).and_then(|pool| pool.get(server)).is_some_and(|stack| !stack.is_empty())
    }

    pub fn take(&mut self, pool: usize, server: usize) -> Option<Key> {
        self.stack(pool, server)?.pop()
    }

    pub fn warming(&self, pool: usize, server: usize) -> usize {
        self.warming.get(pool).and_then(|pool| pool.get(server)).map_or(0, |count| *count as usize)
    }

    pub fn warm_more(&mut self, pool: usize, server: usize, more: i32) {
        if let Some(count) = self.warming.get_mut(pool).and_then(|pool| pool.get_mut(server)) {
            *count = count.saturating_add_signed(more);
        }
    }

    /// Of the server that has the most, the one idle longest.
    pub fn oldest(&self, pool: usize) -> Option<Key> {
        let most = self.warm.get(pool)?.iter().max_by_key(|stack| stack.len())?;
        most.first().copied()
    }

    pub fn total(&self, pool: usize) -> usize {
        self.warm.get(pool).map_or(0, |pool| pool.iter().map(Vec::len).sum())
    }

    /// Tells others how many warm connections could be given up here.
    pub fn show(&self, core: &Core, pool: usize) {
        let shard = core.shared.shards.get(core.shard);
        if let Some(own) = shard.and_then(|shard| shard.idle.get(pool)) {
            own.store(self.total(pool) as u32, Relaxed);
        }
    }

    pub fn count(&self, pool: usize, server: usize) -> usize {
        self.warm.get(pool).and_then(|pool| pool.get(server)).map_or(0, Vec::len)
    }

    fn put(&mut self, pool: usize, server: usize, key: Key) {
        if let Some(stack) = self.stack(pool, server) {
            stack.push(key);
        }
    }

    fn forget(&mut self, pool: usize, server: usize, key: Key) {
        if let Some(stack) = self.stack(pool, server) {
            stack.retain(|other| *other != key);
        }
    }
}

impl Http {
    /// Starts a connection for a request.
    pub(super) fn open<N: Net>(
        &mut self,
        cx: &mut Cx<'_, N>,
        key: Key,
        attempt: Attempt,
    ) -> Result<(), Shortage> {
        let now = cx.net.now();
        self.take_place(key, attempt.server, attempt.lease.source_index());
        let Some(exchange) = self.exchanges.get_mut(key) else { return Ok(()) };
        let pool = exchange.pool;
        let Attempt { server, path, lease, remote, local } = attempt;
        let conn = conn_to(pool, server, path, lease, now, Role::Connecting(key));
        let conn_key = match self.conns.insert(conn) {
            Ok(key) => key,
            Err(conn) => {
                cx.core.upstreams.give_back(usize::from(pool), server, path, conn.lease, Release::Clean, now);
                self.evict(cx);
                return Err(Shortage::Local);
            }
        };
        match cx.net.connect(&remote, local, owner(conn_key, Tag::HttpUpstream)) {
            Ok(sock) => {
                if let Some(conn) = self.conns.get_mut(conn_key) {
                    conn.sock = sock;
                }
                (exchange.conn, exchange.phase) = (Some(conn_key), Phase::Connecting);
                exchange.connect_us = cx.net.micros();
                let timeout = cx
                    .core
                    .shared
                    .plan
                    .pools
                    .get(usize::from(pool))
                    .map_or(0, |pool| pool.connect_timeout_ms);
                self.exchange_timers.set(key.slot, now + timeout);
                cx.core.counters().connects.add(1);
                Ok(())
            }
            Err(Refused { step, errno }) => {
                let blame = blame(step, errno);
                self.judge(cx, key, conn_key, step, errno, blame);
                if let Some(conn) = self.conns.remove(conn_key) {
                    let release = blame.release();
                    cx.core.upstreams.give_back(usize::from(pool), server, path, conn.lease, release, now);
                }
                if blame == Blame::Shortage {
                    self.evict(cx);
                }
                Err(match blame {
                    Blame::Shortage => Shortage::Local,
                    _ => Shortage::Servers,
                })
            }
        }
    }

    /// Counts a failed attempt with the request and where it belongs.
    fn judge<N: Net>(
        &mut self,
        cx: &mut Cx<'_, N>,
        key: Key,
        conn_key: Key,
        step: Step,
        errno: Errno,
        blame: Blame,
    ) {
        let Some(conn) = self.conns.get(conn_key) else { return };
        if let Some(exchange) = self.exchanges.get_mut(key) {
            match blame {
                Blame::Server => {
                    exchange.attempts = exchange.attempts.saturating_add(1);
                    exchange.avoid.push(conn.server);
                }
                _ => exchange.stumbles = exchange.stumbles.saturating_add(1),
            }
        }
        self.judge_conn(cx, conn_key, step, errno, blame);
        // The server has been judged with it.
        if let Some(place) = self.exchanges.get_mut(key).and_then(|exchange| exchange.place.as_mut()) {
            place.told = Told::Everything;
        }
    }

    pub(super) fn judge_conn<N: Net>(
        &mut self,
        cx: &mut Cx<'_, N>,
        key: Key,
        step: Step,
        errno: Errno,
        blame: Blame,
    ) {
        let now = cx.net.now();
        let Some(conn) = self.conns.get(key) else { return };
        let trial = Trial {
            pool: usize::from(conn.pool),
            server: conn.server,
            path: conn.path,
            lease: &conn.lease,
            started: conn.started,
        };
        cx.core.judge(&trial, step, errno, blame, now);
    }

    pub(super) fn on_connected<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let Some(conn) = self.conns.get(key) else { return };
        let (role, sock) = (conn.role, conn.sock);
        if !matches!(role, Role::Connecting(_) | Role::Warming) {
            return;
        }
        let who = Answerer {
            pool: usize::from(conn.pool),
            server: conn.server as usize,
            source: conn.lease.source_index(),
        };
        if let Some(state) = cx.core.shared.server(who.pool, who.server) {
            state.succeeded();
        }
        cx.core.reached(who, cx.net.now());
        cx.core.counters().connected.add(1);
        let Role::Connecting(exchange) = role else { return self.on_warm(cx, key) };
        cx.net.receive(sock);
        if !self.greet(cx, exchange, key) {
            return self.fail(cx, exchange, Reason::Local);
        }
        self.attach(cx, exchange, key);
    }

    pub(super) fn on_connect_failed<N: Net>(
        &mut self,
        cx: &mut Cx<'_, N>,
        key: Key,
        step: Step,
        errno: Errno,
    ) {
        let exchange = match self.conns.get(key).map(|conn| conn.role) {
            Some(Role::Connecting(exchange)) => exchange,
            Some(Role::Warming) => return self.on_warming_failed(cx, key, step, errno),
            _ => return,
        };
        let blame = blame(step, errno);
        self.judge(cx, exchange, key, step, errno, blame);
        if let Some(conn) = self.conns.get_mut(key) {
            conn.release = blame.release();
        }
        self.drop_conn(cx, key);
        self.try_another(cx, exchange);
    }

    /// connect_timeout is over, unless the timer was an earlier request's.
    pub(super) fn on_connect_due<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let now = cx.net.now();
        let Some(conn_key) = self.exchanges.get(key).and_then(|exchange| exchange.conn) else { return };
        let Some(conn) = self.conns.get(conn_key) else { return };
        let timeout =
            cx.core.shared.plan.pools.get(usize::from(conn.pool)).map_or(0, |pool| pool.connect_timeout_ms);
        if now < conn.started + timeout {
            return self.exchange_timers.set(key.slot, conn.started + timeout);
        }
        self.on_connect_failed(cx, conn_key, Step::Connect, Errno::ETIMEDOUT);
    }

    /// A request has been answered over this connection: it is kept for the next, or given up.
    pub(super) fn release<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, reusable: bool) {
        let now = cx.net.now();
        let Some(conn) = self.conns.get_mut(key) else { return };
        let (pool, server) = (usize::from(conn.pool), conn.server as usize);
        let Some(plan) = cx.core.shared.plan.pools.get(pool) else { return };
        let rules = &plan.http;
        let worn = rules.requests_max > 0 && u64::from(conn.uses) >= rules.requests_max
            || rules.max_age_ms > 0 && now >= conn.started + rules.max_age_ms;
        let room = self.idle.count(pool, server) < rules.idle_max as usize || cx.core.is_awaited(pool);
        if !reusable || worn || !room || cx.core.draining || conn.partial.is_some() {
            return self.drop_conn(cx, key);
        }
        let client = match conn.role {
            Role::Busy(exchange) if Self::is_pinned(cx.core, pool) => {
                self.exchanges.get(exchange).map(|exchange| exchange.client)
            }
            _ => None,
        };
        conn.full = false;
        if std::mem::take(&mut conn.paused) {
            cx.net.receive(conn.sock);
        }
        let Some(client) = client else { return self.lay_ready(cx, key) };
        (conn.role, conn.idle_since) = (Role::Idle, now);
        self.conn_timers.ensure(key.slot, now + rules.idle_timeout_ms);
        self.pin(cx, client, key);
    }

    /// For whoever comes next.
    pub(super) fn lay_ready<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let now = cx.net.now();
        let Some(conn) = self.conns.get_mut(key) else { return };
        (conn.role, conn.idle_since) = (Role::Idle, now);
        let (pool, server) = (usize::from(conn.pool), conn.server as usize);
        let timeout = cx.core.shared.plan.pools.get(pool).map_or(0, |plan| plan.http.idle_timeout_ms);
        self.conn_timers.ensure(key.slot, now + timeout);
        self.idle.put(pool, server, key);
        self.idle.show(cx.core, pool);
        cx.core.freed(pool);
    }

    /// Gives a connection up, whatever it was doing. A reset leaves no TIME_WAIT, and nothing is lost: either nobody wants what
    /// is on its way, or nothing is.
    pub(super) fn drop_conn<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let (pool, server) = (usize::from(conn.pool), conn.server as usize);
        match std::mem::replace(&mut conn.role, Role::Closing) {
            Role::Closing => return,
            Role::Idle => match conn.pinned.take() {
                Some(client) => drop(self.pinned.remove(&client)),
                None => {
                    self.idle.forget(pool, server, key);
                    self.idle.show(cx.core, pool);
                }
            },
            Role::Warming => self.idle.warm_more(pool, server, -1),
            Role::Busy(_) | Role::Connecting(_) => {}
        }
        if let Some(buf) = conn.partial.take() {
            cx.net.free(buf);
        }
        self.conn_timers.cancel(key.slot);
        cx.net.close(conn.sock, Close::Reset);
    }

    pub(super) fn on_server_closed<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let now = cx.net.now();
        let Some(conn) = self.conns.remove(key) else { return };
        let pool = usize::from(conn.pool);
        cx.core.upstreams.give_back(pool, conn.server, conn.path, conn.lease, conn.release, now);
        // One that never came about is no good news: whoever waits would try the same again, at once and without end.
        if conn.uses > 0 {
            cx.core.freed(pool);
        }
    }

    pub(super) fn on_conn_due<N: Net>(&mut self, cx: &mut Cx<'_, N>, slot: u32) {
        let now = cx.net.now();
        let Some(key) = self.conns.key_at(slot) else { return };
        let Some(conn) = self.conns.get(key).filter(|conn| conn.is_spare()) else { return };
        let Some(plan) = cx.core.shared.plan.pools.get(usize::from(conn.pool)) else { return };
        let is_warming = conn.role == Role::Warming;
        let timeout = if is_warming { plan.connect_timeout_ms } else { plan.http.idle_timeout_ms };
        let deadline: Millis = conn.idle_since + timeout;
        if now < deadline {
            return self.conn_timers.set(slot, deadline);
        }
        if is_warming {
            return self.on_warming_failed(cx, key, Step::Connect, Errno::ETIMEDOUT);
        }
        self.drop_conn(cx, key);
    }

    /// Gives up the warm connection that has been idle longest on some server, for one that is wanted now.
    fn evict<N: Net>(&mut self, cx: &mut Cx<'_, N>) {
        let oldest = self.idle.warm.iter().flatten().find_map(|stack| stack.first().copied());
        if let Some(key) = oldest {
            self.drop_conn(cx, key);
        }
    }

    /// Warm connections are of no use any more.
    pub(super) fn close_idle<N: Net>(&mut self, cx: &mut Cx<'_, N>) {
        for slot in 0..self.conns.slots() {
            let Some(key) = self.conns.key_at(slot) else { continue };
            if self.conns.get(key).is_some_and(Conn::is_spare) {
                self.drop_conn(cx, key);
            }
        }
    }

    pub(super) fn close_conns<N: Net>(&mut self, cx: &mut Cx<'_, N>) {
        for slot in 0..self.conns.slots() {
            if let Some(key) = self.conns.key_at(slot) {
                self.drop_conn(cx, key);
            }
        }
    }
}

pub(super) fn conn_to(pool: u16, server: u32, path: u32, lease: Lease, now: Millis, role: Role) -> Conn {
    Conn {
        sock: fourfold_engine::Sock::NONE,
        role,
        pool,
        server,
        path,
        lease,
        release: Release::Clean,
        started: now,
        idle_since: now,
        uses: 0,
        last: false,
        pinned: None,
        partial: None,
        scanned: 0,
        sent: 0,
        before: 0,
        paused: false,
        full: false,
    }
}
