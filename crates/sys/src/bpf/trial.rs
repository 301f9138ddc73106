//! A trial of the kernel splice over loopback: bytes that wait at the switch, both directions, a reader that is slow and a send
//! buffer that is small, the end. What a kernel with known faults does wrong is seen here, not by a user.

use super::{Begun, End, Splicer, Way};
use crate::errno::Errno;
use crate::socket;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// A kernel whose workers are kept from their work for so long would be no gain either.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than a small send buffer holds, and less than a flow may have on its way.
const MANY_BYTES: usize = 768 * 1024;
const SMALL_SEND_BUFFER: u32 = 16 * 1024;

/// Client, our two sockets, server.
struct Line {
    client: TcpStream,
    from_client: TcpStream,
    to_server: TcpStream,
    server: TcpStream,
}

pub(super) fn run(splicer: &mut Splicer) -> Result<(), String> {
    let line = Line::new().map_err(|error| format!("connections over loopback: {error}"))?;
    let keep = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let refused = |errno| format!("sockets cannot be spliced: {errno}");
    let begun = splicer.measure(line.ends()).map_err(refused)?;
    (&line.client).write_all(b"early").map_err(keep("sending"))?;
    let entered = splicer.enter(line.ends(), begun).map_err(refused);
    let result = entered.and_then(|()| line.talk(splicer, begun));
    begun.iter().for_each(|one| splicer.forget(one.key));
    result
}

impl Line {
    fn new() -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let pair = || -> std::io::Result<_> {
            let made = TcpStream::connect(listener.local_addr()?)?;
            Ok((made, listener.accept()?.0))
        };
        let ((client, from_client), (to_server, server)) = (pair()?, pair()?);
        socket::set_option(to_server.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, SMALL_SEND_BUFFER)?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
        }
        Ok(Self { client, from_client, to_server, server })
    }

    fn ends(&self) -> [End; 2] {
        [End { fd: self.from_client.as_raw_fd(), tag: 1 }, End { fd: self.to_server.as_raw_fd(), tag: 2 }]
    }

    fn talk(&self, splicer: &mut Splicer, [up, down]: [Begun; 2]) -> Result<(), String> {
        expect("what waited at the switch", &self.server, b"early")?;
        for (text, mut from, to) in
            [(b"there".as_slice(), &self.client, &self.server), (b"back", &self.server, &self.client)]
        {
            from.write_all(text).map_err(|error| format!("sending: {error}"))?;
            expect("a message", to, text)?;
        }
        // The reader begins only when the sender is stuck or done.
        let many: Vec<u8> = (0..MANY_BYTES).map(|n| (n % 251) as u8).collect();
        let sent = send_what_goes(&self.client, &many);
        let rest = many.get(sent..).unwrap_or_default();
        expect("a slow reader", &self.server, many.get(..sent).unwrap_or_default())?;
        (&self.client).write_all(rest).map_err(|error| format!("sending: {error}"))?;
        expect("the rest", &self.server, rest)?;
        let _ = self.client.shutdown(Shutdown::Write);
        self.end(splicer, &up, &down)
    }

    fn end(&self, splicer: &mut Splicer, up: &Begun, down: &Begun) -> Result<(), String> {
        let lost = |errno: Errno| format!("taking back: {errno}");
        let until = Instant::now() + PATIENCE;
        let (fd, peer) = (self.from_client.as_raw_fd(), self.to_server.as_raw_fd());
        let left = splicer.leave(up, fd).map_err(lost)?;
        splicer.leave(down, peer).map_err(lost)?;
        let all = (b"early".len() + b"there".len() + MANY_BYTES) as u64;
        if left.carried != all || !left.rest.is_empty() {
            return Err(format!("{} of {all} bytes were counted", left.carried));
        }
        while splicer.way(up, left.carried, peer).map_err(lost)? != Way::Over {
            pause(until).ok_or("bytes do not reach the send queue")?;
        }
        let mut end = [0];
        match (&self.from_client).read(&mut end) {
            Ok(0) => Ok(()),
            other => Err(format!("the end reads as {other:?}")),
        }
    }
}

fn send_what_goes(mut stream: &TcpStream, mut bytes: &[u8]) -> usize {
    let all = bytes.len();
    while let Ok(sent) = stream.write(bytes) {
        bytes = bytes.get(sent..).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
    }
    all - bytes.len()
}

