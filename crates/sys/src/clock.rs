//! The monotonic clock. Only the event loops and programs read it; everything inward is told the time.

use std::sync::OnceLock;
use std::time::Instant;

/// Milliseconds since the first call in this process, one more than zero so that zero may mean "never".
pub fn monotonic_ms() -> u64 {
    elapsed().as_millis() as u64 + 1
}

/// The same clock in microseconds, for measurements: `monotonic_us() / 1000` is [`monotonic_ms`].
pub fn monotonic_us() -> u64 {
    elapsed().as_micros() as u64 + 1000
}

fn elapsed() -> std::time::Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}
