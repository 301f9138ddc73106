//! PROXY protocol headers, as the judge writes and reads them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header that says that the client is `from`.
pub(super) fn write(binary: bool, from: SocketAddr) -> Vec<u8> {
    let IpAddr::V4(ip) = from.ip() else { return Vec::new() };
    if !binary {
        return format!("PROXY TCP4 {ip} 127.0.0.1 {} 80\r\n", from.port()).into_bytes();
    }
    let ports = [from.port().to_be_bytes(), 80_u16.to_be_bytes()].concat();
    [SIGNATURE, [0x21, 0x11, 0, 12].as_slice(), &ip.octets(), &[127, 0, 0, 1], &ports].concat()
}

/// How long the header is and who the client is by it, if anybody. `None`: not all of it is there.
pub(super) type Read = Result<Option<(usize, Option<SocketAddr>)>, String>;

pub(super) fn read(bytes: &[u8]) -> Read {
    match bytes.starts_with(SIGNATURE.get(..bytes.len().min(12)).unwrap_or_default()) {
        true => read_binary(bytes),
        false => read_text(bytes),
    }
}

fn read_text(bytes: &[u8]) -> Read {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let line = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned();
    let words: Vec<&str> = line.split(' ').collect();
    let source = match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", "TCP4", ip, _, port, _] => {
            let ip: Option<Ipv4Addr> = ip.parse().ok();
            let address = ip.zip(port.parse().ok()).map(|(ip, port)| SocketAddr::new(ip.into(), port));
            Some(address.ok_or_else(|| format!("header {line:?}"))?)
        }
        _ => return Err(format!("header {line:?}")),
    };
    Ok(Some((end + 2, source)))
}

fn read_binary(bytes: &[u8]) -> Read {
    let Some(&[command, family, high, low]) = bytes.get(12..16) else { return Ok(None) };
    let end = 16 + usize::from(u16::from_be_bytes([high, low]));
    let Some(block) = bytes.get(16..end) else { return Ok(None) };
    let source = match (command, family, block) {
        (0x20, ..) => None,
        (0x21, 0x11, &[a, b, c, d, _, _, _, _, high, low, ..]) => {
            let ip = Ipv4Addr::new(a, b, c, d);
            Some(SocketAddr::new(ip.into(), u16::from_be_bytes([high, low])))
        }
        _ => return Err(format!("header {command:#x} {family:#x}")),
    };
    Ok(Some((end, source)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_when_all_of_it_is_there() {
        let from: SocketAddr = "198.51.100.7:4711".parse().unwrap();
        for header in [write(false, from), write(true, from)] {
            for end in 0..header.len() {
                assert_eq!(read(&header[..end]), Ok(None), "{end}");
            }
            assert_eq!(read(&[header.as_slice(), b"GET"].concat()), Ok(Some((header.len(), Some(from)))));
        }
        assert_eq!(read(b"PROXY UNKNOWN\r\nGET"), Ok(Some((15, None))));
        assert!(read(b"GET / HTTP/1.1\r\n").is_err());
    }
}
