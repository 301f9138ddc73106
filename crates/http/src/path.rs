//! Paths: the one form that is both routed and forwarded.
//!
//! A route is a decision about a path, and the origin makes its own. Whenever the two read the same bytes differently, a rule
//! in front is no rule behind. So a path is brought to a normal form (RFC 3986 6.2.2), that form is matched, and that
//! form is sent; what no normal form can settle is refused, see [`normalize`].

use crate::h1::Reject;

/// What to do where RFC 3986 leaves two ways.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct PathRules {
    pub slashes: Slashes,
    pub encoded_slashes: EncodedSlashes,
}

/// `//`, which some servers take for `/`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Slashes {
    /// Into one.
    #[default]
    Merge,
    Keep,
    Reject,
}

/// `%2F` and `%5C`, which some servers take for a separator.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum EncodedSlashes {
    /// As part of their segment, still encoded.
    #[default]
    Keep,
    Reject,
}

/// Brings `path` (without its query) to its normal form. `Ok(false)`: it is in it already, and `out` holds nothing of use.
/// `Ok(true)`: `out` holds it, in place of what was there.
///
/// - Percent-encoded unreserved bytes are decoded, the hexadecimal digits of the others become upper case (RFC 3986 6.2.2.1-2).
///   So `%2e%2e` is `..`.
/// - Dot segments are removed (5.2.4); those that lead above the root are refused.
/// - `//` and `%2F` as the rules say.
/// - Refused: control and 8-bit bytes, blanks, `#`, `?`, `\`, a `%` without two digits, `%00`; `.` and `..` next to an encoded
///   slash or backslash (`..%2Fadmin`), and those with a parameter (`..;x`), which become dot segments in servers that
///   decode or strip first.
///
/// `*` (OPTIONS) is normal.
pub fn normalize(path: &[u8], rules: &PathRules, out: &mut Vec<u8>) -> Result<bool, Reject> {
    if is_plain(path) || path == b"*" {
        return Ok(false);
    }
    let Some((b'/', rest)) = path.split_first() else { return Err(Reject::PathInvalid) };
    out.clear();
    let mut segments = rest.split(|&byte| byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        push_segment(segment, segments.peek().is_none(), rules, out)?;
    }
    Ok(out != path)
}

/// Certainly normal: absolute, no `%`, no segment that is empty or starts with a dot.
fn is_plain(path: &[u8]) -> bool {
    let Some((b'/', rest)) = path.split_first() else { return false };
    let mut before = b'/';
    for &byte in rest {
        if SPECIAL[usize::from(byte)] || (before == b'/' && matches!(byte, b'/' | b'.')) {
            return false;
        }
        before = byte;
    }
    true
}

/// Bytes that need a look, or that no path holds.
const SPECIAL: [bool; 256] = {
    let mut table = [true; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        table[byte as usize] = matches!(byte, b'%' | b'\\' | b'#' | b'?');
        byte += 1;
    }
    table
};

fn push_segment(segment: &[u8], last: bool, rules: &PathRules, out: &mut Vec<u8>) -> Result<(), Reject> {
    let start = out.len();
    out.push(b'/');
    push_decoded(segment, rules, out)?;
    match out.get(start + 1..).unwrap_or_default() {
        b"" if !last => repeated_slash(start, rules, out),
        b"." => {
            out.truncate(start);
            end_directory(last, out);
            Ok(())
        }
        b".." => {
            out.truncate(start);
            let parent = out.iter().rposition(|&byte| byte == b'/').ok_or(Reject::PathAboveRoot)?;
            out.truncate(parent);
            end_directory(last, out);
            Ok(())
        }
        decoded if hides_dots(decoded) => Err(Reject::PathHiddenDots),
        _ => Ok(()),
    }
}

fn repeated_slash(start: usize, rules: &PathRules, out: &mut Vec<u8>) -> Result<(), Reject> {
    match rules.slashes {
        Slashes::Merge => out.truncate(start),
        Slashes::Keep => {}
        Slashes::Reject => return Err(Reject::PathSlashes),
    }
    Ok(())
}

/// RFC 3986 5.2.4: a dot segment at the end leaves the slash before it.
fn end_directory(last: bool, out: &mut Vec<u8>) {
    if last {
        out.push(b'/');
    }
}

fn push_decoded(segment: &[u8], rules: &PathRules, out: &mut Vec<u8>) -> Result<(), Reject> {
    let mut rest = segment;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        match byte {
            b'%' => {
                let (encoded, behind) = percent(rest)?;
                push_encoded(encoded, rules, out)?;
                rest = behind;
            }
            b'\\' => return Err(Reject::PathBackslash),
            _ if SPECIAL[usize::from(byte)] => return Err(Reject::PathInvalid),
            _ => out.push(byte),
        }
    }
    Ok(())
}

fn push_encoded(byte: u8, rules: &PathRules, out: &mut Vec<u8>) -> Result<(), Reject> {
    match byte {
        0 => return Err(Reject::PathNul),
        b'/' | b'\\' if rules.encoded_slashes == EncodedSlashes::Reject => {
            return Err(Reject::PathEncodedSlash);
        }
        // RFC 3986 2.3: equivalent, and should be decoded by normalizers.
        b'-' | b'.' | b'_' | b'~' => out.push(byte),
        _ if byte.is_ascii_alphanumeric() => out.push(byte),
        _ => {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            let digit = |nibble: u8| DIGITS[usize::from(nibble & 15)];
            out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte)]);
        }
    }
    Ok(())
}

