//! Messages on the wire and what is expected of them, from text files under `tests/http/`.
//!
//! ```text
//! # a comment
//! [name of the case, unique in its file]
//! < HEAD                      what a response answers: a method, and `upgrade` if that was asked for (default GET)
//! > GET / HTTP/1.1\r\n        what is sent; several such lines are one text, nothing is put between them
//! = hello                     accepted, with this content (`=` alone: with none)
//! ! host_missing              or refused, with the reason's name
//! @ host=example.com          further facts about an accepted message
//! ```
//! In `>`, `=` and `@` these stand for bytes: `\r \n \t \0 \\ \xHH`, and `{12*text}` for twelve times `text`, which may hold
//! others. A brace that does not start like this is itself. The reason `incomplete` means that the end of the head is waited for.

use anyhow::{Context, Result, bail, ensure};
use std::path::PathBuf;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Case {
    pub name: String,
    /// Of the name, in its file.
    pub line: usize,
    /// As written; empty for requests.
    pub asked: String,
    pub send: Vec<u8>,
    pub want: Want,
    pub facts: Vec<(String, Vec<u8>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// With this content.
    Accept(Vec<u8>),
    /// For this reason.
    Reject(String),
}

impl Default for Want {
    fn default() -> Self {
        Self::Accept(Vec::new())
    }
}

impl Case {
    pub fn fact(&self, key: &str) -> Option<&[u8]> {
        self.facts.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_slice())
    }

    /// Nothing of it may be taken for a message: it is refused, or not whole.
    pub fn is_refused(&self) -> bool {
        matches!(self.want, Want::Reject(_))
    }
}

/// `tests/http/requests.txt`.
pub fn requests() -> Result<Vec<Case>> {
    load("requests.txt")
}

/// `tests/http/responses.txt`.
pub fn responses() -> Result<Vec<Case>> {
    load("responses.txt")
}

fn load(file: &str) -> Result<Vec<Case>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/http").join(file);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    parse(&text).with_context(|| path.display().to_string())
}

pub fn parse(text: &str) -> Result<Vec<Case>> {
    let mut cases: Vec<Case> = Vec::new();
    let mut judged = true;
    for (index, line) in text.lines().enumerate() {
        let at = || format!("line {}", index + 1);
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            ensure!(judged, "{}: the case before has no verdict", at());
            ensure!(cases.iter().all(|case| case.name != name), "{}: [{name}] is there already", at());
            cases.push(Case { name: name.into(), line: index + 1, ..Case::default() });
            judged = false;
        } else if !line.is_empty() && !line.starts_with('#') {
            let case = cases.last_mut().with_context(at)?;
            judged |= read_line(case, line).with_context(at)?;
        }
    }
    ensure!(judged, "the last case has no verdict");
    Ok(cases)
}

/// Was it the verdict?
fn read_line(case: &mut Case, line: &str) -> Result<bool> {
    let (mark, rest) = line.split_at_checked(1).unwrap_or_default();
    let rest = rest.strip_prefix(' ').unwrap_or(rest);
    match mark {
        "<" => case.asked = rest.into(),
        ">" => case.send.extend(unescape(rest)?),
        "=" => case.want = Want::Accept(unescape(rest)?),
        "!" => case.want = Want::Reject(rest.into()),
        "@" => {
            let (key, value) = rest.split_once('=').context("expected key=value")?;
            case.facts.push((key.into(), unescape(value)?));
        }
        _ => bail!("expected one of < > = ! @ in front"),
    }
    Ok(matches!(mark, "=" | "!"))
}

fn unescape(text: &str) -> Result<Vec<u8>> {
    let mut rest = text;
    let mut out = Vec::new();
    while !rest.is_empty() {
        rest = unescape_one(rest, &mut out)?;
    }
    Ok(out)
}

fn unescape_one<'a>(text: &'a str, out: &mut Vec<u8>) -> Result<&'a str> {
    if let Some(rest) = text.strip_prefix('\\') {
        return unescape_byte(rest, out);
    }
    if let Some((times, inner)) = repetition(text) {
        let end = closing_brace(inner).context("an open {n*")?;
        out.extend(unescape(&inner[..end])?.repeat(times));
        return Ok(&inner[end + 1..]);
    }
    let first = text.chars().next().context("nothing")?;
    let (plain, rest) = text.split_at(first.len_utf8());
    out.extend_from_slice(plain.as_bytes());
    Ok(rest)
}

fn unescape_byte<'a>(text: &'a str, out: &mut Vec<u8>) -> Result<&'a str> {
    let (kind, rest) = text.split_at_checked(1).context("\\ at the end")?;
    out.push(match kind {
        "r" => b'\r',
        "n" => b'\n',
        "t" => b'\t',
        "0" => 0,
        "\\" => b'\\',
        "x" => {
            let (digits, rest) = rest.split_at_checked(2).context("\\x without two digits")?;
            out.push(u8::from_str_radix(digits, 16).context("\\x without two digits")?);
            return Ok(rest);
        }
        other => bail!("\\{other} means nothing"),
    });
    Ok(rest)
}

/// Of `{12*text}` the number, and what follows the `*`.
fn repetition(text: &str) -> Option<(usize, &str)> {
    let (digits, inner) = text.strip_prefix('{')?.split_once('*')?;
    Some((digits.parse().ok()?, inner))
}

/// Where the brace that was opened before `inner` is closed.
fn closing_brace(inner: &str) -> Option<usize> {
    let mut open = 1;
    inner.bytes().position(|byte| {
        open += i32::from(byte == b'{') - i32::from(byte == b'}');
        open == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case() {
        let text =
            "# x\n[one]\n< HEAD\n> a\\r\\n{2*b{3*c}}\n> {d}\\\\\\xff\n= \\0\n@ k=v=w\n[two]\n> x\n! bad\n";
        let cases = parse(text).unwrap();
        assert_eq!(cases[0].send, b"a\r\nbcccbccc{d}\\\xff");
        assert_eq!((cases[0].asked.as_str(), cases[0].line), ("HEAD", 2));
        assert_eq!(cases[0].want, Want::Accept(vec![0]));
        assert_eq!(cases[0].fact("k"), Some(&b"v=w"[..]));
        assert_eq!(cases[1].want, Want::Reject("bad".into()));
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, expected) in [
            ("[a]\n> x\n", "no verdict"),
            ("[a]\n=\n[a]\n=\n", "line 3"),
            ("> x\n", "line 1"),
            ("[a]\n> \\q\n=\n", "line 2"),
            ("[a]\n? x\n=\n", "line 2"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_files_are_well_formed() {
        assert!(requests().unwrap().len() >= 150);
        assert!(responses().unwrap().len() >= 80);
    }
}
