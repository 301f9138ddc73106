//! Version 1: one line of text.

use super::{Addresses, Malformed, Parsed, V1_BYTES_MAX, V1_SIGNATURE};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `bytes` starts with the signature.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let reach = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = reach.iter().position(|byte| *byte == b'\n') else {
        return if reach.len() == V1_BYTES_MAX { Err(Malformed::V1TooLong) } else { Ok(Parsed::More) };
    };
    // "The receiver must wait for the CRLF sequence before starting to decode the addresses" (section 2.1).
    let line = bytes.get(V1_SIGNATURE.len()..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").ok_or(Malformed::V1LineEnd)?;
    Ok(Parsed::Header { used: end + 1, addresses: parse_line(line)? })
}

/// What stands between the signature and CRLF.
fn parse_line(line: &[u8]) -> Result<Option<Addresses>, Malformed> {
    let mut fields = line.split(|byte| *byte == b' ');
    let family: fn(&str) -> Option<IpAddr> = match fields.next() {
        Some(b"TCP4") => |text| text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        Some(b"TCP6") => |text| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        // "The receiver must ignore anything presented before the CRLF is found" (section 2.1).
        Some(b"UNKNOWN") => return Ok(None),
        _ => return Err(Malformed::V1Family),
    };
    let mut field = || fields.next().filter(|field| !field.is_empty()).ok_or(Malformed::V1Fields);
    let (source, destination, source_port, destination_port) = (field()?, field()?, field()?, field()?);
    if fields.next().is_some() {
        return Err(Malformed::V1Fields);
    }
    let address = |field| std::str::from_utf8(field).ok().and_then(family).ok_or(Malformed::V1Address);
    let (source, destination) = (address(source)?, address(destination)?);
    Ok(Some(Addresses::new(
        SocketAddr::new(source, port(source_port)?),
        SocketAddr::new(destination, port(destination_port)?),
    )))
}

/// "Heading zeroes are not permitted in front of numbers in order to avoid any possible confusion with octal numbers"
/// (section 2.1).
fn port(field: &[u8]) -> Result<u16, Malformed> {
    let is_number = field.iter().all(u8::is_ascii_digit) && (field.len() == 1 || !field.starts_with(b"0"));
    let text = std::str::from_utf8(field).ok().filter(|_| is_number);
    text.and_then(|text| text.parse().ok()).ok_or(Malformed::V1Port)
}
