//! The proxies that are measured: how each is found, configured, started and ended.
//!
//! Every one runs as an ordinary program in the foreground with a configuration of its own in a folder under `target`,
//! listens on a port that was free, and is ended by its process id.

mod http;

use super::machine::first_line;
use super::results::{DIRECT, Protocol};
use crate::{envoy, workspace};
use anyhow::{Context, Result, bail};
use fourfold_testkit::need::find_program;
use fourfold_testkit::stat;
use fourfold_testkit::{Client, Proc, Reserved, Signal};
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const START_DEADLINE: Duration = Duration::from_secs(20);
/// For one attempt at it.
const PATIENCE: Duration = Duration::from_secs(1);
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Direct,
    Nginx,
    Haproxy,
    Envoy,
    FourfoldUring,
    FourfoldEpoll,
    /// The same, busy tunnels carried by the kernel.
    FourfoldUringSplice,
    FourfoldEpollSplice,
}

pub const ALL: &[Kind] = &[
    Kind::Direct,
    Kind::Nginx,
    Kind::Haproxy,
    Kind::Envoy,
    Kind::FourfoldUring,
    Kind::FourfoldEpoll,
    Kind::FourfoldUringSplice,
    Kind::FourfoldEpollSplice,
];

/// How large it has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// One thread.
    OneThread,
    /// As many connections as it can hold under the descriptor limit.
    Hold,
    /// As many as one source address has ports.
    Fill,
    /// As many pairs of connections, one to each side, as it can hold.
    Pairs,
    /// One thread, and a server that fails is to be left for the other where that is safe.
    Faults,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Direct => DIRECT,
            Kind::Nginx => "nginx",
            Kind::Haproxy => "haproxy",
            Kind::Envoy => "envoy",
            Kind::FourfoldUring => "fourfold-uring",
            Kind::FourfoldEpoll => "fourfold-epoll",
            Kind::FourfoldUringSplice => "fourfold-uring-splice",
            Kind::FourfoldEpollSplice => "fourfold-epoll-splice",
        }
    }

    pub fn from_name(name: &str) -> Result<Kind> {
        let known = ALL.iter().copied().find(|kind| kind.name() == name);
        known.with_context(|| format!("no peer {name:?}; known: {}", ALL.map_names()))
    }

    pub fn version(self, programs: &Programs, protocol: Protocol) -> Result<String> {
        let line = match self {
            Kind::Direct => return Ok("no proxy".into()),
            Kind::Nginx => first_line(&programs.nginx(protocol)?, &["-v"]),
            Kind::Haproxy => first_line(&programs.haproxy()?, &["-v"]),
            Kind::Envoy => first_line(&programs.envoy()?, &["--version"]),
            _ => first_line(&programs.fourfold()?, &["--version"]),
        };
        if line.is_empty() {
            bail!("{} does not say its version", self.name());
        }
        // nginx and Envoy put words, and Envoy its own path, before what is worth knowing.
        let version = line.rsplit_once("version: ").map_or(line.as_str(), |(_, version)| version);
        Ok(version.trim_start_matches("HAProxy version ").to_string())
    }

    /// Those of a run that names none.
    pub fn is_usual(self, protocol: Protocol) -> bool {
        protocol == Protocol::Tcp || !matches!(self, Kind::FourfoldUringSplice | Kind::FourfoldEpollSplice)
    }

    pub fn is_ours(self) -> bool {
        !matches!(self, Kind::Direct | Kind::Nginx | Kind::Haproxy | Kind::Envoy)
    }

    /// Those that can hold all ports of a source under the descriptor limit.
    pub fn fills(self) -> bool {
        self == Kind::Nginx || self.is_ours()
    }

    /// First and full number of held connections, under a hard limit of 20 000 descriptors: two per connection and
    /// process (nginx: and worker). nginx ends where one source has no more ports; Fourfold goes on.
    pub fn hold_sizes(self) -> Option<(usize, usize)> {
        match self {
            Kind::Direct => None,
            Kind::Nginx => Some((4_000, 28_000)),
            Kind::Haproxy | Kind::Envoy => Some((2_000, 9_500)),
            _ => Some((20_000, 120_000)),
        }
    }

    /// The same for idle clients over HTTP, which use one descriptor each.
    pub fn idle_sizes(self) -> Option<(usize, usize)> {
        match self {
            Kind::Direct => None,
            Kind::Haproxy | Kind::Envoy => Some((4_000, 18_000)),
            _ => Some((20_000, 100_000)),
        }
    }

    /// The same for WebSockets.
    pub fn pair_sizes(self) -> Option<(usize, usize)> {
        match self {
            kind if kind.is_ours() => Some((20_000, 100_000)),
            // To two origins, and so with twice the ports of one.
            Kind::Nginx => Some((8_000, 50_000)),
            other => other.hold_sizes(),
        }
    }
}

trait Names {
    fn map_names(&self) -> String;
}

impl Names for [Kind] {
    fn map_names(&self) -> String {
        self.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(" ")
    }
}

