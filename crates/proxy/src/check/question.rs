//! What a check asks over http, and how it reads the answer. Pure.

use fourfold_config::pool::{CheckRequest, ProxyProtocol};
use fourfold_http::h1::{self, Asked, Limits, Method, encode};
use fourfold_l4::proxy_protocol::{write_v1, write_v2};
use std::io::Write;
use std::net::SocketAddr;

/// The head of an answer may be this long.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// The content is of no interest, and neither is another request.
pub(super) fn write(request: &CheckRequest, to: SocketAddr, proxy: Option<ProxyProtocol>, out: &mut Vec<u8>) {
    // The proxy protocol's word for a connection of the proxy's own.
    match proxy {
        Some(ProxyProtocol::V1) => write_v1(None, out),
        Some(ProxyProtocol::V2) => write_v2(None, out),
        None => {}
    }
    out.extend_from_slice(b"GET ");
    out.extend_from_slice(request.path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    match &request.host {
        Some(host) => encode::field(b"Host", host.as_bytes(), out),
        // Writing into memory does not fail.
        None => drop(write!(out, "Host: {to}\r\n")),
    }
    out.extend_from_slice(b"User-Agent: fourfold-check\r\nAccept: */*\r\nConnection: close\r\n\r\n");
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reading {
    More,
    Status(u16),
    Broken(&'static str),
}

/// Reads the status once the head is whole; interim answers are skipped.
pub(super) fn read(answer: &mut Vec<u8>) -> Reading {
    let asked = Asked { method: Method::Get, upgrade: false };
    loop {
        let Some(length) = h1::head_end(answer, &mut 0) else {
            return match answer.len() > ANSWER_BYTES_MAX {
                true => Reading::Broken("the head of its answer is too long"),
                false => Reading::More,
            };
        };
        let mut response = h1::Response::default();
        let head = answer.get(..length).unwrap_or_default();
        if let Err(reject) = response.parse(head, &Limits::default(), &asked) {
            return Reading::Broken(reject.explain());
        }
        if !response.is_interim() {
            return Reading::Status(response.status);
        }
        answer.drain(..length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(answer: &str) -> Reading {
        read(&mut answer.as_bytes().to_vec())
    }

    #[test]
    fn the_status_counts_once_the_head_is_whole() {
        assert_eq!(reading("HTTP/1.1 204 No Con"), Reading::More);
        assert_eq!(reading("HTTP/1.1 204 No Content\r\n\r\n"), Reading::Status(204));
        let hints =
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(reading(hints), Reading::Status(503));
        assert!(matches!(reading("SSH-2.0-OpenSSH_9.2\r\n\r\n"), Reading::Broken(_)));
        assert!(matches!(reading(&"x".repeat(ANSWER_BYTES_MAX + 1)), Reading::Broken(_)));
    }

    #[test]
    fn the_question_names_the_host_it_is_told() {
        let mut request = CheckRequest { path: "/up?deep=1".into(), host: None, expect: vec![(200, 399)] };
        let mut out = Vec::new();
        write(&request, "127.0.0.1:80".parse().unwrap(), None, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("GET /up?deep=1 HTTP/1.1\r\nHost: 127.0.0.1:80\r\n"), "{text}");
        request.host = Some("example.com".into());
        let mut out = Vec::new();
        write(&request, "127.0.0.1:80".parse().unwrap(), Some(ProxyProtocol::V1), &mut out);
        assert!(out.starts_with(b"PROXY UNKNOWN\r\nGET "));
    }
}
