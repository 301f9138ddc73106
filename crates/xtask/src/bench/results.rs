//! What is measured, as it is written to `benches/results`, and the arithmetic on it.
//!
//! Raw figures only: everything in the document is computed from them, so that another reading needs no new run.

use fourfold_base::prng::Prng;
use fourfold_testkit::stat::{CpuTicks, ticks_per_second};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub const FORMAT: u32 = 1;

/// What the subjects are asked to speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    #[default]
    Tcp,
    Http,
}

impl Protocol {
    /// What the files of its results begin with.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Http => "http",
        }
    }
}

/// CPU seconds of the whole machine in the measured window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    pub user: f64,
    pub nice: f64,
    pub system: f64,
    pub irq: f64,
    pub softirq: f64,
    pub idle: f64,
    pub steal: f64,
}

impl Cpu {
    pub fn from_ticks(ticks: CpuTicks) -> Cpu {
        let seconds = |ticks: u64| ticks as f64 / ticks_per_second();
        Cpu {
            user: seconds(ticks.user),
            nice: seconds(ticks.nice),
            system: seconds(ticks.system),
            irq: seconds(ticks.irq),
            softirq: seconds(ticks.softirq),
            idle: seconds(ticks.idle + ticks.iowait),
            steal: seconds(ticks.steal),
        }
    }

    pub fn busy(&self) -> f64 {
        self.user + self.nice + self.system + self.irq + self.softirq
    }
}

/// One window of one client.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Measured {
    pub operations: u64,
    pub bytes: u64,
    pub failures: u64,
    pub seconds: f64,
    pub cpu: Cpu,
    /// CPU time of client, subject and origin by the scheduler's account: finer than ticks and blind to everybody else on
    /// the machine, and to kernel threads. A cross-check.
    pub processes_seconds: f64,
    pub p50_us: u32,
    pub p99_us: u32,
}

/// One step of the scenario `hold`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Grown {
    pub held: u64,
    pub failed: u64,
    pub failures: BTreeMap<String, u64>,
    pub seconds: f64,
    pub first_tenth_us: u32,
    pub last_tenth_us: u32,
    #[serde(default)]
    pub median_us: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sample {
    pub round: u32,
    pub scenario: String,
    pub subject: String,
    #[serde(flatten)]
    pub measured: Measured,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HoldSample {
    pub round: u32,
    #[serde(default)]
    pub scenario: String,
    pub subject: String,
    /// Up to the first size, after which memory was read, and on to the full size.
    pub first: Grown,
    pub full: Grown,
    pub rss_first_bytes: u64,
    pub rss_full_bytes: u64,
}

impl HoldSample {
    /// Growth of resident memory per connection; `None` when nothing was added.
    pub fn bytes_per_connection(&self) -> Option<f64> {
        let added = self.full.held.checked_sub(self.first.held).filter(|added| *added > 0)?;
        Some((self.rss_full_bytes as f64 - self.rss_first_bytes as f64) / added as f64)
    }

    pub fn seconds(&self) -> f64 {
        self.first.seconds + self.full.seconds
    }
}

/// One source, one upstream: the whole range filled, then random closes and opens at 95 % of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FillSample {
    pub round: u32,
    pub subject: String,
    /// Churn at 5 %.
    pub baseline: Grown,
    pub filled: Grown,
    /// Churn at 95 %.
    pub churned: Grown,
}

impl FillSample {
    pub fn last_to_first_tenth(&self) -> f64 {
        f64::from(self.filled.last_tenth_us) / f64::from(self.filled.first_tenth_us.max(1))
    }
    /// The same work, on a nearly full range and on a nearly empty one.
    pub fn churn_to_baseline(&self) -> f64 {
        f64::from(self.churned.median_us) / f64::from(self.baseline.median_us.max(1))
    }
}

/// An open loop at half of what the slower of nginx and HAProxy can do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PacedSample {
    pub round: u32,
    pub subject: String,
    pub rate: f64,
    pub answered: u64,
    pub failed: u64,
    pub not_started: u64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

