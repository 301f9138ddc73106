//! What a listener in http mode does with a request, before a pool is asked for a server.
//!
//! Owns: limits and deadlines of the client's side, routes and their actions, what is said upstream about
//! the client, error pages, access log, rates.
//! Refuses: file contents; an error page names its file and has the bytes once
//! [`Plan::load_files`](crate::Plan::load_files) was given a way to read them.

use std::sync::Arc;

use fourfold_http::h1::Limits;
use fourfold_http::path::PathRules;
use fourfold_http::route::{Ask, Router, Spec};
use fourfold_l4::Cidrs;
use fourfold_l4::rate::Rate;

use super::pool::RetryOn;
use super::template::Template;

/// A listener's http keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Http {
    pub limits: Limits,
    /// `None`: no limit.
    pub body_bytes_max: Option<u64>,
    /// Requests on one connection, then it is closed; 0: no limit.
    pub requests_max: u64,
    /// From the accepted connection to the first byte.
    pub first_byte_timeout_ms: u64,
    /// From a request's first byte to the end of its head.
    pub header_timeout_ms: u64,
    /// Between two pieces of a request's body.
    pub body_timeout_ms: u64,
    /// While the client takes nothing of what it asked for.
    pub send_timeout_ms: u64,
    /// Between two requests.
    pub keep_alive_timeout_ms: u64,
    /// A WebSocket or other upgraded connection without a byte in either direction; 0: never.
    pub upgrade_timeout_ms: u64,
    pub paths: PathRules,
    /// From these the forwarding fields that came with the request are believed and extended.
    pub trusted_proxies: Cidrs,
    pub forwarded: Forwarded,
    /// The name in Via; `None`: no Via.
    pub via: Option<String>,
    /// The field that carries the request's id; `None`: none is made.
    pub request_id: Option<String>,
    pub server_header: ServerHeader,
    pub errors: ErrorFormat,
    /// One for a status at most.
    pub error_pages: Vec<ErrorPage>,
    /// Answers of our own say why in X-Fourfold-Reason.
    pub explain_errors: bool,
    /// Every one of them must have room.
    pub request_rates: Vec<RateLimit>,
    /// In the order of the file; the listener's `pool` comes last, as a route that takes everything. What
    /// none of them takes is answered with 404.
    pub routes: Routes,
}

/// Routes, and the way to find one. Read only: the one is made of the other.
#[derive(Clone, Debug)]
pub struct Routes {
    list: Vec<Route>,
    router: Arc<Router>,
}

impl Routes {
    #[must_use]
    pub fn new(list: Vec<Route>) -> Routes {
        let specs: Vec<Spec> = list.iter().map(|route| route.spec.clone()).collect();
        Routes { router: Arc::new(Router::new(&specs)), list }
    }

    #[must_use]
    pub fn router(&self) -> &Router {
        &self.router
    }

    #[must_use]
    pub fn find(&self, ask: &Ask) -> Option<(usize, &Route)> {
        let index = self.router.find(ask)?;
        Some((index, self.list.get(index)?))
    }

    pub(crate) fn actions_mut(&mut self) -> impl Iterator<Item = &mut Action> {
        self.list.iter_mut().map(|route| &mut route.action)
    }
}

impl std::ops::Deref for Routes {
    type Target = [Route];
    fn deref(&self) -> &[Route] {
        &self.list
    }
}

impl PartialEq for Routes {
    fn eq(&self, other: &Routes) -> bool {
        self.list == other.list
    }
}

/// The name of the route that a listener's `pool` stands for.
pub const DEFAULT_ROUTE_NAME: &str = "default";

impl Default for Http {
    fn default() -> Http {
        Http {
            limits: Limits::default(),
            body_bytes_max: None,
            requests_max: 0,
            first_byte_timeout_ms: 60_000,
            header_timeout_ms: 10_000,
            body_timeout_ms: 30_000,
            send_timeout_ms: 30_000,
            keep_alive_timeout_ms: 75_000,
            upgrade_timeout_ms: 3_600_000,
            paths: PathRules::default(),
            trusted_proxies: Cidrs::default(),
            forwarded: Forwarded::X,
            via: None,
            request_id: Some("x-request-id".into()),
            server_header: ServerHeader::Pass,
            errors: ErrorFormat::Auto,
            error_pages: Vec::new(),
            explain_errors: false,
            request_rates: Vec::new(),
            routes: Routes::new(Vec::new()),
        }
    }
}

impl Http {
    /// Everything goes to one pool.
    #[must_use]
    pub fn to_pool(pool: usize) -> Http {
        Http { routes: Routes::new(vec![Route::everything(pool)]), ..Http::default() }
    }

