//! Inputs that look like what the checks are about: random bytes alone would hardly get past the first rule.

use proptest::collection::vec;
use proptest::prelude::*;

/// Pieces of a message, valid and not, put together at random.
fn text_of(pieces: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        20 => prop::sample::select(pieces).prop_map(|text| text.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..3),
    ];
    vec(piece, 0..most).prop_map(|parts| parts.concat())
}

const FIELDS: &[&str] = &[
    "Host: a\r\n",
    "Host: b:80\r\n",
    "host:a\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 05\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: x\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive, x\r\n",
    "Connection: upgrade\r\n",
    "Upgrade: websocket\r\n",
    "Upgrade: h2c\r\n",
    "X: y\r\n",
    "X:\t y \t\r\n",
    "X : y\r\n",
    "X: \0\r\n",
    "X_Forwarded_For: 1\r\n",
    "Expect: 100-continue\r\n",
    "TE: trailers\r\n",
    " folded\r\n",
    "\r\n",
    "\n",
    "\r",
    ":",
    "Cookie: a=b\r\n",
];

const REQUEST_LINES: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "GET /a?b HTTP/1.1\r\n",
    "POST http://a/b HTTP/1.1\r\n",
    "POST http://a HTTP/1.0\r\n",
    "OPTIONS * HTTP/1.1\r\n",
    "OPTIONS http://a HTTP/1.1\r\n",
    "CONNECT a:80 HTTP/1.1\r\n",
    "TRACE / HTTP/1.1\r\n",
    "\r\nGET // HTTP/1.0\r\n",
    "X http://a?b HTTP/1.1\r\n",
    "GET / HTTP/2.0\r\n",
    "GET /\r\n",
    "\nGET / HTTP/1.1\r\n",
];

const STATUS_LINES: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/1.1 204\r\n",
    "HTTP/1.1 304 \r\n",
    "HHTTP/1.1 200 OK\r\n",
    "UHTTP/1.1 101 x\r\n",
    "CHTTP/1.1 200 OK\r\n",
    "HTTP/1.1 100 Continue\r\n",
    "HTTP/1.1 999 ?\r\n",
    "HTTP/1.1 099 ?\r\n",
];

const CHUNKS: &[&str] = &[
    "5\r\nhello\r\n",
    "5;a\r\nhello\r\n",
    "5;;a\r\nhello\r\n",
    "5;a=\r\nhello\r\n",
    "5 ; a = \"b\\\"\"\r\nhello\r\n",
    "a\r\n0123456789\r\n",
    "1\r\n\n\r\n",
    "0\r\n",
    "0\r\n\r\n",
    "00;x=y\r\n",
    "\r\n",
    "X: y\r\n",
    "Host: z\r\n",
    "5",
    "\r",
    "\n",
    ";",
    "=",
    "\"",
    " ",
    "0000000000000001\r\nx\r\n",
    "fffffffffffffffff\r\n",
    ": x\r\n",
];

const PATH_PIECES: &[&str] = &[
    "/", "//", ".", "..", "/./", "/../", "a", "b", "%2e", "%2E%2e", "%2f", "%5c", "%41", "%c3", "%00", "%25",
    "%", ";", "%3b", "\\", "*",
];

fn head(lines: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(lines);
    (line, text_of(FIELDS, 8)).prop_map(|(line, fields)| [line.as_bytes(), &fields, b"\r\n"].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests(bytes in head(REQUEST_LINES)) {
        super::request(&bytes);
    }

    #[test]
    fn responses(bytes in head(STATUS_LINES)) {
        super::response(&bytes);
    }

    #[test]
    fn bodies(pieces in vec(any::<u8>(), 8), text in text_of(CHUNKS, 12)) {
        super::body(&[pieces, text].concat());
    }

    #[test]
    fn paths(rules in any::<u8>(), text in text_of(PATH_PIECES, 8)) {
        super::path(&[&[rules, b'/'], text.as_slice()].concat());
    }

    #[test]
    fn routes(bytes in vec(any::<u8>(), 0..300)) {
        super::route(&bytes);
    }

    #[test]
    fn anything(bytes in vec(any::<u8>(), 0..200)) {
        super::request(&bytes);
        super::response(&bytes);
        super::body(&bytes);
        super::path(&bytes);
    }
}

/// What fuzzing has found worth keeping.
#[test]
fn the_corpus_of_the_fuzz_targets() {
    replay("request", super::request);
    replay("response", super::response);
    replay("body", super::body);
    replay("path", super::path);
    replay("route", super::route);
}

fn replay(name: &str, check: fn(&[u8])) {
    let folder = format!("{}/../../fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
    let inputs: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(inputs.len() > 50, "{folder} has only {}", inputs.len());
    for path in inputs {
        println!("{}", path.display());
        check(&std::fs::read(&path).unwrap());
    }
}
