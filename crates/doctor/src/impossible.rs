//! Numbers of a configuration that no machine can make true.

use crate::capacity::Capacity;
use crate::facts::Facts;
use crate::wanted::{Wanted, WantedPool};
use fourfold_config::{Listener, Mode, Plan};

/// The widest that `ip_local_port_range` can usefully be.
const WIDEST_RANGE: &str = "1024 65535";

/// What a listener promises and its pool cannot hold, one line each. Only what was written counts: where a number is left out, it
/// follows from the others.
#[must_use]
pub fn impossible(plan: &Plan) -> Vec<String> {
    let mut facts = Facts::default();
    facts.set("net.ipv4.ip_local_port_range", WIDEST_RANGE);
    let wanted = Wanted::of_plan(plan);
    let capacity = Capacity::new(&facts, &wanted);
    plan.listeners.iter().filter_map(|listener| of(&capacity, plan, listener)).collect()
}

fn of(capacity: &Capacity<'_>, plan: &Plan, listener: &Listener) -> Option<String> {
    // In HTTP mode clients share connections to the servers.
    let pool = listener.pool.filter(|_| listener.mode == Mode::Tcp)?;
    let pool = capacity.wanted.pools.get(pool)?;
    let alone = plan.listeners.len() == 1;
    let (key, promised) = match listener.max_connections {
        Some(max) => (format!("listener \"{}\": max_connections", listener.name), max),
        None => ("max_connections".to_owned(), plan.max_connections.filter(|_| alone)?),
    };
    let most = capacity.by_tuples(pool)?;
    (promised > most).then(|| {
        format!(
            "{key} is {promised}, but pool \"{}\" holds at most {most} connections: {}",
            pool.name,
            remedy(capacity, pool, promised)
        )
    })
}

fn remedy(capacity: &Capacity<'_>, pool: &WantedPool, promised: u64) -> String {
    if pool.servers.iter().any(|server| server.connections_max.is_some()) {
        return "raise its servers' max_connections, or add `sources` or servers".into();
    }
    let sources = crate::check::sources_for(capacity, pool, promised);
    let ports = if pool.ports.is_some() { ", widen `ports`" } else { "" };
    match sources {
        u64::MAX => "its sources have no port that may be used".into(),
        _ => format!("give it {sources} `sources`{ports}, or add servers"),
    }
}
