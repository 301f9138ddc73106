//! Which local addresses outbound connections may come from.
//!
//! Owns: parsing and printing of source sets, their arithmetic (length, n-th address, overlap).
//! Refuses: anything that could never be a source of a connection (unspecified, multicast, broadcast,
//! IPv4-mapped), and lists that name an address twice, since a tuple must exist exactly once.
//! Driven by: configuration and command line (parse), [`Space`](crate::Space) (arithmetic).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Address family of a source or a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    #[must_use]
    pub fn of(ip: IpAddr) -> Family {
        match ip {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// Addresses as numbers in host order, so that a range counts in the order in which people read it:
/// 10.0.0.255 is followed by 10.0.1.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Item {
    family: Family,
    first: u128,
    last: u128,
    /// Kept only to print the set as it was written.
    prefix: Option<u8>,
}

/// An ordered list of source addresses: single addresses, inclusive ranges and prefixes, both families.
///
/// Every address of a prefix counts, the first and the last as well: with an `AnyIP` route
/// (`ip route add local 10.9.0.0/24 dev lo`) all of them can be bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSet {
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    KernelChosen,
    Named(Vec<Item>),
}

/// Why a source set was refused. `Display` says what is wrong and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceError {
    /// Nothing was written.
    Empty,
    /// `part` of `text` is not an IP address.
    NotAnAddress { text: String, part: String },
    /// A range between two families.
    MixedFamilies { text: String },
    /// A range whose end lies before its start.
    Reversed { text: String, right: String },
    /// A prefix length that is no number or exceeds the family's bits.
    PrefixLength { text: String, max: u8 },
    /// A prefix with bits set behind its length.
    HostBits { text: String, prefix: String, address: String },
    /// Contains addresses that no connection can come from.
    NotASource { text: String, contains: &'static str },
    /// Two entries share an address.
    Overlap { a: String, b: String },
    /// The kernel's choice cannot be one entry among named addresses.
    KernelChosenInList,
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceError::Empty => f.write_str(
                "empty source: write an address, a range (10.0.0.1-10.0.0.9) or a prefix (10.0.0.0/28)",
            ),
            SourceError::NotAnAddress { text, part } => write!(
                f,
                "source \"{text}\": \"{part}\" is not an IP address; write ip, ip-ip or prefix/len, \
                 for example 10.0.0.1, 10.0.0.1-10.0.0.9 or fd00:1::/64"
            ),
            SourceError::MixedFamilies { text } => {
                write!(f, "source \"{text}\": both ends of a range must be IPv4 or both IPv6")
            }
            SourceError::Reversed { text, right } => {
                write!(f, "source \"{text}\": the range ends before it starts; write {right}")
            }
            SourceError::PrefixLength { text, max } => {
                write!(f, "source \"{text}\": the prefix length must be a number from 0 to {max}")
            }
            SourceError::HostBits { text, prefix, address } => write!(
                f,
                "source \"{text}\": the address has bits set behind the prefix length; \
                 write {prefix} for the whole prefix or {address} for the one address"
            ),
            SourceError::NotASource { text, contains } => write!(
                f,
                "source \"{text}\" contains {contains}, from which no connection can be made; \
                 name unicast addresses of this machine"
            ),
            SourceError::Overlap { a, b } => {
                write!(f, "sources \"{a}\" and \"{b}\" overlap; name every address once")
            }
            SourceError::KernelChosenInList => f.write_str(
                "a kernel-chosen source cannot be combined with named sources; use one or the other",
            ),
        }
    }
}

impl std::error::Error for SourceError {}

impl SourceSet {
    /// Parses one item: `ip`, `ip-ip` (inclusive) or `prefix/len`.
    pub fn parse(text: &str) -> Result<SourceSet, SourceError> {
        let item = Item::parse(text.trim())?;
        Ok(SourceSet { kind: Kind::Named(vec![item]) })
    }

    /// Parses a list of items and joins them in order.
    pub fn parse_all<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<SourceSet, SourceError> {
        let sets = texts.into_iter().map(SourceSet::parse).collect::<Result<Vec<_>, _>>()?;
        SourceSet::concat(sets)
    }

    /// One unnamed source: the kernel picks the address by route, the program does not name one.
    #[must_use]
    pub fn kernel_chosen() -> SourceSet {
        SourceSet { kind: Kind::KernelChosen }
    }

