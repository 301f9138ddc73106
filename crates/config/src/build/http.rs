//! What is http of a listener, and its routes.

use std::sync::Arc;

use fourfold_http::h1::Limits;
use fourfold_http::path::PathRules;
use fourfold_http::route::{FieldMatch, PathMatch, QueryMatch, Spec, ValueMatch};

use super::pool::retry_on;
use super::{Names, number, optional, small};
use crate::FileUse;
use crate::form;
use crate::keys::{
    Key, connection_rate, error_page, header, listener, mirror, query, redirect, request_headers,
    request_rate, respond, response_headers, rewrite, route, split, top,
};
use crate::plan::http::{
    Action, Content, ErrorPage, ErrorStatus, FieldOps, Http, Mirror, PathRewrite, RateLimit, Rewrite, Route,
    Routes,
};
use crate::plan::template::Template;
use crate::section::{Pair, Part};

pub(super) fn http_of(part: &Part, pool: Option<usize>, pools: &Names) -> Option<Http> {
    let named = |key: &Key| part.text(key).filter(|text| *text != "off").cloned();
    let pages = part.parts(&listener::ERROR_PAGE).iter().map(error_pages);
    let pages: Vec<Vec<ErrorPage>> = pages.collect::<Option<_>>()?;
    Some(Http {
        limits: limits_of(part)?,
        body_bytes_max: part.count(&listener::BODY_BYTES_MAX).copied(),
        requests_max: number(part, &listener::REQUESTS_MAX)?,
        first_byte_timeout_ms: *part.ms(&listener::FIRST_BYTE_TIMEOUT)?,
        header_timeout_ms: *part.ms(&listener::HEADER_TIMEOUT)?,
        body_timeout_ms: *part.ms(&listener::BODY_TIMEOUT)?,
        send_timeout_ms: *part.ms(&listener::SEND_TIMEOUT)?,
        keep_alive_timeout_ms: *part.ms(&listener::KEEP_ALIVE_TIMEOUT)?,
        upgrade_timeout_ms: *part.ms(&listener::UPGRADE_TIMEOUT)?,
        paths: PathRules {
            slashes: part.choice(&listener::SLASHES)?,
            encoded_slashes: part.choice(&listener::ENCODED_SLASHES)?,
        },
        trusted_proxies: part.cidrs(&listener::TRUSTED_PROXIES).cloned().unwrap_or_default(),
        forwarded: part.choice(&listener::FORWARDED)?,
        via: named(&listener::VIA),
        request_id: named(&listener::REQUEST_ID),
        server_header: part.choice(&listener::SERVER_HEADER)?,
        errors: part.choice(&listener::ERRORS)?,
        error_pages: pages.into_iter().flatten().collect(),
        explain_errors: *part.bool(&listener::EXPLAIN_ERRORS)?,
        request_rates: part
            .parts(&listener::REQUEST_RATE)
            .iter()
            .map(|part| rate_of(part, &REQUEST_RATE))
            .collect::<Option<_>>()?,
        routes: routes_of(part, pool, pools)?,
    })
}

fn limits_of(part: &Part) -> Option<Limits> {
    Some(Limits {
        line_bytes: number(part, &listener::LINE_BYTES_MAX)?,
        head_bytes: number(part, &listener::HEADER_BYTES_MAX)?,
        fields: number(part, &listener::HEADERS_MAX)?,
        trailer_bytes: number(part, &listener::TRAILER_BYTES_MAX)?,
    })
}

/// The keys of a rate, which are the same in two sections.
struct RateKeys {
    rate: &'static Key,
    burst: &'static Key,
    key: &'static Key,
    v4: &'static Key,
    v6: &'static Key,
    keys_max: &'static Key,
}

const REQUEST_RATE: RateKeys = RateKeys {
    rate: &request_rate::RATE,
    burst: &request_rate::BURST,
    key: &request_rate::KEY,
    v4: &request_rate::PREFIX_V4,
    v6: &request_rate::PREFIX_V6,
    keys_max: &request_rate::KEYS_MAX,
};

const CONNECTION_RATE: RateKeys = RateKeys {
    rate: &connection_rate::RATE,
    burst: &connection_rate::BURST,
    key: &connection_rate::KEY,
    v4: &connection_rate::PREFIX_V4,
    v6: &connection_rate::PREFIX_V6,
    keys_max: &connection_rate::KEYS_MAX,
};

pub(super) fn connection_rate(part: &Part) -> Option<RateLimit> {
    rate_of(part, &CONNECTION_RATE)
}

fn rate_of(part: &Part, keys: &RateKeys) -> Option<RateLimit> {
    let (count, per_ms) = form::normal_rate(part.text(keys.rate)?)?;
    Some(RateLimit {
        key: form::rate_key(part.text(keys.key)?, number(part, keys.v4)?, number(part, keys.v6)?),
        count,
        per_ms,
        burst: small(part, keys.burst)?.unwrap_or(count),
        keys_max: number(part, keys.keys_max)?,
    })
}

