//! All tuples towards one destination.
//!
//! Owns: the central store, every shard's share, the arithmetic over them (headroom).
//! Refuses: a space without a single tuple.
//! Driven by: slices (lease, release), discovery of foreign sockets, whoever shows headroom.
//!
//! # Locks
//! The central lock first, then at most one shard's lock at a time. A slice's fast path takes only its
//! own shard's lock. Tokens pass between shards only under the central lock.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::bag::BlockKey;
use crate::central::Central;
use crate::frontier::Shape;
use crate::lease::Mode;
use crate::shard::{Count, NEVER, SOURCES_COUNTED_MAX, Shard, lock};
use crate::slice::Slice;
use crate::source::{Family, SourceSet};
use crate::span::{PortSet, PortSpan};

/// The kernel's TCP_TIMEWAIT_LEN, which no setting changes.
pub const TIME_WAIT_MS: u64 = 60_000;

/// When a tuple that somebody else held is tried again.
pub const FOREIGN_RECHECK_MS: u64 = 30_000;

/// Tuples freed from a slice's quarantine without letting go of its lock.
const EXPIRED_AT_ONCE: usize = 256;

/// Shards of one space.
pub const SHARDS_MAX: usize = 1024;

/// What a space is made of. The fields are public: fill in what differs from [`SpaceConfig::new`].
#[derive(Clone, Debug)]
pub struct SpaceConfig {
    pub sources: SourceSet,
    pub span: PortSpan,
    pub mode: Mode,
    /// How long a tuple rests that our side closed first. In early mode 0 with tcp_timestamps=1; in
    /// late mode 1 s where `tcp_tw_reuse` allows reuse towards the destination, else [`TIME_WAIT_MS`].
    pub time_wait_quarantine_ms: u64,
    pub foreign_recheck_ms: u64,
    /// Ports to skip, such as `net.ipv4.ip_local_reserved_ports`.
    pub reserved: PortSet,
    /// Use only sources of the destination's family.
    pub family: Option<Family>,
    pub shards: usize,
}

impl SpaceConfig {
    /// One shard, nothing reserved, the mode's safe quarantine.
    #[must_use]
    pub fn new(sources: SourceSet, span: PortSpan, mode: Mode) -> SpaceConfig {
        SpaceConfig {
            sources,
            span,
            mode,
            time_wait_quarantine_ms: match mode {
                Mode::Early => 0,
                Mode::Late => TIME_WAIT_MS,
            },
            foreign_recheck_ms: FOREIGN_RECHECK_MS,
            reserved: PortSet::default(),
            family: None,
            shards: 1,
        }
    }
}

/// Why a space cannot be: it would not contain a single tuple, or has no sensible number of shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpaceError {
    NoSourceOfFamily { sources: String, family: Family },
    AllPortsReserved { span: PortSpan },
    Shards { shards: usize },
}

impl fmt::Display for SpaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpaceError::NoSourceOfFamily { sources, family } => {
                write!(
                    f,
                    "the destination is {family}, but none of the sources ({sources}) is; add an {family} source"
                )
            }
            SpaceError::AllPortsReserved { span } => {
                write!(f, "every port of the span {span} is reserved; choose another span or reserve fewer")
            }
            SpaceError::Shards { shards } => {
                write!(f, "{shards} shards: a space has from 1 to {SHARDS_MAX}")
            }
        }
    }
}

impl std::error::Error for SpaceError {}

/// How full a space is. `total = used + free + quarantined + foreign`. Counted without any lock, so
/// while others lease and release the parts may be a moment apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headroom {
    /// Tuples of the space; `u64::MAX` when there are more than that (an IPv6 prefix).
    pub total: u64,
    /// Leased.
    pub used: u64,
    /// Can be leased now, by any slice.
    pub free: u64,
    /// Resting because our side closed first.
    pub quarantined: u64,
    /// Held by sockets outside of this space.
    pub foreign: u64,
}

/// What one source has towards the destination, or all sources from the 257th on together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// [`Space::source_address`] has its address.
    pub source_index: u64,
    /// 1, or how many are counted together.
    pub sources: u64,
    /// Leases ever made.
    pub leases: u64,
    pub headroom: Headroom,
}

/// Every tuple is used, resting or foreign. Nothing is wrong with the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    pub headroom: Headroom,
    /// When the next resting tuple is free again; a release may come earlier.
    pub next_free_ms: Option<u64>,
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Headroom { total, used, quarantined, foreign, .. } = self.headroom;
        write!(
            f,
            "no free tuple to this destination: {used} of {total} in use, {quarantined} resting after close, \
             {foreign} held by other sockets; add source addresses or widen the port span"
        )
    }
}

