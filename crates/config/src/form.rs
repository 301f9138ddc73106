//! Texts with a form of their own: header names, host patterns, paths, templates, rates.
//!
//! Owns: for each the parser that judges and normalises it, its pattern in the JSON Schema and its words in
//! the reference. What a text comes to is worked out again by `build.rs`, from the normalised one.
//! Refuses: to guess, and whatever could change meaning on its way through a message: control bytes, names
//! that belong to the connection, paths that are not in their one form.
//! Driven by: [`Kind::Text`](crate::keys::Kind) and its relatives.

use std::net::{Ipv6Addr, SocketAddr};

use crate::diagnostic::Code;
use crate::plan::AdminListen;
use crate::plan::http::{AccessTarget, RateKey};
use crate::plan::pool::{HashKey, RetryOn};
use crate::plan::template::Template;
use crate::suggest::nearest;
use crate::value::{ValueError, parse_bind, parse_count, parse_host, quote};

/// Header and cookie names.
const TOKEN_BYTES_MAX: usize = 256;
const PATH_BYTES_MAX: usize = 2_048;
const VALUE_BYTES_MAX: usize = 4_096;
/// A body in the configuration itself.
const BODY_BYTES_MAX: usize = 64 << 10;
const FILE_BYTES_MAX: usize = 4_096;
#[derive(Debug)]
pub(crate) struct Form {
    /// The text in the one form that is kept.
    pub parse: fn(&str) -> Result<String, ValueError>,
    /// For the JSON Schema.
    pub pattern: &'static str,
    /// For the reference.
    pub words: &'static str,
}

macro_rules! forms {
    ($($id:ident = $parse:expr, $pattern:literal, $words:literal;)*) => {
        $(pub(crate) static $id: Form = Form { parse: $parse, pattern: $pattern, words: $words };)*
    };
}

forms! {
    HEADER_NAME = header_name, "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", "header name";
    CHANGED_NAME = changed_name, "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", "header name";
    REQUEST_ID = request_id, "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", "header name or `\"off\"`";
    COOKIE_NAME = cookie_name, "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", "cookie name";
    METHOD = method, "^[A-Z0-9!#$%&'*+.^_`|~-]+$", "method";
    FIELD_VALUE = field_value, "^[^\\u0000-\\u0008\\u000a-\\u001f\\u007f]*$", "text";
    TEMPLATE = template, "^[^\\u0000-\\u001f\\u007f]*$", "template";
    LOCATION = location, "^[^\\u0000-\\u0020\\u007f]+$", "template of a path or a URL";
    BODY = body, "", "text";
    FILE = file, "^[^\\u0000]+$", "file";
    HOST_PATTERN = host_pattern, "^(\\*\\.)?[A-Za-z0-9._-]+$|^\\[[0-9A-Fa-f:.]+\\]$", "`\"host\"` or `\"*.host\"`";
    AUTHORITY = authority, "^([A-Za-z0-9._-]+|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{1,5})?$", "`\"host\"` or `\"host:port\"`";
    PATH = path, "^/[^?#*\\u0000-\\u0020\\u007f]*$", "path";
    PATH_PATTERN = path_pattern, "^/[^?#\\u0000-\\u0020\\u007f]*$", "path";
    REQUEST_TARGET = request_target, "^/[^#\\u0000-\\u0020\\u007f]*$", "path, with a query or without";
    QUERY_NAME = query_name, "^[^&=?\\u0000-\\u001f\\u007f]+$", "text";
    QUERY_VALUE = query_value, "^[^\\u0000-\\u001f\\u007f]*$", "text";
    RATE = rate, "^[0-9_]+[kM]?/(s|m|h)$", "`\"100/s\"`, `\"30/m\"`, `\"10/h\"`";
    REQUEST_RATE_KEY = request_rate_key, "^(global|address|header:.+)$", "`\"address\"`, `\"global\"`, `\"header:NAME\"`";
    CONNECTION_RATE_KEY = connection_rate_key, "^(global|address)$", "`\"address\"`, `\"global\"`";
    HASH_KEY = hash_key_text, "^(address|path|host|header:.+|cookie:.+)$", "`\"address\"`, `\"path\"`, `\"host\"`, `\"header:NAME\"`, `\"cookie:NAME\"`";
    RETRY_ON = retry_on, "^(connect|reset|timeout|502|503|504|never)$", "`\"connect\"`, `\"reset\"`, `\"timeout\"`, `\"502\"`, `\"503\"`, `\"504\"`, `\"never\"`";
    STATUSES = statuses, "^[1-5][0-9]{2}( *- *[1-5][0-9]{2})?$", "`\"200\"` or `\"200-399\"`";
    ERROR_STATUS = error_status, "^[45]([0-9]{2}|xx)$", "`\"502\"`, `\"4xx\"` or `\"5xx\"`";
    LOG_TARGET = log_target, "^.+$", "`\"stdout\"`, `\"syslog:/dev/log\"`, `\"syslog:ip:port\"` or a file";
    ADMIN_LISTEN = admin_listen, "^(off|unix:.+|.+:[0-9]+)$", "`\"unix:/path\"`, `\"127.0.0.1:port\"`, `\"[::1]:port\"` or `\"off\"`";
    VIA = via, "^[A-Za-z0-9!#$%&'*+.^_`|~:-]+$", "name or `\"off\"`";
}

