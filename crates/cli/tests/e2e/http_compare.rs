//! The corpora and programs that we did not write: nginx, HAProxy and Envoy.
//!
//! What Fourfold passes on is understood by each of them. What each of them passes on by itself is compared with Fourfold by a
//! test that is ignored: `cargo xtask compare-http` runs it to write `docs/design/2026-11-21-http1-differences.md` anew, when the
//! corpora or the rules have changed.

use super::http_corpus::ask_for;
use super::peers::{Folder, Peer, installed, loopback};
use crate::common::http::{Line, Scripted, plain};
use crate::common::program::Scratch;
use crate::common::strict::{Message, Read as Parsed, read_any_request, read_any_response};
use crate::common::{DEADLINE, Engine, Lab, Program};
use fourfold_http::h1::Reject;
use fourfold_testkit::corpus::{self, Case, Want};
use fourfold_testkit::{Need, skip};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const REPORT: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/design/2026-11-21-http1-differences.md");
/// In a comparison nobody waits for a client longer than this, nor for a server longer than [`SERVER_MS_MORE`] beyond.
const QUICK_MS: u32 = 300;
const SERVER_MS_MORE: u32 = 200;
/// So who has not answered by then never will.
const SILENCE: Duration = Duration::from_millis(700);
/// Where everything is answered, and waiting is for a machine that is busy.
const PATIENT_MS: u32 = 30_000;

/// Fourfold in front of each of them: what it makes of a request they take for one request too.
#[test]
fn requests_that_are_passed_on_are_understood_by_others() {
    if skip(NEEDS) {
        return;
    }
    let _lab = Lab::new();
    let folder = Folder::new("requests");
    let origin = Scripted::start(answer);
    let peers = Peers::start(&folder, PATIENT_MS, [origin.address; 3]);
    let refused_through = |server: SocketAddr, cases: Vec<Case>| {
        let program = Program::run(&plain(Engine::Epoll, &[server]).listener("slashes = \"keep\""));
        let judge = |case: &Case| judge_request(program.address, case, DEADLINE);
        let (passed, refused) = cases.into_iter().partition(|case| judge(case) == Outcome::Passed);
        program.stop();
        (passed, refused)
    };
    let (passed, _): (Vec<Case>, Vec<Case>) = refused_through(origin.address, accepted(corpus::requests()));
    assert!(passed.len() > 80, "{}", passed.len());
    for (peer, address) in PEERS.into_iter().zip(peers.addresses) {
        let (_, refused) = refused_through(address, passed.clone());
        expect_only_known(peer, &refused);
    }
}

/// Fourfold behind each of them.
#[test]
fn responses_that_are_passed_on_are_understood_by_others() {
    if skip(NEEDS) {
        return;
    }
    let _lab = Lab::new();
    let folder = Folder::new("responses");
    let next = Next::default();
    let origin = next.origin();
    let program = Program::run(&plain(Engine::Epoll, &[origin.address]));
    let peers = Peers::start(&folder, PATIENT_MS, [program.address; 3]);
    let passes = |address, case: &Case| next.judge(address, case, DEADLINE) == Outcome::Passed;
    let mut passed = accepted(corpus::responses());
    passed.retain(|case| passes(program.address, case));
    assert!(passed.len() > 20, "{}", passed.len());
    for (peer, address) in PEERS.into_iter().zip(peers.addresses) {
        let refused: Vec<Case> = passed.iter().filter(|case| !passes(address, case)).cloned().collect();
        expect_only_known(peer, &refused);
    }
    program.stop();
}

fn accepted<E: std::fmt::Debug>(cases: Result<Vec<Case>, E>) -> Vec<Case> {
    let mut cases = cases.unwrap();
    cases.retain(|case| matches!(case.want, Want::Accept(_)) && !case.asked.starts_with("CONNECT"));
    cases
}

/// Another version of a peer may take more.
#[track_caller]
fn expect_only_known(peer: &str, refused: &[Case]) {
    let news: Vec<&str> = refused
        .iter()
        .map(|case| case.name.as_str())
        .filter(|name| !KNOWN_REFUSED.contains(&(peer, *name)))
        .collect();
    assert!(news.is_empty(), "{peer} refuses {news:?}");
}

