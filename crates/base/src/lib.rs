//! The pieces every ring stands on: generational slab, timer wheel, counters, seeded random numbers, rate gate,
//! descriptor tables.
//!
//! Pure: no clock, no randomness of its own, no I/O. Time is a number of milliseconds that the caller passes in.
#![forbid(unsafe_code)]

pub mod counter;
pub mod gate;
pub mod prng;
pub mod slab;
pub mod tables;
pub mod wheel;

/// Monotonic milliseconds since an arbitrary start. The engine reads the clock once per turn and passes it down.
pub type Millis = u64;
