//! The guide's table of counters says what the program counts.

use fourfold_proxy::Counters;
use std::fmt::Write;
use std::path::Path;

const BEGIN: &str = "<!-- counters: generated, UPDATE=1 cargo test -p fourfold-proxy writes them -->\n";
const END: &str = "<!-- end -->";

#[test]
fn the_guide_lists_every_counter() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide/operations.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(BEGIN).unwrap();
    let (_, tail) = rest.split_once(END).unwrap();
    let mut table = String::from("| counter | counts |\n|---|---|\n");
    for (name, help) in Counters::TABLE {
        writeln!(table, "| `{name}` | {help} |").unwrap();
    }
    let wanted = format!("{head}{BEGIN}{table}{END}{tail}");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let now = std::fs::read_to_string(&path).unwrap();
    assert!(now == wanted, "stale: UPDATE=1 cargo test -p fourfold-proxy --test reference");
}
