//! Busy tunnels that the kernel carries: what goes in comes out, counted, whatever happens to a tunnel while it is spliced.

use crate::common::lab::free_port;
use crate::common::origin::reset_on_close;
use crate::common::program::{BINARY, Scratch};
use crate::common::{Config, DEADLINE, Engine, Lab, Program, eventually};
use crate::on_both_engines;
use fourfold_sys::bpf::Kernel;
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

on_both_engines!(
    a_thousand_tunnels_switched_in_the_midst_of_traffic,
    half_close_reset_and_the_last_word,
    slow_reader_gets_everything,
    drain_cuts_what_is_spliced,
    websocket_like_chatter_is_carried_and_quiet_comes_back,
    an_upgraded_connection_is_carried,
    ipv6_tunnels_are_carried,
    a_program_that_may_not_says_what_it_needs,
);

/// Splices after a few messages, so that it happens at another point of each tunnel.
fn config(engine: Engine, origin: &TcpListener, splice: &str) -> Config {
    Config::to(engine, &[origin.local_addr().unwrap()])
        .top("max_connections = 2000")
        .more(&format!("[splice]\nmode = \"bpf\"\n{splice}"))
}

fn may_splice() -> bool {
    let may = Kernel::probe().is_ok();
    assert!(may || std::env::var_os("FOURFOLD_NO_SKIP").is_none(), "the kernel carries no tunnels here");
    if !may {
        eprintln!("skipped: the kernel carries no tunnels here");
    }
    may
}

fn program(engine: Engine, origin: &TcpListener, splice: &str) -> Option<Program> {
    may_splice().then(|| Program::run(&config(engine, origin, splice)))
}

/// A connection through the proxy, both ends in hand.
fn line(program: &Program, origin: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(program.address).unwrap();
    origin.set_nonblocking(true).unwrap();
    let server = eventually("the origin is connected to", || origin.accept().ok()).0;
    for stream in [&client, &server] {
        stream.set_nonblocking(false).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
    }
    (client, server)
}

/// Counters that are zero are not told.
fn count(counters: &HashMap<String, u64>, name: &str) -> u64 {
    counters.get(name).copied().unwrap_or(0)
}

/// One exchange of a byte each way.
fn ping(client: &TcpStream, server: &TcpStream) {
    for (mut from, mut to) in [(client, server), (server, client)] {
        from.write_all(b"!").unwrap();
        to.read_exact(&mut [0]).unwrap();
    }
}

/// Pings until the kernel carries it. How many pings that took.
fn spliced(program: &Program, client: &TcpStream, server: &TcpStream) -> u64 {
    let until = Instant::now() + DEADLINE;
    for pings in 1.. {
        ping(client, server);
        if pings % 16 == 0 && count(&program.report().counters, "bytes_spliced") > 0 {
            return pings;
        }
        assert!(Instant::now() < until, "it is never spliced");
    }
    0
}

fn byte_at(stream: u64, at: u64) -> u8 {
    ((at * 31 + stream * 17) ^ (at >> 9)) as u8
}

fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

/// One direction of one tunnel.
struct Flow {
    from: Arc<TcpStream>,
    to: Arc<TcpStream>,
    stream: u64,
    total: u64,
    written: u64,
    read: u64,
    fin_sent: bool,
    ended: bool,
}

impl Flow {
    /// Writes a little, reads what there is. Whether it moved.
    fn step(&mut self, seed: &mut u64, buf: &mut [u8]) -> bool {
        let before = (self.written, self.read, self.ended);
        if self.written < self.total && random(seed).is_multiple_of(2) {
            let size = (1 + random(seed) % 400).min(self.total - self.written);
            let piece: Vec<u8> =
                (self.written..self.written + size).map(|at| byte_at(self.stream, at)).collect();
            match (&*self.from).write(&piece) {
                Ok(count) => self.written += count as u64,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "stream {}", self.stream),
            }
        }
        if self.written == self.total && !std::mem::replace(&mut self.fin_sent, true) {
            self.from.shutdown(Shutdown::Write).unwrap();
        }
        match (&*self.to).read(buf) {
            Ok(0) => self.ended = true,
            Ok(count) => {
                let right =
                    (self.read..).zip(&buf[..count]).all(|(at, byte)| byte_at(self.stream, at) == *byte);
                assert!(right, "stream {} after {}", self.stream, self.read);
                self.read += count as u64;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "stream {}", self.stream),
        }
        before != (self.written, self.read, self.ended)
    }
}

