//! What a pool's tables mean together.

use crate::diagnostic::{Code, Diagnostic, Diagnostics};
use crate::keys::{Key, aperture, breaker, health, outlier, pool, server, sticky};
use crate::plan::pool::SameSite;
use crate::section::Part;
use crate::value::{quote, show_count, show_duration};
use fourfold_balance::Algorithm;

use super::label;

pub(super) fn check(part: &Part, found: &mut Diagnostics) {
    hash_key(part, found);
    zones(part, found);
    retry_on(part, found);
    part.parts(&pool::STICKY).iter().for_each(|table| sticky_cookie(table, found));
    part.parts(&pool::APERTURE).iter().for_each(|table| aperture_of(table, found));
    part.parts(&pool::HEALTH).iter().for_each(|table| health_of(table, found));
    part.parts(&pool::OUTLIER).iter().for_each(|table| outlier_of(table, found));
    part.parts(&pool::BREAKER).iter().for_each(|table| breaker_of(table, found));
}

fn hash_key(part: &Part, found: &mut Diagnostics) {
    let Some(algorithm) = part.choice::<Algorithm>(&pool::BALANCE).filter(|one| !one.is_keyed()) else {
        return;
    };
    for key in [&pool::HASH_KEY, &pool::HASH_BOUND].into_iter().filter(|key| part.was_written(key)) {
        let message = format!("`{}` has no effect with `balance` = \"{}\"", key.name, algorithm.name());
        let warning = Diagnostic::warning(Code::NoEffect, part.place_of(key), part.path_of(key), message);
        found.push(warning.help("use balance = \"ring-hash\" or \"maglev\", or remove the key"));
    }
}

/// A zone is a preference for some servers over others, so it takes two to mean anything.
fn zones(part: &Part, found: &mut Diagnostics) {
    let servers = part.parts(&pool::SERVER);
    let zone_of = |one: &Part| one.text(&server::ZONE).cloned();
    if let Some(zone) = part.text(&pool::ZONE) {
        if !servers.iter().any(|one| zone_of(one).as_ref() == Some(zone)) {
            let message =
                format!("no server of {} is in zone {}", label("pool", part, &pool::NAME), quote(zone));
            let key = &pool::ZONE;
            let warning = Diagnostic::warning(Code::NoEffect, part.place_of(key), part.path_of(key), message);
            found.push(warning.help("give servers a `zone`, or remove this one"));
        }
    } else if let Some(one) = servers.iter().find(|one| one.was_written(&server::ZONE))
        && !part.was_written(&pool::ZONE)
    {
        let key = &server::ZONE;
        let message = "a server's `zone` has no effect: the pool does not say in which zone Fourfold is";
        let warning = Diagnostic::warning(Code::NoEffect, one.place_of(key), one.path_of(key), message);
        found.push(warning.help("add `zone` to the pool"));
    }
}

fn retry_on(part: &Part, found: &mut Diagnostics) {
    never_alone(part, &pool::RETRY_ON, found);
}

/// `never` beside a reason to retry.
pub(super) fn never_alone(part: &Part, key: &Key, found: &mut Diagnostics) {
    let Some(texts) = part.texts(key) else { return };
    if let Some((_, place)) = texts.iter().find(|(text, _)| text == "never")
        && texts.len() > 1
    {
        let message = format!("`{}` has \"never\" and something else", key.name);
        let error = Diagnostic::error(Code::Conflict, place, part.path_of(key), message);
        found.push(error.help("keep \"never\" alone, or take it out"));
    }
}

fn sticky_cookie(part: &Part, found: &mut Diagnostics) {
    if part.choice(&sticky::SAME_SITE) == Some(SameSite::None) && part.bool(&sticky::SECURE) == Some(&false) {
        let key = &sticky::SAME_SITE;
        let message = "`same_site` = \"none\" without `secure`: browsers drop such a cookie";
        let error = Diagnostic::error(Code::BadCookie, part.place_of(key), part.path_of(key), message);
        found.push(error.help("add secure = true, or take \"lax\""));
    }
    if let Some(ttl) = part.ms(&sticky::TTL).filter(|ttl| !ttl.is_multiple_of(1_000)) {
        let key = &sticky::TTL;
        let message = format!("a cookie lives for whole seconds, not {}", show_duration(*ttl));
        found.push(Diagnostic::error(Code::BadCookie, part.place_of(key), part.path_of(key), message));
    }
}

