//! What the kernel counts: CPU, memory, descriptors, sockets. Everything is read from `/proc`.

use anyhow::{Context, Result, bail};
use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Sub;

/// `/proc/stat`, the whole machine, in ticks ([`ticks_per_second`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTicks {
    pub user: u64,
    pub nice: u64,
    pub system: u64,
    pub idle: u64,
    pub iowait: u64,
    pub irq: u64,
    pub softirq: u64,
    pub steal: u64,
}

impl CpuTicks {
    /// Ticks in which a CPU of ours did something. Stolen ones were somebody else's.
    pub fn busy(&self) -> u64 {
        self.user + self.nice + self.system + self.irq + self.softirq
    }

    pub fn busy_seconds(&self) -> f64 {
        self.busy() as f64 / ticks_per_second()
    }

    fn parse(text: &str) -> Option<CpuTicks> {
        let line = text.lines().find(|line| line.starts_with("cpu "))?;
        let mut fields = line.split_whitespace().skip(1).map(|field| field.parse().ok());
        let mut next = || fields.next().flatten();
        Some(CpuTicks {
            user: next()?,
            nice: next()?,
            system: next()?,
            idle: next()?,
            iowait: next()?,
            irq: next()?,
            softirq: next()?,
            steal: next()?,
        })
    }
}

impl Sub for CpuTicks {
    type Output = CpuTicks;

    fn sub(self, earlier: CpuTicks) -> CpuTicks {
        CpuTicks {
            user: self.user.saturating_sub(earlier.user),
            nice: self.nice.saturating_sub(earlier.nice),
            system: self.system.saturating_sub(earlier.system),
            idle: self.idle.saturating_sub(earlier.idle),
            iowait: self.iowait.saturating_sub(earlier.iowait),
            irq: self.irq.saturating_sub(earlier.irq),
            softirq: self.softirq.saturating_sub(earlier.softirq),
            steal: self.steal.saturating_sub(earlier.steal),
        }
    }
}

pub fn cpu_ticks() -> Result<CpuTicks> {
    CpuTicks::parse(&fs::read_to_string("/proc/stat")?).context("/proc/stat has no line `cpu`")
}

pub fn ticks_per_second() -> f64 {
    // SAFETY: sysconf has no obligations.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) as f64 }
}

/// CPU time of a process in nanoseconds, all threads that still live. Finer than ticks, but work that the kernel does in
/// threads of its own is not in it.
pub fn process_cpu_ns(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))? {
        let text = fs::read_to_string(entry?.path().join("schedstat")).unwrap_or_default();
        sum += text.split_whitespace().next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// CPU time of a process in seconds, threads that have ended included, as coarse as ticks: one read however many threads.
pub fn process_cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    // The name in parentheses may itself contain spaces and parentheses; user and system time are fields 14 and 15.
    let (_, rest) = stat.rsplit_once(") ").context("/proc/pid/stat")?;
    let ticks = rest.split(' ').skip(11).take(2).map(str::parse::<u64>);
    Ok(ticks.sum::<Result<u64, _>>()? as f64 / ticks_per_second())
}

/// What a process has in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessMemory {
    pub resident: u64,
    /// A page that several processes share counts in part.
    pub proportional: u64,
    /// Pages of its own.
    pub private: u64,
}

pub fn process_memory(pid: u32) -> Result<ProcessMemory> {
    let text =
        fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).with_context(|| format!("process {pid}"))?;
    let get = |key: &str| kilobytes(&text, key).with_context(|| format!("no {key} for {pid}"));
    Ok(ProcessMemory {
        resident: get("Rss:")?,
        proportional: get("Pss:")?,
        private: get("Private_Clean:")? + get("Private_Dirty:")?,
    })
}

/// `/proc/meminfo`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MachineMemory {
    pub total: u64,
    pub free: u64,
    pub available: u64,
    /// Buffers and cached files, which make room for others, without memory that is shared.
    pub cache: u64,
    pub slab: u64,
    pub kernel_stack: u64,
    pub page_tables: u64,
}

