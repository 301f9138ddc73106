//! A peer that answers and resets before it has taken all that was sent to it: its answer is received first, on both engines.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use fourfold_engine::{EpollNet, Errno, Event, Handler, Local, Net, Sock, UringNet, Waker};
use fourfold_sys::socket;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Only ends a test that would otherwise hang.
const PATIENCE: Duration = Duration::from_secs(60);
const TURN_MS: u64 = 20;

#[derive(Default)]
struct Asker {
    sock: Option<Sock>,
    received: Vec<u8>,
    failed: Option<Errno>,
    ended: bool,
    finished: bool,
}

impl<N: Net> Handler<N> for Asker {
    fn on_event(&mut self, net: &mut N, event: Event) {
        match event {
            Event::Connected { sock, .. } => {
                net.receive(sock);
                self.sock = Some(sock);
            }
            Event::Received { buf, .. } => {
                assert_eq!(self.failed, None, "bytes after the end");
                self.received.extend_from_slice(net.bytes(&buf));
                net.free(buf);
            }
            Event::Failed { errno, .. } => assert_eq!(self.failed.replace(errno), None, "told twice"),
            Event::Eof { .. } => self.ended = true,
            Event::Finished { .. } => self.finished = true,
            _ => {}
        }
    }
}

fn until<N: Net>(net: &mut N, app: &mut Asker, mut done: impl FnMut(&Asker) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done(app) {
        assert!(Instant::now() < end, "it never comes");
        net.turn(Some(net.now() + TURN_MS), app).unwrap();
    }
}

/// RST in place of FIN.
fn reset(stream: TcpStream) {
    socket::reset_on_close(stream.as_raw_fd());
}

fn ask(net: &mut impl Net, server: &TcpListener, app: &mut Asker) -> (Sock, TcpStream) {
    net.connect(&server.local_addr().unwrap(), Local::Kernel, 1).unwrap();
    until(net, app, |app| app.sock.is_some());
    let (peer, _) = server.accept().unwrap();
    (app.sock.unwrap(), peer)
}

/// More than a buffer, so that one look is not enough.
static ANSWER: [u8; 50_000] = [7; 50_000];

fn an_answer_before_a_reset_is_received<N: Net>(mut net: N) {
    for (ends_too, resumed) in [(false, false), (false, true), (true, false)] {
        let (server, mut app) = (TcpListener::bind("127.0.0.1:0").unwrap(), Asker::default());
        let (sock, mut peer) = ask(&mut net, &server, &mut app);
        if resumed {
            // The next look at it begins together with the send.
            net.pause(sock);
            (0..3).for_each(|_| net.turn(Some(net.now()), &mut app).unwrap());
            net.receive(sock);
        }
        peer.write_all(&ANSWER).unwrap();
        reset(peer);
        // The rest of the request meets the reset before the answer was looked at.
        for _ in 0..2 {
            let rest = net.write(b"the rest").unwrap();
            let _ = net.send(sock, rest);
        }
        if ends_too {
            net.finish(sock);
        }
        until(&mut net, &mut app, |app| app.failed.is_some());
        assert!(app.received == ANSWER, "{} bytes of {}", app.received.len(), ANSWER.len());
        assert!(!app.ended && !app.finished, "lost bytes do not end in order");
        net.close(sock, fourfold_engine::Close::Reset);
    }
}

/// Nobody reads, so that nobody else would find out.
fn a_paused_socket_that_sends_into_a_reset_fails<N: Net>(mut net: N) {
    let (server, mut app) = (TcpListener::bind("127.0.0.1:0").unwrap(), Asker::default());
    let (sock, mut peer) = ask(&mut net, &server, &mut app);
    net.pause(sock);
    peer.write_all(&ANSWER).unwrap();
    reset(peer);
    let rest = net.write(b"the rest").unwrap();
    let _ = net.send(sock, rest);
    until(&mut net, &mut app, |app| app.failed.is_some());
}

mod epoll {
    use super::*;

    fn net() -> EpollNet {
        EpollNet::new(Vec::new(), Waker::new().unwrap(), 8, 64).unwrap()
    }
    #[test]
    fn an_answer_before_a_reset_is_received() {
        super::an_answer_before_a_reset_is_received(net());
    }
    #[test]
    fn a_paused_socket_that_sends_into_a_reset_fails() {
        super::a_paused_socket_that_sends_into_a_reset_fails(net());
    }
}

mod uring {
    use super::*;

    fn net() -> Option<UringNet> {
        let made = UringNet::new(Vec::new(), Waker::new().unwrap(), 8, 8, 64);
        made.inspect_err(|error| eprintln!("skipped: io_uring is forbidden here: {error}")).ok()
    }
    #[test]
    fn an_answer_before_a_reset_is_received() {
        if let Some(net) = net() {
            super::an_answer_before_a_reset_is_received(net);
        }
    }
    #[test]
    fn a_paused_socket_that_sends_into_a_reset_fails() {
        if let Some(net) = net() {
            super::a_paused_socket_that_sends_into_a_reset_fails(net);
        }
    }
}