impl std::error::Error for Exhausted {}

/// All tuples (source, port) towards one destination `ip:port` and protocol. Each is in exactly one
/// place at any time: free, leased, or resting.
#[derive(Debug)]
pub struct Space {
    shape: Shape,
    sources: SourceSet,
    mode: Mode,
    foreign_recheck_ms: u64,
    central: Mutex<Central>,
    foreign_found: AtomicI64,
    foreign_expiry_ms: AtomicU64,
    pub(crate) foreign_hits: AtomicU64,
    shards: Vec<Shard>,
}

impl Space {
    pub fn new(config: SpaceConfig) -> Result<Arc<Space>, SpaceError> {
        if config.shards == 0 || config.shards > SHARDS_MAX {
            return Err(SpaceError::Shards { shards: config.shards });
        }
        let sources = match config.family {
            None => config.sources,
            Some(family) => config.sources.of_family(family).ok_or_else(|| SpaceError::NoSourceOfFamily {
                sources: config.sources.to_string(),
                family,
            })?,
        };
        let shape = Shape {
            sources: u64::try_from(sources.len()).unwrap_or(u64::MAX),
            span: config.span,
            reserved: config.reserved,
        };
        if shape.ports() == 0 {
            return Err(SpaceError::AllPortsReserved { span: config.span });
        }
        let shard = || Shard::new(config.time_wait_quarantine_ms, config.foreign_recheck_ms);
        Ok(Arc::new(Space {
            central: Mutex::new(Central::new(&shape)),
            shape,
            sources,
            mode: config.mode,
            foreign_recheck_ms: config.foreign_recheck_ms,
            foreign_found: AtomicI64::new(0),
            foreign_expiry_ms: AtomicU64::new(NEVER),
            foreign_hits: AtomicU64::new(0),
            shards: (0..config.shards).map(|_| shard()).collect(),
        }))
    }

    /// The slice of one shard. Numbers beyond the last shard wrap around. Two slices of the same shard
    /// work, but contend for its lock.
    #[must_use]
    pub fn slice(self: &Arc<Space>, shard: usize) -> Slice {
        Slice::new(Arc::clone(self), shard % self.shards.len())
    }

    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    #[must_use]
    pub fn span(&self) -> PortSpan {
        self.shape.span
    }

    /// The sources after the family filter; a lease's source index counts in this set.
    #[must_use]
    pub fn sources(&self) -> &SourceSet {
        &self.sources
    }

    /// The address of a source; `None` means: do not name one, the kernel chooses.
    #[must_use]
    pub fn source_address(&self, source_index: u64) -> Option<IpAddr> {
        self.sources.get(source_index)
    }

    #[must_use]
    pub fn headroom(&self) -> Headroom {
        let (mut used, mut quarantined) = (0, 0);
        let mut foreign = self.foreign_found.load(Relaxed);
        for shard in &self.shards {
            used += shard.counters.used.load(Relaxed);
            quarantined += shard.counters.quarantined.load(Relaxed);
            foreign += shard.counters.foreign.load(Relaxed);
        }
        // A sum read while others count can be off by what is in flight, below zero included.
        let [used, quarantined, foreign] =
            [used, quarantined, foreign].map(|n| u64::try_from(n).unwrap_or(0));
        let total = self.shape.sources.saturating_mul(u64::from(self.shape.ports()));
        let free = total.saturating_sub(used).saturating_sub(quarantined).saturating_sub(foreign);
        Headroom { total, used, free, quarantined, foreign }
    }

    /// The same for each source that has been used or is held by others, in the sources' order; see [`Usage`].
    /// Takes each shard's lock for as long as it takes to copy a few numbers.
    #[must_use]
    pub fn by_source(&self) -> Vec<Usage> {
        let mut sums: Vec<Count> = Vec::new();
        for shard in &self.shards {
            shard.look(|state| {
                state.by_source().iter().enumerate().for_each(|(n, count)| add(&mut sums, n, count))
            });
        }
        if self.foreign_found.load(Relaxed) > 0 {
            for source in lock(&self.central).foreign.sources() {
                let place = usize::try_from(source).unwrap_or(SOURCES_COUNTED_MAX).min(SOURCES_COUNTED_MAX);
                add(&mut sums, place, &Count { foreign: 1, ..Count::default() });
            }
        }
        sums.iter().enumerate().map(|(place, count)| self.usage(place, count)).collect()
    }

