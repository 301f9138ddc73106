//! TCP tunnels of one shard.
//!
//! Owns the tunnels, their timers, and the queues of waiting clients. Refuses what exceeds a limit, with a counted reason.
//! Its shard drives it with events.

mod log;

pub(crate) use log::Entry;

use crate::access::Ending;
use crate::core::{Core, Cx, Trial, greeting};
use crate::http;
use crate::logs::source;
use crate::owner::{Tag, owner};
use crate::preface::Caller;
use crate::reason::Refusal;
use crate::roster::{self, Row, State};
use crate::shared::Shared;
use crate::shed::{Holder, Whose, unsent_of};
use crate::splice::{self, Accounts, Carrier, LOOK_MS, Look};
use crate::stash::Stash;
use crate::tunnel::{Direction, Extra, Line, Phase, Side, Tunnel, Upstream};
use crate::upstream::{Attempt, Blame, Choice, Want, address_key, blame};
use crate::wait::{RETRY_MS, Shortage, WaitQueue};
use fourfold_balance::health::Outcome;
use fourfold_base::Millis;
use fourfold_base::slab::{Key, Slab};
use fourfold_base::wheel::Wheel;
use fourfold_engine::{Buf, Close, Errno, Event, NO_OWNER, Net, Pressure, Refused, Sock, Step, Unspliced};
use fourfold_ports::Release;

/// Attempts of one client that fail by a fault of ours before it waits its turn again.
const STUMBLES_MAX: u8 = 8;
pub(crate) struct Tcp {
    tunnels: Slab<Tunnel>,
    wheel: Wheel,
    due: Vec<u32>,
    queues: Vec<WaitQueue>,
    spliced: Accounts,
}

/// Two connections that were made for something else.
pub(crate) struct Handover {
    pub client: Sock,
    pub server: Sock,
    pub upstream: Upstream,
    pub listener: u16,
    pub pool: u16,
    pub idle_timeout: Millis,
    pub from_client: Stash,
    pub from_server: Stash,
    pub client_ended: bool,
    pub log: Option<Box<http::Entry>>,
}

