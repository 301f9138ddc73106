//! Allocates over the four-tuple, so that outbound connections never run into the port wall.
//!
//! A TCP connection is (source ip, source port, destination ip, destination port). Left to itself, the
//! kernel searches a port at every `connect()`: cheap at first, dear once half of the range is used
//! towards a destination, and then `EADDRNOTAVAIL` at 28 232 connections, of which nothing warned. This
//! crate turns the search into accounting. A [`Space`] knows every tuple (source, port) towards one
//! destination; a [`Lease`] is one tuple in your hands; the kernel is told exactly which port to use, and
//! [`Headroom`] says at any time how much is left. It works for proxies, crawlers, load generators: for
//! whoever connects a lot.
//!
//! The crate is pure. It opens no socket, reads no clock and no file; time is an argument, in milliseconds
//! of any steady clock.
//!
//! ```
//! use fourfold_ports::{Mode, PortSpan, Release, SourceSet, Space, SpaceConfig};
//!
//! // One space per destination ip:port and protocol.
//! let sources = SourceSet::parse_all(["10.0.0.10-10.0.0.25", "10.0.7.1"])?;
//! let span = PortSpan::parse("32768-60999")?;
//! let space = Space::new(SpaceConfig { shards: 2, ..SpaceConfig::new(sources, span, Mode::Late) })?;
//! assert_eq!(space.headroom().total, 17 * 28_232);
//!
//! // One slice per thread.
//! let mut slice = space.slice(0);
//! let lease = slice.lease(0)?;
//! let source = space.source_address(lease.source_index());
//! println!("connect from {source:?} port {}", lease.port());
//!
//! // The connection is over, and our side closed first: the kernel holds the tuple in TIME_WAIT.
//! slice.release(lease, 5_000, Release::TimeWait);
//! assert_eq!(space.headroom().quarantined, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/crawler.rs` is a whole tokio program that holds 100 000 connections to one address.
//!
//! # From a lease to a connection
//! | | [`Mode::Late`] | [`Mode::Early`] |
//! |---|---|---|
//! | on the socket | `IP_BIND_ADDRESS_NO_PORT` = 1, `IP_LOCAL_PORT_RANGE` = port << 16 \| port, bind(source, 0) | `SO_REUSEADDR` = 1, bind(source, port) |
//! | port is taken | by connect() | by bind() |
//! | span | within `net.ipv4.ip_local_port_range`: outside of it the kernel ignores the option silently | outside of it, or within `ip_local_reserved_ports` |
//! | kernel | 6.3 | any |
//! | other destinations at the same time | yes | yes, with `SO_REUSEADDR` on all users of the port |
//! | a tuple in TIME_WAIT | after 1 s where `tcp_tw_reuse` allows, else after 60 s | at once, with `tcp_timestamps` = 1 |
//!
//! Never use one port in both modes, not even from different sources: the kernel refuses the second. Leave
//! out ports on which the machine listens ([`SpaceConfig::reserved`]) in late mode. Without a named source
//! ([`SourceSet::kernel_chosen`]) skip the bind; the route decides the address.
//!
//! How the connection ended decides how the tuple comes back: [`Release::Clean`] when the peer closed
//! first, after a reset, or when connect() failed for the peer's reasons; [`Release::TimeWait`] when our
//! side closed first; [`Release::Foreign`] after `EADDRNOTAVAIL` or `EADDRINUSE`, then lease again. A
//! connect() that failed for a local reason says nothing about the destination.
//!
//! # What it promises
//! - **Each tuple is in one place**: free, leased, or resting. Never leased twice, never outside of the span,
//!   never reserved. Both ends of spans and ranges count; ranges run in reading order over byte borders.
//! - **The cost does not depend on how full it is.** Free ports are bits in blocks of 64, blocks hang on
//!   lists per source; lease and release touch a handful of nodes at 1 % and at 100 %. A refusal costs a look
//!   at the counters.
//! - **Nobody is refused while any slice has a free tuple.** A slice takes blocks from the common store, gives
//!   wholly free ones back, and borrows up to half of another's when the store is empty, including what has
//!   rested long enough in the quarantine of an idle slice.
//! - **Memory follows use.** A block comes into being when it is first needed, so a `/64` costs nothing until
//!   it is used. A lease is 12 bytes, a resting tuple 24.
//! - **Headroom is cheap and true**: a few atomic loads, no lock. Sockets of others are found out by failure or
//!   reported with [`Space::mark_foreign`], count as foreign and are tried again later.
//! - **Load spreads over the sources.** A source whose path to the destination fails is ejected by the slice that
//!   saw it ([`Slice::eject_source`]); ejected sources are used, in turn, only when no other has a tuple.
//!
//! # Limits
//! At most [`SHARDS_MAX`] slices, [`EJECTED_SOURCES_MAX`] ejected sources per slice. Of a source set beyond
//! 2^64 - 1 addresses the first so many are used. A lease that is dropped instead of released is lost until
//! the space is.
#![forbid(unsafe_code)]

mod arena;
mod bag;
mod central;
mod ejection;
mod frontier;
mod hash;
mod lease;
mod probe;
mod quarantine;
mod shard;
mod slice;
mod source;
mod space;
mod span;
#[cfg(test)]
mod steps;

pub use ejection::EJECTED_SOURCES_MAX;
pub use lease::{Lease, Mode, Release};
pub use slice::Slice;
pub use source::{Family, SourceError, SourceSet};
pub use space::{
    Exhausted, FOREIGN_RECHECK_MS, Headroom, SHARDS_MAX, Space, SpaceConfig, SpaceError, TIME_WAIT_MS, Usage,
};
pub use span::{PortSet, PortSpan, PortSpanError};
