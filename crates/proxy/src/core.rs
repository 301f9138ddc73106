//! What every feature of a shard stands on: limits, counters, notices, and the ways to servers.

use crate::counters::Counters;
use crate::health::Answerer;
use crate::logs::Logs;
use crate::reason::Refusal;
use crate::shared::{Mail, PoolState, ShardState, Shared};
use crate::upstream::{Blame, Upstreams};
use fourfold_balance::health::{Fault, Outcome};
use fourfold_base::Millis;
use fourfold_base::gate::Gate;
use fourfold_config::pool::ProxyProtocol;
use fourfold_engine::{Errno, Net, Sock, Step};
use fourfold_l4::proxy_protocol::{self, Addresses};
use fourfold_ports::Lease;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

pub(crate) struct Core {
    pub shard: usize,
    pub shared: Arc<Shared>,
    pub upstreams: Upstreams,
    pub logs: Logs,
    /// No client is accepted any more; who is here finishes.
    pub draining: bool,
    /// Pools of which something has come free in this handler.
    pub freed: Vec<usize>,
}

/// What a handler works with: the machine, and what its shard shares between features.
pub(crate) struct Cx<'a, N> {
    pub net: &'a mut N,
    pub core: &'a mut Core,
}

impl<N: Net> Cx<'_, N> {
    /// What a PROXY header says of a client: where it comes from, and where it had connected to. `None`: it has left.
    pub fn addresses(
        &mut self,
        listener: u16,
        client: Sock,
        source: SocketAddr,
        destination: Option<SocketAddr>,
    ) -> Option<Addresses> {
        let binds =
            self.core.shared.plan.listeners.get(usize::from(listener)).map(|one| one.binds.as_slice());
        let destination = match (destination, binds) {
            (Some(told), _) => told,
            (None, Some([only])) if !only.ip().is_unspecified() => *only,
            _ => self.net.local_address(client).ok()?,
        };
        Some(Addresses::new(source, destination))
    }
}

/// A PROXY header of this version.
pub(crate) fn greeting(version: ProxyProtocol, addresses: Option<Addresses>) -> Vec<u8> {
    let mut header = Vec::new();
    match version {
        ProxyProtocol::V1 => proxy_protocol::write_v1(addresses, &mut header),
        ProxyProtocol::V2 => proxy_protocol::write_v2(addresses, &mut header),
    }
    header
}

/// An attempt to connect, for whoever judges how it ended.
pub(crate) struct Trial<'a> {
    pub pool: usize,
    pub server: u32,
    pub path: u32,
    pub lease: &'a Lease,
    pub started: Millis,
}

impl Core {
    pub fn new(shared: Arc<Shared>, shard: usize) -> Self {
        Self {
            shard,
            upstreams: Upstreams::new(Arc::clone(&shared), shard),
            logs: Logs::new(&shared, shard),
            shared,
            draining: false,
            freed: Vec::new(),
        }
    }

    pub fn counters(&self) -> &Counters {
        static NONE: std::sync::OnceLock<Counters> = std::sync::OnceLock::new();
        self.shared
            .shards
            .get(self.shard)
            .map_or_else(|| NONE.get_or_init(Counters::default), |shard| &shard.counters)
    }

    /// Counts a client in, against the limits that shards share.
    pub fn admit(&self, listener: usize) -> Result<(), Refusal> {
        let (shared, own) = (&self.shared, self.shared.listener_connections.get(listener));
        if shared.connections.fetch_add(1, Relaxed) >= shared.connections_max {
            shared.connections.fetch_sub(1, Relaxed);
            return Err(Refusal::MaxConnections);
        }
        let limit = shared.plan.listeners.get(listener).and_then(|plan| plan.max_connections);
        if let Some(own) = own
            && own.fetch_add(1, Relaxed) >= limit.unwrap_or(u64::MAX)
        {
            own.fetch_sub(1, Relaxed);
            shared.connections.fetch_sub(1, Relaxed);
            return Err(Refusal::ListenerMax);
        }
        Ok(())
    }

    pub fn dismiss(&self, listener: usize) {
        self.shared.connections.fetch_sub(1, Relaxed);
        if let Some(own) = self.shared.listener_connections.get(listener) {
            own.fetch_sub(1, Relaxed);
        }
    }

    pub fn refused(&self, refusal: Refusal, now: Millis) {
        refusal.counter(self.counters()).add(1);
        if let Some(gate) = self.shared.notices.refusals.get(refusal as usize)
            && let Some(unsaid) = gate.pass(now)
        {
            tracing::warn!(shard = self.shard, unsaid, "{}", refusal.message());
        }
    }

    /// Says it unless it was said lately.
    pub fn notice(&self, gate: &Gate, now: Millis, message: impl Fn() -> String) {
        if let Some(unsaid) = gate.pass(now) {
            tracing::warn!(shard = self.shard, unsaid, "{}", message());
        }
    }

    pub fn idle_timeout(&self, listener: u16) -> Millis {
        self.shared.plan.listeners.get(usize::from(listener)).map_or(0, |listener| listener.idle_timeout_ms)
    }

