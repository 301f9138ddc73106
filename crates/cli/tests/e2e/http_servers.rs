//! Connections to servers: shared by all clients, given up in time, and trusted with nothing.

use crate::common::http::{Caller, Line, Scripted, await_requests, echo_script, ok, plain, show};
use crate::common::{Config, Engine, Lab, Program, eventually};
use crate::on_both_engines;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

on_both_engines!(
    a_response_head_in_pieces_with_much_behind_it,
    all_clients_share_one_connection,
    a_connection_serves_as_many_requests_as_it_may,
    a_connection_grows_as_old_as_it_may,
    idle_connections_are_given_up,
    a_server_that_closes_between_two_requests_is_not_noticed,
    a_server_that_resets_a_warm_connection_is_not_noticed,
    a_post_that_a_server_has_seen_is_not_sent_twice,
    a_post_that_no_server_has_seen_is_sent_again,
    a_post_to_a_server_that_crashed_is_not_sent_again,
    a_get_goes_to_the_other_server_when_one_breaks,
    a_body_that_was_sent_is_sent_again,
    two_answers_to_one_request,
    bytes_that_nobody_asked_for_end_the_connection,
    a_response_longer_than_it_says,
    a_response_shorter_than_it_says,
    heads_beyond_all_bounds_are_refused,
    no_response_at_all,
    servers_that_refuse_connections,
    more_than_a_server_may_have_wait_in_line,
);

fn run(engine: Engine, origin: &Scripted, adapt: impl Fn(Config) -> Config) -> Program {
    Program::run(&adapt(plain(engine, &[origin.address])))
}

fn all_clients_share_one_connection(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::echo();
    let program = run(engine, &origin, |config| config);
    let mut clients: Vec<Caller> = (0..50).map(|_| Caller::to(&program)).collect();
    for round in 0..3 {
        for (index, client) in clients.iter_mut().enumerate() {
            let number = round * 50 + index + 1;
            assert_eq!(client.get("/").text(), format!("{number} GET / "));
        }
    }
    assert_eq!(origin.connections(), 1);
    assert_eq!(program.report().used(), 1);
}

fn a_connection_serves_as_many_requests_as_it_may(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::echo();
    let program = run(engine, &origin, |config| config.pool("requests_max = 3"));
    let mut client = Caller::to(&program);
    let numbers: Vec<String> = (0..7).map(|_| client.get("/").text()[..1].to_owned()).collect();
    assert_eq!(numbers, ["1", "2", "3", "1", "2", "3", "1"]);
    assert_eq!(origin.connections(), 3);
}

fn a_connection_grows_as_old_as_it_may(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::echo();
    let program = run(engine, &origin, |config| config.pool("max_age = \"100ms\""));
    let mut client = Caller::to(&program);
    eventually("another connection", || {
        client.get("/");
        (origin.connections() > 2).then_some(())
    });
}

fn idle_connections_are_given_up(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::echo();
    let program = run(engine, &origin, |config| config.pool("idle_timeout = \"100ms\""));
    let mut client = Caller::to(&program);
    client.get("/");
    program.report_when("the connection to the server is gone", |report| report.used() == 0);
    assert_eq!(client.get("/").status(), 200);
    assert_eq!(origin.connections(), 2);
}

/// FIN arrives while the connection is idle.
fn a_server_that_closes_between_two_requests_is_not_noticed(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::start(|line| {
        line.request();
        line.say(&ok("x"));
    });
    let program = run(engine, &origin, |config| config);
    let mut client = Caller::to(&program);
    for number in 1..=50 {
        let method =
            if number % 2 == 0 { "GET / HTTP/1.1\r\n" } else { "POST / HTTP/1.1\r\nContent-Length: 0\r\n" };
        client.say(format!("{method}Host: a\r\n\r\n"));
        // The FIN may be on its way, and then nobody can know what became of a POST.
        let status = client.reply().status();
        assert!(status == 200 || (status == 502 && number % 2 == 1), "{status}");
    }
}

