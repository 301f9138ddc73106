//! Heads: found the same way in any pieces, and meaning the same once written anew.

use crate::h1::{
    self, Asked, Body, Field, FieldKind, Form, Limits, Method, Request, Response, Version, encode,
};

/// What a request asks for, whoever wrote it down how.
#[derive(Debug, PartialEq, Eq)]
struct Meaning {
    start: Vec<Vec<u8>>,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    body: Body,
}

pub fn request(bytes: &[u8]) {
    let Some(head) = find_head(bytes) else { return };
    let mut request = Request::default();
    if request.parse(head, &Limits::default()).is_err() {
        return;
    }
    check_lines(head);
    check_fields(&request.fields, head);
    check_framing(head, request.body);
    assert!(request.path.is_empty() || !request.path.of(head).contains(&b'?'), "a query is left in the path");
    assert!(request.upgrade.is_none() || matches!(request.body, Body::None | Body::Length(0)));
    let written = rewrite_request(&request, head);
    let mut again = Request::default();
    let parsed = again.parse(&written, &wide());
    assert_eq!(parsed, Ok(()), "written anew: {}", written.escape_ascii());
    assert_eq!(
        request_meaning(&again, &written),
        request_meaning(&request, head),
        "{}",
        written.escape_ascii()
    );
}

pub fn response(bytes: &[u8]) {
    let (asked, bytes) = match bytes {
        [b'H', rest @ ..] if rest.starts_with(b"HTTP") => (asked(Method::Head, false), rest),
        [b'C', rest @ ..] => (asked(Method::Connect, false), rest),
        [b'U', rest @ ..] => (asked(Method::Get, true), rest),
        _ => (asked(Method::Get, false), bytes),
    };
    let Some(head) = find_head(bytes) else { return };
    let mut response = Response::default();
    if response.parse(head, &Limits::default(), &asked).is_err() {
        return;
    }
    check_lines(head);
    check_fields(&response.fields, head);
    check_status(&response, &asked);
    let written = rewrite_response(&response, head);
    let mut again = Response::default();
    let parsed = again.parse(&written, &wide(), &asked);
    assert_eq!(parsed, Ok(()), "written anew: {}", written.escape_ascii());
    assert_eq!(
        response_meaning(&again, &written),
        response_meaning(&response, head),
        "{}",
        written.escape_ascii()
    );
}

const fn asked(method: Method, upgrade: bool) -> Asked {
    Asked { method, upgrade }
}

/// What is written anew may be longer than what came.
fn wide() -> Limits {
    Limits { line_bytes: 1 << 20, head_bytes: 1 << 20, fields: 1_000, ..Limits::default() }
}

fn find_head(bytes: &[u8]) -> Option<&[u8]> {
    let whole = h1::head_end(bytes, &mut 0);
    let mut scanned = 0;
    let by_byte = (0..=bytes.len()).find_map(|end| h1::head_end(&bytes[..end], &mut scanned));
    assert_eq!(whole, by_byte, "the head ends elsewhere when it comes byte by byte");
    let _ = h1::hopeless(bytes, &Limits::default());
    whole.map(|length| &bytes[..length])
}

/// Looks at the bytes only, so that it shares no mistake with the parser.
fn check_lines(head: &[u8]) {
    for (at, byte) in head.iter().enumerate() {
        match byte {
            b'\n' => assert_eq!(head.get(at.wrapping_sub(1)), Some(&b'\r'), "bare LF at {at}"),
            b'\r' => assert_eq!(head.get(at + 1), Some(&b'\n'), "bare CR at {at}"),
            b'\t' => {}
            _ => assert!(*byte >= b' ' && *byte != 0x7f, "control byte at {at}"),
        }
    }
    assert!(head.ends_with(b"\r\n\r\n"), "no empty line at the end");
}

