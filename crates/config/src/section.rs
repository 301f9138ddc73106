//! Reads a table of the document against the table of keys.
//!
//! Owns: unknown, missing and unavailable keys, types, ranges; the typed values that remain.
//! Refuses: to relate two keys to each other; that is `check.rs`.
//! Driven by: [`parse`](crate::parse) and [`from_flags`](crate::from_flags), on the root table.

use std::net::SocketAddr;

use fourfold_l4::Cidrs;
use fourfold_ports::{PortSpan, SourceSet};

use crate::diagnostic::{Code, Diagnostic, Diagnostics, Place};
use crate::document::{Entry, Node, Value};
use crate::form::Form;
use crate::keys::{
    BINDS_MAX, CIDRS_MAX, Choices, Default, Key, Kind, PAIRS_MAX, SOURCES_PER_POOL_MAX, Section,
};
use crate::plan::HostPort;
use crate::suggest::nearest;
use crate::value::{
    ValueError, parse_bind, parse_bytes, parse_count, parse_duration_ms, parse_name, parse_percent,
    parse_server, quote, show_bytes, show_count, show_duration,
};

/// A table that was read: the values that were right, by key.
#[derive(Debug)]
pub(crate) struct Part {
    pub path: String,
    pub place: Place,
    fields: Vec<Field>,
    /// Keys that stood in the text, right or wrong.
    written: Vec<&'static str>,
}

#[derive(Debug)]
struct Field {
    key: &'static Key,
    place: Place,
    read: Read,
}

/// A value whose type and range are right.
#[derive(Debug)]
pub(crate) enum Read {
    Count(u64),
    Auto,
    Ms(u64),
    Bool(bool),
    Choice(&'static str),
    Text(String),
    /// In their order, each with its place.
    Texts(Vec<(String, Place)>),
    Pairs(Vec<Pair>),
    Cidrs(Cidrs),
    Binds(Vec<(SocketAddr, Place)>),
    Server(HostPort),
    Sources(SourceSet),
    Ports(PortSpan),
    Parts(Vec<Part>),
}

/// An entry of a table with keys of the user's.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub name: String,
    pub value: String,
}

macro_rules! getters {
    ($($name:ident: $variant:ident -> $type:ty;)*) => {
        $(pub(crate) fn $name(&self, key: &Key) -> Option<&$type> {
            match self.field(key).map(|field| &field.read) {
                Some(Read::$variant(value)) => Some(value),
                _ => None,
            }
        })*
    };
}

impl Part {
    fn field(&self, key: &Key) -> Option<&Field> {
        self.fields.iter().find(|field| field.key.name == key.name)
    }

    getters! {
        count: Count -> u64;
        ms: Ms -> u64;
        text: Text -> String;
        bool: Bool -> bool;
        texts: Texts -> Vec<(String, Place)>;
        pairs: Pairs -> Vec<Pair>;
        cidrs: Cidrs -> Cidrs;
        binds: Binds -> Vec<(SocketAddr, Place)>;
        server: Server -> HostPort;
        sources: Sources -> SourceSet;
        ports: Ports -> PortSpan;
    }

    pub(crate) fn choice<T: Choices>(&self, key: &Key) -> Option<T> {
        match self.field(key)?.read {
            Read::Choice(chosen) => T::ALL.iter().find(|(name, _)| *name == chosen).map(|(_, value)| *value),
            _ => None,
        }
    }

    pub(crate) fn parts(&self, key: &Key) -> &[Part] {
        match self.field(key).map(|field| &field.read) {
            Some(Read::Parts(parts)) => parts,
            _ => &[],
        }
    }

    pub(crate) fn was_written(&self, key: &Key) -> bool {
        self.written.contains(&key.name)
    }

    /// Written, and not right.
    pub(crate) fn is_wrong(&self, key: &Key) -> bool {
        self.was_written(key) && self.field(key).is_none()
    }

    /// Where the key's value was written; the table's place when it was not.
    pub(crate) fn place_of(&self, key: &Key) -> &Place {
        self.field(key).map_or(&self.place, |field| &field.place)
    }

