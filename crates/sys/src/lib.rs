//! The one seam to the kernel. Every `unsafe` and every `libc` call of Fourfold is in this crate; each module wraps one
//! kernel facility in a safe, small interface and leaves policy to its callers.

pub mod bpf;
pub mod buffers;
pub mod clock;
pub mod descriptors;
pub mod diag;
pub mod epoll;
mod errno;
pub mod events;
pub mod facts;
pub mod machine;
pub mod signals;
pub mod socket;
pub mod uring;

pub use errno::Errno;
