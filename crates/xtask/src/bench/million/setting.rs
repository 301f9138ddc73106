//! What is asked for, whether this machine can do it, and the three programs' command lines.

use super::{memory_left, program};
use crate::bench::machine;
use crate::bench::{Flags, results::Protocol};
use anyhow::{Context, Result, bail};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A connection through the proxy is four sockets here: the client's, two of the proxy, the origin's.
pub const SOCKETS: u64 = 4;
/// What those take at most, with what the three programs have for them; measured 15 to 17.5 KB.
const CONNECTION_BYTES_MAX: u64 = 18_500;
/// What is left to everything else.
pub const MEMORY_FLOOR_BYTES: u64 = 768 << 20;
const DESCRIPTORS: u64 = 20_000;
/// Of a source's ports towards one address, the part that is planned with.
const FILL_PERCENT: u64 = 90;
/// Chains of the table of connections, of which every packet walks one: the machine's default is for fewer sockets.
const CHAINS: u64 = 1 << 22;
/// One in so many is verified again every second.
const VERIFY_SHARE: u64 = 100;
/// include/uapi/linux/capability.h.
const CAP_SYS_ADMIN: u32 = 21;

pub struct Setting {
    pub connections: u64,
    pub protocol: Protocol,
    pub engine: String,
    pub hold: String,
    pub descriptors: u64,
    pub pending: u64,
    fourfold: PathBuf,
    is_built: bool,
    sources: u64,
}

impl Setting {
    pub fn from_flags(flags: &Flags) -> Result<Setting> {
        let protocol = if flags.has("ws") { Protocol::Http } else { Protocol::Tcp };
        let default = if flags.has("ws") { 500_000 } else { 1_000_000 };
        let connections: u64 = flags.get("connections")?.unwrap_or(default);
        if connections == 0 {
            bail!("--connections: at least one");
        }
        let each = machine::local_ports()? as u64 * FILL_PERCENT / 100;
        let sources = connections.div_ceil(each.max(1));
        if sources > 65_000 {
            bail!("net.ipv4.ip_local_port_range is too narrow for {connections} connections");
        }
        Ok(Setting {
            connections,
            protocol,
            engine: flags.text("engine").unwrap_or("uring").into(),
            hold: flags.text("hold").unwrap_or("60s").into(),
            descriptors: flags.get("descriptors")?.unwrap_or(DESCRIPTORS),
            pending: flags.get("pending")?.unwrap_or(2_048),
            is_built: flags.text("fourfold").is_some(),
            fourfold: flags.text("fourfold").map_or_else(program, PathBuf::from),
            sources,
        })
    }

    /// A network of their own, so that neither the machine's connections nor its settings are in the way.
    pub fn enter_network(&self) -> Option<u64> {
        match fourfold_testkit::netns::enter_own_network(CHAINS) {
            Ok(()) => Some(CHAINS),
            Err(error) => {
                println!("in the machine's own network: {error:#}");
                None
            }
        }
    }

    /// Refuses what would end in the middle, or take the machine with it.
    pub fn check_machine(&self) -> Result<()> {
        let needed = self.connections * CONNECTION_BYTES_MAX + MEMORY_FLOOR_BYTES;
        let left = memory_left()?;
        if left < needed {
            let fit = left.saturating_sub(MEMORY_FLOOR_BYTES) / CONNECTION_BYTES_MAX;
            bail!(
                "{} connections are {} sockets on this machine, of up to {} bytes each with everything that belongs to them: {} MB, \
                 and {} MB are to stay free; there are {} MB, enough for {fit} connections",
                self.connections,
                self.connections * SOCKETS,
                CONNECTION_BYTES_MAX / SOCKETS,
                self.connections * CONNECTION_BYTES_MAX / 1_000_000,
                MEMORY_FLOOR_BYTES / 1_000_000,
                left / 1_000_000,
            );
        }
        let hard = fourfold_testkit::poll::descriptor_limits()?.1;
        if hard < self.descriptors {
            bail!("a hard limit of {} descriptors cannot be set: it is {hard} here", self.descriptors);
        }
        self.check_files()
    }

