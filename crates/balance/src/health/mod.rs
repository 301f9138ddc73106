//! Which servers are fit to be picked: active checks, ejection of outliers, circuit breakers, panic.
//!
//! ```text
//!   shards, each answer                        slow path, behind a lock
//!   Board::record ── None, nearly always       Health::handle_notice ─┬─ Faults   whose fault: path, source, server
//!        └───────── Some(Notice) ────────────▶ Health::handle_timeout ├─ outliers ejected, longer each time
//!   Board::is_usable ◀──────── marks ───────── Health::handle_check ──┴─ Breaker  closed, open, half-open
//! ```
//!
//! [`Board`] is what all shards share: a line of atomics per server. A good answer costs two additions there; it
//! reaches [`Health`] only while a half-open breaker waits for it. An error does when it completes a streak or when
//! there have been enough of them to open the breaker. That a connection came about ([`Board::connected`]) is
//! passed on only for sources that had failed to reach the server.
//!
//! **A shortage of this machine** (ports, descriptors, memory) is an [`Outcome`] of its own. It counts for nothing
//! and against nobody.

mod board;
mod breaker;
mod check;
mod fault;
mod machine;
mod outlier;

pub use board::{Bar, Board, Notice};
pub use breaker::BreakerRules;
pub use check::{Action, Check, CheckRules, Standing};
pub use fault::{Fault, FaultRules};
pub use machine::{Change, Health, Rules};
pub use outlier::{EjectionRules, LatencyRules, Reason, Streaks, SuccessRules};

/// How an attempt or a request ended, as far as the server is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Success,
    /// A good answer has begun, and will take its time: [`Outcome::Answered`] or [`Outcome::Broken`] follows.
    Answering,
    /// It has come whole, or for as long as somebody listened.
    Answered,
    /// It broke off.
    Broken,
    /// 500 and its like: the server's own error.
    ServerError,
    /// 502, 503, 504: something behind the server.
    GatewayError,
    /// Connected, and then reset before the answer was whole, or no answer in time.
    NoAnswer,
    /// No connection came about: refused, unreachable, or no answer to it in time.
    Unreachable,
    /// This machine was short of ports, descriptors or memory: says nothing about the server.
    Shortage,
}

impl Outcome {
    /// Of an HTTP response.
    #[must_use]
    pub const fn of_status(status: u16) -> Outcome {
        match status {
            502..=504 => Outcome::GatewayError,
            // 501 and 505: the client asked for something that there is not.
            501 | 505 => Outcome::Success,
            500..=599 => Outcome::ServerError,
            _ => Outcome::Success,
        }
    }
}
