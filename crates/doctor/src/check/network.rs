//! What lies between the wire and the socket.

use crate::capacity::Capacity;
use crate::cost;
use crate::facts::Interface;
use crate::finding::{Found, Limit, Remedy, lasting};

pub fn conntrack(capacity: &Capacity<'_>) -> Vec<Found> {
    let facts = capacity.facts;
    let Some(tracked) = facts.conntrack.get() else {
        return vec![Found::warn(
            "whether connections are tracked is not known",
            facts.conntrack.why_missing(),
        )];
    };
    let Some(by) = &tracked.by else {
        return vec![Found::pass("connections of this network namespace are not tracked")];
    };
    let Some(most) = capacity.by_conntrack() else {
        return vec![Found::pass("connections are tracked, and the table has no limit")];
    };
    let max = facts.number("net.netfilter.nf_conntrack_max").unwrap_or(0);
    let connections = capacity.connections();
    let what = format!(
        "{by}; the table holds {max} flows, {} are in it, two for each connection: {most} connections",
        tracked.count
    );
    let why = "beyond the limit new connections are dropped (\"nf_conntrack: table full\"); the limit is the machine's, the count \
               each network namespace's own";
    let needed = connections.saturating_mul(2) * (100 + cost::SPARE_PERCENT) / 100 + tracked.count;
    let value = max.max(needed).next_multiple_of(1024);
    let ways = vec![lasting("configuration", "nft: a chain at priority raw with `notrack`".into())];
    let untrack = Remedy::by_hand(
        "nft 'add table inet fourfold; add chain inet fourfold in { type filter hook prerouting priority raw; }; add chain inet \
         fourfold out { type filter hook output priority raw; }; add rule inet fourfold in tcp dport PORT notrack; …'",
        ways,
        "rules that look at `ct state`, and NAT, no longer see these connections",
    );
    let risk = "about 320 bytes of kernel memory for each flow";
    let raise = Remedy::setting(facts, "net.netfilter.nf_conntrack_max", value, risk);
    vec![Found::at(Limit::held(most, connections), what, why).remedy(raise).remedy(untrack)]
}

/// Only hosts on the same link have an entry; what comes through a router shares the router's.
pub fn neighbours(capacity: &Capacity<'_>) -> Vec<Found> {
    let facts = capacity.facts;
    let name = "net.ipv4.neigh.default.gc_thresh3";
    let (Some(max), Some(entries)) = (facts.number(name), facts.neighbours.get()) else {
        return vec![Found::pass("the neighbour table is the machine's and not seen from here")];
    };
    let servers: u64 = capacity.wanted.pools.iter().map(|pool| pool.servers.len() as u64).sum();
    let what = format!("{entries} neighbours, {servers} servers at most on the same links, room for {max}");
    if (entries + servers) * 10 < max * 8 {
        return vec![Found::pass(what)];
    }
    let why = "beyond gc_thresh3 packets to a new host on the link are dropped (\"neighbour: arp_cache: neighbor table overflow!\")";
    let risk = "a few hundred bytes for each host";
    let value = ((entries + servers) * 4).next_power_of_two();
    vec![Found::warn(what, why).remedy(Remedy::setting(facts, name, value, risk))]
}

pub fn queues(capacity: &Capacity<'_>) -> Vec<Found> {
    let facts = capacity.facts;
    let Some(interfaces) = facts.interfaces.get() else { return Vec::new() };
    let processors = facts.processors.get().copied().unwrap_or(1);
    let narrow = |one: &&Interface| one.receive_queues < processors && !one.rps && one.name != "lo";
    let found: Vec<Found> =
        interfaces.iter().filter(narrow).map(|one| narrow_queue(one, processors)).collect();
    match found.is_empty() {
        true => vec![Found::pass(format!(
            "{} interface(s) spread what they receive over {processors} processors",
            interfaces.len()
        ))],
        false => found,
    }
}

fn narrow_queue(interface: &Interface, processors: u64) -> Found {
    let Interface { name, receive_queues, .. } = interface;
    let what =
        format!("{name} has {receive_queues} receive queue(s) for {processors} processors, and RPS is off");
    let why =
        "interrupts and protocol work of one queue are one processor's: it is full before the others are";
    let mask = format!("{:x}", (1u128 << processors.min(64)) - 1);
    let command = format!(
        "ethtool -L {name} combined {processors} || echo {mask} | tee /sys/class/net/{name}/queues/rx-*/rps_cpus"
    );
    let ways = vec![lasting("systemd", format!("a udev rule for {name}, or a unit that runs the command"))];
    let remedy = Remedy::by_hand(command, ways, "RPS costs an interrupt between processors for each packet");
    Found::warn(what, why).remedy(remedy)
}

/// Sockets in a chain of the table of connections beyond which the walk is felt.
const CHAIN_MAX: u64 = 4;
/// include/net/inet_hashtables.h: a network namespace's own table has at most so many chains.
const CHAINS_MAX: u64 = 1 << 24;

pub fn established(capacity: &Capacity<'_>) -> Vec<Found> {
    let shown = capacity.facts.setting("net.ipv4.tcp_ehash_entries").map(str::trim);
    // Negative: the namespace shares the machine's.
    let Some(chains) = shown.and_then(|text| text.parse::<i64>().ok()).map(i64::unsigned_abs) else {
        return vec![Found::pass(
            "the kernel does not say how long its table of connections is (before Linux 6.1)",
        )];
    };
    let sockets = capacity.connections().saturating_mul(capacity.sockets_here());
    let chain = sockets / chains.max(1);
    let what = format!("{sockets} sockets in a table of {chains} chains");
    if chain < CHAIN_MAX {
        return vec![Found::pass(what)];
    }
    let why = format!(
        "every packet walks its chain, here {chain} sockets long, each a cache miss; it bounds no number, and costs processor time (a \
         tenth of what making a connection takes, at 16)"
    );
    let value = sockets.next_power_of_two().min(CHAINS_MAX);
    let ways = vec![
        lasting(
            "configuration",
            format!("thash_entries={value} on the kernel's command line (GRUB_CMDLINE_LINUX)"),
        ),
        lasting(
            "container",
            format!(
                "on the host, before the container starts: sysctl -w net.ipv4.tcp_child_ehash_entries={value}"
            ),
        ),
    ];
    let command = format!("sysctl -w net.ipv4.tcp_child_ehash_entries={value}");
    let risk = "concerns network namespaces made from then on, each of which takes 8 bytes for each chain";
    vec![Found::warn(what, why).remedy(Remedy::by_hand(command, ways, risk))]
}

pub fn congestion(capacity: &Capacity<'_>) -> Vec<Found> {
    let facts = capacity.facts;
    let Some(current) = facts.setting("net.ipv4.tcp_congestion_control") else { return Vec::new() };
    let available = facts.setting("net.ipv4.tcp_available_congestion_control").unwrap_or(current);
    vec![Found::pass(format!("{current}, of {available}; it bounds no number of connections"))]
}
