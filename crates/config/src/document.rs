//! One tree for both notations, every node with its place in the text.
//!
//! Owns: the neutral [`Node`], and its making from TOML and from JSON.
//! Refuses: nothing but broken syntax; what a key means is the schema's business.
//! Driven by: [`parse`](crate::parse); command-line flags build the same tree by hand.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Code, DIAGNOSTICS_KEPT_MAX, Diagnostic, Diagnostics, Place};
use crate::value::quote;

/// The deepest in the schema are a listener's route's conditions and header changes; what is deeper is not looked into.
const DEPTH_MAX: usize = 8;
/// Longer lists are cut, which the schema reports: every list has a smaller limit of its own.
const ITEMS_MAX: usize = 65_536;
/// Only lines shorter than this get the advice to put quotes.
const LINE_BYTES_MAX: usize = 512;

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(String),
    /// `None`: a whole number that does not fit.
    Integer(Option<i128>),
    Float,
    Bool(bool),
    Date,
    Null,
    List(Vec<Node>),
    Table(Vec<Entry>),
    TooDeep,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: String,
    pub key_place: Place,
    pub node: Node,
}

impl Node {
    pub(crate) fn text(place: Place, text: &str) -> Node {
        Node { place, value: Value::Text(text.to_owned()) }
    }
}

impl Value {
    /// What it is, for "expected …, found …".
    pub(crate) fn noun(&self) -> &'static str {
        match self {
            Value::Text(_) => "a string",
            Value::Integer(_) => "a number",
            Value::Float => "a number with a fraction or an exponent",
            Value::Bool(_) => "true or false",
            Value::Date => "a date",
            Value::Null => "null",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
            Value::TooDeep => "nested lists or tables",
        }
    }
}

/// Reads TOML, or JSON when the first byte that is no space is `{`. All syntax errors go to `found`;
/// what could be read in spite of them is returned, so that other mistakes are reported as well.
pub(crate) fn read(text: &str, found: &mut Diagnostics) -> Vec<Entry> {
    // A byte order mark is legal and means nothing; both parsers see the same offsets without it.
    let body = text.strip_prefix('\u{feff}').unwrap_or(text);
    let skipped = text.len() - body.len();
    if body.trim_start().starts_with('{') {
        read_json(body, skipped, found)
    } else {
        read_toml(body, skipped, found)
    }
}

fn read_toml(body: &str, skipped: usize, found: &mut Diagnostics) -> Vec<Entry> {
    let (table, errors) = DeTable::parse_recoverable(body);
    // What will not be kept is only counted: a line of four million faults must not be walked for each.
    for error in errors.iter().take(DIAGNOSTICS_KEPT_MAX) {
        found.push(toml_error(error, body, skipped));
    }
    found.count_errors(errors.len().saturating_sub(DIAGNOSTICS_KEPT_MAX));
    toml_entries(table.into_inner(), skipped, 0)
}

fn toml_error(error: &toml::de::Error, body: &str, skipped: usize) -> Diagnostic {
    let span = error.span().unwrap_or(0..0);
    let place = error.span().map_or(Place::Whole, |span| shift(span, skipped));
    let what = error.message().trim_end_matches(", expected nothing");
    if what == "duplicate key" {
        let key = quote(body.get(span).unwrap_or(""));
        return Diagnostic::error(
            Code::Syntax,
            &place,
            "",
            format!("TOML syntax: {key} is here for the second time"),
        )
        .help("keep one of the two");
    }
    let diagnostic = Diagnostic::error(Code::Syntax, &place, "", format!("TOML syntax: {what}"));
    match body.get(..span.start).and_then(|before| unquoted(body, before)) {
        Some(help) => diagnostic.help(help),
        None => diagnostic,
    }
}

/// `None` when the line is longer than anything a person would mend by quotes.
fn line_start(before: &str) -> Option<usize> {
    let tail = before.len().saturating_sub(LINE_BYTES_MAX);
    let newline = before.as_bytes().get(tail..)?.iter().rposition(|byte| *byte == b'\n');
    newline.map(|at| tail + at + 1).or_else(|| (tail == 0).then_some(0))
}

/// Most broken lines are a string without quotes. `before` is the text up to the place of the error.
fn unquoted(body: &str, before: &str) -> Option<String> {
    let start = line_start(before)?;
    let line = body.get(start..)?.lines().next().filter(|line| line.len() <= LINE_BYTES_MAX)?;
    let (key, value) = line.split_once('=')?;
    let (key, value) = (key.trim(), value.split('#').next().unwrap_or("").trim());
    if value.is_empty() {
        return Some(format!("`{key}` has no value"));
    }
    let bare = !value.starts_with(['"', '\'', '[', '{']) && !value.contains(['"', '\\']);
    bare.then(|| format!("strings need quotes: {key} = {}", quote(value)))
}

fn toml_entries(table: DeTable<'_>, skipped: usize, depth: usize) -> Vec<Entry> {
    let entry =
        |(key, value): (toml::Spanned<std::borrow::Cow<'_, str>>, toml::Spanned<DeValue<'_>>)| Entry {
            key_place: shift(key.span(), skipped),
            key: key.into_inner().into_owned(),
            node: toml_node(value, skipped, depth + 1),
        };
    table.into_iter().map(entry).collect()
}

