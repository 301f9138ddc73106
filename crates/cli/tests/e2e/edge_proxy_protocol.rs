//! The PROXY protocol, from whoever is in front and to whoever is behind: HAProxy and nginx are the other ends where they are
//! installed.

use crate::common::http::{Caller, Scripted, find, plain, show};
use crate::common::{Config, Engine, Lab, Program};
use crate::on_both_engines;
use crate::peers::{Folder, Peer, installed, loopback};
use std::net::SocketAddr;

on_both_engines!(
    a_header_however_it_is_cut_is_taken_and_what_is_behind_it_passes,
    a_malformed_header_is_reset_and_said,
    a_header_from_a_stranger_is_data,
    a_missing_header_is_refused_where_it_is_required,
    a_header_that_does_not_come_is_not_waited_for,
    http_believes_the_header,
    http_connections_that_carry_a_clients_address_are_its_own,
    a_listener_on_every_address_tells_the_one_that_was_meant,
    haproxy_in_front_and_nginx_behind,
);

const TRUST_ALL: &str = "[listener.proxy_protocol]\ntrust = [\"127.0.0.0/8\"]";
const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";

/// Version 2 with the same addresses and a TLV.
fn v2() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f".to_vec();
    header.extend([192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x01, 0xbb, 0x04, 0, 0]);
    header
}

/// Sends back what it gets, and keeps it.
fn mirror() -> Scripted {
    Scripted::start(|line| {
        while let Some(bytes) = line.some() {
            line.say(&bytes);
        }
    })
}

fn a_header_however_it_is_cut_is_taken_and_what_is_behind_it_passes(engine: Engine) {
    let _lab = Lab::new();
    let origin = mirror();
    let config = Config::to(engine, &[origin.address]).listener(TRUST_ALL).pool("proxy_protocol = \"v1\"");
    let program = Program::run(&config);
    let headers = [V1.to_vec(), v2()];
    let mut taken = 0;
    for header in &headers {
        let mut message = header.clone();
        message.extend(b"hello");
        for cut in [0, 1, 5, 12, 16, header.len() - 1, header.len(), header.len() + 1] {
            let mut client = Caller::to(&program);
            client.say(&message[..cut]);
            taken += 1;
            if cut > 0 {
                let accepted = |count: u64| {
                    move |report: &crate::common::program::Report| report.count("accepted") >= count
                };
                program.report_when("it is in", accepted(taken));
            }
            client.say(&message[cut..]);
            let wanted = [V1, b"hello"].concat();
            assert_eq!(show(&client.bytes(wanted.len())), show(&wanted), "cut at {cut}");
            client.end();
            client.expect_end();
        }
        let mut client = Caller::to(&program);
        message.iter().for_each(|byte| client.say([*byte]));
        taken += 1;
        assert_eq!(show(&client.bytes(V1.len() + 5)[V1.len()..]), "hello");
        // A FIN right behind everything.
        let mut client = Caller::to(&program);
        client.say(&message);
        client.end();
        taken += 1;
        assert_eq!(show(&client.bytes(V1.len() + 5)[V1.len()..]), "hello");
        client.expect_end();
    }
    let report = program.report();
    assert_eq!((report.count("proxy_headers"), report.count("accepted")), (taken, taken));
    program.stop();
}

fn a_malformed_header_is_reset_and_said(engine: Engine) {
    let _lab = Lab::new();
    let origin = mirror();
    let program = Program::run(&Config::to(engine, &[origin.address]).listener(TRUST_ALL));
    let bad: [&[u8]; 4] = [
        b"PROXY TCP4 192.0.2.07 198.51.100.1 4711 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n",
        b"PROXY UDP4 192.0.2.7 198.51.100.1 4711 443\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x02ab",
    ];
    for header in bad {
        let mut client = Caller::to(&program);
        client.say(header);
        assert_eq!(show(&client.expect_reset()), "");
    }
    assert_eq!(program.report().count("refused_proxy_header"), 4);
    let warnings = program.warnings("PROXY protocol header of 127.0.0.1");
    assert_eq!(warnings.len(), 1, "{}", program.log());
    assert!(warnings[0].contains("section 2.1"), "{warnings:?}");
    assert_eq!(origin.connections(), 0);
    program.report_when_empty();
    program.stop();
}

