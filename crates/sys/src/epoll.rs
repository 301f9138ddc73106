//! epoll, and the eventfd that wakes a shard from another thread.

use crate::errno::{Errno, check};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

pub struct Epoll {
    fd: OwnedFd,
    ready: Vec<libc::epoll_event>,
}

const SOCKET_INPUT: libc::c_int = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET;

/// What one descriptor reported.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub data: u64,
    pub readable: bool,
    pub writable: bool,
    /// The peer sent FIN, or the connection is gone.
    pub ended: bool,
    pub error: bool,
    /// The connection is gone: reset, or given up by the kernel.
    pub broken: bool,
}

impl Epoll {
    /// At most `batch` descriptors are reported by one [`Self::wait`].
    pub fn new(batch: usize) -> Result<Self, Errno> {
        // SAFETY: no pointers; the descriptor is fresh and owned by us.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        Ok(Self { fd, ready: vec![libc::epoll_event { events: 0, u64: 0 }; batch.max(1)] })
    }

    /// Edge-triggered, in both directions or, for a socket that can be written to as it is, for input only.
    pub fn add_socket(&self, fd: RawFd, data: u64, output: bool) -> Result<(), Errno> {
        let output = if output { libc::EPOLLOUT } else { 0 };
        self.control(libc::EPOLL_CTL_ADD, fd, data, SOCKET_INPUT | output)
    }

    /// Edge-triggered for its end and its failure only. What is so now is reported.
    pub fn watch_end(&self, fd: RawFd, data: u64) -> Result<(), Errno> {
        self.control(libc::EPOLL_CTL_MOD, fd, data, libc::EPOLLRDHUP | libc::EPOLLET)
    }

    /// As [`Self::add_socket`] for one that is registered. What is ready now is reported.
    pub fn watch_again(&self, fd: RawFd, data: u64, output: bool) -> Result<(), Errno> {
        let output = if output { libc::EPOLLOUT } else { 0 };
        self.control(libc::EPOLL_CTL_MOD, fd, data, SOCKET_INPUT | output)
    }

    /// Level-triggered input, for listeners and wakers.
    pub fn add_input(&self, fd: RawFd, data: u64) -> Result<(), Errno> {
        self.control(libc::EPOLL_CTL_ADD, fd, data, libc::EPOLLIN)
    }

    pub fn remove(&self, fd: RawFd) -> Result<(), Errno> {
        // SAFETY: DEL takes no event.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) })
            .map(drop)
    }

    fn control(&self, what: libc::c_int, fd: RawFd, data: u64, events: libc::c_int) -> Result<(), Errno> {
        let mut event = libc::epoll_event { events: events as u32, u64: data };
        // SAFETY: the event outlives the call.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), what, fd, &raw mut event) }).map(drop)
    }

    /// Waits at most `timeout_ms` (`None`: for ever) and replaces the content of `ready`.
    pub fn wait(&mut self, timeout_ms: Option<u64>, ready: &mut Vec<Ready>) -> Result<(), Errno> {
        ready.clear();
        let timeout = timeout_ms.map_or(-1, |ms| libc::c_int::try_from(ms).unwrap_or(libc::c_int::MAX));
        let room = self.ready.len() as libc::c_int;
        // SAFETY: the kernel writes at most `room` events into our array.
        let count = match check(unsafe {
            libc::epoll_wait(self.fd.as_raw_fd(), self.ready.as_mut_ptr(), room, timeout)
        }) {
            Err(Errno::EINTR) => 0,
            other => other? as usize,
        };
        let has = |events: u32, bits: libc::c_int| events & bits as u32 != 0;
        ready.extend(self.ready.iter().take(count).map(|event| Ready {
            data: event.u64,
            readable: has(event.events, libc::EPOLLIN),
            writable: has(event.events, libc::EPOLLOUT),
            ended: has(event.events, libc::EPOLLRDHUP | libc::EPOLLHUP),
            error: has(event.events, libc::EPOLLERR | libc::EPOLLHUP),
            broken: has(event.events, libc::EPOLLERR),
        }));
        Ok(())
    }
}

/// Wakes the shard that waits on its other end. Cheap to clone, usable from any thread.
///
/// A thread with a private descriptor table keeps its own copy of the descriptor under the same number, so a waker must be
/// made before the tables part.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    pub fn new() -> Result<Self, Errno> {
        // SAFETY: no pointers; the descriptor is fresh and owned by us.
        let fd =
            unsafe { OwnedFd::from_raw_fd(check(libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC))?) };
        Ok(Self(Arc::new(fd)))
    }

    pub fn wake(&self) {
        let one: u64 = 1;
        // SAFETY: eight bytes are read from `one`. A full counter means that a wake-up is already due.
        unsafe { libc::write(self.0.as_raw_fd(), std::ptr::from_ref(&one).cast(), 8) };
    }

    pub fn clear(&self) {
        let mut count: u64 = 0;
        // SAFETY: eight bytes are written into `count`.
        unsafe { libc::read(self.0.as_raw_fd(), std::ptr::from_mut(&mut count).cast(), 8) };
    }
}

impl AsRawFd for Waker {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
