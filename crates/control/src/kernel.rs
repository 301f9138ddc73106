//! Kernel counters into sentences: what went wrong, at whose door, and what to do (pure).
//!
//! Owns: the counts of the last look, and when each kind of event was last told of. Refuses: to read anything of the machine.
//! Driven by: the watch, with samples, about once a second; what came of a kind since it was last told of is told of together.

use crate::journal::Notice;
use fourfold_api::v1::{EventKind, Severity};
use fourfold_base::Millis;
use fourfold_sys::diag::Listening;
use fourfold_sys::events::{Count, Counts, Gauges};
use std::collections::HashMap;
use std::net::SocketAddr;

/// One line for each kind of event in this time.
pub const TOLD_INTERVAL_MS: Millis = 10_000;
/// Of a second, the part in which everything waited for memory, from which on it is told of.
const STALL_US_PER_S: u64 = 100_000;

/// The machine at one time.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    pub counts: Counts,
    pub gauges: Gauges,
    /// Every listening socket of this network namespace; empty when the kernel does not say.
    pub listening: Vec<Listening>,
}

/// What of this instance a kernel event can be about.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    /// Name and address, several for one name.
    pub listeners: Vec<(String, SocketAddr)>,
    /// Name, and tuples that rest because our side closed first.
    pub pools: Vec<(String, u64)>,
}

#[derive(Default)]
pub struct Explainer {
    at: Option<Millis>,
    counts: Counts,
    drops: HashMap<SocketAddr, u32>,
    /// What has come since it was last told of.
    pending: HashMap<EventKind, u64>,
    /// Drops at each of our listeners since they were last told of: name, address, how many.
    dropped: HashMap<SocketAddr, u64>,
    told: HashMap<EventKind, Millis>,
}

/// The kinds, in the order in which they are told of.
const KINDS: [EventKind; 13] = [
    EventKind::AcceptQueueFull,
    EventKind::SynQueueFull,
    EventKind::SynCookies,
    EventKind::SynDropped,
    EventKind::TimeWaitOverflow,
    EventKind::TcpMemoryPressure,
    EventKind::OrphanLimit,
    EventKind::TcpMemoryAbort,
    EventKind::ConntrackFull,
    EventKind::ConntrackInsertFailed,
    EventKind::NeighbourTableFull,
    EventKind::MemoryStall,
    EventKind::CgroupMemory,
];

impl Explainer {
    /// What should be told of now.
    pub fn handle_sample(&mut self, now: Millis, sample: &Sample, scene: &Scene) -> Vec<Notice> {
        let ms = self.at.replace(now).map(|at| now.saturating_sub(at));
        let before = std::mem::replace(&mut self.counts, sample.counts.clone());
        self.count_drops(sample, scene, ms.is_some());
        let Some(ms) = ms else { return Vec::new() };
        let grown = |count: Count| {
            // A processor that comes or goes may take its count with it.
            sample.counts.get(count).zip(before.get(count)).map_or(0, |(now, then)| now.saturating_sub(then))
        };
        for kind in KINDS {
            *self.pending.entry(kind).or_default() += came(kind, &grown, &sample.gauges, ms);
        }
        KINDS.into_iter().filter_map(|kind| self.tell(kind, now, sample, scene)).collect()
    }

    /// `sk_drops` of a listener counts what was dropped at its door and nowhere else.
    fn count_drops(&mut self, sample: &Sample, scene: &Scene, counts: bool) {
        let mut drops: HashMap<SocketAddr, u32> = HashMap::new();
        for one in &sample.listening {
            let sum = drops.entry(one.address).or_default();
            *sum = sum.wrapping_add(one.drops.unwrap_or(0));
        }
        for (_, address) in scene.listeners.iter().filter(|_| counts) {
            let (Some(now), Some(then)) = (drops.get(address), self.drops.get(address)) else { continue };
            let grown = u64::from(now.wrapping_sub(*then));
            // Of several sockets one may have been closed.
            if grown > 0 && grown < u64::from(u32::MAX / 2) {
                *self.dropped.entry(*address).or_default() += grown;
            }
        }
        self.drops = drops;
    }

