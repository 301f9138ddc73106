//! How many connections fit into descriptor tables.
//!
//! RLIMIT_NOFILE bounds a table, and each shard has one of its own. The engine lays its shards out by this, and whoever predicts what
//! a machine can hold uses the same, so that the prediction is what happens.

/// Descriptors of a table that are not connections: standard streams, epoll, waker, library needs.
const RESERVED_DESCRIPTORS: u64 = 64;
/// Room for connections beyond the limit, which are accepted to be refused; accepts in flight take theirs besides.
const ACCEPT_MARGIN: u64 = 64;
/// Accepts in flight for one listener, each with a slot set aside. Eight cost a tenth more CPU per connection, more than sixteen
/// gain nothing; a multishot accept would be 4 % cheaper, but says nothing of who connects, and takes connections in from the
/// backlog to lose them when the table is full.
pub const ACCEPTS_MAX: u32 = 16;
pub const SHARDS_MAX: usize = 1024;

/// What bounds the descriptor table of a shard, and what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    /// RLIMIT_NOFILE.
    pub descriptors: u64,
    /// Of one connection.
    pub sockets: u64,
    pub listeners: u64,
}

impl Tables {
    /// Sockets beyond the connections' own that a shard may have accepted.
    #[must_use]
    pub fn margin(&self) -> u64 {
        ACCEPT_MARGIN + self.listeners * u64::from(ACCEPTS_MAX)
    }

    /// Connections in one table when there are so many shards. Every table holds the wakers of all shards.
    #[must_use]
    pub fn most(&self, shards: usize) -> u64 {
        let reserved = RESERVED_DESCRIPTORS + self.listeners + self.margin();
        self.descriptors.saturating_sub(reserved + shards as u64) / self.sockets.max(1)
    }

    /// The fewest shards that hold so many connections.
    #[must_use]
    pub fn shards_for(&self, connections: u64) -> Option<usize> {
        (1..=SHARDS_MAX).find(|shards| share(connections, *shards as u64) <= self.most(*shards))
    }

    /// The most connections that [`shards_for`](Tables::shards_for) finds room for in at most `shards` shards.
    #[must_use]
    pub fn room(&self, shards: usize) -> u64 {
        (1..=shards.min(SHARDS_MAX)).map(|n| spread(self.most(n), n as u64)).max().unwrap_or(0)
    }

    /// The smallest descriptor limit under which at most `shards` shards hold so many connections.
    #[must_use]
    pub fn descriptors_for(&self, connections: u64, shards: usize) -> u64 {
        let enough = |descriptors| Tables { descriptors, ..*self }.room(shards) >= connections;
        let most = connections.saturating_mul(self.sockets.max(1)).saturating_mul(2).saturating_add(1 << 20);
        smallest(0, most, enough)
    }
}

/// What one of `shards` must be able to take when `wanted` are spread by hash: the mean, six standard deviations, a little.
#[must_use]
pub fn share(wanted: u64, shards: u64) -> u64 {
    if shards <= 1 {
        return wanted;
    }
    let mean = wanted.div_ceil(shards);
    mean.saturating_add(6 * mean.isqrt() + 16)
}

/// The inverse of [`share`]: the most that `shards` take when none may have more than `most`.
fn spread(most: u64, shards: u64) -> u64 {
    if shards <= 1 {
        return most;
    }
    let too_much =
        smallest(0, most.saturating_add(1), |mean| share(mean.saturating_mul(shards), shards) > most);
    too_much.saturating_sub(1).saturating_mul(shards)
}

/// The smallest number from `low` to `high` for which `holds`, if it holds for all above it; else `high`.
fn smallest(mut low: u64, mut high: u64, holds: impl Fn(u64) -> bool) -> u64 {
    while low < high {
        let middle = low + (high - low) / 2;
        match holds(middle) {
            true => high = middle,
            false => low = middle + 1,
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: Tables = Tables { descriptors: 20_000, sockets: 2, listeners: 1 };

    #[test]
    fn room_is_what_shards_are_found_for() {
        for descriptors in [0, 145, 146, 300, 1_000, 20_000, 1_000_000] {
            let tables = Tables { descriptors, ..PROXY };
            for shards in [1, 2, 3, 14, 100, SHARDS_MAX] {
                let room = tables.room(shards);
                let fits =
                    |connections| tables.shards_for(connections).is_some_and(|needed| needed <= shards);
                assert!(room == 0 || fits(room), "{descriptors} {shards} {room}");
                assert!(!fits(room + 1) || room == 0, "{descriptors} {shards} {room}");
            }
        }
    }

    #[test]
    fn descriptors_for_is_just_enough() {
        for (connections, shards) in [(1, 1), (10_000, 1), (120_000, 2), (120_000, 14), (1_000_000, 104)] {
            let descriptors = PROXY.descriptors_for(connections, shards);
            let room = |descriptors| Tables { descriptors, ..PROXY }.room(shards);
            assert!(room(descriptors) >= connections && room(descriptors - 1) < connections, "{descriptors}");
        }
    }
}
