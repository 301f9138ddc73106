//! Keys of `[[listener]]` and of its tables, routes apart.

use super::*;
use crate::form;

const RATES_MAX: usize = 16;
/// Routes are found by hash and by sorted prefix, so their number is bounded by what a person can read only.
const ROUTES_MAX: usize = 16_384;
const ERROR_PAGES_MAX: usize = 64;
/// Requests and bytes are counted in 64 bits, and compared with what a counter adds up to.
const COUNT_MAX: u64 = 1 << 62;
const RATE_MAX: u64 = 10_000_000;
/// A header is kept whole until it is understood, in one buffer.
const HEAD_BYTES_MAX: u64 = 16 << 10;

section! { listener {
    NAME = "name",
        Kind::Name,
        Default::Required, "0.1",
        "Unique among listeners; appears in logs and counters.";
    BIND = "bind",
        Kind::Binds,
        Default::Required, "0.1",
        "Address of this machine and port, or a list of them: ports of one service share its limits. Host names are \
         refused.";
    MODE = "mode",
        choice::<Mode>(&[]),
        Default::Text("tcp"), "0.1",
        "What is spoken: `tcp` passes bytes on as they come, `http` is HTTP/1.1.";
    POOL = "pool",
        Kind::PoolName,
        Default::Derived("none; needed in tcp mode, and in http mode without a route"), "0.1",
        "The pool that connections go to; in http mode, requests that no route takes. Without it those are answered \
         with 404.";
    MAX_CONNECTIONS = "max_connections",
        Kind::Count { min: 1, max: CONNECTIONS_MAX, unit: "connections" },
        Default::Derived("only the global limit applies"), "0.1",
        "Connections through this listener.";
    #[tcp]
    IDLE_TIMEOUT = "idle_timeout",
        duration(0),
        Default::Text("1h"), "0.1",
        "A connection without a byte in either direction for this long is closed. `0s`: never. Push and chat \
         clients send something every few minutes; a whole silent hour means that the peer is gone.";
    BACKLOG = "backlog",
        Kind::Count { min: 1, max: 1 << 24, unit: "connections" },
        Default::Derived("the machine's `net.core.somaxconn`"), "0.1",
        "Connections that the kernel holds until they are accepted. The kernel cuts it to `somaxconn`.";
    PROXY_PROTOCOL = "proxy_protocol",
        Kind::Table(Section::ProxyProtocol),
        Default::Derived("none is read"), "0.1",
        "PROXY protocol, version 1 or 2, from load balancers in front.";
    CONNECTION_RATE = "connection_rate",
        Kind::Tables { section: Section::ConnectionRate, max: RATES_MAX },
        Default::Derived("no limit"), "0.1",
        "How many connections may come in; above it they are closed at once. Every entry must have room.";
    #[http]
    REQUEST_RATE = "request_rate",
        Kind::Tables { section: Section::RequestRate, max: RATES_MAX },
        Default::Derived("no limit"), "0.1",
        "How many requests may come in; above it they are answered with 429 and Retry-After. Every entry must have \
         room.";
    #[http]
    ROUTE = "route",
        Kind::Tables { section: Section::Route, max: ROUTES_MAX },
        Default::Derived("everything goes to `pool`"), "0.1",
        "What is done with which requests. The most specific one takes a request, wherever it stands: exact host, \
         longest wildcard, any host; then exact path, longest prefix; then more conditions before fewer.";
    #[http]
    FIRST_BYTE_TIMEOUT = "first_byte_timeout",
        duration(1),
        Default::Text("1m"), "0.1",
        "From the accepted connection to the first byte of a request.";
    #[http]
    HEADER_TIMEOUT = "header_timeout",
        duration(1),
        Default::Text("10s"), "0.1",
        "From the first byte of a request to the end of its header. A client that is slower gets 408.";
    #[http]
    BODY_TIMEOUT = "body_timeout",
        duration(1),
        Default::Text("30s"), "0.1",
        "Between two pieces of a request's body.";
    #[http]
    SEND_TIMEOUT = "send_timeout",
        duration(1),
        Default::Text("30s"), "0.1",
        "How long a client may take nothing of its response.";
    #[http]
    KEEP_ALIVE_TIMEOUT = "keep_alive_timeout",
        duration(0),
        Default::Text("75s"), "0.1",
        "Between two requests on a connection. `0s`: one request for each connection.";
    #[http]
    UPGRADE_TIMEOUT = "upgrade_timeout",
        duration(0),
        Default::Text("1h"), "0.1",
        "A WebSocket or other upgraded connection without a byte in either direction for this long is closed. `0s`: \
         never.";
    #[http]
    REQUESTS_MAX = "requests_max",
        Kind::Count { min: 0, max: COUNT_MAX, unit: "requests" },
        Default::Text("0"), "0.1",
        "Requests on one connection of a client, then it is closed. `0`: no limit.";
    #[http]
    LINE_BYTES_MAX = "line_bytes_max",
        bytes(256, HEAD_BYTES_MAX),
        Default::Text("8KiB"), "0.1",
        "The request line, and each header line. Longer ones get 414 or 431.";
    #[http]
    HEADER_BYTES_MAX = "header_bytes_max",
        bytes(512, HEAD_BYTES_MAX),
        Default::Text("16KiB"), "0.1",
        "A request's whole header. A longer one gets 431.";
    #[http]
    HEADERS_MAX = "headers_max",
        Kind::Count { min: 4, max: 1_000, unit: "headers" },
        Default::Text("100"), "0.1",
        "Headers in a request. More get 431.";
    #[http]
    TRAILER_BYTES_MAX = "trailer_bytes_max",
        bytes(0, HEAD_BYTES_MAX),
        Default::Text("4KiB"), "0.1",
        "Trailers after a chunked body.";
    #[http]
    BODY_BYTES_MAX = "body_bytes_max",
        bytes(0, COUNT_MAX),
        Default::Derived("no limit"), "0.1",
        "A request's body. A longer one gets 413.";
    #[http]
    SLASHES = "slashes",
        choice::<Slashes>(&[]),
        Default::Text("merge"), "0.1",
        "Several `/` in a row in a path: one of them, as they are, or 400.";
    #[http]
    ENCODED_SLASHES = "encoded_slashes",
        choice::<EncodedSlashes>(&[]),
        Default::Text("keep"), "0.1",
        "`%2F` in a path: as it is, which is not a `/` for any route, or 400.";
    #[http]
    TRUSTED_PROXIES = "trusted_proxies",
        Kind::Cidrs,
        Default::Derived("none"), "0.1",
        "Proxies in front of this one. Only theirs are the forwarding headers that are believed and extended; from \
         others they are replaced.";
    #[http]
    FORWARDED = "forwarded",
        choice::<Forwarded>(&[]),
        Default::Text("x"), "0.1",
        "How servers are told who the client is: `x` by X-Forwarded-For, -Proto, -Host, -Port and X-Real-IP, \
         `rfc7239` by Forwarded.";
    #[http]
    VIA = "via",
        Kind::Text(&form::VIA),
        Default::Text("off"), "0.1",
        "The name in a Via header, which RFC 9110 asks for. Off, since some servers then no longer compress.";
    #[http]
    REQUEST_ID = "request_id",
        Kind::Text(&form::REQUEST_ID),
        Default::Text("x-request-id"), "0.1",
        "The header that carries a request's id to the server and into the log. One from a trusted proxy is kept. \
         `off`: none.";
    #[http]
    SERVER_HEADER = "server_header",
        choice::<ServerHeader>(&[]),
        Default::Text("pass"), "0.1",
        "The server's Server header: passed on, removed, or overwritten with `fourfold`.";
    #[http]
    ERRORS = "errors",
        choice::<ErrorFormat>(&[]),
        Default::Text("auto"), "0.1",
        "How answers of Fourfold's own look: `auto` follows the request's Accept header.";
    #[http]
    ERROR_PAGE = "error_page",
        Kind::Tables { section: Section::ErrorPage, max: ERROR_PAGES_MAX },
        Default::Derived("built-in ones"), "0.1",
        "Pages of your own for answers of Fourfold's own.";
    #[http]
    EXPLAIN_ERRORS = "explain_errors",
        Kind::Bool,
        Default::Text("false"), "0.1",
        "Answers of Fourfold's own say the reason in the header X-Fourfold-Reason. It tells clients about servers.";
    ACCESS_LOG = "access_log",
        Kind::Table(Section::AccessLog),
        Default::Derived("none is written"), "0.1",
        "One line for each request, or in tcp mode for each connection, at its end.";
} }

