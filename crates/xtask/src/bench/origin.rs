//! The origin of every measurement. The first byte of a connection says what it does with it:
//!
//! | byte | behaviour |
//! |---|---|
//! | [`ECHO`] | sends back what it gets until the peer closes |
//! | [`ONCE`] | sends back one message and closes first, so that TIME_WAIT stays here and no subject runs out of ports |
//! | [`GENERATE`] | sends as fast as it is read |

use super::Flags;
use anyhow::{Context, Result, anyhow};
use fourfold_testkit::poll::{self, Epoll, Interest, Ready};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

pub const ECHO: u8 = b'E';
pub const ONCE: u8 = b'O';
pub const GENERATE: u8 = b'G';

/// One message of the scenarios `small` and `new`.
pub const MESSAGE_BYTES: usize = 64;

const READ_BYTES: usize = 64 * 1024;
const GENERATE_BYTES: usize = 256 * 1024;
/// Writes of one generator before others get their turn.
const WRITES_PER_TURN: usize = 4;
const EVENTS_PER_WAIT: usize = 256;
const LISTENER: u64 = u64::MAX;

pub fn run(flags: &Flags) -> Result<()> {
    let address: SocketAddr = flags.need("listen")?;
    let threads: usize = flags.get("threads")?.unwrap_or(1);
    poll::raise_descriptor_limit()?;
    if threads == 1 {
        return Worker::new(address)?.serve();
    }
    let workers = (0..threads).map(|_| {
        thread::spawn(move || {
            poll::own_descriptor_table()?;
            Worker::new(address)?.serve()
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.join().map_err(|_| anyhow!("a thread of the origin panicked"))??;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Nothing has come yet.
    New,
    Echo,
    Once,
    Generate,
}

struct Connection {
    stream: TcpStream,
    mode: Mode,
    /// What the peer was too slow to take. While it is not empty nothing is read.
    unsent: Vec<u8>,
}

struct Worker {
    epoll: Epoll,
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
}

impl Worker {
    fn new(address: SocketAddr) -> Result<Worker> {
        let listener = poll::listen_shared(address)?;
        let epoll = Epoll::new(EVENTS_PER_WAIT)?;
        epoll.add(&listener, LISTENER, Interest::Read)?;
        let buffer = vec![0; GENERATE_BYTES.max(READ_BYTES)];
        Ok(Worker { epoll, listener, connections: Vec::new(), free: Vec::new(), buffer })
    }

    fn serve(&mut self) -> Result<()> {
        let mut ready: Vec<Ready> = Vec::new();
        loop {
            self.epoll.wait(&mut ready, None)?;
            for event in &ready {
                match event.token {
                    LISTENER => self.accept()?,
                    slot => self.drive(slot as usize),
                }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                // Out of descriptors: the benchmark was sized wrongly, and going on would spin.
                Err(error) => return Err(error).context("origin: accept"),
            };
            stream.set_nonblocking(true)?;
            let slot = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.epoll.add(&stream, slot as u64, Interest::Read)?;
            if let Some(place) = self.connections.get_mut(slot) {
                *place = Some(Connection { stream, mode: Mode::New, unsent: Vec::new() });
            }
        }
    }

    fn drive(&mut self, slot: usize) {
        let Some(Some(connection)) = self.connections.get_mut(slot) else { return };
        if connection.drive(&mut self.buffer, &self.epoll, slot as u64).is_err() {
            self.connections[slot] = None;
            self.free.push(slot);
        }
    }
}

impl Connection {
    /// `Err` when the connection is over, whatever the reason: the client judges what it got.
    fn drive(&mut self, buffer: &mut [u8], epoll: &Epoll, token: u64) -> Result<()> {
        if self.mode == Mode::Generate {
            return self.generate(buffer);
        }
        if !self.unsent.is_empty() {
            let unsent = std::mem::take(&mut self.unsent);
            self.send(&unsent, epoll, token)?;
            if !self.unsent.is_empty() {
                return Ok(());
            }
            epoll.modify(&self.stream, token, Interest::Read)?;
        }
        let read = match self.stream.read(&mut buffer[..READ_BYTES]) {
            Ok(0) => return Err(anyhow!("end")),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.choose_mode(buffer[0], epoll, token)?;
        match self.mode {
            Mode::Generate => self.generate(buffer),
            Mode::Once => {
                self.stream.write_all(&buffer[..read])?;
                self.stream.shutdown(Shutdown::Both)?;
                Err(anyhow!("done"))
            }
            Mode::Echo | Mode::New => self.send(&buffer[..read], epoll, token),
        }
    }

    fn choose_mode(&mut self, first: u8, epoll: &Epoll, token: u64) -> Result<()> {
        if self.mode != Mode::New {
            return Ok(());
        }
        self.mode = match first {
            ONCE => Mode::Once,
            GENERATE => Mode::Generate,
            _ => Mode::Echo,
        };
        if self.mode == Mode::Generate {
            epoll.modify(&self.stream, token, Interest::Write)?;
        }
        Ok(())
    }

    fn generate(&mut self, buffer: &[u8]) -> Result<()> {
        for _ in 0..WRITES_PER_TURN {
            match self.stream.write(buffer) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8], epoll: &Epoll, token: u64) -> Result<()> {
        let sent = match self.stream.write(bytes) {
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error.into()),
        };
        if sent < bytes.len() {
            self.unsent = bytes[sent..].to_vec();
            epoll.modify(&self.stream, token, Interest::Write)?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use fourfold_testkit::{Client, Reserved};
    use std::time::Duration;

    /// An origin that lives as long as the test program.
    pub fn start() -> SocketAddr {
        let address = Reserved::loopback().unwrap().release();
        let mut worker = Worker::new(address).unwrap();
        thread::spawn(move || worker.serve());
        address
    }

    #[test]
    fn a_message_larger_than_any_buffer_comes_back_whole() {
        let mut client = Client::connect(start(), Duration::from_secs(60)).unwrap();
        let message = [&[ECHO], vec![7; 8 << 20].as_slice()].concat();
        let mut reader = client.stream().try_clone().unwrap();
        let length = message.len();
        let reading = thread::spawn(move || {
            let mut answer = vec![0; length];
            reader.read_exact(&mut answer).map(|()| answer)
        });
        client.stream().write_all(&message).unwrap();
        assert!(reading.join().unwrap().unwrap() == message);
    }

    #[test]
    fn once_means_that_the_origin_closes_first() {
        let mut client = Client::connect(start(), Duration::from_secs(60)).unwrap();
        assert_eq!(client.round_trip(&[ONCE; 64]).unwrap(), [ONCE; 64]);
        assert_eq!(client.stream().read(&mut [0]).unwrap(), 0);
    }
}