/// The connection breaks as the second request comes in.
fn a_server_that_resets_a_warm_connection_is_not_noticed(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::start(|line| {
        line.request();
        line.say(&ok("x"));
        line.request();
        line.reset();
    });
    let program = run(engine, &origin, |config| config);
    let mut client = Caller::to(&program);
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "x");
    }
    assert_eq!(origin.connections(), 20);
    let report = program.report();
    assert_eq!((report.count("http_retries"), report.count("http_5xx")), (19, 0));
}

fn a_post_that_a_server_has_seen_is_not_sent_twice(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::start(|line| {
        line.request();
        line.say(&ok("x"));
        line.request();
        line.reset();
    });
    let program = run(engine, &origin, |config| config);
    let mut client = Caller::to(&program);
    assert_eq!(client.get("/").text(), "x");
    client.say("POST /pay HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n42");
    let reply = client.reply();
    assert_eq!((reply.status(), reply.field("x-fourfold-reason")), (502, Some("server_reset")));
    assert_eq!(client.get("/").status(), 200, "the client's connection is as good as before");
    assert_eq!(origin.requests().iter().filter(|request| request.method() == "POST").count(), 1);
}

/// The server has closed when the request comes, and the proxy has not heard of it: it stands still meanwhile.
fn a_post_that_no_server_has_seen_is_sent_again(engine: Engine) {
    let _lab = Lab::new();
    let close = Arc::new(AtomicUsize::new(0));
    let when = Arc::clone(&close);
    let origin = Scripted::start(move |line| {
        let request = line.request();
        line.say(&ok(&request.map(|request| request.text()).unwrap_or_default()));
        let number = line.number;
        eventually("the word", || (when.load(Relaxed) > number).then_some(()));
    });
    let program = run(engine, &origin, |config| config);
    let mut client = Caller::to(&program);
    client.get("/");
    for round in 1..=20 {
        program.freeze();
        client.say(format!("POST /pay HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{:02}", round));
        close.store(round, Relaxed);
        eventually("it is closed", || (origin.ended() == round).then_some(()));
        program.signal(libc::SIGCONT);
        assert_eq!(client.reply().text(), format!("{round:02}"));
    }
    let paid = origin.requests().iter().filter(|request| request.method() == "POST").count();
    assert_eq!((paid, program.report().count("http_5xx")), (20, 0));
}

/// Its kernel answers with a reset, which says nothing of what became of the request.
fn a_post_to_a_server_that_crashed_is_not_sent_again(engine: Engine) {
    let _lab = Lab::new();
    let crash = Arc::new(AtomicUsize::new(0));
    let when = Arc::clone(&crash);
    let origin = Scripted::start(move |line| {
        if line.number > 0 {
            return echo_script(line);
        }
        line.request();
        line.say(&ok("x"));
        eventually("the crash", || (when.load(Relaxed) == 1).then_some(()));
        line.crash();
    });
    let program = run(engine, &origin, |config| config);
    let mut client = Caller::to(&program);
    client.get("/");
    crash.store(1, Relaxed);
    eventually("the crash is over", || (origin.ended() == 1).then_some(()));
    client.say("POST /pay HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n42");
    let reply = client.reply();
    assert_eq!((reply.status(), reply.field("x-fourfold-reason")), (502, Some("server_reset")));
    assert_eq!(client.get("/").text(), "1 GET / ");
}

fn a_get_goes_to_the_other_server_when_one_breaks(engine: Engine) {
    let _lab = Lab::new();
    let breaks = Scripted::start(|line| {
        line.request();
        line.reset();
    });
    let works = Scripted::echo();
    let program =
        Program::run(&plain(engine, &[breaks.address, works.address]).pool("balance = \"round-robin\""));
    let mut client = Caller::to(&program);
    for _ in 0..20 {
        assert_eq!(client.get("/").status(), 200);
    }
    assert!(breaks.connections() > 0, "it was never asked");
    assert!(program.report().count("http_retries") > 0);
}

