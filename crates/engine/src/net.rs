//! The one interface between features and the machine.

use fourfold_base::Millis;
use fourfold_sys::Errno;
use fourfold_sys::buffers::{Buf, Pool};
use fourfold_sys::socket::{Local, Step};
use std::net::SocketAddr;

/// A socket of this shard. The generation keeps a late event or a stale handle from reaching the socket's successor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Sock {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl Sock {
    /// No socket: every operation on it does nothing.
    pub const NONE: Sock = Sock { index: u32::MAX, generation: 0 };
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenerId(pub u32);

/// The owner of an accepted socket that its app has not adopted. No app uses this number.
pub const NO_OWNER: u64 = u64::MAX;

/// Above this many unsent bytes a socket reports [`Pressure::Full`]; its app stops reading the other side.
pub const SEND_QUEUE_HIGH: usize = 128 * 1024;
/// At or below this many a full socket reports [`Event::Drained`].
pub const SEND_QUEUE_LOW: usize = 32 * 1024;
const _: () = assert!(SEND_QUEUE_LOW < SEND_QUEUE_HIGH);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a full socket must stop its sender"]
pub enum Pressure {
    Room,
    /// Stop reading what feeds this socket until [`Event::Drained`].
    Full,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// FIN, after what the kernel already has; bytes still queued here are dropped.
    Orderly,
    /// RST: the peer learns that bytes were lost; no TIME_WAIT stays behind.
    Reset,
}

/// A connection that could not even be started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    pub step: Step,
    pub errno: Errno,
}

/// What the machine tells an app. `owner` is the number that the app gave with [`Net::connect`] or [`Net::adopt`].
#[derive(Debug)]
pub enum Event {
    /// A new connection. Answer with [`Net::adopt`] or [`Net::close`].
    Accepted {
        listener: ListenerId,
        sock: Sock,
        /// `None`: the kernel did not say.
        peer: Option<SocketAddr>,
    },
    /// Accepting failed and has stopped; [`Net::accept`] starts it again. Connections wait in the backlog meanwhile.
    AcceptFailed {
        listener: ListenerId,
        errno: Errno,
    },
    Connected {
        sock: Sock,
        owner: u64,
    },
    /// The socket still wants a [`Net::close`].
    ConnectFailed {
        sock: Sock,
        owner: u64,
        step: Step,
        errno: Errno,
    },
    /// Bytes, in order. Whoever gets the buffer sends it or frees it. May still come once [`Net::pause`] was called.
    Received {
        sock: Sock,
        owner: u64,
        buf: Buf,
    },
    /// The peer sent FIN: no more bytes will come. Ours still go.
    Eof {
        sock: Sock,
        owner: u64,
    },
    /// The connection is broken (RST, time-out, unreachable); queued bytes are gone. The socket still wants a `close`.
    Failed {
        sock: Sock,
        owner: u64,
        errno: Errno,
    },
    /// The kernel has taken all bytes and the FIN that [`Net::finish`] asked for.
    Finished {
        sock: Sock,
        owner: u64,
    },
    /// A full socket has room again.
    Drained {
        sock: Sock,
        owner: u64,
    },
    /// What `sock` receives is the app's again: the kernel had carried `bytes` of it to the other socket of [`Net::splice`], whose
    /// queue has them all. [`Event::Received`] goes on from there if the socket is read.
    Unspliced {
        sock: Sock,
        owner: u64,
        bytes: u64,
        why: Unspliced,
    },
    /// The kernel has let go of a socket that was closed: its tuple and descriptor are free. Nothing follows for this socket.
    Closed {
        owner: u64,
    },
}

/// Why the kernel carries no longer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Unspliced {
    /// It never did: bytes were on their way for too long, or a socket could not be taken.
    Never,
    /// By [`Net::unsplice`].
    Asked,
    /// A side has sent FIN.
    Ended,
    /// A side takes less than comes for it.
    Slow,
    /// Amounts so large that they are better copied.
    Bulk,
    /// Bytes were lost; both sockets want a reset.
    Lost,
}

/// Counts for headroom and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetStats {
    pub sockets: usize,
    pub sockets_max: usize,
    pub buffers_in_use: usize,
    pub buffers_max: usize,
    /// Times that a socket had bytes to read and there was no buffer; it was read later.
    pub buffer_shortages: u64,
    pub turns: u64,
    /// Turns that took longer than [`LONG_TURN_US`].
    pub long_turns: u64,
}

/// A socket that is ready waits for the turn's others. On a machine with other work, time without a processor counts as well.
pub const LONG_TURN_US: u64 = 10_000;

/// Receives the events of one turn, and may act on the net while it does.
pub trait Handler<N: Net> {
    fn on_event(&mut self, net: &mut N, event: Event);
}

/// The machine as one shard sees it. Nothing blocks but [`Net::turn`]; operations on a socket that is gone do nothing.
pub trait Net: Sized {
    /// Starts, or resumes, accepting on a listener that the shard was given.
    fn accept(&mut self, listener: ListenerId);
    /// Stops accepting; connections wait in the backlog, or go to other shards.
    fn stop_accepting(&mut self, listener: ListenerId);
    /// Accepts nothing more, ever, and takes the listener's socket off its address.
    fn close_listener(&mut self, listener: ListenerId);
    fn listeners(&self) -> usize;

