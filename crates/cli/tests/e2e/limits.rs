//! Every limit refuses with its own reason, costs nothing while it holds, and lets go again.

use crate::common::program::{BINARY, finish};
use crate::common::{Config, Crowd, Engine, Lab, Origin, Program};
use crate::on_both_engines;
use std::os::unix::process::CommandExt;
use std::process::Command;

on_both_engines!(
    max_connections_refuses_and_lets_in_again,
    listener_max_connections_refuses,
    server_max_connections_queues,
    queue_max_refuses,
    burst_beyond_the_accept_slots,
    few_descriptors_derive_a_small_limit,
    running_out_of_descriptors_does_not_spin,
);

fn max_connections_refuses_and_lets_in_again(engine: Engine) {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let program = Program::run(&Config::to(engine, &[origin.address]).top("max_connections = 10"));
    let mut crowd = Crowd::at(program.address);
    crowd.open(25);
    crowd.until("ten are in, the others reset", |tally| tally.held == 10 && tally.reset == 15);
    assert_eq!(program.report().count("refused_max_connections"), 15);
    assert_eq!(program.warnings("raise max_connections").len(), 1, "{}", program.log());
    crowd.leave(10);
    program.report_when_empty();
    crowd.open(10);
    crowd.until("there is room again", |tally| tally.held == 10 && tally.reset == 15);
    program.stop();
}

fn listener_max_connections_refuses(engine: Engine) {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let config = Config::to(engine, &[origin.address]).top("max_connections = 100");
    let program = Program::run(&config.listener("max_connections = 7"));
    let mut crowd = Crowd::at(program.address);
    crowd.open(20);
    crowd.until("seven are in, the others reset", |tally| tally.held == 7 && tally.reset == 13);
    assert_eq!(program.report().count("refused_listener_max"), 13);
    crowd.leave(7);
    program.report_when_empty();
    crowd.open(7);
    crowd.until("there is room again", |tally| tally.held == 7);
    program.stop();
}

fn server_max_connections_queues(engine: Engine) {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let mut config = Config::to(engine, &[origin.address]).top("shards = 2").pool("queue_timeout = \"30s\"");
    config.servers[0].1 = "max_connections = 3".into();
    let program = Program::run(&config);
    let mut crowd = Crowd::at(program.address);
    crowd.open(8);
    crowd.until("three are in", |tally| tally.held == 3);
    program.report_when("the others wait", |report| report.waiting == 5 && report.servers[0].active == 3);
    crowd.leave(2);
    crowd.until("two more are in", |tally| tally.held == 3 && tally.undecided() == 3);
    crowd.break_off(3);
    crowd.until("and the rest", |tally| tally.held == 3 && tally.undecided() == 0);
    assert_eq!(program.report().servers[0].active, 3);
    program.stop();
}

fn queue_max_refuses(engine: Engine) {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let mut config = Config::to(engine, &[origin.address]).pool("queue_timeout = \"30s\"\nqueue_max = 4");
    config.servers[0].1 = "max_connections = 3".into();
    let program = Program::run(&config);
    let mut crowd = Crowd::at(program.address);
    crowd.open(20);
    crowd.until("three are in, four wait", |tally| tally.held == 3 && tally.reset == 13);
    let report = program.report();
    assert_eq!((report.waiting, report.count("refused_queue_full")), (4, 13));
    crowd.leave(3);
    crowd.until("those who wait get in", |tally| tally.held == 3 && tally.undecided() == 1);
    program.stop();
}

/// More connections in one moment than the shard has slots for: those it cannot take wait, none is forgotten.
fn burst_beyond_the_accept_slots(engine: Engine) {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let config = Config::to(engine, &[origin.address]).top("max_connections = 10\nshards = 1");
    let program = Program::run(&config);
    program.signal(libc::SIGSTOP);
    let mut crowd = Crowd::at(program.address);
    crowd.open(500);
    program.signal(libc::SIGCONT);
    crowd.until("ten are in, the others reset", |tally| tally.held == 10 && tally.reset == 490);
    crowd.leave(10);
    let report = program.report_when_empty();
    assert_eq!(report.count("accepted"), 500);
    program.stop();
}

fn limit(command: &mut Command, descriptors: u64) {
    // SAFETY: setrlimit is async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            let limit = libc::rlimit { rlim_cur: descriptors, rlim_max: descriptors };
            let result = libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
}

#[test]
fn too_few_descriptors_are_said_at_the_start() {
    let _lab = Lab::new();
    let mut command = Command::new(BINARY);
    command.args(["run", "--listen", "127.0.0.1:4444", "--to", "127.0.0.1:4445"]);
    limit(&mut command, 100);
    let finished = finish(command);
    assert_eq!(finished.code(), Some(1), "{finished:?}");
    assert!(finished.stderr.contains("descriptor limit of 100"), "{finished:?}");
    assert!(finished.stderr.contains("ulimit -n"), "{finished:?}");
}

fn few_descriptors_derive_a_small_limit(engine: Engine) {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let program = Program::run_with(&Config::to(engine, &[origin.address]), |command| limit(command, 200));
    let room = program.report().count("max_connections") as usize;
    assert!((10..=200).contains(&room), "{room}");
    let mut crowd = Crowd::at(program.address);
    crowd.open(2 * room);
    let tally = crowd.until("all are decided", |tally| tally.undecided() == 0);
    assert_eq!(tally.odd + tally.refused, 0, "{tally:?}");
    // Each shard takes its part, and connections are spread by hash.
    assert!(tally.held >= room / 2 && tally.held <= room, "{tally:?} of {room}");
    assert!(program.cpu_ticks_per_second() < 20, "it spins");
    crowd.leave(tally.held);
    program.report_when_empty();
    crowd.open(5);
    crowd.until("there is room again", |now| now.held == 5);
    program.stop();
}

/// The limit is lowered below what the program has planned with, as another thread's or a library's descriptors would.
fn running_out_of_descriptors_does_not_spin(engine: Engine) {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let config = Config::to(engine, &[origin.address]).top("shards = 1\nmax_connections = 1000");
    let program = Program::run(&config);
    let limit = libc::rlimit { rlim_cur: 60, rlim_max: 20_000 };
    // SAFETY: the struct outlives the call; nothing is written back.
    let result = unsafe {
        libc::prlimit(program.pid() as i32, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut())
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    let mut crowd = Crowd::at(program.address);
    crowd.open(200);
    if engine == Engine::Uring {
        // Direct descriptors are not the table's: nothing is short.
        crowd.until("all are in", |tally| tally.held == 200);
        program.stop();
        return;
    }
    crowd.until("some are in", |tally| tally.held >= 5);
    let short = program.report_when("accepting has stopped", |report| {
        report.count("accept_descriptors") + report.count("connect_local") > 0
    });
    assert!(program.cpu_ticks_per_second() < 30, "it spins: {short:?}");
    assert!(program.warnings("ulimit -n").len() <= 2, "{}", program.log());
    crowd.until("all get in or are told no, as others leave", |_| true);
    for _ in 0..200 {
        let tally = crowd.tally();
        if tally.undecided() == 0 {
            break;
        }
        crowd.leave(tally.held);
        crowd.until("others take their place", |now| now.held > 0 || now.undecided() == 0);
    }
    let tally = crowd.until("all are decided", |tally| tally.undecided() == 0);
    assert_eq!((tally.odd, tally.refused), (0, 0), "{tally:?}");
    crowd.leave(tally.held);
    let report = program.report_when_empty();
    assert_eq!(report.count("refused_local") as usize, tally.reset, "{report:?}");
    program.stop();
}
