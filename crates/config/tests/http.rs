//! What the keys of http come to: defaults, values, routes, files, explanations.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail loudly")]

use std::net::SocketAddr;

use fourfold_config::http::{
    AccessFormat, AccessLog, AccessTarget, Action, ErrorFormat, ErrorStatus, Forwarded, Http, PathRewrite,
    RateKey, ServerHeader,
};
use fourfold_config::pool::{CheckRequest, HashKey, ProxyProtocol, RetryOn, SameSite};
use fourfold_config::{
    Checked, FILE_BYTES_MAX, Flags, Listener, Mode, Outcome, Plan, Pool, Question, Server, explain,
    from_flags, parse,
};

const EVERY_KEY: &str = include_str!("../../../tests/configs/good/http-every-key.toml");
const EXAMPLE: &str = include_str!("../../../docs/examples/http.toml");
const POOL: &str = "[[pool]]\nname = \"p\"\n[[pool.server]]\naddress = \"10.0.0.1:9\"\n";

fn checked(text: &str) -> Checked {
    parse("x.toml", text.as_bytes()).unwrap_or_else(|found| panic!("{}", found.render_human()))
}

/// An http listener with these lines, and one pool.
fn listener(lines: &str) -> Plan {
    let head = "[[listener]]\nname = \"a\"\nbind = \"0.0.0.0:80\"\nmode = \"http\"\n";
    checked(&format!("{head}{lines}\n{POOL}")).plan
}

fn http(plan: &Plan) -> &Http {
    plan.listeners[0].http.as_deref().unwrap()
}

/// The constructors are what code and simulator build on: they must mean what an empty configuration means.
#[test]
fn the_defaults_in_code_are_those_of_the_table() {
    let plan = listener("pool = \"p\"");
    let bind: SocketAddr = "0.0.0.0:80".parse().unwrap();
    assert_eq!(plan.listeners[0], Listener::http("a", bind, 0));
    let server = Server::new(plan.pools[0].servers[0].address.clone());
    assert_eq!(plan.pools[0], Pool::new("p", vec![server]));
    let tcp =
        checked(&format!("[[listener]]\nname = \"a\"\nbind = \"0.0.0.0:80\"\npool = \"p\"\n{POOL}")).plan;
    assert_eq!(tcp.listeners[0], Listener::tcp("a", bind, 0));
    let table = |name: &str| {
        let text = format!("[[listener]]\nname = \"a\"\nbind = \"0.0.0.0:80\"\npool = \"p\"\n{POOL}");
        checked(&text.replace("[[pool.server]]", &format!("[pool.{name}]\n[[pool.server]]"))).plan.pools[0]
            .health
            .clone()
    };
    assert_eq!(table("health").active, Some(Default::default()));
    assert_eq!(table("breaker").rules.breaker, Some(Default::default()));
    let outlier = table("outlier").rules;
    assert_eq!((outlier.streaks, outlier.ejection), (Default::default(), Default::default()));
    assert_eq!((outlier.success, outlier.latency), (Some(Default::default()), None));
}

#[test]
fn flags_make_an_http_plan() {
    let (listen, to) = (["0.0.0.0:80".to_owned()], ["10.0.0.1:9".to_owned()]);
    let flags = Flags { listen: &listen, to: &to, mode: Some("http"), ..Flags::default() };
    let plan = from_flags(&flags).unwrap().plan;
    assert_eq!(plan.listeners[0].mode, Mode::Http);
    assert_eq!(http(&plan), &Http::to_pool(0));
}

