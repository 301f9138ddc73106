//! Servers that die or stand still and networks that lose packets, at 3 000 requests per second, half of them POST. The client
//! never tries twice and gives every request a name; client, Fourfold and servers each count, and their counts have to agree.

use crate::common::lab::{eventually, free_port};
use crate::common::program::{BINARY, Program, Report, Scratch, die_with_parent};
use crate::common::{Config, Engine, Lab};
use crate::health_faults::Server;
use crate::on_both_engines;
use fourfold_testkit::Netns;
use serde_json::Value;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

on_both_engines!(
    killed_servers_cost_what_they_held,
    a_frozen_server_costs_one_timeout_each,
    lost_packets_cost_no_request,
    a_server_that_vanishes_costs_one_timeout_each,
    servers_that_close_at_will_cost_no_get,
    answers_cut_by_a_kill_are_never_taken_for_whole,
);

const RATE: u64 = 3_000;
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// `fourfold load http` on its way.
struct Load(Child);

impl Load {
    fn start(mut command: Command, to: SocketAddr, more: &[&str]) -> Self {
        command.args(["load", "http", &to.to_string(), "--json", "--identify", "--path", "/echo"]);
        command.args(["--post", "50", "--body-bytes", "200", "--verify", "echo"]).args(more);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        die_with_parent(&mut command);
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn at_rate(command: Command, to: SocketAddr, connections: u64, requests: u64) -> Self {
        let numbers = [RATE, connections, requests].map(|number| number.to_string());
        let [rate, connections, requests] = &numbers;
        Self::start(command, to, &["--rate", rate, "--connections", connections, "--requests", requests])
    }

    fn here(to: SocketAddr, connections: u64, requests: u64) -> Self {
        Self::at_rate(Command::new(BINARY), to, connections, requests)
    }

    fn report(mut self) -> Outcome {
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.0.wait().unwrap();
        Outcome(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a load came to.
struct Outcome(Value);

impl Outcome {
    #[track_caller]
    fn number(&self, path: &str) -> u64 {
        self.0.pointer(path).and_then(Value::as_u64).unwrap_or(0)
    }

    fn slowest(&self, method: &str) -> Duration {
        Duration::from_micros(self.number(&format!("/methods/{method}/latency_us/max")))
    }

    /// Names of the requests that were not answered with 200.
    fn lost(&self) -> HashMap<String, String> {
        let losses = self.0["losses"].as_array().unwrap();
        let pair = |loss: &Value| {
            (
                loss["id"].as_str().unwrap().into(),
                format!("{} {}", loss["method"].as_str().unwrap(), loss["why"]),
            )
        };
        losses.iter().map(pair).collect()
    }

    /// Every request was answered by Fourfold or by a server: none hung, and no connection broke.
    #[track_caller]
    fn assert_answered(&self) {
        assert_eq!(self.number("/failed") + self.number("/connect_failed"), 0, "{:#}", self.0);
        assert_eq!(self.number("/started"), self.number("/answered"));
    }
}

/// What was delivered to the servers, by name.
struct Delivered {
    times: HashMap<String, u32>,
    posts: HashSet<String>,
}

impl Delivered {
    fn read(files: &[Scratch]) -> Self {
        let (mut times, mut posts) = (HashMap::new(), HashSet::new());
        for file in files {
            for line in fs::read_to_string(&file.0).unwrap().lines() {
                let (what, id) = line.rsplit_once(' ').unwrap();
                *times.entry(id.to_owned()).or_default() += 1;
                if what.starts_with("POST") {
                    posts.insert(id.to_owned());
                }
            }
        }
        Self { times, posts }
    }

    fn total(&self) -> u64 {
        self.times.values().map(|times| u64::from(*times)).sum()
    }
}

/// Client, Fourfold and servers have counted the same requests. Returns how many were lost.
#[track_caller]
fn assert_counts_agree(load: &Outcome, report: &Report, delivered: &Delivered) -> u64 {
    let (asked, good) = (load.number("/started"), load.number("/statuses/200"));
    let lost = load.lost();
    assert_eq!(asked, good + lost.len() as u64, "{:#}", load.0);
    // Fourfold and the client.
    assert_eq!(report.count("http_requests"), asked);
    assert_eq!(report.count("http_2xx"), good);
    assert_eq!(report.count("http_5xx"), lost.len() as u64, "{report:?}");
    // Fourfold and the servers: what a server's kernel had when it was killed, its program has not seen.
    let sent = asked + report.count("http_retries");
    assert!(delivered.total() <= sent, "{} delivered, {sent} sent", delivered.total());
    // The client and the servers: nothing was carried out twice, and what was answered had been delivered.
    let twice = delivered.posts.iter().find(|id| delivered.times[*id] > 1);
    assert_eq!(twice, None, "a POST was sent twice");
    let answered = delivered.times.keys().filter(|id| !lost.contains_key(*id)).count() as u64;
    assert_eq!(answered, good);
    lost.len() as u64
}

struct Pair {
    records: [Scratch; 2],
    addresses: [SocketAddr; 2],
}

impl Pair {
    fn new() -> Self {
        Self {
            records: [Scratch::new("one", b""), Scratch::new("two", b"")],
            addresses: [free_port(HERE), free_port(HERE)],
        }
    }

    fn start(&self, index: usize) -> Server {
        let record = self.records[index].0.to_str().unwrap();
        Server::start_with(
            Command::new(BINARY),
            self.addresses[index],
            &["--record", record, "--shards", "1"],
        )
    }
}

/// With an access log in `log`, and the names that the client gives.
fn config(engine: Engine, servers: &[SocketAddr], log: &Scratch) -> Config {
    Config::to(engine, servers).listener(&format!(
        "mode = \"http\"\nexplain_errors = true\ntrusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\n\
         [listener.access_log]\nto = \"{}\"",
        log.0.display()
    ))
}

/// Until so many requests have been answered, however.
fn await_progress(program: &Program, answered: u64) {
    eventually("requests are answered", || {
        let report = program.report();
        let done = report.count("http_2xx") + report.count("http_5xx");
        (done >= answered).then_some(())
    });
}

/// How long the machine kept the programs of a test waiting for a processor: what that delays is nobody's fault. The worst
/// [`Self::WINDOW`], all programs together.
struct Contention {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Contention {
    const WINDOW: Duration = Duration::from_secs(2);
    const LOOKS: usize = 40;

    fn watch(programs: Vec<u32>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut window, mut worst) = (VecDeque::new(), 0);
            while !stopped.load(Relaxed) {
                let now: u64 = programs.iter().map(|pid| waited_ns(*pid)).sum();
                window.push_back(now);
                if window.len() > Self::LOOKS {
                    window.pop_front();
                }
                worst = worst.max(now.saturating_sub(window[0]));
                std::thread::sleep(Self::WINDOW / Self::LOOKS as u32);
            }
            Duration::from_nanos(worst)
        });
        Self { stop, thread }
    }

    fn end(self) -> Duration {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap()
    }
}

/// By all threads of a program, until now; 0 once it has ended.
fn waited_ns(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let waited = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    tasks.filter_map(waited).sum()
}

fn killed_servers_cost_what_they_held(engine: Engine) {
    const KILLS: u64 = 5;
    const REQUESTS: u64 = 8 * RATE;
    const CONNECTIONS: u64 = 64;
    let _lab = Lab::new();
    let pair = Pair::new();
    let (mut one, other) = (pair.start(0), pair.start(1));
    let log = Scratch::new("access.log", b"");
    let program = Program::run(&config(engine, &pair.addresses, &log));
    let load = Load::here(program.address, CONNECTIONS, REQUESTS);
    let contention = Contention::watch(vec![program.pid(), load.0.id(), other.id()]);
    for kill in 0..KILLS {
        await_progress(&program, (2 * kill + 1) * REQUESTS / 12);
        one.kill();
        await_progress(&program, (2 * kill + 2) * REQUESTS / 12);
        one = pair.start(0);
    }
    let (load, noise) = (load.report(), contention.end());
    let report = program.report();
    load.assert_answered();
    let lost = assert_counts_agree(&load, &report, &Delivered::read(&pair.records));
    println!(
        "{engine:?}: lost {lost}, slowest GET {:?} POST {:?}, noise {noise:?}",
        load.slowest("GET"),
        load.slowest("POST")
    );
    // Each had been delivered to the server that was killed and not been answered: its connection was reset, or ended after
    // bytes of the request had been acknowledged. A server had at most one request of each client.
    assert!(load.lost().values().all(|what| what == "POST \"502\""), "{:?}", load.lost());
    assert_eq!(report.count("http_server_lost"), lost);
    assert!(lost <= KILLS * CONNECTIONS, "{lost}");
    program.stop();
    let lines = fs::read_to_string(&log.0).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len() as u64, load.number("/started"));
    let bad: Vec<&Value> = lines.iter().filter(|line| line["status"] != 200).collect();
    assert_eq!(bad.len() as u64, lost);
    for line in bad {
        assert_eq!(
            (&line["server"], &line["ending_code"]),
            (&Value::from(pair.addresses[0].to_string()), &Value::from("SH"))
        );
        assert!(load.lost().contains_key(line["request_id"].as_str().unwrap()), "{line}");
    }
    let slowest = load.slowest("GET").max(load.slowest("POST"));
    let line = lines.iter().max_by_key(|line| line["total_us"].as_u64());
    assert!(
        slowest <= Duration::from_millis(100) + noise,
        "{slowest:?}, noise {noise:?}; in the log: {line:?}; {report:?}"
    );
}

fn a_frozen_server_costs_one_timeout_each(engine: Engine) {
    const REQUESTS: u64 = 9 * RATE;
    const CONNECTIONS: u64 = 600;
    const TRY: Duration = Duration::from_secs(1);
    let _lab = Lab::new();
    let pair = Pair::new();
    let (frozen, other) = (pair.start(0), pair.start(1));
    let log = Scratch::new("access.log", b"");
    let config = config(engine, &pair.addresses, &log).pool("response_timeout = \"1s\"");
    let program = Program::run(&config);
    let load = Load::here(program.address, CONNECTIONS, REQUESTS);
    let contention = Contention::watch(vec![program.pid(), load.0.id(), other.id()]);
    await_progress(&program, REQUESTS / 9);
    frozen.freeze();
    // Six seconds' worth.
    await_progress(&program, 7 * REQUESTS / 9);
    frozen.signal(libc::SIGCONT);
    let (load, noise) = (load.report(), contention.end());
    let report = program.report();
    println!(
        "{engine:?}: slowest GET {:?} POST {:?}, noise {noise:?}; GET {} POST {}; retries {} budget {}",
        load.slowest("GET"),
        load.slowest("POST"),
        load.0["methods"]["GET"]["statuses"],
        load.0["methods"]["POST"]["statuses"],
        report.count("http_retries"),
        report.count("http_retry_budget_spent")
    );
    load.assert_answered();
    let lost = assert_counts_agree(&load, &report, &Delivered::read(&pair.records));
    // A POST that was delivered and not answered in time may have been carried out: it is not sent again.
    assert!(load.lost().values().all(|what| what == "POST \"504\""), "{:?}", load.lost());
    assert_eq!(report.count("http_response_timeout"), lost);
    let slowest = load.slowest("GET");
    assert!(slowest >= TRY, "nobody met the frozen server: {slowest:?}");
    assert!(slowest <= TRY + TRY / 2 + noise, "{slowest:?}, noise {noise:?}");
    program.stop();
}

/// Client, Fourfold and two servers in a namespace each.
struct Network {
    client: Netns,
    proxy: Netns,
    origin: Netns,
    records: [Scratch; 2],
    servers: Vec<Server>,
    log: Scratch,
}

impl Network {
    const SERVERS: [&str; 2] = ["10.2.0.2:7000", "10.2.0.3:7000"];

