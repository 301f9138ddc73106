//! What a request asks for, by its path.

use super::Options;
use super::reply::json_text;
use crate::wire::head::{self, Request, Version};
use fourfold_base::Millis;
use std::fmt::Write;

/// What is answered once the body is in, or before that where it says so.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Bytes(u64),
    Chunked {
        bytes: u64,
        trailers: bool,
    },
    Drip {
        bytes: u64,
        every_ms: Millis,
    },
    Status(u16),
    Json(String),
    /// 100 bytes, after a 103.
    Hints,
    /// The body, while it comes.
    Echo,
    /// Before the body comes.
    Early,
    /// What the body was.
    Hash,
    Count {
        expected: bool,
    },
    WebSocket,
}

/// A request as far as its answer depends on it.
#[derive(Debug)]
pub struct Ask {
    pub answer: Answer,
    pub delay_ms: Millis,
    /// It was a HEAD.
    pub head_only: bool,
    pub version: Version,
    pub keep_alive: bool,
    /// 100 Continue is due before the body.
    pub invite: bool,
}

impl Ask {
    pub fn of(request: &Request, head: &[u8], options: &Options) -> Self {
        let path = request.path();
        let mut parts = path.split(|byte| *byte == b'/').skip(1).map(|part| part.trim_ascii());
        let name = parts.next().unwrap_or_default();
        let numbers: Option<Vec<u64>> = parts.map(head::digits).collect();
        let numbers = numbers.unwrap_or_else(|| vec![u64::MAX; 3]);
        let expected = request.fields.expect_continue && request.version == Version::Http11;
        let (answer, delay_ms) = match (name, numbers.as_slice()) {
            (b"", []) => (Answer::Bytes(options.bytes), options.delay_ms),
            (b"delay", [ms]) => (Answer::Bytes(options.bytes), *ms),
            (b"delay", [ms, n]) => (Answer::Bytes(*n), *ms),
            (b"headers", []) => (Answer::Json(describe(request, head)), options.delay_ms),
            (b"continue", []) => (Answer::Count { expected }, options.delay_ms),
            (name, numbers) => (plain(name, numbers, options), options.delay_ms),
        };
        // RFC 9110 15.2: no 1xx to HTTP/1.0.
        let invite = match answer {
            Answer::Count { .. } => request.version == Version::Http11,
            Answer::Early => false,
            _ => expected,
        };
        Self {
            delay_ms,
            head_only: request.method == b"HEAD",
            version: request.version,
            keep_alive: request.keep_alive && name != b"close",
            invite,
            answer,
        }
    }
}

fn plain(name: &[u8], numbers: &[u64], options: &Options) -> Answer {
    match (name, numbers) {
        (b"bytes", [n]) => Answer::Bytes(*n),
        (b"close", []) => Answer::Bytes(options.bytes),
        (b"chunked", [n]) => Answer::Chunked { bytes: *n, trailers: false },
        (b"trailers", []) => Answer::Chunked { bytes: options.bytes, trailers: true },
        (b"drip", [bytes, every_ms]) => Answer::Drip { bytes: *bytes, every_ms: *every_ms },
        (b"status", [code @ 200..=599]) => Answer::Status(*code as u16),
        (b"hints", []) => Answer::Hints,
        (b"echo", []) => Answer::Echo,
        (b"early", []) => Answer::Early,
        (b"hash", []) => Answer::Hash,
        (b"ws" | b"ws-echo", []) => Answer::WebSocket,
        _ => Answer::Status(404),
    }
}

/// What was received, in order. Bytes above ASCII are shown as Latin-1, so that none is lost.
fn describe(request: &Request, head: &[u8]) -> String {
    let mut text = String::from("{\"method\":");
    // Writing into a String cannot fail.
    let _ = write!(
        text,
        "{},\"target\":{},\"version\":{},\"fields\":[",
        json_text(request.method),
        json_text(request.target),
        json_text(if request.version == Version::Http11 { b"HTTP/1.1" } else { b"HTTP/1.0" })
    );
    for (index, (name, value)) in head::fields(head).enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let _ = write!(text, "{comma}[{},{}]", json_text(name), json_text(value));
    }
    text.push_str("]}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(line: &str) -> Ask {
        let head = format!("{line} HTTP/1.1\r\nHost: a\r\nX-Odd: \"q\\\r\n\r\n");
        let request = Request::parse(head.as_bytes()).unwrap();
        Ask::of(&request, head.as_bytes(), &Options::default())
    }

    #[test]
    fn paths_say_what_is_answered() {
        assert_eq!(ask("GET /?a=b").answer, Answer::Bytes(100));
        assert_eq!(ask("GET http://x/bytes/5").answer, Answer::Bytes(5));
        let delayed = ask("GET /delay/20/7");
        assert_eq!((delayed.answer, delayed.delay_ms), (Answer::Bytes(7), 20));
        assert_eq!(ask("GET /status/503").answer, Answer::Status(503));
        for unknown in ["/bytes", "/bytes/x", "/bytes/1/2", "/status/99", "/nothing", "/echo/1"] {
            assert_eq!(ask(&format!("GET {unknown}")).answer, Answer::Status(404), "{unknown}");
        }
        assert!(!ask("GET /close").keep_alive && ask("HEAD /").head_only);
    }

    #[test]
    fn what_was_received_is_told_in_order_as_json() {
        let Answer::Json(text) = ask("GET /headers?x").answer else { panic!() };
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["target"], "/headers?x");
        assert_eq!(value["fields"], serde_json::json!([["Host", "a"], ["X-Odd", "\"q\\"]]));
    }
}
