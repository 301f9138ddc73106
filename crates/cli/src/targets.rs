//! Server names: resolved at the start and again for as long as the program runs. An unresolvable server is down, not fatal.

use fourfold_config::HostPort;
use fourfold_proxy::Shared;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const RESOLVE_AGAIN: Duration = Duration::from_secs(30);
const RESOLVE_RETRY: Duration = Duration::from_secs(2);

/// Keeps every named server's address up to date. Never returns; dropped with the runtime.
pub async fn follow(shared: Arc<Shared>) {
    let named = |(p, pool): (usize, &fourfold_config::Pool)| {
        let names = pool.servers.iter().enumerate().filter_map(move |(s, server)| match &server.address {
            HostPort::Name { host, port } => Some((p, s, host.clone(), *port)),
            HostPort::Ip(_) => None,
        });
        names.collect::<Vec<_>>()
    };
    let names: Vec<_> = shared.plan.pools.iter().enumerate().flat_map(named).collect();
    if names.is_empty() {
        return;
    }
    let mut known: Vec<Option<SocketAddr>> = vec![None; names.len()];
    loop {
        let mut all = true;
        for ((pool, server, host, port), known) in names.iter().zip(&mut known) {
            let found = resolve(host, *port).await;
            all &= found.is_ok();
            match found {
                Ok(addresses) if known.is_some_and(|known| addresses.contains(&known)) => {}
                Ok(addresses) => announce(&shared, (*pool, *server), host, addresses.first().copied(), known),
                // A name server that does not answer is no reason to forget where a server was.
                Err(why) if known.is_some() => {
                    tracing::warn!(server = %host, "{why}; keeping its last address")
                }
                Err(why) => {
                    tracing::warn!(server = %host, "{why}; the server is down until its name resolves")
                }
            }
        }
        tokio::time::sleep(if all { RESOLVE_AGAIN } else { RESOLVE_RETRY }).await;
    }
}

pub async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| format!("cannot resolve {host}: {error}"))?
        .collect();
    if found.is_empty() { Err(format!("{host} has no address")) } else { Ok(found) }
}

fn announce(
    shared: &Shared,
    (pool, server): (usize, usize),
    host: &str,
    address: Option<SocketAddr>,
    known: &mut Option<SocketAddr>,
) {
    match shared.set_target(pool, server, address) {
        Ok(()) => {
            *known = address;
            if let Some(address) = address {
                tracing::info!(server = %host, %address, "resolved");
            }
        }
        Err(error) => tracing::warn!(server = %host, "{error}"),
    }
}
