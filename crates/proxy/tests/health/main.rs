//! Servers that fail, by rules and in virtual time: who gets the requests, who is left out, and when they are back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod checks;
mod mirror;
mod passive;
mod picking;
mod world;
