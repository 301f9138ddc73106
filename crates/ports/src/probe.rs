//! Counts the steps of the allocator in this crate's own tests, and is nothing elsewhere. Cost claims
//! are tested in steps, since time on a shared machine proves nothing.

#[cfg(not(test))]
#[inline]
pub(crate) fn step() {}

#[cfg(test)]
pub(crate) use counting::{step, steps};

#[cfg(test)]
mod counting {
    use std::cell::Cell;

    thread_local! {
        static STEPS: Cell<u64> = const { Cell::new(0) };
    }

    pub(crate) fn step() {
        STEPS.with(|steps| steps.set(steps.get() + 1));
    }

    pub(crate) fn steps() -> u64 {
        STEPS.with(Cell::get)
    }
}
