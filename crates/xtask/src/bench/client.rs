//! The client of the scenarios `small`, `new` and `bulk`: one thread, epoll, a closed loop.
//!
//! It reads the machine's CPU time at both ends of the measured window itself, so that starting, warming up and
//! closing are not in it, and prints one [`Measured`] as JSON.

use super::Flags;
use super::origin::{ECHO, GENERATE, MESSAGE_BYTES, ONCE};
use super::results::{Cpu, Measured};
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
}

pub fn run(flags: &Flags) -> Result<()> {
    let kind = match flags.text("scenario") {
        Some("small") => Kind::Small,
        Some("new") => Kind::New,
        Some(name) if name.starts_with("bulk") => Kind::Bulk,
        other => bail!("--scenario small|new|bulk, not {other:?}"),
    };
    let watched: Vec<u32> = flags
        .list("watch")
        .unwrap_or_default()
        .iter()
        .map(|pid| pid.parse().context("--watch"))
        .collect::<Result<_>>()?;
    let length = Duration::from_secs_f64(flags.get("seconds")?.unwrap_or(3.0));
    poll::raise_descriptor_limit()?;
    let mut client = Client::new(kind, flags.need("to")?, flags.get("connections")?.unwrap_or(64))?;
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
    message: [u8; MESSAGE_BYTES],
    /// Next source for a new connection. Starts anywhere: a run must not meet the tuples of the one before.
    source: u64,
    count: Count,
}

impl Client {
    fn new(kind: Kind, to: SocketAddr, connections: usize) -> Result<Client> {
        let mut message = [b'.'; MESSAGE_BYTES];
        message[0] = match kind {
            Kind::Small => ECHO,
            Kind::New => ONCE,
            Kind::Bulk => GENERATE,
        };
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
        Ok(Connection { stream, connecting: true, awaited: 0, began: Instant::now() })
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
        if self.kind != Kind::New || self.count.failures > FAILURES_MAX {
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
            if self.kind != Kind::New {
                connection.began = Instant::now();
            }
            self.epoll.modify(&connection.stream, slot as u64, Interest::Read)?;
            return connection.request(&self.message);
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
        }
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
        let began = std::mem::replace(&mut connection.began, Instant::now());
        connection.request(&self.message)?;
        self.completed(began);
        Ok(())
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
        let began = connection.began;
        self.renew(slot)?;
        self.completed(began);
        Ok(())
    }

    fn completed(&mut self, began: Instant) {
        self.count.operations += 1;
        self.count.latencies_us.push(began.elapsed().as_micros().min(u128::from(u32::MAX)) as u32);
    }
}

impl Connection {
    fn request(&mut self, message: &[u8]) -> Result<()> {
        self.awaited = message.len();
        self.stream.write_all(message).context("write")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::origin;

    #[test]
    fn every_kind_gets_answers_from_the_origin() {
        let address = origin::tests::start();
        for kind in [Kind::Small, Kind::New, Kind::Bulk] {
            let mut client = Client::new(kind, address, 4).unwrap();
            while client.count.bytes < 10_000 {
                client.run_for(Duration::from_millis(20)).unwrap();
            }
            assert_eq!(client.count.failures, 0);
            assert_eq!(client.count.operations > 0, kind != Kind::Bulk);
            assert_eq!(client.count.latencies_us.len() as u64, client.count.operations);
        }
    }
}
