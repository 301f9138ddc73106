use super::*;
use crate::crc32c::crc32c;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn header(used: usize, source: &str, destination: &str) -> Result<Parsed, Malformed> {
    Ok(Parsed::Header { used, addresses: Some(Addresses::new(address(source), address(destination))) })
}

/// The verdict on some bytes, arrived at as they come one by one.
fn parse_byte_by_byte(bytes: &[u8]) -> Result<Parsed, Malformed> {
    for end in 0..=bytes.len() {
        let verdict = parse(&bytes[..end]);
        if verdict != Ok(Parsed::More) {
            assert_eq!(verdict, parse(bytes), "{end} bytes of {bytes:?}");
            return verdict;
        }
    }
    Ok(Parsed::More)
}

fn line(text: &str) -> Result<Parsed, Malformed> {
    parse_byte_by_byte(text.as_bytes())
}

/// A version 2 header with the length that `block` has.
fn block(version_command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [V2_SIGNATURE, &[version_command, family], &length, block].concat()
}

const INET: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0x1F, 0x90, 0, 80];

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
}

/// The verdict on an IPv4 header with these TLVs.
fn with_tlvs(tlvs: &[u8]) -> Result<Parsed, Malformed> {
    parse_byte_by_byte(&block(0x21, 0x11, &[&INET, tlvs].concat()))
}

#[test]
fn version_1_lines() {
    let text = "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET / HTTP/1.1\r\n";
    assert_eq!(line(text), header(47, "192.168.0.1:56324", "192.168.0.11:443"));
    let text = "PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n";
    assert_eq!(line(text), header(text.len(), "255.255.255.255:65535", "0.0.0.0:0"));
    let text = "PROXY TCP6 2001:DB8::1 ::1 1 2\r\n";
    assert_eq!(line(text), header(text.len(), "[2001:db8::1]:1", "[::1]:2"));
    let long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let text = format!("PROXY TCP6 {long} {long} 65535 65535\r\n");
    assert_eq!(line(&text), header(104, &format!("[{long}]:65535"), &format!("[{long}]:65535")));
}

#[test]
fn unknown_ignores_the_rest_of_its_line() {
    let none = |used| Ok(Parsed::Header { used, addresses: None });
    assert_eq!(line("PROXY UNKNOWN\r\nrest"), none(15));
    assert_eq!(line("PROXY UNKNOWN what \0 ever\r\nrest"), none(27));
    let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(V1_BYTES_MAX - 16));
    assert_eq!(line(&longest), none(V1_BYTES_MAX));
    assert_eq!(line(&longest.replace("\r\n", "f\r\n")), Err(Malformed::V1TooLong));
}

#[test]
fn mapped_addresses_are_ipv4_addresses() {
    let text = "PROXY TCP6 ::ffff:10.0.0.1 ::ffff:a00:2 1 2\r\n";
    assert_eq!(line(text), header(text.len(), "10.0.0.1:1", "10.0.0.2:2"));
    let mapped = |last| Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped().octets();
    let bytes = block(0x21, 0x21, &[&mapped(1)[..], &mapped(2), &[0, 1, 0, 2]].concat());
    assert_eq!(parse_byte_by_byte(&bytes), header(52, "10.0.0.1:1", "10.0.0.2:2"));
}

