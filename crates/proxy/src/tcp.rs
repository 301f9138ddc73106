//! One shard of the TCP proxy.
//!
//! Owns its tunnels, their timers, and the queues of waiting clients. Refuses what exceeds a limit, with a counted reason.
//! The engine drives it with events, the control plane with [`Mail`].

use crate::counters::Counters;
use crate::reason::Refusal;
use crate::shared::{Mail, Shared};
use crate::tunnel::{Phase, Side, Tunnel, Upstream, owner, parse_owner};
use crate::upstream::{Attempt, Blame, Upstreams, blame};
use crate::wait::{RETRY_MS, Shortage, WaitQueue};
use fourfold_base::Millis;
use fourfold_base::gate::Gate;
use fourfold_base::slab::{Key, Slab};
use fourfold_base::wheel::Wheel;
use fourfold_engine::{
    App, Buf, Close, Errno, Event, Handler, ListenerId, Net, Pressure, Refused, Sock, Step,
};
use fourfold_ports::Release;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A listener that could not accept for want of descriptors or memory tries again after this.
const ACCEPT_RETRY_MS: Millis = 100;
/// Attempts of one client that fail by a fault of ours before it waits its turn again.
const STUMBLES_MAX: u8 = 8;
/// Turns that a drain goes on accepting what the kernel has accepted already, if there is no end to it.
const DRAIN_ACCEPT_TURNS: u32 = 64;
/// Quarantined tuples are looked at this often, so that the headroom shown is true.
const HEADROOM_MS: Millis = 1_000;

pub struct TcpProxy {
    shard: usize,
    shared: Arc<Shared>,
    tunnels: Slab<Tunnel>,
    wheel: Wheel,
    due: Vec<u32>,
    upstreams: Upstreams,
    queues: Vec<WaitQueue>,
    accept_retry_at: Option<Millis>,
    headroom_at: Millis,
    drain: Option<Drain>,
    buffer_shortages: u64,
}

struct Drain {
    deadline: Millis,
    /// Turns in which clients that the kernel had accepted are still taken in.
    accepting: u32,
    accepted: bool,
    /// What was left at the deadline has been reset.
    cut: bool,
}

impl TcpProxy {
    pub fn new(shared: Arc<Shared>, shard: usize, now: Millis) -> Self {
        Self {
            shard,
            tunnels: Slab::new(shared.connections_per_shard),
            wheel: Wheel::new(now),
            due: Vec::new(),
            upstreams: Upstreams::new(Arc::clone(&shared), shard),
            queues: shared.pools.iter().map(|_| WaitQueue::default()).collect(),
            accept_retry_at: None,
            headroom_at: now,
            drain: None,
            buffer_shortages: 0,
            shared,
        }
    }

    /// Connections that this shard has at present.
    pub fn len(&self) -> usize {
        self.tunnels.len()
    }
    pub fn is_empty(&self) -> bool {
        self.tunnels.is_empty()
    }
    /// Clients in queues at present.
    pub fn waiting(&self) -> usize {
        self.queues.iter().map(|queue| queue.live).sum()
    }

    fn counters(&self) -> &Counters {
        static NONE: std::sync::OnceLock<Counters> = std::sync::OnceLock::new();
        self.shared
            .shards
            .get(self.shard)
            .map_or_else(|| NONE.get_or_init(Counters::default), |shard| &shard.counters)
    }

    // Clients come.

    fn on_accepted<N: Net>(&mut self, net: &mut N, listener: ListenerId, client: Sock) {
        self.counters().accepted.add(1);
        if let Some(drain) = &mut self.drain {
            drain.accepted = true;
        }
        let Some(index) = self.shared.plan.listener_of(listener.0 as usize) else {
            return net.close(client, Close::Reset);
        };
        let Some(pool) = self.shared.plan.listeners.get(index).and_then(|plan| plan.pool) else {
            return net.close(client, Close::Reset);
        };
        if let Err(refusal) = self.admit(index) {
            net.close(client, Close::Reset);
            return self.refused(refusal, net.now());
        }
        match self.tunnels.insert(Tunnel::new(client, index as u16, pool as u16, net.now())) {
            Ok(key) => {
                net.adopt(client, owner(key, Side::Client));
                self.start(net, key);
            }
            Err(_) => {
                self.dismiss(index);
                net.close(client, Close::Reset);
                self.refused(Refusal::ShardFull, net.now());
            }
        }
    }

