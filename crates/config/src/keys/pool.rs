//! Keys of `[[pool]]` and of its tables.

use super::*;
use crate::form;

section! { pool {
    NAME = "name",
        Kind::Name,
        Default::Required, "0.1",
        "Unique among pools; listeners refer to it.";
    BALANCE = "balance",
        choice::<Algorithm>(&[]),
        Default::Text("p2c"), "0.1",
        "How a server is picked. `p2c` takes the less loaded of two random ones.";
    SOURCES = "sources",
        Kind::Sources,
        Default::Derived("the one address that the kernel's routing picks"), "0.1",
        "Local addresses to connect from. Each adds its ports once more for every server.";
    PORTS = "ports",
        Kind::Ports,
        Default::Derived("the machine's `net.ipv4.ip_local_port_range`"), "0.1",
        "Local ports to connect from, on every source.";
    PORT_MODE = "port_mode",
        choice::<PortMode>(&[]),
        Default::Text("auto"), "0.1",
        "How a port is pinned: `late` (Linux 6.3, ports inside `ip_local_port_range`), `early` (any other port), \
         or what fits.";
    CONNECT_TIMEOUT = "connect_timeout",
        duration(1),
        Default::Text("5s"), "0.1",
        "How long one attempt to connect may take.";
    CONNECT_ATTEMPTS = "connect_attempts",
        Kind::Count { min: 1, max: 16, unit: "attempts" },
        Default::Text("3"), "0.1",
        "Paths (source and server) that are tried before a client is given up.";
    QUEUE_TIMEOUT = "queue_timeout",
        duration(0),
        Default::Text("5s"), "0.1",
        "How long a client waits when four-tuples or servers are short. `0s`: not at all.";
    QUEUE_MAX = "queue_max",
        Kind::Count { min: 0, max: CONNECTIONS_MAX, unit: "connections" },
        Default::Derived("from `max_connections`"), "0.1",
        "Clients that may wait at once. `0`: none.";
    RETRY_BACKOFF = "retry_backoff",
        duration(1),
        Default::Text("100ms"), "0.1",
        "How long a server that refused or hung is left alone at first; doubles with every failure.";
    RETRY_BACKOFF_MAX = "retry_backoff_max",
        duration(1),
        Default::Text("10s"), "0.1",
        "What that doubles up to.";
    HASH_KEY = "hash_key",
        Kind::Text(&form::HASH_KEY),
        Default::Text("address"), "0.1",
        "What `ring-hash` and `maglev` go by: `address`, and for http also `header:NAME`, `cookie:NAME`, `path`, \
         `host`. A request without it goes by its client's address.";
    HASH_BOUND = "hash_bound",
        Kind::Percent { min: 0, max: 1_000 },
        Default::Derived("`125%` with `ring-hash`, `0%` with `maglev`"), "0.1",
        "The most of its fair share of the load that a server gets by hash; further keys go to the next one. `0%`: \
         no bound.";
    SLOW_START = "slow_start",
        duration(0),
        Default::Text("0s"), "0.1",
        "A server that has come up gets its full share only after this long. `0s`: at once.";
    ZONE = "zone",
        Kind::Name,
        Default::Derived("none"), "0.1",
        "The zone that this Fourfold runs in: servers of the same `zone` are preferred while enough of them are healthy.";
    APERTURE = "aperture",
        Kind::Table(Section::Aperture),
        Default::Derived("every server is used"), "0.1",
        "Several Fourfolds share the servers out, so that not each of them connects to all.";
    PROXY_PROTOCOL = "proxy_protocol",
        choice::<Option<ProxyProtocol>>(&[]),
        Default::Text("off"), "0.1",
        "Connections to servers begin with a PROXY protocol header that names the client. In http mode a connection \
         then serves one client only.";
    HEALTH = "health",
        Kind::Table(Section::Health),
        Default::Derived("servers are not asked"), "0.1",
        "Servers are asked at an interval, from every source.";
    OUTLIER = "outlier",
        Kind::Table(Section::Outlier),
        Default::Derived("servers are not ejected"), "0.1",
        "Servers that fail clients are left out for a while.";
    BREAKER = "breaker",
        Kind::Table(Section::Breaker),
        Default::Derived("no breaker"), "0.1",
        "Servers that fail a share of their requests get nothing for a while.";
    PANIC_THRESHOLD = "panic_threshold",
        Kind::Percent { min: 0, max: 100 },
        Default::Text("50%"), "0.1",
        "When fewer of the servers than this are healthy, all are used: it is more likely that the checks are wrong. \
         `0%`: never.";
    #[http]
    RESPONSE_TIMEOUT = "response_timeout",
        duration(1),
        Default::Text("1m"), "0.1",
        "From the request to the header of the response, for each try.";
    #[http]
    RESPONSE_IDLE_TIMEOUT = "response_idle_timeout",
        duration(1),
        Default::Text("1m"), "0.1",
        "Between two pieces of a response's body.";
    #[http]
    RETRIES = "retries",
        Kind::Count { min: 0, max: 10, unit: "tries" },
        Default::Text("2"), "0.1",
        "Further tries on other servers, for requests that may safely be sent twice.";
    #[http]
    RETRY_ON = "retry_on",
        Kind::Texts { form: &form::RETRY_ON, max: 6 },
        Default::Derived("`[\"connect\", \"reset\", \"timeout\"]`"), "0.1",
        "What is tried again: `connect` no connection, `reset` it broke before a response, `timeout` \
         `response_timeout` passed, `502`, `503`, `504`; or `never`.";
    #[http]
    RETRY_BUDGET = "retry_budget",
        Kind::Percent { min: 0, max: 100 },
        Default::Text("20%"), "0.1",
        "Retries as a share of requests: servers that are down for load are not buried under retries.";
    #[http]
    RETRY_BUDGET_MIN = "retry_budget_min",
        Kind::Count { min: 0, max: 100_000, unit: "retries" },
        Default::Text("10"), "0.1",
        "Retries in each second, on each shard, that may be had whatever the share.";
    #[http]
    MAX_REQUESTS = "max_requests",
        Kind::Count { min: 1, max: CONNECTIONS_MAX, unit: "requests" },
        Default::Derived("no limit"), "0.1",
        "Requests in flight over all servers of the pool; more wait in its queue.";
    #[http]
    IDLE_MAX = "idle_max",
        Kind::Count { min: 0, max: 65_535, unit: "connections" },
        Default::Text("128"), "0.1",
        "Connections kept warm for each server, on each shard. `0`: a new one for each request.";
    #[http]
    IDLE_TIMEOUT = "idle_timeout",
        duration(1),
        Default::Text("30s"), "0.1",
        "How long a connection is kept warm; should be less than the servers keep it.";
    #[http]
    MAX_AGE = "max_age",
        duration(0),
        Default::Text("0s"), "0.1",
        "A connection this old serves no further request. `0s`: any number.";
    #[http]
    REQUESTS_MAX = "requests_max",
        Kind::Count { min: 0, max: 1 << 62, unit: "requests" },
        Default::Text("0"), "0.1",
        "Requests on one connection to a server. `0`: no limit.";
    #[http]
    PRECONNECT = "preconnect",
        Kind::Count { min: 0, max: 65_535, unit: "connections" },
        Default::Text("0"), "0.1",
        "Connections kept open to each server without being asked for, on each shard.";
    #[http]
    STICKY = "sticky",
        Kind::Table(Section::Sticky),
        Default::Derived("none"), "0.1",
        "A cookie keeps a client on the server that answered first, while that is healthy.";
    SERVER = "server",
        Kind::Tables { section: Section::Server, max: SERVERS_PER_POOL_MAX },
        Default::Required, "0.1",
        "The servers of the pool, at least one.";
} }

