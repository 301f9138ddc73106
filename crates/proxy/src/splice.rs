//! Which tunnels the kernel carries, and for how long.
//!
//! Owns: the rule by which a tunnel is busy, and the accounts of those that are spliced. Refuses to send: bytes and ends are the
//! tunnel's own matter, which the engine gives back before they can happen.
//! Driven by: [`Tcp`](crate::tcp::Tcp), by messages, events and its timer.

use crate::core::Cx;
use crate::counters::Counters;
use crate::tunnel::{Side, Tunnel};
use fourfold_base::Millis;
use fourfold_base::counter::Counter;
use fourfold_base::slab::Key;
use fourfold_config::{Splice, SpliceMode};
use fourfold_engine::{BUFFER_BYTES, Net, Unspliced};
use std::collections::HashMap;

/// How often a spliced tunnel is looked at: its bytes are counted then, and whether it is still worth its place.
pub(crate) const LOOK_MS: Millis = 1_000;
/// A spliced tunnel in which nothing moves for so long gives its place to others.
const QUIET_MS: Millis = 5_000;

/// Who carries a tunnel's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Carrier {
    /// We do; so many messages came in a row.
    Copied {
        messages: u8,
    },
    Kernel,
    /// We do, to the end: the kernel is no gain for it.
    CopiedForGood,
}

impl Carrier {
    pub const NEW: Self = Self::Copied { messages: 0 };

    /// One more message has come, so long after the last. Whether it is time to splice.
    #[must_use]
    pub fn is_busy(&mut self, rule: &Splice, bytes: usize, since_last: Millis) -> bool {
        let Self::Copied { messages } = self else { return false };
        // A full buffer is a part of something large.
        let in_row = bytes < BUFFER_BYTES && since_last <= rule.gap_ms;
        *messages = if in_row { messages.saturating_add(1) } else { 0 };
        rule.mode == SpliceMode::Bpf && *messages >= rule.messages && {
            *messages = 0;
            true
        }
    }
}

/// Bytes that the kernel carried for a tunnel, as far as they have been counted.
#[derive(Default)]
struct Account {
    up: u64,
    down: u64,
    /// Directions that have come back.
    back: u8,
}

/// The spliced tunnels of a shard.
#[derive(Default)]
pub(crate) struct Accounts(HashMap<u32, Account>);

/// What a look at a spliced tunnel says.
pub(crate) enum Look {
    Moves,
    /// Nothing has moved, yet it may stay.
    Still,
    /// It should be taken back.
    Quiet,
}

impl Accounts {
    pub fn open(&mut self, key: Key) {
        self.0.insert(key.slot, Account::default());
    }

    /// Counts what was carried since the last time. Whether there was anything.
    pub fn count<N: Net>(&mut self, cx: &Cx<'_, N>, key: Key, tunnel: &mut Tunnel) -> bool {
        let (up, down) = (cx.net.carried(tunnel.client), cx.net.carried(tunnel.server));
        let moved = self.add(cx, key, tunnel, Side::Client, up);
        self.add(cx, key, tunnel, Side::Server, down) || moved
    }

    /// `carried`: of what `side` received, all in all.
    fn add<N: Net>(
        &mut self,
        cx: &Cx<'_, N>,
        key: Key,
        tunnel: &mut Tunnel,
        side: Side,
        carried: u64,
    ) -> bool {
        let Some(account) = self.0.get_mut(&key.slot) else { return false };
        let counters = cx.core.counters();
        let (known, counter) = match side {
            Side::Client => (&mut account.up, &counters.bytes_up),
            Side::Server => (&mut account.down, &counters.bytes_down),
        };
        // A direction that has come back is not carried any more.
        let more = carried.saturating_sub(*known);
        *known += more;
        counter.add(more);
        counters.bytes_spliced.add(more);
        if let Some(log) = tunnel.extra.as_mut().and_then(|extra| extra.log.as_mut()) {
            let (up, down) = if side == Side::Client { (more, 0) } else { (0, more) };
            log.add(up, down);
        }
        more > 0
    }

