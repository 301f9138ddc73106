//! A head: lines that end with CR LF, the first of its own kind, then fields, then an empty line.

use super::bytes::{blanks_end, is_blank, is_token_byte, text_end, token_end, trimmed_end};
use super::connection::Connection;
use super::field::{Field, FieldKind};
use super::{Limits, Reject, Span};

/// No field that anybody sends comes near.
const FIELD_NAME_BYTES_MAX: usize = 256;

/// RFC 9112 2.2: a server SHOULD ignore at least one empty line received prior to the request line.
const EMPTY_LINES_MAX: usize = 2;

/// Looks for the empty line that ends a head and returns the head's length with that line. `scanned` remembers how far
/// has been looked: 0 for a new message, and the same `bytes`, only longer, at each call.
///
/// Up to two empty lines in front belong to the head. LF alone ends a line here, though not for the parser, so that a
/// malformed head is answered instead of waited for.
pub fn head_end(bytes: &[u8], scanned: &mut usize) -> Option<usize> {
    let from = leading_lines(bytes).max(*scanned);
    let rest = bytes.get(from..)?;
    let found =
        memchr::memchr_iter(b'\n', rest).map(|offset| from + offset).find(|&at| ends_empty_line(bytes, at));
    *scanned = bytes.len();
    found.map(|at| at + 1)
}

/// Is the line that the LF at `at` ends an empty one?
fn ends_empty_line(bytes: &[u8], at: usize) -> bool {
    match bytes.get(..at) {
        Some([.., b'\n', b'\r'] | [.., b'\n'] | [b'\r'] | []) => true,
        Some(_) | None => false,
    }
}

/// The length of the empty lines before a request line that are put up with.
pub(super) fn leading_lines(bytes: &[u8]) -> usize {
    let mut at = 0;
    for _ in 0..EMPTY_LINES_MAX {
        at += match bytes.get(at..) {
            Some([b'\n', ..]) => 1,
            Some([b'\r', b'\n', ..]) => 2,
            _ => return at,
        };
    }
    at
}

/// What is wrong already with a head of which [`head_end`] has not found the end: it has outgrown its limits, or does not
/// begin as any message does (TLS on a plain port). Waiting for the rest would help nobody.
pub fn hopeless(partial: &[u8], limits: &Limits) -> Option<Reject> {
    let start = leading_lines(partial);
    let line = partial.get(start..).unwrap_or_default();
    match line.first() {
        None | Some(b'\r') => {}
        Some(&first) if !is_token_byte(first) => return Some(Reject::MethodInvalid),
        Some(_) => {}
    }
    let seen = &line[..line.len().min(limits.line_bytes as usize)];
    if seen.len() == limits.line_bytes as usize && !seen.contains(&b'\n') {
        return Some(Reject::TargetTooLong);
    }
    (partial.len() >= limits.head_bytes as usize).then_some(Reject::HeadTooLarge)
}

/// What framing and routing need to know of the fields, gathered as they are read.
#[derive(Default)]
pub(super) struct Seen {
    pub host: Option<Span>,
    pub content_length: Option<Span>,
    pub transfer_encoding: Option<Span>,
    pub upgrade: Option<Span>,
    pub upgrades: u16,
    pub expect: Option<Span>,
    pub connection: Connection,
}