    /// Joins sets in order. An address named twice is an error: it would yield the same tuple twice.
    pub fn concat(sets: impl IntoIterator<Item = SourceSet>) -> Result<SourceSet, SourceError> {
        let mut sets: Vec<SourceSet> = sets.into_iter().collect();
        if sets.len() == 1 {
            return sets.pop().ok_or(SourceError::Empty);
        }
        let mut items = Vec::new();
        for set in sets {
            match set.kind {
                Kind::KernelChosen => return Err(SourceError::KernelChosenInList),
                Kind::Named(more) => items.extend(more),
            }
        }
        if items.is_empty() {
            return Err(SourceError::Empty);
        }
        refuse_overlap(&items)?;
        Ok(SourceSet { kind: Kind::Named(items) })
    }

    #[must_use]
    pub fn is_kernel_chosen(&self) -> bool {
        matches!(self.kind, Kind::KernelChosen)
    }

    fn items(&self) -> &[Item] {
        match &self.kind {
            Kind::KernelChosen => &[],
            Kind::Named(items) => items,
        }
    }

    /// How many sources there are; a kernel-chosen source counts as one.
    #[must_use]
    pub fn len(&self) -> u128 {
        match &self.kind {
            Kind::KernelChosen => 1,
            Kind::Named(items) => items.iter().fold(0, |sum: u128, item| sum.saturating_add(item.len())),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The address with this index in the order of the list. `None` past the end and for a
    /// kernel-chosen source. Costs one step per item of the list, however long its ranges.
    #[must_use]
    pub fn get(&self, index: u64) -> Option<IpAddr> {
        let mut left = u128::from(index);
        for item in self.items() {
            if left < item.len() {
                return Some(item.address(item.first + left));
            }
            left -= item.len();
        }
        None
    }

    /// The inverse of [`get`](SourceSet::get). Every address maps to the one kernel-chosen source.
    #[must_use]
    pub fn index_of(&self, ip: IpAddr) -> Option<u64> {
        if self.is_kernel_chosen() {
            return Some(0);
        }
        let (family, number) = number_of(ip);
        let mut before: u128 = 0;
        for item in self.items() {
            if item.family == family && (item.first..=item.last).contains(&number) {
                return u64::try_from(before + (number - item.first)).ok();
            }
            before = before.saturating_add(item.len());
        }
        None
    }

    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.index_of(ip).is_some()
    }

    /// Whether a source of this family is in the set; a kernel-chosen source serves both.
    #[must_use]
    pub fn has_family(&self, family: Family) -> bool {
        self.is_kernel_chosen() || self.items().iter().any(|item| item.family == family)
    }

    /// The families in the set, IPv4 first.
    pub fn families(&self) -> impl Iterator<Item = Family> + '_ {
        [Family::V4, Family::V6].into_iter().filter(|family| self.has_family(*family))
    }

    /// Only the sources of one family, in order; `None` when there are none.
    #[must_use]
    pub fn of_family(&self, family: Family) -> Option<SourceSet> {
        match &self.kind {
            Kind::KernelChosen => Some(self.clone()),
            Kind::Named(items) => {
                let items: Vec<Item> = items.iter().copied().filter(|item| item.family == family).collect();
                (!items.is_empty()).then_some(SourceSet { kind: Kind::Named(items) })
            }
        }
    }

    /// Whether the two sets could ever use the same address. The kernel's choice is unknown
    /// beforehand, so it overlaps with everything.
    #[must_use]
    pub fn overlaps(&self, other: &SourceSet) -> bool {
        if self.is_kernel_chosen() || other.is_kernel_chosen() {
            return true;
        }
        // Neither set overlaps with itself, so any overlap in the joined list is one between the two.
        let joined: Vec<Item> = self.items().iter().chain(other.items()).copied().collect();
        refuse_overlap(&joined).is_err()
    }
}

impl FromStr for SourceSet {
    type Err = SourceError;
    fn from_str(text: &str) -> Result<SourceSet, SourceError> {
        SourceSet::parse(text)
    }
}

impl fmt::Display for SourceSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_kernel_chosen() {
            return f.write_str("kernel-chosen");
        }
        for (n, item) in self.items().iter().enumerate() {
            if n > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{item}")?;
        }
        Ok(())
    }
}

impl Item {
    fn parse(text: &str) -> Result<Item, SourceError> {
        let item = match (text.split_once('/'), text.split_once('-')) {
            _ if text.is_empty() => return Err(SourceError::Empty),
            (Some((ip, len)), _) => Item::parse_prefix(text, ip, len)?,
            (None, Some((first, last))) => Item::parse_range(text, first, last)?,
            (None, None) => {
                let (family, number) = parse_address(text, text)?;
                Item { family, first: number, last: number, prefix: None }
            }
        };
        item.refuse_unusable(text)?;
        Ok(item)
    }