section! { proxy_protocol {
    TRUST = "trust",
        Kind::Cidrs,
        Default::Required, "0.1",
        "Who may say who the client is. Others are served as if this table were not there.";
    REQUIRED = "required",
        Kind::Bool,
        Default::Text("true"), "0.1",
        "A trusted one that does not begin with the header is refused.";
} }

section! { connection_rate {
    RATE = "rate",
        Kind::Text(&form::RATE),
        Default::Required, "0.1",
        "Connections in the long run: `100/s`, `30/m`, `10/h`.";
    BURST = "burst",
        Kind::Count { min: 1, max: RATE_MAX, unit: "connections" },
        Default::Derived("the number in `rate`"), "0.1",
        "Connections at once after a rest.";
    KEY = "key",
        Kind::Text(&form::CONNECTION_RATE_KEY),
        Default::Text("address"), "0.1",
        "Who shares one allowance: `address` each client, `global` all together.";
    PREFIX_V4 = "prefix_v4",
        Kind::Count { min: 8, max: 32, unit: "bits" },
        Default::Text("32"), "0.1",
        "How much of an IPv4 address makes a client.";
    PREFIX_V6 = "prefix_v6",
        Kind::Count { min: 16, max: 128, unit: "bits" },
        Default::Text("64"), "0.1",
        "How much of an IPv6 address makes a client: a network is 64 bits at least.";
    KEYS_MAX = "keys_max",
        Kind::Count { min: 1_000, max: 10_000_000, unit: "clients" },
        Default::Text("100_000"), "0.1",
        "Clients that are told apart at the same time; 64 bytes each.";
} }