fn check_fields(fields: &[Field], head: &[u8]) {
    for field in fields {
        assert!(h1::is_token(field.name.of(head)), "{field:?}");
        assert!(h1::is_field_value(field.value.of(head)), "{field:?}");
    }
}

/// Counts the lines of either length, again without the parser.
fn check_framing(head: &[u8], body: Body) {
    let count = |name: &[u8]| {
        let lines = head.split(|&byte| byte == b'\n');
        lines
            .filter(|line| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)))
            .count()
    };
    let expected = match body {
        Body::None => Some((0, 0)),
        Body::Length(_) => Some((1, 0)),
        Body::Chunked => Some((0, 1)),
        // No request lasts until the connection ends.
        Body::UntilClose => None,
    };
    assert_eq!(Some((count(b"content-length:"), count(b"transfer-encoding:"))), expected);
}

fn check_status(response: &Response, asked: &Asked) {
    assert!((100..1000).contains(&response.status));
    if response.status < 200 || matches!(response.status, 204 | 304) || asked.method == Method::Head {
        assert_eq!(response.body, Body::None);
    }
    assert!(response.status != 101 || (asked.upgrade && response.upgrade.is_some()));
    assert!(response.body != Body::UntilClose || !response.keep_alive);
}

fn goes_on(field: &Field) -> bool {
    !field.kind.hop_by_hop()
        && !matches!(field.kind, FieldKind::Host | FieldKind::ContentLength | FieldKind::Expect)
}

fn write_fields(fields: &[Field], head: &[u8], out: &mut Vec<u8>) {
    for field in fields.iter().filter(|field| goes_on(field)) {
        encode::field(field.name.of(head), field.value.of(head), out);
    }
}

fn write_framing(body: Body, out: &mut Vec<u8>) {
    match body {
        Body::Length(length) => encode::field(b"Content-Length", length.to_string().as_bytes(), out),
        Body::Chunked => encode::field(b"Transfer-Encoding", b"chunked", out),
        Body::None | Body::UntilClose => {}
    }
}

fn rewrite_request(request: &Request, head: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let target = if request.form == Form::Authority { request.host.of(head) } else { request.path_of(head) };
    encode::request_line(
        request.method_name.of(head),
        target,
        request.query.map(|query| query.of(head)),
        &mut out,
    );
    let host = request.host.of(head);
    encode::field(b"Host", if host.is_empty() { b"none" } else { host }, &mut out);
    write_fields(&request.fields, head, &mut out);
    write_framing(request.body, &mut out);
    out.extend_from_slice(b"\r\n");
    out
}

fn rewrite_response(response: &Response, head: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::status_line(response.status, response.reason.of(head), &mut out);
    write_fields(&response.fields, head, &mut out);
    write_framing(response.body, &mut out);
    if let Some(protocol) = response.upgrade {
        encode::field(b"Connection", b"upgrade", &mut out);
        encode::field(b"Upgrade", protocol.of(head), &mut out);
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn pairs(fields: &[Field], head: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let own = |field: &Field| (field.name.of(head).to_vec(), field.value.of(head).to_vec());
    fields.iter().filter(|field| goes_on(field)).map(own).collect()
}

fn request_meaning(request: &Request, head: &[u8]) -> Meaning {
    let host = request.host.of(head);
    let start = vec![
        request.method_name.of(head).to_vec(),
        request.path_of(head).to_vec(),
        request.query.map_or(b"-".to_vec(), |query| [b"?", query.of(head)].concat()),
        if host.is_empty() && request.version == Version::Http10 { b"none".to_vec() } else { host.to_vec() },
    ];
    Meaning { start, fields: pairs(&request.fields, head), body: request.body }
}

fn response_meaning(response: &Response, head: &[u8]) -> Meaning {
    let protocol = response.upgrade.unwrap_or_default().of(head).to_vec();
    let start = vec![response.status.to_string().into_bytes(), response.reason.of(head).to_vec(), protocol];
    Meaning { start, fields: pairs(&response.fields, head), body: response.body }
}