/// Moves all flows to their ends.
fn drive(mut flows: Vec<Flow>, mut seed: u64) {
    let mut buf = vec![0; 64 * 1024];
    let until = Instant::now() + DEADLINE * 4;
    while flows.iter().any(|flow| !flow.ended) {
        let mut moved = false;
        for flow in flows.iter_mut().filter(|flow| !flow.ended) {
            moved |= flow.step(&mut seed, &mut buf);
        }
        if !moved {
            thread::yield_now();
        }
        assert!(Instant::now() < until, "bytes do not arrive");
    }
    assert!(flows.iter().all(|flow| flow.read == flow.total));
}

fn a_thousand_tunnels_switched_in_the_midst_of_traffic(engine: Engine) {
    const TUNNELS: u64 = 1000;
    const THREADS: u64 = 4;
    let _lab = Lab::new();
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let Some(program) = program(engine, &origin, "messages = 7\ngap = \"5s\"") else { return };
    let mut parts: Vec<Vec<Flow>> = (0..THREADS).map(|_| Vec::new()).collect();
    let mut seed = 5;
    let (mut up, mut down) = (0, 0);
    for tunnel in 0..TUNNELS {
        let (client, server) = line(&program, &origin);
        let (client, server) = (Arc::new(client), Arc::new(server));
        for (from, to, counted) in [(&client, &server, &mut up), (&server, &client, &mut down)] {
            from.set_nonblocking(true).unwrap();
            let total = random(&mut seed) % 20_000;
            *counted += total;
            parts[(tunnel % THREADS) as usize].push(Flow {
                from: Arc::clone(from),
                to: Arc::clone(to),
                stream: tunnel * 2 + u64::from(Arc::ptr_eq(from, &server)),
                total,
                written: 0,
                read: 0,
                fin_sent: false,
                ended: false,
            });
        }
    }
    let drivers: Vec<_> =
        parts.into_iter().zip(1..).map(|(flows, seed)| thread::spawn(move || drive(flows, seed))).collect();
    drivers.into_iter().for_each(|driver| driver.join().unwrap());
    program.report_when_empty();
    let totals = program.stop().totals();
    assert_eq!(
        (count(&totals, "bytes_up"), count(&totals, "bytes_down"), count(&totals, "ended")),
        (up, down, TUNNELS),
        "{totals:?}"
    );
    assert_eq!(count(&totals, "splice_lost"), 0);
    // How many find a moment in which nothing is on its way depends on the machine; the rest of the time they are copied.
    let carried = count(&totals, "spliced") - count(&totals, "splice_never");
    assert!(carried > TUNNELS / 10 && count(&totals, "bytes_spliced") > (up + down) / 20, "{totals:?}");
}

