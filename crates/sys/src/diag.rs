//! sock_diag(7): TCP sockets of this network namespace towards one destination, whoever owns them.

use crate::errno::{Errno, check, check_len};
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `1 << state` (include/net/tcp_states.h) for every state but LISTEN, CLOSE and TIME_WAIT, whose tuple may be reusable.
const STATES: u32 = 0x1FFF & !(1 << 6) & !(1 << 7) & !(1 << 10);
/// One answer holds many sockets; the kernel fills at most 32 KiB.
const ANSWER_BYTES: usize = 64 * 1024;

#[repr(C)]
#[derive(Clone, Copy)]
struct SocketId {
    source_port: u16,
    destination_port: u16,
    source: [u8; 16],
    destination: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
}

#[repr(C)]
struct Request {
    header: libc::nlmsghdr,
    family: u8,
    protocol: u8,
    extensions: u8,
    pad: u8,
    states: u32,
    id: SocketId,
}

/// `struct inet_diag_msg`, as far as it is read.
#[repr(C)]
#[derive(Clone, Copy)]
struct Message {
    family: u8,
    state: u8,
    timer: u8,
    retransmissions: u8,
    id: SocketId,
}

/// Calls `found` with our end of every connection to `destination`.
pub fn connections_to(destination: &SocketAddr, mut found: impl FnMut(SocketAddr)) -> Result<(), Errno> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers; the descriptor is fresh and owned by us.
    let socket = unsafe {
        OwnedFd::from_raw_fd(check(libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG))?)
    };
    request(&socket, destination)?;
    let mut answer = vec![0u8; ANSWER_BYTES];
    loop {
        // SAFETY: at most the buffer's length is written into it.
        let len = check_len(unsafe {
            libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0)
        })?;
        if !read_answer(answer.get(..len).unwrap_or_default(), destination, &mut found)? {
            return Ok(());
        }
    }
}

fn request(socket: &OwnedFd, destination: &SocketAddr) -> Result<(), Errno> {
    // SAFETY: all zero is a valid request.
    let mut request: Request = unsafe { std::mem::zeroed() };
    request.header.nlmsg_len = size_of::<Request>() as u32;
    request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
    request.header.nlmsg_flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    request.family = if destination.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8;
    request.protocol = libc::IPPROTO_TCP as u8;
    request.states = STATES;
    // The kernel filters a dump by port; by address we do.
    request.id.destination_port = destination.port().to_be();
    // SAFETY: the request outlives the call and its length is given.
    let sent = unsafe {
        libc::send(socket.as_raw_fd(), std::ptr::from_ref(&request).cast(), size_of::<Request>(), 0)
    };
    check_len(sent).map(drop)
}

/// `false`: that was the last part.
fn read_answer(
    mut bytes: &[u8],
    destination: &SocketAddr,
    found: &mut impl FnMut(SocketAddr),
) -> Result<bool, Errno> {
    const HEADER: usize = size_of::<libc::nlmsghdr>();
    while bytes.len() >= HEADER {
        // SAFETY: at least a header's length is there; it may lie unaligned.
        let header = unsafe { bytes.as_ptr().cast::<libc::nlmsghdr>().read_unaligned() };
        let len = header.nlmsg_len as usize;
        let Some(payload) = bytes.get(HEADER..len) else { return Err(Errno::EPROTO) };
        match i32::from(header.nlmsg_type) {
            libc::NLMSG_DONE => return Ok(false),
            libc::NLMSG_ERROR => return Err(error_of(payload)),
            _ => {
                if let Some((local, remote)) = ends_of(payload)
                    && remote == *destination
                {
                    found(local);
                }
            }
        }
        // Messages are aligned to four bytes (netlink(7)).
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

fn error_of(payload: &[u8]) -> Errno {
    let code = payload.first_chunk::<4>().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    Errno(if code == 0 { libc::EPROTO } else { -code })
}

fn ends_of(payload: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    if payload.len() < size_of::<Message>() {
        return None;
    }
    // SAFETY: at least a message's length is there; it may lie unaligned; every bit pattern is valid.
    let message = unsafe { payload.as_ptr().cast::<Message>().read_unaligned() };
    let address = |bytes: [u8; 16]| match i32::from(message.family) {
        libc::AF_INET => {
            let [a, b, c, d, ..] = bytes;
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        _ => IpAddr::V6(Ipv6Addr::from(bytes)),
    };
    let id = message.id;
    let end = |bytes, port: u16| SocketAddr::new(address(bytes), u16::from_be(port));
    Some((end(id.source, id.source_port), end(id.destination, id.destination_port)))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn sees_connections_of_this_machine() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(host) else {
                eprintln!("skipped {host}: not on this machine");
                continue;
            };
            let destination = listener.local_addr().unwrap();
            let clients: Vec<_> = (0..100).map(|_| TcpStream::connect(destination).unwrap()).collect();
            let mut seen = Vec::new();
            super::connections_to(&destination, |local| seen.push(local)).unwrap();
            for client in &clients {
                assert!(seen.contains(&client.local_addr().unwrap()), "{host}");
            }
            assert_eq!(seen.len(), clients.len());
        }
    }
}
