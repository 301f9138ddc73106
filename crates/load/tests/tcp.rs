//! Origin and load against each other on real sockets, on both engines.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use fourfold_engine::Engine;
use fourfold_load::origin::{self, Behaviour, OriginConfig, RunningOrigin};
use fourfold_load::tcp::{self, LoadConfig, Report, RunningLoad, Snapshot, Work};
use fourfold_ports::{Mode, PortSpan, SourceSet};
use fourfold_testkit::Alone;
use std::time::{Duration, Instant};

const ENGINES: [Engine; 2] = [Engine::Uring, Engine::Epoll];
/// Only ends a test that would otherwise hang.
const PATIENCE: Duration = Duration::from_secs(60);

fn origin(engine: Engine, behaviour: Behaviour, connections: u64) -> RunningOrigin {
    let listen = "127.0.0.1:0".parse().unwrap();
    let connections = Some(connections);
    origin::start(&OriginConfig { behaviour, engine: Some(engine), connections, ..OriginConfig::new(listen) })
        .unwrap()
}

fn config_of(engine: Engine, origin: &RunningOrigin, connections: u64) -> LoadConfig {
    LoadConfig { engine: Some(engine), ..LoadConfig::new(origin.address(), connections) }
}

fn until(load: &RunningLoad, what: &str, done: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let snapshot = load.snapshot();
        if done(&snapshot) {
            return snapshot;
        }
        assert!(Instant::now() < deadline, "never {what}: {snapshot:?}");
        std::thread::yield_now();
    }
}

fn holds(engine: Engine, connections: u64, sources: &str) -> Report {
    let origin = origin(engine, Behaviour::Echo, connections);
    let sources = SourceSet::parse(sources).unwrap();
    let work = Work::Hold { verify_rate: 2000.0 };
    let mut load =
        tcp::start(&LoadConfig { sources, work, ..config_of(engine, &origin, connections) }).unwrap();
    until(&load, "all held", |s| s.held == connections || s.failed > 0);
    until(&load, "verified again", |s| s.rounds >= 100 || s.failed > 0);
    assert_eq!(origin.stats().open, connections, "{engine}: {:?}", load.snapshot());
    load.stop();
    let report = load.wait(PATIENCE).unwrap();
    assert_eq!(
        (report.held, report.verified, report.failed_total, report.lost, report.wrong_bytes),
        (connections, connections, 0, 0, 0),
        "{engine}: {report:#?}"
    );
    assert_eq!((report.connect_us.count, report.echo_us.count), (connections, connections));
    let headroom = load.space().unwrap().headroom();
    assert_eq!(headroom.used, 0, "{engine}: leases left over: {headroom:?}");
    let stats = origin.stop().unwrap();
    assert_eq!((stats.accepted, stats.open), (connections, 0), "{engine}");
    report
}

#[test]
fn two_thousand_are_held_verified_again_and_closed() {
    for engine in ENGINES {
        // A network for each round: the last one's TIME_WAIT stays behind.
        let _alone = Alone::new();
        holds(engine, 2_000, "127.0.0.1");
    }
}

#[test]
fn each_is_verified_once_more_on_demand_and_random_ones_at_the_rate_that_is_set() {
    for engine in ENGINES {
        // A network for each round: the last one's TIME_WAIT stays behind.
        let _alone = Alone::new();
        let origin = origin(engine, Behaviour::Echo, 2_000);
        let few = LoadConfig { pending: 8, ..config_of(engine, &origin, 2_000) };
        let mut load = tcp::start(&few).unwrap();
        let up = until(&load, "all held", |s| s.held == 2_000);
        assert_eq!((up.checked, up.rounds), (0, 0));
        assert!(up.verify_us >= up.connect_us && up.connect_us > 0, "{up:?}");
        load.check_each();
        let checked = until(&load, "each verified again", |s| s.checked == 2_000);
        assert_eq!(checked.rounds, 2_000, "one message each");
        load.verify_at(500);
        until(&load, "random ones verified", |s| s.rounds >= 2_100);
        load.release(300);
        until(&load, "released ones no longer count", |s| s.held == 1_700 && s.checked == 1_700);
        load.stop();
        let report = load.wait(PATIENCE).unwrap();
        assert_eq!((report.held, report.checked, report.lost), (1_700, 1_700, 0), "{report:#?}");
        origin.stop().unwrap();
    }
}

#[test]
fn twenty_thousand_from_two_sources() {
    for engine in ENGINES {
        // A network for each round: the last one's TIME_WAIT stays behind.
        let _alone = Alone::new();
        let report = holds(engine, 20_000, "127.0.1.1-127.0.1.2");
        println!("{engine}: {report:#?}");
    }
}

