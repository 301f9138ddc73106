//! Clients that vanish, dawdle, ask too much, or are there when the service stops.

use crate::common::crowd::vanish;
use crate::common::http::{Caller, Scripted, await_requests, ok, plain, show};
use crate::common::origin::reset_on_close;
use crate::common::{Config, Engine, Lab, Program};
use crate::on_both_engines;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

on_both_engines!(
    clients_that_leave_in_any_phase_leave_nothing_behind,
    silent_clients_are_closed,
    slow_heads_are_answered_with_408,
    slow_bodies_are_answered_with_408,
    a_client_that_takes_nothing_is_reset,
    a_client_that_reads_steadily_is_not,
    a_response_that_was_all_sent_outlives_keep_alive,
    a_server_that_does_not_answer_is_given_up,
    a_response_that_stops_is_broken_off,
    a_server_that_takes_no_content_is_given_up,
    too_long_too_many_too_large,
    a_body_beyond_the_limit_is_refused,
    requests_per_connection_are_limited,
    a_stop_lets_requests_end,
    a_stop_in_the_midst_of_a_download,
);

fn stand(engine: Engine, origin: &Scripted, adapt: impl Fn(Config) -> Config) -> Program {
    Program::run(&adapt(plain(engine, &[origin.address])))
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn clients_that_leave_in_any_phase_leave_nothing_behind(engine: Engine) {
    const PHASES: &[(&str, usize)] = &[
        ("", 0),
        ("GET / HT", 0),
        ("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n", 0),
        ("POST /wait HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc", 0),
        ("POST /wait HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", 0),
        ("GET /endless HTTP/1.1\r\nHost: a\r\n\r\n", 100_000),
        ("GET /endless HTTP/1.1\r\nHost: a\r\n\r\nGET /endless HTTP/1.1\r\nHost: a\r\n\r\n", 100_000),
        (GET, 20),
    ];
    let _lab = Lab::new();
    let origin = Scripted::start(|line| {
        while let Some(head) = line.head() {
            if head.contains("/endless") {
                line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
                while line.stream_takes(&[b'x'; 10_000]) {}
            } else if head.contains("/wait") {
                return line.outlast();
            } else {
                line.say(&ok("hi"));
            }
        }
    });
    // A client that has sent FIN may still wait for its response: so long.
    let program =
        stand(engine, &origin, |config| config.pool("response_timeout = \"200ms\"\nretry_on = [\"never\"]"));
    let leave: [fn(TcpStream); 3] = [
        drop,
        |stream| {
            reset_on_close(&stream);
        },
        |stream| drop(stream.shutdown(std::net::Shutdown::Both)),
    ];
    for (said, taken) in PHASES {
        for leave in leave {
            let mut client = Caller::to(&program);
            client.say(said);
            client.bytes(*taken);
            program.report_when("it is known", |report| report.connections >= 1);
            leave(client.stream);
        }
    }
    program.report_when("all are gone", |report| report.connections == 0 && report.used() <= 1);
    assert_eq!(Caller::to(&program).get("/").text(), "hi");
    // A client whose machine is gone is noticed by what it does not acknowledge; here: by the time it takes nothing.
    let client = Caller::to(&program);
    vanish(client.stream);
    program.stop();
}

fn silent_clients_are_closed(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::echo();
    let program = stand(engine, &origin, |config| {
        config.listener("first_byte_timeout = \"200ms\"\nkeep_alive_timeout = \"200ms\"")
    });
    let mut silent = Caller::to(&program);
    silent.expect_end();
    let mut idle = Caller::to(&program);
    idle.get("/");
    idle.expect_end();
    assert_eq!(program.report().count("http_idle_closed"), 2);
}

fn slow_heads_are_answered_with_408(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::echo();
    let program = stand(engine, &origin, |config| {
        config
            .listener("header_timeout = \"300ms\"\nfirst_byte_timeout = \"1m\"\nkeep_alive_timeout = \"1m\"")
    });
    let mut client = Caller::to(&program);
    client.get("/");
    for first in ["GET / HTTP/1.1\r\nHost: a\r\nX: y", "\r", "G"] {
        let mut client = Caller::to(&program);
        client.say(first);
        let reply = client.reply();
        assert_eq!((reply.status(), reply.field("connection")), (408, Some("close")), "{first}");
        client.expect_end();
    }
    // The clock runs from the first byte, and no further byte sets it back.
    client.say("GET / HTTP/1.1\r\n");
    while !client.hears_within(Duration::from_millis(20)) {
        client.say("X: y\r\n");
    }
    assert_eq!(client.reply().status(), 408);
    assert_eq!(program.report().count("http_header_timeout"), 4);
}

fn slow_bodies_are_answered_with_408(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::echo();
    let program = stand(engine, &origin, |config| config.listener("body_timeout = \"300ms\""));
    for framing in [
        "Content-Length: 10\r\n\r\nabc",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "Content-Length: 10\r\n\r\n",
    ] {
        let mut client = Caller::to(&program);
        client.say(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}"));
        let reply = client.reply();
        assert_eq!((reply.status(), reply.field("connection")), (408, Some("close")), "{framing}");
        client.expect_end();
    }
    assert_eq!(program.report().count("http_body_timeout"), 3);
    assert_eq!(origin.requests().len(), 0, "half a request was taken for a whole one");
}

fn endless() -> Scripted {
    Scripted::start(|line| {
        while line.request().is_some() {
            line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n");
            (0..5_000).all(|_| line.stream_takes(&[b'x'; 10_000]));
        }
    })
}

fn a_client_that_takes_nothing_is_reset(engine: Engine) {
    let _lab = Lab::new();
    let origin = endless();
    let program = stand(engine, &origin, |config| config.listener("send_timeout = \"300ms\""));
    let mut client = Caller::to(&program);
    client.say(GET);
    program.report_when("it was counted out", |report| {
        report.count("http_send_timeout") == 1 && report.connections == 0
    });
    client.expect_reset();
}

/// Slowly, and for many times as long as a client may take nothing.
fn a_client_that_reads_steadily_is_not(engine: Engine) {
    let _lab = Lab::new();
    let origin = endless();
    let program = stand(engine, &origin, |config| {
        config.listener("send_timeout = \"500ms\"\nfirst_byte_timeout = \"4s\"")
    });
    let mut client = Caller::to(&program);
    client.say(GET);
    // The program's own clock says when it is long enough.
    let silent = Caller::to(&program);
    let mut taken = 0;
    while !silent.hears_within(Duration::from_millis(5)) && taken < 45_000_000 {
        taken += client.bytes(65_536).len();
    }
    assert_eq!(program.report().count("http_send_timeout"), 0);
    assert!(taken > 1_000_000, "{taken}");
}

/// The response has left the server long ago; the client takes its time, and ends its own side meanwhile.
fn a_response_that_was_all_sent_outlives_keep_alive(engine: Engine) {
    const SIZE: usize = 4_000_000;
    let _lab = Lab::new();
    let origin = Scripted::start(|line| {
        while let Some(request) = line.request() {
            line.say(&ok(&"x".repeat(if request.target() == "/" { SIZE } else { 2 })));
        }
    });
    let program = stand(engine, &origin, |config| config.listener("keep_alive_timeout = \"100ms\""));
    for ends in [true, false] {
        let mut client = Caller::to(&program);
        client.say(GET);
        let mut taken = client.bytes(SIZE / 4).len();
        if ends {
            client.end();
        }
        while taken < SIZE {
            // For as long as the program lets others be idle.
            let mut idle = Caller::to(&program);
            idle.get("/small");
            idle.expect_end();
            taken += client.bytes((SIZE / 4).min(SIZE - taken)).len();
        }
    }
}

fn a_server_that_does_not_answer_is_given_up(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::start(|line| line.outlast());
    let program = stand(engine, &origin, |config| config.pool("response_timeout = \"200ms\"\nretries = 1"));
    let mut client = Caller::to(&program);
    let reply = client.get("/");
    assert_eq!((reply.status(), reply.field("x-fourfold-reason")), (504, Some("response_timeout")));
    assert_eq!(origin.connections(), 2, "it is asked once more, since a GET may be repeated");
    client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(client.reply().status(), 504);
    assert_eq!(origin.connections(), 3);
    program.report_when("nothing is left", |report| report.used() == 0);
}

fn a_response_that_stops_is_broken_off(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::start(|line| {
        line.request();
        line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
        line.outlast();
    });
    let program = stand(engine, &origin, |config| config.pool("response_idle_timeout = \"200ms\""));
    let mut client = Caller::to(&program);
    client.say(GET);
    let seen = client.expect_reset();
    assert!(seen.ends_with(b"\r\n\r\nabc"), "{}", show(&seen));
    program.report_when("nothing is left", |report| report.used() == 0 && report.connections == 0);
}

fn a_server_that_takes_no_content_is_given_up(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::start(|line| {
        line.head();
        // Never reads on.
        line.wait_for_reset();
    });
    let program = stand(engine, &origin, |config| {
        config.pool("response_timeout = \"300ms\"").listener("body_timeout = \"1m\"")
    });
    let mut client = Caller::to(&program);
    client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n");
    let mut writer = client.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        use std::io::Write;
        while writer.write_all(&[b'x'; 100_000]).is_ok() {}
    });
    assert_eq!(client.reply().status(), 504);
    drop(client);
    program.report_when("nothing is left", |report| report.used() == 0 && report.connections == 0);
    sender.join().unwrap();
}

