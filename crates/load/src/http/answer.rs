//! What comes back: answers over HTTP, messages over a WebSocket, each read to its last byte and compared with what was due.

use super::{HttpConfig, ID_FIELD, Protocol, Verify};
use crate::message::Message;
use crate::wire::Malformed;
use crate::wire::body::{Body, Framing};
use crate::wire::frame::{self, CLOSE, Head, PING};
use crate::wire::head::{HEAD_BYTES_MAX, Response, head_end};
use crate::wire::pattern;

/// Answers 1xx before the one that counts.
const INTERIM_MAX: u32 = 16;

/// What is wrong with what came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    Malformed(Malformed),
    WrongBody,
    WrongLength,
    /// The peer of a WebSocket has said goodbye.
    Goodbye,
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// What the next answer has to be.
#[derive(Clone, Copy)]
pub struct Expected {
    pub head_only: bool,
    pub verify: Verify,
    /// Length of the body; `None`: any.
    pub bytes: Option<u64>,
    /// The body of the request.
    pub message: Message,
}

impl Expected {
    fn check(&self, offset: u64, data: &[u8]) -> Result<(), Fault> {
        let beyond = self.bytes.is_some_and(|bytes| offset + data.len() as u64 > bytes);
        let wrong = match self.verify {
            Verify::Framing => 0,
            Verify::Pattern => pattern::wrong(offset, data),
            Verify::Echo => self.message.wrong(offset as usize, data),
        };
        match (beyond, wrong) {
            (true, _) => Err(Fault::WrongLength),
            (_, 0) => Ok(()),
            _ => Err(Fault::WrongBody),
        }
    }

    fn check_length(&self, length: u64) -> Result<(), Fault> {
        let wrong = !self.head_only && self.bytes.is_some_and(|bytes| bytes != length);
        if wrong { Err(Fault::WrongLength) } else { Ok(()) }
    }
}

/// An answer that is whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Whole {
    pub status: u16,
    pub keep_alive: bool,
}

/// Reads answers over HTTP.
#[derive(Debug, Default)]
pub struct Answers {
    head: Option<Response>,
    body: Option<Body>,
    offset: u64,
    interim: u32,
    /// Received and not yet looked at.
    pub leftover: Vec<u8>,
}

impl Answers {
    /// Part of an answer has come.
    pub fn has_begun(&self) -> bool {
        self.head.is_some() || !self.leftover.is_empty()
    }

    /// Reads on; how much it took, and the answer if that completes it.
    pub fn read(&mut self, input: &[u8], expected: &Expected) -> Result<(usize, Option<Whole>), Fault> {
        let mut at = 0;
        while self.head.is_none() {
            let rest = input.get(at..).unwrap_or_default();
            let Some(length) = head_end(rest) else {
                let endless = rest.len() > HEAD_BYTES_MAX;
                return if endless { Err(Malformed("a head without end").into()) } else { Ok((at, None)) };
            };
            self.take_head(rest.get(..length).unwrap_or_default(), expected)?;
            at += length;
        }
        let used = self.take_body(input.get(at..).unwrap_or_default(), expected)?;
        Ok((at + used, self.whole(expected)?))
    }

    fn take_head(&mut self, head: &[u8], expected: &Expected) -> Result<(), Fault> {
        let response = Response::parse(head, expected.head_only)?;
        if response.status < 200 && response.status != 101 {
            self.interim += 1;
            return if self.interim > INTERIM_MAX {
                Err(Malformed("1xx without end").into())
            } else {
                Ok(())
            };
        }
        if let Framing::Length(length) = response.framing
            && response.status == 200
        {
            expected.check_length(length)?;
        }
        (self.body, self.offset) = (Some(Body::new(response.framing)), 0);
        self.head = Some(response);
        Ok(())
    }

