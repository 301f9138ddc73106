//! sock_diag(7): TCP sockets of this network namespace, whoever owns them: those towards one destination, and those that listen.

use crate::errno::{Errno, check, check_len};
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `1 << state` (include/net/tcp_states.h) for every state but LISTEN, CLOSE and TIME_WAIT, whose tuple may be reusable.
const STATES: u32 = 0x1FFF & !(1 << 6) & !(1 << 7) & !(1 << 10);
/// `1 << TCP_LISTEN`
const LISTENING: u32 = 1 << 10;
/// INET_DIAG_SKMEMINFO: an attribute of memory figures, of which SK_MEMINFO_DROPS is the ninth.
const MEMORY_INFO: u16 = 7;
const MEMORY_INFO_DROPS: usize = 8;
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

/// `struct inet_diag_msg`
#[repr(C)]
#[derive(Clone, Copy)]
struct Message {
    family: u8,
    state: u8,
    timer: u8,
    retransmissions: u8,
    id: SocketId,
    expires: u32,
    receive_queue: u32,
    send_queue: u32,
    user: u32,
    inode: u32,
}

/// A socket that listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listening {
    pub address: SocketAddr,
    /// Connections that nobody has accepted so far (`sk_ack_backlog`).
    pub queued: u32,
    /// The most of them (`sk_max_ack_backlog`).
    pub backlog: u32,
    /// SYNs and handshakes dropped at this socket since it was made (`sk_drops`); it wraps around.
    pub drops: Option<u32>,
}

/// Calls `found` with our end of every connection to `destination`.
pub fn connections_to(destination: &SocketAddr, mut found: impl FnMut(SocketAddr)) -> Result<(), Errno> {
    let question = Question {
        family: if destination.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8,
        states: STATES,
        extensions: 0,
        // The kernel filters a dump by port; by address we do.
        destination_port: destination.port(),
    };
    dump(&question, |message, _| {
        let (local, remote) = ends_of(message);
        if remote == *destination {
            found(local);
        }
    })
}

/// Calls `found` with every TCP socket that listens.
pub fn listening(mut found: impl FnMut(Listening)) -> Result<(), Errno> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        let extensions = 1 << (MEMORY_INFO - 1);
        let question = Question { family: family as u8, states: LISTENING, extensions, destination_port: 0 };
        dump(&question, |message, attributes| {
            found(Listening {
                address: ends_of(message).0,
                queued: message.receive_queue,
                backlog: message.send_queue,
                drops: drops_of(attributes),
            });
        })?;
    }
    Ok(())
}

struct Question {
    family: u8,
    states: u32,
    extensions: u8,
    destination_port: u16,
}

/// Calls `each` with every socket and the attributes behind it.
fn dump(question: &Question, mut each: impl FnMut(&Message, &[u8])) -> Result<(), Errno> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers; the descriptor is fresh and owned by us.
    let socket = unsafe {
        OwnedFd::from_raw_fd(check(libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG))?)
    };
    request(&socket, question)?;
    let mut answer = vec![0u8; ANSWER_BYTES];
    loop {
        // SAFETY: at most the buffer's length is written into it.
        let len = check_len(unsafe {
            libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0)
        })?;
        if !read_answer(answer.get(..len).unwrap_or_default(), &mut each)? {
            return Ok(());
        }
    }
}

fn request(socket: &OwnedFd, question: &Question) -> Result<(), Errno> {
    // SAFETY: all zero is a valid request.
    let mut request: Request = unsafe { std::mem::zeroed() };
    request.header.nlmsg_len = size_of::<Request>() as u32;
    request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
    request.header.nlmsg_flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    request.family = question.family;
    request.protocol = libc::IPPROTO_TCP as u8;
    request.extensions = question.extensions;
    request.states = question.states;
    request.id.destination_port = question.destination_port.to_be();
    // SAFETY: the request outlives the call and its length is given.
    let sent = unsafe {
        libc::send(socket.as_raw_fd(), std::ptr::from_ref(&request).cast(), size_of::<Request>(), 0)
    };
    check_len(sent).map(drop)
}

/// `false`: that was the last part.
fn read_answer(mut bytes: &[u8], each: &mut impl FnMut(&Message, &[u8])) -> Result<bool, Errno> {
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
                if let Some(message) = message_of(payload) {
                    each(&message, payload.get(size_of::<Message>()..).unwrap_or_default());
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

fn message_of(payload: &[u8]) -> Option<Message> {
    if payload.len() < size_of::<Message>() {
        return None;
    }
    // SAFETY: at least a message's length is there; it may lie unaligned; every bit pattern is valid.
    Some(unsafe { payload.as_ptr().cast::<Message>().read_unaligned() })
}

fn ends_of(message: &Message) -> (SocketAddr, SocketAddr) {
    let address = |bytes: [u8; 16]| match i32::from(message.family) {
        libc::AF_INET => {
            let [a, b, c, d, ..] = bytes;
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        _ => IpAddr::V6(Ipv6Addr::from(bytes)),
    };
    let id = message.id;
    let end = |bytes, port: u16| SocketAddr::new(address(bytes), u16::from_be(port));
    (end(id.source, id.source_port), end(id.destination, id.destination_port))
}

/// Walks attributes (netlink(7): length, type, value, aligned to four bytes) to the memory figures.
fn drops_of(mut attributes: &[u8]) -> Option<u32> {
    const HEADER: usize = 4;
    while let Some(&[low, high, kind_low, kind_high]) = attributes.first_chunk::<HEADER>() {
        let len = usize::from(u16::from_ne_bytes([low, high]));
        let value = attributes.get(HEADER..len)?;
        if u16::from_ne_bytes([kind_low, kind_high]) == MEMORY_INFO {
            let bytes = value.get(MEMORY_INFO_DROPS * 4..)?.first_chunk::<4>()?;
            return Some(u32::from_ne_bytes(*bytes));
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn sees_a_listener_its_queue_and_its_drops() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let waiting: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut seen = Vec::new();
        super::listening(|one| seen.extend((one.address == address).then_some(one))).unwrap();
        let [one] = seen.as_slice() else { panic!("{seen:?}") };
        assert_eq!((one.queued as usize, one.drops), (waiting.len(), Some(0)));
        assert!(one.backlog >= 3, "{one:?}");
    }

    #[test]
    fn attributes_that_lie_about_their_length_are_no_harm() {
        for attributes in [&[0u8, 0, 7, 0][..], &[255, 255, 7, 0], &[4, 0, 7, 0], &[3, 0, 1, 0, 0], &[8, 0]] {
            assert_eq!(super::drops_of(attributes), None);
        }
    }

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
