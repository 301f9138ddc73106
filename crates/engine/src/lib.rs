//! Shards: threads that share nothing, each with its own event loop, sockets, buffers and timers.
//!
//! A feature (a proxy, a load generator, an origin) is an [`App`]: a state machine that is told events and answers through a
//! [`Net`]. The same code runs on io_uring, on epoll and in the simulator.
//!
//! A byte's way: the kernel fills a buffer → [`Event::Received`] → the app calls [`Net::send`] on the other socket → the backend
//! sends it when the app returns, or queues what the peer does not take → [`Event::Drained`] when there is room again.

mod epoll;
mod mailbox;
mod net;
mod shard;
pub mod sim;
mod splice;
mod uring;

pub use epoll::EpollNet;
pub use fourfold_sys::bpf::Kernel;
pub use fourfold_sys::buffers::{BUFFER_BYTES, Buf};
pub use fourfold_sys::socket::{Local, Step};
pub use fourfold_sys::{Errno, epoll::Waker};
pub use mailbox::{MAIL_QUEUED_MAX, Mailbox, Sender, mailbox};
pub use net::{
    App, Close, Event, Handler, ListenerId, NO_OWNER, Net, NetStats, Pressure, Refused, Sock, Unspliced,
};
pub use net::{SEND_QUEUE_HIGH, SEND_QUEUE_LOW};
pub use shard::{
    Demand, Engine, Limits, Listen, Shard, ShardPlan, SpawnError, choose_engine, plan_shards, run_app, spawn,
};
pub use uring::UringNet;