    fn new() -> Self {
        let [client, proxy, origin] = ["client", "proxy", "origin"].map(|label| Netns::new(label).unwrap());
        client.link(&proxy, "10.1.0.1/24", "10.1.0.2/24").unwrap();
        let (_, device) = proxy.link(&origin, "10.2.0.1/24", "10.2.0.2/24").unwrap();
        origin.address(&device, "10.2.0.3/24").unwrap();
        let records = [Scratch::new("one", b""), Scratch::new("two", b"")];
        let start = |(address, record): (&&str, &Scratch)| {
            let record = record.0.to_str().unwrap();
            Server::start_with(origin.command(BINARY), address.parse().unwrap(), &["--record", record])
        };
        let servers = Self::SERVERS.iter().zip(&records).map(start).collect();
        Self { client, proxy, origin, records, servers, log: Scratch::new("access.log", b"") }
    }

    fn run(&self, engine: Engine, pool: &str) -> Program {
        let address = "10.1.0.2:8080".parse().unwrap();
        let servers = Self::SERVERS.map(|address| address.parse().unwrap());
        let config = config(engine, &servers, &self.log).pool(pool);
        let file = Scratch::new("fourfold.toml", config.toml(address).as_bytes());
        let mut command = self.proxy.command(BINARY);
        command.args(["run", "--log-format", "json"]).arg(&file.0);
        let mut program = Program::spawn(command, address);
        assert!(program.becomes_ready(), "{}", program.log());
        program
    }

