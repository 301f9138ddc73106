//! The arithmetic: how much of what a load takes, and how much a machine has.
//!
//! `doctor`, `plan`, `check` and the first lines of `run` all say what comes out here. Refuses to round in anybody's favour: every
//! number is the last one that still works.

use crate::cost;
use crate::facts::{Bound, Facts, PairMemory};
use crate::wanted::{Wanted, WantedEngine, WantedPool, WantedServer};
use fourfold_base::tables::{SHARDS_MAX, Tables};
use std::net::SocketAddr;

/// What a connection of a client takes: sockets of ours, and of the machine where clients or servers are on it too.
pub const SOCKETS: u64 = 2;

/// A load on a machine.
#[derive(Clone, Copy, Debug)]
pub struct Capacity<'a> {
    pub facts: &'a Facts,
    pub wanted: &'a Wanted,
}

impl<'a> Capacity<'a> {
    #[must_use]
    pub fn new(facts: &'a Facts, wanted: &'a Wanted) -> Capacity<'a> {
        Capacity { facts, wanted }
    }

    /// What is asked for, or what `run` would derive.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.wanted.connections.unwrap_or_else(|| self.derived())
    }

    /// As the engine does: one shard per processor, each with a table, and the machine's memory.
    fn derived(&self) -> u64 {
        let shards = self.wanted.shards.or(self.facts.processors.get().copied()).unwrap_or(1).max(1);
        let by_table = self.tables().map_or(u64::MAX, |tables| match self.has_private_tables() {
            true => tables.most(shards as usize) * shards,
            false => self.in_one_table(shards),
        });
        let by_memory = self.memory_total().map_or(u64::MAX, |b| b / (SOCKETS * cost::SOCKET_BYTES_DERIVED));
        by_table.min(by_memory).clamp(1, u64::from(u32::MAX))
    }

    fn memory_total(&self) -> Option<u64> {
        let machine = self.facts.memory.get()?.total_bytes;
        let group = self.facts.cgroup_memory.get().and_then(|bound| bound.max);
        Some(group.map_or(machine, |group| group.min(machine)))
    }

    /// Whether the io_uring engine will be used.
    #[must_use]
    pub fn is_uring(&self) -> bool {
        let usable = self.facts.io_uring.get().is_some_and(|one| one.usable);
        match self.wanted.engine {
            WantedEngine::Uring => true,
            WantedEngine::Epoll => false,
            WantedEngine::Auto => usable,
        }
    }

    fn has_private_tables(&self) -> bool {
        self.is_uring() || self.facts.private_tables.get().copied().unwrap_or(true)
    }

    /// Under the hard limit, to which `run` raises the soft one.
    #[must_use]
    pub fn tables(&self) -> Option<Tables> {
        let descriptors = self.facts.nofile.get()?.hard;
        Some(Tables { descriptors, sockets: SOCKETS, listeners: self.wanted.listeners.len().max(1) as u64 })
    }

    /// Shards that may be made: those asked for, or as many as threads are allowed.
    #[must_use]
    pub fn shards_max(&self) -> usize {
        let threads = self.threads_free().unwrap_or(u64::MAX).saturating_sub(cost::OTHER_THREADS);
        let most = (SHARDS_MAX as u64).min(threads);
        self.wanted.shards.map_or(most, |shards| shards.min(SHARDS_MAX as u64)) as usize
    }

    #[must_use]
    pub fn threads_free(&self) -> Option<u64> {
        let Bound { max, used, .. } = self.facts.cgroup_pids.get()?;
        max.map(|max| max.saturating_sub(*used))
    }

    /// Connections that the descriptor tables hold.
    #[must_use]
    pub fn by_descriptors(&self) -> Option<u64> {
        let tables = self.tables()?;
        match (self.has_private_tables(), self.wanted.connections) {
            (false, _) => {
                Some(self.in_one_table(self.wanted.shards.or(self.facts.processors.get().copied())?))
            }
            (true, Some(_)) => Some(tables.room(self.shards_max())),
            // Nobody asks for more than there is.
            (true, None) => {
                Some(self.derived().max(tables.room(self.shards_max().min(self.processors() as usize))))
            }
        }
    }

    fn processors(&self) -> u64 {
        self.facts.processors.get().copied().unwrap_or(1)
    }

    fn in_one_table(&self, shards: u64) -> u64 {
        let Some(tables) = self.tables() else { return 0 };
        let each = Tables { descriptors: tables.descriptors / shards.max(1), ..tables };
        each.room(shards as usize)
    }

    /// Shards that will be made: those asked for, or as many as it takes; all there can be where even they do not suffice.
    #[must_use]
    pub fn shards(&self) -> usize {
        let needed = || self.tables().map_or(Some(1), |tables| tables.shards_for(self.connections()));
        match self.wanted.shards {
            Some(shards) => shards as usize,
            None => needed().map_or(SHARDS_MAX, |needed| needed.max(self.processors() as usize)),
        }
    }

    /// Sockets of one connection on the whole machine.
    #[must_use]
    pub fn sockets_here(&self) -> u64 {
        let clients = self.wanted.listeners.iter().any(|listener| listener.clients_here);
        let servers = self.wanted.pools.iter().flat_map(|pool| &pool.servers).any(|server| server.here);
        SOCKETS + u64::from(clients) + u64::from(servers)
    }

    /// Connections until the machine has no file left; `None`: this process is exempt, or it is not known.
    #[must_use]
    pub fn by_files(&self) -> Option<u64> {
        if self.facts.has_capability("CAP_SYS_ADMIN") == Some(true) {
            return None;
        }
        let free = self.facts.number("fs.file-max")?.checked_sub(*self.facts.files_open.get()?);
        Some(free.unwrap_or(0).saturating_sub(cost::OTHER_FILES) / self.sockets_here())
    }

    #[must_use]
    pub fn pair(&self) -> PairMemory {
        let unmeasured = PairMemory { bytes: cost::PAIR_BYTES, charged_bytes: cost::PAIR_BYTES };
        self.facts.pair.get().copied().unwrap_or(unmeasured)
    }

    #[must_use]
    pub fn watch_bytes(&self) -> u64 {
        if self.is_uring() { cost::WATCH_BYTES_URING } else { cost::WATCH_BYTES_EPOLL }
    }

    fn watch_charged_bytes(&self) -> u64 {
        if self.is_uring() { cost::WATCH_CHARGED_BYTES_URING } else { cost::WATCH_CHARGED_BYTES_EPOLL }
    }

    #[must_use]
    pub fn user_bytes(&self) -> u64 {
        let http = self.wanted.pools.iter().any(|pool| pool.http);
        if http { cost::USER_BYTES_HTTP } else { cost::USER_BYTES_TCP }
    }

    /// Fourfold without a connection.
    #[must_use]
    pub fn process_bytes(&self) -> u64 {
        let shard = if self.is_uring() { cost::SHARD_BYTES_URING } else { cost::SHARD_BYTES_EPOLL };
        cost::PROCESS_BYTES + self.shards() as u64 * shard
    }

    fn queued_bytes(&self) -> u64 {
        cost::queued_pages(self.wanted.queued_bytes.unwrap_or(0)) * cost::PAGE_BYTES
    }

    /// A connection's memory on the machine: both of our sockets, and the others' ends where they are here.
    #[must_use]
    pub fn bytes_here(&self) -> u64 {
        let sockets = self.sockets_here();
        self.pair().bytes * sockets / 2
            + self.watch_bytes() * sockets
            + self.user_bytes() * (sockets - 1)
            + self.queued_bytes()
    }

    /// A connection's memory that is charged to Fourfold's own control group.
    #[must_use]
    pub fn bytes_charged(&self) -> u64 {
        self.pair().charged_bytes
            + self.watch_charged_bytes() * SOCKETS
            + self.user_bytes()
            + self.queued_bytes()
    }

    #[must_use]
    pub fn by_memory(&self) -> Option<u64> {
        let available = self.facts.memory.get()?.available_bytes;
        let spare = available / 100 * cost::MEMORY_SPARE_PERCENT;
        Some(available.saturating_sub(spare + self.process_bytes()) / self.bytes_here())
    }

    #[must_use]
    pub fn by_cgroup_memory(&self) -> Option<u64> {
        let Bound { max, used, .. } = self.facts.cgroup_memory.get()?;
        Some((*max)?.saturating_sub(used + self.process_bytes()) / self.bytes_charged())
    }

    /// Connections that may have what is wanted in TCP's queues.
    ///
    /// `__sk_mem_raise_allocated` (net/core/sock.c): above `tcp_mem[1]` a socket gets no more than its share,
    /// `sk_prot_mem_limits(sk, 2) > alloc * sk_mem_pages(…)`; above `tcp_mem[2]` nothing.
    #[must_use]
    pub fn by_tcp_memory(&self) -> Option<u64> {
        let [_, pressure, hard] = *self.facts.numbers("net.ipv4.tcp_mem") else { return None };
        let used = self.facts.sockets.get()?.tcp_pages;
        let (pages, percent) = match self.wanted.queued_bytes {
            Some(bytes) => (cost::queued_pages(bytes).max(1), 100),
            None => (1, cost::QUEUED_PERCENT),
        };
        let fit = |limit: u64| limit.saturating_sub(used) / pages;
        let shared = fit(pressure).max(hard / (self.sockets_here() * pages)).min(fit(hard));
        Some(shared.saturating_mul(100) / percent)
    }

    /// Tracked flows are two per connection: the client's and the server's.
    #[must_use]
    pub fn by_conntrack(&self) -> Option<u64> {
        let tracked = self.facts.conntrack.get().filter(|one| one.by.is_some())?;
        match self.facts.number("net.netfilter.nf_conntrack_max")? {
            0 => None,
            max => Some(max.saturating_sub(tracked.count) / 2),
        }
    }

    /// Connections to the servers of a pool, all tuples used.
    #[must_use]
    pub fn tuples(&self, pool: &WantedPool) -> Option<u64> {
        let of =
            |server: &WantedServer| Some(self.tuples_to(pool, server)?.saturating_sub(self.held(server)));
        pool.servers.iter().map(of).try_fold(0u64, |sum, one| Some(sum.saturating_add(one?)))
    }

    /// Tuples towards one server, free or not.
    #[must_use]
    pub fn tuples_to(&self, pool: &WantedPool, server: &WantedServer) -> Option<u64> {
        let ports = self.ports(pool, server)?;
        Some(server.sources.saturating_mul(ports).min(server.connections_max.unwrap_or(u64::MAX)))
    }

    fn held(&self, server: &WantedServer) -> u64 {
        let held = self.facts.held.iter().filter(|held| held.server == server.address);
        held.map(|held| held.tuples).sum()
    }

    /// Ports of each source towards a server.
    fn ports(&self, pool: &WantedPool, server: &WantedServer) -> Option<u64> {
        let (first, last) = pool.ports.or_else(|| self.local_range())?;
        let reserved = self.reserved();
        let usable = |port: &u16| {
            !reserved.iter().any(|(low, high)| (low..=high).contains(&port)) && server.own_port != Some(*port)
        };
        Some((first..=last).filter(usable).count() as u64)
    }

    #[must_use]
    pub fn local_range(&self) -> Option<(u16, u16)> {
        match *self.facts.numbers("net.ipv4.ip_local_port_range") {
            [first, last] => Some((u16::try_from(first).ok()?, u16::try_from(last).ok()?)),
            _ => None,
        }
    }

    #[must_use]
    pub fn reserved(&self) -> Vec<(u16, u16)> {
        let text = self.facts.setting("net.ipv4.ip_local_reserved_ports").unwrap_or_default();
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
        };
        text.split(',').filter_map(range).collect()
    }

    /// Clients that a pool's tuples serve: in HTTP mode a connection to a server is only used while a request is in flight.
    #[must_use]
    pub fn by_tuples(&self, pool: &WantedPool) -> Option<u64> {
        let tuples = self.tuples(pool)?;
        match pool.http {
            true => Some(tuples.saturating_mul(100) / self.wanted.busy_percent.clamp(1, 100)),
            false => Some(tuples),
        }
    }

    /// Connections per second that are meant to come, over a long time.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.wanted.rate.unwrap_or(self.connections() / cost::RETURN_SECONDS).max(1)
    }

    #[must_use]
    pub fn burst(&self) -> u64 {
        self.wanted.burst.unwrap_or(self.rate() * cost::PAUSE_MS / 1000).max(1)
    }

    /// Connections that may wait to be accepted: every shard listens by itself, and the kernel takes one more than the backlog
    /// (include/net/sock.h, sk_acceptq_is_full: "ack_backlog > max_ack_backlog").
    #[must_use]
    pub fn by_backlog(&self, backlog: Option<u64>) -> Option<u64> {
        let somaxconn = self.facts.number("net.core.somaxconn")?;
        let each = backlog.unwrap_or(somaxconn).min(somaxconn) + 1;
        Some(each * self.shards() as u64)
    }

    /// For how long a tuple rests that our side closed first.
    #[must_use]
    pub fn rest_ms(&self, pool: &WantedPool, server: &WantedServer) -> u64 {
        let timestamps = self.facts.number("net.ipv4.tcp_timestamps").unwrap_or(1) != 0;
        let loopback = server.address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback());
        let reuse = self.facts.number("net.ipv4.tcp_tw_reuse").unwrap_or(2);
        let delay = self.facts.number("net.ipv4.tcp_tw_reuse_delay").unwrap_or(1000);
        match (pool.early, timestamps, reuse) {
            (true, true, _) => 0,
            (false, true, 1) => delay,
            (false, true, 2) if loopback => delay,
            _ => cost::TIME_WAIT_SECONDS * 1000,
        }
    }

    /// New connections to a pool's servers per second when ours is the side that closes: a tuple is then gone for as long as it rests.
    #[must_use]
    pub fn rate_by_tuples(&self, pool: &WantedPool) -> Option<u64> {
        let of = |server: &WantedServer| {
            let tuples = self.tuples_to(pool, server)?;
            Some(tuples.saturating_mul(1000).checked_div(self.rest_ms(pool, server)).unwrap_or(u64::MAX))
        };
        pool.servers.iter().map(of).try_fold(0u64, |sum, one| Some(sum.saturating_add(one?)))
    }
}
