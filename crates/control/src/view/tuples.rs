use crate::Instance;
use crate::headroom::{Gauge, Sample, SourceSample, fill_of};
use fourfold_api::v1::{Destination, Fill, Headroom, PinMode, Source, Tuples, TuplesQuery};
use fourfold_base::Millis;
use fourfold_ports::{Space, Usage};
use fourfold_proxy::{Pin, Shared, Target};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Sources that are shown though they were never used. A prefix has more than anybody reads.
const UNUSED_SHOWN_MAX: u64 = 256;

/// A space and who uses it.
struct View {
    destination: SocketAddr,
    space: Arc<Space>,
    pools: Vec<String>,
    mode: PinMode,
}

/// Spaces that lead somewhere, or hold connections that are left of a server's former address.
fn views(shared: &Shared) -> Vec<View> {
    let mut users: HashMap<usize, (Vec<String>, PinMode)> = HashMap::new();
    for (plan, state) in shared.plan.pools.iter().zip(&shared.pools) {
        for target in state.servers.iter().filter_map(fourfold_proxy::ServerState::target) {
            let (pools, mode) = users.entry(key(&target.space)).or_insert((Vec::new(), PinMode::Kernel));
            if pools.last() != Some(&plan.name) {
                pools.push(plan.name.clone());
            }
            *mode = mode_of(&target);
        }
    }
    let view = |(destination, space): (SocketAddr, Arc<Space>)| {
        let used = space.headroom().used > 0;
        let (pools, mode) = match users.remove(&key(&space)) {
            Some(known) => known,
            None if used => (Vec::new(), PinMode::Kernel),
            None => return None,
        };
        Some(View { destination, space, pools, mode })
    };
    shared.spaces().into_iter().filter_map(view).collect()
}

fn mode_of(target: &Target) -> PinMode {
    match target.pin {
        Pin::Late => PinMode::Late,
        Pin::Early => PinMode::Early,
        Pin::None => PinMode::Kernel,
    }
}

/// A space never moves.
fn key(space: &Arc<Space>) -> usize {
    Arc::as_ptr(space) as usize
}

fn room(room: &fourfold_ports::Headroom) -> Headroom {
    let fourfold_ports::Headroom { total, used, free, quarantined, foreign } = *room;
    Headroom { total, used, free, quarantined, foreign }
}

/// What has rested long enough is free first: idle shards have no reason to look.
pub(crate) fn samples(shared: &Shared, now: Millis) -> Vec<Sample> {
    shared.spaces().iter().for_each(|(_, space)| space.handle_timeout(now));
    views(shared).iter().map(sample).collect()
}

fn sample(view: &View) -> Sample {
    let source = |usage: Usage| SourceSample {
        index: usage.source_index,
        address: address(view, usage.source_index, usage.sources),
        headroom: room(&usage.headroom),
        leases: usage.leases,
    };
    Sample {
        key: key(&view.space),
        destination: view.destination,
        pools: view.pools.clone(),
        headroom: room(&view.space.headroom()),
        sources: view.space.by_source().into_iter().map(source).collect(),
    }
}

fn address(view: &View, index: u64, sources: u64) -> Option<std::net::IpAddr> {
    if sources == 1 { view.space.source_address(index) } else { None }
}

pub(crate) fn tuples(instance: &Instance, query: &TuplesQuery) -> Tuples {
    let views = views(&instance.shared);
    let wanted = |view: &&View| {
        query.pool.as_ref().is_none_or(|pool| view.pools.contains(pool))
            && query.destination.is_none_or(|address| view.destination == address)
    };
    let gauge = instance.gauge();
    let mut destinations: Vec<Destination> =
        views.iter().filter(wanted).map(|view| destination(view, &gauge)).collect();
    destinations.retain(|one| one.state >= query.at_least.unwrap_or(Fill::Ok));
    Tuples { destinations }
}

fn destination(view: &View, gauge: &Gauge) -> Destination {
    let (key, headroom) = (key(&view.space), room(&view.space.headroom()));
    let mut sources: Vec<Source> =
        view.space.by_source().iter().map(|usage| source(view, usage, gauge)).collect();
    let all = u64::try_from(view.space.sources().len()).unwrap_or(u64::MAX);
    // Those that follow the last one used have all their ports.
    for index in sources.len() as u64..all.min(UNUSED_SHOWN_MAX) {
        let ports = u64::from(view.space.ports_per_source());
        let unused = Headroom { total: ports, free: ports, ..Headroom::default() };
        sources.push(Source {
            address: address(view, index, 1),
            sources: 1,
            headroom: unused,
            flow: gauge.flow(key, Some(index), ports),
            state: Fill::Ok,
        });
    }
    Destination {
        address: view.destination,
        pools: view.pools.clone(),
        mode: view.mode,
        ports: view.space.span().to_string(),
        headroom,
        flow: gauge.flow(key, None, headroom.free),
        state: gauge.state(key, &headroom),
        sources,
    }
}

fn source(view: &View, usage: &Usage, gauge: &Gauge) -> Source {
    let headroom = room(&usage.headroom);
    let flow = gauge.flow(key(&view.space), Some(usage.source_index), headroom.free);
    Source {
        address: address(view, usage.source_index, usage.sources),
        sources: usage.sources,
        headroom,
        flow,
        state: fill_of(&headroom, &flow),
    }
}
