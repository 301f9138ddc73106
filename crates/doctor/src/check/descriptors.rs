//! Descriptors, files, threads.

use crate::capacity::Capacity;
use crate::cost;
use crate::finding::{DROP_IN_FILE, Found, Lasting, Limit, Remedy, lasting};

pub fn nofile(capacity: &Capacity<'_>) -> Vec<Found> {
    let facts = capacity.facts;
    let Some(nofile) = facts.nofile.get() else {
        return vec![Found::warn("the limit is not known", facts.nofile.why_missing())];
    };
    let Some(most) = capacity.by_descriptors() else { return Vec::new() };
    let connections = capacity.connections();
    let tables = match facts.private_tables.get() {
        Some(false) if !capacity.is_uring() => "all shards share one table",
        _ => "each shard has a table of its own",
    };
    let what = format!(
        "a hard limit of {} descriptors per table and {tables}: {most} connections of two sockets",
        nofile.hard
    );
    let why = match capacity.wanted.shards {
        Some(shards) => format!("RLIMIT_NOFILE bounds a table, not a machine, and `shards` is {shards}"),
        None => "RLIMIT_NOFILE bounds a table, not a machine; there are as many shards as it takes".into(),
    };
    let found = Found::at(Limit::held(most, connections), what, why);
    let found = match capacity.wanted.shards {
        Some(_) => found.remedy(Remedy::configuration(
            "leave `shards` out: as many as it takes are made",
            "more threads than processors: a few percent of processor time",
        )),
        None => found,
    };
    vec![found.remedy(raise(capacity, connections))]
}

fn raise(capacity: &Capacity<'_>, connections: u64) -> Remedy {
    let shards = capacity.wanted.shards.unwrap_or(capacity.facts.processors.get().copied().unwrap_or(1));
    let room = connections + connections * cost::SPARE_PERCENT / 100;
    let tables = capacity.tables();
    let wanted = tables.map_or(room * 2, |tables| tables.descriptors_for(room, shards.max(1) as usize));
    let wanted = wanted.next_multiple_of(1024);
    let over = capacity.facts.number("fs.nr_open").is_some_and(|most| most < wanted);
    let first = if over { format!("sysctl -w fs.nr_open={wanted} && ") } else { String::new() };
    let ways = vec![
        Lasting {
            way: "systemd",
            file: Some(DROP_IN_FILE),
            text: format!("[Service]\nLimitNOFILE={wanted}\n"),
        },
        lasting("container", format!("docker run --ulimit nofile={wanted}:{wanted}")),
        lasting("kubernetes", format!("the container runtime's service: LimitNOFILE={wanted}")),
    ];
    let command = format!("{first}prlimit --pid $$ --nofile={wanted}:{wanted}");
    Remedy::by_hand(command, ways, "none for Fourfold; needs CAP_SYS_RESOURCE above the hard limit")
}

pub fn file_max(capacity: &Capacity<'_>) -> Vec<Found> {
    let facts = capacity.facts;
    if facts.has_capability("CAP_SYS_ADMIN") == Some(true) {
        return vec![Found::pass("fs.file-max does not bind a process with CAP_SYS_ADMIN")];
    }
    let (Some(most), Some(max)) = (capacity.by_files(), facts.number("fs.file-max")) else {
        return vec![Found::warn("the machine's open files are not known", facts.files_open.why_missing())];
    };
    let open = facts.files_open.get().copied().unwrap_or(0);
    let sockets = capacity.sockets_here();
    let connections = capacity.connections();
    let what = format!(
        "{max} files on the whole machine, {open} of them open, {sockets} for each connection: {most} connections"
    );
    let why = "every socket is a file, io_uring's direct ones as well; whoever has CAP_SYS_ADMIN is exempt";
    let room = connections.saturating_mul(sockets) * (100 + cost::SPARE_PERCENT) / 100;
    let value = max.max(open + room + cost::OTHER_FILES).next_multiple_of(1024);
    let risk = "a file takes about 250 bytes of kernel memory that no limit of a user bounds then";
    vec![Found::at(Limit::held(most, connections), what, why).remedy(Remedy::setting(
        facts,
        "fs.file-max",
        value,
        risk,
    ))]
}

pub fn threads(capacity: &Capacity<'_>) -> Vec<Found> {
    let Some(free) = capacity.threads_free() else {
        return vec![Found::pass("no control group limits the number of threads")];
    };
    let needed = capacity.shards() as u64 + cost::OTHER_THREADS;
    let what = format!("{free} more threads may be started, {needed} are needed");
    if free >= needed {
        return vec![Found::pass(what)];
    }
    let file = capacity.facts.cgroup_pids.get().map(|bound| bound.file.clone()).unwrap_or_default();
    let ways = vec![
        Lasting {
            way: "systemd",
            file: Some(DROP_IN_FILE),
            text: format!("[Service]\nTasksMax={}\n", needed * 2),
        },
        lasting("container", format!("docker run --pids-limit {}", needed * 2)),
        lasting("kubernetes", format!("kubelet --pod-max-pids={}", needed * 2)),
    ];
    let most = capacity.by_descriptors().unwrap_or(0);
    let limit = Limit::held(if free <= cost::OTHER_THREADS { 0 } else { most }, capacity.connections());
    let found = Found::at(limit, what, "a shard is a thread; clone(2) fails with EAGAIN beyond pids.max");
    vec![found.remedy(Remedy::by_hand(format!("echo max > {file}"), ways, "none"))]
}
