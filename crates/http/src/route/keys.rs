//! Texts that a text may begin with, found by one binary search.
//!
//! Keys are sorted, and each knows the longest other key that it begins with, its parent. Let `k` be the last key that is not
//! after the text, and `b` any key that the text begins with. Then `b <= k <= text`, and everything sorted between `b` and a text
//! that begins with `b` begins with `b`: so `b` is `k` or among its ancestors. Following parents from `k` meets every key that the
//! text begins with, longest first.

#[derive(Debug)]
pub(super) struct Keys<T> {
    entries: Vec<Entry<T>>,
}

#[derive(Debug)]
pub(super) struct Entry<T> {
    pub key: Box<[u8]>,
    parent: Option<u32>,
    pub value: T,
}

impl<T> Keys<T> {
    /// `sorted` by key, each key once.
    pub fn new(sorted: impl IntoIterator<Item = (Vec<u8>, T)>) -> Self {
        let mut keys = Self { entries: Vec::new() };
        for (key, value) in sorted {
            let last = keys.entries.len().checked_sub(1).map(|index| index as u32);
            let parent =
                keys.ancestors(last).find(|(_, entry)| key.starts_with(&entry.key)).map(|(at, _)| at);
            keys.entries.push(Entry { key: key.into(), parent, value });
        }
        keys
    }

    /// The entries whose keys `text` begins with, longest first.
    pub fn beginning<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = &'a Entry<T>> {
        let after = self.entries.partition_point(|entry| &*entry.key <= text);
        let last = after.checked_sub(1).map(|index| index as u32);
        self.ancestors(last).map(|(_, entry)| entry).filter(|entry| text.starts_with(&entry.key))
    }

    fn ancestors(&self, from: Option<u32>) -> impl Iterator<Item = (u32, &Entry<T>)> {
        let at = |index: u32| self.entries.get(index as usize).map(|entry| (index, entry));
        std::iter::successors(from.and_then(at), move |(_, entry)| entry.parent.and_then(at))
    }
}
