//! Source sets, spans and port sets as people write them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::net::IpAddr;

use fourfold_ports::{Family, PortSet, PortSpan, SourceSet};
use proptest::prelude::*;

fn set(texts: &[&str]) -> SourceSet {
    SourceSet::parse_all(texts.iter().copied()).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn ranges_count_in_reading_order_over_byte_borders() {
    let set = set(&["10.0.0.255-10.0.1.2"]);
    let addresses: Vec<String> = (0..5).filter_map(|index| set.get(index)).map(|ip| ip.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.255", "10.0.1.0", "10.0.1.1", "10.0.1.2"]);
    assert_eq!(set.len(), 4);
}

#[test]
fn v6_ranges_count_over_segment_borders() {
    let set = set(&["fd00::ffff-fd00::1:1"]);
    assert_eq!(set.len(), 3);
    assert_eq!(set.get(1), Some(ip("fd00::1:0")));
}

#[test]
fn lists_keep_their_order_and_mix_families() {
    let set = set(&["10.0.0.9", "fd00:1::/126", "10.0.0.0/30"]);
    assert_eq!(set.len(), 9);
    assert_eq!(set.get(0), Some(ip("10.0.0.9")));
    assert_eq!(set.get(4), Some(ip("fd00:1::3")));
    assert_eq!(set.get(8), Some(ip("10.0.0.3")));
    assert_eq!(set.get(9), None);
    assert_eq!(set.families().collect::<Vec<_>>(), [Family::V4, Family::V6]);
    assert_eq!(set.of_family(Family::V4).unwrap().to_string(), "10.0.0.9, 10.0.0.0/30");
    assert!(SourceSet::parse("::1").unwrap().of_family(Family::V4).is_none());
}

#[test]
fn a_whole_64_prefix_is_a_set_like_any_other() {
    let set = set(&["fd00:1::/64"]);
    assert_eq!(set.len(), 1 << 64);
    assert_eq!(set.get(u64::MAX), Some(ip("fd00:1::ffff:ffff:ffff:ffff")));
    assert_eq!(set.index_of(ip("fd00:1::ffff:ffff:ffff:ffff")), Some(u64::MAX));
    assert_eq!(set.index_of(ip("fd00:2::")), None);
}

#[test]
fn sets_print_as_written() {
    for text in ["10.0.0.1", "10.0.0.10-10.0.0.11", "10.0.0.0/24", "fd00:1::/64", "::1"] {
        assert_eq!(SourceSet::parse(text).unwrap().to_string(), text);
    }
    assert_eq!(SourceSet::parse(" 10.0.0.1 - 10.0.0.2 ").unwrap().to_string(), "10.0.0.1-10.0.0.2");
}

#[test]
fn errors_say_what_is_wrong_and_what_is_right() {
    for (text, hint) in [
        ("", "empty"),
        ("localhost", "\"localhost\" is not an IP address"),
        ("10.0.0.256", "not an IP address"),
        ("10.0.0.1-", "\"\" is not an IP address"),
        ("10.0.0.9-10.0.0.1", "write 10.0.0.1-10.0.0.9"),
        ("10.0.0.1-fd00::1", "must be IPv4 or both IPv6"),
        ("10.0.0.0/33", "from 0 to 32"),
        ("10.0.0.0/+8", "from 0 to 32"),
        ("10.0.0.0/", "from 0 to 32"),
        ("fd00::/129", "from 0 to 128"),
        ("10.0.0.5/24", "write 10.0.0.0/24 for the whole prefix or 10.0.0.5"),
        ("fd00::1/64", "write fd00::/64"),
        ("0.0.0.0", "unspecified"),
        ("0.0.0.0/0", "unspecified"),
        ("::/0", "unspecified"),
        ("224.0.0.1", "multicast"),
        ("223.255.255.255-225.0.0.0", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("ff02::1", "multicast"),
        ("::ffff:10.0.0.1", "write them as IPv4"),
        ("10.0.0.1/24/3", "from 0 to 32"),
    ] {
        let error = SourceSet::parse(text).unwrap_err().to_string();
        assert!(error.contains(hint) && error.contains(text), "{text}: {error}");
    }
}

#[test]
fn an_address_named_twice_is_refused() {
    let error = SourceSet::parse_all(["10.0.0.7", "fd00::/64", "10.0.0.0/28"]).unwrap_err().to_string();
    assert!(error.contains("\"10.0.0.0/28\"") && error.contains("\"10.0.0.7\""), "{error}");
    assert!(SourceSet::parse_all([]).is_err());
}

#[test]
fn the_kernels_choice_is_one_unnamed_source() {
    let set = SourceSet::kernel_chosen();
    assert_eq!((set.len(), set.get(0)), (1, None));
    assert!(set.overlaps(&SourceSet::parse("10.0.0.1").unwrap()));
    assert!(set.has_family(Family::V4) && set.has_family(Family::V6));
    assert!(SourceSet::concat([set.clone(), SourceSet::parse("::1").unwrap()]).is_err());
    assert_eq!(SourceSet::concat([set.clone()]), Ok(set));
}

#[test]
fn overlap_is_seen_across_forms_but_not_families() {
    let range = set(&["10.0.0.250-10.0.1.5"]);
    assert!(range.overlaps(&set(&["fd00::1", "10.0.1.0/30"])));
    assert!(!range.overlaps(&set(&["10.0.1.6"])));
    assert!(!set(&["0.0.0.1"]).overlaps(&set(&["::1"])));
}

proptest! {
    #[test]
    fn get_and_index_of_are_inverse(first: u32, len in 0..100_000u32, index in 0..120_000u64) {
        let first = first % 0xd000_0000 + 1;
        let (from, to) = (std::net::Ipv4Addr::from(first), std::net::Ipv4Addr::from(first + len));
        let set = SourceSet::parse_all([format!("{from}-{to}").as_str(), "fd00::/120"]).unwrap();
        match set.get(index) {
            Some(ip) => prop_assert_eq!(set.index_of(ip), Some(index)),
            None => prop_assert!(u128::from(index) >= set.len()),
        }
    }

    #[test]
    fn no_text_panics(text in "[0-9a-f:./ -]{0,24}|\\PC{0,12}") {
        let _ = SourceSet::parse(&text).map(|set| (set.to_string(), set.len(), set.get(0)));
        let _ = PortSpan::parse(&text);
        let _ = PortSet::parse(&text);
    }

    #[test]
    fn a_port_set_contains_what_its_spans_do(spans in proptest::collection::vec((1..300u16, 1..300u16), 0..9)) {
        let spans: Vec<PortSpan> =
            spans.into_iter().map(|(a, b)| PortSpan::new(a.min(b), a.max(b)).unwrap()).collect();
        let set = PortSet::new(spans.clone());
        for port in 0..310 {
            prop_assert_eq!(set.contains(port), spans.iter().any(|span| span.contains(port)));
        }
    }
}

#[test]
fn spans_are_inclusive_and_refuse_what_is_no_span() {
    let span = PortSpan::parse("32768-60999").unwrap();
    assert_eq!(span.len(), 28_232);
    assert!(
        span.contains(32_768) && span.contains(60_999) && !span.contains(61_000) && !span.contains(32_767)
    );
    assert_eq!(PortSpan::parse("7").unwrap().len(), 1);
    assert_eq!(PortSpan::parse("1-65535").unwrap().len(), 65_535);
    for (text, hint) in [
        ("0-10", "port 0"),
        ("10-0", "port 0"),
        ("9-8", "write 8-9"),
        ("1-65536", "1 to 65535"),
        ("a-b", "write first-last"),
        ("", "write first-last"),
        ("+1-2", "write first-last"),
    ] {
        let error = PortSpan::parse(text).unwrap_err().to_string();
        assert!(error.contains(hint), "{text}: {error}");
    }
}

#[test]
fn spans_intersect_by_their_ends() {
    let span = |text| PortSpan::parse(text).unwrap();
    assert!(span("1-10").intersects(span("10-20")));
    assert!(!span("1-10").intersects(span("11-20")));
    assert!(span("5-6").intersects(span("1-65535")));
}

#[test]
fn reserved_ports_read_as_the_kernel_prints_them() {
    let set = PortSet::parse("8080,9000-9100,9101\n").unwrap();
    assert!(set.contains(8080) && set.contains(9101) && !set.contains(8081) && !set.contains(9102));
    assert!(PortSet::parse("\n").unwrap().is_empty());
}
