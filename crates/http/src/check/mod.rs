//! What must hold for any input: one body for the property tests here and for the fuzz targets under `fuzz/`.
//!
//! Each function panics when something does not hold; none expects anything of its input.

mod body;
mod head;
mod path;
mod route;

pub use body::body;
pub use head::{request, response};
pub use path::path;
pub use route::route;

/// Choices out of a fuzzer's bytes; the first ones for ever once they are used up.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn below(&mut self, bound: usize) -> usize {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        usize::from(*first) % bound.max(1)
    }
}

#[cfg(test)]
mod tests;
