//! Two TCP sockets between which the kernel carries the bytes itself (BPF sockmap, `bpf/splice.bpf.c`).
//!
//! Owns: the loaded program, its maps, and the order in which sockets enter and leave them. Refuses to lose a byte: a socket
//! leaves only when nothing is on its way between the program and its queue, and what was carried is compared with what came.
//! Driven by: a shard's net. [`Kernel::probe`] tells beforehand whether this machine can and may.
//!
//! A socket is in `targets`, which makes it able to be sent to, and in `sources`, where what it receives is carried. Both
//! sockets are targets before either is a source.

mod trial;

use crate::errno::Errno;
use crate::socket::{self, Transfer};
use aya::maps::{HashMap, MapData, MapError, RingBuf, SockHash};
use aya::programs::sk_skb::SkSkbLink;
use aya::programs::{ProgramError, SkSkb};
use aya::{Btf, EbpfError, EbpfLoader};
use std::error::Error as _;
use std::fmt;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, PoisonError};

/// Made from bpf/splice.bpf.c; `cargo xtask test` compares them.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../bpf/splice.bpf.o");

/// Tunnels that one shard has in the kernel at a time; others are copied. A place costs 100 bytes whether used or not.
pub const TUNNELS_MAX: u32 = 4096;

/// With older kernels sockmap loses or doubles bytes, or frees a socket that is in use (skmsg.c: "Fix duplicated data
/// transmission", "Avoid using sk_socket after free when sending"; both came with 6.16).
const KERNEL_OLDEST: (u32, u32) = (6, 16);

/// While a socket leaves, arrivals below this stay in its queue instead of waking the program (tcp_data_ready compares with
/// SO_RCVLOWAT): the kernel drops what the program would look at in the moment it is taken off.
const HOLD_BYTES: u32 = 64 * 1024;
/// Times that a leaving socket is read of what was left to it and more comes meanwhile.
const LEAVE_TRIES: usize = 256;

/// Why the kernel does not splice here, and how it would.
#[derive(Debug)]
pub struct Unavailable(String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

/// What this machine's kernel looks like, for loading programs into it.
pub struct Kernel {
    btf: Btf,
}

impl Kernel {
    /// Loads the program and moves bytes with it. Reading the kernel's BTF takes about 60 MB, which are given back.
    pub fn probe() -> Result<Self, Unavailable> {
        crate::machine::return_free_memory();
        let btf =
            Btf::from_sys_fs().map_err(|error| Unavailable(format!("no BTF of the kernel: {error}")))?;
        let kernel = Self { btf };
        let mut splicer = Splicer::new(&kernel, 2)?;
        trial::run(&mut splicer).map_err(|what| Unavailable(format!("a trial failed: {what}")))?;
        Ok(kernel)
    }
}

/// What no trial shows, and the stable series of this kernel may have mended.
pub fn known_fault() -> Option<String> {
    let (major, minor) = KERNEL_OLDEST;
    (crate::machine::kernel() < KERNEL_OLDEST).then(|| {
        format!(
            "before Linux {major}.{minor} the kernel doubles bytes when a send buffer is full, or uses a socket after it was \
             freed, unless this stable series has the mends (net/core/skmsg.c)"
        )
    })
}

/// One direction of a tunnel as the program knows it; `struct flow`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Flow {
    tag: u64,
    carried: u64,
    passed: u64,
    looked: u64,
    bulk_from: u64,
    bulk_since: u64,
    base: u32,
    stopped: u32,
    told: u32,
    unused: u32,
}

// SAFETY: integers only, without padding.
unsafe impl aya::Pod for Flow {}

/// Names a flow: the cookie of the socket that its bytes come from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowKey(u64);

/// Why the program wants a tunnel taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// The peer takes less than comes.
    Slow,
    /// Large amounts, which user space copies at less cost.
    Bulk,
}

/// A socket to be spliced. `tag` is the caller's name for what it receives.
#[derive(Clone, Copy, Debug)]
pub struct End {
    pub fd: RawFd,
    pub tag: u64,
}

/// A direction that the kernel carries.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    pub key: FlowKey,
    /// Of the source, before anything was carried: what user space had read.
    read: u64,
    /// Of the peer likewise: what had been put into its send queue.
    queued: u64,
}