impl MachineMemory {
    /// What cannot be had by dropping cached files. `MemAvailable` also counts on half of the slabs that the kernel calls
    /// reclaimable, and the inodes of open sockets are among them, which nothing reclaims.
    pub fn used(&self) -> u64 {
        self.total - self.free - self.cache
    }
}

pub fn machine_memory() -> Result<MachineMemory> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let get = |key: &str| kilobytes(&text, key).with_context(|| format!("no {key} in /proc/meminfo"));
    Ok(MachineMemory {
        total: get("MemTotal:")?,
        free: get("MemFree:")?,
        available: get("MemAvailable:")?,
        cache: (get("Buffers:")? + get("Cached:")?).saturating_sub(get("Shmem:")?),
        slab: get("Slab:")?,
        kernel_stack: get("KernelStack:")?,
        page_tables: get("PageTables:")?,
    })
}

/// A line `key  123 kB`, in bytes.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

/// The process and everything below it.
pub fn process_tree(pid: u32) -> Result<Vec<u32>> {
    let mut parents: Vec<(u32, u32)> = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(child) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(parent) = parent_of(child) {
            parents.push((child, parent));
        }
    }
    let mut tree = vec![pid];
    let mut next = 0;
    while let Some(&parent) = tree.get(next) {
        tree.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        next += 1;
    }
    Ok(tree)
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may itself contain spaces and parentheses.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Resident memory, shared pages included.
pub fn rss_bytes(pid: u32) -> Result<u64> {
    status_bytes(pid, "VmRSS:")
}

/// Resident memory that is not backed by a file.
pub fn rss_anon_bytes(pid: u32) -> Result<u64> {
    status_bytes(pid, "RssAnon:")
}

fn status_bytes(pid: u32, key: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    kilobytes(&text, key).with_context(|| format!("no {key} for {pid}"))
}

/// Open descriptors of a process. A thread may have a table of its own (`unshare(CLONE_FILES)`): every table is counted once.
pub fn open_descriptors(pid: u32) -> Result<usize> {
    Ok(descriptor_tables(pid)?.into_iter().map(|(_, open)| open).sum())
}

/// One thread of every descriptor table, and how many descriptors are open in it.
pub fn descriptor_tables(pid: u32) -> Result<Vec<(u32, usize)>> {
    let mut tables: Vec<(u32, usize)> = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))? {
        let Some(thread) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if tables.iter().any(|(known, _)| same_table(*known, thread)) {
            continue;
        }
        // A thread that has just ended has no table to count.
        if let Ok(listing) = fs::read_dir(format!("/proc/{pid}/task/{thread}/fd")) {
            tables.push((thread, listing.count()));
        }
    }
    Ok(tables)
}

fn same_table(one: u32, other: u32) -> bool {
    const KCMP_FILES: libc::c_int = 2;
    // SAFETY: kcmp takes integers only.
    unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_FILES, 0, 0) == 0 }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TcpState {
    Established,
    SynSent,
    SynRecv,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
}

