//! Clients that we did not write, through a listener in http mode. What they need is installed by `cargo xtask test`.

use super::peers::loopback;
use crate::common::http::{Line, Scripted, ok, plain};
use crate::common::program::die_with_parent;
use crate::common::strict::Message;
use crate::common::{Engine, Lab, Program, eventually};
use crate::on_both_engines;
use fourfold_testkit::{Need, skip};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

on_both_engines!(
    curl_takes_a_gigabyte,
    curl_sends_a_gigabyte,
    wrk_counts_no_errors,
    h2load_counts_no_errors,
    python_requests_and_httpx,
    python_websockets,
    node_undici,
    node_ws,
);

const GIGABYTE: u64 = 1 << 30;
const PIECE: usize = 1 << 20;

/// The next piece of a stream in which a missing, doubled or swapped piece shows in the hash.
fn stamp(piece: &mut [u8], number: u64) {
    for at in (0..piece.len()).step_by(4096) {
        piece[at..at + 8].copy_from_slice(&(number * PIECE as u64 + at as u64).to_le_bytes());
    }
}

fn pieces(mut take: impl FnMut(&[u8]) -> bool) {
    let mut piece: Vec<u8> = (0..PIECE).map(|at| (at * 31 % 251) as u8).collect();
    for number in 0..GIGABYTE / PIECE as u64 {
        stamp(&mut piece, number);
        if !take(&piece) {
            return;
        }
    }
}

struct Hash(Child, Option<ChildStdin>);

impl Hash {
    fn new() -> Self {
        let mut command = Command::new("sha1sum");
        die_with_parent(&mut command);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        Self(child, stdin)
    }
    fn add(&mut self, bytes: &[u8]) {
        self.1.as_mut().unwrap().write_all(bytes).unwrap();
    }
    fn finish(mut self) -> String {
        drop(self.1.take());
        let output = self.0.wait_with_output().unwrap();
        String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().into()
    }
}

fn expected() -> String {
    let mut hash = Hash::new();
    pieces(|piece| {
        hash.add(piece);
        true
    });
    hash.finish()
}

fn curl_takes_a_gigabyte(engine: Engine) {
    if skip(&[Need::Program("curl"), Need::Program("sha1sum")]) {
        return;
    }
    let _lab = Lab::new();
    let origin = Scripted::start(|line| {
        while let Some(request) = line.request() {
            if request.target() == "/length" {
                line.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {GIGABYTE}\r\n\r\n").as_bytes());
                pieces(|piece| line.stream_takes(piece));
            } else {
                line.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                pieces(|piece| {
                    line.stream_takes(format!("{PIECE:x}\r\n").as_bytes())
                        && line.stream_takes(piece)
                        && line.stream_takes(b"\r\n")
                });
                line.say(b"0\r\n\r\n");
            }
        }
    });
    let program = Program::run(&plain(engine, &[origin.address]));
    let before = program.resident_bytes();
    let wanted = std::thread::spawn(expected);
    let mut curl = curl(&[&format!("http://{}/length", program.address)]);
    let mut child = curl.stdout(Stdio::piped()).spawn().unwrap();
    let mut hash = Hash::new();
    std::io::copy(&mut child.stdout.take().unwrap(), hash.1.as_mut().unwrap()).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(hash.finish(), wanted.join().unwrap());
    let grown = program.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "grew by {grown} bytes");
    assert_eq!(program.stop().totals()["bytes_down"], GIGABYTE);
}

