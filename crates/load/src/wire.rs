//! HTTP/1.1 and WebSocket as load and origin speak it: strict readers of what a proxy hands over, written apart from any
//! proxy's parser so that they can judge it. What is not exactly one message by RFC 9112 is [`Malformed`].
//!
//! Pure: bytes in, facts out. Driven by the origin's and the load's apps.

pub(crate) mod body;
pub(crate) mod frame;
pub(crate) mod head;
pub(crate) mod pattern;

use std::fmt;

/// A rule that the peer has broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
