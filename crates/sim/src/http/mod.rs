//! The second world: clients that ask and origins that answer in HTTP/1.1, through listeners in http mode.
//!
//! Each request and each answer has a number, and its content follows from the number: whoever gets bytes knows whose they
//! should be. `ledger` keeps what was asked, delivered and answered; clients and origins convict as soon as they hear something
//! wrong, [`judge`] looks at the rest when all is over.

mod client;
mod edge;
mod judge;
mod ledger;
mod message;
mod origin;
mod preface;
mod tunnel;
mod world;

pub use client::{Ending, Visit};
pub use edge::Side;
pub(crate) use judge::judge;
pub(crate) use ledger::SharedLedger;
pub use ledger::{Ask, Content};
pub use origin::Manners;
pub(crate) use world::HttpWeather;
pub use world::Web;
