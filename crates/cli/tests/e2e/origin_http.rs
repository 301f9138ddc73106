//! `fourfold origin --mode http` as its clients see it: curl, and sockets that send what curl would not.

use crate::common::lab::eventually;
pub use crate::common::tools::HttpOrigin;
use crate::common::{DEADLINE, Engine, Lab};
use crate::on_both_engines;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};

on_both_engines!(
    curl_gets_what_the_path_asks_for,
    curl_uploads_come_back_and_are_hashed,
    requests_on_one_connection_are_answered_in_order,
    what_is_not_one_request_is_refused_and_counted,
    a_body_is_invited_and_an_early_answer_does_not_wait_for_it,
    frames_of_a_websocket_come_back,
    a_half_closed_client_still_gets_its_answer,
    a_worn_connection_is_closed_unannounced,
    a_reader_that_is_slow_gets_everything,
);

impl HttpOrigin {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Everything that comes back for these bytes, up to the end.
    fn tell(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// What curl prints, with the status in the last line. `None`, after saying so: curl is not here.
    fn curl(&self, path: &str, args: &[&str], stdin: &[u8]) -> Option<(Vec<u8>, u16)> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "40", "--write-out", "\n%{http_code}"]);
        command.args(args).arg(format!("http://{}{path}", self.address));
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut child) = child else {
            eprintln!("skipped: curl is not installed (apt-get install curl)");
            return None;
        };
        let (mut pipe, input) = (child.stdin.take().unwrap(), stdin.to_vec());
        let writer = std::thread::spawn(move || pipe.write_all(&input));
        let output = child.wait_with_output().unwrap();
        let _ = writer.join();
        assert!(output.status.success(), "curl {path} {args:?}: {output:?}");
        let line = output.stdout.iter().rposition(|byte| *byte == b'\n').unwrap();
        let status = String::from_utf8_lossy(&output.stdout[line + 1..]).parse().unwrap();
        Some((output.stdout[..line].to_vec(), status))
    }
}

const CLOSE: &str = "Host: a\r\nConnection: close\r\n\r\n";

fn curl_gets_what_the_path_asks_for(engine: Engine) {
    let _lab = Lab::new();
    let origin = HttpOrigin::start(engine, &["--bytes", "70"]);
    let Some((body, status)) = origin.curl("/", &[], b"") else { return };
    assert_eq!((body.len(), status), (70, 200));
    assert!(body.starts_with(b"the quick brown fox"));
    for path in ["/bytes/100000", "/chunked/100000", "/delay/30/100000"] {
        let (long, status) = origin.curl(path, &[], b"").unwrap();
        assert_eq!((long.len(), status), (100_000, 200), "{path}");
        assert!(long.starts_with(&body));
    }
    for (path, expected) in [("/status/204", 204), ("/status/503", 503), ("/nothing", 404)] {
        assert_eq!(origin.curl(path, &[], b"").unwrap().1, expected, "{path}");
    }
    let (told, _) = origin.curl("/headers?q", &["-H", "X-One: 1", "-A", "me"], b"").unwrap();
    let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
    assert_eq!((told["method"].as_str(), told["target"].as_str()), (Some("GET"), Some("/headers?q")));
    assert_eq!(told["fields"][1], serde_json::json!(["User-Agent", "me"]));
    assert_eq!(told["fields"][3], serde_json::json!(["X-One", "1"]));
    let (head, _) = origin.curl("/bytes/7", &["--head"], b"").unwrap();
    assert!(String::from_utf8_lossy(&head).contains("Content-Length: 7\r\n"));
    assert_eq!(origin.curl("/drip/3/20", &[], b"").unwrap().0, b"the");
    assert_eq!(origin.curl("/chunked/10", &["--http1.0"], b"").unwrap().0.len(), 10);
    assert_eq!((origin.count("malformed"), origin.count("requests")), (0, 11));
    assert_eq!(origin.count("completed"), 11);
    origin.program.stop();
}

