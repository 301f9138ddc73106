//! Sets of addresses written as prefixes: whom to trust, whom to exempt.
//!
//! Owns: parsing with errors that say what would be right, and the lookup.
//! Refuses: whatever is not exactly one prefix or address; a prefix with bits set behind its length is a typing mistake often
//! enough to ask.
//! Driven by: configuration (parse), and per connection or request [`Cidrs::contains`].
//!
//! An IPv4-mapped IPv6 address (`::ffff:10.0.0.1`) is the IPv4 address, in the set and in the question. `::/0` therefore means
//! IPv6 alone.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Prefixes of both families, merged into sorted ranges: a lookup is one binary search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cidrs {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

/// Why a prefix was refused. `Display` says what is wrong and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CidrError {
    Empty,
    NotAnAddress {
        text: String,
    },
    /// In brackets, with a port or with a zone.
    NotBare {
        text: String,
        bare: String,
    },
    PrefixLength {
        text: String,
        bits_max: u32,
    },
    HostBits {
        text: String,
        prefix: String,
        address: String,
    },
}

impl Cidrs {
    /// Parses `address` or `address/length` each. An empty list is the empty set.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self, CidrError> {
        let mut set = Self::default();
        for text in texts {
            match Prefix::parse(text.as_ref())? {
                Prefix { ip: IpAddr::V4(ip), host_bits } => {
                    set.v4.push(ip.to_bits(), 1u32.checked_shl(host_bits).unwrap_or(0).wrapping_sub(1));
                }
                Prefix { ip: IpAddr::V6(ip), host_bits } => {
                    set.v6.push(ip.to_bits(), 1u128.checked_shl(host_bits).unwrap_or(0).wrapping_sub(1));
                }
            }
        }
        set.v4.merge();
        set.v6.merge();
        Ok(set)
    }

    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.v4.contains(ip.to_bits()),
            IpAddr::V6(ip) => self.v6.contains(ip.to_bits()),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.0.is_empty() && self.v6.0.is_empty()
    }
}

/// Inclusive; after [`merge`](Ranges::merge) sorted and neither overlapping nor adjacent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges<N>(Vec<(N, N)>);

impl<N: Copy + Ord + std::ops::BitOr<Output = N> + Successor> Ranges<N> {
    fn push(&mut self, first: N, host_mask: N) {
        self.0.push((first, first | host_mask));
    }

    fn merge(&mut self) {
        self.0.sort_unstable();
        self.0.dedup_by(|next, before| {
            let joined = before.1.successor().is_none_or(|behind| next.0 <= behind);
            if joined {
                before.1 = before.1.max(next.1);
            }
            joined
        });
        self.0.shrink_to_fit();
    }

    fn contains(&self, number: N) -> bool {
        let below = self.0.partition_point(|(first, _)| *first <= number);
        below.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|(_, last)| number <= *last)
    }
}

trait Successor: Sized {
    fn successor(self) -> Option<Self>;
}

impl Successor for u32 {
    fn successor(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Successor for u128 {
    fn successor(self) -> Option<Self> {
        self.checked_add(1)
    }
}

struct Prefix {
    ip: IpAddr,
    host_bits: u32,
}

/// Behind `::ffff:0:0/96` stand the mapped IPv4 addresses.
const MAPPED_BITS: u32 = 96;

impl Prefix {
    fn parse(text: &str) -> Result<Self, CidrError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(CidrError::Empty);
        }
        let (address, length) = text.split_once('/').map_or((text, None), |(ip, length)| (ip, Some(length)));
        let ip: IpAddr = address.parse().map_err(|_| not_an_address(text, address))?;
        let bits = if ip.is_ipv4() { Ipv4Addr::BITS } else { Ipv6Addr::BITS };
        let length = length.map_or(Some(bits), |length| parse_length(length, bits));
        let length = length.ok_or_else(|| CidrError::PrefixLength { text: text.into(), bits_max: bits })?;
        let host_bits = bits - length;
        if let Some(network) = without_host_bits(ip, host_bits) {
            let prefix = format!("{network}/{length}");
            return Err(CidrError::HostBits { text: text.into(), prefix, address: ip.to_string() });
        }
        let mapped = ip.is_ipv6() && ip.to_canonical().is_ipv4() && length >= MAPPED_BITS;
        Ok(Self { ip: if mapped { ip.to_canonical() } else { ip }, host_bits })
    }
}

fn parse_length(text: &str, bits_max: u32) -> Option<u32> {
    let is_number =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    let length = text.parse().ok().filter(|_| is_number)?;
    (length <= bits_max).then_some(length)
}

