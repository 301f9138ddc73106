//! The client of the scenarios that are measured by CPU: one thread, epoll, a closed loop.
//!
//! It reads the machine's CPU time at both ends of the measured window itself, so that starting, warming up and
//! closing are not in it, and prints one [`Measured`] as JSON.

use super::Flags;
use super::origin::{ECHO, GENERATE, MESSAGE_BYTES, ONCE};
use super::results::{Cpu, Measured, Protocol};
use anyhow::{Context, Result, bail};
use fourfold_testkit::poll::{self, Epoll, Interest, Ready};
use fourfold_testkit::stat;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const WARM_UP: Duration = Duration::from_millis(400);
const READ_BYTES: usize = 256 * 1024;
const EVENTS_PER_WAIT: usize = 256;
/// More failures than this and the figure means nothing.
const FAILURES_MAX: u64 = 1_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Small,
    New,
    Bulk,
    /// Requests over connections that are kept.
    Http,
    /// A connection for each request.
    HttpNew,
    /// Messages, once the handshake is done.
    WebSocket,
}

impl Kind {
    /// Every operation has a connection of its own.
    fn renews(self) -> bool {
        matches!(self, Kind::New | Kind::HttpNew)
    }
}

/// Payload of a WebSocket message.
const WS_BYTES: usize = 32;

/// What is sent for each operation of `scenario` against an origin of `protocol`.
fn operation(scenario: &str, protocol: Protocol) -> Result<(Kind, Vec<u8>)> {
    let request =
        |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: bench\r\n{more}\r\n").into_bytes();
    let message = |first: u8| {
        let mut message = vec![b'.'; MESSAGE_BYTES];
        message[0] = first;
        message
    };
    Ok(match (protocol, scenario) {
        (Protocol::Tcp, "small") => (Kind::Small, message(ECHO)),
        (Protocol::Tcp, "new") => (Kind::New, message(ONCE)),
        (Protocol::Tcp, name) if name.starts_with("bulk") => (Kind::Bulk, message(GENERATE)),
        (Protocol::Http, "small") => (Kind::Http, request("/", "")),
        (Protocol::Http, "10k") => (Kind::Http, request("/bytes/10240", "")),
        (Protocol::Http, "new") => (Kind::HttpNew, request("/", "Connection: close\r\n")),
        // A binary frame, masked with zeros.
        (Protocol::Http, "ws") => {
            let head = [0x82, 0x80 | WS_BYTES as u8, 0, 0, 0, 0];
            (Kind::WebSocket, [&head[..], &[b'w'; WS_BYTES]].concat())
        }
        (_, other) => {
            bail!("--scenario small|new|bulk or, with --protocol http, small|10k|new|ws, not {other:?}")
        }
    })
}

const HANDSHAKE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

