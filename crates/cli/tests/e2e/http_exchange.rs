//! What an HTTP client says reaches a server as it was meant, and the answer comes back as it was meant.

use crate::common::http::{Caller, Scripted, await_requests, find, ok, plain, show};
use crate::common::strict::Message;
use crate::common::{Config, Engine, Lab, Program};
use crate::on_both_engines;

on_both_engines!(
    a_request_goes_on_with_nothing_but_what_it_said,
    many_requests_over_one_connection_on_either_side,
    pipelined_requests_are_answered_in_order_however_they_are_cut,
    chunks_and_trailers_pass_both_ways,
    a_response_byte_by_byte,
    responses_without_content_leave_the_connection_in_step,
    interim_responses_reach_those_who_know_them,
    a_flood_of_interim_responses_is_refused,
    a_client_that_expects_continue_waits_for_the_server,
    a_server_may_refuse_what_a_client_holds_back,
    absolute_targets_name_the_host,
    http_1_0_clients,
    http_1_0_servers,
    a_response_may_last_until_the_server_closes,
    a_client_that_has_ended_is_still_answered,
    pipelined_requests_before_a_fin_are_all_answered,
    a_server_may_answer_before_it_has_the_whole_request,
    a_web_socket_carries_bytes_both_ways,
    an_upgrade_that_is_refused_leaves_http,
    an_upgrade_that_nobody_asked_for_is_an_error,
    heads_as_large_as_the_limit_allows,
    bodies_both_ways_at_once,
);

/// A client, the proxy and an origin that echoes.
struct Stand {
    client: Caller,
    origin: Scripted,
    program: Program,
    _lab: Lab,
}

fn stand(engine: Engine, origin: impl FnOnce() -> Scripted) -> Stand {
    stand_with(engine, origin, |config| config)
}

fn stand_with(engine: Engine, origin: impl FnOnce() -> Scripted, adapt: impl Fn(Config) -> Config) -> Stand {
    let lab = Lab::new();
    let origin = origin();
    let program = Program::run(&adapt(plain(engine, &[origin.address])));
    Stand { client: Caller::to(&program), origin, program, _lab: lab }
}

/// One answer to every request, whatever it is.
fn always(answer: &'static [u8]) -> Scripted {
    Scripted::start(move |line| while line.request().map(|_| line.say(answer)).is_some() {})
}

/// The next answer for the next request.
fn in_turn(answers: &'static [&'static [u8]]) -> Scripted {
    Scripted::start(move |line| {
        let mut answers = answers.iter();
        while line.request().is_some() {
            let Some(answer) = answers.next() else { return };
            line.say(answer);
        }
    })
}

fn a_request_goes_on_with_nothing_but_what_it_said(engine: Engine) {
    let Stand { mut client, origin, program, _lab } = stand(engine, Scripted::echo);
    client.say(
        "GET /a/./b/../%63?q=%2f HTTP/1.1\r\nhOST:  a.example:81 \r\nX-One:\t1\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: x\r\nTE: trailers\r\nX-One: 2\r\nCookie: a=b\r\n\r\n",
    );
    assert_eq!(client.reply().text(), "1 GET /a/c?q=%2f ");
    assert_eq!(
        show(&origin.received(0)),
        show(b"GET /a/c?q=%2f HTTP/1.1\r\nHost: a.example:81\r\nX-One: 1\r\nX-One: 2\r\nCookie: a=b\r\n\r\n")
    );
    drop(client);
    program.report_when("the client has left", |report| report.connections == 0);
    program.stop();
}

fn many_requests_over_one_connection_on_either_side(engine: Engine) {
    let Stand { mut client, origin, program, _lab } = stand(engine, Scripted::echo);
    for number in 1..=200 {
        assert_eq!(client.get("/x").text(), format!("{number} GET /x "));
    }
    assert_eq!(origin.connections(), 1);
    let report = program.report();
    assert_eq!((report.count("http_requests"), report.count("http_2xx")), (200, 200));
    assert_eq!((report.count("http_reused"), report.count("connects")), (199, 1));
}

const THREE: &[u8] = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\
    POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
    PUT /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=\"\\\"\"\r\nd\r\n0\r\nX-End: 1\r\n\r\n";