fn a_body_that_was_sent_is_sent_again(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::start(|line| match line.number {
        0 => {
            line.until("half");
            line.reset();
        }
        _ => echo_script(line),
    });
    let program = run(engine, &origin, |config| config);
    for framing in [
        "Content-Length: 10\r\n\r\n{first}{second}",
        "Transfer-Encoding: chunked\r\n\r\n5\r\n{first}\r\n5\r\n{second}\r\n0\r\n\r\n",
    ] {
        let text = format!("PUT / HTTP/1.1\r\nHost: a\r\n{framing}")
            .replace("{first}", "half ")
            .replace("{second}", "whole");
        let cut = text.find("half ").unwrap() + 5;
        let mut client = Caller::to(&program);
        client.say(&text[..cut]);
        program.report_when("the other server was tried", |report| report.count("connected") >= 2);
        client.say(&text[cut..]);
        assert!(client.reply().text().ends_with("PUT / half whole"));
    }
}

fn two_answers_to_one_request(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::start(|line| {
        let mut twice = ok("first");
        twice.extend(ok("poison"));
        while line.request().is_some() {
            line.say(&twice);
        }
    });
    let program = run(engine, &origin, |config| config);
    let mut clients: Vec<Caller> = (0..3).map(|_| Caller::to(&program)).collect();
    for _ in 0..4 {
        for client in &mut clients {
            assert_eq!(client.get("/").text(), "first");
        }
    }
    assert_eq!(origin.connections(), 12, "a connection that said too much was used again");
    assert!(program.report().count("http_unasked") > 0);
}

fn bytes_that_nobody_asked_for_end_the_connection(engine: Engine) {
    let _lab = Lab::new();
    let (say, said) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (when, done) = (Arc::clone(&say), Arc::clone(&said));
    let origin = Scripted::start(move |line| {
        line.request();
        line.say(&ok("good"));
        if line.number == 0 {
            eventually("the word", || (when.load(Relaxed) == 1).then_some(()));
            line.say(&ok("poison"));
            done.store(1, Relaxed);
        }
        while line.request().is_some() {
            line.say(&ok("good"));
        }
    });
    let program = run(engine, &origin, |config| config);
    let mut client = Caller::to(&program);
    assert_eq!(client.get("/").text(), "good");
    say.store(1, Relaxed);
    program.report_when("it was noticed", |report| report.count("http_unasked") == 1);
    assert_eq!((client.get("/").text().as_str(), said.load(Relaxed)), ("good", 1));
    assert_eq!(origin.connections(), 2);
}

fn a_response_longer_than_it_says(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::start(|line| {
        while line.request().is_some() {
            line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n\r\nevil");
        }
    });
    let program = run(engine, &origin, |config| config);
    let mut client = Caller::to(&program);
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "hi");
    }
    assert_eq!(origin.connections(), 10);
}

fn a_response_shorter_than_it_says(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::start(|line| {
        let Some(request) = line.request() else { return };
        line.say(match request.target() {
            "/length" => b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhi".as_slice(),
            "/chunk" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhi",
            "/chunks" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
            "/reset" => b"HTTP/1.1 200 OK\r\n\r\nhi",
            _ => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX: y\r\n",
        });
        if request.target() == "/reset" {
            line.reset();
            // What it has said is out before the reset overtakes it.
            line.settle();
        }
    });
    let program = run(engine, &origin, |config| config);
    for target in ["/length", "/chunk", "/chunks", "/reset", "/trailer"] {
        for version in ["1.1", "1.0"] {
            let mut client = Caller::to(&program);
            client.say(format!("GET {target} HTTP/{version}\r\nHost: a\r\n\r\n"));
            let seen = client.expect_reset();
            assert!(!seen.ends_with(b"0\r\n\r\n"), "{target}: taken for whole: {}", show(&seen));
        }
    }
}

