//! The admin listener and `fourfold show`: what they say is what is, whoever may not ask is told so, and no asker harms the proxy.

use crate::common::lab::{eventually, run, set};
use crate::common::program::{BINARY, Finished, fourfold};
use crate::common::{Config, Crowd, Engine, Lab, Origin, Program};
use serde_json::Value;
use std::collections::HashSet;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder that is gone afterwards; a socket's path must be short.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ffa-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("a.sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running program with its socket in a folder of its own.
struct Asked {
    program: Program,
    folder: Folder,
}

impl Asked {
    fn run(config: &Config) -> Self {
        let folder = Folder::new();
        let listen = format!("unix:{}", folder.socket().display());
        let program = Program::run_with(config, |command| {
            command.args(["--admin", &listen]);
        });
        Self { program, folder }
    }

    fn show(&self, args: &[&str]) -> Finished {
        let socket = self.folder.socket();
        let words = [&["show"], args, &["--admin", socket.to_str().unwrap()]].concat();
        fourfold(&words)
    }

    fn json(&self, args: &[&str]) -> Value {
        let shown = self.show(&[args, &["--json"]].concat());
        assert_eq!(shown.code(), Some(0), "{}", shown.stderr);
        serde_json::from_str(&shown.stdout).unwrap()
    }

    /// What the program has told of this kind of event.
    fn events(&self, kind: &str) -> Vec<Value> {
        let all = self.json(&["events"]);
        all["events"].as_array().unwrap().iter().filter(|event| event["kind"] == kind).cloned().collect()
    }

    fn event(&self, kind: &str) -> Value {
        eventually(kind, || self.events(kind).into_iter().next())
    }

    fn count(&self, name: &str) -> u64 {
        let all = self.json(&["counters"]);
        let found = all["counters"].as_array().unwrap().iter().find(|one| one["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}"))["value"].as_u64().unwrap()
    }

