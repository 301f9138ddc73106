//! Where in a head something stands: four bytes each way instead of a borrow, so that a parsed head can be kept and reused.

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    /// Heads are bounded by [`super::Limits`], far below 4 GB; a position beyond that becomes an empty span's.
    pub(super) fn new(start: usize, end: usize) -> Self {
        let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self { start: narrow(start), end: narrow(end) }
    }

    /// Empty when `bytes` is not the head that the span was found in.
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    pub const fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}
