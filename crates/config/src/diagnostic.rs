//! What is wrong with a configuration, where, and what to do about it.
//!
//! Owns: severities, stable codes, places in the text, and both renderings (human and JSON).
//! Refuses: to keep or print without bound; a file of rubbish yields a count, not a flood.
//! Driven by: the parsers push, [`Diagnostics::finish`] sorts, the program renders.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use serde_json::json;

use crate::value::ValueError;

/// More than this many diagnostics are counted but not kept: memory stays bounded for any file.
pub const DIAGNOSTICS_KEPT_MAX: usize = 1_000;
/// More than this many are not printed for people; the rest is given as a count.
pub const DIAGNOSTICS_PRINTED_MAX: usize = 50;
/// Source lines are shown cut to this many characters around the place.
const LINE_CHARS_MAX: usize = 120;
/// Messages are cut here; only one that repeats overlong text from the file gets near.
const MESSAGE_CHARS_MAX: usize = 400;

const _: () = assert!(DIAGNOSTICS_PRINTED_MAX <= DIAGNOSTICS_KEPT_MAX);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
}

impl Severity {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What kind of mistake; the text of a code never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }
        }
    };
}

codes! {
    TooLarge = "too-large",
    NotUtf8 = "not-utf8",
    Empty = "empty",
    Syntax = "syntax",
    UnknownKey = "unknown-key",
    /// Known, and planned for a later version.
    NotAvailable = "not-available",
    MissingKey = "missing-key",
    WrongType = "wrong-type",
    BadNumber = "bad-number",
    BadDuration = "bad-duration",
    BadName = "bad-name",
    BadAddress = "bad-address",
    BadChoice = "bad-choice",
    BadSource = "bad-source",
    BadPorts = "bad-ports",
    BadTemplate = "bad-template",
    BadSize = "bad-size",
    BadPercent = "bad-percent",
    BadCidr = "bad-cidr",
    BadHeader = "bad-header",
    BadCookie = "bad-cookie",
    BadMethod = "bad-method",
    BadHost = "bad-host",
    BadPath = "bad-path",
    BadQuery = "bad-query",
    BadRate = "bad-rate",
    BadStatus = "bad-status",
    BadFile = "bad-file",
    BadLogTarget = "bad-log-target",
    BadAdmin = "bad-admin",
    /// A key that another mode has.
    WrongMode = "wrong-mode",
    /// Keys of which only one may be there.
    Conflict = "conflict",
    DuplicateRoute = "duplicate-route",
    /// Another route takes every request that this one would.
    UnreachableRoute = "unreachable-route",
    /// A key that changes nothing as things are.
    NoEffect = "no-effect",
    Unreadable = "unreadable",
    OutOfRange = "out-of-range",
    TooMany = "too-many",
    NoListener = "no-listener",
    DuplicateName = "duplicate-name",
    DuplicateServer = "duplicate-server",
    DuplicateBind = "duplicate-bind",
    UnknownPool = "unknown-pool",
    EmptyPool = "empty-pool",
    /// A listener's own address is a server of its pool.
    Loop = "loop",
    FamilyMismatch = "family-mismatch",
    /// Two pools would hand out the same four-tuples.
    OverlappingTuples = "overlapping-tuples",
    /// A port would be held early and late at once.
    MixedPortModes = "mixed-port-modes",
    PrivilegedPorts = "privileged-ports",
    BackoffOrder = "backoff-order",
    LimitAboveGlobal = "limit-above-global",
    UnusedPool = "unused-pool",
    NoWeight = "no-weight",
    /// A defect of Fourfold's, not of the configuration.
    Internal = "internal",
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Bytes of the text.
    Span(Range<usize>),
    /// A command-line flag as written, `--listen 0.0.0.0:80`.
    Flag(Arc<str>),
    /// The input as a whole.
    Whole,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub code: Code,
    /// From 1; `None` when the finding concerns a flag or the file as a whole.
    pub line: Option<usize>,
    /// In characters, from 1.
    pub column: Option<usize>,
    /// The flag as written, when there is no file.
    pub flag: Option<Arc<str>>,
    /// Path of the key, `listener[0].bind`; empty when there is none.
    pub key: String,
    pub message: String,
    pub help: Option<String>,
    pub(crate) place: Place,
}