fn too_long_too_many_too_large(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::echo();
    let program = stand(engine, &origin, |config| {
        config.listener(
            "line_bytes_max = \"1000B\"\nheader_bytes_max = \"4000B\"\nheaders_max = 20\ntrailer_bytes_max = \"100B\"",
        )
    });
    let long = |count| "x".repeat(count);
    for (request, status, reason) in [
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", long(1000)), 414, "target_too_long"),
        (format!("GET /{}", long(5000)), 414, "target_too_long"),
        (format!("\r{}", long(50_000)), 414, "target_too_long"),
        (format!("\r\n\r\n\r{}", long(50_000)), 414, "target_too_long"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", long(1000)), 431, "field_too_long"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(20)), 431, "fields_too_many"),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", format!("X: {}\r\n", long(900)).repeat(5)),
            431,
            "head_too_large",
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}", format!("X: {}\r\n", long(900)).repeat(50)),
            431,
            "head_too_large",
        ),
        (
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: {}\r\n\r\n",
                long(200)
            ),
            431,
            "trailers_too_large",
        ),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n".into(), 505, "version_unsupported"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".into(),
            501,
            "transfer_coding_unknown",
        ),
    ] {
        let mut client = Caller::to(&program);
        client.say(&request);
        let reply = client.reply();
        let got = (reply.status(), reply.field("x-fourfold-reason"), reply.field("connection"));
        assert_eq!(got, (status, Some(reason), Some("close")), "{}", show(request.as_bytes()));
        client.expect_end();
    }
    assert_eq!(origin.requests().len(), 0);
}

