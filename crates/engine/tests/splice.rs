//! Tunnels that the kernel carries, on both engines: the switch there and back in the midst of traffic, ends, resets, slow
//! readers. Every byte is checked, and the counts are.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use fourfold_base::prng::Prng;
use fourfold_engine::{
    Close, EpollNet, Event, Handler, ListenerId, Local, Net, Pressure, Sock, Unspliced, UringNet, Waker,
};
use fourfold_sys::bpf::{Kernel, Splicer};
use fourfold_sys::socket;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// Only ends a test that would otherwise hang.
const PATIENCE: Duration = Duration::from_secs(120);
const TURN_MS: u64 = 5;

fn kernel() -> Option<&'static Kernel> {
    static KERNEL: OnceLock<Option<Kernel>> = OnceLock::new();
    let probe = || match Kernel::probe() {
        Ok(kernel) => Some(kernel),
        Err(why) => {
            assert!(std::env::var_os("FOURFOLD_NO_SKIP").is_none(), "{why}");
            eprintln!("skipped: {why}");
            None
        }
    };
    KERNEL.get_or_init(probe).as_ref()
}

const SOCKETS: u32 = 256;

fn epoll(listener: OwnedFd) -> EpollNet {
    let mut net = EpollNet::new(vec![listener], Waker::new().unwrap(), SOCKETS as usize * 2, 4096).unwrap();
    if let Some(kernel) = kernel() {
        net.set_splicer(Splicer::new(kernel, SOCKETS).unwrap()).unwrap();
    }
    net
}

fn uring(listener: OwnedFd) -> UringNet {
    let mut net = UringNet::new(vec![listener], Waker::new().unwrap(), SOCKETS, SOCKETS, 4096).unwrap();
    if let Some(kernel) = kernel() {
        net.set_splicer(Splicer::new(kernel, SOCKETS).unwrap());
    }
    net
}

/// What the proxy under test knows of one side of a tunnel.
#[derive(Default)]
struct Side {
    sock: Option<Sock>,
    received: u64,
    carried: u64,
    ended: bool,
    finished: bool,
    spliced: bool,
}

#[derive(Default)]
struct Tunnel {
    sides: [Side; 2],
    open: bool,
}

/// A relay that splices now and then, and takes back now and then.
struct Relay {
    origin: SocketAddr,
    rng: Prng,
    /// One in so many events splices; one in so many turns takes one back.
    splice_in: u32,
    unsplice_in: u32,
    tunnels: Vec<Tunnel>,
    over: usize,
    reasons: HashMap<Unspliced, u32>,
    failed: u32,
}

impl Relay {
    fn new(origin: SocketAddr, splice_in: u32, unsplice_in: u32) -> Self {
        let rng = Prng::new(7);
        Self {
            origin,
            rng,
            splice_in,
            unsplice_in,
            tunnels: Vec::new(),
            over: 0,
            reasons: HashMap::new(),
            failed: 0,
        }
    }

    fn sock(&self, tunnel: usize, side: usize) -> Sock {
        self.tunnels[tunnel].sides[side].sock.unwrap()
    }

    fn is_spliced(&self, tunnel: usize) -> bool {
        self.tunnels[tunnel].sides.iter().any(|side| side.spliced)
    }

    fn splice<N: Net>(&mut self, net: &mut N, tunnel: usize) {
        let ended = self.tunnels[tunnel].sides.iter().any(|side| side.ended);
        if !ended && !self.is_spliced(tunnel) && net.splice(self.sock(tunnel, 0), self.sock(tunnel, 1)) {
            self.tunnels[tunnel].sides.iter_mut().for_each(|side| side.spliced = true);
        }
    }

    fn on_turn<N: Net>(&mut self, net: &mut N) {
        let count = self.tunnels.len() as u32;
        if count > 0 && self.unsplice_in > 0 && self.rng.chance(1, self.unsplice_in) {
            let tunnel = self.rng.below(count) as usize;
            if self.tunnels[tunnel].open && self.is_spliced(tunnel) {
                let side = self.rng.below(2) as usize;
                net.unsplice(self.sock(tunnel, side));
            }
        }
    }

    fn close<N: Net>(&mut self, net: &mut N, tunnel: usize, how: Close) {
        for side in 0..2 {
            let carried = net.carried(self.sock(tunnel, side));
            let entry = &mut self.tunnels[tunnel].sides[side];
            if std::mem::take(&mut entry.spliced) {
                entry.carried += carried;
            }
        }
        self.tunnels[tunnel].open = false;
        (0..2).for_each(|side| net.close(self.sock(tunnel, side), how));
    }

