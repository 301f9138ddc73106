//! Where the workspace is and what it consists of.

use anyhow::{Context, Result};
use cargo_metadata::{Metadata, MetadataCommand, Package, TargetKind};
use std::path::{Path, PathBuf};

/// The workspace's root folder, fixed when this program was compiled: tasks work from any folder.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Where cargo puts what it builds, also when `CARGO_TARGET_DIR` says otherwise.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Tools that tasks install for themselves; removed by `cargo clean`.
pub fn tools_dir() -> PathBuf {
    target_dir().join("tools")
}

/// `cargo metadata` of the members only: no registry access, so it works without a network.
pub fn members() -> Result<Metadata> {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().context("cargo metadata")
}

pub fn has_target(package: &Package, kind: &TargetKind) -> bool {
    package.targets.iter().any(|target| target.kind.contains(kind))
}

/// Files known to git, relative to the root: the tree as a clone would see it, plus files not yet added.
pub fn tracked_files() -> Result<Vec<PathBuf>> {
    let output = std::process::Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .context("git ls-files")?;
    anyhow::ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).context("file names are not UTF-8")?;
    let mut files: Vec<PathBuf> =
        text.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect();
    files.sort();
    files.dedup();
    // A file deleted but not yet committed is still in the index.
    files.retain(|file| root().join(file).is_file());
    Ok(files)
}
