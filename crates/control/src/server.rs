//! The admin listener: HTTP/1.1 on the socket, its limits and its routes.
//!
//! Owns: who may ask how often and how much, each limit with a name and a count of what it refused. Refuses: content, methods
//! other than GET and HEAD, other hosts' pages, more connections than a person and a few programs need.
//! Driven by: the program's runtime, until it ends.

use crate::Instance;
use crate::place::{Bound, Listener, Place};
use crate::{roster, view};
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use fourfold_api::{PROBLEM_JSON, Problem, VERSIONS_PATH, Versions, v1};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, ORIGIN, TRANSFER_ENCODING,
};
use hyper::{HeaderMap, Method, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Connections at once.
pub const CONNECTIONS_MAX: usize = 32;
/// A request's head: bytes, fields, and how long it may take. An idle connection is one whose next head takes too long.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
pub const HEAD_FIELDS_MAX: usize = 64;
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer is made within this, or the client hears that it was not.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The whole life of a connection, so that one that takes its answer byte by byte ends.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
/// The kernel hands out connections again after it had no descriptor or memory for one.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Names the version of the API, in every answer.
pub const VERSION_HEADER: &str = "fourfold-api";

macro_rules! counts {
    ($($field:ident: $help:literal,)*) => {
        /// What was asked, and what was refused.
        #[derive(Default)]
        pub struct Counts { $($field: AtomicU64,)* }

        impl Counts {
            /// (name, help, value)
            pub(crate) fn rows(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($field), $help, self.$field.load(Relaxed)),)*].into_iter()
            }
        }
    };
}

counts! {
    admin_requests: "Requests to the admin listener",
    admin_refused_connections: "Of its connections, those closed because too many were open",
    admin_refused_content: "Of its requests, those refused because they had content",
    admin_refused_method: "Of its requests, those refused because of their method",
    admin_refused_host: "Of its requests, those refused because they were meant for another host",
    admin_refused_origin: "Of its requests, those refused because another site's page sent them",
    admin_not_found: "Of its requests, those for what is not there",
    admin_timeout: "Of its requests, those whose answer was not made in time",
    admin_broken: "Of its connections, those that ended by an error: what came was no HTTP, too long or too slow",
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Serves until the program ends.
pub async fn serve(bound: Bound, instance: Arc<Instance>) {
    // The file goes when this ends.
    let Bound { place, listener, file: _file } = bound;
    let door = Door {
        service: routes(&instance, &place),
        slots: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        instance,
    };
    let ended = match listener {
        Listener::Unix(listener) => door.accept_unix(listener).await,
        Listener::Tcp(listener) => door.accept_tcp(listener).await,
    };
    if let Err(error) = ended {
        tracing::warn!("the admin listener has ended: {error}; the proxy runs on");
    }
}

struct Door {
    service: Router,
    slots: Arc<Semaphore>,
    instance: Arc<Instance>,
}

impl Door {
    async fn accept_unix(&self, listener: std::os::unix::net::UnixListener) -> io::Result<()> {
        let listener = tokio::net::UnixListener::from_std(listener)?;
        loop {
            self.accepted(listener.accept().await.map(|(stream, _)| stream)).await;
        }
    }

    async fn accept_tcp(&self, listener: std::net::TcpListener) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            self.accepted(listener.accept().await.map(|(stream, _)| stream)).await;
        }
    }

    async fn accepted<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: io::Result<S>) {
        let Ok(stream) = stream else { return tokio::time::sleep(ACCEPT_RETRY).await };
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            return count(&self.instance.counts.admin_refused_connections);
        };
        let service = TowerToHyperService::new(self.service.clone());
        let instance = Arc::clone(&self.instance);
        tokio::spawn(async move {
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            http.max_buf_size(HEAD_BYTES_MAX).max_headers(HEAD_FIELDS_MAX);
            let ended =
                timeout(CONNECTION_TIMEOUT, http.serve_connection(TokioIo::new(stream), service)).await;
            // A client that stays idle until it is closed has done nothing wrong; it is not told apart from one that is slow.
            if matches!(ended, Ok(Err(_)) | Err(_)) {
                count(&instance.counts.admin_broken);
            }
            drop(slot);
        });
    }
}