    pub(crate) fn path_of(&self, key: &Key) -> String {
        join(&self.path, key.name)
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Reads tables, and collects what is wrong with them.
pub(crate) struct Reader<'a> {
    pub found: &'a mut Diagnostics,
    /// The text had syntax errors: what is missing may only have been unreadable.
    pub partial: bool,
}

impl Reader<'_> {
    pub(crate) fn section(&mut self, section: Section, path: &str, place: &Place, entries: &[Entry]) -> Part {
        let mut part =
            Part { path: path.to_owned(), place: place.clone(), fields: Vec::new(), written: Vec::new() };
        for entry in entries {
            match section.keys().iter().find(|key| key.name == entry.key) {
                Some(key) => self.entry(key, entry, &mut part),
                None => self.unknown_key(section, entry, path),
            }
        }
        for key in section.keys() {
            if !entries.iter().any(|entry| entry.key == key.name) {
                self.absent(section, key, &mut part);
            }
        }
        part
    }

    fn entry(&mut self, key: &'static Key, entry: &Entry, part: &mut Part) {
        part.written.push(key.name);
        let path = join(&part.path, key.name);
        if matches!(key.kind, Kind::Later) {
            let message = format!("`{}` is not available in this version", key.name);
            let error = Diagnostic::error(Code::NotAvailable, &entry.key_place, path, message);
            return self.found.push(error.help("remove it; a later version will have it"));
        }
        let place = &entry.node.place;
        match self.read(key, &entry.node, &path) {
            Ok(Some(read)) => part.fields.push(Field { key, place: place.clone(), read }),
            Ok(None) => {}
            Err(error) => self.found.push(Diagnostic::of_value(error, place, path)),
        }
    }

    fn absent(&mut self, section: Section, key: &'static Key, part: &mut Part) {
        match key.default {
            Default::Text(text) => {
                let value = match key.kind {
                    Kind::Bool => Value::Bool(text == "true"),
                    _ => Value::Text(text.to_owned()),
                };
                let node = Node { place: part.place.clone(), value };
                if let Ok(Some(read)) = self.read(key, &node, key.name) {
                    part.fields.push(Field { key, place: part.place.clone(), read });
                }
            }
            Default::Required if !self.partial => {
                let path = join(&part.path, key.name);
                self.found.push(missing(section, key, &part.place, path));
            }
            Default::Required | Default::Derived(_) => {}
        }
    }

    fn unknown_key(&mut self, section: Section, entry: &Entry, path: &str) {
        if self.found.is_full() {
            return self.found.count_errors(1);
        }
        let message = format!("unknown key {} {}", quote(&entry.key), whereabouts(section));
        let help = match nearest(&entry.key, section.keys().iter().map(|key| key.name)) {
            Some(name) => format!("did you mean `{name}`?"),
            None => elsewhere(section, &entry.key),
        };
        let path = join(path, quote(&entry.key).trim_matches('"'));
        self.found.push(Diagnostic::error(Code::UnknownKey, &entry.key_place, path, message).help(help));
    }

    /// `Ok(None)`: wrong, and already reported.
    fn read(&mut self, key: &Key, node: &Node, path: &str) -> Result<Option<Read>, ValueError> {
        let read = match &key.kind {
            Kind::Count { min, max, unit } => Read::Count(count(key, &node.value, *min, *max, unit, "")?),
            Kind::CountOrAuto { min, max, unit } => match &node.value {
                Value::Text(text) if text == "auto" => Read::Auto,
                value => Read::Count(count(key, value, *min, *max, unit, " or \"auto\"")?),
            },
            Kind::Duration { min_ms, max_ms } => Read::Ms(duration(key, &node.value, *min_ms, *max_ms)?),
            Kind::Choice { now, later } => Read::Choice(choose(key, text(key, &node.value)?, &now(), later)?),
            Kind::Name => Read::Text(parse_name(text(key, &node.value)?)?),
            Kind::PoolName => Read::Text(text(key, &node.value)?.to_owned()),
            Kind::Binds => return self.binds(key, node, path),
            Kind::Bool => Read::Bool(boolean(key, &node.value)?),
            Kind::Bytes { min, max } => Read::Count(bytes(key, &node.value, *min, *max)?),
            Kind::Percent { min, max } => Read::Count(percent(key, &node.value, *min, *max)?),
            Kind::Text(form) => Read::Text(formed(key, form, text(key, &node.value)?)?),
            Kind::Texts { form, max } => return self.texts(key, form, *max, node, path),
            Kind::Pairs { name, value } => return self.pairs(key, name, value, node, path),
            Kind::Cidrs => return self.cidrs(key, node, path),
            Kind::Server => Read::Server(parse_server(text(key, &node.value)?).map_err(|e| of_key(key, e))?),
            Kind::Sources => return self.sources(key, &node.value, path),
            Kind::Ports => Read::Ports(ports(text(key, &node.value)?)?),
            Kind::Table(section) => return self.table(key, *section, node, path),
            Kind::Tables { section, max } => return self.tables(key, *section, *max, node, path),
            Kind::Later => return Ok(None),
        };
        Ok(Some(read))
    }

