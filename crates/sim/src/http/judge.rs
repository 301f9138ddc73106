//! When all is over: did every request end, once, and in time?

use super::ledger::{Exchange, Ledger, Outcome};
use crate::scenario::Scenario;
use fourfold_base::Millis;
use fourfold_config::{Listener, Pool};

type Checked = Result<(), (&'static str, String)>;

/// Timers are exact to a tick; completions take their time, and peers speak slowly.
const SLACK_MS: Millis = 500;

pub(crate) fn judge(scenario: &Scenario, ledger: &mut Ledger) -> Checked {
    if let Some(broken) = ledger.broken.pop() {
        return Err(broken);
    }
    let patience = patience(scenario);
    let mut before: Option<&Exchange> = None;
    for exchange in ledger.exchanges.values() {
        // Of the same client, one is answered after the other.
        let previous = before.filter(|before| before.ask.id / 64 == (exchange.ask.id - 1) / 64);
        let since = previous.and_then(|before| before.outcome).map_or(0, |outcome| outcome.0);
        ends(scenario, exchange, since, patience)?;
        before = Some(exchange);
    }
    Ok(())
}

fn ends(scenario: &Scenario, exchange: &Exchange, since: Millis, patience: Millis) -> Checked {
    if !exchange.listens {
        return Ok(());
    }
    let Some((at, outcome)) = exchange.outcome else {
        return Err(("every request ends", format!("{exchange:?}")));
    };
    let due = since.max(exchange.moved_at) + patience;
    if at > due && due < scenario.drain_at && outcome != Outcome::Left {
        return Err(("every request ends in time", format!("due at {due}: {exchange:?}")));
    }
    if matches!(outcome, Outcome::Answered(_)) && exchange.delivered == 0 {
        return Err(("an answer is an origin's", format!("{exchange:?}")));
    }
    Ok(())
}

/// The longest that a request may take in which nothing moves.
fn patience(scenario: &Scenario) -> Millis {
    let of_listener = |listener: &Listener| {
        let http = listener.http.as_deref()?;
        Some(
            http.first_byte_timeout_ms + http.header_timeout_ms + http.body_timeout_ms + http.send_timeout_ms,
        )
    };
    let of_pool = |pool: &Pool| {
        let tries = u64::from(pool.http.retries) + 1;
        let connects = u64::from(pool.connect_attempts) * pool.connect_timeout_ms;
        let answers = pool.http.response_timeout_ms + pool.http.response_idle_timeout_ms;
        pool.queue_timeout_ms + connects + tries * answers
    };
    let listeners = scenario.plan.listeners.iter().filter_map(of_listener).max().unwrap_or(0);
    let pools = scenario.plan.pools.iter().map(of_pool).max().unwrap_or(0);
    listeners + pools + SLACK_MS
}
