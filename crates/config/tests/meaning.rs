//! What a configuration comes to: defaults, flags, and the collisions between pools.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail loudly")]

use fourfold_config::{
    AdminListen, Algorithm, Checked, Diagnostics, EngineChoice, Flags, HostPort, LogFormat, LogLevel, Mode,
    PortMode, PortSpan, from_flags, parse, parse_count, parse_duration_ms,
};

const LISTENERS: &str = "\
[[listener]]
name = \"a\"
bind = \"0.0.0.0:8080\"
pool = \"a\"
[[listener]]
name = \"b\"
bind = \"0.0.0.0:8081\"
pool = \"b\"
";

/// Two pools with these keys and servers.
fn two_pools(a: &str, a_server: &str, b: &str, b_server: &str) -> Result<Checked, Diagnostics> {
    let pool = |name: &str, keys: &str, server: &str| {
        format!("[[pool]]\nname = \"{name}\"\n{keys}\n[[pool.server]]\naddress = \"{server}\"\n")
    };
    let text = format!("{LISTENERS}{}{}", pool("a", a, a_server), pool("b", b, b_server));
    parse("two.toml", text.as_bytes())
}

fn codes(outcome: &Result<Checked, Diagnostics>) -> Vec<&'static str> {
    let found = match outcome {
        Ok(checked) => &checked.warnings,
        Err(found) => found,
    };
    found.iter().map(|item| item.code.as_str()).collect()
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn what_is_not_written_has_its_default() {
    let text = "[[listener]]\nname = \"a\"\nbind = \"[::]:80\"\npool = \"p\"\n\
                [[pool]]\nname = \"p\"\n[[pool.server]]\naddress = \"Chat.example.com:9000\"\n";
    let plan = parse("x.toml", text.as_bytes()).unwrap().plan;
    assert_eq!((plan.max_connections, plan.shards, plan.engine), (None, None, EngineChoice::Auto));
    assert_eq!((plan.drain_timeout_ms, plan.buffer_memory_bytes), (30_000, None));
    assert_eq!((plan.log.level, plan.log.format), (LogLevel::Info, LogFormat::Human));
    assert_eq!(plan.admin, AdminListen::Default);
    let listener = &plan.listeners[0];
    assert_eq!((listener.mode, listener.pool, listener.idle_timeout_ms), (Mode::Tcp, Some(0), 3_600_000));
    assert_eq!((listener.max_connections, listener.backlog), (None, None));
    let pool = &plan.pools[0];
    assert_eq!((pool.balance, pool.port_mode, pool.ports), (Algorithm::P2c, PortMode::Auto, None));
    assert!(pool.sources.is_kernel_chosen());
    assert_eq!((pool.connect_timeout_ms, pool.connect_attempts), (5_000, 3));
    assert_eq!((pool.queue_timeout_ms, pool.queue_max), (5_000, None));
    assert_eq!((pool.retry_backoff_ms, pool.retry_backoff_max_ms), (100, 10_000));
    let server = &pool.servers[0];
    assert_eq!(server.address, HostPort::Name { host: "chat.example.com".into(), port: 9000 });
    assert_eq!((server.weight, server.max_connections), (1, None));
}

#[test]
fn written_values_arrive() {
    let text = include_str!("../../../tests/configs/good/every-key.toml");
    let plan = parse("every-key.toml", text.as_bytes()).unwrap().plan;
    assert_eq!(
        (plan.max_connections, plan.shards, plan.engine),
        (Some(1_000_000), Some(4), EngineChoice::Epoll)
    );
    assert_eq!((plan.log.level, plan.log.format), (LogLevel::Debug, LogFormat::Json));
    assert_eq!(plan.admin, AdminListen::Tcp("127.0.0.1:9900".parse().unwrap()));
    let listener = &plan.listeners[0];
    assert_eq!(
        (listener.max_connections, listener.idle_timeout_ms, listener.backlog),
        (Some(500_000), 0, Some(64_000))
    );
    let pool = &plan.pools[0];
    assert_eq!(pool.balance, Algorithm::LeastConnections);
    assert_eq!(pool.sources.len(), 17 + (1 << 64));
    assert_eq!(pool.ports, PortSpan::new(10_000, 32_000).ok());
    assert_eq!((pool.port_mode, pool.queue_timeout_ms, pool.queue_max), (PortMode::Early, 90_000, Some(0)));
    let servers: Vec<_> = pool.servers.iter().map(|one| (one.address.to_string(), one.weight)).collect();
    assert_eq!(
        servers,
        [("10.0.1.1:9000".into(), 3), ("[fd00:2::1]:9000".into(), 1), ("chat.example.com:9000".into(), 0)]
    );
}