fn aperture_of(part: &Part, found: &mut Diagnostics) {
    let (Some(&instance), Some(&instances)) =
        (part.count(&aperture::INSTANCE), part.count(&aperture::INSTANCES))
    else {
        return;
    };
    if instance >= instances {
        let key = &aperture::INSTANCE;
        let message = format!(
            "`instance` is {}, but there are {} of them",
            show_count(instance),
            show_count(instances)
        );
        let error = Diagnostic::error(Code::OutOfRange, part.place_of(key), part.path_of(key), message);
        found.push(error.help(format!("they count from 0 to {}", show_count(instances - 1))));
    }
}

fn health_of(part: &Part, found: &mut Diagnostics) {
    if let (Some(&timeout), Some(&interval)) = (part.ms(&health::TIMEOUT), part.ms(&health::INTERVAL))
        && timeout > interval
    {
        let key = if part.was_written(&health::TIMEOUT) { &health::TIMEOUT } else { &health::INTERVAL };
        let message = format!(
            "`timeout` is {}, longer than `interval`, {}",
            show_duration(timeout),
            show_duration(interval)
        );
        let error = Diagnostic::error(Code::Conflict, part.place_of(key), part.path_of(key), message);
        found.push(error.help("a question must be answered before the next one is asked"));
    }
    if part.was_written(&health::PATH) {
        return;
    }
    for key in [&health::HOST, &health::EXPECT].into_iter().filter(|key| part.was_written(key)) {
        let message = format!("`{}` has no effect without `path`: only a connection is made", key.name);
        let warning = Diagnostic::warning(Code::NoEffect, part.place_of(key), part.path_of(key), message);
        found.push(warning.help("add path = \"/health\", or whatever your servers answer"));
    }
}

fn outlier_of(part: &Part, found: &mut Diagnostics) {
    if let (Some(&first), Some(&max)) = (part.ms(&outlier::EJECT), part.ms(&outlier::EJECT_MAX))
        && first > max
    {
        let key = &outlier::EJECT;
        let message =
            format!("`eject` is {}, longer than `eject_max`, {}", show_duration(first), show_duration(max));
        let error = Diagnostic::error(Code::Conflict, part.place_of(key), part.path_of(key), message);
        found.push(error.help("the first time must not exceed the longest one"));
    }
    if let Some(&latency) = part.count(&outlier::LATENCY)
        && (1..=100).contains(&latency)
    {
        let key = &outlier::LATENCY;
        let message =
            format!("`latency` = \"{latency}%\" would eject servers that are as quick as the others");
        let error = Diagnostic::error(Code::OutOfRange, part.place_of(key), part.path_of(key), message);
        found.push(error.help("\"400%\" is four times the median; \"0%\" does not judge latency"));
    }
    let zero = |key: &&Key| part.count(key) == Some(&0);
    let judges = [
        &outlier::FAILURES,
        &outlier::GATEWAY_FAILURES,
        &outlier::UNREACHABLE,
        &outlier::SUCCESS_GAP,
        &outlier::LATENCY,
    ];
    if judges.iter().all(zero) {
        let message = "the outlier table judges by nothing: all that it could judge by is 0";
        let warning = Diagnostic::warning(Code::NoEffect, &part.place, part.path.clone(), message);
        found.push(warning.help("set one of them, or remove the table"));
    }
}

fn breaker_of(part: &Part, found: &mut Diagnostics) {
    if let (Some(&first), Some(&max)) = (part.ms(&breaker::OPEN), part.ms(&breaker::OPEN_MAX))
        && first > max
    {
        let key = &breaker::OPEN;
        let message =
            format!("`open` is {}, longer than `open_max`, {}", show_duration(first), show_duration(max));
        let error = Diagnostic::error(Code::Conflict, part.place_of(key), part.path_of(key), message);
        found.push(error.help("the first time must not exceed the longest one"));
    }
}
