//! `docs/` is generated from the table of keys, in part, and must not be stale.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail loudly")]

use std::fs;
use std::path::{Path, PathBuf};

use fourfold_config::{json_schema, key_reference, parse};

const BEGIN: &str = "<!-- keys: generated, do not edit -->\n";
const END: &str = "<!-- end of keys -->\n";

fn docs(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(file)
}

fn updating() -> bool {
    std::env::var_os("UPDATE").is_some()
}

#[test]
fn the_schema_is_fresh() {
    let path = docs("schema/fourfold.schema.json");
    let want = json_schema();
    if updating() {
        fs::write(&path, format!("{}\n", serde_json::to_string_pretty(&want).unwrap())).unwrap();
    }
    // By value: the order of an object's members depends on which features other crates ask of serde_json.
    let got: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert!(got == want, "{} is stale: UPDATE=1 cargo test -p fourfold-config", path.display());
}

#[test]
fn the_reference_in_the_guide_is_fresh() {
    let path = docs("guide/configuration.md");
    let guide = fs::read_to_string(&path).unwrap();
    let (before, rest) = guide.split_once(BEGIN).expect("the begin marker");
    let (_, after) = rest.split_once(END).expect("the end marker");
    let want = format!("{before}{BEGIN}\n{}\n{END}{after}", key_reference());
    if updating() {
        fs::write(&path, &want).unwrap();
    }
    assert!(
        updating() || guide == want,
        "{} is stale: UPDATE=1 cargo test -p fourfold-config",
        path.display()
    );
}

/// Every TOML block of the guides that is a whole configuration is a right one, without a warning.
#[test]
fn the_examples_in_the_guides_work() {
    let read = |entry: std::io::Result<fs::DirEntry>| fs::read_to_string(entry.unwrap().path()).unwrap();
    let guide: String = fs::read_dir(docs("guide")).unwrap().map(read).collect();
    let blocks = guide.split("```toml\n").skip(1).filter_map(|rest| rest.split_once("```"));
    let whole: Vec<&str> =
        blocks.map(|(block, _)| block).filter(|block| block.contains("[[listener]]")).collect();
    assert!(whole.len() >= 3, "only {} examples", whole.len());
    for block in whole {
        let checked =
            parse("guide", block.as_bytes()).unwrap_or_else(|found| panic!("{}", found.render_human()));
        assert!(checked.warnings.is_empty(), "{}", checked.warnings.render_human());
    }
}
