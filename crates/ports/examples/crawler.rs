//! A crawler's connections: 100 000 at once from a plain tokio program to one address and port.
//!
//! ```text
//! cargo run --release -p fourfold-ports --example crawler -- --connections 100000
//! ```
//!
//! What a program needs for it is in [`connect`]: lease a tuple, tell the kernel source and port, connect,
//! say on release how it ended. The rest is what it takes to try that on one machine: the listener is
//! here too, so each connection costs two descriptors, and where the limit is lower than that, several
//! workers each get a descriptor table of their own.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use fourfold_ports::{Family, Lease, Mode, PortSet, PortSpan, Release, Slice, SourceSet, Space, SpaceConfig};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::LocalSet;

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Connects in flight per worker; all workers' together stay below the listen backlog.
const IN_FLIGHT: usize = 32;
/// Tuples tried for one connection when others turn out to hold them.
const ATTEMPTS: usize = 8;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
const LISTEN_BACKLOG: u32 = 4096;
/// Descriptors of a worker that are not connections, and room for the kernel's uneven spread of
/// incoming connections over the workers' listeners.
const DESCRIPTORS_SPARE: u64 = 1000;

// ---- what a crawler needs ----

/// Opens one connection from a tuple that nobody else has.
async fn connect(slice: &RefCell<Slice>, to: SocketAddr, clock: Clock) -> Fallible<Connection> {
    for _ in 0..ATTEMPTS {
        let lease = slice.borrow_mut().lease(clock.now_ms())?;
        let source = slice.borrow().space().source_address(lease.source_index());
        match connect_from(source, lease.port(), to).await {
            Ok(stream) => return Ok(Connection { stream, lease }),
            Err(error) => {
                let how = after_failure(&error);
                slice.borrow_mut().release(lease, clock.now_ms(), how);
                if how != Release::Foreign {
                    return Err(error.into());
                }
            }
        }
    }
    Err("other sockets hold all the tuples that were tried".into())
}

/// Late mode: the port is named, but taken only by connect(), so the same source and port can serve
/// other destinations at the same time.
async fn connect_from(source: Option<std::net::IpAddr>, port: u16, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    set_option(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    set_option(&socket, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, u32::from(port) << 16 | u32::from(port))?;
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    // A crawler would close as usual and release with Release::TimeWait. This example resets, so that
    // it leaves no 100 000 sockets in TIME_WAIT behind.
    socket.set_zero_linger()?;
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(to)).await??;
    // Outside of ip_local_port_range the kernel ignores the option without an error.
    if stream.local_addr()?.port() != port {
        return Err(io::Error::other("the kernel chose another port; keep the span in ip_local_port_range"));
    }
    Ok(stream)
}

fn after_failure(error: &io::Error) -> Release {
    match error.raw_os_error() {
        Some(libc::EADDRNOTAVAIL | libc::EADDRINUSE) => Release::Foreign,
        _ => Release::Clean,
    }
}

struct Connection {
    stream: TcpStream,
    lease: Lease,
}

#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn now_ms(self) -> u64 {
        self.0.elapsed().as_millis() as u64
    }
}

/// All tuples from these sources to the destination, with the ports that the kernel lets connect() use.
fn space(options: &Options, to: SocketAddr, shards: usize) -> Fallible<Arc<Space>> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let span = PortSpan::parse(&range.split_whitespace().collect::<Vec<_>>().join("-"))?;
    let reserved = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports")?;
    // The listener is bound to its port, which keeps that port from late binds of every source.
    let reserved = PortSet::parse(&format!("{},{}", reserved.trim(), to.port()))?;
    let config = SpaceConfig {
        reserved,
        shards,
        family: Some(Family::of(to.ip())),
        ..SpaceConfig::new(options.sources.clone(), span, Mode::Late)
    };
    Ok(Space::new(config)?)
}

// ---- what it takes to show it on one machine ----

struct Options {
    connections: u64,
    sources: SourceSet,
    hold: Duration,
    timeout: Duration,
}

/// What the workers and the main thread tell each other. Polled: with a descriptor table of its own, a
/// worker's runtime cannot be woken by another thread, which would write to a descriptor of the same
/// number in its own table.
#[derive(Default)]
struct Shared {
    held: AtomicU64,
    accepted: AtomicU64,
    failed: AtomicU64,
    /// Set when it is time to count the ends that are open.
    count: AtomicBool,
    /// Ends found open, both sides.
    open: AtomicU64,
    workers_counted: AtomicU64,
    close: AtomicBool,
}