#[test]
fn written_listener_values_arrive() {
    let plan = checked(EVERY_KEY).plan;
    let (listener, http) = (&plan.listeners[0], http(&plan));
    assert_eq!(listener.binds.iter().map(SocketAddr::port).collect::<Vec<_>>(), [8080, 8081]);
    assert_eq!(plan.binds().map(|(n, bind)| (n, bind.port())).collect::<Vec<_>>(), [(0, 8080), (0, 8081)]);
    assert_eq!((plan.listener_of(0), plan.listener_of(1), plan.listener_of(2)), (Some(0), Some(0), None));
    let timeouts =
        [http.first_byte_timeout_ms, http.header_timeout_ms, http.body_timeout_ms, http.send_timeout_ms];
    assert_eq!(timeouts, [1_000, 2_000, 3_000, 4_000]);
    assert_eq!((http.keep_alive_timeout_ms, http.upgrade_timeout_ms, http.requests_max), (5_000, 0, 1_000));
    let limits = &http.limits;
    assert_eq!((limits.line_bytes, limits.head_bytes), (4_096, 12_288));
    assert_eq!((limits.fields, limits.trailer_bytes, http.body_bytes_max), (50, 1_000, Some(10_000_000)));
    assert!(http.trusted_proxies.contains("10.9.9.9".parse().unwrap()));
    assert!(!http.trusted_proxies.contains("11.9.9.9".parse().unwrap()));
    assert_eq!((http.forwarded, http.via.as_deref()), (Forwarded::Both, Some("edge-1")));
    assert_eq!((http.request_id.as_deref(), http.errors), (Some("x-trace"), ErrorFormat::Json));
    assert_eq!((http.server_header, http.explain_errors), (ServerHeader::Overwrite, true));
    let target = AccessTarget::SyslogUdp("10.0.0.9:514".parse().unwrap());
    assert_eq!(listener.access_log, Some(AccessLog { format: AccessFormat::Combined, to: target }));
    let proxy = listener.proxy_protocol.as_ref().unwrap();
    assert!(proxy.trust.contains("10.1.1.1".parse().unwrap()) && !proxy.required);
    let rate = &listener.connection_rates[0];
    assert_eq!((&rate.key, rate.count, rate.per_ms, rate.burst), (&RateKey::Global, 100, 1_000, 200));
    let keys: Vec<_> =
        http.request_rates.iter().map(|rate| (&rate.key, rate.count, rate.per_ms, rate.burst)).collect();
    let header = RateKey::Header("x-api-key".into());
    assert_eq!(keys, [(&RateKey::Prefix(24, 48), 30, 60_000, 60), (&header, 10, 3_600_000, 10)]);
    let statuses: Vec<_> = http.error_pages.iter().map(|page| page.status).collect();
    assert_eq!(statuses, [ErrorStatus::One(503), ErrorStatus::Class(5), ErrorStatus::One(404)]);
    assert_eq!(http.error_page(404).unwrap().content_type, "application/json");
    assert_eq!(http.error_page(502).unwrap().content_type, "text/html; charset=utf-8");
    assert!(http.error_page(400).is_none());
}

#[test]
fn written_route_values_arrive() {
    let plan = checked(EVERY_KEY).plan;
    let routes = &http(&plan).routes;
    let names: Vec<&str> = routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["api", "route-2", "route-3", "route-4", "default"]);
    let api = &routes[0];
    assert_eq!(api.action, Action::Split(vec![(0, 9), (1, 1)]));
    assert_eq!((api.spec.hosts.len(), api.spec.headers.len(), api.spec.query.len()), (2, 4, 3));
    assert_eq!(api.spec.headers[0].name, "x-canary");
    assert_eq!(api.rewrite.path, Some(PathRewrite::Prefix { matched_bytes: 3, with: String::new() }));
    assert_eq!(api.rewrite.host.as_deref(), Some("api.internal:9000"));
    assert_eq!(api.request_fields.remove, ["x-debug"]);
    assert_eq!(api.request_fields.set[0].0, "x-client");
    assert_eq!(api.request_fields.add[0].1.to_string(), "{{{route}}}");
    assert_eq!(api.response_fields.add[0].1.literal(), Some("seen=1"));
    assert_eq!((api.response_timeout_ms, api.response_idle_timeout_ms), (Some(6_000), Some(7_000)));
    assert_eq!((api.upgrade_timeout_ms, api.body_bytes_max), (Some(8_000), Some(1_000_000_000)));
    assert_eq!((api.retries, api.retry_on), (Some(1), Some(RetryOn::NEVER)));
    assert_eq!(api.mirror.as_ref().map(|mirror| (mirror.pool, mirror.percent)), Some((1, 10)));
    assert_eq!(routes[1].rewrite.path, Some(PathRewrite::Path("/index.html".into())));
    assert!(matches!(routes[2].action, Action::Redirect { status: 302, .. }));
    assert!(matches!(&routes[3].action, Action::Respond { status: 404, content } if content.file.is_some()));
    assert_eq!(routes[4].action, Action::Pool(0));
}

