//! How many shards, on what engine, and their threads.

use crate::{App, EpollNet, Mailbox, Net, Sender, UringNet, mailbox};
use fourfold_base::tables::{SHARDS_MAX, Tables, share};
use fourfold_sys::bpf::{self, Kernel, Splicer};
use fourfold_sys::buffers::{BUFFER_BYTES, POOL_BUFFERS_MAX};
use fourfold_sys::epoll::Waker;
use fourfold_sys::socket::{self, Step};
use fourfold_sys::uring::{Ring, Unavailable};
use fourfold_sys::{Errno, descriptors, machine, signals};
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    Uring,
    Epoll,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Engine::Uring { "uring" } else { "epoll" })
    }
}

/// The engine for `wanted` (`None`: the best that works here), and one line that says why.
pub fn choose_engine(wanted: Option<Engine>) -> Result<(Engine, String), Unavailable> {
    if wanted == Some(Engine::Epoll) {
        return Ok((Engine::Epoll, "asked for".into()));
    }
    match (Ring::new(64, 32), wanted) {
        (Ok(_), Some(_)) => Ok((Engine::Uring, "asked for".into())),
        (Ok(_), None) => Ok((Engine::Uring, "io_uring works here".into())),
        (Err(missing), Some(_)) => Err(missing),
        (Err(missing), None) => Ok((
            Engine::Epoll,
            format!(
                "io_uring is not available ({missing}), which costs some CPU per request; it needs Linux 6.11, \
                 kernel.io_uring_disabled=0 and a seccomp profile that allows it"
            ),
        )),
    }
}

/// What the machine allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// RLIMIT_NOFILE: descriptors in one table.
    pub descriptors: u64,
    /// Each shard can have a table of its own. On io_uring it always has.
    pub private_tables: bool,
    pub processors: usize,
    pub memory_bytes: u64,
}

impl Limits {
    /// Raises the soft descriptor limit and looks around.
    pub fn of_this_machine() -> Result<Self, Errno> {
        let private = thread::spawn(|| descriptors::private_table(&[])).join();
        Ok(Self {
            descriptors: descriptors::raise_limit()?,
            private_tables: matches!(private, Ok(Ok(()))),
            processors: machine::processors(),
            memory_bytes: machine::memory_bytes(),
        })
    }
}

/// What a program wants to hold.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// `None`: as many as one shard per processor can.
    pub connections: Option<u64>,
    /// `None`: derived.
    pub shards: Option<usize>,
    /// Sockets that one connection accepts and makes.
    pub accepts: u32,
    pub connects: u32,
    pub listeners: usize,
}

/// How the demand is met. Descriptor limits bound a table, and each shard has its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardPlan {
    pub engine: Engine,
    pub shards: usize,
    pub private_tables: bool,
    /// All shards together.
    pub connections: u64,
    /// The most that one shard takes; more than its share, since the kernel spreads connections by hash.
    pub connections_per_shard: u64,
    pub accept_slots: u32,
    pub connect_slots: u32,
    pub buffers_per_shard: usize,
    /// One line for the log.
    pub reason: String,
}

impl ShardPlan {
    /// With so much memory for the buffers of all shards instead of a part of the machine's.
    #[must_use]
    pub fn with_buffer_memory(self, bytes: u64) -> Self {
        Self { buffers_per_shard: buffers_per_shard(bytes, self.shards), ..self }
    }
}

fn buffers_per_shard(bytes: u64, shards: usize) -> usize {
    let buffers = bytes / BUFFER_BYTES as u64 / shards.max(1) as u64;
    usize::try_from(buffers).unwrap_or(usize::MAX).clamp(BUFFERS_PER_SHARD_MIN, POOL_BUFFERS_MAX)
}

/// Of the machine's memory, the most that buffers of all shards may take: one part in this many.
const BUFFER_MEMORY_SHARE: u64 = 8;
/// What an idle socket costs in kernel and user memory, rounded up; bounds what is held when nobody says how much.
const SOCKET_MEMORY_BYTES: u64 = 5 * 1024;
const BUFFERS_PER_SHARD_MIN: usize = 64;

