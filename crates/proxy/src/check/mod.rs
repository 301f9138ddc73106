//! Active checks: servers are asked whether they are well, from every source, over connections like any other.
//!
//! ```text
//! waiting ──due──▶ connecting ──▶ asked (http) ──▶ closing ──gone──▶ waiting
//!                      │ failed, too late │             ▲
//!                      └──────────────────┴─────────────┘
//! ```
//! Owns: this shard's part of the paths (source and server) that are checked, each by one shard; when the next question is
//! due, its connection and its lease. Refuses: to hold against a server what this machine is short of, and to ask from more
//! than [`SOURCES_MAX`] sources each: of more, every question goes out from the next one.
//! Driven by its shard, with events and time. What answers amount to is kept in [`PoolHealth`](crate::PoolHealth).

mod question;

use crate::core::{Core, Cx};
use crate::owner::{Tag, owner};
use crate::shared::Shared;
use crate::upstream::{Blame, blame};
use fourfold_balance::health::{Action, Check, Outcome, Standing};
use fourfold_balance::server_id;
use fourfold_base::Millis;
use fourfold_base::slab::{Key, Slab};
use fourfold_base::wheel::Wheel;
use fourfold_config::pool::ActiveCheck;
use fourfold_engine::{Buf, Close, Errno, Event, Net, Refused, Sock, Step};
use fourfold_ports::{Lease, Release};
use question::{Reading, read, write};
use std::net::SocketAddr;

/// Up to so many sources are each checked towards every server.
pub(crate) const SOURCES_MAX: u128 = 16;
/// Paths that one shard checks.
const PATHS_MAX: usize = 1 << 16;

pub(crate) struct Checks {
    paths: Slab<Path>,
    wheel: Wheel,
    due: Vec<u32>,
    stopped: bool,
}

struct Path {
    place: Place,
    check: Check,
    probe: Option<Probe>,
    /// The server has another address: gone as soon as its connection is.
    outdated: bool,
}

/// Which path of which server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub pool: usize,
    pub server: usize,
    pub address: SocketAddr,
    /// The source's number; `None`: whichever is next.
    pub source: Option<u64>,
}

struct Probe {
    sock: Sock,
    path: u32,
    lease: Lease,
    release: Release,
    /// What has come of the answer.
    answer: Vec<u8>,
    closing: bool,
}

impl Checks {
    pub fn new(core: &Core, now: Millis) -> Self {
        let mut checks =
            Self { paths: Slab::new(PATHS_MAX), wheel: Wheel::new(now), due: Vec::new(), stopped: false };
        for (pool, plan) in core.shared.plan.pools.iter().enumerate() {
            for server in 0..plan.servers.len() {
                checks.add(core, pool, server, now);
            }
        }
        checks
    }

    /// Connections that are not gone yet.
    pub fn is_idle(&self) -> bool {
        let busy = |key| self.paths.get(key).is_some_and(|path| path.probe.is_some());
        !(0..self.paths.slots()).filter_map(|slot| self.paths.key_at(slot)).any(busy)
    }

    /// A server's address may have changed.
    pub fn refresh<N: Net>(&mut self, cx: &mut Cx<'_, N>, pool: usize, server: usize) {
        if self.stopped {
            return;
        }
        let now = cx.net.now();
        let target = cx.core.shared.server(pool, server).and_then(|state| state.target());
        let address = target.map(|target| target.address);
        let mut known = false;
        for slot in 0..self.paths.slots() {
            let Some(key) = self.paths.key_at(slot) else { continue };
            let Some(path) = self.paths.get_mut(key) else { continue };
            if (path.place.pool, path.place.server) != (pool, server) || path.outdated {
                continue;
            }
            match Some(path.place.address) == address {
                true => known = true,
                false => self.retire(cx, key),
            }
        }
        if !known {
            self.add(cx.core, pool, server, now);
        }
    }

    /// This shard's part of a server's paths.
    fn add(&mut self, core: &Core, pool: usize, server: usize, now: Millis) {
        let Some(plan) = core.shared.plan.pools.get(pool) else { return };
        let Some(check) = &plan.health.active else { return };
        let Some(target) = core.shared.server(pool, server).and_then(|state| state.target()) else { return };
        let shards = core.shared.shards.len().max(1);
        for (number, source) in sources(target.space.sources().len()).enumerate() {
            if (pool + server + number) % shards != core.shard {
                continue;
            }
            let place = Place { pool, server, address: target.address, source };
            let seed = server_id(&target.address.to_string()) ^ (number as u64) << 32 ^ pool as u64;
            let path =
                Path { place, check: Check::new(check.rules, seed, now), probe: None, outdated: false };
            let due = path.check.poll_timeout();
            if let Ok(key) = self.paths.insert(path) {
                self.wheel.set(key.slot, due);
            }
        }
    }

