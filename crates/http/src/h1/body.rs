//! A message's body: which of the received bytes are its data, and where it ends.
//!
//! Data stays where it was received; framing is cut out. Only when several chunks lie in one piece of input are the later
//! ones moved to the first, so that the data is one range.
//!
//! ```text
//! Size -> [Extension ..] -> SizeLf -> Data -> DataCr -> DataLf -> Size
//!                              \ (size 0)
//!                               -> LastLine -> LastLf -> Done      no trailers: nothing is allocated
//!                                      \-> Trailers -> Done
//! ```

use super::bytes::{is_blank, is_text_byte, is_token_byte};
use super::connection::starts_with;
use super::head::field_line;
use super::{Body, FieldKind, Limits, Reject, encode};
use std::ops::Range;

/// 16 digits hold any 64-bit size, leading zeros included.
const SIZE_DIGITS_MAX: u8 = 16;

/// How many bytes of chunk extensions may come beyond 16 per chunk and 2 per byte of data, summed over a message: honest
/// encoders never get there, extensions that are sent to keep a reader busy do.
const EXCESS_BYTES_MAX: u32 = 16 << 10;
const EXTENSION_BYTES_FREE: u32 = 16;

#[derive(Debug)]
pub struct BodyReader {
    state: State,
    /// See [`EXCESS_BYTES_MAX`].
    excess: u32,
    trailers: Option<Box<Trailers>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Done,
    Failed(Reject),
    Length(u64),
    UntilClose,
    Size { value: u64, digits: u8 },
    Extension { size: u64, part: Part },
    SizeLf { size: u64 },
    Data(u64),
    DataCr,
    DataLf,
    LastLine,
    LastLf,
    Trailers,
}

/// RFC 9112 7.1.1: chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] ).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    /// Blanks behind the size or a value: only `;` may follow.
    BlankBehind,
    BeforeName,
    Name,
    BlankBehindName,
    BeforeValue,
    Value,
    Quoted,
    Escaped,
    QuoteClosed,
}

#[derive(Default, Debug)]
struct Trailers {
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// Lines to send on.
    kept: Vec<u8>,
    /// Everything received, against [`Limits::trailer_bytes`].
    bytes: u32,
    fields: u16,
}

/// One per message in flight.
const _: () = assert!(size_of::<BodyReader>() <= 40);

/// What one call of [`BodyReader::decode`] found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// The payload in `bytes`.
    pub data: Range<usize>,
    /// How many of `bytes` belong to this message; the rest is the next one's.
    pub used: usize,
    pub done: bool,
}

impl BodyReader {
    pub const fn new(body: Body) -> Self {
        let state = match body {
            Body::None | Body::Length(0) => State::Done,
            Body::Length(length) => State::Length(length),
            Body::UntilClose => State::UntilClose,
            Body::Chunked => State::Size { value: 0, digits: 0 },
        };
        Self { state, excess: 0, trailers: None }
    }