    fn parse_range(text: &str, first: &str, last: &str) -> Result<Item, SourceError> {
        let (family, from) = parse_address(text, first)?;
        let (last_family, to) = parse_address(text, last)?;
        if family != last_family {
            return Err(SourceError::MixedFamilies { text: text.into() });
        }
        if from > to {
            let right = format!("{}-{}", address_of(family, to), address_of(family, from));
            return Err(SourceError::Reversed { text: text.into(), right });
        }
        Ok(Item { family, first: from, last: to, prefix: None })
    }

    fn parse_prefix(text: &str, ip: &str, len: &str) -> Result<Item, SourceError> {
        let (family, number) = parse_address(text, ip)?;
        let max = family.bits();
        let digits = !len.is_empty() && len.bytes().all(|b| b.is_ascii_digit());
        let len = match len.parse::<u8>() {
            Ok(len) if digits && len <= max => len,
            _ => return Err(SourceError::PrefixLength { text: text.into(), max }),
        };
        let host_bits = u32::from(max - len);
        let host_mask = 1u128.checked_shl(host_bits).map_or(u128::MAX, |bit| bit - 1);
        if number & host_mask != 0 {
            let prefix = format!("{}/{len}", address_of(family, number & !host_mask));
            let address = address_of(family, number).to_string();
            return Err(SourceError::HostBits { text: text.into(), prefix, address });
        }
        Ok(Item { family, first: number, last: number | host_mask, prefix: Some(len) })
    }

    fn refuse_unusable(&self, text: &str) -> Result<(), SourceError> {
        let mapped = u128::from(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped());
        let refused: &[(Family, u128, u128, &'static str)] = &[
            (Family::V4, 0, 0, "the unspecified address 0.0.0.0"),
            (Family::V4, 0xe000_0000, 0xefff_ffff, "multicast addresses (224.0.0.0/4)"),
            (Family::V4, 0xffff_ffff, 0xffff_ffff, "the broadcast address 255.255.255.255"),
            (Family::V6, 0, 0, "the unspecified address ::"),
            (Family::V6, mapped, mapped | 0xffff_ffff, "IPv4-mapped addresses (write them as IPv4)"),
            (Family::V6, 0xff << 120, u128::MAX, "multicast addresses (ff00::/8)"),
        ];
        for (family, first, last, contains) in refused {
            if self.family == *family && self.first <= *last && *first <= self.last {
                return Err(SourceError::NotASource { text: text.into(), contains });
            }
        }
        Ok(())
    }

    fn len(&self) -> u128 {
        (self.last - self.first).saturating_add(1)
    }

    fn address(&self, number: u128) -> IpAddr {
        address_of(self.family, number)
    }

    fn overlaps(&self, other: &Item) -> bool {
        self.family == other.family && self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.address(self.first);
        match self.prefix {
            Some(len) => write!(f, "{first}/{len}"),
            None if self.first == self.last => write!(f, "{first}"),
            None => write!(f, "{first}-{}", self.address(self.last)),
        }
    }
}

/// Sorted neighbours are compared, so a list of n items costs n log n, not n squared.
fn refuse_overlap(items: &[Item]) -> Result<(), SourceError> {
    let mut sorted: Vec<&Item> = items.iter().collect();
    sorted.sort_by_key(|item| (item.family.bits(), item.first));
    for pair in sorted.windows(2) {
        if let [a, b] = pair
            && a.overlaps(b)
        {
            return Err(SourceError::Overlap { a: a.to_string(), b: b.to_string() });
        }
    }
    Ok(())
}

fn parse_address(text: &str, part: &str) -> Result<(Family, u128), SourceError> {
    let part = part.trim();
    part.parse::<IpAddr>()
        .map(number_of)
        .map_err(|_| SourceError::NotAnAddress { text: text.into(), part: part.into() })
}

fn number_of(ip: IpAddr) -> (Family, u128) {
    match ip {
        IpAddr::V4(ip) => (Family::V4, u128::from(u32::from(ip))),
        IpAddr::V6(ip) => (Family::V6, u128::from(ip)),
    }
}

fn address_of(family: Family, number: u128) -> IpAddr {
    match family {
        // Only numbers that came from an IPv4 address, or lie between two, are stored with V4.
        Family::V4 => IpAddr::V4(Ipv4Addr::from(number as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
    }
}
