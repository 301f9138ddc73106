//! Which local ports may be used.
//!
//! Owns: the inclusive port span and the set of ports inside it that must be skipped.
//! Refuses: port 0 (it means "any" to the kernel) and spans that end before they start.

use std::fmt;
use std::str::FromStr;

/// An inclusive span of ports, never empty, never containing 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSpan {
    first: u16,
    last: u16,
}

/// Why a span was refused. `Display` says what is wrong and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortSpanError {
    /// Not `first-last` with two numbers from 1 to 65535.
    NotASpan { text: String },
    /// Port 0 is not a port.
    Zero,
    /// The end lies before the start.
    Reversed { first: u16, last: u16 },
}

impl fmt::Display for PortSpanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortSpanError::NotASpan { text } => {
                write!(
                    f,
                    "port span \"{text}\": write first-last with ports from 1 to 65535, for example 32768-60999"
                )
            }
            PortSpanError::Zero => f.write_str("port 0 means \"any port\"; a span starts at 1 or above"),
            PortSpanError::Reversed { first, last } => {
                write!(f, "port span {first}-{last} ends before it starts; write {last}-{first}")
            }
        }
    }
}

impl std::error::Error for PortSpanError {}

impl PortSpan {
    pub fn new(first: u16, last: u16) -> Result<PortSpan, PortSpanError> {
        if first == 0 || last == 0 {
            return Err(PortSpanError::Zero);
        }
        if first > last {
            return Err(PortSpanError::Reversed { first, last });
        }
        Ok(PortSpan { first, last })
    }

    /// Parses `first-last`, or one port.
    pub fn parse(text: &str) -> Result<PortSpan, PortSpanError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (parse_port(first), parse_port(last)) {
            (Some(first), Some(last)) => PortSpan::new(first, last),
            _ => Err(PortSpanError::NotASpan { text: text.into() }),
        }
    }

    #[must_use]
    pub fn first(self) -> u16 {
        self.first
    }

    #[must_use]
    pub fn last(self) -> u16 {
        self.last
    }

    /// How many ports; both ends count.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a span is never empty")]
    pub fn len(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    #[must_use]
    pub fn intersects(self, other: PortSpan) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// The ports that both spans have.
    #[must_use]
    pub fn intersection(self, other: PortSpan) -> Option<PortSpan> {
        PortSpan::new(self.first.max(other.first), self.last.min(other.last)).ok()
    }
}

impl FromStr for PortSpan {
    type Err = PortSpanError;
    fn from_str(text: &str) -> Result<PortSpan, PortSpanError> {
        PortSpan::parse(text)
    }
}

impl fmt::Display for PortSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// A set of ports, kept as sorted spans that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet {
    spans: Vec<PortSpan>,
}

impl PortSet {
    #[must_use]
    pub fn new(spans: impl IntoIterator<Item = PortSpan>) -> PortSet {
        let mut sorted: Vec<PortSpan> = spans.into_iter().collect();
        sorted.sort_unstable();
        let mut spans: Vec<PortSpan> = Vec::with_capacity(sorted.len());
        for span in sorted {
            match spans.last_mut() {
                Some(last) if u32::from(span.first) <= u32::from(last.last) + 1 => {
                    last.last = last.last.max(span.last);
                }
                _ => spans.push(span),
            }
        }
        PortSet { spans }
    }

    /// This set and one port more.
    #[must_use]
    pub fn with(&self, port: u16) -> PortSet {
        PortSet::new(self.spans.iter().copied().chain(PortSpan::new(port, port).ok()))
    }

    /// Parses the form of `net.ipv4.ip_local_reserved_ports`: `8080,9000-9100`, or nothing at all.
    pub fn parse(text: &str) -> Result<PortSet, PortSpanError> {
        let parts = text.trim().split(',').map(str::trim).filter(|part| !part.is_empty());
        Ok(PortSet::new(parts.map(PortSpan::parse).collect::<Result<Vec<_>, _>>()?))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        let after = self.spans.partition_point(|span| span.last < port);
        self.spans.get(after).is_some_and(|span| span.contains(port))
    }

    /// The parts of the set that lie within `span`, in order.
    pub(crate) fn within(&self, span: PortSpan) -> impl Iterator<Item = PortSpan> + '_ {
        let after = self.spans.partition_point(move |own| own.last < span.first);
        self.spans.iter().skip(after).map_while(move |own| own.intersection(span))
    }
}

impl FromIterator<PortSpan> for PortSet {
    fn from_iter<T: IntoIterator<Item = PortSpan>>(spans: T) -> PortSet {
        PortSet::new(spans)
    }
}

/// `u16::from_str` alone would also take "+80".
fn parse_port(text: &str) -> Option<u16> {
    let text = text.trim();
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