#[test]
fn written_pool_values_arrive() {
    let plan = checked(EVERY_KEY).plan;
    let pool = &plan.pools[0];
    assert_eq!((&pool.hash_key, pool.hash_bound_percent), (&HashKey::Cookie("sid".into()), 150));
    assert_eq!((pool.slow_start_ms, pool.zone.as_deref()), (10_000, Some("eu-1")));
    assert_eq!(pool.proxy_protocol, Some(ProxyProtocol::V2));
    let aperture = pool.aperture.as_ref().unwrap();
    assert_eq!((aperture.instance, aperture.instances, aperture.servers_min), (1, 3, 4));
    let http = &pool.http;
    assert_eq!((http.response_timeout_ms, http.response_idle_timeout_ms), (11_000, 12_000));
    assert_eq!((http.retries, http.retry_budget.percent, http.retry_budget.per_second_min), (3, 10, 5));
    assert!(http.retry_on.connect && !http.retry_on.reset && !http.retry_on.timeout);
    assert!(http.retry_on.status(502) && http.retry_on.status(503) && http.retry_on.status(504));
    assert_eq!((http.max_requests, http.idle_max, http.idle_timeout_ms), (Some(5_000), 10, 13_000));
    assert_eq!((http.max_age_ms, http.requests_max, http.preconnect), (3_600_000, 10_000, 2));
    let sticky = pool.sticky.as_ref().unwrap();
    assert_eq!((sticky.name.as_str(), sticky.ttl_ms, sticky.path.as_str()), ("lb", 3_600_000, "/app"));
    assert_eq!((sticky.secure, sticky.same_site), (true, SameSite::None));
    let active = pool.health.active.as_ref().unwrap();
    let request = CheckRequest {
        path: "/health?deep=1".into(),
        host: Some("web.internal".into()),
        expect: vec![(200, 200), (204, 204), (300, 399)],
    };
    assert!(request.expects(204) && !request.expects(205));
    assert_eq!(active.request.as_ref(), Some(&request));
    let rules = active.rules;
    assert_eq!((rules.interval_ms, rules.fast_interval_ms, rules.timeout_ms), (2_000, 500, 1_000));
    assert_eq!((rules.rise, rules.fall, rules.jitter_percent), (3, 4, 5));
    let rules = pool.health.rules;
    assert_eq!(rules.panic_percent, 30);
    let streaks = rules.streaks;
    assert_eq!((streaks.errors, streaks.gateway_errors, streaks.unreachable), (6, 7, 8));
    assert_eq!(rules.success.map(|one| (one.points, one.requests_min, one.servers_min)), Some((15, 50, 4)));
    assert_eq!(rules.latency.map(|one| (one.percent, one.requests_min, one.servers_min)), Some((300, 50, 4)));
    let ejection = rules.ejection;
    assert_eq!((ejection.base_ms, ejection.max_ms, ejection.max_percent), (20_000, 120_000, 25));
    let breaker = rules.breaker.unwrap();
    assert_eq!((breaker.error_percent, breaker.requests_min, breaker.probes), (40, 30, 4));
    assert_eq!((breaker.window_ms, breaker.open_ms, breaker.open_ms_max), (20_000, 2_000, 30_000));
    let server = &pool.servers[0];
    assert_eq!((server.max_requests, server.zone.as_deref()), (Some(100), Some("eu-1")));
}

#[test]
fn plans_of_the_same_text_are_equal_and_of_another_are_not() {
    assert_eq!(checked(EVERY_KEY).plan, checked(EVERY_KEY).plan);
    let other = EVERY_KEY.replace("/index.html", "/index.htm");
    assert_ne!(checked(EVERY_KEY).plan, checked(&other).plan);
}

