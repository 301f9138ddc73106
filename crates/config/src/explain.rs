//! Which listener, route and pool a request would take, and why not the others.
//!
//! Owns: a URL and what goes with it as a request, the router's verdicts in words and as JSON.
//! Refuses: to send anything, and to guess at what only a running proxy knows (health, load, limits reached).
//! Driven by: `fourfold check FILE --explain URL`.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use fourfold_http::h1::is_token;
use fourfold_http::path::normalize;
use fourfold_http::route::{Ask, PathMatch, Verdict};
use serde_json::{Value, json};

use crate::diagnostic::Code;
use crate::plan::http::{Action, Http, PathRewrite, Route};
use crate::plan::template::{Template, Variable};
use crate::plan::{Listener, Mode, Plan};
use crate::value::{ValueError, quote};

/// Routes that are shown in words; JSON has all.
const ROUTES_SHOWN_MAX: usize = 40;

/// What is asked, as on the command line.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// `http://host:port/path?query`, or a path alone.
    pub url: String,
    pub method: String,
    /// `Name: value` each; a Host among them counts instead of the URL's.
    pub headers: Vec<String>,
    /// The client's address.
    pub from: Option<IpAddr>,
}

/// The same, taken apart.
struct Request {
    scheme: String,
    host: String,
    /// `None`: not in the URL, so any listener will do.
    port: Option<u16>,
    path: String,
    query: Option<String>,
    method: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    from: Option<IpAddr>,
}

/// The answer: what every listener that the URL leads to does with the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub listeners: Vec<Taken>,
    /// No listener has the URL's port.
    pub port_is_nobodys: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub listener: String,
    /// As it is routed and forwarded.
    pub path: String,
    pub outcome: Outcome,
    /// What became of each route, in the order of the file.
    pub routes: Vec<(String, String)>,
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Route {
        name: String,
        /// Every pool that it may go to.
        pools: Vec<String>,
        /// In words.
        action: String,
    },
    /// A tcp listener's pool.
    Tcp { pool: String },
    /// Answered by Fourfold itself.
    Refused { status: u16, why: String },
}

/// `Err`: the question is malformed.
pub fn explain(plan: &Plan, question: &Question) -> Result<Explanation, ValueError> {
    let request = Request::parse(question)?;
    let listens = |listener: &&Listener, port| listener.binds.iter().any(|bind| bind.port() == port);
    let at_port: Vec<&Listener> = match request.port {
        Some(port) => plan.listeners.iter().filter(|one| listens(one, port)).collect(),
        None => Vec::new(),
    };
    let nobodys = request.port.filter(|_| at_port.is_empty());
    let asked = if at_port.is_empty() {
        plan.listeners.iter().filter(|one| one.mode == Mode::Http).collect()
    } else {
        at_port
    };
    let listeners = asked.into_iter().map(|listener| taken(plan, listener, &request)).collect();
    Ok(Explanation { listeners, port_is_nobodys: nobodys })
}

impl Request {
    fn parse(question: &Question) -> Result<Request, ValueError> {
        let url = question.url.as_str();
        let bad = |why: &str| {
            ValueError::new(Code::BadPath, format!("{} {why}", quote(url)))
                .help("write http://example.com/path?query, or /path")
        };
        let (scheme, rest) = match url.split_once("://") {
            Some((scheme @ ("http" | "https" | "ws" | "wss"), rest)) => (scheme, rest),
            Some(_) => return Err(bad("is no http URL")),
            None if url.starts_with('/') => ("http", url),
            None => return Err(bad("is neither a URL nor a path")),
        };
        let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let target = target.split('#').next().unwrap_or_default();
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let mut request = Request {
            scheme: scheme.to_owned(),
            host: authority.to_owned(),
            port: port_of(authority).map_err(|()| bad("has a port that is none"))?,
            path: if path.is_empty() { "/".to_owned() } else { path.to_owned() },
            query: query.map(str::to_owned),
            method: question.method.clone(),
            headers: Vec::with_capacity(question.headers.len()),
            from: question.from,
        };
        if !is_token(request.method.as_bytes()) {
            return Err(ValueError::new(Code::BadMethod, format!("{} is no method", quote(&request.method))));
        }
        for text in &question.headers {
            let (name, value) = header(text)?;
            match name.as_str() {
                "host" => request.host = value,
                _ => request.headers.push((name, value)),
            }
        }
        Ok(request)
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_bytes())
    }
}

fn port_of(authority: &str) -> Result<Option<u16>, ()> {
    match authority.rsplit_once(':') {
        Some((_, port)) if !port.contains(']') => port.parse().map(Some).map_err(|_| ()),
        _ => Ok(None),
    }
}

fn header(text: &str) -> Result<(String, String), ValueError> {
    let bad = || {
        ValueError::new(Code::BadHeader, format!("{} is no header", quote(text))).help("write 'Name: value'")
    };
    let (name, value) = text.split_once(':').ok_or_else(bad)?;
    let (name, value) = (name.trim_end(), value.trim());
    let fine = is_token(name.as_bytes()) && fourfold_http::h1::is_field_value(value.as_bytes());
    if fine { Ok((name.to_ascii_lowercase(), value.to_owned())) } else { Err(bad()) }
}

