//! Two programs to try a load balancer with, both apps on the engine: an [`origin`] that echoes, and a [`tcp`] load that
//! opens connections, proves each by a token of its own, holds or drives them, and leaves no slow one out of its figures.

mod door;
pub mod http_origin;
mod latency;
mod machine;
mod message;
pub mod origin;
mod pace;
pub mod tcp;
mod tuples;
mod wire;

pub use latency::{LATENCY_MAX, Latency};
pub use machine::{StartError, WaitError};
pub use message::TOKEN_BYTES;
