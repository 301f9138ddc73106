//! TCP sockets: creation, options, addresses, and the calls of the data path. All sockets are non-blocking and close-on-exec.

use crate::buffers::{BUFFER_BYTES, Buf, Pool, Queue};
use crate::errno::{Errno, check, check_len};
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Linux 6.3, `include/uapi/linux/in.h`.
pub const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// Which ports the kernel may choose for this socket: `low | high << 16` (ip(7), IP_LOCAL_PORT_RANGE).
pub fn port_range_option(port: u16) -> u32 {
    u32::from(port) | u32::from(port) << 16
}

/// How our end of an outgoing connection is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// The kernel chooses address and port.
    Kernel,
    /// The port is pinned when the connection is made (IP_BIND_ADDRESS_NO_PORT and a one-port IP_LOCAL_PORT_RANGE); without
    /// an address the kernel takes the route's.
    Late { ip: Option<IpAddr>, port: u16 },
    /// The port is bound before the connection is made, with SO_REUSEADDR.
    Early { ip: IpAddr, port: u16 },
}

/// Where opening a connection failed: it tells whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Socket,
    Option,
    Bind,
    Connect,
}

/// A socket address as the kernel has it.
#[derive(Clone, Copy)]
pub struct RawAddress {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl RawAddress {
    pub fn new(address: &SocketAddr) -> Self {
        // SAFETY: all zero is a valid sockaddr_storage.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let len = match address {
            SocketAddr::V4(v4) => {
                let raw = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from(*v4.ip()).to_be() },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is large enough and aligned for every socket address.
                unsafe { std::ptr::from_mut(&mut storage).cast::<libc::sockaddr_in>().write(raw) };
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let raw = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: as above.
                unsafe { std::ptr::from_mut(&mut storage).cast::<libc::sockaddr_in6>().write(raw) };
                size_of::<libc::sockaddr_in6>()
            }
        };
        Self { storage, len: len as libc::socklen_t }
    }

    /// To be written to by the kernel.
    pub(crate) const EMPTY: Self = Self {
        // SAFETY: all zero is a valid sockaddr_storage.
        storage: unsafe { MaybeUninit::<libc::sockaddr_storage>::zeroed().assume_init() },
        len: size_of::<libc::sockaddr_storage>() as libc::socklen_t,
    };

    /// For a call that writes the address and its length, which must not be more than before.
    pub(crate) fn as_mut_parts(&mut self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        (std::ptr::from_mut(&mut self.storage).cast(), &raw mut self.len)
    }
    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        std::ptr::from_ref(&self.storage).cast()
    }
    pub(crate) fn len(&self) -> libc::socklen_t {
        self.len
    }

    pub(crate) fn to_std(self) -> Result<SocketAddr, Errno> {
        match libc::c_int::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that a sockaddr_in is stored here.
                let raw = unsafe { std::ptr::from_ref(&self.storage).cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr));
                Ok(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: the family says that a sockaddr_in6 is stored here.
                let raw = unsafe { std::ptr::from_ref(&self.storage).cast::<libc::sockaddr_in6>().read() };
                let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
                Ok(SocketAddrV6::new(ip, u16::from_be(raw.sin6_port), raw.sin6_flowinfo, raw.sin6_scope_id)
                    .into())
            }
            _ => Err(Errno::EAFNOSUPPORT),
        }
    }
}

