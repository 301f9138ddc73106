//! What a user configures: who is told who the client is, routes, answers of Fourfold's own.

use crate::common::http::{Caller, Scripted, ok, plain};
use crate::common::strict::Message;
use crate::common::{Config, Engine, Lab, Program};
use crate::on_both_engines;

on_both_engines!(
    servers_are_told_who_asks,
    strangers_do_not_say_who_they_are,
    trusted_proxies_are_believed,
    forwarding_as_rfc_7239_has_it,
    a_request_keeps_its_id_or_gets_one,
    connection_does_not_take_away_what_counts,
    routes_by_host_path_method_header_and_query,
    paths_have_one_form,
    redirects_and_fixed_responses,
    rewrites_and_headers,
    a_split_follows_its_weights,
    errors_in_the_form_that_was_asked_for,
);

fn run(engine: Engine, origin: &Scripted, adapt: impl Fn(Config) -> Config) -> Program {
    Program::run(&adapt(plain(engine, &[origin.address])))
}

/// Without what `plain` turns off.
fn telling(mut config: Config) -> Config {
    config.listener =
        config.listener.replace("forwarded = \"off\"\n", "").replace("request_id = \"off\"\n", "");
    config
}

fn ask(program: &Program, origin: &Scripted, fields: &str) -> Message {
    let mut client = Caller::to(program);
    client.say(format!("GET /x HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n"));
    assert_eq!(client.reply().status(), 200);
    origin.requests().pop().unwrap()
}

fn servers_are_told_who_asks(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::echo();
    let program = run(engine, &origin, telling);
    let request = ask(&program, &origin, "");
    assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.field("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(request.field("x-forwarded-proto"), Some("http"));
    assert_eq!(request.field("x-forwarded-host"), Some("a.example"));
    assert_eq!(request.field("x-forwarded-port"), Some(program.address.port().to_string().as_str()));
    assert_eq!(request.field("x-request-id").map(str::len), Some(32));
}

fn strangers_do_not_say_who_they_are(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::echo();
    let program = run(engine, &origin, telling);
    let request = ask(
        &program,
        &origin,
        "X-Forwarded-For: 6.6.6.6\r\nX-FORWARDED-FOR: 7.7.7.7\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: evil\r\nForwarded: for=6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nX-Request-Id: mine\r\n\
         X-Forwarded-Prefix: /evil\r\n",
    );
    assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.field("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(request.field("x-forwarded-proto"), Some("http"));
    assert_eq!(request.field("x-forwarded-host"), Some("a.example"));
    let odd = |field: &&(String, String)| {
        ["6.6.6.6", "evil", "mine", "7.7"].iter().any(|what| field.1.contains(what))
    };
    assert_eq!(request.fields.iter().find(odd), None);
}

fn trusted_proxies_are_believed(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::echo();
    let program = run(engine, &origin, |config| {
        telling(config).listener("trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]")
    });
    let request = ask(
        &program,
        &origin,
        "X-Forwarded-For: 6.6.6.6, 1.2.3.4\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: b.example\r\nX-Request-Id: kept\r\n",
    );
    assert_eq!(request.field("x-forwarded-for"), Some("6.6.6.6, 1.2.3.4, 10.0.0.1, 127.0.0.1"));
    assert_eq!(request.field("x-real-ip"), Some("1.2.3.4"), "the last one that no trusted proxy is");
    assert_eq!(request.field("x-forwarded-proto"), Some("https"));
    assert_eq!(request.field("x-forwarded-host"), Some("b.example"));
    assert_eq!(request.field("x-request-id"), Some("kept"));
    let request = ask(&program, &origin, "X-Forwarded-For: 1.2.3.4, nonsense\r\n");
    assert_eq!(request.field("x-real-ip"), Some("127.0.0.1"), "what is no address ends the chain");
}

fn forwarding_as_rfc_7239_has_it(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::echo();
    let program = run(engine, &origin, |mut config| {
        config.listener =
            config.listener.replace("forwarded = \"off\"", "forwarded = \"rfc7239\"\nvia = \"edge\"");
        config
    });
    let request = ask(&program, &origin, "Forwarded: for=6.6.6.6\r\nVia: 1.1 before\r\n");
    assert_eq!(request.field("forwarded"), Some("for=127.0.0.1;host=\"a.example\";proto=http"));
    assert_eq!(request.all("via").collect::<Vec<_>>(), ["1.1 before", "1.1 edge"]);
    assert_eq!(request.field("x-forwarded-for"), None);
}

fn a_request_keeps_its_id_or_gets_one(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::echo();
    let program = run(engine, &origin, telling);
    let mut ids: Vec<String> = (0..20)
        .map(|_| ask(&program, &origin, "").field("x-request-id").unwrap_or_default().to_owned())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 20);
}

fn connection_does_not_take_away_what_counts(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::echo();
    let program = run(engine, &origin, telling);
    let request = ask(
        &program,
        &origin,
        "Connection: X-Forwarded-For, x-real-ip, Host, Cookie, Authorization, Content-Length, X-Mine, X-Request-Id\r\n\
         Cookie: a=b\r\nAuthorization: Basic x\r\nX-Mine: 1\r\n",
    );
    assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.field("x-real-ip"), Some("127.0.0.1"));
    assert_eq!((request.field("cookie"), request.field("authorization")), (Some("a=b"), Some("Basic x")));
    assert_eq!(request.field("x-mine"), None);
    assert!(request.field("x-request-id").is_some());
}