fn a_body_beyond_the_limit_is_refused(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::echo();
    let program = stand(engine, &origin, |config| config.listener("body_bytes_max = \"10B\""));
    let mut client = Caller::to(&program);
    client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789");
    assert_eq!(client.reply().status(), 200);
    for framing in [
        "Content-Length: 11\r\n\r\n01234567890",
        "Transfer-Encoding: chunked\r\n\r\n6\r\n012345\r\n6\r\n678901\r\n0\r\n\r\n",
    ] {
        let mut client = Caller::to(&program);
        client.say(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}"));
        let reply = client.reply();
        assert_eq!((reply.status(), reply.field("x-fourfold-reason")), (413, Some("body_too_large")));
        client.expect_end();
    }
    assert_eq!(origin.requests().len(), 1);
}

fn requests_per_connection_are_limited(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::echo();
    let program = stand(engine, &origin, |config| config.listener("requests_max = 3"));
    let mut client = Caller::to(&program);
    client.say(GET.repeat(5));
    let closes: Vec<bool> = (0..3).map(|_| client.reply().field("connection") == Some("close")).collect();
    assert_eq!(closes, [false, false, true]);
    client.expect_end();
    assert_eq!((origin.requests().len(), origin.connections()), (3, 1));
}

fn a_stop_lets_requests_end(engine: Engine) {
    let _lab = Lab::new();
    let gate = TcpListener::bind("127.0.0.1:0").unwrap();
    let door = gate.local_addr().unwrap();
    let origin = Scripted::start(move |line| {
        while let Some(request) = line.request() {
            if request.target() == "/slow" {
                // Held until the test lets go of the other end.
                use std::io::Read;
                let _ = TcpStream::connect(door).unwrap().read(&mut [0]);
            }
            line.say(&ok(request.target()));
        }
    });
    let program = stand(engine, &origin, |mut config| {
        config.top = config.top.replace("drain_timeout = \"1s\"", "drain_timeout = \"30s\"");
        config
    });
    let (mut idle, mut busy) = (Caller::to(&program), Caller::to(&program));
    assert_eq!(idle.get("/").text(), "/");
    busy.say("GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    await_requests(&origin, 2);
    let held = gate.accept().unwrap();
    program.signal(libc::SIGTERM);
    idle.expect_end();
    crate::common::eventually("nobody listens any more", || TcpStream::connect(program.address).err());
    drop(held);
    let reply = busy.reply();
    assert_eq!((reply.text().as_str(), reply.field("connection")), ("/slow", Some("close")));
    busy.expect_end();
    assert_eq!(program.wait().status.code(), Some(0));
}

fn a_stop_in_the_midst_of_a_download(engine: Engine) {
    let _lab = Lab::new();
    let origin = endless();
    let mut config = plain(engine, &[origin.address]);
    config.top = config.top.replace("drain_timeout = \"1s\"", "drain_timeout = \"30s\"");
    let program = Program::run(&config);
    let mut client = Caller::to(&program);
    client.say(GET);
    client.bytes(1_000_000);
    program.signal(libc::SIGTERM);
    let seen = client.bytes(48_000_000);
    assert!(seen.iter().all(|byte| *byte == b'x'));
    assert_eq!(client.bytes(1_000_000).len(), 1_000_000);
    drop(client);
    assert_eq!(program.wait().status.code(), Some(0));
}
