//! Chunked bodies: the same in any pieces, the same as a plain reading of RFC 9112 7.1 finds, and the same once written anew.

use super::Choices;
use crate::h1::{self, Body, BodyReader, Limits, Reject, encode};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Message {
    data: Vec<u8>,
    trailers: Vec<u8>,
    used: usize,
    done: bool,
}

/// The first eight bytes choose the pieces, the rest is the body.
pub fn body(bytes: &[u8]) {
    let (choices, body) = bytes.split_at(bytes.len().min(8));
    let whole = read(body, &wide(), |_| body.len());
    let mut pieces = Choices(choices);
    let lengths: Vec<usize> = (0..8).map(|_| 1 + pieces.below(32)).collect();
    assert_eq!(
        read(body, &wide(), |piece| lengths[piece % lengths.len()]),
        whole,
        "in pieces of {lengths:?}"
    );
    compare_with_reference(body, &whole);
    if let Ok(message) = &whole
        && message.done
    {
        check_rewritten(message, &lengths);
    }
}

fn read(body: &[u8], limits: &Limits, length: impl Fn(usize) -> usize) -> Result<Message, Reject> {
    let mut reader = BodyReader::new(Body::Chunked);
    let mut message = Message::default();
    let mut rest = body;
    for piece in 0.. {
        if rest.is_empty() || reader.is_done() {
            break;
        }
        let (now, later) = rest.split_at(length(piece).clamp(1, rest.len()));
        let mut now = now.to_vec();
        let before = now.len();
        let decoded = match reader.decode(&mut now, limits) {
            Ok(decoded) => decoded,
            Err(reject) => {
                assert_eq!(reader.decode(&mut now, limits), Err(reject), "a reject is final");
                return Err(reject);
            }
        };
        assert!(decoded.data.start <= decoded.data.end && decoded.data.end <= decoded.used);
        assert!(decoded.used == before || decoded.done, "bytes are left over before the end");
        assert_eq!(decoded.done, reader.is_done());
        message.data.extend_from_slice(&now[decoded.data]);
        message.used += decoded.used;
        rest = later;
    }
    message.done = reader.is_done();
    message.trailers = reader.trailers().to_vec();
    assert_eq!(reader.on_eof().is_ok(), message.done, "only a whole body may end");
    Ok(message)
}

/// The reference knows no limit on the number of trailer fields.
fn wide() -> Limits {
    Limits { fields: u16::MAX, ..Limits::default() }
}

/// A large body runs into limits that the reference does not have.
const COMPARED_BYTES_MAX: usize = 1 << 10;

fn compare_with_reference(body: &[u8], found: &Result<Message, Reject>) {
    if body.len() > COMPARED_BYTES_MAX {
        return;
    }
    let (data, used) = match reference(body) {
        Some((data, rest)) => (data, body.len() - rest.len()),
        None => {
            assert!(
                !found.as_ref().is_ok_and(|message| message.done),
                "the reference refuses it or waits for more"
            );
            return;
        }
    };
    let found = found.as_ref().map(|message| (message.done, &message.data, message.used));
    assert_eq!(found, Ok((true, &data, used)), "the reference accepts it");
}

/// The whole body's data and what follows it; nothing if it is invalid or not whole.
fn reference(mut body: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut data = Vec::new();
    loop {
        let (line, rest) = cut_line(body)?;
        let size = reference_size(line)?;
        if size == 0 {
            return reference_trailers(rest).map(|rest| (data, rest));
        }
        let (chunk, rest) = rest.split_at_checked(usize::try_from(size).ok()?)?;
        data.extend_from_slice(chunk);
        body = rest.strip_prefix(b"\r\n")?;
    }
}

fn cut_line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&text[..end], &text[end + 2..]))
}

fn reference_size(line: &[u8]) -> Option<u64> {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, extensions) = line.split_at(end);
    let size = u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    (digits.len() <= 16 && size < 1 << 63 && reference_extensions(extensions)).then_some(size)
}

/// RFC 9112 7.1.1, by recursive descent.
fn reference_extensions(text: &[u8]) -> bool {
    if text.is_empty() {
        return true;
    }
    let Some(text) = blank(text).strip_prefix(b";") else { return false };
    let Some(text) = token(blank(text)) else { return false };
    let Some(value) = blank(text).strip_prefix(b"=") else { return reference_extensions(text) };
    token(blank(value)).or_else(|| quoted(blank(value))).is_some_and(reference_extensions)
}

fn blank(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|byte| !b" \t".contains(byte)).unwrap_or(text.len());
    &text[end..]
}

fn token(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|&byte| !h1::is_token(&[byte])).unwrap_or(text.len());
    (end > 0).then(|| &text[end..])
}

fn quoted(text: &[u8]) -> Option<&[u8]> {
    let mut text = text.strip_prefix(b"\"")?;
    loop {
        text = match text {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', escaped, rest @ ..] if is_text(*escaped) => rest,
            [byte, rest @ ..] if is_text(*byte) && *byte != b'\\' => rest,
            _ => return None,
        }
    }
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

fn reference_trailers(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        let (line, rest) = cut_line(text)?;
        if line.is_empty() {
            return Some(rest);
        }
        let colon = line.iter().position(|&byte| byte == b':')?;
        let (name, value) = line.split_at(colon);
        if !h1::is_token(name) || name.len() > 256 || !value.iter().all(|&byte| is_text(byte)) {
            return None;
        }
        text = rest;
    }
}

fn check_rewritten(message: &Message, lengths: &[usize]) {
    let mut written = Vec::new();
    let mut rest = message.data.as_slice();
    for length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, later) = rest.split_at((*length).min(rest.len()));
        encode::chunk_head(chunk.len(), &mut written);
        written.extend_from_slice(chunk);
        written.extend_from_slice(encode::CHUNK_END);
        rest = later;
    }
    encode::last_chunk(&message.trailers, &mut written);
    let used = written.len();
    // Trailers may be longer than they came: a blank behind each colon.
    let limits = Limits { trailer_bytes: 2 * wide().trailer_bytes, ..wide() };
    assert_eq!(read(&written, &limits, |_| used), Ok(Message { used, ..message.clone() }), "written anew");
}
