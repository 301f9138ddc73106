//! A shard's ways into the access logs of its listeners.

use crate::access::{AccessLog, Format, Queue, Record, Target};
use crate::core::Cx;
use crate::shared::Shared;
use fourfold_config::Plan;
use fourfold_config::http::{AccessFormat, AccessLog as Settings, AccessTarget};
use fourfold_engine::{Local, Net, Sock};
use fourfold_ports::Lease;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A log that listeners share. Its writer is the program's to start.
pub struct SharedLog {
    pub queue: Arc<Queue>,
    pub target: Target,
    settings: Settings,
}

/// One for each target and format.
pub(crate) fn of_plan(plan: &Plan, shards: usize) -> Vec<SharedLog> {
    let mut logs: Vec<SharedLog> = Vec::new();
    for settings in (0..plan.listeners.len()).filter_map(|listener| settings_of(plan, listener)) {
        if logs.iter().all(|log| log.settings != *settings) {
            let format = match settings.format {
                AccessFormat::Json => Format::Json,
                AccessFormat::Combined => Format::Combined,
                AccessFormat::Tcplog => Format::Tcplog,
            };
            let target = match &settings.to {
                AccessTarget::Stdout => Target::Stdout,
                AccessTarget::File(path) => Target::File(path.into()),
                AccessTarget::SyslogUnix(path) => Target::SyslogUnix(path.into()),
                AccessTarget::SyslogUdp(address) => Target::SyslogUdp(*address),
            };
            logs.push(SharedLog { queue: Queue::new(format, shards), target, settings: settings.clone() });
        }
    }
    logs
}

fn settings_of(plan: &Plan, listener: usize) -> Option<&Settings> {
    plan.listeners.get(listener)?.access_log.as_ref()
}

/// Our own end of a connection to a server.
pub(crate) fn source<N: Net>(cx: &mut Cx<'_, N>, path: u32, lease: &Lease, sock: Sock) -> Option<SocketAddr> {
    match cx.core.upstreams.local(path, lease)? {
        Local::Late { ip: Some(ip), port } | Local::Early { ip, port } => Some(SocketAddr::new(ip, port)),
        Local::Late { ip: None, port } => {
            let ip = match cx.core.logs.sources.get(&path) {
                Some(ip) => *ip,
                None => cx.net.local_address(sock).ok()?.ip(),
            };
            cx.core.logs.sources.insert(path, ip);
            Some(SocketAddr::new(ip, port))
        }
        Local::Kernel => None,
    }
}

pub(crate) struct Logs {
    logs: Vec<AccessLog>,
    /// By listener.
    of: Vec<Option<usize>>,
    /// Our own address towards a server where the kernel chooses it, by path: asked for once.
    sources: HashMap<u32, IpAddr>,
    dropped: u64,
}

impl Logs {
    pub fn new(shared: &Shared, shard: usize) -> Self {
        let index = |listener| {
            let settings = settings_of(&shared.plan, listener)?;
            shared.logs.iter().position(|log| log.settings == *settings)
        };
        Self {
            logs: shared.logs.iter().map(|log| AccessLog::new(Arc::clone(&log.queue), shard)).collect(),
            of: (0..shared.plan.listeners.len()).map(index).collect(),
            sources: HashMap::new(),
            dropped: 0,
        }
    }

    fn index(&self, listener: u16) -> Option<usize> {
        self.of.get(usize::from(listener)).copied().flatten()
    }

    pub fn has(&self, listener: u16) -> bool {
        self.index(listener).is_some()
    }

    pub fn write(&mut self, listener: u16, record: &Record<'_>) {
        if let Some(log) = self.index(listener).and_then(|index| self.logs.get_mut(index)) {
            log.write(record);
        }
    }

    /// Once per turn. How many lines have been dropped since the last time.
    pub fn flush(&mut self) -> u64 {
        self.logs.iter_mut().for_each(AccessLog::flush);
        let dropped = self.logs.iter().map(AccessLog::dropped).sum();
        dropped - std::mem::replace(&mut self.dropped, dropped)
    }
}