    fn sources(&mut self, key: &Key, value: &Value, path: &str) -> Result<Option<Read>, ValueError> {
        let Value::List(items) = value else {
            let error = wrong_type(key, "a list of strings", value);
            return Err(error.help("write sources = [\"10.0.0.10-10.0.0.25\"]"));
        };
        let bad = |message: String| ValueError::new(Code::BadSource, message);
        if items.is_empty() {
            return Err(bad("`sources` names no address".into())
                .help("leave the key out to connect from the address that the kernel's routing picks"));
        }
        if items.len() > SOURCES_PER_POOL_MAX {
            return Err(ValueError::new(
                Code::TooMany,
                format!("`sources` has more than {} entries", show_count(SOURCES_PER_POOL_MAX as u64)),
            )
            .help("write neighbours as a range or a prefix"));
        }
        let mut sets = Vec::with_capacity(items.len());
        for (n, item) in items.iter().enumerate() {
            let set = match &item.value {
                Value::Text(text) => SourceSet::parse(text).map_err(|error| bad(error.to_string())),
                other => Err(ValueError::new(
                    Code::WrongType,
                    format!("a source in `sources` must be a string, not {}", other.noun()),
                )),
            };
            match set {
                Ok(set) => sets.push(set),
                Err(error) => {
                    self.found.push(Diagnostic::of_value(error, &item.place, format!("{path}[{n}]")))
                }
            }
        }
        if sets.len() < items.len() {
            return Ok(None);
        }
        SourceSet::concat(sets).map(|set| Some(Read::Sources(set))).map_err(|error| bad(error.to_string()))
    }