pub fn run(flags: &Flags) -> Result<()> {
    let protocol = if flags.text("protocol") == Some("http") { Protocol::Http } else { Protocol::Tcp };
    let (kind, message) = operation(flags.text("scenario").unwrap_or_default(), protocol)?;
    let watched: Vec<u32> = flags
        .list("watch")
        .unwrap_or_default()
        .iter()
        .map(|pid| pid.parse().context("--watch"))
        .collect::<Result<_>>()?;
    let length = Duration::from_secs_f64(flags.get("seconds")?.unwrap_or(3.0));
    poll::raise_descriptor_limit()?;
    let mut client =
        Client::new((kind, message), flags.need("to")?, flags.get("connections")?.unwrap_or(64))?;
    client.run_for(WARM_UP)?;
    let before = Window::open(&watched)?;
    client.count = Count::default();
    client.run_for(length)?;
    let measured = before.close(&watched, &mut client.count)?;
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

/// What was counted in the window.
#[derive(Default)]
struct Count {
    operations: u64,
    bytes: u64,
    failures: u64,
    latencies_us: Vec<u32>,
}

impl Count {
    fn percentile_us(&mut self, percent: usize) -> u32 {
        self.latencies_us.sort_unstable();
        let rank = (self.latencies_us.len() * percent).div_ceil(100).max(1);
        self.latencies_us.get(rank - 1).copied().unwrap_or(0)
    }
}

struct Window {
    began: Instant,
    ticks: stat::CpuTicks,
    processes_ns: u64,
}

impl Window {
    fn open(watched: &[u32]) -> Result<Window> {
        Ok(Window { began: Instant::now(), ticks: stat::cpu_ticks()?, processes_ns: processes_ns(watched) })
    }

    fn close(self, watched: &[u32], count: &mut Count) -> Result<Measured> {
        let ticks = stat::cpu_ticks()? - self.ticks;
        Ok(Measured {
            operations: count.operations,
            bytes: count.bytes,
            failures: count.failures,
            seconds: self.began.elapsed().as_secs_f64(),
            cpu: Cpu::from_ticks(ticks),
            processes_seconds: processes_ns(watched).saturating_sub(self.processes_ns) as f64 / 1e9,
            p50_us: count.percentile_us(50),
            p99_us: count.percentile_us(99),
        })
    }
}

/// CPU time of the watched processes and of our own. A process that has ended counts nothing.
fn processes_ns(watched: &[u32]) -> u64 {
    watched.iter().chain([&std::process::id()]).filter_map(|pid| stat::process_cpu_ns(*pid).ok()).sum()
}

struct Connection {
    stream: TcpStream,
    connecting: bool,
    /// Bytes of the answer that are still to come.
    awaited: usize,
    /// The beginning of an answer, or of a handshake's, while its head is not whole.
    head: Vec<u8>,
    in_head: bool,
    /// When the operation began: the connect in `new`, so that the handshake counts as its user would count it, else the
    /// request.
    began: Instant,
}

struct Client {
    kind: Kind,
    to: SocketAddr,
    epoll: Epoll,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
    message: Vec<u8>,
    /// Next source for a new connection. Starts anywhere: a run must not meet the tuples of the one before.
    source: u64,
    count: Count,
}

impl Client {
    fn new((kind, message): (Kind, Vec<u8>), to: SocketAddr, connections: usize) -> Result<Client> {
        let source = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        let mut client = Client {
            kind,
            to,
            epoll: Epoll::new(EVENTS_PER_WAIT)?,
            connections: Vec::new(),
            buffer: vec![0; READ_BYTES],
            message,
            source,
            count: Count::default(),
        };
        for slot in 0..connections {
            let connection = client.open(slot)?;
            client.connections.push(connection);
        }
        Ok(client)
    }

    fn open(&mut self, slot: usize) -> Result<Connection> {
        self.source += 1;
        let stream = poll::connect_start(self.to, Some(poll::loopback_source(self.source)))?;
        self.epoll.add(&stream, slot as u64, Interest::Write)?;
        Ok(Connection {
            stream,
            connecting: true,
            awaited: 0,
            head: Vec::new(),
            in_head: false,
            began: Instant::now(),
        })
    }

    fn run_for(&mut self, length: Duration) -> Result<()> {
        let end = Instant::now() + length;
        let mut ready: Vec<Ready> = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.epoll.wait(&mut ready, Some(left))?;
            for event in &ready {
                self.drive(event.token as usize)?;
            }
        }
    }

    fn drive(&mut self, slot: usize) -> Result<()> {
        let Err(error) = self.advance(slot) else { return Ok(()) };
        self.count.failures += 1;
        if !self.kind.renews() || self.count.failures > FAILURES_MAX {
            return Err(error.context(format!("connection {slot} to {}", self.to)));
        }
        self.renew(slot)
    }

    /// The old connection closes as it is replaced.
    fn renew(&mut self, slot: usize) -> Result<()> {
        self.connections[slot] = self.open(slot)?;
        Ok(())
    }

    fn advance(&mut self, slot: usize) -> Result<()> {
        let connection = &mut self.connections[slot];
        if connection.connecting {
            if let Some(error) = connection.stream.take_error()? {
                return Err(error).context("connect");
            }
            connection.connecting = false;
            if !self.kind.renews() {
                connection.began = Instant::now();
            }
            self.epoll.modify(&connection.stream, slot as u64, Interest::Read)?;
            connection.in_head = true;
            return match self.kind {
                Kind::WebSocket => connection.stream.write_all(HANDSHAKE).context("write"),
                _ => self.send(slot),
            };
        }
        let read = match connection.stream.read(&mut self.buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("read"),
        };
        self.count.bytes += read as u64;
        match self.kind {
            Kind::Bulk if read == 0 => bail!("the origin closed"),
            Kind::Bulk => Ok(()),
            Kind::Small => self.answered(slot, read),
            Kind::New => self.answered_once(slot, read),
            Kind::Http => match self.connections[slot].take_answer(&self.buffer[..read])? {
                true => self.next(slot),
                false => Ok(()),
            },
            Kind::HttpNew if read > 0 => self.connections[slot].take_answer(&self.buffer[..read]).map(drop),
            Kind::HttpNew if self.connections[slot].is_whole() => self.next_connection(slot),
            Kind::HttpNew => bail!("the answer was cut short"),
            Kind::WebSocket if self.connections[slot].in_head => self.take_handshake(slot, read),
            Kind::WebSocket => self.answered(slot, read),
        }
    }

    fn take_handshake(&mut self, slot: usize, read: usize) -> Result<()> {
        let connection = &mut self.connections[slot];
        connection.head.extend_from_slice(&self.buffer[..read]);
        if read > 0 && !connection.head.ends_with(b"\r\n\r\n") {
            return Ok(());
        }
        if !connection.head.starts_with(b"HTTP/1.1 101 ") {
            bail!("not upgraded: {}", String::from_utf8_lossy(&connection.head));
        }
        connection.began = Instant::now();
        self.send(slot)
    }

    /// Sends a request or message; what is awaited then.
    fn send(&mut self, slot: usize) -> Result<()> {
        let connection = &mut self.connections[slot];
        connection.head.clear();
        (connection.awaited, connection.in_head) = match self.kind {
            Kind::Small | Kind::New | Kind::Bulk => (self.message.len(), false),
            Kind::Http | Kind::HttpNew => (0, true),
            // A server's frames have no mask.
            Kind::WebSocket => (2 + WS_BYTES, false),
        };
        connection.stream.write_all(&self.message).context("write")
    }

    /// The answer is whole: the next request.
    fn next(&mut self, slot: usize) -> Result<()> {
        let began = std::mem::replace(&mut self.connections[slot].began, Instant::now());
        self.send(slot)?;
        self.completed(began);
        Ok(())
    }

    fn next_connection(&mut self, slot: usize) -> Result<()> {
        let began = self.connections[slot].began;
        self.renew(slot)?;
        self.completed(began);
        Ok(())
    }

    fn answered(&mut self, slot: usize, read: usize) -> Result<()> {
        let connection = &mut self.connections[slot];
        if read == 0 || read > connection.awaited {
            bail!("{read} bytes where {} were awaited", connection.awaited);
        }
        connection.awaited -= read;
        if connection.awaited > 0 {
            return Ok(());
        }
        self.next(slot)
    }

    /// An operation is complete when the origin's end of the connection has come through.
    fn answered_once(&mut self, slot: usize, read: usize) -> Result<()> {
        let connection = &mut self.connections[slot];
        if read > connection.awaited || (read == 0 && connection.awaited > 0) {
            bail!("{read} bytes where {} were awaited", connection.awaited);
        }
        connection.awaited -= read;
        if read > 0 {
            return Ok(());
        }
        self.next_connection(slot)
    }

    fn completed(&mut self, began: Instant) {
        self.count.operations += 1;
        self.count.latencies_us.push(began.elapsed().as_micros().min(u128::from(u32::MAX)) as u32);
    }
}

