//! What end-to-end tests share: a network of their own, the program as a child process, crowds of clients, origins.
//!
//! Every test gets a network namespace when it may, so that ports, tuples and firewall rules are its alone. Nothing here
//! waits by sleeping for a time that ought to do: conditions are polled until [`DEADLINE`].

#![allow(dead_code, unused_imports, reason = "each test binary uses its part")]

pub mod crowd;
pub mod hosts;
pub mod http;
pub mod lab;
pub mod origin;
pub mod program;
pub mod strict;
pub mod tools;

pub use crowd::Crowd;
pub use hosts::{Host, Network};
pub use lab::{Lab, eventually};
pub use origin::{Behaviour, Origin};
pub use program::{Config, Engine, Program};

use std::time::Duration;

/// After this a condition is taken not to come. Generous: test machines are shared and slow.
pub const DEADLINE: Duration = Duration::from_secs(40);

/// Makes one test per engine of functions that take an [`Engine`].
#[macro_export]
macro_rules! on_both_engines {
    ($($name:ident),* $(,)?) => {
        mod uring {
            $(#[test] fn $name() {
                if $crate::common::Engine::Uring.works_here() {
                    super::$name($crate::common::Engine::Uring);
                }
            })*
        }
        mod epoll {
            $(#[test] fn $name() { super::$name($crate::common::Engine::Epoll); })*
        }
    };
}
