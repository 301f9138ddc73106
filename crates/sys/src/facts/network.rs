//! What belongs to a network namespace, and the way to the first one.

use super::read;
use crate::errno::check;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

const OWN: &str = "/proc/thread-self/ns/net";
/// Settings of the whole machine are shown in the first network namespace only (net/ipv4/sysctl_net_ipv4.c, ipv4_table).
const SHOWN_IN_FIRST: &str = "/proc/sys/net/ipv4/tcp_mem";

/// Whether this is the machine's first network namespace.
pub fn is_first() -> bool {
    fs::metadata(SHOWN_IN_FIRST).is_ok()
}

/// Which network namespace this is.
pub fn own_id() -> Result<u64, String> {
    fs::metadata(OWN).map(|meta| meta.ino()).map_err(|error| format!("{OWN}: {error}"))
}

/// Runs `work` on a thread of its own in the first network namespace.
pub fn in_first<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let there = move || match is_first() || enter_first() {
        true => Ok(work()),
        false => Err(
            "it is shown in the machine's first network namespace only, which cannot be entered from here",
        ),
    };
    let joined = std::thread::spawn(there).join().map_err(|_| "the thread panicked".to_owned())?;
    joined.map_err(str::to_owned)
}

/// Process 1 is in the first network namespace, unless this is a container with processes of its own; it may be out of reach where
/// one that started us is not.
fn enter_first() -> bool {
    let parent = |pid: &u32| parent_of(*pid).filter(|parent| *parent > 0);
    let ancestors = std::iter::successors(Some(std::process::id()), parent);
    std::iter::once(1).chain(ancestors).any(|pid| enter(pid) && is_first())
}

fn enter(pid: u32) -> bool {
    let Ok(handle) = File::open(format!("/proc/{pid}/ns/net")) else { return false };
    // SAFETY: no pointers; it concerns the calling thread, which ends with its work.
    check(unsafe { libc::setns(handle.as_raw_fd(), libc::CLONE_NEWNET) }).is_ok()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may hold anything, brackets included.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// TcpExt counters since the namespace began.
pub fn counters() -> Result<BTreeMap<String, u64>, String> {
    let text = read("/proc/thread-self/net/netstat")?;
    let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("TcpExt: ")).collect();
    let [names, values] = *lines.as_slice() else { return Err("/proc/net/netstat: no TcpExt".into()) };
    let pairs = names.split(' ').zip(values.split(' '));
    Ok(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
}

/// Pages of TCP's queues on the whole machine, orphans, and sockets in TIME_WAIT.
pub fn sockets() -> Result<(u64, u64, u64), String> {
    let text = read("/proc/thread-self/net/sockstat")?;
    let line =
        text.lines().find_map(|line| line.strip_prefix("TCP: ")).ok_or("/proc/net/sockstat: no TCP")?;
    let words: Vec<&str> = line.split(' ').collect();
    let field = |name: &str| {
        let pair = words.chunks_exact(2).find(|pair| pair.first() == Some(&name));
        pair.and_then(|pair| pair.get(1)?.parse().ok()).unwrap_or(0)
    };
    Ok((field("mem"), field("orphan"), field("tw")))
}

/// Flows that connection tracking knows in this namespace.
pub fn tracked() -> Result<u64, String> {
    super::number_in("/proc/sys/net/netfilter/nf_conntrack_count")
}

/// Entries of the IPv4 neighbour table.
pub fn neighbours() -> Result<u64, String> {
    Ok(read("/proc/thread-self/net/arp")?.lines().skip(1).count() as u64)
}

/// Name, receive queues, and whether some of them spread over processors.
pub fn interfaces() -> Result<Vec<(String, u64, bool)>, String> {
    let text = read("/proc/thread-self/net/dev")?;
    let names = text.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    let names =
        names.filter(|name| read(&format!("/sys/class/net/{name}/operstate")).is_ok_and(|is| is != "down"));
    Ok(names.filter_map(|name| queues(&name).map(|(queues, rps)| (name, queues, rps))).collect())
}

fn queues(name: &str) -> Option<(u64, bool)> {
    let folder = fs::read_dir(format!("/sys/class/net/{name}/queues")).ok()?;
    let paths = folder.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-"));
    let spread = |path: std::path::PathBuf| {
        let mask = fs::read_to_string(path.join("rps_cpus")).unwrap_or_default();
        mask.chars().any(|c| c.is_ascii_hexdigit() && c != '0')
    };
    let queues: Vec<bool> = paths.map(|entry| spread(entry.path())).collect();
    Some((queues.len() as u64, queues.iter().any(|on| *on)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn settings_of_the_machine_are_read_from_another_network() {
        let here = super::super::setting("net.ipv4.tcp_mem");
        let elsewhere = std::thread::spawn(|| {
            // SAFETY: no pointers; it concerns this thread only.
            super::check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map_err(|errno| errno.to_string())?;
            assert!(!super::is_first());
            super::super::setting("net.ipv4.tcp_mem")
        });
        match elsewhere.join().unwrap() {
            Ok(value) => assert_eq!(Ok(value), here),
            Err(why) => eprintln!("not in another network here: {why}"),
        }
    }

    #[test]
    fn this_network_is_known() {
        assert!(super::own_id().unwrap() > 0);
        assert!(super::counters().unwrap().contains_key("ListenOverflows"));
        super::sockets().unwrap();
        super::interfaces().unwrap();
    }
}