/// One for each status.
fn error_pages(part: &Part) -> Option<Vec<ErrorPage>> {
    let content = content_of(part, &error_page::FILE, &error_page::BODY, &error_page::CONTENT_TYPE);
    let page = |text: &str| {
        let status = match text {
            "4xx" => ErrorStatus::Class(4),
            "5xx" => ErrorStatus::Class(5),
            text => ErrorStatus::One(text.parse().ok()?),
        };
        Some(ErrorPage { status, content: content.clone() })
    };
    part.texts(&error_page::STATUS)?.iter().map(|(text, _)| page(text)).collect()
}

fn content_of(part: &Part, file: &Key, body: &Key, content_type: &Key) -> Content {
    let file = part.text(file).cloned();
    let body = part.text(body).map_or(&b""[..], |body| body.as_bytes());
    let guessed = || type_of(file.as_deref().unwrap_or_default()).to_owned();
    Content {
        bytes: Arc::from(body),
        content_type: part.text(content_type).cloned().unwrap_or_else(guessed),
        file,
    }
}

fn type_of(file: &str) -> &'static str {
    match file.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase()).as_deref() {
        Some("html" | "htm") => "text/html; charset=utf-8",
        Some("json") => "application/json",
        Some("xml") => "application/xml",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        _ => "text/plain; charset=utf-8",
    }
}

fn routes_of(part: &Part, pool: Option<usize>, pools: &Names) -> Option<Routes> {
    let written = part.parts(&listener::ROUTE).iter().enumerate();
    let routes = written.map(|(n, part)| route_of(n, part, pool, pools));
    let mut routes: Vec<Route> = routes.collect::<Option<_>>()?;
    routes.extend(pool.map(Route::everything));
    Some(Routes::new(routes))
}

fn route_of(n: usize, part: &Part, pool: Option<usize>, pools: &Names) -> Option<Route> {
    let spec = spec_of(part)?;
    Some(Route {
        name: route_name(n, part),
        action: action_of(part, pool, pools)?,
        rewrite: optional(part, &route::REWRITE, |table| rewrite_of(table, &spec.path))?.unwrap_or_default(),
        request_fields: optional(part, &route::REQUEST_HEADERS, request_fields_of)?.unwrap_or_default(),
        response_fields: optional(part, &route::RESPONSE_HEADERS, response_fields_of)?.unwrap_or_default(),
        response_timeout_ms: part.ms(&route::RESPONSE_TIMEOUT).copied(),
        response_idle_timeout_ms: part.ms(&route::RESPONSE_IDLE_TIMEOUT).copied(),
        upgrade_timeout_ms: part.ms(&route::UPGRADE_TIMEOUT).copied(),
        body_bytes_max: part.count(&route::BODY_BYTES_MAX).copied(),
        retries: small(part, &route::RETRIES)?,
        retry_on: retry_on(part, &route::RETRY_ON),
        mirror: optional(part, &route::MIRROR, |table| mirror_of(table, pools))?,
        spec,
    })
}

pub(crate) fn route_name(n: usize, part: &Part) -> String {
    part.text(&route::NAME).cloned().unwrap_or_else(|| format!("route-{}", n + 1))
}

/// `None` when a condition was wrong by itself.
pub(crate) fn spec_of(part: &Part) -> Option<Spec> {
    const CONDITIONS: [&Key; 8] = [
        &route::HOST,
        &route::PATH,
        &route::PATH_PREFIX,
        &route::PATH_EXACT,
        &route::PATH_REGEX,
        &route::METHOD,
        &route::HEADER,
        &route::QUERY,
    ];
    if CONDITIONS.iter().any(|key| part.is_wrong(key)) {
        return None;
    }
    let texts = |key: &Key| part.texts(key).into_iter().flatten().map(|(text, _)| text.as_str());
    Some(Spec {
        hosts: texts(&route::HOST).map(|text| text.parse().ok()).collect::<Option<_>>()?,
        path: path_of(part),
        methods: texts(&route::METHOD).map(str::to_owned).collect(),
        headers: part.parts(&route::HEADER).iter().map(header_of).collect::<Option<_>>()?,
        query: part.parts(&route::QUERY).iter().map(query_of).collect::<Option<_>>()?,
    })
}

fn path_of(part: &Part) -> PathMatch {
    let text = |key: &Key| part.text(key).cloned();
    if let Some(exact) = text(&route::PATH_EXACT) {
        return PathMatch::Exact(exact);
    }
    match (text(&route::PATH_PREFIX), text(&route::PATH)) {
        (Some(prefix), _) => PathMatch::Prefix(prefix),
        (None, Some(path)) if path.ends_with('/') => PathMatch::Prefix(path),
        (None, Some(path)) => PathMatch::Exact(path),
        (None, None) => PathMatch::Any,
    }
}

