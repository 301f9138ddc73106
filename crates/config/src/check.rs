//! What keys mean together: names that refer to each other, addresses and tuples that collide.
//!
//! Owns: every check over more than one key that needs no machine.
//! Refuses: to build anything; it only finds.
//! Driven by: [`parse`](crate::parse) and [`from_flags`](crate::from_flags), after the sections were
//! read. Values that were wrong by themselves are absent here and are skipped, not reported twice.

mod http;
mod routes;
mod servers;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use fourfold_ports::Family;

use crate::diagnostic::{Code, Diagnostic, Diagnostics, Place};
use crate::form::parse_admin;
use crate::keys::{Key, admin, listener, mirror, pool, route, server, split, top};
use crate::plan::{AdminListen, HostPort, PortMode};
use crate::section::Part;
use crate::spaces::{self, SpaceView};
use crate::suggest::nearest;
use crate::value::{quote, show_count, show_duration};

pub(crate) fn check(root: &Part, found: &mut Diagnostics) {
    let listeners = root.parts(&top::LISTENER);
    let pools = root.parts(&top::POOL);
    duplicate_names("listener", listeners, &listener::NAME, found);
    duplicate_names("pool", pools, &pool::NAME, found);
    pool_references(listeners, pools, found);
    binds(listeners, found);
    admin_bind(root, listeners, found);
    limits(root, listeners, found);
    for pool in pools {
        duplicate_servers(pool, found);
        families(pool, found);
        weights(pool, found);
        backoff(pool, found);
        early_ports(pool, found);
        servers::check(pool, found);
    }
    listeners.iter().for_each(|listener| http::check(listener, found));
    http::pools_in_use(listeners, pools, found);
    loops(listeners, pools, found);
    tuples(pools, found);
}

/// `listener "edge"`, or its path when it has no valid name.
fn label(noun: &str, part: &Part, name: &Key) -> String {
    part.text(name).map_or_else(|| part.path.clone(), |name| format!("{noun} {}", quote(name)))
}

fn duplicate_names(noun: &str, parts: &[Part], key: &Key, found: &mut Diagnostics) {
    let mut seen = HashSet::new();
    for part in parts {
        let Some(name) = part.text(key) else { continue };
        if !seen.insert(name) {
            let message = format!("there is already a {noun} named {}", quote(name));
            let error =
                Diagnostic::error(Code::DuplicateName, part.place_of(key), part.path_of(key), message);
            found.push(error.help("names tell logs and counters apart; choose another"));
        }
    }
}

/// A place that names a pool.
struct Reference<'a> {
    part: &'a Part,
    key: &'static Key,
    /// `listener "edge"`, or the route in it.
    owner: String,
}

impl Reference<'_> {
    fn name(&self) -> Option<&str> {
        self.part.text(self.key).map(String::as_str)
    }
}

/// Everywhere that a listener names a pool, its routes included.
fn references(part: &Part) -> Vec<Reference<'_>> {
    let owner = label("listener", part, &listener::NAME);
    let mut found = vec![Reference { part, key: &listener::POOL, owner: owner.clone() }];
    for (n, one) in part.parts(&listener::ROUTE).iter().enumerate() {
        let owner = format!("route {} of {owner}", quote(&crate::build::route_name(n, one)));
        let mut push = |part, key| found.push(Reference { part, key, owner: owner.clone() });
        push(one, &route::POOL);
        one.parts(&route::SPLIT).iter().for_each(|table| push(table, &split::POOL));
        one.parts(&route::MIRROR).iter().for_each(|table| push(table, &mirror::POOL));
    }
    found.retain(|reference| reference.name().is_some());
    found
}

fn pool_references(listeners: &[Part], pools: &[Part], found: &mut Diagnostics) {
    let names: HashSet<&str> =
        pools.iter().filter_map(|part| part.text(&pool::NAME)).map(String::as_str).collect();
    let mut used = HashSet::new();
    let mut unknown = false;
    for reference in listeners.iter().flat_map(references) {
        let Some(name) = reference.part.text(reference.key) else { continue };
        used.insert(name.as_str());
        // Without any pool, that there is none has been said.
        if !names.contains(name.as_str()) && !pools.is_empty() {
            unknown = true;
            found.push(unknown_pool(&reference, name, &names));
        }
    }
    for part in pools {
        if let Some(name) = part.text(&pool::NAME)
            && !used.contains(name.as_str())
            && !listeners.is_empty()
            && !unknown
        {
            let message = format!("no listener uses pool {}", quote(name));
            let place = part.place_of(&pool::NAME);
            found.push(Diagnostic::warning(Code::UnusedPool, place, part.path.clone(), message));
        }
    }
}

fn unknown_pool(reference: &Reference<'_>, name: &str, names: &HashSet<&str>) -> Diagnostic {
    let message = format!("{} names pool {}, which does not exist", reference.owner, quote(name));
    let (place, path) = (reference.part.place_of(reference.key), reference.part.path_of(reference.key));
    let mut sorted: Vec<&str> = names.iter().copied().collect();
    sorted.sort_unstable();
    Diagnostic::error(Code::UnknownPool, place, path, message).help(
        match nearest(name, sorted.iter().copied()) {
            Some(near) => format!("did you mean {}?", quote(near)),
            None => {
                let shown: Vec<String> = sorted.iter().take(8).map(|name| quote(name)).collect();
                format!("pools: {}", shown.join(", "))
            }
        },
    )
}

