//! The Connection field: what it says of this connection, and which fields it nominates.

use super::bytes::{is_blank, is_token};
use super::field::{Field, FieldKind};
use super::{Reject, Version};

/// Beyond `close`, `keep-alive` and `upgrade`. Each one is looked for among the fields, so that the work is bounded by
/// this times [`super::Limits::fields`].
const NOMINATIONS_MAX: u8 = 16;

#[derive(Default)]
pub(super) struct Connection {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
    pub nominations: u8,
}

impl Connection {
    /// RFC 9110 7.6.1: `Connection = #connection-option`, which are tokens; case does not matter.
    pub fn read(&mut self, value: &[u8]) -> Result<(), Reject> {
        for option in options(value) {
            self.note(option)?;
        }
        Ok(())
    }

    fn note(&mut self, option: &[u8]) -> Result<(), Reject> {
        match Known::of(option) {
            Some(Known::Close) => self.close = true,
            Some(Known::KeepAlive) => self.keep_alive = true,
            Some(Known::Upgrade) => self.upgrade = true,
            None if !is_token(option) => return Err(Reject::ConnectionInvalid),
            None if self.nominations == NOMINATIONS_MAX => return Err(Reject::ConnectionTooMany),
            None => self.nominations += 1,
        }
        Ok(())
    }

    /// RFC 9112 9.3: `close` wins; 1.1 stays open by default, 1.0 only when asked.
    pub fn persists(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }

    /// Marks the fields that Connection nominates for removal, except those that it must not reach
    /// (RFC 9110 7.6.1: a sender MUST NOT nominate a field intended for all recipients of the content).
    pub fn mark_nominated(&self, head: &[u8], fields: &mut [Field]) {
        if self.nominations == 0 {
            return;
        }
        for at in 0..fields.len() {
            let Some(field) = fields.get(at).filter(|field| field.kind == FieldKind::Connection) else {
                continue;
            };
            for name in options(field.value.of(head)).filter(|option| Known::of(option).is_none()) {
                mark(head, fields, name);
            }
        }
    }
}

/// The options that speak of the connection and name no field.
enum Known {
    Close,
    KeepAlive,
    Upgrade,
}

impl Known {
    fn of(option: &[u8]) -> Option<Self> {
        match option.len() {
            5 if option.eq_ignore_ascii_case(b"close") => Some(Self::Close),
            10 if option.eq_ignore_ascii_case(b"keep-alive") => Some(Self::KeepAlive),
            7 if option.eq_ignore_ascii_case(b"upgrade") => Some(Self::Upgrade),
            _ => None,
        }
    }
}

fn mark(head: &[u8], fields: &mut [Field], option: &[u8]) {
    for field in fields {
        let name = field.name.of(head);
        if !field.kind.is_protected() && name.eq_ignore_ascii_case(option) && !is_protected_name(name) {
            field.kind = FieldKind::Nominated;
        }
    }
}

fn is_protected_name(name: &[u8]) -> bool {
    starts_with(name, b"content-") || starts_with(name, b"x-forwarded-")
}

pub(super) fn starts_with(name: &[u8], prefix: &[u8]) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// RFC 9110 5.6.1.2: empty list elements are ignored.
pub(super) fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim).filter(|option| !option.is_empty())
}

fn trim(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && is_blank(*first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && is_blank(*last)
    {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{Limits, Request};

    fn kinds(fields: &str) -> Vec<FieldKind> {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let mut request = Request::default();
        request.parse(head.as_bytes(), &Limits::default()).unwrap();
        request.fields.iter().skip(1).map(|field| field.kind).collect()
    }

    #[test]
    fn nominates_what_it_may() {
        let nominated = kinds("x-a: 1\r\nConnection: close, X-A, Cookie\r\nCookie: b=c\r\nX-A: 2\r\n");
        let expected = [FieldKind::Nominated, FieldKind::Connection, FieldKind::Cookie, FieldKind::Nominated];
        assert_eq!(nominated, expected);
        let namesakes = kinds(
            "Connection: Content-Language, X-Forwarded-User\r\nContent-Language: en\r\nX-Forwarded-User: a\r\n",
        );
        assert_eq!(namesakes, [FieldKind::Connection, FieldKind::Other, FieldKind::Other]);
        assert_eq!(kinds("Connection: TE\r\nTE: trailers\r\n"), [FieldKind::Connection, FieldKind::Te]);
        assert_eq!(kinds("Connection: close\r\nClose: 1\r\n"), [FieldKind::Connection, FieldKind::Other]);
    }
}