fn a_header_from_a_stranger_is_data(engine: Engine) {
    let _lab = Lab::new();
    let origin = mirror();
    let config = Config::to(engine, &[origin.address]);
    let program = Program::run(&config.listener("[listener.proxy_protocol]\ntrust = [\"192.0.2.0/24\"]"));
    let mut client = Caller::to(&program);
    client.say(V1);
    assert_eq!(show(&client.bytes(V1.len())), show(V1));
    assert_eq!(program.report().count("proxy_headers"), 0);
    program.stop();
}

fn a_missing_header_is_refused_where_it_is_required(engine: Engine) {
    let _lab = Lab::new();
    let origin = mirror();
    let config = Config::to(engine, &[origin.address]);
    let program = Program::run(&config.clone().listener(TRUST_ALL));
    let mut client = Caller::to(&program);
    client.say("PRO");
    client.say("SE");
    client.expect_reset();
    assert_eq!((program.report().count("refused_proxy_header"), origin.connections()), (1, 0));
    program.stop();
    let program = Program::run(&config.listener(TRUST_ALL).listener("required = false"));
    for text in ["hello", "PROSE", "PRO"] {
        let mut client = Caller::to(&program);
        text.bytes().for_each(|byte| client.say([byte]));
        client.end();
        assert_eq!(show(&client.bytes(text.len())), text);
        client.expect_end();
    }
    program.stop();
}

fn a_header_that_does_not_come_is_not_waited_for(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::echo();
    let config = plain(engine, &[origin.address]).listener("first_byte_timeout = \"200ms\"");
    let program = Program::run(&config.listener(TRUST_ALL));
    let mut client = Caller::to(&program);
    client.say(&V1[..V1.len() - 1]);
    client.expect_reset();
    // Who only looks whether we are there is no error.
    let mut prober = Caller::to(&program);
    prober.end();
    prober.expect_end();
    let report = program.report_when_empty();
    assert_eq!((report.count("refused_proxy_header_timeout"), report.count("refused_proxy_header")), (1, 0));
    program.stop();
}

fn http_believes_the_header(engine: Engine) {
    let _lab = Lab::new();
    let folder = Folder::new("header");
    let file = folder.0.join("access.log");
    let origin = Scripted::echo();
    let config = Config::to(engine, &[origin.address]).listener("mode = \"http\"");
    let log = format!("{TRUST_ALL}\n[listener.access_log]\nto = \"{}\"", file.display());
    let program = Program::run(&config.listener(&log));
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.9.9.9\r\n\r\n";
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    for (header, wanted) in [(V1, "192.0.2.7"), (local, "127.0.0.1"), (b"PROXY UNKNOWN\r\n", "127.0.0.1")] {
        let mut client = Caller::to(&program);
        client.say([header, request].concat());
        assert_eq!(client.reply().status(), 200);
        client.get("/again");
        let (first, again) = {
            let mut all = origin.requests();
            let again = all.pop().unwrap();
            (all.pop().unwrap(), again)
        };
        for request in [&first, &again] {
            assert_eq!(
                (request.field("x-forwarded-for"), request.field("x-real-ip")),
                (Some(wanted), Some(wanted))
            );
        }
    }
    program.stop();
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches("\"client\":\"192.0.2.7\",\"peer\":\"192.0.2.7:4711\"").count(), 2, "{text}");
    assert_eq!(text.matches("\"client\":\"127.0.0.1\"").count(), 4, "{text}");
}

