//! Control groups, version 2 and 1: the limit that binds this process, wherever on the way to the root it stands.

use super::{number_in, own_bytes, read};
use std::path::{Path, PathBuf};

/// A limit, what is used of it, and the file that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    pub max: Option<u64>,
    pub used: u64,
    pub file: String,
}

/// Files of one controller.
struct Controller {
    name: &'static str,
    max: &'static str,
    used: &'static str,
}

const MEMORY_V2: Controller = Controller { name: "memory", max: "memory.max", used: "memory.current" };
const MEMORY_V1: Controller =
    Controller { name: "memory", max: "memory.limit_in_bytes", used: "memory.usage_in_bytes" };
const PIDS: Controller = Controller { name: "pids", max: "pids.max", used: "pids.current" };
/// Version 1 says "no limit" by a number of pages that no machine has.
const NO_LIMIT: u64 = 1 << 60;

/// The memory limit with the least room. What is used is without the files that are cached, which make room, and without
/// what this process takes.
pub fn memory() -> Result<Bound, String> {
    let bound = nearest(&MEMORY_V2, &MEMORY_V1)?;
    let Some(folder) = Path::new(&bound.file).parent() else { return Ok(bound) };
    let stat = read(&folder.join("memory.stat").display().to_string()).unwrap_or_default();
    let field = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse::<u64>().ok())
    };
    // Version 1 has the figures of the group itself under the plain names, and of all below under total_.
    let cached = |name: &str| field(&format!("total_{name}")).or(field(name)).unwrap_or(0);
    let cached = cached("inactive_file") + cached("active_file");
    Ok(Bound { used: bound.used.saturating_sub(cached + own_bytes()), ..bound })
}

pub fn pids() -> Result<Bound, String> {
    nearest(&PIDS, &PIDS)
}

fn nearest(two: &Controller, one: &Controller) -> Result<Bound, String> {
    let own = read("/proc/self/cgroup")?;
    let mounts = read("/proc/self/mountinfo")?;
    let in_two = folders(&own, &mounts, None).into_iter().filter_map(|folder| bound(&folder, two));
    let in_one = folders(&own, &mounts, Some(one.name)).into_iter().filter_map(|folder| bound(&folder, one));
    let all: Vec<Bound> = in_two.chain(in_one).collect();
    let room = |bound: &Bound| bound.max.map_or(u64::MAX, |max| max.saturating_sub(bound.used));
    let least = all.into_iter().min_by_key(room);
    Ok(least.unwrap_or(Bound { max: None, used: 0, file: String::new() }))
}

fn bound(folder: &Path, controller: &Controller) -> Option<Bound> {
    let file = folder.join(controller.max).display().to_string();
    let max = read(&file).ok()?.parse().ok().filter(|max| *max < NO_LIMIT);
    let used = number_in(&folder.join(controller.used).display().to_string()).unwrap_or(0);
    Some(Bound { max, used, file })
}

/// This process's group of version 2 (`controller` is `None`) or of a controller of version 1, and those above it.
fn folders(own: &str, mounts: &str, controller: Option<&str>) -> Vec<PathBuf> {
    let Some((mount, root)) = mounts.lines().find_map(|line| mount_of(line, controller)) else {
        return Vec::new();
    };
    let group = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, path) = (fields.next()?, fields.next()?);
        let ours = controller.map_or(names.is_empty(), |name| names.split(',').any(|one| one == name));
        ours.then_some(path)
    });
    // In a container the mount's root is the group that the container sees as the topmost.
    let below = group.map_or("", |group| group.strip_prefix(root).unwrap_or(group)).trim_start_matches('/');
    let mut folder = Path::new(mount).join(below);
    if !folder.exists() {
        folder = PathBuf::from(mount);
    }
    folder.ancestors().take_while(|one| one.starts_with(mount)).map(Path::to_path_buf).collect()
}

/// Mount point and root, from a line of /proc/self/mountinfo (proc(5)).
fn mount_of<'a>(line: &'a str, controller: Option<&str>) -> Option<(&'a str, &'a str)> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, mount) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let (kind, options) = (after.next()?, after.nth(1)?);
    let right = match controller {
        None => kind == "cgroup2",
        Some(name) => kind == "cgroup" && options.split(',').any(|one| one == name),
    };
    right.then_some((mount, root.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "30 20 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                          31 30 0:27 / /nowhere/memory rw - cgroup cgroup rw,memory\n\
                          32 30 0:28 /kubepods/pod1 /nowhere/two rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn groups_are_found_in_both_versions() {
        assert_eq!(mount_of(MOUNTS.lines().nth(1).unwrap(), Some("memory")), Some(("/nowhere/memory", "")));
        assert_eq!(mount_of(MOUNTS.lines().nth(2).unwrap(), None), Some(("/nowhere/two", "/kubepods/pod1")));
        // A folder that is not there is replaced by the mount point.
        let own = "4:memory:/a/b\n0::/kubepods/pod1/c\n";
        assert_eq!(folders(own, MOUNTS, Some("memory")), [PathBuf::from("/nowhere/memory")]);
        assert_eq!(folders(own, MOUNTS, None), [PathBuf::from("/nowhere/two")]);
        assert!(folders(own, MOUNTS, Some("pids")).is_empty());
    }

    #[test]
    fn this_process_is_in_some_group() {
        memory().unwrap();
        pids().unwrap();
    }
}
