//! Latencies with a memory for the worst (Finagle's and Linkerd's peak EWMA).
//!
//! Owns: per server an exponentially weighted moving average that follows a rise at once and forgets it slowly.
//! Refuses to believe in quick failures: a server that fails fast is not a fast server.

/// After this long an observation still counts for 1/e.
const DECAY_US: f64 = 10_000_000.0;
/// Nor does it decay below this part of what the pool usually takes: a server that has not been used for long is
/// tried again, whatever it was, and not flooded.
const DECAYED_PART: f64 = 0.1;
/// A failure counts as this many times what the server costs already...
const FAILURE_FACTOR: f64 = 10.0;
/// ...but as no more than this, unless it really took longer.
const FAILURE_US_MAX: f64 = 1_000_000.0;

#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    servers: Vec<Option<Average>>,
    /// Mean of the last answers of all servers: what one is believed to be of which nothing is known.
    usual_us: f64,
    answers: u32,
}

/// Answers that the mean of the pool remembers.
const ANSWERS_MAX: u32 = 256;

#[derive(Clone, Copy, Debug)]
struct Average {
    latency_us: f64,
    at_us: u64,
}

impl Latencies {
    pub fn new(servers: usize) -> Latencies {
        Latencies { servers: vec![None; servers], usual_us: 0.0, answers: 0 }
    }

    pub fn observe(&mut self, server: usize, latency_us: u64, ok: bool, now_us: u64) {
        let Some(average) = self.servers.get_mut(server) else { return };
        let before = average.map_or(self.usual_us, |average| average.at(now_us));
        let latency_us = match ok {
            true => latency_us as f64,
            false => (latency_us as f64).max((before * FAILURE_FACTOR).min(FAILURE_US_MAX)),
        };
        *average = Some(Average::after(*average, latency_us, now_us));
        if ok {
            self.answers = (self.answers + 1).min(ANSWERS_MAX);
            self.usual_us += (latency_us - self.usual_us) / f64::from(self.answers);
        }
    }

    /// What one more request would cost: the latency, once for what is in flight already and once for itself.
    pub fn cost(&self, server: usize, load: f64, now_us: u64) -> f64 {
        let latency_us = match self.servers.get(server).copied().flatten() {
            Some(own) => own.at(now_us).max(own.latency_us.min(self.usual_us * DECAYED_PART)),
            None => self.usual_us,
        };
        latency_us.max(1.0) * (load + 1.0)
    }
}

impl Average {
    /// An old observation decays towards nothing, so that a server once slow is tried again.
    fn at(self, now_us: u64) -> f64 {
        self.latency_us * (-(now_us.saturating_sub(self.at_us) as f64) / DECAY_US).exp()
    }

    fn after(before: Option<Average>, latency_us: f64, now_us: u64) -> Average {
        let Some(before) = before else { return Average { latency_us, at_us: now_us } };
        let at_us = now_us.max(before.at_us);
        if latency_us > before.latency_us {
            return Average { latency_us, at_us };
        }
        let keep = (-((at_us - before.at_us) as f64) / DECAY_US).exp();
        Average { latency_us: before.latency_us * keep + latency_us * (1.0 - keep), at_us }
    }
}
