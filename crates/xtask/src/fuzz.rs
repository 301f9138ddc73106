//! `cargo xtask fuzz`: the targets under `fuzz/`, with the toolchain that there is.
//!
//! libFuzzer needs coverage counters in the code, which LLVM puts there for any toolchain; what needs a nightly one are the
//! address sanitizer, of little use to crates that forbid `unsafe`, and a standard library with counters.

use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Of `cargo xtask test`, for each target.
pub const SECONDS_SHORT: u32 = 10;
const SECONDS: u32 = 600;
const INPUT_BYTES_MAX: u32 = 2048;
const RSS_MB_MAX: u32 = 1024;

/// What `cargo fuzz` would say, but for the sanitizer.
const FLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
    "-Ccodegen-units=1",
];

pub fn run(words: &[&str]) -> Result<()> {
    let (mut wanted, mut seconds) = (Vec::new(), SECONDS);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--seconds" => {
                seconds = words.next().and_then(|text| text.parse().ok()).context("--seconds N")?
            }
            flag if flag.starts_with('-') => bail!("unknown flag {flag}; known: --seconds"),
            target => wanted.push(target),
        }
    }
    all(&wanted, seconds)
}

/// Builds every target and runs those named, or all, one after the other.
pub fn all(wanted: &[&str], seconds: u32) -> Result<()> {
    let targets = targets()?;
    if let Some(unknown) = wanted.iter().find(|name| !targets.iter().any(|target| target == *name)) {
        bail!("no fuzz target {unknown}; known: {}", targets.join(" "));
    }
    let programs = build()?;
    for target in targets.iter().filter(|target| wanted.is_empty() || wanted.contains(&target.as_str())) {
        fuzz(target, &programs.join(target), seconds)?;
    }
    Ok(())
}

fn targets() -> Result<Vec<String>> {
    let folder = workspace::root().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let name = |entry: fs::DirEntry| Some(entry.path().file_stem()?.to_str()?.to_owned());
    let mut targets: Vec<String> = entries.filter_map(Result::ok).filter_map(name).collect();
    targets.sort();
    Ok(targets)
}

fn folder() -> PathBuf {
    workspace::target_dir().join("fuzz")
}

/// Where the programs are. That a target is named keeps the flags away from build scripts, which have no libFuzzer to link.
fn build() -> Result<PathBuf> {
    let host = host()?;
    let mut command = Command::new("cargo");
    command.args(["build", "--quiet", "--locked", "--release", "--target", &host, "--target-dir"]);
    command.arg(folder()).current_dir(workspace::root().join("fuzz"));
    command.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f")).stdin(Stdio::null());
    let status = command.status().context("cargo build")?;
    ensure!(status.success(), "the fuzz targets do not build: {status}");
    Ok(folder().join(host).join("release"))
}

fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("rustc -vV")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// New inputs are kept under `target/fuzz`, beside those of the repository, which are not touched.
fn fuzz(target: &str, program: &PathBuf, seconds: u32) -> Result<()> {
    let found = folder().join("corpus").join(target);
    fs::create_dir_all(&found)?;
    let mut command = Command::new(program);
    command.arg(&found).arg(workspace::root().join("fuzz/corpus").join(target));
    command.arg(format!("-artifact_prefix={}/{target}-", folder().display()));
    command.args([
        format!("-max_total_time={seconds}"),
        format!("-max_len={INPUT_BYTES_MAX}"),
        format!("-rss_limit_mb={RSS_MB_MAX}"),
    ]);
    let output = command.stdin(Stdio::null()).output().with_context(|| program.display().to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprintln!("{said}");
        bail!("{target}: {}; the input is in {}", output.status, folder().display());
    }
    ensure!(said.contains(" inline 8-bit counters"), "{target} has no coverage counters:\n{said}");
    let done = said.lines().find(|line| line.starts_with("Done ")).context("libFuzzer tells no end")?;
    let seed = said.lines().find_map(|line| line.strip_prefix("INFO: Seed: ")).unwrap_or("unknown");
    println!("{target:<9} {}, seed {seed}, nothing found", done.trim_start_matches("Done "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_a_corpus_and_a_name_in_the_manifest() {
        let manifest = fs::read_to_string(workspace::root().join("fuzz/Cargo.toml")).unwrap();
        let targets = targets().unwrap();
        assert!(!targets.is_empty());
        for target in targets {
            let corpus = workspace::root().join("fuzz/corpus").join(&target);
            assert!(fs::read_dir(&corpus).unwrap().next().is_some(), "{target}");
            assert!(manifest.contains(&format!("name = \"{target}\"")), "{target}");
        }
        assert!(run(&["nothing"]).unwrap_err().to_string().contains("nothing"));
        assert!(run(&["--fast"]).is_err() && run(&["--seconds", "x"]).is_err());
    }
}
