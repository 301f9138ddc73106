//! What the kernel lets us use.

use crate::capacity::Capacity;
use crate::finding::{Found, Limit, Remedy, lasting};
use crate::wanted::WantedEngine;

const DISABLED: &str = "kernel.io_uring_disabled";

/// To load the program, to put sockets into its maps, and to read where a socket's queue stands.
const SPLICE_NEEDS: [&str; 3] = ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"];

pub fn io_uring(capacity: &Capacity<'_>) -> Vec<Found> {
    let facts = capacity.facts;
    let disabled = facts.number(DISABLED).unwrap_or(0);
    let usable = facts.io_uring.get();
    if capacity.wanted.engine == WantedEngine::Epoll {
        return vec![Found::pass("not asked for: engine = \"epoll\"")];
    }
    match usable {
        Some(one) if one.usable && disabled == 0 => vec![Found::pass("it works here")],
        Some(one) if one.usable => {
            let what = format!("it works for this user; {DISABLED} = {disabled} keeps it from others");
            let why = "1 leaves it to CAP_SYS_ADMIN and the group kernel.io_uring_group: a service user has neither";
            vec![allow(capacity, Found::warn(what, why))]
        }
        Some(one) => vec![allow(capacity, unusable(capacity, &one.why))],
        None => vec![Found::warn("whether it works is not known", facts.io_uring.why_missing())],
    }
}

fn unusable(capacity: &Capacity<'_>, why: &str) -> Found {
    let what = format!("it cannot be used here: {why}");
    match capacity.wanted.engine {
        WantedEngine::Uring => {
            let limit = Limit::held(0, capacity.connections());
            Found::at(limit, what, "engine = \"uring\" is asked for: nothing starts without it").remedy(
                Remedy::configuration("engine = \"auto\"", "epoll costs some processor time per request"),
            )
        }
        _ => Found::warn(what, "the epoll engine is used, which costs some processor time per request"),
    }
}

/// What takes it away: a setting, a filter, or the kernel's age.
fn allow(capacity: &Capacity<'_>, found: Found) -> Found {
    let facts = capacity.facts;
    let risk = "io_uring has had bugs that let programs escape; only let those have it that you trust";
    if facts.number(DISABLED).unwrap_or(0) > 0 {
        return found.remedy(Remedy::setting(facts, DISABLED, 0, risk));
    }
    if facts.seccomp.get().is_some_and(|mode| *mode > 0) {
        let ways = vec![
            lasting(
                "container",
                "docker run --security-opt seccomp=PROFILE.json (the default profile with io_uring_setup, io_uring_enter and \
                 io_uring_register allowed)"
                    .into(),
            ),
            lasting(
                "kubernetes",
                "securityContext: { seccompProfile: { type: Localhost, localhostProfile: PROFILE.json } }".into(),
            ),
            lasting(
                "systemd",
                "SystemCallFilter=io_uring_setup io_uring_enter io_uring_register".into(),
            ),
        ];
        let command = "start it under a seccomp profile that allows io_uring";
        return found.remedy(Remedy::by_hand(command, ways, risk));
    }
    found.remedy(Remedy::by_hand("Linux 6.11 or later", vec![], "none"))
}

pub fn bpf(capacity: &Capacity<'_>) -> Vec<Found> {
    let facts = capacity.facts;
    let granted: Vec<Option<bool>> = SPLICE_NEEDS.iter().map(|name| facts.has_capability(name)).collect();
    if granted.contains(&None) {
        return Vec::new();
    }
    let types = facts.btf.get() == Some(&true);
    if types && !granted.contains(&Some(false)) {
        return vec![Found::pass("programs may be loaded, and the kernel describes its types")];
    }
    if !capacity.wanted.splice {
        return vec![Found::pass("programs may not be loaded; only splice.mode = \"bpf\" would need it")];
    }
    let limit = Limit::held(0, capacity.connections());
    let why = "splice.mode = \"bpf\" starts only where it works; \"auto\" copies";
    if !types {
        let what = "the kernel does not describe its types (no /sys/kernel/btf/vmlinux)";
        return vec![Found::at(limit, what, why)];
    }
    let ways = vec![
        lasting("systemd", format!("AmbientCapabilities={}", SPLICE_NEEDS.join(" "))),
        lasting("container", "docker run --cap-add BPF --cap-add NET_ADMIN --cap-add PERFMON".into()),
        lasting("kubernetes", "securityContext: { capabilities: { add: [BPF, NET_ADMIN, PERFMON] } }".into()),
    ];
    let command = "setcap cap_bpf,cap_net_admin,cap_perfmon+ep fourfold";
    let remedy = Remedy::by_hand(command, ways, "CAP_BPF and CAP_PERFMON let a program read kernel memory");
    let what = format!("{} are not all granted", SPLICE_NEEDS.join(", "));
    vec![Found::at(limit, what, why).remedy(remedy)]
}

pub fn privileges(capacity: &Capacity<'_>) -> Vec<Found> {
    let facts = capacity.facts;
    let start = facts.number("net.ipv4.ip_unprivileged_port_start").unwrap_or(1024);
    let low: Vec<String> = capacity
        .wanted
        .listeners
        .iter()
        .filter(|listener| u64::from(listener.port) < start)
        .map(|listener| format!("{} ({})", listener.name, listener.port))
        .collect();
    if low.is_empty() || facts.has_capability("CAP_NET_BIND_SERVICE") != Some(false) {
        return vec![Found::pass("every listener's port may be had")];
    }
    let what = format!("ports below {start} need CAP_NET_BIND_SERVICE: {}", low.join(", "));
    let ways = vec![
        lasting("systemd", "AmbientCapabilities=CAP_NET_BIND_SERVICE".into()),
        lasting("container", "docker run --cap-add NET_BIND_SERVICE".into()),
        lasting("kubernetes", "securityContext: { capabilities: { add: [NET_BIND_SERVICE] } }".into()),
    ];
    let remedy = Remedy::by_hand("setcap cap_net_bind_service+ep fourfold", ways, "none");
    let limit = Limit::held(0, capacity.connections());
    vec![Found::at(limit, what, "bind(2) fails with EACCES, and nothing starts").remedy(remedy)]
}

/// Reading these takes a call into the hypervisor or a bus.
const SLOW_CLOCKS: &[&str] = &["hpet", "acpi_pm", "jiffies", "pit", "refined-jiffies"];

pub fn clock(capacity: &Capacity<'_>) -> Vec<Found> {
    let Some(source) = capacity.facts.clock_source.get() else { return Vec::new() };
    if !SLOW_CLOCKS.contains(&source.as_str()) {
        return vec![Found::pass(format!("{source} is read without leaving the program"))];
    }
    let what = format!("{source} is slow to read");
    let remedy = Remedy::by_hand(
        "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource",
        vec![lasting("systemd", "kernel parameter clocksource=tsc".into())],
        "the kernel gave tsc up for a reason, if it did: see dmesg",
    );
    vec![Found::warn(what, "every time stamp of a log or timer costs a microsecond").remedy(remedy)]
}
