//! `fourfold-sim`: plays seeds, prints the first failure with the way to see it again, ends with a count.
#![expect(clippy::print_stdout, reason = "a program")]

use clap::Parser;
use fourfold_sim::{Failure, Report, Scenario, run};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Events shown of a failed run, per shard.
const TRACE_EVENTS: usize = 200;

/// Plays the proxy against random worlds and checks what must always hold.
#[derive(Parser)]
struct Options {
    /// How many seeds to play.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Play this one only.
    #[arg(long)]
    seed: Option<u64>,
    /// What flows through the proxy.
    #[arg(long, value_enum, default_value = "all")]
    world: Worlds,
    /// Show the scenario and all events of each seed.
    #[arg(long)]
    trace: bool,
    /// Show what happened to the proxy in all worlds together.
    #[arg(long)]
    totals: bool,
    /// Threads; as many as there are processors unless given.
    #[arg(long)]
    jobs: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Worlds {
    Tcp,
    Http,
    /// Requests, and whatever an edge does beside.
    Edge,
    All,
}

impl Worlds {
    fn scenarios(self, seed: u64) -> impl Iterator<Item = Scenario> {
        let worlds: &[fn(u64) -> Scenario] = match self {
            Self::Tcp => &[Scenario::new],
            Self::Http => &[Scenario::http],
            Self::Edge => &[Scenario::edge],
            Self::All => &[Scenario::new, Scenario::http, Scenario::edge],
        };
        worlds.iter().map(move |world| world(seed))
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let (first, seeds) = options.seed.map_or((options.first, options.seeds), |seed| (seed, 1));
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = if options.trace { 1 } else { options.jobs.unwrap_or(processors) };
    let started = Instant::now();
    let next = AtomicU64::new(first);
    let results = Mutex::new(Results::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| play(&options, &next, first.saturating_add(seeds), &results));
        }
    });
    let results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if options.totals {
        for (name, value) in &results.totals {
            println!("{value:>12} {name}");
        }
    }
    let rate = results.passed as f64 / started.elapsed().as_secs_f64();
    let connections = results.totals.get("accepted").copied().unwrap_or(0);
    println!("{connections} connections, {} events, {rate:.0} seeds per second", results.events);
    println!("{} seeds passed, {} failed", results.passed, results.failed.len());
    ExitCode::from(u8::from(!results.failed.is_empty()))
}

#[derive(Default)]
struct Results {
    passed: u64,
    events: u64,
    totals: BTreeMap<&'static str, u64>,
    failed: Vec<u64>,
}

/// After so many failures more would tell nothing new.
const FAILURES_MAX: usize = 20;

fn play(options: &Options, next: &AtomicU64, end: u64, results: &Mutex<Results>) {
    loop {
        let seed = next.fetch_add(1, Relaxed);
        if seed >= end {
            return;
        }
        for scenario in options.world.scenarios(seed) {
            let outcome = run(&scenario, None, if options.trace { usize::MAX } else { 0 });
            let mut results = results.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            results.add(options, &scenario, outcome);
            if results.failed.len() >= FAILURES_MAX {
                return next.store(end, Relaxed);
            }
        }
    }
}

impl Results {
    fn add(&mut self, options: &Options, scenario: &Scenario, outcome: Result<Report, Box<Failure>>) {
        match outcome {
            Ok(Report { totals, events, ended_at, turns }) => {
                self.passed += 1;
                self.events += events;
                for (name, _, value) in totals.rows() {
                    *self.totals.entry(name).or_default() += value;
                }
                if options.trace {
                    println!("{scenario:#?}\nseed {}: {ended_at} ms, {turns} turns, {totals}", scenario.seed);
                }
            }
            Err(failure) => {
                let first = self.failed.is_empty();
                self.failed.push(scenario.seed);
                show(scenario, &failure, first);
            }
        }
    }
}

/// The first failure is played again to see what led to it.
fn show(scenario: &Scenario, failure: &Failure, first: bool) {
    println!("FAILED {failure}");
    if !first {
        return;
    }
    let again = run(scenario, None, TRACE_EVENTS).err();
    for line in again.iter().flat_map(|failure| &failure.trace) {
        println!("  {line}");
    }
    let Scenario { world, seed, .. } = scenario;
    println!("again: cargo run --release -p fourfold-sim -- --world {world} --seed {seed} --trace");
}
