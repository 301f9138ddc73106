//! One shard of the proxy: accepts, admits, drains, and hands each socket's events to the feature that owns it.
//!
//! The engine drives it with events, the control plane with [`Mail`].

use crate::check::Checks;
use crate::core::{Core, Cx};
use crate::http::{Http, Way};
use crate::owner::{self, Tag};
use crate::preface::{Caller, Prefaces, Ready};
use crate::reason::Refusal;
use crate::roster::{self, Inquiry};
use crate::shared::{Mail, Shared};
use crate::shed::{Shedder, Whose};
use crate::tcp::Tcp;
use crate::tunnel::Side;
use fourfold_base::Millis;
use fourfold_config::Mode;
use fourfold_engine::{App, Close, Errno, Event, Handler, ListenerId, Net, NetStats, Sock};
use std::net::SocketAddr;
use std::sync::Arc;

/// A listener that could not accept for want of descriptors or memory tries again after this.
const ACCEPT_RETRY_MS: Millis = 100;
/// Turns that a drain goes on accepting what the kernel has accepted already, if there is no end to it.
const DRAIN_ACCEPT_TURNS: u32 = 64;
/// Quarantined tuples are looked at this often, so that the headroom shown is true.
const HEADROOM_MS: Millis = 1_000;

pub struct Proxy {
    core: Core,
    prefaces: Prefaces,
    tcp: Tcp,
    http: Http,
    checks: Checks,
    accept_retry_at: Option<Millis>,
    headroom_at: Millis,
    drain: Option<Drain>,
    buffer_shortages: u64,
    long_turns: u64,
    shedder: Shedder,
}

struct Drain {
    deadline: Millis,
    /// Turns in which clients that the kernel had accepted are still taken in.
    accepting: u32,
    accepted: bool,
    /// What was left at the deadline has been reset.
    cut: bool,
}

impl Proxy {
    pub fn new(shared: Arc<Shared>, shard: usize, now: Millis) -> Self {
        let core = Core::new(shared, shard);
        Self {
            prefaces: Prefaces::new(&core.shared, now),
            tcp: Tcp::new(&core.shared, now),
            http: Http::new(&core.shared, shard, now),
            checks: Checks::new(&core, now),
            core,
            accept_retry_at: None,
            headroom_at: now,
            drain: None,
            buffer_shortages: 0,
            long_turns: 0,
            shedder: Shedder::default(),
        }
    }

    /// Connections that this shard has at present.
    pub fn len(&self) -> usize {
        self.prefaces.len() + self.tcp.len() + self.http.len()
    }
    pub fn is_empty(&self) -> bool {
        self.prefaces.is_empty() && self.tcp.is_empty() && self.http.is_empty() && self.checks.is_idle()
    }
    /// Clients in queues at present.
    pub fn waiting(&self) -> usize {
        self.tcp.waiting() + self.http.waiting()
    }

    fn on_accepted<N: Net>(
        &mut self,
        net: &mut N,
        listener: ListenerId,
        client: Sock,
        peer: Option<SocketAddr>,
    ) {
        self.core.counters().accepted.add(1);
        if let Some(drain) = &mut self.drain {
            drain.accepted = true;
        }
        let shared = Arc::clone(&self.core.shared);
        let index = shared.plan.listener_of(listener.0 as usize);
        let Some((index, plan)) = index.and_then(|index| Some((index, shared.plan.listeners.get(index)?)))
        else {
            return net.close(client, Close::Reset);
        };
        if let Err(refusal) = self.core.admit(index) {
            net.close(client, Close::Reset);
            return self.core.refused(refusal, net.now());
        }
        // It may have left already.
        let Some(peer) = peer.or_else(|| net.peer_address(client).ok()) else {
            self.core.dismiss(index);
            return net.close(client, Close::Reset);
        };
        if plan.proxy_protocol.as_ref().is_none_or(|rules| !rules.trust.contains(peer.ip())) {
            return self.enter(net, index as u16, client, Caller::at(peer));
        }
        let cx = &mut Cx { net, core: &mut self.core };
        if !self.prefaces.accept(cx, index as u16, client, peer) {
            self.turn_away(net, index as u16, client, Refusal::ShardFull);
        }
    }

    /// Hands a client whose address is known to its listener's feature.
    fn enter<N: Net>(&mut self, net: &mut N, listener: u16, sock: Sock, mut caller: Caller) {
        let shared = Arc::clone(&self.core.shared);
        let index = usize::from(listener);
        let (Some(plan), Some(rates)) = (shared.plan.listeners.get(index), shared.rates.get(index)) else {
            caller.clear(net);
            return net.close(sock, Close::Reset);
        };
        if rates.connections.take(caller.address.ip(), |_| None, net.micros()).is_err() {
            caller.clear(net);
            return self.turn_away(net, listener, sock, Refusal::ConnectionRate);
        }
        let cx = &mut Cx { net: &mut *net, core: &mut self.core };
        let taken = match (plan.mode, plan.pool) {
            (Mode::Tcp, Some(pool)) => self.tcp.accept(cx, listener, pool as u16, sock, &mut caller),
            (Mode::Tcp, None) => false,
            (Mode::Http, _) => self.http.accept(cx, listener, sock, &mut caller),
        };
        if !taken {
            caller.clear(net);
            self.turn_away(net, listener, sock, Refusal::ShardFull);
        }
    }

