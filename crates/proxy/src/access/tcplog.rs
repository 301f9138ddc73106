//! HAProxy's format for connections, and `key=value` behind it.
//!
//! `client:port [time] listener pool/server queue/connect/total sent ending key=value …`. As with HAProxy the times are -1 for
//! what was not reached, and unlike there they are microseconds; `-` for whatever else does not exist.

use super::combined::{number, or_dash, part, value, word};
use super::record::*;
use super::text::{Moment, decimal, socket};

/// Without the line's end.
pub(super) fn line(record: &Record<'_>, started_unix_us: i64, out: &mut Vec<u8>) {
    or_dash(record.peer, socket, out);
    out.extend_from_slice(b" [");
    Moment::new(started_unix_us).haproxy(out);
    out.extend_from_slice(b"] ");
    part(record.listener.as_bytes(), NAME_BYTES_MAX, out);
    out.push(b' ');
    part(record.pool.as_bytes(), NAME_BYTES_MAX, out);
    out.push(b'/');
    or_dash(record.server, socket, out);
    out.push(b' ');
    time(record.phases.queue, out);
    out.push(b'/');
    time(record.phases.connect, out);
    out.push(b'/');
    decimal(record.phases.total, out);
    out.push(b' ');
    decimal(record.sent.body, out);
    out.push(b' ');
    out.extend_from_slice(record.ending.code().as_bytes());
    number("received_body", Some(record.received.body), out);
    value("source", record.source, socket, out);
    number("tries", Some(u64::from(record.tries)), out);
    value("reason", Some(record.ending.name().as_bytes()), word, out);
}

fn time(us: Option<u64>, out: &mut Vec<u8>) {
    match us {
        Some(us) => decimal(us, out),
        None => out.extend_from_slice(b"-1"),
    }
}
