//! The machine's facts, in the form in which they are judged.

use fourfold_config::{HostPort, Plan, Pool};
use fourfold_doctor::{
    Bound, Conntrack, Fact, Facts, Held, Interface, Memory, Nofile, PairMemory, SETTINGS, Sockets, Usable,
};
use fourfold_engine::{Engine, choose_engine};
use fourfold_sys::facts::{self, cgroup, network};
use fourfold_sys::{diag, machine};
use std::net::SocketAddr;

/// How much may be done to know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Only files are read.
    Glance,
    /// A connection is made to see whether it is tracked, and everybody's are listed.
    Thorough,
}

pub fn facts(plan: Option<&Plan>, depth: Depth) -> Facts {
    let memory = cgroup::memory();
    let setting = |name: &str| (name.to_owned(), facts::setting(name).into());
    Facts {
        kernel: Fact::Known(machine::kernel()),
        processors: Fact::Known(machine::processors() as u64),
        settings: SETTINGS.iter().map(|one| setting(one.name)).collect(),
        counters: network::counters().unwrap_or_default(),
        first_network: Fact::Known(network::is_first()),
        nofile: facts::nofile().map(|(soft, hard)| Nofile { soft, hard }).into(),
        files_open: facts::files_open().into(),
        private_tables: facts::private_tables().into(),
        unit: facts::unit().into(),
        memory: facts::memory()
            .map(|(total_bytes, available_bytes)| Memory { total_bytes, available_bytes })
            .into(),
        pair: pair(&memory).into(),
        cgroup_memory: memory.map(bound).into(),
        cgroup_pids: cgroup::pids().map(bound).into(),
        sockets: network::sockets()
            .map(|(tcp_pages, orphans, time_wait)| Sockets { tcp_pages, orphans, time_wait })
            .into(),
        conntrack: conntrack(depth).into(),
        neighbours: network::neighbours().into(),
        interfaces: network::interfaces().map(|all| all.into_iter().map(interface).collect()).into(),
        io_uring: Fact::Known(io_uring()),
        seccomp: facts::seccomp().into(),
        capabilities: facts::capabilities().into(),
        btf: Fact::Known(facts::btf()),
        clock_source: facts::clock_source().into(),
        held: plan.filter(|_| depth == Depth::Thorough).map(held).unwrap_or_default(),
    }
}

fn bound(bound: cgroup::Bound) -> Bound {
    Bound { max: bound.max, used: bound.used, file: bound.file }
}

fn interface((name, receive_queues, rps): (String, u64, bool)) -> Interface {
    Interface { name, receive_queues, rps }
}

/// Whether a limit is of version 1 shows in the name of its file.
fn pair(memory: &Result<cgroup::Bound, String>) -> Result<PairMemory, String> {
    let pair = facts::pair_memory()?;
    let one = memory.as_ref().is_ok_and(|bound| bound.file.ends_with("limit_in_bytes"));
    let charged_bytes = pair.charged_bytes - if one { pair.accepted_bytes } else { 0 };
    Ok(PairMemory { bytes: pair.bytes, charged_bytes })
}

/// Flows that are known betray tracking; where there are none, a connection is made to see.
fn conntrack(depth: Depth) -> Result<Conntrack, String> {
    let count = match network::tracked() {
        Ok(count) => count,
        // Without the module there is no such file, and nothing is tracked.
        Err(_) => return Ok(Conntrack { by: None, count: 0 }),
    };
    let tracked = count > 0 || (depth == Depth::Thorough && facts::is_tracked()?);
    let by = tracked.then(|| "connections of this network namespace are tracked".to_owned());
    Ok(Conntrack { by, count })
}

fn io_uring() -> Usable {
    match choose_engine(Some(Engine::Uring)) {
        Ok(_) => Usable { usable: true, why: String::new() },
        Err(why) => Usable { usable: false, why: why.to_string() },
    }
}

/// Tuples of ours that somebody holds already, for each server.
fn held(plan: &Plan) -> Vec<Held> {
    let servers = plan.pools.iter().flat_map(|pool| {
        pool.servers.iter().filter_map(move |server| match server.address {
            HostPort::Ip(address) => Some((pool, address)),
            HostPort::Name { .. } => None,
        })
    });
    servers.filter_map(|(pool, address)| held_towards(pool, address)).collect()
}

fn held_towards(pool: &Pool, address: SocketAddr) -> Option<Held> {
    let (first, last) = pool.ports.map_or_else(machine::local_port_range, |span| (span.first(), span.last()));
    let mut tuples = 0;
    let count = |local: SocketAddr| {
        let ours = pool.sources.contains(local.ip()) && (first..=last).contains(&local.port());
        tuples += u64::from(ours);
    };
    diag::connections_to(&address, count).ok()?;
    (tuples > 0).then(|| Held { server: address.to_string(), tuples })
}
