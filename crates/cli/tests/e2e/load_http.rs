//! `fourfold load http` and `load ws`: against the origin both sides count the same; against servers that misbehave every lost
//! request is counted, with how far it had come.

use super::origin_http::HttpOrigin;
use crate::common::lab::{eventually, free_port};
use crate::common::program::{BINARY, Finished, Scratch, fourfold};
use crate::common::{Engine, Lab, Program};
use crate::on_both_engines;
use serde_json::Value;
use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

on_both_engines!(
    client_and_origin_count_the_same,
    bodies_come_back_as_they_were,
    every_request_has_a_name_and_half_are_posts,
    a_connection_for_each_request,
    what_is_due_and_not_started_counts_with_its_age,
    every_connection_asks_in_each_interval,
    a_lost_request_is_counted_with_how_far_it_came,
    a_wrong_answer_is_noticed,
    nobody_listens,
    a_connection_that_was_closed_meanwhile,
    held_connections_that_end_are_lost,
    websockets_are_proven_held_and_counted_when_lost,
    websockets_are_verified_once_more_when_all_are_up,
    websockets_send_in_turn,
);

fn run(kind: &str, to: SocketAddr, engine: Engine, more: &[&str]) -> (Value, Finished) {
    let address = to.to_string();
    let args = [&["load", kind, &address, "--json", "--engine", engine.name()], more].concat();
    let finished = fourfold(&args);
    let report = serde_json::from_str(&finished.stdout);
    (report.unwrap_or_else(|error| panic!("{error}: {finished:?}")), finished)
}

#[track_caller]
fn number(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("no {name} in {report:#}"))
}

/// Nothing was lost in any way.
#[track_caller]
fn assert_clean(report: &Value, finished: &Finished) {
    assert_eq!(number(report, "not_started"), 0, "{report:#}");
    assert_nothing_lost(report);
    assert_eq!(finished.code(), Some(0), "{finished:?}");
}

/// On a machine that is busy with something else, requests may be due that find no free connection.
#[track_caller]
fn assert_nothing_lost(report: &Value) {
    let zero = ["failed", "connect_failed", "lost", "never_sent", "sent_unanswered", "answering"];
    assert!(zero.iter().all(|name| number(report, name) == 0), "{report:#}");
}

fn client_and_origin_count_the_same(engine: Engine) {
    let _lab = Lab::new();
    let origin = HttpOrigin::start(engine, &[]);
    let verify = ["--verify", "pattern", "--requests", "2000", "--connections", "10"];
    for (path, bytes) in [("/", 100), ("/bytes/40000", 40_000), ("/chunked/40000", 40_000)] {
        let (before, length) = (origin.count("completed"), bytes.to_string());
        let more = [&verify[..], &["--path", path, "--expect-bytes", &length]].concat();
        let (report, finished) = run("http", origin.address, engine, &more);
        assert_clean(&report, &finished);
        assert_eq!((number(&report, "started"), number(&report, "answered")), (2000, 2000));
        assert_eq!((number(&report, "opened"), number(&report, "held")), (10, 10));
        assert_eq!(report["statuses"], serde_json::json!({ "200": 2000 }));
        assert_eq!(report["latency_us"]["count"], 2000);
        assert_eq!(origin.count("completed") - before, 2000, "{path}");
    }
    let (report, finished) =
        run("http", origin.address, engine, &["--requests", "50", "--path", "/status/503"]);
    assert_eq!((report["statuses"]["503"].as_u64(), finished.code()), (Some(50), Some(1)));
    let (report, finished) = run("http", origin.address, engine, &["--requests", "50", "--method", "HEAD"]);
    assert_clean(&report, &finished);
    origin.program.stop();
}

fn bodies_come_back_as_they_were(engine: Engine) {
    let _lab = Lab::new();
    let origin = HttpOrigin::start(engine, &[]);
    for bytes in ["1", "1000", "500000"] {
        let more = [
            "--path",
            "/echo",
            "--method",
            "POST",
            "--verify",
            "echo",
            "--requests",
            "60",
            "--connections",
            "6",
        ];
        let (report, finished) =
            run("http", origin.address, engine, &[&more[..], &["--body-bytes", bytes]].concat());
        assert_clean(&report, &finished);
        assert_eq!(number(&report, "answered"), 60);
    }
    assert_eq!(origin.count("body_bytes"), 60 * (1 + 1000 + 500_000));
    origin.program.stop();
}