/// Where the programs are.
#[derive(Debug, Default)]
pub struct Programs {
    /// Given on the command line; else what `cargo build --release` makes.
    pub fourfold: Option<PathBuf>,
}

impl Programs {
    fn fourfold(&self) -> Result<String> {
        let path = self.fourfold.clone().unwrap_or_else(|| workspace::target_dir().join("release/fourfold"));
        existing(&path, "`cargo build --release`, or --fourfold PATH")
    }

    /// The client, or the origin, of this tree, whatever subject is measured.
    pub fn tool() -> Command {
        Command::new(workspace::target_dir().join("release/fourfold"))
    }

    fn nginx(&self, protocol: Protocol) -> Result<String> {
        if protocol == Protocol::Tcp {
            existing(Path::new(NGINX_STREAM), "apt-get install libnginx-mod-stream")?;
        }
        Self::installed("nginx")
    }

    fn haproxy(&self) -> Result<String> {
        Self::installed("haproxy")
    }

    fn installed(name: &str) -> Result<String> {
        let path =
            find_program(name).with_context(|| format!("{name} is missing: apt-get install {name}"))?;
        Ok(path.display().to_string())
    }

    fn envoy(&self) -> Result<String> {
        Ok(envoy::find_or_install()?.display().to_string())
    }
}

fn existing(path: &Path, remedy: &str) -> Result<String> {
    if !path.exists() {
        bail!("{} is missing: {remedy}", path.display());
    }
    Ok(path.display().to_string())
}

/// A subject that listens.
pub struct Running {
    pub kind: Kind,
    pub protocol: Protocol,
    pub address: SocketAddr,
    proc: Option<Proc>,
}

impl Running {
    /// Starts it and waits until a token, or a request, has gone through it to the origin and back.
    pub fn start(
        kind: Kind,
        (protocol, size): (Protocol, Size),
        origins: &[SocketAddr],
        programs: &Programs,
        folder: &Path,
    ) -> Result<Running> {
        if kind == Kind::Direct {
            let address = *origins.first().context("there is no origin")?;
            return Ok(Running { kind, protocol, address, proc: None });
        }
        let address = Reserved::loopback()?.release();
        let mut command = command(kind, (protocol, size), address, origins, programs, folder)?;
        let mut running = Running { kind, protocol, address, proc: Some(Proc::spawn(&mut command)?) };
        running.wait_ready()?;
        Ok(running)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let (address, name, protocol) = (self.address, self.kind.name(), self.protocol);
        let Some(proc) = &mut self.proc else { return Ok(()) };
        let answers = || match protocol {
            Protocol::Tcp => {
                Client::connect(address, PATIENCE).and_then(|mut client| client.round_trip(b"E").map(drop))
            }
            Protocol::Http => answers_http(address),
        };
        let what = format!("{name} to pass something on");
        let ready = fourfold_testkit::eventually(START_DEADLINE, &what, || {
            answers().is_ok() || !proc.is_running().unwrap_or(false)
        });
        if ready.is_err() || !proc.is_running()? {
            bail!("{name} does not start:\n{}", proc.lines().join("\n"));
        }
        Ok(())
    }

    /// The process and its workers, to read their CPU time and memory.
    pub fn pids(&self) -> Result<Vec<u32>> {
        self.proc.as_ref().map_or(Ok(Vec::new()), |proc| stat::process_tree(proc.pid()))
    }

    pub fn rss_bytes(&self) -> Result<u64> {
        self.pids()?.iter().map(|pid| stat::rss_bytes(*pid)).sum()
    }

    /// A stopped subject takes no CPU while another is measured.
    pub fn pause(&self) -> Result<()> {
        self.proc.as_ref().map_or(Ok(()), |proc| proc.signal_group(Signal::Stop))
    }

    pub fn resume(&self) -> Result<()> {
        self.proc.as_ref().map_or(Ok(()), |proc| proc.signal_group(Signal::Cont))
    }

    /// The last lines it printed.
    pub fn log(&self) -> Vec<String> {
        let lines = self.proc.as_ref().map(Proc::lines).unwrap_or_default();
        lines.iter().rev().take(5).rev().cloned().collect()
    }
}

/// One request that the origin answers.
fn answers_http(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        bail!("{}", String::from_utf8_lossy(&answer).lines().next().unwrap_or_default());
    }
    Ok(())
}