    fn load(&self, to: &Program, connections: u64, requests: u64) -> Load {
        Load::at_rate(self.client.command(BINARY), to.address, connections, requests)
    }
}

/// One packet in a hundred is dropped on both links, in both directions: where it arrives, as a network would. A drop on the way
/// out is an error to the sender's kernel, which then forgets a connection whose SYN-ACK it was repeating
/// (`reqsk_timer_handler`).
fn lost_packets_cost_no_request(engine: Engine) {
    const REQUESTS: u64 = 5 * RATE;
    const CONNECTIONS: u64 = 400;
    let Some(_lab) = Lab::private() else { return };
    let network = Network::new();
    let hosts = [&network.client, &network.proxy, &network.origin];
    for host in hosts {
        let rules = "add table inet loss; \
                     add chain inet loss input { type filter hook input priority 0; }; \
                     add rule inet loss input meta l4proto tcp numgen random mod 100 == 0 counter drop";
        host.nft(rules).unwrap();
    }
    let program = network.run(engine, "");
    let load = network.load(&program, CONNECTIONS, REQUESTS).report();
    let report = program.report();
    load.assert_answered();
    let lost = assert_counts_agree(&load, &report, &Delivered::read(&network.records));
    assert_eq!(lost, 0, "{:?}", load.lost());
    for host in hosts {
        let rules = host.run("nft", &["list", "table", "inet", "loss"]).unwrap();
        let counted = |rest: &str| rest.split(' ').next().unwrap().parse::<u64>().unwrap();
        let dropped: u64 = rules.split("packets ").skip(1).map(counted).sum();
        assert!(dropped >= REQUESTS / 200, "{dropped} packets dropped: {rules}");
    }
    program.stop();
}

/// Its machine is gone: what is sent there is neither answered nor refused, and connections to it do not come about.
fn a_server_that_vanishes_costs_one_timeout_each(engine: Engine) {
    const REQUESTS: u64 = 6 * RATE;
    const CONNECTIONS: u64 = 600;
    const TRY: Duration = Duration::from_secs(1);
    let Some(_lab) = Lab::private() else { return };
    let network = Network::new();
    let program = network.run(engine, "response_timeout = \"1s\"\nconnect_timeout = \"1s\"");
    let load = network.load(&program, CONNECTIONS, REQUESTS);
    let programs = vec![program.pid(), load.0.id(), network.servers[1].id()];
    let contention = Contention::watch(programs);
    await_progress(&program, REQUESTS / 6);
    let rules = "add table inet gone; add chain inet gone in { type filter hook input priority 0; }; \
                 add rule inet gone in ip daddr 10.2.0.2 drop";
    network.origin.nft(rules).unwrap();
    let (load, noise) = (load.report(), contention.end());
    let report = program.report();
    load.assert_answered();
    let lost = assert_counts_agree(&load, &report, &Delivered::read(&network.records));
    assert!(load.lost().values().all(|what| what == "POST \"504\""), "{:?}", load.lost());
    assert_eq!(report.count("http_response_timeout"), lost);
    let slowest = load.slowest("GET");
    assert!(slowest >= TRY, "nobody met the server that is gone: {slowest:?}");
    assert!(slowest <= TRY + TRY / 2 + noise, "{slowest:?}, noise {noise:?}");
    program.stop();
}

/// Each connection is closed after its third answer, in the same breath: the next request is often under way already. A server
/// that closes in order takes in what still comes, and throws it away.
fn servers_that_close_at_will_cost_no_get(engine: Engine) {
    const REQUESTS: u64 = 3 * RATE;
    let _lab = Lab::new();
    let pair = Pair::new();
    let start = |index: usize| {
        let record = pair.records[index].0.to_str().unwrap();
        let more = ["--record", record, "--close-after", "3"];
        Server::start_with(Command::new(BINARY), pair.addresses[index], &more)
    };
    let _servers = [start(0), start(1)];
    let log = Scratch::new("access.log", b"");
    let program = Program::run(&config(engine, &pair.addresses, &log));
    let load = Load::here(program.address, 64, REQUESTS).report();
    let report = program.report();
    load.assert_answered();
    let lost = assert_counts_agree(&load, &report, &Delivered::read(&pair.records));
    assert!(load.lost().values().all(|what| what == "POST \"502\""), "{:?}", load.lost());
    assert!(report.count("connects") >= REQUESTS / 3, "{report:?}");
    println!("{engine:?}: {lost} of {REQUESTS} lost, {} retries", report.count("http_retries"));
    program.stop();
}

/// Answers that take a while, so that every kill meets some.
fn answers_cut_by_a_kill_are_never_taken_for_whole(engine: Engine) {
    const REQUESTS: u64 = 600;
    const KILLS: u64 = 3;
    let _lab = Lab::new();
    let addresses = [free_port(HERE), free_port(HERE)];
    let (mut one, _other) = (Server::start(addresses[0]), Server::start(addresses[1]));
    let log = Scratch::new("access.log", b"");
    let program = Program::run(&config(engine, &addresses, &log));
    let mut command = Command::new(BINARY);
    let to = program.address.to_string();
    command.args(["load", "http", &to, "--json", "--path", "/drip/200/2", "--verify", "pattern"]);
    command.args(["--expect-bytes", "200", "--connections", "64", "--requests", &REQUESTS.to_string()]);
    let load = Load::spawn(command);
    for kill in 0..KILLS {
        await_progress(&program, (2 * kill + 1) * REQUESTS / 8);
        one.kill();
        await_progress(&program, (2 * kill + 2) * REQUESTS / 8);
        one = Server::start(addresses[0]);
    }
    let load = load.report();
    let report = program.report();
    assert_eq!(load.number("/statuses/200"), load.number("/answered"), "{:#}", load.0);
    assert_eq!(load.number("/started"), load.number("/answered") + load.number("/failed"));
    // Broken off visibly: neither a wrong byte nor an end in order.
    assert_eq!(load.number("/answering"), load.number("/failed"));
    let causes = load.0["failed_by"].as_object().unwrap();
    assert!(causes.keys().all(|cause| cause.starts_with("broken")), "{causes:?}");
    assert!(load.number("/failed") > 0, "no kill met an answer: {:#}", load.0);
    assert_eq!(report.count("http_2xx"), load.number("/answered"));
    let cut = report.count("http_server_lost") + report.count("http_bad_response");
    assert_eq!(cut, load.number("/failed"), "{report:?}");
    program.stop();
}
