//! io_uring for sockets: direct descriptors, provided buffers, accepts that say who connects, multishot receive.
//!
//! A direct descriptor ("slot") lives in the ring's own table, not in the process's, so RLIMIT_NOFILE bounds each ring and not
//! their sum. The ring needs Linux 6.11 (IORING_OP_BIND, socket options by IORING_OP_URING_CMD, direct descriptors that can be
//! installed for shutdown(2)); [`Ring::new`] probes and says what is missing.
//!
//! Every operation carries `data`, which comes back in its [`Completion`]; meaning is the caller's. Operations are queued and
//! reach the kernel with the next [`Ring::wait`], in order.

use crate::buffers::{BUFFER_BYTES, Buf, Pool, Queue};
use crate::errno::{Errno, check};
use crate::socket::{
    self, EMPTY_PIECE, IP_LOCAL_PORT_RANGE, LINGER_ZERO, Local, PIECES_MAX, RawAddress, Step,
};
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{BufRingEntry, DestinationSlot, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU16, Ordering};

const SUBMISSIONS: u32 = 1024;
const COMPLETIONS: u32 = 8192;
/// Completions that one [`Ring::wait`] takes; the others come with the next, which does not wait then. What is sent for the first
/// of them leaves only with that next call: behind thousands of clients that all say something at once it would be late by
/// milliseconds.
const TAKEN_MAX: usize = 256;
const GROUP: u16 = 0;
/// Entries of the provided-buffer ring; a power of two.
const PROVIDED_MAX: u16 = 4096;

/// Why there is no ring: what was asked for and what the kernel answered.
#[derive(Debug)]
pub struct Unavailable {
    pub what: &'static str,
    pub errno: Errno,
}

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.errno)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Completion {
    pub data: u64,
    /// A count, a slot, a descriptor; or a negated errno.
    pub result: i32,
    /// The operation goes on and will complete again.
    pub more: bool,
    /// The provided buffer that was filled.
    pub buffer: Option<u16>,
}

impl Completion {
    /// Of [`Ring::watch_end`]: the connection is gone.
    pub fn is_broken(&self) -> bool {
        self.outcome().is_ok_and(|events| events & libc::POLLERR as usize != 0)
    }

    pub fn outcome(&self) -> Result<usize, Errno> {
        usize::try_from(self.result).map_err(|_| Errno(-self.result))
    }
}

/// What the kernel reads while an operation is prepared: stable until the submission (IORING_FEAT_SUBMIT_STABLE).
struct Prepared {
    addresses: Vec<RawAddress>,
    messages: Vec<(libc::msghdr, [libc::iovec; PIECES_MAX])>,
}

pub struct Ring {
    ring: IoUring,
    slots: u32,
    provided: Provided,
    prepared: Box<Prepared>,
    /// Where the kernel writes who connects; each stays where it is. A ring that is closed cancels what is in flight, and
    /// writes nothing more.
    #[expect(clippy::vec_box, reason = "the kernel keeps their addresses while the list grows")]
    callers: Vec<Box<RawAddress>>,
    /// Option values per connecting slot; an option may be read after its submission.
    port_ranges: Vec<u32>,
    has_receive_cap: bool,
}

// SAFETY: used by one thread at a time; the raw pointers inside refer to memory that the ring owns.
unsafe impl Send for Ring {}

static ONE: u32 = 1;
static LINGER: libc::linger = LINGER_ZERO;

