//! From a pool to a path: which server, which tuple; and what a failure says about either.

use crate::check::Place;
use crate::health::applies;
use crate::shared::{PoolState, Shared, Target};
use crate::wait::Shortage;
use fourfold_balance::health::Bar;
use fourfold_balance::{Ask, Picker};
use fourfold_base::Millis;
use fourfold_engine::{Errno, Local, Step};
use fourfold_ports::{Lease, Release, Slice, Space};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// One destination as this shard sees it: its slice of the tuples.
pub(crate) struct Path {
    target: Target,
    slice: Slice,
}

/// A shard's view of all pools.
pub(crate) struct Upstreams {
    shared: Arc<Shared>,
    shard: usize,
    /// Grows by one for each destination ever used; leases refer to it by index.
    paths: Vec<Path>,
    pools: Vec<Pool>,
}

struct Pool {
    picker: Picker,
    /// Per server, index into `paths`; `None`: not resolved, or not reachable by the pool's rules.
    servers: Vec<Option<u32>>,
}

/// A way to a server, all that is needed to connect.
pub(crate) struct Attempt {
    pub server: u32,
    pub path: u32,
    pub lease: Lease,
    pub remote: SocketAddr,
    pub local: Local,
}

/// What a client asks of a pool.
pub(crate) struct Want<'a> {
    /// For algorithms that keep a key on a server.
    pub key: Option<u64>,
    /// The server that the client is to stay with, if it can be used.
    pub stay: Option<u32>,
    /// A place for a request, and not just a connection: requests in flight count.
    pub request: bool,
    /// Whether a connection to the server lies ready.
    pub warm: &'a dyn Fn(usize) -> bool,
    /// Servers that have failed this client.
    pub avoid: &'a [u32],
}

impl Want<'_> {
    /// Any server, over a connection of its own.
    pub const ANY: Want<'static> =
        Want { key: None, stay: None, request: false, warm: &|_| false, avoid: &[] };
}

pub(crate) enum Choice {
    /// A server with a connection that lies ready.
    Warm(u32),
    Fresh(Attempt),
}

/// A source address that has gone is tried again after this.
const SOURCE_EJECTED_MS: Millis = 5_000;

/// Whose fault a failed attempt was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Blame {
    /// The server refused, reset, or did not answer.
    Server,
    /// Another socket has the tuple.
    Tuple,
    /// The source address is not on this machine.
    Source,
    /// This machine is short of something.
    Shortage,
}

pub(crate) fn blame(step: Step, errno: Errno) -> Blame {
    match (step, errno) {
        (_, errno) if errno.is_local_shortage() => Blame::Shortage,
        (Step::Bind, Errno::EADDRNOTAVAIL) => Blame::Source,
        (_, Errno::EADDRNOTAVAIL | Errno::EADDRINUSE) => Blame::Tuple,
        (Step::Socket | Step::Option | Step::Bind, _) => Blame::Shortage,
        (Step::Connect, _) => Blame::Server,
    }
}

impl Blame {
    /// In which state the tuple is once the socket is closed.
    pub fn release(self) -> Release {
        if self == Blame::Tuple { Release::Foreign } else { Release::Clean }
    }
}

impl Upstreams {
    pub fn new(shared: Arc<Shared>, shard: usize) -> Self {
        let pool = |(index, (state, plan)): (usize, (&PoolState, &fourfold_config::Pool))| {
            // Shards begin at different servers.
            let seed = (shard as u64) << 32 | index as u64;
            let picker = match &plan.aperture {
                Some(aperture) => {
                    let shards = shared.shards.len() as u32;
                    state.picker.for_peer(aperture.instance.saturating_mul(shards) + shard as u32, seed)
                }
                None => state.picker.for_shard(seed),
            };
            Pool { picker, servers: vec![None; state.servers.len()] }
        };
        let pools = shared.pools.iter().zip(&shared.plan.pools).enumerate().map(pool).collect();
        let mut upstreams = Self { shared: Arc::clone(&shared), shard, paths: Vec::new(), pools };
        for (p, pool) in shared.pools.iter().enumerate() {
            for s in 0..pool.servers.len() {
                upstreams.refresh(p, s);
            }
        }
        upstreams
    }

    /// A server's address may have changed.
    pub fn refresh(&mut self, pool: usize, server: usize) {
        let target = self.shared.server(pool, server).and_then(|state| state.target());
        let path = target.map(|target| self.path_for(target));
        if let Some(slot) = self.pools.get_mut(pool).and_then(|pool| pool.servers.get_mut(server)) {
            *slot = path;
        }
    }