    fn end_if_over<N: Net>(&mut self, net: &mut N, tunnel: usize) {
        if self.tunnels[tunnel].sides.iter().all(|side| side.finished) {
            self.close(net, tunnel, Close::Orderly);
        }
    }
}

impl<N: Net> Handler<N> for Relay {
    fn on_event(&mut self, net: &mut N, event: Event) {
        match event {
            Event::Accepted { sock, .. } => {
                let tunnel = self.tunnels.len();
                net.adopt(sock, tunnel as u64 * 2);
                let server = net.connect(&self.origin, Local::Kernel, tunnel as u64 * 2 + 1).unwrap();
                let side = |sock| Side { sock: Some(sock), ..Side::default() };
                self.tunnels.push(Tunnel { sides: [side(sock), side(server)], open: true });
            }
            Event::Connected { owner, .. } => {
                (0..2).for_each(|side| net.receive(self.sock(owner as usize / 2, side)));
            }
            Event::Received { owner, buf, sock } => {
                let (tunnel, side) = (owner as usize / 2, owner as usize % 2);
                if !self.tunnels[tunnel].open {
                    return net.free(buf);
                }
                let entry = &mut self.tunnels[tunnel].sides[side];
                entry.received += buf.len() as u64;
                if net.send(self.sock(tunnel, 1 - side), buf) == Pressure::Full {
                    net.pause(sock);
                }
                if self.splice_in > 0 && self.rng.chance(1, self.splice_in) {
                    self.splice(net, tunnel);
                }
            }
            Event::Drained { owner, .. } => {
                net.receive(self.sock(owner as usize / 2, 1 - owner as usize % 2));
            }
            Event::Unspliced { owner, bytes, why, .. } => {
                *self.reasons.entry(why).or_default() += 1;
                let entry = &mut self.tunnels[owner as usize / 2].sides[owner as usize % 2];
                entry.spliced = false;
                entry.carried += bytes;
                assert!(why != Unspliced::Lost, "bytes were lost");
            }
            Event::Eof { owner, .. } => {
                let (tunnel, side) = (owner as usize / 2, owner as usize % 2);
                self.tunnels[tunnel].sides[side].ended = true;
                net.finish(self.sock(tunnel, 1 - side));
            }
            Event::Finished { owner, .. } => {
                let (tunnel, side) = (owner as usize / 2, owner as usize % 2);
                self.tunnels[tunnel].sides[side].finished = true;
                self.end_if_over(net, tunnel);
            }
            Event::Failed { owner, .. } => {
                self.failed += 1;
                if self.tunnels[owner as usize / 2].open {
                    self.close(net, owner as usize / 2, Close::Reset);
                }
            }
            Event::Closed { .. } => self.over += 1,
            other => panic!("{other:?}"),
        }
    }
}

fn byte_at(stream: u64, at: u64) -> u8 {
    ((at * 31 + stream * 17) ^ (at >> 9)) as u8
}

/// Writes a stream in pieces of random sizes, at times with a pause that no sender is in step with.
fn write_stream(mut to: TcpStream, stream: u64, total: u64, piece_max: u32) {
    let mut rng = Prng::new(stream);
    let mut at = 0;
    while at < total {
        let size = u64::from(1 + rng.below(piece_max)).min(total - at);
        let piece: Vec<u8> = (at..at + size).map(|at| byte_at(stream, at)).collect();
        to.write_all(&piece).unwrap();
        at += size;
        if rng.chance(1, 16) {
            thread::yield_now();
        }
    }
    to.shutdown(Shutdown::Write).unwrap();
}

fn read_stream(mut from: TcpStream, stream: u64, total: u64) {
    let mut buf = vec![0; 64 * 1024];
    let mut at = 0;
    loop {
        let count = from.read(&mut buf).unwrap();
        if count == 0 {
            break;
        }
        let wrong = buf[..count].iter().zip(at..).position(|(byte, at)| *byte != byte_at(stream, at));
        assert_eq!(wrong, None, "stream {stream} after {at}");
        at += count as u64;
    }
    assert_eq!(at, total, "stream {stream}");
}

struct Bench {
    listener: SocketAddr,
    origin: TcpListener,
}