    fn tell(&mut self, kind: EventKind, now: Millis, sample: &Sample, scene: &Scene) -> Option<Notice> {
        let count = self.pending.get(&kind).copied().filter(|count| *count > 0)?;
        if self.told.get(&kind).is_some_and(|at| now < at + TOLD_INTERVAL_MS) {
            return None;
        }
        self.told.insert(kind, now);
        self.pending.insert(kind, 0);
        let doors = self.doors(scene);
        if at_the_door(kind) {
            self.dropped.clear();
        }
        Some(explain(kind, count, sample, scene, &doors))
    }

    /// Where something was dropped, most first.
    fn doors(&self, scene: &Scene) -> Vec<Door> {
        let door = |(name, address): &(String, SocketAddr)| {
            let drops = *self.dropped.get(address)?;
            Some(Door { name: name.clone(), address: *address, drops })
        };
        let mut doors: Vec<Door> = scene.listeners.iter().filter_map(door).collect();
        doors.sort_by_key(|door| std::cmp::Reverse(door.drops));
        doors
    }
}

/// A listener's address at which something was dropped.
struct Door {
    name: String,
    address: SocketAddr,
    drops: u64,
}

fn at_the_door(kind: EventKind) -> bool {
    matches!(kind, EventKind::AcceptQueueFull | EventKind::SynQueueFull | EventKind::SynDropped)
}

/// How often it happened since the last look.
fn came(kind: EventKind, grown: &impl Fn(Count) -> u64, gauges: &Gauges, ms: u64) -> u64 {
    let too_many_orphans = too_many_orphans(gauges);
    match kind {
        EventKind::AcceptQueueFull => grown(Count::ListenOverflows),
        EventKind::SynQueueFull => grown(Count::RequestQueueDrops),
        EventKind::SynCookies => grown(Count::RequestQueueCookies),
        // `tcp_listendrop` counts every drop at a listener's door, those that have a counter of their own included.
        EventKind::SynDropped => {
            let known = grown(Count::ListenOverflows) + grown(Count::RequestQueueDrops);
            grown(Count::ListenDrops).saturating_sub(known)
        }
        EventKind::TimeWaitOverflow => grown(Count::TimeWaitOverflow),
        EventKind::TcpMemoryPressure => grown(Count::MemoryPressures),
        EventKind::OrphanLimit if too_many_orphans => grown(Count::AbortOnMemory),
        EventKind::TcpMemoryAbort if !too_many_orphans => grown(Count::AbortOnMemory),
        EventKind::ConntrackFull => grown(Count::ConntrackDrop) + grown(Count::ConntrackEarlyDrop),
        EventKind::ConntrackInsertFailed => grown(Count::ConntrackInsertFailed),
        EventKind::NeighbourTableFull => grown(Count::NeighbourTableFull),
        EventKind::MemoryStall => {
            let us = grown(Count::MemoryStallUs);
            if us * 1000 >= STALL_US_PER_S * ms.max(1) { us / 1000 } else { 0 }
        }
        EventKind::CgroupMemory => grown(Count::CgroupMax) + grown(Count::CgroupKills),
        _ => 0,
    }
}

/// `tcp_check_oom` takes up to four times as many for a socket that is suspect: a quarter of the limit may have been too many.
fn too_many_orphans(gauges: &Gauges) -> bool {
    gauges.orphans.zip(gauges.orphans_max).is_some_and(|(orphans, max)| orphans * 4 >= max)
}

/// The counter, the sentence, and what to do.
struct Text {
    counter: &'static str,
    of: Vec<String>,
    message: String,
    remedy: Vec<String>,
}