impl Ring {
    /// A ring with a table of `slots` direct descriptors of which the kernel gives the first `accept_slots` to accepted
    /// connections; the caller numbers the rest. Must be made by the thread that uses it.
    pub fn new(slots: u32, accept_slots: u32) -> Result<Self, Unavailable> {
        let unavailable = |what| move |error: std::io::Error| Unavailable { what, errno: error.into() };
        let ring = IoUring::builder()
            .setup_cqsize(COMPLETIONS)
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(SUBMISSIONS)
            .map_err(unavailable("io_uring_setup"))?;
        probe(&ring)?;
        ring.submitter().register_files_sparse(slots).map_err(unavailable("direct descriptors"))?;
        if accept_slots > 0 {
            set_accept_range(ring.as_raw_fd(), accept_slots)
                .map_err(|errno| Unavailable { what: "range of direct descriptors", errno })?;
        }
        let provided = Provided::new(&ring)?;
        let prepared = Box::new(Prepared {
            addresses: Vec::with_capacity(SUBMISSIONS as usize),
            messages: Vec::with_capacity(SUBMISSIONS as usize),
        });
        let has_receive_cap = crate::machine::kernel() >= RECEIVE_CAP_SINCE;
        let port_ranges = vec![0; slots as usize];
        Ok(Self { ring, slots, provided, prepared, callers: Vec::new(), port_ranges, has_receive_cap })
    }

    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Buffers now lent to the kernel.
    pub fn provided(&self) -> usize {
        self.provided.count
    }
    /// Lends a buffer to the kernel; it comes back in a completion. `false`: no room, the buffer went back to the pool.
    pub fn provide(&mut self, pool: &mut Pool, buf: Buf) -> bool {
        if self.provided.count >= usize::from(PROVIDED_MAX) {
            pool.free(buf);
            return false;
        }
        self.provided.push(pool, buf);
        true
    }
    /// The buffer of a completion, holding the received bytes.
    pub fn take(&mut self, completion: &Completion) -> Option<Buf> {
        let id = completion.buffer?;
        self.provided.count -= 1;
        Some(Pool::filled(id, usize::try_from(completion.result).unwrap_or(0)))
    }

    /// Accepts one connection; the result is its slot, and [`Self::caller`] says where it comes from. `place` numbers the
    /// accepts in flight of this ring. A connection for which there is no slot is lost: never have more accepts in flight than
    /// free slots.
    pub fn accept(&mut self, listener: RawFd, place: usize, data: u64) {
        while self.callers.len() <= place {
            self.callers.push(Box::new(RawAddress::EMPTY));
        }
        let Some(caller) = self.callers.get_mut(place) else { return };
        **caller = RawAddress::EMPTY;
        let (address, len) = caller.as_mut_parts();
        let slot = Some(DestinationSlot::auto_target());
        let entry = opcode::Accept::new(Fd(listener), address, len).file_index(slot).build();
        self.push(entry.user_data(data));
    }

    /// Who was accepted at `place`.
    pub fn caller(&self, place: usize) -> Option<SocketAddr> {
        self.callers.get(place)?.to_std().ok()
    }

