use super::listeners::{connections, queues};
use crate::Instance;
use fourfold_api::v1::{Fill, Limit, Limits};
use fourfold_proxy::Shared;
use fourfold_sys::events::Gauges;
use std::sync::atomic::Ordering::Relaxed;

/// From here on a limit is half reached, nearly reached.
const HALF_PERCENT: u64 = 50;
const NEAR_PERCENT: u64 = 85;

/// Fullest first.
pub(crate) fn limits(instance: &Instance) -> Limits {
    let (shared, machine) = (&instance.shared, instance.machine());
    let mut limits = own(shared);
    limits.extend(kernel(&machine.gauges));
    for (n, address) in shared.plan.binds() {
        let (Some(plan), bind) = (shared.plan.listeners.get(n), queues(address, &machine)) else { continue };
        let of = Some(format!("{} ({address})", plan.name));
        let used = u64::from(bind.queued_most);
        let remedy = "`backlog` of the listener and net.core.somaxconn, or more shards";
        limits.extend(limit("backlog", of, used, u64::from(bind.backlog), "connections", remedy));
    }
    limits.sort_by_key(|limit| std::cmp::Reverse(permille(limit.used, limit.max)));
    Limits { limits }
}

/// What the configuration sets.
fn own(shared: &Shared) -> Vec<Limit> {
    let open = shared.connections.load(Relaxed);
    let mut limits = Vec::new();
    let remedy = "`max_connections` at the top of the configuration";
    limits.extend(limit("max_connections", None, open, shared.connections_max, "connections", remedy));
    for (n, plan) in shared.plan.listeners.iter().enumerate() {
        let (of, max) = (Some(plan.name.clone()), plan.max_connections.unwrap_or(0));
        let remedy = "`max_connections` of the listener";
        limits.extend(limit(
            "listener.max_connections",
            of,
            connections(shared, n),
            max,
            "connections",
            remedy,
        ));
    }
    for (plan, state) in shared.plan.pools.iter().zip(&shared.pools) {
        let waiting = u64::from(state.waiting.load(Relaxed));
        let remedy = "more sources or servers, or `queue_max` of the pool";
        let max = u64::from(state.queue_max);
        limits.extend(limit("pool.queue_max", Some(plan.name.clone()), waiting, max, "clients", remedy));
        for (server, live) in plan.servers.iter().zip(&state.servers) {
            let of = Some(format!("{} {}", plan.name, server.address));
            let (used, max) =
                (u64::from(live.active.load(Relaxed)), u64::from(server.max_connections.unwrap_or(0)));
            let remedy = "`max_connections` of the server, or more servers";
            limits.extend(limit("server.max_connections", of, used, max, "connections", remedy));
        }
    }
    limits
}

/// What the kernel sets, and lets be seen from here.
fn kernel(gauges: &Gauges) -> Vec<Limit> {
    let pressure = gauges.tcp_pages_max.map(|[_, pressure, _]| pressure);
    [
        ("net.ipv4.tcp_max_tw_buckets", gauges.time_wait, gauges.time_wait_max, "sockets", 1),
        ("net.ipv4.tcp_max_orphans", gauges.orphans, gauges.orphans_max, "sockets", 1),
        ("net.ipv4.tcp_mem (pressure)", gauges.tcp_pages, pressure, "pages", 1),
        ("net.netfilter.nf_conntrack_max", gauges.conntrack, gauges.conntrack_max, "entries", 1),
        ("memory.max", gauges.cgroup_bytes, gauges.cgroup_bytes_max, "MiB", 1 << 20),
    ]
    .into_iter()
    .filter_map(|(name, used, max, unit, divisor)| {
        let remedy = match name {
            "memory.max" => "systemd MemoryMax=, docker --memory, Kubernetes limits.memory".to_owned(),
            name => format!("sysctl -w {}=…", name.split(' ').next().unwrap_or(name)),
        };
        limit(name, None, used? / divisor, max? / divisor, unit, &remedy)
    })
    .collect()
}

/// `None`: there is none.
fn limit(name: &str, of: Option<String>, used: u64, max: u64, unit: &str, remedy: &str) -> Option<Limit> {
    let state = match permille(used, max) / 10 {
        _ if used >= max => Fill::Exhausted,
        NEAR_PERCENT.. => Fill::Near,
        HALF_PERCENT.. => Fill::Half,
        _ => Fill::Ok,
    };
    let (name, unit, remedy) = (name.to_owned(), unit.to_owned(), remedy.to_owned());
    (max > 0).then_some(Limit { name, of, used, max, unit, state, remedy })
}

fn permille(used: u64, max: u64) -> u64 {
    (u128::from(used) * 1000 / u128::from(max.max(1))) as u64
}
