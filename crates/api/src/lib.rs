//! What a running instance says about itself: types that the admin listener, `fourfold show` and whoever else asks have in
//! common.
//!
//! Owns: names and shapes, by version. Refuses: to know where numbers come from or how they travel.
//! Driven by: `control`, which fills them in, and clients, which read them.
//!
//! # What a version promises
//! Within `v1` fields and values are only added. A client ignores fields that it does not know, and a name that it does not know
//! is read as `other`; so an older `fourfold show` reads a newer instance. What would break that becomes `v2`, beside it.
#![forbid(unsafe_code)]

mod problem;
pub mod v1;

pub use problem::{PROBLEM_JSON, Problem};
use serde::{Deserialize, Serialize};

/// Says which versions an instance has; the only path that has none itself.
pub const VERSIONS_PATH: &str = "/api";

/// What [`VERSIONS_PATH`] answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Of the program.
    pub program: String,
    /// Of the API, oldest first.
    pub api: Vec<String>,
}