#[test]
fn malformed_version_1_lines_have_names() {
    use Malformed::{V1Address, V1Family, V1Fields, V1LineEnd, V1Port, V1TooLong};
    for (text, malformed) in [
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n", V1LineEnd),
        ("PROXY UNKNOWN\n", V1LineEnd),
        ("PROXY UNKNOWN a\nb\r\n", V1LineEnd),
        ("PROXY \r\n", V1Family),
        ("PROXY TCP\r\n", V1Family),
        ("PROXY tcp4 1.1.1.1 2.2.2.2 1 2\r\n", V1Family),
        ("PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n", V1Family),
        ("PROXY UNKNOWNS\r\n", V1Family),
        ("PROXY  TCP4 1.1.1.1 2.2.2.2 1 2\r\n", V1Family),
        ("PROXY TCP4\t1.1.1.1 2.2.2.2 1 2\r\n", V1Family),
        ("PROXY TCP4\r\n", V1Fields),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n", V1Fields),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 \r\n", V1Fields),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n", V1Fields),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n", V1Fields),
        ("PROXY TCP4 1.1.1.1  2.2.2.2 1 2\r\n", V1Fields),
        ("PROXY TCP4 1.1.1.01 2.2.2.2 1 2\r\n", V1Address),
        ("PROXY TCP4 01.1.1.1 2.2.2.2 1 2\r\n", V1Address),
        ("PROXY TCP4 1.1.1 2.2.2.2 1 2\r\n", V1Address),
        ("PROXY TCP4 1.1.1.256 2.2.2.2 1 2\r\n", V1Address),
        ("PROXY TCP4 0x1.1.1.1 2.2.2.2 1 2\r\n", V1Address),
        ("PROXY TCP4 1.1.1.1 2.2.2.2\0 1 2\r\n", V1Address),
        ("PROXY TCP4 ::1 ::1 1 2\r\n", V1Address),
        ("PROXY TCP4 ::ffff:1.1.1.1 2.2.2.2 1 2\r\n", V1Address),
        ("PROXY TCP4 1.1.1.1 ::1 1 2\r\n", V1Address),
        ("PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n", V1Address),
        ("PROXY TCP6 ::1 2.2.2.2 1 2\r\n", V1Address),
        ("PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", V1Address),
        ("PROXY TCP6 [::1] ::1 1 2\r\n", V1Address),
        ("PROXY TCP6 1::2::3 ::1 1 2\r\n", V1Address),
        ("PROXY TCP6 00001::1 ::1 1 2\r\n", V1Address),
        ("PROXY TCP6 ::ffff:1.1.1.01 ::1 1 2\r\n", V1Address),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n", V1Port),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 00 2\r\n", V1Port),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n", V1Port),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 -2\r\n", V1Port),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 +2\r\n", V1Port),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\r\n", V1Port),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 99999999999999999999\r\n", V1Port),
    ] {
        assert_eq!(line(text), Err(malformed), "{text:?}");
    }
    assert_eq!(line(&format!("PROXY TCP4 {}", "1".repeat(200))), Err(V1TooLong));
}

#[test]
fn other_protocols_have_no_header() {
    for text in [
        "GET / HTTP/1.1\r\n",
        "PROXYTCP4",
        "PROXX",
        "proxy TCP4",
        " PROXY TCP4",
        "\r\nGET /",
        "\r\n\r\n\0\r\nQUIT\r",
        "\x16\x03\x01",
    ] {
        assert_eq!(line(text), Ok(Parsed::None), "{text:?}");
    }
    for text in ["", "P", "PROXY", "PROXY ", "\r\n\r\n", "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r"] {
        assert_eq!(line(text), Ok(Parsed::More), "{text:?}");
    }
}

#[test]
fn version_2_blocks() {
    let mut bytes = block(0x21, 0x11, &INET);
    bytes.extend(b"rest");
    assert_eq!(parse_byte_by_byte(&bytes), header(28, "192.0.2.1:8080", "192.0.2.2:80"));
    // UDP has addresses as TCP has.
    assert_eq!(parse_byte_by_byte(&block(0x21, 0x12, &INET)), header(28, "192.0.2.1:8080", "192.0.2.2:80"));
    let (one, two) = (Ipv6Addr::LOCALHOST.octets(), "2001:db8::2".parse::<Ipv6Addr>().unwrap().octets());
    let bytes = block(0x21, 0x21, &[&one[..], &two, &[0, 7, 1, 0]].concat());
    assert_eq!(parse_byte_by_byte(&bytes), header(52, "[::1]:7", "[2001:db8::2]:256"));
}

