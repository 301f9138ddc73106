//! How a pool's servers are used for requests, chosen for a key, and judged.
//!
//! Owns: warm connections and retries, hash keys and sticky cookies, health, breaker, zones.
//! Refuses: the state machines themselves, which are `fourfold-balance`'s, and so are their rules.

use fourfold_balance::health::{CheckRules, Rules, Streaks};
use fourfold_balance::retry::BudgetRules;

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
    pub retry_budget: BudgetRules,
    /// Requests in flight over all servers; more wait.
    pub max_requests: Option<u32>,
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
            retry_budget: BudgetRules::default(),
            max_requests: None,
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
    /// What clients' requests say about servers. Without `[pool.outlier]` and `[pool.breaker]` they say
    /// nothing: all streaks are 0.
    pub rules: Rules,
}

impl Default for Health {
    fn default() -> Health {
        let streaks = Streaks { errors: 0, gateway_errors: 0, unreachable: 0 };
        Health { active: None, rules: Rules { streaks, panic_percent: 50, ..Rules::default() } }
    }
}

/// Servers are asked at an interval, on every path (source and server).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActiveCheck {
    /// `None`: that a connection comes about is enough.
    pub request: Option<CheckRequest>,
    pub rules: CheckRules,
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