    /// Every text of a string or a list of strings, by `parse`; what is wrong with one is said of that one.
    fn each<T>(
        &mut self,
        key: &Key,
        max: usize,
        node: &Node,
        path: &str,
        parse: impl Fn(&str) -> Result<T, ValueError>,
    ) -> Result<Option<Vec<(T, Place)>>, ValueError> {
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            Value::Text(_) => std::slice::from_ref(node),
            other => {
                let error = wrong_type(key, "a string or a list of strings", other);
                return Err(quoted(other, error));
            }
        };
        if items.is_empty() {
            let error = ValueError::new(Code::OutOfRange, format!("`{}` is an empty list", key.name));
            return Err(error.help("leave the key out, or name at least one"));
        }
        if items.len() > max {
            let message = format!("`{}` has more than {} entries", key.name, show_count(max as u64));
            return Err(ValueError::new(Code::TooMany, message));
        }
        let mut read = Vec::with_capacity(items.len());
        for (n, item) in items.iter().enumerate() {
            match text(key, &item.value).map_err(|error| quoted(&item.value, error)).and_then(&parse) {
                Ok(one) => read.push((one, item.place.clone())),
                Err(error) => {
                    self.found.push(Diagnostic::of_value(error, &item.place, format!("{path}[{n}]")))
                }
            }
        }
        Ok((read.len() == items.len()).then_some(read))
    }

    fn binds(&mut self, key: &Key, node: &Node, path: &str) -> Result<Option<Read>, ValueError> {
        let parse = |text: &str| parse_bind(text).map_err(|error| of_key(key, error));
        Ok(self.each(key, BINDS_MAX, node, path, parse)?.map(Read::Binds))
    }

    fn cidrs(&mut self, key: &Key, node: &Node, path: &str) -> Result<Option<Read>, ValueError> {
        let parse = |text: &str| match Cidrs::parse(&[text]) {
            Ok(_) => Ok(text.to_owned()),
            Err(error) => Err(of_key(key, ValueError::new(Code::BadCidr, error.to_string()))),
        };
        let Some(read) = self.each(key, CIDRS_MAX, node, path, parse)? else { return Ok(None) };
        let texts: Vec<String> = read.into_iter().map(|(text, _)| text).collect();
        Ok(Cidrs::parse(&texts).ok().map(Read::Cidrs))
    }

    fn texts(
        &mut self,
        key: &Key,
        form: &Form,
        max: usize,
        node: &Node,
        path: &str,
    ) -> Result<Option<Read>, ValueError> {
        let Some(read) = self.each(key, max, node, path, |text| formed(key, form, text))? else {
            return Ok(None);
        };
        for (n, (text, place)) in read.iter().enumerate() {
            if read.iter().take(n).any(|(other, _)| other == text) {
                let message = format!("`{}` has {} twice", key.name, quote(text));
                let error = Diagnostic::error(Code::Conflict, place, format!("{path}[{n}]"), message);
                self.found.push(error.help("keep one of them"));
            }
        }
        Ok(Some(Read::Texts(read)))
    }

    fn pairs(
        &mut self,
        key: &Key,
        name: &Form,
        value: &Form,
        node: &Node,
        path: &str,
    ) -> Result<Option<Read>, ValueError> {
        let Value::Table(entries) = &node.value else {
            return Err(wrong_type(key, "a table", &node.value)
                .help(format!("write {} = {{ x-name = \"value\" }}", key.name)));
        };
        if entries.len() > PAIRS_MAX {
            let message = format!("`{}` has more than {PAIRS_MAX} entries", key.name);
            return Err(ValueError::new(Code::TooMany, message));
        }
        let mut pairs: Vec<Pair> = Vec::with_capacity(entries.len());
        for entry in entries {
            let path = join(path, quote(&entry.key).trim_matches('"'));
            match self.pair(key, name, value, entry, &path) {
                Some(pair) if pairs.iter().any(|other| other.name == pair.name) => {
                    let message = format!("`{}` has {} twice", key.name, quote(&pair.name));
                    let error = Diagnostic::error(Code::Conflict, &entry.key_place, path, message);
                    self.found.push(error.help("keep one of them: upper and lower case are the same"));
                }
                Some(pair) => pairs.push(pair),
                None => {}
            }
        }
        Ok((pairs.len() == entries.len()).then_some(Read::Pairs(pairs)))
    }

    fn pair(&mut self, key: &Key, name: &Form, value: &Form, entry: &Entry, path: &str) -> Option<Pair> {
        let place = &entry.node.place;
        let name = formed(key, name, &entry.key)
            .map_err(|error| self.found.push(Diagnostic::of_value(error, &entry.key_place, path)));
        let value = text(key, &entry.node.value)
            .and_then(|text| formed(key, value, text))
            .map_err(|error| self.found.push(Diagnostic::of_value(error, place, path)));
        Some(Pair { name: name.ok()?, value: value.ok()? })
    }

    fn table(
        &mut self,
        key: &Key,
        section: Section,
        node: &Node,
        path: &str,
    ) -> Result<Option<Read>, ValueError> {
        match &node.value {
            Value::Table(entries) => {
                Ok(Some(Read::Parts(vec![self.section(section, path, &node.place, entries)])))
            }
            other => Err(wrong_type(key, "a table", other)
                .help(format!("write {} on a line of its own", section.header()))),
        }
    }

    fn tables(
        &mut self,
        key: &Key,
        section: Section,
        max: usize,
        node: &Node,
        path: &str,
    ) -> Result<Option<Read>, ValueError> {
        let header = section.header();
        // `[[pool.server]]` before any `[[pool]]` makes `pool` a table.
        let above = if section == Section::Pool { ", above its [[pool.server]]" } else { "" };
        let Value::List(items) = &node.value else {
            return Err(wrong_type(key, "a list of tables", &node.value)
                .help(format!("write {header} with double brackets{above}")));
        };
        let needed = matches!(key.default, Default::Required);
        if items.is_empty() && needed && !self.partial {
            let error = missing(section, key, &node.place, path.to_owned());
            self.found.push(Diagnostic { message: format!("`{}` is an empty list", key.name), ..error });
        }
        if items.len() > max {
            let message = format!("more than {} {header}", show_count(max as u64));
            return Err(ValueError::new(Code::TooMany, message));
        }
        let mut parts = Vec::with_capacity(items.len());
        for (n, item) in items.iter().enumerate() {
            let path = format!("{path}[{n}]");
            match &item.value {
                Value::Table(entries) => parts.push(self.section(section, &path, &item.place, entries)),
                other => {
                    let message = format!("every {header} must be a table, not {}", other.noun());
                    self.found.push(Diagnostic::error(Code::WrongType, &item.place, path, message));
                }
            }
        }
        Ok(Some(Read::Parts(parts)))
    }
}