fn toml_node(value: toml::Spanned<DeValue<'_>>, skipped: usize, depth: usize) -> Node {
    let place = shift(value.span(), skipped);
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(int) => Value::Integer(i128::from_str_radix(int.as_str(), int.radix()).ok()),
        DeValue::Float(_) => Value::Float,
        DeValue::Boolean(is) => Value::Bool(is),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(_) | DeValue::Table(_) if depth >= DEPTH_MAX => Value::TooDeep,
        DeValue::Array(items) => Value::List(
            items.into_iter().take(ITEMS_MAX).map(|item| toml_node(item, skipped, depth + 1)).collect(),
        ),
        DeValue::Table(table) => Value::Table(toml_entries(table, skipped, depth)),
    };
    Node { place, value }
}

fn shift(span: Range<usize>, skipped: usize) -> Place {
    Place::Span(span.start + skipped..span.end + skipped)
}

fn read_json(body: &str, skipped: usize, found: &mut Diagnostics) -> Vec<Entry> {
    let raw = match serde_json::from_str::<&RawValue>(body) {
        Ok(raw) => raw,
        Err(error) => {
            let at = offset_of(body, error.line(), error.column());
            push_json_error(&error, shift(at..at, skipped), found);
            return Vec::new();
        }
    };
    match (Json { body, skipped, found }).node(raw.get(), 0).value {
        Value::Table(entries) => entries,
        _ => Vec::new(),
    }
}

/// serde_json counts lines from 1 and columns in bytes, the offending byte included.
fn offset_of(body: &str, line: usize, column: usize) -> usize {
    let mut lines = body.split_inclusive('\n');
    let before: usize = lines.by_ref().take(line.saturating_sub(1)).map(str::len).sum();
    // A text that ends too early is shown where it ends, not on the empty line after it.
    (before + column.saturating_sub(1)).min(body.trim_end().len().saturating_sub(1))
}

fn push_json_error(error: &serde_json::Error, place: Place, found: &mut Diagnostics) {
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what);
    let message = message.replace("EOF while", "the text ends while");
    found.push(Diagnostic::error(Code::Syntax, &place, "", format!("JSON syntax: {message}")));
}

/// Reads level by level: every value is first taken as a slice of the text, and where the slice
/// lies in the text is its place. `serde_json` alone would not tell.
struct Json<'a> {
    body: &'a str,
    skipped: usize,
    found: &'a mut Diagnostics,
}

impl<'a> Json<'a> {
    fn span(&self, raw: &str) -> Range<usize> {
        let start = (raw.as_ptr() as usize).saturating_sub(self.body.as_ptr() as usize);
        start..start + raw.len()
    }

    fn node(&mut self, raw: &'a str, depth: usize) -> Node {
        let place = shift(self.span(raw), self.skipped);
        let value = match raw.bytes().next() {
            Some(b'{' | b'[') if depth >= DEPTH_MAX => Value::TooDeep,
            Some(b'{') => self.table(raw, &place, depth),
            Some(b'[') => self.list(raw, &place, depth),
            Some(b'"') => match serde_json::from_str::<String>(raw) {
                Ok(text) => Value::Text(text),
                Err(error) => self.broken(&error, &place),
            },
            Some(first @ (b't' | b'f')) => Value::Bool(first == b't'),
            Some(b'n') | None => Value::Null,
            Some(_) if raw.contains(['.', 'e', 'E']) => Value::Float,
            Some(_) => Value::Integer(raw.parse().ok()),
        };
        Node { place, value }
    }

    fn broken(&mut self, error: &serde_json::Error, place: &Place) -> Value {
        push_json_error(error, place.clone(), self.found);
        Value::TooDeep
    }

    fn list(&mut self, raw: &'a str, place: &Place, depth: usize) -> Value {
        match serde_json::from_str::<Vec<&'a RawValue>>(raw) {
            Ok(items) => Value::List(
                items.into_iter().take(ITEMS_MAX).map(|item| self.node(item.get(), depth + 1)).collect(),
            ),
            Err(error) => self.broken(&error, place),
        }
    }

    fn table(&mut self, raw: &'a str, place: &Place, depth: usize) -> Value {
        let members = match serde_json::from_str::<Members<'a>>(raw) {
            Ok(Members(members)) => members,
            Err(error) => return self.broken(&error, place),
        };
        let mut seen = HashSet::new();
        let mut entries = Vec::with_capacity(members.len());
        for (key, value) in members {
            let key_place = self.key_place(&key, value.get());
            if !seen.insert(key.clone()) {
                let message = format!("JSON syntax: duplicate key {}", quote(&key));
                self.found.push(Diagnostic::error(Code::Syntax, &key_place, "", message));
                continue;
            }
            entries.push(Entry { key, key_place, node: self.node(value.get(), depth + 1) });
        }
        Value::Table(entries)
    }

    /// The key stands right before its value; one written with escapes gets the value's place.
    fn key_place(&self, key: &str, value: &str) -> Place {
        let value_span = self.span(value);
        let before = self.body.get(..value_span.start).unwrap_or("").trim_end();
        let before = before.strip_suffix(':').unwrap_or(before).trim_end();
        let span = match before.strip_suffix(&format!("\"{key}\"")) {
            Some(rest) => rest.len()..before.len(),
            None => value_span,
        };
        shift(span, self.skipped)
    }
}

/// An object's members in order, duplicates included.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Collect<'a> {
            type Value = Members<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'a>, A::Error> {
                let mut members = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    members.push((key, map.next_value::<&'de RawValue>()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect(std::marker::PhantomData))
    }
}
