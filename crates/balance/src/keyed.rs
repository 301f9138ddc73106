//! Consistent hashing: the same key goes to the same server, and a server that comes or goes moves few keys.
//!
//! Owns: a ring or a Maglev table. Both depend on nothing but ids and weights, so all shards and all instances
//! agree; both are shared by clones. A key whose server is unusable or full takes the next in its own order.

use std::sync::Arc;

use crate::hash::mix;
use crate::options::Server;

/// Steps from a key's place before the servers are ranked for the key instead, at a step per server.
const STEPS_MAX: usize = 64;
/// Points of a server on the ring for each unit of weight: shares are even to about one in the root of it.
const RING_POINTS: u64 = 128;
/// 2 MB.
const RING_POINTS_MAX: u64 = 1 << 18;
/// 20 MB: more is a mistake.
const MAGLEV_SLOTS_MAX: u32 = 5_000_011;

#[derive(Clone, Debug)]
pub(crate) enum Table {
    Ring(Arc<[Point]>),
    Maglev(Arc<[u32]>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Point {
    hash: u32,
    server: u32,
}

impl Table {
    /// Points are those of the id alone, so that another server's coming and going does not move them.
    pub fn ring(servers: &[Server]) -> Table {
        let servers = by_id(servers);
        let total: u64 = servers.iter().map(|(_, server)| u64::from(server.weight)).sum();
        // Halved until it fits: a small change of the weights changes nothing here.
        let halvings =
            total.saturating_mul(RING_POINTS).div_ceil(RING_POINTS_MAX).next_power_of_two().ilog2();
        let mut points = Vec::new();
        for (place, server) in servers {
            let count = (u64::from(server.weight) * RING_POINTS) >> halvings;
            let point = |n| Point { hash: (mix(server.id, n) >> 32) as u32, server: place };
            points.extend((0..count.max(1)).map(point));
        }
        points.sort_unstable();
        Table::Ring(points.into())
    }

    /// Maglev (Eisenbud and others, NSDI 2016), section 3.4: servers take slots in turn, each the next free one
    /// of its own permutation; by weight, a server sits out turns.
    pub fn maglev(servers: &[Server], slots: u32) -> Table {
        let servers = by_id(servers);
        if servers.is_empty() {
            return Table::Maglev(Arc::new([]));
        }
        let size = next_prime(slots.clamp(2, MAGLEV_SLOTS_MAX));
        let heaviest = servers.iter().map(|(_, server)| u64::from(server.weight)).max().unwrap_or(1);
        let mut seats: Vec<Seat> =
            servers.iter().map(|(place, server)| Seat::new(*place, server, size)).collect();
        let mut table = vec![u32::MAX; size as usize];
        let mut left = size;
        while left > 0 {
            for seat in &mut seats {
                seat.credit += seat.weight;
                if seat.credit >= heaviest && left > 0 {
                    seat.credit -= heaviest;
                    left -= 1;
                    seat.take(&mut table);
                }
            }
        }
        Table::Maglev(table.into())
    }

    /// The first of the key's servers that `fits`, as far as one looks.
    pub fn find(&self, key: u64, fits: impl Fn(usize) -> bool) -> Option<usize> {
        let hash = mix(key, 0);
        match self {
            Table::Ring(points) => {
                let first = points.partition_point(|point| point.hash < (hash >> 32) as u32);
                walk(points, first, |point| point.server, fits)
            }
            Table::Maglev(slots) => {
                let first = (u128::from(hash) * slots.len() as u128) >> 64;
                walk(slots, first as usize, |slot| *slot, fits)
            }
        }
    }
}

fn walk<T>(
    table: &[T],
    first: usize,
    server: impl Fn(&T) -> u32,
    fits: impl Fn(usize) -> bool,
) -> Option<usize> {
    let from_first = table.iter().skip(first).chain(table).take(STEPS_MAX.min(table.len()));
    let mut refused = None;
    for server in from_first.map(server) {
        if refused != Some(server) && fits(server as usize) {
            return Some(server as usize);
        }
        refused = Some(server);
    }
    None
}

/// Highest random weight (Thaler and Ravishankar 1998): each key ranks the servers in an order of its own.
pub(crate) fn rendezvous(key: u64, servers: &[Server], fits: impl Fn(usize) -> bool) -> Option<usize> {
    let score = |server: &Server| {
        let uniform = ((mix(key, server.id) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -f64::from(server.weight) / uniform.ln()
    };
    let fitting = servers.iter().enumerate().filter(|(place, server)| server.weight > 0 && fits(*place));
    let scored = fitting.map(|(place, server)| (place, score(server)));
    scored.max_by(|one, two| one.1.total_cmp(&two.1)).map(|(place, _)| place)
}

/// A server that is filling Maglev's table.
struct Seat {
    server: u32,
    weight: u64,
    credit: u64,
    /// Its permutation: begins here and goes on by `skip`.
    next: u32,
    skip: u32,
}

impl Seat {
    fn new(place: u32, server: &Server, size: u32) -> Seat {
        let within = |salt, bound: u32| ((u128::from(mix(server.id, salt)) * u128::from(bound)) >> 64) as u32;
        let (next, skip) = (within(0, size), within(1, size - 1) + 1);
        Seat { server: place, weight: u64::from(server.weight), credit: 0, next, skip }
    }

    /// The caller knows that there is a free slot; the size is a prime, so every slot comes by.
    fn take(&mut self, table: &mut [u32]) {
        loop {
            let slot = self.next as usize;
            self.next = ((u64::from(self.next) + u64::from(self.skip)) % table.len() as u64) as u32;
            if table[slot] == u32::MAX {
                table[slot] = self.server;
                return;
            }
        }
    }
}

/// Those with a weight, and their places, in an order that does not depend on the configuration's. The same id
/// again gets another, or the first would have all keys of both.
fn by_id(servers: &[Server]) -> Vec<(u32, Server)> {
    let weighty = servers.iter().enumerate().filter(|(_, server)| server.weight > 0);
    let mut sorted: Vec<(u32, Server)> = weighty.map(|(place, server)| (place as u32, *server)).collect();
    sorted.sort_by_key(|(place, server)| (server.id, *place));
    let mut last = None;
    let mut copies = 0;
    for (_, server) in &mut sorted {
        copies = if last == Some(server.id) { copies + 1 } else { 0 };
        last = Some(server.id);
        if copies > 0 {
            server.id = mix(server.id, u64::MAX - copies);
        }
    }
    sorted
}

fn next_prime(from: u32) -> u32 {
    let is_prime = |n: &u32| (2..).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
    (from..).find(is_prime).unwrap_or(from)
}
