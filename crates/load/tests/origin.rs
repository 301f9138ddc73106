//! The origin as its clients see it, on both engines.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use fourfold_engine::Engine;
use fourfold_load::origin::{self, Behaviour, OriginConfig, OriginStats, RunningOrigin};
use fourfold_testkit::Alone;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

const ENGINES: [Engine; 2] = [Engine::Uring, Engine::Epoll];
/// Only ends a test that would otherwise hang.
const PATIENCE: Duration = Duration::from_secs(60);

fn start(engine: Engine, behaviour: Behaviour) -> RunningOrigin {
    let config = OriginConfig {
        behaviour,
        engine: Some(engine),
        connections: Some(1000),
        ..OriginConfig::new("127.0.0.1:0".parse().unwrap())
    };
    origin::start(&config).unwrap()
}

fn connect(origin: &RunningOrigin) -> TcpStream {
    let stream = TcpStream::connect(origin.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn echoes_everything_and_then_the_fin() {
    for engine in ENGINES {
        // A network for each round: the last one's TIME_WAIT stays behind.
        let _alone = Alone::new();
        let origin = start(engine, Behaviour::Echo);
        let mut reader = connect(&origin);
        let mut writer = reader.try_clone().unwrap();
        let message: Vec<u8> = (0..3_000_000u32).map(|i| (i * 31 % 251) as u8).collect();
        let sent = message.clone();
        // The reader starts late, so the origin meets a full socket first.
        let thread = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut echo = Vec::new();
        reader.read_to_end(&mut echo).unwrap();
        thread.join().unwrap();
        assert!(echo == message, "{engine}: {} of {} bytes", echo.len(), message.len());
        let stats = origin.stop().unwrap();
        let bytes = message.len() as u64;
        let expected =
            OriginStats { accepted: 1, received_bytes: bytes, sent_bytes: bytes, ..OriginStats::default() };
        assert_eq!(stats, expected, "{engine}");
    }
}

#[test]
fn pauses_a_peer_that_does_not_read() {
    for engine in ENGINES {
        // A network for each round: the last one's TIME_WAIT stays behind.
        let _alone = Alone::new();
        let origin = start(engine, Behaviour::Echo);
        let mut stream = connect(&origin);
        stream.set_nonblocking(true).unwrap();
        let chunk = [7u8; 65_536];
        let mut sent = 0;
        let mut quiet = 0;
        // Buffers of two sockets and the origin's queue fill up; then nothing moves any more. A pause taken for the end by
        // mistake makes the test weaker, not wrong.
        while quiet < 50 {
            match stream.write(&chunk) {
                Ok(n) => (sent, quiet) = (sent + n, 0),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    quiet += 1;
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => panic!("{engine}: {error}"),
            }
            assert!(sent < 100 << 20, "{engine}: the origin swallows without end");
        }
        stream.set_nonblocking(false).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut echo = Vec::new();
        stream.read_to_end(&mut echo).unwrap();
        assert_eq!(echo.len(), sent, "{engine}");
        assert!(echo.iter().all(|byte| *byte == 7));
        origin.stop().unwrap();
    }
}

#[test]
fn source_floods_sink_swallows_and_stop_resets() {
    for engine in ENGINES {
        // A network for each round: the last one's TIME_WAIT stays behind.
        let _alone = Alone::new();
        let source = start(engine, Behaviour::Source);
        let mut stream = connect(&source);
        let mut bytes = vec![1u8; 5_000_000];
        stream.read_exact(&mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
        source.stop().unwrap();
        let ended = stream.read_to_end(&mut bytes);
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset, "{engine}");

        let sink = start(engine, Behaviour::Sink);
        let mut stream = connect(&sink);
        stream.write_all(b"into the void").unwrap();
        while sink.stats().open == 0 {
            std::thread::yield_now();
        }
        let stats = sink.stop().unwrap();
        assert_eq!((stats.accepted, stats.open, stats.received_bytes), (1, 0, 0), "{engine}");
        assert_eq!(stream.read(&mut bytes).unwrap_err().kind(), ErrorKind::ConnectionReset, "{engine}");
    }
}

#[test]
fn beyond_the_limit_connections_wait_until_others_leave() {
    for engine in ENGINES {
        // A network for each round: the last one's TIME_WAIT stays behind.
        let _alone = Alone::new();
        let config = OriginConfig {
            engine: Some(engine),
            connections: Some(3),
            shards: Some(1),
            ..OriginConfig::new("127.0.0.1:0".parse().unwrap())
        };
        let origin = origin::start(&config).unwrap();
        // No more than io_uring may accept on its way to a stop: one that finds no slot is lost.
        for _ in 0..3 {
            let waiting: Vec<TcpStream> = (0..50).map(|_| connect(&origin)).collect();
            for (turn, mut stream) in waiting.into_iter().enumerate() {
                let mut echo = [0u8; 7];
                let served = stream.write_all(b"my turn").and_then(|()| stream.read_exact(&mut echo));
                served.unwrap_or_else(|error| panic!("{engine}, {turn}: {error}, {:?}", origin.stats()));
                assert_eq!(&echo, b"my turn", "{engine}");
            }
        }
        assert_eq!(origin.stop().unwrap().accepted, 150, "{engine}");
    }
}
