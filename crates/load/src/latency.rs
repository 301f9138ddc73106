//! Histograms of microseconds and what is reported of them.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::Duration;

/// Longer times are recorded as this one.
pub const LATENCY_MAX: Duration = Duration::from_secs(3600);
const LATENCY_MAX_US: u64 = LATENCY_MAX.as_micros() as u64;

/// A histogram of microseconds, exact to the given number of digits.
pub(crate) struct Latencies(Option<Histogram<u32>>);

impl Latencies {
    pub fn new(digits: u8) -> Self {
        // Fails only for bounds and digits that make no sense.
        Self(Histogram::new_with_bounds(1, LATENCY_MAX_US, digits).ok())
    }

    pub fn record(&mut self, us: u64) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(us.max(1));
        }
    }

    pub fn add(&mut self, other: &Self) {
        if let (Some(sum), Some(other)) = (&mut self.0, &other.0) {
            // Both have the same bounds.
            let _ = sum.add(other);
        }
    }

    pub fn median(&self) -> u64 {
        self.0.as_ref().map_or(0, |histogram| histogram.value_at_quantile(0.5))
    }

    pub fn summary(&self) -> Latency {
        let Some(histogram) = &self.0 else { return Latency::default() };
        Latency {
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}

/// Microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latency {
    pub count: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

pub(crate) fn seconds(from_us: u64, to_us: u64) -> f64 {
    to_us.saturating_sub(from_us) as f64 / 1e6
}

pub(crate) fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}
