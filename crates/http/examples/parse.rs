//! How long it takes to read a head: `cargo run --release -p fourfold-http --example parse`.
//!
//! Prints nanoseconds per message, the best of several rounds, with the search for the head's end and without allocation.

use fourfold_http::h1::{self, Asked, Limits, Method, Request, Response};
use fourfold_http::path::{self, PathRules};
use fourfold_http::route::{Ask, PathMatch, Router, Spec};
use std::hint::black_box;
use std::time::Instant;

const ROUNDS: u32 = 20;
const MESSAGES: u32 = 100_000;

const REQUEST: &[u8] = b"GET /api/v1/users/12345/items?limit=20&offset=40 HTTP/1.1\r\n\
    Host: api.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r\n\
    Accept: application/json, text/plain, */*\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9\r\n\
    Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.dozjgNryP4J3jVmNHl0w5N\r\n\
    Cookie: session=5f2b8c1d9e; theme=dark\r\n\
    Connection: keep-alive\r\n\r\n";

const SMALL: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost:8080\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: origin\r\n\
    Date: Sat, 21 Nov 2026 13:00:00 GMT\r\n\
    Content-Type: application/json; charset=utf-8\r\n\
    Content-Length: 100\r\n\
    Cache-Control: private, max-age=0\r\n\
    ETag: \"5f2b8c1d9e\"\r\n\
    Vary: Accept-Encoding\r\n\
    X-Request-Id: 7c9e6679-7425-40de-944b-e07fc1f90ae7\r\n\r\n";

fn main() {
    let limits = Limits::default();
    let mut request = Request::default();
    for (name, head) in [("request, 8 fields", REQUEST), ("request, 1 field", SMALL)] {
        report(name, || read_request(black_box(head), &limits, &mut request));
    }
    let mut response = Response::default();
    report("response, 8 fields", || read_response(black_box(RESPONSE), &limits, &mut response));
    let mut out = Vec::new();
    report("path, normal already", || {
        path::normalize(black_box(b"/api/v1/users/12345/items"), &PathRules::default(), &mut out).is_ok()
    });
    for routes in [10, 10_000] {
        let router = router(routes);
        report(&format!("route, {routes} routes"), || find(&router));
    }
}

fn read_request(head: &[u8], limits: &Limits, request: &mut Request) -> bool {
    h1::head_end(head, &mut 0) == Some(head.len()) && request.parse(head, limits).is_ok()
}

fn read_response(head: &[u8], limits: &Limits, response: &mut Response) -> bool {
    let asked = Asked { method: Method::Get, upgrade: false };
    h1::head_end(head, &mut 0) == Some(head.len()) && response.parse(head, limits, &asked).is_ok()
}

fn router(routes: usize) -> Router {
    let spec = |index: usize| Spec {
        hosts: format!("host{}.example.com", index % 100).parse().into_iter().collect(),
        path: PathMatch::Prefix(format!("/service{index}/v1")),
        ..Spec::default()
    };
    Router::new(&(0..routes).map(spec).collect::<Vec<_>>())
}

fn find(router: &Router) -> bool {
    let ask = Ask {
        method: b"GET",
        host: black_box(b"host7.example.com:8080"),
        path: black_box(b"/service7/v1/users"),
        query: None,
        header: &|_| None,
    };
    router.find(&ask) == Some(7)
}

fn report(name: &str, mut once: impl FnMut() -> bool) {
    let best = (0..ROUNDS).map(|_| round(&mut once)).fold(f64::INFINITY, f64::min);
    println!("{name:24} {best:8.1} ns");
}

fn round(once: &mut impl FnMut() -> bool) -> f64 {
    let start = Instant::now();
    let good = (0..MESSAGES).filter(|_| black_box(once())).count();
    assert_eq!(good, MESSAGES as usize, "the sample is rejected");
    start.elapsed().as_nanos() as f64 / f64::from(MESSAGES)
}