/// The arithmetic; nothing is read from the machine here.
pub fn plan_shards(engine: Engine, demand: &Demand, limits: &Limits) -> Result<ShardPlan, String> {
    let Limits { descriptors, processors, memory_bytes, .. } = *limits;
    let private_tables = engine == Engine::Uring || limits.private_tables;
    if !private_tables {
        return plan_in_one_table(demand, limits);
    }
    let descriptor_limit = descriptors;
    let sockets = u64::from(demand.accepts + demand.connects).max(1);
    let tables = Tables { descriptors, sockets, listeners: demand.listeners as u64 };
    let margin = tables.margin();
    let most = |shards: usize| tables.most(shards);
    if most(1) == 0 {
        return Err(format!(
            "the descriptor limit of {descriptor_limit} leaves no room for connections: raise it (ulimit -n, systemd LimitNOFILE=)"
        ));
    }
    let by_memory = memory_bytes / (sockets * SOCKET_MEMORY_BYTES);
    let natural = demand.shards.unwrap_or(processors);
    let wanted = demand.connections.unwrap_or((most(natural) * natural as u64).min(by_memory).max(1));
    let shards = match demand.connections {
        None => natural,
        Some(_) => {
            let Some(needed) = tables.shards_for(wanted) else {
                return Err(format!(
                    "{wanted} connections need more than {SHARDS_MAX} shards under a descriptor limit of {descriptor_limit}: raise the limit (ulimit -n, systemd LimitNOFILE=) or lower max_connections"
                ));
            };
            match demand.shards {
                Some(shards) if shards < needed => {
                    return Err(format!(
                        "{shards} shards hold {} connections under a descriptor limit of {descriptor_limit}; {wanted} need {needed} shards: leave `shards` out, or raise the limit",
                        most(shards) * shards as u64
                    ));
                }
                Some(shards) => shards,
                None => needed.max(processors),
            }
        }
    };
    let per_shard = if shards == 1 { wanted } else { share(wanted, shards as u64).min(most(shards)) };
    let reason = match (demand.shards, shards > processors) {
        (Some(_), _) => format!("{shards} shards asked for"),
        (None, true) => format!(
            "{shards} shards: {wanted} connections of {sockets} sockets under a limit of {descriptor_limit} descriptors per table"
        ),
        (None, false) => format!("{shards} shards: one per processor"),
    };
    Ok(ShardPlan {
        engine,
        shards,
        private_tables,
        connections: wanted,
        connections_per_shard: per_shard,
        accept_slots: slots(per_shard, demand.accepts, margin),
        connect_slots: slots(per_shard, demand.connects, 0),
        buffers_per_shard: buffers_per_shard(memory_bytes / BUFFER_MEMORY_SHARE, shards),
        reason,
    })
}

/// All shards share the process's table: more shards do not hold more.
fn plan_in_one_table(demand: &Demand, limits: &Limits) -> Result<ShardPlan, String> {
    let shards = demand.shards.unwrap_or(limits.processors);
    let each = Limits { descriptors: limits.descriptors / shards as u64, private_tables: true, ..*limits };
    let demand = Demand { shards: Some(shards), ..*demand };
    let lost = "close_range(CLOSE_RANGE_UNSHARE) is not allowed here (Linux 5.9, or the seccomp profile), so that all shards share \
                one limit";
    let plan = plan_shards(Engine::Epoll, &demand, &each).map_err(|why| format!("{why}; {lost}"))?;
    let reason = format!("{}; {lost} of {} descriptors", plan.reason, limits.descriptors);
    Ok(ShardPlan { private_tables: false, reason, ..plan })
}

fn slots(connections: u64, per_connection: u32, margin: u64) -> u32 {
    if per_connection == 0 { 0 } else { (connections * u64::from(per_connection) + margin) as u32 }
}

/// What a shard is to listen on.
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    pub address: SocketAddr,
    pub backlog: u32,
}

/// A running shard.
pub struct Shard<A, M> {
    pub sender: Sender<M>,
    pub thread: JoinHandle<Result<A, Errno>>,
}