section! { request_rate {
    RATE = "rate",
        Kind::Text(&form::RATE),
        Default::Required, "0.1",
        "Requests in the long run: `100/s`, `30/m`, `10/h`.";
    BURST = "burst",
        Kind::Count { min: 1, max: RATE_MAX, unit: "requests" },
        Default::Derived("the number in `rate`"), "0.1",
        "Requests at once after a rest.";
    KEY = "key",
        Kind::Text(&form::REQUEST_RATE_KEY),
        Default::Text("address"), "0.1",
        "Who shares one allowance: `address` each client, `global` all together, `header:NAME` each value of a header.";
    PREFIX_V4 = "prefix_v4",
        Kind::Count { min: 8, max: 32, unit: "bits" },
        Default::Text("32"), "0.1",
        "How much of an IPv4 address makes a client.";
    PREFIX_V6 = "prefix_v6",
        Kind::Count { min: 16, max: 128, unit: "bits" },
        Default::Text("64"), "0.1",
        "How much of an IPv6 address makes a client: a network is 64 bits at least.";
    KEYS_MAX = "keys_max",
        Kind::Count { min: 1_000, max: 10_000_000, unit: "clients" },
        Default::Text("100_000"), "0.1",
        "Clients that are told apart at the same time; 64 bytes each.";
} }

section! { access_log {
    FORMAT = "format",
        choice::<AccessFormat>(&[]),
        Default::Text("json"), "0.1",
        "One JSON object with everything that is known; or of requests the line of Apache httpd and nginx, of \
         connections that of HAProxy.";
    TO = "to",
        Kind::Text(&form::LOG_TARGET),
        Default::Text("stdout"), "0.1",
        "`stdout`, a file (opened again at SIGUSR2), `syslog:/dev/log` or `syslog:ip:port`. Lines are dropped and \
         counted rather than waited for.";
} }

section! { error_page {
    STATUS = "status",
        Kind::Texts { form: &form::ERROR_STATUS, max: 64 },
        Default::Required, "0.1",
        "For which answers: a status, `4xx` or `5xx`, or a list. A status of its own goes before its class.";
    FILE = "file",
        Kind::Text(&form::FILE),
        Default::Derived("none"), "0.1",
        "The page, read at start; at most 64 KiB. Relative to the configuration's folder.";
    BODY = "body",
        Kind::Text(&form::BODY),
        Default::Derived("none"), "0.1",
        "The page itself, instead of a file.";
    CONTENT_TYPE = "content_type",
        Kind::Text(&form::FIELD_VALUE),
        Default::Derived("by the file's ending, else `text/plain; charset=utf-8`"), "0.1",
        "What it is.";
} }
