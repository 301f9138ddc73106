//! Runs `cargo test` and counts: the output is passed through, its result lines are added up.

use super::step::describe;
use crate::workspace;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::ops::Add;
use std::process::{Command, Stdio};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: u32,
    pub failed: u32,
}

impl Add for Tally {
    type Output = Tally;

    fn add(self, other: Tally) -> Tally {
        Tally { passed: self.passed + other.passed, failed: self.failed + other.failed }
    }
}

pub fn cargo_test(arguments: &[&str], environment: &[(&str, String)]) -> Result<Tally> {
    let mut command = Command::new("cargo");
    command.arg("test").args(arguments).current_dir(workspace::root());
    command.envs(environment.iter().map(|(key, value)| (key, value)));
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().with_context(|| describe(&command))?;
    let mut tally = Tally::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line.context("reading the output of cargo test")?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            tally = tally + parse(&line).unwrap_or_default();
        }
    }
    let status = child.wait().context("cargo test")?;
    if !status.success() {
        bail!("{}: {status}, {} tests failed", describe(&command), tally.failed);
    }
    Ok(tally)
}

/// `test result: ok. 12 passed; 0 failed; 1 ignored; …`
fn parse(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |word: &str| {
        let part = counts.split("; ").find_map(|part| part.strip_suffix(word))?;
        part.trim().parse().ok()
    };
    Some(Tally { passed: count(" passed")?, failed: count(" failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_understood() {
        let line = "test result: FAILED. 10 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        assert_eq!(parse(line), Some(Tally { passed: 10, failed: 2 }));
        assert_eq!(parse("test picker::fair ... ok"), None);
    }
}
