//! From a pool to a path: which server, which tuple; and what a failure says about either.

use crate::shared::{Shared, Target};
use crate::wait::Shortage;
use fourfold_balance::{Ask, Picker};
use fourfold_base::Millis;
use fourfold_engine::{Errno, Local, Step};
use fourfold_ports::{Lease, Release, Slice, Space};
use std::net::SocketAddr;
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
    /// Requests in flight by server; `None`: connections count.
    pub loads: Option<&'a [u32]>,
    /// Whether a connection to the server lies ready.
    pub warm: &'a dyn Fn(usize) -> bool,
    /// Servers that have failed this client.
    pub avoid: &'a [u32],
}

impl Want<'_> {
    /// Any server, over a connection of its own.
    pub const ANY: Want<'static> = Want { key: None, loads: None, warm: &|_| false, avoid: &[] };
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
        let pool = |(index, pool): (usize, &fourfold_config::Pool)| {
            let weights: Vec<u32> = pool.servers.iter().map(|server| u32::from(server.weight)).collect();
            // Shards begin at different servers.
            let seed = (shard as u64) << 32 | index as u64;
            Pool { picker: Picker::new(pool.balance, &weights, seed), servers: vec![None; weights.len()] }
        };
        let pools = shared.plan.pools.iter().enumerate().map(pool).collect();
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

    /// The next way to a server of `pool`, or what there is too little of.
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
        // A server that cannot be had right now is passed over for this client; another may do.
        let mut passed: Vec<usize> = want.avoid.iter().map(|server| *server as usize).collect();
        let mut forgiving = passed.is_empty();
        let (mut exhausted, mut next_free) = (false, None);
        loop {
            let servers = &own.servers;
            let load = |index: usize| {
                servers.get(index).copied().flatten()?;
                let (server, limit) = (state.servers.get(index)?, plan.servers.get(index)?.max_connections);
                let active = server.active.load(Relaxed);
                let usable = !server.is_down(now)
                    && (limit.is_none_or(|limit| active < limit) || (want.warm)(index))
                    && !passed.contains(&index);
                let load = want.loads.map_or(active, |loads| loads.get(index).copied().unwrap_or(0));
                usable.then_some(load)
            };
            let Some(index) = own.picker.pick(Ask { key: want.key, now }, load) else {
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
            if (want.warm)(index) {
                return Ok(Choice::Warm(index as u32));
            }
            let Some(Path { target, slice }) = self.paths.get_mut(path as usize) else { break };
            let limit = plan.servers.get(index).and_then(|server| server.max_connections);
            match slice.lease(now) {
                // Another shard was quicker to take the server's last place.
                Ok(lease) if !server.admit(limit) => slice.release(lease, now, Release::Clean),
                // Another client is just finding out whether it is back.
                Ok(lease) if !server.claim(now, plan.connect_timeout_ms) => {
                    server.dismiss();
                    slice.release(lease, now, Release::Clean)
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
            passed.push(index);
        }
        if !exhausted {
            let retry = state
                .servers
                .iter()
                .filter(|server| server.is_down(now))
                .map(|server| server.retry_at())
                .min();
            return Err((Shortage::Servers, retry));
        }
        Err((Shortage::Tuples, next_free))
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
