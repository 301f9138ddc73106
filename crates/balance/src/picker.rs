//! Picks a server.
//!
//! Owns: the servers' weights and the state of the algorithm, for one pool on one shard.
//! Refuses: servers of weight 0 and those for which the caller's load says `None`.
//! Driven by: the proxy, once per attempt; it knows loads, health and what was tried already.

use fourfold_base::Millis;
use fourfold_base::prng::Prng;

use crate::algorithm::Algorithm;
use crate::aperture;
use crate::census::Census;
use crate::ewma::Latencies;
use crate::group::{Group, Member, Sky};
use crate::keyed::{Table, rendezvous};
use crate::options::{Options, Server};
use crate::warmth::Warmth;

/// What is known when a server is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask {
    /// Hash of what a client is told apart by ([`hash_key`](crate::hash_key)); without one the keyed algorithms
    /// pick at random by weight.
    pub key: Option<u64>,
    pub now: Millis,
}

/// Picks servers by one algorithm. Servers are the indices of the list it was made from.
#[derive(Clone, Debug)]
pub struct Picker {
    algorithm: Algorithm,
    options: Options,
    servers: Vec<Server>,
    random: Prng,
    warmth: Warmth,
    latencies: Latencies,
    /// In the order in which they are tried, unless the zone has too little: then `others` come first for a part.
    preferred: Vec<Group>,
    others: Vec<Group>,
    /// Zones that have any weight.
    zones: u32,
    table: Option<Table>,
    census: Census,
}

impl Picker {
    /// Servers with nothing but weights, and the algorithm's usual options.
    #[must_use]
    pub fn new(algorithm: Algorithm, weights: &[u32], seed: u64) -> Picker {
        Picker::with_options(algorithm, &Server::by_place(weights), &Options::new(algorithm), seed)
    }

    /// The seed decides the random draws and the server at which round robin begins: shards with
    /// different seeds do not all fall upon the first server after a start.
    #[must_use]
    pub fn with_options(algorithm: Algorithm, servers: &[Server], options: &Options, seed: u64) -> Picker {
        let count = servers.len();
        let mut picker = Picker {
            algorithm,
            options: *options,
            servers: servers.to_vec(),
            random: Prng::new(seed),
            warmth: Warmth::new(count, options.slow_start_ms),
            latencies: Latencies::new(if algorithm == Algorithm::PeakEwma { count } else { 0 }),
            preferred: Vec::new(),
            others: Vec::new(),
            zones: 0,
            table: None,
            census: Census::default(),
        };
        picker.build();
        picker
    }

    /// The same for another shard; the tables of keyed algorithms are shared, not built again.
    #[must_use]
    pub fn for_shard(&self, seed: u64) -> Picker {
        let mut picker = Picker { random: Prng::new(seed), ..self.clone() };
        picker.build_groups();
        picker
    }

    /// Another peer's slice, for pools that have an aperture; round robin starts over.
    #[must_use]
    pub fn for_peer(&self, peer: u32, seed: u64) -> Picker {
        let mut picker = self.clone();
        if let Some(aperture) = &mut picker.options.aperture {
            aperture.peer = peer;
        }
        picker.for_shard(seed)
    }

    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    #[must_use]
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// New weights, of as many servers as there are now. Round robin starts over at a random server; latencies
    /// and slow starts go on.
    pub fn set_weights(&mut self, weights: &[u32]) {
        if self.servers.iter().map(|server| &server.weight).eq(weights) {
            return;
        }
        self.servers.truncate(weights.len());
        for (server, weight) in self.servers.iter_mut().zip(weights) {
            server.weight = *weight;
        }
        self.build();
    }

    /// `server` has been up since then and is to be loaded slowly. Not for servers that were up from the start.
    pub fn set_up_since(&mut self, server: usize, since: Millis) {
        self.warmth.set_up_since(server, since);
    }

    /// An answer or a failure of `server`, after `latency_us`; only `peak-ewma` listens.
    pub fn observe(&mut self, server: usize, latency_us: u64, ok: bool, now_us: u64) {
        self.latencies.observe(server, latency_us, ok, now_us);
    }