/// Many clients that keep their connection and ask now and then.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReuseSample {
    pub round: u32,
    pub subject: String,
    pub clients: u64,
    pub interval_s: f64,
    /// Client connections open in the end.
    pub held: u64,
    pub answered: u64,
    pub failed: u64,
    /// Connections that the origin had open at once, at most.
    pub upstream_max: u64,
    /// Connections that the origin accepted in all.
    pub upstream_made: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
}

/// What others noticed of many clients that do as little as they can.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SlowSample {
    pub round: u32,
    pub subject: String,
    pub attack: String,
    /// That stood in the end.
    pub attackers: u64,
    pub calm_p50_us: u64,
    pub calm_p99_us: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub failed: u64,
    pub rss_before_bytes: u64,
    pub rss_bytes: u64,
}

impl SlowSample {
    pub fn ratio(&self) -> f64 {
        self.p99_us as f64 / self.calm_p99_us.max(1) as f64
    }
    pub fn bytes_per_attacker(&self) -> f64 {
        self.rss_bytes.saturating_sub(self.rss_before_bytes) as f64 / self.attackers.max(1) as f64
    }
}

/// A server of two is killed or stands still.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FaultSample {
    pub round: u32,
    pub subject: String,
    pub fault: String,
    pub started: u64,
    pub not_started: u64,
    pub lost_gets: u64,
    pub lost_posts: u64,
    /// Delivered more than once.
    pub posts_twice: u64,
    pub slowest_get_us: u64,
    pub slowest_post_us: u64,
    pub p99_us: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_gib: f64,
    pub kernel: String,
    pub descriptors_hard: u64,
    pub local_ports: String,
    /// Share of the machine that was busy before anything was started.
    pub background: f64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Results {
    pub format: u32,
    #[serde(default)]
    pub protocol: Protocol,
    /// YYYY-MM-DD, UTC.
    pub date: String,
    pub commit: String,
    pub machine: Machine,
    /// What every subject says it is.
    pub versions: BTreeMap<String, String>,
    pub rounds: u32,
    pub seconds_per_window: f64,
    pub samples: Vec<Sample>,
    pub holds: Vec<HoldSample>,
    #[serde(default)]
    pub fills: Vec<FillSample>,
    #[serde(default)]
    pub paced: Vec<PacedSample>,
    #[serde(default)]
    pub reuses: Vec<ReuseSample>,
    #[serde(default)]
    pub slow: Vec<SlowSample>,
    #[serde(default)]
    pub faults: Vec<FaultSample>,
    /// What could not be measured, and why.
    pub absent: Vec<String>,
}

/// Median with the extremes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Spread { median: (low + high) / 2.0, min, max })
    }
}

/// How a scenario is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// CPU per operation beyond the direct path's: less is better.
    AddedCpu,
    /// Bytes per CPU second: more is better.
    BytesPerCpu,
}

impl Measure {
    pub fn of(scenario: &str) -> Measure {
        if scenario.starts_with("bulk") { Measure::BytesPerCpu } else { Measure::AddedCpu }
    }

    /// The better of two subjects.
    fn better(self, one: f64, other: f64) -> f64 {
        match self {
            Measure::AddedCpu => one.min(other),
            Measure::BytesPerCpu => one.max(other),
        }
    }
}

pub const DIRECT: &str = "direct";
/// The peers that ratios are against, the better of them.
const YARDSTICKS: [&str; 2] = ["nginx", "haproxy"];
/// How often the rounds are drawn again, each time as many and some more than once, to see how far chance moves a ratio.
const DRAWS: usize = 1_000;

