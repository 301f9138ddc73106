//! Single values as people write them: counts, durations, names, addresses.
//!
//! Owns: the one parser for each, used by configuration files and by command-line flags alike.
//! Refuses: signs, fractions, lone numbers where a unit is needed, anything that needs guessing.
//! Driven by: [`Kind::read`](crate::keys::Kind::read) and, for the public ones, the command line.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::diagnostic::Code;
use crate::plan::HostPort;

/// Text of the user's that is repeated in a message is cut after this many characters.
const QUOTED_CHARS_MAX: usize = 60;
/// Names appear in logs and metrics; RFC 1123 labels have the same bound.
pub(crate) const NAME_CHARS_MAX: usize = 63;
/// RFC 1035, section 2.3.4: 255 octets on the wire are 253 characters of text.
const HOST_CHARS_MAX: usize = 253;
const LABEL_CHARS_MAX: usize = 63;

/// Why a value was refused, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueError {
    pub code: Code,
    pub message: String,
    pub help: Option<String>,
}

impl ValueError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> ValueError {
        ValueError { code, message: message.into(), help: None }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> ValueError {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, " ({help})"))
    }
}

impl std::error::Error for ValueError {}

/// Text of the user's, quoted, cut, and with control characters made visible: it goes to a terminal.
pub(crate) fn quote(text: &str) -> String {
    let mut shown: String = text.chars().take(QUOTED_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}

/// A count: digits, `_` between them, and at the end `k`, `M` or `G` for thousands, millions, milliards.
///
/// ```
/// # use fourfold_config::parse_count;
/// assert_eq!(parse_count("1_000_000"), Ok(1_000_000));
/// assert_eq!(parse_count("20k"), Ok(20_000));
/// assert!(parse_count("1m").is_err());
/// ```
pub fn parse_count(text: &str) -> Result<u64, ValueError> {
    let bad = |why: &str| {
        ValueError::new(Code::BadNumber, format!("{} is not a whole number{why}", quote(text)))
            .help("write 1_000_000, \"20k\" or \"1M\"")
    };
    let text_trimmed = text.trim();
    let (digits, factor) = match text_trimmed.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text_trimmed[..at], 1_000),
        Some((at, 'M')) => (&text_trimmed[..at], 1_000_000),
        Some((at, 'G')) => (&text_trimmed[..at], 1_000_000_000),
        Some((_, 'm')) => return Err(bad(": \"m\" would be minutes; a million is \"M\"")),
        _ => (text_trimmed, 1),
    };
    if text_trimmed.starts_with('-') {
        return Err(ValueError::new(Code::OutOfRange, format!("{} is negative", quote(text)))
            .help("counts start at zero"));
    }
    let number = digits_of(digits).ok_or_else(|| bad(""))?;
    number.and_then(|n| n.checked_mul(factor)).ok_or_else(|| {
        ValueError::new(Code::OutOfRange, format!("{} is larger than a number can be here", quote(text)))
            .help(format!("the largest is {}", u64::MAX))
    })
}

/// `None`: not a number. `Some(None)`: a number that does not fit.
fn digits_of(text: &str) -> Option<Option<u64>> {
    let edges =
        text.starts_with(|c: char| c.is_ascii_digit()) && text.ends_with(|c: char| c.is_ascii_digit());
    let inner = text.bytes().all(|b| b.is_ascii_digit() || b == b'_') && !text.contains("__");
    if !edges || !inner {
        return None;
    }
    Some(
        text.bytes()
            .filter(u8::is_ascii_digit)
            .try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'))),
    )
}

const SIZES: [(&str, u64); 7] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

/// A size in bytes: a number with `KB`, `MB`, `GB` (thousands), `KiB`, `MiB`, `GiB` (1024) or `B`.
///
/// ```
/// # use fourfold_config::parse_bytes;
/// assert_eq!(parse_bytes("16KiB"), Ok(16_384));
/// assert_eq!(parse_bytes("1MB"), Ok(1_000_000));
/// assert!(parse_bytes("16").is_err());
/// ```
pub fn parse_bytes(text: &str) -> Result<u64, ValueError> {
    let bad = |why: &str| {
        ValueError::new(Code::BadSize, format!("{} {why}", quote(text)))
            .help("write a number and B, KB, MB, GB, KiB, MiB or GiB, for example \"16KiB\"")
    };
    let trimmed = text.trim();
    if trimmed.starts_with('-') {
        return Err(bad("is negative"));
    }
    if digits_of(trimmed).is_some() {
        return Err(bad("has no unit"));
    }
    let size = SIZES.iter().find_map(|(unit, factor)| Some((trimmed.strip_suffix(unit)?, factor)));
    let number = size.and_then(|(digits, factor)| Some((digits_of(digits)?, *factor)));
    let (number, factor) = number.ok_or_else(|| bad("is not a size"))?;
    number.and_then(|number| number.checked_mul(factor)).ok_or_else(|| {
        ValueError::new(Code::OutOfRange, format!("{} is larger than a size can be here", quote(text)))
    })
}

