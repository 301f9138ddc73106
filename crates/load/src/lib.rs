//! Programs to try a load balancer with, all apps on the engine: an [`origin`] that echoes and an [`http_origin`] that judges;
//! a [`tcp`] load that opens connections, proves each by a token of its own, holds or drives them, and an [`http`] load that
//! sends requests or WebSocket messages. None leaves a slow or a lost one out of its figures.

mod door;
pub mod http;
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