/// A pool per name, each with an origin that says it.
fn named(name: &'static str) -> Scripted {
    Scripted::start(move |line| {
        while let Some(request) = line.request() {
            line.say(&ok(&format!("{name} {}", request.target())));
        }
    })
}

fn with_pools(engine: Engine, pools: &[(&str, &Scripted)], routes: &str) -> Program {
    let mut config = plain(engine, &[pools[0].1.address]);
    config.listener.push_str(routes);
    for (name, origin) in &pools[1..] {
        let address = origin.address;
        config
            .more
            .push_str(&format!("\n[[pool]]\nname = \"{name}\"\n[[pool.server]]\naddress = \"{address}\"\n"));
    }
    Program::run(&config)
}

fn routes_by_host_path_method_header_and_query(engine: Engine) {
    let _lab = Lab::new();
    let origins = ["other", "api", "wild", "write", "beta", "exact"].map(|name| (name, named(name)));
    let pools: Vec<(&str, &Scripted)> = origins.iter().map(|(name, origin)| (*name, origin)).collect();
    let program = with_pools(
        engine,
        &pools,
        "
        [[listener.route]]
        host = \"a.example\"
        path = \"/v1/\"
        pool = \"api\"
        [[listener.route]]
        host = \"*.example\"
        pool = \"wild\"
        [[listener.route]]
        host = \"a.example\"
        path = \"/v1/\"
        method = [\"POST\", \"PUT\"]
        pool = \"write\"
        [[listener.route]]
        host = \"a.example\"
        path = \"/v1/x\"
        pool = \"exact\"
        [[listener.route]]
        host = \"a.example\"
        path = \"/v1/\"
        header = [{ name = \"X-Beta\", exact = \"yes\" }]
        query = [{ name = \"b\" }]
        pool = \"beta\"
        ",
    );
    let mut client = Caller::to(&program);
    for (method, host, target, fields, pool) in [
        ("GET", "a.example", "/v1/users", "", "api"),
        ("GET", "A.EXAMPLE:80", "/v1/users", "", "api"),
        ("GET", "a.example", "/v1/x", "", "exact"),
        ("GET", "a.example", "/v1/%78", "", "exact"),
        ("GET", "a.example", "/v1//x", "", "exact"),
        ("GET", "a.example", "/v2/../v1/./x", "", "exact"),
        ("GET", "b.example", "/v1/x", "", "wild"),
        ("GET", "c.b.example", "/v1/x", "", "wild"),
        ("GET", "example", "/v1/x", "", "other"),
        ("GET", "a.example", "/v10", "", "wild"),
        ("GET", "a.example", "/v1%2fx", "", "wild"),
        ("POST", "a.example", "/v1/users", "", "write"),
        ("GET", "a.example", "/v1/users?b=1", "X-Beta: yes\r\n", "beta"),
        ("GET", "a.example", "/v1/users?c=1", "X-Beta: yes\r\n", "api"),
        ("GET", "a.example", "/v1/users?b=1", "X-Beta: no\r\n", "api"),
        ("GET", "nowhere", "/", "", "other"),
    ] {
        client.say(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"));
        let text = client.reply().text();
        assert_eq!(text.split(' ').next(), Some(pool), "{method} {host} {target} {fields}");
    }
}

fn paths_have_one_form(engine: Engine) {
    let _lab = Lab::new();
    let origin = named("o");
    let program = with_pools(
        engine,
        &[("o", &origin)],
        "
        [[listener.route]]
        path_prefix = \"/private\"
        respond = { status = 403 }
        ",
    );
    for target in [
        "/private",
        "/private/x",
        "//private",
        "/./private",
        "/x/../private",
        "/%70rivate",
        "/%2e/private",
        "/x/%2E%2e/private",
        "///private//x",
    ] {
        assert_eq!(Caller::to(&program).get(target).status(), 403, "{target}");
    }
    for target in
        ["/..", "/x/../../private", "/%00", "/x\\..\\private", "/%zz", "/x/..;/private", "/x%2f..%2fprivate"]
    {
        let status = Caller::to(&program).get(target).status();
        assert_eq!(status, 400, "{target}");
    }
    // What was routed is what is forwarded.
    assert_eq!(Caller::to(&program).get("/a//b/../%63?//../").text(), "o /a/c?//../");
}

fn redirects_and_fixed_responses(engine: Engine) {
    let _lab = Lab::new();
    let origin = named("o");
    let program = with_pools(
        engine,
        &[("o", &origin)],
        "
        [[listener.route]]
        path = \"/old/\"
        redirect = { to = \"https://{host}{uri}\" }
        [[listener.route]]
        path_exact = \"/robots.txt\"
        respond = { body = \"User-agent: *\\n\" }
        [[listener.route]]
        path_exact = \"/gone\"
        respond = { status = 410 }
        ",
    );
    let mut client = Caller::to(&program);
    let moved = client.get("/old/x?y=z");
    assert_eq!((moved.status(), moved.field("location")), (308, Some("https://a/old/x?y=z")));
    let robots = client.get("/robots.txt");
    assert_eq!((robots.status(), robots.text().as_str()), (200, "User-agent: *\n"));
    client.say("HEAD /robots.txt HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.reply_to("HEAD").field("content-length"), Some("14"));
    assert_eq!(client.get("/gone").status(), 410);
    assert_eq!(client.get("/else").text(), "o /else");
    // Content that such an answer does not wait for ends the connection.
    client.say(
        "POST /gone HTTP/1.1\r\nHost: a\r\nContent-Length: 29\r\n\r\nGET /else HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    assert_eq!(client.reply().status(), 410);
    client.expect_end();
    assert_eq!(origin.requests().len(), 1);
}

fn rewrites_and_headers(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::start(|line| {
        while line.request().is_some() {
            line.say(b"HTTP/1.1 200 OK\r\nServer: origin/1\r\nX-Secret: 1\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let program = with_pools(
        engine,
        &[("o", &origin)],
        "
        [[listener.route]]
        path_prefix = \"/api\"
        rewrite = { prefix = \"/internal\", host = \"backend.local\" }
        request_headers = { remove = [\"X-Debug\"], set = { x-client = \"{client_ip}\" }, add = { x-tag = \"a\" } }
        response_headers = { remove = [\"X-Secret\"], set = { server = \"edge\", x-path = \"{path}\" } }
        ",
    );
    let mut client = Caller::to(&program);
    client.say("GET /api/users?x=y HTTP/1.1\r\nHost: a\r\nX-Debug: 1\r\nX-Client: evil\r\nX-Tag: b\r\n\r\n");
    let reply = client.reply();
    assert_eq!(
        (reply.field("server"), reply.field("x-secret"), reply.field("x-path")),
        (Some("edge"), None, Some("/api/users"))
    );
    let request = origin.requests().pop().unwrap();
    assert_eq!((request.target(), request.field("host")), ("/internal/users?x=y", Some("backend.local")));
    assert_eq!((request.field("x-debug"), request.field("x-client")), (None, Some("127.0.0.1")));
    assert_eq!(request.all("x-tag").collect::<Vec<_>>(), ["b", "a"]);
    // What goes into a value cannot end it.
    client.say("GET /api/%0d%0aX-Evil:%201 HTTP/1.1\r\nHost: a\r\n\r\n");
    let reply = client.reply();
    assert_eq!((reply.field("x-evil"), reply.field("x-path")), (None, Some("/api/%0D%0AX-Evil:%201")));
}

fn a_split_follows_its_weights(engine: Engine) {
    let _lab = Lab::new();
    let (most, few) = (named("most"), named("few"));
    let program = with_pools(
        engine,
        &[("chat", &most), ("few", &few)],
        "
        [[listener.route]]
        path = \"/\"
        split = [{ pool = \"chat\", weight = 9 }, { pool = \"few\", weight = 1 }]
        ",
    );
    let mut client = Caller::to(&program);
    let few = (0..1000).filter(|_| client.get("/").text().starts_with("few")).count();
    // 100 expected; seven standard deviations either way.
    assert!((35..=165).contains(&few), "{few}");
}

fn errors_in_the_form_that_was_asked_for(engine: Engine) {
    let _lab = Lab::new();
    let origin = Scripted::start(|line| drop(line.request()));
    let program = run(engine, &origin, |config| {
        config.listener("[[listener.error_page]]\nstatus = \"404\"\nbody = \"<b>lost</b>\"\ncontent_type = \"text/html\"\n\
             [[listener.route]]\npath_exact = \"/only\"\n")
    });
    let mut client = Caller::to(&program);
    client.say("GET /only HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n");
    let reply = client.reply();
    assert_eq!((reply.status(), reply.field("content-type")), (502, Some("application/json")));
    assert!(reply.text().contains("\"reason\":\"server_closed\""), "{}", reply.text());
    client.say("GET /only HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n");
    let reply = client.reply();
    assert!(reply.field("content-type").unwrap().starts_with("text/html"), "{reply:?}");
    client.say("HEAD /only HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.reply_to("HEAD").status(), 502);
}
