//! The access log in tcp mode: one line for every connection, at its end, however it ends.

use crate::common::http::{Caller, Scripted};
use crate::common::origin::reset_on_close;
use crate::common::tools::Load;
use crate::common::{Config, Engine, Lab, Origin, Program, eventually};
use crate::on_both_engines;
use crate::peers::Folder;
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

on_both_engines!(
    a_connection_is_a_line_at_its_end,
    ends_of_connections_are_told_apart,
    a_client_behind_a_load_balancer_is_named,
    lines_and_counters_agree,
);

struct Log {
    _folder: Folder,
    file: PathBuf,
}

impl Log {
    fn new() -> Self {
        let folder = Folder::new("tcp-log");
        Self { file: folder.0.join("access.log"), _folder: folder }
    }

    fn of(&self, config: &Config, more: &str) -> Config {
        config.clone().listener(&format!("{more}\n[listener.access_log]\nto = \"{}\"", self.file.display()))
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.file).unwrap_or_default()
    }

    fn json(&self) -> Vec<Value> {
        let text = self.text();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    }

    /// The newest, once there are so many.
    #[track_caller]
    fn await_line(&self, count: usize) -> Value {
        eventually(&format!("{count} lines"), || Some(self.json()).filter(|all| all.len() >= count))
            .pop()
            .unwrap()
    }
}

/// Sends back what comes.
fn echo() -> Scripted {
    Scripted::start(|line| {
        while let Some(bytes) = line.some() {
            line.say(&bytes);
        }
    })
}

fn a_connection_is_a_line_at_its_end(engine: Engine) {
    let _lab = Lab::new();
    let log = Log::new();
    let origin = echo();
    let program = Program::run(&log.of(&Config::to(engine, &[origin.address]), ""));
    let mut client = Caller::to(&program);
    client.say([7; 1000]);
    assert_eq!(client.bytes(1000), [7; 1000]);
    assert!(log.text().is_empty(), "it has not ended");
    // The four-tuple that the server saw.
    let source = origin.peers()[0].to_string();
    let peer = client.stream.local_addr().unwrap().to_string();
    client.end();
    client.expect_end();
    let line = log.await_line(1);
    let server = origin.address.to_string();
    for (key, wanted) in [
        ("listener", "edge"),
        ("client", "127.0.0.1"),
        ("peer", peer.as_str()),
        ("pool", "chat"),
        ("server", server.as_str()),
        ("source", source.as_str()),
        ("ending", "ok"),
        ("ending_code", "--"),
    ] {
        assert_eq!(line[key], wanted, "{key}: {line}");
    }
    let number = |key: &str| line[key].as_u64().unwrap_or_else(|| panic!("{key}: {line}"));
    assert_eq!((number("received_body"), number("sent_body"), number("tries")), (1000, 1000, 1));
    assert!(number("total_us") >= number("queue_us") + number("connect_us"), "{line}");
    assert!(["method", "path", "status", "request_us"].iter().all(|key| line[key].is_null()), "{line}");
    program.stop();
    assert_eq!(log.json().len(), 1);
}