    /// Counts a failed attempt where it belongs, and keeps others from the same failure.
    pub fn judge(&mut self, trial: &Trial<'_>, step: Step, errno: Errno, blame: Blame, now: Millis) {
        self.attempt_counter(step, errno, blame);
        let &Trial { pool, server, path, lease, started } = trial;
        let shared = Arc::clone(&self.shared);
        let (Some(state), Some(plan)) = (shared.server(pool, server as usize), shared.plan.pools.get(pool))
        else {
            return;
        };
        let who = Answerer { pool, server: server as usize, source: lease.source_index() };
        let outcome = if blame == Blame::Server { Outcome::Unreachable } else { Outcome::Shortage };
        let fault = self.report(who, outcome, 0, now);
        match blame {
            Blame::Server if self.is_the_path(who, fault, started) => state.unclaim(now),
            Blame::Server => {
                state.failed(started, now, plan.retry_backoff_ms, plan.retry_backoff_max_ms);
                let address = self.upstreams.address(path);
                self.notice(&state.notice, now, || {
                    let address = address.map_or_else(String::new, |address| address.to_string());
                    format!("server {address} failed: {errno}; it is left alone for a while")
                });
            }
            Blame::Source => {
                state.unclaim(now);
                self.upstreams.eject(path, lease, now);
                let ip =
                    self.upstreams.space(path).and_then(|space| space.source_address(lease.source_index()));
                self.notice(&shared.notices.source, now, || {
                    let ip = ip.map_or_else(String::new, |ip| ip.to_string());
                    format!("source {ip} is not on this machine; others are used (ip address add {ip} dev …)")
                });
            }
            Blame::Tuple | Blame::Shortage => state.unclaim(now),
        }
    }

    /// Others have reached the server meanwhile: the path is to blame, or nobody knows yet.
    fn is_the_path(&self, who: Answerer, fault: Fault, started: Millis) -> bool {
        let reached = |state: &PoolState| state.health.board.reached_at(who.server);
        match fault {
            Fault::Path | Fault::Source => true,
            Fault::Server => false,
            Fault::Undecided => {
                self.shared.pools.get(who.pool).and_then(reached).is_some_and(|at| at >= started)
            }
        }
    }

    fn attempt_counter(&self, step: Step, errno: Errno, blame: Blame) {
        let counters = self.counters();
        let counter = match (blame, errno) {
            (Blame::Tuple, _) => &counters.tuples_foreign,
            (Blame::Source, _) => &counters.source_missing,
            (Blame::Shortage, _) => &counters.connect_local,
            (Blame::Server, Errno::ECONNREFUSED) => &counters.connect_refused,
            (Blame::Server, Errno::ETIMEDOUT) => &counters.connect_timeout,
            (Blame::Server, Errno::ECONNRESET) => &counters.connect_reset,
            (Blame::Server, Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::ENETDOWN) => {
                &counters.connect_unreachable
            }
            (Blame::Server, _) => &counters.connect_failed,
        };
        counter.add(1);
        tracing::debug!(shard = self.shard, ?step, %errno, ?blame, "attempt failed");
    }

    /// Counts a client into the pool's queue, which is bounded over all shards.
    pub fn join_queue(&self, pool: usize) -> Result<(), Refusal> {
        let Some(state) = self.shared.pools.get(pool) else { return Err(Refusal::NoServer) };
        if state.waiting.fetch_add(1, Relaxed) >= state.queue_max {
            state.waiting.fetch_sub(1, Relaxed);
            return Err(Refusal::QueueFull);
        }
        if let Some(own) = self.waiting_here(pool) {
            own.fetch_add(1, Relaxed);
        }
        self.counters().queued.add(1);
        Ok(())
    }

    pub fn leave_queue(&self, pool: usize) {
        if let (Some(state), Some(own)) = (self.shared.pools.get(pool), self.waiting_here(pool)) {
            state.waiting.fetch_sub(1, Relaxed);
            own.fetch_sub(1, Relaxed);
        }
    }

    fn waiting_here(&self, pool: usize) -> Option<&AtomicU32> {
        self.shared.shards.get(self.shard)?.waiting.get(pool)
    }

    /// Idle connections on other shards are asked for what they hold: headroom is of no use where nobody waits.
    pub fn ask_for_idle(&self, pool: usize) {
        let count = |shard: &ShardState| shard.idle.get(pool).map_or(0, |idle| idle.load(Relaxed));
        let others = self.shared.shards.iter().enumerate().filter(|(index, _)| *index != self.shard);
        let most = others.map(|(_, shard)| shard).max_by_key(|shard| count(shard));
        if let Some(shard) = most.filter(|shard| count(shard) > 0) {
            shard.tell(Mail::Reclaim { pool });
        }
    }

    /// Whether anybody, on any shard, waits for something of `pool`.
    pub fn is_awaited(&self, pool: usize) -> bool {
        self.shared.pools.get(pool).is_some_and(|state| state.waiting.load(Relaxed) > 0)
    }

    /// A tuple, a server's place or a connection of `pool` has come free: whoever waits is told once the handler returns.
    pub fn freed(&mut self, pool: usize) {
        if self.is_awaited(pool) && !self.freed.contains(&pool) {
            self.freed.push(pool);
        }
    }
}
