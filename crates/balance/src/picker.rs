//! Picks a server.
//!
//! Owns: weights and the state of the algorithm, for one pool on one shard.
//! Refuses: servers of weight 0 and those for which the caller's load says `None`.
//! Driven by: the proxy, once per connection attempt; it knows loads, health and what was tried already.

use fourfold_base::Millis;
use fourfold_base::prng::Prng;

use crate::algorithm::Algorithm;
use crate::draw::{Draw, below};
use crate::ewma::Latencies;
use crate::hash::mix;

/// What is known when a server is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask {
    /// Hash of what a client is told apart by ([`hash_key`](crate::hash_key)); without one the keyed algorithms
    /// pick at random by weight.
    pub key: Option<u64>,
    pub now: Millis,
}

/// Picks servers by one algorithm. Servers are the indices of the weights.
#[derive(Clone, Debug)]
pub struct Picker {
    algorithm: Algorithm,
    weights: Vec<u32>,
    random: Prng,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// All weights that are not 0 are equal: the server whose turn is next.
    Cycle {
        next: usize,
    },
    /// nginx's smooth weighted round robin: what each server is owed.
    Smooth {
        owed: Vec<i64>,
        first: usize,
    },
    LeastConnections,
    Draw(Draw),
    P2c(Draw),
    PeakEwma {
        draw: Draw,
        latencies: Latencies,
    },
    Keyed(Draw),
}

impl Picker {
    /// The seed decides the random draws and the server at which round robin begins: shards with
    /// different seeds do not all fall upon the first server after a start.
    #[must_use]
    pub fn new(algorithm: Algorithm, weights: &[u32], seed: u64) -> Picker {
        let mut random = Prng::new(seed);
        let state = State::new(algorithm, weights, &mut random);
        Picker { algorithm, weights: weights.to_vec(), random, state }
    }

    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    #[must_use]
    pub fn weights(&self) -> &[u32] {
        &self.weights
    }

    /// New weights, of as many servers as there are now. Round robin starts over at a random server.
    pub fn set_weights(&mut self, weights: &[u32]) {
        if weights == self.weights {
            return;
        }
        self.weights = weights.to_vec();
        self.state = State::new(self.algorithm, weights, &mut self.random);
    }

    /// Picks a server. `load` is the number of connections it has, `None` when it cannot be used now
    /// (down, full, tried already). `None` when no server of weight above 0 can be used.
    pub fn pick(&mut self, ask: Ask, load: impl Fn(usize) -> Option<u32>) -> Option<usize> {
        let (weights, random) = (self.weights.as_slice(), &mut self.random);
        match &mut self.state {
            State::Cycle { next } => cycle(weights, next, load),
            State::Smooth { owed, first } => smooth(weights, owed, *first, load),
            State::LeastConnections => least_connections(weights, random, load),
            State::Draw(draw) => draw.usable(weights, random, load).map(|(server, _)| server),
            State::P2c(draw) => p2c(draw, weights, random, load),
            State::PeakEwma { draw, latencies } => peak_ewma(draw, latencies, weights, random, ask, load),
            State::Keyed(draw) => match ask.key {
                Some(key) => rendezvous(key, weights, load),
                None => draw.usable(weights, random, load).map(|(server, _)| server),
            },
        }
    }

    /// An answer (or failure) of `server` after `latency_us`; only `peak-ewma` listens.
    pub fn observe(&mut self, server: usize, latency_us: u64, ok: bool, now_us: u64) {
        if let State::PeakEwma { latencies, .. } = &mut self.state {
            latencies.observe(server, latency_us, ok, now_us);
        }
    }
}

impl State {
    fn new(algorithm: Algorithm, weights: &[u32], random: &mut Prng) -> State {
        let first = below(random, weights.len() as u64) as usize;
        match algorithm {
            Algorithm::RoundRobin if all_equal(weights) => State::Cycle { next: first },
            Algorithm::RoundRobin => State::Smooth { owed: vec![0; weights.len()], first },
            Algorithm::LeastConnections => State::LeastConnections,
            Algorithm::Random => State::Draw(Draw::new(weights)),
            Algorithm::P2c => State::P2c(Draw::new(weights)),
            Algorithm::PeakEwma => {
                State::PeakEwma { draw: Draw::new(weights), latencies: Latencies::new(weights.len()) }
            }
            Algorithm::RingHash | Algorithm::Maglev => State::Keyed(Draw::new(weights)),
        }
    }
}

