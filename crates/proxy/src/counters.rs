//! What happened, counted: one table from which the report, and later the metrics, derive.

use crate::shared::Shared;
use fourfold_base::counters;
use std::fmt;

counters! {
    /// One shard's counts since it started.
    pub struct Counters {
        accepted: "Connections accepted from clients",
        refused_max_connections: "Clients reset because max_connections was reached",
        refused_listener_max: "Clients reset because the listener's max_connections was reached",
        refused_shard_full: "Clients reset because their shard had no slot left",
        refused_queue_full: "Clients reset because queue_max clients were waiting already",
        refused_tuples: "Clients reset after queue_timeout because every tuple to the servers was in use",
        refused_no_server: "Clients reset after queue_timeout because every server was down, full or unresolved",
        refused_local: "Clients reset after queue_timeout because this machine was short of descriptors or memory",
        refused_attempts: "Clients reset because connect_attempts paths had failed for them",
        accept_descriptors: "Times accepting stopped for want of descriptors or memory",
        accept_errors: "Times accepting failed for another reason",
        queued: "Clients that had to wait for a tuple or a server",
        connects: "Connections started towards servers",
        connected: "Connections made to servers",
        connect_refused: "Connections that a server refused",
        connect_timeout: "Connections that were not answered within connect_timeout",
        connect_reset: "Connections that were reset while being made",
        connect_unreachable: "Connections for which there was no route",
        connect_failed: "Connections that failed for another reason",
        connect_local: "Connections that failed for want of descriptors, memory or buffers on this machine",
        tuples_foreign: "Leased tuples that another socket turned out to hold",
        source_missing: "Connections whose source address was not on this machine",
        ended: "Tunnels that both sides ended in order",
        reset_by_client: "Tunnels that the client broke",
        reset_by_server: "Tunnels that the server broke",
        idle_timeout: "Tunnels closed because nothing moved for idle_timeout",
        drain_cut: "Connections reset when the drain time was over, or by a second signal",
        bytes_up: "Bytes from clients to servers",
        bytes_down: "Bytes from servers to clients",
        buffer_shortages: "Times a read had to wait for a buffer",
    }
}

/// The counts of all shards together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals(Vec<u64>);

impl Totals {
    pub fn of(shared: &Shared) -> Self {
        let mut totals = vec![0; Counters::TABLE.len()];
        for shard in &shared.shards {
            for (total, value) in totals.iter_mut().zip(shard.counters.values()) {
                *total += value;
            }
        }
        Self(totals)
    }

    /// (name, help, value) in the table's order.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        Counters::TABLE.iter().zip(&self.0).map(|((name, help), value)| (*name, *help, *value))
    }

    pub fn get(&self, name: &str) -> u64 {
        self.rows().find(|row| row.0 == name).map_or(0, |row| row.2)
    }
}

/// `name=value` for everything that happened at all.
impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut space = "";
        for (name, _, value) in self.rows().filter(|row| row.2 > 0) {
            write!(f, "{space}{name}={value}")?;
            space = " ";
        }
        Ok(())
    }
}
