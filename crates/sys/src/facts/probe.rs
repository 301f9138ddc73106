//! What a connection costs here, found by making some.

use super::network;
use crate::descriptors;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

/// Connections made to see what the kernel allocates for them: enough that what else happens on the machine is noise.
const PAIRS: usize = 500;
/// Of three looks the middle one counts: other programs allocate and free meanwhile.
const LOOKS: usize = 3;
/// What both ends of a connection may come to; anything else is other programs' doing.
const PLAUSIBLE_BYTES: std::ops::RangeInclusive<u64> = 4_000..=20_000;
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
}

/// Makes some connections, in a network namespace of its own where they disturb nobody, and counts the objects that came into being.
pub fn pair_memory() -> Result<PairMemory, String> {
    let work = || {
        network::leave().map_err(|errno| format!("a network namespace of its own: {errno}"))?;
        let private = descriptors::private_table(&[]);
        private.map_err(|errno| format!("a descriptor table of its own: {errno}"))?;
        measure()
    };
    std::thread::spawn(work).join().map_err(|_| "the thread panicked".to_owned())?
}

fn measure() -> Result<PairMemory, String> {
    let mut looks = (0..LOOKS).map(|_| look()).collect::<Result<Vec<PairMemory>, String>>()?;
    looks.sort_by_key(|one| one.bytes);
    let middle = looks.get(LOOKS / 2).copied().filter(|one| PLAUSIBLE_BYTES.contains(&one.bytes));
    middle.ok_or_else(|| "too much else happens on this machine to measure it".into())
}

fn look() -> Result<PairMemory, String> {
    let before = slabs()?;
    let pairs = connect(PAIRS)?;
    let after = slabs()?;
    let mut memory = PairMemory { bytes: 0, charged_bytes: 0 };
    for (name, slab) in after {
        let fresh = slab.active.saturating_sub(before.get(&name).map_or(0, |slab| slab.active));
        // Both ends are alike: each has so many objects of a kind.
        let each = (fresh as f64 / (2 * pairs.len()) as f64).round() as u64;
        memory.bytes += 2 * each * slab.pages * PAGE_BYTES / slab.objects.max(1);
        memory.charged_bytes += 2 * each * (slab.object_bytes + GROUP_POINTER_BYTES);
    }
    pairs
        .iter()
        .flat_map(|(one, other)| [one, other])
        .for_each(|end| crate::socket::reset_on_close(end.as_raw_fd()));
    Ok(memory)
}

fn connect(count: usize) -> Result<Vec<(TcpStream, TcpStream)>, String> {
    let failed = |error: std::io::Error| format!("a connection to measure by: {error}");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let one = |_| Ok((TcpStream::connect(address).map_err(failed)?, listener.accept().map_err(failed)?.0));
    (0..count).map(one).collect()
}

struct Slab {
    active: u64,
    object_bytes: u64,
    /// Of one slab.
    objects: u64,
    pages: u64,
}

/// /proc/slabinfo (slabinfo(5)): name, active, all, object's size, objects and pages of a slab.
fn slabs() -> Result<BTreeMap<String, Slab>, String> {
    let text = super::read("/proc/slabinfo")?;
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        let mut number = |skip: usize| words.nth(skip)?.parse::<u64>().ok();
        let slab =
            Slab { active: number(0)?, object_bytes: number(1)?, objects: number(0)?, pages: number(0)? };
        Some((name, slab))
    };
    Ok(text.lines().skip(2).filter_map(line).collect())
}

/// Whether a connection within this network namespace is tracked: by making one.
pub fn is_tracked() -> Result<bool, String> {
    let before = network::tracked()?;
    let pairs = connect_briefly()?;
    let after = network::tracked()?;
    drop(pairs);
    Ok(after > before)
}

/// In a table that is full the connection is not made: that, too, says that it is tracked.
fn connect_briefly() -> Result<Option<(TcpListener, TcpStream)>, String> {
    let failed = |error: std::io::Error| format!("a connection to see whether it is tracked: {error}");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let stream = TcpStream::connect_timeout(&address, std::time::Duration::from_millis(200));
    Ok(stream.ok().map(|stream| {
        crate::socket::reset_on_close(stream.as_raw_fd());
        (listener, stream)
    }))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_connection_takes_some_kilobytes() {
        match super::pair_memory() {
            Ok(memory) => assert!(
                memory.charged_bytes > 4_000 && memory.charged_bytes < memory.bytes * 5 / 4,
                "{memory:?}"
            ),
            Err(why) => eprintln!("not measured here: {why}"),
        }
    }
}