    fn retire<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        self.wheel.cancel(key.slot);
        let Some(path) = self.paths.get_mut(key) else { return };
        path.outdated = true;
        if path.probe.is_none() {
            self.paths.remove(key);
        } else {
            self.close(cx, key);
        }
    }

    /// No more questions; what is under way is given up.
    pub fn stop<N: Net>(&mut self, cx: &mut Cx<'_, N>) {
        self.stopped = true;
        for slot in 0..self.paths.slots() {
            if let Some(key) = self.paths.key_at(slot) {
                self.retire(cx, key);
            }
        }
    }

    fn on_due<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let now = cx.net.now();
        let Some(path) = self.paths.get_mut(key) else { return };
        // The last connection has not gone yet.
        if path.probe.as_ref().is_some_and(|probe| probe.closing) {
            return self.wheel.set(key.slot, now + 1);
        }
        match path.check.handle_timeout(now) {
            Some(Action::Probe) => self.ask(cx, key),
            Some(Action::GiveUp { changed }) => {
                let timeout =
                    active(&cx.core.shared, path.place.pool).map_or(0, |check| check.rules.timeout_ms);
                self.settled(
                    cx,
                    key,
                    changed,
                    Outcome::Unreachable,
                    &format!("no answer within {timeout} ms"),
                );
            }
            None => {}
        }
        self.rearm(key);
    }

    fn rearm(&mut self, key: Key) {
        if let Some(path) = self.paths.get(key).filter(|path| !path.outdated) {
            self.wheel.set(key.slot, path.check.poll_timeout());
        }
    }

    fn ask<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let now = cx.net.now();
        let Some(place) = self.paths.get(key).map(|path| path.place) else { return };
        let Some(way) = cx.core.upstreams.check_way(&place, now) else {
            cx.core.counters().checks_skipped.add(1);
            return self.result(cx, key, Outcome::Shortage, "no four-tuple");
        };
        let (path, lease, local) = way;
        match cx.net.connect(&place.address, local, owner(key, Tag::Check)) {
            Ok(sock) => {
                cx.core.counters().checks.add(1);
                let (answer, closing, release) = (Vec::new(), false, Release::Clean);
                if let Some(own) = self.paths.get_mut(key) {
                    own.probe = Some(Probe { sock, path, lease, release, answer, closing });
                }
            }
            Err(Refused { step, errno }) => {
                let blame = blame(step, errno);
                cx.core.upstreams.give_lease_back(path, lease, blame.release(), now);
                self.failed(cx, key, blame, errno);
            }
        }
    }

    fn failed<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, blame: Blame, errno: Errno) {
        if blame == Blame::Server {
            return self.result(cx, key, Outcome::Unreachable, &format!("cannot connect: {errno}"));
        }
        cx.core.counters().checks_skipped.add(1);
        self.result(cx, key, Outcome::Shortage, "a shortage of this machine");
    }

    fn result<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, outcome: Outcome, why: &str) {
        let now = cx.net.now();
        let Some(path) = self.paths.get_mut(key) else { return };
        let changed = path.check.handle_result(now, outcome);
        self.settled(cx, key, changed, outcome, why);
        self.rearm(key);
    }

    /// A question has its answer, or will have none.
    fn settled<N: Net>(
        &mut self,
        cx: &mut Cx<'_, N>,
        key: Key,
        changed: Option<Standing>,
        outcome: Outcome,
        why: &str,
    ) {
        let now = cx.net.now();
        self.close(cx, key);
        let Some(path) = self.paths.get(key) else { return };
        if !matches!(outcome, Outcome::Success | Outcome::Shortage) {
            cx.core.counters().checks_failed.add(1);
        }
        let place = path.place;
        match changed {
            Some(standing) => cx.core.checked(&place, standing, why, now),
            None if path.check.standing() == Standing::Down => cx.core.still_failing(&place, now),
            None => {}
        }
    }

    fn close<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let Some(probe) = self.paths.get_mut(key).and_then(|path| path.probe.as_mut()) else { return };
        if !std::mem::replace(&mut probe.closing, true) {
            // Leaves no TIME_WAIT, and nobody needs what may still come.
            cx.net.close(probe.sock, Close::Reset);
        }
    }

    // The connection's events.

    fn on_connected<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let Some(path) = self.paths.get(key) else { return };
        let Some(probe) = path.probe.as_ref().filter(|probe| !probe.closing) else { return };
        let (sock, place) = (probe.sock, path.place);
        let Some(check) = active(&cx.core.shared, place.pool) else { return };
        let Some(request) = &check.request else {
            return self.result(cx, key, Outcome::Success, "connections come about");
        };
        let proxy = cx.core.shared.plan.pools.get(place.pool).and_then(|pool| pool.proxy_protocol);
        let mut bytes = Vec::new();
        write(request, place.address, proxy, &mut bytes);
        let Some(buf) = cx.net.write(bytes.get(..fourfold_engine::BUFFER_BYTES).unwrap_or(&bytes)) else {
            return self.result(cx, key, Outcome::Shortage, "no buffer");
        };
        let _ = cx.net.send(sock, buf);
        cx.net.receive(sock);
    }

    fn on_connect_failed<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, step: Step, errno: Errno) {
        let Some(probe) = self.paths.get_mut(key).and_then(|path| path.probe.as_mut()) else { return };
        let blame = blame(step, errno);
        probe.release = blame.release();
        self.failed(cx, key, blame, errno);
    }

    fn on_received<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, buf: Buf) {
        let Some(path) = self.paths.get_mut(key) else { return cx.net.free(buf) };
        let pool = path.place.pool;
        let Some(probe) = path.probe.as_mut().filter(|probe| !probe.closing) else { return cx.net.free(buf) };
        probe.answer.extend_from_slice(cx.net.bytes(&buf));
        cx.net.free(buf);
        match read(&mut probe.answer) {
            Reading::More => {}
            Reading::Broken(why) => self.result(cx, key, Outcome::ServerError, why),
            Reading::Status(status) => {
                let request = active(&cx.core.shared, pool).and_then(|check| check.request.as_ref());
                let good = request.is_some_and(|request| request.expects(status));
                let outcome = if good { Outcome::Success } else { Outcome::ServerError };
                self.result(cx, key, outcome, &format!("it answered {status}"));
            }
        }
    }

    fn on_lost<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, why: &str) {
        let open =
            self.paths.get(key).and_then(|path| path.probe.as_ref()).is_some_and(|probe| !probe.closing);
        if open {
            self.result(cx, key, Outcome::Unreachable, why);
        }
    }

    fn on_closed<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let now = cx.net.now();
        let Some(path) = self.paths.get_mut(key) else { return };
        let (pool, outdated) = (path.place.pool, path.outdated);
        if let Some(probe) = path.probe.take() {
            cx.core.upstreams.give_lease_back(probe.path, probe.lease, probe.release, now);
            cx.core.freed(pool);
        }
        if outdated {
            self.paths.remove(key);
        }
    }
}

