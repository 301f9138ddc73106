//! HTTP/1.1 exchanges of one shard: clients that stay, requests that come and go, and connections to servers that all clients
//! share.
//!
//! | module | owns |
//! |---|---|
//! | `state` | what is kept, and the state machines |
//! | `client` | the client's side: heads, content, time-outs, the end |
//! | `exchange` | a request's way: server, queue, retry, answer |
//! | `upstream` | connections to servers, warm ones |
//! | `care` | connections made ahead, and given up |
//! | `pinned` | connections that are one client's, for servers that want to know who it is |
//! | `respond` | the server's side: response heads, content, upgrades |
//! | `mirror` | copies of requests for another pool |
//! | `place` | a request's place at a server, and what the server is judged by |
//! | `key` | hash keys and sticky cookies (pure) |
//! | `log` | what is said of a request at its end |
//! | `roster` | which clients there are, for whoever asks |
//! | `shed` | who goes when buffers are short |
//! | `head`, `reply` | heads written anew, answers of our own (pure) |
//!
//! Refuses whatever has two interpretations, with an answer and a count. Its shard drives it with events.

mod care;
mod client;
mod exchange;
mod head;
mod judge;
mod key;
mod log;
mod mirror;
mod pinned;
mod place;
mod reply;
mod respond;
mod roster;
mod shed;
mod state;
mod upstream;

pub(crate) use care::Way;

use crate::core::Cx;
use crate::shared::Shared;
use crate::tcp::Tcp;
use crate::wait::{RETRY_MS, WaitQueue};
use fourfold_balance::retry::RetryBudget;
use fourfold_base::Millis;
use fourfold_base::prng::Prng;
use fourfold_base::slab::{Key, Slab};
use fourfold_base::wheel::Wheel;
use fourfold_config::http::Http as Settings;
use fourfold_engine::{Event, Net};
use fourfold_http::h1;
pub(crate) use log::Entry;
use log::Facts;
use state::{Client, Conn, Exchange};
use std::collections::HashMap;
use std::sync::Arc;
use upstream::Idle;

pub(crate) struct Http {
    clients: Slab<Client>,
    exchanges: Slab<Exchange>,
    conns: Slab<Conn>,
    client_timers: Wheel,
    exchange_timers: Wheel,
    conn_timers: Wheel,
    due: Vec<u32>,
    queues: Vec<WaitQueue>,
    idle: Idle,
    /// Copies of requests on their way.
    shadows: usize,
    /// When warm connections are to be counted again.
    care_at: Option<Millis>,
    /// Per pool.
    budgets: Vec<RetryBudget>,
    /// By client: the idle connection that nobody else may use.
    pinned: HashMap<Key, Key>,
    /// Per listener; copies of this shard's own, so that their counts are nobody else's.
    settings: Vec<Option<Arc<Settings>>>,
    request: h1::Request,
    response: h1::Response,
    path: Vec<u8>,
    /// What the log will say of the request whose head was just read.
    heard: Option<Facts>,
    out: Vec<u8>,
    /// Buffers of finished exchanges, for the next.
    spare: Vec<Vec<u8>>,
    random: Prng,
}

/// Spare buffers kept, and how large each may be.
const SPARE_MAX: usize = 64;
const SPARE_BYTES_MAX: usize = 4096;