/// [`ARGUMENTS`] say why; `OPTIONS` without a path is sent in asterisk form.
const KNOWN_REFUSED: &[(&str, &str)] = &[
    ("nginx", "method in lower case is another method"),
    ("nginx", "asterisk form"),
    ("nginx", "OPTIONS absolute without path"),
    ("HAProxy", "name of 256 bytes"),
    ("HAProxy", "a head of exactly 16 KB"),
    ("HAProxy", "WebSocket"),
    ("HAProxy", "upgrade in a list"),
    ("Envoy", "method with a mark"),
    ("Envoy", "method in lower case is another method"),
    ("Envoy", "method of 32 bytes"),
    ("Envoy", "asterisk form"),
    ("Envoy", "OPTIONS absolute without path"),
];

#[test]
#[ignore = "writes a document; run by cargo xtask compare-http"]
fn differences_are_written_down() {
    assert!(installed("nginx") && installed("haproxy"), "apt-get install nginx haproxy");
    assert!(envoy().is_file(), "cargo xtask test installs Envoy: {}", envoy().display());
    let _lab = Lab::new();
    let folder = Folder::new("compare");
    let requests =
        compare(&folder, &corpus::requests().unwrap(), &|| Scripted::start(answer), &|address, case| {
            judge_request(address, case, SILENCE)
        });
    let next = Next::default();
    let judge = |address: SocketAddr, case: &Case| next.judge(address, case, SILENCE);
    let responses = compare(&folder, &responses(), &|| next.origin(), &judge);
    std::fs::write(REPORT, report(&requests, &responses)).unwrap();
    println!("{REPORT}");
}

fn responses() -> Vec<Case> {
    corpus::responses().unwrap().into_iter().filter(|case| !case.asked.starts_with("CONNECT")).collect()
}

/// What origins answer with, whatever they are asked.
#[derive(Clone, Default)]
struct Next(Arc<Mutex<Vec<u8>>>);

impl Next {
    fn origin(&self) -> Scripted {
        let next = self.clone();
        Scripted::start(move |line| {
            if line.head().is_some() {
                let bytes = next.0.lock().unwrap().clone();
                line.say(&bytes);
            }
        })
    }

    fn judge(&self, address: SocketAddr, case: &Case, patience: Duration) -> Outcome {
        self.0.lock().unwrap().clone_from(&case.send);
        judge_response(address, case, patience)
    }
}

const PEERS: [&str; 3] = ["nginx", "HAProxy", "Envoy"];
const NEEDS: &[Need] = &[
    Need::Program("nginx"),
    Need::Program("haproxy"),
    Need::File(concat!(env!("CARGO_TARGET_TMPDIR"), "/../tools/envoy/envoy/_bin/envoy")),
];

/// The three of them, each in front of its server.
struct Peers {
    addresses: [SocketAddr; PEERS.len()],
    _running: [Peer; PEERS.len()],
}

impl Peers {
    fn start(folder: &Folder, patience_ms: u32, servers: [SocketAddr; PEERS.len()]) -> Self {
        let addresses @ [nginx, haproxy, envoys] = [loopback(), loopback(), loopback()];
        let [for_nginx, for_haproxy, for_envoy] = servers;
        let for_nginx = nginx_config(folder, nginx, for_nginx, patience_ms);
        let for_haproxy = haproxy_config(haproxy, for_haproxy, patience_ms);
        let for_envoy = envoy_config(envoys, for_envoy, patience_ms);
        let quiet = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "off", "-c"];
        let file = Scratch::new("envoy.json", for_envoy.as_bytes());
        let running = [
            Peer::start("nginx", nginx, &["-e", "stderr", "-c"], &for_nginx),
            Peer::start("haproxy", haproxy, &["-db", "-f"], &for_haproxy),
            Peer::start_at(&envoy(), envoys, &quiet, file),
        ];
        Self { addresses, _running: running }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Passed,
    Refused,
}

struct Row {
    name: String,
    /// Fourfold's reason, or `passed`.
    class: String,
    /// Fourfold's, and those of [`PEERS`].
    outcomes: [Outcome; 1 + PEERS.len()],
}