fn expect_three(client: &mut Caller, what: &str) {
    for wanted in ["GET /1 ", "POST /2 hello", "PUT /3 abcd"] {
        let reply = client.try_reply_to("GET").unwrap_or_else(|why| panic!("{what}: {why}"));
        let text = reply.text();
        assert_eq!(text.split_once(' ').unwrap().1, wanted, "{what}: {reply:?}");
    }
}

fn pipelined_requests_are_answered_in_order_however_they_are_cut(engine: Engine) {
    let Stand { mut client, origin, program, _lab } = stand(engine, Scripted::echo);
    for cut in 0..THREE.len() {
        client.say(&THREE[..cut]);
        client.say(&THREE[cut..]);
        expect_three(&mut client, &format!("cut at {cut}"));
    }
    for byte in THREE {
        client.say([*byte]);
    }
    expect_three(&mut client, "byte by byte");
    client.say(THREE.repeat(50));
    (0..50).for_each(|round| expect_three(&mut client, &format!("all at once, {round}")));
    drop(client);
    // A connection of its own for each cut: the first bytes are then always a read of their own.
    for cut in (1..THREE.len()).step_by(7) {
        let mut client = Caller::to(&program);
        client.say(&THREE[..cut]);
        program.report_when("they are in", |report| report.connections > 0);
        client.say(&THREE[cut..]);
        expect_three(&mut client, &format!("fresh, cut at {cut}"));
    }
    let requests = origin.requests();
    let third =
        |request: &Message| request.target() == "/3" && request.trailers == [("x-end".into(), "1".into())];
    assert_eq!(requests.iter().filter(|request| third(request)).count(), requests.len() / 3);
    assert_eq!(origin.connections(), 1);
}

fn chunks_and_trailers_pass_both_ways(engine: Engine) {
    const ANSWER: &[u8] =
        b"HTTP/1.1 200 Fine, thanks\r\nTransfer-Encoding: Chunked\r\nTrailer: X-Sum\r\n\r\n\
        5;ext\r\nhello\r\n00006\r\n world\r\n0\r\nX-Sum: 11\r\nContent-Length: 3\r\n\r\n";
    let Stand { mut client, origin, program: _program, _lab } = stand(engine, || always(ANSWER));
    for _ in 0..3 {
        client.say(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
             A\r\n0123456789\r\n0\r\nX-Sum: 10\r\nHost: evil\r\nTransfer-Encoding: x\r\n\r\n",
        );
        let reply = client.reply();
        assert_eq!((reply.line[2].as_str(), reply.text().as_str()), ("Fine, thanks", "hello world"));
        assert_eq!(reply.trailers, [("x-sum".into(), "11".into())]);
    }
    for request in origin.requests() {
        assert_eq!((request.text().as_str(), request.chunked), ("0123456789", true));
        assert_eq!(request.trailers, [("x-sum".into(), "10".into())]);
    }
    assert_eq!((origin.requests().len(), origin.connections()), (3, 1));
}

fn a_response_byte_by_byte(engine: Engine) {
    const ANSWER: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\
        Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nA: b\r\n\r\n";
    let origin = || {
        Scripted::start(|line| {
            while line.request().is_some() {
                ANSWER.iter().for_each(|byte| line.say(&[*byte]));
            }
        })
    };
    let Stand { mut client, origin, program: _program, _lab } = stand(engine, origin);
    for _ in 0..5 {
        client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.reply().status(), 103);
        assert_eq!(client.reply().text(), "abcde");
    }
    assert_eq!(origin.connections(), 1);
}