    /// Bytes as they are, and what comes back until the end.
    fn say(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.folder.socket()).unwrap();
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

/// Once for each engine that works here.
fn each_engine(test: fn(Engine)) {
    [Engine::Uring, Engine::Epoll].into_iter().filter(|engine| engine.works_here()).for_each(test);
}

#[test]
fn tuples_by_source_are_those_that_are_used() {
    let _lab = Lab::new();
    each_engine(|engine| {
        let origin = Origin::echo();
        let pool = "sources = [\"127.0.0.2-127.0.0.4\"]\nports = \"40000-40063\"";
        let asked = Asked::run(&Config::to(engine, &[origin.address]).pool(pool));
        let mut crowd = Crowd::from(asked.program.address, "127.0.0.9");
        crowd.open(90);
        crowd.until("all are served", |tally| tally.held == 90);
        let tuples = asked.json(&["tuples"]);
        let [one] = tuples["destinations"].as_array().unwrap().as_slice() else { panic!("{tuples}") };
        assert_eq!(
            (&one["address"], &one["pools"]),
            (&origin.address.to_string().into(), &vec!["chat"].into())
        );
        assert_eq!([&one["used"], &one["free"], &one["total"]].map(number), [90, 192 - 90, 192]);
        let sources = one["sources"].as_array().unwrap();
        let names: Vec<&str> = sources.iter().map(|source| source["address"].as_str().unwrap()).collect();
        assert_eq!(names, ["127.0.0.2", "127.0.0.3", "127.0.0.4"]);
        assert_eq!(sources.iter().map(|source| number(&source["used"])).sum::<u64>(), 90);
        assert!(sources.iter().all(|source| number(&source["total"]) == 64));
        let table = asked.show(&["tuples", "--sum"]).stdout;
        assert!(table.contains("all 3") && table.contains("46.9%"), "{table}");
        drop(crowd);
        eventually("they are free again", || {
            let tuples = asked.json(&["tuples"]);
            (number(&tuples["destinations"][0]["used"]) == 0).then_some(())
        });
        asked.program.stop();
    });
}

#[test]
fn every_connection_is_listed_once_with_its_tuple() {
    let _lab = Lab::new();
    each_engine(|engine| {
        let origin = Origin::echo();
        let pool = "sources = [\"127.0.0.2\"]";
        let config = Config::to(engine, &[origin.address]).top("shards = 2").pool(pool);
        let asked = Asked::run(&config);
        let mut crowd = Crowd::from(asked.program.address, "127.0.0.9");
        crowd.open(1_500);
        crowd.until("all are served", |tally| tally.held == 1_500);
        let all = asked.json(&["connections", "--limit", "5k"]);
        let rows = all["connections"].as_array().unwrap();
        let clients: HashSet<&str> = rows.iter().map(|row| row["client"].as_str().unwrap()).collect();
        let ports: HashSet<u64> = rows.iter().map(|row| number(&row["port"])).collect();
        assert_eq!((rows.len(), clients.len(), ports.len()), (1_500, 1_500, 1_500));
        let as_it_is = |row: &Value| {
            row["client"].as_str().unwrap().starts_with("127.0.0.9:")
                && row["source"] == "127.0.0.2"
                && row["server"] == origin.address.to_string()
                && (&row["listener"], &row["pool"], &row["state"])
                    == (&"edge".into(), &"chat".into(), &"open".into())
        };
        assert!(rows.iter().all(as_it_is), "{:?}", rows.iter().find(|row| !as_it_is(row)));
        assert_eq!(number(&all["total"]), 1_500);
        let few = asked.show(&["connections", "--limit", "3"]).stdout;
        assert!(few.ends_with("3 of 1_500 connections\n"), "{few}");
        asked.program.stop();
    });
}

#[test]
fn servers_listeners_and_limits_are_shown_as_they_are() {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let dead = crate::common::lab::free_port("127.0.0.1".parse().unwrap());
    let config = Config::to(Engine::Epoll, &[origin.address, dead])
        .top("max_connections = 100")
        .listener("backlog = 77")
        .pool("retry_backoff = \"5m\"\nretry_backoff_max = \"5m\"");
    let asked = Asked::run(&config);
    let mut crowd = Crowd::at(asked.program.address);
    crowd.open(60);
    crowd.until("all are served", |tally| tally.held == 60);
    let pools = asked.json(&["pools"]);
    let states: Vec<_> =
        pools["pools"][0]["servers"].as_array().unwrap().iter().map(|one| &one["state"]).collect();
    assert_eq!(states, ["up", "down"]);
    let listeners = asked.json(&["listeners"]);
    assert_eq!(number(&listeners["listeners"][0]["connections"]), 60);
    let limits = asked.json(&["limits"]);
    // The machine's own limits may be fuller.
    let limits = limits["limits"].as_array().unwrap();
    let first = limits.iter().find(|limit| limit["name"] == "max_connections").unwrap();
    assert_eq!(
        (&first["name"], number(&first["used"]), number(&first["max"])),
        (&"max_connections".into(), 60, 100)
    );
    assert_eq!(first["state"], "half");
    // The kernel's queues are those of the last look: clients may have been in them, and are not any more at the next.
    let bind = eventually("the listener's queue", || {
        let bind = asked.json(&["listeners"])["listeners"][0]["binds"][0].clone();
        (number(&bind["sockets"]) > 0 && number(&bind["queued"]) == 0).then_some(bind)
    });
    assert_eq!(number(&bind["backlog"]), 77);
    for what in ["instance", "listeners", "pools", "tuples", "connections", "limits", "counters", "events"] {
        let shown = asked.show(&[what]);
        assert_eq!((shown.code(), shown.stderr.as_str()), (Some(0), ""), "{what}");
        assert!(shown.stdout.lines().count() >= 1, "{what}");
    }
    let missing = asked.show(&["tuples", "--pool", "caht"]);
    assert_eq!(missing.code(), Some(1));
    assert!(missing.stderr.contains("There is no such pool: caht"), "{}", missing.stderr);
    asked.program.stop();
}

/// `show` in an environment where sockets are looked for in this folder alone.
fn show_in(folder: &Path, adapt: impl Fn(&mut Command)) -> Finished {
    let mut command = Command::new(BINARY);
    command.args(["show", "instance", "--json"]).env("RUNTIME_DIRECTORY", folder).env("TMPDIR", folder);
    command.env_remove("XDG_RUNTIME_DIR");
    adapt(&mut command);
    crate::common::program::finish(command)
}

#[test]
fn the_only_instance_is_found_and_of_several_one_must_be_chosen() {
    let Some(_lab) = Lab::private() else { return };
    // Instances of other tests and of this machine's own are in /run/fourfold; here nothing is.
    // SAFETY: no pointers that outlive the calls; concerns this thread and what it starts.
    let own_mounts = unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0;
    assert!(own_mounts, "a mount namespace");
    run("mount", &["--make-rprivate", "/"]);
    run("mount", &["-t", "tmpfs", "none", "/run"]);
    let (origin, folder) = (Origin::echo(), Folder::new());
    let place = folder.0.clone();
    let config = Config::to(Engine::Epoll, &[origin.address]);
    let start = || {
        Program::run_with(&config, |command| {
            command.env("RUNTIME_DIRECTORY", &place);
        })
    };
    let nobody = show_in(&folder.0, |_| {});
    assert_eq!(nobody.code(), Some(1));
    assert!(nobody.stderr.contains("no running instance was found"), "{}", nobody.stderr);
    let first = start();
    let found = show_in(&folder.0, |_| {});
    let instance: Value = serde_json::from_str(&found.stdout).unwrap_or_else(|_| panic!("{}", found.stderr));
    assert_eq!(number(&instance["pid"]), u64::from(first.pid()));
    let second = start();
    let both = show_in(&folder.0, |_| {});
    assert_eq!(both.code(), Some(1));
    assert!(both.stderr.contains("2 instances run; choose one with --admin"), "{}", both.stderr);
    first.stop();
    let left = show_in(&folder.0, |_| {});
    let instance: Value = serde_json::from_str(&left.stdout).unwrap();
    assert_eq!(number(&instance["pid"]), u64::from(second.pid()));
    second.stop();
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn another_user_is_told_whom_to_ask() {
    let _lab = Lab::new();
    // SAFETY: getuid has no preconditions.
    if unsafe { libc::getuid() } != 0 {
        eprintln!("skipped: becoming another user needs root");
        return;
    }
    let origin = Origin::echo();
    let asked = Asked::run(&Config::to(Engine::Epoll, &[origin.address]));
    let socket = asked.folder.socket();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&asked.folder.0, std::fs::Permissions::from_mode(0o755)).unwrap();
    let public = asked.folder.0.join("program");
    std::fs::copy(BINARY, &public).unwrap();
    let mut command = Command::new(&public);
    command.args(["show", "tuples", "--admin", socket.to_str().unwrap()]).uid(65_534).gid(65_534);
    let refused = crate::common::program::finish(command);
    assert_eq!(refused.code(), Some(1));
    assert!(refused.stderr.contains("only its owner may ask"), "{}", refused.stderr);
    asked.program.stop();
}

#[test]
fn what_a_killed_instance_left_behind_is_replaced() {
    let _lab = Lab::new();
    let (origin, folder) = (Origin::echo(), Folder::new());
    let listen = format!("unix:{}", folder.socket().display());
    let config = Config::to(Engine::Epoll, &[origin.address]);
    let start = || {
        Program::run_with(&config, |command| {
            command.args(["--admin", &listen]);
        })
    };
    let killed = start();
    killed.signal(libc::SIGKILL);
    drop(killed);
    assert!(folder.socket().exists());
    let asked = Asked { program: start(), folder };
    assert_eq!(number(&asked.json(&["instance"])["pid"]), u64::from(asked.program.pid()));
    asked.program.stop();
    assert!(!asked.folder.socket().exists());
}

#[test]
fn without_a_place_for_the_socket_the_proxy_runs_on() {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let program = Program::run_with(&Config::to(Engine::Epoll, &[origin.address]), |command| {
        command.args(["--admin", "unix:/nonexistent/a.sock"]);
    });
    let said = program.warnings("no admin listener");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("/nonexistent") && said[0].contains("the proxy runs on"), "{said:?}");
    let mut crowd = Crowd::at(program.address);
    crowd.open(50);
    crowd.until("all are served", |tally| tally.held == 50);
    drop(crowd);
    program.stop();
}