fn curl_uploads_come_back_and_are_hashed(engine: Engine) {
    let _lab = Lab::new();
    let origin = HttpOrigin::start(engine, &[]);
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(0x9E37_79B9) >> 13) as u8).collect();
    let (length, chunks) = (["-H", "Expect:"], ["-H", "Transfer-Encoding: chunked"]);
    for framing in [&length[..], &chunks] {
        let args = [&["--upload-file", "-"], framing].concat();
        let Some((echo, status)) = origin.curl("/echo", &args, &body) else { return };
        assert!(echo == body && status == 200, "{framing:?}: {} bytes, {status}", echo.len());
        let (told, _) = origin.curl("/hash", &args, b"hello").unwrap();
        assert_eq!(
            String::from_utf8_lossy(&told),
            "{\"bytes\":5,\"sha256\":\"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824\"}\n"
        );
    }
    origin.program.stop();
}

fn requests_on_one_connection_are_answered_in_order(engine: Engine) {
    let _lab = Lab::new();
    let origin = HttpOrigin::start(engine, &[]);
    let requests = [
        "GET /delay/50/1 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX: y\r\n\r\n"
            .to_owned(),
        "GET /bytes/4 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        format!("GET /chunked/3 HTTP/1.1\r\n{CLOSE}"),
    ];
    let together = origin.tell(requests.concat().as_bytes());
    let marks =
        ["\r\n\r\nt", "\r\n\r\nhello", "2\r\nhi\r\n0\r\n\r\n", "\r\n\r\nthe ", "3\r\nthe\r\n0\r\n\r\n"];
    let mut at = 0;
    for mark in marks {
        at += together[at..].find(mark).unwrap_or_else(|| panic!("{mark:?} after {at} in {together}"));
    }
    assert_eq!(together.matches("HTTP/1.1 200 OK").count(), requests.len(), "{together}");
    // The same a byte at a time.
    let mut stream = origin.connect();
    stream.set_nodelay(true).unwrap();
    requests.concat().bytes().for_each(|byte| stream.write_all(&[byte]).unwrap());
    let mut apart = Vec::new();
    stream.read_to_end(&mut apart).unwrap();
    assert_eq!(String::from_utf8_lossy(&apart).matches("HTTP/1.1 200 OK").count(), requests.len());
    origin.program.stop();
}

fn what_is_not_one_request_is_refused_and_counted(engine: Engine) {
    let _lab = Lab::new();
    let origin = HttpOrigin::start(engine, &[]);
    let odd = [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n X: folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhix\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\ngarbage\r\n\r\n",
    ];
    for text in odd {
        let answer = origin.tell(text.as_bytes());
        assert!(answer.contains("HTTP/1.1 400 "), "{text:?}: {answer}");
    }
    assert_eq!(origin.count("malformed"), odd.len() as u64);
    let endless = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(70_000));
    assert!(origin.tell(endless.as_bytes()).starts_with("HTTP/1.1 431 "));
    let mut cut = origin.connect();
    cut.write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf").unwrap();
    drop(cut);
    eventually("a request that was cut is counted", || (origin.count("cut") == 1).then_some(()));
    origin.program.stop();
}

fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let (mut text, mut byte) = (String::new(), [0]);
    while !text.ends_with(end) {
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error} after {text:?}"));
        text.push(char::from(byte[0]));
    }
    text
}