pub fn domain(address: &SocketAddr) -> libc::c_int {
    if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

pub fn tcp(address: &SocketAddr) -> Result<OwnedFd, Errno> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers; the descriptor is fresh and owned by us.
    unsafe {
        let fd = check(libc::socket(domain(address), kind, libc::IPPROTO_TCP))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

pub fn set_option(fd: RawFd, level: libc::c_int, name: libc::c_int, value: u32) -> Result<(), Errno> {
    let len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the value outlives the call and its length is given.
    check(unsafe { libc::setsockopt(fd, level, name, std::ptr::from_ref(&value).cast(), len) }).map(drop)
}

pub fn bind(fd: RawFd, address: &SocketAddr) -> Result<(), Errno> {
    let raw = RawAddress::new(address);
    // SAFETY: the address outlives the call.
    check(unsafe { libc::bind(fd, raw.as_ptr(), raw.len()) }).map(drop)
}

/// A listening socket that shares its address with the other shards' (SO_REUSEPORT). Accepted sockets inherit TCP_NODELAY.
pub fn listen(address: &SocketAddr, backlog: u32) -> Result<OwnedFd, (Step, Errno)> {
    let socket = tcp(address).map_err(|errno| (Step::Socket, errno))?;
    let fd = socket.as_raw_fd();
    let option =
        |level, name, value| set_option(fd, level, name, value).map_err(|errno| (Step::Option, errno));
    option(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    option(libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    option(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    if address.is_ipv6() {
        // `[::]:80` and `0.0.0.0:80` are two listeners, whatever net.ipv6.bindv6only says.
        option(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    bind(fd, address).map_err(|errno| (Step::Bind, errno))?;
    let backlog = libc::c_int::try_from(backlog).unwrap_or(libc::c_int::MAX);
    // SAFETY: no pointers.
    check(unsafe { libc::listen(fd, backlog) }).map_err(|errno| (Step::Connect, errno))?;
    Ok(socket)
}

/// Whether `address` could be listened on. SO_REUSEPORT would let two programs share it without a word; this tells.
pub fn listen_probe(address: &SocketAddr) -> Result<(), (Step, Errno)> {
    let socket = tcp(address).map_err(|errno| (Step::Socket, errno))?;
    set_option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)
        .map_err(|errno| (Step::Option, errno))?;
    bind(socket.as_raw_fd(), address).map_err(|errno| (Step::Bind, errno))
}

/// Starts a connection; it is being made when this returns.
pub fn connect(remote: &SocketAddr, local: Local) -> Result<OwnedFd, (Step, Errno)> {
    let socket = tcp(remote).map_err(|errno| (Step::Socket, errno))?;
    let fd = socket.as_raw_fd();
    let option =
        |level, name, value| set_option(fd, level, name, value).map_err(|errno| (Step::Option, errno));
    option(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    match local {
        Local::Kernel => {}
        Local::Late { ip, port } => {
            option(libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, port_range_option(port))?;
            if let Some(ip) = ip {
                option(libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
                bind(fd, &SocketAddr::new(ip, 0)).map_err(|errno| (Step::Bind, errno))?;
            }
        }
        Local::Early { ip, port } => {
            option(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
            bind(fd, &SocketAddr::new(ip, port)).map_err(|errno| (Step::Bind, errno))?;
        }
    }
    let raw = RawAddress::new(remote);
    // SAFETY: the address outlives the call.
    match check(unsafe { libc::connect(fd, raw.as_ptr(), raw.len()) }) {
        Ok(_) | Err(Errno::EINPROGRESS) => Ok(socket),
        Err(errno) => Err((Step::Connect, errno)),
    }
}

/// A port of `address`'s IP that could be listened on now, below `net.ipv4.ip_local_port_range` if one is free there: a listener
/// inside takes a port from every source, and a connection pinned to its port meets itself once it has gone.
pub fn free_port(address: &SocketAddr) -> Result<SocketAddr, Errno> {
    const LOWEST: u32 = 10_000;
    const TRIES: u32 = 256;
    let below = u32::from(crate::machine::local_port_range().0).saturating_sub(LOWEST);
    let since_epoch = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    let start = since_epoch.subsec_nanos() ^ std::process::id();
    let low = (0..TRIES.min(below)).map(|step| (LOWEST + (start.wrapping_add(step * 61)) % below) as u16);
    for port in low.chain([0]) {
        let socket = tcp(address)?;
        set_option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        match bind(socket.as_raw_fd(), &SocketAddr::new(address.ip(), port)) {
            Ok(()) => return local_address(socket.as_raw_fd()),
            Err(Errno::EADDRINUSE) if port != 0 => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::EADDRINUSE)
}

/// Whether connections can be made from `ip`: EADDRNOTAVAIL when this machine does not have it.
pub fn probe_source(ip: IpAddr) -> Result<(), Errno> {
    let address = SocketAddr::new(ip, 0);
    let socket = tcp(&address)?;
    set_option(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    bind(socket.as_raw_fd(), &address)
}

/// The pending error of a socket, cleared by asking.
pub fn take_error(fd: RawFd) -> Result<(), Errno> {
    let mut error: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: value and length outlive the call.
    check(unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            std::ptr::from_mut(&mut error).cast(),
            &raw mut len,
        )
    })?;
    if error == 0 { Ok(()) } else { Err(Errno(error)) }
}

/// The next connection and where it comes from.
pub fn accept(listener: RawFd) -> Result<(OwnedFd, Option<SocketAddr>), Errno> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let mut raw = RawAddress::EMPTY;
    let (address, len) = raw.as_mut_parts();
    // SAFETY: both outlive the call; the length says how much may be written. The descriptor is fresh and owned by us.
    let fd = unsafe { OwnedFd::from_raw_fd(check(libc::accept4(listener, address, len, flags))?) };
    Ok((fd, raw.to_std().ok()))
}

/// How many of the bytes sent the peer has acknowledged (tcp(7), TCP_INFO; Linux 4.1), also once the connection is gone. `made`:
/// the connection was made here, and the kernel counts its SYN as a byte.
pub fn bytes_acked(fd: RawFd, made: bool) -> Result<u64, Errno> {
    Ok(tcp_info(fd)?.0.saturating_sub(u64::from(made)))
}

/// Bytes acknowledged and received, of `struct tcp_info` (include/uapi/linux/tcp.h), of which libc's type ends before.
fn tcp_info(fd: RawFd) -> Result<(u64, u64), Errno> {
    /// Of `tcpi_bytes_acked`; `tcpi_bytes_received` follows.
    const OFFSET: usize = 120;
    let mut info = [0u64; OFFSET / size_of::<u64>() + 2];
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: value and length outlive the call; the kernel cuts what it writes to the length.
    check(unsafe {
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len)
    })?;
    let [.., acked, received] = info;
    if (len as usize) < size_of_val(&info) { Err(Errno::ENOPROTOOPT) } else { Ok((acked, received)) }
}

/// What has gone through a connection, for comparing two moments: each direction's SYN and FIN may count as a byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// Bytes that were put into the send queue, of which so many are not acknowledged. Both may be a little behind.
    pub queued: u64,
    pub unacked: u64,
    pub received: u64,
}

pub fn transfer(fd: RawFd) -> Result<Transfer, Errno> {
    let (acked, received) = tcp_info(fd)?;
    let unacked = queue_length(fd, libc::TIOCOUTQ)?;
    Ok(Transfer { queued: acked + unacked, unacked, received })
}

/// Bytes that wait to be read. Not true of a socket in a sockmap: there Linux 6.18 counts another queue.
pub fn unread(fd: RawFd) -> Result<u64, Errno> {
    queue_length(fd, libc::FIONREAD)
}

/// Whether so many bytes have come and wait to be read, or more than can be looked at. `read`: what was read of all that came; a
/// FIN counts as one that came.
pub fn accounts_for(fd: RawFd, read: u64) -> Result<bool, Errno> {
    /// More comes between two calls now and then, not for ever.
    const TRIES: usize = 1000;
    const LOOK_BYTES: usize = 256 * 1024;
    let mut look = vec![0u8; LOOK_BYTES];
    let mut received = tcp_info(fd)?.1;
    for _ in 0..TRIES {
        let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
        // SAFETY: LOOK_BYTES bytes are ours and initialised.
        let waiting = match check_len(unsafe { libc::recv(fd, look.as_mut_ptr().cast(), LOOK_BYTES, flags) })
        {
            Err(Errno::EAGAIN) => 0,
            other => other?,
        };
        let before = std::mem::replace(&mut received, tcp_info(fd)?.1);
        let known = read + waiting as u64;
        if waiting == LOOK_BYTES {
            return Ok(known <= received);
        }
        if before == received {
            return Ok(known == received || known + 1 == received);
        }
    }
    Err(Errno::EAGAIN)
}

/// tcp(7), SIOCINQ and SIOCOUTQ.
fn queue_length(fd: RawFd, which: libc::Ioctl) -> Result<u64, Errno> {
    let mut length: libc::c_int = 0;
    // SAFETY: the value outlives the call.
    check(unsafe { libc::ioctl(fd, which, &raw mut length) })?;
    Ok(length.max(0) as u64)
}

/// The number that no other socket of this machine ever has (socket(7), SO_COOKIE).
pub fn cookie(fd: RawFd) -> Result<u64, Errno> {
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: value and length outlive the call.
    check(unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut len,
        )
    })?;
    Ok(cookie)
}

/// Appends what one read gives. EAGAIN: there is nothing; ENOTCONN: nor will there ever be.
pub fn read_into(fd: RawFd, bytes: &mut Vec<u8>) -> Result<(), Errno> {
    const PIECE: usize = 64 * 1024;
    let before = bytes.len();
    bytes.resize(before + PIECE, 0);
    let free = bytes.get_mut(before..).unwrap_or_default();
    // SAFETY: PIECE bytes are ours and initialised.
    let result = check_len(unsafe { libc::recv(fd, free.as_mut_ptr().cast(), PIECE, libc::MSG_DONTWAIT) });
    bytes.truncate(before + result.as_ref().copied().unwrap_or(0));
    match result? {
        0 => Err(Errno::ENOTCONN),
        _ => Ok(()),
    }
}

type NameCall = unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn name(fd: RawFd, call: NameCall) -> Result<SocketAddr, Errno> {
    let mut raw = RawAddress::EMPTY;
    let (address, len) = raw.as_mut_parts();
    // SAFETY: both outlive the call; the length says how much may be written.
    check(unsafe { call(fd, address, len) })?;
    raw.to_std()
}

pub fn local_address(fd: RawFd) -> Result<SocketAddr, Errno> {
    name(fd, libc::getsockname)
}
pub fn peer_address(fd: RawFd) -> Result<SocketAddr, Errno> {
    name(fd, libc::getpeername)
}

/// Sends FIN; the other direction stays open.
pub fn shutdown_write(fd: RawFd) -> Result<(), Errno> {
    // SAFETY: no pointers.
    check(unsafe { libc::shutdown(fd, libc::SHUT_WR) }).map(drop)
}

/// Ends what waits to receive from a socket, without a word to the peer.
pub fn end_receive(fd: RawFd) {
    // SAFETY: shutdown takes no pointers. ENOTCONN: the connection is gone already, and the receive with it.
    unsafe { libc::shutdown(fd, libc::SHUT_RD) };
}

/// Makes the next close send RST and leave no TIME_WAIT.
pub fn reset_on_close(fd: RawFd) {
    let linger = LINGER_ZERO;
    let len = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: the value outlives the call. A failure leaves an orderly close, which is safe.
    unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, std::ptr::from_ref(&linger).cast(), len)
    };
}

pub(crate) const LINGER_ZERO: libc::linger = libc::linger { l_onoff: 1, l_linger: 0 };

/// Pieces of one vectored call.
pub const PIECES_MAX: usize = 8;
pub(crate) const EMPTY_PIECE: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

/// What one [`receive`] brought.
pub struct Received {
    pub bytes: usize,
    /// No room was left over: there may be more in the socket.
    pub filled: bool,
}

/// Reads once into as many whole buffers as `buffers` has; on return it holds just the filled ones, and the rest are
/// back in the pool.
pub fn receive(fd: RawFd, pool: &mut Pool, buffers: &mut Vec<Buf>) -> Result<Received, Errno> {
    let result = match buffers.as_slice() {
        // SAFETY: the buffer is ours alone and BUFFER_BYTES long.
        [one] => check_len(unsafe { libc::recv(fd, pool.address(one.id()).cast(), BUFFER_BYTES, 0) }),
        many => {
            let mut pieces = [EMPTY_PIECE; PIECES_MAX];
            for (piece, buf) in pieces.iter_mut().zip(many) {
                *piece = libc::iovec { iov_base: pool.address(buf.id()).cast(), iov_len: BUFFER_BYTES };
            }
            let count = many.len().min(PIECES_MAX) as libc::c_int;
            // SAFETY: each piece is a buffer that is ours alone, BUFFER_BYTES long.
            check_len(unsafe { libc::readv(fd, pieces.as_ptr(), count) })
        }
    };
    let capacity = buffers.len() * BUFFER_BYTES;
    let bytes = result.as_ref().copied().unwrap_or(0);
    let used = bytes.div_ceil(BUFFER_BYTES);
    for unused in buffers.drain(used..) {
        pool.free(unused);
    }
    if let Some(last) = buffers.last_mut() {
        last.truncate(bytes - (used - 1) * BUFFER_BYTES);
    }
    result.map(|bytes| Received { bytes, filled: bytes == capacity })
}

/// What `send` is told. A FIN that follows at once travels with the last bytes: tcp(7) holds them back for it (MSG_MORE), and
/// `tcp_send_fin()` marks that segment instead of making one of its own.
pub(crate) fn send_flags(fin_follows: bool) -> libc::c_int {
    libc::MSG_NOSIGNAL | if fin_follows { libc::MSG_MORE } else { 0 }
}

/// Writes once from the head of `queue`; the sent bytes have left it. `true`: the queue is empty now. With `fin_follows` the
/// caller ends the connection's direction as soon as it is.
pub fn transmit(fd: RawFd, pool: &mut Pool, queue: &mut Queue, fin_follows: bool) -> Result<bool, Errno> {
    let mut pieces = [EMPTY_PIECE; PIECES_MAX];
    let count = queue.pieces(pool, &mut pieces);
    let flags = send_flags(fin_follows);
    let result = if count == 1 {
        // SAFETY: the piece lies in a buffer that the queue owns.
        unsafe { libc::send(fd, pieces[0].iov_base, pieces[0].iov_len, flags) }
    } else {
        // SAFETY: all zero is a valid msghdr.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = pieces.as_mut_ptr();
        message.msg_iovlen = count;
        // SAFETY: the pieces lie in buffers that the queue owns.
        unsafe { libc::sendmsg(fd, &raw const message, flags) }
    };
    let sent = check_len(result)?;
    queue.consume(pool, sent);
    Ok(queue.is_empty())
}
