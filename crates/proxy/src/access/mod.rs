//! The access log: one line for each request or connection, at its end.
//!
//! Owns: what a line says ([`Record`]), how it is written down ([`Format`]), and its way from a shard to a file, standard
//! output or syslog.
//! Refuses: to hold up a shard, to grow without bound, and to let anything that a peer sent look like more than one field.
//! Driven by: shards ([`AccessLog::write`] at the end of a request, [`AccessLog::flush`] once per turn) and a thread of its own
//! ([`Writer`]).
//!
//! ```text
//! shard: Record ─▶ line ─▶ pending ─flush─▶ Queue (bounded, a slot per shard) ◀─every 50 ms─ Writer ─▶ file, stdout, syslog
//!                                             └ full: lines counted as dropped                  └ fails: counted as lost
//! ```
//! The writer looks by itself and is woken only when a shard's lines take half of their room, so that a line costs a shard its
//! formatting and a copy, no system call.

mod combined;
mod ending;
mod json;
mod queue;
mod record;
mod sink;
mod syslog;
mod tcplog;
mod text;
mod writer;

pub use ending::Ending;
pub use queue::{AccessLog, QUEUE_BYTES_MAX, Queue, Stats};
pub use record::{
    Bytes, HOST_BYTES_MAX, METHOD_BYTES_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX, Phases, QUERY_BYTES_MAX,
    REFERER_BYTES_MAX, REQUEST_ID_BYTES_MAX, Record, USER_AGENT_BYTES_MAX,
};
pub use sink::Target;
pub use writer::Writer;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// One JSON object with always the same keys.
    #[default]
    Json,
    /// What Apache and nginx call combined, and behind it `key=value` for what they do not have.
    Combined,
    /// What HAProxy calls tcplog, and behind it the rest likewise.
    Tcplog,
}

impl Format {
    /// Appends one line with its end. `started_unix_us` is `record.started_us` as wall-clock time.
    pub fn line(self, record: &Record<'_>, started_unix_us: i64, out: &mut Vec<u8>) {
        match self {
            Format::Json => json::line(record, started_unix_us, out),
            Format::Combined => combined::line(record, started_unix_us, out),
            Format::Tcplog => tcplog::line(record, started_unix_us, out),
        }
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests;
