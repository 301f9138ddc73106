//! `fourfold origin --mode http` and `fourfold load` as programs: what they have counted is read, not believed.

use super::lab::{eventually, free_port};
use super::program::{BINARY, Engine, Program, die_with_parent};
use serde_json::Value;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

/// Enough for a test that does not say how many it needs.
const ORIGIN_CONNECTIONS: u64 = 5_000;

/// A running origin.
pub struct HttpOrigin {
    pub program: Program,
    pub address: SocketAddr,
}

impl HttpOrigin {
    pub fn start(engine: Engine, more: &[&str]) -> Self {
        Self::at(free_port(IpAddr::V4(Ipv4Addr::LOCALHOST)), engine, more)
    }

    pub fn at(address: SocketAddr, engine: Engine, more: &[&str]) -> Self {
        Self::spawn(address, engine, ORIGIN_CONNECTIONS, more)
    }

    pub fn holding(connections: u64, engine: Engine) -> Self {
        Self::spawn(free_port(IpAddr::V4(Ipv4Addr::LOCALHOST)), engine, connections, &[])
    }

    fn spawn(address: SocketAddr, engine: Engine, connections: u64, more: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command.args(["origin", "--mode", "http", "--engine", engine.name()]);
        command.args(["--max-connections", &connections.to_string()]);
        command.args(["--listen", &address.to_string()]).args(more);
        let program = Program::spawn(command, address);
        eventually("the origin listens", || program.log().contains("listening on").then_some(()));
        Self { program, address }
    }

    /// What it has counted, asked for by SIGUSR1.
    pub fn counts(&self) -> HashMap<String, u64> {
        let before = self.program.log().lines().count();
        self.program.signal(libc::SIGUSR1);
        let line = eventually("the origin's counters", || {
            let log = self.program.log();
            log.lines().skip(before).find(|line| line.contains("accepted=")).map(str::to_owned)
        });
        let pair = |word: &str| {
            let (name, value) = word.split_once('=')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        line.split(' ').filter_map(pair).collect()
    }

    pub fn count(&self, name: &str) -> u64 {
        self.counts().get(name).copied().unwrap_or_else(|| panic!("the origin does not count {name}"))
    }
}

/// `fourfold load`, until it ends by itself or is told to stop.
pub struct Load(Child);

impl Load {
    pub fn start(kind: &str, engine: Engine, target: SocketAddr, more: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command.args(["load", kind, &target.to_string(), "--json", "--engine", engine.name()]).args(more);
        die_with_parent(&mut command);
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Its report, once it has closed all connections.
    pub fn stop(self) -> Value {
        // SAFETY: no pointers; the child has not been waited for.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        self.report()
    }

    /// Its report, once it has ended by itself.
    pub fn report(self) -> Value {
        let output = self.0.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
    }
}
