//! The access log: one line for every request, however it ends, and no line lost.

use crate::common::http::{Caller, Scripted, ok, plain};
use crate::common::origin::reset_on_close;
use crate::common::{Config, Engine, Lab, Program, eventually};
use crate::on_both_engines;
use crate::peers::Folder;
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

on_both_engines!(
    a_request_is_a_line_with_everything,
    answers_of_our_own_are_lines,
    a_web_socket_is_a_line_at_its_end,
    clients_that_leave_and_servers_that_break_are_told_apart,
    a_retry_that_the_budget_refused_is_told,
    a_head_that_does_not_come_is_a_line,
    rotation_by_signal_loses_nothing,
    a_stop_writes_what_was_logged,
    combined_lines_are_what_nginx_writes,
);

fn logged(config: &Config, file: &Path) -> Config {
    config.clone().listener(&format!("[listener.access_log]\nto = \"{}\"", file.display()))
}

fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// Once there are so many.
#[track_caller]
fn await_lines(file: &Path, count: usize) -> Vec<Value> {
    eventually(&format!("{count} lines"), || Some(lines(file)).filter(|lines| lines.len() >= count))
}

fn a_request_is_a_line_with_everything(engine: Engine) {
    let _lab = Lab::new();
    let folder = Folder::new("log");
    let file = folder.0.join("access.log");
    let origin = Scripted::echo();
    let program = Program::run(&logged(&plain(engine, &[origin.address]), &file));
    let mut client = Caller::to(&program);
    client.say("GET /a?b=1 HTTP/1.1\r\nHost: h.example\r\nUser-Agent: t\"1\r\nReferer: r\r\n\r\n");
    let first = client.reply();
    client.say("POST /b HTTP/1.1\r\nHost: h.example\r\nContent-Length: 5\r\n\r\nhello");
    client.reply();
    let all = await_lines(&file, 2);
    let line = &all[0];
    let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    for (key, wanted) in [
        ("listener", "edge"),
        ("route", "default"),
        ("client", "127.0.0.1"),
        ("method", "GET"),
        ("host", "h.example"),
        ("path", "/a"),
        ("query", "b=1"),
        ("version", "HTTP/1.1"),
        ("pool", "chat"),
        ("ending", "ok"),
        ("user_agent", "t\"1"),
        ("referer", "r"),
    ] {
        assert_eq!(text(line, key), wanted, "{key}: {line}");
    }
    assert_eq!(text(line, "peer"), client.stream.local_addr().unwrap().to_string());
    assert_eq!(text(line, "server"), origin.address.to_string());
    // The four-tuple that the server saw: the one connection that there is.
    assert_eq!(text(line, "source"), origin.peers()[0].to_string());
    assert_eq!(line["sent_body"], first.body.len());
    assert_eq!((line["status"].as_u64(), line["tries"].as_u64()), (Some(200), Some(1)));
    assert_eq!((&line["reused"], &all[1]["reused"]), (&Value::Bool(false), &Value::Bool(true)));
    assert_eq!((&all[1]["received_body"], &all[1]["connect_us"]), (&Value::from(5), &Value::from(0)));
    for line in &all {
        let phases = ["request_us", "queue_us", "connect_us", "response_us", "body_us"];
        let sum: u64 = phases.iter().map(|phase| line[phase].as_u64().unwrap()).sum();
        assert_eq!(line["total_us"].as_u64(), Some(sum), "the phases are all of it: {line}");
    }
    program.stop();
}