    /// Takes as much of `bytes` as belongs to this message. A [`Reject`] is final: every later call returns it again.
    pub fn decode(&mut self, bytes: &mut [u8], limits: &Limits) -> Result<Decoded, Reject> {
        let decoded = match self.state {
            State::Done => Ok(Decoded { data: 0..0, used: 0, done: true }),
            State::Failed(reject) => Err(reject),
            State::Length(left) => Ok(self.take_length(left, bytes.len())),
            State::UntilClose => Ok(Decoded { data: 0..bytes.len(), used: bytes.len(), done: false }),
            _ => self.take_chunks(bytes, limits),
        };
        decoded.inspect_err(|reject| self.state = State::Failed(*reject))
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The peer has sent FIN: the end of a body that lasts until then, else the message is truncated (RFC 9112 8).
    pub fn on_eof(&mut self) -> Result<(), Reject> {
        match self.state {
            State::Done => {}
            State::UntilClose => self.state = State::Done,
            State::Failed(reject) => return Err(reject),
            _ => {
                self.state = State::Failed(Reject::BodyTruncated);
                return Err(Reject::BodyTruncated);
            }
        }
        Ok(())
    }

    /// Validated lines (`name: value` CR LF) for [`encode::last_chunk`], once the body is done. Fields that frame, route,
    /// authenticate or steer are dropped (RFC 9110 6.5.1).
    pub fn trailers(&self) -> &[u8] {
        self.trailers.as_ref().filter(|_| self.is_done()).map_or(&[], |trailers| &trailers.kept)
    }

    /// How many bytes of data are to come, if that is known.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Done => Some(0),
            State::Length(left) => Some(left),
            _ => None,
        }
    }

    fn take_length(&mut self, left: u64, available: usize) -> Decoded {
        let used = usize::try_from(left).map_or(available, |left| left.min(available));
        let left = left - used as u64;
        self.state = if left == 0 { State::Done } else { State::Length(left) };
        Decoded { data: 0..used, used, done: left == 0 }
    }

    fn take_chunks(&mut self, bytes: &mut [u8], limits: &Limits) -> Result<Decoded, Reject> {
        let mut data = 0..0;
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            match self.state {
                State::Data(left) => at += self.take_data(left, at, bytes, &mut data),
                State::Trailers => at += self.take_trailers(bytes.get(at..).unwrap_or_default(), limits)?,
                _ => at += self.take_framing(bytes.get(at..).unwrap_or_default())?,
            }
        }
        Ok(Decoded { data, used: at, done: self.state == State::Done })
    }

    fn take_data(&mut self, left: u64, at: usize, bytes: &mut [u8], data: &mut Range<usize>) -> usize {
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
        if data.start == data.end {
            *data = at..at;
        }
        if data.end != at {
            bytes.copy_within(at..at + taken, data.end);
        }
        data.end += taken;
        // A chunk of data pays for extensions, see EXCESS_BYTES_MAX.
        self.excess = self.excess.saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX).saturating_mul(2));
        let left = left - taken as u64;
        self.state = if left == 0 { State::DataCr } else { State::Data(left) };
        taken
    }

    /// Steps through framing up to data, trailers, the end, or the end of `bytes`.
    fn take_framing(&mut self, bytes: &[u8]) -> Result<usize, Reject> {
        for (at, &byte) in bytes.iter().enumerate() {
            match self.state {
                State::Data(_) | State::Trailers | State::Done => return Ok(at),
                // The first byte of a trailer line is read again as part of it.
                State::LastLine if byte != b'\r' => {
                    self.state = State::Trailers;
                    self.trailers = Some(Box::default());
                    return Ok(at);
                }
                state => self.state = self.step(state, byte)?,
            }
        }
        Ok(bytes.len())
    }

    fn step(&mut self, state: State, byte: u8) -> Result<State, Reject> {
        match state {
            State::Size { value, digits } => self.step_size(value, digits, byte),
            State::Extension { size, part } => {
                self.count_excess()?;
                step_extension(size, part, byte)
            }
            State::SizeLf { size } => match (byte, size) {
                (b'\n', 0) => Ok(State::LastLine),
                (b'\n', size) => {
                    self.excess = self.excess.saturating_sub(EXTENSION_BYTES_FREE);
                    Ok(State::Data(size))
                }
                _ => Err(Reject::ChunkLineEnd),
            },
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataLf if byte == b'\n' => Ok(State::Size { value: 0, digits: 0 }),
            State::DataCr | State::DataLf => Err(Reject::ChunkDataEnd),
            State::LastLine => Ok(State::LastLf),
            State::LastLf if byte == b'\n' => Ok(State::Done),
            State::LastLf => Err(Reject::BareCr),
            _ => Ok(state),
        }
    }

    /// RFC 9112 7.1: chunk-size = 1*HEXDIG.
    fn step_size(&mut self, value: u64, digits: u8, byte: u8) -> Result<State, Reject> {
        let Some(digit) = hex(byte) else { return self.end_size(value, digits, byte) };
        // RFC 9112 7.1: recipients MUST anticipate large numerals and prevent overflow. Beyond 63 bits somebody's sign starts.
        if digits == SIZE_DIGITS_MAX || value >= 1 << 59 {
            return Err(Reject::ChunkSizeTooLarge);
        }
        Ok(State::Size { value: value << 4 | u64::from(digit), digits: digits + 1 })
    }

    fn end_size(&mut self, size: u64, digits: u8, byte: u8) -> Result<State, Reject> {
        match byte {
            _ if digits == 0 => Err(Reject::ChunkSizeInvalid),
            b'\r' => Ok(State::SizeLf { size }),
            b'\n' => Err(Reject::ChunkLineEnd),
            b';' => Ok(State::Extension { size, part: Part::BeforeName }),
            b' ' | b'\t' => Ok(State::Extension { size, part: Part::BlankBehind }),
            _ => Err(Reject::ChunkSizeInvalid),
        }
    }

    fn count_excess(&mut self) -> Result<(), Reject> {
        self.excess += 1;
        if self.excess > EXCESS_BYTES_MAX + EXTENSION_BYTES_FREE {
            Err(Reject::ChunkExtensionTooLong)
        } else {
            Ok(())
        }
    }

    fn take_trailers(&mut self, bytes: &[u8], limits: &Limits) -> Result<usize, Reject> {
        let trailers = self.trailers.get_or_insert_default();
        let taken = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
        trailers.bytes = trailers.bytes.saturating_add(u32::try_from(taken).unwrap_or(u32::MAX));
        if trailers.bytes > limits.trailer_bytes {
            return Err(Reject::TrailersTooLarge);
        }
        trailers.line.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        if trailers.line.ends_with(b"\n") && trailers.end_line(limits)? {
            self.state = State::Done;
        }
        Ok(taken)
    }
}

