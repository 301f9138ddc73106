//! Paths: normal forms stay as they are, and hold nothing that two servers read differently.

use crate::path::{EncodedSlashes, PathRules, Slashes, normalize};

/// The first byte chooses the rules, the rest is the path.
pub fn path(bytes: &[u8]) {
    let Some((choice, path)) = bytes.split_first() else { return };
    let rules = PathRules {
        slashes: [Slashes::Merge, Slashes::Keep, Slashes::Reject][usize::from(choice % 3)],
        encoded_slashes: [EncodedSlashes::Keep, EncodedSlashes::Reject][usize::from(choice / 3 % 2)],
    };
    let mut out = Vec::new();
    let Ok(changed) = normalize(path, &rules, &mut out) else { return };
    let normal = if changed { out.as_slice() } else { path };
    assert_eq!(changed, normal != path, "says so exactly when it changes something");
    assert_eq!(
        normalize(normal, &rules, &mut Vec::new()),
        Ok(false),
        "a normal form is normal: {}",
        normal.escape_ascii()
    );
    assert!(normal.len() <= path.len(), "it never grows");
    if normal != b"*" {
        check_normal(normal, &rules);
    }
}

fn check_normal(path: &[u8], rules: &PathRules) {
    let shown = path.escape_ascii();
    assert!(path.starts_with(b"/"), "{shown}");
    assert!(path.iter().all(|byte| byte.is_ascii_graphic() && !b"#?\\".contains(byte)), "{shown}");
    let segments: Vec<&[u8]> = path[1..].split(|&byte| byte == b'/').collect();
    assert!(!segments.iter().any(|segment| matches!(*segment, b"." | b"..")), "dots are left: {shown}");
    let inner = segments.iter().rev().skip(1);
    assert!(rules.slashes == Slashes::Keep || inner.clone().all(|segment| !segment.is_empty()), "{shown}");
    check_decoded(path, rules);
}

/// A server that decodes everything once, and splits then, finds no dot segment either.
fn check_decoded(path: &[u8], rules: &PathRules) {
    let mut decoded = Vec::new();
    let mut rest = path;
    while let [byte, behind @ ..] = rest {
        rest = behind;
        if *byte == b'%' {
            let digits = str::from_utf8(&rest[..2]).unwrap_or_default();
            assert_eq!(digits, digits.to_uppercase(), "small digits are left");
            let value = u8::from_str_radix(digits, 16).unwrap_or_default();
            assert!(
                value != 0 && !value.is_ascii_alphanumeric() && !b"-._~".contains(&value),
                "%{digits} is left"
            );
            assert!(rules.encoded_slashes == EncodedSlashes::Keep || !b"/\\".contains(&value));
            decoded.push(value);
            rest = &rest[2..];
        } else {
            decoded.push(*byte);
        }
    }
    for segment in decoded.split(|byte| b"/\\".contains(byte)) {
        let name = segment.split(|&byte| byte == b';').next().unwrap_or_default();
        assert!(!matches!(name, b"." | b".."), "hidden dots: {}", path.escape_ascii());
    }
}