fn every_request_has_a_name_and_half_are_posts(engine: Engine) {
    let _lab = Lab::new();
    let record = Scratch::new("record", b"");
    let origin = HttpOrigin::start(engine, &["--record", record.0.to_str().unwrap()]);
    let more = ["--post", "50", "--body-bytes", "300", "--verify", "echo", "--identify", "--path", "/echo"];
    let (report, finished) =
        run("http", origin.address, engine, &[&more[..], &["--requests", "400"]].concat());
    assert_clean(&report, &finished);
    assert_eq!(report["losses"], serde_json::json!([]));
    for method in ["GET", "POST"] {
        assert_eq!(report["methods"][method]["statuses"], serde_json::json!({ "200": 200 }), "{report:#}");
    }
    assert_eq!(origin.count("body_bytes"), 200 * 300);
    let seen = std::fs::read_to_string(&record.0).unwrap();
    let posts = seen.lines().filter(|line| line.starts_with("POST /echo "));
    assert_eq!(posts.count(), 200);
    let ids: HashSet<&str> = seen.lines().map(|line| line.rsplit_once(' ').unwrap().1).collect();
    assert_eq!((ids.len(), seen.lines().count()), (400, 400));

    let refused = ["--path", "/status/503", "--requests", "10", "--identify"];
    let (report, _) = run("http", origin.address, engine, &refused);
    let losses = report["losses"].as_array().unwrap();
    let seen = std::fs::read_to_string(&record.0).unwrap();
    assert_eq!(losses.len(), 10, "{report:#}");
    for loss in losses {
        assert_eq!(loss["why"], "503");
        let line = format!("GET /status/503 {}\n", loss["id"].as_str().unwrap());
        assert!(seen.contains(&line), "{line}");
    }
    origin.program.stop();
}

fn a_connection_for_each_request(engine: Engine) {
    let _lab = Lab::new();
    let origin = HttpOrigin::start(engine, &[]);
    let more = ["--keep-alive", "off", "--requests", "300", "--connections", "8"];
    let (report, finished) = run("http", origin.address, engine, &more);
    assert_clean(&report, &finished);
    assert_eq!((number(&report, "opened"), number(&report, "answered")), (300, 300));
    let paced = [&more[..], &["--rate", "1000"]].concat();
    let (report, finished) = run("http", origin.address, engine, &paced);
    assert_clean(&report, &finished);
    assert_eq!(origin.count("requests"), 600);
    origin.program.stop();
}

/// One connection and answers that take 100 ms, asked for 100 times per second: ten can be served in a second.
fn what_is_due_and_not_started_counts_with_its_age(engine: Engine) {
    let _lab = Lab::new();
    let origin = HttpOrigin::start(engine, &[]);
    let more = ["--path", "/delay/100/1", "--connections", "1", "--rate", "100", "--duration", "1s"];
    let (report, finished) = run("http", origin.address, engine, &more);
    let (started, waiting) = (number(&report, "started"), number(&report, "not_started"));
    assert!((1..=11).contains(&started) && waiting >= 80, "{report:#}");
    assert_eq!(report["latency_us"]["count"].as_u64(), Some(started + waiting));
    // A generator that leaves out what it could not send would say 100 ms.
    assert!(report["latency_us"]["p50"].as_u64() > Some(300_000), "{report:#}");
    assert!(number(&report, "late") > 0 && finished.code() == Some(1));
    origin.program.stop();
}

fn every_connection_asks_in_each_interval(engine: Engine) {
    let _lab = Lab::new();
    let origin = HttpOrigin::start(engine, &[]);
    let more = ["--connections", "200", "--interval", "500ms", "--duration", "1s"];
    let (report, _) = run("http", origin.address, engine, &more);
    assert_nothing_lost(&report);
    assert_eq!((number(&report, "opened"), number(&report, "held")), (200, 200));
    let due = report["duration_s"].as_f64().unwrap() * 400.0;
    let begun = number(&report, "answered") + number(&report, "not_started");
    // A shard's first one is due at once, and each may begin a millisecond early.
    assert!((due - 20.0..=due + 20.0).contains(&(begun as f64)), "{due}: {report:#}");
    assert_eq!(origin.count("accepted"), 200);
    origin.program.stop();
}

/// Serves connections one after the other: reads a request, answers with these bytes, closes.
fn server(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            read_request(&mut stream);
            let _ = stream.write_all(answer);
        }
    });
    address
}

fn read_request(stream: &mut TcpStream) {
    let (mut request, mut piece) = (Vec::new(), [0; 4096]);
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut piece) {
            Ok(n) if n > 0 => request.extend_from_slice(&piece[..n]),
            _ => return,
        }
    }
}

const ONE: [&str; 4] = ["--connections", "1", "--requests", "3"];

