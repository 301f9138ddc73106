//! Bytes of answers.

use super::route::{Answer, Ask};
use crate::wire::head::Version;
use crate::wire::pattern;
use std::io::Write;

/// A body up to this length goes with its head, and is remembered with it.
pub const SMALL_BYTES_MAX: u64 = 15 * 1024;
/// Payload of one piece of a longer body: with its framing it fits an engine's buffer.
pub const PIECE_BYTES: u64 = 15 * 1024;

/// How the body of an answer is framed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Length {
    Known(u64),
    Chunked,
    /// To HTTP/1.0, which has no chunks.
    UntilClose,
    /// 204, 304: neither a body nor a length.
    None,
}

pub fn head(out: &mut Vec<u8>, status: u16, kind: &str, length: Length, ask: &Ask) {
    // Writing into a Vec cannot fail.
    let _ = write!(out, "HTTP/1.1 {status} {}\r\n", reason(status));
    let _ = match length {
        Length::Known(n) => write!(out, "Content-Length: {n}\r\nContent-Type: {kind}\r\n"),
        Length::Chunked => write!(out, "Transfer-Encoding: chunked\r\nContent-Type: {kind}\r\n"),
        Length::UntilClose => write!(out, "Content-Type: {kind}\r\n"),
        Length::None => Ok(()),
    };
    match (ask.keep_alive && length != Length::UntilClose, ask.version) {
        (false, _) => out.extend_from_slice(b"Connection: close\r\n"),
        (true, Version::Http10) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        (true, Version::Http11) => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// A whole answer with this body.
pub fn whole(out: &mut Vec<u8>, status: u16, kind: &str, body: &[u8], ask: &Ask) {
    head(out, status, kind, Length::Known(body.len() as u64), ask);
    if !ask.head_only {
        out.extend_from_slice(body);
    }
}

pub fn json(out: &mut Vec<u8>, body: &str, ask: &Ask) {
    whole(out, 200, "application/json", body.as_bytes(), ask);
}

pub fn bytes(out: &mut Vec<u8>, n: u64, ask: &Ask) {
    head(out, 200, "text/plain", Length::Known(n), ask);
    if !ask.head_only {
        let start = out.len();
        out.resize(start + n as usize, 0);
        pattern::fill(0, out.get_mut(start..).unwrap_or_default());
    }
}

pub fn status(out: &mut Vec<u8>, status: u16, ask: &Ask) {
    match status {
        204 | 304 => head(out, status, "", Length::None, ask),
        _ => whole(out, status, "text/plain", format!("{status} {}\n", reason(status)).as_bytes(), ask),
    }
}

/// A body that is sent in pieces.
#[derive(Debug)]
pub struct Download {
    offset: u64,
    left: u64,
    length: Length,
    trailers: bool,
    /// A drip: one byte at a time, the next one not before this.
    pub next_ms: Option<u64>,
    pub every_ms: u64,
    pub keep_alive: bool,
}

impl Download {
    /// `None`: the answer is not one that is sent in pieces. Its head goes to `out`.
    pub fn begin(out: &mut Vec<u8>, ask: &Ask, now: u64) -> Option<Self> {
        let (left, length, trailers, every_ms) = match ask.answer {
            Answer::Bytes(n) => (n, Length::Known(n), false, None),
            Answer::Drip { bytes, every_ms } => (bytes, Length::Known(bytes), false, Some(every_ms)),
            Answer::Chunked { bytes, trailers } => match ask.version {
                Version::Http11 => (bytes, Length::Chunked, trailers, None),
                Version::Http10 => (bytes, Length::UntilClose, false, None),
            },
            _ => return None,
        };
        head(out, 200, "text/plain", length, ask);
        let length = if ask.head_only { Length::None } else { length };
        let left = if ask.head_only { 0 } else { left };
        let keep_alive = ask.keep_alive && length != Length::UntilClose;
        let next_ms = every_ms.map(|_| now);
        Some(Self { offset: 0, left, length, trailers, next_ms, every_ms: every_ms.unwrap_or(0), keep_alive })
    }

    /// The next piece; `true`: it was the last.
    pub fn piece(&mut self, out: &mut Vec<u8>) -> bool {
        let n = self.left.min(if self.next_ms.is_some() { 1 } else { PIECE_BYTES });
        if self.length == Length::Chunked && n > 0 {
            let _ = write!(out, "{n:x}\r\n");
        }
        let start = out.len();
        out.resize(start + n as usize, 0);
        pattern::fill(self.offset, out.get_mut(start..).unwrap_or_default());
        (self.offset, self.left) = (self.offset + n, self.left - n);
        if self.length == Length::Chunked {
            self.close_chunk(n, out);
        }
        self.left == 0
    }

    fn close_chunk(&self, n: u64, out: &mut Vec<u8>) {
        if n > 0 {
            out.extend_from_slice(b"\r\n");
        }
        if self.left == 0 {
            out.extend_from_slice(b"0\r\n");
            if self.trailers {
                out.extend_from_slice(b"X-Trailer: first\r\nX-Checksum: 42\r\n");
            }
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// A JSON string of bytes as Latin-1.
pub fn json_text(bytes: &[u8]) -> String {
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    serde_json::Value::String(text).to_string()
}

pub fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}