impl Tcp {
    pub fn new(shared: &Shared, now: Millis) -> Self {
        Self {
            tunnels: Slab::new(shared.connections_per_shard),
            wheel: Wheel::new(now),
            due: Vec::new(),
            queues: shared.pools.iter().map(|_| WaitQueue::default()).collect(),
            spliced: Accounts::default(),
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

    // Clients come.

    /// Takes in a client that has been counted. `false`: there is no slot.
    pub fn accept<N: Net>(
        &mut self,
        cx: &mut Cx<'_, N>,
        listener: u16,
        pool: u16,
        client: Sock,
        caller: &mut Caller,
    ) -> bool {
        let Ok(key) = self.tunnels.insert(Tunnel::new(client, listener, pool, cx.net.now())) else {
            return false;
        };
        let extra = extra(cx, listener, pool, client, caller);
        if let Some(tunnel) = self.tunnels.get_mut(key) {
            tunnel.extra = extra.map(Box::new);
        }
        cx.net.adopt(client, owner(key, Tag::TunnelClient));
        self.start(cx, key);
        true
    }

    /// Goes on with two connections that agreed on a protocol of their own.
    pub fn take_over<N: Net>(&mut self, cx: &mut Cx<'_, N>, mut handover: Handover) {
        let now = cx.net.now();
        let tunnel = Tunnel {
            server: handover.server,
            upstream: Some(handover.upstream),
            phase: Phase::Open,
            idle_timeout_s: handover.idle_timeout.div_ceil(1000).min(u64::from(u32::MAX)) as u32,
            server_side: Direction { open: true, ..Direction::default() },
            extra: handover
                .log
                .map(|log| Box::new(Extra { log: Some(Line::Request(log)), ..Extra::default() })),
            ..Tunnel::new(handover.client, handover.listener, handover.pool, now)
        };
        let (client, server) = (handover.client, handover.server);
        let Ok(key) = self.tunnels.insert(tunnel) else {
            // There is a slot for every client; without one neither side is left hanging.
            handover.from_client.clear(cx.net);
            handover.from_server.clear(cx.net);
            cx.net.adopt(client, NO_OWNER - 1);
            cx.net.adopt(server, NO_OWNER - 1);
            cx.net.close(client, Close::Reset);
            return cx.net.close(server, Close::Reset);
        };
        cx.net.adopt(client, owner(key, Tag::TunnelClient));
        cx.net.adopt(server, owner(key, Tag::TunnelServer));
        if handover.idle_timeout > 0 {
            self.wheel.set(key.slot, now + handover.idle_timeout);
        }
        cx.net.receive(client);
        cx.net.receive(server);
        while let Some(buf) = handover.from_server.pop() {
            match buf.is_empty() {
                true => cx.net.free(buf),
                false => self.on_received(cx, key, Side::Server, buf),
            }
        }
        while let Some(buf) = handover.from_client.pop() {
            self.on_received(cx, key, Side::Client, buf);
        }
        if handover.client_ended {
            self.on_eof(cx, key, Side::Client);
        }
    }

    fn idle_timeout(core: &Core, tunnel: &Tunnel) -> Millis {
        match tunnel.idle_timeout_s {
            0 => core.idle_timeout(tunnel.listener),
            seconds => u64::from(seconds) * 1000,
        }
    }

    // Clients get a server.

    /// A new client: connects at once unless others wait already.
    fn start<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let Some(tunnel) = self.tunnels.get(key) else { return };
        let pool = usize::from(tunnel.pool);
        let others = self.queues.get(pool).is_some_and(|queue| queue.live > 0);
        if others || !self.connect(cx, key) {
            self.wait(cx, key);
        }
    }

    /// Tries paths until one is under way. `false`: the client has to wait, and its pool's queue knows for what.
    fn connect<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) -> bool {
        loop {
            let now = cx.net.now();
            let Some(tunnel) = self.tunnels.get(key) else { return true };
            let pool = usize::from(tunnel.pool);
            let hash = tunnel.extra.as_ref().and_then(|extra| extra.key);
            let want = Want { key: hash, ..Want::ANY };
            let attempt = match cx.core.upstreams.attempt(pool, &want, now) {
                Ok(Choice::Fresh(attempt)) => attempt,
                // Nothing lies ready for a tunnel.
                Ok(Choice::Warm(_)) => return false,
                // A breaker is not waited for.
                Err((Shortage::Breaker, _)) => {
                    self.abandon(cx, key, Refusal::Breaker);
                    return true;
                }
                Err((shortage, retry_at)) => {
                    self.expect(pool, shortage, retry_at, now);
                    return false;
                }
            };
            match self.open(cx, key, attempt) {
                Ok(()) => return true,
                Err(Blame::Shortage) => {
                    self.expect(pool, Shortage::Local, None, now);
                    return false;
                }
                Err(_) => {}
            }
            let Some(tunnel) = self.tunnels.get_mut(key) else { return true };
            if tunnel.attempts >= cx.core.shared.plan.pools.get(pool).map_or(1, |pool| pool.connect_attempts)
            {
                self.abandon(cx, key, Refusal::Attempts);
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

    fn open<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, attempt: Attempt) -> Result<(), Blame> {
        let now = cx.net.now();
        let Attempt { server, path, lease, remote, local } = attempt;
        let Some(tunnel) = self.tunnels.get_mut(key) else { return Ok(()) };
        let pool = usize::from(tunnel.pool);
        match cx.net.connect(&remote, local, owner(key, Tag::TunnelServer)) {
            Ok(sock) => {
                tunnel.server = sock;
                tunnel.server_side.open = true;
                tunnel.upstream = Some(Upstream { path, server, lease });
                (tunnel.phase, tunnel.active, tunnel.release) = (Phase::Connecting, now, Release::Clean);
                let timeout = cx.core.shared.plan.pools.get(pool).map_or(0, |pool| pool.connect_timeout_ms);
                self.wheel.set(key.slot, now + timeout);
                if let Some(log) = tunnel.log() {
                    log.connecting(remote, cx.net.micros());
                }
                cx.core.counters().connects.add(1);
                Ok(())
            }
            Err(Refused { step, errno }) => {
                let blame = blame(step, errno);
                tunnel.active = now;
                tunnel.upstream = Some(Upstream { path, server, lease });
                self.judge(cx.core, key, step, errno, blame, now);
                let taken = self.tunnels.get_mut(key).and_then(|tunnel| tunnel.upstream.take());
                if let Some(Upstream { path, server, lease }) = taken {
                    cx.core.upstreams.give_back(pool, server, path, lease, blame.release(), now);
                }
                Err(blame)
            }
        }
    }

    fn judge(&mut self, core: &mut Core, key: Key, step: Step, errno: Errno, blame: Blame, now: Millis) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        match blame {
            Blame::Server => tunnel.attempts = tunnel.attempts.saturating_add(1),
            Blame::Tuple | Blame::Source | Blame::Shortage => {
                tunnel.stumbles = tunnel.stumbles.saturating_add(1)
            }
        }
        let (pool, started) = (usize::from(tunnel.pool), tunnel.active);
        let Some(Upstream { path, server, lease }) = &tunnel.upstream else { return };
        core.judge(&Trial { pool, server: *server, path: *path, lease, started }, step, errno, blame, now);
    }

    fn on_connected<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let now = cx.net.now();
        let Some(tunnel) = self.tunnels.get_mut(key).filter(|tunnel| tunnel.phase == Phase::Connecting)
        else {
            return;
        };
        let latency_us = now.saturating_sub(tunnel.active) * 1000;
        (tunnel.phase, tunnel.active) = (Phase::Open, now);
        let (client, server) = (tunnel.client, tunnel.server);
        if tunnel.log().is_some()
            && let Some(Upstream { path, lease, .. }) = &tunnel.upstream
        {
            let source = source(cx, *path, lease, server);
            tunnel.log().into_iter().for_each(|log| log.opened(source, cx.net.micros()));
        }
        if let Some(who) = tunnel.answerer() {
            if let Some(state) = cx.core.shared.server(who.pool, who.server) {
                state.succeeded();
            }
            cx.core.reached(who, now);
            cx.core.report(who, Outcome::Success, latency_us, now);
        }
        cx.core.counters().connected.add(1);
        match Self::idle_timeout(cx.core, tunnel) {
            0 => self.wheel.cancel(key.slot),
            timeout => self.wheel.set(key.slot, now + timeout),
        }
        if !self.greet(cx, key) {
            return self.abandon(cx, key, Refusal::Local);
        }
        cx.net.receive(client);
        cx.net.receive(server);
        self.send_early(cx, key);
    }