fn a_lost_request_is_counted_with_how_far_it_came(engine: Engine) {
    let _lab = Lab::new();
    let cases: [(&[u8], &str, &str); 4] = [
        (b"", "sent_unanswered", "closed by the peer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal", "answering", "closed by the peer"),
        (b"HTTP/1.1 200 O", "answering", "closed by the peer"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "answering",
            "malformed: content-length twice",
        ),
    ];
    for (answer, stage, cause) in cases {
        let (report, finished) = run("http", server(answer), engine, &ONE);
        assert_eq!((number(&report, "started"), number(&report, "answered")), (3, 0), "{cause}: {report:#}");
        assert_eq!((number(&report, "failed"), number(&report, stage)), (3, 3), "{cause}: {report:#}");
        assert_eq!(report["failed_by"], serde_json::json!({ cause: 3 }));
        assert_eq!(report["latency_us"]["count"], 3, "what is lost is in the figures");
        assert_eq!(finished.code(), Some(1));
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let more = [&ONE[..], &["--timeout", "200ms"]].concat();
    let (report, _) = run("http", silent.local_addr().unwrap(), engine, &more);
    assert_eq!(
        (number(&report, "sent_unanswered"), report["failed_by"]["no answer in time"].as_u64()),
        (3, Some(3))
    );
}

fn a_wrong_answer_is_noticed(engine: Engine) {
    let _lab = Lab::new();
    let address = server(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nthe quack");
    let pattern = [&ONE[..], &["--verify", "pattern"]].concat();
    let (report, _) = run("http", address, engine, &pattern);
    assert_eq!(report["failed_by"], serde_json::json!({ "wrong body": 3 }), "{report:#}");
    let (report, _) = run("http", address, engine, &[&ONE[..], &["--expect-bytes", "8"]].concat());
    assert_eq!(report["failed_by"], serde_json::json!({ "wrong length": 3 }), "{report:#}");
    let twice =
        server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let (report, _) = run("http", twice, engine, &ONE);
    assert_eq!(report["lost_by"], serde_json::json!({ "bytes that nobody asked for": 3 }), "{report:#}");
    let (report, _) = run("ws", server(b"HTTP/1.1 403 No\r\n\r\n"), engine, &["--connections", "1"]);
    assert_eq!(
        report["connect_failed_by"],
        serde_json::json!({ "not upgraded: status 403": 1 }),
        "{report:#}"
    );
}

fn nobody_listens(engine: Engine) {
    let _lab = Lab::new();
    let nobody = free_port(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let off = [&ONE[..], &["--keep-alive", "off"]].concat();
    let (report, finished) = run("http", nobody, engine, &off);
    assert_eq!((number(&report, "failed"), number(&report, "never_sent")), (3, 3), "{report:#}");
    assert_eq!(report["failed_by"]["connect: Connection refused (ECONNREFUSED)"], 3, "{report:#}");
    assert_eq!(finished.code(), Some(1));
    let (report, finished) = run("http", nobody, engine, &["--connections", "4", "--duration", "300ms"]);
    assert!(number(&report, "connect_failed") >= 4 && number(&report, "started") == 0, "{report:#}");
    assert_eq!(finished.code(), Some(1));
}

/// The origin closes after every third answer, unannounced. A request that is on its way then is lost, and said to be; one
/// that is not started yet goes over another connection.
fn a_connection_that_was_closed_meanwhile(engine: Engine) {
    let _lab = Lab::new();
    let origin = HttpOrigin::start(engine, &["--close-after", "3"]);
    let (report, _) = run("http", origin.address, engine, &["--connections", "2", "--requests", "300"]);
    let (answered, failed) = (number(&report, "answered"), number(&report, "failed"));
    assert_eq!((answered + failed, number(&report, "sent_unanswered")), (300, failed), "{report:#}");
    let causes = report["failed_by"].as_object().unwrap();
    assert!(causes.keys().all(|cause| cause.contains("on reuse")), "{report:#}");
    assert_eq!(origin.count("completed"), answered);
    origin.program.stop();
}

/// A load in the background.
struct Load(Program);

impl Load {
    /// Returns once all its connections are open, or have failed.
    fn start(kind: &str, origin: SocketAddr, engine: Engine, more: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command.args(["load", kind, &origin.to_string(), "--duration", "600s", "--engine", engine.name()]);
        command.args(more);
        let load = Program::spawn(command, origin);
        eventually("its connections are open", || load.log().contains("load: open ").then_some(()));
        Self(load)
    }

    /// Asked for by SIGUSR1.
    fn counters(&self) -> Value {
        let before = self.0.log().lines().count();
        self.0.signal(libc::SIGUSR1);
        eventually("the load's counters", || {
            self.0.log().lines().skip(before).find_map(|line| serde_json::from_str(line).ok())
        })
    }

    /// Stops it; its exit status.
    fn end(self) -> Option<i32> {
        self.0.signal(libc::SIGTERM);
        self.0.wait().status.code()
    }
}

fn held_connections_that_end_are_lost(engine: Engine) {
    let _lab = Lab::new();
    let origin = HttpOrigin::start(engine, &[]);
    let load = Load::start("http", origin.address, engine, &["--hold", "--connections", "300"]);
    assert_eq!((origin.count("open"), origin.count("requests"), origin.count("completed")), (300, 300, 300));
    let counters = load.counters();
    assert_eq!((number(&counters, "held"), number(&counters, "lost")), (300, 0), "{counters}");
    drop(origin);
    let counters = eventually("all are lost", || {
        Some(load.counters()).filter(|counters| number(counters, "lost") == 300)
    });
    assert_eq!((number(&counters, "answered"), number(&counters, "failed")), (300, 0), "{counters}");
    assert_eq!((number(&counters, "held"), load.end()), (0, Some(1)));
}

fn websockets_are_proven_held_and_counted_when_lost(engine: Engine) {
    let _lab = Lab::new();
    let origin = HttpOrigin::start(engine, &[]);
    let (report, finished) =
        run("ws", origin.address, engine, &["--connections", "300", "--duration", "100ms"]);
    assert_clean(&report, &finished);
    assert_eq!((number(&report, "answered"), number(&report, "held")), (300, 300));
    assert_eq!((origin.count("websockets"), origin.count("frames")), (300, 300));

    let load = Load::start("ws", origin.address, engine, &["--connections", "300", "--message", "70000"]);
    assert_eq!((origin.count("websockets"), origin.count("frames")), (600, 600));
    drop(origin);
    let counters = eventually("all are lost", || {
        Some(load.counters()).filter(|counters| number(counters, "lost") == 300)
    });
    assert_eq!((number(&counters, "answered"), number(&counters, "failed")), (300, 0), "{counters}");
    assert_eq!(load.end(), Some(1));
}

fn websockets_are_verified_once_more_when_all_are_up(engine: Engine) {
    let _lab = Lab::new();
    let origin = HttpOrigin::start(engine, &[]);
    let more = ["--connections", "300", "--duration", "300ms", "--verify-all", "--verify", "1000"];
    let (report, finished) = run("ws", origin.address, engine, &more);
    assert_clean(&report, &finished);
    assert_eq!((number(&report, "held"), number(&report, "checked")), (300, 300));
    // A first message, another one, and random ones.
    assert!(number(&report, "answered") > 600, "{report:#}");
    assert_eq!(origin.count("frames"), number(&report, "answered"));
    origin.program.stop();
}

fn websockets_send_in_turn(engine: Engine) {
    let _lab = Lab::new();
    let origin = HttpOrigin::start(engine, &[]);
    let more = ["--connections", "100", "--interval", "250ms", "--duration", "500ms"];
    let (report, _) = run("ws", origin.address, engine, &more);
    assert_nothing_lost(&report);
    // One to prove each, and two in turn.
    assert!(number(&report, "answered") + number(&report, "not_started") >= 290, "{report:#}");
    assert_eq!(origin.count("frames"), number(&report, "answered"));
    let busy = ["--connections", "10", "--busy", "--requests", "1000", "--message", "300"];
    let (report, finished) = run("ws", origin.address, engine, &busy);
    assert_clean(&report, &finished);
    assert_eq!(number(&report, "answered"), 1000);
    origin.program.stop();
}

#[test]
fn wrong_usage_says_what_is_wrong() {
    let _lab = Lab::new();
    let cases: [(&[&str], i32, &str); 6] = [
        (&["load", "http", "https://127.0.0.1/"], 1, "only http://"),
        (&["load", "http", "127.0.0.1:1", "--path", "x y"], 1, "a path begins with /"),
        (&["load", "http", "127.0.0.1:1", "--header", "nocolon"], 1, "no colon"),
        (&["load", "http", "127.0.0.1:1", "--rate", "0"], 1, "above 0"),
        (&["load", "http", "127.0.0.1:1", "--rate", "5", "--interval", "1s"], 2, "cannot be used with"),
        (&["load", "ws", "127.0.0.1:1", "--connections", "70000"], 1, "name more --source addresses"),
    ];
    for (args, code, words) in cases {
        let finished = fourfold(args);
        assert_eq!(finished.code(), Some(code), "{args:?}: {finished:?}");
        assert!(finished.stderr.contains(words), "{args:?}: {finished:?}");
    }
}

#[test]
fn a_running_load_tells_its_counters() {
    let _lab = Lab::new();
    let origin = HttpOrigin::start(Engine::Epoll, &[]);
    let load = Load::start("http", origin.address, Engine::Epoll, &["--hold", "--connections", "5"]);
    assert!(load.0.log().contains("load: open 5 of 5 after"));
    let counters = load.counters();
    assert_eq!((number(&counters, "held"), number(&counters, "answered")), (5, 5), "{counters}");
    assert_eq!(load.end(), Some(0));
    origin.program.stop();
}