fn explain(kind: EventKind, count: u64, sample: &Sample, scene: &Scene, doors: &[Door]) -> Notice {
    let gauges = &sample.gauges;
    let text = match kind {
        EventKind::AcceptQueueFull => accept_queue(count, sample, scene, doors),
        EventKind::SynQueueFull => syn_queue(count, gauges, doors),
        EventKind::SynCookies => cookies(count, gauges),
        EventKind::TimeWaitOverflow => time_wait(count, gauges, scene),
        EventKind::TcpMemoryPressure => memory_pressure(count, gauges),
        EventKind::OrphanLimit => orphans(count, gauges),
        EventKind::TcpMemoryAbort => memory_abort(count, gauges),
        EventKind::ConntrackFull => conntrack_full(count, gauges, scene),
        EventKind::ConntrackInsertFailed => insert_failed(count, scene),
        EventKind::NeighbourTableFull => neighbours(count, gauges),
        EventKind::MemoryStall => stall(count),
        EventKind::CgroupMemory => cgroup(count, gauges),
        _ => syn_dropped(count, doors),
    };
    // Cookies are how the kernel helps itself; another program's listener is nobody's concern here.
    let harmless = kind == EventKind::SynCookies || (at_the_door(kind) && text.of.is_empty());
    let severity = if harmless { Severity::Info } else { Severity::Warning };
    let Text { counter, of, message, remedy } = text;
    Notice { kind, severity, of, counter: Some(counter), count, message, remedy }
}

fn names(doors: &[Door]) -> Vec<String> {
    let mut names: Vec<String> = doors.iter().map(|door| door.name.clone()).collect();
    names.dedup();
    names
}

/// `listener edge (0.0.0.0:8080): 17 dropped`, or that it was none of ours.
fn whose(doors: &[Door]) -> String {
    let one = |door: &Door| format!("listener {} ({}): {} dropped", door.name, door.address, door.drops);
    match doors {
        [] => "at no listener of this instance".to_owned(),
        doors => doors.iter().map(one).collect::<Vec<_>>().join(", "),
    }
}

fn accept_queue(count: u64, sample: &Sample, scene: &Scene, doors: &[Door]) -> Text {
    let somaxconn = sample.gauges.somaxconn.unwrap_or(4096);
    let own = |one: &&Listening| match doors {
        [] => scene.listeners.iter().any(|(_, address)| *address == one.address),
        doors => doors.iter().any(|door| door.address == one.address),
    };
    let backlog = sample.listening.iter().filter(own).map(|one| u64::from(one.backlog)).min().unwrap_or(0);
    let message = format!(
        "connections were dropped {count} times because the queue of those that nobody had accepted was full; {}; the queue of a \
         shard's listener holds {backlog}, the kernel allows {somaxconn}; the clients try again after a second or more",
        whose(doors)
    );
    let wanted = (backlog.max(1) * 4).max(4096);
    let mut remedy = Vec::new();
    if !doors.is_empty() {
        if wanted > somaxconn {
            remedy.push(format!("sysctl -w net.core.somaxconn={wanted}"));
        }
        remedy.push(format!("backlog = {wanted} for the listener, and a restart"));
        remedy.push("if it goes on, the shards do not keep up: more `shards` or processors".to_owned());
    }
    Text { counter: Count::ListenOverflows.name(), of: names(doors), message, remedy }
}

fn syn_queue(count: u64, gauges: &Gauges, doors: &[Door]) -> Text {
    let message = format!(
        "SYNs were dropped {count} times because too many handshakes were under way and SYN cookies are off; {}",
        whose(doors)
    );
    let mut remedy = vec!["sysctl -w net.ipv4.tcp_syncookies=1".to_owned()];
    remedy
        .extend(gauges.syn_backlog.map(|now| format!("sysctl -w net.ipv4.tcp_max_syn_backlog={}", now * 4)));
    Text { counter: Count::RequestQueueDrops.name(), of: names(doors), message, remedy }
}