#[test]
fn hostile_askers_are_refused_counted_and_no_harm() {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let asked = Asked::run(&Config::to(Engine::Epoll, &[origin.address]));
    let mut crowd = Crowd::at(asked.program.address);
    crowd.open(100);
    crowd.until("all are served", |tally| tally.held == 100);
    let get = |line: &str, fields: &str| {
        asked.say(format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n").as_bytes())
    };
    for (line, fields, status, counter) in [
        ("POST /api/v1/tuples", "", "405", "admin_refused_method"),
        ("GET /api/v1/tuples", "Content-Length: 5\r\n", "413", "admin_refused_content"),
        ("GET /api/v1/tuples", "Transfer-Encoding: chunked\r\n", "413", "admin_refused_content"),
        ("GET /api/v1/tuples", "Origin: http://evil.example\r\n", "403", "admin_refused_origin"),
        ("GET /api/v1/tuples", "Sec-Fetch-Site: cross-site\r\n", "403", "admin_refused_origin"),
        ("GET /api/v2/tuples", "", "404", "admin_not_found"),
        ("GET /../../etc/passwd", "", "404", "admin_not_found"),
    ] {
        let before = asked.count(counter);
        let answer = get(line, fields);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{line} {fields}: {answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
        assert_eq!(asked.count(counter), before + 1, "{line} {fields}");
    }
    for query in [
        "tuples?pol=x",
        "tuples?at_least=some",
        "connections?after=1.2.3",
        "connections?limit=-1",
        "events?from=x",
    ] {
        let answer = get(&format!("GET /api/v1/{query}"), "");
        assert!(answer.starts_with("HTTP/1.1 400"), "{query}: {answer}");
    }
    let broken = asked.count("admin_broken");
    let endless = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000));
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\0\0\0\0\r\n\r\n",
        endless.as_bytes(),
        many.as_bytes(),
    ] {
        let answer = asked.say(bytes);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    eventually("all are counted", || (asked.count("admin_broken") >= broken + 4).then_some(()));
    // Whoever holds connections open keeps others out for a while, and nobody else.
    let mut idle: Vec<UnixStream> =
        (0..40).map(|_| UnixStream::connect(asked.folder.socket()).unwrap()).collect();
    let refused = |stream: &mut UnixStream| {
        stream.set_nonblocking(true).unwrap();
        stream.read(&mut [0]).is_ok()
    };
    eventually("those beyond the limit are closed", || {
        (idle.iter_mut().filter_map(|one| refused(one).then_some(())).count() >= 8).then_some(())
    });
    crowd.ask_again();
    crowd.until("all are still served", |tally| tally.held == 100);
    drop(idle);
    eventually("the next is answered", || (asked.show(&["instance"]).code() == Some(0)).then_some(()));
    assert!(asked.count("admin_refused_connections") >= 8);
    asked.program.stop();
}