fn expect(what: &str, mut stream: &TcpStream, wanted: &[u8]) -> Result<(), String> {
    let until = Instant::now() + PATIENCE;
    let mut got = vec![0; wanted.len()];
    let mut filled = 0;
    while filled < wanted.len() {
        match stream.read(got.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => return Err(format!("{what}: it ended after {filled} bytes")),
            Ok(more) => filled += more,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                pause(until).ok_or_else(|| format!("{what}: {filled} of {} bytes came", wanted.len()))?;
            }
            Err(error) => return Err(format!("{what}: {error}")),
        }
    }
    if got == wanted { Ok(()) } else { Err(format!("{what}: the bytes are not the ones that were sent")) }
}

/// Gives the kernel's workers a moment. `None`: the time is over.
fn pause(until: Instant) -> Option<()> {
    (Instant::now() < until).then(|| std::thread::sleep(Duration::from_micros(100)))
}

#[cfg(test)]
mod tests {
    use super::super::{Kernel, Told};
    use super::*;

    /// CI runs as root on a kernel that can.
    fn kernel() -> Option<Kernel> {
        match Kernel::probe() {
            Ok(kernel) => Some(kernel),
            Err(why) => {
                assert!(std::env::var_os("FOURFOLD_NO_SKIP").is_none(), "{why}");
                eprintln!("skipped: {why}");
                None
            }
        }
    }

    #[test]
    fn kernel_splices_here() {
        kernel();
    }

    #[test]
    fn reader_that_stops_is_told_of_and_loses_nothing() {
        let Some(kernel) = kernel() else { return };
        let mut splicer = Splicer::new(&kernel, 4).unwrap();
        let line = Line::new().unwrap();
        let [up, down] = splicer.begin(line.ends()).unwrap();
        let (fd, peer) = (line.from_client.as_raw_fd(), line.to_server.as_raw_fd());
        let mut sent = 0;
        let many: Vec<u8> = (0..251 * 1024).map(|n| (n % 251) as u8).collect();
        let stuck = Instant::now() + Duration::from_secs(20);
        // Until the program has refused some.
        while splicer.flow(up.key).unwrap().passed == 0 {
            sent += send_what_goes(&line.client, &many[sent % 251..]);
            pause(stuck).expect("a flow without a reader is stopped");
        }
        // So much at once is bulk, before it is too much.
        assert_eq!(splicer.told().map(|(tag, _)| tag), Some(1), "{sent}");
        let left = splicer.leave(&up, fd).unwrap();
        splicer.leave(&down, peer).unwrap();
        assert!(!left.rest.is_empty() && left.carried > 1 << 20);
        let way = splicer.way(&up, left.carried, peer).unwrap();
        assert!(matches!(way, Way::Under { left, full: true } if left > 1 << 20), "{way:?}");
        let carried: Vec<u8> = (0..left.carried).map(|n| (n % 251) as u8).collect();
        expect("what was carried", &line.server, &carried).unwrap();
        assert_eq!(splicer.way(&up, left.carried, peer), Ok(Way::Over));
        let mut rest = left.rest;
        while let Ok(()) = socket::read_into(fd, &mut rest) {}
        assert_eq!(left.carried as usize + rest.len(), sent);
        assert!(rest.iter().enumerate().all(|(n, byte)| *byte == ((left.carried as usize + n) % 251) as u8));
    }

    #[test]
    fn stream_of_large_pieces_is_told_of() {
        let Some(kernel) = kernel() else { return };
        let mut splicer = Splicer::new(&kernel, 4).unwrap();
        let line = Line::new().unwrap();
        let [up, down] = splicer.begin(line.ends()).unwrap();
        let piece = [0; 16 * 1024];
        let until = Instant::now() + Duration::from_secs(20);
        let told = loop {
            // Never more than one on its way, so that nothing piles up.
            (&line.client).write_all(&piece).unwrap();
            expect("a piece", &line.server, &piece).unwrap();
            if let Some(told) = splicer.told() {
                break told;
            }
            assert!(Instant::now() < until);
        };
        assert_eq!(told, (1, Told::Bulk));
        [up, down].iter().for_each(|one| splicer.forget(one.key));
    }
}
