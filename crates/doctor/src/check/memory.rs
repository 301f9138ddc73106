//! Kernel and user memory.

use crate::capacity::{Capacity, SOCKETS};
use crate::cost;
use crate::finding::{DROP_IN_FILE, Found, Lasting, Limit, Remedy, lasting};

const MIB: u64 = 1 << 20;

pub fn machine(capacity: &Capacity<'_>) -> Vec<Found> {
    let facts = capacity.facts;
    let (Some(memory), Some(most)) = (facts.memory.get(), capacity.by_memory()) else {
        return vec![Found::warn("the memory is not known", facts.memory.why_missing())];
    };
    let what = format!(
        "{} MiB available, {} bytes for each connection ({} sockets here): {most} connections",
        memory.available_bytes / MIB,
        capacity.bytes_here(),
        capacity.sockets_here()
    );
    let measured = match facts.pair.get() {
        Some(_) => "by the kernel's own sizes here",
        None => "an estimate, since /proc/slabinfo is not readable",
    };
    let why = format!(
        "{} bytes of kernel memory for both sockets of a connection ({measured}), which is not swapped; {} bytes of Fourfold's own; \
         {} % is left to others",
        capacity.pair().bytes,
        capacity.user_bytes(),
        cost::MEMORY_SPARE_PERCENT
    );
    let connections = capacity.connections();
    let machines = connections.div_ceil(most.max(1));
    let by_hand = format!("more memory, or {machines} machines");
    vec![Found::at(Limit::held(most, connections), what, why).remedy(Remedy::by_hand(
        by_hand,
        vec![],
        "none",
    ))]
}

pub fn cgroup(capacity: &Capacity<'_>) -> Vec<Found> {
    let facts = capacity.facts;
    let Some(bound) = facts.cgroup_memory.get() else {
        return vec![Found::warn("the control group is not known", facts.cgroup_memory.why_missing())];
    };
    let (Some(max), Some(most)) = (bound.max, capacity.by_cgroup_memory()) else {
        return vec![Found::pass("no control group limits the memory")];
    };
    let connections = capacity.connections();
    let what = format!(
        "{} MiB for the control group, {} MiB of it used, {} bytes charged for each connection: {most} connections",
        max / MIB,
        bound.used / MIB,
        capacity.bytes_charged()
    );
    let why = "sockets are charged to the group that accepts or makes them; beyond the limit the kernel kills the process";
    let needed = capacity.bytes_charged() * connections + capacity.process_bytes() + bound.used;
    let value = (needed / 100 * (100 + cost::SPARE_PERCENT)).next_multiple_of(MIB);
    let ways = vec![
        Lasting {
            way: "systemd",
            file: Some(DROP_IN_FILE),
            text: format!("[Service]\nMemoryMax={}M\n", value / MIB),
        },
        lasting("container", format!("docker run --memory {}m", value / MIB)),
        lasting("kubernetes", format!("resources: {{ limits: {{ memory: {}Mi }} }}", value / MIB)),
    ];
    let remedy = Remedy::group_limit(&bound.file, max, value, ways, "others have less when it is used");
    vec![Found::at(Limit::held(most, connections), what, why).remedy(remedy)]
}

/// An empty queue takes its first segment whatever the limit (net/ipv4/tcp_input.c, tcp_data_queue: sk_forced_mem_schedule), so that
/// what fits into one is slowed down and not stopped.
const FIRST_SEGMENT_BYTES: u64 = 16 << 10;

pub fn tcp_mem(capacity: &Capacity<'_>) -> Vec<Found> {
    let facts = capacity.facts;
    let Some(most) = capacity.by_tcp_memory() else {
        return vec![Found::warn("net.ipv4.tcp_mem is not known", facts.sockets.why_missing())];
    };
    let limits = facts.numbers("net.ipv4.tcp_mem");
    let connections = capacity.connections();
    let queued = match capacity.wanted.queued_bytes {
        Some(bytes) => format!("{bytes} bytes queued on each"),
        None => format!("a page queued on {} % of them", cost::QUEUED_PERCENT),
    };
    let what = format!("TCP's queues may hold {limits:?} pages: {most} connections with {queued}");
    let why = "above the second number a socket gets no more than its share of the third, above the third nothing: \
               segments are dropped and sent again";
    let pages = match capacity.wanted.queued_bytes {
        Some(bytes) => connections.saturating_mul(cost::queued_pages(bytes)),
        None => connections.saturating_mul(cost::QUEUED_PERCENT) / 100,
    };
    let used = facts.sockets.get().map_or(0, |sockets| sockets.tcp_pages);
    let pressure = (pages + used) / 100 * (100 + cost::SPARE_PERCENT) + 1024;
    let value = format!("{} {pressure} {}", pressure / 4 * 3, pressure / 2 * 3);
    let memory = facts.memory.get().map_or(u64::MAX, |memory| memory.total_bytes / cost::PAGE_BYTES);
    let found = Found::at(Limit::held(most, connections), what, why);
    let found = match capacity.wanted.queued_bytes {
        Some(bytes) if bytes > FIRST_SEGMENT_BYTES => found,
        _ => found.at_most_warn(),
    };
    if pressure / 2 * 3 > memory / 2 {
        return vec![found.remedy(Remedy::by_hand(
            "more memory: the queues would take more than half of it",
            vec![],
            "none",
        ))];
    }
    let risk = "slow peers may take that much of the machine's memory";
    vec![found.remedy(Remedy::setting(facts, "net.ipv4.tcp_mem", value, risk))]
}

/// Sockets that are closed and not yet acknowledged. Beyond the limit they are reset, which loses their last bytes.
pub fn orphans(capacity: &Capacity<'_>) -> Vec<Found> {
    let facts = capacity.facts;
    let Some(max) = facts.number("net.ipv4.tcp_max_orphans") else { return Vec::new() };
    let at_once = capacity.burst() * SOCKETS;
    let what = format!("{max} sockets may be closed and unacknowledged");
    let overflows = facts.counter("TCPAbortOnMemory");
    if overflows > 0 {
        let why = format!("{overflows} sockets were reset for want of memory or orphans (TCPAbortOnMemory)");
        return vec![Found::warn(what, why).remedy(raise_orphans(capacity, max))];
    }
    if max < at_once {
        let why = format!("{at_once} are closed when what comes in one moment leaves in one");
        return vec![Found::warn(what, why).remedy(raise_orphans(capacity, max))];
    }
    vec![Found::pass(what)]
}

fn raise_orphans(capacity: &Capacity<'_>, max: u64) -> Remedy {
    let value = (max * 2).max(capacity.burst() * SOCKETS * 2);
    let risk = "an orphan may take up to 64 KiB of memory that is not swapped (tcp(7))";
    Remedy::setting(capacity.facts, "net.ipv4.tcp_max_orphans", value, risk)
}