#[test]
fn flags_make_the_same_plan_as_a_file() {
    let (listen, to, source) = (
        strings(&["0.0.0.0:8080"]),
        strings(&["10.0.1.1:9000"]),
        strings(&["10.0.0.10-10.0.0.25", "10.0.0.30"]),
    );
    let flags = Flags {
        listen: &listen,
        to: &to,
        source: &source,
        mode: Some("tcp"),
        max_connections: Some("1M"),
        shards: Some("auto"),
        engine: Some("uring"),
        admin: Some("unix:/run/x.sock"),
    };
    let from_file = "max_connections = 1_000_000\nengine = \"uring\"\nadmin.listen = \"unix:/run/x.sock\"\n\
        [[listener]]\nname = \"listen-1\"\nbind = \"0.0.0.0:8080\"\npool = \"default\"\n\
        [[pool]]\nname = \"default\"\nsources = [\"10.0.0.10-10.0.0.25\", \"10.0.0.30\"]\n\
        [[pool.server]]\naddress = \"10.0.1.1:9000\"\n";
    assert_eq!(from_flags(&flags).unwrap().plan, parse("x.toml", from_file.as_bytes()).unwrap().plan);
}

#[test]
fn wrong_flags_are_named() {
    let (listen, to, source) = (
        strings(&["0.0.0.0:8080", "127.0.0.1:8080", "localhost:1"]),
        strings(&["10.0.1.1:9000", "10.0.1.1:9000", "10.0.1.1"]),
        strings(&["10.0.0.9-10.0.0.1"]),
    );
    let flags = Flags {
        listen: &listen,
        to: &to,
        source: &source,
        mode: Some("htpt"),
        max_connections: Some("0"),
        shards: Some("none"),
        engine: Some("epol"),
        admin: Some("0.0.0.0:9900"),
    };
    let shown = from_flags(&flags).unwrap_err().render_human();
    for expected in [
        "--listen 127.0.0.1:8080: error: 127.0.0.1:8080 collides with 0.0.0.0:8080",
        "--listen localhost:1: error: `bind`: \"localhost:1\": a host name cannot be listened on",
        "--to 10.0.1.1:9000: error: server 10.0.1.1:9000 is already in pool \"default\"",
        "--to 10.0.1.1: error: `address`: \"10.0.1.1\": the port is missing",
        "--source 10.0.0.9-10.0.0.1: error: source \"10.0.0.9-10.0.0.1\": the range ends before it starts",
        "--mode htpt: error: `mode` cannot be \"htpt\"",
        "--max-connections 0: error: `max_connections` must be from 1 to 100_000_000 connections, not 0",
        "--shards none: error: `shards`: \"none\" is not a whole number",
        "--engine epol: error: `engine` cannot be \"epol\"",
        "did you mean \"epoll\"?",
        "--admin 0.0.0.0:9900: error: `listen`: \"0.0.0.0:9900\" can be reached from outside",
    ] {
        assert!(shown.contains(expected), "{expected}\nnot in\n{shown}");
    }
    assert_eq!(shown.matches("--mode htpt").count(), 1, "once, however many listeners:\n{shown}");
}

#[test]
fn missing_flags_are_asked_for() {
    let shown = from_flags(&Flags::default()).unwrap_err().render_human();
    assert_eq!(
        shown,
        "--listen ADDR: error: is needed: the address to listen on [no-listener]\n\
         --to ADDR: error: is needed: a server to pass connections on to [empty-pool]\n"
    );
}

#[test]
fn pools_may_share_tuples_only_as_one_space() {
    let same = "sources = [\"10.0.0.10\"]";
    let cases = [
        (same, "10.0.1.1:9000", same, "10.0.1.1:9000", None),
        (same, "10.0.1.1:9000", "sources = [\"10.0.0.9-10.0.0.10\"]", "10.0.1.2:9000", None),
        (
            same,
            "10.0.1.1:9000",
            "sources = [\"10.0.0.9-10.0.0.10\"]",
            "10.0.1.1:9000",
            Some("overlapping-tuples"),
        ),
        (same, "10.0.1.1:9000", "sources = [\"10.0.0.11\"]", "10.0.1.1:9000", None),
        // Which source the kernel will pick is not known: a warning.
        (same, "10.0.1.1:9000", "", "10.0.1.1:9000", Some("overlapping-tuples")),
        ("ports = \"1024-2000\"", "a.test:1", "ports = \"2001-3000\"", "a.test:1", None),
        (
            "ports = \"1024-2001\"",
            "a.test:1",
            "ports = \"2001-3000\"",
            "a.test:1",
            Some("overlapping-tuples"),
        ),
        ("port_mode = \"late\"", "a.test:1", "", "a.test:1", Some("overlapping-tuples")),
    ];
    for (a, a_server, b, b_server, expected) in cases {
        let outcome = two_pools(a, a_server, b, b_server);
        assert_eq!(codes(&outcome), Vec::from_iter(expected), "{a} {a_server} {b} {b_server}");
    }
}

