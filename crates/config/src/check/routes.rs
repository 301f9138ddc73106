//! Routes: what one means by itself, and what several mean together.

use std::collections::{HashMap, HashSet};

use fourfold_http::route::{PathMatch, Spec};

use crate::build::{route_name, spec_of};
use crate::diagnostic::{Code, Diagnostic, Diagnostics};
use crate::keys::{
    Key, header, listener, query, redirect, request_headers, respond, response_headers, rewrite, route, split,
};
use crate::plan::http::DEFAULT_ROUTE_NAME;
use crate::section::Part;
use crate::value::quote;

use super::servers::never_alone;

pub(super) fn check(part: &Part, found: &mut Diagnostics) {
    let routes = part.parts(&listener::ROUTE);
    let has_pool = part.was_written(&listener::POOL);
    names(part, routes, has_pool, found);
    for route in routes {
        path(route, found);
        action(route, has_pool, found);
        conditions(route, found);
        rewrites(route, found);
        changes(route, found);
        never_alone(route, &route::RETRY_ON, found);
    }
    shadowed(routes, found);
    default_shadowed(part, routes, found);
}

fn error(code: Code, part: &Part, key: &Key, message: impl Into<String>) -> Diagnostic {
    Diagnostic::error(code, part.place_of(key), part.path_of(key), message)
}

fn names(part: &Part, routes: &[Part], has_pool: bool, found: &mut Diagnostics) {
    let mut seen = HashSet::new();
    for (n, one) in routes.iter().enumerate() {
        let name = route_name(n, one);
        if has_pool && name == DEFAULT_ROUTE_NAME {
            let message = "the route \"default\" is the listener's `pool`";
            found.push(error(Code::DuplicateName, one, &route::NAME, message).help("choose another name"));
        }
        if !seen.insert(name.clone()) {
            let owner = super::label("listener", part, &listener::NAME);
            let message = format!("{owner} has a route named {} already", quote(&name));
            found.push(
                error(Code::DuplicateName, one, &route::NAME, message)
                    .help("names tell logs and counters apart; choose another"),
            );
        }
    }
}

fn written<'a>(part: &Part, keys: &[&'a Key]) -> Vec<&'a Key> {
    keys.iter().copied().filter(|key| part.was_written(key)).collect()
}

/// At most one of `keys`; the second is shown.
fn one_of(part: &Part, keys: &[&Key], what: &str, found: &mut Diagnostics) {
    if let [first, second, ..] = written(part, keys).as_slice() {
        let message = format!("{what} has `{}` and `{}`", first.name, second.name);
        found.push(error(Code::Conflict, part, second, message).help("keep one of them"));
    }
}

fn path(part: &Part, found: &mut Diagnostics) {
    one_of(part, &[&route::PATH, &route::PATH_PREFIX, &route::PATH_EXACT], "the route", found);
}

fn action(part: &Part, has_pool: bool, found: &mut Diagnostics) {
    let keys = [&route::POOL, &route::SPLIT, &route::REDIRECT, &route::RESPOND];
    one_of(part, &keys, "the route", found);
    let wrong = written(part, &keys);
    if wrong.is_empty() && !has_pool {
        let message = "the route says nothing about what to do: the listener has no `pool` either";
        let error = Diagnostic::error(Code::MissingKey, &part.place, part.path.clone(), message);
        found.push(error.help("add `pool`, `split`, `redirect` or `respond`"));
    }
    part.parts(&route::REDIRECT).iter().for_each(|table| redirect_of(table, found));
    part.parts(&route::RESPOND).iter().for_each(|table| respond_of(table, found));
    splits(part, found);
    if wrong.iter().any(|key| key.name == route::REDIRECT.name || key.name == route::RESPOND.name) {
        no_server(part, found);
    }
}

const REDIRECTS: [u64; 5] = [301, 302, 303, 307, 308];

fn redirect_of(part: &Part, found: &mut Diagnostics) {
    if let Some(status) = part.count(&redirect::STATUS).filter(|status| !REDIRECTS.contains(status)) {
        let message = format!("{status} is no redirect that leads anywhere");
        found.push(
            error(Code::BadStatus, part, &redirect::STATUS, message)
                .help("308 or 301 for good, 307 or 302 for now, 303 after a POST"),
        );
    }
}

fn respond_of(part: &Part, found: &mut Diagnostics) {
    one_of(part, &[&respond::BODY, &respond::FILE], "the response", found);
    let status = part.count(&respond::STATUS).copied();
    let body = written(part, &[&respond::BODY, &respond::FILE]);
    // RFC 9110 15.3.5, 15.3.6 and 15.4.5.
    if let (Some(status @ (204 | 205 | 304)), Some(key)) = (status, body.first()) {
        let message = format!("a response with status {status} has no body");
        found.push(error(Code::Conflict, part, key, message).help("remove it, or take another status"));
    }
}

fn splits(part: &Part, found: &mut Diagnostics) {
    let tables = part.parts(&route::SPLIT);
    let mut seen = HashSet::new();
    for table in tables {
        if let Some(name) = table.text(&split::POOL)
            && !seen.insert(name)
        {
            let message = format!("the split has pool {} twice", quote(name));
            found.push(error(Code::Conflict, table, &split::POOL, message).help("add the weights up"));
        }
    }
    if !tables.is_empty() && tables.iter().all(|table| table.count(&split::WEIGHT) == Some(&0)) {
        let message = "every weight of the split is 0: it takes no requests";
        found.push(
            error(Code::OutOfRange, part, &route::SPLIT, message)
                .help("give one of them a weight of 1 or more"),
        );
    }
}