/// The prefix's own address, if `ip` is another.
fn without_host_bits(ip: IpAddr, host_bits: u32) -> Option<IpAddr> {
    let network = match ip {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(
            v4.to_bits().checked_shr(host_bits).and_then(|kept| kept.checked_shl(host_bits)).unwrap_or(0),
        )),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(
            v6.to_bits().checked_shr(host_bits).and_then(|kept| kept.checked_shl(host_bits)).unwrap_or(0),
        )),
    };
    (network != ip).then_some(network)
}

/// Names the address inside `[…]`, `…:port` or `…%zone` if there is one.
fn not_an_address(text: &str, address: &str) -> CidrError {
    let inside = address.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(ip, _)| ip);
    let before_port =
        || address.rsplit_once(':').map(|(ip, _)| ip).filter(|ip| ip.parse::<Ipv4Addr>().is_ok());
    let before_zone = || address.split_once('%').map(|(ip, _)| ip);
    let candidate = inside.or_else(before_port).or_else(before_zone);
    match candidate.and_then(|ip| ip.parse::<IpAddr>().ok()) {
        Some(ip) => CidrError::NotBare { text: text.into(), bare: ip.to_string() },
        None => CidrError::NotAnAddress { text: text.into() },
    }
}

impl fmt::Display for CidrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CidrError::Empty => {
                f.write_str("empty address: write an address (10.0.0.1) or a prefix (10.0.0.0/8, fd00::/8)")
            }
            CidrError::NotAnAddress { text } => write!(
                f,
                "\"{text}\" is neither an IP address nor a prefix; write for example 10.0.0.1, 10.0.0.0/8 or fd00::/8"
            ),
            CidrError::NotBare { text, bare } => {
                write!(f, "\"{text}\": write the address alone, without brackets, port or zone: {bare}")
            }
            CidrError::PrefixLength { text, bits_max } => {
                write!(f, "\"{text}\": the prefix length must be a number from 0 to {bits_max}")
            }
            CidrError::HostBits { text, prefix, address } => write!(
                f,
                "\"{text}\": the address has bits set behind the prefix length; write {prefix} for the whole prefix or \
                 {address} for the one address"
            ),
        }
    }
}