#[test]
fn a_port_is_early_or_late_whatever_the_source_and_server() {
    let early = "sources = [\"10.0.0.10\"]\nport_mode = \"early\"\nports = \"1024-2000\"";
    let late = |ports: &str| format!("sources = [\"10.0.0.11\"]\nport_mode = \"late\"\nports = \"{ports}\"");
    let outcome = two_pools(early, "10.0.1.1:1", &late("2000-3000"), "10.0.1.2:1");
    assert_eq!(codes(&outcome), ["mixed-port-modes"]);
    assert!(two_pools(early, "10.0.1.1:1", &late("2001-3000"), "10.0.1.2:1").is_ok());
}

#[test]
fn collisions_that_depend_on_the_machine_are_found_once_its_range_is_known() {
    let local = PortSpan::new(32_768, 60_999).unwrap();
    let check = |a: &str, b: &str, late_available: bool| -> Vec<&'static str> {
        let checked = two_pools(a, "10.0.1.1:1", b, "10.0.1.2:1").unwrap();
        let found = checked.plan.check_ports("two.toml", local, late_available);
        found.iter().map(|item| item.code.as_str()).collect()
    };
    let early = "sources = [\"10.0.0.10\"]\nport_mode = \"early\"\nports = \"20000-40000\"";
    assert_eq!(check(early, "", true), ["mixed-port-modes"], "the other pool is late in the whole range");
    assert!(check(early, "sources = [\"10.0.0.11\"]", false).is_empty(), "without late ports all are early");
    assert!(check("", "", true).is_empty());
    let reaching_out = "sources = [\"10.0.0.10\"]\nports = \"30000-40000\"";
    assert_eq!(check("port_mode = \"late\"", reaching_out, true), ["mixed-port-modes"]);
}

#[test]
fn warnings_do_not_stop_a_plan() {
    let text = "max_connections = 10\n[[listener]]\nname = \"a\"\nbind = \"0.0.0.0:80\"\npool = \"p\"\n\
                max_connections = 11\n[[pool]]\nname = \"p\"\n[[pool.server]]\naddress = \"10.0.0.1:9\"\n";
    let checked = parse("x.toml", text.as_bytes()).unwrap();
    assert_eq!((checked.warnings.error_count(), checked.warnings.warning_count()), (0, 1));
    let json = checked.warnings.to_json();
    assert_eq!(json["valid"], true);
    assert_eq!(json["diagnostics"][0]["severity"], "warning");
    assert_eq!(json["diagnostics"][0]["key"], "listener[0].max_connections");
    assert_eq!(json["diagnostics"][0]["line"], 6);
}

#[test]
fn counts() {
    for (text, number) in [
        ("0", 0),
        ("1_000_000", 1_000_000),
        ("20k", 20_000),
        ("20K", 20_000),
        ("1M", 1_000_000),
        ("2G", 2_000_000_000),
        (" 7 ", 7),
    ] {
        assert_eq!(parse_count(text), Ok(number), "{text}");
    }
    for text in [
        "",
        "k",
        "_1",
        "1_",
        "1__0",
        "+1",
        "-1",
        "1.5M",
        "1e6",
        "0x10",
        "1Mi",
        "1 M",
        "1m",
        "٣",
        "18446744073709551616",
        "18446744073709552k",
    ] {
        assert!(parse_count(text).is_err(), "{text}");
    }
}

#[test]
fn durations() {
    for (text, ms) in [
        ("0s", 0),
        ("250ms", 250),
        ("30s", 30_000),
        ("5m", 300_000),
        ("1h30m", 5_400_000),
        ("1d", 86_400_000),
        ("1_000ms", 1_000),
    ] {
        assert_eq!(parse_duration_ms(text), Ok(ms), "{text}");
    }
    for text in
        ["", "s", "30", "-1s", "1.5s", "1s1s", "1m1h", "1 s", "1S", "1w", "1us", "99999999999999999999s"]
    {
        assert!(parse_duration_ms(text).is_err(), "{text}");
    }
}

#[test]
fn a_listener_with_a_wildcard_bind_takes_the_port_of_its_family_only() {
    let listeners = |a: &str, b: &str| {
        let text = format!(
            "[[listener]]\nname = \"a\"\nbind = \"{a}\"\npool = \"p\"\n[[listener]]\nname = \"b\"\nbind = \"{b}\"\npool = \"p\"\n\
             [[pool]]\nname = \"p\"\n[[pool.server]]\naddress = \"10.0.0.1:9\"\n"
        );
        codes(&parse("x.toml", text.as_bytes()))
    };
    assert!(listeners("0.0.0.0:80", "[::]:80").is_empty());
    assert!(listeners("10.0.0.1:80", "10.0.0.2:80").is_empty());
    assert!(listeners("0.0.0.0:80", "10.0.0.2:81").is_empty());
    for (a, b) in [
        ("0.0.0.0:80", "10.0.0.2:80"),
        ("10.0.0.2:80", "0.0.0.0:80"),
        ("[fd00::1]:80", "[::]:80"),
        ("[fd00::1]:80", "[fd00:0::1]:80"),
    ] {
        assert_eq!(listeners(a, b), ["duplicate-bind"], "{a} {b}");
    }
}