/// Why nothing was started.
#[derive(Debug)]
pub enum SpawnError {
    Listen { address: SocketAddr, step: Step, errno: Errno },
    Uring(Unavailable),
    Shard { what: &'static str, errno: Errno },
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen { address, errno: Errno::EADDRINUSE, .. } => {
                write!(
                    f,
                    "cannot listen on {address}: another program does (ss -ltnp sport = :{})",
                    address.port()
                )
            }
            Self::Listen { address, errno: Errno::EADDRNOTAVAIL, .. } => {
                write!(f, "cannot listen on {address}: this machine does not have that address (ip address)")
            }
            Self::Listen { address, errno: Errno::EACCES, .. } => write!(
                f,
                "cannot listen on {address}: ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE"
            ),
            Self::Listen { address, errno, .. } => write!(f, "cannot listen on {address}: {errno}"),
            Self::Uring(missing) => write!(f, "io_uring cannot be used ({missing}): use --engine epoll"),
            Self::Shard { what, errno } => write!(f, "cannot start a shard: {what}: {errno}"),
        }
    }
}

impl std::error::Error for SpawnError {}

/// How long an address may still be in use: the kernel takes the rings of a program that was killed apart after the program is
/// gone (`io_ring_exit_work()`), and until then its listeners stay.
const LISTEN_PATIENCE: Duration = Duration::from_secs(2);
const LISTEN_RETRY: Duration = Duration::from_millis(20);

fn await_address(address: &SocketAddr) -> Result<(), SpawnError> {
    let began = Instant::now();
    loop {
        match socket::listen_probe(address) {
            Err((_, Errno::EADDRINUSE)) if began.elapsed() < LISTEN_PATIENCE => thread::sleep(LISTEN_RETRY),
            Err((step, errno)) => return Err(SpawnError::Listen { address: *address, step, errno }),
            Ok(()) => return Ok(()),
        }
    }
}

/// Starts all shards or none. Listeners of all shards are open before the first connection is accepted. `kernel`: that carries
/// tunnels, if it does.
pub fn spawn<A, M>(
    plan: &ShardPlan,
    listen: &[Listen],
    kernel: Option<&Arc<Kernel>>,
    mut make: impl FnMut(usize) -> A,
) -> Result<Vec<Shard<A, M>>, SpawnError>
where
    A: App<EpollNet, Mail = M> + App<UringNet, Mail = M> + Send + 'static,
    M: Send + 'static,
{
    listen.iter().try_for_each(|listen| await_address(&listen.address))?;
    let mut sets = Vec::with_capacity(plan.shards);
    for _ in 0..plan.shards {
        let open = |Listen { address, backlog, .. }: &Listen| {
            let failed = |(step, errno)| SpawnError::Listen { address: *address, step, errno };
            socket::listen(address, *backlog).map_err(failed)
        };
        sets.push(listen.iter().map(open).collect::<Result<Vec<OwnedFd>, _>>()?);
    }
    let (report, reports) = mpsc::channel();
    let mut gates = Vec::new();
    let mut shards = Vec::new();
    let mut originals = Vec::new();
    // A shard wakes others by their descriptors' numbers, which must mean the same in its own table: all of them are made
    // before the first table parts.
    let mailboxes = (0..plan.shards).map(|_| mailbox()).collect::<Result<Vec<_>, _>>();
    let mailboxes = mailboxes.map_err(|errno| SpawnError::Shard { what: "waker", errno })?;
    let wakers: Vec<RawFd> = mailboxes.iter().map(|(_, mailbox)| mailbox.waker().as_raw_fd()).collect();
    for (index, (set, (sender, mailbox))) in sets.into_iter().zip(mailboxes).enumerate() {
        let listeners = match plan.engine {
            Engine::Epoll if plan.private_tables => {
                let numbers = set.iter().map(AsRawFd::as_raw_fd).collect();
                originals.push(set);
                Listeners::Copied { listeners: numbers, wakers: wakers.clone() }
            }
            Engine::Uring | Engine::Epoll => Listeners::Moved(set),
        };
        let (gate, opens) = mpsc::channel::<()>();
        let (plan, report) = (plan.clone(), report.clone());
        let start = Start { plan, listeners, mailbox, report, opens, kernel: kernel.map(Arc::clone) };
        let app = make(index);
        let thread = thread::Builder::new()
            .name(format!("shard-{index}"))
            .stack_size(512 * 1024)
            .spawn(move || start.run(app))
            .map_err(|error| SpawnError::Shard { what: "thread", errno: error.into() })?;
        gates.push(gate);
        shards.push(Shard { sender, thread });
    }
    drop(report);
    for _ in 0..plan.shards {
        // A closed channel means that a thread died before it could say why.
        reports.recv().unwrap_or(Err(SpawnError::Shard { what: "thread", errno: Errno::ECANCELED }))?;
    }
    drop(originals);
    for gate in &gates {
        let _ = gate.send(());
    }
    Ok(shards)
}