fn answers_of_our_own_are_lines(engine: Engine) {
    let _lab = Lab::new();
    let folder = Folder::new("log");
    let file = folder.0.join("access.log");
    let config = plain(engine, &["127.0.0.1:1".parse().unwrap()]).pool("queue_timeout = \"0s\"");
    let routes = "[[listener.route]]\npath = \"/here\"\nrespond = { status = 200, body = \"hi\" }";
    let program = Program::run(&logged(&config, &file).listener(routes));
    let ask = |bytes: &str| {
        let mut client = Caller::to(&program);
        client.say(bytes);
        client.reply().status()
    };
    assert_eq!(ask("GET /here HTTP/1.1\r\nHost: a\r\n\r\n"), 200);
    assert_eq!(ask("GET /x\\y HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), 400);
    assert_eq!(ask("GET /away HTTP/1.1\r\nHost: a\r\n\r\n"), 503);
    let seen: Vec<_> = await_lines(&file, 3)
        .iter()
        .map(|line| (line["status"].clone(), line["ending"].clone(), line["path"].clone()))
        .collect();
    let line = |status: u16, ending: &str, path: &str| (status.into(), ending.into(), path.into());
    let wanted = [
        line(200, "answered_here", "/here"),
        line(400, "bad_request", "/x\\y"),
        line(503, "no_server", "/away"),
    ];
    assert_eq!(seen, wanted);
    let all = lines(&file);
    assert_eq!((&all[0]["sent_body"], &all[0]["pool"]), (&Value::from(2), &Value::Null));
    program.stop();
}

fn a_web_socket_is_a_line_at_its_end(engine: Engine) {
    let _lab = Lab::new();
    let folder = Folder::new("log");
    let file = folder.0.join("access.log");
    let origin = Scripted::start(|line| {
        if line.request().is_some() {
            line.say(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
            while let Some(bytes) = line.some() {
                line.say(&bytes);
            }
        }
    });
    let program = Program::run(&logged(&plain(engine, &[origin.address]), &file));
    let mut client = Caller::to(&program);
    client.say("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(client.reply().status(), 101);
    client.say([7; 1000]);
    assert_eq!(client.bytes(1000), [7; 1000]);
    assert!(lines(&file).is_empty(), "it has not ended");
    client.end();
    client.expect_end();
    let all = await_lines(&file, 1);
    let number = |key: &str| all[0][key].as_u64().unwrap();
    assert_eq!((number("status"), number("received_body"), number("sent_body")), (101, 1000, 1000));
    assert_eq!(all[0]["ending"], "ok");
    assert!(number("body_us") > 0 && number("total_us") >= number("body_us"), "{}", all[0]);
    program.stop();
    assert_eq!(lines(&file).len(), 1);
}

fn a_retry_that_the_budget_refused_is_told(engine: Engine) {
    let _lab = Lab::new();
    let folder = Folder::new("log");
    let file = folder.0.join("access.log");
    let origin = || {
        Scripted::start(|line| {
            while let Some(request) = line.request() {
                match request.target() {
                    "/down" => {
                        line.say(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
                    }
                    _ => return line.reset(),
                }
            }
        })
    };
    let (one, other) = (origin(), origin());
    let config = logged(&plain(engine, &[one.address, other.address]), &file)
        .pool("retry_on = [\"reset\", \"503\"]\nretry_budget = \"0%\"\nretry_budget_min = 0");
    let program = Program::run(&config);
    for (number, (target, status)) in [("/down", 503), ("/", 502)].into_iter().enumerate() {
        assert_eq!(Caller::to(&program).get(target).status(), status);
        let line = await_lines(&file, number + 1).pop().unwrap();
        assert_eq!(
            (line["status"].as_u64(), line["ending_code"].as_str()),
            (Some(u64::from(status)), Some("RR"))
        );
    }
    assert_eq!(program.report().count("http_retry_budget_spent"), 2);
    program.stop();
}

fn clients_that_leave_and_servers_that_break_are_told_apart(engine: Engine) {
    let _lab = Lab::new();
    let folder = Folder::new("log");
    let file = folder.0.join("access.log");
    let origin = Scripted::start(|line| {
        while let Some(request) = line.request() {
            match request.target() {
                "/half" => line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"),
                "/broken" => return line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"),
                "/closed" => return,
                "/odd" => line.say(b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx"),
                _ => line.say(&ok("")),
            }
        }
    });
    let program = Program::run(&logged(&plain(engine, &[origin.address]), &file).pool("retries = 0"));
    let open = |target: &str| {
        let mut client = Caller::to(&program);
        client.say(format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"));
        client
    };
    let mut count = 0;
    let mut ending = |what: &str, status: Option<u16>| {
        count += 1;
        let line = await_lines(&file, count).pop().unwrap();
        assert_eq!(
            (line["ending"].as_str(), line["status"].as_u64()),
            (Some(what), status.map(u64::from)),
            "{line}"
        );
    };
    let mut client = open("/half");
    client.bytes(1);
    reset_on_close(&client.stream);
    drop(client);
    ending("client_gone", Some(200));
    let mut client = open("/broken");
    client.expect_reset();
    ending("bad_response", Some(200));
    assert_eq!(open("/closed").reply().status(), 502);
    ending("server_closed", Some(502));
    assert_eq!(open("/odd").reply().status(), 502);
    ending("bad_response", Some(502));
    let mut client = Caller::to(&program);
    client.say("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf");
    client.end();
    client.expect_end();
    ending("client_gone_request_body", None);
    let mut client = Caller::to(&program);
    client.say("GET / HT");
    client.end();
    client.expect_end();
    ending("client_gone_request", None);
    program.stop();
}

fn a_head_that_does_not_come_is_a_line(engine: Engine) {
    let _lab = Lab::new();
    let folder = Folder::new("log");
    let file = folder.0.join("access.log");
    let config = plain(engine, &["127.0.0.1:1".parse().unwrap()]).listener("header_timeout = \"200ms\"");
    let program = Program::run(&logged(&config, &file));
    let mut client = Caller::to(&program);
    client.say("GET / HT");
    assert_eq!(client.reply().status(), 408);
    let line = &await_lines(&file, 1)[0];
    assert_eq!((line["ending_code"].as_str(), line["status"].as_u64()), (Some("cR"), Some(408)));
    assert!(line["total_us"].as_u64().unwrap() >= 199_000, "{line}");
    program.stop();
}

fn rotation_by_signal_loses_nothing(engine: Engine) {
    let _lab = Lab::new();
    let folder = Folder::new("log");
    let (file, old) = (folder.0.join("access.log"), folder.0.join("access.log.1"));
    let origin = Scripted::echo();
    let program = Program::run(&logged(&plain(engine, &[origin.address]), &file));
    let mut client = Caller::to(&program);
    (0..50).for_each(|_| drop(client.get("/before")));
    await_lines(&file, 50);
    fs::rename(&file, &old).unwrap();
    program.signal(libc::SIGUSR2);
    eventually("the new file", || file.exists().then_some(()));
    (0..50).for_each(|_| drop(client.get("/after")));
    program.stop();
    let paths: Vec<Value> =
        lines(&old).into_iter().chain(lines(&file)).map(|mut line| line["path"].take()).collect();
    assert_eq!(paths.iter().filter(|path| *path == "/before").count(), 50);
    assert_eq!((paths.len(), lines(&file).len()), (100, 50));
}

fn a_stop_writes_what_was_logged(engine: Engine) {
    let _lab = Lab::new();
    let folder = Folder::new("log");
    let file = folder.0.join("access.log");
    let origin = Scripted::echo();
    let config = plain(engine, &[origin.address]);
    let config = Config { top: config.top.replace("shards = 1", "shards = 2"), ..config };
    let program = Program::run(&logged(&config, &file));
    for _ in 0..20 {
        let mut client = Caller::to(&program);
        (0..10).for_each(|_| drop(client.get("/x")));
    }
    // One is cut off in the midst of its request.
    let mut last = Caller::to(&program);
    last.say("POST /cut HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    program.report_when("it is there", |report| report.count("http_requests") == 201);
    program.signal(libc::SIGTERM);
    program.stop();
    let all = lines(&file);
    assert_eq!(all.iter().filter(|line| line["path"] == "/x").count(), 200);
    let cut: Vec<_> = all.iter().filter(|line| line["path"] == "/cut").map(|line| &line["ending"]).collect();
    assert_eq!(cut, ["drained"]);
}

fn combined_lines_are_what_nginx_writes(engine: Engine) {
    let _lab = Lab::new();
    let folder = Folder::new("log");
    let file = folder.0.join("access.log");
    let origin = Scripted::echo();
    let config = logged(&plain(engine, &[origin.address]), &file).listener("format = \"combined\"");
    let program = Program::run(&config);
    let mut client = Caller::to(&program);
    client.say("GET /a?b HTTP/1.1\r\nHost: h\r\nUser-Agent: \x22\\\r\n\r\n");
    let body = client.reply().body.len();
    program.stop();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("127.0.0.1 - - ["), "{text}");
    assert!(text.contains(&format!("] \"GET /a?b HTTP/1.1\" 200 {body} \"-\" \"\\x22\\x5c\" ")), "{text}");
    let _: SocketAddr = program_source(&text);
}

fn program_source(line: &str) -> SocketAddr {
    let start = line.find("source=").unwrap() + "source=".len();
    line[start..].split_whitespace().next().unwrap().trim_matches('"').parse().unwrap()
}