    fn usage(&self, place: usize, count: &Count) -> Usage {
        let ports = u64::from(self.shape.ports());
        let together = place == SOURCES_COUNTED_MAX;
        let sources = if together { self.shape.sources - place as u64 } else { 1 };
        let [used, quarantined, foreign] =
            [count.used, count.quarantined, count.foreign].map(|n| u64::try_from(n).unwrap_or(0));
        let total = sources.saturating_mul(ports);
        let free = total.saturating_sub(used).saturating_sub(quarantined).saturating_sub(foreign);
        Usage {
            source_index: place as u64,
            sources,
            leases: count.leases,
            headroom: Headroom { total, used, free, quarantined, foreign },
        }
    }

    /// Frees what has rested long enough, of all slices: for the truth of the headroom while nobody leases. No slice's lock is
    /// held for more than a few hundred tuples at a time.
    pub fn handle_timeout(&self, now_ms: u64) {
        for shard in &self.shards {
            while shard.next_expiry_ms() <= now_ms {
                shard.with(|state, counters| state.expire(now_ms, EXPIRED_AT_ONCE, counters));
            }
        }
        if self.foreign_expiry_ms() <= now_ms {
            drop(self.central(now_ms));
        }
    }

    /// How many ports each source has.
    #[must_use]
    pub fn ports_per_source(&self) -> u32 {
        self.shape.ports()
    }

    /// How often a tuple turned out to be held by somebody else, since the start.
    #[must_use]
    pub fn foreign_hits(&self) -> u64 {
        self.foreign_hits.load(Relaxed)
    }

    /// Records a socket that was seen on this destination (inet_diag). If the tuple is free here, the
    /// socket is not ours: the tuple rests for `foreign_recheck_ms`, and again from each further call.
    /// A leased or resting tuple is left alone, so all sockets seen can simply be reported.
    /// True when this call took a tuple out of circulation.
    pub fn mark_foreign(&self, source: IpAddr, port: u16, now_ms: u64) -> bool {
        let Some(source) = self.sources.index_of(source).filter(|index| self.shape.contains(*index, port))
        else {
            return false;
        };
        let mut central = self.central(now_ms);
        let known = central.foreign.contains(source, port);
        if !known && !self.take_exactly(&mut central, source, port) {
            return false;
        }
        central.foreign.insert(source, port, now_ms.saturating_add(self.foreign_recheck_ms));
        self.publish_foreign(&central);
        if !known {
            self.foreign_found.fetch_add(1, Relaxed);
            self.foreign_hits.fetch_add(1, Relaxed);
        }
        !known
    }

    /// Takes a free tuple from wherever it is.
    fn take_exactly(&self, central: &mut Central, source: u64, port: u16) -> bool {
        central.bag.take_exactly(source, port)
            || central.frontier.take_ahead(source, port)
            || self.shards.iter().any(|shard| shard.with(|state, _| state.bag.take_exactly(source, port)))
    }

    /// The central store, with what is no longer foreign freed.
    pub(crate) fn central(&self, now_ms: u64) -> MutexGuard<'_, Central> {
        let mut central = lock(&self.central);
        if self.foreign_expiry_ms() <= now_ms {
            while let Some((source, port)) = central.foreign.pop_expired(now_ms) {
                let (key, bit) = BlockKey::of(source, port);
                central.bag.put(key, bit);
                self.foreign_found.fetch_sub(1, Relaxed);
            }
            self.publish_foreign(&central);
        }
        central
    }

    fn publish_foreign(&self, central: &Central) {
        self.foreign_expiry_ms.store(central.foreign.next_expiry_ms().unwrap_or(NEVER), Relaxed);
    }

    pub(crate) fn foreign_expiry_ms(&self) -> u64 {
        self.foreign_expiry_ms.load(Relaxed)
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    pub(crate) fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Whether looking further is worth a lock: a full space must refuse cheaply.
    pub(crate) fn may_have_free(&self, now_ms: u64) -> bool {
        self.headroom().free > 0 || self.next_expiry_ms() <= now_ms
    }

    fn next_expiry_ms(&self) -> u64 {
        let shards = self.shards.iter().map(Shard::next_expiry_ms).min().unwrap_or(NEVER);
        shards.min(self.foreign_expiry_ms())
    }

    pub(crate) fn exhausted(&self) -> Exhausted {
        let next = self.next_expiry_ms();
        Exhausted { headroom: self.headroom(), next_free_ms: (next != NEVER).then_some(next) }
    }
}

fn add(sums: &mut Vec<Count>, place: usize, count: &Count) {
    if place >= sums.len() {
        sums.resize_with(place + 1, Count::default);
    }
    let sum = &mut sums[place];
    sum.used += count.used;
    sum.quarantined += count.quarantined;
    sum.foreign += count.foreign;
    sum.leases += count.leases;
}
