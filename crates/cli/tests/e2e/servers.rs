//! Servers that refuse, hang, reset, die and come back.

use crate::common::lab::{free_port, run};
use crate::common::{Behaviour, Config, Crowd, Engine, Lab, Origin, Program, eventually};
use crate::on_both_engines;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

on_both_engines!(
    refusing_server_is_skipped,
    server_that_comes_back_is_used_again,
    clients_wait_for_the_only_server_to_come_back,
    clients_are_refused_when_no_server_comes_back,
    black_holed_server_is_skipped_after_connect_timeout,
    black_holed_only_server_refuses_with_a_reason,
    server_that_resets_at_once_harms_nobody_else,
);

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn refusing_server_is_skipped(engine: Engine) {
    let _lab = Lab::new();
    let (dead, alive) = (free_port(HERE), Origin::echo());
    let program = Program::run(&Config::to(engine, &[dead, alive.address]));
    let mut crowd = Crowd::at(program.address);
    crowd.open(200);
    crowd.until("all are served by the other", |tally| tally.held == 200);
    let report = program.report();
    assert!(report.count("connect_refused") >= 1);
    assert_eq!(report.servers[1].active, 200);
    assert_eq!(report.servers[1].failures, 0);
    assert!(!program.warnings(&format!("server {dead} failed")).is_empty(), "{}", program.log());
    crowd.leave(200);
    program.report_when_empty();
    program.stop();
}

fn server_that_comes_back_is_used_again(engine: Engine) {
    let _lab = Lab::new();
    let (dead, alive) = (free_port(HERE), Origin::echo());
    let config = Config::to(engine, &[dead, alive.address]).pool("retry_backoff_max = \"200ms\"");
    let program = Program::run(&config);
    let mut crowd = Crowd::at(program.address);
    crowd.open(50);
    crowd.until("all are served by the other", |tally| tally.held == 50);
    let back = Origin::at(dead, Behaviour::Echo);
    let mut opened = 50;
    eventually("the server is used again", || {
        crowd.open(1);
        opened += 1;
        crowd.until("served", |tally| tally.held == opened);
        (back.accepted() > 0).then_some(())
    });
    let report = program.report_when("it counts as up", |report| report.servers[0].up);
    assert_eq!(report.servers[0].failures, 0);
    program.stop();
}

fn clients_wait_for_the_only_server_to_come_back(engine: Engine) {
    let _lab = Lab::new();
    let dead = free_port(HERE);
    let config = Config::to(engine, &[dead]).pool("queue_timeout = \"30s\"\nretry_backoff_max = \"200ms\"");
    let program = Program::run(&config);
    let mut crowd = Crowd::at(program.address);
    crowd.open(100);
    program.report_when("clients wait, and the server has been tried again", |report| {
        report.waiting >= 90 && report.count("connect_refused") >= 6
    });
    let _back = Origin::at(dead, Behaviour::Echo);
    let tally = crowd.until("all are decided", |tally| tally.undecided() == 0);
    assert_eq!(tally.held, 100, "{tally:?}");
    crowd.leave(100);
    program.report_when_empty();
    program.stop();
}

fn clients_are_refused_when_no_server_comes_back(engine: Engine) {
    let _lab = Lab::new();
    let dead = free_port(HERE);
    let program = Program::run(&Config::to(engine, &[dead]).pool("queue_timeout = \"500ms\""));
    let mut crowd = Crowd::at(program.address);
    crowd.open(40);
    crowd.until("all are reset", |tally| tally.reset == 40);
    let report = program.report_when_empty();
    assert_eq!(report.count("refused_no_server") + report.count("refused_attempts"), 40);
    assert!(report.count("refused_no_server") >= 30, "{report:?}");
    assert!(!report.servers[0].up || report.servers[0].failures > 0);
    assert!(!program.warnings("every server of the pool is down").is_empty());
    program.stop();
}

fn black_hole(server: SocketAddr) {
    run("nft", &["add", "table", "inet", "hole"]);
    run("nft", &["add", "chain", "inet", "hole", "in", "{ type filter hook input priority 0; }"]);
    let port = server.port().to_string();
    run("nft", &["add", "rule", "inet", "hole", "in", "tcp", "dport", &port, "tcp", "flags", "syn", "drop"]);
}

fn black_holed_server_is_skipped_after_connect_timeout(engine: Engine) {
    let Some(_lab) = Lab::private() else { return };
    let (hole, alive) = (Origin::echo(), Origin::echo());
    black_hole(hole.address);
    let config = Config::to(engine, &[hole.address, alive.address]).pool("connect_timeout = \"300ms\"");
    let program = Program::run(&config);
    let mut crowd = Crowd::at(program.address);
    crowd.open(100);
    crowd.until("all are served by the other", |tally| tally.held == 100);
    let report = program.report();
    assert!(report.count("connect_timeout") >= 1);
    assert_eq!((report.servers[0].active, report.servers[1].active), (0, 100));
    assert_eq!(hole.accepted(), 0);
    crowd.leave(100);
    program.report_when_empty();
    program.stop();
}

fn black_holed_only_server_refuses_with_a_reason(engine: Engine) {
    let Some(lab) = Lab::private() else { return };
    let hole = Origin::echo();
    black_hole(hole.address);
    let pool = "connect_timeout = \"100ms\"\nqueue_timeout = \"400ms\"";
    let program = Program::run(&Config::to(engine, &[hole.address]).pool(pool));
    let sockets = lab.tcp_sockets();
    let mut crowd = Crowd::at(program.address);
    crowd.open(50);
    crowd.until("all are reset", |tally| tally.reset == 50);
    let report = program.report_when_empty();
    assert_eq!(report.count("refused_no_server") + report.count("refused_attempts"), 50);
    eventually("no socket is left", || (lab.tcp_sockets() <= sockets).then_some(()));
    program.stop();
}

fn server_that_resets_at_once_harms_nobody_else(engine: Engine) {
    let _lab = Lab::new();
    let (rude, kind) = (Origin::start("127.0.0.1:0", Behaviour::Reset), Origin::echo());
    let config =
        Config::to(engine, &[rude.address, kind.address]).top("shards = 1").pool("balance = \"round-robin\"");
    let program = Program::run(&config);
    let mut crowd = Crowd::at(program.address);
    crowd.open(100);
    let tally = crowd.until("all are decided", |tally| tally.undecided() == 0);
    assert_eq!(tally.odd, 0, "{:?}", crowd.strange_ends());
    assert!(tally.held >= 50, "{tally:?}");
    crowd.leave(100);
    let report = program.report_when_empty();
    let broken = report.count("reset_by_server") + report.count("connect_reset");
    assert!(broken >= tally.reset as u64, "{report:?}");
    program.stop();
}