type Shared = State<Arc<Instance>>;
type Answer = Result<Response, Problem>;

fn routes(instance: &Arc<Instance>, place: &Place) -> Router {
    let guard = Guard { instance: Arc::clone(instance), by_name: matches!(place, Place::Tcp(_)) };
    let routes = Router::new()
        .route(VERSIONS_PATH, get(|State(instance): Shared| async move { json(&versions(&instance)) }))
        .route(v1::INSTANCE, get(|State(instance): Shared| async move { json(&view::instance(&instance)) }))
        .route(v1::LISTENERS, get(|State(instance): Shared| async move { json(&view::listeners(&instance)) }))
        .route(v1::POOLS, get(|State(instance): Shared| async move { json(&view::pools(&instance)) }))
        .route(v1::LIMITS, get(|State(instance): Shared| async move { json(&view::limits(&instance)) }))
        .route(v1::COUNTERS, get(|State(instance): Shared| async move { json(&view::counters(&instance)) }))
        .route(v1::TUPLES, get(tuples))
        .route(v1::CONNECTIONS, get(connections))
        .route(v1::EVENTS, get(events))
        .fallback(not_found)
        .with_state(Arc::clone(instance));
    routes.layer(middleware::from_fn_with_state(Arc::new(guard), guarded))
}

fn versions(instance: &Instance) -> Versions {
    Versions { program: instance.about.version.clone(), api: vec![v1::VERSION.to_owned()] }
}

async fn tuples(State(instance): Shared, uri: Uri) -> Response {
    answer(query(&uri).and_then(|query| {
        check_pool(&instance, &query)?;
        Ok(json(&view::tuples(&instance, &query)))
    }))
}

/// An empty list would say that the pool has no destinations.
fn check_pool(instance: &Instance, query: &v1::TuplesQuery) -> Result<(), Problem> {
    let Some(name) = &query.pool else { return Ok(()) };
    match instance.shared.plan.pools.iter().any(|pool| pool.name == *name) {
        true => Ok(()),
        false => Err(Problem::new(404, "no-such-pool", "There is no such pool").detail(name.clone())),
    }
}

async fn connections(State(instance): Shared, uri: Uri) -> Response {
    let query = match query(&uri) {
        Ok(query) => query,
        Err(problem) => return answer(Err(problem)),
    };
    answer(roster::connections(&instance, &query).await.map(|page| json(&page)))
}

async fn events(State(instance): Shared, uri: Uri) -> Response {
    answer(query(&uri).map(|query: v1::EventsQuery| json(&instance.journal.since(query.from.unwrap_or(0)))))
}

async fn not_found(State(instance): Shared, uri: Uri) -> Response {
    count(&instance.counts.admin_not_found);
    let problem = Problem::new(404, "not-found", "There is nothing here");
    problem_response(
        &problem.detail(format!("{}; {VERSIONS_PATH} says which versions there are", uri.path())),
    )
}

fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    let wrong = |error: axum::extract::rejection::QueryRejection| {
        Problem::new(400, "bad-query", "The query is not understood").detail(error.body_text())
    };
    Query::try_from_uri(uri).map(|Query(query)| query).map_err(wrong)
}