    /// Picks a server. `load` is the number of connections (or requests) it has, `None` when it cannot be used
    /// now (down, full, tried already). `None` when no server of weight above 0 can be used.
    pub fn pick(&mut self, ask: Ask, load: impl Fn(usize) -> Option<u32>) -> Option<usize> {
        match ask.key {
            Some(key) if self.table.is_some() => self.pick_by_key(key, ask.now, &load),
            _ => self.pick_from_groups(ask.now, &load),
        }
    }

    fn pick_by_key(&mut self, key: u64, now: Millis, load: &impl Fn(usize) -> Option<u32>) -> Option<usize> {
        let percent = self.options.bound_percent;
        if percent > 0 {
            self.census.refresh(now, &self.servers, None, load);
        }
        let (servers, census) = (self.servers.as_slice(), &self.census);
        let has_room = |server: usize| {
            let Some(load) = load(server) else { return false };
            percent == 0 || servers.get(server).is_some_and(|own| census.has_room(percent, load, own.weight))
        };
        let found = self.table.as_ref().and_then(|table| table.find(key, has_room));
        let found = found.or_else(|| rendezvous(key, servers, has_room));
        // Over the bound everywhere only by a census that is out of date.
        found.or_else(|| rendezvous(key, servers, |server| load(server).is_some()))
    }

    fn pick_from_groups(&mut self, now: Millis, load: &impl Fn(usize) -> Option<u32>) -> Option<usize> {
        let stays = self.stays_in_zone(now, load);
        let sky = Sky { warmth: &self.warmth, latencies: &self.latencies, now };
        let (preferred, others) = (self.preferred.as_mut_slice(), self.others.as_mut_slice());
        let (first, then) = if stays { (preferred, others) } else { (others, preferred) };
        first.iter_mut().chain(then).find_map(|group| group.pick(&mut self.random, &sky, load))
    }

    fn stays_in_zone(&mut self, now: Millis, load: &impl Fn(usize) -> Option<u32>) -> bool {
        if self.others.is_empty() {
            return true;
        }
        self.census.refresh(now, &self.servers, self.options.zone, load);
        self.random.chance(self.census.zone_keeps(self.zones), 1000)
    }

    fn build(&mut self) {
        self.table = match self.algorithm {
            Algorithm::RingHash => Some(Table::ring(&self.servers)),
            Algorithm::Maglev => Some(Table::maglev(&self.servers, self.options.maglev_slots)),
            _ => None,
        };
        self.build_groups();
    }

    fn build_groups(&mut self) {
        self.zones = count_zones(&self.servers);
        self.census = Census::default();
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for (place, server) in self.servers.iter().enumerate() {
            let member = Member { server: place as u32, share: server.weight, capacity: server.weight };
            let is_other = self.options.zone.is_some_and(|zone| zone != server.zone);
            if is_other { others.push(member) } else { own.push(member) }
        }
        (self.preferred, self.others) = (self.groups(own), self.groups(others));
    }

    /// The slice and, in case none of it can be used, the rest.
    fn groups(&mut self, members: Vec<Member>) -> Vec<Group> {
        let (inside, outside) = match &self.options.aperture {
            // A key belongs to the same server for all peers.
            Some(aperture) if !self.algorithm.is_keyed() => {
                let ids: Vec<u64> = self.servers.iter().map(|server| server.id).collect();
                aperture::split(members, &ids, aperture)
            }
            _ => (members, Vec::new()),
        };
        let lists = [inside, outside].into_iter().filter(|members| !members.is_empty());
        lists.map(|members| Group::new(self.algorithm, members, &mut self.random)).collect()
    }
}

fn count_zones(servers: &[Server]) -> u32 {
    let mut zones: Vec<u16> =
        servers.iter().filter(|server| server.weight > 0).map(|server| server.zone).collect();
    zones.sort_unstable();
    zones.dedup();
    zones.len() as u32
}
