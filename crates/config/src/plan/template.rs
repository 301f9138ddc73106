//! Text with variables, such as `https://{host}{uri}`, parsed once when the configuration is.
//!
//! Owns: the names of the variables, parsing, rendering within [`TEMPLATE_OUT_BYTES_MAX`].
//! Refuses: to know a request; the caller writes a variable's value when asked for it.

use std::fmt;

use crate::diagnostic::Code;
use crate::suggest::nearest;
use crate::value::{ValueError, quote};

/// A template as written.
pub const TEMPLATE_BYTES_MAX: usize = 2_048;
/// What it may come to; see [`Template::render`].
pub const TEMPLATE_OUT_BYTES_MAX: usize = 8_192;
/// So that rendering is bounded whatever the variables hold.
const PARTS_MAX: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Literal(String),
    Variable(Variable),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variable {
    /// As trusted proxies tell it.
    ClientIp,
    ClientPort,
    /// The other end of the connection.
    PeerIp,
    /// With its port, if it came with one.
    Host,
    /// Normalised, without the query.
    Path,
    /// Without the `?`.
    Query,
    /// The path, and `?` with the query if there is one.
    Uri,
    Method,
    /// `http` or `https`, as trusted proxies tell it.
    Scheme,
    RequestId,
    Listener,
    Route,
}

impl Variable {
    pub const ALL: &'static [(&'static str, Variable)] = &[
        ("client_ip", Variable::ClientIp),
        ("client_port", Variable::ClientPort),
        ("peer_ip", Variable::PeerIp),
        ("host", Variable::Host),
        ("path", Variable::Path),
        ("query", Variable::Query),
        ("uri", Variable::Uri),
        ("method", Variable::Method),
        ("scheme", Variable::Scheme),
        ("request_id", Variable::RequestId),
        ("listener", Variable::Listener),
        ("route", Variable::Route),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, one)| *one == self).map_or("", |(name, _)| name)
    }
}

impl Template {
    /// `{name}` is a variable, `{{` and `}}` are braces.
    pub fn parse(text: &str) -> Result<Template, ValueError> {
        let bad = |message: String| ValueError::new(Code::BadTemplate, message);
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(bad(format!("longer than {TEMPLATE_BYTES_MAX} bytes")));
        }
        if let Some(c) = text.chars().find(|c| c.is_control()) {
            return Err(bad(format!(
                "{} contains the control character '{}'",
                quote(text),
                c.escape_debug()
            )));
        }
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            literal.push_str(before);
            rest = if let Some(tail) = brace.strip_prefix("{{") {
                literal.push('{');
                tail
            } else if let Some(tail) = brace.strip_prefix("}}") {
                literal.push('}');
                tail
            } else {
                let (name, tail) =
                    brace.strip_prefix('{').and_then(|inner| inner.split_once('}')).ok_or_else(|| {
                        bad(format!("{} has a brace without its partner", quote(text)))
                            .help("write {name} for a variable, {{ or }} for a brace")
                    })?;
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal)));
                }
                parts.push(Part::Variable(variable(name)?));
                tail
            };
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        if parts.len() > PARTS_MAX {
            return Err(bad(format!("{} has more than {PARTS_MAX} parts", quote(text))));
        }
        Ok(Template { parts })
    }

    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The whole text, when there is no variable in it.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Appends the text to `out`; `value` appends a variable's value. `false`, and `out` as it was, when
    /// that is more than [`TEMPLATE_OUT_BYTES_MAX`].
    #[must_use]
    pub fn render(&self, out: &mut Vec<u8>, mut value: impl FnMut(Variable, &mut Vec<u8>)) -> bool {
        let start = out.len();
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Part::Variable(variable) => value(*variable, out),
            }
            if out.len().saturating_sub(start) > TEMPLATE_OUT_BYTES_MAX {
                out.truncate(start);
                return false;
            }
        }
        true
    }
}

fn variable(name: &str) -> Result<Variable, ValueError> {
    if let Some((_, variable)) = Variable::ALL.iter().find(|(known, _)| *known == name) {
        return Ok(*variable);
    }
    let error = ValueError::new(Code::BadTemplate, format!("there is no variable {}", quote(name)));
    Err(match nearest(name, Variable::ALL.iter().map(|(name, _)| *name)) {
        Some(near) => error.help(format!("did you mean {{{near}}}? For a brace write {{{{")),
        None => {
            let names: Vec<&str> = Variable::ALL.iter().map(|(name, _)| *name).collect();
            error.help(format!("variables: {}; for a brace write {{{{", names.join(", ")))
        }
    })
}

/// As it is written.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Literal(text) => f.write_str(&text.replace('{', "{{").replace('}', "}}"))?,
                Part::Variable(variable) => write!(f, "{{{}}}", variable.name())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let mut out = Vec::new();
        assert!(Template::parse(text).unwrap().render(&mut out, |variable, out| {
            out.extend_from_slice(variable.name().to_uppercase().as_bytes());
        }));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn variables_and_braces() {
        assert_eq!(shown("https://{host}{uri}"), "https://HOSTURI");
        assert_eq!(shown("{{{host}}}"), "{HOST}");
        assert_eq!(shown(""), "");
        assert_eq!(shown("a}}b"), "a}b");
    }

    #[test]
    fn what_is_written_is_what_is_shown() {
        for text in ["https://{host}{uri}", "{{a}} {client_ip}", "plain", ""] {
            assert_eq!(Template::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn mistakes_are_named() {
        let said = |text: &str| Template::parse(text).unwrap_err().to_string();
        assert!(said("{hots}").contains("did you mean {host}?"), "{}", said("{hots}"));
        assert!(said("a{b").contains("without its partner"));
        assert!(said("a}b").contains("without its partner"));
        assert!(said("a\nb").contains("control character"));
        assert!(said(&"{host}".repeat(33)).contains("more than 32 parts"));
        assert!(said(&"x".repeat(TEMPLATE_BYTES_MAX + 1)).contains("longer than"));
    }

    #[test]
    fn an_endless_value_is_not_written() {
        let mut out = b"before".to_vec();
        let template = Template::parse("x{host}{path}").unwrap();
        let fits =
            template.render(&mut out, |_, out| out.resize(out.len() + TEMPLATE_OUT_BYTES_MAX / 2, b'a'));
        assert!(!fits);
        assert_eq!(out, b"before");
    }
}
