//! epoll and non-blocking connects, for a client or an origin with tens of thousands of connections on one thread.
//!
//! Deliberately not Fourfold's engine: what measures and tests a program must not share its mistakes.

use anyhow::{Context, Result, bail};
use std::io::{Error, ErrorKind};
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Readiness of one descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    pub token: u64,
    pub readable: bool,
    pub writable: bool,
    /// Error or hang-up; reading tells which.
    pub ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    Read,
    Write,
    ReadWrite,
    /// Reading, told once per arrival: the caller reads until it would block.
    ReadEdge,
    /// Only that it has ended in both directions, or is broken.
    End,
}

impl Interest {
    fn bits(self) -> u32 {
        let bits = match self {
            Interest::Read => libc::EPOLLIN,
            Interest::Write => libc::EPOLLOUT,
            Interest::ReadWrite => libc::EPOLLIN | libc::EPOLLOUT,
            Interest::ReadEdge => libc::EPOLLIN | libc::EPOLLET,
            Interest::End => 0,
        };
        bits as u32
    }
}

#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    /// `batch` is how many descriptors one [`Epoll::wait`] reports at most.
    pub fn new(batch: usize) -> Result<Epoll> {
        // SAFETY: no memory is involved; the result is checked before it is owned.
        let fd = own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).context("epoll_create1")?;
        Ok(Epoll { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; batch.max(1)] })
    }

    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd.as_fd().as_raw_fd(), token, interest)
    }

    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd.as_fd().as_raw_fd(), token, interest)
    }

    fn control(&self, operation: libc::c_int, fd: RawFd, token: u64, interest: Interest) -> Result<()> {
        let mut event = libc::epoll_event { events: interest.bits(), u64: token };
        // SAFETY: `event` lives for the call, both descriptors are open.
        let done = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd, &raw mut event) };
        if done != 0 { Err(Error::last_os_error()).context("epoll_ctl") } else { Ok(()) }
    }

    /// Appends what is ready to `ready`, which is cleared first. Without a timeout it waits for ever.
    pub fn wait(&mut self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> Result<()> {
        ready.clear();
        // Rounded up: a timeout that is not yet due must not become a busy loop.
        let timeout =
            timeout.map_or(-1, |timeout| timeout.as_micros().div_ceil(1000).min(60_000) as libc::c_int);
        let (events, room) = (self.events.as_mut_ptr(), self.events.len() as libc::c_int);
        // SAFETY: the kernel writes at most `room` events into our buffer of that length.
        let count = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events, room, timeout) };
        if count < 0 {
            let error = Error::last_os_error();
            return if error.kind() == ErrorKind::Interrupted {
                Ok(())
            } else {
                Err(error).context("epoll_wait")
            };
        }
        ready.extend(self.events.iter().take(count as usize).map(|event| {
            let bits = event.events;
            let has = |bit: libc::c_int| bits & bit as u32 != 0;
            Ready {
                token: event.u64,
                readable: has(libc::EPOLLIN),
                writable: has(libc::EPOLLOUT),
                ended: has(libc::EPOLLERR) || has(libc::EPOLLHUP),
            }
        }));
        Ok(())
    }
}

fn own(fd: libc::c_int) -> Result<OwnedFd, Error> {
    if fd < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_option(
    fd: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> Result<(), Error> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value outlives the call and has the length that is passed.
    let done = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if done != 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

fn socket_v4() -> Result<OwnedFd, Error> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: integers only.
    own(unsafe { libc::socket(libc::AF_INET, kind, 0) })
}

fn sockaddr_v4(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}

fn v4(address: SocketAddr) -> Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(_) => bail!("{address}: these helpers speak IPv4"),
    }
}

/// Starts a connect without waiting for it; writable means done, `take_error` tells how. With a source, exactly that address and
/// port are used (explicit bind with SO_REUSEADDR), so that no search for a port is part of what is measured. IPv4.
pub fn connect_start(to: SocketAddr, from: Option<SocketAddr>) -> Result<TcpStream> {
    connect_window(to, from, None)
}

/// The same with a receive buffer of that many bytes.
pub fn connect_window(
    to: SocketAddr,
    from: Option<SocketAddr>,
    receive_bytes: Option<libc::c_int>,
) -> Result<TcpStream> {
    let fd = socket_v4().context("socket")?;
    set_option(&fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    if let Some(bytes) = receive_bytes {
        set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)?;
    }
    let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    if let Some(from) = from {
        set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        let address = sockaddr_v4(v4(from)?);
        // SAFETY: the address outlives the call and has the length that is passed.
        if unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) } != 0 {
            return Err(Error::last_os_error()).with_context(|| format!("bind to {from}"));
        }
    }
    let address = sockaddr_v4(v4(to)?);
    // SAFETY: as above.
    if unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), length) } != 0 {
        let error = Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINPROGRESS) {
            return Err(error).with_context(|| format!("connect to {to}"));
        }
    }
    Ok(TcpStream::from(fd))
}