fn taken(plan: &Plan, listener: &Listener, request: &Request) -> Taken {
    let mut taken = Taken {
        listener: listener.name.clone(),
        path: request.path.clone(),
        outcome: Outcome::Refused { status: 404, why: "no route takes it".into() },
        routes: Vec::new(),
        notes: client_notes(listener, request),
    };
    let Some(http) = &listener.http else {
        let pool = listener.pool.and_then(|pool| plan.pools.get(pool));
        taken.outcome = Outcome::Tcp { pool: pool.map(|pool| pool.name.clone()).unwrap_or_default() };
        return taken;
    };
    let mut normal = Vec::new();
    match normalize(request.path.as_bytes(), &http.paths, &mut normal) {
        Ok(false) => {}
        Ok(true) => taken.path = String::from_utf8_lossy(&normal).into_owned(),
        Err(reject) => {
            taken.outcome = Outcome::Refused { status: reject.status(), why: reject.explain().into() };
            return taken;
        }
    }
    route(plan, listener, http, request, &mut taken);
    taken
}

fn client_notes(listener: &Listener, request: &Request) -> Vec<String> {
    let Some(from) = request.from else { return Vec::new() };
    let mut notes = Vec::new();
    if listener.proxy_protocol.as_ref().is_some_and(|proxy| proxy.trust.contains(from)) {
        notes.push(format!("{from} may name the client by the PROXY protocol"));
    }
    if listener.http.as_ref().is_some_and(|http| http.trusted_proxies.contains(from)) {
        notes.push(format!("{from} is a trusted proxy: its forwarding headers are believed"));
    }
    if notes.is_empty() {
        notes.push(format!("{from} is the client itself: forwarding headers that it sends are replaced"));
    }
    notes
}

fn route(plan: &Plan, listener: &Listener, http: &Http, request: &Request, taken: &mut Taken) {
    let path = taken.path.clone();
    let lookup = |name: &str| request.header(name);
    let ask = Ask {
        method: request.method.as_bytes(),
        host: request.host.as_bytes(),
        path: path.as_bytes(),
        query: request.query.as_deref().map(str::as_bytes),
        header: &lookup,
    };
    let verdicts = http.routes.router().explain(&ask);
    for (one, verdict) in http.routes.iter().zip(&verdicts) {
        taken.routes.push((one.name.clone(), words(one, *verdict, http)));
    }
    let Some((_, chosen)) = http.routes.find(&ask) else { return };
    let pools = pools_of(plan, &chosen.action);
    let action =
        action_words(&chosen.action, &pools, |template| shown(template, listener, chosen, request, &path));
    taken.outcome = Outcome::Route { name: chosen.name.clone(), pools, action };
    if let Some(rewrite) = &chosen.rewrite.path {
        taken.notes.push(format!("the server sees {}", rewritten(rewrite, &path)));
    }
    if let Some(host) = &chosen.rewrite.host {
        taken.notes.push(format!("the server sees Host: {host}"));
    }
    if let Some(mirror) = &chosen.mirror {
        let pool = plan.pools.get(mirror.pool).map_or("", |pool| pool.name.as_str());
        taken.notes.push(format!("{}% of such requests are copied to pool {}", mirror.percent, quote(pool)));
    }
}

fn words(route: &Route, verdict: Verdict, http: &Http) -> String {
    let spec = &route.spec;
    match verdict {
        Verdict::Chosen => "takes it".into(),
        Verdict::Beaten { by } => {
            let other = http.routes.get(by).map_or("", |route| route.name.as_str());
            format!("would take it, but route {} is more specific or stands before it", quote(other))
        }
        Verdict::Host => "another host".into(),
        Verdict::Path => match &spec.path {
            PathMatch::Exact(path) => format!("the path is not {path}"),
            PathMatch::Prefix(path) => format!("the path is not below {path}"),
            PathMatch::Any => "another path".into(),
        },
        Verdict::Method => format!("the method is not {}", spec.methods.join(", ")),
        Verdict::Header(n) => {
            let name = spec.headers.get(n).map_or("", |header| header.name.as_str());
            format!("the condition on header {name} does not hold")
        }
        Verdict::Query(n) => {
            let name = spec.query.get(n).map_or("", |query| query.name.as_str());
            format!("the condition on query parameter {name} does not hold")
        }
    }
}

fn pools_of(plan: &Plan, action: &Action) -> Vec<String> {
    let name = |pool: &usize| plan.pools.get(*pool).map(|pool| pool.name.clone());
    match action {
        Action::Pool(pool) => name(pool).into_iter().collect(),
        Action::Split(pools) => pools.iter().filter_map(|(pool, _)| name(pool)).collect(),
        Action::Redirect { .. } | Action::Respond { .. } => Vec::new(),
    }
}

