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
        refused_breaker_open: "Clients or requests refused because the breaker of every server that could be used is open",
        refused_local: "Clients reset after queue_timeout because this machine was short of descriptors or memory",
        refused_attempts: "Clients reset because connect_attempts paths had failed for them",
        refused_connection_rate: "Clients reset because they came more often than the listener's connection_rate",
        refused_proxy_header: "Clients reset because their PROXY protocol header was malformed or missing",
        refused_proxy_header_timeout: "Clients reset because their PROXY protocol header did not come in time",
        proxy_headers: "PROXY protocol headers taken from trusted addresses",
        shed: "Slow clients reset because the buffers were nearly used up",
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
        servers_ejected: "Times a server was left out as an outlier",
        servers_not_ejected: "Times an outlier stayed in use, since eject_share_max of the servers were left out already",
        servers_returned: "Times a server that had been left out was used again",
        servers_checked_down: "Times a server's checks took it down",
        servers_checked_up: "Times a server's checks brought it back",
        paths_ejected: "Times a source was avoided because others reached the server and it did not",
        breakers_opened: "Times a server's breaker opened",
        breakers_closed: "Times a server's breaker closed",
        pools_panicked: "Times a pool had too few servers fit, and used all of them",
        checks: "Active checks sent",
        checks_failed: "Active checks that failed",
        checks_skipped: "Active checks that this machine was too short of something to send",
        ended: "Tunnels that both sides ended in order",
        reset_by_client: "Tunnels that the client broke",
        reset_by_server: "Tunnels that the server broke",
        idle_timeout: "Tunnels closed because nothing moved for idle_timeout",
        drain_cut: "Connections reset when the drain time was over, or by a second signal",
        bytes_up: "Bytes from clients to servers",
        bytes_down: "Bytes from servers to clients",
        bytes_spliced: "Of these, those that the kernel carried by itself",
        spliced: "Times a busy tunnel was handed to the kernel",
        splice_never: "Of these, the times that something was still on its way, and it stayed where it was",
        splice_ended: "Times a tunnel came back because a side ended",
        splice_slow: "Times a tunnel came back because a side took less than came for it",
        splice_bulk: "Times a tunnel came back because it moved large amounts, which cost less when copied",
        splice_quiet: "Times a tunnel came back because nothing moved",
        splice_lost: "Tunnels reset because the kernel lost bytes",
        http_requests: "Requests that were sent on to a pool, or tried to be",
        http_local: "Requests that a route answered itself: redirects and fixed responses",
        http_reused: "Requests that went over a connection that had served others",
        http_preconnects: "Connections to servers made ahead (preconnect)",
        http_reclaimed: "Warm connections given up for a request that waited on another shard",
        http_retries: "Requests that were sent once more, since a server failed before it answered",
        http_retries_status: "Of these, because of the status that the server answered",
        http_retry_budget_spent: "Requests that were not sent once more because the pool's retry budget was spent",
        http_mirrored: "Copies of requests sent to a mirror",
        http_mirror_failed: "Of these, those that came to no answer",
        http_mirror_skipped: "Requests not copied since they were too large, cut short, or too many at a time",
        http_upgrades: "Connections that went over to another protocol (WebSocket)",
        http_1xx: "Responses with a status of 100 to 199",
        http_2xx: "Responses with a status of 200 to 299",
        http_3xx: "Responses with a status of 300 to 399",
        http_4xx: "Responses with a status of 400 to 499, our own included",
        http_5xx: "Responses with a status of 500 to 599, our own included",
        http_rejected: "Requests refused because they break the rules of HTTP",
        http_refused: "Requests refused because no route, method or size allows them",
        http_rate_limited: "Requests refused because of a rate limit",
        http_bad_response: "Responses of servers that break the rules of HTTP",
        http_server_lost: "Requests that failed because a server closed or reset the connection",
        http_unasked: "Connections to servers given up because bytes came that nobody had asked for",
        http_header_timeout: "Clients whose request head was not complete within header_timeout",
        http_body_timeout: "Requests whose content stopped coming for body_timeout",
        http_send_timeout: "Clients that took nothing of their response for send_timeout",
        http_response_timeout: "Requests that no server answered within response_timeout",
        http_client_gone: "Clients that left in the midst of a request or its response",
        http_idle_closed: "Connections closed because no request came within the keep-alive or first-byte timeout",
        log_dropped: "Lines of the access log dropped because they came faster than they could be written",
        buffer_shortages: "Times a read had to wait for a buffer",
        long_turns: "Times a shard was busy for more than 10 ms while its other connections waited; what else runs on its processor counts as well",
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