    fn path_for(&mut self, target: Target) -> u32 {
        let known =
            |path: &Path| Arc::ptr_eq(&path.target.space, &target.space) && path.target.pin == target.pin;
        let index = self.paths.iter().position(known).unwrap_or_else(|| {
            let slice = target.space.slice(self.shard);
            self.paths.push(Path { target, slice });
            self.paths.len() - 1
        });
        index as u32
    }

    /// The next way to a server of `pool`, or what there is too little of. With a way comes a place at the server: whoever gets
    /// it reports what came of it, and a request vacates it.
    pub fn attempt(
        &mut self,
        pool: usize,
        want: &Want<'_>,
        now: Millis,
    ) -> Result<Choice, (Shortage, Option<Millis>)> {
        let (Some(state), Some(plan), Some(own)) =
            (self.shared.pools.get(pool), self.shared.plan.pools.get(pool), self.pools.get_mut(pool))
        else {
            return Err((Shortage::Servers, None));
        };
        if want.request && plan.http.max_requests.is_some_and(|most| state.requests.load(Relaxed) >= most) {
            return Err((Shortage::Servers, None));
        }
        // A server that cannot be had right now is passed over for this client; another may do.
        let mut passed: Vec<usize> = want.avoid.iter().map(|server| *server as usize).collect();
        let mut forgiving = passed.is_empty();
        let (mut exhausted, mut next_free) = (false, None);
        loop {
            let servers = &own.servers;
            let load = |index: usize| {
                servers.get(index).copied().flatten()?;
                let (server, plan) = (state.servers.get(index)?, plan.servers.get(index)?);
                let (active, requests) = (server.active.load(Relaxed), server.requests.load(Relaxed));
                let room = plan.max_connections.is_none_or(|most| active < most) || (want.warm)(index);
                let place = !want.request || plan.max_requests.is_none_or(|most| requests < most);
                let usable = state.health.board.is_usable(index)
                    && !server.is_down(now)
                    && room
                    && place
                    && !passed.contains(&index);
                usable.then_some(if want.request { requests } else { active })
            };
            let drained = |index: usize| plan.servers.get(index).is_none_or(|server| server.weight == 0);
            let stay = want.stay.map(|own| own as usize).filter(|own| !drained(*own) && load(*own).is_some());
            let Some(index) = stay.or_else(|| own.picker.pick(Ask { key: want.key, now }, load)) else {
                // A server that failed this very client is better than none.
                if !std::mem::replace(&mut forgiving, true) {
                    passed.clear();
                    continue;
                }
                break;
            };
            let (Some(server), Some(Some(path))) = (state.servers.get(index), servers.get(index).copied())
            else {
                break;
            };
            passed.push(index);
            let limits = plan.servers.get(index).map(|server| (server.max_connections, server.max_requests));
            let (connections_max, requests_max) = limits.unwrap_or_default();
            if want.request && !admit_request(state, server, plan.http.max_requests, requests_max) {
                continue;
            }
            let leave = || {
                if want.request {
                    vacate(state, server);
                }
            };
            if (want.warm)(index) {
                if state.health.board.admit(index) {
                    return Ok(Choice::Warm(index as u32));
                }
                leave();
                continue;
            }
            let Some(Path { target, slice }) = self.paths.get_mut(path as usize) else { break };
            match slice.lease(now) {
                // Another shard was quicker to take the server's last place.
                Ok(lease) if !server.admit(connections_max) => slice.release(lease, now, Release::Clean),
                // Another client is just finding out whether it is back.
                Ok(lease) if !server.claim(now, plan.connect_timeout_ms) => {
                    server.dismiss();
                    slice.release(lease, now, Release::Clean);
                }
                // The breaker's last probe has gone to another.
                Ok(lease) if !state.health.board.admit(index) => {
                    server.unclaim(now);
                    server.dismiss();
                    slice.release(lease, now, Release::Clean);
                }
                Ok(lease) => {
                    let local = target.local(lease.source_index(), lease.port());
                    let remote = target.address;
                    return Ok(Choice::Fresh(Attempt { server: index as u32, path, lease, remote, local }));
                }
                Err(none) => {
                    exhausted = true;
                    next_free = min_some(next_free, none.next_free_ms);
                }
            }
            leave();
        }
        if exhausted {
            return Err((Shortage::Tuples, next_free));
        }
        if only_breakers_are_left(state, plan, &own.servers) {
            return Err((Shortage::Breaker, None));
        }
        let down = state.servers.iter().filter(|server| server.is_down(now));
        Err((Shortage::Servers, down.map(|server| server.retry_at()).min()))
    }