    /// A server that wants to know who the client is learns it before anything else. `false`: there was no buffer.
    fn greet<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) -> bool {
        let Some(tunnel) = self.tunnels.get(key) else { return true };
        let pool = cx.core.shared.plan.pools.get(usize::from(tunnel.pool));
        let Some(version) = pool.and_then(|pool| pool.proxy_protocol) else { return true };
        let addresses = tunnel.extra.as_ref().and_then(|extra| extra.addresses);
        let Some(header) = cx.net.write(&greeting(version, addresses)) else { return false };
        // Nothing else is queued yet.
        let _ = cx.net.send(tunnel.server, header);
        true
    }

    /// What the client sent behind its PROXY header, before there was anybody to send it to.
    fn send_early<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        let Some(Extra { mut early, early_end, log, .. }) = tunnel.extra.take().map(|extra| *extra) else {
            return;
        };
        tunnel.extra = log.map(|log| Box::new(Extra { log: Some(log), ..Extra::default() }));
        while let Some(buf) = early.pop() {
            self.on_received(cx, key, Side::Client, buf);
        }
        if early_end {
            self.on_eof(cx, key, Side::Client);
        }
    }

    /// Bytes of a client that had been read before, and still was when its server was looked for.
    fn keep_early<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, buf: Buf) {
        let tunnel = self.tunnels.get_mut(key).filter(|tunnel| tunnel.phase != Phase::Closing);
        match tunnel.and_then(|tunnel| tunnel.extra.as_mut()) {
            Some(extra) => extra.early.push(buf),
            None => cx.net.free(buf),
        }
    }

    fn on_connect_failed<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, step: Step, errno: Errno) {
        let now = cx.net.now();
        let Some(tunnel) = self.tunnels.get_mut(key).filter(|tunnel| tunnel.phase == Phase::Connecting)
        else {
            return;
        };
        tunnel.phase = Phase::Failing;
        let server = tunnel.server;
        let blame = blame(step, errno);
        tunnel.release = blame.release();
        self.wheel.cancel(key.slot);
        self.judge(cx.core, key, step, errno, blame, now);
        // The lease goes back when the kernel has let go of the socket; then the client tries another path.
        cx.net.close(server, Close::Reset);
    }

    /// The socket of a failed attempt is gone.
    fn retry<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let Some(tunnel) = self.tunnels.get(key) else { return };
        let pool = usize::from(tunnel.pool);
        let most = cx.core.shared.plan.pools.get(pool).map_or(1, |pool| pool.connect_attempts);
        if tunnel.attempts >= most {
            return self.abandon(cx, key, Refusal::Attempts);
        }
        if tunnel.stumbles >= STUMBLES_MAX || !self.connect(cx, key) {
            self.wait(cx, key);
        }
    }

    // Clients wait.

    fn wait<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let now = cx.net.now();
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        let pool = usize::from(tunnel.pool);
        tunnel.phase = Phase::Waiting;
        tunnel.stumbles = 0;
        let (Some(plan), Some(queue)) = (cx.core.shared.plan.pools.get(pool), self.queues.get_mut(pool))
        else {
            return self.abandon(cx, key, Refusal::NoServer);
        };
        if tunnel.wait_until == 0 {
            tunnel.wait_until = now + plan.queue_timeout_ms;
        }
        if now >= tunnel.wait_until {
            let refusal = refusal_for(queue.shortage);
            return self.abandon(cx, key, refusal);
        }
        if let Err(refusal) = cx.core.join_queue(pool) {
            return self.abandon(cx, key, refusal);
        }
        self.wheel.set(key.slot, tunnel.wait_until);
        tunnel.queued = true;
        // Not read, and still told of when it breaks: who has given up is not kept in line.
        cx.net.pause(tunnel.client);
        queue.push(key);
        queue.retry_at.get_or_insert(now + RETRY_MS);
        cx.core.ask_for_idle(pool);
    }

    /// A waiting client is one no longer, for better or worse.
    fn leave_queue(&mut self, core: &Core, key: Key) {
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
        }
        core.leave_queue(pool);
    }

    /// How many clients wait for something of `pool`.
    pub fn queued(&self, pool: usize) -> usize {
        self.queues.get(pool).map_or(0, |queue| queue.live)
    }

    /// Lets waiting clients in, in order, until one still has to wait.
    pub fn pump<N: Net>(&mut self, cx: &mut Cx<'_, N>, pool: usize) {
        loop {
            let tunnels = &self.tunnels;
            let waits = |key: Key| tunnels.get(key).is_some_and(|tunnel| tunnel.queued);
            let Some(queue) = self.queues.get_mut(pool).filter(|queue| queue.live > 0) else { return };
            let Some(key) = queue.head(waits) else { return };
            if !self.connect(cx, key) {
                return;
            }
            self.leave_queue(cx.core, key);
        }
    }

    // Bytes pass.

    fn on_received<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, side: Side, buf: Buf) {
        let now = cx.net.now();
        let Some(tunnel) = self.tunnels.get_mut(key).filter(|tunnel| tunnel.phase == Phase::Open) else {
            return self.keep_early(cx, key, buf);
        };
        let since_last = now.saturating_sub(std::mem::replace(&mut tunnel.active, now));
        let busy = tunnel.carrier.is_busy(&cx.core.shared.plan.splice, buf.len(), since_last);
        let (from, to, bytes) = (tunnel.sock(side), tunnel.sock(side.other()), buf.len() as u64);
        if let Some(log) = tunnel.extra.as_mut().and_then(|extra| extra.log.as_mut()) {
            let (up, down) = if side == Side::Client { (bytes, 0) } else { (0, bytes) };
            log.add(up, down);
        }
        if cx.net.send(to, buf) == Pressure::Full
            && !std::mem::replace(&mut tunnel.side_mut(side).paused, true)
        {
            cx.net.pause(from);
        }
        match side {
            Side::Client => cx.core.counters().bytes_up.add(bytes),
            Side::Server => cx.core.counters().bytes_down.add(bytes),
        }
        if busy {
            self.splice(cx, key);
        }
    }

    // The kernel carries.

    /// A busy tunnel that is open both ways is handed to the kernel.
    fn splice<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        let (client, server) = (tunnel.client_side, tunnel.server_side);
        let open = |side: &Direction| !side.ended && !side.paused;
        if open(&client) && open(&server) && cx.net.splice(tunnel.client, tunnel.server) {
            tunnel.carrier = Carrier::Kernel;
            self.spliced.open(key);
            cx.core.counters().spliced.add(1);
            self.look_again(cx, key);
        }
    }

    /// The timer of a spliced tunnel: the next look, or the end of its idle time.
    fn look_again<N: Net>(&mut self, cx: &Cx<'_, N>, key: Key) {
        let Some(tunnel) = self.tunnels.get(key) else { return };
        let look = cx.net.now() + LOOK_MS;
        let at = match Self::idle_timeout(cx.core, tunnel) {
            0 => look,
            timeout => look.min(tunnel.active + timeout),
        };
        self.wheel.set(key.slot, at);
    }

    fn look<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let now = cx.net.now();
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        let look = self.spliced.look(cx, key, tunnel);
        let (client, idle) = (tunnel.client, Self::idle_timeout(cx.core, tunnel));
        match look {
            Look::Still | Look::Quiet if idle > 0 && now >= tunnel.active + idle => {
                return self.end_idle(cx, key);
            }
            Look::Quiet => cx.net.unsplice(client),
            Look::Moves | Look::Still => {}
        }
        self.look_again(cx, key);
    }

    fn on_unspliced<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, side: Side, bytes: u64, why: Unspliced) {
        let now = cx.net.now();
        let open = |tunnel: &&mut Tunnel| tunnel.phase == Phase::Open;
        let Some(tunnel) = self.tunnels.get_mut(key).filter(open) else { return };
        let back = self.spliced.close(cx, key, tunnel, side, bytes);
        // A tunnel counts once; that bytes were lost may show in its second direction.
        if back == 1 || why == Unspliced::Lost {
            splice::counter(cx.core.counters(), why).add(1);
        }
        if why == Unspliced::Lost {
            return self.close(cx, key, Close::Reset, Ending::SpliceLost);
        }
        if back < 2 {
            return;
        }
        (tunnel.carrier, tunnel.unsent) = (splice::carrier_after(why), 0);
        match Self::idle_timeout(cx.core, tunnel) {
            0 => self.wheel.cancel(key.slot),
            timeout => self.wheel.set(key.slot, (tunnel.active + timeout).max(now)),
        }
    }

    fn on_drained<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, side: Side) {
        let now = cx.net.now();
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        tunnel.active = now;
        if std::mem::take(&mut tunnel.side_mut(side.other()).paused) {
            cx.net.receive(tunnel.sock(side.other()));
        }
    }

    fn on_eof<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, side: Side) {
        let now = cx.net.now();
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        if tunnel.phase != Phase::Open {
            return tunnel.extra.iter_mut().for_each(|extra| extra.early_end = true);
        }
        tunnel.active = now;
        tunnel.side_mut(side).ended = true;
        if !tunnel.side(side.other()).ended {
            // The first to send FIN towards the server keeps the tuple in TIME_WAIT (RFC 9293, 3.6).
            if side == Side::Client {
                tunnel.release = Release::TimeWait;
            }
            return cx.net.finish(tunnel.sock(side.other()));
        }
        // The last FIN needs no call of its own when there is nothing left to send: close sends it.
        let quiet = |net: &N, tunnel: &Tunnel, side| net.unsent(tunnel.sock(side)) == 0;
        let first_left = tunnel.side(side).finished || quiet(cx.net, tunnel, side);
        if first_left && quiet(cx.net, tunnel, side.other()) {
            return self.end(cx, key);
        }
        cx.net.finish(tunnel.sock(side.other()));
    }

    fn on_finished<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, side: Side) {
        let Some(tunnel) = self.tunnels.get_mut(key).filter(|tunnel| tunnel.phase == Phase::Open) else {
            return;
        };
        tunnel.side_mut(side).finished = true;
        let (client, server) = (tunnel.client_side, tunnel.server_side);
        if client.ended && server.ended && client.finished && server.finished {
            self.end(cx, key);
        }
    }

    fn end<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        cx.core.counters().ended.add(1);
        self.close(cx, key, Close::Orderly, Ending::Ok);
    }

    fn on_failed<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, side: Side) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        match side {
            // Our FIN may be ahead of our reset, and if the server's meets it the kernel keeps the tuple, reset or not.
            Side::Client => {}
            Side::Server => tunnel.release = Release::Clean,
        }
        let (counter, ending) = match (side, tunnel.phase) {
            (Side::Server, _) => (&cx.core.counters().reset_by_server, Ending::ServerResetTunnel),
            (Side::Client, phase) => (&cx.core.counters().reset_by_client, left_in(phase)),
        };
        counter.add(1);
        self.close(cx, key, Close::Reset, ending);
    }

    // Clients go.

    fn abandon<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, refusal: Refusal) {
        cx.core.refused(refusal, cx.net.now());
        self.close(cx, key, Close::Reset, refusal.ending());
    }

    /// Gives up both sockets; the tunnel is removed when the engine has let go of them.
    fn close<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, how: Close, ending: Ending) {
        let Some(tunnel) = self.tunnels.get_mut(key).filter(|tunnel| tunnel.phase != Phase::Closing) else {
            return;
        };
        let before = std::mem::replace(&mut tunnel.phase, Phase::Closing);
        let unheard = tunnel.answerer().filter(|_| before == Phase::Connecting);
        if tunnel.carrier == Carrier::Kernel {
            self.spliced.count(cx, key, tunnel);
            self.spliced.drop(key);
        }
        if let Some(mut extra) = tunnel.extra.take() {
            extra.early.clear(cx.net);
            extra.log.inspect(|log| log.write(cx.core, ending, cx.net.micros()));
        }
        cx.net.close(tunnel.client, how);
        // A failed attempt's socket has been closed already.
        if before != Phase::Failing {
            cx.net.close(tunnel.server, how);
        }
        self.wheel.cancel(key.slot);
        self.leave_queue(cx.core, key);
        if let Some(who) = unheard {
            let now = cx.net.now();
            cx.core.report(who, Outcome::Shortage, 0, now);
        }
    }

    fn on_closed<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, side: Side) {
        let now = cx.net.now();
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        tunnel.side_mut(side).open = false;
        let pool = usize::from(tunnel.pool);
        if side == Side::Server {
            tunnel.server = Sock::NONE;
            let release = tunnel.release;
            let retrying = tunnel.phase == Phase::Failing;
            if let Some(Upstream { path, server, lease }) = tunnel.upstream.take() {
                cx.core.upstreams.give_back(pool, server, path, lease, release, now);
            }
            if retrying {
                self.retry(cx, key);
            } else {
                cx.core.freed(pool);
            }
        }
        self.remove_if_gone(cx.core, key);
    }

    fn remove_if_gone(&mut self, core: &Core, key: Key) {
        let gone = |tunnel: &&Tunnel| {
            tunnel.phase == Phase::Closing && !tunnel.client_side.open && !tunnel.server_side.open
        };
        if let Some(tunnel) = self.tunnels.get(key).filter(gone) {
            let listener = usize::from(tunnel.listener);
            self.tunnels.remove(key);
            core.dismiss(listener);
        }
    }

    // Time passes.

    fn on_due<N: Net>(&mut self, cx: &mut Cx<'_, N>, slot: u32) {
        let Some(key) = self.tunnels.key_at(slot) else { return };
        let Some(tunnel) = self.tunnels.get(key) else { return };
        match tunnel.phase {
            Phase::Waiting => {
                let pool = usize::from(tunnel.pool);
                let shortage = self.queues.get(pool).and_then(|queue| queue.shortage);
                self.abandon(cx, key, refusal_for(shortage));
            }
            Phase::Connecting => self.on_connect_failed(cx, key, Step::Connect, Errno::ETIMEDOUT),
            Phase::Open if tunnel.carrier == Carrier::Kernel => self.look(cx, key),
            Phase::Open => self.on_idle(cx, key),
            Phase::Failing | Phase::Closing => {}
        }
    }

    fn on_idle<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let now = cx.net.now();
        let Some(tunnel) = self.tunnels.get(key) else { return };
        let timeout = Self::idle_timeout(cx.core, tunnel);
        if tunnel.active + timeout > now {
            return self.wheel.set(key.slot, tunnel.active + timeout);
        }
        // A slow reader takes bytes without an event.
        let unsent = (cx.net.unsent(tunnel.client) + cx.net.unsent(tunnel.server)) as u32;
        if let Some(tunnel) = self.tunnels.get_mut(key).filter(|tunnel| tunnel.unsent != unsent) {
            (tunnel.unsent, tunnel.active) = (unsent, now);
            return self.wheel.set(key.slot, now + timeout);
        }
        self.end_idle(cx, key);
    }

    fn end_idle<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        // Nobody has ended: a FIN of ours would make half an answer look whole. A reset leaves no TIME_WAIT either.
        cx.core.counters().idle_timeout.add(1);
        self.close(cx, key, Close::Reset, Ending::TunnelIdleTimeout);
    }

    /// Tunnels that hold buffers.
    pub fn holders<N: Net>(&self, net: &mut N, holders: &mut Vec<Holder>) {
        let keys = (0..self.tunnels.slots()).filter_map(|slot| self.tunnels.key_at(slot));
        holders.extend(keys.filter_map(|key| {
            let tunnel = self.tunnels.get(key).filter(|tunnel| tunnel.phase == Phase::Open)?;
            let (unsent, emptied) = unsent_of(net, &[tunnel.client, tunnel.server]);
            let whose = Whose::Tunnel(key);
            (unsent > 0).then_some(Holder { whose, unsent, emptied, kept: 0, head_since: None })
        }));
    }

    /// Places that [`row`](Self::row) knows.
    pub fn places(&self) -> u32 {
        self.tunnels.slots()
    }

    /// Who is there, for whoever asks.
    pub fn row<N: Net>(&self, cx: &mut Cx<'_, N>, place: u32) -> Option<Row> {
        let tunnel = self.tunnels.get(self.tunnels.key_at(place)?)?;
        let upstream = match &tunnel.upstream {
            Some(Upstream { path, lease, .. }) => roster::upstream(cx.core, tunnel.pool, *path, lease),
            None => roster::nowhere(tunnel.pool),
        };
        let state = match tunnel.phase {
            Phase::Waiting => State::Waiting,
            Phase::Connecting | Phase::Failing => State::Connecting,
            Phase::Open => State::Open,
            Phase::Closing => State::Closing,
        };
        Some(Row {
            listener: usize::from(tunnel.listener),
            state,
            client: roster::peer(cx, tunnel.client),
            upstream: Some(upstream),
            quiet_ms: Some(cx.net.now().saturating_sub(tunnel.active)),
            requests: None,
        })
    }

    /// Resets a slow one.
    pub fn shed<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        self.close(cx, key, Close::Reset, Ending::Shed);
    }

    /// Resets whatever is left.
    pub fn cut<N: Net>(&mut self, cx: &mut Cx<'_, N>) {
        for slot in 0..self.tunnels.slots() {
            let Some(key) = self.tunnels.key_at(slot) else { continue };
            if self.tunnels.get(key).is_none_or(|tunnel| tunnel.phase == Phase::Closing) {
                continue;
            }
            cx.core.counters().drain_cut.add(1);
            self.close(cx, key, Close::Reset, Ending::Drained);
            self.remove_if_gone(cx.core, key);
        }
    }
}