fn bad(code: Code, text: &str, why: &str) -> ValueError {
    ValueError::new(code, format!("{} {why}", quote(text)))
}

/// RFC 9110 5.6.2.
fn token(code: Code, noun: &str, text: &str) -> Result<(), ValueError> {
    if text.is_empty() {
        return Err(ValueError::new(code, format!("the {noun} is empty")));
    }
    if text.len() > TOKEN_BYTES_MAX {
        return Err(bad(code, text, &format!("is longer than {TOKEN_BYTES_MAX} bytes")));
    }
    match text.chars().find(|c| !is_tchar(*c)) {
        None => Ok(()),
        Some(':') => {
            Err(bad(code, text, &format!("is no {noun}: it contains ':'")).help("write the name alone"))
        }
        Some(c) => {
            let why = format!("is no {noun}: it contains '{}'", c.escape_debug());
            Err(bad(code, text, &why).help("letters, digits and !#$%&'*+-.^_`|~ are allowed"))
        }
    }
}

fn is_tchar(c: char) -> bool {
    u8::try_from(c).is_ok_and(|byte| fourfold_http::h1::is_token(&[byte]))
}

fn header_name(text: &str) -> Result<String, ValueError> {
    token(Code::BadHeader, "header name", text).map(|()| text.to_ascii_lowercase())
}

/// Fields of the connection and of the framing, which are written by us alone (RFC 9110 7.6.1, RFC 9112 6).
const OURS: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
];

fn changed_name(text: &str) -> Result<String, ValueError> {
    let name = header_name(text)?;
    if !OURS.contains(&name.as_str()) {
        return Ok(name);
    }
    let error =
        bad(Code::BadHeader, text, "cannot be changed: it belongs to the connection or to the framing");
    Err(match name.as_str() {
        "host" => error.help("for another host use rewrite = { host = \"…\" }"),
        _ => error.help("remove it; Fourfold writes this header itself"),
    })
}

/// Fields whose value decides about more than an id.
const NOT_AN_ID: [&str; 6] =
    ["authorization", "cookie", "forwarded", "proxy-authorization", "via", "x-forwarded-for"];

fn request_id(text: &str) -> Result<String, ValueError> {
    let name = changed_name(text)?;
    if NOT_AN_ID.contains(&name.as_str()) {
        return Err(
            bad(Code::BadHeader, text, "has a meaning of its own").help("the usual name is \"x-request-id\"")
        );
    }
    Ok(name)
}

fn cookie_name(text: &str) -> Result<String, ValueError> {
    token(Code::BadCookie, "cookie name", text)?;
    // RFC 6265bis 4.1.3: browsers drop these without the attributes that they promise.
    let promising = ["__host-", "__secure-"];
    if promising.iter().any(|prefix| text.to_ascii_lowercase().starts_with(prefix)) {
        let why = "begins with a prefix that browsers tie to further attributes";
        return Err(bad(Code::BadCookie, text, why).help("choose another name and use `secure`"));
    }
    Ok(text.to_owned())
}

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