fn responses_without_content_leave_the_connection_in_step(engine: Engine) {
    let origin = || {
        in_turn(&[
            b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\nETag: \"x\"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast",
        ])
    };
    let Stand { mut client, origin, program: _program, _lab } = stand(engine, origin);
    let mut ask = |method: &str| {
        client.say(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.reply_to(method)
    };
    assert_eq!(ask("HEAD").field("content-length"), Some("1000"));
    assert_eq!(ask("HEAD").status(), 200);
    let empty = ask("GET");
    assert_eq!((empty.status(), empty.field("content-length")), (204, None));
    let same = ask("GET");
    assert_eq!((same.status(), same.field("etag")), (304, Some("\"x\"")));
    assert_eq!(ask("DELETE").field("content-length"), Some("0"));
    assert_eq!(ask("GET").text(), "last");
    assert_eq!(origin.connections(), 1);
}

const HINTED: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n\
    HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

fn interim_responses_reach_those_who_know_them(engine: Engine) {
    let Stand { mut client, origin: _origin, program, _lab } = stand(engine, || always(HINTED));
    client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    // A 100 that nobody asked for helps nobody.
    let hints = client.reply();
    assert_eq!((hints.status(), hints.field("link")), (103, Some("</a.css>")));
    assert_eq!(client.reply().text(), "hi");
    assert_eq!(client.get("/").status(), 103);
    let mut old = Caller::to(&program);
    old.say("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(old.reply().text(), "hi");
    old.expect_end();
}

fn a_flood_of_interim_responses_is_refused(engine: Engine) {
    let origin = || {
        Scripted::start(|line| {
            while line.request().is_some() {
                line.say(&b"HTTP/1.1 102 Processing\r\n\r\n".repeat(1000));
            }
        })
    };
    let Stand { mut client, origin: _origin, program: _program, _lab } = stand(engine, origin);
    client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut reply = client.reply();
    let mut interim = 0;
    while reply.status() == 102 {
        (interim, reply) = (interim + 1, client.reply());
    }
    assert!(interim < 100, "{interim} interim responses");
    assert_eq!(reply.status(), 502);
}

fn a_client_that_expects_continue_waits_for_the_server(engine: Engine) {
    let origin = || {
        Scripted::start(|line| {
            while let Some(head) = line.head() {
                assert!(head.contains("Expect: 100-continue\r\n"), "{head}");
                line.say(b"HTTP/1.1 100 Continue\r\n\r\n");
                line.until("data");
                line.say(&ok("thanks"));
            }
        })
    };
    let Stand { mut client, origin, program: _program, _lab } = stand(engine, origin);
    for _ in 0..3 {
        client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!(client.reply().status(), 100);
        client.say("data");
        assert_eq!(client.reply().text(), "thanks");
    }
    assert_eq!(origin.connections(), 1);
}

fn a_server_may_refuse_what_a_client_holds_back(engine: Engine) {
    let origin = || {
        Scripted::start(|line| {
            if line.head().is_some() {
                line.say(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno");
                line.outlast();
            }
        })
    };
    let Stand { mut client, origin, program: _program, _lab } = stand(engine, origin);
    client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.reply().text(), "no");
    // Whether the content still comes nobody can tell: neither connection can be used again.
    client.expect_end();
    assert_eq!(Caller::at(_program.address).get("/").status(), 401);
    assert_eq!(origin.connections(), 2);
}

fn absolute_targets_name_the_host(engine: Engine) {
    let Stand { mut client, origin, program, _lab } = stand(engine, Scripted::echo);
    client.say("GET http://a.example/x?y HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(client.reply().text(), "1 GET /x?y ");
    client.say("GET http://b.example HTTP/1.1\r\nHost: b.example:80\r\n\r\n");
    assert_eq!(client.reply().text(), "2 GET / ");
    client.say("OPTIONS http://c.example HTTP/1.1\r\nHost: c.example\r\n\r\n");
    assert_eq!(client.reply().text(), "3 OPTIONS * ");
    let hosts: Vec<String> =
        origin.requests().iter().map(|request| request.field("host").unwrap_or_default().into()).collect();
    assert_eq!(hosts, ["a.example", "b.example", "c.example"]);
    for bad in ["http://a.example/", "ftp://b.example/", "http://u@b.example/", "http:///", "b.example/"] {
        let mut client = Caller::to(&program);
        client.say(format!("GET {bad} HTTP/1.1\r\nHost: b.example\r\n\r\n"));
        assert_eq!(client.reply().status(), 400, "{bad}");
        client.expect_end();
    }
    assert_eq!(origin.requests().len(), 3);
}

fn http_1_0_clients(engine: Engine) {
    let origin = || {
        in_turn(&[
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nthree\r\n0\r\nX: y\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfour",
        ])
    };
    let Stand { mut client, origin, program, _lab } = stand(engine, origin);
    client.say("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let reply = client.reply();
    assert_eq!((reply.text().as_str(), reply.field("connection")), ("one", Some("keep-alive")));
    client.say("GET / HTTP/1.0\r\n\r\n");
    let reply = client.reply();
    assert_eq!((reply.text().as_str(), reply.field("connection")), ("two", Some("close")));
    client.expect_end();
    // Chunks mean nothing to it: the end of the connection is the end of the content.
    let mut client = Caller::to(&program);
    client.say("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let reply = client.reply();
    assert_eq!(
        (reply.text().as_str(), reply.chunked, reply.field("connection")),
        ("three", false, Some("close"))
    );
    client.expect_end();
    assert_eq!(Caller::to(&program).get("/").text(), "four");
    let requests = origin.requests();
    assert_eq!((requests.len(), origin.connections()), (4, 1));
    // Without a Host of the client's the pool's name stands in.
    assert_eq!(requests[0].field("host"), Some("chat"));
}

fn http_1_0_servers(engine: Engine) {
    let origin = || {
        Scripted::start(|line| match line.number {
            0 => {
                line.request();
                line.say(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\none");
                line.outlast();
            }
            1 => {
                while line.request().is_some() {
                    line.say(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\ntwo");
                }
            }
            _ => {}
        })
    };
    let Stand { mut client, origin, program: _program, _lab } = stand(engine, origin);
    let texts: Vec<String> = (0..4).map(|_| client.get("/").text()).collect();
    assert_eq!(texts, ["one", "two", "two", "two"]);
    assert_eq!(origin.connections(), 2);
}

fn a_response_may_last_until_the_server_closes(engine: Engine) {
    let origin = || {
        Scripted::start(|line| {
            if line.request().is_some() {
                line.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n");
                (0..1000).for_each(|_| line.say(&[b'x'; 1000]));
            }
        })
    };
    let Stand { mut client, origin, program, _lab } = stand(engine, origin);
    for _ in 0..2 {
        let reply = client.get("/");
        assert_eq!((reply.body.len(), reply.chunked), (1_000_000, true));
    }
    let mut old = Caller::to(&program);
    old.say("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(old.reply().body.len(), 1_000_000);
    assert_eq!(origin.connections(), 3);
}

fn a_client_that_has_ended_is_still_answered(engine: Engine) {
    let Stand { mut client, origin: _origin, program, _lab } = stand(engine, || {
        Scripted::start(|line| {
            while line.request().is_some() {
                line.say(&ok(&"x".repeat(3_000_000)));
            }
        })
    });
    client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.end();
    assert_eq!(client.reply().body.len(), 3_000_000);
    client.expect_end();
    let mut client = Caller::to(&program);
    client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    client.end();
    assert_eq!(client.reply().body.len(), 3_000_000);
    client.expect_end();
    program.report_when("both are gone", |report| report.connections == 0);
    assert_eq!(program.stop().totals().get("http_client_gone"), None);
}

fn pipelined_requests_before_a_fin_are_all_answered(engine: Engine) {
    let Stand { mut client, origin: _origin, program, _lab } = stand(engine, Scripted::echo);
    client.say(THREE);
    client.end();
    expect_three(&mut client, "then FIN");
    client.expect_end();
    program.report_when("it is gone", |report| report.connections == 0);
}

fn a_server_may_answer_before_it_has_the_whole_request(engine: Engine) {
    let origin = || {
        Scripted::start(|line| {
            while line.head().is_some() {
                line.say(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo much");
                if line.number == 1 {
                    line.reset();
                    return;
                }
                line.outlast();
            }
        })
    };
    let Stand { mut client, origin, program, _lab } = stand(engine, origin);
    for resets in [false, true] {
        client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n");
        client.say(vec![b'x'; 100_000]);
        let reply = client.reply();
        // A reset may overtake what was said before it.
        let whole = (reply.status(), reply.text().as_str()) == (413, "too much");
        assert!(whole || (resets && reply.status() == 502), "{reply:?}");
        client.expect_end();
        client = Caller::to(&program);
    }
    assert_eq!(origin.connections(), 2);
    drop(client);
    program.report_when("nothing is left", |report| report.connections == 0 && report.used() == 0);
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: HSmrc0sMlYUkAGmm5OPpG2HaGWk=\r\n\r\n";

fn a_web_socket_carries_bytes_both_ways(engine: Engine) {
    let origin = || {
        Scripted::start(|line| {
            let Some(head) = line.head() else { return };
            assert!(head.contains("Connection: Upgrade\r\nUpgrade: websocket\r\n"), "{head}");
            line.say(SWITCHING);
            line.say(b"hello from the server");
            while let Some(bytes) = line.until("\0") {
                line.say(&bytes);
            }
        })
    };
    let Stand { mut client, origin, program, _lab } = stand(engine, origin);
    client.say(UPGRADE);
    // Said before it is known whether the server wants to: nothing of it may be lost, and nothing may come before the 101.
    client.say(b"early\0");
    let reply = client.reply();
    assert_eq!(
        (reply.status(), reply.field("upgrade"), reply.field("connection")),
        (101, Some("websocket"), Some("Upgrade"))
    );
    assert_eq!(reply.field("sec-websocket-accept"), Some("HSmrc0sMlYUkAGmm5OPpG2HaGWk="));
    assert_eq!(client.bytes(27), b"hello from the serverearly\0");
    for size in [1, 100, 70_000, 1_000_000] {
        let mut message = vec![0x81; size];
        message.push(0);
        client.say(&message);
        assert!(client.bytes(size + 1) == message, "{size}");
    }
    client.end();
    client.expect_end();
    program.report_when_empty();
    assert_eq!(program.stop().totals()["http_upgrades"], 1);
    assert_eq!(origin.connections(), 1);
}

fn an_upgrade_that_is_refused_leaves_http(engine: Engine) {
    let Stand { mut client, origin, program: _program, _lab } = stand(engine, Scripted::echo);
    client.say(UPGRADE);
    assert_eq!(client.reply().text(), "1 GET /chat ");
    client.say(UPGRADE);
    // Not a tunnel's: the next request, or nothing.
    client.say("\x01\x02GET /evil HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.reply().text(), "2 GET /chat ");
    assert_eq!(client.reply().status(), 400);
    client.expect_end();
    assert_eq!(origin.requests().len(), 2);
    assert_eq!(find(&origin.received(0), b"evil"), None);
}

fn an_upgrade_that_nobody_asked_for_is_an_error(engine: Engine) {
    let Stand { client: _client, origin, program, _lab } = stand(engine, || always(SWITCHING));
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let mut client = Caller::to(&program);
        client.say(request);
        let reply = client.reply();
        assert_eq!(
            (reply.status(), reply.field("x-fourfold-reason")),
            (502, Some("switching_unasked")),
            "{request}"
        );
    }
    for request in origin.requests() {
        assert_eq!((request.field("upgrade"), request.field("connection")), (None, None));
    }
    // Nor may the server choose another protocol than it was offered… which only the client can judge.
    assert_eq!(origin.connections(), 3);
}

fn heads_as_large_as_the_limit_allows(engine: Engine) {
    let Stand { mut client, origin, program: _program, _lab } =
        stand_with(engine, Scripted::echo, |config| config.listener("line_bytes_max = \"16KiB\""));
    for size in [4_000, 5_000, 8_000, 8_150, 6_000] {
        let value = "v".repeat(size);
        client.say(format!("GET /{size} HTTP/1.1\r\nHost: a\r\nX-A: {value}\r\nX-B: {value}\r\n\r\n"));
        assert_eq!(client.reply().status(), 200, "two values of {size}");
    }
    for request in origin.requests() {
        let size: usize = request.target()[1..].parse().unwrap();
        assert_eq!(request.field("x-a").unwrap().len(), size);
        assert_eq!(request.field("x-b").unwrap().len(), size);
    }
    await_requests(&origin, 5);
}

/// The server answers while it still reads.
fn bodies_both_ways_at_once(engine: Engine) {
    const SIZE: usize = 20_000_000;
    let origin = || {
        Scripted::start(|line| {
            line.head();
            line.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes());
            while let Some(bytes) = line.some() {
                line.say(&bytes);
            }
        })
    };
    let Stand { mut client, origin: _origin, program, _lab } = stand(engine, origin);
    let mut writer = client.stream.try_clone().unwrap();
    let before = program.resident_bytes();
    let sender = std::thread::spawn(move || {
        use std::io::Write;
        writer
            .write_all(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes())
            .unwrap();
        let piece: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        (0..SIZE / piece.len()).for_each(|_| writer.write_all(&piece).unwrap());
    });
    let reply = client.reply();
    sender.join().unwrap();
    assert_eq!(reply.body.len(), SIZE);
    assert!(
        reply
            .body
            .chunks(1_000_000)
            .all(|piece| piece.iter().enumerate().all(|(n, byte)| *byte == (n % 251) as u8))
    );
    let grown = program.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "grew by {grown} bytes");
}
