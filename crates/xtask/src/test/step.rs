//! Named, timed steps and the summary at the end.

use super::count::Tally;
use super::install::Tools;
use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub enum Outcome {
    Done,
    Tests(Tally),
    /// Why nothing was done.
    Skipped(String),
}

struct Record {
    name: &'static str,
    took: Duration,
    result: Result<Outcome, String>,
}

pub struct Steps {
    began: Instant,
    records: Vec<Record>,
}

impl Steps {
    pub fn new() -> Steps {
        Steps { began: Instant::now(), records: Vec::new() }
    }

    pub fn run(&mut self, name: &'static str, work: impl FnOnce() -> Result<Outcome>) -> Result<()> {
        println!("\n== {name}");
        let began = Instant::now();
        let result = work().with_context(|| format!("step `{name}`"));
        let took = began.elapsed();
        let (record, verdict) = match result {
            Ok(outcome) => (Ok(outcome), Ok(())),
            Err(error) => (Err(format!("{error:#}")), Err(error)),
        };
        self.records.push(Record { name, took, result: record });
        verdict
    }

    /// Prints what happened; the last lines of a log are the ones that are read.
    pub fn close(&self, tools: &Tools) {
        println!("\n== summary");
        let mut tests = Tally::default();
        let mut failed_steps = 0;
        for record in &self.records {
            let what = match &record.result {
                Ok(Outcome::Done) => "passed".to_string(),
                Ok(Outcome::Tests(tally)) => {
                    tests = tests + *tally;
                    format!("passed ({} tests)", tally.passed)
                }
                Ok(Outcome::Skipped(why)) => format!("skipped: {why}"),
                Err(error) => {
                    failed_steps += 1;
                    format!("FAILED: {error}")
                }
            };
            println!("{:<18} {:>6.1} s  {what}", record.name, record.took.as_secs_f64());
        }
        for line in &tools.missing {
            println!("missing: {line}");
        }
        println!("{:<18} {:>6.1} s", "total", self.began.elapsed().as_secs_f64());
        println!("steps: {} passed, {failed_steps} failed", self.records.len() - failed_steps);
        // A step that failed without a test having failed (a build, say) still must not read as success.
        println!("{} passed, {} failed", tests.passed, failed_steps);
    }
}

/// Runs a command to its end with our own output; a failure names the command.
pub fn succeed(command: &mut Command) -> Result<()> {
    let line = describe(command);
    let status = command.stdin(Stdio::null()).status().with_context(|| line.clone())?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}

pub fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
