//! The kernel's own counts of what went wrong in this network namespace, and how full its tables are.
//!
//! Owns: which file says what. Refuses: to judge; what is not there (an old kernel, a container, another namespace) is `None`.
//! Driven by: whoever explains what happened, about once a second.

use crate::machine::sysctl_number;
use std::fs;

macro_rules! counts {
    ($($(#[doc = $doc:literal])+ $variant:ident = $place:expr, $name:literal;)*) => {
        /// A count that only grows.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Count { $($(#[doc = $doc])+ $variant,)* }

        impl Count {
            pub const ALL: &'static [Count] = &[$(Count::$variant,)*];

            /// As the kernel calls it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Count::$variant => $name,)* }
            }

            fn place(self) -> Place {
                match self { $(Count::$variant => $place,)* }
            }
        }
    };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Of `TcpExt` in /proc/net/netstat.
    Netstat,
    /// A column of /proc/net/stat/nf_conntrack, by processor.
    Conntrack,
    /// The same of neighbour tables.
    Neighbours,
    /// `full` of /proc/pressure/memory.
    Pressure,
    /// Of this process's cgroup, memory.events.
    Cgroup,
}

counts! {
    /// A connection was complete, or nearly, and the listener's queue had no room for it (net/ipv4/tcp_ipv4.c).
    ListenOverflows = Place::Netstat, "ListenOverflows";
    /// Those, and whatever else made the kernel drop a SYN or a handshake (`tcp_listendrop`).
    ListenDrops = Place::Netstat, "ListenDrops";
    /// SYNs dropped because too many handshakes were under way (`tcp_syn_flood_action`).
    RequestQueueDrops = Place::Netstat, "TCPReqQFullDrop";
    /// SYNs answered with a cookie instead.
    RequestQueueCookies = Place::Netstat, "TCPReqQFullDoCookies";
    /// Sockets that could not go to TIME_WAIT since tcp_max_tw_buckets were there (`inet_twsk_alloc`).
    TimeWaitOverflow = Place::Netstat, "TCPTimeWaitOverflow";
    /// Times that all TCP sockets together came above the second number of tcp_mem (`tcp_enter_memory_pressure`).
    MemoryPressures = Place::Netstat, "TCPMemoryPressures";
    /// Connections reset since there were too many orphans, or memory was out (`tcp_check_oom`).
    AbortOnMemory = Place::Netstat, "TCPAbortOnMemory";
    /// Packets dropped because the table of connections was full (`__nf_conntrack_alloc`).
    ConntrackDrop = Place::Conntrack, "drop";
    /// Entries thrown out for new ones when it was.
    ConntrackEarlyDrop = Place::Conntrack, "early_drop";
    /// Packets dropped because their entry was there already, for another connection (`__nf_conntrack_confirm`).
    ConntrackInsertFailed = Place::Conntrack, "insert_failed";
    /// Neighbours that found no place (`neigh_alloc`).
    NeighbourTableFull = Place::Neighbours, "table_fulls";
    /// Microseconds in which every task that wanted to run waited for memory.
    MemoryStallUs = Place::Pressure, "full";
    /// Times this cgroup came up against memory.max.
    CgroupMax = Place::Cgroup, "max";
    /// Processes killed for it.
    CgroupKills = Place::Cgroup, "oom_kill";
}

/// How full the kernel's tables are, and where they end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Sockets in TIME_WAIT here, and the most: net.ipv4.tcp_max_tw_buckets.
    pub time_wait: Option<u64>,
    pub time_wait_max: Option<u64>,
    /// Closed sockets with unsent bytes on the whole machine, and net.ipv4.tcp_max_orphans.
    pub orphans: Option<u64>,
    pub orphans_max: Option<u64>,
    /// Pages that all TCP sockets of the machine take, and the three numbers of net.ipv4.tcp_mem.
    pub tcp_pages: Option<u64>,
    pub tcp_pages_max: Option<[u64; 3]>,
    /// Connections tracked here, and net.netfilter.nf_conntrack_max.
    pub conntrack: Option<u64>,
    pub conntrack_max: Option<u64>,
    pub somaxconn: Option<u64>,
    pub syn_backlog: Option<u64>,
    /// Bytes of this cgroup, and memory.max.
    pub cgroup_bytes: Option<u64>,
    pub cgroup_bytes_max: Option<u64>,
    /// net.ipv4.neigh.default.gc_thresh3
    pub neighbours_max: Option<u64>,
}

/// Every [`Count`] at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(Vec<Option<u64>>);

impl Counts {
    #[must_use]
    pub fn get(&self, count: Count) -> Option<u64> {
        self.0.get(count as usize).copied().flatten()
    }

    /// For tests: what was not read is there as well.
    #[must_use]
    pub fn with(mut self, count: Count, value: u64) -> Self {
        self.0.resize(Count::ALL.len(), None);
        if let Some(slot) = self.0.get_mut(count as usize) {
            *slot = Some(value);
        }
        self
    }

    #[must_use]
    pub fn read() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let netstat = read("/proc/thread-self/net/netstat");
        let conntrack = read("/proc/thread-self/net/stat/nf_conntrack");
        let neighbours = ["arp_cache", "ndisc_cache"].map(|table| read(&format!("/proc/net/stat/{table}")));
        let pressure = read("/proc/pressure/memory");
        let cgroup = cgroup_file("memory.events").unwrap_or_default();
        let value = |count: &Count| match count.place() {
            Place::Netstat => of_group(&netstat, "TcpExt:", count.name()),
            Place::Conntrack => of_columns(&conntrack, count.name()),
            Place::Neighbours => sum(neighbours.iter().map(|text| of_columns(text, count.name()))),
            Place::Pressure => of_pressure(&pressure, count.name()),
            Place::Cgroup => of_lines(&cgroup, count.name()),
        };
        Self(Count::ALL.iter().map(value).collect())
    }
}

