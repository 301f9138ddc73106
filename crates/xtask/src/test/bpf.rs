//! The kernel programs under `bpf/`: that the committed object is what a compiler makes of the source.
//!
//! Another major version of clang makes other bytes of the same meaning; then there is nothing to compare, and the step says so.

use super::step::Outcome;
use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Which clang the committed object is from; Debian 12's.
const CLANG_MAJOR: &str = "14";
const PROGRAMS: &[&str] = &["splice"];

pub fn check() -> Result<Outcome> {
    let Some(major) = clang_major() else {
        return Ok(Outcome::Skipped("there is no clang: `apt-get install clang`".into()));
    };
    if major != CLANG_MAJOR {
        return Ok(Outcome::Skipped(format!("clang {major}; the committed objects are from {CLANG_MAJOR}")));
    }
    for program in PROGRAMS {
        let committed = workspace::root().join(format!("bpf/{program}.bpf.o"));
        let fresh = workspace::target_dir().join(format!("{program}.bpf.o"));
        compile(program, &fresh)?;
        let same =
            fs::read(&committed).with_context(|| committed.display().to_string())? == fs::read(&fresh)?;
        ensure!(
            same,
            "bpf/{program}.bpf.o is not what bpf/{program}.bpf.c says: `cargo xtask bpf` makes it anew"
        );
    }
    Ok(Outcome::Done)
}

/// Makes the objects anew.
pub fn build() -> Result<()> {
    let major = clang_major().context("clang is needed: `apt-get install clang`")?;
    if major != CLANG_MAJOR {
        bail!("clang {CLANG_MAJOR} is needed, so that everybody gets the same bytes; this is {major}");
    }
    PROGRAMS
        .iter()
        .try_for_each(|program| compile(program, &workspace::root().join(format!("bpf/{program}.bpf.o"))))
}

/// In the root of the tree and with its name taken out, so that the object does not depend on where that is.
fn compile(program: &str, object: &Path) -> Result<()> {
    let root = workspace::root();
    let status = Command::new("clang")
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        .arg(format!("-fdebug-prefix-map={}=.", root.display()))
        .arg("-c")
        .arg(format!("bpf/{program}.bpf.c"))
        .arg("-o")
        .arg(object)
        .current_dir(root)
        .status()
        .context("clang")?;
    ensure!(status.success(), "bpf/{program}.bpf.c does not compile");
    Ok(())
}

/// Of `clang -dumpversion`, such as 14.0.6.
fn clang_major() -> Option<String> {
    let output = Command::new("clang").arg("-dumpversion").output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    Some(version.trim().split('.').next()?.to_owned())
}
