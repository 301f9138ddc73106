//! WebSocket frames (RFC 6455 5) and the handshake's proof (4.2.2).

use super::Malformed;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// RFC 6455 5.5.
pub const CONTROL_BYTES_MAX: usize = 125;

/// Sec-WebSocket-Accept for a key; `None` if the key is not 16 bytes in base64.
pub fn accept(key: &str) -> Option<String> {
    STANDARD.decode(key).ok().filter(|bytes| bytes.len() == 16)?;
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    Some(STANDARD.encode(hash.finalize()))
}

/// Sec-WebSocket-Key of these 16 bytes.
pub fn key(bytes: [u8; 16]) -> String {
    STANDARD.encode(bytes)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    pub fin: bool,
    pub opcode: u8,
    pub length: u64,
    /// `None`: not masked, as a server's frames.
    pub mask: Option<[u8; 4]>,
}

impl Head {
    pub fn is_control(&self) -> bool {
        self.opcode >= CLOSE
    }

    /// What the frame begins with; how long that is.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.fin) << 7 | self.opcode);
        let masked = u8::from(self.mask.is_some()) << 7;
        match self.length {
            0..=125 => out.push(masked | self.length as u8),
            126..=0xffff => {
                out.push(masked | 126);
                out.extend_from_slice(&(self.length as u16).to_be_bytes());
            }
            _ => {
                out.push(masked | 127);
                out.extend_from_slice(&self.length.to_be_bytes());
            }
        }
        out.extend_from_slice(self.mask.as_ref().map_or(&[][..], |mask| mask.as_slice()));
    }

    /// `None`: more bytes are needed.
    fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(Malformed("reserved bits of a frame"));
        }
        let (wide, length) = match (second & 0x7f, rest) {
            (126, [a, b, ..]) => (2, u64::from(u16::from_be_bytes([*a, *b]))),
            (127, [a, b, c, d, e, f, g, h, ..]) => (8, u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h])),
            (126 | 127, _) => return Ok(None),
            (length, _) => (0, u64::from(length)),
        };
        let masked = second & 0x80 != 0;
        let mask = match rest.get(wide..) {
            Some([a, b, c, d, ..]) if masked => Some([*a, *b, *c, *d]),
            _ if masked => return Ok(None),
            _ => None,
        };
        let head = Self { fin: first & 0x80 != 0, opcode: first & 0x0f, length, mask };
        if head.is_control() && (!head.fin || length > CONTROL_BYTES_MAX as u64) {
            return Err(Malformed("a control frame that is long or in parts"));
        }
        if !matches!(head.opcode, 0..=BINARY | CLOSE..=PONG) {
            return Err(Malformed("an unknown opcode"));
        }
        if length >> 63 != 0 {
            return Err(Malformed("a frame length with the top bit"));
        }
        Ok(Some((head, 2 + wide + if masked { 4 } else { 0 })))
    }
}

/// Applies the mask to bytes that begin `offset` bytes into their frame's payload.
pub fn mask(key: [u8; 4], offset: u64, bytes: &mut [u8]) {
    let shifted: [u8; 4] = std::array::from_fn(|i| key.get((offset as usize + i) % 4).copied().unwrap_or(0));
    bytes.iter_mut().zip(shifted.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
}

/// Reads frames one after the other, in whatever pieces they come.
#[derive(Debug, Default)]
pub struct Reader {
    /// The head of the frame that is being read; `None` between frames.
    pub head: Option<Head>,
    /// Bytes of its payload that have come.
    pub received: u64,
    partial: Vec<u8>,
}

impl Reader {
    /// Reads the next head; how many bytes that took. [`Self::head`] tells whether it was whole.
    pub fn read_head(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        if self.partial.is_empty()
            && let Some((head, used)) = Head::parse(bytes)?
        {
            (self.head, self.received) = (Some(head), 0);
            return Ok(used);
        }
        for (index, byte) in bytes.iter().enumerate() {
            self.partial.push(*byte);
            if let Some((head, _)) = Head::parse(&self.partial)? {
                self.partial.clear();
                (self.head, self.received) = (Some(head), 0);
                return Ok(index + 1);
            }
        }
        Ok(bytes.len())
    }

    /// Unmasks what belongs to the present frame's payload; how many bytes, and whether they complete it. The frame is over
    /// then, and the next head can be read.
    pub fn read_payload(&mut self, bytes: &mut [u8]) -> (usize, bool) {
        let Some(head) = self.head else { return (0, false) };
        let n = (head.length - self.received).min(bytes.len() as u64) as usize;
        if let (Some(key), Some(part)) = (head.mask, bytes.get_mut(..n)) {
            mask(key, self.received, part);
        }
        self.received += n as u64;
        let whole = self.received == head.length;
        if whole {
            self.head = None;
        }
        (n, whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_of_the_rfc() {
        // RFC 6455 1.3.
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ==").unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(accept("c2hvcnQ="), None);
    }

    #[test]
    fn frames_of_all_sizes_survive_any_cut() {
        for length in [0_usize, 1, 125, 126, 65_535, 65_536] {
            let payload: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let head = Head { fin: true, opcode: BINARY, length: length as u64, mask: Some([1, 2, 3, 250]) };
            let mut wire = Vec::new();
            head.encode(&mut wire);
            let mut masked = payload.clone();
            mask([1, 2, 3, 250], 0, &mut masked);
            wire.extend_from_slice(&masked);
            for piece in [1, 2, 3, 7, 1000, wire.len()] {
                let (mut reader, mut got, mut ends) = (Reader::default(), Vec::new(), 0);
                for part in wire.clone().chunks_mut(piece) {
                    let mut at = 0;
                    while at < part.len() || reader.head.is_some_and(|head| head.length == 0) {
                        if reader.head.is_none() {
                            at += reader.read_head(&part[at..]).unwrap();
                            continue;
                        }
                        let (n, whole) = reader.read_payload(&mut part[at..]);
                        got.extend_from_slice(&part[at..at + n]);
                        at += n;
                        ends += usize::from(whole);
                    }
                }
                assert_eq!((got, ends), (payload.clone(), 1), "{length} by {piece}");
            }
        }
    }

    #[test]
    fn odd_frames_are_refused() {
        let odd: [&[u8]; 4] = [&[0xc1, 0], &[0x83, 0], &[0x09, 0], &[0x89, 126, 0, 126]];
        assert!(odd.iter().all(|bytes| Reader::default().read_head(bytes).is_err()));
    }
}
