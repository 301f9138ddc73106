//! Was everything done in time? Nothing here is about speed: each bound is one that the configuration names, or a stall.

use crate::judge::Tunnel;
use crate::scenario::Scenario;
use fourfold_base::Millis;
use fourfold_config::{Listener, Pool};
use fourfold_engine::sim::{AppEnd, Connection, Kind};
use fourfold_engine::{Close, Errno, Step};

type Checked = Result<(), (&'static str, String)>;

/// A FIN that follows the last byte later than this was not passed on, but made up later.
const FIN_DELAY_MS: Millis = 64;
/// Bytes that wait longer than this for an app whose peer has room wait for nothing.
const STALL_MS: Millis = 300;
/// Timers are exact to a tick; completions take their time.
const SLACK_MS: Millis = 100;
/// Clients that nobody accepts for so long are forgotten.
const BACKLOG_MS: Millis = 4000;

pub(crate) fn tunnel(scenario: &Scenario, tunnel: &Tunnel, short_of_buffers: bool) -> Checked {
    let Some(client) = tunnel.client else { return Ok(()) };
    let Kind::Client(number) = client.kind else { return Ok(()) };
    let Some(listener) = scenario.plan.listeners.get(number.0 as usize) else { return Ok(()) };
    let Some(pool) = listener.pool.and_then(|pool| scenario.plan.pools.get(pool)) else { return Ok(()) };
    attempts_are_bounded(pool, tunnel)?;
    served_or_refused_in_time(pool, client, tunnel.server)?;
    let Some(server) = tunnel.server else { return Ok(()) };
    for (from, to) in [(client, server), (server, client)] {
        fin_in_time(from, to)?;
        if !short_of_buffers {
            no_stall(from, to)?;
        }
    }
    idle_timeout_is_kept(scenario, listener, client, server, short_of_buffers)
}

/// Clients in a backlog are accepted, unless nobody listens any more or there is no room.
pub(crate) fn backlog(scenario: &Scenario, conn: &Connection) -> Checked {
    let (AppEnd::Never, Some(came), Some(gone)) = (conn.app, conn.made_at, conn.closed_at) else {
        return Ok(());
    };
    let most = scenario.connections_per_shard;
    let roomy = scenario.accept_slots > most && scenario.connect_slots >= most;
    if roomy && matches!(conn.kind, Kind::Client(_)) && gone > came + BACKLOG_MS {
        return Err(("accepting starts again", format!("{conn:?}")));
    }
    Ok(())
}

fn attempts_are_bounded(pool: &Pool, tunnel: &Tunnel) -> Checked {
    let local = |(step, errno): (Step, Errno)| {
        step != Step::Connect
            || errno.is_local_shortage()
            || matches!(errno, Errno::EADDRNOTAVAIL | Errno::EADDRINUSE)
    };
    let failed = |conn: &&&Connection| conn.told_at.is_none() && !conn.refusal.is_some_and(local);
    let count = tunnel.attempts.iter().filter(failed).count();
    if count > usize::from(pool.connect_attempts) {
        return Err(("connect_attempts holds", format!("{count}: {:?}", tunnel.attempts)));
    }
    Ok(())
}

fn served_or_refused_in_time(pool: &Pool, client: &Connection, server: Option<&Connection>) -> Checked {
    let (Some(came), Some(gone)) = (client.told_at, client.closed_at) else { return Ok(()) };
    let until = server.and_then(|server| server.told_at).unwrap_or(gone);
    let attempts = u64::from(pool.connect_attempts) + 1;
    let most = pool.queue_timeout_ms + attempts * (pool.connect_timeout_ms + SLACK_MS);
    if until > came + most {
        return Err(("a client is served or refused in time", format!("{} ms: {client:?}", until - came)));
    }
    Ok(())
}

/// Once one side has ended and all its bytes have gone, the other is told at once.
fn fin_in_time(from: &Connection, to: &Connection) -> Checked {
    let (Some(eof_at), Some(closed_at)) = (from.eof_told_at, to.closed_at) else { return Ok(()) };
    let complete = to.taken() == from.written && to.broken.is_none();
    let withheld = !to.fin_sent || to.fin_by_close;
    if complete && withheld && closed_at > eof_at.max(to.taken_at) + FIN_DELAY_MS {
        return Err(("FIN is passed on", format!("{from:?}\n{to:?}")));
    }
    Ok(())
}

/// Bytes are waiting on one side, the other has taken all and would take more: somebody forgot to read.
fn no_stall(from: &Connection, to: &Connection) -> Checked {
    let Some(closed_at) = from.closed_at else { return Ok(()) };
    let moved = [from.moved_at, to.taken_at, to.read_at, to.told_at.unwrap_or(0), from.told_at.unwrap_or(0)];
    let since = moved.into_iter().max().unwrap_or(0);
    let could = from.unread_at_close > 0 && to.taken() == from.delivered && to.room_at_close > 0;
    if could && to.broken.is_none() && closed_at > since + STALL_MS {
        return Err(("a reader that catches up is read for again", format!("{from:?}\n{to:?}")));
    }
    Ok(())
}

/// A tunnel that somebody reset although nobody broke, before the drain: it was idle, for as long as it says.
fn idle_timeout_is_kept(
    scenario: &Scenario,
    listener: &Listener,
    a: &Connection,
    b: &Connection,
    short_of_buffers: bool,
) -> Checked {
    let timeout = listener.idle_timeout_ms;
    let (Some(closed_at), Some(told_at)) = (a.closed_at, b.told_at) else { return Ok(()) };
    let cut_at = scenario.stop_at.map_or(scenario.drain_deadline, |stop| stop.min(scenario.drain_deadline));
    let reset = a.app == AppEnd::Closed(Close::Reset) && !a.failure_told && !b.failure_told;
    let moved = told_at.max(a.taken_at).max(b.taken_at);
    // The proxy sees that a reader takes bytes by what is left of them.
    let queued = a.taken() < b.delivered || b.taken() < a.delivered;
    // Short of buffers, who takes the least is cut off.
    if reset
        && queued
        && !short_of_buffers
        && closed_at < cut_at
        && closed_at + SLACK_MS / 10 < moved + timeout
    {
        return Err(("no idle time-out while bytes move", format!("{a:?}\n{b:?}")));
    }
    let heard = [a, b].map(|conn| conn.moved_at.max(conn.read_at).max(conn.eof_told_at.unwrap_or(0)));
    let moved = heard.into_iter().fold(moved, Millis::max);
    // One more, for a reader that took something without a word.
    if timeout > 0 && closed_at > moved + 2 * timeout + SLACK_MS {
        return Err(("an idle tunnel ends", format!("{a:?}\n{b:?}")));
    }
    Ok(())
}
