//! Headers for servers that want one.

use super::{Addresses, V1_SIGNATURE, V2_SIGNATURE};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;
const TCP_OVER_INET: u8 = 0x11;
const TCP_OVER_INET6: u8 = 0x21;

/// Appends the line. `None`: UNKNOWN, which some receivers refuse.
pub fn write_v1(addresses: Option<Addresses>, out: &mut Vec<u8>) {
    out.extend_from_slice(V1_SIGNATURE);
    match addresses.map(same_family) {
        Some(Addresses { source, destination }) => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            // Writing into a vector cannot fail.
            let _ = write!(
                out,
                "{family} {} {} {} {}\r\n",
                source.ip(),
                destination.ip(),
                source.port(),
                destination.port()
            );
        }
        None => out.extend_from_slice(b"UNKNOWN\r\n"),
    }
}

/// Appends the block. `None`: LOCAL, for connections of our own such as health checks.
pub fn write_v2(addresses: Option<Addresses>, out: &mut Vec<u8>) {
    out.extend_from_slice(V2_SIGNATURE);
    let Some(Addresses { source, destination }) = addresses.map(same_family) else {
        out.extend_from_slice(&[V2_LOCAL, 0, 0, 0]);
        return;
    };
    let (family, length) = if source.is_ipv4() { (TCP_OVER_INET, 12) } else { (TCP_OVER_INET6, 36) };
    out.extend_from_slice(&[V2_PROXY, family, 0, length]);
    for ip in [source.ip(), destination.ip()] {
        match ip {
            IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
        }
    }
    for port in [source.port(), destination.port()] {
        out.extend_from_slice(&port.to_be_bytes());
    }
}

/// A header has one family for both addresses: an IPv4 address beside an IPv6 one is written as a mapped one.
fn same_family(addresses: Addresses) -> Addresses {
    let Addresses { source, destination } = Addresses::new(addresses.source, addresses.destination);
    if source.is_ipv4() == destination.is_ipv4() {
        return Addresses { source, destination };
    }
    Addresses { source: as_v6(source), destination: as_v6(destination) }
}

fn as_v6(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), address.port()),
        IpAddr::V6(_) => address,
    }
}