fn http_connections_that_carry_a_clients_address_are_its_own(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::start(|line| {
        line.until("\r\n");
        crate::common::http::echo_script(line);
    });
    let program = Program::run(&plain(engine, &[origin.address]).pool("proxy_protocol = \"v1\""));
    let (mut one, mut two) = (Caller::to(&program), Caller::to(&program));
    for round in 1..=3 {
        for client in [&mut one, &mut two] {
            assert_eq!(client.get("/x").text(), format!("{round} GET /x "));
        }
    }
    assert_eq!(origin.connections(), 2, "one for each client, kept for its next request");
    for (number, client) in [&one, &two].into_iter().enumerate() {
        let (source, destination) = (client.stream.local_addr().unwrap(), program.address);
        let ports = (source.port(), destination.port());
        let wanted = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nGET /x HTTP/1.1\r\n", ports.0, ports.1);
        let received = origin.received(number);
        assert!(received.starts_with(wanted.as_bytes()), "{}", show(&received));
        assert_eq!(received.len(), wanted.len() + 3 * (received.len() - wanted.len()) / 3);
        assert!(find(&received[10..], b"PROXY").is_none(), "said once: {}", show(&received));
    }
    drop(one);
    program.report_when("its connection goes with it", |report| report.servers[0].active == 1);
    two.get("/x");
    assert_eq!(origin.connections(), 2);
    drop(two);
    program.report_when_empty();
    program.stop();
}

fn a_listener_on_every_address_tells_the_one_that_was_meant(engine: Engine) {
    let _lab = Lab::new();
    let origin = mirror();
    let config = Config::to(engine, &[origin.address]).pool("proxy_protocol = \"v1\"");
    let program = Program::run(&Config { listen: "0.0.0.0".parse().unwrap(), ..config });
    let meant = SocketAddr::from(([127, 0, 0, 3], program.address.port()));
    let mut client = Caller::from(meant, "127.0.0.9:0".parse().unwrap());
    client.say("hello");
    let source = client.stream.local_addr().unwrap().port();
    let wanted = format!("PROXY TCP4 127.0.0.9 127.0.0.3 {source} {}\r\nhello", meant.port());
    assert_eq!(show(&client.bytes(wanted.len())), show(wanted.as_bytes()));
    program.stop();
}

/// A client's address passes three proxies: HAProxy puts it in front, Fourfold takes it and puts it in front again, nginx says it.
fn haproxy_in_front_and_nginx_behind(engine: Engine) {
    if let Some(missing) = ["nginx", "haproxy"].iter().find(|name| !installed(name)) {
        eprintln!("skipped: {missing} is not installed (apt-get install {missing})");
        return;
    }
    let _lab = Lab::new();
    let folder = Folder::new("proxied");
    let nginx = loopback();
    let _nginx = Peer::start("nginx", nginx, &["-e", "stderr", "-c"], &nginx_config(&folder, nginx));
    for (mode, back) in [("tcp", "v1"), ("tcp", "v2"), ("http", "v1"), ("http", "v2")] {
        let config = Config::to(engine, &[nginx]).listener(&format!("mode = \"{mode}\"\n{TRUST_ALL}"));
        let program = Program::run(&config.pool(&format!("proxy_protocol = \"{back}\"")));
        for front in ["send-proxy", "send-proxy-v2"] {
            let haproxy = loopback();
            let config = haproxy_config(haproxy, program.address, front);
            let _haproxy = Peer::start("haproxy", haproxy, &["-db", "-f"], &config);
            let mut client = Caller::from(haproxy, "127.0.0.9:0".parse().unwrap());
            let source = client.stream.local_addr().unwrap();
            let wanted = format!("{} {} {}", source.ip(), source.port(), haproxy.port());
            let wanted = if mode == "tcp" { wanted } else { wanted.rsplit_once(' ').unwrap().0.to_owned() };
            let answer = client.get("/").text();
            assert!(answer.starts_with(&wanted), "{mode} {front} {back}: {answer}, not {wanted}");
        }
        program.stop();
    }
}

fn nginx_config(folder: &Folder, listen: SocketAddr) -> String {
    let root = folder.0.display();
    format!(
        "daemon off; user root; worker_processes 1; pid {root}/pid; error_log stderr crit;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {root}/a; proxy_temp_path {root}/b; fastcgi_temp_path {root}/c; uwsgi_temp_path {root}/d; scgi_temp_path {root}/e;
  server {{
    listen {listen} proxy_protocol;
    location / {{ return 200 \"$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_port\"; }}
  }}
}}
"
    )
}

fn haproxy_config(listen: SocketAddr, to: SocketAddr, send: &str) -> String {
    format!(
        "defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen all
    bind {listen}
    server fourfold {to} {send}
"
    )
}