    fn turn_away<N: Net>(&mut self, net: &mut N, listener: u16, sock: Sock, refusal: Refusal) {
        self.core.dismiss(usize::from(listener));
        net.close(sock, Close::Reset);
        self.core.refused(refusal, net.now());
    }

    fn enter_ready<N: Net>(&mut self, net: &mut N) {
        while let Some(Ready { listener, sock, caller }) = self.prefaces.poll_ready() {
            self.enter(net, listener, sock, caller);
        }
    }

    fn on_accept_failed<N: Net>(&mut self, net: &mut N, errno: Errno) {
        let counters = self.core.counters();
        let counter =
            if errno.is_local_shortage() { &counters.accept_descriptors } else { &counters.accept_errors };
        counter.add(1);
        self.accept_retry_at.get_or_insert(net.now() + ACCEPT_RETRY_MS);
        self.core.notice(&self.core.shared.notices.accepting, net.now(), || {
            format!("accepting has stopped for {ACCEPT_RETRY_MS} ms: {errno}; raise the descriptor limit (ulimit -n) or lower max_connections")
        });
    }

    // What comes free finds who waits.

    fn relieve_all<N: Net>(&mut self, net: &mut N) {
        while let Some(pool) = self.core.freed.pop() {
            self.relieve(net, pool);
        }
    }

    /// This shard's own clients first, then others'.
    fn relieve<N: Net>(&mut self, net: &mut N, pool: usize) {
        let before = self.queued(pool);
        self.pump(net, pool);
        if self.queued(pool) == before && self.core.is_awaited(pool) {
            self.core.shared.wake_another(pool, self.core.shard);
        }
    }

    /// Another shard has no use for what came free. Passed on only by a shard that nobody waits at: if two with clients
    /// passed it on, and it did not help either, they would wake each other for ever.
    fn woken<N: Net>(&mut self, net: &mut N, pool: usize) {
        match self.queued(pool) {
            0 => self.core.shared.wake_another(pool, self.core.shard),
            _ => self.pump(net, pool),
        }
    }

    fn queued(&self, pool: usize) -> usize {
        self.tcp.queued(pool) + self.http.queued(pool)
    }

    fn pump<N: Net>(&mut self, net: &mut N, pool: usize) {
        let cx = &mut Cx { net, core: &mut self.core };
        self.tcp.pump(cx, pool);
        self.http.pump(cx, pool);
    }

    fn count_stats(&mut self, stats: &NetStats) {
        let counters = self.core.counters();
        counters.buffer_shortages.add(stats.buffer_shortages - self.buffer_shortages);
        counters.long_turns.add(stats.long_turns - self.long_turns);
        (self.buffer_shortages, self.long_turns) = (stats.buffer_shortages, stats.long_turns);
    }

    // Buffers run out.

    fn shed<N: Net>(&mut self, net: &mut N) {
        let now = net.now();
        if let Some(excess) = self.shedder.handle_timeout(net) {
            let mut holders = Vec::new();
            self.tcp.holders(net, &mut holders);
            self.http.holders(net, &mut holders);
            self.shedder.choose(holders, excess, now);
        }
        let (chosen, buffers) = self.shedder.poll_chosen();
        let count = chosen.len();
        let cx = &mut Cx { net, core: &mut self.core };
        for whose in chosen {
            match whose {
                Whose::Tunnel(key) => self.tcp.shed(cx, key),
                Whose::Client(key) => self.http.shed(cx, key),
            }
        }
        if count > 0 {
            self.core.counters().shed.add(count as u64);
            self.core.notice(&self.core.shared.notices.shed, now, || {
                format!("buffers are nearly used up: {count} slow clients that held {buffers} of them were reset; raise buffer_memory or lower max_connections")
            });
        }
    }

    // A stop.

    fn drain<N: Net>(&mut self, net: &mut N, deadline: Millis) {
        self.core.draining = true;
        match &mut self.drain {
            Some(drain) => drain.deadline = drain.deadline.min(deadline),
            None => {
                self.drain =
                    Some(Drain { deadline, accepting: DRAIN_ACCEPT_TURNS, accepted: true, cut: false })
            }
        }
        let cx = &mut Cx { net: &mut *net, core: &mut self.core };
        self.checks.stop(cx);
        self.http.drain(cx);
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
        let cx = &mut Cx { net, core: &mut self.core };
        self.prefaces.cut(cx);
        self.tcp.cut(cx);
        self.http.cut(cx);
    }
}