    /// fs/file_table.c, `alloc_empty_file`: above `file-max` only CAP_SYS_ADMIN opens files.
    fn check_files(&self) -> Result<()> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| path.to_string());
        let files_max: u64 = read("/proc/sys/fs/file-max")?.trim().parse()?;
        let status = read("/proc/self/status")?;
        let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
        let exempt = u64::from_str_radix(capabilities.trim(), 16).unwrap_or(0) & 1 << CAP_SYS_ADMIN != 0;
        let needed = self.connections * SOCKETS + 10_000;
        if files_max < needed && !exempt {
            bail!(
                "fs.file-max is {files_max}, and {needed} files are needed: sysctl -w fs.file-max={needed}"
            );
        }
        Ok(())
    }

    pub fn build(&self) -> Result<()> {
        if self.is_built {
            return Ok(());
        }
        let mut command = Command::new("cargo");
        command.args(["build", "--quiet", "--release", "--package", "fourfold"]);
        let status = command.current_dir(crate::workspace::root()).stdin(Stdio::null()).status()?;
        if !status.success() {
            bail!("cargo build --release: {status}");
        }
        Ok(())
    }

    /// Fourfold under the limit of descriptors, soft and hard.
    fn fourfold(&self) -> Command {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={0}:{0}", self.descriptors)).arg(&self.fourfold);
        command
    }

    pub fn program(&self) -> &Path {
        &self.fourfold
    }

    pub fn is_websocket(&self) -> bool {
        self.protocol == Protocol::Http
    }

    /// Loopback addresses of their own for the proxy and for the client.
    fn sources(&self, second: u8) -> String {
        let last = self.sources + 1;
        format!("127.{second}.0.2-127.{second}.{}.{}", last >> 8, last & 0xff)
    }

    pub fn origin(&self, listen: SocketAddr) -> Command {
        let mut command = self.fourfold();
        command.args(["origin", "--listen", &listen.to_string(), "--engine", &self.engine]);
        command.args(["--mode", if self.is_websocket() { "http" } else { "echo" }]);
        command.args(["--max-connections", &self.connections.to_string()]);
        command
    }

    pub fn proxy(&self, listen: SocketAddr, origin: SocketAddr) -> Command {
        let mut command = self.fourfold();
        command.args(["run", "--engine", &self.engine]);
        self.describe(&mut command, listen, origin);
        command
    }

    fn describe(&self, command: &mut Command, listen: SocketAddr, origin: SocketAddr) {
        command.args(["--listen", &listen.to_string(), "--to", &origin.to_string()]);
        command.args(["--mode", self.protocol.name(), "--source", &self.sources(1)]);
        command.args(["--max-connections", &self.connections.to_string()]);
    }

    pub fn load(&self, proxy: SocketAddr) -> Command {
        let mut command = self.fourfold();
        let (connections, verify) = (self.connections.to_string(), self.verify_rate().to_string());
        match self.is_websocket() {
            true => command.args(["load", "ws", &format!("ws://{proxy}/ws")]),
            false => command.args(["load", "tcp", &proxy.to_string(), "--reset"]),
        };
        command.args(["--connections", &connections, "--engine", &self.engine, "--source", &self.sources(2)]);
        command.args(["--verify-all", "--verify", &verify, "--duration", &self.hold]);
        command.args(["--pending", &self.pending.to_string(), "--timeout", "60s"]);
        command.args(["--progress", super::PROGRESS, "--json"]);
        command
    }

    pub fn verify_rate(&self) -> u64 {
        (self.connections / VERIFY_SHARE).max(1)
    }

    /// What `fourfold plan` says that the machine needs; `None`: it does not say.
    pub fn plan(&self, listen: SocketAddr, origin: SocketAddr) -> Option<u64> {
        let mut command = self.fourfold();
        command.args(["plan", "--engine", &self.engine]);
        self.describe(&mut command, listen, origin);
        let output = command.arg("--json").stdin(Stdio::null()).output().ok()?;
        let plan: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        let memory = plan["needs"].as_array()?.iter().find(|need| need["what"] == "memory")?;
        memory["needed"].as_u64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(words: &[&str]) -> Result<Setting> {
        Setting::from_flags(&Flags::parse(words)?)
    }

    #[test]
    fn a_million_has_sources_of_its_own_for_each_side() {
        let million = setting(&[]).unwrap();
        assert_eq!((million.connections, million.verify_rate()), (1_000_000, 10_000));
        assert!(million.sources * machine::local_ports().unwrap() as u64 > 1_000_000);
        assert_ne!(million.sources(1), million.sources(2));
        let many = Setting { sources: 300, ..million };
        assert_eq!(many.sources(1), "127.1.0.2-127.1.1.45");
        assert_eq!(setting(&["--ws"]).unwrap().connections, 500_000);
        assert!(setting(&["--connections", "0"]).is_err());
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_arithmetic() {
        let error =
            setting(&["--connections", "1000000000"]).unwrap().check_machine().unwrap_err().to_string();
        assert!(error.contains("4000000000 sockets") && error.contains("enough for"), "{error}");
    }
}