fn method(text: &str) -> Result<String, ValueError> {
    token(Code::BadMethod, "method", text)?;
    if METHODS.contains(&text) {
        return Ok(text.to_owned());
    }
    // RFC 9110 9.1: methods are case-sensitive, so `get` is another method that nobody means.
    if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        let upper = text.to_ascii_uppercase();
        let near = nearest(&upper, METHODS).map_or(upper.clone(), str::to_owned);
        let error = bad(Code::BadMethod, text, "is not in capitals: methods are told apart by case");
        return Err(error.help(format!("did you mean {}?", quote(&near))));
    }
    match nearest(text, METHODS) {
        // Longer or shorter by a letter: no registered method is so near to another.
        Some(near) if near != text && near.len().abs_diff(text.len()) <= 1 => {
            Err(bad(Code::BadMethod, text, "is no method").help(format!("did you mean {}?", quote(near))))
        }
        _ => Ok(text.to_owned()),
    }
}

fn no_controls(code: Code, noun: &str, text: &str, max: usize) -> Result<(), ValueError> {
    if text.len() > max {
        return Err(ValueError::new(code, format!("the {noun} is longer than {max} bytes")));
    }
    match text.chars().find(|c| c.is_control()) {
        None => Ok(()),
        Some(c) => {
            let why = format!("contains the control character '{}'", c.escape_debug());
            Err(bad(code, text, &why).help(format!("a {noun} is one line of text")))
        }
    }
}

/// RFC 9110 5.5: a value neither begins nor ends with a space, so such a one would never be met.
fn field_value(text: &str) -> Result<String, ValueError> {
    no_controls(Code::BadHeader, "header value", text, VALUE_BYTES_MAX)?;
    if text.trim() != text {
        return Err(bad(Code::BadHeader, text, "begins or ends with a space, which no header value does")
            .help(format!("write {}", quote(text.trim()))));
    }
    Ok(text.to_owned())
}

fn template(text: &str) -> Result<String, ValueError> {
    field_value(text)?;
    Template::parse(text).map(|_| text.to_owned())
}

fn location(text: &str) -> Result<String, ValueError> {
    Template::parse(text)?;
    let bad = |why: &str| bad(Code::BadTemplate, text, why);
    if text.contains(char::is_whitespace) {
        return Err(bad("contains a space").help("write %20"));
    }
    // Browsers take `//name` for another host, and what follows is the client's to choose.
    if ["/{path}", "/{uri}", "//"].iter().any(|start| text.starts_with(start)) {
        return Err(bad("begins with //, which leads to another host")
            .help("{path} and {uri} begin with a / already"));
    }
    let path = text.starts_with('/') || text.starts_with("{path}") || text.starts_with("{uri}");
    if !path && !text.contains("://") {
        return Err(bad("is neither a path nor a URL").help("write \"/…\" or \"https://{host}{uri}\""));
    }
    Ok(text.to_owned())
}

fn body(text: &str) -> Result<String, ValueError> {
    if text.len() > BODY_BYTES_MAX {
        return Err(ValueError::new(
            Code::OutOfRange,
            format!("the body is longer than {BODY_BYTES_MAX} bytes"),
        )
        .help("put it into a file and write file = \"…\""));
    }
    Ok(text.to_owned())
}

fn file(text: &str) -> Result<String, ValueError> {
    if text.is_empty() {
        return Err(ValueError::new(Code::BadFile, "the file's name is empty"));
    }
    if text.ends_with('/') {
        return Err(bad(Code::BadFile, text, "is a folder").help("name a file in it"));
    }
    no_controls(Code::BadFile, "file name", text, FILE_BYTES_MAX).map(|()| text.to_owned())
}

fn host_pattern(text: &str) -> Result<String, ValueError> {
    let bad = |why: &str| bad(Code::BadHost, text, why);
    if text == "*" {
        return Err(bad("is every host").help("leave `host` out"));
    }
    let name = text.strip_prefix("*.").unwrap_or(text);
    if name.contains('*') {
        return Err(bad("has a * in the wrong place")
            .help("a * stands at the front, before a dot: \"*.example.com\""));
    }
    if text.contains("://") {
        return Err(bad("is a URL").help("write the host alone"));
    }
    let parsed = host_only(name).map_err(|why| bad(&why).help(without_port(text)))?;
    Ok(if name.len() == text.len() { parsed } else { format!("*.{parsed}") })
}

/// A name or an address, in lower case.
fn host_only(text: &str) -> Result<String, String> {
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let parsed: Result<Ipv6Addr, _> = inner.parse();
        return parsed.map(|ip| format!("[{ip}]")).map_err(|_| "is not an IPv6 address".into());
    }
    if text.parse::<std::net::Ipv4Addr>().is_ok() {
        return Ok(text.to_owned());
    }
    if !text.is_ascii() {
        return Err("is not ASCII; write the form that begins with xn--".into());
    }
    parse_host(text).map_err(|_| "is neither a host name nor an address".into())
}

