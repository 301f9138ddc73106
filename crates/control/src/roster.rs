//! Asks shards who is connected, one after the other, a page at a time.
//!
//! Owns: the way through all shards (a cursor that clients hand back). Refuses: to wait longer than a deadline for a shard.
//! Driven by: the admin listener's route.

use crate::Instance;
use fourfold_api::Problem;
use fourfold_api::v1::{Connection, ConnectionState, Connections, ConnectionsQuery};
use fourfold_proxy::Mail;
use fourfold_proxy::roster::{Inquiry, Page, Row, State};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

const LIMIT_DEFAULT: usize = 100;
/// Connections on one page of the API.
pub const LIMIT_MAX: usize = 1000;
/// A shard answers within a turn; one that takes longer has other worries.
const PATIENCE: Duration = Duration::from_secs(1);
/// Questions for one page: a slab that was full once and is nearly empty has many places to look at.
const QUESTIONS_MAX: usize = 64;

/// Where to go on: a shard, and a place in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cursor {
    shard: usize,
    place: u32,
}

impl Cursor {
    fn parse(text: &str) -> Option<Self> {
        let (shard, place) = text.split_once('.')?;
        Some(Self { shard: shard.parse().ok()?, place: place.parse().ok()? })
    }

    fn write(self) -> String {
        format!("{}.{}", self.shard, self.place)
    }
}

pub(crate) async fn connections(
    instance: &Instance,
    query: &ConnectionsQuery,
) -> Result<Connections, Problem> {
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
    let mut cursor = match query.after.as_deref().map(Cursor::parse) {
        None => Cursor { shard: 0, place: 0 },
        Some(Some(cursor)) => cursor,
        Some(None) => return Err(Problem::new(400, "bad-cursor", "`after` is not what an answer said")),
    };
    let mut all = Connections {
        total: instance.shared.connections.load(Relaxed),
        connections: Vec::new(),
        next: None,
        silent_shard: None,
    };
    for _ in 0..QUESTIONS_MAX {
        if all.connections.len() >= limit || cursor.shard >= instance.shared.shards.len() {
            break;
        }
        let shard = cursor.shard;
        let page = ask(instance, cursor, limit - all.connections.len()).await;
        cursor = match page.as_ref().and_then(|page| page.next) {
            Some(place) => Cursor { shard, place },
            None => Cursor { shard: shard + 1, place: 0 },
        };
        let Some(page) = page else {
            all.silent_shard = Some(shard as u32);
            break;
        };
        all.connections.extend(page.rows.iter().map(|row| connection(instance, shard, row)));
    }
    all.next = (cursor.shard < instance.shared.shards.len()).then(|| cursor.write());
    Ok(all)
}

/// `None`: the shard does not answer.
async fn ask(instance: &Instance, cursor: Cursor, rows_max: usize) -> Option<Page> {
    let (reply, answer) = sync_channel(1);
    let inquiry = Inquiry { place: cursor.place, rows_max, reply };
    if !instance.shared.shards.get(cursor.shard)?.tell(Mail::Roster(inquiry)) {
        return None;
    }
    tokio::task::spawn_blocking(move || answer.recv_timeout(PATIENCE).ok()).await.ok()?
}

fn connection(instance: &Instance, shard: usize, row: &Row) -> Connection {
    let plan = &instance.shared.plan;
    let state = match row.state {
        State::Waiting => ConnectionState::Waiting,
        State::Connecting => ConnectionState::Connecting,
        State::Open => ConnectionState::Open,
        State::Busy => ConnectionState::Busy,
        State::Idle => ConnectionState::Idle,
        State::Closing => ConnectionState::Closing,
    };
    let upstream = row.upstream.as_ref();
    Connection {
        shard: shard as u32,
        listener: plan.listeners.get(row.listener).map(|listener| listener.name.clone()).unwrap_or_default(),
        state,
        client: row.client,
        pool: upstream.and_then(|one| Some(plan.pools.get(one.pool)?.name.clone())),
        server: upstream.and_then(|one| one.server),
        source: upstream.and_then(|one| one.source),
        port: upstream.map(|one| one.port).filter(|port| *port > 0),
        quiet_ms: row.quiet_ms,
        requests: row.requests,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        let cursor = Cursor { shard: 3, place: u32::MAX };
        assert_eq!(Cursor::parse(&cursor.write()), Some(cursor));
        for text in ["", "3", "3.", ".3", "3.4.5", "-1.0", "0.99999999999"] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }
}
