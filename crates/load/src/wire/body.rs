//! Message bodies: where one ends, and which of the bytes between are payload.

use super::Malformed;
use super::head::check_trailer;
use std::ops::Range;

/// RFC 9112 6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// The longest line of chunk framing or trailers.
const LINE_BYTES_MAX: usize = 8 * 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Payload of known or unlimited length.
    Plain(u64),
    Size,
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    Trailers,
    Done,
}

/// Reads one body, in whatever pieces it comes.
#[derive(Debug)]
pub struct Body {
    state: State,
    until_close: bool,
    /// A line that has come in part.
    line: Vec<u8>,
    pub trailers: u32,
}

/// What a step has found in the bytes it was given.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// Payload.
    pub data: Range<usize>,
    /// Bytes that are dealt with.
    pub used: usize,
}

impl Body {
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Plain(length),
            Framing::UntilClose => State::Plain(u64::MAX),
            Framing::Chunked => State::Size,
        };
        Self { state, until_close: framing == Framing::UntilClose, line: Vec::new(), trailers: 0 }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The peer has sent FIN: the end of a body that lasts until then, else a truncation.
    pub fn on_eof(&mut self) -> bool {
        if self.until_close {
            self.state = State::Done;
        }
        self.is_done()
    }

    /// Takes the next piece. To be called until nothing is used or the body is done.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, Malformed> {
        match self.state {
            State::Done => Ok(Step { data: 0..0, used: 0 }),
            State::Plain(left) | State::Chunk(left) => Ok(self.payload(left, bytes.len())),
            State::Size | State::ChunkEnd | State::Trailers => self.framing(bytes),
        }
    }

    fn payload(&mut self, left: u64, available: usize) -> Step {
        let n = left.min(available as u64);
        let left = if self.until_close { left } else { left - n };
        self.state = match self.state {
            State::Chunk(_) if left == 0 => State::ChunkEnd,
            State::Chunk(_) => State::Chunk(left),
            _ if left == 0 => State::Done,
            _ => State::Plain(left),
        };
        Step { data: 0..n as usize, used: n as usize }
    }

    fn framing(&mut self, bytes: &[u8]) -> Result<Step, Malformed> {
        let lf = memchr::memchr(b'\n', bytes);
        let used = lf.map_or(bytes.len(), |lf| lf + 1);
        if self.line.len() + used > LINE_BYTES_MAX {
            return Err(Malformed("a line of chunk framing without end"));
        }
        self.line.extend_from_slice(bytes.get(..used).unwrap_or_default());
        if lf.is_some() {
            let line = std::mem::take(&mut self.line);
            let line =
                line.strip_suffix(b"\r\n").ok_or(Malformed("a chunk line that ends with a bare LF"))?;
            self.on_line(line)?;
        }
        Ok(Step { data: 0..0, used })
    }

    fn on_line(&mut self, line: &[u8]) -> Result<(), Malformed> {
        self.state = match self.state {
            State::Size => match chunk_size(line)? {
                0 => State::Trailers,
                size => State::Chunk(size),
            },
            State::ChunkEnd if line.is_empty() => State::Size,
            State::ChunkEnd => return Err(Malformed("bytes after a chunk")),
            _ if line.is_empty() => State::Done,
            other => {
                check_trailer(line)?;
                self.trailers += 1;
                other
            }
        };
        Ok(())
    }
}

/// RFC 9112 7.1: hexadecimal digits; an extension is let pass if it is plain text.
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let (digits, extension) = match memchr::memchr(b';', line) {
        Some(at) => line.split_at(at),
        None => (line, &[][..]),
    };
    if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(Malformed("a chunk size that is not a number"));
    }
    if !extension.iter().all(|byte| (b' '..0x7f).contains(byte)) {
        return Err(Malformed("a control character in a chunk extension"));
    }
    let value = |digit: &u8| u64::from((*digit as char).to_digit(16).unwrap_or(0));
    Ok(digits.iter().fold(0, |sum, digit| sum << 4 | value(digit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Payload and what is left over, with the input cut in pieces.
    fn read(framing: Framing, input: &[u8], piece: usize) -> Result<(Vec<u8>, usize, bool), Malformed> {
        let (mut body, mut payload, mut total) = (Body::new(framing), Vec::new(), 0);
        for part in input.chunks(piece) {
            let mut rest = part;
            while !body.is_done() && !rest.is_empty() {
                let step = body.step(rest)?;
                payload.extend_from_slice(&rest[step.data]);
                rest = &rest[step.used..];
                total += step.used;
            }
        }
        Ok((payload, input.len() - total, body.is_done()))
    }

    #[test]
    fn any_cut_gives_the_same_payload() {
        let chunked = b"5\r\nhello\r\n00A;x=y\r\n, world...\r\n0\r\nEtag: a\r\n\r\nGET /";
        for piece in 1..chunked.len() {
            let expected = (b"hello, world...".to_vec(), 5, true);
            assert_eq!(read(Framing::Chunked, chunked, piece), Ok(expected));
            assert_eq!(read(Framing::Length(3), b"abcdef", piece), Ok((b"abc".to_vec(), 3, true)));
            assert_eq!(read(Framing::UntilClose, b"abc", piece), Ok((b"abc".to_vec(), 0, false)));
        }
    }

    #[test]
    fn odd_chunks_are_refused_however_they_come() {
        let odd = [
            "5\nhello\r\n",
            "+5\r\nhello\r\n",
            "0x5\r\nhello\r\n",
            " 5\r\nhello\r\n",
            "5 \r\nhello\r\n",
            "\r\nhello",
            "5\r\nhelloX\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "fffffffffffffffff\r\n",
            "5;\x01\r\nhello\r\n",
            "0\r\nContent-Length: 5\r\n\r\n",
            "0\r\n folded\r\n\r\n",
        ];
        for text in odd {
            for piece in 1..=text.len() {
                assert!(read(Framing::Chunked, text.as_bytes(), piece).is_err(), "{text:?} by {piece}");
            }
        }
    }

    #[test]
    fn an_early_end_is_a_truncation_unless_the_close_ends_it() {
        assert!(Body::new(Framing::UntilClose).on_eof());
        assert!(!Body::new(Framing::Length(1)).on_eof() && !Body::new(Framing::Chunked).on_eof());
        assert!(Body::new(Framing::Length(0)).on_eof() && Body::new(Framing::None).on_eof());
    }
}
