//! When all is over: was every byte, every FIN and every reset passed on as it was meant, and has everything come back?

use crate::run::{Run, Shard};
use crate::scenario::Scenario;
use crate::{http, prompt};
use fourfold_balance::retry::BudgetRules;
use fourfold_base::Millis;
use fourfold_engine::Close;
use fourfold_engine::Net;
use fourfold_engine::sim::{AppEnd, Connection, Kind, PeerEnd};
use fourfold_proxy::Totals;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering::Relaxed;

type Checked = Result<(), (&'static str, String)>;

/// By which a tunnel tells its server's socket from its client's.
const SERVER_BIT: u64 = 1 << 60;
/// Spaces larger than this are not leased out to the last tuple.
const TUPLES_COUNTED_MAX: u64 = 3000;
/// With fewer, readers are held up or shed for want of them.
const BUFFERS_AMPLE: usize = 128;
/// Long after every quarantine.
const MUCH_LATER_MS: Millis = 1_000_000;

pub(crate) fn judge(run: &Run) -> Checked {
    let mut tally = Tally::default();
    for shard in &run.shards {
        nothing_left(shard)?;
        match run.scenario.web {
            Some(_) => shard.net.connections().iter().try_for_each(told_the_end)?,
            None => streams(run.scenario, shard, &mut tally)?,
        }
    }
    let live = run.machine.borrow().live();
    if live > 0 {
        return Err(("every socket is closed at the end", format!("{live} tuples live")));
    }
    shared_state(run)?;
    leases(run)?;
    match run.scenario.web {
        Some(_) => {
            http::judge(run.scenario, &mut run.ledger.borrow_mut())?;
            second_tries(run)
        }
        None => counters(run, &tally),
    }
}

/// What single connections cannot tell.
#[derive(Default, Debug)]
struct Tally {
    /// Reset although neither side had broken.
    resets: u64,
}

fn nothing_left(shard: &Shard) -> Checked {
    let stats = shard.net.stats();
    if stats.sockets > 0 || stats.buffers_in_use > 0 || !shard.app.is_empty() {
        return Err(("nothing is left at the end", format!("{} tunnels, {stats:?}", shard.app.len())));
    }
    Ok(())
}

/// What belongs together, as the proxy sees it.
#[derive(Default)]
pub(crate) struct Tunnel<'a> {
    pub client: Option<&'a Connection>,
    /// The one that answered.
    pub server: Option<&'a Connection>,
    /// All, that one included.
    pub attempts: Vec<&'a Connection>,
}

fn streams(scenario: &Scenario, shard: &Shard, tally: &mut Tally) -> Checked {
    let mut tunnels: HashMap<u64, Tunnel> = HashMap::new();
    for conn in shard.net.connections() {
        told_the_end(conn)?;
        prompt::backlog(scenario, conn)?;
        let Some(owner) = conn.owner else {
            unanswered(conn)?;
            continue;
        };
        let tunnel = tunnels.entry(owner & !SERVER_BIT).or_default();
        match conn.kind {
            Kind::Client(_) => tunnel.client = Some(conn),
            Kind::Server => {
                tunnel.attempts.push(conn);
                tunnel.server = tunnel.server.or(conn.told_at.map(|_| conn));
            }
        }
    }
    let short_of_buffers = shard.net.stats().buffer_shortages > 0 || scenario.buffers_max < BUFFERS_AMPLE;
    for tunnel in tunnels.values() {
        prompt::tunnel(scenario, tunnel, short_of_buffers)?;
        match (tunnel.client, tunnel.server) {
            (Some(client), Some(server)) => passed_on(client, server, tally)?,
            (Some(client), None) => unanswered(client)?,
            _ => {}
        }
    }
    Ok(())
}

fn unanswered(client: &Connection) -> Checked {
    if client.peer_eof || client.taken() > 0 {
        return Err(("a client without a server is told by reset", format!("{client:?}")));
    }
    Ok(())
}

/// A peer that could still listen has heard how it ended.
fn told_the_end(conn: &Connection) -> Checked {
    let known = match conn.peer {
        PeerEnd::Open => {
            conn.peer_eof || conn.peer_reset || (conn.fin_sent && conn.behaviour.read_stop.is_some())
        }
        PeerEnd::Closed | PeerEnd::Gone | PeerEnd::Vanished => true,
    };
    if known { Ok(()) } else { Err(("every peer is told the end", format!("{conn:?}"))) }
}

