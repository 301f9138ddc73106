//! The whole proxy in a world that does not exist: every seed is another machine, another configuration, other clients and
//! servers, and other weather; what must always hold is checked after every turn and at the end.
//!
//! There are three worlds: tunnels, where peers write and read streams, [`http`], where they ask and answer, and the edge, where
//! servers are checked and judged besides, requests are copied, connections are upgraded and clients are introduced.
//!
//! [`Scenario`] is what a seed stands for, [`run`] plays it, `judge` looks at every connection when all is over. The shards
//! run in one thread, interleaved by virtual time; a run takes about a millisecond and is the same every time.

pub mod http;
mod judge;
mod prompt;
mod run;
mod scenario;
mod weather;

pub use fourfold_engine::sim::{Fault, Style};
pub use run::{Failure, Report, run};
pub use scenario::{ClientPlan, Scenario};
pub use weather::{Habit, ServerPlan, Weather};
