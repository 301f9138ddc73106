//! Fixed-size buffers of one shard. An idle connection holds none; a buffer is owned by exactly one of: the free list,
//! a [`Buf`] on its way, a send [`Queue`], or the kernel (io_uring's provided buffers).
//!
//! Memory is mapped in chunks as needed, up to the limit, and handed back to the kernel by [`Pool::trim`] when idle.

use crate::errno::Errno;
use std::ptr::NonNull;

/// One buffer. Offsets must fit in 16 bits.
pub const BUFFER_BYTES: usize = 16 * 1024;
const CHUNK_BUFFERS: usize = 64;
const CHUNK_BYTES: usize = CHUNK_BUFFERS * BUFFER_BYTES;
const NONE: u16 = u16::MAX;
const _: () = assert!(BUFFER_BYTES <= u16::MAX as usize);

/// Of a pool's buffers, one in so many is not read into: what was read can be answered and sent on while all others are in use,
/// and reading waits until some come free.
const RESERVE_SHARE: usize = 16;

/// Most buffers that a pool can count: ids are 16 bits, as in io_uring's completions.
pub const POOL_BUFFERS_MAX: usize = 32 * 1024;

/// A filled part of a buffer. Not `Clone`: whoever holds it sends it or frees it.
#[derive(Debug)]
#[must_use = "send it or give it back to the pool"]
pub struct Buf {
    id: u16,
    start: u16,
    end: u16,
}

impl Buf {
    pub fn len(&self) -> usize {
        usize::from(self.end - self.start)
    }
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
    pub(crate) fn id(&self) -> u16 {
        self.id
    }
    pub fn truncate(&mut self, len: usize) {
        if len < self.len() {
            self.end = self.start + len as u16;
        }
    }
    pub fn advance(&mut self, n: usize) {
        self.start += n.min(self.len()) as u16;
    }
}

#[derive(Clone, Copy)]
struct Meta {
    start: u16,
    end: u16,
    next: u16,
}

pub struct Pool {
    chunks: Vec<NonNull<u8>>,
    meta: Vec<Meta>,
    /// Last in, first out: the buffer used last is the one still in the cache.
    free: Vec<u16>,
    limit: usize,
}

// SAFETY: the pool owns its mappings; nothing else refers to them but the kernel on behalf of the same owner.
unsafe impl Send for Pool {}

impl Pool {
    /// At most `limit` buffers, none mapped yet.
    pub fn new(limit: usize) -> Self {
        let limit = limit.clamp(1, POOL_BUFFERS_MAX);
        Self { chunks: Vec::new(), meta: Vec::new(), free: Vec::new(), limit }
    }

    pub fn limit(&self) -> usize {
        self.limit
    }
    pub fn in_use(&self) -> usize {
        self.meta.len() - self.free.len()
    }
    /// Buffers that could still be had.
    pub fn available(&self) -> usize {
        self.limit.saturating_sub(self.in_use())
    }

    /// Whether there is a buffer to read into.
    pub fn can_read(&self) -> bool {
        self.available() > self.limit / RESERVE_SHARE
    }

    /// A buffer to read into. `None`: what is left is for answers.
    pub fn alloc_to_read(&mut self) -> Option<Buf> {
        if self.can_read() { self.alloc() } else { None }
    }

    /// An empty-headed buffer of full capacity, to be filled and truncated. `None`: the limit is reached or the kernel
    /// refuses memory.
    pub fn alloc(&mut self) -> Option<Buf> {
        if self.in_use() >= self.limit {
            return None;
        }
        if self.free.is_empty() {
            self.grow().ok()?;
        }
        let id = self.free.pop()?;
        Some(Buf { id, start: 0, end: BUFFER_BYTES as u16 })
    }

    pub fn free(&mut self, buf: Buf) {
        self.free.push(buf.id);
    }

    pub fn bytes(&self, buf: &Buf) -> &[u8] {
        // SAFETY: `buf` is the only owner of its buffer, `start..end` lies within it, the mapping lives as long as self.
        unsafe { std::slice::from_raw_parts(self.address(buf.id).add(usize::from(buf.start)), buf.len()) }
    }