/// An address can be listened on once, and `0.0.0.0` takes the port on every IPv4 address (`[::]` on
/// every IPv6 address).
fn binds(listeners: &[Part], found: &mut Diagnostics) {
    let mut exact: HashMap<SocketAddr, (&Part, SocketAddr)> = HashMap::new();
    let mut wildcard: HashMap<(Family, u16), (&Part, SocketAddr)> = HashMap::new();
    let mut any: HashMap<(Family, u16), (&Part, SocketAddr)> = HashMap::new();
    for (part, bind, place) in listeners.iter().flat_map(binds_of) {
        let group = (Family::of(bind.ip()), bind.port());
        let everywhere = bind.ip().is_unspecified();
        let other = exact
            .get(&bind)
            .or_else(|| wildcard.get(&group))
            .or_else(|| any.get(&group).filter(|_| everywhere));
        if let Some((other, taken)) = other {
            found.push(bind_conflict((part, &listener::BIND), bind, place, other, *taken));
        }
        exact.entry(bind).or_insert((part, bind));
        any.entry(group).or_insert((part, bind));
        if everywhere {
            wildcard.entry(group).or_insert((part, bind));
        }
    }
}

fn admin_bind(root: &Part, listeners: &[Part], found: &mut Diagnostics) {
    let Some(part) = root.parts(&top::ADMIN).first() else { return };
    let Some(Ok(AdminListen::Tcp(own))) = part.text(&admin::LISTEN).map(|text| parse_admin(text)) else {
        return;
    };
    let collides = |bind: SocketAddr| {
        let same_family = bind.is_ipv4() == own.is_ipv4();
        bind.port() == own.port() && (bind.ip() == own.ip() || (bind.ip().is_unspecified() && same_family))
    };
    if let Some((other, taken, _)) = listeners.iter().flat_map(binds_of).find(|(_, bind, _)| collides(*bind))
    {
        found.push(bind_conflict((part, &admin::LISTEN), own, part.place_of(&admin::LISTEN), other, taken));
    }
}

fn binds_of(part: &Part) -> impl Iterator<Item = (&Part, SocketAddr, &Place)> {
    part.binds(&listener::BIND).into_iter().flatten().map(move |(bind, place)| (part, *bind, place))
}

fn bind_conflict(
    (part, key): (&Part, &Key),
    bind: SocketAddr,
    place: &Place,
    other: &Part,
    taken: SocketAddr,
) -> Diagnostic {
    let owner = label("listener", other, &listener::NAME);
    let message = if taken == bind {
        format!("{bind} is already listened on by {owner}")
    } else {
        format!("{bind} collides with {taken} of {owner}: {} covers every address", wider(bind, taken))
    };
    Diagnostic::error(Code::DuplicateBind, place, part.path_of(key), message)
        .help("give each listener its own port, or name the addresses one by one")
}

fn wider(a: SocketAddr, b: SocketAddr) -> IpAddr {
    if a.ip().is_unspecified() { a.ip() } else { b.ip() }
}

fn limits(root: &Part, listeners: &[Part], found: &mut Diagnostics) {
    let Some(&global) = root.count(&top::MAX_CONNECTIONS) else { return };
    for part in listeners {
        let key = &listener::MAX_CONNECTIONS;
        if let Some(&own) = part.count(key)
            && own > global
        {
            let message = format!(
                "{} may have {} connections, but all together only {}",
                label("listener", part, &listener::NAME),
                show_count(own),
                show_count(global)
            );
            let warning =
                Diagnostic::warning(Code::LimitAboveGlobal, part.place_of(key), part.path_of(key), message);
            found.push(warning.help("raise `max_connections` at the top of the file, or lower this one"));
        }
    }
}

fn duplicate_servers(part: &Part, found: &mut Diagnostics) {
    let mut seen = HashSet::new();
    for one in part.parts(&pool::SERVER) {
        let Some(address) = one.server(&server::ADDRESS) else { continue };
        if !seen.insert(address) {
            let message = format!("server {address} is already in {}", label("pool", part, &pool::NAME));
            let place = one.place_of(&server::ADDRESS);
            let error =
                Diagnostic::error(Code::DuplicateServer, place, one.path_of(&server::ADDRESS), message);
            found.push(error.help("for a larger share of connections use `weight`"));
        }
    }
}