fn half_close_reset_and_the_last_word(engine: Engine) {
    let _lab = Lab::new();
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let Some(program) = program(engine, &origin, "messages = 3\ngap = \"5s\"") else { return };
    // A client ends first, and hears the answer.
    let (mut client, mut server) = line(&program, &origin);
    let pings = spliced(&program, &client, &server);
    client.write_all(b"the end").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"the end");
    server.write_all(b"not quite").unwrap();
    drop(server);
    rest.clear();
    client.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"not quite");
    // A reset goes either way.
    for by_client in [true, false] {
        let (client, server) = line(&program, &origin);
        let before = count(&program.report().counters, "spliced");
        while count(&program.report().counters, "spliced") == before {
            ping(&client, &server);
        }
        (0..20).for_each(|_| ping(&client, &server));
        let (breaks, mut learns) = if by_client { (client, server) } else { (server, client) };
        reset_on_close(&breaks);
        drop(breaks);
        assert_eq!(learns.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    program.report_when_empty();
    let totals = program.stop().totals();
    assert_eq!(
        (count(&totals, "reset_by_client"), count(&totals, "reset_by_server"), count(&totals, "ended")),
        (1, 1, 1)
    );
    assert!(count(&totals, "bytes_up") >= pings + 7 && count(&totals, "splice_ended") == 1, "{totals:?}");
}

fn slow_reader_gets_everything(engine: Engine) {
    const TOTAL: u64 = 24 << 20;
    let _lab = Lab::new();
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let Some(program) = program(engine, &origin, "messages = 3\ngap = \"5s\"") else { return };
    let (client, server) = line(&program, &origin);
    let pings = spliced(&program, &client, &server);
    let writer = thread::spawn(move || {
        let mut at = 0;
        while at < TOTAL {
            let size = 5_000.min(TOTAL - at);
            let piece: Vec<u8> = (at..at + size).map(|at| byte_at(1, at)).collect();
            (&server).write_all(&piece).unwrap();
            at += size;
        }
        server
    });
    // Nobody reads before the tunnel is on its way back.
    program.report_when("it comes back", |report| {
        count(&report.counters, "splice_slow") + count(&report.counters, "splice_bulk") > 0
            || writer.is_finished()
    });
    let (mut at, mut buf) = (0, vec![0; 32 * 1024]);
    while at < TOTAL {
        let count = (&client).read(&mut buf).unwrap();
        assert!(count > 0, "it ended after {at}");
        assert!((at..).zip(&buf[..count]).all(|(at, byte)| byte_at(1, at) == *byte), "after {at}");
        at += count as u64;
    }
    drop((client, writer.join().unwrap()));
    program.report_when_empty();
    let totals = program.stop().totals();
    assert_eq!(
        (count(&totals, "bytes_down"), count(&totals, "splice_lost")),
        (TOTAL + pings, 0),
        "{totals:?}"
    );
}

fn drain_cuts_what_is_spliced(engine: Engine) {
    let _lab = Lab::new();
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let Some(program) = program(engine, &origin, "messages = 3\ngap = \"5s\"") else { return };
    let (mut client, mut server) = line(&program, &origin);
    let mut pings = spliced(&program, &client, &server);
    program.signal(libc::SIGTERM);
    // It is carried on while the drain lasts.
    ping(&client, &server);
    pings += 1;
    for stream in [&mut client, &mut server] {
        assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    let totals = program.wait().totals();
    assert_eq!(
        (count(&totals, "drain_cut"), count(&totals, "bytes_up"), count(&totals, "bytes_down")),
        (1, pings, pings)
    );
}

fn websocket_like_chatter_is_carried_and_quiet_comes_back(engine: Engine) {
    let _lab = Lab::new();
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let Some(program) = program(engine, &origin, "messages = 20\ngap = \"5s\"") else { return };
    let (client, server) = line(&program, &origin);
    spliced(&program, &client, &server);
    // Carried messages do not wake the program, however many: its next look is a second away.
    let before = program.cpu_ticks();
    (0..2_000).for_each(|_| ping(&client, &server));
    let carried = program.cpu_ticks() - before;
    assert!(carried < 20, "{carried} ticks for 4 000 carried messages");
    program.report_when("a quiet tunnel comes back", |report| count(&report.counters, "splice_quiet") == 1);
    ping(&client, &server);
    drop((client, server));
    program.report_when_empty();
}

fn an_upgraded_connection_is_carried(engine: Engine) {
    let _lab = Lab::new();
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    if !may_splice() {
        return;
    }
    let program =
        Program::run(&config(engine, &origin, "messages = 3\ngap = \"5s\"").listener("mode = \"http\""));
    let mut client = TcpStream::connect(program.address).unwrap();
    client.set_nodelay(true).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: chatter\r\n\r\n")
        .unwrap();
    let mut server = origin.accept().unwrap().0;
    server.set_nodelay(true).unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    read_head(&mut server);
    server
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chatter\r\n\r\n")
        .unwrap();
    assert!(read_head(&mut client).starts_with("HTTP/1.1 101 "));
    spliced(&program, &client, &server);
    // Either side's last words arrive, and each hears the end.
    server.write_all(b"bye").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"bye");
    client.write_all(b"and you").unwrap();
    drop(client);
    rest.clear();
    server.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"and you");
    program.report_when_empty();
    let totals = program.stop().totals();
    assert_eq!((count(&totals, "splice_lost"), count(&totals, "splice_ended")), (0, 1), "{totals:?}");
}

/// To the empty line, and no further.
fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn ipv6_tunnels_are_carried(engine: Engine) {
    let _lab = Lab::new();
    let origin = TcpListener::bind("[::1]:0").unwrap();
    if !may_splice() {
        return;
    }
    let config = config(engine, &origin, "messages = 3\ngap = \"5s\"");
    let program = Program::run(&Config { listen: Ipv6Addr::LOCALHOST.into(), ..config });
    let (client, server) = line(&program, &origin);
    let pings = spliced(&program, &client, &server);
    drop((client, server));
    program.report_when_empty();
    let totals = program.stop().totals();
    assert_eq!((count(&totals, "bytes_up"), count(&totals, "bytes_down")), (pings, pings), "{totals:?}");
}

fn a_program_that_may_not_says_what_it_needs(engine: Engine) {
    let _lab = Lab::new();
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free_port(Ipv4Addr::LOCALHOST.into());
    let file = Scratch::new("fourfold.toml", config(engine, &origin, "").toml(address).as_bytes());
    let mut command = Command::new(BINARY);
    command.args(["run", "--admin", "off"]).arg(&file.0);
    command.uid(65_534).gid(65_534);
    let output = command.output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{said}");
    for word in ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON", "splice.mode"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}
