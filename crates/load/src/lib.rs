//! Two programs to try a load balancer with, both apps on the engine: an [`origin`] that echoes, and a [`tcp`] load that
//! opens connections, proves each by a token of its own, holds or drives them, and leaves no slow one out of its figures.

mod machine;
mod message;
pub mod origin;
pub mod tcp;

pub use machine::StartError;
pub use message::TOKEN_BYTES;