fn bench<N: Net>(make: fn(OwnedFd) -> N, splice_in: u32, unsplice_in: u32) -> (N, Relay, Bench) {
    let listener = socket::listen(&"127.0.0.1:0".parse().unwrap(), 256).unwrap();
    let address = socket::local_address(listener.as_raw_fd()).unwrap();
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::new(origin.local_addr().unwrap(), splice_in, unsplice_in);
    let mut net = make(listener);
    net.accept(ListenerId(0));
    (net, relay, Bench { listener: address, origin })
}

impl Bench {
    /// A client and what the origin accepts for it, while the relay turns.
    fn line<N: Net>(&self, net: &mut N, relay: &mut Relay) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.listener).unwrap();
        let before = relay.tunnels.len();
        until(net, relay, |_, relay| relay.tunnels.len() > before);
        self.origin.set_nonblocking(true).unwrap();
        let mut server = None;
        until(net, relay, |_, _| {
            server = server.take().or_else(|| self.origin.accept().ok());
            server.is_some()
        });
        let server = server.unwrap().0;
        for stream in [&client, &server] {
            stream.set_nonblocking(false).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        (client, server)
    }
}

fn until<N: Net>(net: &mut N, relay: &mut Relay, mut done: impl FnMut(&mut N, &mut Relay) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done(net, relay) {
        assert!(Instant::now() < end, "it never comes; {:?}", relay.reasons);
        net.turn(Some(net.now() + TURN_MS), relay).unwrap();
        relay.on_turn(net);
    }
}

fn switches_lose_nothing<N: Net>(make: fn(OwnedFd) -> N) {
    const TUNNELS: u64 = 48;
    if kernel().is_none() {
        return;
    }
    let (mut net, mut relay, bench) = bench(make, 6, 2);
    let mut peers = Vec::new();
    let mut totals = Vec::new();
    let mut rng = Prng::new(3);
    for tunnel in 0..TUNNELS {
        let (client, server) = bench.line(&mut net, &mut relay);
        // Mostly chatter; some bulk, which the kernel gives back by itself.
        let (most, piece) = if tunnel % 8 == 0 { (4 << 20, 60_000) } else { (200_000, 700) };
        let total = [u64::from(rng.below(most)), u64::from(rng.below(most))];
        totals.push(total);
        for (end, out, back) in [(client, 0, 1), (server, 1, 0)] {
            let from = end.try_clone().unwrap();
            let (stream_out, stream_in) = (tunnel * 2 + out, tunnel * 2 + back);
            let (total_out, total_in) = (total[out as usize], total[back as usize]);
            peers.push(thread::spawn(move || write_stream(end, stream_out, total_out, piece)));
            peers.push(thread::spawn(move || read_stream(from, stream_in, total_in)));
        }
    }
    until(&mut net, &mut relay, |_, relay| relay.over == TUNNELS as usize * 2);
    peers.into_iter().for_each(|peer| peer.join().unwrap());
    for (tunnel, total) in relay.tunnels.iter().zip(totals) {
        let counted = [0, 1].map(|side| tunnel.sides[side].received + tunnel.sides[side].carried);
        assert_eq!(counted, total);
    }
    let carried: u64 = relay.tunnels.iter().flat_map(|one| &one.sides).map(|side| side.carried).sum();
    eprintln!("carried {carried} bytes, taken back {:?}", relay.reasons);
    assert!(relay.failed == 0 && carried > 100_000, "{carried}");
    assert!(relay.reasons.contains_key(&Unspliced::Asked) && relay.reasons.contains_key(&Unspliced::Ended));
}

#[test]
fn switches_in_the_midst_of_traffic_lose_nothing_epoll() {
    switches_lose_nothing(epoll);
}
#[test]
fn switches_in_the_midst_of_traffic_lose_nothing_uring() {
    switches_lose_nothing(uring);
}

/// Splices the one tunnel by passing single bytes until it took.
fn spliced<N: Net>(net: &mut N, relay: &mut Relay, client: &TcpStream, server: &TcpStream) {
    relay.splice_in = 1;
    server.set_nonblocking(true).unwrap();
    (&*client).write_all(b"x").unwrap();
    let mut byte = [0];
    until(net, relay, |_, relay| {
        (&*server).read(&mut byte).is_ok() && {
            relay.splice_in = 0;
            true
        }
    });
    server.set_nonblocking(false).unwrap();
    // io_uring has to cancel first; then one more byte passes without the relay seeing it.
    until(net, relay, |net, relay| {
        assert!(relay.is_spliced(0), "{:?}", relay.reasons);
        (&*client).write_all(b"y").unwrap();
        net.turn(Some(net.now() + TURN_MS), relay).unwrap();
        (&*server).read_exact(&mut byte).unwrap();
        net.carried(relay.sock(0, 0)) > 0
    });
}