fn missing(section: Section, key: &Key, place: &Place, path: String) -> Diagnostic {
    let (code, message, help) = match key.kind {
        Kind::Tables { section: Section::Listener, .. } => (
            Code::NoListener,
            "there is no [[listener]], so there is nothing to do".to_owned(),
            "add [[listener]] with name, bind and pool".to_owned(),
        ),
        Kind::Tables { section: Section::Server, .. } => (
            Code::EmptyPool,
            "the pool has no server".to_owned(),
            "add [[pool.server]] with an address below the pool".to_owned(),
        ),
        Kind::Tables { section: Section::Pool, .. } => (
            Code::MissingKey,
            format!("there is no [[{}]] for connections to go to", key.name),
            "add [[pool]] with a name and at least one [[pool.server]]".to_owned(),
        ),
        _ => (
            Code::MissingKey,
            format!("{} needs the key `{}`", section.header(), key.name),
            format!("`{}`: {}", key.name, key.doc),
        ),
    };
    Diagnostic::error(code, place, path, message).help(help)
}

fn whereabouts(section: Section) -> String {
    if section == Section::Top { section.header().into() } else { format!("in {}", section.header()) }
}

/// A help with more names than this is not read.
const KEYS_SHOWN_MAX: usize = 24;

/// TOML makes it easy to write a key below the wrong header: say where it belongs.
fn elsewhere(here: Section, name: &str) -> String {
    let other = Section::ALL.iter().copied().find(|section| {
        *section != here
            && section.keys().iter().any(|key| key.name == name && !matches!(key.kind, Kind::Later))
    });
    match other {
        Some(Section::Top) => format!("`{name}` belongs at the top of the file, before the first [table]"),
        Some(section) => format!("`{name}` belongs to {}", section.header()),
        None => {
            let names: Vec<&str> = here
                .keys()
                .iter()
                .filter(|key| !matches!(key.kind, Kind::Later))
                .map(|key| key.name)
                .collect();
            let shown = names.iter().take(KEYS_SHOWN_MAX).copied().collect::<Vec<_>>().join(", ");
            match names.len() > KEYS_SHOWN_MAX {
                true => format!("known keys: {shown}, … (the guide and `fourfold schema` have all)"),
                false => format!("known keys: {shown}"),
            }
        }
    }
}

fn of_key(key: &Key, error: ValueError) -> ValueError {
    ValueError { message: format!("`{}`: {}", key.name, error.message), ..error }
}

fn wrong_type(key: &Key, expected: &str, found: &Value) -> ValueError {
    let message = format!("`{}` must be {expected}, not {}", key.name, found.noun());
    ValueError::new(Code::WrongType, message)
}

/// A status looks like a number, but `5xx` and `200-399` do not.
fn quoted(value: &Value, error: ValueError) -> ValueError {
    match value {
        Value::Integer(Some(number)) => error.help(format!("write \"{number}\"")),
        _ => error,
    }
}

fn text<'a>(key: &Key, value: &'a Value) -> Result<&'a str, ValueError> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(wrong_type(key, "a string", other)),
    }
}

fn count(key: &Key, value: &Value, min: u64, max: u64, unit: &str, or: &str) -> Result<u64, ValueError> {
    let out_of_range = |shown: String| {
        let (min, max) = (show_count(min), show_count(max));
        let message = format!("`{}` must be from {min} to {max} {unit}{or}, not {shown}", key.name);
        ValueError::new(Code::OutOfRange, message)
    };
    let number = match value {
        Value::Integer(Some(number)) => {
            u64::try_from(*number).map_err(|_| out_of_range(number.to_string()))?
        }
        Value::Integer(None) => return Err(out_of_range("a number with more digits than fit".into())),
        Value::Text(text) => parse_count(text).map_err(|error| match error.code {
            Code::OutOfRange => out_of_range(quote(text)),
            _ => of_key(key, error),
        })?,
        other => {
            return Err(wrong_type(key, &format!("a whole number{or}"), other)
                .help("write 1_000_000, \"20k\" or \"1M\""));
        }
    };
    if (min..=max).contains(&number) { Ok(number) } else { Err(out_of_range(show_count(number))) }
}