impl TcpState {
    fn from_hex(text: &str) -> Option<TcpState> {
        Some(match text {
            "01" => TcpState::Established,
            "02" => TcpState::SynSent,
            "03" | "0C" => TcpState::SynRecv,
            "04" => TcpState::FinWait1,
            "05" => TcpState::FinWait2,
            "06" => TcpState::TimeWait,
            "07" => TcpState::Close,
            "08" => TcpState::CloseWait,
            "09" => TcpState::LastAck,
            "0A" => TcpState::Listen,
            "0B" => TcpState::Closing,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub state: TcpState,
}

/// TCP sockets of our network namespace that `wanted` accepts. Slow with hundreds of thousands: the kernel writes them all.
pub fn count_sockets(mut wanted: impl FnMut(&Socket) -> bool) -> Result<usize> {
    Ok(sockets()?.iter().filter(|socket| wanted(socket)).count())
}

pub fn sockets() -> Result<Vec<Socket>> {
    let mut found = Vec::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        // Without IPv6 there is no second file.
        let text = fs::read_to_string(file).unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(parse_socket));
    }
    Ok(found)
}

fn parse_socket(line: &str) -> Option<Socket> {
    let mut fields = line.split_whitespace().skip(1);
    Some(Socket {
        local: parse_endpoint(fields.next()?)?,
        remote: parse_endpoint(fields.next()?)?,
        state: TcpState::from_hex(fields.next()?)?,
    })
}

/// `0100007F:1F90`: words of the address in the machine's byte order, the port as a number.
fn parse_endpoint(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let bytes = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// `/proc/net/sockstat`: what the kernel holds in all, cheap at any number of sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SockStat {
    pub tcp_in_use: u64,
    pub tcp_time_wait: u64,
    pub tcp_orphan: u64,
    /// Pages that TCP has for what is queued.
    pub tcp_pages: u64,
}

pub fn sock_stat() -> Result<SockStat> {
    let text = fs::read_to_string("/proc/net/sockstat")?;
    let Some(line) = text.lines().find_map(|line| line.strip_prefix("TCP: ")) else {
        bail!("no TCP in sockstat")
    };
    let words: Vec<&str> = line.split_whitespace().collect();
    let fields: HashMap<&str, u64> =
        words.chunks_exact(2).filter_map(|pair| Some((pair[0], pair[1].parse().ok()?))).collect();
    let get = |key: &str| fields.get(key).copied().unwrap_or(0);
    Ok(SockStat {
        tcp_in_use: get("inuse"),
        tcp_time_wait: get("tw"),
        tcp_orphan: get("orphan"),
        tcp_pages: get("mem"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_is_seen_from_both_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (local, remote) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let ends = [(local, remote), (remote, local)];
        let seen = count_sockets(|socket| {
            socket.state == TcpState::Established && ends.contains(&(socket.local, socket.remote))
        });
        assert_eq!(seen.unwrap(), 2);
    }

    #[test]
    fn descriptors_are_counted_in_every_table_once() {
        // One test for both: a second table is visible to every test of this process.
        let me = std::process::id();
        let tables = descriptor_tables(me).unwrap();
        assert_eq!(tables.len(), 1);
        let many: Vec<_> = (0..100).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        // Other tests open and close a few at the same time.
        assert!(open_descriptors(me).unwrap() >= tables[0].1 + many.len() / 2);
        let (ready, wait_ready) = std::sync::mpsc::channel();
        let (end, wait_end) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            crate::poll::own_descriptor_table().unwrap();
            ready.send(()).unwrap();
            let _ = wait_end.recv();
        });
        wait_ready.recv().unwrap();
        assert_eq!(descriptor_tables(me).unwrap().len(), 2);
        drop(end);
        thread.join().unwrap();
    }

    #[test]
    fn endpoints_of_both_families() {
        assert_eq!(parse_endpoint("0100007F:1F90"), Some("127.0.0.1:8080".parse().unwrap()));
        let six = "00000000000000000000000001000000:0050";
        assert_eq!(parse_endpoint(six), Some("[::1]:80".parse().unwrap()));
        assert_eq!(parse_endpoint("junk"), None);
    }

    #[test]
    fn own_cpu_memory_and_tree() {
        let me = std::process::id();
        assert!(rss_bytes(me).unwrap() >= rss_anon_bytes(me).unwrap());
        assert!(process_cpu_ns(me).unwrap() > 0);
        let memory = process_memory(me).unwrap();
        assert!(memory.private > 0 && memory.private <= memory.resident, "{memory:?}");
        let machine = machine_memory().unwrap();
        assert!((memory.private..machine.total).contains(&machine.used()), "{machine:?}");
        let ticks = process_cpu_seconds(me).unwrap();
        assert!((ticks - process_cpu_ns(me).unwrap() as f64 / 1e9).abs() < 1.0, "{ticks}");
        assert!(process_tree(me).unwrap().contains(&me));
        let (before, after) = (cpu_ticks().unwrap(), cpu_ticks().unwrap());
        assert!((after - before).busy() <= after.busy());
    }
}
