//! The real binary as a child process: its log as it comes, its report, its memory, descriptors and processor time.

use super::DEADLINE;
use super::lab::{eventually, free_port};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const BINARY: &str = env!("CARGO_BIN_EXE_fourfold");

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    Uring,
    Epoll,
}

impl Engine {
    pub fn name(self) -> &'static str {
        if self == Engine::Uring { "uring" } else { "epoll" }
    }

    /// Says so when it does not.
    pub fn works_here(self) -> bool {
        if self == Engine::Epoll {
            return true;
        }
        let mut params = [0_u8; 120];
        // SAFETY: `struct io_uring_params` has 120 bytes, all zero is valid, and it outlives the call.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, params.as_mut_ptr()) };
        if fd < 0 {
            eprintln!("skipped: io_uring is forbidden here: {}", std::io::Error::last_os_error());
            return false;
        }
        // SAFETY: just opened, and nobody else's.
        unsafe { libc::close(fd as i32) };
        true
    }
}

/// A configuration with one listener and one pool; the rest is TOML lines.
#[derive(Clone)]
pub struct Config {
    pub engine: Engine,
    pub listen: IpAddr,
    pub top: String,
    pub listener: String,
    pub pool: String,
    /// Address and further lines.
    pub servers: Vec<(String, String)>,
    /// Whole sections after these.
    pub more: String,
}

impl Config {
    pub fn to(engine: Engine, servers: &[SocketAddr]) -> Self {
        Self {
            engine,
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            top: "drain_timeout = \"1s\"".into(),
            listener: String::new(),
            pool: String::new(),
            servers: servers.iter().map(|address| (address.to_string(), String::new())).collect(),
            more: String::new(),
        }
    }
    pub fn top(mut self, line: &str) -> Self {
        self.top = format!("{}\n{line}", self.top);
        self
    }
    pub fn listener(mut self, line: &str) -> Self {
        self.listener = format!("{}\n{line}", self.listener);
        self
    }
    /// Whole sections after the servers.
    pub fn more(mut self, lines: &str) -> Self {
        self.more = format!("{}\n{lines}", self.more);
        self
    }
    pub fn pool(mut self, line: &str) -> Self {
        self.pool = format!("{}\n{line}", self.pool);
        self
    }

    pub fn toml(&self, bind: SocketAddr) -> String {
        let Self { engine, top, listener, pool, more, .. } = self;
        let servers = self
            .servers
            .iter()
            .map(|(address, lines)| format!("[[pool.server]]\naddress = \"{address}\"\n{lines}\n"));
        format!(
            "engine = \"{}\"\n{top}\n[[listener]]\nname = \"edge\"\nbind = \"{bind}\"\npool = \"chat\"\n{listener}\n\
             [[pool]]\nname = \"chat\"\n{pool}\n{}{more}\n",
            engine.name(),
            servers.collect::<String>()
        )
    }
}

/// A file below the target directory that is gone afterwards.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str, content: &[u8]) -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let path = folder.join(format!("{}-{number}-{name}", std::process::id()));
        fs::write(&path, content).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

type Lines = Arc<Mutex<Vec<String>>>;

/// A running `fourfold`, killed when dropped.
pub struct Program {
    child: Child,
    lines: Lines,
    reader: Option<JoinHandle<()>>,
    servers: usize,
    /// Where its first listener is.
    pub address: SocketAddr,
    _file: Option<Scratch>,
}

/// What a program left behind.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// Runs it to its end, which must come.
pub fn fourfold(args: &[&str]) -> Finished {
    let mut command = Command::new(BINARY);
    command.args(args);
    finish(command)
}

/// A test that is killed leaves no program behind.
pub fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: prctl is async-signal-safe and takes no pointers here.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}

