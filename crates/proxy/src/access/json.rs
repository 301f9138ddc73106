//! A line of JSON: always the same keys in the same order, `null` for what does not exist.

use super::record::*;
use super::text::{Json, Moment, decimal, escaped, ip, socket};

/// Without the line's end.
pub(super) fn line(record: &Record<'_>, started_unix_us: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"time\":\"");
    Moment::new(started_unix_us).rfc3339(out);
    out.push(b'"');
    who_and_what(record, out);
    volume_and_time(record, out);
    upstream(record, out);
    end(record, out);
    out.push(b'}');
}

fn who_and_what(record: &Record<'_>, out: &mut Vec<u8>) {
    text("listener", record.listener.as_bytes(), NAME_BYTES_MAX, out);
    text("route", record.route.as_bytes(), NAME_BYTES_MAX, out);
    quoted("client", record.client, ip, out);
    quoted("peer", record.peer, socket, out);
    text("method", record.method, METHOD_BYTES_MAX, out);
    text("host", record.host, HOST_BYTES_MAX, out);
    text("path", record.path, PATH_BYTES_MAX, out);
    // An empty query is one: `/a?` is not `/a`.
    quoted("query", record.query, |query, out| escaped::<Json>(query, QUERY_BYTES_MAX, out), out);
    text("version", record.version.as_bytes(), METHOD_BYTES_MAX, out);
    number("status", record.status.map(u64::from), out);
}

fn volume_and_time(record: &Record<'_>, out: &mut Vec<u8>) {
    number("received_head", Some(record.received.head), out);
    number("received_body", Some(record.received.body), out);
    number("sent_head", Some(record.sent.head), out);
    number("sent_body", Some(record.sent.body), out);
    number("request_us", record.phases.request, out);
    number("queue_us", record.phases.queue, out);
    number("connect_us", record.phases.connect, out);
    number("response_us", record.phases.response, out);
    number("body_us", record.phases.body, out);
    number("total_us", Some(record.phases.total), out);
}

fn upstream(record: &Record<'_>, out: &mut Vec<u8>) {
    text("pool", record.pool.as_bytes(), NAME_BYTES_MAX, out);
    quoted("server", record.server, socket, out);
    quoted("source", record.source, socket, out);
    key("reused", out);
    out.extend_from_slice(if record.reused { b"true" } else { b"false" });
    number("tries", Some(u64::from(record.tries)), out);
}

fn end(record: &Record<'_>, out: &mut Vec<u8>) {
    text("ending", record.ending.name().as_bytes(), NAME_BYTES_MAX, out);
    text("ending_code", record.ending.code().as_bytes(), NAME_BYTES_MAX, out);
    text("request_id", record.request_id, REQUEST_ID_BYTES_MAX, out);
    text("referer", record.referer, REFERER_BYTES_MAX, out);
    text("user_agent", record.user_agent, USER_AGENT_BYTES_MAX, out);
}

fn key(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn text(name: &str, bytes: &[u8], bytes_max: usize, out: &mut Vec<u8>) {
    let bytes = Some(bytes).filter(|bytes| !bytes.is_empty());
    quoted(name, bytes, |bytes, out| escaped::<Json>(bytes, bytes_max, out), out);
}

fn quoted<T>(name: &str, value: Option<T>, write: impl FnOnce(T, &mut Vec<u8>), out: &mut Vec<u8>) {
    key(name, out);
    let Some(value) = value else { return out.extend_from_slice(b"null") };
    out.push(b'"');
    write(value, out);
    out.push(b'"');
}

fn number(name: &str, value: Option<u64>, out: &mut Vec<u8>) {
    key(name, out);
    match value {
        Some(value) => decimal(value, out),
        None => out.extend_from_slice(b"null"),
    }
}