    /// Watches a waker.
    pub fn watch(&mut self, fd: RawFd, data: u64) {
        self.push(opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32).multi(true).build().user_data(data));
    }

    /// Completes when the connection breaks, or once the peer has sent FIN; [`Completion::is_broken`] tells which.
    pub fn watch_end(&mut self, slot: u32, data: u64) {
        self.push(opcode::PollAdd::new(Fixed(slot), 0).build().user_data(data));
    }

    /// Receives into provided buffers until `bytes` have come, where the kernel can count them (Linux 6.17); before that for as
    /// long as it lasts, and a sender that is fast enough may fill every buffer that is lent within one wait.
    pub fn receive(&mut self, slot: u32, bytes: u32, data: u64) {
        let mut entry = opcode::RecvMulti::new(Fixed(slot), GROUP).build().user_data(data);
        if self.has_receive_cap {
            cap_multishot(&mut entry, bytes);
        }
        self.push(entry);
    }

    /// Reads once, now, into whole `buffers`, which the caller keeps until the completion. EAGAIN when there is nothing.
    pub fn receive_now(&mut self, slot: u32, pool: &Pool, buffers: &[Buf], data: u64) {
        let mut pieces = [EMPTY_PIECE; PIECES_MAX];
        for (piece, buf) in pieces.iter_mut().zip(buffers) {
            *piece = libc::iovec { iov_base: pool.address(buf.id()).cast(), iov_len: BUFFER_BYTES };
        }
        let message = self.message(pieces, buffers.len().min(PIECES_MAX));
        let entry = opcode::RecvMsg::new(Fixed(slot), message).flags(libc::MSG_DONTWAIT as u32).build();
        self.push(entry.user_data(data));
    }

    /// Sends the head of `queue`, at most [`PIECES_MAX`] pieces, which keeps its bytes until the completion. Completes short only
    /// on an error.
    pub fn send(&mut self, slot: u32, pool: &Pool, queue: &Queue, data: u64) {
        let (entry, _) = self.send_entry(slot, pool, queue, false);
        self.push(entry.user_data(data));
    }

    /// [`Ring::send`], and [`Ring::install`] once all of the queue is sent, for the FIN that then follows at once. `false`: the
    /// queue has more pieces, nothing is installed. After a short send the installation completes with ECANCELED.
    pub fn send_last(&mut self, slot: u32, pool: &Pool, queue: &Queue, data: u64, install: u64) -> bool {
        self.reserve(2);
        let (entry, all) = self.send_entry(slot, pool, queue, true);
        if !all {
            self.push(entry.user_data(data));
            return false;
        }
        self.push(entry.flags(Flags::IO_LINK).user_data(data));
        self.install(slot, install);
        true
    }

    fn send_entry(&mut self, slot: u32, pool: &Pool, queue: &Queue, fin_follows: bool) -> (Entry, bool) {
        let mut pieces = [EMPTY_PIECE; PIECES_MAX];
        let count = queue.pieces(pool, &mut pieces);
        let all = pieces.iter().take(count).map(|piece| piece.iov_len).sum::<usize>() == queue.bytes();
        let flags = socket::send_flags(fin_follows && all) | libc::MSG_WAITALL;
        let entry = match count {
            1 => {
                let [piece, ..] = pieces;
                let len = piece.iov_len as u32;
                opcode::Send::new(Fixed(slot), piece.iov_base.cast(), len).flags(flags).build()
            }
            count => {
                let message = self.message(pieces, count);
                opcode::SendMsg::new(Fixed(slot), message).flags(flags as u32).build()
            }
        };
        (entry, all)
    }

    /// Opens `slot` and connects it. One completion per [`Step`] that fails, tagged by `data(step)`, and always one for
    /// [`Step::Connect`], the last.
    pub fn connect(&mut self, slot: u32, remote: &SocketAddr, local: Local, data: impl Fn(Step) -> u64) {
        self.reserve(8);
        let Ok(destination) = DestinationSlot::try_from_slot_target(slot) else { return };
        let kind = libc::SOCK_STREAM;
        let socket = opcode::Socket::new(socket::domain(remote), kind, libc::IPPROTO_TCP)
            .file_index(Some(destination))
            .build();
        self.push(socket.flags(Flags::SKIP_SUCCESS).user_data(data(Step::Socket)));
        let option = data(Step::Option);
        self.option(slot, libc::IPPROTO_TCP, libc::TCP_NODELAY, &ONE, option);
        match local {
            Local::Kernel => {}
            Local::Late { ip, port } => {
                if let Some(value) = self.port_ranges.get_mut(slot as usize) {
                    *value = socket::port_range_option(port);
                    let value = std::ptr::from_ref(value);
                    self.option(slot, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, value, option);
                }
                if let Some(ip) = ip {
                    self.option(slot, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, &ONE, option);
                    self.bind(slot, SocketAddr::new(ip, 0), data(Step::Bind));
                }
            }
            Local::Early { ip, port } => {
                self.option(slot, libc::SOL_SOCKET, libc::SO_REUSEADDR, &ONE, option);
                self.bind(slot, SocketAddr::new(ip, port), data(Step::Bind));
            }
        }
        let (address, len) = self.address(RawAddress::new(remote));
        self.push(opcode::Connect::new(Fixed(slot), address, len).build().user_data(data(Step::Connect)));
    }

    /// Completes with an ordinary descriptor for `slot`, whose owner is the caller.
    pub fn install(&mut self, slot: u32, data: u64) {
        self.push(opcode::FixedFdInstall::new(Fixed(slot), 0).build().user_data(data));
    }

    /// FIN by way of a kernel worker thread; dearer than [`Ring::install`] and shutdown(2), but needs no descriptor.
    pub fn shutdown(&mut self, slot: u32, data: u64) {
        self.push(opcode::Shutdown::new(Fixed(slot), libc::SHUT_WR).build().user_data(data));
    }

    /// Ends the operation that carries `target`; both complete, this one silently unless the target was not found.
    pub fn cancel(&mut self, target: u64, data: u64) {
        self.push(opcode::AsyncCancel::new(target).build().flags(Flags::SKIP_SUCCESS).user_data(data));
    }

    pub fn close(&mut self, slot: u32, reset: bool, data: u64) {
        self.reserve(2);
        if reset {
            let len = size_of::<libc::linger>() as u32;
            let value = std::ptr::from_ref(&LINGER).cast();
            let (level, name) = (libc::SOL_SOCKET as u32, libc::SO_LINGER as u32);
            let entry = opcode::SetSockOpt::new(Fixed(slot), level, name, value, len).build();
            // A failure leaves an orderly close; its completion carries no meaning.
            self.push(entry.flags(Flags::SKIP_SUCCESS).user_data(IGNORED));
        }
        self.push(opcode::Close::new(Fixed(slot)).build().user_data(data));
    }

    /// Submits what is queued and waits for a completion, at most `timeout_ms` (`None`: for ever). Replaces the content of
    /// `completions` by at most [`TAKEN_MAX`] of them.
    pub fn wait(&mut self, timeout_ms: Option<u64>, completions: &mut Vec<Completion>) -> Result<(), Errno> {
        completions.clear();
        let ms = timeout_ms.unwrap_or(u64::MAX / 2);
        let timespec = Timespec::new().sec(ms / 1000).nsec((ms % 1000) as u32 * 1_000_000);
        let args = SubmitArgs::new().timespec(&timespec);
        let args = if timeout_ms.is_some() { args } else { SubmitArgs::new() };
        match self.ring.submitter().submit_with_args(1, &args).map_err(Errno::from) {
            // EBUSY: completions overflowed and are waiting to be taken, which is what comes next. EAGAIN and ENOMEM: the kernel
            // is short of memory and has taken nothing; what is queued stays for the next wait.
            Ok(_) | Err(Errno::ETIME | Errno::EINTR | Errno::EAGAIN | Errno::ENOMEM | Errno(libc::EBUSY)) => {
            }
            Err(errno) => return Err(errno),
        }
        if self.ring.submission().is_empty() {
            self.forget_prepared();
        }
        let taken = self.ring.completion().take(TAKEN_MAX).map(|entry| Completion {
            data: entry.user_data(),
            result: entry.result(),
            more: cqueue::more(entry.flags()),
            buffer: cqueue::buffer_select(entry.flags()),
        });
        completions.extend(taken.filter(|completion| completion.data != IGNORED));
        Ok(())
    }

    fn option(&mut self, slot: u32, level: libc::c_int, name: libc::c_int, value: *const u32, data: u64) {
        let len = size_of::<u32>() as u32;
        let entry =
            opcode::SetSockOpt::new(Fixed(slot), level as u32, name as u32, value.cast(), len).build();
        self.push(entry.flags(Flags::SKIP_SUCCESS).user_data(data));
    }

    fn bind(&mut self, slot: u32, address: SocketAddr, data: u64) {
        let (address, len) = self.address(RawAddress::new(&address));
        let entry = opcode::Bind::new(Fixed(slot), address, len).build();
        self.push(entry.flags(Flags::SKIP_SUCCESS).user_data(data));
    }

    fn address(&mut self, address: RawAddress) -> (*const libc::sockaddr, libc::socklen_t) {
        if self.prepared.addresses.len() == self.prepared.addresses.capacity() {
            self.flush();
        }
        self.prepared.addresses.push(address);
        self.prepared.addresses.last().map_or((std::ptr::null(), 0), |kept| (kept.as_ptr(), kept.len()))
    }

    fn message(&mut self, pieces: [libc::iovec; PIECES_MAX], count: usize) -> *mut libc::msghdr {
        if self.prepared.messages.len() == self.prepared.messages.capacity() {
            self.flush();
        }
        // SAFETY: all zero is a valid msghdr.
        self.prepared.messages.push((unsafe { std::mem::zeroed() }, pieces));
        let Some((message, pieces)) = self.prepared.messages.last_mut() else { return std::ptr::null_mut() };
        message.msg_iov = pieces.as_mut_ptr();
        message.msg_iovlen = count;
        message
    }

    fn forget_prepared(&mut self) {
        self.prepared.addresses.clear();
        self.prepared.messages.clear();
    }

    /// Makes room for `count` operations that belong together.
    fn reserve(&mut self, count: usize) {
        let queue = self.ring.submission();
        if queue.capacity() - queue.len() < count {
            drop(queue);
            self.flush();
        }
    }

    fn push(&mut self, entry: Entry) {
        loop {
            // SAFETY: what the entry points to lives until the submission (`prepared`), for ever (statics), or as long as
            // the ring (`port_ranges`, `callers`, the pool's buffers, which the caller keeps until the completion).
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            self.flush();
        }
    }

    /// Submits without waiting. The kernel takes everything: SUBMIT_ALL goes on past bad entries, and completions that do
    /// not fit are kept aside (IORING_FEAT_NODROP).
    fn flush(&mut self) {
        let _ = self.ring.submit();
        if self.ring.submission().is_empty() {
            self.forget_prepared();
        }
    }
}

