//! Counters with one writer: a shard adds without a locked instruction, any thread reads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Owned by one writing thread. Two writers would lose counts, never corrupt memory.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Declares a struct of [`Counter`]s together with its table of (name, help): the one definition from which output,
/// metrics and docs derive.
#[macro_export]
macro_rules! counters {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $help:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        $vis struct $name { $($(#[$field_meta])* #[doc = $help] pub $field: $crate::counter::Counter,)+ }
        impl $name {
            /// (name, help) of every counter, in the order of [`Self::values`].
            pub const TABLE: &'static [(&'static str, &'static str)] = &[$((stringify!($field), $help),)+];
            pub fn values(&self) -> Vec<u64> { vec![$(self.$field.get(),)+] }
        }
    };
}

#[cfg(test)]
mod tests {
    counters! { struct Two { first: "the first", second: "the second", } }

    #[test]
    fn table_and_values_line_up() {
        let two = Two::default();
        two.second.add(3);
        assert_eq!(
            Two::TABLE.iter().map(|t| t.0).zip(two.values()).collect::<Vec<_>>(),
            [("first", 0), ("second", 3)]
        );
    }
}
