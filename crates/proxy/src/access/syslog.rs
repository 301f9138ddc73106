//! Lines as messages to a syslog daemon, one datagram each.
//!
//! Over UDP they are RFC 5424's. The local socket speaks the older form that syslog(3) writes, which every local daemon reads,
//! journald included; journald would take RFC 5424's header for text.

use super::sink::{Outcome, count_lines};
use super::text::Moment;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// RFC 5424 6.2.1: facility local7 (23), which web servers use by habit, severity informational (6).
const PRIORITY: u8 = 23 * 8 + 6;
const APP_NAME: &str = "fourfold";
const MESSAGE_ID: &str = "access";
/// Longer lines are cut: what rsyslog takes by default.
const MESSAGE_BYTES_MAX: usize = 8 << 10;
const CUT_MARK: &[u8] = b"...";
/// A daemon that takes nothing for this long costs the rest of a batch.
const SEND_TIMEOUT: Duration = Duration::from_millis(250);

pub(super) struct Syslog {
    socket: Socket,
    hostname: String,
    message: Vec<u8>,
}

enum Socket {
    Unix(PathBuf, UnixDatagram),
    Udp(SocketAddr, UdpSocket),
}

impl Syslog {
    pub(super) fn unix(path: &Path) -> io::Result<Self> {
        Ok(Self::new(Socket::Unix(path.into(), connect_unix(path)?)))
    }

    pub(super) fn udp(address: SocketAddr) -> io::Result<Self> {
        Ok(Self::new(Socket::Udp(address, connect_udp(address)?)))
    }

    fn new(socket: Socket) -> Self {
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let hostname = hostname.trim();
        // RFC 5424 6: the NILVALUE for what is not known.
        let hostname = if hostname.is_empty() { "-" } else { hostname }.to_owned();
        Self { socket, hostname, message: Vec::new() }
    }

    pub(super) fn write(&mut self, lines: &[u8], unix_us: i64) -> Outcome {
        self.header(unix_us);
        let header = self.message.len();
        let total = count_lines(lines);
        for (sent, line) in (0..).zip(lines.split(|byte| *byte == b'\n').take(total as usize)) {
            self.message.truncate(header);
            self.text(line);
            if let Err(error) = self.socket.send(&self.message) {
                return Outcome { written: sent, lost: total - sent, error: Some(error) };
            }
        }
        Outcome { written: total, ..Outcome::default() }
    }

    fn header(&mut self, unix_us: i64) {
        let (out, moment, process) = (&mut self.message, Moment::new(unix_us), std::process::id());
        out.clear();
        // Writing into a vector cannot fail.
        let _ = write!(out, "<{PRIORITY}>");
        match self.socket {
            Socket::Unix(..) => {
                moment.rfc3164(out);
                let _ = write!(out, " {APP_NAME}[{process}]: ");
            }
            Socket::Udp(..) => {
                out.extend_from_slice(b"1 ");
                moment.rfc3339(out);
                let _ = write!(out, " {} {APP_NAME} {process} {MESSAGE_ID} - ", self.hostname);
            }
        }
    }

    fn text(&mut self, line: &[u8]) {
        let room = MESSAGE_BYTES_MAX.saturating_sub(self.message.len());
        if line.len() <= room {
            return self.message.extend_from_slice(line);
        }
        self.message.extend_from_slice(line.get(..room.saturating_sub(CUT_MARK.len())).unwrap_or_default());
        self.message.extend_from_slice(CUT_MARK);
    }
}

impl Socket {
    /// A daemon that was restarted has another socket under the same name, and an earlier datagram's ICMP error says nothing
    /// about this one: both deserve a second try.
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self.send_once(message) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                self.reconnect()?;
                self.send_once(message)
            }
            result => result,
        }
    }

    fn send_once(&self, message: &[u8]) -> io::Result<()> {
        match self {
            Socket::Unix(_, socket) => socket.send(message).map(drop),
            Socket::Udp(_, socket) => socket.send(message).map(drop),
        }
    }

    fn reconnect(&mut self) -> io::Result<()> {
        match self {
            Socket::Unix(path, socket) => *socket = connect_unix(path)?,
            Socket::Udp(address, socket) => *socket = connect_udp(*address)?,
        }
        Ok(())
    }
}

fn connect_unix(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    Ok(socket)
}

fn connect_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    Ok(socket)
}
