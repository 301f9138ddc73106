//! `cargo xtask tidy`: what a reviewer should not have to look for.
//!
//! Fails on a dependency that points outward, on `unsafe` or `libc` outside the seam, on a clock, a socket, a file or a
//! thread in a pure crate, and on paths of somebody's machine. Reports, without failing, the files and functions
//! that have grown off the curve: a smell to talk about, not a gate.

mod rings;
mod sizes;
mod source;
mod words;

use crate::workspace;
use anyhow::{Result, bail};
use std::fmt;
use std::path::PathBuf;

/// Beyond this the list says no more than its length does.
const FINDINGS_SHOWN_MAX: usize = 50;

/// One broken rule, where, and what to do instead.
#[derive(Debug)]
pub struct Finding {
    pub path: PathBuf,
    /// 0 when the finding is about the whole file.
    pub line: usize,
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path.display(), self.what),
            line => write!(f, "{}:{line}: {}", self.path.display(), self.what),
        }
    }
}

pub fn run() -> Result<()> {
    let metadata = workspace::members()?;
    let mut findings = rings::check(&metadata.packages);
    let files = workspace::tracked_files()?;
    let sources = source::read_all(&files)?;
    for source in &sources {
        findings.extend(source.check());
    }
    findings.extend(words::check(&files)?);
    sizes::report(&sources);
    if findings.is_empty() {
        println!("tidy: {} crates, {} Rust files, nothing to say", metadata.packages.len(), sources.len());
        return Ok(());
    }
    for finding in findings.iter().take(FINDINGS_SHOWN_MAX) {
        println!("{finding}");
    }
    if findings.len() > FINDINGS_SHOWN_MAX {
        println!("… and {} more", findings.len() - FINDINGS_SHOWN_MAX);
    }
    bail!("tidy: {} findings", findings.len())
}
