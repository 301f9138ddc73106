//! From sections that were found right to the [`Plan`].
//!
//! Owns: the way from a key to its field.
//! Refuses: nothing; `None` can only mean that a check before it has a hole.
//! Driven by: [`parse`](crate::parse) and [`from_flags`](crate::from_flags), when there is no error.

mod http;
mod pool;

use std::collections::HashMap;

use crate::form::{self, parse_admin};
use crate::keys::{Key, access_log, admin, listener, log, proxy_protocol, splice, top};
use crate::plan::http::AccessLog;
use crate::plan::{
    AdminListen, Listener, Log, LogFormat, LogLevel, Mode, Plan, Pool, ProxyProtocolIn, Splice, SpliceMode,
};
use crate::section::Part;

pub(crate) use http::{files, route_name, spec_of};

pub(crate) fn plan(root: &Part) -> Option<Plan> {
    let pools: Vec<Pool> = root.parts(&top::POOL).iter().map(pool::pool_of).collect::<Option<_>>()?;
    let names: Names = pools.iter().enumerate().map(|(n, pool)| (pool.name.as_str(), n)).collect();
    let listeners = root.parts(&top::LISTENER).iter().map(|part| listener_of(part, &names));
    Some(Plan {
        max_connections: root.count(&top::MAX_CONNECTIONS).copied(),
        shards: small(root, &top::SHARDS)?,
        engine: root.choice(&top::ENGINE)?,
        splice: splice_of(root.parts(&top::SPLICE).first())?,
        buffer_memory_bytes: root.count(&top::BUFFER_MEMORY).copied(),
        drain_timeout_ms: *root.ms(&top::DRAIN_TIMEOUT)?,
        log: log_of(root.parts(&top::LOG).first())?,
        admin: admin_of(root.parts(&top::ADMIN).first())?,
        listeners: listeners.collect::<Option<_>>()?,
        pools,
    })
}

/// Index of each pool.
type Names<'a> = HashMap<&'a str, usize>;

/// `Some(None)`: not written. `None`: does not fit, which its range in the table rules out.
fn small<T: TryFrom<u64>>(part: &Part, key: &Key) -> Option<Option<T>> {
    part.count(key).map(|number| T::try_from(*number).ok()).map_or(Some(None), |number| number.map(Some))
}

/// A number that is always there.
fn number<T: TryFrom<u64>>(part: &Part, key: &Key) -> Option<T> {
    small(part, key)?
}

/// A table that may be left out: `Some(None)` then.
fn optional<T>(part: &Part, key: &Key, build: impl Fn(&Part) -> Option<T>) -> Option<Option<T>> {
    match part.parts(key).first() {
        Some(table) => build(table).map(Some),
        None => Some(None),
    }
}

fn log_of(part: Option<&Part>) -> Option<Log> {
    let Some(part) = part else {
        return Some(Log { level: LogLevel::Info, format: LogFormat::Human });
    };
    Some(Log { level: part.choice(&log::LEVEL)?, format: part.choice(&log::FORMAT)? })
}

fn splice_of(part: Option<&Part>) -> Option<Splice> {
    let Some(part) = part else {
        return Some(Splice { mode: SpliceMode::Auto, messages: 64, gap_ms: 100 });
    };
    Some(Splice {
        mode: part.choice(&splice::SPLICE_MODE)?,
        messages: number(part, &splice::MESSAGES)?,
        gap_ms: *part.ms(&splice::GAP)?,
    })
}

fn admin_of(part: Option<&Part>) -> Option<AdminListen> {
    match part.and_then(|part| part.text(&admin::LISTEN)) {
        Some(text) => parse_admin(text).ok(),
        None => Some(AdminListen::Default),
    }
}

fn listener_of(part: &Part, pools: &Names) -> Option<Listener> {
    let pool = match part.text(&listener::POOL) {
        Some(name) => Some(*pools.get(name.as_str())?),
        None => None,
    };
    let mode = part.choice(&listener::MODE)?;
    let rates = part.parts(&listener::CONNECTION_RATE).iter();
    Some(Listener {
        name: part.text(&listener::NAME)?.clone(),
        binds: part.binds(&listener::BIND)?.iter().map(|(bind, _)| *bind).collect(),
        mode,
        pool,
        max_connections: part.count(&listener::MAX_CONNECTIONS).copied(),
        idle_timeout_ms: *part.ms(&listener::IDLE_TIMEOUT)?,
        backlog: small(part, &listener::BACKLOG)?,
        connection_rates: rates.map(http::connection_rate).collect::<Option<_>>()?,
        proxy_protocol: optional(part, &listener::PROXY_PROTOCOL, proxy_protocol_of)?,
        access_log: optional(part, &listener::ACCESS_LOG, access_log_of)?,
        http: match mode {
            Mode::Tcp => None,
            Mode::Http => Some(Box::new(http::http_of(part, pool, pools)?)),
        },
    })
}

fn proxy_protocol_of(part: &Part) -> Option<ProxyProtocolIn> {
    Some(ProxyProtocolIn {
        trust: part.cidrs(&proxy_protocol::TRUST)?.clone(),
        required: *part.bool(&proxy_protocol::REQUIRED)?,
    })
}

fn access_log_of(part: &Part) -> Option<AccessLog> {
    Some(AccessLog {
        format: part.choice(&access_log::FORMAT)?,
        to: form::access_target(part.text(&access_log::TO)?),
    })
}
