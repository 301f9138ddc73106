//! The control plane of a running instance: watches it, and answers questions about it.
//!
//! | module | owns |
//! |---|---|
//! | [`Instance`] | what is known of the instance, and how it is told |
//! | `watch` | the look around, about once a second |
//! | `headroom` | tuples over time, and when there will be none (pure) |
//! | `kernel` | kernel counters into sentences (pure) |
//! | `journal` | what happened lately |
//! | `view` | what the API says, from what the proxy counts |
//! | `roster` | asks shards who is connected |
//! | `place` | where the admin listener is, and how it is found |
//! | `server` | the admin listener, its limits and its routes |
//! | `client` | the other end |
//!
//! It lives on tokio, in threads of its own, and never touches the data path: it reads counters, and asks shards by mail for
//! what only they know, with a deadline. If it fails the proxy runs on.

pub mod client;
mod headroom;
mod instance;
mod journal;
mod kernel;
pub mod place;
mod roster;
pub mod server;
mod view;
pub mod watch;

pub use instance::{About, Instance};
