//! The way of lines from shards to the writer: two boxes per shard, of which the writer holds at most one at a time.
//!
//! A shard puts its lines into the first box that it finds unlocked, so that it always finds one and never waits. Lines of one
//! shard stay in order: the second box is used only while the writer empties the first, and is emptied right after it.

use super::{Format, Record};
use fourfold_base::counter::Counter;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread::Thread;

/// Lines that wait for the writer, all shards together. What comes then is dropped and counted.
pub const QUEUE_BYTES_MAX: usize = 16 << 20;
/// Lines of a turn that a shard gathers before it hands them over.
const PENDING_BYTES_MAX: usize = 32 << 10;
/// With very many shards each still has room for what a turn may leave.
const BOX_BYTES_MIN: usize = 4 * PENDING_BYTES_MAX;
const BOXES: usize = 2;

/// What has become of lines since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub written: u64,
    /// Not taken from a shard, since what waits for the writer had reached its limit.
    pub dropped: u64,
    /// Taken, and refused by the file, standard output or syslog.
    pub lost: u64,
}

/// One log: what shards and writer share.
pub struct Queue {
    format: Format,
    box_bytes_max: usize,
    slots: Vec<Slot>,
    /// Wall clock minus the shards' clock.
    unix_offset_us: AtomicI64,
    written: AtomicU64,
    lost: AtomicU64,
    writer: OnceLock<Thread>,
}

#[derive(Default)]
struct Slot {
    boxes: [Mutex<Vec<u8>>; BOXES],
    dropped: Counter,
}

impl Queue {
    #[must_use]
    pub fn new(format: Format, shards: usize) -> Arc<Self> {
        let shards = shards.max(1);
        Arc::new(Self {
            format,
            box_bytes_max: (QUEUE_BYTES_MAX / shards / BOXES).max(BOX_BYTES_MIN),
            slots: std::iter::repeat_with(Slot::default).take(shards).collect(),
            unix_offset_us: AtomicI64::new(0),
            written: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            writer: OnceLock::new(),
        })
    }

    /// Wall-clock time, in microseconds, of the moment that shards call 0. The writer keeps it; a simulation sets it.
    pub fn set_unix_offset_us(&self, offset: i64) {
        self.unix_offset_us.store(offset, Relaxed);
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            written: self.written.load(Relaxed),
            dropped: self.slots.iter().map(|slot| slot.dropped.get()).sum(),
            lost: self.lost.load(Relaxed),
        }
    }

    /// Who is woken when a box is half full, for bursts that come faster than it looks by itself.
    pub(super) fn set_writer(&self, writer: Thread) {
        let _ = self.writer.set(writer);
    }

    /// Hands every box to `take`, which finds whole lines.
    pub(super) fn drain(&self, spare: &mut Vec<u8>, mut take: impl FnMut(&[u8])) {
        for lines in self.slots.iter().flat_map(|slot| &slot.boxes) {
            std::mem::swap(&mut *held(lines), spare);
            if !spare.is_empty() {
                take(spare);
            }
            spare.clear();
            spare.shrink_to(PENDING_BYTES_MAX);
        }
    }

    /// False: too much waits in there.
    fn put(&self, slot: &Slot, lines: &[u8]) -> bool {
        let Some(mut waiting) = free_box(slot) else { return false };
        let (before, after) = (waiting.len(), waiting.len() + lines.len());
        if after > self.box_bytes_max {
            return false;
        }
        waiting.extend_from_slice(lines);
        drop(waiting);
        let half = self.box_bytes_max / 2;
        if before < half && half <= after {
            self.writer.get().inspect(|writer| writer.unpark());
        }
        true
    }

    pub(super) fn count(&self, written: u64, lost: u64) {
        self.written.fetch_add(written, Relaxed);
        self.lost.fetch_add(lost, Relaxed);
    }
}

/// Bytes are right whoever panicked.
fn held(lines: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One shard's way into one log. There must be one handle per shard.
pub struct AccessLog {
    queue: Arc<Queue>,
    shard: usize,
    pending: Vec<u8>,
    pending_lines: u64,
}

impl AccessLog {
    #[must_use]
    pub fn new(queue: Arc<Queue>, shard: usize) -> Self {
        Self { queue, shard, pending: Vec::new(), pending_lines: 0 }
    }

    pub fn write(&mut self, record: &Record<'_>) {
        let started = i64::try_from(record.started_us).unwrap_or(i64::MAX);
        let unix_us = started.saturating_add(self.queue.unix_offset_us.load(Relaxed));
        self.queue.format.line(record, unix_us, &mut self.pending);
        self.pending_lines += 1;
        if self.pending.len() >= PENDING_BYTES_MAX {
            self.flush();
        }
    }

    /// Lines of this shard that were dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.queue.slots.get(self.shard).map_or(0, |slot| slot.dropped.get())
    }

    /// Makes the lines of this turn visible to the writer, or drops them when too many wait already. Never waits.
    pub fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let Some(slot) = self.queue.slots.get(self.shard) else { return };
        if !self.queue.put(slot, &self.pending) {
            slot.dropped.add(self.pending_lines);
        }
        self.pending.clear();
        self.pending_lines = 0;
    }
}

/// An idle shard keeps no lines back, and a shard that ends neither.
impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

fn free_box(slot: &Slot) -> Option<MutexGuard<'_, Vec<u8>>> {
    slot.boxes.iter().find_map(|lines| match lines.try_lock() {
        Ok(held) => Some(held),
        Err(TryLockError::Poisoned(held)) => Some(held.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    })
}
