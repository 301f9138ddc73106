//! Odd messages by the thousand, from a seed: whatever a client sends, a server sees whole and plain requests or nothing,
//! and the same ones that a strict reader sees in the client's bytes. Likewise for what servers send.
//!
//! `FOURFOLD_SEED` repeats a run.

use crate::common::http::{Caller, Line, Scripted, ok, plain, show};
use crate::common::strict::{Message, Read, read_any_request, read_any_response, read_requests};
use crate::common::{Engine, Lab, Program};
use crate::on_both_engines;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

on_both_engines!(odd_requests_become_plain_ones_or_none, odd_responses_become_plain_ones_or_errors);

const REQUESTS: usize = 6_000;
const RESPONSES: usize = 4_000;
const WORKERS: usize = 4;

struct Dice(u64);

impl Dice {
    fn from_clock() -> Self {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = std::env::var("FOURFOLD_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(clock);
        println!("FOURFOLD_SEED={seed}");
        Self(seed)
    }

    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// A message in lines, so that each can be bent.
#[derive(Clone)]
struct Draft {
    lines: Vec<Vec<u8>>,
    body: Vec<u8>,
}

impl Draft {
    fn add(&mut self, line: impl AsRef<[u8]>) {
        self.lines.push(line.as_ref().to_vec());
    }
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.lines.join(&b"\r\n"[..]);
        bytes.extend_from_slice(b"\r\n\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
    fn find(&self, name: &str) -> Option<usize> {
        let is = |line: &Vec<u8>| line.to_ascii_lowercase().starts_with(name.as_bytes());
        self.lines.iter().position(is)
    }
}

/// Content that would be a message if somebody lost count.
const SMUGGLED: &str = "GET /smuggled?smuggled HTTP/1.1\r\nHost: evil\r\n\r\n";
const SPLIT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";

fn content(dice: &mut Dice, tempting: &str) -> Vec<u8> {
    match dice.below(4) {
        0 => Vec::new(),
        1 => b"0\r\n\r\n".to_vec(),
        2 => tempting.as_bytes().to_vec(),
        _ => (0..dice.below(300)).map(|_| dice.next() as u8).collect(),
    }
}

fn frame(dice: &mut Dice, draft: &mut Draft, content: &[u8]) {
    if dice.one_in(2) {
        draft.add(format!("Content-Length: {}", content.len()));
        draft.body = content.to_vec();
        return;
    }
    draft.add("Transfer-Encoding: chunked");
    let size = 1 + dice.below(content.len() + 1);
    for piece in content.chunks(size) {
        draft.body.extend(format!("{:x}\r\n", piece.len()).bytes());
        draft.body.extend_from_slice(piece);
        draft.body.extend_from_slice(b"\r\n");
    }
    draft.body.extend_from_slice(b"0\r\n");
    if dice.one_in(3) {
        draft.body.extend_from_slice(b"X-Trailer: 1\r\n");
    }
    draft.body.extend_from_slice(b"\r\n");
}

fn request(dice: &mut Dice, id: &str) -> Draft {
    let method = dice.of(&["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "BREW"]);
    let mut draft =
        Draft { lines: vec![format!("{method} /a?{id} HTTP/1.1").into_bytes()], body: Vec::new() };
    draft.add("Host: a.example");
    (0..dice.below(3)).for_each(|n| draft.add(format!("X-{n}: some value")));
    if dice.one_in(2) {
        let content = content(dice, SMUGGLED);
        frame(dice, &mut draft, &content);
    }
    draft
}

const LENGTHS: &[&str] = &[
    "+5",
    "-5",
    "0x5",
    "5.0",
    "",
    "005",
    "5,5",
    "5, 5",
    "5;5",
    "5 5",
    "1e1",
    "18446744073709551616",
    "9223372036854775808",
    "99999999999999999999999999",
    "\x0b5",
    "5\0",
    "'5'",
    "\"5\"",
    "five",
    "0",
    "1",
    "4",
    "6",
    "50",
    "5\t",
    "\u{664}",
    "５",
];
const CODINGS: &[&str] = &[
    "chunked",
    "Chunked",
    "CHUNKED",
    "chunked, chunked",
    "chunked,",
    ", chunked",
    "identity",
    "gzip, chunked",
    "chunked, gzip",
    "chunked;q=1",
    "\x0bchunked",
    "chunked\0",
    "chunked\x0b",
    "x",
    "",
    "\"chunked\"",
    "\r\n chunked",
    "\r\n\tchunked",
    "xchunked",
    "chunkedx",
    "chunked identity",
    "chunked\tx",
    "c\rhunked",
    "\u{e7}hunked",
    "deflate",
];
const FIELDS: &[&str] = &[
    "Content-Length: 5",
    "Content-Length : 5",
    "Content-Length\t: 5",
    " Content-Length: 5",
    "Content_Length: 5",
    "content-length:5",
    "Content-Length:\t5\t",
    "Content-Length\0: 5",
    "Content-Length:\x0b5",
    "X: y\nContent-Length: 5",
    "X: y\rContent-Length: 5",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding\t:chunked",
    " Transfer-Encoding: chunked",
    "Transfer_Encoding: chunked",
    "Transfer-Encoding:chunked ",
    "Transfer-Encoding\0: chunked",
    "X: y\nTransfer-Encoding: chunked",
    "X: y\rTransfer-Encoding: chunked",
    "Transfer-Encoding",
    ": chunked",
    "TE: chunked",
    "Host: b.example",
    "Host: ",
    "Host: a b",
    "Host: a/b",
    "Host: a@b",
    "Host: a,b",
    "Host: a.example:99999",
    "host: a.example",
    "Hos\u{17f}t: b",
    "Connection: close",
    "Connection: content-length",
    "Connection: transfer-encoding, host",
    "Connection: upgrade",
    "Upgrade: websocket",
    "Upgrade: h2c",
    "Expect: 100-continue",
    "Expect: x",
    "Trailer: Content-Length",
    "X",
    "X :1",
    ":",
    ": x",
    "X\u{ff}: 1",
    "X Y: 1",
    "X\x01: 1",
    "X: \0",
    "X: a\x01b",
    "X: \x7f",
    "X: \u{80}",
    "X: \r",
    "X: a\r\n b",
    "X: a\r\n\tb",
    "(X): 1",
    "X@: 1",
    "\"X\": 1",
    "X:",
    "Proxy-Connection: keep-alive",
    "HTTP/1.1 200 OK",
    "GET /smuggled?smuggled HTTP/1.1",
    "X-Long: {long}",
    "Content-Encoding: gzip",
    "Max-Forwards: 0",
    "Sec-WebSocket-Key: x",
];
const REQUEST_LINES: &[&str] = &[
    "GET  /a?{id} HTTP/1.1",
    "GET /a?{id}  HTTP/1.1",
    "GET\t/a?{id} HTTP/1.1",
    "GET /a?{id}\tHTTP/1.1",
    " GET /a?{id} HTTP/1.1",
    "GET /a?{id} HTTP/1.1 ",
    "GET /a?{id}",
    "GET /a?{id} HTTP/1.0",
    "GET /a?{id} HTTP/1.2",
    "GET /a?{id} HTTP/2.0",
    "GET /a?{id} http/1.1",
    "GET /a?{id} HTTP/1.1x",
    "GET /a?{id} HTTP/1,1",
    "GET /a?{id} HTTP/01.1",
    "GET /a b?{id} HTTP/1.1",
    "GET http://a.example/a?{id} HTTP/1.1",
    "GET http://b.example/a?{id} HTTP/1.1",
    "GET HTTP://A.example:80/a?{id} HTTP/1.1",
    "GET https://a.example?{id} HTTP/1.1",
    "GET http://u@a.example/a?{id} HTTP/1.1",
    "GET ftp://a.example/?{id} HTTP/1.1",
    "GET a.example/?{id} HTTP/1.1",
    "GET * HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "CONNECT a.example:80 HTTP/1.1",
    "CONNECT / HTTP/1.1",
    "TRACE /a?{id} HTTP/1.1",
    "GET /a?{id}#x HTTP/1.1",
    "GET /\u{e4}?{id} HTTP/1.1",
    "GET /\x01?{id} HTTP/1.1",
    "GET /%00?{id} HTTP/1.1",
    "GET /%2e%2e/?{id} HTTP/1.1",
    "GET /../a?{id} HTTP/1.1",
    "GET /a/..;/b?{id} HTTP/1.1",
    "GET //a?{id} HTTP/1.1",
    "GET /a\\b?{id} HTTP/1.1",
    "GET /a%2fb?{id} HTTP/1.1",
    "GET /%zz?{id} HTTP/1.1",
    "GET /{long}?{id} HTTP/1.1",
    "G\0ET /a?{id} HTTP/1.1",
    "G:ET /a?{id} HTTP/1.1",
    "get /a?{id} HTTP/1.1",
    "POST /a?{id} HTTP/1.0",
    "PRI * HTTP/2.0",
    "GET /a?{id}\0 HTTP/1.1",
    "\x16\x03\x01\x02",
    "PROXY TCP4 1.2.3.4 5.6.7.8 1 2",
    "GET /a?{id} HTTP/1.1\rX: y",
    "GET /a?{id} HTTP/1.1\nX: y",
    "GET /a?{id}&\u{e4} HTTP/1.1",
    "",
];
const STATUS_LINES: &[&str] = &[
    "HTTP/1.1 200",
    "HTTP/1.1 200 ",
    "HTTP/1.1  200 OK",
    "HTTP/1.1 200  OK",
    "HTTP/1.1\t200 OK",
    "HTTP/1.0 200 OK",
    "HTTP/1.2 200 OK",
    "HTTP/2 200 OK",
    "HTTP/2.0 200 OK",
    "http/1.1 200 OK",
    "HTTP/1.1 20 OK",
    "HTTP/1.1 2000 OK",
    "HTTP/1.1 abc OK",
    "HTTP/1.1 -20 OK",
    "HTTP/1.1 000 OK",
    "HTTP/1.1 099 OK",
    "HTTP/1.1 600 OK",
    "HTTP/1.1 999 OK",
    "HTTP/1.1 200OK",
    " HTTP/1.1 200 OK",
    "ICY 200 OK",
    "HTTP/1.1 200 O\0K",
    "HTTP/1.1 200 O\x01K",
    "HTTP/1.1 200 \u{e4}",
    "HTTP/1.1 200 OK\rX: y",
    "HTTP/1.1 200 OK\nX: y",
    "SSH-2.0-x",
    "HTTP/1.1 101 Switching Protocols",
    "HTTP/1.1 100 Continue",
    "HTTP/1.1 103 Early Hints",
    "HTTP/1.1 204 No Content",
    "HTTP/1.1 304 Not Modified",
    "HTTP/1.1 205 Reset Content",
    "HTTP/1.1 200 {long}",
    "",
    "HTTP/1.1",
    "HTTP/1.1 200 OK ",
];
const SIZES: &[&str] = &[
    "0x5",
    "+5",
    "-5",
    " 5",
    "5 ",
    "5\t",
    "5;",
    "5;x",
    "5;x=y",
    "5 ; x = \"y\"",
    "5;x=\"\n\"",
    "5;\0",
    "005",
    "00000000000000005",
    "0000000000000005",
    "5\r",
    "5\n",
    "fffffffffffffffff",
    "ffffffffffffffff",
    "7fffffffffffffff",
    "8000000000000000",
    "",
    "g",
    "5,5",
    "5;x=\"y",
    "5;{long}",
    "5\x0b",
    "\u{665}",
    "4",
    "6",
    "0",
    "1",
    "FF",
    "5;x\rGET / HTTP/1.1",
];

/// The message bent in one place.
fn bend(dice: &mut Dice, draft: &mut Draft, id: &str, first_lines: &[&str]) {
    let fill = |text: &str| text.replace("{id}", id).replace("{long}", &"l".repeat(9_000)).into_bytes();
    match dice.below(12) {
        0 | 1 => {
            let line = fill(dice.of(FIELDS));
            let at = 1 + dice.below(draft.lines.len());
            draft.lines.insert(at, line);
        }
        2 => draft.lines[0] = fill(dice.of(first_lines)),
        3 => {
            let line = fill(&format!("Content-Length: {}", dice.of(LENGTHS)));
            match draft.find("content-length") {
                Some(at) if dice.one_in(2) => draft.lines[at] = line,
                _ => draft.lines.push(line),
            }
        }
        4 => {
            let line = fill(&format!("Transfer-Encoding: {}", dice.of(CODINGS)));
            match draft.find("transfer-encoding") {
                Some(at) if dice.one_in(2) => draft.lines[at] = line,
                _ => draft.lines.push(line),
            }
        }
        5 => {
            let at = dice.below(draft.lines.len());
            let copy = draft.lines[at].clone();
            draft.lines.insert(at, copy);
        }
        6 if draft.lines.len() > 1 => {
            let at = 1 + dice.below(draft.lines.len() - 1);
            draft.lines.remove(at);
        }
        7 | 8 if draft.find("transfer-encoding").is_some() => {
            let end = draft.body.windows(2).position(|two| two == b"\r\n").unwrap_or(0);
            draft.body.splice(..end, fill(dice.of(SIZES)));
        }
        9 => {
            // A line end, bent.
            let at = dice.below(draft.lines.len());
            let end = dice.of(&["\r", "\n", "\r\r\n", " ", "\t", "\0", "\r\n", "\n\r"]);
            draft.lines[at].extend_from_slice(end.as_bytes());
        }
        _ => {
            let which = dice.below(draft.lines.len() + 1);
            let text = draft.lines.get_mut(which).unwrap_or(&mut draft.body);
            let (at, byte) = (
                dice.below(text.len()),
                dice.of(&[" ", "\r", "\n", "\0", ":", "\t", "a", "0", "\r\n", "\x7f", "\u{ff}"]),
            );
            match dice.below(3) {
                0 => drop(text.splice(at..at, byte.bytes())),
                1 if !text.is_empty() => drop(text.remove(at)),
                _ if !text.is_empty() => text[at] = byte.as_bytes()[0],
                _ => {}
            }
        }
    }
}

/// What is sent over one connection, and whether nothing is wrong with it.
fn odd_requests(dice: &mut Dice, number: usize) -> (Vec<u8>, bool) {
    let valid = dice.one_in(10);
    let count = 1 + dice.below(3);
    let bent = dice.below(count);
    let mut bytes = Vec::new();
    for index in 0..count {
        let id = format!("{number}.{index}");
        let mut draft = request(dice, &id);
        if index == bent && !valid {
            (0..=dice.below(2)).for_each(|_| bend(dice, &mut draft, &id, REQUEST_LINES));
        }
        bytes.extend(draft.bytes());
    }
    match dice.below(30) {
        _ if valid => {}
        0 => bytes.truncate(dice.below(bytes.len())),
        1 => drop(bytes.splice(..0, *b"\r\n")),
        2 => drop(bytes.splice(..0, *b"\n")),
        3 => drop(bytes.splice(..0, *b" \r\n")),
        4 => bytes.extend_from_slice(b"\r\n"),
        _ => {}
    }
    (bytes, valid)
}

/// What a request comes down to: method, query, content.
fn essence(message: &Message) -> String {
    let query = message.target().split_once('?').map_or("-", |(_, query)| query);
    let sum = message
        .body
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    format!("{} {query} {}:{sum:x}", message.method(), message.body.len())
}

fn tell_what_came(line: &mut Line) {
    while let Some(request) = line.request() {
        let tale = essence(&request);
        line.say(format!("HTTP/1.1 200 OK\r\nX-Got: {tale}\r\nContent-Length: 0\r\n\r\n").as_bytes());
    }
}

/// All requests that a strict reader finds.
fn reference(mut bytes: &[u8]) -> Vec<Message> {
    let mut all = Vec::new();
    while let Read::Whole(message, used) = read_any_request(bytes) {
        all.push(*message);
        bytes = &bytes[used..];
    }
    all
}

/// The requests that a server answered.
fn send_odd(address: SocketAddr, bytes: &[u8], valid: bool) -> Result<Vec<String>, String> {
    let wanted = reference(bytes);
    let mut client = Caller::at(address);
    client.say(bytes);
    client.end();
    let (mut answered, mut next) = (Vec::new(), 0);
    loop {
        let want = wanted.get(next);
        next += 1;
        let reply = match client.try_reply_to(want.map_or("GET", |message| message.method())) {
            Ok(reply) => reply,
            Err("the connection ended before a response did" | "reset") => break,
            Err(why) => return Err(format!("a response that is none: {why}")),
        };
        let closes = reply.all("connection").any(|value| value == "close");
        match (reply.field("x-got"), want.map(essence)) {
            // The proxy's own, which is the last one when it cannot tell where the request ends.
            (None, _) if reply.status() >= 400 && closes => break,
            (None, Some(_)) if reply.status() >= 400 => {}
            (Some(got), Some(want)) if want == got => answered.push(want),
            (got, want) => {
                return Err(format!("the server saw {got:?} after {answered:?}, a strict reader {want:?}"));
            }
        }
    }
    if valid && answered.len() != wanted.len() {
        return Err(format!("only {answered:?} of {} plain requests were answered", wanted.len()));
    }
    Ok(answered)
}

/// Spreads cases over threads. The cases that went wrong, and what the others return.
fn in_parallel<C: Send + Sync + 'static, T: Send + 'static>(
    cases: Vec<C>,
    run: impl Fn(&C) -> Result<T, String> + Send + Sync + 'static,
) -> (Vec<String>, Vec<T>) {
    let (cases, run) = (Arc::new(cases), Arc::new(run));
    let threads: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let (cases, run) = (Arc::clone(&cases), Arc::clone(&run));
            std::thread::spawn(move || {
                cases.iter().skip(worker).step_by(WORKERS).map(|case| run(case)).collect::<Vec<_>>()
            })
        })
        .collect();
    let (mut wrong, mut right) = (Vec::new(), Vec::new());
    for result in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
        match result {
            Ok(outcome) => right.push(outcome),
            Err(why) => wrong.push(why),
        }
    }
    (wrong, right)
}

#[track_caller]
fn expect_none(wrong: &[String]) {
    assert!(
        wrong.is_empty(),
        "{} cases went wrong:\n{}",
        wrong.len(),
        wrong.iter().take(12).cloned().collect::<Vec<_>>().join("\n")
    );
}

fn odd_requests_become_plain_ones_or_none(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::start(tell_what_came);
    let program = Program::run(&plain(engine, &[origin.address]));
    let address = program.address;
    let mut dice = Dice::from_clock();
    let cases: Vec<_> = (0..REQUESTS).map(|number| odd_requests(&mut dice, number)).collect();
    let sent = cases.clone();
    let (wrong, answered) = in_parallel(cases, move |(bytes, valid)| {
        send_odd(address, bytes, *valid).map_err(|why| format!("{why}\n    {}", show(bytes)))
    });
    expect_none(&wrong);
    program.report_when("all are gone", |report| report.connections == 0);
    let mut unanswered: HashMap<String, isize> = HashMap::new();
    for number in 0..origin.connections() {
        let bytes = origin.received(number);
        match read_requests(&bytes) {
            Ok((all, _)) => all.iter().for_each(|one| *unanswered.entry(essence(one)).or_default() += 1),
            Err(why) => panic!("the server was sent what is no request: {why}: {}", show(&bytes)),
        }
    }
    let answered: Vec<String> = answered.concat();
    answered.iter().for_each(|one| *unanswered.entry(one.clone()).or_default() -= 1);
    unanswered.retain(|_, count| *count != 0);
    println!("{} requests were answered, over {} connections", answered.len(), origin.connections());
    let case = |essence: &String| {
        let number = essence.split(' ').nth(1)?.split('.').next()?.parse::<usize>().ok()?;
        Some(show(&sent.get(number)?.0))
    };
    let first = unanswered.keys().next().and_then(case);
    assert!(unanswered.is_empty(), "seen by the server, and by nobody else: {unanswered:?}, in {first:?}");
    assert!(answered.len() > REQUESTS / 2, "{}", answered.len());
    program.stop();
}

struct OddResponse {
    method: &'static str,
    bytes: Vec<u8>,
    valid: bool,
    /// The server closes behind it.
    closes: bool,
}

fn odd_response(dice: &mut Dice) -> OddResponse {
    let method = *dice.of(&[&"GET", &"GET", &"HEAD", &"POST"]);
    let line = dice.of(&[
        "200 OK",
        "200 OK",
        "404 Not Found",
        "500 Oops",
        "206 Partial Content",
        "304 Not Modified",
        "204 No Content",
    ]);
    let mut draft = Draft { lines: vec![format!("HTTP/1.1 {line}").into_bytes()], body: Vec::new() };
    (0..dice.below(3)).for_each(|n| draft.add(format!("X-{n}: some value")));
    if !line.starts_with("204") {
        let content = content(dice, SPLIT);
        if !dice.one_in(8) {
            frame(dice, &mut draft, &content);
        } else {
            draft.body = content;
        }
        if method == "HEAD" || line.starts_with("304") {
            draft.body.clear();
        }
    }
    let valid = dice.one_in(10);
    if !valid {
        (0..=dice.below(2)).for_each(|_| bend(dice, &mut draft, "x", STATUS_LINES));
    }
    let mut bytes = draft.bytes();
    match dice.below(20) {
        _ if valid => {}
        0 => bytes.truncate(dice.below(bytes.len())),
        1 => bytes.extend_from_slice(SPLIT.as_bytes()),
        2 => drop(bytes.splice(..0, *b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n")),
        3 => drop(bytes.splice(..0, *b"\r\n")),
        _ => {}
    }
    let mut case = OddResponse { method, bytes, valid, closes: false };
    case.closes = dice.one_in(3) || reference_response(&case).is_none();
    case
}

/// What a strict reader takes for the final response.
fn reference_response(case: &OddResponse) -> Option<Message> {
    let mut bytes = case.bytes.as_slice();
    loop {
        match read_any_response(bytes, case.method, case.closes) {
            Read::Whole(message, used) if message.status() < 200 && message.status() != 101 => {
                bytes = &bytes[used..]
            }
            Read::Whole(message, _) => return Some(*message),
            _ => return None,
        }
    }
}

/// 1 when the response went through.
fn get_odd(address: SocketAddr, number: usize, case: &OddResponse) -> Result<usize, String> {
    let wanted = reference_response(case);
    let mut client = Caller::at(address);
    let content = if case.method == "POST" { "Content-Length: 2\r\n\r\nhi" } else { "\r\n" };
    client.say(format!("{} /{number} HTTP/1.1\r\nHost: a\r\n{content}", case.method));
    let reply = loop {
        match client.try_reply_to(case.method) {
            Ok(reply) if reply.status() < 200 => {}
            Ok(reply) => break reply,
            // It had begun when it turned out to be wrong, and the client can tell.
            Err("reset") if !case.valid => return Ok(0),
            Err(why) => return Err(format!("a response that is none: {why}")),
        }
    };
    let ours = reply.field("x-fourfold-reason").is_some();
    match &wanted {
        _ if ours && !case.valid => {}
        Some(wanted) if wanted.status() == reply.status() && wanted.body == reply.body => {}
        _ => return Err(format!("the client saw {reply:?}, a strict reader {wanted:?}")),
    }
    if reply.all("connection").any(|value| value == "close") {
        client.expect_end();
        client = Caller::at(address);
    }
    let after = client.get("/after");
    match after.text().as_str() {
        "after" => Ok(usize::from(!ours)),
        _ => Err(format!("and then {after:?}")),
    }
}

fn odd_responses_become_plain_ones_or_errors(engine: Engine) {
    let _lab = Lab::new();
    let mut dice = Dice::from_clock();
    let cases: Arc<Vec<_>> = Arc::new((0..RESPONSES).map(|_| odd_response(&mut dice)).collect());
    let scripts = Arc::clone(&cases);
    let origin = Scripted::start(move |line| {
        while let Some(request) = line.request() {
            let Some(case) = request.target()[1..].parse().ok().and_then(|number: usize| scripts.get(number))
            else {
                line.say(&ok("after"));
                continue;
            };
            line.say(&case.bytes);
            if case.closes {
                return;
            }
        }
    });
    let config =
        plain(engine, &[origin.address]).pool("retry_backoff = \"1ms\"\nretry_backoff_max = \"1ms\"");
    let program = Program::run(&config);
    let address = program.address;
    let numbers = (0..RESPONSES).collect();
    let (wrong, passed) = in_parallel(numbers, move |number: &usize| {
        let case = &cases[*number];
        get_odd(address, *number, case).map_err(|why| {
            format!("{why}\n    to {} closes={}: {}", case.method, case.closes, show(&case.bytes))
        })
    });
    expect_none(&wrong);
    let passed: usize = passed.iter().sum();
    println!("{passed} responses went through over {} connections", origin.connections());
    assert!(passed > RESPONSES / 5, "{passed}");
    program.report_when("all are gone", |report| report.connections == 0);
    for number in 0..origin.connections() {
        assert!(read_requests(&origin.received(number)).is_ok(), "{}", show(&origin.received(number)));
    }
    program.stop();
}
