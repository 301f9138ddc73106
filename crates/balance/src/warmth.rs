//! Slow start: how much of its weight a server gets that has come up a moment ago.
//!
//! From [`WARMTH_MIN`] straight up to all of it. It is relative to the warmest server, so that a pool that
//! has started as a whole is loaded evenly and its picks cost no more than usual.

use fourfold_base::Millis;

/// A thousand parts.
pub(crate) const WARM: u32 = 1000;
/// What a server begins with: little, but enough to warm it.
pub(crate) const WARMTH_MIN: u32 = WARM / 10;

#[derive(Clone, Debug)]
pub(crate) struct Warmth {
    slow_start_ms: u64,
    /// `None`: since ever.
    up_since: Vec<Option<Millis>>,
    /// The earliest of them.
    eldest: Option<Millis>,
    /// From then on all are warm.
    warm_at: Millis,
}

impl Warmth {
    pub fn new(servers: usize, slow_start_ms: u64) -> Warmth {
        Warmth { slow_start_ms, up_since: vec![None; servers], eldest: None, warm_at: 0 }
    }

    pub fn set_up_since(&mut self, server: usize, since: Millis) {
        let Some(slot) = self.up_since.get_mut(server) else { return };
        *slot = Some(since);
        self.eldest = self.up_since.iter().copied().min().flatten();
        self.warm_at = self.warm_at.max(since.saturating_add(self.slow_start_ms));
    }

    /// Of [`WARM`] parts of its weight, those that the server gets now.
    pub fn of(&self, server: usize, now: Millis) -> u32 {
        if now >= self.warm_at {
            return WARM;
        }
        let own = self.ramp(self.up_since.get(server).copied().flatten(), now);
        (own * WARM / self.ramp(self.eldest, now)).clamp(WARMTH_MIN, WARM)
    }

    fn ramp(&self, since: Option<Millis>, now: Millis) -> u32 {
        let Some(since) = since else { return WARM };
        let passed = now.saturating_sub(since).min(self.slow_start_ms);
        let climbed = u64::from(WARM - WARMTH_MIN) * passed / self.slow_start_ms.max(1);
        WARMTH_MIN + climbed as u32
    }
}
