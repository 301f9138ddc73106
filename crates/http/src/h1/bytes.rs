//! Classes of bytes, by table, and the scans that heads are made of.

const TOKEN: u8 = 1;
const TARGET: u8 = 2;
const HOST: u8 = 4;
const TEXT: u8 = 8;

const CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = class(byte as u8);
        byte += 1;
    }
    table
}

const fn class(byte: u8) -> u8 {
    let mut class = 0;
    if byte.is_ascii_alphanumeric() || is_token_mark(byte) {
        class |= TOKEN;
    }
    // `#` never belongs to a request target: RFC 9112 3.2 has no form with a fragment.
    if byte.is_ascii_graphic() && byte != b'#' {
        class |= TARGET;
    }
    if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
        class |= HOST;
    }
    if byte == b'\t' || (byte >= b' ' && byte != 0x7f) {
        class |= TEXT;
    }
    class
}

/// RFC 9110 5.6.2: tchar, besides letters and digits.
const fn is_token_mark(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'#'
            | b'$'
            | b'%'
            | b'&'
            | b'\''
            | b'*'
            | b'+'
            | b'-'
            | b'.'
            | b'^'
            | b'_'
            | b'`'
            | b'|'
            | b'~'
    )
}

const fn is(byte: u8, class: u8) -> bool {
    CLASSES[byte as usize] & class != 0
}

pub(super) const fn is_token_byte(byte: u8) -> bool {
    is(byte, TOKEN)
}

pub(super) const fn is_host_byte(byte: u8) -> bool {
    is(byte, HOST)
}

pub(super) const fn is_text_byte(byte: u8) -> bool {
    is(byte, TEXT)
}

pub(super) const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// RFC 9110 5.6.2: one or more tchar.
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| is_token_byte(byte))
}

/// RFC 9110 5.5: no control byte but HTAB, and no blank at either end. Empty is a value.
pub fn is_field_value(bytes: &[u8]) -> bool {
    let ends_blank = |end: Option<&u8>| end.is_some_and(|&byte| is_blank(byte));
    bytes.iter().all(|&byte| is_text_byte(byte)) && !ends_blank(bytes.first()) && !ends_blank(bytes.last())
}

/// Where the token that starts at `at` ends.
pub(super) fn token_end(bytes: &[u8], at: usize) -> usize {
    run_end(bytes, at, TOKEN)
}

/// Where the request target that starts at `at` ends.
pub(super) fn target_end(bytes: &[u8], at: usize) -> usize {
    run_end(bytes, at, TARGET)
}

fn run_end(bytes: &[u8], at: usize, class: u8) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|&byte| !is(byte, class)).unwrap_or(rest.len())
}

pub(super) fn blanks_end(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|&byte| !is_blank(byte)).unwrap_or(rest.len())
}

/// Where `bytes[start..end]` ends without the blanks behind it.
pub(super) fn trimmed_end(bytes: &[u8], start: usize, end: usize) -> usize {
    let text = bytes.get(start..end).unwrap_or_default();
    start + text.iter().rposition(|&byte| !is_blank(byte)).map_or(0, |last| last + 1)
}

/// The first byte at or after `at` that no field value holds: a control byte other than HTAB.
pub(super) fn text_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let controls = controls_in(u64::from_le_bytes(*word));
        if controls == 0 {
            at += 8;
            continue;
        }
        at += controls.trailing_zeros() as usize / 8;
        if bytes.get(at) != Some(&b'\t') {
            return at;
        }
        at += 1;
    }
    run_end(bytes, at, TEXT)
}

const fn all(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The high bit of the lowest control byte (HTAB too) in `word`; bits above it mean nothing.
const fn controls_in(word: u64) -> u64 {
    let below_space = word.wrapping_sub(all(0x20)) & !word;
    let not_delete = word ^ all(0x7f);
    let delete = not_delete.wrapping_sub(all(1)) & !not_delete;
    (below_space | delete) & all(0x80)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_ends_where_a_byte_by_byte_scan_says(
            bytes in prop::collection::vec(prop_oneof![8 => b' '..=0xff_u8, 1 => any::<u8>()], 0..64),
            at in 0..64_usize,
        ) {
            let at = at.min(bytes.len());
            let expected = bytes[at..].iter().position(|&byte| !is_text_byte(byte));
            prop_assert_eq!(text_end(&bytes, at), expected.map_or(bytes.len(), |offset| at + offset));
        }
    }

    #[test]
    fn tokens_and_values() {
        assert!(is_token(b"X-a_b!#$%&'*+.^`|~9"));
        for bad in ["", "a b", "a:", "a\"", "a(", "a/", "\u{e9}", "a\0"] {
            assert!(!is_token(bad.as_bytes()), "{bad:?}");
        }
        assert!(is_field_value(b"") && is_field_value("a\t\u{e9} b".as_bytes()));
        for bad in [" a", "a ", "\ta", "a\r", "a\n", "a\0b", "\x7f"] {
            assert!(!is_field_value(bad.as_bytes()), "{bad:?}");
        }
    }
}
