//! What a request is told apart by: hash keys and sticky cookies. Pure.

use super::head::Who;
use crate::upstream::address_key;
use fourfold_balance::hash_key;
use fourfold_balance::sticky::{cookie, parse};
use fourfold_config::pool::{HashKey, SameSite, StickyCookie};
use fourfold_http::h1::{self, FieldKind, encode};

/// Without what the pool goes by, the client's address.
pub(super) fn key_of(by: &HashKey, request: &h1::Request, head: &[u8], path: &[u8], who: &Who) -> u64 {
    let found = match by {
        HashKey::Address => None,
        HashKey::Header(name) => {
            let same = |field: &&h1::Field| field.name.of(head).eq_ignore_ascii_case(name.as_bytes());
            request.fields.iter().find(same).map(|field| hash_key(field.value.of(head)))
        }
        HashKey::Cookie(name) => cookie_value(request, head, name).map(hash_key),
        HashKey::Path => Some(hash_key(path)),
        HashKey::Host => match request.host.of(head) {
            b"" => None,
            host => Some(hash_key(&host.to_ascii_lowercase())),
        },
    };
    found.unwrap_or_else(|| address_key(who.client))
}

/// The id of the server that our cookie names.
pub(super) fn stuck_to(sticky: &StickyCookie, salt: u64, request: &h1::Request, head: &[u8]) -> Option<u64> {
    parse(cookie_value(request, head, &sticky.name)?, salt)
}

/// RFC 6265 4.2.1: `name=value` pairs with semicolons between; RFC 9113 8.2.3 lets them come in several fields.
fn cookie_value<'a>(request: &h1::Request, head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let pairs = request
        .all(FieldKind::Cookie)
        .map(|field| field.value.of(head))
        .flat_map(|value| value.split(|byte| *byte == b';'));
    pairs.map(|pair| pair.trim_ascii()).find_map(|pair| {
        let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value)
    })
}

/// RFC 6265 4.1. Scripts have no use for it.
pub(super) fn set_cookie(sticky: &StickyCookie, id: u64, salt: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Set-Cookie: ");
    out.extend_from_slice(sticky.name.as_bytes());
    out.push(b'=');
    out.extend_from_slice(&cookie(id, salt));
    out.extend_from_slice(b"; Path=");
    out.extend_from_slice(sticky.path.as_bytes());
    if sticky.ttl_ms > 0 {
        out.extend_from_slice(b"; Max-Age=");
        encode::decimal(sticky.ttl_ms / 1000, out);
    }
    out.extend_from_slice(b"; HttpOnly; SameSite=");
    out.extend_from_slice(match sticky.same_site {
        SameSite::Lax => b"Lax",
        SameSite::Strict => b"Strict",
        SameSite::None => b"None",
    });
    if sticky.secure {
        out.extend_from_slice(b"; Secure");
    }
    out.extend_from_slice(b"\r\n");
}