type Judge<'a> = dyn Fn(SocketAddr, &Case) -> Outcome + 'a;

fn compare(folder: &Folder, cases: &[Case], origin: &dyn Fn() -> Scripted, judge: &Judge) -> Vec<Row> {
    let (for_fourfold, for_peers) = (origin(), [(); PEERS.len()].map(|()| origin()));
    let fourfold = Program::run(&plain(Engine::Epoll, &[for_fourfold.address]).listener(&format!(
        "slashes = \"keep\"\nheader_timeout = \"{QUICK_MS}ms\"\nbody_timeout = \"{QUICK_MS}ms\"\nfirst_byte_timeout = \"{QUICK_MS}ms\"",
    )));
    let peers = Peers::start(folder, QUICK_MS, for_peers.each_ref().map(|origin| origin.address));
    let [nginx, haproxy, envoys] = peers.addresses;
    let row = |case: &Case| Row {
        name: case.name.clone(),
        class: match &case.want {
            Want::Accept(_) => "passed".into(),
            Want::Reject(reason) => reason.clone(),
        },
        outcomes: [fourfold.address, nginx, haproxy, envoys].map(|address| judge(address, case)),
    };
    cases.iter().map(row).collect()
}

fn answer(line: &mut Line) {
    while line.request_as(read_any_request).is_some() {
        line.say(b"HTTP/1.1 200 OK\r\nX-Origin: yes\r\nContent-Length: 0\r\n\r\n");
    }
}

/// What comes until there is silence, and whether the connection ended.
fn hear(stream: &mut TcpStream, patience: Duration, enough: impl Fn(&[u8]) -> bool) -> (Vec<u8>, bool) {
    stream.set_read_timeout(Some(patience)).unwrap();
    let (mut all, mut chunk) = (Vec::new(), [0; 8192]);
    while !enough(&all) {
        match stream.read(&mut chunk) {
            Ok(0) => return (all, true),
            Ok(count) => all.extend_from_slice(&chunk[..count]),
            Err(_) => return (all, false),
        }
    }
    (all, false)
}

/// Passed: a server saw a whole request.
fn judge_request(address: SocketAddr, case: &Case, patience: Duration) -> Outcome {
    let mut stream = TcpStream::connect(address).unwrap();
    let _ = stream.write_all(&case.send);
    let method = if case.send.starts_with(b"HEAD ") { "HEAD" } else { "GET" };
    let (heard, ended) = hear(&mut stream, patience, |heard| last_response(heard, method, false).is_some());
    let reply = last_response(&heard, method, ended);
    let origins = reply.is_some_and(|reply| reply.all("x-origin").next().is_some());
    if origins { Outcome::Passed } else { Outcome::Refused }
}

/// Passed: the client saw a whole response with the server's status.
fn judge_response(address: SocketAddr, case: &Case, patience: Duration) -> Outcome {
    let (request, method) = ask_for(case);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let (heard, ended) = hear(&mut stream, patience, |heard| last_response(heard, &method, false).is_some());
    let Some(seen) = last_response(&heard, &method, ended) else { return Outcome::Refused };
    // What all of them say of a server that talks nonsense, or (Envoy) hangs up; no case is such an answer itself.
    if matches!(seen.status(), 502..=504) { Outcome::Refused } else { Outcome::Passed }
}

fn last_response(mut bytes: &[u8], method: &str, ended: bool) -> Option<Message> {
    loop {
        match read_any_response(bytes, method, ended) {
            Parsed::Whole(message, used) if message.status() < 200 && message.status() != 101 => {
                bytes = &bytes[used..]
            }
            Parsed::Whole(message, _) => return Some(*message),
            _ => return None,
        }
    }
}

