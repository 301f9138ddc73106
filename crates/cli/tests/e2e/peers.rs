//! Programs that we did not write, at both ends: curl as a client, nginx as an origin, HAProxy between us and it.

use crate::common::lab::{eventually, free_port};
use crate::common::program::{Scratch, die_with_parent};
use crate::common::{Config, Engine, Lab, Program};
use crate::on_both_engines;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

on_both_engines!(curl_gets_files_from_nginx_past_a_haproxy_that_dies);

const FILE_BYTES: usize = 8 << 20;
const DOWNLOADS: usize = 8;

fn curl_gets_files_from_nginx_past_a_haproxy_that_dies(engine: Engine) {
    if let Some(missing) = ["nginx", "haproxy", "curl"].iter().find(|name| !installed(name)) {
        eprintln!("skipped: {missing} is not installed (apt-get install {missing})");
        return;
    }
    let _lab = Lab::new();
    let folder = Folder::new("peers");
    let content: Vec<u8> =
        (0..FILE_BYTES as u32).flat_map(|n| n.wrapping_mul(0x9E37_79B9).to_le_bytes()).collect();
    let content = &content[..FILE_BYTES];
    fs::write(folder.0.join("file"), content).unwrap();

    let (nginx, haproxy) = (loopback(), loopback());
    let _nginx = Peer::start("nginx", nginx, &["-e", "stderr", "-c"], &nginx_config(&folder.0, nginx));
    let mut middle = Peer::start("haproxy", haproxy, &["-db", "-f"], &haproxy_config(haproxy, nginx));
    let program = Program::run(&Config::to(engine, &[nginx, haproxy]).pool("balance = \"round-robin\""));

    for _ in 0..DOWNLOADS {
        assert!(curl(program.address) == content, "a download differs");
    }
    middle.kill();
    for _ in 0..DOWNLOADS {
        assert!(curl(program.address) == content, "a download differs once HAProxy is gone");
    }
    program.stop();
}

fn curl(address: SocketAddr) -> Vec<u8> {
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "60",
        &format!("http://{address}/file"),
    ]);
    die_with_parent(&mut command);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

pub fn loopback() -> SocketAddr {
    free_port(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

pub fn installed(name: &str) -> bool {
    let usual = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
    usual.iter().any(|folder| Path::new(folder).join(name).exists())
}

fn nginx_config(root: &Path, listen: SocketAddr) -> String {
    let root = root.display();
    format!(
        "daemon off; user root; worker_processes 1; pid {root}/pid; error_log stderr crit;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {root}/a; proxy_temp_path {root}/b; fastcgi_temp_path {root}/c; uwsgi_temp_path {root}/d; scgi_temp_path {root}/e;
  server {{ listen {listen}; root {root}; }}
}}
"
    )
}

fn haproxy_config(listen: SocketAddr, to: SocketAddr) -> String {
    format!(
        "defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen all
    bind {listen}
    server origin {to}
"
    )
}

/// A folder below the target directory that is gone afterwards.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A program with a configuration file as its last argument, killed when dropped.
pub struct Peer {
    child: Child,
    _config: Scratch,
}

impl Peer {
    pub fn start(name: &str, address: SocketAddr, args: &[&str], config: &str) -> Self {
        Self::start_at(Path::new(name), address, args, Scratch::new(name, config.as_bytes()))
    }

    pub fn start_at(program: &Path, address: SocketAddr, args: &[&str], config: Scratch) -> Self {
        let name = program.display();
        let mut command = Command::new(program);
        command.args(args).arg(&config.0).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        die_with_parent(&mut command);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name}: {error}"));
        eventually(&format!("{name} listens"), || TcpStream::connect(address).ok().map(drop));
        Self { child, _config: config }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // nginx ends its worker on SIGTERM; the worker would survive its master's SIGKILL.
        if matches!(self.child.try_wait(), Ok(None)) {
            // SAFETY: no pointers; the child has not been waited for.
            unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
            let _ = self.child.wait();
        }
    }
}
