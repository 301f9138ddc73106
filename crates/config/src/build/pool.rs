//! Pools and their servers.

use fourfold_balance::health::{
    BreakerRules, CheckRules, EjectionRules, LatencyRules, Rules, Streaks, SuccessRules,
};
use fourfold_balance::retry::BudgetRules;
use fourfold_balance::{Algorithm, Options};
use fourfold_ports::SourceSet;

use super::{number, optional, small};
use crate::form;
use crate::keys::{Key, aperture, breaker, health, outlier, pool, server, sticky};
use crate::plan::pool::{ActiveCheck, Aperture, CheckRequest, Health, PoolHttp, RetryOn, StickyCookie};
use crate::plan::{Pool, Server};
use crate::section::Part;

pub(super) fn pool_of(part: &Part) -> Option<Pool> {
    let balance: Algorithm = part.choice(&pool::BALANCE)?;
    Some(Pool {
        name: part.text(&pool::NAME)?.clone(),
        balance,
        sources: part.sources(&pool::SOURCES).cloned().unwrap_or_else(SourceSet::kernel_chosen),
        ports: part.ports(&pool::PORTS).copied(),
        port_mode: part.choice(&pool::PORT_MODE)?,
        connect_timeout_ms: *part.ms(&pool::CONNECT_TIMEOUT)?,
        connect_attempts: number(part, &pool::CONNECT_ATTEMPTS)?,
        queue_timeout_ms: *part.ms(&pool::QUEUE_TIMEOUT)?,
        queue_max: small(part, &pool::QUEUE_MAX)?,
        retry_backoff_ms: *part.ms(&pool::RETRY_BACKOFF)?,
        retry_backoff_max_ms: *part.ms(&pool::RETRY_BACKOFF_MAX)?,
        hash_key: form::hash_key(part.text(&pool::HASH_KEY)?),
        hash_bound_percent: small(part, &pool::HASH_BOUND)?
            .unwrap_or_else(|| Options::new(balance).bound_percent),
        sticky: optional(part, &pool::STICKY, sticky_of)?,
        health: health_of(part)?,
        slow_start_ms: *part.ms(&pool::SLOW_START)?,
        zone: part.text(&pool::ZONE).cloned(),
        aperture: optional(part, &pool::APERTURE, aperture_of)?,
        proxy_protocol: part.choice(&pool::PROXY_PROTOCOL)?,
        http: http_of(part)?,
        servers: part.parts(&pool::SERVER).iter().map(server_of).collect::<Option<_>>()?,
    })
}

fn server_of(part: &Part) -> Option<Server> {
    Some(Server {
        address: part.server(&server::ADDRESS)?.clone(),
        weight: number(part, &server::WEIGHT)?,
        max_connections: small(part, &server::MAX_CONNECTIONS)?,
        max_requests: small(part, &server::MAX_REQUESTS)?,
        zone: part.text(&server::ZONE).cloned(),
    })
}

fn http_of(part: &Part) -> Option<PoolHttp> {
    Some(PoolHttp {
        response_timeout_ms: *part.ms(&pool::RESPONSE_TIMEOUT)?,
        response_idle_timeout_ms: *part.ms(&pool::RESPONSE_IDLE_TIMEOUT)?,
        retries: number(part, &pool::RETRIES)?,
        retry_on: retry_on(part, &pool::RETRY_ON).unwrap_or_default(),
        retry_budget: BudgetRules {
            percent: number(part, &pool::RETRY_BUDGET)?,
            per_second_min: number(part, &pool::RETRY_BUDGET_MIN)?,
            ..BudgetRules::default()
        },
        max_requests: small(part, &pool::MAX_REQUESTS)?,
        idle_max: number(part, &pool::IDLE_MAX)?,
        idle_timeout_ms: *part.ms(&pool::IDLE_TIMEOUT)?,
        max_age_ms: *part.ms(&pool::MAX_AGE)?,
        requests_max: number(part, &pool::REQUESTS_MAX)?,
        preconnect: number(part, &pool::PRECONNECT)?,
    })
}

