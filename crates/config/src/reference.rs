//! What is generated from the table of keys: the JSON Schema and the reference in the guide.
//!
//! Owns: how a kind of value reads in either.
//! Refuses: any fact about a key that is not in `keys.rs`.
//! Driven by: the test that keeps `docs/` fresh; the program may print both.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::form::Form;
use crate::keys::{
    BINDS_MAX, CIDRS_MAX, Default, Key, Kind, Modes, PAIRS_MAX, SOURCES_PER_POOL_MAX, Section,
};
use crate::plan::Mode;
use crate::value::{NAME_CHARS_MAX, show_bytes, show_count, show_duration};

const COUNT_PATTERN: &str = "^[0-9]+(_[0-9]+)*[kKMG]?$";
const BYTES_PATTERN: &str = "^[0-9]+(_[0-9]+)*([KMG]i?)?B$";
const DURATION_PATTERN: &str = "^([0-9_]+d)?([0-9_]+h)?([0-9_]+m)?([0-9_]+s)?([0-9_]+ms)?$";

/// The configuration's JSON Schema, draft 2020-12.
#[must_use]
pub fn json_schema() -> Value {
    let mut schema = section_schema(Section::Top);
    if let Some(root) = schema.as_object_mut() {
        root.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
        root.insert("title".into(), json!("Fourfold configuration"));
    }
    schema
}