#[derive(Clone)]
struct Worker {
    space: Arc<Space>,
    shard: usize,
    connections: u64,
    to: SocketAddr,
    own_descriptors: bool,
    clock: Clock,
    ready: Arc<Barrier>,
    shared: Arc<Shared>,
}

fn main() -> Fallible<()> {
    let options = Options::from_args()?;
    let workers = workers_needed(options.connections, raise_descriptor_limit()?);
    // tokio keeps one process-wide pipe for signals. Opened before the descriptor tables part, it is in
    // all of them under the same number.
    drop(tokio::runtime::Builder::new_current_thread().enable_all().build()?);
    let (_reservation, to) = reserve_port()?;
    let space = space(&options, to, workers)?;
    println!("{} connections to {to} from {}, {workers} workers", options.connections, options.sources);

    let clock = Clock(Instant::now());
    let ready = Arc::new(Barrier::new(workers + 1));
    let shared = Arc::new(Shared::default());
    let threads: Vec<_> = (0..workers as u64)
        .map(|shard| {
            let share = |upto: u64| options.connections * upto / workers as u64;
            let worker = Worker {
                space: Arc::clone(&space),
                shard: shard as usize,
                connections: share(shard + 1) - share(shard),
                to,
                own_descriptors: workers > 1,
                clock,
                ready: Arc::clone(&ready),
                shared: Arc::clone(&shared),
            };
            std::thread::spawn(move || worker.run())
        })
        .collect();

    ready.wait();
    let started = Instant::now();
    let all_up = wait_for_all(&options, &shared, started);
    let took = started.elapsed();
    std::thread::sleep(options.hold);
    shared.count.store(true, Relaxed);
    let deadline = Instant::now() + options.timeout;
    while shared.workers_counted.load(Relaxed) < workers as u64 && Instant::now() < deadline {
        std::thread::sleep(POLL_INTERVAL);
    }
    let (held, open) = (shared.held.load(Relaxed), shared.open.load(Relaxed));
    let headroom = space.headroom();
    println!(
        "held {held} at once ({open} open ends) after {:.1} s, {:.0}/s; {} failed; tuples: {} used of {}, {} foreign",
        took.as_secs_f64(),
        held as f64 / took.as_secs_f64(),
        shared.failed.load(Relaxed),
        headroom.used,
        headroom.total,
        headroom.foreign,
    );
    shared.close.store(true, Relaxed);
    for thread in threads {
        thread.join().map_err(|_| "a worker panicked")??;
    }
    println!("closed; {} tuples in use", space.headroom().used);
    if all_up && held == options.connections && open == 2 * held {
        Ok(())
    } else {
        Err("not all connections were held".into())
    }
}

