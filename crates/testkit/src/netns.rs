//! Network namespaces: a small network of our own, in which ports, addresses and lost packets disturb nobody.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use fourfold_testkit::Netns;
//! let (proxy, origin) = (Netns::new("proxy")?, Netns::new("origin")?);
//! proxy.link(&origin, "10.77.0.1/24", "10.77.0.2/24")?;
//! origin.nft("add table inet t; add chain inet t in { type filter hook input priority 0; }")?;
//! let mut command = proxy.command("fourfold");
//! # Ok(()) }
//! ```

use anyhow::{Context, Result, anyhow, bail, ensure};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

static NEXT: AtomicU32 = AtomicU32::new(0);

fn unique() -> u32 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A namespace with its loopback up. Deleted on drop; what still runs in it keeps it alive nameless until it ends.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Needs root. `label` shows up in `ip netns`, made unique by our process id and a number.
    pub fn new(label: &str) -> Result<Netns> {
        let netns = Netns { name: format!("ff-{label}-{}-{}", std::process::id(), unique()) };
        ip(&["netns", "add", &netns.name])?;
        ip(&["-n", &netns.name, "link", "set", "lo", "up"])?;
        Ok(netns)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Joins two namespaces by a veth pair and gives each end its address (`ip/len`). Returns the names of the ends,
    /// ours first.
    pub fn link(&self, other: &Netns, ours: &str, theirs: &str) -> Result<(String, String)> {
        // Interface names have at most 15 bytes.
        let number = unique();
        let (one, two) = (format!("ve{number}a"), format!("ve{number}b"));
        ip(&[
            "link",
            "add",
            &one,
            "netns",
            &self.name,
            "type",
            "veth",
            "peer",
            "name",
            &two,
            "netns",
            &other.name,
        ])?;
        self.address(&one, ours)?;
        other.address(&two, theirs)?;
        ip(&["-n", &self.name, "link", "set", &one, "up"])?;
        ip(&["-n", &other.name, "link", "set", &two, "up"])?;
        Ok((one, two))
    }

    /// As [`Netns::link`], to the network that the calling thread is in, whose end comes first.
    pub fn link_here(&self, here: &str, there: &str) -> Result<(String, String)> {
        let number = unique();
        let (one, two) = (format!("ve{number}a"), format!("ve{number}b"));
        ip(&["link", "add", &one, "type", "veth", "peer", "name", &two, "netns", &self.name])?;
        ip(&["addr", "add", here, "dev", &one])?;
        self.address(&two, there)?;
        ip(&["link", "set", &one, "up"])?;
        ip(&["-n", &self.name, "link", "set", &two, "up"])?;
        Ok((one, two))
    }

    /// Adds an address, usable at once: duplicate address detection would hold an IPv6 one back for a second.
    pub fn address(&self, device: &str, cidr: &str) -> Result<()> {
        let mut arguments = vec!["-n", &self.name, "addr", "add", cidr, "dev", device];
        if cidr.contains(':') {
            arguments.push("nodad");
        }
        ip(&arguments)
    }

    pub fn remove_address(&self, device: &str, cidr: &str) -> Result<()> {
        ip(&["-n", &self.name, "addr", "del", cidr, "dev", device])
    }

    /// Sets `/proc/sys/<key>` as this namespace sees it, `net/ipv4/ip_local_port_range` say.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let file = format!("/proc/sys/{key}");
        let value = value.to_string();
        self.within(move || std::fs::write(&file, value).with_context(|| file.clone()))?
    }

    /// Loads nftables rules.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.run("nft", &[rules]).map(drop)
    }

    /// A command that will run inside. The program keeps its process id: `ip netns exec` replaces itself.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a program to its end and returns what it printed; fails with what it complained about.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        succeed(self.command(program).args(arguments))
    }

    /// Runs `work` on a thread of its own inside: sockets that it opens belong to this namespace wherever they go.
    pub fn within<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let handle = File::open(format!("/run/netns/{}", self.name)).context("namespace handle")?;
        let thread = std::thread::spawn(move || {
            // SAFETY: setns changes the calling thread only, which is ours and ends with `work`.
            let entered = unsafe { libc::setns(handle.as_raw_fd(), libc::CLONE_NEWNET) };
            if entered != 0 {
                return Err(std::io::Error::last_os_error()).context("setns");
            }
            Ok(work())
        });
        thread.join().map_err(|_| anyhow!("the thread inside {} panicked", self.name))?
    }
}