fn heads_beyond_all_bounds_are_refused(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::start(|line| {
        let Some(request) = line.request() else { return };
        match request.target() {
            "/fields" => line.say(format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(500)).as_bytes()),
            "/line" => line.say(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(15_000)).as_bytes()),
            _ => {
                line.say(b"HTTP/1.1 200 OK\r\n");
                // Until it is cut off.
                while line.stream_takes(&b"X-Header: something\r\n".repeat(1000)) {}
            }
        }
        line.outlast();
    });
    let program = run(engine, &origin, |config| config);
    let before = program.resident_bytes();
    for target in ["/fields", "/line", "/endless", "/endless"] {
        let reply = Caller::to(&program).get(target);
        assert_eq!(reply.status(), 502, "{target}");
    }
    let grown = program.resident_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "grew by {grown} bytes");
}

fn no_response_at_all(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::start(|line| drop(line.request()));
    let program = run(engine, &origin, |config| config);
    let mut client = Caller::to(&program);
    let reply = client.get("/");
    assert_eq!((reply.status(), reply.field("x-fourfold-reason")), (502, Some("server_closed")));
    // Once, and as often again as `retries` says.
    assert_eq!(origin.connections(), 3);
    client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.reply().status(), 502);
    assert_eq!(origin.connections(), 4);
}

fn servers_that_refuse_connections(engine: Engine) {
    let _lab = Lab::new();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let program = Program::run(&plain(engine, &[nobody]).pool("queue_timeout = \"100ms\""));
    let mut client = Caller::to(&program);
    for _ in 0..3 {
        let reply = client.get("/");
        assert!([502, 503].contains(&reply.status()), "{reply:?}");
        assert!(
            ["connect_failed", "no_server"].contains(&reply.field("x-fourfold-reason").unwrap()),
            "{reply:?}"
        );
    }
}

fn more_than_a_server_may_have_wait_in_line(engine: Engine) {
    const CLIENTS: usize = 20;
    let _lab = Lab::new();
    let most = Arc::new(AtomicUsize::new(0));
    let (now, peak) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&most));
    let origin = Scripted::start(move |line: &mut Line| {
        while line.request().is_some() {
            peak.fetch_max(now.fetch_add(1, Relaxed) + 1, Relaxed);
            std::thread::yield_now();
            now.fetch_sub(1, Relaxed);
            line.say(&ok("x"));
        }
    });
    let mut config = plain(engine, &[origin.address]);
    config.servers[0].1 = "max_connections = 2".into();
    let program = Program::run(&config);
    let mut clients: Vec<Caller> = (0..CLIENTS).map(|_| Caller::to(&program)).collect();
    for _ in 0..5 {
        clients.iter_mut().for_each(|client| client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        clients.iter_mut().for_each(|client| assert_eq!(client.reply().status(), 200));
    }
    await_requests(&origin, 5 * CLIENTS);
    assert!(most.load(Relaxed) <= 2, "{} at once", most.load(Relaxed));
    assert!(origin.connections() <= 2, "{} connections", origin.connections());
}

/// The rest of the head comes with more content than fits behind the head's beginning.
fn a_response_head_in_pieces_with_much_behind_it(engine: Engine) {
    const SIZE: usize = 60_000;
    let _lab = Lab::new();
    let gate = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let door = gate.local_addr().unwrap();
    let origin = Scripted::start(move |line| {
        while line.request().is_some() {
            line.say(
                b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Le",
            );
            // Held until the client has the first piece.
            use std::io::Read;
            let _ = std::net::TcpStream::connect(door).unwrap().read(&mut [0]);
            let body: String = (0..SIZE).map(|at| char::from(b'a' + (at % 26) as u8)).collect();
            line.say(format!("ngth: {SIZE}\r\n\r\n{body}").as_bytes());
        }
    });
    let program = run(engine, &origin, |config| config);
    let mut client = Caller::to(&program);
    for _ in 0..2 {
        client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.reply().status(), 103);
        drop(gate.accept().unwrap());
        let reply = client.reply();
        assert_eq!((reply.status(), reply.text().len()), (200, SIZE));
        assert!(reply.text().bytes().enumerate().all(|(at, byte)| byte == b'a' + (at % 26) as u8));
    }
    assert_eq!(origin.connections(), 1);
}