#[test]
fn a_refusing_target_is_reported_with_its_reason() {
    for engine in ENGINES {
        // A network for each round: the last one's TIME_WAIT stays behind.
        let _alone = Alone::new();
        let gone = origin(engine, Behaviour::Echo, 1);
        let config = config_of(engine, &gone, 500);
        gone.stop().unwrap();
        let mut load = tcp::start(&config).unwrap();
        until(&load, "all failed", |s| s.failed == 500);
        load.stop();
        let report = load.wait(PATIENCE).unwrap();
        assert_eq!(report.failed["connect: Connection refused (ECONNREFUSED)"], 500, "{report:#?}");
        assert_eq!((report.opened, report.held, report.unfinished), (0, 0, 0));
        assert_eq!(load.space().unwrap().headroom().used, 0);
    }
}

#[test]
fn an_echo_that_never_comes_is_in_the_figures() {
    for engine in ENGINES {
        // A network for each round: the last one's TIME_WAIT stays behind.
        let _alone = Alone::new();
        let sink = origin(engine, Behaviour::Sink, 100);
        let timeout = Duration::from_millis(200);
        let timed = LoadConfig { echo_timeout: timeout, ..config_of(engine, &sink, 50) };
        let mut load = tcp::start(&timed).unwrap();
        until(&load, "timed out", |s| s.failed == 50);
        load.stop();
        let report = load.wait(PATIENCE).unwrap();
        assert_eq!((report.failed["no echo in time"], report.echo_us.count), (50, 50), "{report:#?}");
        assert!(report.echo_us.p50 >= 199_000, "{report:#?}");

        let mut load = tcp::start(&config_of(engine, &sink, 50)).unwrap();
        until(&load, "all waiting", |s| s.opened == 50);
        load.stop();
        let report = load.wait(PATIENCE).unwrap();
        assert_eq!((report.unfinished, report.echo_us.count, report.held), (50, 50, 0), "{report:#?}");
        assert_eq!(load.space().unwrap().headroom().used, 0);
        sink.stop().unwrap();
    }
}

#[test]
fn connections_that_are_due_but_not_started_count_from_the_schedule() {
    for engine in ENGINES {
        // A network for each round: the last one's TIME_WAIT stays behind.
        let _alone = Alone::new();
        let sink = origin(engine, Behaviour::Sink, 100);
        // Four may be pending and none ever completes: the rest of the schedule is late, and ages.
        let stuck = LoadConfig {
            rate: Some(1000.0),
            pending: 4,
            shards: Some(2),
            duration: Some(Duration::from_millis(600)),
            ..config_of(engine, &sink, 400)
        };
        let mut load = tcp::start(&stuck).unwrap();
        let report = load.wait(PATIENCE).unwrap();
        assert_eq!((report.opened, report.unfinished), (4, 400), "{report:#?}");
        assert_eq!(report.connect_us.count, 400, "4 that were made and 396 that should have been");
        assert!(report.connect_us.p50 >= 300_000, "{report:#?}");
        sink.stop().unwrap();
    }
}

#[test]
fn peers_that_leave_are_counted_as_lost() {
    for engine in ENGINES {
        // A network for each round: the last one's TIME_WAIT stays behind.
        let _alone = Alone::new();
        let origin = origin(engine, Behaviour::Echo, 1000);
        let mut load = tcp::start(&config_of(engine, &origin, 1000)).unwrap();
        until(&load, "all held", |s| s.held == 1000);
        origin.stop().unwrap();
        until(&load, "all lost", |s| s.lost == 1000);
        load.stop();
        let report = load.wait(PATIENCE).unwrap();
        assert_eq!((report.verified, report.held, report.lost), (1000, 0, 1000), "{report:#?}");
        assert_eq!(report.lost_by.values().sum::<u64>(), 1000);
        assert_eq!(load.space().unwrap().headroom().used, 0);
    }
}

#[test]
fn releases_and_opens_on_request() {
    for engine in ENGINES {
        // A network for each round: the last one's TIME_WAIT stays behind.
        let _alone = Alone::new();
        let origin = origin(engine, Behaviour::Echo, 1000);
        let mut load = tcp::start(&config_of(engine, &origin, 900)).unwrap();
        until(&load, "all held", |s| s.held == 900);
        for round in 1..=5 {
            load.release(300);
            until(&load, "released", |s| s.released == 300 * round);
            load.open(300);
            until(&load, "held again", |s| s.verified == 900 + 300 * round);
        }
        assert_eq!(load.snapshot().held, 900);
        load.stop();
        let report = load.wait(PATIENCE).unwrap();
        assert_eq!((report.wanted, report.held, report.released), (2400, 900, 1500), "{report:#?}");
        assert_eq!((report.failed_total, report.lost), (0, 0));
        origin.stop().unwrap();
    }
}

