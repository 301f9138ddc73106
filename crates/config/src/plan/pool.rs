//! How a pool's servers are used for requests, chosen for a key, and judged.
//!
//! Owns: warm connections and retries, hash keys and sticky cookies, health, breaker, zones.
//! Refuses: the state machines themselves, which are `fourfold-balance`'s.

/// A pool's keys that only http uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolHttp {
    /// Until the head of the response, for each try.
    pub response_timeout_ms: u64,
    /// Between two pieces of a response's body.
    pub response_idle_timeout_ms: u64,
    /// Further tries after the first.
    pub retries: u8,
    pub retry_on: RetryOn,
    /// Retries are at most this share of requests.
    pub retry_budget_percent: u8,
    /// Warm connections kept for each server, on each shard.
    pub idle_max: u32,
    pub idle_timeout_ms: u64,
    /// Then a connection is closed as soon as it is idle; 0: never.
    pub max_age_ms: u64,
    /// Requests on one connection; 0: no limit.
    pub requests_max: u64,
    /// Connections kept open to each server without being asked.
    pub preconnect: u32,
}

impl Default for PoolHttp {
    fn default() -> PoolHttp {
        PoolHttp {
            response_timeout_ms: 60_000,
            response_idle_timeout_ms: 60_000,
            retries: 2,
            retry_on: RetryOn::default(),
            retry_budget_percent: 20,
            idle_max: 128,
            idle_timeout_ms: 30_000,
            max_age_ms: 0,
            requests_max: 0,
            preconnect: 0,
        }
    }
}

/// What is tried again, if the request is safe to repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryOn {
    /// No connection came about.
    pub connect: bool,
    /// The connection ended before the response began.
    pub reset: bool,
    /// `response_timeout` passed.
    pub timeout: bool,
    pub status_502: bool,
    pub status_503: bool,
    pub status_504: bool,
}

impl RetryOn {
    pub const NEVER: RetryOn = RetryOn {
        connect: false,
        reset: false,
        timeout: false,
        status_502: false,
        status_503: false,
        status_504: false,
    };

    #[must_use]
    pub fn status(self, status: u16) -> bool {
        match status {
            502 => self.status_502,
            503 => self.status_503,
            504 => self.status_504,
            _ => false,
        }
    }
}

impl Default for RetryOn {
    fn default() -> RetryOn {
        RetryOn { connect: true, reset: true, timeout: true, ..RetryOn::NEVER }
    }
}

/// What keyed algorithms hash. Without it in the request, the client's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    Address,
    /// Lower case.
    Header(String),
    Cookie(String),
    /// Without the query.
    Path,
    Host,
}

/// A cookie of ours that names the server of the first response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StickyCookie {
    pub name: String,
    /// Max-Age; 0: until the browser closes.
    pub ttl_ms: u64,
    pub path: String,
    pub secure: bool,
    pub same_site: SameSite,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    Lax,
    Strict,
    /// Only with `secure`.
    None,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub active: Option<ActiveCheck>,
    pub outlier: Option<Outlier>,
    pub breaker: Option<Breaker>,
    /// When fewer than this share of servers are healthy, all are used; 0: never.
    pub panic_percent: u8,
}

impl Default for Health {
    fn default() -> Health {
        Health { active: None, outlier: None, breaker: None, panic_percent: 50 }
    }
}

/// Asked at an interval, on every path (source and server).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveCheck {
    /// `None`: that a connection comes about is enough.
    pub request: Option<CheckRequest>,
    pub interval_ms: u64,
    /// Each interval is longer or shorter by up to this share of it.
    pub jitter_percent: u8,
    pub timeout_ms: u64,
    /// Good answers in a row until a server is up.
    pub rise: u8,
    /// Bad ones until it is down.
    pub fall: u8,
}

impl Default for ActiveCheck {
    fn default() -> ActiveCheck {
        ActiveCheck {
            request: None,
            interval_ms: 5_000,
            jitter_percent: 20,
            timeout_ms: 2_000,
            rise: 2,
            fall: 3,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckRequest {
    /// With its query.
    pub path: String,
    /// `None`: the server's own address.
    pub host: Option<String>,
    /// First and last status that is good, both included; never empty.
    pub expect: Vec<(u16, u16)>,
}

impl CheckRequest {
    #[must_use]
    pub fn expects(&self, status: u16) -> bool {
        self.expect.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }
}

/// What a server must do to be left out for a while, judged by what clients' requests meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// Failures in a row; 0: not judged.
    pub failures: u32,
    /// Share of failures within `window_ms`; 0: not judged.
    pub failure_percent: u8,
    /// Slower than the pool's median by this factor, in percent; 0: not judged.
    pub latency_percent: u32,
    /// Requests within `window_ms` below which shares and latencies say nothing.
    pub requests_min: u32,
    pub window_ms: u64,
    /// The first time; grows with each further one.
    pub eject_ms: u64,
    pub eject_max_ms: u64,
    /// Servers that may be left out at once.
    pub eject_percent_max: u8,
}

impl Default for Outlier {
    fn default() -> Outlier {
        Outlier {
            failures: 5,
            failure_percent: 50,
            latency_percent: 0,
            requests_min: 20,
            window_ms: 10_000,
            eject_ms: 10_000,
            eject_max_ms: 300_000,
            eject_percent_max: 50,
        }
    }
}

/// What a pool may have in flight; more is refused at once rather than queued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// Share of failures within `window_ms` at which the pool is left alone; 0: never.
    pub failure_percent: u8,
    /// Requests within `window_ms` below which the share says nothing.
    pub requests_min: u32,
    pub window_ms: u64,
    /// How long everything is refused, before a few requests try again.
    pub open_ms: u64,
    /// Requests that try.
    pub trials: u32,
    /// Requests in flight over all servers; `None`: no limit.
    pub requests_max: Option<u32>,
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker {
            failure_percent: 50,
            requests_min: 50,
            window_ms: 10_000,
            open_ms: 5_000,
            trials: 5,
            requests_max: None,
        }
    }
}

/// Deterministic subsetting: each of several Fourfolds uses its share of the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aperture {
    /// Which of them this one is, from 0.
    pub instance: u32,
    pub instances: u32,
    /// Servers that it uses at least.
    pub servers_min: u32,
}

/// PROXY protocol towards servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    V1,
    V2,
}