fn passed_on(client: &Connection, server: &Connection, tally: &mut Tally) -> Checked {
    for (from, to) in [(client, server), (server, client)] {
        if to.reader.stream().is_some_and(|stream| stream != from.stream) {
            return Err(("bytes reach the peer that they are meant for", format!("{from:?}\n{to:?}")));
        }
        if to.taken() > from.delivered {
            return Err(("bytes are passed on once", format!("{from:?}\n{to:?}")));
        }
        if to.peer_eof && !(from.fin && to.read == from.written) {
            return Err(("no FIN before the last byte", format!("{from:?}\n{to:?}")));
        }
    }
    let reset = |conn: &Connection| conn.app == AppEnd::Closed(Close::Reset);
    let broke = client.failure_told || server.failure_told;
    tally.resets += u64::from(!broke && (reset(client) || reset(server)));
    Ok(())
}

fn shared_state(run: &Run) -> Checked {
    let shared = &run.shared;
    let left = |what, n: u64| if n == 0 { Ok(()) } else { Err((what, n.to_string())) };
    left("no connection is counted at the end", shared.connections.load(Relaxed))?;
    for listener in &shared.listener_connections {
        left("no connection is counted at a listener at the end", listener.load(Relaxed))?;
    }
    for pool in &shared.pools {
        left("nobody waits at the end", pool.waiting.load(Relaxed).into())?;
        for server in &pool.servers {
            left("no connection is counted at a server at the end", server.active.load(Relaxed).into())?;
        }
    }
    Ok(())
}

/// Every tuple can be leased again, once.
fn leases(run: &Run) -> Checked {
    const ALL_BACK: &str = "every lease has come back";
    for (address, space) in run.shared.spaces() {
        let headroom = space.headroom();
        let parts = headroom.free + headroom.quarantined + headroom.foreign;
        if headroom.used != 0 || (headroom.total < u64::MAX && parts != headroom.total) {
            return Err((ALL_BACK, format!("{address}: {headroom:?}")));
        }
        if headroom.total > TUPLES_COUNTED_MAX {
            continue;
        }
        let mut slice = space.slice(0);
        let mut seen = HashSet::new();
        while let Ok(lease) = slice.lease(MUCH_LATER_MS) {
            if !seen.insert((lease.source_index(), lease.port())) {
                return Err((ALL_BACK, format!("{address}: {lease:?} came back twice")));
            }
        }
        if seen.len() as u64 != headroom.total {
            return Err((ALL_BACK, format!("{address}: {} of {} left", seen.len(), headroom.total)));
        }
    }
    Ok(())
}

/// Each shard keeps each pool's budget. What a warm connection had died under is sent again whatever is left of it.
fn second_tries(run: &Run) -> Checked {
    let totals = Totals::of(&run.shared);
    let rules = run.scenario.plan.pools.iter().map(|pool| pool.http.retry_budget);
    let percent = rules.clone().map(|rules| u64::from(rules.percent)).max().unwrap_or(0);
    // A second more at either end: time counts in parts of the window.
    let seconds = |window_ms: u64| (run.now() + window_ms) / 1000 + 2;
    let spare = |rules: BudgetRules| u64::from(rules.per_second_min) * seconds(rules.window_ms);
    let spare = rules.map(spare).sum::<u64>() * run.shards.len() as u64;
    let spare = spare + totals.get("http_reused");
    let (tries, requests) = (totals.get("http_retries"), totals.get("http_requests"));
    match tries <= requests * percent / 100 + spare {
        true => Ok(()),
        false => {
            Err(("second tries stay within their budget", format!("{tries}, {requests} requests: {totals}")))
        }
    }
}

fn counters(run: &Run, tally: &Tally) -> Checked {
    let totals = Totals::of(&run.shared);
    let sum = |names: &[&str]| names.iter().map(|name| totals.get(name)).sum::<u64>();
    let refused: u64 = totals.rows().filter(|row| row.0.starts_with("refused_")).map(|row| row.2).sum();
    let finished = sum(&["ended", "reset_by_client", "reset_by_server", "idle_timeout", "drain_cut", "shed"]);
    let accepted: u64 = run.shards.iter().map(|shard| shard.net.sim_stats().accepted).sum();
    if totals.get("accepted") != accepted || accepted != refused + finished {
        return Err(("every accepted client is counted once more when it goes", totals.to_string()));
    }
    if run.scenario.foreign.is_empty() && totals.get("tuples_foreign") > 0 {
        return Err(("a tuple of ours is not taken for another program's", totals.to_string()));
    }
    if tally.resets > sum(&["idle_timeout", "drain_cut", "shed"]) {
        return Err(("a reset that nobody sent has a reason", format!("{tally:?} {totals}")));
    }
    Ok(())
}