fn duration(key: &Key, value: &Value, min_ms: u64, max_ms: u64) -> Result<u64, ValueError> {
    let ms = match value {
        Value::Text(text) => parse_duration_ms(text).map_err(|error| of_key(key, error))?,
        Value::Integer(Some(number)) => {
            let error = ValueError::new(Code::BadDuration, format!("`{}`: {number} has no unit", key.name));
            return Err(error.help(format!("write \"{number}s\" for seconds")));
        }
        other => {
            return Err(wrong_type(key, "a duration such as \"30s\"", other));
        }
    };
    if (min_ms..=max_ms).contains(&ms) {
        return Ok(ms);
    }
    let (min, max) = (show_duration(min_ms), show_duration(max_ms));
    let message = format!("`{}` must be from {min} to {max}, not {}", key.name, show_duration(ms));
    Err(ValueError::new(Code::OutOfRange, message))
}

fn in_range(
    key: &Key,
    number: u64,
    (min, max): (u64, u64),
    show: impl Fn(u64) -> String,
) -> Result<u64, ValueError> {
    if (min..=max).contains(&number) {
        return Ok(number);
    }
    let message = format!("`{}` must be from {} to {}, not {}", key.name, show(min), show(max), show(number));
    Err(ValueError::new(Code::OutOfRange, message))
}

fn bytes(key: &Key, value: &Value, min: u64, max: u64) -> Result<u64, ValueError> {
    let number = match value {
        Value::Text(text) => parse_bytes(text).map_err(|error| of_key(key, error))?,
        Value::Integer(Some(number)) => {
            let error = ValueError::new(Code::BadSize, format!("`{}`: {number} has no unit", key.name));
            return Err(
                error.help(format!("write \"{number}B\" for bytes, or a number with KB, KiB, MB, MiB"))
            );
        }
        other => return Err(wrong_type(key, "a size such as \"16KiB\"", other)),
    };
    in_range(key, number, (min, max), show_bytes)
}

fn percent(key: &Key, value: &Value, min: u64, max: u64) -> Result<u64, ValueError> {
    let number = match value {
        Value::Text(text) => parse_percent(text).map_err(|error| of_key(key, error))?,
        Value::Integer(Some(number)) => {
            let error =
                ValueError::new(Code::BadPercent, format!("`{}`: {number} is not a percentage", key.name));
            return Err(error.help(format!("write \"{number}%\"")));
        }
        other => return Err(wrong_type(key, "a percentage such as \"20%\"", other)),
    };
    in_range(key, number, (min, max), |number| format!("{}%", show_count(number)))
}

fn boolean(key: &Key, value: &Value) -> Result<bool, ValueError> {
    match value {
        Value::Bool(is) => Ok(*is),
        Value::Text(text) if text == "true" || text == "false" => {
            let error = wrong_type(key, "true or false", value);
            Err(error.help(format!("write {} = {text}, without quotes", key.name)))
        }
        other => Err(wrong_type(key, "true or false", other)),
    }
}

fn formed(key: &Key, form: &Form, text: &str) -> Result<String, ValueError> {
    (form.parse)(text).map_err(|error| of_key(key, error))
}

fn choose(key: &Key, text: &str, now: &[&'static str], later: &[&str]) -> Result<&'static str, ValueError> {
    if let Some(name) = now.iter().find(|name| **name == text) {
        return Ok(name);
    }
    let all = || now.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ");
    if later.contains(&text) {
        let message = format!("`{}` = {} is not available in this version", key.name, quote(text));
        return Err(ValueError::new(Code::NotAvailable, message).help(format!("this version has {}", all())));
    }
    let error = ValueError::new(Code::BadChoice, format!("`{}` cannot be {}", key.name, quote(text)));
    Err(match nearest(text, now.iter().copied()) {
        Some(name) => error.help(format!("did you mean {}? It can be {}", quote(name), all())),
        None => error.help(format!("it can be {}", all())),
    })
}

fn ports(text: &str) -> Result<PortSpan, ValueError> {
    PortSpan::parse(text).map_err(|error| ValueError::new(Code::BadPorts, error.to_string()))
}