/// Of the first column against the better other one. `min` and `max` are what nine in ten draws of the rounds lie within.
fn ratio_of_medians(rows: &[Vec<f64>], measure: Measure) -> Option<Spread> {
    let ratio = |rows: &[&Vec<f64>]| {
        let median = |column: usize| Spread::of(rows.iter().filter_map(|row| row.get(column).copied()));
        let peers = (1..rows.first()?.len()).filter_map(|column| Some(median(column)?.median));
        Some(median(0)?.median / peers.reduce(|one, other| measure.better(one, other))?)
    };
    let all: Vec<&Vec<f64>> = rows.iter().collect();
    let median = ratio(&all)?;
    let mut rng = Prng::new(1);
    let mut draw = || {
        let drawn: Vec<&Vec<f64>> =
            (0..rows.len()).filter_map(|_| all.get(rng.below(rows.len() as u32) as usize).copied()).collect();
        ratio(&drawn)
    };
    let mut drawn: Vec<f64> = (0..DRAWS).filter_map(|_| draw()).collect();
    drawn.sort_by(f64::total_cmp);
    let at = |part: f64| drawn.get((drawn.len() as f64 * part) as usize).copied();
    Some(Spread { median, min: at(0.05)?, max: at(0.95)? })
}

impl Results {
    fn sample(&self, round: u32, scenario: &str, subject: &str) -> Option<&Measured> {
        let wanted = |sample: &&Sample| {
            sample.round == round && sample.scenario == scenario && sample.subject == subject
        };
        self.samples.iter().find(wanted).map(|sample| &sample.measured)
    }

    pub fn scenarios(&self) -> Vec<&str> {
        unique(self.samples.iter().map(|sample| sample.scenario.as_str()))
    }

    pub fn subjects(&self, scenario: &str) -> Vec<&str> {
        unique(
            self.samples
                .iter()
                .filter(|sample| sample.scenario == scenario)
                .map(|sample| sample.subject.as_str()),
        )
    }

    pub fn per_round(&self, mut value: impl FnMut(u32) -> Option<f64>) -> Option<Spread> {
        Spread::of((0..self.rounds).filter_map(&mut value))
    }

    /// Microseconds of the whole machine per operation.
    pub fn cost_us(&self, round: u32, scenario: &str, subject: &str) -> Option<f64> {
        let measured = self.sample(round, scenario, subject)?;
        (measured.operations > 0).then(|| measured.cpu.busy() * 1e6 / measured.operations as f64)
    }

    /// The same by the scheduler's account of client, subject and origin.
    pub fn processes_us(&self, round: u32, scenario: &str, subject: &str) -> Option<f64> {
        let measured = self.sample(round, scenario, subject)?;
        (measured.operations > 0).then(|| measured.processes_seconds * 1e6 / measured.operations as f64)
    }

    pub fn gigabytes_per_second(&self, round: u32, scenario: &str, subject: &str) -> Option<f64> {
        self.sample(round, scenario, subject).map(|measured| measured.bytes as f64 / measured.seconds / 1e9)
    }

    /// The figure that the scenario is judged by.
    pub fn figure(&self, round: u32, scenario: &str, subject: &str) -> Option<f64> {
        match Measure::of(scenario) {
            Measure::AddedCpu => {
                Some(self.cost_us(round, scenario, subject)? - self.cost_us(round, scenario, DIRECT)?)
            }
            Measure::BytesPerCpu => {
                let measured = self.sample(round, scenario, subject)?;
                Some(measured.bytes as f64 / measured.cpu.busy())
            }
        }
    }

    /// Against the better of nginx and HAProxy.
    pub fn ratio(&self, scenario: &str, subject: &str) -> Option<Spread> {
        self.against_best(Measure::of(scenario), subject, |round, who| self.figure(round, scenario, who))
    }

    /// As [`Results::ratio`], of the whole cost, the direct path's part included: what is left to compare where a subject adds
    /// little more than noise.
    pub fn whole_ratio(&self, scenario: &str, subject: &str) -> Option<Spread> {
        self.against_best(Measure::AddedCpu, subject, |round, who| self.cost_us(round, scenario, who))
    }

    /// As [`Results::ratio`], by the scheduler's account of the processes that take part: what is left to compare when
    /// somebody else uses the machine.
    pub fn processes_ratio(&self, scenario: &str, subject: &str) -> Option<Spread> {
        let measure = Measure::of(scenario);
        self.against_best(measure, subject, |round, who| match measure {
            Measure::AddedCpu => {
                let direct = self.processes_us(round, scenario, DIRECT)?;
                Some(self.processes_us(round, scenario, who)? - direct)
            }
            Measure::BytesPerCpu => {
                let measured = self.sample(round, scenario, who)?;
                Some(measured.bytes as f64 / measured.processes_seconds)
            }
        })
    }