#[test]
fn version_2_without_addresses() {
    for (version_command, family, rest) in [
        (0x20, 0x00, &[][..]),
        // LOCAL: the block is discarded, its family too.
        (0x20, 0xFF, b"\x01\xFF\xFF rubbish"),
        (0x21, 0x00, b"\x01\xFF\xFF rubbish"),
        (0x21, 0x10, &INET),
        (0x21, 0x01, &INET),
        (0x21, 0x31, &[b'/'; 216]),
        (0x21, 0x32, &[b'/'; 216]),
    ] {
        let bytes = block(version_command, family, rest);
        let expected = Parsed::Header { used: bytes.len(), addresses: None };
        assert_eq!(parse_byte_by_byte(&bytes), Ok(expected), "{version_command:x} {family:x}");
    }
}

#[test]
fn malformed_version_2_blocks_have_names() {
    use Malformed::{V2Addresses, V2Command, V2Family, V2Tlv, V2Transport, V2Version};
    for (version_command, family, rest, malformed) in [
        (0x11, 0x11, &INET[..], V2Version),
        (0x31, 0x11, &INET, V2Version),
        (0x01, 0x11, &INET, V2Version),
        (0x22, 0x11, &INET, V2Command),
        (0x2F, 0x11, &INET, V2Command),
        (0x21, 0x41, &INET, V2Family),
        (0x21, 0xF1, &INET, V2Family),
        (0x21, 0x13, &INET, V2Transport),
        (0x21, 0x1F, &INET, V2Transport),
        (0x21, 0x11, &INET[..11], V2Addresses),
        (0x21, 0x11, &[], V2Addresses),
        (0x21, 0x21, &INET, V2Addresses),
        (0x21, 0x31, &INET, V2Addresses),
        (0x21, 0x31, &[0; 217], V2Tlv),
    ] {
        let bytes = block(version_command, family, rest);
        assert_eq!(parse_byte_by_byte(&bytes), Err(malformed), "{version_command:x} {family:x} {rest:?}");
    }
}

#[test]
fn the_length_of_version_2_is_bounded_before_it_is_waited_for() {
    let tlvs = tlv(4, &vec![0; V2_LENGTH_MAX - INET.len() - 3]);
    let longest = block(0x21, 0x11, &[&INET[..], &tlvs].concat());
    assert_eq!(longest.len(), V2_BYTES_MAX);
    assert_eq!(parse_byte_by_byte(&longest), header(V2_BYTES_MAX, "192.0.2.1:8080", "192.0.2.2:80"));
    for version_command in [0x20, 0x21] {
        let too_long = [V2_SIGNATURE, &[version_command, 0x11, 0x10, 0x01]].concat();
        assert_eq!(parse_byte_by_byte(&too_long), Err(Malformed::V2TooLong));
    }
}

#[test]
fn tlvs_are_skipped_if_they_fit() {
    let used = |tlvs: &[u8]| header(28 + tlvs.len(), "192.0.2.1:8080", "192.0.2.2:80");
    let good = [
        tlv(1, b"h2"),
        tlv(2, b"example.com"),
        tlv(4, b""),
        tlv(0xEE, &[0; 300]),
        tlv(0x20, b"\x01\0\0\0\0"),
    ]
    .concat();
    assert_eq!(with_tlvs(&good), used(&good));
    for bad in [&[4][..], &[4, 0], &[4, 0, 1], &[4, 0, 0, 4], &[4, 0xFF, 0xFF, 0], &[1, 0, 2, b'h']] {
        assert_eq!(with_tlvs(bad), Err(Malformed::V2Tlv), "{bad:?}");
    }
}

#[test]
fn a_checksum_is_verified() {
    let with_checksum = |tlvs: &[u8], at: usize| {
        let mut bytes = block(0x21, 0x11, &[&INET, tlvs].concat());
        let sum = crc32c(bytes.iter().copied()).to_be_bytes();
        bytes[at..at + 4].copy_from_slice(&sum);
        bytes
    };
    let tlvs = [tlv(4, b"pad"), tlv(3, &[0; 4]), tlv(1, b"h2")].concat();
    let mut bytes = with_checksum(&tlvs, 28 + 6 + 3);
    assert_eq!(parse_byte_by_byte(&bytes), header(bytes.len(), "192.0.2.1:8080", "192.0.2.2:80"));
    for at in [14 + 2, 28, 40, bytes.len() - 1] {
        bytes[at] ^= 1;
        assert!(parse(&bytes).is_err(), "byte {at} changed");
        bytes[at] ^= 1;
    }
    for tlvs in [tlv(3, b""), tlv(3, &[0; 3]), tlv(3, &[0; 5]), [tlv(3, &[0; 4]), tlv(3, &[0; 4])].concat()] {
        assert_eq!(with_tlvs(&tlvs), Err(Malformed::V2Checksum), "{tlvs:?}");
    }
}

