//! What things cost, and what is assumed where nobody says: named, with where each figure is from.

/// Kernel memory of both ends of an idle TCP connection where it cannot be measured: twice the middle of what Linux 5.10 to 6.18 were
/// seen to take (3.5 to 4.5 KB a socket: sock, inode, dentry, file, LSM).
pub const PAIR_BYTES: u64 = 8_000;
/// Kernel memory by which a socket is watched: `struct epitem` and `struct eppoll_entry`; or an armed receive's `struct io_kiocb` (256),
/// its message header (512) and its poll (96). Measured as what the caches of the machine grow by for each socket.
pub const WATCH_BYTES_EPOLL: u64 = 200;
pub const WATCH_BYTES_URING: u64 = 864;
/// Of that, what a control group is charged: the message header is not (`io_alloc_async_data()` does not account).
pub const WATCH_CHARGED_BYTES_EPOLL: u64 = 200;
pub const WATCH_CHARGED_BYTES_URING: u64 = 220;
/// Fourfold's own memory per idle tunnel and per WebSocket: 170 and 194 bytes once warm (docs/benchmarks.md), and the pages of tables that
/// are begun.
pub const USER_BYTES_TCP: u64 = 220;
pub const USER_BYTES_HTTP: u64 = 250;
/// Fourfold's own memory before the first connection, without the program's text, which is given back when memory is short.
pub const PROCESS_BYTES: u64 = 3 << 19;
/// For each shard: stack, tables, and buffers that were lent to the kernel once.
pub const SHARD_BYTES_EPOLL: u64 = 400 << 10;
pub const SHARD_BYTES_URING: u64 = 1_400 << 10;
/// Of the machine's available memory, the part that is left to everything else.
pub const MEMORY_SPARE_PERCENT: u64 = 10;
/// What the engine reckons a socket takes when nobody says how many connections there shall be.
pub const SOCKET_BYTES_DERIVED: u64 = 5 * 1024;

pub const PAGE_BYTES: u64 = 4096;
/// Pages that TCP is charged for a socket with so many bytes queued: the bytes, and one page that is begun (measured on 6.18:
/// 1 byte 0.96, 4 096 bytes 1.98, 65 536 bytes 17.0).
#[must_use]
pub fn queued_pages(bytes: u64) -> u64 {
    if bytes == 0 { 0 } else { bytes / PAGE_BYTES + 1 }
}
/// Of idle connections, those that have a little queued at any moment.
pub const QUEUED_PERCENT: u64 = 10;

/// When all clients come back at once, after a restart say, within this time.
pub const RETURN_SECONDS: u64 = 60;
/// How long accepting may pause: a busy shard, a turn of the scheduler.
pub const PAUSE_MS: u64 = 100;
/// include/net/tcp.h, TCP_TIMEWAIT_LEN.
pub const TIME_WAIT_SECONDS: u64 = 60;
/// Files of the machine that Fourfold opens besides sockets, and threads besides shards.
pub const OTHER_FILES: u64 = 64;
pub const OTHER_THREADS: u64 = 8;
/// Room above what is wanted that a fix makes.
pub const SPARE_PERCENT: u64 = 25;