fn without_port(text: &str) -> String {
    match text.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("leave the port out: {}", quote(host))
        }
        _ => "write \"example.com\" or \"*.example.com\"".into(),
    }
}

fn authority(text: &str) -> Result<String, ValueError> {
    let bad = |why: &str| bad(Code::BadHost, text, why).help("write \"example.com\" or \"example.com:8080\"");
    if text.contains("://") {
        return Err(bad("is a URL"));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    if port.is_some_and(|port| {
        !port.bytes().all(|b| b.is_ascii_digit()) || !port.parse().is_ok_and(|p: u16| p > 0)
    }) {
        return Err(bad("has a port that is none"));
    }
    let host = host_only(host).map_err(|why| bad(&why))?;
    Ok(port.map_or(host.clone(), |port| format!("{host}:{port}")))
}

fn target(text: &str, allowed: impl Fn(char) -> bool) -> Result<(), ValueError> {
    let bad = |why: String| bad(Code::BadPath, text, &why);
    if !text.starts_with('/') {
        return Err(
            bad("does not begin with a /".into()).help(format!("write {}", quote(&format!("/{text}"))))
        );
    }
    if text.len() > PATH_BYTES_MAX {
        return Err(bad(format!("is longer than {PATH_BYTES_MAX} bytes")));
    }
    match text.chars().find(|c| !c.is_ascii_graphic() || !allowed(*c)) {
        None => Ok(()),
        Some('?') => Err(bad("contains a query".into()).help("conditions on the query go into `query`")),
        Some('*') => Err(bad("has a * in the wrong place".into())
            .help("write \"/v1/\" or \"/v1/*\" for everything below /v1, or use `path_prefix`")),
        Some(c) => Err(bad(format!("contains '{}'", c.escape_debug()))
            .help("write it percent-encoded, as clients send it: a space is %20")),
    }
}

/// A request's path is compared in its one form, so one that is written in another would never be met.
fn normal(text: &str) -> Result<(), ValueError> {
    let rules =
        fourfold_http::path::PathRules { slashes: fourfold_http::path::Slashes::Keep, ..Default::default() };
    let mut out = Vec::new();
    match fourfold_http::path::normalize(text.as_bytes(), &rules, &mut out) {
        Ok(false) => Ok(()),
        Ok(true) => Err(bad(Code::BadPath, text, "is not how a path is compared")
            .help(format!("write {}", quote(&String::from_utf8_lossy(&out))))),
        Err(reject) => Err(bad(Code::BadPath, text, "can be no path").help(reject.explain())),
    }
}

fn path(text: &str) -> Result<String, ValueError> {
    target(text, |c| !matches!(c, '?' | '#' | '*'))?;
    normal(text).map(|()| text.to_owned())
}

fn path_pattern(text: &str) -> Result<String, ValueError> {
    let text = text.strip_suffix("/*").map_or_else(|| text.to_owned(), |start| format!("{start}/"));
    path(&text)
}

fn request_target(text: &str) -> Result<String, ValueError> {
    target(text, |c| c != '#').map(|()| text.to_owned())
}

fn query_name(text: &str) -> Result<String, ValueError> {
    if text.is_empty() {
        return Err(ValueError::new(Code::BadQuery, "the parameter's name is empty"));
    }
    if text.contains(['=', '&', '?']) {
        let why = "is more than a parameter's name";
        return Err(bad(Code::BadQuery, text, why).help("write name = \"…\" and exact = \"…\""));
    }
    query_value(text)
}

/// Names and values are compared as they are meant, so an encoded one would never be met.
fn query_value(text: &str) -> Result<String, ValueError> {
    no_controls(Code::BadQuery, "query condition", text, VALUE_BYTES_MAX)?;
    let encoded = text.as_bytes().windows(3).any(
        |three| matches!(three, [b'%', high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit()),
    );
    if encoded {
        let why = "is percent-encoded, but the query is decoded before it is compared";
        return Err(bad(Code::BadQuery, text, why).help("write the characters that are meant"));
    }
    Ok(text.to_owned())
}

const PERIODS: [(&str, u64); 3] = [("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
const RATE_MAX: u64 = 10_000_000;

fn rate(text: &str) -> Result<String, ValueError> {
    parse_rate(text).map(|(count, per_ms)| format!("{count}/{per_ms}"))
}

/// How many, in how many milliseconds.
fn parse_rate(text: &str) -> Result<(u32, u64), ValueError> {
    let error = |why: &str| bad(Code::BadRate, text, why).help("write \"100/s\", \"30/m\" or \"10/h\"");
    let (count, period) = text.split_once('/').ok_or_else(|| error("is not a rate: the time is missing"))?;
    let (_, per_ms) =
        PERIODS.iter().find(|(name, _)| *name == period).ok_or_else(|| error("is not a rate"))?;
    let count = parse_count(count).map_err(|_| error("is not a rate"))?;
    if !(1..=RATE_MAX).contains(&count) {
        return Err(error("is not a rate that can be kept: from 1 to 10_000_000"));
    }
    Ok((u32::try_from(count).unwrap_or(u32::MAX), *per_ms))
}

/// A rate that [`RATE`] has normalised.
pub(crate) fn normal_rate(text: &str) -> Option<(u32, u64)> {
    let (count, per_ms) = text.split_once('/')?;
    Some((count.parse().ok()?, per_ms.parse().ok()?))
}

/// `prefix:NAME`, and what was meant if it is neither that nor one of `words`.
fn one_of(code: Code, text: &str, words: &[&'static str]) -> ValueError {
    let all = words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(", ");
    let error = bad(code, text, "is none of the choices");
    let head = |word: &'static str| word.split(':').next().unwrap_or(word);
    let near = nearest(text.split(':').next().unwrap_or(text), words.iter().map(|word| head(word)));
    match near.and_then(|near| words.iter().find(|word| head(word) == near)) {
        Some(near) => error.help(format!("did you mean {}? It can be {all}", quote(near))),
        None => error.help(format!("it can be {all}")),
    }
}

fn request_rate_key(text: &str) -> Result<String, ValueError> {
    match text.strip_prefix("header:") {
        Some(name) => header_name(name).map(|name| format!("header:{name}")),
        None if matches!(text, "global" | "address") => Ok(text.to_owned()),
        None => Err(one_of(Code::BadChoice, text, &["address", "global", "header:NAME"])),
    }
}

fn connection_rate_key(text: &str) -> Result<String, ValueError> {
    if text.starts_with("header:") {
        return Err(bad(Code::BadChoice, text, "cannot be the key: a connection has no header yet")
            .help("write \"address\" or \"global\", or use `request_rate`"));
    }
    match text {
        "global" | "address" => Ok(text.to_owned()),
        _ => Err(one_of(Code::BadChoice, text, &["address", "global"])),
    }
}

pub(crate) fn rate_key(text: &str, v4: u8, v6: u8) -> RateKey {
    match (text, text.strip_prefix("header:")) {
        (_, Some(name)) => RateKey::Header(name.to_owned()),
        ("global", _) => RateKey::Global,
        _ => RateKey::Prefix(v4, v6),
    }
}

fn hash_key_text(text: &str) -> Result<String, ValueError> {
    match text.split_once(':') {
        Some(("header", name)) => header_name(name).map(|name| format!("header:{name}")),
        Some(("cookie", name)) => token(Code::BadCookie, "cookie name", name).map(|()| text.to_owned()),
        None if matches!(text, "address" | "path" | "host") => Ok(text.to_owned()),
        _ => Err(one_of(Code::BadChoice, text, &["address", "path", "host", "header:NAME", "cookie:NAME"])),
    }
}

pub(crate) fn hash_key(text: &str) -> HashKey {
    match (text, text.split_once(':')) {
        (_, Some(("header", name))) => HashKey::Header(name.to_owned()),
        (_, Some((_, name))) => HashKey::Cookie(name.to_owned()),
        ("path", None) => HashKey::Path,
        ("host", None) => HashKey::Host,
        _ => HashKey::Address,
    }
}

const REASONS: [&str; 7] = ["connect", "reset", "timeout", "502", "503", "504", "never"];

fn retry_on(text: &str) -> Result<String, ValueError> {
    if REASONS.contains(&text) { Ok(text.to_owned()) } else { Err(one_of(Code::BadChoice, text, &REASONS)) }
}

pub(crate) fn retry_reasons<'a>(texts: impl IntoIterator<Item = &'a str>) -> RetryOn {
    let mut reasons = RetryOn::NEVER;
    for text in texts {
        match text {
            "connect" => reasons.connect = true,
            "reset" => reasons.reset = true,
            "timeout" => reasons.timeout = true,
            "502" => reasons.status_502 = true,
            "503" => reasons.status_503 = true,
            "504" => reasons.status_504 = true,
            _ => {}
        }
    }
    reasons
}

fn statuses(text: &str) -> Result<String, ValueError> {
    let (first, last) = status_range(text).ok_or_else(|| {
        bad(Code::BadStatus, text, "is no status and no range of them").help("write \"200\" or \"200-399\"")
    })?;
    if first > last {
        return Err(
            bad(Code::BadStatus, text, "ends before it starts").help(format!("write \"{last}-{first}\""))
        );
    }
    Ok(format!("{first}-{last}"))
}

pub(crate) fn status_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((status(first.trim())?, status(last.trim())?))
}

fn status(text: &str) -> Option<u16> {
    let number: u16 =
        text.parse().ok().filter(|_| text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit()))?;
    (100..=599).contains(&number).then_some(number)
}

fn error_status(text: &str) -> Result<String, ValueError> {
    let class = matches!(text, "4xx" | "5xx");
    if class || status(text).is_some_and(|status| status >= 400) {
        return Ok(text.to_owned());
    }
    Err(bad(Code::BadStatus, text, "is no status of an error")
        .help("write a status from 400 to 599, \"4xx\" or \"5xx\""))
}

fn log_target(text: &str) -> Result<String, ValueError> {
    let bad = |why: &str| bad(Code::BadLogTarget, text, why);
    if let Some(to) = text.strip_prefix("syslog:") {
        if to.starts_with('/') {
            return file(to).map(|to| format!("syslog:{to}"));
        }
        let error = || {
            bad("names neither a socket nor an address")
                .help("write \"syslog:/dev/log\" or \"syslog:10.0.0.9:514\"")
        };
        return parse_bind(to).map(|_| text.to_owned()).map_err(|_| error());
    }
    if text == "stdout" || text.contains('/') {
        return file(text);
    }
    Err(match nearest(text, ["stdout", "syslog:/dev/log"]) {
        Some(near) => bad("is no place for a log").help(format!("did you mean {}?", quote(near))),
        None => {
            bad("is no place for a log").help(format!("for a file write {}", quote(&format!("./{text}"))))
        }
    })
}

pub(crate) fn access_target(text: &str) -> AccessTarget {
    match text.strip_prefix("syslog:") {
        Some(to) => match to.parse::<SocketAddr>() {
            Ok(address) => AccessTarget::SyslogUdp(address),
            Err(_) => AccessTarget::SyslogUnix(to.to_owned()),
        },
        None if text == "stdout" => AccessTarget::Stdout,
        None => AccessTarget::File(text.to_owned()),
    }
}

fn admin_listen(text: &str) -> Result<String, ValueError> {
    parse_admin(text).map(|_| text.to_owned())
}

/// unix(7): `sun_path` has 108 bytes, the last of which ends it.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The value of `listen` in `[admin]`, and of `--admin`.
pub fn parse_admin(text: &str) -> Result<AdminListen, ValueError> {
    let bad = |why: &str| bad(Code::BadAdmin, text, why);
    if text == "off" {
        return Ok(AdminListen::Off);
    }
    if let Some(path) = text.strip_prefix("unix:") {
        if path.len() > SOCKET_PATH_BYTES_MAX {
            return Err(bad(&format!(
                "is longer than a socket's path may be, {SOCKET_PATH_BYTES_MAX} bytes"
            )));
        }
        return file(path).map(AdminListen::Unix);
    }
    if text.contains('/') && !text.contains(':') {
        return Err(
            bad("is no address").help(format!("for a socket write {}", quote(&format!("unix:{text}"))))
        );
    }
    let address = parse_bind(text)?;
    if !address.ip().is_loopback() {
        return Err(bad("can be reached from outside, and this version knows no password for it").help(format!(
            "write \"127.0.0.1:{}\", or leave `listen` out: the default is a socket that only its owner may use",
            address.port()
        )));
    }
    Ok(AdminListen::Tcp(address))
}

/// RFC 9110 7.6.3: a host with a port, or a pseudonym.
fn via(text: &str) -> Result<String, ValueError> {
    match text.split_once(':') {
        Some(_) => authority(text),
        None => token(Code::BadHeader, "name for Via", text).map(|()| text.to_owned()),
    }
}