    /// Counts a client in, against every limit.
    fn admit(&self, listener: usize) -> Result<(), Refusal> {
        if self.tunnels.is_full() {
            return Err(Refusal::ShardFull);
        }
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

    fn dismiss(&self, listener: usize) {
        self.shared.connections.fetch_sub(1, Relaxed);
        if let Some(own) = self.shared.listener_connections.get(listener) {
            own.fetch_sub(1, Relaxed);
        }
    }

    fn refused(&self, refusal: Refusal, now: Millis) {
        refusal.counter(self.counters()).add(1);
        if let Some(gate) = self.shared.notices.refusals.get(refusal as usize)
            && let Some(unsaid) = gate.pass(now)
        {
            tracing::warn!(shard = self.shard, unsaid, "{}", refusal.message());
        }
    }

    fn on_accept_failed<N: Net>(&mut self, net: &mut N, errno: Errno) {
        let counters = self.counters();
        let counter =
            if errno.is_local_shortage() { &counters.accept_descriptors } else { &counters.accept_errors };
        counter.add(1);
        self.accept_retry_at.get_or_insert(net.now() + ACCEPT_RETRY_MS);
        self.notice(&self.shared.notices.accepting, net.now(), || {
            format!("accepting has stopped for {ACCEPT_RETRY_MS} ms: {errno}; raise the descriptor limit (ulimit -n) or lower max_connections")
        });
    }

    /// Says it unless it was said lately.
    fn notice(&self, gate: &Gate, now: Millis, message: impl Fn() -> String) {
        if let Some(unsaid) = gate.pass(now) {
            tracing::warn!(shard = self.shard, unsaid, "{}", message());
        }
    }

    // Clients get a server.

    /// A new client: connects at once unless others wait already.
    fn start<N: Net>(&mut self, net: &mut N, key: Key) {
        let Some(tunnel) = self.tunnels.get(key) else { return };
        let pool = usize::from(tunnel.pool);
        let others = self.queues.get(pool).is_some_and(|queue| queue.live > 0);
        if others || !self.connect(net, key) {
            self.wait(net, key);
        }
    }

    /// Tries paths until one is under way. `false`: the client has to wait, and its pool's queue knows for what.
    fn connect<N: Net>(&mut self, net: &mut N, key: Key) -> bool {
        loop {
            let now = net.now();
            let Some(tunnel) = self.tunnels.get(key) else { return true };
            let pool = usize::from(tunnel.pool);
            let attempt = match self.upstreams.attempt(pool, now) {
                Ok(attempt) => attempt,
                Err((shortage, retry_at)) => {
                    self.expect(pool, shortage, retry_at, now);
                    return false;
                }
            };
            match self.open(net, key, attempt) {
                Ok(()) => return true,
                Err(Blame::Shortage) => {
                    self.expect(pool, Shortage::Local, None, now);
                    return false;
                }
                Err(_) => {}
            }
            let Some(tunnel) = self.tunnels.get_mut(key) else { return true };
            if tunnel.attempts >= self.shared.plan.pools.get(pool).map_or(1, |pool| pool.connect_attempts) {
                self.abandon(net, key, Refusal::Attempts);
                return true;
            }
            if tunnel.stumbles >= STUMBLES_MAX {
                tunnel.stumbles = 0;
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

    fn open<N: Net>(&mut self, net: &mut N, key: Key, attempt: Attempt) -> Result<(), Blame> {
        let now = net.now();
        let Attempt { server, path, lease, remote, local } = attempt;
        let Some(tunnel) = self.tunnels.get_mut(key) else { return Ok(()) };
        let pool = usize::from(tunnel.pool);
        match net.connect(&remote, local, owner(key, Side::Server)) {
            Ok(sock) => {
                tunnel.server = sock;
                tunnel.server_side.open = true;
                tunnel.upstream = Some(Upstream { path, server, lease });
                (tunnel.phase, tunnel.active, tunnel.release) = (Phase::Connecting, now, Release::Clean);
                let timeout = self.shared.plan.pools.get(pool).map_or(0, |pool| pool.connect_timeout_ms);
                self.wheel.set(key.slot, now + timeout);
                self.counters().connects.add(1);
                Ok(())
            }
            Err(Refused { step, errno }) => {
                let blame = blame(step, errno);
                tunnel.active = now;
                tunnel.upstream = Some(Upstream { path, server, lease });
                self.judge(key, step, errno, blame, now);
                let taken = self.tunnels.get_mut(key).and_then(|tunnel| tunnel.upstream.take());
                if let Some(Upstream { path, server, lease }) = taken {
                    self.upstreams.give_back(pool, server, path, lease, blame.release(), now);
                }
                Err(blame)
            }
        }
    }

    /// Counts a failed attempt where it belongs, and keeps others from the same failure.
    fn judge(&mut self, key: Key, step: Step, errno: Errno, blame: Blame, now: Millis) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        let (pool, started) = (usize::from(tunnel.pool), tunnel.active);
        match blame {
            Blame::Server => tunnel.attempts = tunnel.attempts.saturating_add(1),
            Blame::Tuple | Blame::Source | Blame::Shortage => {
                tunnel.stumbles = tunnel.stumbles.saturating_add(1)
            }
        }
        let Some(Upstream { path, server, lease }) = &tunnel.upstream else { return };
        let (path, server) = (*path, *server);
        let (state, plan) = (self.shared.server(pool, server as usize), self.shared.plan.pools.get(pool));
        let (Some(state), Some(plan)) = (state, plan) else { return };
        match blame {
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
                self.notice(&self.shared.notices.source, now, || {
                    let ip = ip.map_or_else(String::new, |ip| ip.to_string());
                    format!("source {ip} is not on this machine; others are used (ip address add {ip} dev …)")
                });
            }
            Blame::Tuple | Blame::Shortage => state.unclaim(now),
        }
        self.attempt_counter(step, errno, blame);
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

    fn on_connected<N: Net>(&mut self, net: &mut N, key: Key) {
        let now = net.now();
        let Some(tunnel) = self.tunnels.get_mut(key).filter(|tunnel| tunnel.phase == Phase::Connecting)
        else {
            return;
        };
        (tunnel.phase, tunnel.active) = (Phase::Open, now);
        let (client, server, pool, listener) = (tunnel.client, tunnel.server, tunnel.pool, tunnel.listener);
        let index = tunnel.upstream.as_ref().map_or(0, |upstream| upstream.server);
        if let Some(state) = self.shared.server(usize::from(pool), index as usize) {
            state.succeeded();
        }
        self.counters().connected.add(1);
        match self.idle_timeout(listener) {
            0 => self.wheel.cancel(key.slot),
            timeout => self.wheel.set(key.slot, now + timeout),
        }
        net.receive(client);
        net.receive(server);
    }

    fn idle_timeout(&self, listener: u16) -> Millis {
        self.shared.plan.listeners.get(usize::from(listener)).map_or(0, |listener| listener.idle_timeout_ms)
    }

    fn on_connect_failed<N: Net>(&mut self, net: &mut N, key: Key, step: Step, errno: Errno) {
        let now = net.now();
        let Some(tunnel) = self.tunnels.get_mut(key).filter(|tunnel| tunnel.phase == Phase::Connecting)
        else {
            return;
        };
        tunnel.phase = Phase::Failing;
        let server = tunnel.server;
        let blame = blame(step, errno);
        tunnel.release = blame.release();
        self.wheel.cancel(key.slot);
        self.judge(key, step, errno, blame, now);
        // The lease goes back when the kernel has let go of the socket; then the client tries another path.
        net.close(server, Close::Reset);
    }

    /// The socket of a failed attempt is gone.
    fn retry<N: Net>(&mut self, net: &mut N, key: Key) {
        let Some(tunnel) = self.tunnels.get(key) else { return };
        let pool = usize::from(tunnel.pool);
        let most = self.shared.plan.pools.get(pool).map_or(1, |pool| pool.connect_attempts);
        if tunnel.attempts >= most {
            return self.abandon(net, key, Refusal::Attempts);
        }
        if tunnel.stumbles >= STUMBLES_MAX || !self.connect(net, key) {
            self.wait(net, key);
        }
    }

    // Clients wait.

    fn wait<N: Net>(&mut self, net: &mut N, key: Key) {
        let now = net.now();
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        let pool = usize::from(tunnel.pool);
        tunnel.phase = Phase::Waiting;
        tunnel.stumbles = 0;
        let (Some(plan), Some(state), Some(queue)) =
            (self.shared.plan.pools.get(pool), self.shared.pools.get(pool), self.queues.get_mut(pool))
        else {
            return self.abandon(net, key, Refusal::NoServer);
        };
        if tunnel.wait_until == 0 {
            tunnel.wait_until = now + plan.queue_timeout_ms;
        }
        if now >= tunnel.wait_until {
            let refusal = refusal_for(queue.shortage);
            return self.abandon(net, key, refusal);
        }
        if state.waiting.fetch_add(1, Relaxed) >= state.queue_max {
            state.waiting.fetch_sub(1, Relaxed);
            return self.abandon(net, key, Refusal::QueueFull);
        }
        self.wheel.set(key.slot, tunnel.wait_until);
        tunnel.queued = true;
        // Not read, and still told of when it breaks: who has given up is not kept in line.
        net.pause(tunnel.client);
        queue.push(key);
        queue.retry_at.get_or_insert(now + RETRY_MS);
        if let Some(flag) = self.shared.shards.get(self.shard).and_then(|shard| shard.waiting.get(pool)) {
            flag.store(true, Relaxed);
        }
        self.counters().queued.add(1);
    }

    /// A waiting client is one no longer, for better or worse.
    fn leave_queue(&mut self, key: Key) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        if !std::mem::take(&mut tunnel.queued) {
            return;
        }
        let pool = usize::from(tunnel.pool);
        let tunnels = &self.tunnels;
        let waits = |other: Key| tunnels.get(other).is_some_and(|tunnel| tunnel.queued);
        if let Some(queue) = self.queues.get_mut(pool) {
            queue.leave();
            queue.compact(waits);
            if queue.live == 0
                && let Some(flag) =
                    self.shared.shards.get(self.shard).and_then(|shard| shard.waiting.get(pool))
            {
                flag.store(false, Relaxed);
            }
        }
        if let Some(state) = self.shared.pools.get(pool) {
            state.waiting.fetch_sub(1, Relaxed);
        }
    }

    /// Lets waiting clients in, in order, until one still has to wait.
    fn pump<N: Net>(&mut self, net: &mut N, pool: usize) {
        loop {
            let tunnels = &self.tunnels;
            let waits = |key: Key| tunnels.get(key).is_some_and(|tunnel| tunnel.queued);
            let Some(queue) = self.queues.get_mut(pool).filter(|queue| queue.live > 0) else { return };
            let Some(key) = queue.head(waits) else { return };
            if !self.connect(net, key) {
                return;
            }
            self.leave_queue(key);
        }
    }

    /// Something of `pool` has come free on this shard: its own clients first, then others'.
    fn relieve<N: Net>(&mut self, net: &mut N, pool: usize) {
        let shared = Arc::clone(&self.shared);
        let Some(state) = shared.pools.get(pool).filter(|state| state.waiting.load(Relaxed) > 0) else {
            return;
        };
        let before = self.queues.get(pool).map_or(0, |queue| queue.live);
        if before > 0 {
            self.pump(net, pool);
        }
        let after = self.queues.get(pool).map_or(0, |queue| queue.live);
        if after == before && state.waiting.load(Relaxed) > 0 {
            shared.wake_another(pool, self.shard);
        }
    }

    /// Another shard has no use for what came free. Passed on only by a shard that nobody waits at: if two with clients
    /// passed it on, and it did not help either, they would wake each other for ever.
    fn woken<N: Net>(&mut self, net: &mut N, pool: usize) {
        match self.queues.get(pool) {
            Some(queue) if queue.live > 0 => self.pump(net, pool),
            _ => self.shared.wake_another(pool, self.shard),
        }
    }

    // Bytes pass.

    fn on_received<N: Net>(&mut self, net: &mut N, key: Key, side: Side, buf: Buf) {
        let now = net.now();
        let Some(tunnel) = self.tunnels.get_mut(key).filter(|tunnel| tunnel.phase == Phase::Open) else {
            return net.free(buf);
        };
        tunnel.active = now;
        let (from, to, bytes) = (tunnel.sock(side), tunnel.sock(side.other()), buf.len() as u64);
        if net.send(to, buf) == Pressure::Full && !std::mem::replace(&mut tunnel.side_mut(side).paused, true)
        {
            net.pause(from);
        }
        match side {
            Side::Client => self.counters().bytes_up.add(bytes),
            Side::Server => self.counters().bytes_down.add(bytes),
        }
    }

    fn on_drained<N: Net>(&mut self, net: &mut N, key: Key, side: Side) {
        let now = net.now();
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        tunnel.active = now;
        if std::mem::take(&mut tunnel.side_mut(side.other()).paused) {
            net.receive(tunnel.sock(side.other()));
        }
    }

    fn on_eof<N: Net>(&mut self, net: &mut N, key: Key, side: Side) {
        let now = net.now();
        let Some(tunnel) = self.tunnels.get_mut(key).filter(|tunnel| tunnel.phase == Phase::Open) else {
            return;
        };
        tunnel.active = now;
        tunnel.side_mut(side).ended = true;
        if !tunnel.side(side.other()).ended {
            // The first to send FIN towards the server keeps the tuple in TIME_WAIT (RFC 9293, 3.6).
            if side == Side::Client {
                tunnel.release = Release::TimeWait;
            }
            return net.finish(tunnel.sock(side.other()));
        }
        // The last FIN needs no call of its own when there is nothing left to send: close sends it.
        let quiet = |net: &N, tunnel: &Tunnel, side| net.unsent(tunnel.sock(side)) == 0;
        let first_left = tunnel.side(side).finished || quiet(net, tunnel, side);
        if first_left && quiet(net, tunnel, side.other()) {
            return self.end(net, key);
        }
        net.finish(tunnel.sock(side.other()));
    }

    fn on_finished<N: Net>(&mut self, net: &mut N, key: Key, side: Side) {
        let Some(tunnel) = self.tunnels.get_mut(key).filter(|tunnel| tunnel.phase == Phase::Open) else {
            return;
        };
        tunnel.side_mut(side).finished = true;
        let (client, server) = (tunnel.client_side, tunnel.server_side);
        if client.ended && server.ended && client.finished && server.finished {
            self.end(net, key);
        }
    }

    fn end<N: Net>(&mut self, net: &mut N, key: Key) {
        self.counters().ended.add(1);
        self.close(net, key, Close::Orderly, Close::Orderly);
    }

    fn on_failed<N: Net>(&mut self, net: &mut N, key: Key, side: Side) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        match side {
            // Our FIN may be ahead of our reset, and if the server's meets it the kernel keeps the tuple, reset or not.
            Side::Client => {}
            Side::Server => tunnel.release = Release::Clean,
        }
        match side {
            Side::Client => self.counters().reset_by_client.add(1),
            Side::Server => self.counters().reset_by_server.add(1),
        }
        self.close(net, key, Close::Reset, Close::Reset);
    }

    // Clients go.

    fn abandon<N: Net>(&mut self, net: &mut N, key: Key, refusal: Refusal) {
        self.refused(refusal, net.now());
        self.close(net, key, Close::Reset, Close::Reset);
    }

    /// Gives up both sockets; the tunnel is removed when the engine has let go of them.
    fn close<N: Net>(&mut self, net: &mut N, key: Key, client: Close, server: Close) {
        let Some(tunnel) = self.tunnels.get_mut(key).filter(|tunnel| tunnel.phase != Phase::Closing) else {
            return;
        };
        let before = std::mem::replace(&mut tunnel.phase, Phase::Closing);
        net.close(tunnel.client, client);
        // A failed attempt's socket has been closed already.
        if before != Phase::Failing {
            net.close(tunnel.server, server);
        }
        self.wheel.cancel(key.slot);
        self.leave_queue(key);
    }

    fn on_closed<N: Net>(&mut self, net: &mut N, key: Key, side: Side) {
        let now = net.now();
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        tunnel.side_mut(side).open = false;
        let pool = usize::from(tunnel.pool);
        if side == Side::Server {
            tunnel.server = Sock::NONE;
            let release = tunnel.release;
            let retrying = tunnel.phase == Phase::Failing;
            if let Some(Upstream { path, server, lease }) = tunnel.upstream.take() {
                self.upstreams.give_back(pool, server, path, lease, release, now);
            }
            if retrying {
                self.retry(net, key);
            } else {
                self.relieve(net, pool);
            }
        }
        self.remove_if_gone(key);
    }

    fn remove_if_gone(&mut self, key: Key) {
        let gone = |tunnel: &&Tunnel| {
            tunnel.phase == Phase::Closing && !tunnel.client_side.open && !tunnel.server_side.open
        };
        if let Some(tunnel) = self.tunnels.get(key).filter(gone) {
            let listener = usize::from(tunnel.listener);
            self.tunnels.remove(key);
            self.dismiss(listener);
        }
    }

    // Time passes.

    fn on_due<N: Net>(&mut self, net: &mut N, slot: u32) {
        let Some(key) = self.tunnels.key_at(slot) else { return };
        let Some(tunnel) = self.tunnels.get(key) else { return };
        match tunnel.phase {
            Phase::Waiting => {
                let pool = usize::from(tunnel.pool);
                let shortage = self.queues.get(pool).and_then(|queue| queue.shortage);
                self.abandon(net, key, refusal_for(shortage));
            }
            Phase::Connecting => self.on_connect_failed(net, key, Step::Connect, Errno::ETIMEDOUT),
            Phase::Open => self.on_idle(net, key),
            Phase::Failing | Phase::Closing => {}
        }
    }

    fn on_idle<N: Net>(&mut self, net: &mut N, key: Key) {
        let now = net.now();
        let Some(tunnel) = self.tunnels.get(key) else { return };
        let timeout = self.idle_timeout(tunnel.listener);
        if tunnel.active + timeout > now {
            return self.wheel.set(key.slot, tunnel.active + timeout);
        }
        // A slow reader takes bytes without an event.
        let unsent = (net.unsent(tunnel.client) + net.unsent(tunnel.server)) as u32;
        if let Some(tunnel) = self.tunnels.get_mut(key).filter(|tunnel| tunnel.unsent != unsent) {
            (tunnel.unsent, tunnel.active) = (unsent, now);
            return self.wheel.set(key.slot, now + timeout);
        }
        // Nobody has ended: a FIN of ours would make half an answer look whole. A reset leaves no TIME_WAIT either.
        self.counters().idle_timeout.add(1);
        self.close(net, key, Close::Reset, Close::Reset);
    }

    fn drain<N: Net>(&mut self, net: &mut N, deadline: Millis) {
        match &mut self.drain {
            Some(drain) => drain.deadline = drain.deadline.min(deadline),
            None => {
                self.drain =
                    Some(Drain { deadline, accepting: DRAIN_ACCEPT_TURNS, accepted: true, cut: false })
            }
        }
        if deadline <= net.now() {
            self.cut(net);
        }
    }

    /// Takes in what the kernel had accepted before the stop, then leaves the address.
    fn on_drain_turn<N: Net>(&mut self, net: &mut N) {
        let now = net.now();
        let Some(drain) = &mut self.drain else { return };
        let overdue = now >= drain.deadline;
        if drain.accepting > 0 {
            drain.accepting -= 1;
            if !std::mem::take(&mut drain.accepted) || overdue {
                drain.accepting = 0;
            }
            if drain.accepting == 0 {
                for listener in 0..net.listeners() {
                    net.close_listener(ListenerId(listener as u32));
                }
            }
        }
        if overdue {
            self.cut(net);
        }
    }

    /// Resets whatever is left.
    fn cut<N: Net>(&mut self, net: &mut N) {
        self.drain.iter_mut().for_each(|drain| drain.cut = true);
        for slot in 0..self.tunnels.slots() {
            let Some(key) = self.tunnels.key_at(slot) else { continue };
            if self.tunnels.get(key).is_none_or(|tunnel| tunnel.phase == Phase::Closing) {
                continue;
            }
            self.counters().drain_cut.add(1);
            self.close(net, key, Close::Reset, Close::Reset);
            self.remove_if_gone(key);
        }
    }
}

fn refusal_for(shortage: Option<Shortage>) -> Refusal {
    match shortage {
        Some(Shortage::Tuples) => Refusal::Tuples,
        Some(Shortage::Local) => Refusal::Local,
        Some(Shortage::Servers) | None => Refusal::NoServer,
    }
}

impl<N: Net> Handler<N> for TcpProxy {
    fn on_event(&mut self, net: &mut N, event: Event) {
        match event {
            Event::Accepted { listener, sock } => self.on_accepted(net, listener, sock),
            Event::AcceptFailed { errno, .. } => self.on_accept_failed(net, errno),
            Event::Connected { owner, .. } => self.on_connected(net, parse_owner(owner).0),
            Event::ConnectFailed { owner, step, errno, .. } => {
                self.on_connect_failed(net, parse_owner(owner).0, step, errno);
            }
            Event::Received { owner, buf, .. } => {
                let (key, side) = parse_owner(owner);
                self.on_received(net, key, side, buf);
            }
            Event::Drained { owner, .. } => {
                let (key, side) = parse_owner(owner);
                self.on_drained(net, key, side);
            }
            Event::Eof { owner, .. } => {
                let (key, side) = parse_owner(owner);
                self.on_eof(net, key, side);
            }
            Event::Finished { owner, .. } => {
                let (key, side) = parse_owner(owner);
                self.on_finished(net, key, side);
            }
            Event::Failed { owner, .. } => {
                let (key, side) = parse_owner(owner);
                self.on_failed(net, key, side);
            }
            Event::Closed { owner } => {
                let (key, side) = parse_owner(owner);
                self.on_closed(net, key, side);
            }
        }
    }
}

impl<N: Net> App<N> for TcpProxy {
    type Mail = Mail;

