//! Facts about a machine and a wanted load in, limits and remedies out.
//!
//! Owns: the arithmetic of what a connection takes ([`capacity`]), the table of checks, what is folklore, and what to plan for.
//! Refuses: to look at the machine. [`Facts`] are plain data that the program gathers; the same facts always yield the same
//! report, so that a test writes a machine by hand.
//! Driven by: `fourfold doctor`, `plan`, `check` and the first lines of `run`.
//!
//! ```
//! use fourfold_doctor::{Facts, Wanted, WantedPool, WantedServer, examine};
//!
//! let mut facts = Facts::default();
//! facts.set("net.ipv4.ip_local_port_range", "32768 60999");
//! let server = WantedServer { address: "10.0.1.1:9000".into(), sources: 1, own_port: None, here: false, connections_max: None };
//! let pool = WantedPool { name: "chat".into(), http: false, servers: vec![server], ports: None, early: false };
//! let wanted = Wanted { connections: Some(100_000), pools: vec![pool], ..Wanted::default() };
//! let report = examine(&facts, &wanted);
//! let first = report.first().unwrap();
//! assert_eq!((first.check, first.limit.unwrap().connections), ("tuples", 28_232));
//! ```
#![forbid(unsafe_code)]

pub mod capacity;
mod check;
pub mod cost;
mod facts;
mod finding;
mod folklore;
mod impossible;
mod plan;
mod report;
mod svg;
mod wanted;

pub use capacity::Capacity;
pub use check::{CHECKS, Check, Group};
pub use facts::{
    Bound, Conntrack, Fact, Facts, Held, Interface, Memory, Nofile, PairMemory, SETTINGS, Scope, Setting,
    Sockets, Usable, scope_of,
};
pub use finding::{Change, DROP_IN_FILE, Found, Lasting, Limit, Measure, Remedy, SYSCTL_FILE, Status};
pub use folklore::{Belief, FOLKLORE};
pub use impossible::impossible;
pub use plan::{Load, Need, PlannedLimit, Traffic, plan};
pub use report::{Finding, REPORT_VERSION, Report, examine};
pub use svg::picture;
pub use wanted::{Wanted, WantedEngine, WantedListener, WantedPool, WantedServer};
