use crate::Instance;
use fourfold_api::v1::{AvoidedPath, Pool, Pools, Server, ServerState};
use fourfold_base::Millis;
use fourfold_proxy::{Fitness, PoolState, ServerState as Live};
use fourfold_sys::clock::monotonic_ms;
use std::sync::atomic::Ordering::Relaxed;

pub(crate) fn pools(instance: &Instance) -> Pools {
    let (shared, now) = (&instance.shared, monotonic_ms());
    let both = shared.plan.pools.iter().zip(&shared.pools).enumerate();
    let idle = |pool| shared.shards.iter().map(|shard| u64::from(shard.idle(pool))).sum();
    Pools { pools: both.map(|(n, (plan, state))| pool(plan, state, idle(n), now)).collect() }
}

fn pool(plan: &fourfold_config::Pool, state: &PoolState, idle: u64, now: Millis) -> Pool {
    let servers = plan.servers.iter().zip(&state.servers).enumerate();
    let avoided = state.health.avoided(now).into_iter().map(|path| AvoidedPath {
        source: path.source,
        server: path.server.and_then(|index| Some(plan.servers.get(index)?.address.to_string())),
        for_ms: path.until.saturating_sub(now),
    });
    Pool {
        name: plan.name.clone(),
        balance: plan.balance.name().to_owned(),
        waiting: state.waiting.load(Relaxed),
        waiting_max: state.queue_max,
        idle,
        servers: servers.map(|(n, (plan, live))| server(plan, live, state.fitness(n, now))).collect(),
        avoided: avoided.collect(),
    }
}

fn server(plan: &fourfold_config::Server, live: &Live, fitness: Fitness) -> Server {
    let address = live.target().map(|target| target.address);
    let state = match fitness {
        _ if address.is_none() => ServerState::Unresolved,
        Fitness::Up => ServerState::Up,
        Fitness::Down => ServerState::Down,
        Fitness::Ejected => ServerState::Ejected,
        Fitness::BreakerOpen => ServerState::BreakerOpen,
        Fitness::BreakerHalfOpen => ServerState::BreakerHalfOpen,
    };
    Server {
        name: plan.address.to_string(),
        address,
        state,
        weight: plan.weight,
        connections: live.active.load(Relaxed),
        max_connections: plan.max_connections,
        requests: live.requests.load(Relaxed),
        failures: live.failures(),
    }
}