/// No server sees what is answered here.
fn no_server(part: &Part, found: &mut Diagnostics) {
    let keys = [
        &route::REWRITE,
        &route::REQUEST_HEADERS,
        &route::MIRROR,
        &route::RESPONSE_TIMEOUT,
        &route::RESPONSE_IDLE_TIMEOUT,
        &route::UPGRADE_TIMEOUT,
        &route::RETRIES,
        &route::RETRY_ON,
    ];
    for key in written(part, &keys) {
        let message = format!("`{}` has no effect: this route is answered without a server", key.name);
        let warning = Diagnostic::warning(Code::NoEffect, part.place_of(key), part.path_of(key), message);
        found.push(warning.help("remove it"));
    }
}

fn conditions(part: &Part, found: &mut Diagnostics) {
    for table in part.parts(&route::HEADER) {
        condition(table, [&header::EXACT, &header::PREFIX, &header::ABSENT], found);
    }
    for table in part.parts(&route::QUERY) {
        condition(table, [&query::EXACT, &query::PREFIX, &query::ABSENT], found);
    }
}

fn condition(part: &Part, keys: [&Key; 3], found: &mut Diagnostics) {
    one_of(part, &keys, "the condition", found);
}

fn rewrites(part: &Part, found: &mut Diagnostics) {
    for table in part.parts(&route::REWRITE) {
        one_of(table, &[&rewrite::PREFIX, &rewrite::PATH], "the rewrite", found);
        let exact = spec_of(part).is_some_and(|spec| matches!(spec.path, PathMatch::Exact(_)));
        if table.was_written(&rewrite::PREFIX) && exact {
            let message = "the route matches one path exactly, so there is no prefix to put another one for";
            found.push(
                error(Code::Conflict, table, &rewrite::PREFIX, message)
                    .help("end `path` in a /, use `path_prefix`, or rewrite = { path = \"…\" }"),
            );
        }
    }
}

/// A header that is removed and set is set; that it is also to be removed was a slip.
fn changes(part: &Part, found: &mut Diagnostics) {
    let of_requests = [&request_headers::REMOVE, &request_headers::SET];
    let of_responses = [&response_headers::REMOVE, &response_headers::SET];
    let tables = part.parts(&route::REQUEST_HEADERS).iter().map(|table| (table, of_requests));
    let tables = tables.chain(part.parts(&route::RESPONSE_HEADERS).iter().map(|table| (table, of_responses)));
    for (table, [remove, set]) in tables {
        let is_set = |name: &String| table.pairs(set).into_iter().flatten().any(|pair| pair.name == *name);
        for (name, place) in table.texts(remove).into_iter().flatten().filter(|(name, _)| is_set(name)) {
            let message = format!("header {} is removed and set", quote(name));
            let error = Diagnostic::error(Code::Conflict, place, table.path_of(remove), message);
            found.push(error.help("`set` replaces what is there; take it out of `remove`"));
        }
    }
}

/// Routes of one host and path, by what comes before what there: more conditions before fewer, then the
/// order of the file. One is never taken when one before it has the same conditions and takes its methods.
fn shadowed(routes: &[Part], found: &mut Diagnostics) {
    let mut groups: HashMap<String, Vec<(usize, Spec)>> = HashMap::new();
    for (n, part) in routes.iter().enumerate() {
        let Some(spec) = spec_of(part) else { continue };
        let key = format!("{:?} {:?}", spec.path, spec.headers);
        let group = groups.entry(key).or_default();
        let covering = group.iter().take(COMPARED_MAX).find(|(_, before)| covers(before, &spec));
        if let Some((before, covering)) = covering {
            found.push(shadow(part, n, &spec, route_name(*before, &routes[*before]), covering));
        }
        group.push((n, spec));
    }
}

/// Routes that one is compared with; thousands that differ in their hosts only are not compared with each other.
const COMPARED_MAX: usize = 256;

fn covers(before: &Spec, spec: &Spec) -> bool {
    let hosts = before.hosts == spec.hosts
        || (!spec.hosts.is_empty() && spec.hosts.iter().all(|host| before.hosts.contains(host)));
    let methods = before.methods == spec.methods
        || (!spec.methods.is_empty()
            && !before.methods.is_empty()
            && spec.methods.iter().all(|method| before.methods.contains(method)));
    hosts && methods && before.query == spec.query
}

fn shadow(part: &Part, n: usize, spec: &Spec, other: String, covering: &Spec) -> Diagnostic {
    let name = route_name(n, part);
    if spec == covering {
        let message = format!("route {} has the same conditions as route {}", quote(&name), quote(&other));
        return Diagnostic::error(Code::DuplicateRoute, &part.place, part.path.clone(), message)
            .help("remove one of them, or tell them apart by host, path, method, header or query");
    }
    let message = format!(
        "route {} is never taken: route {} before it takes all of its requests",
        quote(&name),
        quote(&other)
    );
    Diagnostic::warning(Code::UnreachableRoute, &part.place, part.path.clone(), message)
        .help("put it first, or take its hosts or methods out of the other one")
}

/// A route without any condition leaves nothing for the listener's pool.
fn default_shadowed(part: &Part, routes: &[Part], found: &mut Diagnostics) {
    let everything = |(_, one): &(usize, &Part)| spec_of(one).is_some_and(|spec| spec == Spec::default());
    if let Some((n, one)) = routes.iter().enumerate().find(everything)
        && part.was_written(&listener::POOL)
    {
        let name = quote(&route_name(n, one));
        let key = &listener::POOL;
        let message = format!("nothing goes to the listener's `pool`: route {name} takes every request");
        let warning =
            Diagnostic::warning(Code::UnreachableRoute, part.place_of(key), part.path_of(key), message);
        found.push(warning.help("remove one of the two"));
    }
}