impl<N: Net> Handler<N> for Proxy {
    fn on_event(&mut self, net: &mut N, event: Event) {
        match event {
            Event::Accepted { listener, sock, peer } => self.on_accepted(net, listener, sock, peer),
            Event::AcceptFailed { errno, .. } => self.on_accept_failed(net, errno),
            event => {
                let cx = &mut Cx { net: &mut *net, core: &mut self.core };
                match owner::of(&event) {
                    Some((key, Tag::TunnelClient)) => self.tcp.on_event(cx, key, Side::Client, event),
                    Some((key, Tag::TunnelServer)) => self.tcp.on_event(cx, key, Side::Server, event),
                    Some((key, Tag::HttpClient)) => self.http.on_client(cx, key, event),
                    Some((key, Tag::HttpUpstream)) => self.http.on_upstream(cx, &mut self.tcp, key, event),
                    Some((key, Tag::Check)) => self.checks.on_event(cx, key, event),
                    Some((key, Tag::Preface)) => {
                        self.prefaces.on_event(cx, key, event);
                        self.enter_ready(net);
                    }
                    None => drop_event(net, event),
                }
            }
        }
        self.relieve_all(net);
    }
}

/// Nobody's: what it carries goes back.
fn drop_event<N: Net>(net: &mut N, event: Event) {
    if let Event::Received { buf, .. } = event {
        net.free(buf);
    }
}

impl<N: Net> App<N> for Proxy {
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
                self.core.upstreams.refresh(pool, server);
                self.checks.refresh(&mut Cx { net: &mut *net, core: &mut self.core }, pool, server);
                self.pump(net, pool);
            }
            Mail::Up { pool, server, since } => {
                self.core.upstreams.came_up(pool, server, since);
                self.pump(net, pool);
            }
            Mail::Avoid { pool, server, source, until } => {
                self.core.upstreams.avoid(pool, server, source, until);
                let cx = &mut Cx { net: &mut *net, core: &mut self.core };
                if until > 0 {
                    self.http.give_up(cx, pool, Way { server, source: Some(source) });
                }
            }
            Mail::Down { pool, server } => {
                let cx = &mut Cx { net: &mut *net, core: &mut self.core };
                self.http.give_up(cx, pool, Way { server: Some(server), source: None });
            }
            Mail::Reclaim { pool } => {
                let cx = &mut Cx { net: &mut *net, core: &mut self.core };
                self.http.reclaim(cx, pool);
            }
            // on_turn follows.
            Mail::Look => {}
            Mail::Drain { deadline } => self.drain(net, deadline),
            Mail::Trim => net.trim(),
            Mail::Roster(Inquiry { place, rows_max, reply }) => {
                let cx = &mut Cx { net: &mut *net, core: &mut self.core };
                // Whoever asked may have given up.
                let _ = reply.try_send(roster::page(cx, &self.tcp, &self.http, place, rows_max));
            }
        }
        self.relieve_all(net);
    }

    fn on_turn(&mut self, net: &mut N) {
        let now = net.now();
        self.core.on_health_turn(now);
        let cx = &mut Cx { net, core: &mut self.core };
        self.prefaces.on_turn(cx);
        self.tcp.on_turn(cx);
        self.http.on_turn(cx);
        self.checks.on_turn(cx);
        self.enter_ready(net);
        if self.accept_retry_at.is_some_and(|at| at <= now) {
            self.accept_retry_at = None;
            if self.drain.is_none() {
                (0..net.listeners()).for_each(|listener| net.accept(ListenerId(listener as u32)));
            }
        }
        if now >= self.headroom_at + HEADROOM_MS {
            self.headroom_at = now;
            self.core.upstreams.handle_timeout(now);
        }
        self.count_stats(&net.stats());
        let dropped = self.core.logs.flush();
        self.core.counters().log_dropped.add(dropped);
        self.shed(net);
        self.on_drain_turn(net);
        self.relieve_all(net);
    }

    fn poll_timeout(&self) -> Option<Millis> {
        let drain = self.drain.as_ref().and_then(|drain| match drain.accepting {
            0 => (!drain.cut).then_some(drain.deadline),
            _ => Some(0),
        });
        let features = [
            self.prefaces.poll_timeout(),
            self.tcp.poll_timeout(),
            self.http.poll_timeout(),
            self.checks.poll_timeout(),
        ];
        let own = [self.accept_retry_at, self.shedder.poll_timeout(), self.core.health_due(), drain];
        features.into_iter().chain(own).flatten().min()
    }

    fn is_finished(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.accepting == 0) && self.is_empty()
    }
}
