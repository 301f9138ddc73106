//! Many clients in one thread, each of which sends a token of its own and holds once it has come back.

use super::DEADLINE;
use super::origin::Epoll;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::Instant;

/// How a client's connection came to its end without its doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Reset,
    Refused,
    Closed,
    /// Something else came back than was sent.
    Wrong,
    Other(i32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Connecting,
    /// So many bytes of the token have come back.
    Asked(usize),
    Held,
    Ended(End),
    Left,
}

struct Client {
    stream: Option<TcpStream>,
    state: State,
    token: [u8; 8],
}

pub struct Crowd {
    epoll: Epoll,
    target: SocketAddr,
    source: Option<SocketAddr>,
    clients: Vec<Client>,
    rounds: u64,
}

/// How many are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub connecting: usize,
    pub asking: usize,
    pub held: usize,
    pub reset: usize,
    pub refused: usize,
    /// Ended in any other way.
    pub odd: usize,
}

impl Tally {
    pub fn undecided(&self) -> usize {
        self.connecting + self.asking
    }
}

impl Crowd {
    pub fn at(target: SocketAddr) -> Self {
        Self { epoll: Epoll::new(), target, source: None, clients: Vec::new(), rounds: 0 }
    }

    /// Clients come from this address, so that their ports are not those of the proxy.
    pub fn from(target: SocketAddr, source: &str) -> Self {
        Self { source: Some(SocketAddr::new(source.parse().unwrap(), 0)), ..Self::at(target) }
    }

    /// A test that has to know how they fare calls [`Self::until`].
    pub fn open(&mut self, count: usize) {
        for _ in 0..count {
            let index = self.clients.len() as u64;
            let token = (index << 20 | 0xF0F0F).to_le_bytes();
            let (stream, state) = match connect(self.target, self.source) {
                Ok(stream) => {
                    let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
                    self.epoll.add(stream.as_raw_fd(), events, index);
                    (Some(stream), State::Connecting)
                }
                Err(error) => (None, State::Ended(end_of(&error))),
            };
            self.clients.push(Client { stream, state, token });
            if index % 64 == 63 {
                self.pump(0);
            }
        }
    }

    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for client in &self.clients {
            match client.state {
                State::Connecting => tally.connecting += 1,
                State::Asked(_) => tally.asking += 1,
                State::Held => tally.held += 1,
                State::Ended(End::Reset) => tally.reset += 1,
                State::Ended(End::Refused) => tally.refused += 1,
                State::Ended(_) => tally.odd += 1,
                State::Left => {}
            }
        }
        tally
    }

    /// Index of those that ended in a way that no test expects, and how.
    pub fn strange_ends(&self) -> Vec<(usize, End)> {
        let end = |(index, client): (usize, &Client)| match client.state {
            State::Ended(End::Reset | End::Refused) => None,
            State::Ended(end) => Some((index, end)),
            _ => None,
        };
        self.clients.iter().enumerate().filter_map(end).collect()
    }

    /// Moves bytes until `holds`.
    #[track_caller]
    pub fn until(&mut self, what: &str, holds: impl Fn(&Tally) -> bool) -> Tally {
        let began = Instant::now();
        loop {
            self.pump(10);
            let tally = self.tally();
            if holds(&tally) {
                return tally;
            }
            assert!(
                began.elapsed() < DEADLINE,
                "gave up waiting: {what}; {tally:?} {:?}",
                self.strange_ends()
            );
        }
    }

    pub fn pump(&mut self, timeout_ms: i32) {
        loop {
            let ready = self.epoll.wait(timeout_ms);
            for (index, _) in &ready {
                self.clients[*index as usize].advance();
            }
            if ready.len() < 256 {
                return;
            }
        }
    }

    /// All that hold send another token and must get it back.
    pub fn ask_again(&mut self) {
        self.rounds += 1;
        for (index, client) in self.clients.iter_mut().enumerate() {
            if client.state == State::Held {
                client.token = ((index as u64) << 20 | self.rounds << 48 | 0x0A5A5).to_le_bytes();
                client.ask();
            }
        }
    }

    /// So many of those that hold close in order.
    pub fn leave(&mut self, count: usize) {
        self.depart(count, |_| {});
    }

    /// The same with RST.
    pub fn break_off(&mut self, count: usize) {
        self.depart(count, super::origin::reset_on_close);
    }

    /// Those that have asked and not been answered reset.
    pub fn give_up(&mut self) {
        for client in self.clients.iter_mut().filter(|client| matches!(client.state, State::Asked(_))) {
            client.stream.iter().for_each(super::origin::reset_on_close);
            (client.stream, client.state) = (None, State::Left);
        }
    }

    fn depart(&mut self, count: usize, how: impl Fn(&TcpStream)) {
        for client in self.clients.iter_mut().filter(|client| client.state == State::Held).take(count) {
            client.stream.iter().for_each(&how);
            (client.stream, client.state) = (None, State::Left);
        }
    }
}