fn nginx_config(folder: &Folder, listen: SocketAddr, to: SocketAddr, client_ms: u32) -> String {
    let (root, server_ms) = (folder.0.display(), client_ms + SERVER_MS_MORE);
    format!(
        "daemon off; user root; worker_processes 1; pid {root}/pid; error_log stderr crit;
events {{ worker_connections 256; }}
http {{
  access_log off; client_header_timeout {client_ms}ms; client_body_timeout {client_ms}ms;
  client_body_temp_path {root}/a; proxy_temp_path {root}/b; fastcgi_temp_path {root}/c; uwsgi_temp_path {root}/d; scgi_temp_path {root}/e;
  upstream origin {{ server {to} max_fails=0; keepalive 4; }}
  server {{ listen {listen}; location / {{
    proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Host $host; proxy_set_header Connection $http_connection;
    proxy_set_header Upgrade $http_upgrade; proxy_request_buffering off; proxy_buffering off; proxy_read_timeout {server_ms}ms;
    proxy_next_upstream off;
  }} }}
}}
"
    )
}

fn haproxy_config(listen: SocketAddr, to: SocketAddr, client_ms: u32) -> String {
    let server_ms = client_ms + SERVER_MS_MORE;
    format!(
        "defaults
    mode http
    timeout connect 1s
    timeout client {client_ms}ms
    timeout http-request {client_ms}ms
    timeout server {server_ms}ms
    http-reuse always
listen all
    bind {listen}
    server origin {to}
"
    )
}

/// `cargo xtask test` puts it there.
fn envoy() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools").join("envoy/envoy/_bin/envoy")
}

fn envoy_config(listen: SocketAddr, to: SocketAddr, client_ms: u32) -> String {
    let seconds = |ms: u32| format!("{}.{:03}s", ms / 1000, ms % 1000);
    let socket = |address: SocketAddr| json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } });
    let typed = |name: &str| json!(format!("type.googleapis.com/envoy.extensions.filters.{name}"));
    let front = json!({
        "@type": typed("network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "front",
        "request_headers_timeout": seconds(client_ms),
        "stream_idle_timeout": seconds(client_ms),
        "upgrade_configs": [{ "upgrade_type": "websocket" }],
        "route_config": { "virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "back", "timeout": seconds(client_ms + SERVER_MS_MORE) } }]
        }] },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": typed("http.router.v3.Router") }
        }]
    });
    let endpoint = json!({ "endpoint": { "address": socket(to) } });
    json!({ "static_resources": {
        "listeners": [{ "address": socket(listen), "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager", "typed_config": front
        }] }] }],
        "clusters": [{
            "name": "back",
            "load_assignment": { "cluster_name": "back", "endpoints": [{ "lb_endpoints": [endpoint] }] }
        }]
    } })
    .to_string()
}

#[derive(Default)]
struct Class<'a> {
    cases: usize,
    /// That each of [`PEERS`] treats otherwise.
    other: [Vec<&'a str>; PEERS.len()],
}

fn report(requests: &[Row], responses: &[Row]) -> String {
    let mut text = String::from(HEAD);
    for (title, rows) in [("Requests", requests), ("Responses", responses)] {
        let differs = |row: &&Row| row.outcomes[1..].iter().any(|outcome| *outcome != row.outcomes[0]);
        let in_all = |peer: usize| {
            let differs = rows.iter().filter(|row| row.outcomes[peer + 1] != row.outcomes[0]).count();
            format!("{} differs in {differs}", PEERS[peer])
        };
        let _ = writeln!(
            text,
            "\n## {title}\n\n{} cases; {} are treated alike by all four, {}.\n",
            rows.len(),
            rows.len() - rows.iter().filter(differs).count(),
            [0, 1, 2].map(in_all).join(", "),
        );
        table(&mut text, "Refused by Fourfold", "lets through", rows, Outcome::Refused);
        table(&mut text, "Passed on by Fourfold", "refuses", rows, Outcome::Passed);
    }
    text
}

