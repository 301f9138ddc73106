//! Four-tuples run short: nobody is turned away before the last one is used, and nobody is blamed.

use crate::common::crowd::connect;
use crate::common::{Config, Crowd, Engine, Lab, Origin, Program, eventually};
use crate::on_both_engines;

on_both_engines!(
    clients_beyond_the_tuples_are_refused_at_the_deadline,
    waiting_clients_get_in_as_others_leave,
    waiting_clients_that_give_up_are_let_go,
    early_mode_reuses_its_tuples_at_once,
    shards_that_wake_each_other_do_not_write_into_connections,
    tuple_of_another_program_is_skipped_and_counted,
    two_sources_hold_twice_as_many,
    ipv6_prefix_is_a_source,
);

/// 64 tuples, in shares of several shards, so that none is full without borrowing.
fn narrow(engine: Engine, origin: &Origin, timeout: &str) -> Config {
    let pool = format!("sources = [\"127.0.0.1\"]\nports = \"40000-40063\"\nqueue_timeout = \"{timeout}\"");
    Config::to(engine, &[origin.address]).top("shards = 3").pool(&pool)
}

fn clients_beyond_the_tuples_are_refused_at_the_deadline(engine: Engine) {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let program = Program::run(&narrow(engine, &origin, "2s"));
    let mut crowd = Crowd::from(program.address, "127.0.0.9");
    crowd.open(100);
    crowd.until("every tuple is used", |tally| tally.held == 64);
    let report = program.report();
    assert_eq!((report.waiting, report.used(), report.tuples[0].free), (36, 64, 0));
    let tally = crowd.until("the others are refused", |tally| tally.undecided() == 0);
    assert_eq!((tally.held, tally.reset), (64, 36));
    let report = program.report();
    assert_eq!(report.count("refused_tuples"), 36);
    assert_eq!((report.servers[0].up, report.servers[0].failures), (true, 0));
    let said = program.warnings("client refused");
    assert_eq!(said.len(), 1, "one line for all: {said:?}");
    assert!(said[0].contains("sources") && said[0].contains("ports"), "the remedy: {said:?}");
    crowd.ask_again();
    crowd.until("those who are in are served as before", |tally| tally.held == 64);
    crowd.leave(64);
    program.report_when_empty();
    program.stop();
}

fn waiting_clients_get_in_as_others_leave(engine: Engine) {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let program = Program::run(&narrow(engine, &origin, "30s"));
    let mut crowd = Crowd::from(program.address, "127.0.0.9");
    crowd.open(100);
    crowd.until("every tuple is used", |tally| tally.held == 64);
    crowd.leave(20);
    crowd.until("as many get in as left", |tally| tally.held == 64 && tally.undecided() == 16);
    // A reset leaves no TIME_WAIT: the tuple is free at once.
    crowd.break_off(30);
    crowd.until("the rest gets in", |tally| tally.held == 64 - 30 + 16 && tally.undecided() == 0);
    crowd.leave(64);
    let report = program.report_when_empty();
    assert_eq!(report.count("refused_tuples"), 0);
    assert_eq!((report.count("accepted"), report.count("connected")), (100, 100));
    program.stop();
}

fn waiting_clients_that_give_up_are_let_go(engine: Engine) {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let program = Program::run(&narrow(engine, &origin, "1h"));
    let mut crowd = Crowd::from(program.address, "127.0.0.9");
    crowd.open(100);
    crowd.until("every tuple is used", |tally| tally.held == 64 && tally.asking == 36);
    program.report_when("the others wait", |report| report.waiting == 36);
    crowd.give_up();
    program.report_when("nobody waits", |report| report.waiting == 0 && report.connections == 64);
    crowd.open(10);
    program.report_when("others wait", |report| report.waiting == 10);
    crowd.break_off(10);
    crowd.until("and get in", |tally| tally.held == 64 && tally.undecided() == 0);
    crowd.break_off(64);
    program.report_when_empty();
    program.stop();
}

