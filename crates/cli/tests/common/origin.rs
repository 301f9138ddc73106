//! A backend in a thread of its own, with a descriptor table of its own.

use super::lab::{free_port, own_descriptor_table};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread::JoinHandle;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Behaviour {
    /// Sends back every byte; ends when the client does.
    Echo,
    /// Accepts and never reads.
    Sink,
    /// Resets every connection as soon as it is accepted.
    Reset,
}

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    open: AtomicUsize,
    accepted: AtomicUsize,
}

pub struct Origin {
    pub address: SocketAddr,
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

impl Origin {
    pub fn start(address: &str, behaviour: Behaviour) -> Self {
        Self::at(address.parse().unwrap(), behaviour)
    }

    /// Port 0: any. A given port may have connections in TIME_WAIT from a predecessor.
    pub fn at(address: SocketAddr, behaviour: Behaviour) -> Self {
        let address = if address.port() == 0 { free_port(address.ip()) } else { address };
        let counts = Arc::new(Counts::default());
        let seen = Arc::clone(&counts);
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            own_descriptor_table();
            let listener = TcpListener::bind(address).unwrap();
            deepen(&listener);
            tell.send(listener.local_addr().unwrap()).unwrap();
            Loop::new(listener, behaviour, seen).run();
        });
        Self { address: told.recv().unwrap(), counts, thread: Some(thread) }
    }

    pub fn echo() -> Self {
        Self::start("127.0.0.1:0", Behaviour::Echo)
    }

    pub fn open(&self) -> usize {
        self.counts.open.load(Relaxed)
    }
    pub fn accepted(&self) -> usize {
        self.counts.accepted.load(Relaxed)
    }

    /// Closes the listener and every connection at once, as the kernel does for a process that is killed.
    pub fn kill(mut self) -> SocketAddr {
        self.end();
        self.address
    }

    fn end(&mut self) {
        self.counts.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.end();
    }
}

/// std's backlog is short for crowds, and a SYN that finds it full is tried again only after a second.
pub fn deepen(listener: &TcpListener) {
    // SAFETY: a listening socket may be told a new backlog at any time.
    unsafe { libc::listen(listener.as_raw_fd(), 4096) };
}

/// FIN or, with bytes unread, RST becomes RST in any case.
pub fn reset_on_close(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the option's value is the struct it asks for, and outlives the call.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as u32,
        )
    };
    assert_eq!(result, 0);
}

pub struct Epoll(OwnedFd);

impl Epoll {
    pub fn new() -> Self {
        // SAFETY: the number is fresh and owned by nobody else.
        Self(unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC)) })
    }

    pub fn add(&self, fd: RawFd, events: i32, data: u64) {
        self.control(libc::EPOLL_CTL_ADD, fd, events, data);
    }
    pub fn change(&self, fd: RawFd, events: i32, data: u64) {
        self.control(libc::EPOLL_CTL_MOD, fd, events, data);
    }

    fn control(&self, op: i32, fd: RawFd, events: i32, data: u64) {
        let mut event = libc::epoll_event { events: events as u32, u64: data };
        // SAFETY: the struct outlives the call.
        let result = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), op, fd, &raw mut event) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }

    /// (data, events) of what is ready.
    pub fn wait(&self, timeout_ms: i32) -> Vec<(u64, i32)> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 256];
        // SAFETY: room for as many events as is said.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), 256, timeout_ms) };
        events[..count.max(0) as usize].iter().map(|event| (event.u64, event.events as i32)).collect()
    }
}

struct Peer {
    stream: TcpStream,
    unsent: Vec<u8>,
    ended: bool,
}

struct Loop {
    epoll: Epoll,
    listener: TcpListener,
    behaviour: Behaviour,
    counts: Arc<Counts>,
    peers: HashMap<u64, Peer>,
}

const LISTENER: u64 = u64::MAX;

impl Loop {
    fn new(listener: TcpListener, behaviour: Behaviour, counts: Arc<Counts>) -> Self {
        let epoll = Epoll::new();
        listener.set_nonblocking(true).unwrap();
        epoll.add(listener.as_raw_fd(), libc::EPOLLIN, LISTENER);
        Self { epoll, listener, behaviour, counts, peers: HashMap::new() }
    }

    fn run(mut self) {
        while !self.counts.stop.load(Relaxed) {
            for (data, _) in self.epoll.wait(10) {
                if data == LISTENER {
                    self.accept();
                } else if !self.serve(data) {
                    self.peers.remove(&data);
                }
            }
            self.counts.open.store(self.peers.len(), Relaxed);
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            self.counts.accepted.fetch_add(1, Relaxed);
            if self.behaviour == Behaviour::Reset {
                reset_on_close(&stream);
                continue;
            }
            stream.set_nonblocking(true).unwrap();
            let key = stream.as_raw_fd() as u64;
            if self.behaviour == Behaviour::Echo {
                let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET;
                self.epoll.add(stream.as_raw_fd(), events, key);
            } else {
                self.epoll.add(stream.as_raw_fd(), libc::EPOLLRDHUP, key);
            }
            self.peers.insert(key, Peer { stream, unsent: Vec::new(), ended: false });
        }
    }

    /// `false`: it is over.
    fn serve(&mut self, key: u64) -> bool {
        let Some(peer) = self.peers.get_mut(&key) else { return true };
        self.behaviour == Behaviour::Echo && peer.echo().unwrap_or(false)
    }
}

impl Peer {
    fn echo(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 16 * 1024];
        loop {
            while !self.unsent.is_empty() {
                match self.stream.write(&self.unsent) {
                    Ok(count) => drop(self.unsent.drain(..count)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                    Err(error) => return Err(error),
                }
            }
            if self.ended {
                return Ok(false);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => self.ended = true,
                Ok(count) => self.unsent.extend(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }
}
