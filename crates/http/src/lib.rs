//! HTTP on the wire, and which route a request takes. Pure: bytes in, meaning or a [`h1::Reject`] out.
//!
//! | module | owns |
//! |---|---|
//! | [`h1`] | HTTP/1.1 heads, body framing, trailers, encoding (RFC 9110, RFC 9112) |
//! | [`path`] | the one form of a path that is both routed and forwarded (RFC 3986) |
//! | [`route`] | the router: host, path, method, fields, query |
//!
//! One rule stands above the others: a message has **one interpretation, or it is rejected**. Nothing is repaired and
//! passed on as it came; what goes to the other side is written anew from the parts found here.
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "check"))]
pub mod check;
pub mod h1;
pub mod path;
pub mod route;
