//! What the API says, from what the proxy counts.
//!
//! Owns: how plan, counters and spaces become the API's types. Refuses: to wait for anybody.
//! Driven by: the admin listener's routes, and the watch.

mod limits;
mod listeners;
mod pools;
mod tuples;

use crate::Instance;
use crate::journal::unix_ms;
use fourfold_api::v1;
use fourfold_proxy::Totals;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

pub(crate) use limits::limits;
pub(crate) use listeners::listeners;
pub(crate) use pools::pools;
pub(crate) use tuples::{samples, tuples};

pub(crate) fn instance(instance: &Instance) -> v1::Instance {
    let (about, shared) = (&instance.about, &instance.shared);
    let started_at_ms = unix_ms(about.started);
    v1::Instance {
        name: about.name.clone(),
        version: about.version.clone(),
        pid: std::process::id(),
        config: about.config.clone(),
        started_at_ms,
        uptime_ms: unix_ms(SystemTime::now()).saturating_sub(started_at_ms),
        engine: about.engine.clone(),
        shards: shared.shards.len() as u32,
        connections: shared.connections.load(Relaxed),
        max_connections: shared.connections_max,
        draining: instance.is_draining(),
    }
}

pub(crate) fn counters(instance: &Instance) -> v1::Counters {
    let totals = Totals::of(&instance.shared);
    let counter =
        |(name, help, value): (&str, &str, u64)| v1::Counter { name: name.into(), help: help.into(), value };
    v1::Counters { counters: totals.rows().chain(instance.counts.rows()).map(counter).collect() }
}
