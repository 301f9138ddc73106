//! Every case of `tests/http/`, whole and byte by byte.

use fourfold_http::h1::{self, Asked, Body, BodyReader, Limits, Method, Reject, Request, Response, Version};
use fourfold_testkit::corpus::{self, Case, Want};

/// What came of a message that was received in pieces.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    facts: Vec<(&'static str, Vec<u8>)>,
    content: Vec<u8>,
}

type Outcome = Result<Read, String>;

#[test]
fn requests() {
    run(&corpus::requests().unwrap(), read_request);
}

#[test]
fn responses() {
    run(&corpus::responses().unwrap(), read_response);
}

#[test]
fn every_rule_of_the_wire_has_a_case() {
    let cases = [corpus::requests().unwrap(), corpus::responses().unwrap()].concat();
    let tested = |name: &str| cases.iter().any(|case| case.want == Want::Reject(name.into()));
    // What is no rule of the wire: the path has tests of its own, and a head cut at the wrong place is the caller's mistake.
    let elsewhere = |name: &str| name.starts_with("path_") || name == "head_malformed";
    let missing: Vec<&str> =
        Reject::ALL.iter().map(|reject| reject.name()).filter(|name| !tested(name)).collect();
    assert!(missing.iter().all(|name| elsewhere(name)), "without a case: {missing:?}");
}

fn run(cases: &[Case], read: impl Fn(&Case, usize) -> Outcome) {
    let mut failures = Vec::new();
    for case in cases {
        let whole = read(case, usize::MAX);
        if let Err(why) = judge(case, &whole) {
            failures.push(format!("line {} [{}]: {why}", case.line, case.name));
        }
        for piece in [1, 2, 3, 7] {
            let split = read(case, piece);
            if split != whole {
                failures.push(format!("line {} [{}] in pieces of {piece}: {split:?}", case.line, case.name));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

fn judge(case: &Case, outcome: &Outcome) -> Result<(), String> {
    match (&case.want, outcome) {
        (Want::Reject(wanted), Err(reason)) if wanted == reason => Ok(()),
        (Want::Accept(content), Ok(read)) if *content == read.content => judge_facts(case, read),
        (wanted, got) => Err(format!("wanted {wanted:?}, got {got:?}")),
    }
}

fn judge_facts(case: &Case, read: &Read) -> Result<(), String> {
    for (key, wanted) in &case.facts {
        let got = read.facts.iter().find(|(name, _)| name == key).map(|(_, value)| value);
        if got != Some(wanted) {
            let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
            return Err(format!("{key}: wanted {}, got {:?}", text(wanted), got.map(|got| text(got))));
        }
    }
    Ok(())
}

/// The head, as a receiver of pieces of `piece` bytes finds it.
fn receive_head(bytes: &[u8], piece: usize) -> Result<usize, String> {
    let mut scanned = 0;
    let mut received = 0;
    loop {
        if let Some(length) = h1::head_end(&bytes[..received], &mut scanned) {
            return Ok(length);
        }
        if received == bytes.len() {
            break;
        }
        received = received.saturating_add(piece).min(bytes.len());
    }
    Err(h1::hopeless(bytes, &Limits::default()).map_or("incomplete", Reject::name).into())
}

fn receive_body(body: Body, bytes: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<u8>, usize), String> {
    let mut reader = BodyReader::new(body);
    let mut content = Vec::new();
    let mut used = 0;
    for part in bytes.chunks(piece.min(bytes.len()).max(1)) {
        let mut part = part.to_vec();
        let decoded =
            reader.decode(&mut part, &Limits::default()).map_err(|reject| reject.name().to_string())?;
        content.extend_from_slice(&part[decoded.data]);
        used += decoded.used;
    }
    reader.on_eof().map_err(|reject| reject.name().to_string())?;
    Ok((content, reader.trailers().to_vec(), bytes.len() - used))
}

fn read_request(case: &Case, piece: usize) -> Outcome {
    let length = receive_head(&case.send, piece)?;
    let (head, rest) = case.send.split_at(length);
    let mut request = Request::default();
    request.parse(head, &Limits::default()).map_err(|reject| reject.name().to_string())?;
    let (content, trailers, rest) = receive_body(request.body, rest, piece)?;
    let mut facts = shared_facts(request.version, request.body, request.keep_alive, trailers, rest);
    facts.extend([
        ("method", request.method_name.of(head).to_vec()),
        ("path", request.path_of(head).to_vec()),
        ("query", request.query.map_or(b"-".to_vec(), |query| query.of(head).to_vec())),
        ("host", request.host.of(head).to_vec()),
        ("expect", yes(request.expect_continue)),
        ("upgrade", request.upgrade.unwrap_or_default().of(head).to_vec()),
        ("forwards", forwarded(&request.fields, head)),
    ]);
    Ok(Read { facts, content })
}

fn read_response(case: &Case, piece: usize) -> Outcome {
    let length = receive_head(&case.send, piece)?;
    let (head, rest) = case.send.split_at(length);
    let mut response = Response::default();
    response.parse(head, &Limits::default(), &asked(case)).map_err(|reject| reject.name().to_string())?;
    let (content, trailers, rest) = receive_body(response.body, rest, piece)?;
    let mut facts = shared_facts(response.version, response.body, response.keep_alive, trailers, rest);
    facts.extend([
        ("status", response.status.to_string().into_bytes()),
        ("interim", yes(response.is_interim())),
        ("upgrade", response.upgrade.unwrap_or_default().of(head).to_vec()),
        ("forwards", forwarded(&response.fields, head)),
    ]);
    Ok(Read { facts, content })
}

fn asked(case: &Case) -> Asked {
    let method = case.asked.split(' ').next().filter(|name| !name.is_empty()).unwrap_or("GET");
    Asked { method: Method::of(method.as_bytes()), upgrade: case.asked.ends_with("upgrade") }
}

fn shared_facts(
    version: Version,
    body: Body,
    keep_alive: bool,
    trailers: Vec<u8>,
    rest: usize,
) -> Vec<(&'static str, Vec<u8>)> {
    let framing: &[u8] = match body {
        Body::None => b"none",
        Body::Length(_) => b"length",
        Body::Chunked => b"chunked",
        Body::UntilClose => b"close",
    };
    vec![
        ("version", if version == Version::Http11 { b"1.1".to_vec() } else { b"1.0".to_vec() }),
        ("framing", framing.to_vec()),
        ("keep_alive", yes(keep_alive)),
        ("trailers", trailers),
        ("rest", rest.to_string().into_bytes()),
    ]
}

/// The names of the fields that go on, in lower case.
fn forwarded(fields: &[h1::Field], head: &[u8]) -> Vec<u8> {
    let kept = fields.iter().filter(|field| !field.kind.hop_by_hop());
    let names: Vec<_> = kept.map(|field| field.name.of(head).to_ascii_lowercase()).collect();
    names.join(&b',')
}

fn yes(is: bool) -> Vec<u8> {
    if is { b"yes".to_vec() } else { b"no".to_vec() }
}
