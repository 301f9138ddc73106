//! Fields, and which of them a proxy treats apart.

use super::Span;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: Span,
    /// Without the blanks around it.
    pub value: Span,
    pub kind: FieldKind,
}

macro_rules! kinds {
    ($($kind:ident $name:literal)*) => {
        /// One byte. Of a field whose name is in the table its own kind, else one of the first three.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum FieldKind {
            Other,
            /// Named by Connection, which asks that it goes no further (RFC 9110 7.6.1).
            Nominated,
            /// A name of the table with `_` for `-`. Gateways that turn both into `_` (CGI, WSGI) take one for the other, so
            /// that it would speak for the real one: it goes no further.
            Lookalike,
            $($kind,)*
        }

        const NAMES: &[(&str, FieldKind)] = &[$(($name, FieldKind::$kind)),*];
    };
}

kinds! {
    Host "host"
    ContentLength "content-length"
    TransferEncoding "transfer-encoding"
    Connection "connection"
    KeepAlive "keep-alive"
    ProxyConnection "proxy-connection"
    Te "te"
    Trailer "trailer"
    Upgrade "upgrade"
    Http2Settings "http2-settings"
    Expect "expect"
    Via "via"
    Forwarded "forwarded"
    XForwardedFor "x-forwarded-for"
    XForwardedProto "x-forwarded-proto"
    XForwardedHost "x-forwarded-host"
    XForwardedPort "x-forwarded-port"
    XForwardedServer "x-forwarded-server"
    XForwardedPrefix "x-forwarded-prefix"
    XRealIp "x-real-ip"
    XRequestId "x-request-id"
    Cookie "cookie"
    SetCookie "set-cookie"
    Authorization "authorization"
    ProxyAuthorization "proxy-authorization"
    ProxyAuthenticate "proxy-authenticate"
    WwwAuthenticate "www-authenticate"
    Date "date"
    Server "server"
    RetryAfter "retry-after"
    Location "location"
    ContentType "content-type"
    ContentEncoding "content-encoding"
    ContentRange "content-range"
    CacheControl "cache-control"
    Accept "accept"
    AcceptEncoding "accept-encoding"
    UserAgent "user-agent"
    Referer "referer"
    Origin "origin"
    Range "range"
    MaxForwards "max-forwards"
    SecWebSocketKey "sec-websocket-key"
    SecWebSocketAccept "sec-websocket-accept"
    SecWebSocketVersion "sec-websocket-version"
    SecWebSocketProtocol "sec-websocket-protocol"
    SecWebSocketExtensions "sec-websocket-extensions"
    AltSvc "alt-svc"
}

const SLOTS: usize = 256;

/// Which entry of [`NAMES`] a name can only be, by [`slot`]; 0 is none, else one more than the index.
const TABLE: [u8; SLOTS] = table();

const fn table() -> [u8; SLOTS] {
    let mut table = [0; SLOTS];
    let mut index = 0;
    while index < NAMES.len() {
        let slot = slot(NAMES[index].0.as_bytes());
        assert!(table[slot] == 0, "two names share a slot: choose other factors");
        table[slot] = index as u8 + 1;
        index += 1;
    }
    table
}

/// Factors found by search; [`table`] fails to compile when they do not keep the names apart.
const fn slot(name: &[u8]) -> usize {
    let [first, .., before_last, last] = name else { return two(name) };
    (name.len() + 3 * fold(*first) + fold(*last) + 31 * fold(*before_last)) % SLOTS
}

const fn two(name: &[u8]) -> usize {
    let [first, last] = name else { return 0 };
    (2 + 34 * fold(*first) + fold(*last)) % SLOTS
}

/// Letters of either case alike, `_` as `-`.
const fn fold(byte: u8) -> usize {
    (if byte == b'_' { b'-' } else { byte } | 0x20) as usize
}

/// 0 when the two are equal but for `fold`. Without an early end: names are short, and the compiler can take many bytes at once.
fn differs(name: &[u8], known: &str, fold: impl Fn(u8) -> u8) -> u8 {
    name.iter().zip(known.bytes()).fold(0, |difference, (&byte, known)| difference | (fold(byte) ^ known))
}

impl FieldKind {
    /// `name` is a token: among its bytes only letters differ from those of the table by 0x20 alone.
    pub fn of(name: &[u8]) -> Self {
        let index = TABLE.get(slot(name)).copied().unwrap_or(0);
        let Some((known, kind)) = usize::from(index).checked_sub(1).and_then(|index| NAMES.get(index)) else {
            return Self::Other;
        };
        if name.len() != known.len() {
            return Self::Other;
        }
        if differs(name, known, |byte| byte | 0x20) == 0 {
            return *kind;
        }
        if differs(name, known, |byte| fold(byte) as u8) == 0 { Self::Lookalike } else { Self::Other }
    }

    /// Concerns this connection only, so that it is not sent on as it came (RFC 9110 7.6.1).
    pub const fn hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Nominated
                | Self::Lookalike
                | Self::Connection
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::Te
                | Self::TransferEncoding
                | Self::Upgrade
                | Self::Http2Settings
        )
    }

    /// Routing, framing, identity or credentials hang on it, so that Connection cannot nominate it away; or it goes no further
    /// in any case and keeps its kind: TE is to be found as such, although Connection has to name it.
    pub(super) const fn is_protected(self) -> bool {
        !matches!(
            self,
            Self::Other
                | Self::Nominated
                | Self::CacheControl
                | Self::Accept
                | Self::AcceptEncoding
                | Self::UserAgent
                | Self::Referer
                | Self::AltSvc
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case() {
        for (name, kind) in NAMES {
            assert_eq!(FieldKind::of(name.as_bytes()), *kind, "{name}");
            assert_eq!(FieldKind::of(name.to_ascii_uppercase().as_bytes()), *kind, "{name}");
            assert_eq!(FieldKind::of(format!("{name}x").as_bytes()), FieldKind::Other, "{name}");
            assert_eq!(FieldKind::of(&name.as_bytes()[1..]), FieldKind::Other, "{name}");
            if name.contains('-') {
                assert_eq!(FieldKind::of(name.replace('-', "_").as_bytes()), FieldKind::Lookalike, "{name}");
            }
        }
        assert_eq!(FieldKind::of(b"x"), FieldKind::Other);
        assert_eq!(FieldKind::of(b"X-Custom"), FieldKind::Other);
        for byte in (0..=u8::MAX).filter(|&byte| crate::h1::is_token(&[byte])) {
            let kind = FieldKind::of(&[b"Content", &[byte][..], b"Length"].concat());
            assert_eq!(kind == FieldKind::ContentLength, byte == b'-', "{byte}");
            assert_eq!(
                FieldKind::of(&[b"hos", &[byte][..]].concat()) == FieldKind::Host,
                byte.eq_ignore_ascii_case(&b't')
            );
        }
    }
}