fn table(text: &mut String, title: &str, does: &str, rows: &[Row], ours: Outcome) {
    let mut classes: BTreeMap<&str, Class> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.outcomes[0] == ours) {
        let key = if row.class == "passed" { row.name.as_str() } else { row.class.as_str() };
        let class = classes.entry(key).or_default();
        class.cases += 1;
        for (other, outcome) in class.other.iter_mut().zip(&row.outcomes[1..]) {
            if *outcome != ours {
                other.push(&row.name);
            }
        }
    }
    classes.retain(|_, class| class.other.iter().any(|names| !names.is_empty()));
    if classes.is_empty() {
        return;
    }
    let heads = PEERS.map(|peer| format!("{peer} {does}")).join(" | ");
    let _ = writeln!(text, "\n### {title}\n\n| class | cases | {heads} | why |\n|---|---|---|---|---|---|");
    for (name, class) in &classes {
        let counts = class.other.each_ref().map(|names| names.len().to_string()).join(" | ");
        let why = argument(name).unwrap_or_else(|| panic!("{name}: no argument is written down"));
        let _ = writeln!(text, "| {name} | {} | {counts} | {why} |", class.cases);
    }
    text.push('\n');
    for (name, class) in &classes {
        let all: Vec<String> = PEERS
            .iter()
            .zip(&class.other)
            .filter(|(_, names)| !names.is_empty())
            .map(|(peer, names)| format!("{peer}: {}", names.join("; ")))
            .collect();
        if class.cases > 1 {
            let _ = writeln!(text, "- `{name}`: {}", all.join(". "));
        }
    }
}

fn argument(class: &str) -> Option<String> {
    if let Some((_, why)) = ARGUMENTS.iter().find(|(name, _)| *name == class) {
        return Some((*why).into());
    }
    Reject::named(class).map(|reject| reject.explain().into())
}

const HEAD: &str = "\
# Where Fourfold, nginx, HAProxy and Envoy judge HTTP/1.1 differently

Written by `cargo xtask compare-http`: every message of `tests/http/requests.txt` and `tests/http/responses.txt`, sent over real
sockets through each of the four, with an origin behind. A request is *let through* when the origin saw a whole request, a
response when the client saw a whole one. Defaults everywhere, but for short time-outs; `slashes = \"keep\"` for Fourfold, and
Envoy passes WebSocket upgrades on, which it does not by itself.

Strictness here is not for its own sake: a message that two programs in a row read differently is how requests are smuggled. So
Fourfold refuses what has two readings, even where either would be harmless in front of one particular server, and passes
on what has one.

What Fourfold makes of the messages that it accepts is read as one message by each of the three, behind it (requests) or in front
of it (responses), but for what they refuse by a limit or a rule of their own below: end-to-end tests see to it.
";

const HTTP_1_0: &str =
    "HTTP/1.0 is what old clients and health checks speak; Envoy speaks it only when told to: 426";
const OWN_METHODS: &str = "methods are case-sensitive tokens, and unknown ones are for the server (RFC 9110 9.1); Envoy has a list of those that it passes on";