impl Trailers {
    /// Is it the empty line that ends them?
    fn end_line(&mut self, limits: &Limits) -> Result<bool, Reject> {
        match self.line.as_slice() {
            b"\r\n" => return Ok(true),
            b"\n" => return Err(Reject::BareLf),
            [b'\r', ..] => return Err(Reject::BareCr),
            _ => {}
        }
        let (field, _) = field_line(&self.line, 0)?;
        if self.fields == limits.fields {
            return Err(Reject::FieldsTooMany);
        }
        self.fields += 1;
        let name = field.name.of(&self.line);
        if is_trailer(name, field.kind) {
            encode::field(name, field.value.of(&self.line), &mut self.kept);
        }
        self.line.clear();
        Ok(false)
    }
}

/// RFC 9110 6.5.1: a sender MUST NOT generate trailer fields necessary for framing, routing, modifiers, authentication or
/// content format. Everything that has a meaning of its own is taken for such.
fn is_trailer(name: &[u8], kind: FieldKind) -> bool {
    const NEVER: [&[u8]; 4] = [b"content-", b"x-forwarded-", b"if-", b"proxy-"];
    kind == FieldKind::Other && !NEVER.iter().any(|prefix| starts_with(name, prefix))
}

fn step_extension(size: u64, part: Part, byte: u8) -> Result<State, Reject> {
    match (next_part(part, byte), byte) {
        (Some(part), _) => Ok(State::Extension { size, part }),
        (None, b'\r') if matches!(part, Part::Name | Part::Value | Part::QuoteClosed) => {
            Ok(State::SizeLf { size })
        }
        (None, b'\n') => Err(Reject::ChunkLineEnd),
        _ => Err(Reject::ChunkExtensionInvalid),
    }
}

fn next_part(part: Part, byte: u8) -> Option<Part> {
    let token = is_token_byte(byte);
    let blank = is_blank(byte);
    match part {
        Part::BlankBehind if blank => Some(Part::BlankBehind),
        Part::BeforeName if blank => Some(Part::BeforeName),
        Part::BeforeName | Part::Name if token => Some(Part::Name),
        Part::Name | Part::BlankBehindName if blank => Some(Part::BlankBehindName),
        Part::Name | Part::BlankBehindName if byte == b'=' => Some(Part::BeforeValue),
        Part::BeforeValue if blank => Some(Part::BeforeValue),
        Part::BeforeValue if byte == b'"' => Some(Part::Quoted),
        Part::BeforeValue | Part::Value if token => Some(Part::Value),
        Part::Value | Part::QuoteClosed if blank => Some(Part::BlankBehind),
        Part::Quoted if byte == b'"' => Some(Part::QuoteClosed),
        Part::Quoted if byte == b'\\' => Some(Part::Escaped),
        Part::Quoted | Part::Escaped if is_text_byte(byte) => Some(Part::Quoted),
        Part::BeforeName | Part::BeforeValue | Part::Quoted | Part::Escaped => None,
        _ if byte == b';' => Some(Part::BeforeName),
        _ => None,
    }
}

const fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}