fn half_close<N: Net>(make: fn(OwnedFd) -> N) {
    if kernel().is_none() {
        return;
    }
    let (mut net, mut relay, bench) = bench(make, 1, 0);
    let (client, server) = bench.line(&mut net, &mut relay);
    spliced(&mut net, &mut relay, &client, &server);
    (&client).write_all(b"last").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut rest = server.try_clone().unwrap();
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        rest.read_to_end(&mut all).unwrap();
        all
    });
    until(&mut net, &mut relay, |_, _| reader.is_finished());
    assert_eq!(reader.join().unwrap(), b"last");
    // The other direction is still there, and has the last word.
    (&server).write_all(b"answer").unwrap();
    drop(server);
    until(&mut net, &mut relay, |_, relay| relay.over == 2);
    let mut all = Vec::new();
    (&client).read_to_end(&mut all).unwrap();
    assert_eq!((all.as_slice(), relay.failed), (b"answer".as_slice(), 0));
    assert_eq!(relay.reasons.get(&Unspliced::Ended), Some(&2), "{:?}", relay.reasons);
}

#[test]
fn half_close_of_a_spliced_tunnel_epoll() {
    half_close(epoll);
}
#[test]
fn half_close_of_a_spliced_tunnel_uring() {
    half_close(uring);
}

fn reset<N: Net>(make: fn(OwnedFd) -> N) {
    if kernel().is_none() {
        return;
    }
    for by_client in [true, false] {
        let (mut net, mut relay, bench) = bench(make, 1, 0);
        let (client, server) = bench.line(&mut net, &mut relay);
        spliced(&mut net, &mut relay, &client, &server);
        let (breaks, learns) = if by_client { (client, server) } else { (server, client) };
        socket::reset_on_close(breaks.as_raw_fd());
        drop(breaks);
        until(&mut net, &mut relay, |_, relay| relay.over == 2);
        let error = (&learns).read(&mut [0; 16]).expect_err("not an end");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(relay.failed, 1);
    }
}

#[test]
fn reset_of_a_spliced_tunnel_is_passed_on_epoll() {
    reset(epoll);
}
#[test]
fn reset_of_a_spliced_tunnel_is_passed_on_uring() {
    reset(uring);
}

fn slow_reader<N: Net>(make: fn(OwnedFd) -> N) {
    const TOTAL: u64 = 24 << 20;
    if kernel().is_none() {
        return;
    }
    let (mut net, mut relay, bench) = bench(make, 1, 0);
    let (client, server) = bench.line(&mut net, &mut relay);
    spliced(&mut net, &mut relay, &client, &server);
    let writer = thread::spawn(move || write_stream(client, 9, TOTAL, 9_000));
    // Nobody reads until the tunnel is the relay's again and its queue is full.
    until(&mut net, &mut relay, |net, relay| {
        let back = relay.reasons.keys().any(|why| matches!(why, Unspliced::Slow | Unspliced::Bulk));
        let socks = [0, 1].map(|side| relay.sock(0, side));
        back || socks.iter().any(|sock| net.unsent(*sock) > 0) || writer.is_finished()
    });
    let finish = server.try_clone().unwrap();
    let reader = thread::spawn(move || read_stream(server, 9, TOTAL));
    until(&mut net, &mut relay, |_, _| reader.is_finished());
    reader.join().unwrap();
    writer.join().unwrap();
    drop(finish);
    until(&mut net, &mut relay, |_, relay| relay.over == 2);
    let side = &relay.tunnels[0].sides[0];
    assert!(side.received + side.carried >= TOTAL + 2 && relay.failed == 0, "{:?}", relay.reasons);
    // Far from all of it waited in the kernel.
    assert!(side.carried < 16 << 20, "{}", side.carried);
}

#[test]
fn slow_reader_of_a_spliced_tunnel_epoll() {
    slow_reader(epoll);
}
#[test]
fn slow_reader_of_a_spliced_tunnel_uring() {
    slow_reader(uring);
}
