use crate::Instance;
use crate::kernel::Sample;
use fourfold_api::v1::{Bind, Listener, Listeners, Mode};
use fourfold_proxy::Shared;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;

pub(crate) fn listeners(instance: &Instance) -> Listeners {
    let (shared, machine) = (&instance.shared, instance.machine());
    let one = |(n, plan): (usize, &fourfold_config::Listener)| Listener {
        name: plan.name.clone(),
        mode: match plan.mode {
            fourfold_config::Mode::Tcp => Mode::Tcp,
            fourfold_config::Mode::Http => Mode::Http,
        },
        pool: plan.pool.and_then(|pool| Some(shared.plan.pools.get(pool)?.name.clone())),
        connections: connections(shared, n),
        max_connections: plan.max_connections,
        binds: plan.binds.iter().map(|bind| queues(*bind, &machine)).collect(),
    };
    Listeners { listeners: shared.plan.listeners.iter().enumerate().map(one).collect() }
}

pub(super) fn connections(shared: &Shared, listener: usize) -> u64 {
    shared.listener_connections.get(listener).map_or(0, |count| count.load(Relaxed))
}

/// Every shard has a socket of its own at the address.
pub(super) fn queues(address: SocketAddr, machine: &Sample) -> Bind {
    let own = || machine.listening.iter().filter(|one| one.address == address);
    Bind {
        address,
        sockets: own().count() as u32,
        queued: own().map(|one| u64::from(one.queued)).sum(),
        queued_most: own().map(|one| one.queued).max().unwrap_or(0),
        backlog: own().map(|one| one.backlog).min().unwrap_or(0),
        dropped: own().filter_map(|one| one.drops).map(u64::from).sum(),
    }
}
