//! What goes in comes out, in both directions, to the end that was meant.

use crate::common::lab::free_port;
use crate::common::origin::reset_on_close;
use crate::common::{Behaviour, Config, Crowd, DEADLINE, Engine, Lab, Origin, Program, eventually};
use crate::on_both_engines;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};

on_both_engines!(
    many_sizes_both_directions_at_once,
    client_may_end_first,
    server_may_end_first,
    both_may_end_without_a_byte,
    client_reset_reaches_the_server,
    server_reset_reaches_the_client,
    bytes_before_a_fin_are_all_delivered,
    silent_connection_is_reset_after_idle_timeout,
    thirty_megabytes_to_a_slow_reader_in_bounded_memory,
    ipv6_in_front_and_behind,
    ipv6_in_front_and_ipv4_behind,
    several_listeners_lead_to_their_own_pools,
    round_robin_follows_weights,
);

/// A connection through the proxy, both ends in hand.
struct Line {
    client: TcpStream,
    server: TcpStream,
    program: Program,
    _lab: Lab,
}

fn line(engine: Engine, adapt: impl Fn(Config) -> Config) -> Line {
    let lab = Lab::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let program = Program::run(&adapt(Config::to(engine, &[listener.local_addr().unwrap()])));
    let client = patient(TcpStream::connect(program.address).unwrap());
    let server = accept(&listener);
    Line { client, server, program, _lab: lab }
}

fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let stream = eventually("the origin is connected to", || listener.accept().ok()).0;
    stream.set_nonblocking(false).unwrap();
    patient(stream)
}

/// Blocking, but not for ever.
fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// A stream of bytes in which a missing, doubled or swapped piece of any size shows.
struct Pattern(u64);

impl Pattern {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (self.0 >> 56) as u8;
        }
    }

    fn send(&mut self, stream: &mut TcpStream, count: usize) {
        let mut bytes = vec![0; count];
        self.fill(&mut bytes);
        stream.write_all(&bytes).unwrap();
    }

    #[track_caller]
    fn expect(&mut self, stream: &mut TcpStream, count: usize) {
        let (mut got, mut want) = (vec![0; count], vec![0; count]);
        stream.read_exact(&mut got).unwrap();
        self.fill(&mut want);
        assert!(got == want, "other bytes than were sent, in a piece of {count}");
    }
}

#[track_caller]
fn expect_end(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), 0, "bytes that nobody sent");
}

#[track_caller]
fn expect_reset(stream: &mut TcpStream) {
    // The kernel may interrupt a read for work of its own, such as the end of an io_uring.
    let kind = loop {
        match stream.read(&mut [0; 1]).expect_err("a reset").kind() {
            ErrorKind::Interrupted => {}
            kind => break kind,
        }
    };
    assert_eq!(kind, ErrorKind::ConnectionReset);
}

