//! Descriptor limits and private descriptor tables.
//!
//! RLIMIT_NOFILE bounds a descriptor table, not a process: a thread that leaves the shared table
//! has a whole limit of its own (Linux 5.9).

use crate::errno::{Errno, check};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Lifts the soft limit to the hard one and returns what holds then.
pub fn raise_limit() -> Result<u64, Errno> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct outlives the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    if limit.rlim_cur < limit.rlim_max {
        let wanted = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        // SAFETY: as above. Raising up to the hard limit needs no privilege; if it fails the soft limit still holds.
        if check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) }).is_ok() {
            limit.rlim_cur = limit.rlim_max;
        }
    }
    Ok(limit.rlim_cur)
}

/// Gives the calling thread a descriptor table of its own that holds only `keep` (and standard input, output and error).
/// Numbers stay the same; the other threads' table is untouched.
pub fn private_table(keep: &[RawFd]) -> Result<(), Errno> {
    // An empty range with CLOSE_RANGE_UNSHARE does what unshare(CLONE_FILES) does, and containers' default seccomp profiles
    // allow it where they forbid unshare(2).
    let unshare = libc::CLOSE_RANGE_UNSHARE;
    // SAFETY: no pointers. After it, closing a descriptor here closes it for nobody else.
    check(unsafe { libc::syscall(libc::SYS_close_range, u32::MAX, u32::MAX, unshare) } as libc::c_int)?;
    let mut keep: Vec<u32> = [0, 1, 2].iter().chain(keep).filter_map(|fd| u32::try_from(*fd).ok()).collect();
    keep.sort_unstable();
    keep.dedup();
    let mut first = 0;
    for fd in keep.into_iter().map(Some).chain([None]) {
        let last = fd.map_or(u32::MAX, |fd| fd.saturating_sub(1));
        if fd.is_none_or(|fd| first < fd) {
            // SAFETY: closes numbers of this table only, none of which this thread uses.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } as libc::c_int)?;
        }
        first = fd.map_or(first, |fd| fd + 1);
    }
    Ok(())
}

/// Takes ownership of a number of the calling thread's table. For numbers that [`private_table`] kept, whose originals other
/// threads own in theirs.
pub fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the caller vouches that the number is open in this table and owned by nobody else here.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Closes a number of the calling thread's table that the caller owns.
pub fn close(fd: RawFd) {
    drop(own(fd));
}

/// Descriptors open in the calling thread's table.
pub fn open_count() -> usize {
    std::fs::read_dir("/proc/thread-self/fd").map_or(0, |entries| entries.count().saturating_sub(1))
}
