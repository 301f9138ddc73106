//! Wrong configurations, wrong machines, wrong commands: each is told what is wrong and what to do, and nothing starts.

use crate::common::lab::free_port;
use crate::common::program::{Finished, Scratch, fourfold};
use crate::common::{Config, Engine, Lab, Origin, Program};
use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn configs(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/configs").join(folder);
    let is_config = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "toml" || ext == "json");
    let mut files: Vec<PathBuf> =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(is_config).collect();
    files.sort();
    files
}

#[track_caller]
fn check(path: &Path, more: &[&str]) -> Finished {
    let mut args = vec!["check", path.to_str().unwrap()];
    args.extend(more);
    fourfold(&args)
}

#[test]
fn check_refuses_every_bad_file_with_a_message_of_its_own() {
    let files = configs("bad");
    assert!(files.len() >= 40, "only {} bad files", files.len());
    let mut said: HashMap<String, PathBuf> = HashMap::new();
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let finished = check(&file, &[]);
        assert_eq!(finished.code(), Some(1), "{name}: {finished:?}");
        assert!(finished.stderr.contains(&name), "{name} is not named: {finished:?}");
        assert!(!finished.stderr.contains("panicked"), "{name}: {finished:?}");
        let message = finished.stderr.replace(file.to_str().unwrap(), "");
        if let Some(other) = said.insert(message, file.clone()) {
            panic!("{} and {} are told the same", file.display(), other.display());
        }
        let json = check(&file, &["--json"]);
        assert_eq!(json.code(), Some(1), "{name}: {json:?}");
        let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!(value["valid"], false, "{name}: {value}");
        assert!(!value["diagnostics"].as_array().unwrap().is_empty(), "{name}: {value}");
    }
}

#[test]
fn run_refuses_bad_files_as_check_does() {
    for file in configs("bad").into_iter().step_by(9) {
        let (run, check) = (fourfold(&["run", file.to_str().unwrap()]), check(&file, &[]));
        assert_eq!((run.code(), &run.stderr), (Some(1), &check.stderr), "{}", file.display());
    }
}

#[test]
fn check_accepts_every_good_file() {
    for file in configs("good") {
        let finished = check(&file, &[]);
        assert_eq!(finished.code(), Some(0), "{}: {finished:?}", file.display());
        assert!(finished.stdout.contains("valid"), "{}: {finished:?}", file.display());
    }
}

#[test]
fn files_wrong_on_this_machine_are_refused_online_and_by_run() {
    let _lab = Lab::new();
    let remedies = [
        ("source-not-here", "ip address add"),
        ("unbindable-address", "ip address"),
        ("ports-outside", "sysctl -w"),
    ];
    let files = configs("bad/online");
    assert!(files.len() >= 3);
    for file in files {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        assert_eq!(check(&file, &[]).code(), Some(0), "{name} is right by itself");
        let remedy = remedies.iter().find(|(start, _)| name.starts_with(start)).map_or("", |(_, text)| text);
        let (online, run) = (check(&file, &["--online"]), fourfold(&["run", file.to_str().unwrap()]));
        for finished in [online, run] {
            assert_eq!(finished.code(), Some(1), "{name}: {finished:?}");
            assert!(finished.stderr.contains(remedy), "{name}: no remedy {remedy}: {finished:?}");
        }
        let json = check(&file, &["--online", "--json"]);
        let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!((json.code(), &value["valid"]), (Some(1), &false.into()), "{name}: {value}");
        assert_eq!(value["machine"].as_array().map(Vec::len), Some(1), "{name}: {value}");
    }
}

#[test]
fn unreadable_files_are_named() {
    let folder = env!("CARGO_TARGET_TMPDIR");
    let missing = format!("{folder}/there-is-no-such.toml");
    for (path, why) in [(missing.as_str(), "No such file"), (folder, "directory")] {
        for command in ["check", "run"] {
            let finished = fourfold(&[command, path]);
            assert_eq!(finished.code(), Some(1), "{finished:?}");
            let stderr = &finished.stderr;
            assert!(stderr.contains(path) && stderr.contains(why), "{command} {path}: {stderr}");
        }
    }
    let json = fourfold(&["check", &missing, "--json"]);
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((json.code(), &value["valid"]), (Some(1), &false.into()));
}

#[test]
fn huge_and_binary_files_are_refused() {
    let huge = Scratch::new("huge.toml", &vec![b'#'; 10 << 20]);
    let binary = Scratch::new("binary.toml", &[0x7F, b'E', b'L', b'F', 0xFF, 0, 1]);
    for (file, why) in [(&huge, "larger than 4 MiB"), (&binary, "UTF-8")] {
        for command in ["check", "run"] {
            let finished = fourfold(&[command, file.0.to_str().unwrap()]);
            assert_eq!(finished.code(), Some(1), "{finished:?}");
            assert!(finished.stderr.contains(why) && finished.stderr.len() < 4096, "{}", finished.stderr);
        }
    }
}