impl Gauges {
    #[must_use]
    pub fn read() -> Self {
        let sockstat = fs::read_to_string("/proc/thread-self/net/sockstat").unwrap_or_default();
        let tcp = |key| of_sockstat(&sockstat, "TCP:", key);
        let numbers = |name| crate::machine::sysctl(name).map(|text| all_numbers(&text));
        Self {
            time_wait: tcp("tw"),
            time_wait_max: sysctl_number("net.ipv4.tcp_max_tw_buckets"),
            orphans: tcp("orphan"),
            orphans_max: sysctl_number("net.ipv4.tcp_max_orphans"),
            tcp_pages: tcp("mem"),
            tcp_pages_max: numbers("net.ipv4.tcp_mem").and_then(|all| all.try_into().ok()),
            conntrack: sysctl_number("net.netfilter.nf_conntrack_count"),
            conntrack_max: sysctl_number("net.netfilter.nf_conntrack_max"),
            somaxconn: sysctl_number("net.core.somaxconn"),
            syn_backlog: sysctl_number("net.ipv4.tcp_max_syn_backlog"),
            cgroup_bytes: cgroup_file("memory.current").and_then(|text| text.trim().parse().ok()),
            cgroup_bytes_max: cgroup_file("memory.max").and_then(|text| text.trim().parse().ok()),
            neighbours_max: sysctl_number("net.ipv4.neigh.default.gc_thresh3"),
        }
    }
}

/// Of this process's own cgroup (cgroups(7), version 2); in a container its root may be all that is seen.
fn cgroup_file(name: &str) -> Option<String> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?.trim_end_matches('/');
    [own, ""].iter().find_map(|group| fs::read_to_string(format!("/sys/fs/cgroup{group}/{name}")).ok())
}

fn sum(values: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    values.flatten().reduce(u64::wrapping_add)
}

/// proc_net(5): a line of names and a line of values begin with the same word.
fn of_group(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    let (names, values) = (lines.next()?, lines.next()?);
    let column = names.split_whitespace().position(|one| one == name)?;
    values.split_whitespace().nth(column)?.parse().ok()
}

/// A line of names, then a line of hexadecimal values for each processor.
fn of_columns(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines();
    let column = lines.next()?.split_whitespace().position(|one| one == name)?;
    let value = |line: &str| u64::from_str_radix(line.split_whitespace().nth(column)?, 16).ok();
    sum(lines.map(value))
}

/// `full avg10=0.00 avg60=0.00 avg300=0.00 total=17433073`
fn of_pressure(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    line.split_whitespace().find_map(|word| word.strip_prefix("total="))?.parse().ok()
}

/// `max 17`
fn of_lines(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(key, _)| *key == name)?.1.trim().parse().ok()
}

/// `TCP: inuse 5 orphan 0 tw 0 alloc 132 mem 90`
fn of_sockstat(text: &str, group: &str, key: &str) -> Option<u64> {
    let mut words = text.lines().find(|line| line.starts_with(group))?.split_whitespace().skip(1);
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        if name == key {
            return value.parse().ok();
        }
    }
    None
}

fn all_numbers(text: &str) -> Vec<u64> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_stand_below_each_other() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 22 333\nIpExt: ListenDrops\nIpExt: 4\n";
        assert_eq!(of_group(text, "TcpExt:", "ListenOverflows"), Some(22));
        assert_eq!(of_group(text, "TcpExt:", "ListenDrops"), Some(333));
        assert_eq!(of_group(text, "TcpExt:", "TCPTimeWaitOverflow"), None);
        assert_eq!(of_group("TcpExt: A B\nTcpExt: 1\n", "TcpExt:", "B"), None);
    }

    #[test]
    fn processors_are_added_up() {
        let text = "entries  found insert_failed drop\n00000010 00000000 0000000a 00000001\n00000010 00000000 00000001 00000000\n";
        assert_eq!(of_columns(text, "insert_failed"), Some(11));
        assert_eq!(of_columns(text, "drop"), Some(1));
        assert_eq!(of_columns("", "drop"), None);
    }

    #[test]
    fn pressure_cgroup_and_sockstat_are_read() {
        let pressure = "some avg10=0.00 total=5\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=17433073\n";
        assert_eq!(of_pressure(pressure, "full"), Some(17_433_073));
        assert_eq!(of_lines("low 0\nhigh 0\nmax 17\noom 0\noom_kill 2\n", "max"), Some(17));
        let sockstat = "sockets: used 1\nTCP: inuse 5 orphan 3 tw 7 alloc 132 mem 90\nUDP: inuse 0 mem 0\n";
        assert_eq!(of_sockstat(sockstat, "TCP:", "mem"), Some(90));
        assert_eq!(of_sockstat(sockstat, "TCP:", "orphan"), Some(3));
    }

    #[test]
    fn this_kernel_has_the_counts_of_tcp() {
        let counts = Counts::read();
        let tcp = Count::ALL.iter().filter(|count| count.place() == Place::Netstat);
        let missing: Vec<_> = tcp.filter(|count| counts.get(**count).is_none()).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(Gauges::read().time_wait_max.is_some_and(|max| max > 0));
    }
}
