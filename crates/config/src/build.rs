//! From sections that were found right to the [`Plan`].
//!
//! Owns: the way from a key to its field.
//! Refuses: nothing; `None` can only mean that a check before it has a hole.
//! Driven by: [`parse`](crate::parse) and [`from_flags`](crate::from_flags), when there is no error.

use fourfold_ports::SourceSet;

use crate::keys::{Key, listener, log, pool, server, top};
use crate::plan::http::Http;
use crate::plan::{Listener, Log, LogFormat, LogLevel, Mode, Plan, Pool, Server};
use crate::section::Part;

pub(crate) fn plan(root: &Part) -> Option<Plan> {
    let pools: Vec<Pool> = root.parts(&top::POOL).iter().map(pool_of).collect::<Option<_>>()?;
    let listeners = root.parts(&top::LISTENER).iter().map(|part| listener_of(part, &pools));
    Some(Plan {
        max_connections: root.count(&top::MAX_CONNECTIONS).copied(),
        shards: small(root, &top::SHARDS)?,
        engine: root.choice(&top::ENGINE)?,
        drain_timeout_ms: *root.ms(&top::DRAIN_TIMEOUT)?,
        log: log_of(root.parts(&top::LOG).first())?,
        listeners: listeners.collect::<Option<_>>()?,
        pools,
    })
}

/// `Some(None)`: not written. `None`: does not fit, which its range in the table rules out.
fn small<T: TryFrom<u64>>(part: &Part, key: &Key) -> Option<Option<T>> {
    part.count(key).map(|number| T::try_from(*number).ok()).map_or(Some(None), |number| number.map(Some))
}

fn log_of(part: Option<&Part>) -> Option<Log> {
    let Some(part) = part else {
        return Some(Log { level: LogLevel::Info, format: LogFormat::Human });
    };
    Some(Log { level: part.choice(&log::LEVEL)?, format: part.choice(&log::FORMAT)? })
}

fn listener_of(part: &Part, pools: &[Pool]) -> Option<Listener> {
    let target = part.text(&listener::POOL)?;
    let pool = pools.iter().position(|pool| pool.name == *target)?;
    let mode = part.choice(&listener::MODE)?;
    Some(Listener {
        name: part.text(&listener::NAME)?.clone(),
        binds: vec![*part.bind(&listener::BIND)?],
        mode,
        pool: Some(pool),
        max_connections: part.count(&listener::MAX_CONNECTIONS).copied(),
        idle_timeout_ms: *part.ms(&listener::IDLE_TIMEOUT)?,
        backlog: small(part, &listener::BACKLOG)?,
        connection_rates: Vec::new(),
        proxy_protocol: None,
        http: (mode == Mode::Http).then(|| Box::new(Http::to_pool(pool))),
    })
}

fn pool_of(part: &Part) -> Option<Pool> {
    Some(Pool {
        balance: part.choice(&pool::BALANCE)?,
        sources: part.sources(&pool::SOURCES).cloned().unwrap_or_else(SourceSet::kernel_chosen),
        ports: part.ports(&pool::PORTS).copied(),
        port_mode: part.choice(&pool::PORT_MODE)?,
        connect_timeout_ms: *part.ms(&pool::CONNECT_TIMEOUT)?,
        connect_attempts: small(part, &pool::CONNECT_ATTEMPTS)??,
        queue_timeout_ms: *part.ms(&pool::QUEUE_TIMEOUT)?,
        queue_max: small(part, &pool::QUEUE_MAX)?,
        retry_backoff_ms: *part.ms(&pool::RETRY_BACKOFF)?,
        retry_backoff_max_ms: *part.ms(&pool::RETRY_BACKOFF_MAX)?,
        ..Pool::new(
            part.text(&pool::NAME)?,
            part.parts(&pool::SERVER).iter().map(server_of).collect::<Option<_>>()?,
        )
    })
}

fn server_of(part: &Part) -> Option<Server> {
    Some(Server {
        weight: small(part, &server::WEIGHT)??,
        max_connections: small(part, &server::MAX_CONNECTIONS)?,
        ..Server::new(part.server(&server::ADDRESS)?.clone())
    })
}