/// Sets `sqe->optlen`, the total that a multishot receive may bring, which the io-uring crate has no name for.
fn cap_multishot(entry: &mut Entry, bytes: u32) {
    /// Of `optlen` in `struct io_uring_sqe` (include/uapi/linux/io_uring.h).
    const OFFSET: usize = 44;
    const _: () = assert!(size_of::<Entry>() == 64 && align_of::<Entry>() >= align_of::<u32>());
    // SAFETY: an entry is a `struct io_uring_sqe` and nothing else; the offset lies within it, is aligned, and any value is
    // valid there.
    unsafe { std::ptr::from_mut(entry).cast::<u8>().add(OFFSET).cast::<u32>().write(bytes) };
}

/// Linux 6.17: `sqe->optlen` of a multishot receive; before, anything but zero is refused.
const RECEIVE_CAP_SINCE: (u32, u32) = (6, 17);

/// Data of operations whose failure means nothing; never reported.
const IGNORED: u64 = u64::MAX;

fn probe(ring: &IoUring) -> Result<(), Unavailable> {
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| Unavailable { what: "probing io_uring", errno: error.into() })?;
    let wanted = [
        (opcode::FixedFdInstall::CODE, "IORING_OP_FIXED_FD_INSTALL (Linux 6.8)"),
        (opcode::Bind::CODE, "IORING_OP_BIND (Linux 6.11)"),
    ];
    match wanted.into_iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, what)) => Err(Unavailable { what, errno: Errno::EOPNOTSUPP }),
        None => Ok(()),
    }
}

