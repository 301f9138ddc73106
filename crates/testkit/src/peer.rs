//! The outside world in small: an origin that behaves as told, and a client. One thread per connection; for many
//! connections use [`crate::poll`].

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What an origin does with a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// Sends back every byte; at the end of the input, ends its output.
    Echo,
    /// Accepts and never reads.
    NeverRead,
    /// Reads and never answers.
    Swallow,
    /// Sends this and then echoes.
    Greet(Vec<u8>),
    /// Closes at once, in order.
    Close,
    /// Resets at once.
    Reset,
    /// Sends this and closes, reading nothing.
    SendAndClose(Vec<u8>),
}

/// An origin on a thread. Dropped: it stops accepting and every connection is shut down.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    accepted: AtomicUsize,
    open: Mutex<Vec<TcpStream>>,
}

impl Origin {
    pub fn echo() -> Result<Origin> {
        Origin::on("127.0.0.1:0", Behaviour::Echo)
    }

    pub fn on(address: impl ToSocketAddrs, behaviour: Behaviour) -> Result<Origin> {
        let listener = TcpListener::bind(address).context("origin")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || accept_loop(&listener, &behaviour, &for_thread));
        Ok(Origin { address, shared, acceptor: Some(acceptor) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Shuts down every connection it has, as a restart of a server would; goes on accepting.
    pub fn drop_connections(&self) {
        for stream in self.shared.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // shutdown() of the listener is not in std: a connection wakes accept() instead. Where we cannot reach it (another
        // namespace) the thread stays behind in accept() until the test process ends.
        let woken = TcpStream::connect_timeout(&self.address, Duration::from_millis(200)).is_ok();
        if let Some(thread) = self.acceptor.take().filter(|_| woken) {
            let _ = thread.join();
        }
        self.drop_connections();
    }
}

fn accept_loop(listener: &TcpListener, behaviour: &Behaviour, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        // A failed accept (no descriptors, say) concerns one connection only.
        let Ok(stream) = stream else { continue };
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        if let Ok(copy) = stream.try_clone() {
            shared.open.lock().unwrap_or_else(PoisonError::into_inner).push(copy);
        }
        let (behaviour, shared) = (behaviour.clone(), Arc::clone(shared));
        std::thread::spawn(move || {
            let peer = stream.peer_addr().ok();
            // A peer that goes away is what many tests are about.
            let _ = serve(stream, &behaviour, &shared);
            shared
                .open
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .retain(|open| open.peer_addr().ok() != peer);
        });
    }
}

fn serve(mut stream: TcpStream, behaviour: &Behaviour, shared: &Shared) -> std::io::Result<()> {
    match behaviour {
        Behaviour::Echo => echo(&mut stream),
        Behaviour::Greet(greeting) => {
            stream.write_all(greeting)?;
            echo(&mut stream)
        }
        Behaviour::Swallow => std::io::copy(&mut stream, &mut std::io::sink()).map(drop),
        Behaviour::SendAndClose(bytes) => stream.write_all(bytes),
        Behaviour::Close => Ok(()),
        Behaviour::Reset => crate::poll::reset(stream),
        Behaviour::NeverRead => {
            // The clone in `open` keeps the connection until the origin lets go of it.
            while !shared.stopping.load(Ordering::SeqCst) && stream.take_error()?.is_none() {
                std::thread::park_timeout(Duration::from_millis(50));
            }
            Ok(())
        }
    }
}

fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(Shutdown::Write),
            read => stream.write_all(&buffer[..read])?,
        }
    }
}

/// A blocking client in which every operation has a deadline.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
}

impl Client {
    pub fn connect(address: SocketAddr, deadline: Duration) -> Result<Client> {
        let stream = TcpStream::connect_timeout(&address, deadline)
            .with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(deadline))?;
        stream.set_write_timeout(Some(deadline))?;
        Ok(Client { stream })
    }

    /// Sends `bytes` and reads as many.
    pub fn round_trip(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        self.stream.write_all(bytes).context("send")?;
        let mut answer = vec![0; bytes.len()];
        self.stream.read_exact(&mut answer).context("receive")?;
        Ok(answer)
    }

    /// Says that nothing more will come, and reads what the other side still has.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.stream.shutdown(Shutdown::Write).context("shutdown")?;
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).context("receive to the end")?;
        Ok(rest)
    }

    /// Ends with a reset.
    pub fn reset(self) -> Result<()> {
        crate::poll::reset(self.stream).context("reset")
    }

    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn echo_and_half_close() {
        let origin = Origin::echo().unwrap();
        let mut client = Client::connect(origin.address(), LONG).unwrap();
        assert_eq!(client.round_trip(b"hello").unwrap(), b"hello");
        client.stream().write_all(b"rest").unwrap();
        assert_eq!(client.finish().unwrap(), b"rest");
        assert_eq!(origin.accepted(), 1);
    }

    #[test]
    fn a_reset_is_a_reset_and_a_close_is_a_close() {
        let resets = Origin::on("127.0.0.1:0", Behaviour::Reset).unwrap();
        // The reset may overtake the end of connect().
        let error = match Client::connect(resets.address(), LONG) {
            Ok(mut client) => anyhow::Error::from(client.stream().read(&mut [0]).unwrap_err()),
            Err(error) => error,
        };
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        assert_eq!(kind, Some(std::io::ErrorKind::ConnectionReset), "{error:#}");
        let closes = Origin::on("127.0.0.1:0", Behaviour::SendAndClose(b"bye".to_vec())).unwrap();
        assert_eq!(Client::connect(closes.address(), LONG).unwrap().finish().unwrap(), b"bye");
    }

    #[test]
    fn dropping_an_origin_ends_its_connections() {
        let origin = Origin::on("127.0.0.1:0", Behaviour::NeverRead).unwrap();
        let mut client = Client::connect(origin.address(), LONG).unwrap();
        crate::eventually(LONG, "the accept", || origin.accepted() == 1).unwrap();
        drop(origin);
        assert_eq!(client.stream().read(&mut [0]).unwrap(), 0);
    }
}