/// What is put in and what follows fit together, whether the route's prefix ends in a slash or not.
#[test]
fn a_rewritten_prefix_neither_doubles_nor_loses_a_slash() {
    for (path, prefix, asked, expected) in [
        ("path = \"/v1/\"", "/", "/v1/users", "/users"),
        ("path = \"/v1/\"", "/", "/v1/", "/"),
        ("path = \"/v1/\"", "/app", "/v1/users", "/app/users"),
        ("path = \"/v1/\"", "/app/", "/v1/users", "/app/users"),
        ("path_prefix = \"/v1\"", "/", "/v1/users", "/users"),
        ("path_prefix = \"/v1\"", "/", "/v1", "/"),
        ("path_prefix = \"/v1\"", "/app/", "/v1", "/app"),
        ("path_prefix = \"/v1\"", "/app/", "/v1/users", "/app/users"),
        ("method = \"GET\"", "/app", "/users", "/app/users"),
    ] {
        let route =
            format!("[[listener.route]]\n{path}\npool = \"p\"\nrewrite = {{ prefix = \"{prefix}\" }}");
        let explanation = explain(&listener(&route), &question(asked)).unwrap();
        let note = format!("the server sees {expected}");
        assert_eq!(explanation.listeners[0].notes, [note], "{path} {prefix} {asked}");
    }
}

#[test]
fn files_are_read_once_checked_and_put_into_the_plan() {
    let found = checked(EVERY_KEY);
    assert_eq!(found.files().collect::<Vec<_>>(), ["errors/5xx.html", "favicon.ico"]);
    let loaded = found.clone().load_files(|file| Ok(file.to_uppercase().into_bytes())).unwrap();
    assert_eq!(&*http(&loaded.plan).error_page(503).unwrap().bytes, b"ERRORS/5XX.HTML");
    let Action::Respond { content, .. } = &http(&loaded.plan).routes[3].action else { panic!() };
    assert_eq!(&*content.bytes, b"FAVICON.ICO");
    assert_eq!(&*http(&loaded.plan).error_page(404).unwrap().bytes, b"{}");

    let errors = found.clone().load_files(|file| match file {
        "favicon.ico" => Ok(vec![0; FILE_BYTES_MAX + 1]),
        _ => Err("No such file".into()),
    });
    let shown = errors.unwrap_err().render_human();
    let line = |file: &str| {
        1 + EVERY_KEY.lines().position(|line| line.contains(&format!("file = \"{file}\""))).unwrap()
    };
    for (file, why) in [("errors/5xx.html", "No such file"), ("favicon.ico", "it is larger than 64 KiB")] {
        let expected = format!("error: cannot use the file \"{file}\": {why} [unreadable]");
        let place = format!("x.toml:{}:", line(file));
        assert!(shown.lines().any(|one| one.starts_with(&place) && one.ends_with(&expected)), "{shown}");
    }
    assert!(found.load_files(|_| Ok(vec![0; FILE_BYTES_MAX])).is_ok());
}

#[test]
fn the_example_is_right_and_nothing_in_it_is_doubtful() {
    let found = checked(EXAMPLE);
    assert!(found.warnings.is_empty(), "{}", found.warnings.render_human());
}

fn question(url: &str) -> Question {
    Question { url: url.into(), method: "GET".into(), ..Question::default() }
}

/// Name of the route, or the status that it is refused with.
fn asked(plan: &Plan, question: &Question) -> String {
    let explanation = explain(plan, question).unwrap();
    match &explanation.listeners[0].outcome {
        Outcome::Route { name, .. } => name.clone(),
        Outcome::Tcp { pool } => format!("tcp {pool}"),
        Outcome::Refused { status, .. } => status.to_string(),
    }
}

