//! Runs every file under `tests/configs/` and compares what is said about it, word for word.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail loudly")]

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use fourfold_config::{CONFIG_BYTES_MAX, Checked, Code, Diagnostics, Severity, json_schema, parse};

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/configs")
}

/// Configuration files in a folder, by name.
fn files_in(folder: &str) -> Vec<PathBuf> {
    let is_config = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "toml" || ext == "json");
    let entries = fs::read_dir(configs().join(folder)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).filter(is_config).collect();
    files.sort();
    files
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn run(path: &Path) -> Result<Checked, Diagnostics> {
    parse(&name_of(path), &fs::read(path).unwrap())
}

/// Compares with the sibling `.txt`, or rewrites it when `UPDATE` is set.
fn expect_text(path: &Path, got: &str) {
    let expected = path.with_extension("txt");
    if std::env::var_os("UPDATE").is_some() {
        match got {
            "" => drop(fs::remove_file(&expected)),
            _ => fs::write(&expected, got).unwrap(),
        }
    }
    let want = fs::read_to_string(&expected).unwrap_or_default();
    assert_eq!(got, want, "{}: run with UPDATE=1 if the new text is better", name_of(path));
}

#[test]
fn every_bad_file_is_refused_with_its_own_message() {
    let files = files_in("bad");
    assert!(files.len() >= 45, "only {} bad files", files.len());
    let mut first_messages: HashMap<String, String> = HashMap::new();
    let mut codes: HashSet<&str> = HashSet::new();
    for path in &files {
        let name = name_of(path);
        let found = run(path).expect_err(&name);
        expect_text(path, &found.render_human());
        let first = found.iter().find(|item| item.severity == Severity::Error).unwrap();
        codes.extend(found.iter().map(|item| item.code.as_str()));
        assert_ne!(first.code, Code::Internal, "{name}");
        if let Some(other) = first_messages.insert(first.message.clone(), name.clone()) {
            panic!("{name} and {other} both say {:?}", first.message);
        }
        let whole_file = matches!(first.code, Code::NoListener | Code::Empty)
            || first.message.starts_with("there is no [[pool]]");
        assert!(first.line.is_some() || whole_file, "{name}: no line in {first:?}");
    }
    for path in files_in("good") {
        codes.extend(run(&path).unwrap().warnings.iter().map(|item| item.code.as_str()));
    }
    let without_a_file = [Code::TooLarge, Code::TooMany, Code::Internal, Code::Unreadable].map(Code::as_str);
    for code in Code::ALL.iter().map(|code| code.as_str()).filter(|code| !without_a_file.contains(code)) {
        assert!(codes.contains(code), "no file shows {code}");
    }
}

/// Every key of the table has at least one wrong case that points at it.
#[test]
fn every_key_has_a_wrong_case() {
    let mut shown: HashSet<String> = HashSet::new();
    for path in files_in("bad") {
        let found = run(&path).unwrap_err();
        shown.extend(found.iter().map(|item| without_indices(&item.key)));
    }
    let mut keys = Vec::new();
    keys_of(&json_schema(), "", &mut keys);
    assert!(keys.len() > 150, "{}", keys.len());
    // Keys of the user's stand below the table that they are in.
    let of_user = |key: &str| key.ends_with(".set") || key.ends_with(".add");
    let below = |key: &str| shown.iter().any(|one| one.starts_with(&format!("{key}.")));
    let is_shown = |key: &&String| shown.contains(*key) || (of_user(key) && below(key));
    let without: Vec<&String> = keys.iter().filter(|key| !is_shown(key)).collect();
    assert!(without.is_empty(), "no file under bad/ is wrong about {without:?}");
}

/// `listener[0].route[1].path` as `listener.route.path`.
fn without_indices(key: &str) -> String {
    key.split('.').map(|part| part.split('[').next().unwrap()).collect::<Vec<_>>().join(".")
}

fn keys_of(schema: &serde_json::Value, path: &str, keys: &mut Vec<String>) {
    for (name, key) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        keys_of(key, &path, keys);
        keys_of(&key["items"], &path, keys);
        keys.push(path);
    }
}

/// The file name of a bad file tells the mistake; these are the ones whose line matters most.
#[test]
fn lines_and_columns_point_at_the_mistake() {
    for (file, line, column, code) in [
        ("unknown-top-key.toml", 1, 1, "unknown-key"),
        ("pool-unknown.toml", 4, 8, "unknown-pool"),
        ("duplicate-bind-wildcard.toml", 8, 8, "duplicate-bind"),
        ("type-number-in-sources.toml", 8, 25, "wrong-type"),
        ("json-unknown-key.json", 6, 7, "unknown-key"),
        ("json-null.json", 6, 18, "wrong-type"),
        ("not-utf8.toml", 1, 6, "not-utf8"),
    ] {
        let found = run(&configs().join("bad").join(file)).unwrap_err();
        let first = found.iter().next().unwrap();
        assert_eq!(
            (first.line, first.column, first.code.as_str()),
            (Some(line), Some(column), code),
            "{file}: {first:?}"
        );
    }
}

#[test]
fn all_mistakes_of_a_file_are_reported_at_once() {
    let found = run(&configs().join("bad/several-mistakes.toml")).unwrap_err();
    let lines: Vec<usize> = found.iter().filter_map(|item| item.line).collect();
    assert_eq!(lines, [1, 2, 3, 8, 9, 12, 13, 18, 19, 19, 22]);
}

#[test]
fn every_good_file_gives_a_plan() {
    for path in files_in("good").iter().chain(&files_in("bad/online")) {
        let checked = run(path).unwrap_or_else(|found| panic!("{}", found.render_human()));
        expect_text(path, &checked.warnings.render_human());
        assert!(!checked.plan.listeners.is_empty(), "{}", name_of(path));
    }
}

#[test]
fn the_json_form_means_the_same() {
    let toml = parse(
        "a.toml",
        b"max_connections = \"20k\"\n[[listener]]\nname = \"edge\"\nbind = \"0.0.0.0:8080\"\npool = \"chat\"\n\
          [[pool]]\nname = \"chat\"\nsources = [\"127.0.0.2-127.0.0.9\"]\n[[pool.server]]\naddress = \"10.0.1.1:9000\"\n",
    )
    .unwrap();
    let json = run(&configs().join("good/minimal.json")).unwrap();
    assert_eq!(toml.plan, json.plan);
}

#[test]
fn a_file_that_is_too_large_is_not_read_further() {
    let found = parse("big.toml", &vec![b'#'; CONFIG_BYTES_MAX + 1]).unwrap_err();
    assert_eq!(
        found.render_human(),
        "big.toml: error: larger than 4 MiB, the most that is read [too-large]\n      = help: is this the right file?\n"
    );
    assert_eq!(
        parse("full.toml", &vec![b' '; CONFIG_BYTES_MAX]).unwrap_err().iter().next().unwrap().code,
        Code::Empty
    );
}
