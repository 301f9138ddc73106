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

    pub fn clear<N: Net>(&mut self, net: &mut N) {
        while let Some(buf) = self.pop() {
            net.free(buf);
        }
    }
}
