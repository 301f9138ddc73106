//! Words that may not be in the tree: absolute paths of the machine that a file was written on.

use super::Finding;
use crate::workspace;
use anyhow::{Context, Result};
use std::path::PathBuf;

/// Written in halves so that this file does not find itself.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("/wo", "rk/"), "a path of one machine: say it relative to the repository"),
    (concat!("/ho", "me/"), "a path of one machine: say it relative to the repository"),
    (concat!("/Us", "ers/"), "a path of one machine: say it relative to the repository"),
    (concat!("<<<<", "<<< "), "a merge conflict"),
];

/// Larger files are data, not text that somebody wrote.
const TEXT_BYTES_MAX: u64 = 1 << 20;

pub fn check(files: &[PathBuf]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for path in files {
        let whole = workspace::root().join(path);
        let size = whole.metadata().with_context(|| path.display().to_string())?.len();
        if size > TEXT_BYTES_MAX {
            continue;
        }
        let bytes = std::fs::read(&whole).with_context(|| path.display().to_string())?;
        // Not UTF-8: not prose of ours.
        if let Ok(text) = std::str::from_utf8(&bytes) {
            findings.extend(check_text(text).map(|(line, what)| Finding { path: path.clone(), line, what }));
        }
    }
    Ok(findings)
}

fn check_text(text: &str) -> impl Iterator<Item = (usize, String)> {
    let lines = text.lines().enumerate();
    lines.flat_map(|(index, line)| {
        let hits = FORBIDDEN.iter().filter(move |(word, _)| line.contains(word));
        hits.map(move |(word, why)| (index + 1, format!("`{word}`: {why}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_line() {
        let text = format!("one\nsee {}notes\n", concat!("/wo", "rk/"));
        let found: Vec<usize> = check_text(&text).map(|(line, _)| line).collect();
        assert_eq!(found, [2]);
        assert_eq!(check_text("a work of art, at work / at rest").count(), 0);
    }
}