/// Bytes in the form that [`parse_bytes`] reads, in the largest unit that loses nothing.
pub(crate) fn show_bytes(bytes: u64) -> String {
    let mut units: Vec<(&str, u64)> = SIZES.to_vec();
    units.sort_by_key(|(_, factor)| std::cmp::Reverse(*factor));
    let unit = units.iter().find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor));
    unit.map_or_else(|| "0B".to_owned(), |(name, factor)| format!("{}{name}", show_count(bytes / factor)))
}

/// A whole number with `%` behind it.
pub(crate) fn parse_percent(text: &str) -> Result<u64, ValueError> {
    let digits = text.trim().strip_suffix('%').and_then(digits_of);
    digits.flatten().ok_or_else(|| {
        ValueError::new(Code::BadPercent, format!("{} is not a percentage", quote(text)))
            .help("write a whole number with a %, for example \"20%\"")
    })
}

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A duration in milliseconds: numbers with a unit (`ms`, `s`, `m`, `h`, `d`), largest unit first.
///
/// ```
/// # use fourfold_config::parse_duration_ms;
/// assert_eq!(parse_duration_ms("30s"), Ok(30_000));
/// assert_eq!(parse_duration_ms("1h30m"), Ok(5_400_000));
/// assert!(parse_duration_ms("30").is_err());
/// ```
pub fn parse_duration_ms(text: &str) -> Result<u64, ValueError> {
    let trimmed = text.trim();
    if !trimmed.is_empty() && trimmed.bytes().all(|b| b.is_ascii_digit() || b == b'_') {
        return Err(ValueError::new(Code::BadDuration, format!("duration {} has no unit", quote(text)))
            .help(format!("write {} for seconds", quote(&format!("{trimmed}s")))));
    }
    if trimmed.starts_with('-') {
        return Err(ValueError::new(Code::OutOfRange, format!("duration {} is negative", quote(text)))
            .help("durations start at \"0s\""));
    }
    let mut rest = trimmed;
    let mut total = Some(0u64);
    let mut last_unit_ms = u64::MAX;
    while !rest.is_empty() {
        let (number, unit_ms, tail) = duration_part(rest).ok_or_else(|| bad_duration(text))?;
        if unit_ms >= last_unit_ms {
            return Err(bad_duration(text));
        }
        last_unit_ms = unit_ms;
        rest = tail;
        total = total.zip(number).and_then(|(sum, n)| sum.checked_add(n.checked_mul(unit_ms)?));
    }
    if last_unit_ms == u64::MAX {
        return Err(bad_duration(text));
    }
    total.ok_or_else(|| {
        ValueError::new(Code::OutOfRange, format!("duration {} is too long to count", quote(text)))
    })
}

fn bad_duration(text: &str) -> ValueError {
    ValueError::new(Code::BadDuration, format!("{} is not a duration", quote(text)))
        .help("write a whole number and ms, s, m, h or d, for example \"500ms\", \"30s\" or \"1h30m\"")
}

/// The first number and unit of `text`, and what follows.
fn duration_part(text: &str) -> Option<(Option<u64>, u64, &str)> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '_')?;
    let (digits, rest) = text.split_at(unit_at);
    let unit_len = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (unit, tail) = rest.split_at(unit_len);
    let unit_ms = UNITS.iter().find(|(name, _)| *name == unit)?.1;
    Some((digits_of(digits)?, unit_ms, tail))
}

/// Milliseconds in the form that [`parse_duration_ms`] reads, in the largest unit that loses nothing.
pub(crate) fn show_duration(ms: u64) -> String {
    let unit = UNITS.iter().find(|(_, unit_ms)| ms != 0 && ms.is_multiple_of(*unit_ms));
    unit.map_or_else(|| "0s".to_owned(), |(name, unit_ms)| format!("{}{name}", ms / unit_ms))
}

/// A number with `_` between groups of three digits.
pub(crate) fn show_count(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push('_');
        }
        shown.push(digit);
    }
    shown
}

/// A name of a listener or a pool. It becomes a label in logs and metrics.
pub(crate) fn parse_name(text: &str) -> Result<String, ValueError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let bad = |why: &str| Err(ValueError::new(Code::BadName, format!("name {} {why}", quote(text))));
    if text.is_empty() {
        return bad("is empty");
    }
    if text.len() > NAME_CHARS_MAX {
        return bad(&format!("is longer than {NAME_CHARS_MAX} characters"));
    }
    match text.chars().find(|c| !u8::try_from(*c).is_ok_and(allowed)) {
        Some(c) => {
            let message = format!("name {} contains '{}'", quote(text), c.escape_debug());
            Err(ValueError::new(Code::BadName, message).help("use letters, digits, '-', '_' and '.'"))
        }
        None => Ok(text.to_owned()),
    }
}