#[test]
fn over_tcp_only_the_loopbacks_own_name_is_answered() {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let address = crate::common::lab::free_port("127.0.0.1".parse().unwrap());
    let program = Program::run_with(&Config::to(Engine::Epoll, &[origin.address]), |command| {
        command.args(["--admin", &address.to_string()]);
    });
    let shown = fourfold(&["show", "instance", "--json", "--admin", &address.to_string()]);
    let instance: Value = serde_json::from_str(&shown.stdout).unwrap_or_else(|_| panic!("{}", shown.stderr));
    assert_eq!(number(&instance["pid"]), u64::from(program.pid()));
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET /api/v1/tuples HTTP/1.1\r\nHost: rebound.example\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
    let outside =
        fourfold(&["run", "--listen", "127.0.0.1:1", "--to", "127.0.0.1:2", "--admin", "0.0.0.0:9900"]);
    assert_eq!(outside.code(), Some(1));
    assert!(outside.stderr.contains("can be reached from outside"), "{}", outside.stderr);
    program.stop();
}

#[test]
fn something_else_behind_the_address_is_told_from_an_instance() {
    let _lab = Lab::new();
    let http = crate::common::http::Scripted::start(|line| {
        while line.head().is_some() {
            line.say(&crate::common::http::ok("hello"));
        }
    });
    let shown = fourfold(&["show", "tuples", "--admin", &http.address.to_string()]);
    assert_eq!(shown.code(), Some(1));
    assert!(shown.stderr.contains("does not speak the admin API"), "{}", shown.stderr);
}

