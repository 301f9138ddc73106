//! The corpora under `tests/http` on real sockets: what becomes of a message there is what they say, whatever Fourfold's
//! parser has been told in its own tests.

use crate::common::http::{Caller, Line, Scripted, plain, show};
use crate::common::strict::Message;
use crate::common::{Engine, Lab, Program};
use crate::on_both_engines;
use fourfold_testkit::corpus::{self, Case, Want};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

on_both_engines!(requests_are_judged_as_the_corpus_says, responses_are_judged_as_the_corpus_says);

/// Repeats what it was sent.
pub fn repeat(line: &mut Line) {
    while let Some(request) = line.request() {
        let (method, content) = (request.method(), &request.body);
        let host = request.field("host").unwrap_or_default();
        let head = format!(
            "HTTP/1.1 200 OK\r\nX-Method: {method}\r\nX-Host: {host}\r\nContent-Length: {}\r\n\r\n",
            content.len()
        );
        line.say(head.as_bytes());
        if method != "HEAD" {
            line.say(content);
        }
    }
}

fn requests_are_judged_as_the_corpus_says(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::start(repeat);
    let program = Program::run(&plain(engine, &[origin.address]).listener("slashes = \"keep\""));
    let cases = corpus::requests().unwrap();
    let wrong: Vec<String> =
        cases.iter().filter_map(|case| judge_request(program.address, &origin, case).err()).collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    program.stop();
}

fn judge_request(address: SocketAddr, origin: &Scripted, case: &Case) -> Result<(), String> {
    let before = origin.requests().len();
    let mut client = Caller::at(address);
    client.say(&case.send);
    client.end();
    let method = String::from_utf8_lossy(case.fact("method").unwrap_or(b"GET")).into_owned();
    let method = if case.send.starts_with(b"HEAD ") { "HEAD".into() } else { method };
    let reply = client.try_reply_to(&method);
    // Those that came along are answered before the connection ends.
    while client.try_reply_to("GET").is_ok() {}
    let came = origin.requests().len() - before;
    let wrong =
        |why: &str| Err(format!("[{}] {why}: {reply:?}, {came} came; {}", case.name, show(&case.send)));
    match (&reply, &case.want) {
        (Err(_), Want::Reject(reason)) if reason == "incomplete" || reason == "body_truncated" => {}
        (Ok(reply), Want::Reject(reason)) => {
            if reply.field("x-fourfold-reason") != Some(reason) {
                return wrong(&format!("{reason} expected"));
            }
        }
        (Ok(reply), Want::Accept(content)) => {
            return expect_passed(reply, content, case).or_else(|why| wrong(&why));
        }
        _ => return wrong("an answer expected"),
    }
    if came == 0 { Ok(()) } else { wrong("a server saw it") }
}

/// What the parser takes and a proxy cannot serve, or may not.
const UNSERVED: [&str; 7] = [
    "method_unsupported",
    "path_percent",
    "path_invalid",
    "path_nul",
    "path_backslash",
    "path_above_root",
    "path_hidden_dots",
];

fn expect_passed(reply: &Message, content: &[u8], case: &Case) -> Result<(), String> {
    if let Some(reason) = reply.field("x-fourfold-reason") {
        return if UNSERVED.contains(&reason) { Ok(()) } else { Err("acceptance expected".into()) };
    }
    if reply.field("x-method") != Some("HEAD") && reply.body != content {
        return Err("other content expected".into());
    }
    match case.fact("host") {
        Some(host) if !host.is_empty() && reply.field("x-host").map(str::as_bytes) != Some(host) => {
            Err("another host expected".into())
        }
        _ => Ok(()),
    }
}

fn responses_are_judged_as_the_corpus_says(engine: Engine) {
    let _lab = Lab::new();
    let next = Arc::new(Mutex::new(Vec::new()));
    let say = Arc::clone(&next);
    let origin = Scripted::start(move |line| {
        // CONNECT never gets here, and the bytes of all others are the same whatever was asked.
        if line.head().is_some() {
            let bytes = say.lock().unwrap().clone();
            line.say(&bytes);
        }
    });
    let program = Program::run(
        &plain(engine, &[origin.address]).pool("retry_backoff = \"1ms\"\nretry_backoff_max = \"1ms\""),
    );
    let cases: Vec<Case> = corpus::responses().unwrap();
    let cases: Vec<&Case> = cases.iter().filter(|case| !case.asked.starts_with("CONNECT")).collect();
    let mut wrong = Vec::new();
    for case in &cases {
        *next.lock().unwrap() = case.send.clone();
        wrong.extend(judge_response(program.address, case).err());
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    program.stop();
}

pub fn ask_for(case: &Case) -> (String, String) {
    let method = case.asked.split_whitespace().next().unwrap_or("GET").to_owned();
    let upgrade =
        if case.asked.contains("upgrade") { "Connection: Upgrade\r\nUpgrade: websocket\r\n" } else { "" };
    (format!("{method} / HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n"), method)
}

fn judge_response(address: SocketAddr, case: &Case) -> Result<(), String> {
    let (request, method) = ask_for(case);
    let mut client = Caller::at(address);
    client.say(request);
    let reply = loop {
        match client.try_reply_to(&method) {
            Ok(interim) if interim.status() < 200 && interim.status() != 101 => {}
            reply => break reply,
        }
    };
    let wrong = |why: &str| Err(format!("[{}] {why}: {reply:?}; {}", case.name, show(&case.send)));
    match (&reply, &case.want) {
        // It had begun, and the client can tell that it did not end.
        (Err("reset"), Want::Reject(_)) => Ok(()),
        (Ok(reply), Want::Reject(reason)) => match reply.field("x-fourfold-reason") {
            Some(own) if own == reason || reason == "incomplete" => Ok(()),
            _ => wrong(&format!("{reason} expected")),
        },
        (Ok(reply), Want::Accept(content)) => {
            let status = case.fact("status").map(|status| String::from_utf8_lossy(status).into_owned());
            let same = status.as_ref().is_none_or(|status| *status == reply.line[1]);
            let ours = reply.field("x-fourfold-reason").is_some();
            // An interim response alone is no answer.
            if status.as_ref().is_some_and(|status| status.starts_with('1') && status != "101") {
                return if ours { Ok(()) } else { wrong("a final response was made up") };
            }
            if same && !ours && (reply.body == *content || reply.status() == 101) {
                Ok(())
            } else {
                wrong("it should pass")
            }
        }
        (Err(_), _) => wrong("an answer expected"),
    }
}