fn answer(result: Answer) -> Response {
    result.unwrap_or_else(|problem| problem_response(&problem))
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => ([(CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(error) => {
            let problem = Problem::new(500, "internal", "The answer could not be written");
            problem_response(&problem.detail(error.to_string()))
        }
    }
}

fn problem_response(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let bytes = serde_json::to_vec(problem).unwrap_or_default();
    (status, [(CONTENT_TYPE, PROBLEM_JSON)], bytes).into_response()
}

/// What holds for every request.
struct Guard {
    instance: Arc<Instance>,
    /// The listener has an address, so that a browser can be made to ask it.
    by_name: bool,
}

async fn guarded(State(guard): State<Arc<Guard>>, request: Request<Body>, next: Next) -> Response {
    let counts = &guard.instance.counts;
    count(&counts.admin_requests);
    let mut response = match guard.refuse(&request) {
        Some(problem) => problem_response(&problem),
        None => match timeout(ANSWER_TIMEOUT, next.run(request)).await {
            Ok(response) => response,
            Err(_) => {
                count(&counts.admin_timeout);
                problem_response(&Problem::new(503, "timeout", "The answer was not made in time"))
            }
        },
    };
    let headers = response.headers_mut();
    headers.insert(VERSION_HEADER, HeaderValue::from_static(v1::VERSION));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

impl Guard {
    fn refuse(&self, request: &Request<Body>) -> Option<Problem> {
        let (counts, headers) = (&self.instance.counts, request.headers());
        let (counter, problem) = if ![Method::GET, Method::HEAD].contains(request.method()) {
            (&counts.admin_refused_method, Problem::new(405, "method", "Only GET and HEAD are answered here"))
        } else if has_content(headers) {
            (&counts.admin_refused_content, Problem::new(413, "content", "No request has content here"))
        } else if self.by_name && !is_for_loopback(headers) {
            (&counts.admin_refused_host, Problem::new(421, "host", "This is not the host that is asked for"))
        } else if is_of_a_page(headers) {
            (
                &counts.admin_refused_origin,
                Problem::new(403, "origin", "Pages of other sites may not ask here"),
            )
        } else {
            return None;
        };
        count(counter);
        Some(problem)
    }
}

fn has_content(headers: &HeaderMap) -> bool {
    let none = |value: &HeaderValue| value.as_bytes() == b"0";
    headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|value| !none(value))
}

/// A name that an attacker lets point to the loopback (DNS rebinding) is not in this list.
fn is_for_loopback(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(authority) = host.to_str().unwrap_or_default().parse::<hyper::http::uri::Authority>() else {
        return false;
    };
    let name = authority.host();
    let ip: Option<IpAddr> = name.trim_start_matches('[').trim_end_matches(']').parse().ok();
    name.eq_ignore_ascii_case("localhost") || ip.is_some_and(|ip| ip.is_loopback())
}

/// Fetch, 3.2 and Fetch Metadata, 2.3: a browser says whose page asks. No page is served here, so it is another's.
fn is_of_a_page(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    headers.contains_key(ORIGIN) || matches!(site, Some(b"cross-site" | b"same-site"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_the_loopbacks_own_names_are_answered() {
        for host in ["localhost", "LOCALHOST:9900", "127.0.0.1:9900", "127.8.8.8", "[::1]:9900"] {
            assert!(is_for_loopback(&headers(&[("host", host)])), "{host}");
        }
        for host in [
            "",
            "evil.example:9900",
            "localhost.evil.example",
            "10.0.0.1",
            "[::2]",
            "127.0.0.1.evil.example",
            "a b",
        ] {
            assert!(!is_for_loopback(&headers(&[("host", host)])), "{host}");
        }
        assert!(!is_for_loopback(&headers(&[])));
        let mut two = headers(&[("host", "localhost")]);
        two.append(HOST, HeaderValue::from_static("evil.example"));
        assert!(!is_for_loopback(&two));
    }

    #[test]
    fn pages_of_other_sites_and_content_are_recognised() {
        assert!(is_of_a_page(&headers(&[("origin", "http://evil.example")])));
        assert!(is_of_a_page(&headers(&[("sec-fetch-site", "cross-site")])));
        assert!(!is_of_a_page(&headers(&[("sec-fetch-site", "none")])), "typed by a person");
        assert!(has_content(&headers(&[("content-length", "1")])));
        assert!(has_content(&headers(&[("transfer-encoding", "chunked")])));
        assert!(!has_content(&headers(&[("content-length", "0")])));
    }
}