/// Leaving weight 0 aside.
fn all_equal(weights: &[u32]) -> bool {
    let mut used = weights.iter().filter(|weight| **weight > 0);
    let first = used.next();
    used.all(|weight| Some(weight) == first)
}

/// Every index once, beginning with `first`.
fn from(first: usize, count: usize) -> impl Iterator<Item = usize> {
    (first..count).chain(0..first)
}

fn cycle(weights: &[u32], next: &mut usize, load: impl Fn(usize) -> Option<u32>) -> Option<usize> {
    let server = from(*next, weights.len()).find(|server| weights[*server] > 0 && load(*server).is_some())?;
    *next = (server + 1) % weights.len();
    Some(server)
}

/// Each usable server is owed its weight per pick; the one that is owed most is picked and pays for
/// all. Servers that cannot be used are neither owed nor forgotten, so one that comes back is not
/// flooded. Costs one step per server.
fn smooth(
    weights: &[u32],
    owed: &mut [i64],
    first: usize,
    load: impl Fn(usize) -> Option<u32>,
) -> Option<usize> {
    let mut total = 0;
    let mut most: Option<usize> = None;
    for server in from(first, weights.len()) {
        if weights[server] == 0 || load(server).is_none() {
            continue;
        }
        owed[server] += i64::from(weights[server]);
        total += i64::from(weights[server]);
        if most.is_none_or(|most| owed[server] > owed[most]) {
            most = Some(server);
        }
    }
    let most = most?;
    owed[most] -= total;
    Some(most)
}

/// Among equals each wins with its share of their weight, so an idle pool is loaded by weight too.
fn least_connections(
    weights: &[u32],
    random: &mut Prng,
    load: impl Fn(usize) -> Option<u32>,
) -> Option<usize> {
    let mut best: Option<(usize, u32)> = None;
    let mut tied = 0;
    for (server, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0) {
        let Some(load) = load(server) else {
            continue;
        };
        let order =
            best.map(|(best, best_load)| relative(load, weights[best]).cmp(&relative(best_load, weight)));
        let wins = match order {
            None | Some(std::cmp::Ordering::Less) => {
                tied = u64::from(weight);
                true
            }
            Some(std::cmp::Ordering::Equal) => {
                tied += u64::from(weight);
                below(random, tied) < u64::from(weight)
            }
            Some(std::cmp::Ordering::Greater) => false,
        };
        if wins {
            best = Some((server, load));
        }
    }
    best.map(|(server, _)| server)
}

/// a/x < b/y as a*y < b*x, without division: the weight here is the OTHER server's.
fn relative(load: u32, other_weight: u32) -> u64 {
    u64::from(load) * u64::from(other_weight)
}

/// Two different servers by weight, the one with the lower load for its weight wins.
fn p2c(
    draw: &Draw,
    weights: &[u32],
    random: &mut Prng,
    load: impl Fn(usize) -> Option<u32>,
) -> Option<usize> {
    let (one, one_load) = draw.usable(weights, random, &load)?;
    let others = |server| if server == one { None } else { load(server) };
    match draw.usable(weights, random, others) {
        Some((two, two_load)) if relative(two_load, weights[one]) < relative(one_load, weights[two]) => {
            Some(two)
        }
        _ => Some(one),
    }
}

/// Two different servers by weight, the one that would answer sooner for its weight wins.
fn peak_ewma(
    draw: &Draw,
    latencies: &Latencies,
    weights: &[u32],
    random: &mut Prng,
    ask: Ask,
    load: impl Fn(usize) -> Option<u32>,
) -> Option<usize> {
    let (one, one_load) = draw.usable(weights, random, &load)?;
    let others = |server| if server == one { None } else { load(server) };
    let Some((two, two_load)) = draw.usable(weights, random, others) else { return Some(one) };
    let cost =
        |server: usize, load| latencies.cost(server, load, ask.now * 1000) / f64::from(weights[server]);
    Some(if cost(two, two_load) < cost(one, one_load) { two } else { one })
}

/// Highest random weight (Thaler and Ravishankar 1998): each key has its own order of the servers.
fn rendezvous(key: u64, weights: &[u32], load: impl Fn(usize) -> Option<u32>) -> Option<usize> {
    let usable = (0..weights.len()).filter(|server| weights[*server] > 0 && load(*server).is_some());
    let score = |server: usize| {
        let uniform = (mix(key, server as u64) >> 11) as f64 / (1u64 << 53) as f64;
        -f64::from(weights[server]) / uniform.max(f64::MIN_POSITIVE).ln()
    };
    usable.max_by(|one, two| score(*one).total_cmp(&score(*two)))
}
