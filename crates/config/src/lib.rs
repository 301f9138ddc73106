//! Configuration: text in, an immutable [`Plan`] or every error at once out.
//!
//! Owns: the table of keys, both notations (TOML and the exact JSON form of it), validation, and the
//! wording of everything that can be wrong.
//! Refuses: files, networks and the machine. Whether an address is on this machine or a port is free
//! is the program's to find out; here the same text always yields the same answer.
//! Driven by: `fourfold run` and `fourfold check`, which read the file (at most
//! [`CONFIG_BYTES_MAX`] bytes) and pass its bytes.
//!
//! ```
//! let text = r#"
//! [[listener]]
//! name = "edge"
//! bind = "0.0.0.0:8080"
//! pool = "chat"
//! [[pool]]
//! name = "chat"
//! [[pool.server]]
//! address = "10.0.1.1:9000"
//! "#;
//! let checked = fourfold_config::parse("fourfold.toml", text.as_bytes()).unwrap();
//! assert_eq!(checked.plan.listeners[0].binds[0].port(), 8080);
//!
//! let found = fourfold_config::parse("fourfold.toml", b"max_conections = 5").unwrap_err();
//! assert!(found.render_human().starts_with("fourfold.toml:1:1: error: unknown key \"max_conections\""));
//! ```
#![forbid(unsafe_code)]

mod build;
mod check;
mod diagnostic;
mod document;
mod explain;
mod flags;
mod form;
mod keys;
mod plan;
mod reference;
mod section;
mod spaces;
mod suggest;
mod value;

pub use diagnostic::{
    Code, DIAGNOSTICS_KEPT_MAX, DIAGNOSTICS_PRINTED_MAX, Diagnostic, Diagnostics, Severity,
};
pub use explain::{Explanation, Outcome, Question, Taken, explain};
pub use flags::{FLAGS_POOL_NAME, Flags, from_flags};
pub use form::parse_admin;
pub use fourfold_balance::Algorithm;
pub use fourfold_ports::{PortSpan, SourceSet};
pub use plan::{
    AdminListen, EngineChoice, HostPort, Listener, Log, LogFormat, LogLevel, Mode, Plan, Pool, PortMode,
    ProxyProtocolIn, Server, Splice, SpliceMode, http, pool, template,
};
pub use reference::{json_schema, key_reference};
pub use value::{ValueError, parse_bytes, parse_count, parse_duration_ms};

use std::collections::HashMap;
use std::sync::Arc;

use diagnostic::Place;
use document::Entry;
use keys::Section;
use section::Reader;
use value::quote;

/// A file larger than this is no configuration. The program need not read more than one byte beyond.
pub const CONFIG_BYTES_MAX: usize = 4 << 20;

/// A valid configuration, and what is doubtful about it.
#[derive(Clone, Debug)]
pub struct Checked {
    pub plan: Plan,
    /// Never contains an error.
    pub warnings: Diagnostics,
    files: Vec<FileUse>,
}

/// A file that the configuration names.
#[derive(Clone, Debug)]
struct FileUse {
    file: String,
    key: String,
    place: Place,
}

/// Error pages and fixed responses are held in memory.
pub const FILE_BYTES_MAX: usize = 64 << 10;

impl Checked {
    /// Files that error pages and fixed responses name, as written.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|one| one.file.as_str())
    }

    /// Puts the contents of [`Checked::files`] into the plan. `read` need not read more than one byte beyond
    /// [`FILE_BYTES_MAX`]; why it could not read a file becomes an error with the file's place in the
    /// configuration.
    pub fn load_files(
        mut self,
        mut read: impl FnMut(&str) -> Result<Vec<u8>, String>,
    ) -> Result<Checked, Diagnostics> {
        let mut contents: HashMap<&str, Arc<[u8]>> = HashMap::new();
        let mut found = self.warnings.clone();
        for one in &self.files {
            match read(&one.file) {
                Ok(bytes) if bytes.len() <= FILE_BYTES_MAX => {
                    contents.insert(&one.file, Arc::from(bytes));
                }
                Ok(_) => found.push(one.error(&format!("it is larger than {} KiB", FILE_BYTES_MAX >> 10))),
                Err(why) => found.push(one.error(&why)),
            }
        }
        for content in self.plan.contents_mut() {
            if let Some(bytes) = content.file.as_deref().and_then(|file| contents.get(file)) {
                content.bytes = bytes.clone();
            }
        }
        if found.has_errors() { Err(found.finish()) } else { Ok(self) }
    }
}

impl FileUse {
    fn error(&self, why: &str) -> Diagnostic {
        let message = format!("cannot use the file {}: {why}", quote(&self.file));
        Diagnostic::error(Code::Unreadable, &self.place, self.key.clone(), message)
            .help("files are looked for from the configuration's folder, unless their name begins with a /")
    }
}

/// Parses and validates; `file` is only for messages.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Checked, Diagnostics> {
    let text = text_of(file, bytes)?;
    let mut found = Diagnostics::new(file, text);
    let entries = document::read(text, &mut found);
    let partial = found.has_errors();
    if entries.is_empty() && !partial {
        let help = "it needs a [[listener]] and a [[pool]]";
        return Err(lone(file, text, Code::Empty, &Place::Whole, "the file says nothing", help));
    }
    found.mute_found_lines();
    finish(&entries, partial, found)
}

fn text_of<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a str, Diagnostics> {
    if bytes.len() > CONFIG_BYTES_MAX {
        let message = format!("larger than {} MiB, the most that is read", CONFIG_BYTES_MAX >> 20);
        return Err(lone(file, "", Code::TooLarge, &Place::Whole, &message, "is this the right file?"));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        let (valid, rest) = bytes.split_at(at);
        let message =
            format!("not UTF-8: byte 0x{:02x} at offset {at}", rest.first().copied().unwrap_or_default());
        let valid = std::str::from_utf8(valid).unwrap_or_default();
        lone(file, valid, Code::NotUtf8, &Place::Span(at..at), &message, "save the file as UTF-8")
    })
}

fn lone(file: &str, text: &str, code: Code, place: &Place, message: &str, help: &str) -> Diagnostics {
    let mut found = Diagnostics::new(file, text);
    found.push(Diagnostic::error(code, place, "", message).help(help));
    found.finish()
}

/// The common end of both ways: sections, cross-checks, plan.
fn finish(entries: &[Entry], partial: bool, mut found: Diagnostics) -> Result<Checked, Diagnostics> {
    let mut reader = Reader { found: &mut found, partial };
    let root = reader.section(Section::Top, "", &Place::Whole, entries);
    if !partial {
        check::check(&root, &mut found);
    }
    if found.has_errors() {
        return Err(found.finish());
    }
    match build::plan(&root) {
        Some(plan) => Ok(Checked { plan, warnings: found.finish(), files: build::files(&root) }),
        None => {
            let message = "the configuration was found right, yet no plan came of it; please report this";
            found.push(Diagnostic::error(Code::Internal, &Place::Whole, "", message));
            Err(found.finish())
        }
    }
}