    pub fn bytes_mut(&mut self, buf: &mut Buf) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut` on both makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.address(buf.id).add(usize::from(buf.start)), buf.len()) }
    }

    /// Whether the bytes of `buf` fit behind those of `tail`.
    pub fn fits(&self, tail: &Buf, buf: &Buf) -> bool {
        BUFFER_BYTES - usize::from(tail.end) >= buf.len()
    }

    /// Moves the bytes of `buf` behind those of `tail`, as many as fit; what does not comes back.
    pub fn join(&mut self, tail: &mut Buf, mut buf: Buf) -> Option<Buf> {
        let len = buf.len().min(BUFFER_BYTES - usize::from(tail.end));
        // SAFETY: two owned buffers of this pool never overlap; `len` bytes are within each, behind the end of one. The kernel
        // may be sending what is before that end, and nothing of it changes.
        unsafe {
            let from = self.address(buf.id).add(usize::from(buf.start));
            let to = self.address(tail.id).add(usize::from(tail.end));
            std::ptr::copy_nonoverlapping(from, to, len);
        }
        tail.end += len as u16;
        buf.advance(len);
        if !buf.is_empty() {
            return Some(buf);
        }
        self.free(buf);
        None
    }

    /// Writes `bytes` in front of those of `buf`, over what lay there and has been used. `false`: there is no room for them.
    pub fn prepend(&mut self, buf: &mut Buf, bytes: &[u8]) -> bool {
        let Some(start) = usize::from(buf.start).checked_sub(bytes.len()) else { return false };
        buf.start = start as u16;
        self.bytes_mut(buf).iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        true
    }

    /// A fresh buffer with these bytes, of which there are at most [`BUFFER_BYTES`]. `None`: as with [`Self::alloc`].
    pub fn write(&mut self, bytes: &[u8]) -> Option<Buf> {
        debug_assert!(bytes.len() <= BUFFER_BYTES);
        let mut buf = self.alloc()?;
        buf.truncate(bytes.len());
        self.bytes_mut(&mut buf).iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Some(buf)
    }

    /// Hands idle memory back to the kernel. The mapping stays, so buffers keep their addresses.
    pub fn trim(&mut self) {
        let mut free_in_chunk = vec![0usize; self.chunks.len()];
        for id in &self.free {
            free_in_chunk[usize::from(*id) / CHUNK_BUFFERS] += 1;
        }
        for (chunk, free) in self.chunks.iter().zip(free_in_chunk) {
            if free == CHUNK_BUFFERS {
                // SAFETY: every buffer of the chunk is free, so its content is nobody's; zero pages replace it.
                unsafe { libc::madvise(chunk.as_ptr().cast(), CHUNK_BYTES, libc::MADV_DONTNEED) };
            }
        }
    }

    /// Start of buffer `id`, which this pool has mapped.
    pub(crate) fn address(&self, id: u16) -> *mut u8 {
        let id = usize::from(id);
        let chunk = self.chunks[id / CHUNK_BUFFERS];
        // SAFETY: the offset stays within the chunk's mapping.
        unsafe { chunk.as_ptr().add(id % CHUNK_BUFFERS * BUFFER_BYTES) }
    }

    /// A buffer that the kernel has filled with `len` bytes.
    pub(crate) fn filled(id: u16, len: usize) -> Buf {
        Buf { id, start: 0, end: len.min(BUFFER_BYTES) as u16 }
    }

    fn grow(&mut self) -> Result<(), Errno> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping, no address asked for.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), CHUNK_BYTES, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if at == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        self.chunks.push(NonNull::new(at.cast()).ok_or(Errno::ENOMEM)?);
        let first = self.meta.len();
        self.meta.resize(first + CHUNK_BUFFERS, Meta { start: 0, end: 0, next: NONE });
        // Huge pages would make one small read resident by 2 MiB.
        // SAFETY: advice on our own mapping.
        unsafe { libc::madvise(at, CHUNK_BYTES, libc::MADV_NOHUGEPAGE) };
        self.free.extend((first..first + CHUNK_BUFFERS).rev().map(|id| id as u16));
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for chunk in &self.chunks {
            // SAFETY: mapped by `grow` with this length; nothing refers to it any more.
            unsafe { libc::munmap(chunk.as_ptr().cast(), CHUNK_BYTES) };
        }
    }
}

/// Bytes waiting to be sent on one socket. Small pieces share a buffer: but for the first, two
/// neighbours never fit into one, so that a bound on bytes is one on memory. A list threaded through the pool's own table, eight bytes when empty.
#[derive(Debug)]
pub struct Queue {
    head: u16,
    tail: u16,
    bytes: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self { head: NONE, tail: NONE, bytes: 0 }
    }
}

impl Queue {
    pub fn bytes(&self) -> usize {
        self.bytes as usize
    }
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub fn push(&mut self, pool: &mut Pool, buf: Buf) {
        if buf.is_empty() {
            return pool.free(buf);
        }
        self.bytes += buf.len() as u32;
        if self.tail != NONE {
            let Meta { start, end, .. } = pool.meta[usize::from(self.tail)];
            let mut tail = Buf { id: self.tail, start, end };
            if pool.fits(&tail, &buf) {
                let _ = pool.join(&mut tail, buf);
                pool.meta[usize::from(self.tail)].end = tail.end;
                return;
            }
        }
        pool.meta[usize::from(buf.id)] = Meta { start: buf.start, end: buf.end, next: NONE };
        match self.tail {
            NONE => self.head = buf.id,
            tail => pool.meta[usize::from(tail)].next = buf.id,
        }
        self.tail = buf.id;
    }

    /// The first `slices.len()` pieces, in order; how many there are.
    pub(crate) fn pieces(&self, pool: &Pool, slices: &mut [libc::iovec]) -> usize {
        let (mut id, mut n) = (self.head, 0);
        for slice in slices {
            if id == NONE {
                break;
            }
            let meta = pool.meta[usize::from(id)];
            // SAFETY: `start..end` lies within the buffer.
            slice.iov_base = unsafe { pool.address(id).add(usize::from(meta.start)) }.cast();
            slice.iov_len = usize::from(meta.end - meta.start);
            id = meta.next;
            n += 1;
        }
        n
    }

    /// Forgets the first `sent` bytes and frees the buffers that they emptied.
    pub fn consume(&mut self, pool: &mut Pool, sent: usize) {
        let mut left = sent.min(self.bytes());
        self.bytes -= left as u32;
        while left > 0 && self.head != NONE {
            let meta = &mut pool.meta[usize::from(self.head)];
            let here = usize::from(meta.end - meta.start);
            if left < here {
                meta.start += left as u16;
                return;
            }
            left -= here;
            let next = meta.next;
            pool.free.push(self.head);
            self.head = next;
        }
        if self.head == NONE {
            self.tail = NONE;
        }
    }

    pub fn clear(&mut self, pool: &mut Pool) {
        self.consume(pool, self.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_makes_room_in_front() {
        let mut pool = Pool::new(1);
        let mut buf = pool.write(b"old head, content").unwrap();
        buf.advance(b"old head, ".len());
        assert!(!pool.prepend(&mut buf, b"more than lay there before"));
        assert_eq!(pool.bytes(&buf), b"content");
        assert!(pool.prepend(&mut buf, b"new: "));
        assert_eq!(pool.bytes(&buf), b"new: content");
        assert!(pool.prepend(&mut buf, b"12345") && !pool.prepend(&mut buf, b"6"));
        pool.free(buf);
    }

    fn filled(pool: &mut Pool, byte: u8, len: usize) -> Buf {
        let mut buf = pool.alloc().unwrap();
        pool.bytes_mut(&mut buf).fill(byte);
        buf.truncate(len);
        buf
    }

    #[test]
    fn limit_holds_and_everything_comes_back() {
        let mut pool = Pool::new(100);
        let held: Vec<Buf> = std::iter::from_fn(|| pool.alloc()).collect();
        assert_eq!((held.len(), pool.available()), (100, 0));
        held.into_iter().for_each(|buf| pool.free(buf));
        assert_eq!((pool.in_use(), pool.available()), (0, 100));
        pool.trim();
        let buf = pool.alloc().unwrap();
        assert!(pool.bytes(&buf).iter().all(|b| *b == 0), "trimmed memory reads as zero");
        pool.free(buf);
    }

    #[test]
    fn what_was_read_can_be_answered() {
        let mut pool = Pool::new(32);
        let read: Vec<Buf> = std::iter::from_fn(|| pool.alloc_to_read()).collect();
        let answers: Vec<Buf> = std::iter::from_fn(|| pool.write(b"x")).collect();
        assert_eq!((read.len(), answers.len()), (30, 2));
        read.into_iter().chain(answers).for_each(|buf| pool.free(buf));
        assert!(pool.can_read());
    }

    #[test]
    fn small_pieces_share_a_buffer_and_keep_their_order() {
        let mut pool = Pool::new(8);
        let mut queue = Queue::default();
        let mut expected = Vec::new();
        for round in 0..20_000u32 {
            let len = 1 + round as usize % 5;
            let buf = filled(&mut pool, round as u8, len);
            expected.extend(std::iter::repeat_n(round as u8, len));
            queue.push(&mut pool, buf);
            assert!(pool.in_use() <= 2 * queue.bytes() / BUFFER_BYTES + 1);
            if round % 3 == 0 {
                let mut slices = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; 1];
                queue.pieces(&pool, &mut slices);
                let sent = slices[0].iov_len.min(11);
                // SAFETY: `pieces` points into the pool.
                let bytes = unsafe { std::slice::from_raw_parts(slices[0].iov_base.cast::<u8>(), sent) };
                assert_eq!(bytes, &expected[..sent], "round {round}");
                expected.drain(..sent);
                queue.consume(&mut pool, sent);
            }
        }
        assert_eq!(queue.bytes(), expected.len());
        queue.clear(&mut pool);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn joined_bytes_follow_and_what_does_not_fit_comes_back() {
        let mut pool = Pool::new(8);
        let mut tail = pool.write(b"hello, ").unwrap();
        let mut world = pool.write(b"... world").unwrap();
        world.advance(4);
        assert!(pool.join(&mut tail, world).is_none());
        assert_eq!((pool.bytes(&tail), pool.in_use()), (b"hello, world".as_slice(), 1));
        let long = filled(&mut pool, 7, BUFFER_BYTES);
        let rest = pool.join(&mut tail, long).unwrap();
        assert_eq!((tail.len(), rest.len()), (BUFFER_BYTES, 12));
        assert!(pool.bytes(&tail)[12..].iter().chain(pool.bytes(&rest)).all(|byte| *byte == 7));
        pool.free(tail);
        pool.free(rest);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn queue_keeps_order_over_partial_sends() {
        let mut pool = Pool::new(8);
        let mut queue = Queue::default();
        for byte in 1..=3 {
            let buf = filled(&mut pool, byte, 10_000);
            queue.push(&mut pool, buf);
        }
        queue.consume(&mut pool, 15_000);
        let mut slices = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; 8];
        assert_eq!(queue.pieces(&pool, &mut slices), 2);
        assert_eq!((slices[0].iov_len, slices[1].iov_len, queue.bytes()), (5_000, 10_000, 15_000));
        // SAFETY: `pieces` points into the pool.
        assert_eq!(unsafe { *slices[0].iov_base.cast::<u8>() }, 2);
        queue.clear(&mut pool);
        assert_eq!((pool.in_use(), queue.is_empty()), (0, true));
        let buf = filled(&mut pool, 9, 1);
        queue.push(&mut pool, buf);
        assert_eq!(queue.pieces(&pool, &mut slices), 1);
        queue.clear(&mut pool);
    }
}