/// What a tunnel has to remember of its client.
fn extra<N: Net>(
    cx: &mut Cx<'_, N>,
    listener: u16,
    pool: u16,
    client: Sock,
    caller: &mut Caller,
) -> Option<Extra> {
    let plan = cx.core.shared.plan.pools.get(usize::from(pool));
    let told = plan.is_some_and(|pool| pool.proxy_protocol.is_some());
    let keyed = plan.is_some_and(|pool| pool.balance.is_keyed());
    let key = keyed.then(|| address_key(caller.address.ip()));
    let addresses =
        if told { cx.addresses(listener, client, caller.address, caller.destination) } else { None };
    let read = caller.read.take();
    if read.is_some() {
        cx.net.pause(client);
    }
    let entry = || Line::Connection(Box::new(Entry::new(listener, pool, caller.address, cx.net.micros())));
    let log = cx.core.logs.has(listener).then(entry);
    let extra = told || keyed || read.is_some() || log.is_some();
    let early = read.unwrap_or_default();
    extra.then_some(Extra { addresses, key, early: early.bytes, early_end: early.ended, log })
}

/// What a client that breaks its connection now does that in.
fn left_in(phase: Phase) -> Ending {
    match phase {
        Phase::Waiting => Ending::ClientGoneQueue,
        Phase::Connecting | Phase::Failing => Ending::ClientGoneConnect,
        Phase::Open | Phase::Closing => Ending::ClientGoneTunnel,
    }
}

