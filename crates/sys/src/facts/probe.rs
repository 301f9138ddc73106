//! What a connection costs here, and whether it is tracked.

use super::network;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// What the kernel allocates for each end of a TCP connection, found by making thousands and seeing which of its caches grew by one
/// object for each. What an object takes is read where the program runs: counting again there would count what other programs do.
const OF_A_SOCKET: &[&str] = &["TCP", "sock_inode_cache", "filp", "dentry"];
/// There where a security module is.
const OF_A_SOCKET_MAYBE: &[&str] = &["lsm_inode_cache", "lsm_file_cache"];
/// For each connection that is made, `struct inet_bind_bucket` and `inet_bind2_bucket`, whose caches the kernel merges with others.
const BIND_BUCKETS_BYTES: u64 = 2 * 128;
/// `obj_full_size` (mm/memcontrol.c): a pointer to the group is charged with each object.
const GROUP_POINTER_BYTES: u64 = 8;
const PAGE_BYTES: u64 = 4096;

/// Kernel memory of both ends of an idle TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairMemory {
    /// Of the machine: whole slabs.
    pub bytes: u64,
    /// Of a control group: objects.
    pub charged_bytes: u64,
    /// Of these, the accepted end's `struct tcp_sock`. It comes into being in an interrupt, which is nobody's; `__inet_accept`
    /// (net/ipv4/af_inet.c) charges it to who accepts, but only where groups count socket memory: in version 2.
    pub accepted_bytes: u64,
}

/// Reads what the objects of a connection take. Only root may.
pub fn pair_memory() -> Result<PairMemory, String> {
    of_slabs(&slabs(&super::read("/proc/slabinfo")?))
}

fn of_slabs(slabs: &BTreeMap<&str, Slab>) -> Result<PairMemory, String> {
    let needed = |name: &&'static str| slabs.get(*name).ok_or_else(|| format!("/proc/slabinfo: no {name}"));
    let mut all = OF_A_SOCKET.iter().map(needed).collect::<Result<Vec<&Slab>, String>>()?;
    all.extend(OF_A_SOCKET_MAYBE.iter().filter_map(|name| slabs.get(*name)));
    let bytes: u64 = all.iter().map(|slab| slab.pages * PAGE_BYTES / slab.objects.max(1)).sum();
    let charged: u64 = all.iter().map(|slab| slab.object_bytes + GROUP_POINTER_BYTES).sum();
    let accepted = slabs.get("TCP").map_or(0, |slab| slab.object_bytes + GROUP_POINTER_BYTES);
    Ok(PairMemory {
        accepted_bytes: accepted,
        bytes: 2 * bytes + BIND_BUCKETS_BYTES,
        charged_bytes: 2 * charged + BIND_BUCKETS_BYTES + 2 * GROUP_POINTER_BYTES,
    })
}

struct Slab {
    object_bytes: u64,
    /// Of one slab.
    objects: u64,
    pages: u64,
}

/// slabinfo(5): name, active objects, all objects, an object's size, objects and pages of a slab.
fn slabs(text: &str) -> BTreeMap<&str, Slab> {
    let line = |line| {
        let mut words = str::split_whitespace(line);
        let name = words.next()?;
        let mut number = |skip: usize| words.nth(skip)?.parse::<u64>().ok();
        Some((name, Slab { object_bytes: number(2)?, objects: number(0)?, pages: number(0)? }))
    };
    text.lines().filter_map(line).collect()
}

/// How long a connection within this machine may take that is made to see whether it is tracked.
const PATIENCE: Duration = Duration::from_millis(200);

/// Whether a connection within this network namespace is tracked: by making one. In a table that is full it is not made, and some are in
/// the table.
pub fn is_tracked() -> Result<bool, String> {
    let failed = |error: std::io::Error| format!("a connection to see whether it is tracked: {error}");
    let before = network::tracked()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(failed)?;
    let after = network::tracked()?;
    crate::socket::reset_on_close(stream.as_raw_fd());
    Ok(after > before)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLABINFO: &str = "slabinfo - version: 2.1\n\
        # name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit>\n\
        TCP                   95    195   2368   13    8 : tunables    0    0    0 : slabdata     15     15      0\n\
        sock_inode_cache     242    342    832   19    4 : tunables    0    0    0 : slabdata     18     18      0\n\
        filp                1032   1323    192   21    1 : tunables    0    0    0 : slabdata     63     63      0\n\
        dentry            192387 192633    192   21    1 : tunables    0    0    0 : slabdata   9173   9173      0\n";

    #[test]
    fn a_connection_is_the_sum_of_its_objects() {
        let memory = of_slabs(&slabs(SLABINFO)).unwrap();
        assert_eq!(
            memory,
            PairMemory {
                bytes: 2 * (2520 + 862 + 195 + 195) + 256,
                charged_bytes: 7168 + 64 + 256 + 16,
                accepted_bytes: 2376
            }
        );
        let without = SLABINFO.replace("filp ", "flip ");
        assert!(of_slabs(&slabs(&without)).unwrap_err().contains("no filp"));
    }

    #[test]
    fn on_this_machine_it_is_some_kilobytes() {
        match pair_memory() {
            Ok(memory) => assert!((5_000..20_000).contains(&memory.bytes), "{memory:?}"),
            Err(why) => eprintln!("not readable here: {why}"),
        }
    }
}