enum Listeners {
    /// Descriptors of the process's table.
    Moved(Vec<OwnedFd>),
    /// Numbers that the shard's private table will hold copies of; and the wakers of all shards, likewise.
    Copied { listeners: Vec<RawFd>, wakers: Vec<RawFd> },
}

struct Start<M> {
    plan: ShardPlan,
    listeners: Listeners,
    mailbox: Mailbox<M>,
    report: mpsc::Sender<Result<(), SpawnError>>,
    opens: mpsc::Receiver<()>,
    kernel: Option<Arc<Kernel>>,
}

impl<M: Send> Start<M> {
    fn run<A>(self, app: A) -> Result<A, Errno>
    where
        A: App<EpollNet, Mail = M> + App<UringNet, Mail = M>,
    {
        let Self { plan, listeners, mailbox, report, opens, kernel } = self;
        signals::block_in_this_thread();
        let waker = mailbox.waker().clone();
        match plan.engine {
            Engine::Epoll => {
                let mut net = private_epoll(&plan, listeners, waker);
                if let (Ok(net), Some(splicer)) = (&mut net, kernel.and_then(splicer)) {
                    net.set_splicer(splicer).unwrap_or_else(|errno| not_spliced(&errno));
                }
                serve(net, app, &mailbox, report, opens)
            }
            Engine::Uring => {
                let Listeners::Moved(listeners) = listeners else { return Err(Errno::EINVAL) };
                let (accepts, connects) = (plan.accept_slots, plan.connect_slots);
                let mut net = UringNet::new(listeners, waker, accepts, connects, plan.buffers_per_shard)
                    .map_err(SpawnError::Uring);
                if let (Ok(net), Some(splicer)) = (&mut net, kernel.and_then(splicer)) {
                    net.set_splicer(splicer);
                }
                serve(net, app, &mailbox, report, opens)
            }
        }
    }
}

/// In this thread's table of descriptors.
fn splicer(kernel: Arc<Kernel>) -> Option<Splicer> {
    Splicer::new(&kernel, bpf::TUNNELS_MAX).inspect_err(|why| not_spliced(why)).ok()
}

fn not_spliced(why: &dyn fmt::Display) {
    tracing::warn!("this shard copies all tunnels: {why}");
}

fn private_epoll(plan: &ShardPlan, listeners: Listeners, waker: Waker) -> Result<EpollNet, SpawnError> {
    let failed = |what| move |errno| SpawnError::Shard { what, errno };
    let listeners = match listeners {
        Listeners::Moved(listeners) => listeners,
        Listeners::Copied { listeners: numbers, wakers } => {
            let keep: Vec<RawFd> = numbers.iter().copied().chain(wakers).collect();
            descriptors::private_table(&keep)
                .map_err(failed("a descriptor table of its own (close_range)"))?;
            numbers.into_iter().map(descriptors::own).collect()
        }
    };
    let sockets = (plan.accept_slots + plan.connect_slots) as usize;
    EpollNet::new(listeners, waker, sockets, plan.buffers_per_shard).map_err(failed("epoll"))
}