fn action_words(action: &Action, pools: &[String], shown: impl Fn(&Template) -> String) -> String {
    match action {
        Action::Pool(_) => format!("pool {}", quote(pools.first().map_or("", String::as_str))),
        Action::Split(weights) => {
            let sum: u64 = weights.iter().map(|(_, weight)| u64::from(*weight)).sum();
            let share =
                |(name, (_, weight)): (&String, &(usize, u32))| format!("{} {weight} of {sum}", quote(name));
            format!("pools {}", pools.iter().zip(weights).map(share).collect::<Vec<_>>().join(", "))
        }
        Action::Redirect { status, location } => format!("redirect {status} to {}", shown(location)),
        Action::Respond { status, .. } => format!("fixed response {status}"),
    }
}

fn rewritten(rewrite: &PathRewrite, path: &str) -> String {
    match rewrite {
        PathRewrite::Path(path) => path.clone(),
        PathRewrite::Prefix { matched_bytes, with } => {
            let path = format!("{with}{}", path.get(*matched_bytes..).unwrap_or_default());
            if path.is_empty() { "/".into() } else { path }
        }
    }
}

fn shown(template: &Template, listener: &Listener, route: &Route, request: &Request, path: &str) -> String {
    let mut out = Vec::new();
    let query = request.query.as_deref();
    let fits = template.render(&mut out, |variable, out| {
        let text = match variable {
            Variable::Host => request.host.clone(),
            Variable::Path => path.to_owned(),
            Variable::Query => query.unwrap_or_default().to_owned(),
            Variable::Uri => query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}")),
            Variable::Method => request.method.clone(),
            Variable::Scheme => request.scheme.clone(),
            Variable::Listener => listener.name.clone(),
            Variable::Route => route.name.clone(),
            Variable::ClientIp | Variable::PeerIp => {
                request.from.map(|ip| ip.to_string()).unwrap_or_default()
            }
            Variable::ClientPort | Variable::RequestId => String::new(),
        };
        out.extend_from_slice(text.as_bytes());
    });
    if fits { String::from_utf8_lossy(&out).into_owned() } else { "a location that is too long".into() }
}

impl Explanation {
    /// Whether every listener has something to do with it, other than to refuse it.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        let refused = |one: &Taken| matches!(one.outcome, Outcome::Refused { .. });
        !self.listeners.is_empty() && !self.listeners.iter().any(refused)
    }

    #[must_use]
    pub fn to_json(&self) -> Value {
        let listeners: Vec<Value> = self.listeners.iter().map(Taken::to_json).collect();
        json!({ "taken": self.is_taken(), "port_without_listener": self.port_is_nobodys, "listeners": listeners })
    }
}

impl Taken {
    fn to_json(&self) -> Value {
        let routes: Vec<Value> =
            self.routes.iter().map(|(name, why)| json!({ "name": name, "verdict": why })).collect();
        let (route, pools, status, action) = match &self.outcome {
            Outcome::Route { name, pools, action } => (Some(name), pools.clone(), None, action.clone()),
            Outcome::Tcp { pool } => (None, vec![pool.clone()], None, format!("pool {}", quote(pool))),
            Outcome::Refused { status, why } => (None, Vec::new(), Some(*status), why.clone()),
        };
        json!({
            "listener": self.listener,
            "path": self.path,
            "route": route,
            "pools": pools,
            "refused_with": status,
            "action": action,
            "notes": self.notes,
            "routes": routes,
        })
    }
}

/// For people.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(port) = self.port_is_nobodys {
            writeln!(f, "no listener has port {port}; these would do:")?;
        }
        if self.listeners.is_empty() {
            writeln!(f, "there is no listener in http mode")?;
        }
        self.listeners.iter().try_for_each(|taken| write!(f, "{taken}"))
    }
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "listener {}", quote(&self.listener))?;
        match &self.outcome {
            Outcome::Route { name, action, .. } => {
                writeln!(f, "  path {}", printable(&self.path))?;
                writeln!(f, "  route {}: {}", quote(name), printable(action))?;
            }
            Outcome::Tcp { pool } => writeln!(f, "  tcp: everything goes to pool {}", quote(pool))?,
            Outcome::Refused { status, why } => writeln!(f, "  refused with {status}: {}", printable(why))?,
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "  {}", printable(note)))?;
        for (name, why) in self.routes.iter().take(ROUTES_SHOWN_MAX) {
            writeln!(f, "    {}: {}", quote(name), printable(why))?;
        }
        match self.routes.len().checked_sub(ROUTES_SHOWN_MAX) {
            Some(more @ 1..) => writeln!(f, "    … and {more} more routes"),
            _ => Ok(()),
        }
    }
}

/// It goes to a terminal, and parts of it came from outside.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            // Writing to a String cannot fail.
            true => drop(write!(out, "{}", c.escape_debug())),
            false => out.push(c),
        }
    }
    out
}