impl std::error::Error for CidrError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(texts: &[&str]) -> Cidrs {
        Cidrs::parse(texts).unwrap()
    }

    fn has(set: &Cidrs, ip: &str) -> bool {
        set.contains(ip.parse().unwrap())
    }

    #[test]
    fn ends_of_prefixes_belong_to_them() {
        let trusted = set(&["10.0.0.0/8", "192.0.2.7", "fd00::/8", "::1", "172.16.0.0/12"]);
        for inside in
            ["10.0.0.0", "10.255.255.255", "192.0.2.7", "fd00::", "fdff:ffff::ffff", "::1", "172.31.255.255"]
        {
            assert!(has(&trusted, inside), "{inside}");
        }
        for outside in [
            "9.255.255.255",
            "11.0.0.0",
            "192.0.2.6",
            "192.0.2.8",
            "fcff::",
            "fe00::",
            "::",
            "::2",
            "172.32.0.0",
        ] {
            assert!(!has(&trusted, outside), "{outside}");
        }
        assert!(!trusted.is_empty());
        assert_eq!(set(&["10.128.0.0/9", "10.1.2.3", "10.0.0.0/9"]), set(&["10.0.0.0/8"]));
    }

    #[test]
    fn nothing_and_everything() {
        let nobody = set(&[]);
        assert!(nobody.is_empty() && !has(&nobody, "0.0.0.0") && !has(&nobody, "::"));
        let everybody = set(&["0.0.0.0/0", "::/0"]);
        for ip in
            ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::ffff:1.2.3.4"]
        {
            assert!(has(&everybody, ip), "{ip}");
        }
    }

    #[test]
    fn a_mapped_address_is_an_ipv4_address() {
        assert!(has(&set(&["10.0.0.0/8"]), "::ffff:10.1.2.3"));
        assert!(has(&set(&["::ffff:10.0.0.0/104"]), "10.1.2.3"));
        assert!(has(&set(&["::ffff:10.0.0.1"]), "10.0.0.1"));
        assert!(has(&set(&["::ffff:0.0.0.0/96"]), "10.0.0.1"));
        assert!(!has(&set(&["::/0"]), "10.0.0.1") && !has(&set(&["::/0"]), "::ffff:10.0.0.1"));
        // The deprecated compatible form (RFC 4291 2.5.5.1) is an IPv6 address like any other.
        assert!(!has(&set(&["10.0.0.0/8"]), "::10.0.0.1"));
    }

    #[test]
    fn mistakes_are_told_with_their_remedy() {
        for (text, remedy) in [
            ("", "write an address"),
            ("localhost", "neither an IP address nor a prefix"),
            ("10.0.0", "neither an IP address nor a prefix"),
            ("10.0.0.01", "neither an IP address nor a prefix"),
            ("10.0.0.0-10.0.0.9", "neither an IP address nor a prefix"),
            ("10.0.0.1:80", "without brackets, port or zone: 10.0.0.1"),
            ("[::1]", "without brackets, port or zone: ::1"),
            ("[::1]:80", "without brackets, port or zone: ::1"),
            ("fe80::1%eth0", "without brackets, port or zone: fe80::1"),
            ("10.0.0.0/33", "from 0 to 32"),
            ("10.0.0.0/", "from 0 to 32"),
            ("10.0.0.0/+8", "from 0 to 32"),
            ("10.0.0.0/08", "from 0 to 32"),
            ("10.0.0.0/255.0.0.0", "from 0 to 32"),
            ("10.0.0.0/8/8", "from 0 to 32"),
            ("fd00::/129", "from 0 to 128"),
            ("fd00::/99999999999999999999", "from 0 to 128"),
            ("10.0.0.1/8", "write 10.0.0.0/8 for the whole prefix or 10.0.0.1 for the one address"),
            ("fd00::1/64", "write fd00::/64 for the whole prefix or fd00::1 for the one address"),
            ("0.0.0.1/0", "write 0.0.0.0/0 for the whole prefix"),
        ] {
            let error = Cidrs::parse(&[text]).unwrap_err().to_string();
            assert!(error.contains(remedy), "{text}: {error}");
        }
    }

    fn prefix() -> impl Strategy<Value = (IpAddr, u32)> {
        // Few distinct high bits, so that prefixes nest, touch and repeat.
        let v4 = (0u32..8, any::<u32>(), 0u32..=32).prop_map(|(high, low, length)| {
            let bits = (high << 29 | low & 0xFF) & u32::MAX.checked_shl(32 - length).unwrap_or(0);
            (IpAddr::V4(Ipv4Addr::from_bits(bits)), length)
        });
        let v6 = (0u128..8, any::<u8>(), 0u32..=128).prop_map(|(high, low, length)| {
            let bits = (high << 125 | u128::from(low)) & u128::MAX.checked_shl(128 - length).unwrap_or(0);
            (IpAddr::V6(Ipv6Addr::from_bits(bits)), length)
        });
        prop_oneof![v4, v6]
    }

    /// By definition: the first `length` bits are the same.
    fn matches(prefix: IpAddr, length: u32, ip: IpAddr) -> bool {
        match (prefix, ip) {
            (IpAddr::V4(prefix), IpAddr::V4(ip)) => {
                (prefix.to_bits() ^ ip.to_bits()).checked_shr(32 - length).unwrap_or(0) == 0
            }
            (IpAddr::V6(prefix), IpAddr::V6(ip)) => {
                (prefix.to_bits() ^ ip.to_bits()).checked_shr(128 - length).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_walk_over_the_prefixes(
            prefixes in proptest::collection::vec(prefix(), 0..12),
            near in any::<proptest::sample::Index>(),
            random in prefix(),
        ) {
            let texts: Vec<String> = prefixes.iter().map(|(ip, length)| format!("{ip}/{length}")).collect();
            let set = Cidrs::parse(&texts).unwrap();
            let ends = prefixes.iter().flat_map(|(ip, length)| neighbours(*ip, *length));
            let mut asked: Vec<IpAddr> = ends.collect();
            asked.push(random.0);
            let ip = asked[near.index(asked.len())].to_canonical();
            let expected = prefixes.iter().any(|(prefix, length)| matches(*prefix, *length, ip));
            prop_assert_eq!(set.contains(ip), expected, "{} in {:?}", ip, texts);
        }
    }

    /// The addresses on both sides of both ends.
    fn neighbours(ip: IpAddr, length: u32) -> Vec<IpAddr> {
        match ip {
            IpAddr::V4(ip) => {
                let (first, last) = (ip.to_bits(), ip.to_bits() | u32::MAX.checked_shr(length).unwrap_or(0));
                let all = [first, first.wrapping_sub(1), last, last.wrapping_add(1)];
                all.map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))).into()
            }
            IpAddr::V6(ip) => {
                let (first, last) = (ip.to_bits(), ip.to_bits() | u128::MAX.checked_shr(length).unwrap_or(0));
                let all = [first, first.wrapping_sub(1), last, last.wrapping_add(1)];
                all.map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))).into()
            }
        }
    }
}
