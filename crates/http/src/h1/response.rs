//! A response's head.

use super::bytes::text_end;
use super::field::{Field, FieldKind};
use super::head::{Seen, content_length, line_break, only_chunked, read_fields};
use super::request::version;
use super::{Body, Limits, Method, Reject, Span, Version};

/// What the response answers decides how it is framed (RFC 9112 6.3).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Asked {
    pub method: Method,
    /// The request was sent on with Upgrade, so that a 101 is an answer.
    pub upgrade: bool,
}

/// What a response's head says; reused as [`super::Request`] is.
#[derive(Clone, Default, Debug)]
pub struct Response {
    pub version: Version,
    pub status: u16,
    pub reason: Span,
    pub fields: Vec<Field>,
    /// `None` also when Content-Length is there but the content is not: HEAD, 304.
    pub body: Body,
    pub keep_alive: bool,
    /// The one protocol that Upgrade names, with `Connection: upgrade`. Always there in a 101.
    pub upgrade: Option<Span>,
}

impl Response {
    /// `head` is as long as [`super::head_end`] said.
    pub fn parse(&mut self, head: &[u8], limits: &Limits, asked: &Asked) -> Result<(), Reject> {
        let at = self.read_line(head, limits)?;
        if head.len() > limits.head_bytes as usize {
            return Err(Reject::HeadTooLarge);
        }
        let seen = read_fields(head, at, limits, &mut self.fields)?;
        self.upgrade = seen.protocol(head);
        if self.status == 101 {
            self.check_switching(asked)?;
        }
        self.body = self.frame(head, &seen, asked)?;
        self.keep_alive = seen.connection.persists(self.version) && self.body != Body::UntilClose;
        Ok(())
    }

    pub fn field(&self, kind: FieldKind) -> Option<&Field> {
        self.all(kind).next()
    }

    pub fn all(&self, kind: FieldKind) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(move |field| field.kind == kind)
    }

    /// Another response to the same request follows (RFC 9110 15.2). A 101 is the last one.
    pub const fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    /// RFC 9112 4: status-line = HTTP-version SP status-code SP [ reason-phrase ]. The space before an empty reason may
    /// be missing, as many origins have it.
    fn read_line(&mut self, head: &[u8], limits: &Limits) -> Result<usize, Reject> {
        if matches!(head.first(), Some(b'\r' | b'\n')) {
            return Err(Reject::EmptyLines);
        }
        self.version = version(head, 0)?;
        self.status = status(head.get(8..).unwrap_or_default())?;
        let start = match head.get(12) {
            Some(b' ') => 13,
            Some(b'\r' | b'\n') => 12,
            _ => return Err(Reject::StatusInvalid),
        };
        let end = text_end(head, start);
        let next = line_break(head, end).map_err(|reject| match reject {
            Reject::FieldValueInvalid => Reject::StatusLineInvalid,
            other => other,
        })?;
        if next > limits.line_bytes as usize {
            return Err(Reject::FieldTooLong);
        }
        self.reason = Span::new(start, end);
        Ok(next)
    }

    fn check_switching(&self, asked: &Asked) -> Result<(), Reject> {
        // RFC 9110 7.8: a server MUST NOT switch to a protocol that was not indicated by the client.
        if !asked.upgrade || self.version == Version::Http10 {
            return Err(Reject::SwitchingUnasked);
        }
        self.upgrade.map(|_| ()).ok_or(Reject::SwitchingInvalid)
    }

    /// RFC 9112 6.3.
    fn frame(&self, head: &[u8], seen: &Seen, asked: &Asked) -> Result<Body, Reject> {
        let announced = announced(head, seen, self.version)?;
        let silent = self.status < 200 || self.status == 204;
        // RFC 9110 8.6, RFC 9112 6.1: MUST NOT be sent. A plain 0 does no harm and is common with 204.
        if silent && !matches!(announced, Body::UntilClose | Body::Length(0)) {
            return Err(Reject::LengthForbidden);
        }
        // RFC 9112 6.3: HEAD, 1xx, 204, 304 end with their head; a 2xx to CONNECT turns the connection into a tunnel.
        let tunnel = asked.method == Method::Connect && (200..300).contains(&self.status);
        let bodiless = silent || tunnel || self.status == 304 || asked.method == Method::Head;
        Ok(if bodiless { Body::None } else { announced })
    }
}

fn announced(head: &[u8], seen: &Seen, version: Version) -> Result<Body, Reject> {
    match (seen.transfer_encoding, seen.content_length) {
        (None, None) => Ok(Body::UntilClose),
        (None, Some(length)) => content_length(length.of(head)).map(Body::Length),
        (Some(_), Some(_)) => Err(Reject::LengthConflict),
        // RFC 9112 6.1: such a message's framing is faulty.
        (Some(_), None) if version == Version::Http10 => Err(Reject::TransferEncodingInHttp10),
        (Some(coding), None) => only_chunked(coding.of(head)).map(|()| Body::Chunked),
    }
}

/// `bytes` starts behind the version: SP and three digits.
fn status(bytes: &[u8]) -> Result<u16, Reject> {
    let Some([b' ', digits @ ..]) = bytes.first_chunk::<4>() else { return Err(Reject::StatusLineInvalid) };
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(Reject::StatusInvalid);
    }
    let status = digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    // RFC 9110 15 calls everything outside 100-599 invalid. 600-999 are in use and frame like any final response.
    if status >= 100 { Ok(status) } else { Err(Reject::StatusInvalid) }
}