    /// A way to this server, if nothing at all speaks against it; for a connection that nobody waits for.
    pub fn spare_way(&mut self, pool: usize, server: usize, now: Millis) -> Option<Attempt> {
        let (state, plan) = (self.shared.pools.get(pool)?, self.shared.plan.pools.get(pool)?);
        let (one, own) = (state.servers.get(server)?, plan.servers.get(server)?);
        let path = self.pools.get(pool)?.servers.get(server).copied().flatten()?;
        if own.weight == 0 || one.failures() > 0 || state.health.board.bar(server).is_some() {
            return None;
        }
        let Path { target, slice } = self.paths.get_mut(path as usize)?;
        let lease = slice.lease(now).ok()?;
        if !one.admit(own.max_connections) {
            slice.release(lease, now, Release::Clean);
            return None;
        }
        let local = target.local(lease.source_index(), lease.port());
        Some(Attempt { server: server as u32, path, lease, remote: target.address, local })
    }

    /// A place at this server and no other, for a request that has a connection there. `false`: it is not to be used now.
    pub fn enter(&mut self, pool: usize, server: usize, now: Millis) -> bool {
        let (Some(state), Some(plan)) = (self.shared.pools.get(pool), self.shared.plan.pools.get(pool))
        else {
            return false;
        };
        let (Some(one), Some(limits)) = (state.servers.get(server), plan.servers.get(server)) else {
            return false;
        };
        if one.is_down(now)
            || !state.health.board.is_usable(server)
            || !admit_request(state, one, plan.http.max_requests, limits.max_requests)
        {
            return false;
        }
        let admitted = state.health.board.admit(server);
        if !admitted {
            vacate(state, one);
        }
        admitted
    }

    /// Whether somebody may wait for another's request to end.
    pub fn limits_requests(&self, pool: usize, server: usize) -> bool {
        let plan = self.shared.plan.pools.get(pool);
        let own = plan.and_then(|plan| plan.servers.get(server)).and_then(|server| server.max_requests);
        own.or(plan.and_then(|plan| plan.http.max_requests)).is_some()
    }

    /// A request has left its place at a server.
    pub fn vacate(&mut self, pool: usize, server: usize) {
        if let Some(state) = self.shared.pools.get(pool)
            && let Some(server) = state.servers.get(server)
        {
            vacate(state, server);
        }
    }

    /// How long a server took.
    pub fn observe(&mut self, pool: usize, server: usize, latency_us: u64, ok: bool, now: Millis) {
        if let Some(pool) = self.pools.get_mut(pool) {
            pool.picker.observe(server, latency_us, ok, now * 1000);
        }
    }

    pub fn came_up(&mut self, pool: usize, server: usize, since: Millis) {
        if let Some(pool) = self.pools.get_mut(pool) {
            pool.picker.set_up_since(server, since);
        }
    }

    /// Keeps a source that does not get through out of the way, to one server or to all; `until` 0: no longer.
    pub fn avoid(&mut self, pool: usize, server: Option<usize>, source: IpAddr, until: Millis) {
        let Some(pool) = self.pools.get(pool) else { return };
        for (_, path) in pool.servers.iter().enumerate().filter(|(index, _)| applies(server, *index)) {
            let Some(path) = path.and_then(|path| self.paths.get_mut(path as usize)) else { continue };
            if let Some(index) = path.target.space.sources().index_of(source) {
                match until {
                    0 => path.slice.readmit_source(index),
                    _ => drop(path.slice.eject_source(index, until)),
                }
            }
        }
    }

    /// `None`: the kernel chooses.
    pub fn source_address(&self, pool: usize, server: usize, source: u64) -> Option<IpAddr> {
        let path = self.pools.get(pool)?.servers.get(server).copied().flatten()?;
        self.space(path)?.source_address(source)
    }

    /// The upstream socket of an attempt is gone: its tuple goes back.
    pub fn give_back(
        &mut self,
        pool: usize,
        server: u32,
        path: u32,
        lease: Lease,
        release: Release,
        now: Millis,
    ) {
        if let Some(state) = self.shared.server(pool, server as usize) {
            state.dismiss();
        }
        if let Some(path) = self.paths.get_mut(path as usize) {
            path.slice.release(lease, now, release);
        }
    }