impl Http {
    pub fn new(shared: &Shared, shard: usize, now: Millis) -> Self {
        let settings = shared.plan.listeners.iter();
        let pools = shared.plan.pools.iter();
        Self {
            clients: Slab::new(shared.connections_per_shard),
            exchanges: Slab::new(shared.connections_per_shard + mirror::SHADOWS_MAX),
            conns: Slab::new(shared.connections_per_shard),
            client_timers: Wheel::new(now),
            exchange_timers: Wheel::new(now),
            conn_timers: Wheel::new(now),
            due: Vec::new(),
            queues: shared.pools.iter().map(|_| WaitQueue::default()).collect(),
            idle: Idle::new(shared),
            shadows: 0,
            care_at: Self::preconnects(shared).then_some(now),
            budgets: pools.map(|pool| RetryBudget::new(pool.http.retry_budget, now)).collect(),
            pinned: HashMap::new(),
            settings: settings.map(|one| one.http.as_deref().map(|http| Arc::new(http.clone()))).collect(),
            request: h1::Request::default(),
            response: h1::Response::default(),
            path: Vec::new(),
            heard: None,
            out: Vec::new(),
            spare: Vec::new(),
            random: Prng::new(shared.machine.seed ^ (shard as u64) << 48),
        }
    }

    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// No client, and no connection to a server.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.conns.is_empty()
    }

    pub fn waiting(&self) -> usize {
        self.queues.iter().map(|queue| queue.live).sum()
    }

    pub fn queued(&self, pool: usize) -> usize {
        self.queues.get(pool).map_or(0, |queue| queue.live)
    }

    fn settings(&self, listener: u16) -> Option<Arc<Settings>> {
        self.settings.get(usize::from(listener)).cloned().flatten()
    }

    fn give_spare(&mut self, mut spare: Vec<u8>) {
        if self.spare.len() < SPARE_MAX && (1..=SPARE_BYTES_MAX).contains(&spare.capacity()) {
            spare.clear();
            self.spare.push(spare);
        }
    }
}

/// Driven by its shard.
impl Http {
    pub fn on_client<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, event: Event) {
        match event {
            Event::Received { buf, .. } => self.on_client_received(cx, key, buf),
            Event::Eof { .. } => self.on_client_eof(cx, key),
            Event::Failed { .. } => self.on_client_failed(cx, key),
            Event::Finished { .. } => self.on_client_finished(cx, key),
            Event::Drained { .. } => self.on_client_drained(cx, key),
            // Tunnels only.
            Event::Unspliced { .. } => {}
            Event::Closed { .. } => self.on_client_closed(cx, key),
            Event::Accepted { .. }
            | Event::AcceptFailed { .. }
            | Event::Connected { .. }
            | Event::ConnectFailed { .. } => {}
        }
    }

    pub fn on_upstream<N: Net>(&mut self, cx: &mut Cx<'_, N>, tcp: &mut Tcp, key: Key, event: Event) {
        match event {
            Event::Connected { .. } => self.on_connected(cx, key),
            Event::ConnectFailed { step, errno, .. } => self.on_connect_failed(cx, key, step, errno),
            Event::Received { buf, .. } => self.on_server_received(cx, tcp, key, buf),
            Event::Eof { .. } => self.on_server_eof(cx, key),
            Event::Failed { errno, .. } => self.on_server_failed(cx, key, errno),
            Event::Drained { .. } => self.on_server_drained(cx, key),
            Event::Unspliced { .. } => {}
            Event::Closed { .. } => self.on_server_closed(cx, key),
            Event::Accepted { .. } | Event::AcceptFailed { .. } | Event::Finished { .. } => {}
        }
    }

    pub fn on_turn<N: Net>(&mut self, cx: &mut Cx<'_, N>) {
        let now = cx.net.now();
        let mut due = std::mem::take(&mut self.due);
        self.client_timers.expire(now, &mut due);
        due.drain(..).for_each(|slot| self.on_client_due(cx, slot));
        self.exchange_timers.expire(now, &mut due);
        due.drain(..).for_each(|slot| self.on_exchange_due(cx, slot));
        self.conn_timers.expire(now, &mut due);
        due.drain(..).for_each(|slot| self.on_conn_due(cx, slot));
        self.due = due;
        for pool in 0..self.queues.len() {
            if self.queues.get(pool).is_some_and(|queue| queue.retry_at.is_some_and(|at| at <= now)) {
                if let Some(queue) = self.queues.get_mut(pool) {
                    queue.retry_at = (queue.live > 0).then_some(now + RETRY_MS);
                }
                self.pump(cx, pool);
                if self.queued(pool) > 0 {
                    cx.core.ask_for_idle(pool);
                }
            }
        }
        self.on_care_turn(cx);
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        let queues =
            self.queues.iter().filter(|queue| queue.live > 0).filter_map(|queue| queue.retry_at).min();
        let wheels = [&self.client_timers, &self.exchange_timers, &self.conn_timers];
        wheels.into_iter().filter_map(Wheel::poll_timeout).chain(queues).chain(self.care_at).min()
    }
}
