//! `cargo deny`: licences, bans and sources always, advisories when their database can be reached.

use super::install::Tools;
use super::step::{Outcome, succeed};
use crate::workspace;
use anyhow::{Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};

pub fn check(tools: &Tools) -> Result<Outcome> {
    let Some(deny) = &tools.deny else {
        return Ok(Outcome::Skipped("cargo-deny is not installed".into()));
    };
    succeed(&mut deny_check(deny, &["bans", "licenses", "sources"]))?;
    if !fetched(deny) {
        println!("ADVISORIES SKIPPED: the advisory database could not be fetched (no network?)");
        return Ok(Outcome::Done);
    }
    if let Err(error) = succeed(&mut deny_check(deny, &["--disable-fetch", "advisories"])) {
        bail!("an advisory applies, see above ({error})");
    }
    Ok(Outcome::Done)
}

/// Fetching is tried apart from checking, so that "no network" is not mistaken for "vulnerable" or the other way round.
fn fetched(deny: &Path) -> bool {
    let mut command = Command::new(deny);
    command.args(["fetch", "db"]).current_dir(workspace::root());
    // git must not wait for a password that nobody types.
    command.env("GIT_TERMINAL_PROMPT", "0").stdin(Stdio::null());
    command.output().is_ok_and(|output| output.status.success())
}

fn deny_check(deny: &Path, what: &[&str]) -> Command {
    let mut command = Command::new(deny);
    command
        .args(["--all-features", "check", "--hide-inclusion-graph"])
        .args(what)
        .current_dir(workspace::root());
    command
}