fn early_mode_reuses_its_tuples_at_once(engine: Engine) {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let pool =
        "sources = [\"127.0.0.1\"]\nports = \"20000-20015\"\nport_mode = \"early\"\nqueue_timeout = \"30s\"";
    let program = Program::run(&Config::to(engine, &[origin.address]).top("shards = 2").pool(pool));
    let mut crowd = Crowd::from(program.address, "127.0.0.9");
    for round in 0..5 {
        crowd.open(24);
        crowd.until("every tuple is used", |tally| tally.held == 16);
        assert_eq!(program.report().used(), 16, "round {round}");
        crowd.leave(16);
        crowd.until("the others get in", |tally| tally.held == 8 && tally.undecided() == 0);
        crowd.leave(8);
        program.report_when_empty();
    }
    assert_eq!(program.stop().totals()["connected"], 5 * 24);
}

/// Once a shard's own descriptor table lacked the others' wakers, and waking them wrote into a client's connection.
fn shards_that_wake_each_other_do_not_write_into_connections(engine: Engine) {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let program = Program::run(&narrow(engine, &origin, "30s"));
    let mut crowd = Crowd::from(program.address, "127.0.0.9");
    for _ in 0..10 {
        crowd.open(100);
        crowd.until("every tuple is used", |tally| tally.held == 64);
        crowd.break_off(50);
        crowd.until("all are in", |tally| tally.undecided() == 0);
        crowd.ask_again();
        crowd.until("each gets its own bytes", |tally| tally.held == 50 && tally.odd == 0);
        crowd.break_off(50);
        program.report_when_empty();
    }
    program.stop();
}

fn tuple_of_another_program_is_skipped_and_counted(engine: Engine) {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let other = connect(origin.address, Some("127.0.0.1:40005".parse().unwrap())).unwrap();
    let program = Program::run(&narrow(engine, &origin, "30s"));
    let mut crowd = Crowd::from(program.address, "127.0.0.9");
    crowd.open(64);
    crowd.until("every tuple but one is used", |tally| tally.held == 63);
    let report = program.report_when("the foreign one is known", |report| report.tuples[0].foreign == 1);
    // Found out by asking the kernel at the start, or by the connection that it made fail, whichever came first.
    let asked = program.log().contains("1 are held by other sockets");
    assert!(asked || report.count("tuples_foreign") >= 1, "{report:?}");
    assert_eq!((report.waiting, report.servers[0].failures), (1, 0), "{report:?}");
    // The one that waits gets another's tuple; the foreign one is looked at again only after half a minute.
    crowd.break_off(1);
    crowd.until("the last one is in", |tally| tally.held == 63 && tally.undecided() == 0);
    drop(other);
    crowd.leave(63);
    program.report_when_empty();
    program.stop();
}

fn two_sources_hold_twice_as_many(engine: Engine) {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let pool = "sources = [\"127.0.0.2-127.0.0.3\"]\nports = \"40000-40031\"\nqueue_timeout = \"30s\"";
    let program = Program::run(&Config::to(engine, &[origin.address]).pool(pool));
    let mut crowd = Crowd::from(program.address, "127.0.0.9");
    crowd.open(70);
    crowd.until("every tuple of both is used", |tally| tally.held == 64);
    eventually("the others wait", || (program.report().waiting == 6).then_some(()));
    drop(crowd);
    program.report_when_empty();
    program.stop();
}

fn ipv6_prefix_is_a_source(engine: Engine) {
    let Some(_lab) = Lab::private() else { return };
    crate::common::lab::run("ip", &["-6", "route", "add", "local", "fd00:4::/64", "dev", "lo"]);
    crate::common::lab::set("net/ipv6/ip_nonlocal_bind", "1");
    let origin = Origin::start("[::1]:0", crate::common::Behaviour::Echo);
    let pool = "sources = [\"fd00:4::/64\"]\nports = \"40000-40000\"";
    let program = Program::run(&Config::to(engine, &[origin.address]).pool(pool));
    let mut crowd = Crowd::at(program.address);
    crowd.open(300);
    crowd.until("each has an address of its own", |tally| tally.held == 300);
    assert_eq!(program.report().used(), 300);
    crowd.leave(300);
    program.report_when_empty();
    program.stop();
}
