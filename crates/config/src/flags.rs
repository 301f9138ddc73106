//! A plan from command-line flags, for `fourfold run --listen … --to …`.
//!
//! Owns: which flag stands for which key.
//! Refuses: to check anything itself; flags become the same tree that a file becomes, so every
//! value is judged by the same definition and only the place in a message differs.
//! Driven by: the command line.

use std::sync::Arc;

use crate::diagnostic::{Code, Diagnostic, Diagnostics, Place, clean};
use crate::document::{Entry, Node, Value};
use crate::keys::{admin, listener, pool, server, top};
use crate::{Checked, finish};

/// The name of the one pool, in logs and counters.
pub const FLAGS_POOL_NAME: &str = "default";

/// Flags as given, values unparsed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags<'a> {
    /// `--listen`
    pub listen: &'a [String],
    /// `--mode`
    pub mode: Option<&'a str>,
    /// `--to`
    pub to: &'a [String],
    /// `--source`
    pub source: &'a [String],
    /// `--max-connections`
    pub max_connections: Option<&'a str>,
    /// `--shards`
    pub shards: Option<&'a str>,
    /// `--engine`
    pub engine: Option<&'a str>,
    /// `--admin`
    pub admin: Option<&'a str>,
}

/// Builds a plan with a listener for every `--listen` (named `listen-1`, `listen-2`, …) and one pool
/// of every `--to`, from every `--source`. Diagnostics name the flag.
pub fn from_flags(flags: &Flags<'_>) -> Result<Checked, Diagnostics> {
    let mut found = Diagnostics::new("", "");
    let mut required = |code, flag: &str, given: &[String], message: &str| {
        if given.is_empty() {
            found.push(Diagnostic::error(code, &flag_place(flag, "ADDR"), "", message));
        }
    };
    required(Code::NoListener, "--listen", flags.listen, "is needed: the address to listen on");
    required(Code::EmptyPool, "--to", flags.to, "is needed: a server to pass connections on to");
    let mut root = vec![
        entry(
            top::LISTENER.name,
            list(flags.listen.iter().enumerate().map(|(n, bind)| listener_node(n, bind, flags))),
        ),
        entry(top::POOL.name, list([pool_node(flags)])),
    ];
    root.extend(optional(top::MAX_CONNECTIONS.name, "--max-connections", flags.max_connections));
    root.extend(optional(top::SHARDS.name, "--shards", flags.shards));
    root.extend(optional(top::ENGINE.name, "--engine", flags.engine));
    root.extend(flags.admin.map(|text| {
        let place = flag_place("--admin", text);
        let listen = entry(admin::LISTEN.name, Node::text(place.clone(), text));
        entry(top::ADMIN.name, Node { place, value: Value::Table(vec![listen]) })
    }));
    let partial = found.has_errors();
    finish(&root, partial, found)
}

fn listener_node(n: usize, bind: &str, flags: &Flags<'_>) -> Node {
    let place = flag_place("--listen", bind);
    let text = |text: &str| Node::text(place.clone(), text);
    let mut entries = vec![
        entry(listener::NAME.name, text(&format!("listen-{}", n + 1))),
        entry(listener::BIND.name, text(bind)),
        entry(listener::POOL.name, text(FLAGS_POOL_NAME)),
    ];
    entries.extend(optional(listener::MODE.name, "--mode", flags.mode));
    Node { place: place.clone(), value: Value::Table(entries) }
}

fn pool_node(flags: &Flags<'_>) -> Node {
    let server_node = |address: &String| {
        let place = flag_place("--to", address);
        let address = entry(server::ADDRESS.name, Node::text(place.clone(), address));
        Node { place, value: Value::Table(vec![address]) }
    };
    let source_node = |source: &String| Node::text(flag_place("--source", source), source);
    let mut entries = vec![
        entry(pool::NAME.name, Node::text(Place::Whole, FLAGS_POOL_NAME)),
        entry(pool::SERVER.name, list(flags.to.iter().map(server_node))),
    ];
    if let Some(last) = flags.source.last() {
        let mut sources = list(flags.source.iter().map(source_node));
        sources.place = flag_place("--source", last);
        entries.push(entry(pool::SOURCES.name, sources));
    }
    Node { place: Place::Whole, value: Value::Table(entries) }
}

fn optional(key: &str, flag: &str, value: Option<&str>) -> Option<Entry> {
    value.map(|text| entry(key, Node::text(flag_place(flag, text), text)))
}

fn entry(key: &str, node: Node) -> Entry {
    Entry { key: key.to_owned(), key_place: node.place.clone(), node }
}

fn list(nodes: impl IntoIterator<Item = Node>) -> Node {
    Node { place: Place::Whole, value: Value::List(nodes.into_iter().collect()) }
}

fn flag_place(flag: &str, value: &str) -> Place {
    Place::Flag(Arc::from(clean(format!("{flag} {value}"))))
}