fn serve<N: Net, A: App<N>>(
    net: Result<N, SpawnError>,
    mut app: A,
    mailbox: &Mailbox<A::Mail>,
    report: mpsc::Sender<Result<(), SpawnError>>,
    opens: mpsc::Receiver<()>,
) -> Result<A, Errno> {
    let mut net = match net {
        Ok(net) => net,
        Err(error) => {
            let _ = report.send(Err(error));
            return Err(Errno::ECANCELED);
        }
    };
    let _ = report.send(Ok(()));
    drop(report);
    // The gate opens once every shard is ready; if one is not, it closes and nobody starts.
    opens.recv().map_err(|_| Errno::ECANCELED)?;
    run_app(&mut net, &mut app, mailbox)?;
    Ok(app)
}

/// Runs `app` until it is finished.
pub fn run_app<N: Net, A: App<N>>(net: &mut N, app: &mut A, mailbox: &Mailbox<A::Mail>) -> Result<(), Errno> {
    app.start(net);
    while !app.is_finished() {
        net.turn(app.poll_timeout(), app)?;
        while let Some(mail) = mailbox.take() {
            app.on_mail(net, mail);
        }
        app.on_turn(net);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: Demand = Demand { connections: None, shards: None, accepts: 1, connects: 1, listeners: 1 };

    fn limits(descriptors: u64) -> Limits {
        Limits { descriptors, private_tables: true, processors: 2, memory_bytes: 24 << 30 }
    }

    #[test]
    fn one_table_for_all_holds_as_much_as_one() {
        let limits = Limits { private_tables: false, ..limits(20_000) };
        let plan = plan_shards(Engine::Epoll, &PROXY, &limits).unwrap();
        assert!((9_000..10_000).contains(&plan.connections) && !plan.private_tables, "{plan:?}");
        let big = Demand { connections: Some(120_000), ..PROXY };
        assert!(plan_shards(Engine::Epoll, &big, &limits).unwrap_err().contains("close_range"));
        assert!(plan_shards(Engine::Uring, &big, &limits).is_ok());
    }

    #[test]
    fn shards_follow_from_connections_and_the_descriptor_limit() {
        let plan = |connections, limit| {
            plan_shards(Engine::Uring, &Demand { connections, ..PROXY }, &limits(limit)).unwrap()
        };
        let small = plan(Some(10_000), 20_000);
        assert_eq!((small.shards, small.connections), (2, 10_000));
        let big = plan(Some(120_000), 20_000);
        assert!((13..=14).contains(&big.shards), "{big:?}");
        assert!(u64::from(big.accept_slots + big.connect_slots) <= 20_000);
        assert!(big.connections_per_shard * big.shards as u64 >= 120_000);
        assert_eq!(plan(Some(1_000_000), 4_000_000).shards, 2);
        assert_eq!(plan(None, 20_000).shards, 2);
        let one = Demand { shards: Some(1), ..PROXY };
        let one = plan_shards(Engine::Epoll, &one, &limits(20_000)).unwrap();
        assert_eq!((one.shards, one.connections), (1, one.connections_per_shard));
    }

    #[test]
    fn buffers_share_the_memory_that_they_are_given() {
        let plan = plan_shards(Engine::Uring, &PROXY, &limits(20_000)).unwrap();
        assert_eq!(plan.buffers_per_shard * plan.shards * BUFFER_BYTES, 1 << 30, "as many as can be counted");
        let plan = plan.with_buffer_memory(64 << 20);
        assert_eq!(plan.buffers_per_shard * plan.shards * BUFFER_BYTES, 64 << 20);
        assert_eq!(plan.with_buffer_memory(1).buffers_per_shard, BUFFERS_PER_SHARD_MIN);
    }

    #[test]
    fn refuses_what_cannot_be() {
        let one = Demand { connections: Some(50_000), shards: Some(1), ..PROXY };
        assert!(plan_shards(Engine::Epoll, &one, &limits(20_000)).unwrap_err().contains("need 6 shards"));
        assert!(plan_shards(Engine::Epoll, &PROXY, &limits(100)).is_err());
    }
}
