//! HTTP/1.1 and HTTP/1.0 on the wire: heads, body framing, trailers, encoding.
//!
//! Owns the rules of RFC 9112 and those of RFC 9110 that framing and routing rest on. Refuses whatever two readers could
//! take for two different things, see [`Reject`]. Driven by whoever holds the bytes: it asks [`head_end`] whether a
//! head is whole, parses it in one go ([`Request::parse`], [`Response::parse`]), and feeds the rest to a [`BodyReader`].
//!
//! ```
//! use fourfold_http::h1::{self, Body, Limits, Request};
//!
//! let received = b"POST /a?b HTTP/1.1\r\nHost: example.com\r\nContent-Length: 2\r\n\r\nhi";
//! let mut scanned = 0;
//! let length = h1::head_end(received, &mut scanned).unwrap();
//! let (head, body) = received.split_at(length);
//!
//! let mut request = Request::default();
//! request.parse(head, &Limits::default()).unwrap();
//! assert_eq!(request.host.of(head), b"example.com");
//! assert_eq!(request.path.of(head), b"/a");
//! assert_eq!((request.body, body), (Body::Length(2), &b"hi"[..]));
//! ```

mod authority;
mod body;
mod bytes;
mod connection;
pub mod encode;
mod field;
mod head;
mod reject;
mod request;
mod response;
mod span;

pub use authority::Authority;
pub use body::{BodyReader, Decoded};
pub use bytes::{is_field_value, is_token};
pub use field::{Field, FieldKind};
pub use head::{head_end, hopeless};
pub use reject::Reject;
pub use request::{Form, Method, Request};
pub use response::{Asked, Response};
pub use span::Span;

/// What one message may cost. A head is held in memory until it is whole; a trailer section too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The request line or status line, and each field line, with its line end.
    pub line_bytes: u32,
    /// The whole head with its empty line.
    pub head_bytes: u32,
    pub fields: u16,
    /// The whole trailer section.
    pub trailer_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { line_bytes: 8 << 10, head_bytes: 16 << 10, fields: 100, trailer_bytes: 4 << 10 }
    }
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Version {
    Http10,
    #[default]
    Http11,
}

/// How the end of a message is known (RFC 9112 6.3).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Body {
    #[default]
    None,
    /// Also with 0, when the peer said so.
    Length(u64),
    Chunked,
    /// A response with neither length: it ends when the connection does.
    UntilClose,
}