    /// Starts a connection: [`Event::Connected`] or [`Event::ConnectFailed`] follows, unless it is refused at once.
    fn connect(&mut self, remote: &SocketAddr, local: Local, owner: u64) -> Result<Sock, Refused>;
    /// Names the owner of an accepted socket, or renames one.
    fn adopt(&mut self, sock: Sock, owner: u64);

    /// Delivers bytes until [`Net::pause`], end or failure.
    fn receive(&mut self, sock: Sock);
    fn pause(&mut self, sock: Sock);
    /// Queues bytes; they leave when the app's handler returns, in order.
    fn send(&mut self, sock: Sock, buf: Buf) -> Pressure;
    /// FIN after all queued bytes; [`Event::Finished`] tells when. The other direction stays open.
    fn finish(&mut self, sock: Sock);
    /// Gives the socket up. [`Event::Closed`] follows, once, and nothing else.
    fn close(&mut self, sock: Sock, how: Close);
    /// Bytes queued and not yet taken by the kernel.
    fn unsent(&self, sock: Sock) -> usize;
    /// Whether the kernel has taken all that was queued at some time since this was last asked.
    fn was_emptied(&mut self, sock: Sock) -> bool;
    /// Not on the data path: costs system calls.
    fn peer_address(&mut self, sock: Sock) -> Result<SocketAddr, Errno>;
    /// Our own end of a connection. Not on the data path: costs system calls.
    fn local_address(&mut self, sock: Sock) -> Result<SocketAddr, Errno>;
    /// How many of the bytes sent the peer's kernel has acknowledged, also after the connection failed and before it is closed:
    /// what was not acknowledged may have arrived or not. The FIN that [`Net::finish`] asked for counts as one more. `None`: the
    /// kernel does not say. Not on the data path: costs system calls.
    fn acked(&mut self, sock: Sock) -> Option<u64>;

    /// Lets the kernel carry what either of two open sockets receives to the other; both are read. `false`: it does not here, or not
    /// now, and nothing has changed. `true`: it does, or will once what is on its way has arrived; until [`Event::Unspliced`], which
    /// comes for each of the two, nothing of what that one receives is told. A failure is told as ever, an end after
    /// `Unspliced`; closing one ends it for both.
    fn splice(&mut self, _a: Sock, _b: Sock) -> bool {
        false
    }
    /// Takes both directions back.
    fn unsplice(&mut self, _sock: Sock) {}
    /// What the kernel has carried so far of what a spliced socket received. Not on the data path: costs a system call.
    fn carried(&self, _sock: Sock) -> u64 {
        0
    }

    /// Of these, while the socket is taken back, what has not reached the other's queue: a slow reader takes it without an event.
    fn under_way(&self, _sock: Sock) -> u64 {
        0
    }

    /// The shard's buffers, for the methods below.
    fn pool(&self) -> &Pool;
    fn pool_mut(&mut self) -> &mut Pool;
    /// A buffer of [`BUFFER_BYTES`](crate::BUFFER_BYTES), to be filled through [`Net::bytes_mut`] and cut to length. `None`: the
    /// limit is reached.
    fn alloc(&mut self) -> Option<Buf> {
        self.pool_mut().alloc()
    }
    fn bytes<'a>(&'a self, buf: &'a Buf) -> &'a [u8] {
        self.pool().bytes(buf)
    }
    fn bytes_mut<'a>(&'a mut self, buf: &'a mut Buf) -> &'a mut [u8] {
        self.pool_mut().bytes_mut(buf)
    }
    fn free(&mut self, buf: Buf) {
        self.pool_mut().free(buf);
    }
    /// Appends the bytes of `buf` to `tail`, as many as fit; what does not comes back.
    fn join(&mut self, tail: &mut Buf, buf: Buf) -> Option<Buf> {
        self.pool_mut().join(tail, buf)
    }
    /// Writes `bytes` in front of those of `buf`, over what lay there and has been used. `false`: there is no room for them.
    fn prepend(&mut self, buf: &mut Buf, bytes: &[u8]) -> bool {
        self.pool_mut().prepend(buf, bytes)
    }
    /// A fresh buffer with these bytes, of which there are at most [`BUFFER_BYTES`](crate::BUFFER_BYTES). `None`: no buffer.
    fn write(&mut self, bytes: &[u8]) -> Option<Buf> {
        self.pool_mut().write(bytes)
    }

    /// Waits for events, at most until `deadline` (`None`: as long as it takes), and hands them to `handler`.
    fn turn<H: Handler<Self>>(&mut self, deadline: Option<Millis>, handler: &mut H) -> Result<(), Errno>;
    /// The time of the present turn.
    fn now(&self) -> Millis {
        self.micros() / 1000
    }
    /// The same in microseconds, with the same origin.
    fn micros(&self) -> u64;
    fn stats(&self) -> NetStats;
    /// Gives idle buffer memory back. For quiet moments.
    fn trim(&mut self);
}

/// A feature running on a shard.
pub trait App<N: Net>: Handler<N> {
    /// What other threads may tell it.
    type Mail: Send;

    fn start(&mut self, net: &mut N);
    fn on_mail(&mut self, net: &mut N, mail: Self::Mail);
    /// Called in every turn after the events; fires due timers.
    fn on_turn(&mut self, net: &mut N);
    /// When [`Self::on_turn`] is needed next.
    #[must_use]
    fn poll_timeout(&self) -> Option<Millis>;
    /// The shard ends when this turns true.
    fn is_finished(&self) -> bool;
}