fn cookies(count: u64, gauges: &Gauges) -> Text {
    let message = format!(
        "SYN cookies were sent {count} times: more handshakes were under way than the queues hold, by many clients at once or by a \
         flood; connections made so work, without window scaling where timestamps are off"
    );
    let mut remedy = vec!["a larger `backlog` for the listener".to_owned()];
    remedy
        .extend(gauges.syn_backlog.map(|now| format!("sysctl -w net.ipv4.tcp_max_syn_backlog={}", now * 4)));
    Text { counter: Count::RequestQueueCookies.name(), of: Vec::new(), message, remedy }
}

fn syn_dropped(count: u64, doors: &[Door]) -> Text {
    let message = format!(
        "the kernel dropped connections {count} times before they were made, for want of memory or of a route back; {}",
        whose(doors)
    );
    let remedy = vec!["see `fourfold show limits` for memory, and `ip route get` to the clients".to_owned()];
    Text { counter: Count::ListenDrops.name(), of: names(doors), message, remedy }
}

fn time_wait(count: u64, gauges: &Gauges, scene: &Scene) -> Text {
    let max = gauges.time_wait_max.unwrap_or(0);
    let resting: Vec<&(String, u64)> = scene.pools.iter().filter(|(_, resting)| *resting > 0).collect();
    let whose = match resting.as_slice() {
        [] => "they are of connections with clients that this side closed first".to_owned(),
        pools => {
            let each: Vec<String> = pools
                .iter()
                .map(|(name, resting)| format!("pool {name} has {resting} tuples resting"))
                .collect();
            format!(
                "{}; a tuple used again at once may meet its old connection at the server",
                each.join(", ")
            )
        }
    };
    let message = format!(
        "{count} connections did not go to TIME_WAIT because net.ipv4.tcp_max_tw_buckets ({max}) are there; {whose}"
    );
    let remedy = vec![
        format!("sysctl -w net.ipv4.tcp_max_tw_buckets={}", (max * 2).max(65_536)),
        "connections that are used again (HTTP keep-alive) leave fewer".to_owned(),
    ];
    let of = resting.iter().map(|(name, _)| name.clone()).collect();
    Text { counter: Count::TimeWaitOverflow.name(), of, message, remedy }
}

/// Of the machine, and twice the present numbers.
fn tcp_memory(gauges: &Gauges) -> (String, Vec<String>) {
    let Some([low, pressure, high]) = gauges.tcp_pages_max else {
        return (
            "net.ipv4.tcp_mem is not to be seen from here".into(),
            vec!["raise net.ipv4.tcp_mem on the host".into()],
        );
    };
    let used = gauges.tcp_pages.unwrap_or(0);
    let now = format!("{used} pages are used now, the limits are {low} {pressure} {high}");
    (now, vec![format!("sysctl -w net.ipv4.tcp_mem=\"{} {} {}\"", low * 2, pressure * 2, high * 2)])
}

fn memory_pressure(count: u64, gauges: &Gauges) -> Text {
    let (now, mut remedy) = tcp_memory(gauges);
    let message = format!(
        "TCP came under memory pressure {count} times: all sockets of the machine together took more than the second number of \
         net.ipv4.tcp_mem, and the kernel shrinks their windows; {now}"
    );
    remedy.push(
        "fewer bytes in flight: smaller net.ipv4.tcp_rmem and tcp_wmem, or lower max_connections".to_owned(),
    );
    Text { counter: Count::MemoryPressures.name(), of: Vec::new(), message, remedy }
}

fn memory_abort(count: u64, gauges: &Gauges) -> Text {
    let (now, remedy) = tcp_memory(gauges);
    let message = format!("{count} connections were reset because TCP was out of memory; {now}");
    Text { counter: Count::AbortOnMemory.name(), of: Vec::new(), message, remedy }
}

fn orphans(count: u64, gauges: &Gauges) -> Text {
    let (orphans, max) = (gauges.orphans.unwrap_or(0), gauges.orphans_max.unwrap_or(0));
    let message = format!(
        "{count} closed connections were reset before their last bytes were taken: {orphans} of the machine wait for that, and \
         net.ipv4.tcp_max_orphans is {max}; their clients are slow or gone"
    );
    let remedy = vec![
        format!("sysctl -w net.ipv4.tcp_max_orphans={}", (max * 2).max(65_536)),
        "sysctl -w net.ipv4.tcp_orphan_retries=3".to_owned(),
    ];
    Text { counter: Count::AbortOnMemory.name(), of: Vec::new(), message, remedy }
}