#[test]
fn the_cliff_is_told_of_before_it_is_reached() {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let pool = "sources = [\"127.0.0.2\"]\nports = \"40000-40099\"\nqueue_timeout = \"1s\"";
    let asked = Asked::run(&Config::to(Engine::Epoll, &[origin.address]).pool(pool));
    let mut crowd = Crowd::from(asked.program.address, "127.0.0.9");
    crowd.open(90);
    crowd.until("90 are served", |tally| tally.held == 90);
    let near = asked.event("tuples-near");
    let message = near["message"].as_str().unwrap();
    let address = origin.address.to_string();
    for part in ["pool chat", &address, "127.0.0.2", "90 used", "10 free", "of 100"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(near["severity"], "warning");
    assert!(near["remedy"].to_string().contains("`sources`"), "{near}");
    assert_eq!(asked.program.warnings("nearly used up").len(), 1, "told of once");
    crowd.open(10);
    crowd.until("100 are served", |tally| tally.held == 100);
    asked.event("tuples-exhausted");
    drop(crowd);
    asked.event("tuples-relieved");
    assert_eq!(asked.program.warnings("towards").len(), 2, "nearly, and all");
    asked.program.stop();
}

#[test]
fn a_full_accept_queue_is_laid_at_its_listeners_door() {
    let Some(_lab) = Lab::private() else { return };
    each_engine(|engine| {
        let origin = Origin::echo();
        let other = crate::common::lab::free_port("127.0.0.1".parse().unwrap());
        let more = format!("[[listener]]\nname = \"quiet\"\nbind = \"{other}\"\npool = \"chat\"");
        let config =
            Config::to(engine, &[origin.address]).top("shards = 1").listener("backlog = 2").more(&more);
        let asked = Asked::run(&config);
        // What it counts from is known once it has looked around.
        eventually("it has looked around", || {
            let listeners = asked.json(&["listeners"]);
            (number(&listeners["listeners"][0]["binds"][0]["sockets"]) > 0).then_some(())
        });
        asked.program.freeze();
        let mut crowd = Crowd::at(asked.program.address);
        crowd.open(50);
        eventually("the kernel drops", || {
            crowd.pump(0);
            (overflows() > 0).then_some(())
        });
        asked.program.signal(libc::SIGCONT);
        let event = asked.event("accept-queue-full");
        let message = event["message"].as_str().unwrap();
        assert_eq!(event["of"], serde_json::json!(["edge"]), "{event}");
        assert!(message.contains("listener edge") && message.contains(" holds 2,"), "{message}");
        assert!(!message.contains("quiet"), "{message}");
        assert_eq!(event["counter"], "ListenOverflows");
        assert!(event["remedy"].to_string().contains("backlog = "), "{event}");
        let said = asked.program.warnings("queue of those that nobody had accepted");
        assert_eq!(said.len(), 1, "{said:?}");
        drop(crowd);
        asked.program.stop();
    });
}

/// Of this network namespace.
fn overflows() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let column = names.split_whitespace().position(|name| name == "ListenOverflows").unwrap();
    values.split_whitespace().nth(column).unwrap().parse().unwrap()
}

#[test]
fn time_wait_without_room_is_explained_by_the_pools_that_rest() {
    let Some(_lab) = Lab::private() else { return };
    set("net/ipv4/tcp_max_tw_buckets", "4");
    // Nothing comes back from its rest while the test looks.
    set("net/ipv4/tcp_tw_reuse", "0");
    let origin = Origin::echo();
    let config = Config::to(Engine::Epoll, &[origin.address]).pool("sources = [\"127.0.0.2\"]");
    let asked = Asked::run(&config);
    let mut crowd = Crowd::from(asked.program.address, "127.0.0.9");
    crowd.open(200);
    crowd.until("all are served", |tally| tally.held == 200);
    crowd.leave(200);
    let event = asked.event("time-wait-overflow");
    let message = event["message"].as_str().unwrap();
    assert!(message.contains("net.ipv4.tcp_max_tw_buckets (4)"), "{message}");
    assert_eq!(event["of"], serde_json::json!(["chat"]), "{event}");
    assert!(event["remedy"].to_string().contains("sysctl -w net.ipv4.tcp_max_tw_buckets="), "{event}");
    assert_eq!(asked.program.warnings("tcp_max_tw_buckets").len(), 1);
    asked.program.stop();
}

#[test]
fn connections_that_tracking_drops_are_explained() {
    let Some(_lab) = Lab::private() else { return };
    let origin = Origin::echo();
    // Address translation with two ports for all connections to the origin: the third gets a tuple that is taken.
    let port = origin.address.port().to_string();
    let rules = format!(
        "table ip t {{ chain post {{ type nat hook postrouting priority srcnat; tcp dport {port} snat to 127.0.0.77:5000-5001; }}; }}"
    );
    run("nft", &[&rules]);
    let config = Config::to(Engine::Epoll, &[origin.address])
        .pool("sources = [\"127.0.0.2\"]\nconnect_timeout = \"1s\"");
    let asked = Asked::run(&config);
    let mut crowd = Crowd::from(asked.program.address, "127.0.0.9");
    crowd.open(20);
    let event = asked.event("conntrack-insert-failed");
    let message = event["message"].as_str().unwrap();
    assert!(message.contains("address translation"), "{message}");
    assert_eq!(event["counter"], "insert_failed");
    assert!(event["remedy"].to_string().contains("notrack"), "{event}");
    drop(crowd);
    asked.program.stop();
}