fn curl_sends_a_gigabyte(engine: Engine) {
    if skip(&[Need::Program("curl"), Need::Program("sha1sum")]) {
        return;
    }
    let _lab = Lab::new();
    let got = Arc::new(Mutex::new(None));
    let tell = Arc::clone(&got);
    let origin = Scripted::start(move |line| {
        let head = line.head().unwrap();
        assert!(head.contains("Transfer-Encoding: chunked"), "{head}");
        // curl waits for it, for a second.
        line.say(b"HTTP/1.1 100 Continue\r\n\r\n");
        let mut hash = Hash::new();
        let mut reader = Chunks { line, left: 0, held: Vec::new(), at: 0 };
        reader.each(|bytes| hash.add(bytes));
        *tell.lock().unwrap() = Some(hash.finish());
        line.say(&ok("thanks"));
        line.outlast();
    });
    let program = Program::run(&plain(engine, &[origin.address]));
    let before = program.resident_bytes();
    let mut curl = curl(&["-T", "-", &format!("http://{}/up", program.address)]);
    let mut child = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let wanted = std::thread::spawn(expected);
    pieces(|piece| stdin.write_all(piece).is_ok());
    drop(stdin);
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!((said.as_str(), got.lock().unwrap().take()), ("thanks", Some(wanted.join().unwrap())));
    let grown = program.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "grew by {grown} bytes");
    assert_eq!(program.stop().totals()["bytes_up"], GIGABYTE);
}

/// Content in chunks, as it comes.
struct Chunks<'a> {
    line: &'a mut Line,
    left: usize,
    held: Vec<u8>,
    at: usize,
}

impl Chunks<'_> {
    fn each(&mut self, mut take: impl FnMut(&[u8])) {
        loop {
            let size = self.size_line();
            if size == 0 {
                self.size_line_end();
                return;
            }
            self.left = size;
            while self.left > 0 {
                if self.at == self.held.len() {
                    self.fill();
                }
                let end = (self.at + self.left).min(self.held.len());
                take(&self.held[self.at..end]);
                self.left -= end - self.at;
                self.at = end;
            }
            self.size_line_end();
        }
    }

    fn fill(&mut self) {
        self.held.drain(..self.at);
        self.at = 0;
        self.held.extend(self.line.some().expect("the content ends too early"));
    }

    fn text_line(&mut self) -> String {
        loop {
            if let Some(length) = self.held[self.at..].windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&self.held[self.at..self.at + length]).into_owned();
                self.at += length + 2;
                return line;
            }
            self.fill();
        }
    }

    fn size_line(&mut self) -> usize {
        usize::from_str_radix(&self.text_line(), 16).unwrap()
    }

    fn size_line_end(&mut self) {
        assert_eq!(self.text_line(), "");
    }
}

fn curl(args: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--max-time", "120"]).args(args);
    die_with_parent(&mut command);
    command
}

fn output(command: &mut Command) -> Output {
    die_with_parent(command);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {out}\n{err}");
    output
}

fn small() -> Scripted {
    Scripted::start(|line| {
        while line.request().is_some() {
            line.say(&ok("hello"));
        }
    })
}

fn wrk_counts_no_errors(engine: Engine) {
    if skip(&[Need::Program("wrk")]) {
        return;
    }
    let _lab = Lab::new();
    let origin = small();
    let program = Program::run(&plain(engine, &[origin.address]));
    let url = format!("http://{}/", program.address);
    let output = output(Command::new("wrk").args(["-t", "2", "-c", "40", "-d", "2s", &url]));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
    let report = program.report_when("wrk has left", |report| report.connections == 0);
    assert!(report.count("http_2xx") > 1000, "{text}");
    assert!(origin.connections() <= 40, "{} connections", origin.connections());
    program.stop();
}

fn h2load_counts_no_errors(engine: Engine) {
    if skip(&[Need::Program("h2load")]) {
        return;
    }
    let _lab = Lab::new();
    let origin = small();
    let program = Program::run(&plain(engine, &[origin.address]));
    let url = format!("http://{}/", program.address);
    // Eight requests in flight on each connection.
    let output = output(Command::new("h2load").args(["--h1", "-n", "10000", "-c", "20", "-m", "8", &url]));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("10000 done, 10000 succeeded, 0 failed, 0 errored"), "{text}");
    assert!(text.contains("status codes: 10000 2xx"), "{text}");
    assert_eq!(program.stop().totals()["http_2xx"], 10_000);
}

