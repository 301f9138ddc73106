//! Who connects, that nobody is lost, and what a peer is known to have, on both engines.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

use fourfold_engine::{Close, EpollNet, Event, Handler, ListenerId, Local, Net, Sock, UringNet, Waker};
use fourfold_sys::socket;
use std::collections::HashMap;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// Only ends a test that would otherwise hang.
const PATIENCE: Duration = Duration::from_secs(60);
const TURN_MS: u64 = 20;

fn listener(address: &str) -> (OwnedFd, SocketAddr) {
    let listener = socket::listen(&address.parse().unwrap(), 128).unwrap();
    let address = socket::local_address(listener.as_raw_fd()).unwrap();
    (listener, address)
}

fn client(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

fn epoll(listeners: Vec<OwnedFd>, slots: u32) -> EpollNet {
    EpollNet::new(listeners, Waker::new().unwrap(), slots as usize, 64).unwrap()
}

fn uring(listeners: Vec<OwnedFd>, slots: u32) -> UringNet {
    UringNet::new(listeners, Waker::new().unwrap(), slots, 8, 64).unwrap()
}

/// Turns until `done`.
fn until<N: Net, H: Handler<N>>(net: &mut N, app: &mut H, mut done: impl FnMut(&mut N, &mut H) -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !done(net, app) {
        assert!(std::time::Instant::now() < end, "it never comes");
        net.turn(Some(net.now() + TURN_MS), app).unwrap();
    }
}

#[derive(Default)]
struct Callers(Vec<(ListenerId, Sock, Option<SocketAddr>)>);

impl<N: Net> Handler<N> for Callers {
    fn on_event(&mut self, _net: &mut N, event: Event) {
        if let Event::Accepted { listener, sock, peer } = event {
            self.0.push((listener, sock, peer));
        }
    }
}

fn knows_who_connects<N: Net>(make: fn(Vec<OwnedFd>, u32) -> N) {
    let (listeners, addresses): (Vec<_>, Vec<_>) =
        ["127.0.0.1:0", "[::1]:0"].map(listener).into_iter().unzip();
    let mut net = make(listeners, 400);
    let mut app = Callers::default();
    (0..2).for_each(|listener| net.accept(ListenerId(listener)));
    for round in 1..=3 {
        let clients: Vec<TcpStream> = (0..80).map(|n| client(addresses[n % 2])).collect();
        until(&mut net, &mut app, |_, app| app.0.len() == 80);
        let mut wanted: HashMap<SocketAddr, ListenerId> = HashMap::new();
        for (n, client) in clients.iter().enumerate() {
            wanted.insert(client.local_addr().unwrap(), ListenerId(n as u32 % 2));
        }
        for (listener, sock, peer) in app.0.drain(..) {
            let peer = peer.expect("the engine knows");
            assert_eq!(wanted.remove(&peer), Some(listener), "{peer} in round {round}");
            assert_eq!(net.peer_address(sock), Ok(peer));
            net.close(sock, Close::Reset);
        }
    }
}

#[test]
fn an_accepted_connection_says_who_it_is() {
    knows_who_connects(epoll);
    knows_who_connects(uring);
}

/// Keeps every socket for a while, and says one byte to each.
#[derive(Default)]
struct Crowded {
    held: Vec<Sock>,
    failed: bool,
    accepted: usize,
}

impl<N: Net> Handler<N> for Crowded {
    fn on_event(&mut self, net: &mut N, event: Event) {
        match event {
            Event::Accepted { sock, .. } => {
                self.accepted += 1;
                net.adopt(sock, self.accepted as u64);
                let byte = net.write(b"x").unwrap();
                let _ = net.send(sock, byte);
                net.finish(sock);
                self.held.push(sock);
            }
            Event::AcceptFailed { .. } => self.failed = true,
            Event::Closed { .. } if std::mem::take(&mut self.failed) => net.accept(ListenerId(0)),
            _ => {}
        }
    }
}

fn loses_nobody<N: Net>(make: fn(Vec<OwnedFd>, u32) -> N) {
    const SLOTS: usize = 6;
    let (listener, address) = listener("127.0.0.1:0");
    let mut net = make(vec![listener], SLOTS as u32);
    let clients: Vec<TcpStream> = (0..100).map(|_| client(address)).collect();
    let mut app = Crowded::default();
    net.accept(ListenerId(0));
    for round in 0..clients.len().div_ceil(SLOTS) {
        let wanted = clients.len().min((round + 1) * SLOTS);
        until(&mut net, &mut app, |_, app| app.accepted == wanted);
        // Only now do they leave: the table is full, and others wait.
        for sock in app.held.drain(..) {
            net.close(sock, Close::Orderly);
        }
    }
    until(&mut net, &mut app, |net, _| net.stats().sockets == 0);
    for mut client in clients {
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).expect("nobody is reset");
        assert_eq!(heard, b"x");
    }
}

#[test]
fn a_full_table_loses_no_client() {
    loses_nobody(epoll);
    loses_nobody(uring);
}

#[derive(Default)]
struct Speaker {
    sock: Option<Sock>,
    failed: bool,
}

impl<N: Net> Handler<N> for Speaker {
    fn on_event(&mut self, _net: &mut N, event: Event) {
        match event {
            Event::Accepted { sock, .. } | Event::Connected { sock, .. } => self.sock = Some(sock),
            Event::Failed { .. } => self.failed = true,
            _ => {}
        }
    }
}

/// What the peer's kernel has is known, also after the peer has reset.
fn knows_what_arrived<N: Net>(net: &mut N, app: &mut Speaker, peer: TcpStream) {
    let sock = app.sock.unwrap();
    assert_eq!(net.acked(sock), Some(0));
    net.receive(sock);
    for total in [5, 10] {
        let hello = net.write(b"hello").unwrap();
        let _ = net.send(sock, hello);
        until(net, app, |net, _| net.acked(sock) == Some(total));
    }
    drop(peer);
    until(net, app, |_, app| app.failed);
    assert_eq!(net.acked(sock), Some(10));
    net.close(sock, Close::Reset);
    assert_eq!(net.acked(sock), None);
}

fn knows_what_arrived_both_ways<N: Net>(make: fn(Vec<OwnedFd>, u32) -> N) {
    let (listener, address) = listener("127.0.0.1:0");
    let mut net = make(vec![listener], 16);
    net.accept(ListenerId(0));
    let peer = client(address);
    let mut app = Speaker::default();
    until(&mut net, &mut app, |_, app| app.sock.is_some());
    knows_what_arrived(&mut net, &mut app, peer);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    net.connect(&server.local_addr().unwrap(), Local::Kernel, 1).unwrap();
    let mut app = Speaker::default();
    until(&mut net, &mut app, |_, app| app.sock.is_some());
    let peer = server.accept().unwrap().0;
    knows_what_arrived(&mut net, &mut app, peer);
}

#[test]
fn acknowledged_bytes_are_counted_without_syn_and_after_a_reset() {
    knows_what_arrived_both_ways(epoll);
    knows_what_arrived_both_ways(uring);
}