/// An address to listen on: an IP address of this machine and a port, never a name.
pub(crate) fn parse_bind(text: &str) -> Result<SocketAddr, ValueError> {
    let bad = |why: String| ValueError::new(Code::BadAddress, format!("{}: {why}", quote(text)));
    match parse_host_port(text)? {
        HostPort::Name { host, port } => Err(bad("a host name cannot be listened on".into()).help(format!(
            "write an address of this machine, \"0.0.0.0:{port}\" for every one, or what {} resolves to",
            quote(&host)
        ))),
        HostPort::Ip(addr) if addr.ip().is_multicast() => {
            Err(bad("a multicast address carries no TCP".into()))
        }
        HostPort::Ip(addr) => refuse_mapped(addr, text).map(|()| addr),
    }
}

/// One address must have one spelling, or comparisons miss that two are the same.
fn refuse_mapped(addr: SocketAddr, text: &str) -> Result<(), ValueError> {
    let IpAddr::V6(v6) = addr.ip() else { return Ok(()) };
    v6.to_ipv4_mapped().map_or(Ok(()), |v4| {
        let message = format!("{}: an IPv4-mapped address", quote(text));
        Err(ValueError::new(Code::BadAddress, message).help(format!("write \"{v4}:{}\"", addr.port())))
    })
}

/// An address to connect to.
pub(crate) fn parse_server(text: &str) -> Result<HostPort, ValueError> {
    let bad = |why: &str| ValueError::new(Code::BadAddress, format!("{}: {why}", quote(text)));
    let address = parse_host_port(text)?;
    let HostPort::Ip(addr) = &address else {
        return Ok(address);
    };
    if addr.ip().is_unspecified() {
        return Err(bad("this means \"every address of this machine\" and cannot be connected to")
            .help(format!("for a server on this machine write \"127.0.0.1:{}\"", addr.port())));
    }
    if addr.ip().is_multicast() || addr.ip() == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Err(bad("multicast and broadcast addresses carry no TCP"));
    }
    refuse_mapped(*addr, text)?;
    Ok(address)
}

/// `ip:port`, `[v6]:port` or `host:port`, by form alone.
fn parse_host_port(text: &str) -> Result<HostPort, ValueError> {
    let bad = |why: String| ValueError::new(Code::BadAddress, format!("{}: {why}", quote(text)));
    if text.parse::<std::net::Ipv6Addr>().is_ok() && !text.contains('.') {
        return Err(bad("an IPv6 address needs brackets and a port".into()).help(bracketed(text)));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(
            bad("the port is missing".into()).help("write \"ip:port\", \"[v6]:port\" or \"host:port\"")
        );
    };
    if host.is_empty() {
        return Err(bad("the address before the port is missing".into())
            .help(format!("write \"0.0.0.0:{port}\" to listen on every address, or name one")));
    }
    let port = parse_port(port).map_err(bad)?;
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or_else(|| bad("\"[\" is never closed".into()))?;
        return match format!("[{inner}]:{port}").parse() {
            Ok(addr) => Ok(HostPort::Ip(addr)),
            Err(_) => Err(bad(format!("{} is not an IPv6 address", quote(inner)))),
        };
    }
    if host.contains(':') {
        return Err(bad("an IPv6 address needs brackets".into()).help(format!("write \"[{host}]:{port}\"")));
    }
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok(HostPort::Ip(SocketAddr::new(IpAddr::V4(ip), port)));
    }
    parse_host(host).map(|host| HostPort::Name { host, port }).map_err(bad)
}

/// `::1:8080` is an address of its own, but was hardly meant as one.
fn bracketed(text: &str) -> String {
    match text.rsplit_once(':') {
        Some((ip, port)) if ip.parse::<std::net::Ipv6Addr>().is_ok() && parse_port(port).is_ok() => {
            format!("write \"[{ip}]:{port}\"")
        }
        _ => format!("write \"[{text}]:8080\", with the port you mean"),
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(0) => Err("port 0 means \"any port\"; name one from 1 to 65535".into()),
        Ok(port) if digits => Ok(port),
        _ if digits => Err(format!("port {} is above 65535", &quote(text)[1..].trim_end_matches('"'))),
        _ => Err(format!("port {} is not a number from 1 to 65535", quote(text))),
    }
}

/// RFC 1123, section 2.1, plus `_`, which service names in use contain.
pub(crate) fn parse_host(host: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let label_ok = |label: &str| {
        (1..=LABEL_CHARS_MAX).contains(&label.len())
            && label.bytes().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.len() > HOST_CHARS_MAX || !name.split('.').all(label_ok) {
        return Err(format!("{} is neither an IP address nor a host name", quote(host)));
    }
    // No top-level domain is a number, so this was meant as an address.
    if name.rsplit('.').next().is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit())) {
        return Err(format!("{} is not a valid IPv4 address", quote(host)));
    }
    Ok(name.to_ascii_lowercase())
}
