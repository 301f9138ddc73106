//! `cargo xtask test`: everything that CI runs, in the order in which it is cheapest to fail.
//!
//! Every step has a name and a time. The first failure stops the run and is repeated in the closing lines, so that the
//! end of a log says what happened.

mod advisories;
mod bpf;
mod count;
mod install;
mod step;

use crate::{envoy, fuzz, tidy, workspace};
use anyhow::{Result, bail};
use cargo_metadata::{DependencyKind, Metadata, TargetKind};
use std::process::Command;
use step::{Outcome, Steps};

/// Simulator seeds: enough to meet every kind of fault in CI; ten thousand and more are for a night.
const SEEDS: u32 = 500;
const SEEDS_QUICK: u32 = 50;

/// Cases per property in their step, where the unit tests run each with proptest's default of 256.
const PROPERTY_CASES: u32 = 4_096;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Say what is missing instead of installing it.
    no_install: bool,
    /// Only what takes a minute or two: no release build, nothing end to end, no fuzz.
    quick: bool,
}

impl Options {
    fn parse(flags: &[&str]) -> Result<Options> {
        let mut options = Options::default();
        for flag in flags {
            match *flag {
                "--no-install" => options.no_install = true,
                "--quick" => options.quick = true,
                other => bail!("unknown flag {other}; known: --no-install --quick"),
            }
        }
        Ok(options)
    }
}

pub fn run(flags: &[&str]) -> Result<()> {
    let options = Options::parse(flags)?;
    let tools = install::prepare(!options.no_install);
    let members = workspace::members()?;
    let mut steps = Steps::new();
    let outcome = run_steps(&mut steps, options, &tools, &members);
    steps.close(&tools);
    outcome
}

fn run_steps(steps: &mut Steps, options: Options, tools: &install::Tools, members: &Metadata) -> Result<()> {
    steps.run("format", || command("cargo", &["fmt", "--all", "--check"]))?;
    steps.run("clippy", || {
        command("cargo", &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])
    })?;
    steps.run("tidy", || tidy::run().map(|()| Outcome::Done))?;
    steps.run("dependencies", || advisories::check(tools))?;
    steps.run("bpf", bpf::check)?;
    steps.run("unit tests", unit_tests)?;
    if !options.quick {
        steps.run("release build", || command("cargo", &["build", "--release", "--package", "fourfold"]))?;
        steps.run("end-to-end tests", || end_to_end(members, tools))?;
    }
    steps.run("simulator", || simulate(members, if options.quick { SEEDS_QUICK } else { SEEDS }))?;
    if !options.quick {
        steps.run("properties", || properties(members))?;
        steps.run("fuzz", || fuzz_short(tools))?;
    }
    Ok(())
}

/// Everything but the end-to-end tests, which want the release build.
fn unit_tests() -> Result<Outcome> {
    let libraries = count::cargo_test(&["--workspace", "--exclude", "fourfold"], &[])?;
    let program = count::cargo_test(&["--package", "fourfold", "--bins"], &[])?;
    Ok(Outcome::Tests(libraries + program))
}

/// In release: what users run is what is tested. The tests take turns by themselves where they must.
fn end_to_end(members: &Metadata, tools: &install::Tools) -> Result<Outcome> {
    let Some(program) = members.packages.iter().find(|package| package.name == "fourfold") else {
        bail!("the package fourfold is gone");
    };
    if !workspace::has_target(program, &TargetKind::Test) {
        return Ok(Outcome::Skipped("there are none yet".into()));
    }
    let binary = workspace::target_dir().join("release/fourfold");
    let mut environment =
        vec![("FOURFOLD_BIN", binary.display().to_string()), ("RUST_TEST_THREADS", "1".into())];
    if tools.missing.is_empty() && tools.root {
        // Everything is here, so a test that skips itself hides something.
        environment.push(("FOURFOLD_NO_SKIP", "1".into()));
    }
    count::cargo_test(&["--release", "--no-fail-fast", "--package", "fourfold", "--test", "*"], &environment)
        .map(Outcome::Tests)
}

fn simulate(members: &Metadata, seeds: u32) -> Result<Outcome> {
    let runnable = members
        .packages
        .iter()
        .any(|package| package.name == "fourfold-sim" && workspace::has_target(package, &TargetKind::Bin));
    if !runnable {
        return Ok(Outcome::Skipped("the simulator is not a program yet".into()));
    }
    let seeds = seeds.to_string();
    command("cargo", &["run", "--quiet", "--release", "--package", "fourfold-sim", "--", "--seeds", &seeds])
}

/// The property tests again, with many more cases. Crates without properties are left out.
fn properties(members: &Metadata) -> Result<Outcome> {
    let with_properties = members.packages.iter().filter(|package| {
        let mut development =
            package.dependencies.iter().filter(|dependency| dependency.kind == DependencyKind::Development);
        development.any(|dependency| dependency.name == "proptest")
    });
    let mut arguments = Vec::new();
    for package in with_properties {
        arguments.extend(["--package", package.name.as_str()]);
    }
    if arguments.is_empty() {
        return Ok(Outcome::Skipped("no crate has property tests".into()));
    }
    arguments.push("--tests");
    count::cargo_test(&arguments, &[("PROPTEST_CASES", PROPERTY_CASES.to_string())]).map(Outcome::Tests)
}

/// Every target for a few seconds, from its corpus on: enough to see that targets work and that nothing lies near. Longer
/// runs are `cargo xtask fuzz`.
fn fuzz_short(tools: &install::Tools) -> Result<Outcome> {
    if !tools.cxx {
        return Ok(Outcome::Skipped("libFuzzer needs a C++ compiler".into()));
    }
    fuzz::all(&[], fuzz::SECONDS_SHORT)?;
    Ok(Outcome::Done)
}

/// Makes the objects under `bpf/` anew.
pub fn build_bpf() -> Result<()> {
    bpf::build()
}

/// Writes `docs/design/2026-11-21-http1-differences.md` anew.
pub fn compare_http() -> Result<()> {
    envoy::find_or_install()?;
    let test = [
        "test",
        "--release",
        "--package",
        "fourfold",
        "--test",
        "e2e",
        "--",
        "--ignored",
        "differences_are_written_down",
    ];
    command("cargo", &test).map(|_| ())
}

fn command(program: &str, arguments: &[&str]) -> Result<Outcome> {
    step::succeed(Command::new(program).args(arguments).current_dir(workspace::root()))?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags() {
        assert_eq!(Options::parse(&["--quick"]).unwrap(), Options { quick: true, no_install: false });
        assert!(Options::parse(&["--fast"]).unwrap_err().to_string().contains("--fast"));
    }
}