    fn take_body(&mut self, input: &[u8], expected: &Expected) -> Result<usize, Fault> {
        let (Some(body), Some(head)) = (&mut self.body, &self.head) else { return Ok(0) };
        let mut used = 0;
        while !body.is_done() && used < input.len() {
            let rest = input.get(used..).unwrap_or_default();
            let step = body.step(rest)?;
            let data = rest.get(step.data).unwrap_or_default();
            // What an error page says is not known.
            if head.status == 200 {
                expected.check(self.offset, data)?;
            }
            self.offset += data.len() as u64;
            used += step.used;
        }
        Ok(used)
    }

    fn whole(&mut self, expected: &Expected) -> Result<Option<Whole>, Fault> {
        if !self.body.as_ref().is_some_and(Body::is_done) {
            return Ok(None);
        }
        let Some(head) = self.head.take() else { return Ok(None) };
        (self.body, self.interim) = (None, 0);
        if head.status == 200 {
            expected.check_length(self.offset)?;
        }
        Ok(Some(Whole { status: head.status, keep_alive: head.keep_alive }))
    }

    /// The peer has sent FIN: an answer that lasts until then is whole.
    pub fn on_eof(&mut self, expected: &Expected) -> Result<Option<Whole>, Fault> {
        match self.body.as_mut().is_some_and(Body::on_eof) {
            true => self.whole(expected),
            false => Ok(None),
        }
    }

    /// The head of the answer to a handshake and its length, once it is whole.
    pub fn read_handshake(input: &[u8]) -> Result<Option<(Response, usize)>, Fault> {
        let Some(length) = head_end(input) else {
            let endless = input.len() > HEAD_BYTES_MAX;
            return if endless { Err(Malformed("a head without end").into()) } else { Ok(None) };
        };
        Ok(Some((Response::parse(input.get(..length).unwrap_or_default(), false)?, length)))
    }
}

/// Reads messages of a WebSocket.
#[derive(Debug, Default)]
pub struct Messages {
    reader: frame::Reader,
    present: Option<Head>,
    control: Vec<u8>,
    received: u64,
}

impl Messages {
    /// Reads on; how many messages that completes. What is to be answered at once goes to `out`.
    pub fn read(&mut self, bytes: &mut [u8], expected: &Expected, out: &mut Vec<u8>) -> Result<u32, Fault> {
        let (mut rest, mut messages) = (bytes, 0);
        loop {
            if self.reader.head.is_none() {
                if rest.is_empty() {
                    return Ok(messages);
                }
                let used = self.reader.read_head(rest)?;
                rest = rest.split_at_mut(used).1;
                let Some(head) = self.reader.head else { return Ok(messages) };
                if head.mask.is_some() {
                    // RFC 6455 5.1.
                    return Err(Malformed("a server's frame with a mask").into());
                }
                self.present = Some(head);
            }
            if rest.is_empty() && self.reader.head.is_some_and(|head| head.length > 0) {
                return Ok(messages);
            }
            let (n, whole) = self.reader.read_payload(rest);
            let (payload, after) = rest.split_at_mut(n);
            self.payload(payload, expected)?;
            rest = after;
            if whole {
                messages += u32::from(self.end(expected, out)?);
            }
        }
    }

    fn payload(&mut self, payload: &[u8], expected: &Expected) -> Result<(), Fault> {
        if self.present.is_some_and(|head| head.is_control()) {
            self.control.extend_from_slice(payload);
            return Ok(());
        }
        expected.check(self.received, payload)?;
        self.received += payload.len() as u64;
        Ok(())
    }

    /// A frame is over; whether a message is.
    fn end(&mut self, expected: &Expected, out: &mut Vec<u8>) -> Result<bool, Fault> {
        let Some(head) = self.present.take() else { return Ok(false) };
        if head.is_control() {
            let payload = std::mem::take(&mut self.control);
            match head.opcode {
                PING => pong(&payload, out),
                CLOSE => return Err(Fault::Goodbye),
                _ => {}
            }
            return Ok(false);
        }
        if head.fin {
            expected.check_length(std::mem::take(&mut self.received))?;
        }
        Ok(head.fin)
    }
}

