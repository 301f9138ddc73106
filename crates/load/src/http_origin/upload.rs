//! A request's body on its way in, and what becomes of it.

use super::reply;
use super::route::{Answer, Ask};
use crate::wire::body::{Body, Framing};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::Write as _;

pub struct Upload {
    pub body: Body,
    pub ask: Ask,
    pub bytes: u64,
    chunked: bool,
    hash: Option<Sha256>,
}

impl Upload {
    pub fn new(ask: Ask, framing: Framing) -> Self {
        let hash = (ask.answer == Answer::Hash).then(Sha256::new);
        Self { body: Body::new(framing), bytes: 0, chunked: framing == Framing::Chunked, hash, ask }
    }

    /// What is sent before any of the body has been read.
    pub fn begin(&self, out: &mut Vec<u8>, framing: Framing) {
        let length = match framing {
            Framing::Length(n) => reply::Length::Known(n),
            Framing::None => reply::Length::Known(0),
            _ => reply::Length::Chunked,
        };
        if self.ask.invite {
            out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        match self.ask.answer {
            Answer::Echo => reply::head(out, 200, "application/octet-stream", length, &self.ask),
            Answer::Early => reply::whole(out, 200, "text/plain", b"early\n", &self.ask),
            _ => {}
        }
    }

    /// Takes payload; what is to be sent at once goes to `out`.
    pub fn take(&mut self, data: &[u8], out: &mut Vec<u8>) {
        self.bytes += data.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(data);
        }
        if self.ask.answer == Answer::Echo && !self.ask.head_only && !data.is_empty() {
            if self.chunked {
                let _ = write!(out, "{:x}\r\n", data.len());
            }
            out.extend_from_slice(data);
            if self.chunked {
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// The body is whole: what is left to answer, or `None` when that has been done on the way.
    pub fn end(mut self, out: &mut Vec<u8>) -> (Ask, bool) {
        let answered = matches!(self.ask.answer, Answer::Echo | Answer::Early);
        if self.ask.answer == Answer::Echo && self.chunked && !self.ask.head_only {
            out.extend_from_slice(b"0\r\n\r\n");
        }
        match self.ask.answer {
            Answer::Hash => self.ask.answer = Answer::Json(self.digest()),
            Answer::Count { expected } => {
                let text = format!("{{\"bytes\":{},\"expected\":{expected}}}\n", self.bytes);
                self.ask.answer = Answer::Json(text);
            }
            _ => {}
        }
        (self.ask, answered)
    }

    fn digest(&mut self) -> String {
        let hash = self.hash.take().unwrap_or_default().finalize();
        let mut text = format!("{{\"bytes\":{},\"sha256\":\"", self.bytes);
        for byte in hash {
            let _ = write!(text, "{byte:02x}");
        }
        text.push_str("\"}\n");
        text
    }
}
