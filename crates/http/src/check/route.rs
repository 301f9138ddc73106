//! The router against the definition: every route that matches, the best of them by rank.

use super::Choices;
use crate::route::{Ask, FieldMatch, HostMatch, PathMatch, QueryMatch, Router, Spec, ValueMatch, Verdict};
use std::cmp::Reverse;

const HOSTS: [&str; 8] = ["a", "b.a", "c.b.a", "*.a", "*.b.a", "*", "ab.a", "*.c.b.a"];
const ASKED_HOSTS: [&str; 9] = ["a", "B.A:80", "c.b.a.", "d.c.b.a", "x.a", "ab.a", "", "xa", "[::1]:80"];
const PATHS: [&str; 8] = ["/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "/b", "/a/b/"];
const METHODS: [&str; 3] = ["GET", "POST", "get"];
const VALUES: [&str; 3] = ["", "v", "vw"];
const QUERIES: [Option<&[u8]>; 6] =
    [None, Some(b""), Some(b"q"), Some(b"q=v"), Some(b"x=1&%71=%76w"), Some(b"q=1&q=v")];
const ROUTES_MAX: usize = 24;

pub fn route(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let specs: Vec<Spec> = (0..choices.below(ROUTES_MAX)).map(|_| spec(&mut choices)).collect();
    let router = Router::new(&specs);
    for _ in 0..8 {
        check(&router, &specs, &mut choices);
    }
}

fn check(router: &Router, specs: &[Spec], choices: &mut Choices) {
    let value = [None, Some(VALUES[1]), Some(VALUES[2])][choices.below(3)];
    let header = |name: &str| value.filter(|_| name == "x").map(str::as_bytes);
    let ask = Ask {
        method: METHODS[choices.below(METHODS.len())].as_bytes(),
        host: ASKED_HOSTS[choices.below(ASKED_HOSTS.len())].as_bytes(),
        path: PATHS[choices.below(PATHS.len())].as_bytes(),
        query: QUERIES[choices.below(QUERIES.len())],
        header: &header,
    };
    let found = router.find(&ask);
    let ranked = specs.iter().enumerate().filter_map(|(index, spec)| Some((rank(spec, &ask)?, index)));
    assert_eq!(found, ranked.min().map(|(_, index)| index), "{specs:#?}");
    let explained = router.explain(&ask);
    for (index, verdict) in explained.iter().enumerate() {
        assert_eq!(*verdict == Verdict::Chosen, found == Some(index));
        let matches = matches!(verdict, Verdict::Chosen | Verdict::Beaten { .. });
        assert_eq!(matches, rank(&specs[index], &ask).is_some(), "route {index}: {verdict:?}");
    }
}

fn spec(choices: &mut Choices) -> Spec {
    let text = |choices: &mut Choices| PATHS[choices.below(PATHS.len())].to_owned();
    Spec {
        hosts: (0..choices.below(3)).filter_map(|_| HOSTS[choices.below(HOSTS.len())].parse().ok()).collect(),
        path: match choices.below(3) {
            0 => PathMatch::Any,
            1 => PathMatch::Exact(text(choices)),
            _ => PathMatch::Prefix(text(choices)),
        },
        methods: (0..choices.below(3)).map(|_| METHODS[choices.below(METHODS.len())].to_owned()).collect(),
        headers: (0..choices.below(2))
            .map(|_| FieldMatch { name: "x".into(), value: value(choices) })
            .collect(),
        query: (0..choices.below(2))
            .map(|_| QueryMatch { name: "q".into(), value: value(choices) })
            .collect(),
    }
}

fn value(choices: &mut Choices) -> ValueMatch {
    let text = VALUES[choices.below(VALUES.len())].to_owned();
    match choices.below(4) {
        0 => ValueMatch::Present,
        1 => ValueMatch::Absent,
        2 => ValueMatch::Exact(text),
        _ => ValueMatch::Prefix(text),
    }
}

type Rank = (Reverse<(u8, usize)>, Reverse<(u8, usize)>, Reverse<usize>);

/// Smaller is better; nothing if the route does not match.
fn rank(spec: &Spec, ask: &Ask) -> Option<Rank> {
    let host = String::from_utf8_lossy(ask.host).to_lowercase();
    let host = host.strip_suffix(":80").unwrap_or(&host);
    let host = host.strip_suffix('.').unwrap_or(host);
    let hosts = spec.hosts.iter().filter_map(|pattern| rank_host(pattern, host));
    let host = if spec.hosts.is_empty() { (0, 0) } else { hosts.max()? };
    let path = rank_path(&spec.path, str::from_utf8(ask.path).unwrap_or_default())?;
    let method = String::from_utf8_lossy(ask.method).into_owned();
    if !spec.methods.is_empty() && !spec.methods.contains(&method) {
        return None;
    }
    let header = (ask.header)("x").map(|value| String::from_utf8_lossy(value).into_owned());
    let header: Vec<String> = header.into_iter().collect();
    let query = reference_values(ask.query);
    let fields_hold = spec.headers.iter().all(|field| holds(&field.value, &header));
    if !fields_hold || !spec.query.iter().all(|field| holds(&field.value, &query)) {
        return None;
    }
    let conditions = usize::from(!spec.methods.is_empty()) + spec.headers.len() + spec.query.len();
    Some((Reverse(host), Reverse(path), Reverse(conditions)))
}

fn rank_host(pattern: &HostMatch, host: &str) -> Option<(u8, usize)> {
    match pattern {
        HostMatch::Any => Some((0, 0)),
        HostMatch::Suffix(suffix) => {
            (host.len() > suffix.len() && host.ends_with(suffix)).then_some((1, suffix.len()))
        }
        HostMatch::Exact(name) => (host == name).then_some((2, 0)),
    }
}

fn rank_path(pattern: &PathMatch, path: &str) -> Option<(u8, usize)> {
    match pattern {
        PathMatch::Any => Some((0, 0)),
        PathMatch::Prefix(prefix) => {
            let below = format!("{}/", prefix.strip_suffix('/').unwrap_or(prefix));
            (path == prefix || path.starts_with(&below)).then_some((1, prefix.len()))
        }
        PathMatch::Exact(text) => (path == text).then_some((2, 0)),
    }
}

/// The values that `q` has in the [`QUERIES`].
fn reference_values(query: Option<&[u8]>) -> Vec<String> {
    let values: &[&str] = match query {
        Some(b"q") => &[""],
        Some(b"q=v") => &["v"],
        Some(b"x=1&%71=%76w") => &["vw"],
        Some(b"q=1&q=v") => &["1", "v"],
        _ => &[],
    };
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn holds(pattern: &ValueMatch, values: &[String]) -> bool {
    match pattern {
        ValueMatch::Present => !values.is_empty(),
        ValueMatch::Absent => values.is_empty(),
        ValueMatch::Exact(text) => values.contains(text),
        ValueMatch::Prefix(text) => values.iter().any(|value| value.starts_with(text.as_str())),
    }
}
