//! Apache's and nginx's combined format, and `key=value` behind it: tools that know the one ignore the other.
//!
//! `client - - [time] "method path?query version" status sent_body "referer" "user agent" key=value …`, `-` for what does not
//! exist.

use super::record::*;
use super::text::{Moment, Quoted, Word, decimal, escaped, ip, socket};

/// Without the line's end.
pub(super) fn line(record: &Record<'_>, started_unix_us: i64, out: &mut Vec<u8>) {
    or_dash(record.client, ip, out);
    out.extend_from_slice(b" - - [");
    Moment::new(started_unix_us).apache(out);
    out.extend_from_slice(b"] \"");
    request_line(record, out);
    out.extend_from_slice(b"\" ");
    or_dash(record.status.map(u64::from), decimal, out);
    out.push(b' ');
    decimal(record.sent.body, out);
    out.push(b' ');
    quoted(record.referer, REFERER_BYTES_MAX, out);
    out.push(b' ');
    quoted(record.user_agent, USER_AGENT_BYTES_MAX, out);
    who(record, out);
    upstream(record, out);
    volume_and_time(record, out);
}

/// A space inside a part is escaped: whoever splits at spaces gets three parts.
fn request_line(record: &Record<'_>, out: &mut Vec<u8>) {
    if record.method.is_empty() {
        return out.push(b'-');
    }
    part(record.method, METHOD_BYTES_MAX, out);
    out.push(b' ');
    part(record.path, PATH_BYTES_MAX, out);
    if let Some(query) = record.query {
        out.push(b'?');
        escaped::<Word>(query, QUERY_BYTES_MAX, out);
    }
    out.push(b' ');
    part(record.version.as_bytes(), METHOD_BYTES_MAX, out);
}

pub(super) fn part(bytes: &[u8], bytes_max: usize, out: &mut Vec<u8>) {
    escaped::<Word>(if bytes.is_empty() { b"-" } else { bytes }, bytes_max, out);
}

fn who(record: &Record<'_>, out: &mut Vec<u8>) {
    name("host", record.host, HOST_BYTES_MAX, out);
    name("listener", record.listener.as_bytes(), NAME_BYTES_MAX, out);
    name("route", record.route.as_bytes(), NAME_BYTES_MAX, out);
    value("peer", record.peer, socket, out);
    name("id", record.request_id, REQUEST_ID_BYTES_MAX, out);
}

fn upstream(record: &Record<'_>, out: &mut Vec<u8>) {
    name("pool", record.pool.as_bytes(), NAME_BYTES_MAX, out);
    value("server", record.server, socket, out);
    value("source", record.source, socket, out);
    number("reused", Some(u64::from(record.reused)), out);
    number("tries", Some(u64::from(record.tries)), out);
    value("ending", Some(record.ending.code().as_bytes()), word, out);
    value("reason", Some(record.ending.name().as_bytes()), word, out);
}

fn volume_and_time(record: &Record<'_>, out: &mut Vec<u8>) {
    number("received_head", Some(record.received.head), out);
    number("received_body", Some(record.received.body), out);
    number("sent_head", Some(record.sent.head), out);
    number("request_us", record.phases.request, out);
    number("queue_us", record.phases.queue, out);
    number("connect_us", record.phases.connect, out);
    number("response_us", record.phases.response, out);
    number("body_us", record.phases.body, out);
    number("total_us", Some(record.phases.total), out);
}

fn key(name: &str, out: &mut Vec<u8>) {
    out.push(b' ');
    out.extend_from_slice(name.as_bytes());
    out.push(b'=');
}

fn name(key_name: &str, bytes: &[u8], bytes_max: usize, out: &mut Vec<u8>) {
    key(key_name, out);
    quoted(bytes, bytes_max, out);
}

pub(super) fn number(name: &str, number: Option<u64>, out: &mut Vec<u8>) {
    value(name, number, decimal, out);
}

pub(super) fn value<T>(name: &str, value: Option<T>, write: impl FnOnce(T, &mut Vec<u8>), out: &mut Vec<u8>) {
    key(name, out);
    or_dash(value, write, out);
}

pub(super) fn word(bytes: &[u8], out: &mut Vec<u8>) {
    part(bytes, NAME_BYTES_MAX, out);
}

fn quoted(bytes: &[u8], bytes_max: usize, out: &mut Vec<u8>) {
    out.push(b'"');
    escaped::<Quoted>(if bytes.is_empty() { b"-" } else { bytes }, bytes_max, out);
    out.push(b'"');
}

pub(super) fn or_dash<T>(value: Option<T>, write: impl FnOnce(T, &mut Vec<u8>), out: &mut Vec<u8>) {
    match value {
        Some(value) => write(value, out),
        None => out.push(b'-'),
    }
}