fn a_body_is_invited_and_an_early_answer_does_not_wait_for_it(engine: Engine) {
    let _lab = Lab::new();
    let origin = HttpOrigin::start(engine, &[]);
    let mut stream = origin.connect();
    let head = |path: &str, more: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n{more}\r\n")
    };
    stream.write_all(head("/hash", "Expect: 100-continue\r\n").as_bytes()).unwrap();
    assert!(read_until(&mut stream, "\r\n\r\n").starts_with("HTTP/1.1 100 "));
    stream.write_all(b"abc").unwrap();
    assert!(read_until(&mut stream, "}\n").contains("\"bytes\":3"));
    stream.write_all(head("/early", "").as_bytes()).unwrap();
    assert!(read_until(&mut stream, "early\n").starts_with("HTTP/1.1 200 "));
    stream.write_all(b"abc").unwrap();
    stream.write_all(head("/continue", "").as_bytes()).unwrap();
    assert!(read_until(&mut stream, "\r\n\r\n").starts_with("HTTP/1.1 100 "));
    stream.write_all(b"abc").unwrap();
    assert!(read_until(&mut stream, "}\n").contains("{\"bytes\":3,\"expected\":false}"));
    stream.write_all(b"GET /hints HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(read_until(&mut stream, "\r\n\r\n").starts_with("HTTP/1.1 103 "));
    assert!(read_until(&mut stream, "\r\n\r\n").starts_with("HTTP/1.1 200 "));
    assert_eq!(origin.count("malformed"), 0);
    origin.program.stop();
}

fn frames_of_a_websocket_come_back(engine: Engine) {
    let _lab = Lab::new();
    let origin = HttpOrigin::start(engine, &[]);
    let mut stream = origin.connect();
    stream.write_all(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").unwrap();
    let answer = read_until(&mut stream, "\r\n\r\n");
    assert!(
        answer.starts_with("HTTP/1.1 101 ") && answer.contains("Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
        "{answer}"
    );
    // Masked with zeros: text, ping, and a frame with a 16-bit length; then close.
    let mut wire = b"\x81\x85\0\0\0\0hello\x89\x82\0\0\0\0hi\x82\xfe\x01\x00\0\0\0\0".to_vec();
    wire.extend_from_slice(&[7; 256]);
    wire.extend_from_slice(b"\x88\x82\0\0\0\0\x03\xe8");
    stream.write_all(&wire).unwrap();
    let mut echo = Vec::new();
    stream.read_to_end(&mut echo).unwrap();
    let expected =
        [b"\x81\x05hello\x8a\x02hi\x82\x7e\x01\x00".as_slice(), &[7; 256], b"\x88\x02\x03\xe8"].concat();
    assert_eq!(echo, expected);
    assert_eq!((origin.count("websockets"), origin.count("frames")), (1, 2));
    assert!(origin.tell(format!("GET /ws HTTP/1.1\r\n{CLOSE}").as_bytes()).starts_with("HTTP/1.1 426 "));
    origin.program.stop();
}

fn a_half_closed_client_still_gets_its_answer(engine: Engine) {
    let _lab = Lab::new();
    let origin = HttpOrigin::start(engine, &[]);
    let mut stream = origin.connect();
    stream.write_all(b"GET /delay/50/2000000 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.len() > 2_000_000, "{}", answer.len());
    origin.program.stop();
}

fn a_worn_connection_is_closed_unannounced(engine: Engine) {
    let _lab = Lab::new();
    let origin = HttpOrigin::start(engine, &["--close-after", "2"]);
    let mut stream = origin.connect();
    for _ in 0..2 {
        stream.write_all(b"GET /bytes/3 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let answer = read_until(&mut stream, "\r\n\r\nthe");
        assert!(!answer.contains("close"), "{answer}");
    }
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    origin.program.stop();
}

fn a_reader_that_is_slow_gets_everything(engine: Engine) {
    let _lab = Lab::new();
    let origin = HttpOrigin::start(engine, &[]);
    let mut stream = origin.connect();
    stream.write_all(format!("GET /bytes/30000000 HTTP/1.1\r\n{CLOSE}").as_bytes()).unwrap();
    // Until nothing moves any more, the answer sits in two sockets and the engine's queue, and no further.
    let mut same = (0, 0);
    eventually("the origin is stopped by its slow reader", || {
        let sent = origin.count("sent_bytes");
        same = (sent, if sent > 0 && sent == same.0 { same.1 + 1 } else { 0 });
        (same.1 == 10).then_some(())
    });
    assert!(origin.count("sent_bytes") < 29_000_000);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!((30_000_000..30_001_000).contains(&answer.len()), "{}", answer.len());
    origin.program.stop();
}