fn many_sizes_both_directions_at_once(engine: Engine) {
    const SIZES: [usize; 16] = [
        1,
        2,
        3,
        1447,
        1448,
        1449,
        4095,
        4096,
        4097,
        16_383,
        65_535,
        65_536,
        65_537,
        131_072,
        300_001,
        1 << 20,
    ];
    let Line { client, server, program, _lab } = line(engine, |config| config);
    let talk = |stream: &TcpStream, own: u64, other: u64| {
        let (mut writer, mut reader) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
        let sends = std::thread::spawn(move || {
            let mut pattern = Pattern(own);
            SIZES.iter().for_each(|size| pattern.send(&mut writer, *size));
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let receives = std::thread::spawn(move || {
            let mut pattern = Pattern(other);
            SIZES.iter().rev().for_each(|size| pattern.expect(&mut reader, *size));
            expect_end(&mut reader);
        });
        [sends, receives]
    };
    let threads = talk(&client, 1, 2).into_iter().chain(talk(&server, 2, 1)).collect::<Vec<_>>();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let total = SIZES.iter().sum::<usize>() as u64;
    drop((client, server));
    program.report_when_empty();
    let totals = program.stop().totals();
    assert_eq!((totals["bytes_up"], totals["bytes_down"], totals["ended"]), (total, total, 1));
}

fn client_may_end_first(engine: Engine) {
    let Line { mut client, mut server, program, _lab } = line(engine, |config| config);
    Pattern(7).send(&mut client, 1000);
    client.shutdown(Shutdown::Write).unwrap();
    Pattern(7).expect(&mut server, 1000);
    expect_end(&mut server);
    Pattern(8).send(&mut server, 1_000_000);
    drop(server);
    Pattern(8).expect(&mut client, 1_000_000);
    expect_end(&mut client);
    program.report_when_empty();
    assert_eq!(program.stop().totals()["ended"], 1);
}

fn server_may_end_first(engine: Engine) {
    let Line { mut client, mut server, program, _lab } = line(engine, |config| config);
    Pattern(7).send(&mut server, 1000);
    server.shutdown(Shutdown::Write).unwrap();
    Pattern(7).expect(&mut client, 1000);
    expect_end(&mut client);
    // Large enough that the client is still sending when its FIN has long been asked for.
    let sender = std::thread::spawn(move || Pattern(8).send(&mut client, 1_000_000));
    Pattern(8).expect(&mut server, 1_000_000);
    sender.join().unwrap();
    expect_end(&mut server);
    drop(server);
    program.report_when_empty();
    assert_eq!(program.stop().totals()["ended"], 1);
}

fn both_may_end_without_a_byte(engine: Engine) {
    let Line { client, mut server, program, _lab } = line(engine, |config| config);
    drop(client);
    expect_end(&mut server);
    drop(server);
    program.report_when_empty();
    assert_eq!(program.stop().totals()["ended"], 1);
}

fn client_reset_reaches_the_server(engine: Engine) {
    let Line { mut client, mut server, program, _lab } = line(engine, |config| config);
    Pattern(1).send(&mut client, 10);
    Pattern(1).expect(&mut server, 10);
    reset_on_close(&client);
    drop(client);
    expect_reset(&mut server);
    program.report_when_empty();
    assert_eq!(program.stop().totals()["reset_by_client"], 1);
}

fn server_reset_reaches_the_client(engine: Engine) {
    let Line { mut client, mut server, program, _lab } = line(engine, |config| config);
    Pattern(1).send(&mut client, 10);
    Pattern(1).expect(&mut server, 10);
    reset_on_close(&server);
    drop(server);
    expect_reset(&mut client);
    program.report_when_empty();
    assert_eq!(program.stop().totals()["reset_by_server"], 1);
}

/// The sender's FIN follows at once upon more bytes than the proxy buffers, and the reader begins late.
fn bytes_before_a_fin_are_all_delivered(engine: Engine) {
    let Line { mut client, mut server, program, _lab } = line(engine, |config| config);
    let sender = std::thread::spawn(move || {
        Pattern(3).send(&mut client, 3_000_000);
        client.shutdown(Shutdown::Write).unwrap();
        client
    });
    program.report_when("bytes pile up", |report| report.count("bytes_up") > 100_000);
    Pattern(3).expect(&mut server, 3_000_000);
    expect_end(&mut server);
    drop((sender.join().unwrap(), server));
    program.report_when_empty();
}

fn silent_connection_is_reset_after_idle_timeout(engine: Engine) {
    let Line { mut client, mut server, program, _lab } =
        line(engine, |config| config.listener("idle_timeout = \"300ms\""));
    Pattern(1).send(&mut client, 10);
    Pattern(1).expect(&mut server, 10);
    expect_reset(&mut client);
    expect_reset(&mut server);
    program.report_when_empty();
    assert_eq!(program.stop().totals()["idle_timeout"], 1);
}

/// Generous against what it would be without a bound: 30 MB. The proxy's own is 128 KB, and buffers come in chunks.
const GROWTH_MAX: u64 = 4 << 20;

fn thirty_megabytes_to_a_slow_reader_in_bounded_memory(engine: Engine) {
    const PIECE: usize = 1_000_000;
    let Line { client, server, program, _lab } = line(engine, |config| config);
    for (mut from, mut to) in [
        (client.try_clone().unwrap(), server.try_clone().unwrap()),
        (server.try_clone().unwrap(), client.try_clone().unwrap()),
    ] {
        let before = program.resident_bytes();
        let sender = std::thread::spawn(move || {
            let mut pattern = Pattern(30);
            (0..30).for_each(|_| pattern.send(&mut from, PIECE));
        });
        let mut stalled = program.report();
        eventually("nobody can send any more", || {
            let last = std::mem::replace(&mut stalled, program.report());
            std::thread::sleep(std::time::Duration::from_millis(50));
            let moved = |name: &str| stalled.count(name) - last.count(name);
            let begun = stalled.count("bytes_up") + stalled.count("bytes_down") > 100_000;
            (begun && moved("bytes_up") + moved("bytes_down") == 0).then_some(())
        });
        let mut pattern = Pattern(30);
        let mut most = program.resident_bytes();
        for _ in 0..30 {
            pattern.expect(&mut to, PIECE);
            most = most.max(program.resident_bytes());
        }
        sender.join().unwrap();
        assert!(most.saturating_sub(before) < GROWTH_MAX, "grew from {before} to {most} bytes");
    }
    drop((client, server));
    program.report_when_empty();
    let totals = program.stop().totals();
    assert_eq!((totals["bytes_up"], totals["bytes_down"]), (30 * PIECE as u64, 30 * PIECE as u64));
}

fn crowd_through(engine: Engine, listen: &str, origin: &str) {
    let _lab = Lab::new();
    let origin = Origin::start(origin, Behaviour::Echo);
    let mut config = Config::to(engine, &[origin.address]);
    config.listen = listen.parse::<IpAddr>().unwrap();
    let program = Program::run(&config);
    let mut crowd = Crowd::at(program.address);
    crowd.open(50);
    crowd.until("all are served", |tally| tally.held == 50);
    crowd.ask_again();
    crowd.until("all are served again", |tally| tally.held == 50);
    crowd.leave(50);
    program.report_when_empty();
    program.stop();
}

fn ipv6_in_front_and_behind(engine: Engine) {
    crowd_through(engine, "::1", "[::1]:0");
}

fn ipv6_in_front_and_ipv4_behind(engine: Engine) {
    crowd_through(engine, "::1", "127.0.0.1:0");
}

fn several_listeners_lead_to_their_own_pools(engine: Engine) {
    let _lab = Lab::new();
    let (first, second) = (Origin::echo(), Origin::echo());
    let other: SocketAddr = free_port("127.0.0.2".parse().unwrap());
    let mut config = Config::to(engine, &[first.address]);
    config.more = format!(
        "[[listener]]\nname = \"other\"\nbind = \"{other}\"\npool = \"other\"\n[[pool]]\nname = \"other\"\n\
         [[pool.server]]\naddress = \"{}\"",
        second.address
    );
    let program = Program::run(&config);
    let (mut edge, mut others) = (Crowd::at(program.address), Crowd::at(other));
    edge.open(20);
    others.open(30);
    edge.until("served", |tally| tally.held == 20);
    others.until("served", |tally| tally.held == 30);
    assert_eq!((first.accepted(), second.accepted()), (20, 30));
    drop((edge, others));
    program.report_when_empty();
    program.stop();
}

fn round_robin_follows_weights(engine: Engine) {
    let _lab = Lab::new();
    let origins = [Origin::echo(), Origin::echo(), Origin::echo()];
    // Each shard goes round on its own.
    let mut config = Config::to(engine, &[]).top("shards = 1").pool("balance = \"round-robin\"");
    config.servers = origins
        .iter()
        .zip(["", "weight = 2", "weight = 3"])
        .map(|(origin, weight)| (origin.address.to_string(), weight.to_owned()))
        .collect();
    let program = Program::run(&config);
    let mut crowd = Crowd::at(program.address);
    crowd.open(60);
    crowd.until("served", |tally| tally.held == 60);
    assert_eq!(origins.each_ref().map(Origin::accepted), [10, 20, 30]);
    let active: Vec<u64> = program.report().servers.iter().map(|server| server.active).collect();
    assert_eq!(active, [10, 20, 30]);
    drop(crowd);
    program.report_when_empty();
    program.stop();
}