/// What `clients/libraries.*` ask.
fn libraries_origin() -> Scripted {
    let block: Vec<u8> = (0..102_400_u32).map(|at| at as u8).collect();
    Scripted::start(move |line| {
        while let Some(request) = line.request() {
            match request.target().split('?').next() {
                Some("/chunked") => {
                    line.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                    for piece in block.chunks(10_000) {
                        line.say(format!("{:x}\r\n", piece.len()).as_bytes());
                        line.say(piece);
                        line.say(b"\r\n");
                    }
                    line.say(b"0\r\n\r\n");
                }
                Some("/close") => {
                    line.say(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
                    return line.say(&block);
                }
                _ => repeat(line, &request),
            }
        }
    })
}

fn repeat(line: &mut Line, request: &Message) {
    let length = request.body.len();
    line.say(
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n")
            .as_bytes(),
    );
    if request.method() != "HEAD" {
        line.say(&request.body);
    }
}

fn tools() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("tools")
}

fn client_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// `python` and `node` as `cargo xtask test` sets them up.
const PYTHON: Need = Need::File(concat!(env!("CARGO_TARGET_TMPDIR"), "/../tools/python/bin/python"));
const UNDICI: Need =
    Need::File(concat!(env!("CARGO_TARGET_TMPDIR"), "/../tools/node/node_modules/undici/package.json"));

fn python(file: &str, argument: &str) -> Command {
    let mut command = Command::new(tools().join("python/bin/python"));
    command.arg("-B").arg(client_file(file)).arg(argument);
    for variable in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(variable);
    }
    command
}

fn node(file: &str, address: SocketAddr) -> Command {
    let mut command = Command::new("node");
    command.arg(client_file(file)).arg(address.to_string()).arg(tools().join("node"));
    command
}

#[track_caller]
fn expect_done(mut command: Command, program: Program) {
    let output = output(&mut command);
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("done\n"));
    program.report_when("the clients are gone", |report| report.connections == 0);
    let totals = program.stop().totals();
    for error in ["http_rejected", "http_4xx", "http_5xx", "http_bad_response", "http_server_lost"] {
        assert_eq!(totals.get(error), None, "{totals:?}");
    }
}

fn python_requests_and_httpx(engine: Engine) {
    if skip(&[PYTHON]) {
        return;
    }
    let _lab = Lab::new();
    let origin = libraries_origin();
    let program = Program::run(&plain(engine, &[origin.address]));
    expect_done(python("libraries.py", &program.address.to_string()), program);
}

fn node_undici(engine: Engine) {
    if skip(&[UNDICI, Need::Program("node")]) {
        return;
    }
    let _lab = Lab::new();
    let origin = libraries_origin();
    let program = Program::run(&plain(engine, &[origin.address]));
    expect_done(node("libraries.mjs", program.address), program);
}

struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn web_socket_origin() -> (Reaped, SocketAddr) {
    let address = loopback();
    let mut command = python("ws_origin.py", &address.port().to_string());
    die_with_parent(&mut command);
    let child = Reaped(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    eventually("the WebSocket origin listens", || TcpStream::connect(address).ok().map(drop));
    (child, address)
}

fn python_websockets(engine: Engine) {
    if skip(&[PYTHON]) {
        return;
    }
    let _lab = Lab::new();
    let (_origin, address) = web_socket_origin();
    let program = Program::run(&plain(engine, &[address]));
    expect_done(python("ws.py", &program.address.to_string()), program);
}

fn node_ws(engine: Engine) {
    if skip(&[PYTHON, UNDICI, Need::Program("node")]) {
        return;
    }
    let _lab = Lab::new();
    let (_origin, address) = web_socket_origin();
    let program = Program::run(&plain(engine, &[address]));
    expect_done(node("ws.mjs", program.address), program);
}