/// True when every connection is up at both ends before the timeout.
fn wait_for_all(options: &Options, shared: &Shared, started: Instant) -> bool {
    let mut last_line = started;
    loop {
        let [held, accepted, failed] =
            [&shared.held, &shared.accepted, &shared.failed].map(|counter| counter.load(Relaxed));
        if held + failed >= options.connections && accepted >= held {
            return failed == 0;
        }
        if started.elapsed() > options.timeout {
            return false;
        }
        if last_line.elapsed() > Duration::from_secs(1) {
            last_line = Instant::now();
            println!("{held} held, {failed} failed");
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

impl Worker {
    fn run(self) -> Fallible<()> {
        let prepared = self.prepare();
        // Also after a failure, or the others would wait for ever.
        self.ready.wait();
        let result = prepared.and_then(|(runtime, listener)| {
            let work = LocalSet::new();
            runtime.block_on(work.run_until(self.work(listener)))
        });
        if result.is_err() {
            self.shared.failed.fetch_add(self.connections, Relaxed);
            self.shared.workers_counted.fetch_add(1, Relaxed);
        }
        result
    }

    fn prepare(&self) -> Fallible<(tokio::runtime::Runtime, TcpListener)> {
        if self.own_descriptors {
            own_descriptor_table()?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(async { shared_port_socket(self.to)?.listen(LISTEN_BACKLOG) })?;
        Ok((runtime, listener))
    }

    async fn work(&self, listener: TcpListener) -> Fallible<()> {
        let accepted = Rc::new(RefCell::new(Vec::new()));
        let acceptor =
            tokio::task::spawn_local(accept(listener, Rc::clone(&accepted), Arc::clone(&self.shared)));
        let slice = Rc::new(RefCell::new(self.space.slice(self.shard)));
        let held = Rc::new(RefCell::new(Vec::new()));
        let left = Rc::new(Cell::new(self.connections));
        for _ in 0..IN_FLIGHT {
            let worker = self.clone();
            let (slice, held, left) = (Rc::clone(&slice), Rc::clone(&held), Rc::clone(&left));
            tokio::task::spawn_local(async move { worker.open(&slice, &held, &left).await });
        }

        until(&self.shared.count).await;
        let streams = held.borrow().iter().filter(|connection| is_open(&connection.stream)).count()
            + accepted.borrow().iter().filter(|stream| is_open(stream)).count();
        self.shared.open.fetch_add(streams as u64, Relaxed);
        self.shared.workers_counted.fetch_add(1, Relaxed);
        until(&self.shared.close).await;
        left.set(0);
        acceptor.abort();
        for Connection { stream, lease } in held.take() {
            drop(stream);
            slice.borrow_mut().release(lease, self.clock.now_ms(), Release::Clean);
        }
        Ok(())
    }

    async fn open(&self, slice: &RefCell<Slice>, held: &RefCell<Vec<Connection>>, left: &Cell<u64>) {
        while left.get() > 0 {
            left.set(left.get() - 1);
            match connect(slice, self.to, self.clock).await {
                Ok(connection) => {
                    held.borrow_mut().push(connection);
                    self.shared.held.fetch_add(1, Relaxed);
                }
                Err(error) => {
                    if self.shared.failed.fetch_add(1, Relaxed) == 0 {
                        eprintln!("first failure: {error}");
                    }
                }
            }
        }
    }
}

async fn accept(listener: TcpListener, accepted: Rc<RefCell<Vec<TcpStream>>>, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                accepted.borrow_mut().push(stream);
                shared.accepted.fetch_add(1, Relaxed);
            }
            // Out of descriptors: the next one will not fare better at once.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn until(flag: &AtomicBool) {
    while !flag.load(Relaxed) {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Nobody sends anything here, so an open stream has nothing to read and no end.
fn is_open(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// A port for all workers' listeners: bound, never listening, so it gets no connection itself.
fn reserve_port() -> io::Result<(TcpSocket, SocketAddr)> {
    let socket = shared_port_socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}

fn shared_port_socket(at: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.bind(at)?;
    Ok(socket)
}

/// Both ends of each connection are here.
fn workers_needed(connections: u64, descriptors: u64) -> usize {
    let per_worker = descriptors.saturating_sub(DESCRIPTORS_SPARE).max(1);
    (connections * 2).div_ceil(per_worker).max(1) as usize
}

impl Options {
    fn from_args() -> Fallible<Options> {
        let mut options = Options {
            connections: 100_000,
            sources: SourceSet::parse("127.0.0.11-127.0.0.18")?,
            hold: Duration::from_secs(1),
            timeout: Duration::from_secs(120),
        };
        let mut args = std::env::args().skip(1);
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--connections" => options.connections = value.replace('_', "").parse()?,
                "--sources" => options.sources = SourceSet::parse_all(value.split(','))?,
                "--hold" => options.hold = Duration::from_secs(value.parse()?),
                "--timeout" => options.timeout = Duration::from_secs(value.parse()?),
                _ => {
                    return Err(format!(
                        "unknown option {name}; there are --connections N, --sources SET, --hold S, --timeout S"
                    )
                    .into());
                }
            }
        }
        if options.connections > 10_000_000 {
            return Err("--connections: at most 10 million".into());
        }
        Ok(options)
    }
}

/// Since Linux 6.3; from linux/in.h, which the libc crate does not have yet.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

fn set_option(socket: &TcpSocket, level: libc::c_int, name: libc::c_int, value: u32) -> io::Result<()> {
    let size = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the whole call, and the value lives and has this size.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(&value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit of our own.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

/// RLIMIT_NOFILE bounds a descriptor table, not a process. From here on this thread has its own.
fn own_descriptor_table() -> io::Result<()> {
    // SAFETY: takes no pointers. This thread has opened nothing yet that another would close.
    if unsafe { libc::unshare(libc::CLONE_FILES) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