/// A configuration that is right but for one thing, run on this machine.
#[track_caller]
fn refused(config: &Config, bind: std::net::SocketAddr, words: &[&str]) {
    let file = Scratch::new("refused.toml", config.toml(bind).as_bytes());
    let finished = fourfold(&["run", file.0.to_str().unwrap()]);
    assert_eq!(finished.code(), Some(1), "{finished:?}");
    for word in words {
        assert!(finished.stderr.contains(word), "no {word} in {}", finished.stderr);
    }
    assert!(finished.stderr.contains("nothing was started"), "{}", finished.stderr);
    assert!(!finished.stderr.contains("ready"), "{}", finished.stderr);
}

#[test]
fn run_says_what_this_machine_lacks() {
    let _lab = Lab::new();
    let origin = Origin::echo();
    for engine in [Engine::Uring, Engine::Epoll].into_iter().filter(|engine| engine.works_here()) {
        let config = Config::to(engine, &[origin.address]);
        let free = free_port(HERE);
        refused(
            &config,
            "203.0.113.1:4444".parse().unwrap(),
            &["203.0.113.1:4444", "does not have that address"],
        );
        let sources = config.clone().pool("sources = [\"203.0.113.7\"]");
        refused(&sources, free, &["chat", "203.0.113.7", "ip address add 203.0.113.7/32"]);
        let late =
            config.clone().pool("sources = [\"127.0.0.1\"]\nports = \"20000-20063\"\nport_mode = \"late\"");
        refused(&late, free, &["20000-20063", "ip_local_port_range", "sysctl -w", "port_mode = \"early\""]);
        let shards = config.clone().top("max_connections = 100_000\nshards = 1");
        refused(&shards, free, &["100000", "shards", "limit"]);
        assert_eq!(origin.accepted(), 0);
    }
}

#[test]
fn port_of_another_program_is_not_shared_with_it() {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let config = Config::to(Engine::Epoll, &[origin.address]);
    let other = TcpListener::bind((HERE, 0)).unwrap();
    let words = ["another program does", "ss -ltnp"];
    refused(&config, other.local_addr().unwrap(), &words);
    // Nor with another fourfold, although its shards share the port among themselves.
    let first = Program::run(&config);
    refused(&config, first.address, &words);
    first.stop();
}

/// The second of two listeners cannot be had: the first must not have served anybody.
#[test]
fn all_listeners_or_none() {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let taken = TcpListener::bind((HERE, 0)).unwrap();
    let mut config = Config::to(Engine::Epoll, &[origin.address]);
    let other = taken.local_addr().unwrap();
    config.more = format!("[[listener]]\nname = \"other\"\nbind = \"{other}\"\npool = \"chat\"");
    let free = free_port(HERE);
    refused(&config, free, &[&other.to_string()]);
    drop(TcpListener::bind(free).unwrap());
}

#[test]
fn usage_errors_are_told_apart() {
    let wrong: &[&[&str]] = &[
        &[],
        &["rum"],
        &["run"],
        &["run", "--listen", "127.0.0.1:1"],
        &["run", "a.toml", "--listen", "127.0.0.1:1", "--to", "127.0.0.1:2"],
        &["run", "--listen", "127.0.0.1:1", "--to", "127.0.0.1:2", "--engine", "kqueue"],
        &["check"],
        &["check", "a.toml", "b.toml"],
        &["completions", "cmd"],
        &["origin", "--listen", "nowhere"],
        &["load", "tcp"],
    ];
    for args in wrong {
        let finished = fourfold(args);
        assert_eq!(finished.code(), Some(2), "{args:?}: {finished:?}");
        assert!(finished.stdout.is_empty() && finished.stderr.contains("help"), "{args:?}: {finished:?}");
    }
    let flag = fourfold(&["run", "--listen", "127.0.0.1", "--to", "127.0.0.1:2"]);
    assert_eq!(flag.code(), Some(1), "{flag:?}");
    assert!(flag.stderr.contains("--listen 127.0.0.1"), "{flag:?}");
}

#[test]
fn schema_manual_completions_and_help_come_from_one_definition() {
    let schema = fourfold(&["schema"]);
    let value: serde_json::Value = serde_json::from_str(&schema.stdout).unwrap();
    assert!(value["properties"]["listener"].is_object(), "{value}");
    let manual = fourfold(&["man"]);
    assert!(manual.stdout.contains(".TH fourfold"), "{manual:?}");
    for shell in ["bash", "zsh", "fish"] {
        let script = fourfold(&["completions", shell]);
        assert!(script.code() == Some(0) && script.stdout.contains("max-connections"), "{shell}: {script:?}");
    }
    for args in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let help = fourfold(args);
        assert!(help.code() == Some(0) && help.stdout.contains("fourfold"), "{help:?}");
    }
}