/// Rules that keep a listener's connections out of the table.
fn untracked(scene: &Scene) -> Option<String> {
    let mut ports: Vec<u16> = scene.listeners.iter().map(|(_, address)| address.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    (!ports.is_empty()).then(|| {
        format!(
            "or do not track them: nft 'table inet fourfold {{ chain in {{ type filter hook prerouting priority raw; tcp dport {{ \
             {ports} }} notrack; }}; chain out {{ type filter hook output priority raw; tcp sport {{ {ports} }} notrack; }}; }}'"
        )
    })
}

fn conntrack_full(count: u64, gauges: &Gauges, scene: &Scene) -> Text {
    let (now, max) = (gauges.conntrack.unwrap_or(0), gauges.conntrack_max.unwrap_or(0));
    let message = format!(
        "connection tracking threw out or dropped {count} because its table was full: it has {now} entries, \
         net.netfilter.nf_conntrack_max is {max}; a proxied connection takes two"
    );
    let mut remedy = vec![format!("sysctl -w net.netfilter.nf_conntrack_max={}", (max * 2).max(262_144))];
    remedy.extend(untracked(scene));
    Text { counter: Count::ConntrackDrop.name(), of: Vec::new(), message, remedy }
}

fn insert_failed(count: u64, scene: &Scene) -> Text {
    let message = format!(
        "connection tracking dropped {count} packets because another connection had their entry: address translation gave out the \
         same tuple twice, or has no port left"
    );
    let mut remedy = vec!["give the translation more addresses or ports".to_owned()];
    remedy.extend(untracked(scene));
    Text { counter: Count::ConntrackInsertFailed.name(), of: Vec::new(), message, remedy }
}

fn neighbours(count: u64, gauges: &Gauges) -> Text {
    let max = gauges.neighbours_max.unwrap_or(1024);
    let message = format!(
        "{count} packets found no place for their neighbour's address: the table holds net.ipv4.neigh.default.gc_thresh3 ({max})"
    );
    let more = max * 4;
    let remedy = vec![
        format!(
            "sysctl -w net.ipv4.neigh.default.gc_thresh3={more} net.ipv4.neigh.default.gc_thresh2={}",
            more / 2
        ),
        format!(
            "sysctl -w net.ipv6.neigh.default.gc_thresh3={more} net.ipv6.neigh.default.gc_thresh2={}",
            more / 2
        ),
    ];
    Text { counter: Count::NeighbourTableFull.name(), of: Vec::new(), message, remedy }
}

fn stall(ms: u64) -> Text {
    let message = format!("everything on this machine stood still for {ms} ms, waiting for memory");
    let remedy = vec!["add memory, lower max_connections, or move other programs away".to_owned()];
    Text { counter: "memory pressure, full", of: Vec::new(), message, remedy }
}

fn cgroup(count: u64, gauges: &Gauges) -> Text {
    let (now, max) = (gauges.cgroup_bytes.unwrap_or(0), gauges.cgroup_bytes_max.unwrap_or(0));
    let message = format!(
        "this program's cgroup came up against its memory limit {count} times: {} of {} MiB; sockets count as well",
        now >> 20,
        max >> 20
    );
    let remedy =
        vec!["raise memory.max (systemd MemoryMax=, docker --memory, Kubernetes limits.memory)".to_owned()];
    Text { counter: "memory.events max", of: Vec::new(), message, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGE: &str = "0.0.0.0:8080";
    const OTHER: &str = "0.0.0.0:9090";

    fn scene() -> Scene {
        Scene {
            listeners: vec![("edge".into(), EDGE.parse().unwrap()), ("inner".into(), OTHER.parse().unwrap())],
            pools: vec![("chat".into(), 700), ("api".into(), 0)],
        }
    }

    fn listening(address: &str, drops: u32) -> Listening {
        Listening { address: address.parse().unwrap(), queued: 0, backlog: 128, drops: Some(drops) }
    }

    fn gauges() -> Gauges {
        Gauges {
            time_wait_max: Some(1000),
            orphans: Some(60),
            orphans_max: Some(100),
            tcp_pages: Some(95),
            tcp_pages_max: Some([80, 90, 100]),
            conntrack: Some(64),
            conntrack_max: Some(64),
            somaxconn: Some(4096),
            ..Gauges::default()
        }
    }

    /// Every count at this value, and so many drops at the first listener's two sockets.
    fn sample(value: u64, drops: u32) -> Sample {
        let counts = Count::ALL.iter().fold(Counts::default(), |counts, count| counts.with(*count, value));
        let listening = vec![listening(EDGE, drops), listening(EDGE, 0), listening(OTHER, 5)];
        Sample { counts, gauges: gauges(), listening }
    }

    fn only(count: Count, before: u64, after: u64, drops: u32) -> Vec<Notice> {
        let mut explainer = Explainer::default();
        let first = sample(before, 0);
        assert!(explainer.handle_sample(0, &first, &scene()).is_empty(), "what was before is not news");
        let mut second = sample(before, drops);
        second.counts = second.counts.with(count, after);
        explainer.handle_sample(1000, &second, &scene())
    }

    fn one(notices: &[Notice]) -> &Notice {
        let [notice] = notices else { panic!("{notices:?}") };
        notice
    }

    #[test]
    fn an_overflow_names_the_listener_whose_queue_was_full_and_the_remedy() {
        let mut explainer = Explainer::default();
        let _ = explainer.handle_sample(0, &sample(5, 0), &scene());
        let mut later = sample(5, 17);
        later.counts = later.counts.with(Count::ListenOverflows, 22).with(Count::ListenDrops, 22);
        let told = explainer.handle_sample(1000, &later, &scene());
        let notice = one(&told);
        assert_eq!(
            (notice.kind, notice.count, notice.counter),
            (EventKind::AcceptQueueFull, 17, Some("ListenOverflows"))
        );
        assert_eq!((notice.of.as_slice(), notice.severity), (&["edge".to_owned()][..], Severity::Warning));
        assert!(notice.message.contains("listener edge (0.0.0.0:8080): 17 dropped"), "{}", notice.message);
        assert!(notice.message.contains("holds 128"), "{}", notice.message);
        assert!(notice.remedy.iter().any(|one| one.starts_with("backlog = 4096")), "{:?}", notice.remedy);
    }

    #[test]
    fn another_programs_listener_is_not_held_against_ours() {
        let told = only(Count::ListenOverflows, 0, 9, 0);
        let notice = one(&told);
        assert_eq!((notice.severity, notice.of.len()), (Severity::Info, 0));
        assert!(notice.message.contains("at no listener of this instance"), "{}", notice.message);
    }

    #[test]
    fn drops_that_have_no_counter_of_their_own_are_what_is_left() {
        let mut explainer = Explainer::default();
        let _ = explainer.handle_sample(0, &sample(0, 0), &scene());
        let mut later = sample(0, 10);
        later.counts = later.counts.with(Count::ListenDrops, 10).with(Count::ListenOverflows, 4);
        let told = explainer.handle_sample(1000, &later, &scene());
        let counts: Vec<_> = told.iter().map(|notice| (notice.kind, notice.count)).collect();
        assert_eq!(counts, [(EventKind::AcceptQueueFull, 4), (EventKind::SynDropped, 6)]);
    }

    #[test]
    fn each_kind_is_told_of_once_in_an_interval_and_nothing_is_lost() {
        let mut explainer = Explainer::default();
        let mut told = Vec::new();
        for second in 0..=30 {
            let mut now = sample(0, 0);
            now.counts = now.counts.with(Count::TimeWaitOverflow, second * 3);
            told.extend(explainer.handle_sample(second * 1000, &now, &scene()));
        }
        let counts: Vec<u64> = told.iter().map(|notice| notice.count).collect();
        assert_eq!(counts, [3, 30, 30], "at once, then what came in the ten seconds since");
    }

    #[test]
    fn time_wait_names_the_pools_whose_tuples_rest() {
        let told = only(Count::TimeWaitOverflow, 3, 8, 0);
        let notice = one(&told);
        assert_eq!((notice.count, notice.of.as_slice()), (5, &["chat".to_owned()][..]));
        assert!(notice.message.contains("tcp_max_tw_buckets (1000)"), "{}", notice.message);
        assert!(notice.remedy.contains(&"sysctl -w net.ipv4.tcp_max_tw_buckets=65536".to_owned()));
    }

    #[test]
    fn a_reset_for_memory_is_told_from_one_for_orphans() {
        let told = only(Count::AbortOnMemory, 0, 4, 0);
        let notice = one(&told);
        assert_eq!(notice.kind, EventKind::OrphanLimit);
        assert!(
            notice.message.contains("60 of the machine") && notice.message.contains("tcp_max_orphans is 100")
        );
        assert!(notice.remedy.contains(&"sysctl -w net.ipv4.tcp_max_orphans=65536".to_owned()));
        let mut explainer = Explainer::default();
        let few = Gauges { orphans: Some(1), ..gauges() };
        let _ = explainer.handle_sample(0, &Sample { gauges: few, ..sample(0, 0) }, &scene());
        let mut later = Sample { gauges: few, ..sample(0, 0) };
        later.counts = later.counts.with(Count::AbortOnMemory, 2);
        let told = explainer.handle_sample(1000, &later, &scene());
        assert_eq!(one(&told).kind, EventKind::TcpMemoryAbort);
    }

    #[test]
    fn every_kind_has_numbers_and_something_to_do() {
        for (count, kind, part) in [
            (Count::RequestQueueDrops, EventKind::SynQueueFull, "tcp_syncookies=1"),
            (Count::RequestQueueCookies, EventKind::SynCookies, "backlog"),
            (Count::ListenDrops, EventKind::SynDropped, "show limits"),
            (
                Count::MemoryPressures,
                EventKind::TcpMemoryPressure,
                "sysctl -w net.ipv4.tcp_mem=\"160 180 200\"",
            ),
            (Count::ConntrackDrop, EventKind::ConntrackFull, "nf_conntrack_max=262144"),
            (
                Count::ConntrackInsertFailed,
                EventKind::ConntrackInsertFailed,
                "tcp dport { 8080, 9090 } notrack",
            ),
            (Count::NeighbourTableFull, EventKind::NeighbourTableFull, "gc_thresh3=4096"),
            (Count::MemoryStallUs, EventKind::MemoryStall, "add memory"),
            (Count::CgroupMax, EventKind::CgroupMemory, "memory.max"),
        ] {
            let told = only(count, 10, 500_010, 0);
            let notice = one(&told);
            assert_eq!(notice.kind, kind);
            assert!(notice.remedy.iter().any(|one| one.contains(part)), "{kind:?}: {:?}", notice.remedy);
            assert!(!notice.message.contains("  "), "{}", notice.message);
        }
    }

    #[test]
    fn short_stalls_and_counts_that_go_back_are_nothing() {
        assert!(only(Count::MemoryStallUs, 0, 99_999, 0).is_empty());
        assert!(only(Count::ConntrackDrop, 10, 5, 0).is_empty());
        assert!(only(Count::ListenOverflows, 10, 10, 0).is_empty());
    }

    #[test]
    fn a_kernel_that_says_nothing_is_asked_in_vain_and_no_harm() {
        let mut explainer = Explainer::default();
        for second in 0..3 {
            assert!(explainer.handle_sample(second * 1000, &Sample::default(), &scene()).is_empty());
        }
    }
}
