//! Facts about this machine, in the form that the inner crates want them.

use fourfold_ports::{PortSet, PortSpan};
use fourfold_proxy::Machine;
use fourfold_sys::machine;
use std::hash::{BuildHasher, RandomState};

/// `None`: net.ipv4.ip_local_port_range holds no ports.
pub fn facts() -> Option<Machine> {
    let (first, last) = machine::local_port_range();
    let span = |(first, last)| PortSpan::new(first, last).ok();
    Some(Machine {
        kernel: machine::kernel(),
        local_port_range: span((first, last))?,
        reserved_ports: PortSet::new(machine::reserved_ports().into_iter().filter_map(span)),
        tw_reuse: machine::sysctl_number("net.ipv4.tcp_tw_reuse").unwrap_or(0),
        // Kernels without the setting wait one second.
        tw_reuse_delay_ms: machine::sysctl_number("net.ipv4.tcp_tw_reuse_delay").unwrap_or(1000),
        // The standard library's hash keys come from the kernel's random numbers.
        seed: RandomState::new().hash_one(std::process::id()),
        secret: [RandomState::new().hash_one(0), RandomState::new().hash_one(1)],
        tcp_timestamps: machine::sysctl_number("net.ipv4.tcp_timestamps").unwrap_or(0) != 0,
    })
}

/// net.core.somaxconn: a longer backlog is cut to it.
pub fn backlog() -> u32 {
    machine::sysctl_number("net.core.somaxconn").and_then(|n| u32::try_from(n).ok()).unwrap_or(4096)
}