    /// The page for this status, one of its own before one of its class.
    #[must_use]
    pub fn error_page(&self, status: u16) -> Option<&Content> {
        let page = |wanted: ErrorStatus| self.error_pages.iter().find(move |page| page.status == wanted);
        let found = page(ErrorStatus::One(status)).or_else(|| page(ErrorStatus::Class(status / 100)));
        found.map(|page| &page.content)
    }
}

/// Which fields tell the server who the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// X-Forwarded-For, -Proto, -Host, -Port and X-Real-IP.
    X,
    /// Forwarded, RFC 7239.
    Rfc7239,
    Both,
    Off,
}

/// What becomes of the server's Server field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerHeader {
    Pass,
    Remove,
    /// `Server: fourfold`
    Overwrite,
}

/// How an answer of our own is written when no page of the user's is there for its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorFormat {
    /// As the request's Accept wants it.
    Auto,
    Html,
    Json,
    Text,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorPage {
    pub status: ErrorStatus,
    pub content: Content,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorStatus {
    One(u16),
    /// 4 or 5.
    Class(u16),
}

/// A body of our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Where `bytes` come from; `None`: from the configuration itself.
    pub file: Option<String>,
    /// Empty until the file was loaded.
    pub bytes: Arc<[u8]>,
    pub content_type: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    pub format: AccessFormat,
    pub to: AccessTarget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessFormat {
    Json,
    /// The "combined" format of Apache httpd and nginx, of requests.
    Combined,
    /// The "tcplog" format of HAProxy, of connections.
    Tcplog,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AccessTarget {
    Stdout,
    File(String),
    /// A UNIX datagram socket, such as /dev/log.
    SyslogUnix(String),
    SyslogUdp(std::net::SocketAddr),
}

/// `count` in every `per_ms`, and `burst` at once, for each key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub key: RateKey,
    pub count: u32,
    pub per_ms: u64,
    pub burst: u32,
    /// Clients that are told apart at the same time.
    pub keys_max: usize,
}

impl RateLimit {
    #[must_use]
    pub fn rate(&self) -> Rate {
        Rate::new(self.count, self.per_ms.saturating_mul(1_000), self.burst)
    }
}

/// Who shares one allowance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RateKey {
    /// All clients together.
    Global,
    /// A client: this much of its IPv4 or IPv6 address.
    Prefix(u8, u8),
    /// The value of a request field, lower case; a request without it falls under its client's address.
    Header(String),
}

/// What a request must be like, and what is done with it then.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub name: String,
    pub spec: Spec,
    pub action: Action,
    pub rewrite: Rewrite,
    pub request_fields: FieldOps,
    pub response_fields: FieldOps,
    /// `None`, here and below: as the pool or the listener says.
    pub response_timeout_ms: Option<u64>,
    pub response_idle_timeout_ms: Option<u64>,
    pub upgrade_timeout_ms: Option<u64>,
    pub body_bytes_max: Option<u64>,
    pub retries: Option<u8>,
    pub retry_on: Option<RetryOn>,
    pub mirror: Option<Mirror>,
}

impl Route {
    #[must_use]
    pub fn new(name: &str, spec: Spec, action: Action) -> Route {
        Route {
            name: name.to_owned(),
            spec,
            action,
            rewrite: Rewrite::default(),
            request_fields: FieldOps::default(),
            response_fields: FieldOps::default(),
            response_timeout_ms: None,
            response_idle_timeout_ms: None,
            upgrade_timeout_ms: None,
            body_bytes_max: None,
            retries: None,
            retry_on: None,
            mirror: None,
        }
    }

    /// The route that a listener's `pool` stands for.
    #[must_use]
    pub fn everything(pool: usize) -> Route {
        Route::new(DEFAULT_ROUTE_NAME, Spec::default(), Action::Pool(pool))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Index into [`Plan::pools`](crate::Plan::pools), as everywhere below.
    Pool(usize),
    /// Pools with weights; their sum is above 0.
    Split(Vec<(usize, u32)>),
    Redirect {
        status: u16,
        location: Template,
    },
    Respond {
        status: u16,
        content: Content,
    },
}

/// What the server sees instead of what the client asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    pub path: Option<PathRewrite>,
    pub host: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// `with` stands in for the path's first `matched_bytes`, which are the route's prefix. Both end in a `/`
    /// or neither does; a path that is then empty is `/`.
    Prefix { matched_bytes: usize, with: String },
    /// The whole path; the query stays.
    Path(String),
}

/// Changes to the fields of a message, in this order: `remove`, `set`, `add`. Names are lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldOps {
    pub remove: Vec<String>,
    pub set: Vec<(String, Template)>,
    pub add: Vec<(String, Template)>,
}

impl FieldOps {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

/// A copy of a request goes to a pool whose answer nobody waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    pub pool: usize,
    /// 1 to 100.
    pub percent: u8,
}
