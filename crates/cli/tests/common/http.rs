//! HTTP with every byte in hand: an origin that follows a script and keeps what it was sent, and a client that says what the
//! test says.

use super::DEADLINE;
use super::crowd::silence;
use super::lab::{eventually, free_port};
use super::origin::{deepen, reset_on_close};
use super::program::{Config, Engine, Program};
use super::strict::{Message, Read as Parsed, read_request, read_requests, read_response};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A listener in http mode, and nothing added to heads unless the test wants it.
pub fn plain(engine: Engine, servers: &[SocketAddr]) -> Config {
    let config = Config::to(engine, servers).top("shards = 1").listener("mode = \"http\"");
    config.listener("forwarded = \"off\"\nrequest_id = \"off\"\nexplain_errors = true")
}

#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    /// What came over each connection, in the order in which they were accepted.
    lines: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
    streams: Mutex<HashMap<usize, TcpStream>>,
    ended: AtomicUsize,
}

/// A server that does for every connection what its script says, each in a thread of its own. The connection is closed when
/// the script is at its end.
pub struct Scripted {
    pub address: SocketAddr,
    seen: Arc<Seen>,
    /// The thread's, to be woken by.
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Scripted {
    pub fn start(script: impl Fn(&mut Line) + Send + Sync + 'static) -> Self {
        Self::at(free_port("127.0.0.1".parse().unwrap()), script)
    }

    pub fn at(address: SocketAddr, script: impl Fn(&mut Line) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        deepen(&listener);
        let waker = listener.try_clone().unwrap();
        let (seen, script) = (Arc::new(Seen::default()), Arc::new(script));
        let accepts = Arc::clone(&seen);
        let thread = std::thread::spawn(move || {
            for number in 0.. {
                let Ok((stream, _)) = listener.accept() else { return };
                if accepts.stop.load(Relaxed) {
                    return;
                }
                let record = Arc::new(Mutex::new(Vec::new()));
                lock(&accepts.lines).push(Arc::clone(&record));
                lock(&accepts.streams).insert(number, stream.try_clone().unwrap());
                let (script, accepts) = (Arc::clone(&script), Arc::clone(&accepts));
                std::thread::spawn(move || {
                    let mut line = Line { number, stream: patient(stream), unread: Vec::new(), record };
                    script(&mut line);
                    // The clone that is kept to end all would hold it open.
                    lock(&accepts.streams).remove(&number);
                    drop(line);
                    accepts.ended.fetch_add(1, Relaxed);
                });
            }
        });
        Self { address, seen, listener: waker, thread: Some(thread) }
    }

    /// Answers every request with 200 and its number on the connection, method, target and content.
    pub fn echo() -> Self {
        Self::start(echo_script)
    }

    /// Connections whose script is at its end.
    pub fn ended(&self) -> usize {
        self.seen.ended.load(Relaxed)
    }

    /// Resets every connection.
    pub fn reset_all(&self) {
        for stream in lock(&self.seen.streams).values() {
            reset_on_close(stream);
            let _ = stream.shutdown(Shutdown::Read);
        }
        eventually("every script ends", || lock(&self.seen.streams).is_empty().then_some(()));
    }

    pub fn connections(&self) -> usize {
        lock(&self.seen.lines).len()
    }

    /// Where connections came from, in the order in which they were accepted.
    pub fn peers(&self) -> Vec<SocketAddr> {
        lock(&self.seen.streams).iter().map(|stream| stream.1.peer_addr().unwrap()).collect()
    }

    /// Every byte that came over a connection.
    pub fn received(&self, connection: usize) -> Vec<u8> {
        lock(&self.seen.lines).get(connection).map(|record| lock(record).clone()).unwrap_or_default()
    }

    /// All that came, as requests; whatever is not one fails the test.
    #[track_caller]
    pub fn requests(&self) -> Vec<Message> {
        let read = |number: usize| match read_requests(&self.received(number)) {
            Ok((all, _)) => all,
            Err(why) => panic!("{why}: {}", show(&self.received(number))),
        };
        (0..self.connections()).flat_map(read).collect()
    }
}

pub fn echo_script(line: &mut Line) {
    let mut number = 0;
    while let Some(request) = line.request() {
        number += 1;
        let body = format!("{number} {} {} {}", request.method(), request.target(), request.text());
        line.say(&ok(&body));
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.seen.stop.store(true, Relaxed);
        // Who waits in accept() is told; a connection to it might not get through.
        // SAFETY: no pointers, and the descriptor is ours.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
        lock(&self.seen.streams).values().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A connection as its server has it.
pub struct Line {
    pub number: usize,
    pub stream: TcpStream,
    unread: Vec<u8>,
    record: Arc<Mutex<Vec<u8>>>,
}

impl Line {
    /// The next request, whole. `None`: the connection is at its end, or what came is no request.
    pub fn request(&mut self) -> Option<Message> {
        self.request_as(read_request)
    }

    /// The same by another reader.
    pub fn request_as(&mut self, read: fn(&[u8]) -> Parsed) -> Option<Message> {
        loop {
            match read(&self.unread) {
                Parsed::Whole(message, used) => {
                    self.unread.drain(..used);
                    return Some(*message);
                }
                Parsed::Broken(_) => return None,
                Parsed::Partial if self.more() => {}
                Parsed::Partial => return None,
            }
        }
    }

    /// Waits until so much has come that `text` is in it, and takes all up to its end.
    pub fn until(&mut self, text: &str) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = find(&self.unread, text.as_bytes()) {
                return Some(self.unread.drain(..at + text.len()).collect());
            }
            if !self.more() {
                return None;
            }
        }
    }

    /// What there is. `None`: the end.
    pub fn some(&mut self) -> Option<Vec<u8>> {
        let any = !self.unread.is_empty() || self.more();
        any.then(|| std::mem::take(&mut self.unread))
    }

    /// A head without what follows it.
    pub fn head(&mut self) -> Option<String> {
        self.until("\r\n\r\n").map(|head| String::from_utf8_lossy(&head).into_owned())
    }

    pub fn say(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Until the other side has ended it.
    pub fn outlast(&mut self) {
        while self.more() {}
    }

    /// `false`: the other side takes no more.
    pub fn stream_takes(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Until the kernel has delivered all that was said.
    pub fn settle(&mut self) {
        eventually("what was said has arrived", || {
            let mut unsent: i32 = 0;
            // SAFETY: the ioctl writes an int that outlives the call.
            let result = unsafe { libc::ioctl(self.stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut unsent) };
            (result < 0 || unsent == 0).then_some(())
        });
    }

    /// Reads nothing; waits for the other side to give up.
    pub fn wait_for_reset(&mut self) {
        eventually("the other side gives up", || {
            let mut poll = libc::pollfd { fd: self.stream.as_raw_fd(), events: 0, revents: 0 };
            // SAFETY: one struct, which outlives the call.
            unsafe { libc::poll(&raw mut poll, 1, 0) };
            (poll.revents & (libc::POLLHUP | libc::POLLERR) != 0).then_some(())
        });
    }

    /// The machine crashes as the script ends: nobody is told.
    pub fn crash(&mut self) {
        silence(&self.stream);
    }

    pub fn reset(&mut self) {
        reset_on_close(&self.stream);
    }

    fn more(&mut self) -> bool {
        let mut chunk = [0; 16 << 10];
        let count = read_on(&mut self.stream, &mut chunk).unwrap_or(0);
        lock(&self.record).extend_from_slice(&chunk[..count]);
        self.unread.extend_from_slice(&chunk[..count]);
        count > 0
    }
}

/// A 200 with this content.
pub fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// A client.
pub struct Caller {
    pub stream: TcpStream,
    unread: Vec<u8>,
    ended: bool,
}

impl Caller {
    pub fn to(program: &Program) -> Self {
        Self::at(program.address)
    }

    #[track_caller]
    pub fn at(address: SocketAddr) -> Self {
        Self { stream: patient(TcpStream::connect(address).unwrap()), unread: Vec::new(), ended: false }
    }

    #[track_caller]
    pub fn from(address: SocketAddr, source: SocketAddr) -> Self {
        let stream = super::crowd::connect(address, Some(source)).unwrap();
        stream.set_nonblocking(false).unwrap();
        Self { stream: patient(stream), unread: Vec::new(), ended: false }
    }

    /// What the proxy has closed already takes no more.
    pub fn say(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    pub fn end(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Waits for the next bytes, or the end, for so long.
    pub fn hears_within(&self, time: Duration) -> bool {
        let patience = self.stream.read_timeout().unwrap();
        self.stream.set_read_timeout(Some(time)).unwrap();
        let heard = self.stream.peek(&mut [0]);
        self.stream.set_read_timeout(patience).unwrap();
        !matches!(heard, Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted))
    }

    #[track_caller]
    pub fn get(&mut self, target: &str) -> Message {
        self.say(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        self.reply()
    }

    #[track_caller]
    pub fn reply(&mut self) -> Message {
        self.reply_to("GET")
    }

    #[track_caller]
    pub fn reply_to(&mut self, method: &str) -> Message {
        self.try_reply_to(method).unwrap_or_else(|why| panic!("{why}: {}", show(&self.unread)))
    }

    /// The next response, interim ones too. Or why there is none.
    pub fn try_reply_to(&mut self, method: &str) -> Result<Message, &'static str> {
        loop {
            match read_response(&self.unread, method, self.ended) {
                Parsed::Whole(message, used) => {
                    self.unread.drain(..used);
                    return Ok(*message);
                }
                Parsed::Broken(why) => return Err(why),
                Parsed::Partial if self.ended => return Err("the connection ended before a response did"),
                Parsed::Partial => self.more().map_err(|kind| match kind {
                    ErrorKind::ConnectionReset => "reset",
                    ErrorKind::WouldBlock => "nothing comes",
                    _ => "failed",
                })?,
            }
        }
    }

    fn more(&mut self) -> Result<(), ErrorKind> {
        let mut chunk = [0; 16 << 10];
        let count = read_on(&mut self.stream, &mut chunk)?;
        self.unread.extend_from_slice(&chunk[..count]);
        self.ended |= count == 0;
        Ok(())
    }

    /// So many bytes, as they come.
    #[track_caller]
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.unread.len() < count {
            assert!(!self.ended, "the end after {}", show(&self.unread));
            self.more().unwrap();
        }
        self.unread.drain(..count).collect()
    }

    /// FIN, and nothing before it.
    #[track_caller]
    pub fn expect_end(&mut self) {
        while !self.ended {
            self.more().unwrap();
        }
        assert_eq!(show(&self.unread), "", "bytes that nobody asked for");
    }

    /// RST; the bytes before it are returned.
    #[track_caller]
    pub fn expect_reset(&mut self) -> Vec<u8> {
        loop {
            match self.more() {
                Err(kind) => {
                    assert_eq!(kind, ErrorKind::ConnectionReset);
                    return std::mem::take(&mut self.unread);
                }
                Ok(()) => assert!(!self.ended, "FIN where a reset is due, after {}", show(&self.unread)),
            }
        }
    }
}

/// Blocking, but not for ever; what is written leaves at once.
fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// The kernel may interrupt a read for work of its own, such as the end of an io_uring.
fn read_on(stream: &mut TcpStream, chunk: &mut [u8]) -> Result<usize, ErrorKind> {
    loop {
        match stream.read(chunk) {
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.kind()),
        }
    }
}

/// For people.
pub fn show(bytes: &[u8]) -> String {
    let shown = bytes.len().min(2_000);
    let more = if shown < bytes.len() { format!("… ({} bytes)", bytes.len()) } else { String::new() };
    format!("{}{more}", bytes[..shown].escape_ascii())
}

pub fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Until `origin` has been sent so many whole requests.
#[track_caller]
pub fn await_requests(origin: &Scripted, count: usize) {
    eventually("the origin is asked", || (origin.requests().len() >= count).then_some(()));
}