    pub fn look<N: Net>(&mut self, cx: &Cx<'_, N>, key: Key, tunnel: &mut Tunnel) -> Look {
        let now = cx.net.now();
        let moved = self.count(cx, key, tunnel);
        // While the tunnel is on its way back a slow reader takes bytes without an event: what the kernel still holds for it, and what
        // the direction that is back already has queued.
        let held =
            [tunnel.client, tunnel.server].map(|sock| cx.net.under_way(sock) + cx.net.unsent(sock) as u64);
        let held = held.iter().sum::<u64>() as u32;
        let before = std::mem::replace(&mut tunnel.unsent, held);
        if moved || before != held {
            tunnel.active = now;
            return Look::Moves;
        }
        if now >= tunnel.active + QUIET_MS { Look::Quiet } else { Look::Still }
    }

    /// One direction has come back, after `carried` bytes in all. How many have.
    pub fn close<N: Net>(
        &mut self,
        cx: &Cx<'_, N>,
        key: Key,
        tunnel: &mut Tunnel,
        side: Side,
        carried: u64,
    ) -> u8 {
        if self.add(cx, key, tunnel, side, carried) {
            tunnel.active = cx.net.now();
        }
        let Some(account) = self.0.get_mut(&key.slot) else { return 0 };
        account.back += 1;
        let back = account.back;
        if back == 2 {
            self.0.remove(&key.slot);
        }
        back
    }

    /// The tunnel is closed with all that it has.
    pub fn drop(&mut self, key: Key) {
        self.0.remove(&key.slot);
    }
}

/// Counts a tunnel that came back, once.
pub(crate) fn counter(counters: &Counters, why: Unspliced) -> &Counter {
    match why {
        Unspliced::Never => &counters.splice_never,
        Unspliced::Asked => &counters.splice_quiet,
        Unspliced::Ended => &counters.splice_ended,
        Unspliced::Slow => &counters.splice_slow,
        Unspliced::Bulk => &counters.splice_bulk,
        Unspliced::Lost => &counters.splice_lost,
    }
}

/// Who carries a tunnel that has come back.
pub(crate) fn carrier_after(why: Unspliced) -> Carrier {
    match why {
        Unspliced::Never | Unspliced::Asked => Carrier::NEW,
        Unspliced::Ended | Unspliced::Slow | Unspliced::Bulk | Unspliced::Lost => Carrier::CopiedForGood,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Splice = Splice { mode: SpliceMode::Bpf, messages: 3, gap_ms: 10 };

    #[test]
    fn row_of_small_messages_makes_a_tunnel_busy() {
        let mut carrier = Carrier::NEW;
        let busy: Vec<bool> = (0..7).map(|_| carrier.is_busy(&RULE, 100, 10)).collect();
        assert_eq!(busy, [false, false, true, false, false, true, false]);
    }

    #[test]
    fn pause_or_a_large_piece_begins_the_row_anew() {
        for (bytes, since) in [(100, 11), (BUFFER_BYTES, 0)] {
            let mut carrier = Carrier::NEW;
            assert!(!carrier.is_busy(&RULE, 100, 1) && !carrier.is_busy(&RULE, 100, 1));
            assert!(!carrier.is_busy(&RULE, bytes, since));
            assert!(!carrier.is_busy(&RULE, 100, 1) && !carrier.is_busy(&RULE, 100, 1));
            assert!(carrier.is_busy(&RULE, 100, 1));
        }
    }

    #[test]
    fn neither_when_switched_off_nor_for_what_came_back_for_good() {
        let off = Splice { mode: SpliceMode::Off, ..RULE };
        let mut carrier = Carrier::NEW;
        assert!((0..300).all(|_| !carrier.is_busy(&off, 1, 0)));
        let mut carrier = Carrier::CopiedForGood;
        assert!((0..300).all(|_| !carrier.is_busy(&RULE, 1, 0)));
    }
}
