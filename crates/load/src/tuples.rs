//! Source tuples of a load: the space that its connections lease from, and what a failed attempt says about a tuple.

use crate::StartError;
use fourfold_base::Millis;
use fourfold_engine::{Errno, Local, Step};
use fourfold_ports::{
    Family, Lease, Mode, PortSet, PortSpan, Slice, SourceSet, Space, SpaceConfig, TIME_WAIT_MS,
};
use fourfold_sys::machine;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Where the kernel lets go of a tuple in TIME_WAIT early, it does so a second after the peer's FIN, which comes after our
/// close; older kernels count whole seconds.
const TIME_WAIT_REUSED_MS: Millis = 2000;
/// A tuple held by another socket is mostly the TIME_WAIT of a load that ended just now: worth another try so soon.
const FOREIGN_RECHECK_MS: Millis = TIME_WAIT_REUSED_MS;

/// What the space must suffice for.
pub(crate) struct Wanted<'a> {
    pub target: SocketAddr,
    pub connections: u64,
    pub sources: &'a SourceSet,
    pub span: Option<PortSpan>,
}

/// The tuples towards the target; enough of them.
pub(crate) fn space(config: &Wanted<'_>, mode: Mode, shards: usize) -> Result<Arc<Space>, StartError> {
    let refuse = |error: &dyn fmt::Display| StartError::Config(error.to_string());
    let (first, last) = machine::local_port_range();
    let span = match config.span {
        Some(span) => span,
        None => PortSpan::new(first, last).map_err(|error| refuse(&error))?,
    };
    if mode == Mode::Late && (span.first() < first || span.last() > last) {
        return Err(StartError::Config(format!(
            "ports {span} are not within net.ipv4.ip_local_port_range ({first}-{last}), where the kernel lets a port be pinned late"
        )));
    }
    let spans = machine::reserved_ports().into_iter().filter_map(|(a, b)| PortSpan::new(a, b).ok());
    let space = Space::new(SpaceConfig {
        time_wait_quarantine_ms: time_wait_ms(mode, config.target.ip().is_loopback()),
        foreign_recheck_ms: FOREIGN_RECHECK_MS,
        reserved: if mode == Mode::Late { PortSet::new(spans) } else { PortSet::default() },
        family: Some(Family::of(config.target.ip())),
        shards,
        ..SpaceConfig::new(config.sources.clone(), span, mode)
    })
    .map_err(|error| refuse(&error))?;
    let total = space.headroom().total;
    if total < config.connections {
        return Err(StartError::Config(format!(
            "{} connections to {} need as many source ports; ports {span} of {} source address(es) make {total}: name more --source addresses",
            config.connections,
            config.target,
            space.sources().len(),
        )));
    }
    Ok(space)
}

/// How long a tuple rests that we closed first.
fn time_wait_ms(mode: Mode, loopback: bool) -> Millis {
    let timestamps = machine::sysctl_number("net.ipv4.tcp_timestamps").unwrap_or(1) != 0;
    match (mode, machine::sysctl_number("net.ipv4.tcp_tw_reuse").unwrap_or(0)) {
        _ if !timestamps => TIME_WAIT_MS,
        (Mode::Early, _) => 0,
        (Mode::Late, 1) => TIME_WAIT_REUSED_MS,
        (Mode::Late, 2) if loopback => TIME_WAIT_REUSED_MS,
        (Mode::Late, _) => TIME_WAIT_MS,
    }
}

/// How a connection with this lease is to be bound.
pub(crate) fn local(slice: Option<&Slice>, lease: Option<&Lease>, target: IpAddr) -> Local {
    let (Some(lease), Some(slice)) = (lease, slice) else { return Local::Kernel };
    let (ip, port) = (slice.space().source_address(lease.source_index()), lease.port());
    match (slice.space().mode(), ip) {
        (Mode::Late, ip) => Local::Late { ip, port },
        (Mode::Early, Some(ip)) => Local::Early { ip, port },
        (Mode::Early, None) => Local::Early { ip: any_address(target), port },
    }
}

fn any_address(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Whether a failure means that another socket has this tuple.
pub(crate) fn is_foreign(step: Step, errno: Errno, local: Local) -> bool {
    match (local, step) {
        (Local::Kernel, _) => false,
        (Local::Late { .. }, Step::Connect) => matches!(errno, Errno::EADDRNOTAVAIL | Errno::EADDRINUSE),
        (Local::Early { .. }, Step::Bind) => errno == Errno::EADDRINUSE,
        (Local::Early { .. }, Step::Connect) => errno == Errno::EADDRNOTAVAIL,
        _ => false,
    }
}