/// A direction that is user space's again, except for what is still on its way to the peer.
#[derive(Debug)]
pub struct Left {
    /// Bytes handed to the peer's socket.
    pub carried: u64,
    /// Bytes that follow, which the program had refused.
    pub rest: Vec<u8>,
}

/// How far what was carried has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// All of it is in the peer's send queue.
    Over,
    /// So many bytes are not. `full`: the peer's send queue holds bytes, so they have to wait.
    Under { left: u64, full: bool },
}

/// One shard's program and maps.
pub struct Splicer {
    sources: SockHash<MapData, u64>,
    targets: SockHash<MapData, u64>,
    flows: HashMap<MapData, u64, Flow>,
    events: RingBuf<MapData>,
    /// Holds the program; what it was loaded from takes megabytes.
    _attached: SkSkbLink,
}

impl Splicer {
    /// Room for so many tunnels. The descriptors are of the calling thread's table.
    pub fn new(kernel: &Kernel, tunnels: u32) -> Result<Self, Unavailable> {
        // Fitting the program to the kernel takes some 15 MB for a moment: one shard at a time, or a hundred take them at once.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Self::load(kernel, tunnels)
    }

    fn load(kernel: &Kernel, tunnels: u32) -> Result<Self, Unavailable> {
        let flows = tunnels.saturating_mul(2);
        let mut loader = EbpfLoader::new();
        loader.btf(Some(&kernel.btf));
        for map in ["sources", "targets", "flows"] {
            loader.map_max_entries(map, flows);
        }
        let mut loaded = loader.load(OBJECT).map_err(refused)?;
        let mut map = |name| loaded.take_map(name).ok_or_else(|| Unavailable(format!("no map {name}")));
        let sources: SockHash<_, u64> = map("sources")?.try_into().map_err(of_map)?;
        let targets = map("targets")?.try_into().map_err(of_map)?;
        let flows = map("flows")?.try_into().map_err(of_map)?;
        let events = map("events")?.try_into().map_err(of_map)?;
        let program = loaded.program_mut("splice").ok_or_else(|| Unavailable("no program".into()))?;
        let program: &mut SkSkb = program.try_into().map_err(of_program)?;
        program.load().map_err(of_program)?;
        let link = program.attach(sources.fd()).map_err(of_program)?;
        let attached = program.take_link(link).map_err(of_program)?;
        Ok(Self { sources, targets, flows, events, _attached: attached })
    }

    /// Lets the kernel carry what either of two sockets receives to the other. Nothing that user space has read may be unsent.
    /// An error: nothing was carried, and the sockets are as before. EAGAIN: something waits to be read.
    pub fn begin(&mut self, ends: [End; 2]) -> Result<[Begun; 2], Errno> {
        let begun = self.measure(ends)?;
        self.enter(ends, begun).inspect_err(|_| begun.iter().for_each(|one| self.forget(one.key)))?;
        Ok(begun)
    }

    fn measure(&self, [a, b]: [End; 2]) -> Result<[Begun; 2], Errno> {
        let (of_a, of_b) = (socket::transfer(a.fd)?, socket::transfer(b.fd)?);
        let begun = |fd, own: Transfer, peer: Transfer| -> Result<Begun, Errno> {
            // The program is given whole pieces, also one of which a part has been read (tcp_read_skb takes no offset). What comes
            // once the queue has been seen empty is whole.
            if socket::unread(fd)? > 0 {
                return Err(Errno::EAGAIN);
            }
            Ok(Begun { key: FlowKey(socket::cookie(fd)?), read: own.received, queued: peer.queued })
        };
        Ok([begun(a.fd, of_a, of_b)?, begun(b.fd, of_b, of_a)?])
    }

    fn enter(&mut self, [a, b]: [End; 2], [from_a, from_b]: [Begun; 2]) -> Result<(), Errno> {
        for (end, begun) in [(a, from_a), (b, from_b)] {
            self.flows.insert(begun.key.0, Flow { tag: end.tag, ..Flow::default() }, 0).map_err(errno)?;
        }
        self.targets.insert(from_a.key.0, b.fd, 0).map_err(errno)?;
        self.targets.insert(from_b.key.0, a.fd, 0).map_err(errno)?;
        self.sources.insert(from_a.key.0, a.fd, 0).map_err(errno)?;
        // The first carries by now. A socket that cannot follow it has been closed by its peer, and is never asked again.
        let _ = self.sources.insert(from_b.key.0, b.fd, 0);
        // What came before is looked at only when more comes, or now: setting the option ends in tcp_data_ready().
        for end in [a, b] {
            let _ = socket::set_option(end.fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 1);
        }
        Ok(())
    }