    fn start(&mut self, net: &mut N) {
        for listener in 0..net.listeners() {
            net.accept(ListenerId(listener as u32));
        }
    }

    fn on_mail(&mut self, net: &mut N, mail: Mail) {
        match mail {
            Mail::Wake { pool } => self.woken(net, pool),
            Mail::Target { pool, server } => {
                self.upstreams.refresh(pool, server);
                self.pump(net, pool);
            }
            Mail::Drain { deadline } => self.drain(net, deadline),
            Mail::Trim => net.trim(),
        }
    }

    fn on_turn(&mut self, net: &mut N) {
        let now = net.now();
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(now, &mut due);
        for slot in due.drain(..) {
            self.on_due(net, slot);
        }
        self.due = due;
        for pool in 0..self.queues.len() {
            if self.queues.get(pool).is_some_and(|queue| queue.retry_at.is_some_and(|at| at <= now)) {
                if let Some(queue) = self.queues.get_mut(pool) {
                    queue.retry_at = (queue.live > 0).then_some(now + RETRY_MS);
                }
                self.pump(net, pool);
            }
        }
        if self.accept_retry_at.is_some_and(|at| at <= now) {
            self.accept_retry_at = None;
            if self.drain.is_none() {
                (0..net.listeners()).for_each(|listener| net.accept(ListenerId(listener as u32)));
            }
        }
        if now >= self.headroom_at + HEADROOM_MS {
            self.headroom_at = now;
            self.upstreams.handle_timeout(now);
        }
        let shortages = net.stats().buffer_shortages;
        self.counters().buffer_shortages.add(shortages - self.buffer_shortages);
        self.buffer_shortages = shortages;
        self.on_drain_turn(net);
    }

    fn poll_timeout(&self) -> Option<Millis> {
        let queues =
            self.queues.iter().filter(|queue| queue.live > 0).filter_map(|queue| queue.retry_at).min();
        let drain = self.drain.as_ref().and_then(|drain| match drain.accepting {
            0 => (!drain.cut).then_some(drain.deadline),
            _ => Some(0),
        });
        [self.wheel.poll_timeout(), queues, self.accept_retry_at, drain].into_iter().flatten().min()
    }

    fn is_finished(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.accepting == 0) && self.tunnels.is_empty()
    }
}
