//! Why a client is turned away: one place for the counter and for the line that names the remedy.

use crate::access::Ending;
use crate::counters::Counters;
use fourfold_base::counter::Counter;
use fourfold_base::gate::Gate;

/// One line per reason in this time, all shards together; the rest are counted.
pub(crate) const LOG_INTERVAL_MS: u64 = 10_000;

/// What has been said lately.
pub(crate) struct Notices {
    pub refusals: [Gate; Refusal::ALL.len()],
    pub accepting: Gate,
    pub source: Gate,
    pub path: Gate,
    pub proxy_header: Gate,
    pub request_rate: Gate,
    pub shed: Gate,
}

impl Default for Notices {
    fn default() -> Self {
        let gate = || Gate::new(LOG_INTERVAL_MS);
        Self {
            refusals: std::array::from_fn(|_| gate()),
            accepting: gate(),
            source: gate(),
            path: gate(),
            proxy_header: gate(),
            request_rate: gate(),
            shed: gate(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Refusal {
    MaxConnections,
    ListenerMax,
    ShardFull,
    QueueFull,
    Tuples,
    NoServer,
    Breaker,
    Local,
    Attempts,
    ConnectionRate,
    ProxyHeader,
    ProxyHeaderTimeout,
}

impl Refusal {
    pub const ALL: [Refusal; 12] = [
        Refusal::MaxConnections,
        Refusal::ListenerMax,
        Refusal::ShardFull,
        Refusal::QueueFull,
        Refusal::Tuples,
        Refusal::NoServer,
        Refusal::Breaker,
        Refusal::Local,
        Refusal::Attempts,
        Refusal::ConnectionRate,
        Refusal::ProxyHeader,
        Refusal::ProxyHeaderTimeout,
    ];

    pub fn counter(self, counters: &Counters) -> &Counter {
        match self {
            Refusal::MaxConnections => &counters.refused_max_connections,
            Refusal::ListenerMax => &counters.refused_listener_max,
            Refusal::ShardFull => &counters.refused_shard_full,
            Refusal::QueueFull => &counters.refused_queue_full,
            Refusal::Tuples => &counters.refused_tuples,
            Refusal::NoServer => &counters.refused_no_server,
            Refusal::Breaker => &counters.refused_breaker_open,
            Refusal::Local => &counters.refused_local,
            Refusal::Attempts => &counters.refused_attempts,
            Refusal::ConnectionRate => &counters.refused_connection_rate,
            Refusal::ProxyHeader => &counters.refused_proxy_header,
            Refusal::ProxyHeaderTimeout => &counters.refused_proxy_header_timeout,
        }
    }

    /// For the access log.
    pub fn ending(self) -> Ending {
        match self {
            Refusal::MaxConnections | Refusal::ListenerMax | Refusal::ShardFull => Ending::MaxConnections,
            Refusal::QueueFull => Ending::QueueFull,
            Refusal::Tuples => Ending::NoTuple,
            Refusal::NoServer => Ending::NoServer,
            Refusal::Breaker => Ending::Breaker,
            Refusal::Local => Ending::Local,
            Refusal::Attempts => Ending::ConnectFailed,
            Refusal::ConnectionRate => Ending::RateLimited,
            Refusal::ProxyHeader | Refusal::ProxyHeaderTimeout => Ending::BadProxyHeader,
        }
    }

    /// Cause and remedy, for the log.
    pub fn message(self) -> &'static str {
        match self {
            Refusal::MaxConnections => "client refused: max_connections are open; raise max_connections",
            Refusal::ListenerMax => {
                "client refused: the listener's max_connections are open; raise the listener's max_connections"
            }
            Refusal::ShardFull => {
                "client refused: its shard has no slot left; raise max_connections or the descriptor limit (ulimit -n, systemd LimitNOFILE=)"
            }
            Refusal::QueueFull => {
                "client refused: queue_max clients are waiting; add source addresses or servers, or raise queue_max"
            }
            Refusal::Tuples => {
                "client refused: every four-tuple to the servers is in use; add addresses to the pool's `sources`, widen its `ports`, or add servers"
            }
            Refusal::NoServer => {
                "client refused: every server of the pool is down, full or unresolved; see the connect_* counters"
            }
            Refusal::Breaker => {
                "client refused: the breakers of all servers that could be used are open; see what the servers answer"
            }
            Refusal::Local => {
                "client refused: out of descriptors, memory or buffers; raise the descriptor limit (ulimit -n, systemd LimitNOFILE=) or add memory"
            }
            Refusal::Attempts => "client refused: connect_attempts paths failed; see the connect_* counters",
            Refusal::ConnectionRate => {
                "client refused: it connects more often than its listener's connection_rate; raise it if the client is right"
            }
            Refusal::ProxyHeader => {
                "client refused: its PROXY protocol header is malformed or missing; set up the load balancer in front to send it"
            }
            Refusal::ProxyHeaderTimeout => {
                "client refused: its PROXY protocol header did not come in time; set up the load balancer in front to send it"
            }
        }
    }
}
