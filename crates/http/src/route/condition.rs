//! Conditions on fields and on the query.

use super::Ask;

/// The name in lower case, as [`Ask::header`] is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldMatch {
    pub name: String,
    pub value: ValueMatch,
}

/// One of the query's `name=value` with this name holds; for [`ValueMatch::Absent`], there is none. Names and values are compared
/// as they are meant: percent-decoded, `+` as a space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatch {
    pub name: String,
    pub value: ValueMatch,
}

/// Of bytes, case-sensitive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    Present,
    Absent,
    Exact(String),
    Prefix(String),
}

impl FieldMatch {
    pub(super) fn holds(&self, ask: &Ask) -> bool {
        match (&self.value, (ask.header)(&self.name)) {
            (ValueMatch::Absent, value) => value.is_none(),
            (_, None) => false,
            (ValueMatch::Present, Some(_)) => true,
            (ValueMatch::Exact(text), Some(value)) => value == text.as_bytes(),
            (ValueMatch::Prefix(text), Some(value)) => value.starts_with(text.as_bytes()),
        }
    }
}

impl QueryMatch {
    pub(super) fn holds(&self, query: Option<&[u8]>) -> bool {
        let query = query.unwrap_or_default();
        let pairs = query.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()).map(split_pair);
        let mut values =
            pairs.filter(|(name, _)| decoded(name).eq(self.name.bytes())).map(|(_, value)| value);
        match &self.value {
            ValueMatch::Absent => values.next().is_none(),
            ValueMatch::Present => values.next().is_some(),
            ValueMatch::Exact(text) => values.any(|value| decoded(value).eq(text.bytes())),
            ValueMatch::Prefix(text) => values.any(|value| begins(decoded(value), text.bytes())),
        }
    }
}

fn begins(mut value: impl Iterator<Item = u8>, prefix: impl Iterator<Item = u8>) -> bool {
    prefix.into_iter().all(|byte| value.next() == Some(byte))
}

fn split_pair(pair: &[u8]) -> (&[u8], &[u8]) {
    let (name, value) = pair.split_at(pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len()));
    (name, value.get(1..).unwrap_or_default())
}

/// `+` as a space, `%41` as `A`; a `%` without two digits as itself.
fn decoded(text: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (byte, behind) = decode_first(rest)?;
        rest = behind;
        Some(byte)
    })
}

fn decode_first(text: &[u8]) -> Option<(u8, &[u8])> {
    let (first, behind) = text.split_first()?;
    match (first, behind) {
        (b'+', _) => Some((b' ', behind)),
        (b'%', [high, low, rest @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
            let digit = |byte: &u8| char::from(*byte).to_digit(16).unwrap_or(0) as u8;
            Some((digit(high) << 4 | digit(low), rest))
        }
        _ => Some((*first, behind)),
    }
}
