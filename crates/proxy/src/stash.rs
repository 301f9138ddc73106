//! Bytes that nobody takes yet.

use fourfold_engine::{Buf, Net};
use std::collections::VecDeque;

/// Bytes that came before their time, in order. Nothing while there are none.
#[derive(Default)]
#[expect(clippy::box_collection, reason = "eight bytes in an idle client instead of thirty-two")]
pub(crate) struct Stash(Option<Box<VecDeque<Buf>>>);

impl Stash {
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// In buffers.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.len())
    }

    pub fn push(&mut self, buf: Buf) {
        self.0.get_or_insert_default().push_back(buf);
    }

    pub fn push_front(&mut self, buf: Buf) {
        self.0.get_or_insert_default().push_front(buf);
    }

    pub fn pop(&mut self) -> Option<Buf> {
        let queue = self.0.as_mut()?;
        let buf = queue.pop_front();
        if queue.is_empty() {
            self.0 = None;
        }
        buf
    }

    /// What lies there, as far as `most` bytes.
    pub fn copy<N: Net>(&self, net: &N, most: usize) -> Vec<u8> {
        let mut copy = Vec::new();
        for buf in self.0.iter().flat_map(|queue| queue.iter()) {
            let bytes = net.bytes(buf);
            copy.extend_from_slice(bytes.get(..bytes.len().min(most - copy.len())).unwrap_or(bytes));
        }
        copy
    }

    /// The first `count` bytes have been used.
    pub fn advance<N: Net>(&mut self, net: &mut N, mut count: usize) {
        while let Some(mut buf) = self.pop() {
            if count < buf.len() {
                buf.advance(count);
                return self.push_front(buf);
            }
            count -= buf.len();
            net.free(buf);
        }
    }

    pub fn clear<N: Net>(&mut self, net: &mut N) {
        while let Some(buf) = self.pop() {
            net.free(buf);
        }
    }
}