    /// The median of a subject's rounds against that of the better peer. A ratio of every round against whoever was better in it
    /// would hold the noise of two peers against one subject.
    fn against_best(
        &self,
        measure: Measure,
        subject: &str,
        figure: impl Fn(u32, &str) -> Option<f64>,
    ) -> Option<Spread> {
        let peers: Vec<&str> = YARDSTICKS.iter().copied().filter(|peer| figure(0, peer).is_some()).collect();
        let row = |round| -> Option<Vec<f64>> {
            std::iter::once(&subject).chain(&peers).map(|who| figure(round, who)).collect()
        };
        let rows: Vec<Vec<f64>> = (0..self.rounds).filter_map(row).collect();
        ratio_of_medians(&rows, measure)
    }

    /// Share of the machine's busy time in all windows that the measured processes cannot account for: other people's work,
    /// and what the kernel does on nobody's behalf.
    pub fn unaccounted(&self) -> f64 {
        let busy: f64 = self.samples.iter().map(|sample| sample.measured.cpu.busy()).sum();
        let ours: f64 = self.samples.iter().map(|sample| sample.measured.processes_seconds).sum();
        if busy > 0.0 { (1.0 - ours / busy).max(0.0) } else { 0.0 }
    }

    pub fn spread(
        &self,
        scenario: &str,
        subject: &str,
        value: fn(&Results, u32, &str, &str) -> Option<f64>,
    ) -> Option<Spread> {
        self.per_round(|round| value(self, round, scenario, subject))
    }

    pub fn latency(&self, scenario: &str, subject: &str, pick: fn(&Measured) -> u32) -> Option<Spread> {
        self.per_round(|round| {
            self.sample(round, scenario, subject).map(|measured| f64::from(pick(measured)))
        })
    }

    pub fn failures(&self, scenario: &str, subject: &str) -> u64 {
        let of = |sample: &&Sample| sample.scenario == scenario && sample.subject == subject;
        self.samples.iter().filter(of).map(|sample| sample.measured.failures).sum()
    }

    /// In the order of their first sample.
    pub fn hold_scenarios(&self) -> Vec<&str> {
        unique(self.holds.iter().map(|hold| hold.scenario.as_str()))
    }

    pub fn hold_subjects(&self, scenario: &str) -> Vec<&str> {
        unique(self.holds.iter().filter(|hold| hold.scenario == scenario).map(|hold| hold.subject.as_str()))
    }

    pub fn paced_subjects(&self) -> Vec<&str> {
        unique(self.paced.iter().map(|paced| paced.subject.as_str()))
    }

    pub fn paced_spread(&self, subject: &str, value: fn(&PacedSample) -> f64) -> Option<Spread> {
        Spread::of(self.paced.iter().filter(|paced| paced.subject == subject).map(value))
    }

    /// Against the better of nginx and HAProxy.
    pub fn paced_ratio(&self, subject: &str, value: fn(&PacedSample) -> f64) -> Option<Spread> {
        self.against_best(Measure::AddedCpu, subject, |round, who| {
            self.paced.iter().find(|paced| paced.round == round && paced.subject == who).map(value)
        })
    }

    pub fn fault_subjects(&self, fault: &str) -> Vec<&str> {
        unique(self.faults.iter().filter(|one| one.fault == fault).map(|one| one.subject.as_str()))
    }

    pub fn fault_spread(
        &self,
        (fault, subject): (&str, &str),
        value: fn(&FaultSample) -> f64,
    ) -> Option<Spread> {
        let ours = |one: &&FaultSample| (one.fault.as_str(), one.subject.as_str()) == (fault, subject);
        Spread::of(self.faults.iter().filter(ours).map(value))
    }

    pub fn reuse_subjects(&self) -> Vec<&str> {
        unique(self.reuses.iter().map(|reuse| reuse.subject.as_str()))
    }