impl Seen {
    fn note(&mut self, head: &[u8], field: &Field) -> Result<(), Reject> {
        match field.kind {
            FieldKind::Host => once(&mut self.host, field, Reject::HostRepeated),
            FieldKind::ContentLength => once(&mut self.content_length, field, Reject::ContentLengthRepeated),
            FieldKind::TransferEncoding => {
                once(&mut self.transfer_encoding, field, Reject::TransferEncodingRepeated)
            }
            FieldKind::Expect => once(&mut self.expect, field, Reject::ExpectUnknown),
            FieldKind::Connection => self.connection.read(field.value.of(head)),
            FieldKind::Upgrade => {
                self.upgrades = self.upgrades.saturating_add(1);
                self.upgrade = Some(field.value);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The protocol to change to: exactly one, with `upgrade` in Connection. A list leaves the choice open, and `h2c` would
    /// carry requests that nobody routed: both are as if not there (RFC 9110 7.8: a server MAY ignore Upgrade).
    pub fn protocol(&self, head: &[u8]) -> Option<Span> {
        let only = self.upgrade.filter(|_| self.upgrades == 1 && self.connection.upgrade)?;
        is_protocol(only.of(head)).then_some(only)
    }
}

/// RFC 9110 7.8: protocol = protocol-name ["/" protocol-version], both tokens.
fn is_protocol(value: &[u8]) -> bool {
    let mut parts = value.splitn(2, |&byte| byte == b'/');
    let tokens = parts.all(super::is_token);
    // RFC 9113 3.1: the h2c token is deprecated.
    tokens && !value.eq_ignore_ascii_case(b"h2c")
}

fn once(slot: &mut Option<Span>, field: &Field, repeated: Reject) -> Result<(), Reject> {
    match slot.replace(field.value) {
        None => Ok(()),
        Some(_) => Err(repeated),
    }
}

/// Reads the fields from `at` to the empty line, which must be the head's last.
pub(super) fn read_fields(
    head: &[u8],
    mut at: usize,
    limits: &Limits,
    fields: &mut Vec<Field>,
) -> Result<Seen, Reject> {
    fields.clear();
    let mut seen = Seen::default();
    while !is_last_line(head, at)? {
        let (field, next) = field_line(head, at)?;
        if next - at > limits.line_bytes as usize {
            return Err(Reject::FieldTooLong);
        }
        if fields.len() == usize::from(limits.fields) {
            return Err(Reject::FieldsTooMany);
        }
        seen.note(head, &field)?;
        fields.push(field);
        at = next;
    }
    seen.connection.mark_nominated(head, fields);
    Ok(seen)
}

fn is_last_line(head: &[u8], at: usize) -> Result<bool, Reject> {
    match head.get(at..) {
        Some(b"\r\n") => Ok(true),
        Some([b'\r', b'\n', ..]) | Some([]) | None => Err(Reject::HeadMalformed),
        Some([b'\n', ..]) => Err(Reject::BareLf),
        Some([b'\r', ..]) => Err(Reject::BareCr),
        Some(_) => Ok(false),
    }
}

/// RFC 9112 5: field-line = field-name ":" OWS field-value OWS. Returns where the next line starts.
pub(super) fn field_line(bytes: &[u8], start: usize) -> Result<(Field, usize), Reject> {
    let name_end = token_end(bytes, start);
    if bytes.get(name_end) != Some(&b':') || name_end == start {
        return Err(bad_name(bytes, start, name_end));
    }
    if name_end - start > FIELD_NAME_BYTES_MAX {
        return Err(Reject::FieldNameTooLong);
    }
    let value_start = blanks_end(bytes, name_end + 1);
    let line_end = text_end(bytes, value_start);
    let next = line_break(bytes, line_end)?;
    let name = Span::new(start, name_end);
    let value = Span::new(value_start, trimmed_end(bytes, value_start, line_end));
    Ok((Field { name, value, kind: FieldKind::of(name.of(bytes)) }, next))
}

fn bad_name(bytes: &[u8], start: usize, end: usize) -> Reject {
    match bytes.get(end) {
        Some(b':') => Reject::FieldNameEmpty,
        // RFC 9112 5.2: no folding, neither in requests nor in responses.
        Some(b' ' | b'\t') if end == start => Reject::FieldFolded,
        // RFC 9112 5.1: a server MUST reject a request with whitespace between the field name and colon.
        Some(&byte) if is_blank(byte) && bytes.get(blanks_end(bytes, end)) == Some(&b':') => {
            Reject::FieldSpaceBeforeColon
        }
        Some(b'\r' | b'\n') => Reject::FieldColonMissing,
        _ => Reject::FieldNameInvalid,
    }
}

/// The start of the line behind the CR LF at `at`.
pub(super) fn line_break(bytes: &[u8], at: usize) -> Result<usize, Reject> {
    match bytes.get(at..) {
        Some([b'\r', b'\n', ..]) => Ok(at + 2),
        // RFC 9112 2.2 lets a recipient take LF alone for a line end; two recipients may then differ.
        Some([b'\n', ..]) => Err(Reject::BareLf),
        Some([b'\r', _, ..]) => Err(Reject::BareCr),
        Some([_, ..]) if bytes.get(at) != Some(&b'\r') => Err(Reject::FieldValueInvalid),
        _ => Err(Reject::HeadMalformed),
    }
}

/// RFC 9110 8.6: Content-Length = 1*DIGIT. No sign, list, blank or leading zero (which somebody may read as octal).
pub(super) fn content_length(value: &[u8]) -> Result<u64, Reject> {
    /// 2^63 has 19 digits, so that no sum below overflows.
    const DIGITS_MAX: usize = 19;
    let plain = !value.is_empty() && value.len() <= DIGITS_MAX && value.iter().all(u8::is_ascii_digit);
    if !plain || (value.len() > 1 && value.first() == Some(&b'0')) {
        return Err(Reject::ContentLengthInvalid);
    }
    let number = value.iter().fold(0, |sum: u64, digit| sum * 10 + u64::from(digit - b'0'));
    i64::try_from(number).map(|_| number).map_err(|_| Reject::ContentLengthInvalid)
}

/// RFC 9112 6.1: of the transfer codings only chunked, once, alone.
pub(super) fn only_chunked(value: &[u8]) -> Result<(), Reject> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut codings: Vec<&[u8]> = super::connection::options(value).collect();
    let chunked_last = codings.pop().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"));
    let others_known =
        codings.iter().all(|coding| super::is_token(coding) && !coding.eq_ignore_ascii_case(b"chunked"));
    // RFC 9112 6.1: a coding that the server does not understand is a 501; anything odd about it is a 400.
    let honest = chunked_last && others_known && !codings.is_empty();
    Err(if honest { Reject::TransferCodingUnknown } else { Reject::TransferEncodingInvalid })
}
