//! A small world with virtual time: clients that arrive at random, servers that work one request after the other.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fourfold_balance::{Ask, Picker};
use fourfold_base::prng::Prng;

/// Microseconds that a request takes on average, per server.
pub struct World {
    pub service_us: Vec<f64>,
    /// Part of what all servers together can do that is asked of them.
    pub utilisation: f64,
    pub requests: usize,
    pub seed: u64,
}

pub struct Seen {
    latencies_us: Vec<u64>,
    pub per_server: Vec<usize>,
}

impl Seen {
    pub fn mean_us(&self) -> f64 {
        self.latencies_us.iter().sum::<u64>() as f64 / self.latencies_us.len() as f64
    }
}

impl World {
    pub fn run(&self, picker: &mut Picker) -> Seen {
        self.play(|now_us, loads, done| {
            for (server, latency_us) in done {
                picker.observe(*server, *latency_us, true, now_us);
            }
            picker.pick(Ask { key: None, now: now_us / 1000 }, |server| Some(loads[server])).unwrap()
        })
    }

    /// Knows how fast each server is, and takes the one that would be done first.
    pub fn run_optimal(&self) -> Seen {
        self.play(|_, loads, _| {
            let delay = |server: &usize| (f64::from(loads[*server]) + 1.0) * self.service_us[*server];
            (0..loads.len()).min_by(|a, b| delay(a).total_cmp(&delay(b))).unwrap()
        })
    }

    fn play(&self, mut pick: impl FnMut(u64, &[u32], &[(usize, u64)]) -> usize) -> Seen {
        let servers = self.service_us.len();
        // Not the seed of any picker, or arrivals and draws would go together.
        let mut random = Prng::new(self.seed ^ 0x5eed_0417);
        let rate: f64 = self.service_us.iter().map(|us| 1.0 / us).sum::<f64>() * self.utilisation;
        let (mut loads, mut free_at) = (vec![0u32; servers], vec![0.0f64; servers]);
        let mut ends: BinaryHeap<Reverse<(u64, usize, u64)>> = BinaryHeap::new();
        let (mut now, mut done) = (0.0, Vec::new());
        let mut seen = Seen { latencies_us: Vec::new(), per_server: vec![0; servers] };
        for _ in 0..self.requests {
            now += exponential(&mut random, 1.0 / rate);
            done.clear();
            while let Some(Reverse((at, server, began))) =
                ends.peek().copied().filter(|end| end.0.0 as f64 <= now)
            {
                ends.pop();
                loads[server] -= 1;
                done.push((server, at - began));
            }
            let server = pick(now as u64, &loads, &done);
            loads[server] += 1;
            seen.per_server[server] += 1;
            free_at[server] = now.max(free_at[server]) + exponential(&mut random, self.service_us[server]);
            seen.latencies_us.push((free_at[server] - now) as u64);
            ends.push(Reverse((free_at[server] as u64, server, now as u64)));
        }
        seen
    }
}

fn exponential(random: &mut Prng, mean: f64) -> f64 {
    let uniform = ((random.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -mean * uniform.ln()
}