impl Diagnostic {
    pub(crate) fn error(
        code: Code,
        place: &Place,
        key: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Diagnostic {
            severity: Severity::Error,
            code,
            line: None,
            column: None,
            flag: match place {
                Place::Flag(flag) => Some(flag.clone()),
                Place::Span(_) | Place::Whole => None,
            },
            key: key.into(),
            message: clean(message.into()),
            help: None,
            place: place.clone(),
        }
    }

    pub(crate) fn warning(
        code: Code,
        place: &Place,
        key: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(code, place, key, message) }
    }

    pub(crate) fn of_value(error: ValueError, place: &Place, key: impl Into<String>) -> Self {
        Diagnostic { help: error.help.map(clean), ..Diagnostic::error(error.code, place, key, error.message) }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(clean(help.into()));
        self
    }
}

/// Everything found in one input, errors and warnings, in the order of the text.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    file: String,
    text: Arc<str>,
    items: Vec<Diagnostic>,
    errors: usize,
    warnings: usize,
    muted: Vec<Range<usize>>,
}

impl Diagnostics {
    pub(crate) fn new(file: &str, text: &str) -> Diagnostics {
        Diagnostics { file: file.to_owned(), text: Arc::from(text), ..Diagnostics::default() }
    }

    pub(crate) fn push(&mut self, item: Diagnostic) {
        if self.is_muted(&item.place) || self.is_said_of_flag(&item) {
            return;
        }
        match item.severity {
            Severity::Error => self.errors += 1,
            Severity::Warning => self.warnings += 1,
        }
        if self.items.len() < DIAGNOSTICS_KEPT_MAX {
            self.items.push(item);
        }
    }

    /// Whether more findings are only counted, so that wording them is wasted.
    pub(crate) fn is_full(&self) -> bool {
        self.items.len() >= DIAGNOSTICS_KEPT_MAX
    }

    /// Errors that are not worth keeping, only counting.
    pub(crate) fn count_errors(&mut self, more: usize) {
        self.errors += more;
    }

    /// Every later finding on the lines where something was found so far is dropped: what a parser
    /// made of a broken line says nothing about what was meant.
    pub(crate) fn mute_found_lines(&mut self) {
        let text = self.text.as_bytes();
        let line_of = |span: &Range<usize>| {
            let at = span.start.min(text.len());
            let (before, after) = text.split_at(at);
            let start = before.iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
            start..after.iter().position(|b| *b == b'\n').map_or(text.len(), |n| at + n)
        };
        let mut muted: Vec<Range<usize>> = Vec::new();
        for item in &self.items {
            if let Place::Span(span) = &item.place
                && !muted.last().is_some_and(|last| last.contains(&span.start))
            {
                muted.push(line_of(span));
            }
        }
        muted.sort_by_key(|range| range.start);
        self.muted = muted;
    }

    /// One flag may stand for a key of several listeners.
    fn is_said_of_flag(&self, item: &Diagnostic) -> bool {
        item.flag.is_some()
            && self.items.iter().any(|other| other.flag == item.flag && other.message == item.message)
    }

    fn is_muted(&self, place: &Place) -> bool {
        let Place::Span(span) = place else { return false };
        let after = self.muted.partition_point(|range| range.start <= span.start);
        after.checked_sub(1).and_then(|n| self.muted.get(n)).is_some_and(|range| span.start <= range.end)
    }