/// RFC 3986 2.1: pct-encoded = "%" HEXDIG HEXDIG. `rest` is what follows the `%`.
fn percent(rest: &[u8]) -> Result<(u8, &[u8]), Reject> {
    let [high, low, behind @ ..] = rest else { return Err(Reject::PathPercent) };
    let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(Reject::PathPercent);
    let byte = digit(*high)? << 4 | digit(*low)?;
    Ok((byte as u8, behind))
}

/// Would a server that splits at encoded slashes, or drops parameters, find a dot segment in it?
fn hides_dots(segment: &[u8]) -> bool {
    let mut piece = 0;
    let mut at = 0;
    while let Some(rest) = segment.get(at..).filter(|rest| !rest.is_empty()) {
        let separator = encoded_separator(rest);
        if separator > 0 && segment.get(piece..at).is_some_and(is_dots) {
            return true;
        }
        at += separator.max(1);
        piece = if separator > 0 { at } else { piece };
    }
    piece > 0 && segment.get(piece..).is_some_and(is_dots)
}

/// The length of the `;`, `%2F`, `%5C` or `%3B` that `text` starts with; 0 if with none.
fn encoded_separator(text: &[u8]) -> usize {
    match text {
        [b';', ..] => 1,
        [b'%', b'2', b'F', ..] | [b'%', b'5', b'C', ..] | [b'%', b'3', b'B', ..] => 3,
        _ => 0,
    }
}

fn is_dots(piece: &[u8]) -> bool {
    matches!(piece, b"." | b"..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(path: &str) -> Result<String, Reject> {
        normal_by(path, PathRules::default())
    }

    fn normal_by(path: &str, rules: PathRules) -> Result<String, Reject> {
        let mut out = b"left over".to_vec();
        let changed = normalize(path.as_bytes(), &rules, &mut out)?;
        Ok(if changed { String::from_utf8(out).unwrap() } else { path.to_owned() })
    }

    #[test]
    fn normal_forms() {
        for (path, expected) in [
            ("/", "/"),
            ("*", "*"),
            ("/a/b.c/~d", "/a/b.c/~d"),
            ("/.well-known/x", "/.well-known/x"),
            ("/%7euser/%41", "/~user/A"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a/./b/../c", "/a/c"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/.", "/"),
            ("/...", "/..."),
            ("//", "/"),
            ("//a///b//", "/a/b/"),
            ("/a//..", "/"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%252e", "/a%252e"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/a%20b%0d%0a", "/a%20b%0D%0A"),
            ("/{a}|\"<>^`[]", "/{a}|\"<>^`[]"),
        ] {
            assert_eq!(normal(path).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn what_no_normal_form_settles() {
        for (path, expected) in [
            ("", Reject::PathInvalid),
            ("a", Reject::PathInvalid),
            ("**", Reject::PathInvalid),
            ("/a b", Reject::PathInvalid),
            ("/a#b", Reject::PathInvalid),
            ("/a?b", Reject::PathInvalid),
            ("/\u{e9}", Reject::PathInvalid),
            ("/\x7f", Reject::PathInvalid),
            ("/a\\b", Reject::PathBackslash),
            ("/%", Reject::PathPercent),
            ("/%4", Reject::PathPercent),
            ("/%4/", Reject::PathPercent),
            ("/%+1", Reject::PathPercent),
            ("/%u0041", Reject::PathPercent),
            ("/a%00", Reject::PathNul),
            ("/..", Reject::PathAboveRoot),
            ("/a/../../b", Reject::PathAboveRoot),
            ("/%2e%2e/b", Reject::PathAboveRoot),
            ("/a/..%2fadmin", Reject::PathHiddenDots),
            ("/a/x%2f..", Reject::PathHiddenDots),
            ("/a/x%2f%2e%2e%5cb", Reject::PathHiddenDots),
            ("/a/..;/admin", Reject::PathHiddenDots),
            ("/a/.%3bx/admin", Reject::PathHiddenDots),
        ] {
            assert_eq!(normal(path), Err(expected), "{path}");
        }
    }

    #[test]
    fn rules_decide_about_slashes() {
        let keep = PathRules { slashes: Slashes::Keep, ..PathRules::default() };
        assert_eq!(normal_by("//a//b/", keep).as_deref(), Ok("//a//b/"));
        assert_eq!(normal_by("/a//..", keep).as_deref(), Ok("/a/"));
        let strict = PathRules { slashes: Slashes::Reject, encoded_slashes: EncodedSlashes::Reject };
        assert_eq!(normal_by("/a/", strict).as_deref(), Ok("/a/"));
        assert_eq!(normal_by("//a", strict), Err(Reject::PathSlashes));
        assert_eq!(normal_by("/a%2Fb", strict), Err(Reject::PathEncodedSlash));
        assert_eq!(normal_by("/a%5cb", strict), Err(Reject::PathEncodedSlash));
    }
}
