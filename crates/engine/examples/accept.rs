//! What a new connection costs a shard: clients connect and say a byte, the shard resets them, and its thread's time is
//! divided by their number. `cargo run --release -p fourfold-engine --example accept -- uring|epoll SECONDS`
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program for developers")]

use fourfold_engine::{
    App, Close, Demand, Engine, Event, Handler, Limits, Listen, ListenerId, Net, plan_shards, spawn,
};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const CLIENTS: usize = 48;

#[derive(Default)]
struct Counts {
    accepted: AtomicU64,
    turns: AtomicU64,
    /// Nanoseconds that the shard's thread has run.
    ran: AtomicU64,
    stop: AtomicBool,
}

struct Acceptor(Arc<Counts>);

impl<N: Net> Handler<N> for Acceptor {
    fn on_event(&mut self, net: &mut N, event: Event) {
        match event {
            Event::Accepted { sock, .. } => {
                self.0.accepted.fetch_add(1, Relaxed);
                net.receive(sock);
            }
            Event::Received { sock, buf, .. } => {
                net.free(buf);
                net.close(sock, Close::Reset);
            }
            Event::Eof { sock, .. } | Event::Failed { sock, .. } => net.close(sock, Close::Reset),
            _ => {}
        }
    }
}

impl<N: Net> App<N> for Acceptor {
    type Mail = ();
    fn start(&mut self, net: &mut N) {
        net.accept(ListenerId(0));
    }
    fn on_mail(&mut self, _net: &mut N, _mail: ()) {}
    fn on_turn(&mut self, net: &mut N) {
        self.0.turns.store(net.stats().turns, Relaxed);
    }
    fn poll_timeout(&self) -> Option<u64> {
        None
    }
    fn is_finished(&self) -> bool {
        let stop = self.0.stop.load(Relaxed);
        if stop {
            let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
            self.0.ran.store(schedstat.split(' ').next().unwrap().parse().unwrap(), Relaxed);
        }
        stop
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let argument = |n: usize, default: &str| arguments.get(n).map_or(default, String::as_str).to_owned();
    let engine = if argument(1, "uring") == "epoll" { Engine::Epoll } else { Engine::Uring };
    let seconds = argument(2, "3").parse().unwrap();
    let address: SocketAddr = fourfold_sys::socket::free_port(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let demand = Demand { connections: Some(4000), shards: Some(1), accepts: 1, connects: 0, listeners: 1 };
    let plan = plan_shards(engine, &demand, &Limits::of_this_machine().unwrap()).unwrap();
    let counts = Arc::new(Counts::default());
    let listen = Listen { address, backlog: 4096 };
    let shards = spawn(&plan, &[listen], None, |_| Acceptor(Arc::clone(&counts))).unwrap();
    let started = Instant::now();
    let connect = || {
        while !counts.stop.load(Relaxed) {
            let Ok(mut stream) = TcpStream::connect(address) else { continue };
            let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
            let _ = stream.write_all(b"x").and_then(|()| stream.read(&mut [0]));
        }
    };
    std::thread::scope(|scope| {
        (0..CLIENTS).for_each(|_| drop(scope.spawn(connect)));
        std::thread::sleep(Duration::from_secs(seconds));
        counts.stop.store(true, Relaxed);
        let _ = shards.first().unwrap().sender.send(());
    });
    let elapsed = started.elapsed().as_secs_f64();
    let _ = shards.first().unwrap().sender.send(());
    shards.into_iter().for_each(|shard| drop(shard.thread.join()));
    let [accepted, turns, ran] =
        [&counts.accepted, &counts.turns, &counts.ran].map(|count| count.load(Relaxed) as f64);
    println!(
        "{engine}: {:.0} connections/s, {:.2} us of the shard's thread each, {:.1} per turn",
        accepted / elapsed,
        ran / accepted / 1000.0,
        accepted / turns,
    );
}