    /// Sorts by place and works out lines and columns. One pass over the text, however many items.
    pub(crate) fn finish(mut self) -> Diagnostics {
        let start = |item: &Diagnostic| match &item.place {
            Place::Span(span) => span.start,
            Place::Flag(_) | Place::Whole => 0,
        };
        self.items.sort_by_key(start);
        let text = self.text.clone();
        // Places are sorted, so the text is walked once even when one endless line has a thousand faults.
        let (mut seen, mut line, mut column) = (0, 1, 1);
        for item in &mut self.items {
            let Place::Span(span) = &item.place else { continue };
            let at = floor_boundary(&text, span.start);
            let passed = text.get(seen..at).unwrap_or("");
            match passed.rfind('\n') {
                Some(end) => {
                    line += passed.bytes().filter(|b| *b == b'\n').count();
                    column = passed[end + 1..].chars().count() + 1;
                }
                None => column += passed.chars().count(),
            }
            seen = at;
            item.line = Some(line);
            item.column = Some(column);
        }
        self
    }

    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.errors + self.warnings == 0
    }

    /// Errors found, kept or not.
    #[must_use]
    pub fn error_count(&self) -> usize {
        self.errors
    }

    /// Warnings found, kept or not.
    #[must_use]
    pub fn warning_count(&self) -> usize {
        self.warnings
    }

    /// At most [`DIAGNOSTICS_KEPT_MAX`] of them.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.items.iter()
    }

    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// For people: `file:line:column: error: message [code]`, the line, a caret, the help.
    #[must_use]
    pub fn render_human(&self) -> String {
        let mut out = String::new();
        for item in self.items.iter().take(DIAGNOSTICS_PRINTED_MAX) {
            self.render_item(&mut out, item);
        }
        let omitted = (self.errors + self.warnings).saturating_sub(DIAGNOSTICS_PRINTED_MAX);
        if omitted > 0 {
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "… and {omitted} more ({} errors, {} warnings in all)",
                self.errors, self.warnings
            );
        }
        out
    }

    fn render_item(&self, out: &mut String, item: &Diagnostic) {
        let origin = match (&item.flag, item.line, item.column) {
            (Some(flag), ..) => flag.to_string(),
            (None, Some(line), Some(column)) => format!("{}:{line}:{column}", self.file),
            _ => self.file.clone(),
        };
        let origin = if origin.is_empty() { String::new() } else { format!("{origin}: ") };
        let _ =
            writeln!(out, "{origin}{}: {} [{}]", item.severity.as_str(), item.message, item.code.as_str());
        if let (Some(line), Place::Span(span)) = (item.line, &item.place) {
            self.render_line(out, line, span);
        }
        if let Some(help) = &item.help {
            let _ = writeln!(out, "      = help: {help}");
        }
    }

    fn render_line(&self, out: &mut String, line: usize, span: &Range<usize>) {
        let start = floor_boundary(&self.text, span.start);
        let end = floor_boundary(&self.text, span.end.max(start));
        let (before, after) = self.text.split_at(start);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_end = after.find('\n').map_or(self.text.len(), |at| start + at);
        let before = self.text.get(line_start..start).unwrap_or("");
        let marked = self.text.get(start..end.min(line_end)).unwrap_or("");
        let rest = self.text.get(start + marked.len()..line_end).unwrap_or("");
        let skipped = before.chars().count().saturating_sub(LINE_CHARS_MAX / 2);
        let before: String = before.chars().skip(skipped).map(printable).collect();
        let marked: String = marked.chars().take(LINE_CHARS_MAX / 2).map(printable).collect();
        let rest: String = rest.trim_end().chars().take(LINE_CHARS_MAX / 2).map(printable).collect();
        let pad = " ".repeat(before.chars().count());
        let carets = "^".repeat(marked.chars().count().max(1));
        let _ = writeln!(out, "{line:>5} | {}", format!("{before}{marked}{rest}").trim_end());
        let _ = writeln!(out, "      | {pad}{carets}");
    }

    /// For programs.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let items: Vec<serde_json::Value> = self.items.iter().map(|item| self.item_json(item)).collect();
        json!({
            "file": self.file,
            "valid": !self.has_errors(),
            "errors": self.errors,
            "warnings": self.warnings,
            "omitted": self.errors + self.warnings - self.items.len(),
            "diagnostics": items,
        })
    }

    fn item_json(&self, item: &Diagnostic) -> serde_json::Value {
        json!({
            "severity": item.severity.as_str(),
            "code": item.code.as_str(),
            "file": if item.flag.is_some() { None } else { Some(&self.file) },
            "flag": item.flag.as_deref(),
            "line": item.line,
            "column": item.column,
            "key": if item.key.is_empty() { None } else { Some(&item.key) },
            "message": item.message,
            "help": item.help,
        })
    }
}

/// Messages repeat text from the file and go to a terminal: no control characters, no endless ones.
pub(crate) fn clean(message: String) -> String {
    let ok = message.len() <= MESSAGE_CHARS_MAX && !message.contains(char::is_control);
    if ok { message } else { message.chars().take(MESSAGE_CHARS_MAX).map(printable).collect() }
}

/// The last character boundary at or before `at`: a parser's offset is never trusted to be one.
fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The file's own text goes to a terminal: tabs keep their column, other control characters do nothing.
fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}