    /// Bytes carried so far.
    pub fn carried(&self, key: FlowKey) -> u64 {
        self.flows.get(&key.0, 0).map_or(0, |flow| flow.carried)
    }

    /// Takes the flow's source back. From now on its socket keeps what comes; it must not be read before [`Self::way`] says
    /// that what was carried is ahead. EIO: bytes were lost.
    pub fn leave(&mut self, begun: &Begun, fd: RawFd) -> Result<Left, Errno> {
        let mut rest = Vec::new();
        for _ in 0..LEAVE_TRIES {
            self.read_passed(begun.key, fd, &mut rest);
            socket::set_option(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, HOLD_BYTES)?;
            let quiet = self.flow(begun.key)?.passed == rest.len() as u64;
            if quiet {
                // Not there: the kernel has taken it out, since the connection is over.
                let _ = self.sources.remove(&begun.key.0);
            }
            // Also a barrier: it waits for whoever holds the socket.
            socket::set_option(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 1)?;
            if quiet {
                let flow = self.flow(begun.key)?;
                let known = begun.read + flow.carried + flow.passed;
                let whole = flow.passed == rest.len() as u64 && socket::accounts_for(fd, known)?;
                return if whole { Ok(Left { carried: flow.carried, rest }) } else { Err(Errno::EIO) };
            }
        }
        Err(Errno::EIO)
    }

    fn flow(&self, key: FlowKey) -> Result<Flow, Errno> {
        self.flows.get(&key.0, 0).map_err(errno)
    }

    /// What the program left to user space lies in a queue that is lost with the program.
    fn read_passed(&self, key: FlowKey, fd: RawFd, rest: &mut Vec<u8>) {
        while self.flow(key).is_ok_and(|flow| flow.passed > rest.len() as u64) {
            if socket::read_into(fd, rest).is_err() {
                return;
            }
        }
    }

    /// Whether what was carried has reached the send queue of `peer`.
    pub fn way(&self, begun: &Begun, carried: u64, peer: RawFd) -> Result<Way, Errno> {
        let now = socket::transfer(peer)?;
        // The numbers are read one after the other while acknowledgements come: what is queued may look too little, never too
        // much.
        Ok(match carried.saturating_sub(now.queued.saturating_sub(begun.queued)) {
            0 => Way::Over,
            left => Way::Under { left, full: now.unacked > 0 },
        })
    }

    /// The flow is over: its peer is nobody's target any more.
    pub fn forget(&mut self, key: FlowKey) {
        let _ = self.sources.remove(&key.0);
        let _ = self.targets.remove(&key.0);
        let _ = self.flows.remove(&key.0);
    }

    /// The next flow that is to be taken back, by its tag.
    pub fn told(&mut self) -> Option<(u64, Told)> {
        let event = self.events.next()?;
        let word = |at: usize| event.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
        let what = if word(8)? == 2 { Told::Bulk } else { Told::Slow };
        Some((word(0)?, what))
    }

    /// Readable when there is something to be told.
    pub fn events_fd(&self) -> RawFd {
        self.events.as_raw_fd()
    }
}

fn errno(error: MapError) -> Errno {
    let number = match &error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        MapError::KeyNotFound => Some(libc::ENOENT),
        _ => None,
    };
    Errno(number.unwrap_or(libc::EINVAL))
}

fn of_map(error: MapError) -> Unavailable {
    refused(error.into())
}
fn of_program(error: ProgramError) -> Unavailable {
    refused(error.into())
}

/// EPERM has one cause and one remedy; of everything else the whole chain is told.
fn refused(error: EbpfError) -> Unavailable {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::PermissionDenied
        {
            return Unavailable(
                "BPF is not permitted here; it needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON".into(),
            );
        }
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    let line = text.lines().next().unwrap_or_default().to_owned();
    Unavailable(line)
}
