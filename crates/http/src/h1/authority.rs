//! The authority: host and port, of Host, of an absolute target, of CONNECT.

use super::Reject;
use super::bytes::is_host_byte;
use std::net::Ipv6Addr;

/// A checked `host [":" port]`. The host is a name of letters, digits, `-`, `.`, `_`, `~` without an empty label (one dot may
/// end it), an IPv4 address, or an IPv6 address in brackets. RFC 3986 would allow percent-encoding and `!$&'()*+,;=` too:
/// no name in use has them, and servers differ in what they make of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    /// With the brackets of an IPv6 address.
    pub host: &'a [u8],
    pub port: Option<u16>,
}

impl<'a> Authority<'a> {
    pub fn parse(text: &'a [u8]) -> Result<Self, Reject> {
        let (host, port) = match text {
            [] => return Err(Reject::HostEmpty),
            [b'[', ..] => split_literal(text)?,
            _ => split_name(text)?,
        };
        Ok(Self { host, port: port.map(parse_port).transpose()? })
    }

    /// The same authority, where a port that is `default` may be left out (RFC 9110 4.2.3).
    pub fn is_same(&self, other: &Self, default: Option<u16>) -> bool {
        let port = |authority: &Self| authority.port.or(default);
        self.host.eq_ignore_ascii_case(other.host) && port(self) == port(other)
    }
}

type Split<'a> = (&'a [u8], Option<&'a [u8]>);

fn split_name(text: &[u8]) -> Result<Split<'_>, Reject> {
    let end = text.iter().position(|&byte| !is_host_byte(byte)).unwrap_or(text.len());
    let (host, rest) = text.split_at(end);
    let port = match rest {
        [] => None,
        [b':', port @ ..] => Some(port),
        [b'@', ..] => return Err(Reject::TargetUserInfo),
        _ => return Err(Reject::HostInvalid),
    };
    match host {
        [] => Err(Reject::HostEmpty),
        [b'.', ..] => Err(Reject::HostInvalid),
        _ if host.windows(2).any(|pair| pair == b"..") => Err(Reject::HostInvalid),
        _ => Ok((host, port)),
    }
}

/// RFC 3986 3.2.2: IP-literal. Neither zones (RFC 9844 4: not in URIs) nor addresses of the future.
fn split_literal(text: &[u8]) -> Result<Split<'_>, Reject> {
    let end = text.iter().position(|&byte| byte == b']').ok_or(Reject::HostInvalid)?;
    let (host, rest) = text.split_at(end + 1);
    let address = host.get(1..end).and_then(|inner| str::from_utf8(inner).ok());
    if address.is_none_or(|address| address.parse::<Ipv6Addr>().is_err()) {
        return Err(Reject::HostInvalid);
    }
    match rest {
        [] => Ok((host, None)),
        [b':', port @ ..] => Ok((host, Some(port))),
        _ => Err(Reject::HostInvalid),
    }
}

fn parse_port(digits: &[u8]) -> Result<u16, Reject> {
    let plain = matches!(digits, [b'1'..=b'9', ..]) && digits.iter().all(u8::is_ascii_digit);
    let number = digits
        .iter()
        .fold(0_u32, |sum, digit| sum.saturating_mul(10).saturating_add(u32::from(digit.wrapping_sub(b'0'))));
    u16::try_from(number).ok().filter(|_| plain).ok_or(Reject::HostPortInvalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        let split = |text: &'static str| {
            Authority::parse(text.as_bytes()).map(|it| (str::from_utf8(it.host).unwrap(), it.port))
        };
        assert_eq!(split("example.com"), Ok(("example.com", None)));
        assert_eq!(split("a_b.example.com.:8080"), Ok(("a_b.example.com.", Some(8080))));
        assert_eq!(split("[2001:db8::1]:65535"), Ok(("[2001:db8::1]", Some(65535))));
        assert_eq!(split("[::ffff:1.2.3.4]"), Ok(("[::ffff:1.2.3.4]", None)));
        for bad in [
            "a b",
            "a,b",
            "a/b",
            "a%41",
            "a\\b",
            ".",
            ".a",
            "a..b",
            "[::1",
            "[]",
            "[::1]x",
            "[fe80::1%25eth0]",
            "[v1.a]",
            "\u{e9}",
            "a'",
        ] {
            assert_eq!(split(bad), Err(Reject::HostInvalid), "{bad}");
        }
        for bad in
            ["a:", "a:0", "a:080", "a:65536", "a:99999", "a:123456", "a:+1", "a: 1", "a:1:2", "[::1]:", "a:b"]
        {
            assert_eq!(split(bad), Err(Reject::HostPortInvalid), "{bad}");
        }
        assert_eq!(split(""), Err(Reject::HostEmpty));
        assert_eq!(split(":80"), Err(Reject::HostEmpty));
        assert_eq!(split("me@example.com"), Err(Reject::TargetUserInfo));
    }

    #[test]
    fn the_default_port_may_be_left_out() {
        let same = |a: &'static str, b: &'static str| {
            Authority::parse(a.as_bytes())
                .unwrap()
                .is_same(&Authority::parse(b.as_bytes()).unwrap(), Some(80))
        };
        assert!(same("a:80", "A") && same("a", "a"));
        assert!(!same("a:81", "a") && !same("a", "b"));
    }
}