/// A connection has one family at both ends. Names are unknown until resolved, so they fit any.
fn families(part: &Part, found: &mut Diagnostics) {
    let Some(sources) = part.sources(&pool::SOURCES) else { return };
    let servers = part.parts(&pool::SERVER);
    for one in servers {
        if let Some(HostPort::Ip(addr)) = one.server(&server::ADDRESS)
            && !sources.has_family(Family::of(addr.ip()))
        {
            let family = Family::of(addr.ip());
            let message = format!("server {addr} is {family}, but no source of the pool is");
            let place = one.place_of(&server::ADDRESS);
            let error =
                Diagnostic::error(Code::FamilyMismatch, place, one.path_of(&server::ADDRESS), message);
            found
                .push(error.help(format!("add an {family} source, or move the server to a pool of its own")));
        }
    }
    let served = |family: Family| {
        servers.iter().any(|one| match one.server(&server::ADDRESS) {
            Some(HostPort::Ip(addr)) => Family::of(addr.ip()) == family,
            Some(HostPort::Name { .. }) | None => true,
        })
    };
    for family in sources.families().filter(|family| !served(*family)) {
        if servers.is_empty() {
            return;
        }
        let message = format!("the pool has {family} sources, but no {family} server to connect to");
        let place = part.place_of(&pool::SOURCES);
        let error = Diagnostic::error(Code::FamilyMismatch, place, part.path_of(&pool::SOURCES), message);
        found.push(error.help(format!("remove the {family} sources, or add an {family} server")));
    }
}

fn weights(part: &Part, found: &mut Diagnostics) {
    let servers = part.parts(&pool::SERVER);
    if !servers.is_empty() && servers.iter().all(|one| one.count(&server::WEIGHT) == Some(&0)) {
        let message = format!(
            "every server of {} has weight 0: it takes no connections",
            label("pool", part, &pool::NAME)
        );
        let warning = Diagnostic::warning(Code::NoWeight, &part.place, part.path.clone(), message);
        found.push(warning.help("give at least one server a weight of 1 or more"));
    }
}

fn backoff(part: &Part, found: &mut Diagnostics) {
    let (Some(&first), Some(&max)) = (part.ms(&pool::RETRY_BACKOFF), part.ms(&pool::RETRY_BACKOFF_MAX))
    else {
        return;
    };
    if first > max {
        let message = format!(
            "`retry_backoff` is {}, longer than `retry_backoff_max`, {}",
            show_duration(first),
            show_duration(max)
        );
        let place = part.place_of(&pool::RETRY_BACKOFF);
        let error = Diagnostic::error(Code::BackoffOrder, place, part.path_of(&pool::RETRY_BACKOFF), message);
        found.push(error.help("the first pause must not exceed the longest one"));
    }
}

/// The first port that needs no privilege to be bound.
const UNPRIVILEGED_PORT: u16 = 1_024;

/// Early means bind(), which needs an address to bind to.
fn early_ports(part: &Part, found: &mut Diagnostics) {
    if part.choice(&pool::PORT_MODE) == Some(PortMode::Early) && !part.was_written(&pool::SOURCES) {
        let key = &pool::PORT_MODE;
        let message =
            "`port_mode` = \"early\" binds ports on named addresses, but the pool names no `sources`";
        let error = Diagnostic::error(Code::MissingKey, part.place_of(key), part.path_of(key), message);
        found.push(error.help("add sources = [\"…\"] with addresses of this machine"));
    }
    if let Some(span) = part.ports(&pool::PORTS)
        && span.first() < UNPRIVILEGED_PORT
    {
        let key = &pool::PORTS;
        let message = format!("ports below {UNPRIVILEGED_PORT} need the capability CAP_NET_BIND_SERVICE");
        let warning =
            Diagnostic::warning(Code::PrivilegedPorts, part.place_of(key), part.path_of(key), message);
        found.push(warning.help("begin the span at 1024 or above"));
    }
}

/// A listener that connects to itself takes connections until something runs out.
fn loops(listeners: &[Part], pools: &[Part], found: &mut Diagnostics) {
    let by_name: HashMap<&str, &Part> =
        pools.iter().filter_map(|part| Some((part.text(&pool::NAME)?.as_str(), part))).collect();
    for part in listeners {
        // A pool that several routes use is looked at once.
        let names: HashSet<String> =
            references(part).iter().filter_map(|one| one.name().map(str::to_owned)).collect();
        let targets = names.iter().filter_map(|name| by_name.get(name.as_str()));
        for one in targets.flat_map(|target| target.parts(&pool::SERVER)) {
            if let Some(HostPort::Ip(addr)) = one.server(&server::ADDRESS)
                && binds_of(part).any(|(_, bind, _)| reaches(*addr, bind))
            {
                let owner = label("listener", part, &listener::NAME);
                let message =
                    format!("server {addr} is {owner} itself, which would connect to itself for ever");
                let place = one.place_of(&server::ADDRESS);
                found.push(Diagnostic::error(Code::Loop, place, one.path_of(&server::ADDRESS), message));
            }
        }
    }
}

fn reaches(addr: SocketAddr, bind: SocketAddr) -> bool {
    let everywhere = bind.ip().is_unspecified()
        && addr.ip().is_loopback()
        && Family::of(addr.ip()) == Family::of(bind.ip());
    addr.port() == bind.port() && (addr.ip() == bind.ip() || everywhere)
}

fn tuples(pools: &[Part], found: &mut Diagnostics) {
    let views: Vec<SpaceView<'_>> = pools.iter().filter_map(SpaceView::of_part).collect();
    for collision in spaces::collisions(&views) {
        found.push(collision);
    }
}