section! { sticky {
    COOKIE = "cookie",
        Kind::Text(&form::COOKIE_NAME),
        Default::Required, "0.1",
        "The cookie's name. Its value names the server by a hash, never its address.";
    TTL = "ttl",
        duration(0),
        Default::Text("0s"), "0.1",
        "How long browsers keep it, in whole seconds. `0s`: until they are closed.";
    PATH = "path",
        Kind::Text(&form::PATH),
        Default::Text("/"), "0.1",
        "The paths that it is sent for.";
    SECURE = "secure",
        Kind::Bool,
        Default::Text("false"), "0.1",
        "Browsers send it over https only.";
    SAME_SITE = "same_site",
        choice::<SameSite>(&[]),
        Default::Text("lax"), "0.1",
        "Whether it is sent with requests from other sites; `none` needs `secure`.";
} }

section! { aperture {
    INSTANCE = "instance",
        Kind::Count { min: 0, max: 65_535, unit: "as a number" },
        Default::Required, "0.1",
        "Which of the Fourfolds this one is, from 0.";
    INSTANCES = "instances",
        Kind::Count { min: 1, max: 65_536, unit: "instances" },
        Default::Required, "0.1",
        "How many there are.";
    SERVERS_MIN = "servers_min",
        Kind::Count { min: 1, max: SERVERS_PER_POOL_MAX as u64, unit: "servers" },
        Default::Text("12"), "0.1",
        "Servers that each one uses at least.";
} }

section! { health {
    PATH = "path",
        Kind::Text(&form::REQUEST_TARGET),
        Default::Derived("a connection that comes about is enough"), "0.1",
        "What is asked for, by GET over http; may have a query.";
    HOST = "host",
        Kind::Text(&form::AUTHORITY),
        Default::Derived("the server's address"), "0.1",
        "The Host header.";
    EXPECT = "expect",
        Kind::Texts { form: &form::STATUSES, max: 16 },
        Default::Text("200-399"), "0.1",
        "Statuses that are good: `200`, `200-399`, or a list.";
    INTERVAL = "interval",
        duration(100),
        Default::Text("5s"), "0.1",
        "From one question to the next.";
    FAST_INTERVAL = "fast_interval",
        duration(100),
        Default::Text("1s"), "0.1",
        "The same while answers contradict what is known, until it is clear.";
    JITTER = "jitter",
        Kind::Percent { min: 0, max: 50 },
        Default::Text("10%"), "0.1",
        "Each interval is longer or shorter by up to this share, so that servers are not asked by all at once.";
    TIMEOUT = "timeout",
        duration(1),
        Default::Text("3s"), "0.1",
        "How long an answer may take.";
    RISE = "rise",
        Kind::Count { min: 1, max: 100, unit: "answers" },
        Default::Text("2"), "0.1",
        "Good answers in a row until a server is up again.";
    FALL = "fall",
        Kind::Count { min: 1, max: 100, unit: "answers" },
        Default::Text("3"), "0.1",
        "Bad answers in a row until it is down.";
} }

