//! Servers that do so much worse than the rest of the pool that they are left alone for a while.
//!
//! Judged once an interval, by what each answered in it, against the median of the pool: a median is not moved
//! by the very servers that are to be found. Pure arithmetic; the machine owns the ejections.

use super::board::Counts;

/// Errors one after the other that eject a server; 0: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streaks {
    /// Of any kind.
    pub errors: u16,
    /// 502, 503, 504, no answer, or unreachable.
    pub gateway_errors: u16,
    pub unreachable: u16,
}

impl Default for Streaks {
    /// Envoy's five, for all.
    fn default() -> Self {
        Streaks { errors: 5, gateway_errors: 5, unreachable: 5 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EjectionRules {
    /// The first time; twice as long each time that it happens again...
    pub base_ms: u64,
    /// ...up to this.
    pub max_ms: u64,
    /// Of the pool, at once. One server can always be ejected, if the pool has another.
    pub max_percent: u32,
    /// How often servers are compared. A server that was used for as long has one of its ejections forgiven.
    pub interval_ms: u64,
}

impl Default for EjectionRules {
    fn default() -> Self {
        EjectionRules { base_ms: 30_000, max_ms: 300_000, max_percent: 10, interval_ms: 10_000 }
    }
}

/// Ejects whose part of good answers is lower than the median by so many percentage points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuccessRules {
    pub points: u32,
    pub requests_min: u32,
    pub servers_min: u32,
}

impl Default for SuccessRules {
    fn default() -> Self {
        SuccessRules { points: 20, requests_min: 100, servers_min: 3 }
    }
}

/// Ejects whose mean latency is so many times the median, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencyRules {
    pub percent: u32,
    pub requests_min: u32,
    pub servers_min: u32,
}

impl Default for LatencyRules {
    fn default() -> Self {
        LatencyRules { percent: 400, requests_min: 100, servers_min: 3 }
    }
}

/// Why a server was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    Errors,
    GatewayErrors,
    Unreachable,
    SuccessRate,
    Latency,
}

/// The outliers among the servers, the worst first.
pub(super) fn by_success(rules: &SuccessRules, counts: &[Counts]) -> Vec<usize> {
    let permille = |counts: &Counts| counts.good * 1000 / counts.total();
    let rates = measured(counts, rules.requests_min, Counts::total, permille);
    let Some(median) = median(&rates, rules.servers_min) else { return Vec::new() };
    let bar = median.saturating_sub(u64::from(rules.points) * 10);
    let mut low: Vec<(u64, usize)> = rates.into_iter().filter(|(rate, _)| *rate < bar).collect();
    low.sort_unstable();
    low.into_iter().map(|(_, server)| server).collect()
}

/// The outliers among the servers, the worst first.
pub(super) fn by_latency(rules: &LatencyRules, counts: &[Counts]) -> Vec<usize> {
    let mean_us = |counts: &Counts| counts.latency_us / counts.good;
    let means = measured(counts, rules.requests_min, |counts| counts.good, mean_us);
    let Some(median) = median(&means, rules.servers_min) else { return Vec::new() };
    let bar = median.saturating_mul(u64::from(rules.percent.max(100))) / 100;
    let mut slow: Vec<(u64, usize)> = means.into_iter().filter(|(mean, _)| *mean > bar).collect();
    slow.sort_unstable();
    slow.into_iter().rev().map(|(_, server)| server).collect()
}

/// Of the servers with enough requests.
fn measured(
    counts: &[Counts],
    requests_min: u32,
    requests: impl Fn(Counts) -> u64,
    measure: impl Fn(&Counts) -> u64,
) -> Vec<(u64, usize)> {
    let enough = |counts: &Counts| requests(*counts) >= u64::from(requests_min.max(1));
    let servers = counts.iter().enumerate().filter(|(_, counts)| enough(counts));
    servers.map(|(server, counts)| (measure(counts), server)).collect()
}

fn median(measured: &[(u64, usize)], servers_min: u32) -> Option<u64> {
    if measured.len() < servers_min.max(1) as usize {
        return None;
    }
    let mut values: Vec<u64> = measured.iter().map(|(value, _)| *value).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}