/// Beyond what the rule itself says.
const ARGUMENTS: &[(&str, &str)] = &[
    ("TRACE", "TRACE shows a client what proxies added to its request, and nothing behind one needs it: 405"),
    (
        "a bad percent is for the path rules",
        "a server behind decodes `%zz` in one way or another, and routes would not know which (RFC 3986 2.1)",
    ),
    ("HTTP/1.0 keep-alive", HTTP_1_0),
    ("absolute without Host in HTTP/1.0", HTTP_1_0),
    (
        "expectation in HTTP/1.0",
        "Expect is ignored in HTTP/1.0 (RFC 9110 10.1.1), not an error; Envoy speaks no HTTP/1.0 unless told to: 426",
    ),
    (
        "HTTP/1.0 without Host",
        "only HTTP/1.1 demands Host (RFC 9112 3.2); the server is given one; Envoy speaks no HTTP/1.0 unless told to: 426",
    ),
    (
        "16 nominations",
        "options of Connection that nobody knows are removed, as RFC 9110 7.6.1 says; Envoy takes ten, Fourfold sixteen",
    ),
    (
        "nominating protected fields is without effect",
        "Connection cannot take away what the proxy itself goes by: Envoy refuses the attempt, Fourfold ignores it, and the server sees the fields either way",
    ),
    ("method of 32 bytes", OWN_METHODS),
    ("method with a mark", OWN_METHODS),
    (
        "upgrade with content",
        "content of a request that asks for an upgrade is content like any other (RFC 9110 7.8); Envoy holds it back until a 101 and leaves the server waiting for it",
    ),
    (
        "Upgrade twice is none",
        "it is served as if it had not asked to change protocols, which a server may always do (RFC 9110 7.8); HAProxy wants a Sec-WebSocket-Key, Envoy refuses what it is not configured for: 403",
    ),
    (
        "WebSocket",
        "whether the handshake is complete is for the server to judge; HAProxy wants a Sec-WebSocket-Key",
    ),
    (
        "a choice of protocols is none",
        "it is served as if it had not asked, since the choice could not be checked; HAProxy wants a Sec-WebSocket-Key, Envoy refuses what it is not configured for: 403",
    ),
    ("upgrade in a list", "as WebSocket above"),
    (
        "upgrade in HTTP/1.0",
        "Upgrade is ignored in HTTP/1.0 (RFC 9110 7.8), not an error; HAProxy wants a Sec-WebSocket-Key, Envoy speaks no HTTP/1.0 unless told to: 426",
    ),
    ("a head of exactly 16 KB", "the limit is 16 KB; HAProxy keeps part of its buffer for what it adds"),
    (
        "absolute: only a query",
        "RFC 9110 4.2.1 allows an empty path: it is `/`; to Envoy it is none that its route for `/` would match: 404",
    ),
    (
        "asterisk form",
        "`OPTIONS *` is one of the four forms (RFC 9112 3.2.4); Envoy needs a route of its own for it",
    ),
    (
        "blanks around",
        "RFC 9112 5: blanks around a value are not part of it, tabs included; there is no second reading",
    ),
    ("method in lower case is another method", OWN_METHODS),
    ("name of 256 bytes", "the limit is 256; HAProxy's is 255"),
    (
        "bare_cr",
        "some take a CR for a line end, some for a blank, some for a byte like any other: the classic splitter (RFC 9112 2.2); Envoy takes it out, and the server sees a value that nobody sent",
    ),
    (
        "bare_lf",
        "RFC 9112 2.2 lets a recipient take LF for a line end, so that one before it which does not sees other fields",
    ),
    (
        "chunk_extension_invalid",
        "extensions are where readers of chunks disagree most (CVE-2024-53868, CVE-2025-55315): a malformed one has no certain end (RFC 9112 7.1.1)",
    ),
    (
        "chunk_line_end",
        "readers that take a LF there for the end, and readers that do not, see other chunks (RFC 9112 7.1)",
    ),
    (
        "chunk_data_end",
        "data that does not end where its size says: both lengths cannot be right (RFC 9112 7.1)",
    ),
    (
        "content_length_invalid",
        "leading zeros are octal to some, a list is its first or its last number, 2^63 is negative: one reading needs plain digits (RFC 9110 8.6)",
    ),
    (
        "content_length_repeated",
        "RFC 9112 6.3 allows equal ones to be merged or refused; a sender that repeats one is broken or up to something",
    ),
    (
        "length_conflict",
        "RFC 9112 6.3: such a message might be an attempt to smuggle and ought to be handled as an error",
    ),
    (
        "host_invalid",
        "Host decides routes, virtual hosts and cache keys behind: what is no host has no certain meaning there (RFC 9110 7.2)",
    ),
    (
        "host_port_invalid",
        "as an invalid host: `a:`, `a:080` and `a` are one host to some and three to others",
    ),
    (
        "host_mismatch",
        "RFC 9112 3.2.2 has the target win; a server that looks at Host would serve another site than was routed",
    ),
    (
        "field_name_invalid",
        "servers that map names to variables turn odd bytes into `_`, and so into other fields (RFC 9110 5.1)",
    ),
    ("expect_unknown", "RFC 9110 10.1.1: 417; a server may wait for what the client does not send"),
    (
        "switching_invalid",
        "after such a 101 one side speaks HTTP and the other something else over one connection (RFC 9110 15.2.2)",
    ),
    ("switching_unasked", "a client that did not ask reads what follows as HTTP (RFC 9110 7.8)"),
    (
        "field_folded",
        "RFC 9112 5.2: refuse or replace; a program behind that does neither sees another field, in trailers too",
    ),
    ("method_too_long", "the longest registered method has 17 bytes; 32 are enough for any"),
];