/// IORING_REGISTER_FILE_ALLOC_RANGE: slots that the kernel may choose itself.
fn set_accept_range(ring: RawFd, slots: u32) -> Result<(), Errno> {
    const REGISTER_FILE_ALLOC_RANGE: libc::c_uint = 25;
    #[repr(C)]
    struct Range {
        offset: u32,
        len: u32,
        reserved: u64,
    }
    let range = Range { offset: 0, len: slots, reserved: 0 };
    let range = std::ptr::from_ref(&range);
    // SAFETY: the range outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_io_uring_register, ring, REGISTER_FILE_ALLOC_RANGE, range, 0) };
    check(result as libc::c_int).map(drop)
}

/// The ring through which buffers are lent to the kernel (io_uring_register_buf_ring(3)).
struct Provided {
    entries: *mut BufRingEntry,
    tail: u16,
    count: usize,
}

const PROVIDED_BYTES: usize = PROVIDED_MAX as usize * size_of::<BufRingEntry>();

impl Provided {
    fn new(ring: &IoUring) -> Result<Self, Unavailable> {
        let unavailable = |errno| Unavailable { what: "provided buffers", errno };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping, no address asked for.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), PROVIDED_BYTES, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if at == libc::MAP_FAILED {
            return Err(unavailable(Errno::last()));
        }
        let provided = Self { entries: at.cast(), tail: 0, count: 0 };
        // SAFETY: the mapping has room for PROVIDED_MAX entries and lives until the ring is gone.
        unsafe { ring.submitter().register_buf_ring_with_flags(at as u64, PROVIDED_MAX, GROUP, 0) }
            .map_err(|error| unavailable(error.into()))?;
        Ok(provided)
    }

    fn push(&mut self, pool: &Pool, buf: Buf) {
        let index = usize::from(self.tail & (PROVIDED_MAX - 1));
        // SAFETY: `index` lies within the mapping; the kernel does not read an entry before the tail has passed it.
        unsafe {
            let entry = &mut *self.entries.add(index);
            entry.set_addr(pool.address(buf.id()) as u64);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(buf.id());
        }
        self.tail = self.tail.wrapping_add(1);
        self.count += 1;
        // SAFETY: the tail is a u16 inside the mapping that only we write and the kernel reads with acquire.
        unsafe {
            let tail = BufRingEntry::tail(self.entries).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}

impl Drop for Provided {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length. `Ring` drops the io_uring first, which unregisters the ring of buffers.
        unsafe { libc::munmap(self.entries.cast(), PROVIDED_BYTES) };
    }
}