#[test]
fn requests_as_fast_as_they_go_and_larger_than_any_queue() {
    for engine in ENGINES {
        // A network for each round: the last one's TIME_WAIT stays behind.
        let _alone = Alone::new();
        let origin = origin(engine, Behaviour::Echo, 100);
        for bytes in [1, 64, 500_000] {
            let work = Work::Requests { bytes, rate: None };
            let mut load = tcp::start(&LoadConfig { work, ..config_of(engine, &origin, 16) }).unwrap();
            until(&load, "served", |s| s.held == 16 && s.rounds >= 200);
            load.stop();
            let report = load.wait(PATIENCE).unwrap();
            assert_eq!((report.held, report.lost, report.wrong_bytes), (16, 0, 0), "{report:#?}");
            assert_eq!(report.round_us.count, report.rounds + report.rounds_unfinished);
            assert!(report.rounds_per_s > 0.0);
        }
        origin.stop().unwrap();
    }
}

#[test]
fn requests_at_a_rate_keep_their_schedule() {
    for engine in ENGINES {
        // A network for each round: the last one's TIME_WAIT stays behind.
        let _alone = Alone::new();
        let origin = origin(engine, Behaviour::Echo, 100);
        let work = Work::Requests { bytes: 100, rate: Some(2000.0) };
        let duration = Some(Duration::from_millis(500));
        let mut load = tcp::start(&LoadConfig { work, duration, ..config_of(engine, &origin, 20) }).unwrap();
        let report = load.wait(PATIENCE).unwrap();
        // Never more than scheduled, one millisecond early at most.
        assert!((1..=1020).contains(&report.rounds), "{report:#?}");
        assert_eq!((report.lost, report.wrong_bytes, report.failed_total), (0, 0, 0), "{report:#?}");
        origin.stop().unwrap();
    }
}

#[test]
fn churn_closes_and_replaces() {
    for (engine, reset) in ENGINES.into_iter().flat_map(|engine| [(engine, false), (engine, true)]) {
        // A network for each round: the last one's TIME_WAIT stays behind.
        let _alone = Alone::new();
        let origin = origin(engine, Behaviour::Echo, 32);
        let churn = LoadConfig { work: Work::Churn, reset, ..config_of(engine, &origin, 32) };
        let mut load = tcp::start(&churn).unwrap();
        until(&load, "churned", |s| s.released >= 2000);
        load.stop();
        let report = load.wait(PATIENCE).unwrap();
        assert_eq!(report.failed_total, report.unfinished, "{report:#?}");
        assert_eq!((report.lost, report.wrong_bytes), (0, 0), "{report:#?}");
        assert_eq!(load.space().unwrap().headroom().used, 0);
        origin.stop().unwrap();
    }
}

#[test]
fn refuses_more_connections_than_there_are_tuples() {
    let _alone = Alone::new();
    let config = LoadConfig::new("127.0.0.1:9".parse().unwrap(), 70_000);
    let error = tcp::start(&config).err().unwrap().to_string();
    assert!(error.contains("name more --source addresses"), "{error}");
}

#[test]
fn a_byte_that_comes_back_wrong_is_noticed() {
    let _alone = Alone::new();
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let liar = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut token = [0u8; fourfold_load::TOKEN_BYTES as usize];
        stream.read_exact(&mut token).unwrap();
        token[17] ^= 1;
        let _ = stream.write_all(&token);
        let _ = stream.read(&mut token);
    });
    let mut load = tcp::start(&LoadConfig::new(address, 1)).unwrap();
    until(&load, "caught", |s| s.failed == 1);
    load.stop();
    let report = load.wait(PATIENCE).unwrap();
    assert_eq!((report.failed["wrong bytes"], report.wrong_bytes, report.held), (1, 1, 0), "{report:#?}");
    liar.join().unwrap();
}

#[test]
fn ipv6_and_ports_pinned_early_or_left_to_the_kernel() {
    let _alone = Alone::new();
    let span = Some(PortSpan::new(20_000, 29_999).unwrap());
    let ways = [(Some(Mode::Late), None), (Some(Mode::Early), span), (None, None)];
    for (engine, (mode, span)) in ENGINES.into_iter().flat_map(|e| ways.map(|way| (e, way))) {
        for listen in ["[::1]:0", "127.0.0.1:0"] {
            let listen = listen.parse().unwrap();
            let config = OriginConfig { engine: Some(engine), ..OriginConfig::new(listen) };
            let origin = origin::start(&OriginConfig { connections: Some(300), ..config }).unwrap();
            let config = LoadConfig { mode, span, ..config_of(engine, &origin, 300) };
            let mut load = tcp::start(&config).unwrap();
            until(&load, "all held", |s| s.held + s.failed == 300);
            load.stop();
            let report = load.wait(PATIENCE).unwrap();
            assert_eq!(report.held, 300, "{engine} {mode:?} {listen}: {report:#?}");
            assert_eq!(load.space().is_some(), mode.is_some());
            origin.stop().unwrap();
        }
    }
}