pub fn finish(mut command: Command) -> Finished {
    die_with_parent(&mut command);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let slurp = |pipe: &mut dyn Read| {
        let mut text = Vec::new();
        let _ = pipe.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    };
    let stdout = std::thread::spawn(move || slurp(&mut out));
    let stderr = std::thread::spawn(move || slurp(&mut err));
    let status = wait(&mut child).unwrap_or_else(|| {
        let _ = child.kill();
        panic!("it does not end: {command:?}")
    });
    Finished { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

fn wait(child: &mut Child) -> Option<ExitStatus> {
    let began = Instant::now();
    while began.elapsed() < DEADLINE {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

impl Program {
    /// `fourfold run` with this configuration, once it is ready.
    pub fn run(config: &Config) -> Self {
        Self::run_with(config, |_| {})
    }

    /// The same, with the command adapted before it starts.
    pub fn run_with(config: &Config, adapt: impl Fn(&mut Command)) -> Self {
        let mut tries = 0;
        loop {
            let address = free_port(config.listen);
            let file = Scratch::new("fourfold.toml", config.toml(address).as_bytes());
            let mut command = Command::new(BINARY);
            command.args(["run", "--log-format", "json"]).arg(&file.0);
            adapt(&mut command);
            let mut program = Self::spawn(command, address);
            program.servers = config.servers.len();
            program._file = Some(file);
            if program.becomes_ready() {
                return program;
            }
            // Outside of a namespace another program may have been quicker to take the port.
            tries += 1;
            let log = program.log();
            assert!(tries < 5 && log.contains("another program does"), "it does not start: {log}");
        }
    }

    pub fn spawn(mut command: Command, address: SocketAddr) -> Self {
        die_with_parent(&mut command);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let lines: Lines = Lines::default();
        let pipe = BufReader::new(child.stderr.take().unwrap());
        let seen = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            for line in pipe.lines().map_while(Result::ok) {
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Self { child, lines, reader: Some(reader), servers: 1, address, _file: None }
    }

    /// `false`: it has ended before it was.
    pub fn becomes_ready(&mut self) -> bool {
        eventually("the program is ready", || {
            if self.messages().iter().any(|message| message == "ready") {
                return Some(true);
            }
            self.child.try_wait().unwrap().map(|_| self.join_log()).map(|()| false)
        })
    }

    fn join_log(&mut self) {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn raw_lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn log(&self) -> String {
        self.raw_lines().join("\n")
    }

    /// Messages of the JSON log, without their fields.
    pub fn messages(&self) -> Vec<String> {
        self.events().into_iter().filter_map(|event| Some(event["message"].as_str()?.to_owned())).collect()
    }

    pub fn events(&self) -> Vec<Value> {
        self.raw_lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Warnings and errors that contain `what`.
    pub fn warnings(&self, what: &str) -> Vec<String> {
        let serious = |event: &&Value| event["level"] == "WARN" || event["level"] == "ERROR";
        let text = |event: &Value| event["message"].as_str().unwrap_or_default().to_owned();
        self.events().iter().filter(serious).map(text).filter(|message| message.contains(what)).collect()
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: no pointers; the child has not been waited for, so the id is its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// Every thread stands still until SIGCONT.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
        let stopped = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        };
        eventually("it stands still", || {
            let mut tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap().flatten();
            tasks.all(stopped).then_some(())
        });
    }

    /// Asks by SIGUSR1, and waits for the answer.
    pub fn report(&self) -> Report {
        let before = self.raw_lines().len();
        self.signal(libc::SIGUSR1);
        eventually("a report", || {
            let fresh = self.messages().split_off(before.min(self.messages().len()));
            let start = fresh.iter().position(|message| message.starts_with("connections="))?;
            let lines = &fresh[start..];
            let servers =
                lines.iter().filter(|line| line.starts_with("server ") && line.contains(" active=")).count();
            (servers >= self.servers).then(|| Report::parse(lines))
        })
    }

    /// The first report for which `holds`.
    #[track_caller]
    pub fn report_when(&self, what: &str, holds: impl Fn(&Report) -> bool) -> Report {
        let mut last = None;
        let began = Instant::now();
        while began.elapsed() < DEADLINE {
            let report = self.report();
            if holds(&report) {
                return report;
            }
            last = Some(report);
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("gave up waiting: {what}; last report {last:?}");
    }

    /// No client, no tuple, no descriptor is left of what there was.
    pub fn report_when_empty(&self) -> Report {
        self.report_when("everything is given back", |report| {
            let idle = report.servers.iter().all(|server| server.active == 0);
            report.connections == 0 && report.waiting == 0 && report.used() == 0 && idle
        })
    }

    /// Descriptors in the process's table and in those that its threads have for themselves.
    pub fn descriptors(&self) -> usize {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let count = |task: fs::DirEntry| fs::read_dir(task.path().join("fd")).map_or(0, Iterator::count);
        tasks.filter_map(Result::ok).map(count).sum()
    }

    pub fn resident_bytes(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap();
        text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }

    /// Processor time so far, in clock ticks (10 ms).
    pub fn cpu_ticks(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let after_name = text.rsplit_once(')').unwrap().1;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Processor time that it takes in a second of standing by, in clock ticks: 100 would be one processor.
    pub fn cpu_ticks_per_second(&self) -> u64 {
        let before = self.cpu_ticks();
        std::thread::sleep(Duration::from_secs(1));
        self.cpu_ticks() - before
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Ended {
        let status = wait(&mut self.child);
        let status = status.unwrap_or_else(|| panic!("it does not end: {}", self.log()));
        self.join_log();
        Ended { status, messages: self.messages() }
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Stops it as a service manager would; it must end in order.
    pub fn stop(self) -> Ended {
        self.signal(libc::SIGTERM);
        let ended = self.wait();
        assert_eq!(ended.status.code(), Some(0), "{:?}", ended.messages);
        ended
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.join_log();
        if std::thread::panicking() {
            let report = ["\"connections=", "\"tuples towards", "\"pool ", "\"server "];
            let mut lines = self.raw_lines();
            // Reports come by the hundred while a condition is waited for: the last will do.
            let kept = lines.len().saturating_sub(8);
            let mut index = 0;
            lines.retain(|line| {
                index += 1;
                index > kept || !report.iter().any(|start| line.contains(start))
            });
            let skipped = lines.len().saturating_sub(60);
            let mut err = std::io::stderr();
            let _ = writeln!(
                err,
                "-- log of {} ({skipped} lines before):\n{}",
                self.pid(),
                lines[skipped..].join("\n")
            );
        }
    }
}

#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub messages: Vec<String>,
}

impl Ended {
    /// What was counted, by the final line.
    pub fn totals(&self) -> HashMap<String, u64> {
        let line = self.messages.iter().find(|message| message.starts_with("stopped: "));
        numbers(line.unwrap_or_else(|| panic!("no final line: {:?}", self.messages)))
    }
    pub fn killed_by(&self) -> Option<i32> {
        self.status.signal()
    }
}

/// What SIGUSR1 prints.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub connections: u64,
    pub waiting: u64,
    pub counters: HashMap<String, u64>,
    pub tuples: Vec<Tuples>,
    pub servers: Vec<Server>,
}

#[derive(Clone, Debug)]
pub struct Tuples {
    pub used: u64,
    pub free: u64,
    pub quarantined: u64,
    pub foreign: u64,
    pub total: u64,
}

#[derive(Clone, Debug)]
pub struct Server {
    pub address: String,
    pub up: bool,
    pub active: u64,
    pub failures: u64,
}

fn numbers(line: &str) -> HashMap<String, u64> {
    let pair = |word: &str| {
        let (name, value) = word.split_once('=')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    line.split_whitespace().filter_map(pair).collect()
}

impl Report {
    fn parse(lines: &[String]) -> Self {
        let mut report = Self::default();
        for line in lines {
            let numbers = numbers(line);
            let get = |name: &str| numbers.get(name).copied().unwrap_or(0);
            if line.starts_with("connections=") {
                report.connections = get("connections");
                report.counters = numbers;
            } else if line.starts_with("tuples ") {
                report.tuples.push(Tuples {
                    used: get("used"),
                    free: get("free"),
                    quarantined: get("quarantined"),
                    foreign: get("foreign"),
                    total: get("total"),
                });
            } else if line.starts_with("pool ") {
                report.waiting += get("waiting");
            } else if let Some((address, rest)) = line
                .strip_prefix("server ")
                .and_then(|rest| rest.split_once(": "))
                .filter(|_| line.contains(" active="))
            {
                report.servers.push(Server {
                    address: address.to_owned(),
                    up: rest.starts_with("up"),
                    active: get("active"),
                    failures: get("failures"),
                });
            }
        }
        report
    }

    pub fn count(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    /// Tuples in use, towards all servers.
    pub fn used(&self) -> u64 {
        self.tuples.iter().map(|tuples| tuples.used).sum()
    }
}
