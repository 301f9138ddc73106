//! How a request or a connection ended: a stable short code and a name.
//!
//! The code is read like HAProxy's termination state. First who or what ended it: `C` the client, `c` a timeout that waits for
//! the client, `S` a server, `s` a timeout that waits for a server, `P` the proxy by its rules, `R` a resource that ran out, `L`
//! answered here, `K` ended on purpose. Then, for `C c S s`, during what: `R` request head, `B` request body, `Q` queue, `C`
//! connect, `H` response head, `D` response body, `T` tunnel; for the others, what in particular.

macro_rules! endings {
    ($($(#[$default:meta])* $variant:ident = $code:literal $name:literal, $meaning:literal;)*) => {
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub enum Ending { $($(#[$default])* #[doc = $meaning] $variant,)* }

        impl Ending {
            pub const ALL: &'static [Ending] = &[$(Ending::$variant,)*];

            /// Two characters that never change their meaning.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $(Ending::$variant => $code,)* }
            }

            /// The same, readable.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Ending::$variant => $name,)* }
            }

            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Ending::$variant => $meaning,)* }
            }
        }
    };
}

endings! {
    #[default]
    Ok = "--" "ok", "Complete in both directions";
    AnsweredHere = "LR" "answered_here", "Answered by a route of ours: a redirect or a fixed response";

    ClientGoneRequest = "CR" "client_gone_request", "The client went away while its request's head was read";
    ClientGoneBody = "CB" "client_gone_request_body", "The client went away while its request's body was read";
    ClientGoneQueue = "CQ" "client_gone_queue", "The client went away while it waited for a server or a tuple";
    ClientGoneConnect = "CC" "client_gone_connect", "The client went away while a server was being connected";
    ClientGoneResponse = "CH" "client_gone_response", "The client went away before the server's response";
    ClientGone = "CD" "client_gone", "The client went away in the midst of the response";
    ClientGoneTunnel = "CT" "client_gone_tunnel", "The client reset the tunnel";

    HeadTimeout = "cR" "request_head_timeout", "The client did not send its request's head in time";
    BodyTimeout = "cB" "request_body_timeout", "The client stopped sending its request's body";
    SendTimeout = "cD" "send_timeout", "The client stopped taking the response";

    ConnectFailed = "SC" "connect_failed", "Every attempt to connect to a server failed";
    ServerClosed = "SH" "server_closed", "The server closed or reset the connection before its response";
    ServerReset = "SD" "server_reset", "The server closed or reset the connection in the midst of its response";
    ServerResetTunnel = "ST" "server_reset_tunnel", "The server reset the tunnel";
    BadResponse = "PH" "bad_response", "The server's response broke the protocol's rules";

    QueueTimeout = "sQ" "queue_timeout", "No server or tuple was free in time";
    ConnectTimeout = "sC" "connect_timeout", "No server answered a connection in time";
    ResponseTimeout = "sH" "response_timeout", "The server did not send its response's head in time";
    ResponseIdleTimeout = "sD" "response_idle_timeout", "The server stopped sending its response's body";
    TunnelIdleTimeout = "sT" "tunnel_idle_timeout", "Neither side of the tunnel sent anything in time";
    RequestTimeout = "sA" "request_timeout", "The whole of the request took longer than its route allows";

    BadRequest = "PR" "bad_request", "The request broke the protocol's rules";
    TooLarge = "PB" "too_large", "The request's body is larger than allowed";
    NoRoute = "PN" "no_route", "No route matches the request";
    RateLimited = "PT" "rate_limited", "The client came more often than its rate limit allows";
    BadProxyHeader = "PP" "bad_proxy_header", "The PROXY protocol header is missing, malformed or not trusted";

    NoServer = "RS" "no_server", "Every server of the pool is down, full or unresolved";
    QueueFull = "RQ" "queue_full", "Too many clients were waiting already";
    NoTuple = "RP" "no_tuple", "Every four-tuple to the servers is in use";
    MaxConnections = "RM" "max_connections", "The limit of connections was reached";
    Local = "RL" "local", "This machine was short of descriptors, memory or buffers";
    Breaker = "RB" "breaker", "The pool's circuit breaker is open";
    RetryBudget = "RR" "retry_budget", "The server failed, and the pool's retry budget allowed no other try";

    Drained = "KD" "drained", "Cut when the time to drain was over";
    Shed = "KM" "shed", "Cut since it was slow and memory was short";
    ServerRemoved = "KS" "server_removed", "Cut since its server was taken out of the configuration";
    SpliceLost = "IK" "splice_lost", "The kernel lost bytes of a tunnel that it carried";
    Internal = "II" "internal", "An invariant of our own was broken: please report it";
}