#[test]
fn the_example_routes_as_its_comments_say() {
    let plan = checked(EXAMPLE).plan;
    let canary = vec!["X-Canary: 1".to_owned()];
    for (url, headers, expected) in [
        ("http://api.example.com/v1/users", vec![], "api"),
        ("http://API.example.com:8080/v1/users?x=1", vec![], "api"),
        ("http://api.example.com/v1/users", canary.clone(), "api-canary"),
        ("http://api.example.com/v1/users", vec!["x-canary: 2".to_owned()], "api"),
        ("http://api.example.com//v1/./%75sers", canary, "api-canary"),
        ("http://api.example.com/v1", vec![], "default"),
        ("http://api.example.com/live", vec![], "live"),
        ("http://api.example.com/live/", vec![], "default"),
        ("https://www.example.org/a", vec![], "old-names"),
        ("/robots.txt", vec![], "robots"),
        ("/v1/users", vec!["Host: api.example.com".to_owned()], "api"),
        ("http://api.example.com/..%2fv1/", vec![], "400"),
    ] {
        let question = Question { headers, ..question(url) };
        assert_eq!(asked(&plan, &question), expected, "{question:?}");
    }
    let post = Question { method: "POST".into(), ..question("http://api.example.com/live") };
    assert_eq!(asked(&plan, &post), "default");
}

#[test]
fn an_explanation_says_why_not() {
    let plan = checked(EXAMPLE).plan;
    let explanation = explain(&plan, &question("http://www.example.org:8080/a?b=c")).unwrap();
    assert_eq!(
        explanation.to_string(),
        "listener \"edge\"\n  path /a\n  route \"old-names\": redirect 308 to https://example.com/a?b=c\n    \
         \"api\": another host\n    \"api-canary\": another host\n    \"live\": another host\n    \
         \"old-names\": takes it\n    \"robots\": the path is not /robots.txt\n    \
         \"default\": would take it, but route \"old-names\" is more specific or stands before it\n"
    );
    let json = explanation.to_json();
    assert_eq!(json["taken"], true);
    assert_eq!(json["listeners"][0]["route"], "old-names");
    assert_eq!(json["listeners"][0]["routes"][4]["verdict"], "the path is not /robots.txt");
}

#[test]
fn a_request_that_nothing_takes_is_refused() {
    let plan = listener("[[listener.route]]\nhost = \"a.example.com\"\npool = \"p\"");
    assert_eq!(asked(&plan, &question("http://b.example.com/")), "404");
    assert!(!explain(&plan, &question("http://b.example.com/")).unwrap().is_taken());
    assert!(explain(&plan, &question("http://a.example.com/")).unwrap().is_taken());
}

#[test]
fn a_port_of_a_url_picks_the_listener() {
    let tcp = "[[listener]]\nname = \"raw\"\nbind = \"0.0.0.0:9090\"\npool = \"p\"\n";
    let http = "[[listener]]\nname = \"web\"\nbind = \"0.0.0.0:80\"\nmode = \"http\"\npool = \"p\"\n";
    let plan = checked(&format!("{tcp}{http}{POOL}")).plan;
    assert_eq!(asked(&plan, &question("http://x:9090/")), "tcp p");
    assert_eq!(asked(&plan, &question("http://x:80/")), "default");
    assert_eq!(asked(&plan, &question("http://x/")), "default");
    assert_eq!(explain(&plan, &question("http://x:81/")).unwrap().port_is_nobodys, Some(81));
}

#[test]
fn malformed_questions_are_refused() {
    let plan = checked(EXAMPLE).plan;
    let bad = |question: Question| explain(&plan, &question).unwrap_err().to_string();
    assert!(bad(question("ftp://x/")).contains("is no http URL"));
    assert!(bad(question("x/y")).contains("neither a URL nor a path"));
    assert!(bad(question("http://x:99999/")).contains("port"));
    assert!(bad(Question { method: "GE T".into(), ..question("/") }).contains("is no method"));
    for header in ["x", "a b: c", ": c", "a: b\0c"] {
        let question = Question { headers: vec![header.into()], ..question("/") };
        assert!(bad(question).contains("is no header"), "{header:?}");
    }
}

/// Ten thousand routes are compared by hash: a quadratic check would take minutes.
#[test]
fn many_routes_are_read_in_passing() {
    let routes: String = (0..10_000)
        .map(|n| format!("[[listener.route]]\nhost = \"h{n}.example.com\"\npath = \"/v1/\"\npool = \"p\"\n"))
        .collect();
    let plan = listener(&routes);
    assert_eq!(asked(&plan, &question("http://h9876.example.com/v1/x")), "route-9877");
}