fn header_of(part: &Part) -> Option<FieldMatch> {
    let value = value_of(part, &header::EXACT, &header::PREFIX, &header::ABSENT)?;
    Some(FieldMatch { name: part.text(&header::NAME)?.clone(), value })
}

fn query_of(part: &Part) -> Option<QueryMatch> {
    let value = value_of(part, &query::EXACT, &query::PREFIX, &query::ABSENT)?;
    Some(QueryMatch { name: part.text(&query::NAME)?.clone(), value })
}

fn value_of(part: &Part, exact: &Key, prefix: &Key, absent: &Key) -> Option<ValueMatch> {
    Some(match (part.text(exact), part.text(prefix)) {
        (Some(text), _) => ValueMatch::Exact(text.clone()),
        (None, Some(text)) => ValueMatch::Prefix(text.clone()),
        (None, None) if *part.bool(absent)? => ValueMatch::Absent,
        (None, None) => ValueMatch::Present,
    })
}

fn action_of(part: &Part, pool: Option<usize>, pools: &Names) -> Option<Action> {
    if let Some(table) = part.parts(&route::REDIRECT).first() {
        let location = Template::parse(table.text(&redirect::TO)?).ok()?;
        return Some(Action::Redirect { status: number(table, &redirect::STATUS)?, location });
    }
    if let Some(table) = part.parts(&route::RESPOND).first() {
        let content = content_of(table, &respond::FILE, &respond::BODY, &respond::CONTENT_TYPE);
        return Some(Action::Respond { status: number(table, &respond::STATUS)?, content });
    }
    let splits = part.parts(&route::SPLIT);
    if !splits.is_empty() {
        let weighted = |one: &Part| Some((pool_of(one, &split::POOL, pools)?, number(one, &split::WEIGHT)?));
        return splits.iter().map(weighted).collect::<Option<_>>().map(Action::Split);
    }
    pool_of(part, &route::POOL, pools).or(pool).map(Action::Pool)
}

fn pool_of(part: &Part, key: &Key, pools: &Names) -> Option<usize> {
    pools.get(part.text(key)?.as_str()).copied()
}

fn rewrite_of(part: &Part, path: &PathMatch) -> Option<Rewrite> {
    let prefix = part.text(&rewrite::PREFIX).map(|with| prefix_rewrite(path, with));
    let whole = part.text(&rewrite::PATH).map(|path| PathRewrite::Path(path.clone()));
    Some(Rewrite { path: prefix.or(whole), host: part.text(&rewrite::HOST).cloned() })
}

/// Both end in a `/` or neither does, so that what follows fits on.
fn prefix_rewrite(path: &PathMatch, with: &str) -> PathRewrite {
    let matched = match path {
        PathMatch::Prefix(prefix) => prefix.as_str(),
        PathMatch::Any | PathMatch::Exact(_) => "/",
    };
    let bare = with.trim_end_matches('/');
    let with = if matched.ends_with('/') { format!("{bare}/") } else { bare.to_owned() };
    PathRewrite::Prefix { matched_bytes: matched.len(), with }
}

fn request_fields_of(part: &Part) -> Option<FieldOps> {
    fields_of(part, [&request_headers::REMOVE, &request_headers::SET, &request_headers::ADD])
}

fn response_fields_of(part: &Part) -> Option<FieldOps> {
    fields_of(part, [&response_headers::REMOVE, &response_headers::SET, &response_headers::ADD])
}

fn fields_of(part: &Part, [remove, set, add]: [&Key; 3]) -> Option<FieldOps> {
    let field = |pair: &Pair| Some((pair.name.clone(), Template::parse(&pair.value).ok()?));
    let fields = |key: &Key| part.pairs(key).into_iter().flatten().map(field).collect::<Option<_>>();
    Some(FieldOps {
        remove: part.texts(remove).into_iter().flatten().map(|(name, _)| name.clone()).collect(),
        set: fields(set)?,
        add: fields(add)?,
    })
}

fn mirror_of(part: &Part, pools: &Names) -> Option<Mirror> {
    Some(Mirror { pool: pool_of(part, &mirror::POOL, pools)?, percent: number(part, &mirror::PERCENT)? })
}

/// Every file that is named, with where.
pub(crate) fn files(root: &Part) -> Vec<FileUse> {
    let mut found = Vec::new();
    let mut note = |part: &Part, key: &'static Key| {
        if let Some(file) = part.text(key) {
            let (place, key) = (part.place_of(key).clone(), part.path_of(key));
            found.push(FileUse { file: file.clone(), key, place });
        }
    };
    for part in root.parts(&top::LISTENER) {
        part.parts(&listener::ERROR_PAGE).iter().for_each(|page| note(page, &error_page::FILE));
        let responses = part.parts(&listener::ROUTE).iter().flat_map(|route| route.parts(&route::RESPOND));
        responses.for_each(|table| note(table, &respond::FILE));
    }
    found
}