#[test]
fn a_known_checksum_from_elsewhere() {
    let mut bytes = block(0x21, 0x11, &[&INET[..], &tlv(3, &[0; 4])].concat());
    bytes[31..35].copy_from_slice(&KNOWN_CHECKSUM);
    assert_eq!(parse(&bytes), header(35, "192.0.2.1:8080", "192.0.2.2:80"));
}

/// Worked out bit by bit from the polynomial, by a program of a few lines.
const KNOWN_CHECKSUM: [u8; 4] = [0x64, 0xC2, 0x89, 0x99];

#[test]
fn written_headers_have_the_expected_bytes() {
    let mut out = Vec::new();
    write_v1(Some(Addresses::new(address("10.0.0.1:1"), address("10.0.0.2:2"))), &mut out);
    assert_eq!(out, b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n");
    out.clear();
    write_v1(Some(Addresses::new(address("[2001:db8::1]:1"), address("10.0.0.2:2"))), &mut out);
    assert_eq!(out, b"PROXY TCP6 2001:db8::1 ::ffff:10.0.0.2 1 2\r\n");
    out.clear();
    write_v1(None, &mut out);
    assert_eq!(out, b"PROXY UNKNOWN\r\n");
    out.clear();
    write_v2(Some(Addresses::new(address("192.0.2.1:8080"), address("192.0.2.2:80"))), &mut out);
    assert_eq!(out, block(0x21, 0x11, &INET));
    out.clear();
    write_v2(None, &mut out);
    assert_eq!(out, block(0x20, 0, &[]));
}

#[test]
fn names_are_distinct_and_labels() {
    let mut names: Vec<_> = Malformed::ALL.iter().map(|malformed| malformed.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Malformed::ALL.len());
    assert!(
        names
            .iter()
            .all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
    );
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
        any::<[u8; 4]>().prop_map(|v4| IpAddr::V6(Ipv4Addr::from(v4).to_ipv6_mapped())),
        any::<[u8; 4]>().prop_map(|v4| IpAddr::V6(Ipv6Addr::from_bits(u128::from(u32::from_be_bytes(v4))))),
    ];
    (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

proptest! {
    #[test]
    fn what_is_written_is_parsed(source in any_address(), destination in any_address(), rest in any::<Vec<u8>>()) {
        let addresses = Addresses::new(source, destination);
        for write in [write_v1, write_v2] {
            let mut bytes = Vec::new();
            write(Some(addresses), &mut bytes);
            let used = bytes.len();
            bytes.extend(&rest);
            prop_assert_eq!(parse_byte_by_byte(&bytes), Ok(Parsed::Header { used, addresses: Some(addresses) }));
        }
    }
}

/// Headers with a few bytes of something else in them.
mod check {
    use super::*;
    use crate::check_proxy_protocol;

    fn almost_a_header() -> impl Strategy<Value = Vec<u8>> {
        let header =
            (any_address(), any_address(), any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40));
        let damage = proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4);
        (header, damage).prop_map(|((source, destination, text, tail), damage)| {
            let mut bytes = Vec::new();
            let write = if text { write_v1 } else { write_v2 };
            write(Some(Addresses::new(source, destination)), &mut bytes);
            bytes.extend(tail);
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn any_bytes_keep_the_invariants(bytes in any::<Vec<u8>>()) {
            check_proxy_protocol(&bytes);
        }

        #[test]
        fn almost_headers_keep_the_invariants(bytes in almost_a_header()) {
            check_proxy_protocol(&bytes);
        }
    }
}