impl Client {
    fn advance(&mut self) {
        if self.state == State::Connecting {
            match self.stream.as_ref().map(TcpStream::take_error) {
                Some(Ok(None)) if self.is_connected() => self.ask(),
                Some(Ok(Some(error)) | Err(error)) => self.end(end_of(&error)),
                _ => return,
            }
        }
        self.listen();
    }

    fn is_connected(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.peer_addr().is_ok())
    }

    fn ask(&mut self) {
        self.state = State::Asked(0);
        let Some(stream) = &mut self.stream else { return };
        match stream.write(&self.token) {
            Ok(8) => {}
            Ok(_) => self.end(End::Wrong),
            Err(error) => self.end(end_of(&error)),
        }
    }

    fn listen(&mut self) {
        let mut chunk = [0; 64];
        while let Some(stream) = &mut self.stream {
            match stream.read(&mut chunk) {
                Ok(0) => self.end(End::Closed),
                Ok(count) => self.compare(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => self.end(end_of(&error)),
            }
        }
    }

    fn compare(&mut self, bytes: &[u8]) {
        let have = if let State::Asked(have) = self.state { have } else { self.token.len() };
        let have_now = have + bytes.len();
        if self.token.get(have..have_now) != Some(bytes) {
            eprintln!("{:?}: {have} bytes of {:x?} were there, then came {bytes:x?}", self.state, self.token);
            return self.end(End::Wrong);
        }
        self.state = if have_now == self.token.len() { State::Held } else { State::Asked(have_now) };
    }

    fn end(&mut self, end: End) {
        (self.stream, self.state) = (None, State::Ended(end));
    }
}

fn end_of(error: &io::Error) -> End {
    match error.raw_os_error() {
        Some(libc::ECONNRESET | libc::EPIPE) => End::Reset,
        Some(libc::ECONNREFUSED) => End::Refused,
        other => End::Other(other.unwrap_or(0)),
    }
}

/// Starts connecting, from `source` and its port unless that is 0; epoll tells when it is done.
pub fn connect(target: SocketAddr, source: Option<SocketAddr>) -> io::Result<TcpStream> {
    let family = if target.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the number is fresh and owned by nobody else.
    let stream = unsafe { TcpStream::from_raw_fd(fd) };
    let call = |address: SocketAddr, call: unsafe extern "C" fn(i32, *const libc::sockaddr, u32) -> i32| {
        let (storage, length) = raw_address(address);
        // SAFETY: bind and connect read `length` bytes of a storage that outlives them.
        let result = unsafe { call(fd, (&raw const storage).cast(), length) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    if let Some(source) = source {
        let on: i32 = 1;
        // SAFETY: the option's value is an int that outlives the call.
        unsafe {
            libc::setsockopt(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, (&raw const on).cast(), 4)
        };
        call(source, libc::bind)?;
    }
    match call(target, libc::connect) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(stream),
    }
}

fn raw_address(address: SocketAddr) -> (libc::sockaddr_storage, u32) {
    // SAFETY: all zero is a valid storage.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let length = match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: the storage is large and aligned enough for every address.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(raw) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as u16,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(raw) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as u32)
}

/// The client's machine loses power: its end is gone and nobody is told.
pub fn vanish(stream: TcpStream) {
    silence(&stream);
}

/// Once closed, the socket is gone and nobody is told.
pub fn silence(stream: &TcpStream) {
    let on: i32 = 1;
    // SAFETY: the option's value is an int that outlives the call.
    let result = unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_REPAIR, (&raw const on).cast(), 4)
    };
    assert_eq!(result, 0, "TCP_REPAIR: {}", io::Error::last_os_error());
}
