//! Waiting for a condition that announces itself nowhere, such as a counter in `/proc`.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

const PAUSE_FIRST: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Asks `condition` until it holds or `deadline` has passed. `what` completes "waited in vain for …".
pub fn eventually(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    eventually_some(deadline, what, || condition().then_some(()))
}

/// As [`eventually`], for a condition that yields something.
pub fn eventually_some<T>(deadline: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + deadline;
    let mut pause = PAUSE_FIRST;
    loop {
        // Asked once more after the deadline: a machine that stalled us must not fail the test.
        let late = Instant::now() >= end;
        if let Some(found) = probe() {
            return Ok(found);
        }
        if late {
            bail!("waited {deadline:?} in vain for {what}");
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_or_says_what_it_waited_for() {
        let mut asked = 0;
        eventually(Duration::from_secs(10), "the third question", || {
            asked += 1;
            asked == 3
        })
        .unwrap();
        let error = eventually(Duration::ZERO, "nothing", || false).unwrap_err();
        assert!(error.to_string().contains("nothing"));
    }
}
