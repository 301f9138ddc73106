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

#[cfg(test)]
mod tests {
    use super::body::{Body, Framing};
    use super::frame::Reader;
    use super::head::{Request, Response, head_end};
    use proptest::prelude::*;

    /// Bytes that are often nearly HTTP.
    fn nearly_http() -> impl Strategy<Value = Vec<u8>> {
        let pieces = [
            "GET / HTTP/1.1\r\n",
            "HTTP/1.1 200 OK\r\n",
            "Host: a\r\n",
            "Content-Length: 5\r\n",
            "Content-Length:",
            "Transfer-Encoding: chunked\r\n",
            "\r\n",
            "\n",
            "\r",
            " ",
            ":",
            "5\r\nhello\r\n",
            "0\r\n\r\n",
            "ffffffffffffffff",
            ";x",
        ];
        let piece = prop_oneof![
            4 => prop::sample::select(pieces.map(|piece| piece.as_bytes().to_vec()).to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..6),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    fn read_body(framing: Framing, bytes: &[u8], cuts: usize) -> Option<(Vec<u8>, bool)> {
        let (mut body, mut payload) = (Body::new(framing), Vec::new());
        for part in bytes.chunks(cuts.max(1)) {
            let mut rest = part;
            while !body.is_done() && !rest.is_empty() {
                let step = body.step(rest).ok()?;
                payload.extend_from_slice(&rest[step.data]);
                rest = &rest[step.used..];
            }
        }
        Some((payload, body.is_done()))
    }

    proptest! {
        #[test]
        fn a_head_is_read_or_refused_and_ends_where_it_ends(bytes in nearly_http()) {
            if let Some(end) = head_end(&bytes) {
                prop_assert!(end <= bytes.len());
                prop_assert_eq!(head_end(&bytes[..end]), Some(end));
                if let Ok(request) = Request::parse(&bytes[..end]) {
                    prop_assert!(request.target.iter().all(u8::is_ascii_graphic));
                    prop_assert!(bytes[..end].ends_with(b"\r\n\r\n"));
                }
                let _ = Response::parse(&bytes[..end], false);
            }
        }

        #[test]
        fn a_body_is_the_same_however_it_is_cut(bytes in nearly_http(), cut in 1_usize..40) {
            for framing in [Framing::Chunked, Framing::Length(7), Framing::UntilClose] {
                let whole = read_body(framing, &bytes, bytes.len());
                prop_assert_eq!(read_body(framing, &bytes, cut), whole);
            }
        }

        #[test]
        fn frames_are_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (mut reader, mut rest) = (Reader::default(), bytes.as_mut_slice());
            while !rest.is_empty() {
                let used = match reader.head {
                    None => match reader.read_head(rest) { Ok(used) => used, Err(_) => return Ok(()) },
                    Some(head) => {
                        let (used, whole) = reader.read_payload(rest);
                        prop_assert!(whole || used as u64 <= head.length);
                        if whole { prop_assert!(reader.head.is_none()); }
                        used
                    }
                };
                rest = &mut rest[used..];
            }
        }
    }
}
