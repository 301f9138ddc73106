//! Rates: who comes too often is told so, all shards together, and others are not.

use crate::common::http::{Caller, Scripted, plain};
use crate::common::{Config, Crowd, Engine, Lab, Origin, Program};
use crate::on_both_engines;

on_both_engines!(
    connections_beyond_the_rate_are_reset,
    a_rate_of_all_clients_holds_over_all_shards,
    requests_beyond_the_rate_get_429,
);

fn connections_beyond_the_rate_are_reset(engine: Engine) {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let config = Config::to(engine, &[origin.address]).top("shards = 2");
    let program = Program::run(&config.listener("[[listener.connection_rate]]\nrate = \"1/h\"\nburst = 5"));
    let mut crowd = Crowd::at(program.address);
    crowd.open(12);
    crowd.until("five are in, the others reset", |tally| tally.held == 5 && tally.reset == 7);
    assert_eq!(program.report().count("refused_connection_rate"), 7);
    assert_eq!(program.warnings("connection_rate").len(), 1, "{}", program.log());
    // Another client has an allowance of its own.
    let mut other = Crowd::from(program.address, "127.0.0.2");
    other.open(2);
    other.until("both are in", |tally| tally.held == 2);
    program.stop();
}

fn a_rate_of_all_clients_holds_over_all_shards(engine: Engine) {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let config = Config::to(engine, &[origin.address]).top("shards = 2");
    let rates = "[[listener.connection_rate]]\nrate = \"1/h\"\nburst = 5\nkey = \"global\"";
    let program = Program::run(&config.listener(rates));
    let mut crowd = Crowd::at(program.address);
    crowd.open(4);
    crowd.until("four are in", |tally| tally.held == 4);
    let mut other = Crowd::from(program.address, "127.0.0.2");
    other.open(4);
    other.until("one more is in", |tally| tally.held == 1 && tally.reset == 3);
    program.stop();
}

fn requests_beyond_the_rate_get_429(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::echo();
    let rates = "[[listener.request_rate]]\nrate = \"2/m\"\nkey = \"header:X-User\"";
    let program = Program::run(&plain(engine, &[origin.address]).listener(rates));
    let mut client = Caller::to(&program);
    let mut ask = |user: &str| {
        client.say(format!("GET / HTTP/1.1\r\nHost: a\r\nX-User: {user}\r\n\r\n"));
        client.reply()
    };
    assert_eq!((ask("a").status(), ask("a").status()), (200, 200));
    let refused = ask("a");
    assert_eq!((refused.status(), refused.field("x-fourfold-reason")), (429, Some("rate_limited")));
    let wait: u64 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait} s for one request of two a minute");
    // The connection goes on, and so does somebody else.
    assert_eq!(ask("b").status(), 200);
    assert_eq!((program.report().count("http_rate_limited"), origin.requests().len()), (1, 3));
    assert_eq!(program.warnings("request_rate").len(), 1, "{}", program.log());
    program.stop();
}