    /// A tuple for a check: index of its path, and how it is pinned.
    pub fn check_way(&mut self, place: &Place, now: Millis) -> Option<(u32, Lease, Local)> {
        let index = self.pools.get(place.pool)?.servers.get(place.server).copied().flatten()?;
        let path = self.paths.get_mut(index as usize)?;
        let lease = match place.source {
            Some(source) => path.slice.lease_from(now, source),
            None => path.slice.lease(now),
        };
        let lease = lease.ok()?;
        let local = path.target.local(lease.source_index(), lease.port());
        Some((index, lease, local))
    }

    /// Of a connection that has no place at a server.
    pub fn give_lease_back(&mut self, path: u32, lease: Lease, release: Release, now: Millis) {
        if let Some(path) = self.paths.get_mut(path as usize) {
            path.slice.release(lease, now, release);
        }
    }

    /// Keeps a source that is not there out of the way for a while.
    pub fn eject(&mut self, path: u32, lease: &Lease, now: Millis) {
        if let Some(path) = self.paths.get_mut(path as usize) {
            path.slice.eject_source(lease.source_index(), now + SOURCE_EJECTED_MS);
        }
    }

    pub fn space(&self, path: u32) -> Option<&Arc<Space>> {
        self.paths.get(path as usize).map(|path| &path.target.space)
    }
    /// What a lease means for a socket.
    pub fn local(&self, path: u32, lease: &Lease) -> Option<Local> {
        let path = self.paths.get(path as usize)?;
        Some(path.target.local(lease.source_index(), lease.port()))
    }
    pub fn address(&self, path: u32) -> Option<SocketAddr> {
        self.paths.get(path as usize).map(|path| path.target.address)
    }

    pub fn handle_timeout(&mut self, now: Millis) {
        for path in &mut self.paths {
            path.slice.handle_timeout(now);
        }
    }
}

/// A client's address as a key.
pub(crate) fn address_key(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => fourfold_balance::hash_key(&ip.octets()),
        IpAddr::V6(ip) => fourfold_balance::hash_key(&ip.octets()),
    }
}

fn admit_request(
    pool: &PoolState,
    server: &crate::shared::ServerState,
    pool_max: Option<u32>,
    server_max: Option<u32>,
) -> bool {
    if !server.admit_request(server_max) {
        return false;
    }
    // Counted where somebody asks.
    let before = pool.requests.fetch_add(1, Relaxed);
    let admitted = pool_max.is_none_or(|most| before < most);
    if !admitted {
        vacate(pool, server);
    }
    admitted
}

fn vacate(pool: &PoolState, server: &crate::shared::ServerState) {
    pool.requests.fetch_sub(1, Relaxed);
    server.dismiss_request();
}

/// Every server that there is would be used, were it not for its breaker or its check: waiting does not help soon.
fn only_breakers_are_left(state: &PoolState, plan: &fourfold_config::Pool, paths: &[Option<u32>]) -> bool {
    let board = &state.health.board;
    let there = |index: &usize| {
        paths.get(*index).is_some_and(Option::is_some)
            && plan.servers.get(*index).is_some_and(|server| server.weight > 0)
    };
    let mut open = false;
    for index in (0..plan.servers.len()).filter(there) {
        match board.bar(index) {
            Some(Bar::Open | Bar::HalfOpen) => open = true,
            _ if board.is_usable(index) => return false,
            _ => {}
        }
    }
    open
}

fn min_some(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_fault_is_never_the_servers() {
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS] {
            for step in [Step::Socket, Step::Option, Step::Bind, Step::Connect] {
                assert_eq!(blame(step, errno), Blame::Shortage);
            }
        }
        assert_eq!(blame(Step::Connect, Errno::EADDRNOTAVAIL), Blame::Tuple);
        assert_eq!(blame(Step::Bind, Errno::EADDRINUSE), Blame::Tuple);
        assert_eq!(blame(Step::Bind, Errno::EADDRNOTAVAIL), Blame::Source);
        for errno in [Errno::ECONNREFUSED, Errno::ETIMEDOUT, Errno::EHOSTUNREACH, Errno::ECONNRESET] {
            assert_eq!(blame(Step::Connect, errno), Blame::Server);
        }
    }
}
