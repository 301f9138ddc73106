//! A shard without a free buffer waits for one; it does not ask again and again.

use fourfold_engine::{Buf, EpollNet, Event, Handler, Local, Net, Waker};
use std::io::Write;
use std::net::TcpListener;

#[derive(Default)]
struct Hoarder {
    held: Vec<Buf>,
    events: u32,
}

impl Handler<EpollNet> for Hoarder {
    fn on_event(&mut self, net: &mut EpollNet, event: Event) {
        self.events += 1;
        match event {
            Event::Connected { sock, .. } => net.receive(sock),
            Event::Received { buf, .. } => self.held.push(buf),
            _ => {}
        }
    }
}

#[test]
fn epoll_does_not_spin_while_all_buffers_are_held() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut net = EpollNet::new(Vec::new(), Waker::new().unwrap(), 8, 1).unwrap();
    let mut app = Hoarder::default();
    net.connect(&server.local_addr().unwrap(), Local::Kernel, 1).unwrap();
    let (mut peer, _) = server.accept().unwrap();
    peer.write_all(&[7; 100_000]).unwrap();
    while app.held.is_empty() {
        net.turn(None, &mut app).unwrap();
    }
    let (turns, until) = (net.stats().turns, net.now() + 100);
    while net.now() < until {
        net.turn(Some(until), &mut app).unwrap();
    }
    let turns = net.stats().turns - turns;
    assert!(turns < 50, "{turns} turns in 100 ms, {:?}", net.stats());

    let events = app.events;
    for buf in app.held.drain(..) {
        net.free(buf);
    }
    net.turn(None, &mut app).unwrap();
    assert!(app.events > events, "with a buffer it reads on by itself");
    for buf in app.held.drain(..) {
        net.free(buf);
    }
}