fn pong(payload: &[u8], out: &mut Vec<u8>) {
    let key = [0x5a; 4];
    Head { fin: true, opcode: frame::PONG, length: payload.len() as u64, mask: Some(key) }.encode(out);
    let start = out.len();
    out.extend_from_slice(payload);
    frame::mask(key, 0, out.get_mut(start..).unwrap_or_default());
}

/// Either of them.
#[derive(Debug)]
pub enum Reader {
    Http(Answers),
    WebSocket(Box<Messages>),
}

impl Reader {
    /// That of a new connection: a WebSocket begins with HTTP.
    pub fn new() -> Self {
        Self::Http(Answers::default())
    }

    pub fn has_begun(&self) -> bool {
        match self {
            Self::Http(answers) => answers.has_begun(),
            Self::WebSocket(messages) => messages.received > 0,
        }
    }
}

/// What is sent for each operation: a head that is always the same, and a body that proves whose it is.
#[derive(Debug)]
pub struct Outgoing {
    pub head: Vec<u8>,
    pub body_bytes: u64,
    mask: Option<[u8; 4]>,
    /// Where in the head the request's id has its place.
    id_at: Option<usize>,
}

impl Outgoing {
    pub fn request(config: &HttpConfig, method: &str, body_bytes: u64) -> Self {
        let mut head = request_head(config, method, body_bytes);
        let id_at = config.identify.then(|| {
            head.truncate(head.len() - 2);
            head.extend_from_slice(format!("{ID_FIELD}: ").as_bytes());
            let at = head.len();
            head.extend_from_slice(&[b'0'; ID_BYTES]);
            head.extend_from_slice(b"\r\n\r\n");
            at
        });
        Self { head, body_bytes, mask: None, id_at }
    }

    pub fn message(body_bytes: u64, seed: u64) -> Self {
        let key = (seed as u32 ^ 0x5bd1_e995).to_be_bytes();
        let mut head = Vec::new();
        Head { fin: true, opcode: frame::BINARY, length: body_bytes, mask: Some(key) }.encode(&mut head);
        Self { head, body_bytes, mask: Some(key), id_at: None }
    }

    pub fn len(&self) -> u64 {
        self.head.len() as u64 + self.body_bytes
    }

    /// Writes the bytes from `offset` on.
    pub fn fill(&self, message: &Message, offset: u64, out: &mut [u8]) {
        let head = self.head.get(offset as usize..).unwrap_or_default();
        let (first, body) = out.split_at_mut(head.len().min(out.len()));
        first.copy_from_slice(head.get(..first.len()).unwrap_or_default());
        if let Some(id_at) = self.id_at {
            let places = first.iter_mut().zip(offset as usize..);
            let id = id(message);
            let digit = |at: usize| id.as_bytes().get(at.checked_sub(id_at)?).copied();
            places.for_each(|(byte, at)| *byte = digit(at).unwrap_or(*byte));
        }
        let at = offset.saturating_sub(self.head.len() as u64);
        message.fill(at as usize, body);
        if let Some(key) = self.mask {
            frame::mask(key, at, body);
        }
    }
}

const ID_BYTES: usize = 26;

/// What a request is called: no two of a load are called the same.
pub fn id(message: &Message) -> String {
    format!("{:08x}-{:08x}-{:08x}", message.seed as u32, message.number as u32, message.round)
}