fn command(
    kind: Kind,
    (protocol, size): (Protocol, Size),
    listen: SocketAddr,
    origins: &[SocketAddr],
    programs: &Programs,
    folder: &Path,
) -> Result<Command> {
    let folder = folder.join(kind.name());
    fs::create_dir_all(&folder)?;
    let write = |name: &str, text: String| -> Result<PathBuf> {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path)
    };
    Ok(match kind {
        Kind::Direct => bail!("the direct path has no program"),
        Kind::Nginx => {
            let text = match protocol {
                Protocol::Tcp => nginx_config(size, listen, origins, &folder),
                Protocol::Http => http::nginx_config(size, listen, origins, &folder),
            };
            let config = write("nginx.conf", text)?;
            let mut command = Command::new(programs.nginx(protocol)?);
            command.arg("-p").arg(&folder).arg("-e").arg("stderr").arg("-c").arg(config);
            command
        }
        Kind::Haproxy => {
            let text = match protocol {
                Protocol::Tcp => haproxy_config(listen, origins),
                Protocol::Http => http::haproxy_config(size, listen, origins),
            };
            let config = write("haproxy.cfg", text)?;
            let mut command = Command::new(programs.haproxy()?);
            command.arg("-db").arg("-f").arg(config);
            command
        }
        Kind::Envoy => {
            let config = write("envoy.json", envoy_config((protocol, size), listen, origins))?;
            let mut command = Command::new(programs.envoy()?);
            command
                .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"])
                .arg(config);
            command
        }
        Kind::FourfoldUring | Kind::FourfoldEpoll if size == Size::Faults => {
            let engine = if kind == Kind::FourfoldUring { "uring" } else { "epoll" };
            let config = write("fourfold.toml", http::fourfold_config(engine, listen, origins))?;
            let mut command = Command::new(programs.fourfold()?);
            command.arg("run").arg(config);
            command
        }
        Kind::FourfoldUring => fourfold(programs, (protocol, size), listen, origins, ("uring", "auto"))?,
        Kind::FourfoldEpoll => fourfold(programs, (protocol, size), listen, origins, ("epoll", "auto"))?,
        Kind::FourfoldUringSplice => fourfold(programs, (protocol, size), listen, origins, ("uring", "bpf"))?,
        Kind::FourfoldEpollSplice => fourfold(programs, (protocol, size), listen, origins, ("epoll", "bpf"))?,
    })
}

fn fourfold(
    programs: &Programs,
    (protocol, size): (Protocol, Size),
    listen: SocketAddr,
    origins: &[SocketAddr],
    (engine, splice): (&str, &str),
) -> Result<Command> {
    let mut command = Command::new(programs.fourfold()?);
    command.args(["run", "--mode", protocol.name(), "--engine", engine, "--splice", splice]);
    command.args(["--listen", &listen.to_string(), "--to"]).args(origins.iter().map(SocketAddr::to_string));
    match size {
        Size::OneThread | Size::Faults => command.args(["--shards", "1"]),
        Size::Hold | Size::Pairs => {
            command.args(["--max-connections", "120000", "--source", "127.0.0.10-127.0.0.17"])
        }
        Size::Fill => command.args(["--max-connections", "30000"]),
    };
    Ok(command)
}

fn nginx_config(size: Size, listen: SocketAddr, origins: &[SocketAddr], folder: &Path) -> String {
    // A worker has a descriptor table of its own and holds two per connection.
    let (workers, shared) = match size {
        Size::OneThread | Size::Faults => (1, ""),
        Size::Hold | Size::Fill | Size::Pairs => (6, " reuseport"),
    };
    let servers = nginx_servers(origins);
    format!(
        "load_module {NGINX_STREAM};
daemon off;
user root;
worker_processes {workers};
worker_rlimit_nofile 20000;
pid {}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 19900; }}
stream {{
    upstream back {{{servers}}}
    server {{
        listen {listen}{shared} backlog=65535;
        proxy_pass back;
        proxy_connect_timeout 10s;
        proxy_timeout 1h;
    }}
}}
",
        folder.display()
    )
}

fn haproxy_config(listen: SocketAddr, origins: &[SocketAddr]) -> String {
    format!(
        "global
    nbthread 1
    maxconn 9900
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
frontend front
    bind {listen} backlog 65535
    maxconn 9900
    default_backend back
backend back
{}",
        haproxy_servers(origins)
    )
}

fn nginx_servers(origins: &[SocketAddr]) -> String {
    origins.iter().map(|origin| format!(" server {origin};")).collect()
}

fn haproxy_servers(origins: &[SocketAddr]) -> String {
    origins.iter().enumerate().map(|(index, origin)| format!("    server origin{index} {origin}\n")).collect()
}

fn envoy_config((protocol, size): (Protocol, Size), listen: SocketAddr, origins: &[SocketAddr]) -> String {
    let socket = |address: SocketAddr| json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } });
    let limit = json!({ "max_connections": 1_000_000, "max_pending_requests": 1_000_000, "max_requests": 1_000_000, "max_retries": 1_000_000 });
    let filter = match protocol {
        Protocol::Tcp => json!({
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": "front", "cluster": "back"
            }
        }),
        Protocol::Http => http::envoy_filter(size),
    };
    let endpoint = |origin: &SocketAddr| json!({ "endpoint": { "address": socket(*origin) } });
    let endpoints: Vec<_> = origins.iter().map(endpoint).collect();
    json!({ "static_resources": {
        "listeners": [{
            "name": "front",
            "address": socket(listen),
            "tcp_backlog_size": 65535,
            "filter_chains": [{ "filters": [filter] }]
        }],
        "clusters": [{
            "name": "back",
            "type": "STATIC",
            "connect_timeout": "10s",
            "circuit_breakers": { "thresholds": [limit] },
            "load_assignment": { "cluster_name": "back", "endpoints": [{ "lb_endpoints": endpoints }] }
        }]
    } })
    .to_string()
}
