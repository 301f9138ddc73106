//! Helpers for tests that look at Fourfold from outside: programs, namespaces, ports, peers, and what the kernel counts.
//!
//! Owns nothing of Fourfold and knows nothing of it: it would serve a test of any network program. Everything it starts
//! ends with the value that stands for it (`Drop`), by process id, never by name. Nothing here sleeps to be in time: waits are for
//! events and have a deadline, and a wait that fails says what it waited for and what it saw.
//!
//! | module | what it gives |
//! |---|---|
//! | [`proc`] | a program with its output read and its end assured |
//! | [`netns`] | network namespaces, veth pairs, nftables rules |
//! | [`port`] | a port that nobody else takes before it is used |
//! | [`peer`] | a well- or badly-behaved origin, and a client |
//! | [`stat`] | memory, descriptors, CPU, sockets, as `/proc` tells |
//! | [`wait`] | `eventually` |
//! | [`need`] | skip with a reason |
//! | [`poll`] | epoll and non-blocking connects, for clients with many connections |
//! | [`siege`] | slow clients by the ten thousand |
//! | [`corpus`] | HTTP messages and what is expected of them

pub mod corpus;
pub mod need;
pub mod netns;
pub mod peer;
pub mod poll;
pub mod port;
pub mod proc;
pub mod siege;
pub mod stat;
pub mod wait;

pub use need::{Need, fourfold_bin, skip};
pub use netns::{Alone, Netns};
pub use peer::{Behaviour, Client, Origin};
pub use port::Reserved;
pub use proc::{Proc, Signal};
pub use wait::eventually;