section! { outlier {
    FAILURES = "failures",
        Kind::Count { min: 0, max: 1_000, unit: "failures" },
        Default::Text("5"), "0.1",
        "Failures in a row: no connection, reset, timeout, 5xx. `0`: not judged by it, here and below.";
    GATEWAY_FAILURES = "gateway_failures",
        Kind::Count { min: 0, max: 1_000, unit: "failures" },
        Default::Text("5"), "0.1",
        "Of these, 502, 503, 504 and worse in a row.";
    UNREACHABLE = "unreachable",
        Kind::Count { min: 0, max: 1_000, unit: "failures" },
        Default::Text("5"), "0.1",
        "Of these, no answer at all in a row.";
    SUCCESS_GAP = "success_gap",
        Kind::Percent { min: 0, max: 100 },
        Default::Text("20%"), "0.1",
        "How far its share of good answers lies below the pool's median, in percentage points. `0%`: not judged by it.";
    LATENCY = "latency",
        Kind::Percent { min: 0, max: 100_000 },
        Default::Text("0%"), "0.1",
        "Its latency relative to the pool's median: `400%` is four times as slow. `0%`: not judged by it.";
    REQUESTS_MIN = "requests_min",
        Kind::Count { min: 1, max: 1_000_000, unit: "requests" },
        Default::Text("100"), "0.1",
        "Fewer requests within `interval` say nothing about share and latency.";
    SERVERS_MIN = "servers_min",
        Kind::Count { min: 2, max: SERVERS_PER_POOL_MAX as u64, unit: "servers" },
        Default::Text("3"), "0.1",
        "Fewer servers with so many requests make no median.";
    INTERVAL = "interval",
        duration(1_000),
        Default::Text("10s"), "0.1",
        "How often servers are compared.";
    EJECT = "eject",
        duration(100),
        Default::Text("30s"), "0.1",
        "How long a server is left out the first time; twice as long with each further one.";
    EJECT_MAX = "eject_max",
        duration(100),
        Default::Text("5m"), "0.1",
        "What that doubles up to.";
    EJECT_SHARE_MAX = "eject_share_max",
        Kind::Percent { min: 1, max: 100 },
        Default::Text("10%"), "0.1",
        "Share of the servers that may be left out at once; one always may, if there is another.";
} }

section! { breaker {
    FAILURE_SHARE = "failure_share",
        Kind::Percent { min: 1, max: 100 },
        Default::Text("50%"), "0.1",
        "Share of failures within `window` at which a server gets nothing for `open`.";
    REQUESTS_MIN = "requests_min",
        Kind::Count { min: 1, max: 1_000_000, unit: "requests" },
        Default::Text("20"), "0.1",
        "Fewer requests within `window` say nothing.";
    WINDOW = "window",
        duration(1_000),
        Default::Text("10s"), "0.1",
        "How far back failures count.";
    OPEN = "open",
        duration(100),
        Default::Text("5s"), "0.1",
        "How long it gets nothing, before a few requests try; twice as long each time that they fail.";
    OPEN_MAX = "open_max",
        duration(100),
        Default::Text("1m"), "0.1",
        "What that doubles up to.";
    PROBES = "probes",
        Kind::Count { min: 1, max: 1_000, unit: "requests" },
        Default::Text("3"), "0.1",
        "Requests that must succeed until everything goes there again.";
} }

section! { server {
    ADDRESS = "address",
        Kind::Server,
        Default::Required, "0.1",
        "Where the server is. A name that does not resolve makes the server down, not the configuration wrong.";
    WEIGHT = "weight",
        Kind::Count { min: 0, max: 65_535, unit: "shares" },
        Default::Text("1"), "0.1",
        "Share of new connections relative to the other servers. `0`: none.";
    MAX_CONNECTIONS = "max_connections",
        Kind::Count { min: 1, max: CONNECTIONS_MAX, unit: "connections" },
        Default::Derived("no limit"), "0.1",
        "Connections to this server; more wait in the pool's queue.";
    #[http]
    MAX_REQUESTS = "max_requests",
        Kind::Count { min: 1, max: CONNECTIONS_MAX, unit: "requests" },
        Default::Derived("no limit"), "0.1",
        "Requests in flight on this server; more wait in the pool's queue.";
    ZONE = "zone",
        Kind::Name,
        Default::Derived("none"), "0.1",
        "Where the server is; see the pool's `zone`.";
} }