/// The head of a request, or the beginning of a handshake's.
pub fn request_head(config: &HttpConfig, method: &str, body_bytes: u64) -> Vec<u8> {
    let mut head = format!(
        "{method} {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: fourfold-load\r\n",
        config.path, config.host
    );
    for (name, value) in &config.fields {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if config.protocol == Protocol::Http {
        if body_bytes > 0 || matches!(method, "POST" | "PUT" | "PATCH") {
            head.push_str(&format!("Content-Length: {body_bytes}\r\n"));
        }
        if !config.keep_alive {
            head.push_str("Connection: close\r\n");
        }
        head.push_str("\r\n");
    }
    head.into_bytes()
}

/// The rest of a handshake's head; the key is the connection's own.
pub fn finish_handshake(head: &mut Vec<u8>, key: &str) {
    head.extend_from_slice(
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ",
    );
    head.extend_from_slice(key.as_bytes());
    head.extend_from_slice(b"\r\n\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(verify: Verify, bytes: Option<u64>) -> Expected {
        let message = Message { seed: 1, number: 2, round: 3 };
        Expected { head_only: false, verify, bytes, message }
    }

    fn read(text: &[u8], expected: &Expected, piece: usize) -> Result<Vec<Whole>, Fault> {
        let (mut answers, mut wholes) = (Answers::default(), Vec::new());
        for part in text.chunks(piece) {
            let mut input = std::mem::take(&mut answers.leftover);
            input.extend_from_slice(part);
            let mut at = 0;
            loop {
                let (used, whole) = answers.read(&input[at..], expected)?;
                at += used;
                wholes.extend(whole);
                if whole.is_none() || at == input.len() {
                    break;
                }
            }
            answers.leftover.extend_from_slice(&input[at..]);
        }
        Ok(wholes)
    }

    #[test]
    fn answers_are_read_however_they_are_cut_and_1xx_are_skipped() {
        let text = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nthe quickHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nthe quick\r\n0\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
        let expected = expected(Verify::Pattern, Some(9));
        for piece in 1..=text.len() {
            let wholes = read(text, &expected, piece).unwrap();
            let pairs: Vec<_> = wholes.iter().map(|whole| (whole.status, whole.keep_alive)).collect();
            assert_eq!(pairs, [(200, true), (200, true), (503, false)], "by {piece}");
        }
    }

    #[test]
    fn a_wrong_byte_and_a_wrong_length_are_told() {
        let text = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let nine = expected(Verify::Pattern, Some(9));
        assert_eq!(read(text("the quock").as_bytes(), &nine, 7), Err(Fault::WrongBody));
        assert_eq!(read(text("the quic").as_bytes(), &nine, 7), Err(Fault::WrongLength));
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nt\r\n0\r\n\r\n";
        assert_eq!(read(chunked, &nine, 99), Err(Fault::WrongLength));
        let any = expected(Verify::Framing, None);
        assert_eq!(read(chunked, &any, 99).unwrap().len(), 1);
        assert!(matches!(read(b"HTTP/1.1 200 OK\nX: y\n\n", &any, 99), Err(Fault::Malformed(_))));
    }

    #[test]
    fn an_outgoing_is_the_same_in_any_pieces() {
        let message = Message { seed: 1, number: 2, round: 3 };
        let config = HttpConfig { identify: true, ..HttpConfig::new(([127, 0, 0, 1], 80).into(), 1) };
        for outgoing in [Outgoing::message(300, 7), Outgoing::request(&config, "POST", 50)] {
            let mut whole = vec![0; outgoing.len() as usize];
            outgoing.fill(&message, 0, &mut whole);
            for cut in 0..whole.len() {
                let mut tail = vec![0; whole.len() - cut];
                outgoing.fill(&message, cut as u64, &mut tail);
                assert_eq!(tail, whole[cut..]);
            }
        }
    }

    #[test]
    fn a_request_says_what_it_is_called() {
        let config = HttpConfig { identify: true, ..HttpConfig::new(([127, 0, 0, 1], 80).into(), 1) };
        let outgoing = Outgoing::request(&config, "POST", 0);
        let mut bytes = vec![0; outgoing.len() as usize];
        outgoing.fill(&Message { seed: 1, number: 10, round: 300 }, 0, &mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        assert!(
            text.ends_with("Content-Length: 0\r\nX-Request-Id: 00000001-0000000a-0000012c\r\n\r\n"),
            "{text}"
        );
    }
}
