//! A WebSocket that echoes: data frames come back as they were, in the same cuts; a ping gets its pong, a close its close.

use crate::wire::Malformed;
use crate::wire::frame::{self, CLOSE, Head, PING, Reader};
use crate::wire::head::{Fields, Request};
use std::io::Write;

#[derive(Debug, Default)]
pub struct Peer {
    reader: Reader,
    /// The head of the frame whose payload is being read.
    present: Option<Head>,
    /// Payload of a control frame.
    control: Vec<u8>,
}

/// What came of some bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub frames: u64,
    /// The peer has said goodbye, and so have we.
    pub closed: bool,
}

/// RFC 6455 4.2.1: the answer to a handshake; `None` if it is not one.
pub fn handshake(request: &Request) -> Option<Vec<u8>> {
    let fields: &Fields = &request.fields;
    let asked = request.method == b"GET" && fields.asks_for_websocket();
    let accept = fields.websocket_key.as_deref().filter(|_| asked).and_then(frame::accept)?;
    let mut out = Vec::new();
    let _ = write!(
        out,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    Some(out)
}

impl Peer {
    /// Reads frames; their echo goes to `out`.
    pub fn feed(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) -> Result<Outcome, Malformed> {
        let mut outcome = Outcome::default();
        let mut rest = bytes;
        while !outcome.closed {
            if self.reader.head.is_none() {
                if rest.is_empty() {
                    break;
                }
                let used = self.reader.read_head(rest)?;
                rest = rest.split_at_mut(used).1;
                let Some(head) = self.reader.head else { break };
                self.begin(head, out)?;
            }
            let length = self.reader.head.map_or(0, |head| head.length);
            if rest.is_empty() && length > 0 {
                break;
            }
            let (n, whole) = self.reader.read_payload(rest);
            let (payload, after) = rest.split_at_mut(n);
            self.payload(payload, out);
            rest = after;
            if whole {
                self.end(out, &mut outcome);
            }
        }
        Ok(outcome)
    }

    fn begin(&mut self, head: Head, out: &mut Vec<u8>) -> Result<(), Malformed> {
        // RFC 6455 5.1.
        if head.mask.is_none() {
            return Err(Malformed("a client's frame without a mask"));
        }
        if !head.is_control() {
            Head { mask: None, ..head }.encode(out);
        }
        self.present = Some(head);
        Ok(())
    }

    fn payload(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        match self.present.is_some_and(|head| head.is_control()) {
            true => self.control.extend_from_slice(payload),
            false => out.extend_from_slice(payload),
        }
    }

    fn end(&mut self, out: &mut Vec<u8>, outcome: &mut Outcome) {
        let Some(head) = self.present.take() else { return };
        if !head.is_control() {
            outcome.frames += 1;
            return;
        }
        let payload = std::mem::take(&mut self.control);
        let opcode = match head.opcode {
            PING => frame::PONG,
            CLOSE => CLOSE,
            _ => return,
        };
        outcome.closed = opcode == CLOSE;
        Head { fin: true, opcode, length: payload.len() as u64, mask: None }.encode(out);
        out.extend_from_slice(&payload);
    }
}

/// RFC 6455 7.4.1: 1002, protocol error.
pub fn protocol_error(out: &mut Vec<u8>) {
    Head { fin: true, opcode: CLOSE, length: 2, mask: None }.encode(out);
    out.extend_from_slice(&1002_u16.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::PONG;

    const TEXT: u8 = 1;

    fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let (mut wire, key) = (Vec::new(), [9, 8, 7, 6]);
        Head { fin: true, opcode, length: payload.len() as u64, mask: Some(key) }.encode(&mut wire);
        let mut payload = payload.to_vec();
        frame::mask(key, 0, &mut payload);
        wire.extend_from_slice(&payload);
        wire
    }

    #[test]
    fn frames_come_back_unmasked_however_they_are_cut() {
        let wire = [
            masked(TEXT, b"hello"),
            masked(PING, b"are you there"),
            masked(TEXT, b""),
            masked(CLOSE, b"\x03\xe8"),
        ];
        let wire = wire.concat();
        let mut expected = b"\x81\x05hello\x8a\x0dare you there\x81\x00\x88\x02\x03\xe8".to_vec();
        assert_eq!(expected[7] & 0x0f, PONG);
        for piece in 1..=wire.len() {
            let (mut peer, mut out, mut frames, mut closed) = (Peer::default(), Vec::new(), 0, false);
            for part in wire.clone().chunks_mut(piece) {
                let outcome = peer.feed(part, &mut out).unwrap();
                frames += outcome.frames;
                closed |= outcome.closed;
            }
            assert_eq!((out, frames, closed), (expected.clone(), 2, true), "by {piece}");
        }
        expected.clear();
        assert!(Peer::default().feed(&mut [0x81, 0], &mut expected).is_err());
    }
}