/// The calling thread, and the programs that it starts from now on, in an empty network with a loopback device, whose table of
/// connections has so many chains of its own. After an error it is where it was.
pub fn enter_own_network(chains: u64) -> Result<()> {
    let before = File::open("/proc/thread-self/ns/net").context("/proc/thread-self/ns/net")?;
    let entered = make_own_network(chains);
    if entered.is_err() {
        // SAFETY: a descriptor of ours, and no pointers; concerns the calling thread only.
        let back = unsafe { libc::setns(before.as_raw_fd(), libc::CLONE_NEWNET) };
        ensure!(
            back == 0 || here()? == before.metadata()?.ino(),
            "there is no way back to the machine's network"
        );
    }
    entered
}

fn here() -> Result<u64> {
    Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino())
}

fn make_own_network(chains: u64) -> Result<()> {
    // What a namespace says of its children does not concern the machine's own.
    leave_network()?;
    std::fs::write("/proc/sys/net/ipv4/tcp_child_ehash_entries", chains.to_string())
        .context("net.ipv4.tcp_child_ehash_entries (Linux 6.1)")?;
    leave_network()?;
    ip(&["link", "set", "lo", "up"])
}

fn leave_network() -> Result<()> {
    // SAFETY: no pointers; concerns the calling thread only.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).context("a network namespace"),
    }
}

/// A test's turn, and a network of its own: for tests that would be in each other's way, or in that of what other tests left in
/// TIME_WAIT.
pub struct Alone {
    _turn: MutexGuard<'static, ()>,
}

impl Alone {
    /// The calling thread, and the threads and programs that it starts from now on, are alone in an empty network with a
    /// loopback device. Without the privilege for that they stay where they are.
    pub fn new() -> Alone {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: no pointers; concerns the calling thread only.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 || ip(&["link", "set", "lo", "up"]).is_err() {
            eprintln!("in the machine's own network: another needs CAP_SYS_ADMIN and `ip`");
        }
        Alone { _turn: turn }
    }
}

impl Default for Alone {
    fn default() -> Alone {
        Alone::new()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    succeed(Command::new("ip").args(arguments)).map(drop)
}

fn succeed(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Behaviour, Client, Need, Origin, skip};
    use std::time::Duration;

    #[test]
    fn two_namespaces_talk_and_are_gone_afterwards() {
        if skip(&[Need::Namespaces]) {
            return;
        }
        let (here, there) = (Netns::new("a").unwrap(), Netns::new("b").unwrap());
        here.link(&there, "10.77.0.1/24", "10.77.0.2/24").unwrap();
        let origin = there.within(|| Origin::on("10.77.0.2:0", Behaviour::Echo)).unwrap().unwrap();
        let address = origin.address();
        let echoed = here
            .within(move || Client::connect(address, Duration::from_secs(60))?.round_trip(b"token"))
            .unwrap()
            .unwrap();
        assert_eq!(echoed, b"token");
        there.sysctl("net/ipv4/ip_local_port_range", "40000 40009").unwrap();
        let range = there.run("cat", &["/proc/sys/net/ipv4/ip_local_port_range"]).unwrap();
        assert_eq!(range.split_whitespace().collect::<Vec<_>>(), ["40000", "40009"]);
        let name = here.name().to_string();
        drop(here);
        assert!(!std::path::Path::new("/run/netns").join(name).exists());
    }
}