fn ends_of_connections_are_told_apart(engine: Engine) {
    let _lab = Lab::new();
    let log = Log::new();
    let origin = Scripted::start(|line| {
        while let Some(bytes) = line.some() {
            match bytes.as_slice() {
                b"reset" => return line.reset(),
                bytes => line.say(bytes),
            }
        }
    });
    let config = log.of(&Config::to(engine, &[origin.address]), "idle_timeout = \"300ms\"");
    let program = Program::run(&config);
    let open = || {
        let mut client = Caller::to(&program);
        client.say("hello");
        client.bytes(5);
        client
    };
    let client = open();
    reset_on_close(&client.stream);
    drop(client);
    assert_eq!(log.await_line(1)["ending_code"], "CT");
    let mut client = open();
    client.say("reset");
    client.expect_reset();
    assert_eq!(log.await_line(2)["ending_code"], "ST");
    let mut client = open();
    client.expect_reset();
    let idle = log.await_line(3);
    assert_eq!((&idle["ending"], &idle["sent_body"]), (&"tunnel_idle_timeout".into(), &5.into()));
    // It ends a moment before its time, since loops wake on whole milliseconds.
    assert!(idle["total_us"].as_u64().unwrap() >= 299_000, "{idle}");
    program.stop();

    let log = Log::new();
    let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let config = Config::to(engine, &[nobody]).pool("connect_attempts = 1\nqueue_timeout = \"0s\"");
    let program = Program::run(&log.of(&config, ""));
    Caller::to(&program).expect_reset();
    let refused = log.await_line(1);
    assert_eq!((&refused["ending"], &refused["tries"]), (&"connect_failed".into(), &1.into()), "{refused}");
    assert_eq!((&refused["server"], &refused["source"]), (&nobody.to_string().into(), &Value::Null));
    assert!(refused["queue_us"].is_u64() && refused["connect_us"].is_null(), "{refused}");
    program.stop();

    let log = Log::new();
    let origin = echo();
    let program = Program::run(&log.of(&Config::to(engine, &[origin.address]), ""));
    let mut client = Caller::to(&program);
    client.say("hello");
    client.bytes(5);
    program.stop();
    assert_eq!(log.await_line(1)["ending"], "drained");
}

/// With its first bytes in the same segment as the header that names it.
fn a_client_behind_a_load_balancer_is_named(engine: Engine) {
    let _lab = Lab::new();
    let log = Log::new();
    let origin = echo();
    let trust = "[listener.proxy_protocol]\ntrust = [\"127.0.0.0/8\"]";
    let config = log.of(&Config::to(engine, &[origin.address]), trust).listener("format = \"tcplog\"");
    let program = Program::run(&config);
    let mut client = Caller::to(&program);
    client.say("PROXY TCP4 192.0.2.7 192.0.2.8 4711 443\r\nhello");
    assert_eq!(client.bytes(5), b"hello");
    let source = origin.peers()[0];
    client.end();
    client.expect_end();
    let mut stranger = Caller::to(&program);
    stranger.say("no such header\r\n");
    stranger.expect_reset();
    program.stop();
    let text = log.text();
    // Lines of two shards come in any order.
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_by_key(|line| !line.starts_with("192.0.2.7:"));
    assert_eq!(lines.len(), 2, "{text}");
    let words: Vec<&str> = lines[0].split(' ').collect();
    assert_eq!((words[0], words[2]), ("192.0.2.7:4711", "edge"), "{text}");
    assert_eq!(words[3], format!("chat/{}", origin.address));
    assert!(words[4].split('/').all(|time| time.parse::<u64>().is_ok()), "{text}");
    let end = format!("5 -- received_body=5 source={source} tries=1 reason=ok");
    assert!(lines[0].ends_with(&end), "{text}");
    assert!(lines[1].contains(" edge -/- -1/-1/0 0 PP "), "{text}");
}

fn lines_and_counters_agree(engine: Engine) {
    const ALL: u64 = 2_000;
    let _lab = Lab::new();
    let log = Log::new();
    let origin = Origin::echo();
    let program = Program::run(&log.of(&Config::to(engine, &[origin.address]).top("shards = 2"), ""));
    let connections = ALL.to_string();
    let more = ["--connections", &connections, "--duration", "0s", "--timeout", "1m"];
    let load = Load::start("tcp", engine, program.address, &more).report();
    assert_eq!(load["verified"], ALL, "{load:#}");
    let report = program.report_when_empty();
    program.stop();
    let lines = log.json();
    let sum = |key: &str| lines.iter().map(|line| line[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(lines.len() as u64, ALL);
    assert_eq!(
        (sum("received_body"), sum("sent_body")),
        (report.count("bytes_up"), report.count("bytes_down"))
    );
    let sources: std::collections::HashSet<_> = lines.iter().map(|line| line["source"].to_string()).collect();
    assert_eq!(sources.len() as u64, ALL, "every one has a tuple of its own");
    let orderly = lines.iter().filter(|line| line["ending"] == "ok").count() as u64;
    assert_eq!(orderly, report.count("ended"));
}
