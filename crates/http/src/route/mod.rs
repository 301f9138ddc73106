//! Which route a request takes.
//!
//! Among the routes that match, the most specific one: by host (exact, then the longest wildcard suffix, then any), then by path
//! (exact, then the longest prefix, then any), then by the number of further conditions, then the one that stands first. So the
//! order of routes matters only between equals, and adding one never changes requests that it does not match.
//!
//! Hosts and paths are found by binary search, see `keys`: ten thousand routes cost twice what ten cost (190 and 90 ns), as long as
//! they differ in host or path. Those that differ in conditions only are tried in turn.
//!
//! ```
//! use fourfold_http::route::{Ask, HostMatch, PathMatch, Router, Spec};
//!
//! let route = |host: &str, path: PathMatch| Spec { hosts: vec![host.parse().unwrap()], path, ..Spec::default() };
//! let router = Router::new(&[
//!     route("*.example.com", PathMatch::Any),
//!     route("api.example.com", PathMatch::Prefix("/v1".into())),
//! ]);
//! let ask = |host: &'static str, path: &'static str| Ask {
//!     method: b"GET", host: host.as_bytes(), path: path.as_bytes(), query: None, header: &|_| None,
//! };
//! assert_eq!(router.find(&ask("API.example.com:8080", "/v1/users")), Some(1));
//! assert_eq!(router.find(&ask("api.example.com", "/v10")), Some(0));
//! assert_eq!(router.find(&ask("example.com", "/v1")), None);
//! ```

mod condition;
mod host;
mod keys;
mod table;

pub use condition::{FieldMatch, QueryMatch, ValueMatch};
pub use host::{HostMatch, InvalidHost};

use table::Table;

/// What is known of a request. `path` is normal ([`crate::path::normalize`]).
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    pub method: &'a [u8],
    /// May carry a port, which does not count; empty when unknown.
    pub host: &'a [u8],
    pub path: &'a [u8],
    pub query: Option<&'a [u8]>,
    /// The value of the field with this lower-case name.
    pub header: &'a dyn Fn(&str) -> Option<&'a [u8]>,
}

/// What a route matches: all of it must hold.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Spec {
    /// One of them; any host if there is none.
    pub hosts: Vec<HostMatch>,
    pub path: PathMatch,
    /// One of them, case-sensitive; any method if there is none.
    pub methods: Vec<String>,
    pub headers: Vec<FieldMatch>,
    pub query: Vec<QueryMatch>,
}

/// Texts are normal paths ([`crate::path::normalize`]).
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub enum PathMatch {
    #[default]
    Any,
    Exact(String),
    /// Whole segments: `/a` matches `/a` and `/a/b`, not `/ab`. `/a/` matches `/a/` and `/a/b`, not `/a`.
    Prefix(String),
}

impl PathMatch {
    fn holds(&self, path: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(text) => path == text.as_bytes(),
            Self::Prefix(text) => begins_with_segments(path, text.as_bytes()),
        }
    }
}

/// `prefix` ends where a segment of `path` does.
fn begins_with_segments(path: &[u8], prefix: &[u8]) -> bool {
    let Some(rest) = path.strip_prefix(prefix) else { return false };
    prefix.ends_with(b"/") || matches!(rest, [] | [b'/', ..])
}

/// Why a route is taken or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Chosen,
    /// Matches, but this one is more specific or stands before it.
    Beaten {
        by: usize,
    },
    Host,
    Path,
    Method,
    /// This one of [`Spec::headers`] does not hold.
    Header(usize),
    /// This one of [`Spec::query`] does not hold.
    Query(usize),
}

/// Immutable; shared by shards.
#[derive(Debug)]
pub struct Router {
    specs: Vec<Spec>,
    table: Table,
}

impl Router {
    pub fn new(specs: &[Spec]) -> Self {
        Self { specs: specs.to_vec(), table: Table::new(specs) }
    }

    /// The index of the route among those the router was made of.
    pub fn find(&self, ask: &Ask) -> Option<usize> {
        self.table
            .find(ask.host, ask.path, |index| self.specs.get(index).is_some_and(|spec| spec.agrees(ask)))
    }

    /// What became of each route, in their order. For people: it looks at every one.
    pub fn explain(&self, ask: &Ask) -> Vec<Verdict> {
        let chosen = self.find(ask);
        let verdict = |(index, spec): (usize, &Spec)| match (spec.objection(ask), chosen) {
            (Some(objection), _) => objection,
            (None, Some(by)) if by != index => Verdict::Beaten { by },
            (None, _) => Verdict::Chosen,
        };
        self.specs.iter().enumerate().map(verdict).collect()
    }
}

/// The same specs make the same router.
impl PartialEq for Router {
    fn eq(&self, other: &Self) -> bool {
        self.specs == other.specs
    }
}

impl Spec {
    /// No request is refused by it.
    pub fn is_everything(&self) -> bool {
        self.hosts.is_empty() && self.path == PathMatch::Any && self.conditions() == 0
    }

    /// How many conditions beyond host and path.
    fn conditions(&self) -> usize {
        usize::from(!self.methods.is_empty()) + self.headers.len() + self.query.len()
    }

    /// Do the conditions beyond host and path hold?
    fn agrees(&self, ask: &Ask) -> bool {
        self.agrees_with_method(ask.method)
            && self.headers.iter().all(|header| header.holds(ask))
            && self.query.iter().all(|query| query.holds(ask.query))
    }

    fn agrees_with_method(&self, method: &[u8]) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|name| name.as_bytes() == method)
    }

    fn objection(&self, ask: &Ask) -> Option<Verdict> {
        if !self.hosts.is_empty() && !self.hosts.iter().any(|host| host.holds(ask.host)) {
            return Some(Verdict::Host);
        }
        if !self.path.holds(ask.path) {
            return Some(Verdict::Path);
        }
        if !self.agrees_with_method(ask.method) {
            return Some(Verdict::Method);
        }
        let header = self.headers.iter().position(|header| !header.holds(ask)).map(Verdict::Header);
        header.or_else(|| self.query.iter().position(|query| !query.holds(ask.query)).map(Verdict::Query))
    }
}