impl Connection {
    /// Takes bytes of an answer over HTTP that says its length; whether they complete it.
    fn take_answer(&mut self, bytes: &[u8]) -> Result<bool> {
        if bytes.is_empty() {
            bail!("closed before the answer was whole");
        }
        let received = match self.in_head {
            false => bytes.len(),
            true => {
                self.head.extend_from_slice(bytes);
                let Some(end) = self.head.windows(4).position(|window| window == b"\r\n\r\n") else {
                    return Ok(false);
                };
                self.awaited = content_length(&self.head[..end])?;
                self.in_head = false;
                self.head.len() - end - 4
            }
        };
        self.awaited = self.awaited.checked_sub(received).context("more bytes than the answer has")?;
        Ok(self.is_whole())
    }

    fn is_whole(&self) -> bool {
        !self.in_head && self.awaited == 0
    }
}

/// Of an answer with status 200.
fn content_length(head: &[u8]) -> Result<usize> {
    let text = std::str::from_utf8(head).context("a head that is not text")?;
    let mut lines = text.split("\r\n");
    if !lines.next().is_some_and(|line| line.starts_with("HTTP/1.1 200 ")) {
        bail!("not the answer that was asked for: {text}");
    }
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
    });
    length.with_context(|| format!("an answer without its length: {text}"))?.context("content-length")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::origin;

    #[test]
    fn every_kind_gets_answers_from_the_origin() {
        let address = origin::tests::start();
        for scenario in ["small", "new", "bulk-1"] {
            let mut client = Client::new(operation(scenario, Protocol::Tcp).unwrap(), address, 4).unwrap();
            while client.count.bytes < 10_000 {
                client.run_for(Duration::from_millis(20)).unwrap();
            }
            assert_eq!(client.count.failures, 0);
            assert_eq!(client.count.operations > 0, client.kind != Kind::Bulk);
            assert_eq!(client.count.latencies_us.len() as u64, client.count.operations);
        }
    }

    /// Answers everything on every connection, a byte at a time, so that heads and bodies come in pieces.
    fn dripping(answer: &'static [u8], request_ends: &'static [u8], close: bool) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || {
                    let (mut request, mut byte) = (Vec::new(), [0]);
                    stream.set_nodelay(true).unwrap();
                    while stream.read_exact(&mut byte).is_ok() {
                        request.push(byte[0]);
                        if !request.ends_with(request_ends) {
                            continue;
                        }
                        for byte in answer {
                            let _ = stream.write_all(&[*byte]);
                        }
                        request.clear();
                        if close {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    #[test]
    fn answers_over_http_are_read_in_any_pieces() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nX: y\r\n\r\nhello";
        for (scenario, close) in [("small", false), ("10k", false), ("new", true)] {
            let address = dripping(answer, b"\r\n\r\n", close);
            let mut client = Client::new(operation(scenario, Protocol::Http).unwrap(), address, 2).unwrap();
            while client.count.operations < 5 {
                client.run_for(Duration::from_millis(20)).unwrap();
            }
            assert_eq!(client.count.failures, 0, "{scenario}");
        }
        let wrong = dripping(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", b"\r\n\r\n", false);
        let mut client = Client::new(operation("small", Protocol::Http).unwrap(), wrong, 1).unwrap();
        let error = (0..1_000).find_map(|_| client.run_for(Duration::from_millis(20)).err()).unwrap();
        assert!(format!("{error:#}").contains("404"), "{error:#}");
    }
}