fn section_schema(section: Section) -> Value {
    let keys = || section.keys().iter().filter(|key| !matches!(key.kind, Kind::Later));
    let properties: Map<String, Value> = keys().map(|key| (key.name.to_owned(), key_schema(key))).collect();
    let required: Vec<&str> =
        keys().filter(|key| matches!(key.default, Default::Required)).map(|key| key.name).collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn key_schema(key: &Key) -> Value {
    let mut schema = kind_schema(&key.kind);
    if let Some(object) = schema.as_object_mut() {
        object.insert("description".into(), json!(key.doc));
        if matches!((&key.kind, &key.default), (Kind::Tables { .. }, Default::Required)) {
            object.insert("minItems".into(), json!(1));
        }
        if let Default::Text(text) = key.default {
            let default = match key.kind {
                Kind::Count { .. } => text.parse::<u64>().map_or(json!(text), |number| json!(number)),
                Kind::Bool => json!(text == "true"),
                _ => json!(text),
            };
            object.insert("default".into(), default);
        }
    }
    schema
}

fn kind_schema(kind: &Kind) -> Value {
    let number = |min: u64, max: u64| json!({"type": "integer", "minimum": min, "maximum": max});
    let text = |pattern: &str| json!({"type": "string", "pattern": pattern});
    match kind {
        Kind::Count { min, max, .. } => json!({"anyOf": [number(*min, *max), text(COUNT_PATTERN)]}),
        Kind::CountOrAuto { min, max, .. } => {
            json!({"anyOf": [number(*min, *max), text(COUNT_PATTERN), {"const": "auto"}]})
        }
        Kind::Duration { .. } => json!({"type": "string", "minLength": 2, "pattern": DURATION_PATTERN}),
        Kind::Choice { now, .. } => json!({"enum": now()}),
        Kind::Name | Kind::PoolName => text(&format!("^[A-Za-z0-9._-]{{1,{NAME_CHARS_MAX}}}$")),
        Kind::Binds => one_or_more(text("^([0-9.]+|\\[[0-9A-Fa-f:.%]+\\]):[0-9]{1,5}$"), BINDS_MAX),
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Bytes { .. } => text(BYTES_PATTERN),
        Kind::Percent { .. } => text("^[0-9]+(_[0-9]+)*%$"),
        Kind::Text(form) => formed(form),
        Kind::Texts { form, max } => one_or_more(formed(form), *max),
        Kind::Pairs { name, value } => json!({
            "type": "object",
            "maxProperties": PAIRS_MAX,
            "propertyNames": formed(name),
            "additionalProperties": formed(value),
        }),
        Kind::Cidrs => one_or_more(text("^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$"), CIDRS_MAX),
        Kind::Server => text("^([A-Za-z0-9._-]+|\\[[0-9A-Fa-f:.%]+\\]):[0-9]{1,5}$"),
        Kind::Sources => json!({
            "type": "array",
            "minItems": 1,
            "maxItems": SOURCES_PER_POOL_MAX,
            "items": text("^[0-9A-Fa-f:.]+( *- *[0-9A-Fa-f:.]+|/[0-9]{1,3})?$"),
        }),
        Kind::Ports => text("^[0-9]{1,5}( *- *[0-9]{1,5})?$"),
        Kind::Table(section) => section_schema(*section),
        Kind::Tables { section, max } => {
            json!({"type": "array", "maxItems": max, "items": section_schema(*section)})
        }
        Kind::Later => json!({}),
    }
}

fn formed(form: &Form) -> Value {
    if form.pattern.is_empty() {
        return json!({"type": "string"});
    }
    json!({"type": "string", "pattern": form.pattern})
}

fn one_or_more(one: Value, max: usize) -> Value {
    let list = json!({"type": "array", "minItems": 1, "maxItems": max, "items": one.clone()});
    json!({"anyOf": [one, list]})
}

/// The reference as Markdown: a table for every section.
#[must_use]
pub fn key_reference() -> String {
    let mut out = String::new();
    for &section in Section::ALL {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "### {}\n", title(section));
        let _ = writeln!(out, "| key | value | default | meaning | since |\n|---|---|---|---|---|");
        for key in section.keys().iter().filter(|key| !matches!(key.kind, Kind::Later)) {
            let _ = writeln!(
                out,
                "| `{}` | {} | {} | {} | {} |",
                key.name,
                kind_words(&key.kind),
                default_words(key),
                meaning(key),
                key.since
            );
        }
        let later = later_words(section);
        if !later.is_empty() {
            let _ =
                writeln!(out, "\nKnown, and refused as not available in this version: {}.", later.join(", "));
        }
        out.push('\n');
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn meaning(key: &Key) -> String {
    match key.modes {
        Modes::Any => key.doc.to_owned(),
        Modes::Only(Mode::Tcp) => format!("*tcp* {}", key.doc),
        Modes::Only(Mode::Http) => format!("*http* {}", key.doc),
    }
}

fn title(section: Section) -> String {
    match section {
        Section::Top => "Top of the file".into(),
        other => format!("`{}`", other.header()),
    }
}

fn later_words(section: Section) -> Vec<String> {
    let words = |key: &&Key| match key.kind {
        Kind::Later => vec![format!("`{}`", key.name)],
        Kind::Choice { later, .. } => {
            later.iter().map(|name| format!("`{} = \"{name}\"`", key.name)).collect()
        }
        _ => Vec::new(),
    };
    section.keys().iter().flat_map(words).collect()
}

fn kind_words(kind: &Kind) -> String {
    match kind {
        Kind::Count { min, max, unit } => {
            format!("number, {} to {} {unit}", show_count(*min), show_count(*max))
        }
        Kind::CountOrAuto { min, max, unit } => {
            format!("`\"auto\"` or number, {} to {} {unit}", show_count(*min), show_count(*max))
        }
        Kind::Duration { min_ms, max_ms } => {
            format!("duration, {} to {}", show_duration(*min_ms), show_duration(*max_ms))
        }
        Kind::Choice { now, .. } => {
            now().iter().map(|name| format!("`\"{name}\"`")).collect::<Vec<_>>().join(", ")
        }
        Kind::Name => format!("name, at most {NAME_CHARS_MAX} of `A-Z a-z 0-9 . _ -`"),
        Kind::PoolName => "name of a pool".into(),
        Kind::Binds => "`\"ip:port\"` or `\"[v6]:port\"`, or a list".into(),
        Kind::Bool => "`true` or `false`".into(),
        Kind::Bytes { min, max } => format!("size, {} to {}", show_bytes(*min), show_bytes(*max)),
        Kind::Percent { min, max } => format!("{min}% to {}%", show_count(*max)),
        Kind::Text(form) => form.words.into(),
        Kind::Texts { form, .. } => format!("{}, or a list", form.words),
        Kind::Pairs { name, value } => format!("table: {} = {}", name.words, value.words),
        Kind::Cidrs => "`\"ip\"` or `\"prefix/len\"`, or a list".into(),
        Kind::Server => "`\"ip:port\"`, `\"[v6]:port\"` or `\"host:port\"`".into(),
        Kind::Sources => "list of `\"ip\"`, `\"ip-ip\"` or `\"prefix/len\"`".into(),
        Kind::Ports => "`\"first-last\"`".into(),
        Kind::Table(_) => "table".into(),
        Kind::Tables { max, .. } => format!("tables, at most {}", show_count(*max as u64)),
        Kind::Later => String::new(),
    }
}

fn default_words(key: &Key) -> String {
    match (&key.default, &key.kind) {
        (Default::Required, _) => "required".into(),
        (Default::Text(text), Kind::Count { .. } | Kind::Bool) => format!("`{text}`"),
        (Default::Text(text), _) => format!("`\"{text}\"`"),
        (Default::Derived(words), _) => (*words).into(),
    }
}
