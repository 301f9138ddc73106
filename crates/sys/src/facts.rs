//! What the kernel tells of this machine's limits, one function for each fact; an error says why it is not known.
//!
//! Refuses to judge. Driven by `fourfold doctor` and the first lines of `run`.

pub mod cgroup;
pub mod network;
mod probe;

pub use probe::{PairMemory, is_tracked, pair_memory};

use crate::errno::check;
use crate::{descriptors, machine};
use std::fs;
use std::io::ErrorKind;

/// The text of a file of procfs or sysfs, trimmed.
pub fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(|error| format!("{path}: {error}"))
}

fn number_in(path: &str) -> Result<u64, String> {
    read(path)?.parse().map_err(|_| format!("{path}: it holds no number"))
}

/// A kernel setting by its dotted name. Those of the whole machine are not shown in every network namespace: then the first one
/// is asked.
pub fn setting(name: &str) -> Result<String, String> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.split_whitespace().collect::<Vec<_>>().join(" ")),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let there = path.clone();
            let found = network::in_first(move || read(&there));
            found.map_err(|why| format!("{path}: {why}"))?.map(|text| text.replace('\t', " "))
        }
        Err(error) => Err(format!("{path}: {error}")),
    }
}

/// RLIMIT_NOFILE: soft and hard.
pub fn nofile() -> Result<(u64, u64), String> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct outlives the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })
        .map_err(|errno| format!("getrlimit: {errno}"))?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Files open on the whole machine.
pub fn files_open() -> Result<u64, String> {
    let text = read("/proc/sys/fs/file-nr")?;
    let first = text.split_whitespace().next().and_then(|word| word.parse().ok());
    first.ok_or_else(|| "/proc/sys/fs/file-nr: it holds no number".into())
}

/// Whether a thread may have a descriptor table of its own.
pub fn private_tables() -> Result<bool, String> {
    let tried = std::thread::spawn(|| descriptors::private_table(&[])).join();
    Ok(matches!(tried, Ok(Ok(()))))
}

/// Total and available bytes.
pub fn memory() -> Result<(u64, u64), String> {
    match (machine::memory_total_bytes(), machine::memory_available_bytes()) {
        (Some(total), available) if available > 0 => Ok((total, available)),
        _ => Err("/proc/meminfo: no MemTotal or MemAvailable".into()),
    }
}

fn status_field(name: &str) -> Result<String, String> {
    let text = read("/proc/thread-self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(|value| value.trim().to_owned()).ok_or_else(|| format!("/proc/thread-self/status: no {name}"))
}

/// 0 off, 1 strict, 2 filter.
pub fn seccomp() -> Result<u64, String> {
    status_field("Seccomp")?.parse().map_err(|_| "/proc/thread-self/status: Seccomp is no number".into())
}

/// Bits of the capabilities that are looked for (include/uapi/linux/capability.h).
const CAPABILITIES: &[(u32, &str)] = &[
    (10, "CAP_NET_BIND_SERVICE"),
    (12, "CAP_NET_ADMIN"),
    (13, "CAP_NET_RAW"),
    (21, "CAP_SYS_ADMIN"),
    (24, "CAP_SYS_RESOURCE"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];

/// Effective capabilities, of those that matter here.
pub fn capabilities() -> Result<Vec<String>, String> {
    let bits =
        u64::from_str_radix(&status_field("CapEff")?, 16).map_err(|error| format!("CapEff: {error}"))?;
    let has = CAPABILITIES.iter().filter(|(bit, _)| bits >> bit & 1 == 1);
    Ok(has.map(|(_, name)| (*name).to_owned()).collect())
}

/// Whether the kernel describes its types to BPF programs.
pub fn btf() -> bool {
    fs::metadata("/sys/kernel/btf/vmlinux").is_ok()
}

pub fn clock_source() -> Result<String, String> {
    read("/sys/devices/system/clocksource/clocksource0/current_clocksource")
}

/// The systemd service that this process runs in.
pub fn unit() -> Result<String, String> {
    let text = read("/proc/self/cgroup")?;
    let mut parts = text.lines().flat_map(|line| line.split('/'));
    let unit = parts.find(|part| part.ends_with(".service")).map(str::to_owned);
    unit.ok_or_else(|| "no systemd service".into())
}

/// Memory of this process that no file backs.
pub fn own_bytes() -> u64 {
    let field = status_field("RssAnon").unwrap_or_default();
    field.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Replaces the content of a file of procfs or of a control group by one write.
pub fn write(path: &str, value: &str) -> Result<(), std::io::Error> {
    fs::OpenOptions::new().write(true).open(path).and_then(|mut file| {
        use std::io::Write;
        file.write_all(value.as_bytes())
    })
}

/// As [`write`], in the machine's first network namespace.
pub fn write_in_first_network(path: &str, value: &str) -> Result<(), String> {
    let (path, value) = (path.to_owned(), value.to_owned());
    network::in_first(move || write(&path, &value).map_err(|error| format!("{path}: {error}")))?
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_machine_is_known() {
        let (soft, hard) = super::nofile().unwrap();
        assert!(soft <= hard && super::files_open().unwrap() > 0);
        let (total, available) = super::memory().unwrap();
        assert!(available <= total && super::own_bytes() > 0);
        assert!(super::setting("net.core.somaxconn").unwrap().parse::<u64>().unwrap() > 0);
        let missing = super::setting("net.no.such.thing").unwrap_err();
        assert!(missing.contains("net/no/such/thing"), "{missing}");
        super::capabilities().unwrap();
        super::seccomp().unwrap();
    }
}
