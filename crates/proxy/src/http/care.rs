//! Warm connections that nobody asked for: some are made ahead (`preconnect`), and some are given up, for a request that waits on
//! another shard or because they lead where nothing gets through.

use super::Http;
use super::state::{Conn, Role};
use super::upstream::conn_to;
use crate::core::{Core, Cx};
use crate::owner::{Tag, owner};
use crate::upstream::{Attempt, blame};
use fourfold_base::Millis;
use fourfold_base::slab::Key;
use fourfold_engine::{Errno, Net, Refused, Step};
use std::net::IpAddr;

/// Warm connections are counted this often, where some are to be kept ready.
const PRECONNECT_MS: Millis = 1_000;
/// Connections begun ahead at a time, for each server.
const PRECONNECT_BURST: usize = 16;

impl Http {
    /// Whether a pool keeps connections ready on each shard.
    pub(super) fn preconnects(shared: &crate::shared::Shared) -> bool {
        shared.plan.pools.iter().any(|pool| pool.http.preconnect > 0 && pool.proxy_protocol.is_none())
    }

    pub(super) fn on_care_turn<N: Net>(&mut self, cx: &mut Cx<'_, N>) {
        let now = cx.net.now();
        if self.care_at.is_none_or(|at| now < at) {
            return;
        }
        self.care_at = (!cx.core.draining).then_some(now + PRECONNECT_MS);
        if cx.core.draining {
            return;
        }
        let plan = std::sync::Arc::clone(&cx.core.shared.plan);
        for (pool, plan) in plan.pools.iter().enumerate() {
            // One that tells who the client is serves nobody else.
            if plan.http.preconnect == 0 || plan.proxy_protocol.is_some() {
                continue;
            }
            for server in 0..plan.servers.len() {
                self.make_ready(cx, pool, server, plan.http.preconnect as usize);
            }
        }
    }

    fn make_ready<N: Net>(&mut self, cx: &mut Cx<'_, N>, pool: usize, server: usize, wanted: usize) {
        let ready = self.idle.count(pool, server) + self.idle.warming(pool, server);
        for _ in 0..wanted.saturating_sub(ready).min(PRECONNECT_BURST) {
            let Some(attempt) = cx.core.upstreams.spare_way(pool, server, cx.net.now()) else { return };
            if !self.warm_up(cx, pool, attempt) {
                return;
            }
        }
    }

    fn warm_up<N: Net>(&mut self, cx: &mut Cx<'_, N>, pool: usize, attempt: Attempt) -> bool {
        let now = cx.net.now();
        let Attempt { server, path, lease, remote, local } = attempt;
        let key = match self.conns.insert(conn_to(pool as u16, server, path, lease, now, Role::Warming)) {
            Ok(key) => key,
            Err(conn) => {
                cx.core.upstreams.give_back(pool, server, path, conn.lease, conn.release, now);
                return false;
            }
        };
        match cx.net.connect(&remote, local, owner(key, Tag::HttpUpstream)) {
            Ok(sock) => {
                if let Some(conn) = self.conns.get_mut(key) {
                    conn.sock = sock;
                }
                let timeout = cx.core.shared.plan.pools.get(pool).map_or(0, |pool| pool.connect_timeout_ms);
                self.conn_timers.set(key.slot, now + timeout);
                self.idle.warm_more(pool, server as usize, 1);
                cx.core.counters().connects.add(1);
                cx.core.counters().http_preconnects.add(1);
                true
            }
            Err(Refused { step, errno }) => {
                let blame = blame(step, errno);
                self.judge_conn(cx, key, step, errno, blame);
                if let Some(conn) = self.conns.remove(key) {
                    cx.core.upstreams.give_back(pool, server, path, conn.lease, blame.release(), now);
                }
                false
            }
        }
    }

    /// A connection that was made ahead has come about.
    pub(super) fn on_warm<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let Some(conn) = self.conns.get(key) else { return };
        let (pool, server, sock) = (usize::from(conn.pool), conn.server as usize, conn.sock);
        self.idle.warm_more(pool, server, -1);
        cx.net.receive(sock);
        self.lay_ready(cx, key);
    }

    pub(super) fn on_warming_failed<N: Net>(
        &mut self,
        cx: &mut Cx<'_, N>,
        key: Key,
        step: Step,
        errno: Errno,
    ) {
        let blame = blame(step, errno);
        self.judge_conn(cx, key, step, errno, blame);
        if let Some(conn) = self.conns.get_mut(key) {
            conn.release = blame.release();
        }
        self.drop_conn(cx, key);
    }

    /// Connections that lie ready on a way that fails. A request that may not be sent twice would be lost on them.
    pub fn give_up<N: Net>(&mut self, cx: &mut Cx<'_, N>, pool: usize, way: Way) {
        for slot in 0..self.conns.slots() {
            let Some(key) = self.conns.key_at(slot) else { continue };
            let Some(conn) = self.conns.get(key).filter(|conn| conn.is_spare()) else { continue };
            if usize::from(conn.pool) == pool && conn.leads(cx.core, way) {
                self.drop_conn(cx, key);
            }
        }
    }

    /// Another shard has a request waiting for want of what warm connections here hold: the one idle longest goes.
    pub fn reclaim<N: Net>(&mut self, cx: &mut Cx<'_, N>, pool: usize) {
        // Who waits here is served by it first.
        if self.queued(pool) > 0 {
            return;
        }
        let Some(key) = self.idle.oldest(pool) else { return };
        if let Some(conn) = self.conns.get_mut(key) {
            // What it held is good news for whoever waits.
            conn.uses = conn.uses.max(1);
        }
        cx.core.counters().http_reclaimed.add(1);
        self.drop_conn(cx, key);
    }
}

/// `None`: any.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    pub server: Option<usize>,
    pub source: Option<IpAddr>,
}

impl Conn {
    fn leads(&self, core: &Core, way: Way) -> bool {
        let own = || core.upstreams.space(self.path)?.source_address(self.lease.source_index());
        way.server.is_none_or(|server| server == self.server as usize)
            && way.source.is_none_or(|source| own() == Some(source))
    }

    /// Nobody waits for it.
    pub(super) fn is_spare(&self) -> bool {
        matches!(self.role, Role::Idle | Role::Warming)
    }
}