fn active(shared: &Shared, pool: usize) -> Option<&ActiveCheck> {
    shared.plan.pools.get(pool)?.health.active.as_ref()
}

/// Each, while they are few; else one that stands for all.
pub(crate) fn sources(count: u128) -> impl Iterator<Item = Option<u64>> {
    let few = count <= SOURCES_MAX;
    (0..if few { count as u64 } else { 1 }).map(move |number| few.then_some(number))
}

/// Driven by its shard.
impl Checks {
    pub fn on_event<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, event: Event) {
        match event {
            Event::Connected { .. } => self.on_connected(cx, key),
            Event::ConnectFailed { step, errno, .. } => self.on_connect_failed(cx, key, step, errno),
            Event::Received { buf, .. } => self.on_received(cx, key, buf),
            Event::Eof { .. } => self.on_lost(cx, key, "it closed the connection before it answered"),
            Event::Failed { .. } => self.on_lost(cx, key, "it reset the connection before it answered"),
            Event::Closed { .. } => self.on_closed(cx, key),
            Event::Accepted { .. }
            | Event::AcceptFailed { .. }
            | Event::Drained { .. }
            | Event::Unspliced { .. }
            | Event::Finished { .. } => {}
        }
    }

    pub fn on_turn<N: Net>(&mut self, cx: &mut Cx<'_, N>) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(cx.net.now(), &mut due);
        for slot in due.drain(..) {
            if let Some(key) = self.paths.key_at(slot) {
                self.on_due(cx, key);
            }
        }
        self.due = due;
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        self.wheel.poll_timeout()
    }
}