pub(super) fn retry_on(part: &Part, key: &Key) -> Option<RetryOn> {
    let texts = part.texts(key)?;
    Some(form::retry_reasons(texts.iter().map(|(text, _)| text.as_str())))
}

fn sticky_of(part: &Part) -> Option<StickyCookie> {
    Some(StickyCookie {
        name: part.text(&sticky::COOKIE)?.clone(),
        ttl_ms: *part.ms(&sticky::TTL)?,
        path: part.text(&sticky::PATH)?.clone(),
        secure: *part.bool(&sticky::SECURE)?,
        same_site: part.choice(&sticky::SAME_SITE)?,
    })
}

fn aperture_of(part: &Part) -> Option<Aperture> {
    Some(Aperture {
        instance: number(part, &aperture::INSTANCE)?,
        instances: number(part, &aperture::INSTANCES)?,
        servers_min: number(part, &aperture::SERVERS_MIN)?,
    })
}

fn health_of(part: &Part) -> Option<Health> {
    let mut rules = Rules { panic_percent: number(part, &pool::PANIC_THRESHOLD)?, ..Health::default().rules };
    if let Some(table) = part.parts(&pool::OUTLIER).first() {
        rules = with_outliers(rules, table)?;
    }
    rules.breaker = optional(part, &pool::BREAKER, breaker_of)?;
    Some(Health { active: optional(part, &pool::HEALTH, active_of)?, rules })
}

fn active_of(part: &Part) -> Option<ActiveCheck> {
    let expect = part.texts(&health::EXPECT)?.iter().map(|(text, _)| form::status_range(text));
    let expect: Vec<(u16, u16)> = expect.collect::<Option<_>>()?;
    let host = part.text(&health::HOST).cloned();
    Some(ActiveCheck {
        request: part.text(&health::PATH).map(|path| CheckRequest { path: path.clone(), host, expect }),
        rules: CheckRules {
            interval_ms: *part.ms(&health::INTERVAL)?,
            fast_interval_ms: *part.ms(&health::FAST_INTERVAL)?,
            timeout_ms: *part.ms(&health::TIMEOUT)?,
            rise: number(part, &health::RISE)?,
            fall: number(part, &health::FALL)?,
            jitter_percent: number(part, &health::JITTER)?,
        },
    })
}

fn with_outliers(rules: Rules, part: &Part) -> Option<Rules> {
    let (requests_min, servers_min) =
        (number(part, &outlier::REQUESTS_MIN)?, number(part, &outlier::SERVERS_MIN)?);
    let judged = |key| number::<u32>(part, key).filter(|percent| *percent > 0);
    Some(Rules {
        streaks: Streaks {
            errors: number(part, &outlier::FAILURES)?,
            gateway_errors: number(part, &outlier::GATEWAY_FAILURES)?,
            unreachable: number(part, &outlier::UNREACHABLE)?,
        },
        ejection: EjectionRules {
            base_ms: *part.ms(&outlier::EJECT)?,
            max_ms: *part.ms(&outlier::EJECT_MAX)?,
            max_percent: number(part, &outlier::EJECT_SHARE_MAX)?,
            interval_ms: *part.ms(&outlier::INTERVAL)?,
        },
        success: judged(&outlier::SUCCESS_GAP).map(|points| SuccessRules {
            points,
            requests_min,
            servers_min,
        }),
        latency: judged(&outlier::LATENCY).map(|percent| LatencyRules { percent, requests_min, servers_min }),
        ..rules
    })
}

fn breaker_of(part: &Part) -> Option<BreakerRules> {
    Some(BreakerRules {
        window_ms: *part.ms(&breaker::WINDOW)?,
        requests_min: number(part, &breaker::REQUESTS_MIN)?,
        error_percent: number(part, &breaker::FAILURE_SHARE)?,
        open_ms: *part.ms(&breaker::OPEN)?,
        open_ms_max: *part.ms(&breaker::OPEN_MAX)?,
        probes: number(part, &breaker::PROBES)?,
    })
}