/// A listener that several may open on one port (SO_REUSEPORT), non-blocking, with a long queue. IPv4.
pub fn listen_shared(address: SocketAddr) -> Result<TcpListener> {
    const BACKLOG: libc::c_int = 65_535;
    let fd = socket_v4().context("socket")?;
    set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    let raw = sockaddr_v4(v4(address)?);
    let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: the address outlives the call and has the length that is passed.
    let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const raw).cast(), length) };
    // SAFETY: integers only.
    if bound != 0 || unsafe { libc::listen(fd.as_raw_fd(), BACKLOG) } != 0 {
        return Err(Error::last_os_error()).with_context(|| format!("listen on {address}"));
    }
    Ok(TcpListener::from(fd))
}

/// Closes with a reset instead of a FIN.
pub fn reset(stream: TcpStream) -> std::io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = size_of::<libc::linger>() as libc::socklen_t;
    let (fd, value) = (stream.as_raw_fd(), (&raw const linger).cast());
    // SAFETY: the value outlives the call and has the length that is passed.
    let done = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, value, length) };
    if done != 0 {
        return Err(Error::last_os_error());
    }
    // Every copy of the descriptor shares the connection; ending it must not wait for the last copy.
    disconnect(&stream)
}

/// connect() to AF_UNSPEC drops the connection, with a reset when lingering is off, whoever else holds the descriptor.
fn disconnect(stream: &TcpStream) -> std::io::Result<()> {
    let mut nowhere = sockaddr_v4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
    nowhere.sin_family = libc::AF_UNSPEC as libc::sa_family_t;
    let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: the address outlives the call and has the length that is passed.
    let done = unsafe { libc::connect(stream.as_raw_fd(), (&raw const nowhere).cast(), length) };
    if done != 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Gives the calling thread a descriptor table of its own, empty but for stdin, stdout and stderr: RLIMIT_NOFILE bounds a
/// table, not a process. Call it first thing in a thread that has been given no descriptors: those would be closed here.
/// A copy of the old table would be worse: it would keep open what others close, a listener and its port say.
pub fn own_descriptor_table() -> Result<()> {
    const FIRST_AFTER_STDERR: libc::c_uint = 3;
    const CLOSE_RANGE_UNSHARE: libc::c_uint = 1 << 1;
    // SAFETY: integers only. The calling thread's table changes, and it owns none of the descriptors in it.
    let done = unsafe {
        libc::syscall(libc::SYS_close_range, FIRST_AFTER_STDERR, libc::c_uint::MAX, CLOSE_RANGE_UNSHARE)
    };
    if done != 0 { Err(Error::last_os_error()).context("close_range(CLOSE_RANGE_UNSHARE)") } else { Ok(()) }
}

/// The soft and the hard limit of descriptors per table.
pub fn descriptor_limits() -> Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one rlimit.
    let done = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if done != 0 {
        Err(Error::last_os_error()).context("getrlimit")
    } else {
        Ok((limit.rlim_cur, limit.rlim_max))
    }
}

/// Raises the soft limit to the hard one and returns it.
pub fn raise_descriptor_limit() -> Result<u64> {
    let (_, hard) = descriptor_limits()?;
    let limit = libc::rlimit { rlim_cur: hard, rlim_max: hard };
    // SAFETY: the kernel reads one rlimit.
    let done = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    if done != 0 { Err(Error::last_os_error()).context("setrlimit") } else { Ok(hard) }
}

/// Loopback sources for a client with many connections: source `index / span` and port `first + index % span`.
/// The ports lie below the usual ephemeral range, so that explicit binds disturb nobody's connect().
pub fn loopback_source(index: u64) -> SocketAddr {
    const FIRST: u64 = 2_048;
    const SPAN: u64 = 17_952;
    let host = (index / SPAN % 60_000) as u32;
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 9, 0, 1)) + host);
    SocketAddr::new(IpAddr::V4(ip), (FIRST + index % SPAN) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_connect_from_a_chosen_port_becomes_writable_and_then_readable() {
        let listener = listen_shared("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut epoll = Epoll::new(8).unwrap();
        epoll.add(&listener, 1, Interest::Read).unwrap();
        let from = crate::port::Reserved::loopback().unwrap().release();
        let mut client = connect_start(listener.local_addr().unwrap(), Some(from)).unwrap();
        assert_eq!(client.local_addr().unwrap(), from);
        epoll.add(&client, 2, Interest::Write).unwrap();
        let mut seen = Vec::new();
        let mut ready = Vec::new();
        while seen.len() < 2 {
            epoll.wait(&mut ready, Some(Duration::from_secs(60))).unwrap();
            assert!(!ready.is_empty(), "nothing ready after {seen:?}");
            seen.extend(ready.iter().map(|ready| ready.token));
            seen.sort_unstable();
            seen.dedup();
        }
        let (mut server, _) = listener.accept().unwrap();
        epoll.modify(&client, 2, Interest::Read).unwrap();
        server.write_all(b"x").unwrap();
        epoll.wait(&mut ready, Some(Duration::from_secs(60))).unwrap();
        assert_eq!(ready.first().map(|ready| (ready.token, ready.readable)), Some((2, true)));
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 1);
    }

    #[test]
    fn sources_do_not_repeat() {
        let some: std::collections::HashSet<_> = (0..50_000).map(loopback_source).collect();
        assert_eq!(some.len(), 50_000);
    }
}
