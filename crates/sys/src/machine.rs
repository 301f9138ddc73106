//! What this machine is: processors, memory, and the kernel settings that bound connections.

use crate::facts::cgroup;
use std::fs;

/// Processors this process may run on.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Bytes of memory this process may use: the machine's, or its cgroup's limit if that is smaller.
pub fn memory_bytes() -> u64 {
    let total = memory_total_bytes().unwrap_or(1 << 30);
    let limit = cgroup::memory().ok().and_then(|bound| bound.max);
    limit.map_or(total, |limit| limit.min(total))
}

/// From now on the allocator gives the kernel back what is free at the end of a heap. Left alone it learns from every large piece
/// that is freed to keep twice as much (mallopt(3), M_TRIM_THRESHOLD), on every thread that has had one.
pub fn return_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 << 10);
    }
}

/// Gives the kernel back what the allocator holds free in between. For after a start that took much for a moment.
pub fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers.
    unsafe {
        libc::malloc_trim(0);
    }
}

pub fn memory_total_bytes() -> Option<u64> {
    meminfo("MemTotal:")
}

pub fn memory_available_bytes() -> u64 {
    meminfo("MemAvailable:").unwrap_or(0)
}

/// Memory that could be had without taking any from a program: free, or cached files. `MemAvailable` also counts on half of the
/// slabs that the kernel calls reclaimable, and the inodes of open sockets are among them, which nothing reclaims.
pub fn memory_left_bytes() -> u64 {
    let kilobytes = |key| meminfo(key).unwrap_or(0);
    (kilobytes("MemFree:") + kilobytes("Buffers:") + kilobytes("Cached:")).saturating_sub(kilobytes("Shmem:"))
}

fn meminfo(key: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// A sysctl by its dotted name, trimmed.
pub fn sysctl(name: &str) -> Option<String> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

pub fn sysctl_number(name: &str) -> Option<u64> {
    sysctl(name)?.parse().ok()
}

/// net.ipv4.ip_local_port_range: first and last, inclusive. It rules IPv6 as well.
pub fn local_port_range() -> (u16, u16) {
    let parse = |text: String| {
        let mut numbers = text.split_whitespace().map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    sysctl("net.ipv4.ip_local_port_range").and_then(parse).unwrap_or((32768, 60999))
}

/// net.ipv4.ip_local_reserved_ports as inclusive ranges.
pub fn reserved_ports() -> Vec<(u16, u16)> {
    let text = sysctl("net.ipv4.ip_local_reserved_ports").unwrap_or_default();
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
    };
    text.split(',').filter_map(range).collect()
}

/// (major, minor) of the running kernel.
pub fn kernel() -> (u32, u32) {
    let parse = |text: String| {
        let mut parts = text.split(['.', '-', '+', ' ']).map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    };
    sysctl("kernel.osrelease").and_then(parse).unwrap_or((0, 0))
}

/// Resident memory of this process in bytes.
pub fn resident_bytes() -> u64 {
    let parse = |text: String| text.split_whitespace().nth(1)?.parse::<u64>().ok();
    fs::read_to_string("/proc/self/statm").ok().and_then(parse).unwrap_or(0) * 4096
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_this_machine() {
        let (first, last) = super::local_port_range();
        assert!(first < last && super::processors() > 0 && super::memory_bytes() > 1 << 20);
        assert!(super::kernel() >= (4, 0) && super::resident_bytes() > 0);
        assert!((1..super::memory_bytes()).contains(&super::memory_left_bytes()));
    }
}