fn refusal_for(shortage: Option<Shortage>) -> Refusal {
    match shortage {
        Some(Shortage::Tuples) => Refusal::Tuples,
        Some(Shortage::Local) => Refusal::Local,
        Some(Shortage::Breaker) => Refusal::Breaker,
        Some(Shortage::Servers) | None => Refusal::NoServer,
    }
}

/// Driven by its shard.
impl Tcp {
    pub fn on_event<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, side: Side, event: Event) {
        match event {
            Event::Accepted { .. } | Event::AcceptFailed { .. } => {}
            Event::Connected { .. } => self.on_connected(cx, key),
            Event::ConnectFailed { step, errno, .. } => self.on_connect_failed(cx, key, step, errno),
            Event::Received { buf, .. } => self.on_received(cx, key, side, buf),
            Event::Drained { .. } => self.on_drained(cx, key, side),
            Event::Unspliced { bytes, why, .. } => self.on_unspliced(cx, key, side, bytes, why),
            Event::Eof { .. } => self.on_eof(cx, key, side),
            Event::Finished { .. } => self.on_finished(cx, key, side),
            Event::Failed { .. } => self.on_failed(cx, key, side),
            Event::Closed { .. } => self.on_closed(cx, key, side),
        }
    }

    pub fn on_turn<N: Net>(&mut self, cx: &mut Cx<'_, N>) {
        let now = cx.net.now();
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(now, &mut due);
        for slot in due.drain(..) {
            self.on_due(cx, slot);
        }
        self.due = due;
        for pool in 0..self.queues.len() {
            if self.queues.get(pool).is_some_and(|queue| queue.retry_at.is_some_and(|at| at <= now)) {
                if let Some(queue) = self.queues.get_mut(pool) {
                    queue.retry_at = (queue.live > 0).then_some(now + RETRY_MS);
                }
                self.pump(cx, pool);
            }
        }
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        let queues =
            self.queues.iter().filter(|queue| queue.live > 0).filter_map(|queue| queue.retry_at).min();
        [self.wheel.poll_timeout(), queues].into_iter().flatten().min()
    }
}