    pub fn reuse_spread(&self, subject: &str, value: fn(&ReuseSample) -> f64) -> Option<Spread> {
        Spread::of(self.reuses.iter().filter(|reuse| reuse.subject == subject).map(value))
    }

    pub fn slow_subjects(&self, attack: &str) -> Vec<&str> {
        unique(self.slow.iter().filter(|slow| slow.attack == attack).map(|slow| slow.subject.as_str()))
    }

    pub fn attacks(&self) -> Vec<&str> {
        unique(self.slow.iter().map(|slow| slow.attack.as_str()))
    }

    pub fn slow_spread(&self, attack: &str, subject: &str, value: fn(&SlowSample) -> f64) -> Option<Spread> {
        let of = |slow: &&SlowSample| slow.attack == attack && slow.subject == subject;
        Spread::of(self.slow.iter().filter(of).map(value))
    }

    pub fn fill_subjects(&self) -> Vec<&str> {
        unique(self.fills.iter().map(|fill| fill.subject.as_str()))
    }

    pub fn fill_spread(&self, subject: &str, value: fn(&FillSample) -> f64) -> Option<Spread> {
        Spread::of(self.fills.iter().filter(|fill| fill.subject == subject).map(value))
    }

    pub fn hold_spread(
        &self,
        scenario: &str,
        subject: &str,
        value: fn(&HoldSample) -> Option<f64>,
    ) -> Option<Spread> {
        let wanted = |hold: &&HoldSample| hold.scenario == scenario && hold.subject == subject;
        Spread::of(self.holds.iter().filter(wanted).filter_map(value))
    }
}

fn unique<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: u32, scenario: &str, subject: &str, operations: u64, busy: f64) -> Sample {
        let measured = Measured {
            operations,
            bytes: operations * 64,
            cpu: Cpu { system: busy, ..Cpu::default() },
            ..Measured::default()
        };
        Sample { round, scenario: scenario.into(), subject: subject.into(), measured }
    }

    #[test]
    fn the_direct_path_is_subtracted_and_the_better_peer_is_the_yardstick() {
        let mut results = Results { rounds: 2, ..Results::default() };
        for round in 0..2 {
            results.samples.push(sample(round, "small", "direct", 1_000_000, 5.0));
            results.samples.push(sample(round, "small", "nginx", 1_000_000, 15.0));
            results.samples.push(sample(round, "small", "haproxy", 1_000_000, 17.0));
            results.samples.push(sample(
                round,
                "small",
                "ours",
                1_000_000,
                if round == 0 { 13.0 } else { 17.5 },
            ));
        }
        let ratio = results.ratio("small", "ours").unwrap();
        // Ours added 8 and 12.5, nginx 10 and 10.
        let close = |one: f64, other: f64| (one - other).abs() < 1e-9;
        assert!(close(ratio.min, 0.8) && close(ratio.max, 1.25) && close(ratio.median, 1.025), "{ratio:?}");
    }

    #[test]
    fn a_peer_is_not_better_for_a_lucky_round() {
        let rows: Vec<Vec<f64>> =
            [[9.0, 10.0, 20.0], [9.0, 10.0, 5.0], [9.0, 30.0, 20.0]].iter().map(|row| row.to_vec()).collect();
        assert_eq!(ratio_of_medians(&rows, Measure::AddedCpu).unwrap().median, 0.9);
        assert_eq!(ratio_of_medians(&[], Measure::AddedCpu), None);
    }

    #[test]
    fn bulk_is_bytes_per_cpu_and_more_is_better() {
        let mut results = Results { rounds: 1, ..Results::default() };
        results.samples.push(sample(0, "bulk-1", "nginx", 100, 1.0));
        results.samples.push(sample(0, "bulk-1", "haproxy", 200, 1.0));
        results.samples.push(sample(0, "bulk-1", "ours", 300, 1.0));
        assert_eq!(results.ratio("bulk-1", "ours").unwrap().median, 1.5);
    }

    #[test]
    fn a_spread_of_nothing_is_nothing() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
    }
}
