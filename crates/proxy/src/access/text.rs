//! Bytes of peers, numbers, addresses and times as text of a line.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// What a kind of text does with the bytes that it cannot take as they are.
pub(super) trait Escape {
    fn is_plain(byte: u8) -> bool;
    fn escape(byte: u8, out: &mut Vec<u8>);
    /// Says that something was cut here. No escaped bytes look like it.
    const MARK: &'static [u8];
}

/// Inside a string of JSON. A byte above ASCII becomes the code point of the same number, so that no byte is lost and the line
/// is ASCII whatever the peer sent.
pub(super) struct Json;

impl Escape for Json {
    fn is_plain(byte: u8) -> bool {
        matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
    }
    fn escape(byte: u8, out: &mut Vec<u8>) {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&hex(byte));
            }
        }
    }
    const MARK: &'static [u8] = b"\\u2026";
}

/// Between quotes, as nginx escapes.
pub(super) struct Quoted;

impl Escape for Quoted {
    fn is_plain(byte: u8) -> bool {
        Json::is_plain(byte)
    }
    fn escape(byte: u8, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\\x");
        out.extend_from_slice(&hex(byte));
    }
    const MARK: &'static [u8] = b"\\...";
}

/// One word among others with spaces between them.
pub(super) struct Word;

impl Escape for Word {
    fn is_plain(byte: u8) -> bool {
        Quoted::is_plain(byte) && byte != b' '
    }
    fn escape(byte: u8, out: &mut Vec<u8>) {
        Quoted::escape(byte, out);
    }
    const MARK: &'static [u8] = Quoted::MARK;
}

fn hex(byte: u8) -> [u8; 2] {
    [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xF)]]
}

/// At most `bytes_max` of `bytes`, escaped.
pub(super) fn escaped<E: Escape>(bytes: &[u8], bytes_max: usize, out: &mut Vec<u8>) {
    let mut rest = bytes.get(..bytes_max).unwrap_or(bytes);
    while !rest.is_empty() {
        let plain = rest.iter().position(|byte| !E::is_plain(*byte)).unwrap_or(rest.len());
        let (run, behind) = rest.split_at(plain);
        out.extend_from_slice(run);
        rest = behind;
        if let Some((byte, behind)) = rest.split_first() {
            E::escape(*byte, out);
            rest = behind;
        }
    }
    if bytes.len() > bytes_max {
        out.extend_from_slice(E::MARK);
    }
}

pub(super) fn decimal(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut from = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        from -= 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(from..).unwrap_or_default());
}

/// With leading zeros up to `width`.
fn padded(number: u64, width: u32, out: &mut Vec<u8>) {
    for place in (0..width).rev() {
        out.push(b'0' + (number / 10u64.pow(place) % 10) as u8);
    }
}

pub(super) fn ip(address: IpAddr, out: &mut Vec<u8>) {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            for (index, octet) in v4.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                decimal(u64::from(octet), out);
            }
        }
        // Writing into a vector cannot fail.
        IpAddr::V6(v6) => drop(write!(out, "{v6}")),
    }
}

/// `ip:port` or `[v6]:port`.
pub(super) fn socket(address: SocketAddr, out: &mut Vec<u8>) {
    let bracketed = address.ip().to_canonical().is_ipv6();
    if bracketed {
        out.push(b'[');
    }
    ip(address.ip(), out);
    if bracketed {
        out.push(b']');
    }
    out.push(b':');
    decimal(u64::from(address.port()), out);
}

/// A time of day in UTC.
pub(super) struct Moment {
    year: u64,
    /// 1 to 12.
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    micros: u64,
}

const MONTHS: [&[u8]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

impl Moment {
    /// Times before 1970 count as its first moment.
    pub(super) fn new(unix_us: i64) -> Self {
        let unix_us = u64::try_from(unix_us).unwrap_or(0);
        let (seconds, micros) = (unix_us / 1_000_000, unix_us % 1_000_000);
        let (year, month, day) = civil(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        Self { year, month, day, hour, minute, second, micros }
    }

    /// RFC 3339: `2026-11-21T10:11:12.123456Z`.
    pub(super) fn rfc3339(&self, out: &mut Vec<u8>) {
        padded(self.year, 4, out);
        out.push(b'-');
        padded(self.month, 2, out);
        out.push(b'-');
        padded(self.day, 2, out);
        out.push(b'T');
        self.clock(out);
        out.push(b'.');
        padded(self.micros, 6, out);
        out.push(b'Z');
    }

    /// As Apache and nginx write it: `21/Nov/2026:10:11:12 +0000`.
    pub(super) fn apache(&self, out: &mut Vec<u8>) {
        self.common(out);
        out.extend_from_slice(b" +0000");
    }

    /// As HAProxy writes it: `21/Nov/2026:10:11:12.123`.
    pub(super) fn haproxy(&self, out: &mut Vec<u8>) {
        self.common(out);
        out.push(b'.');
        padded(self.micros / 1000, 3, out);
    }

    fn common(&self, out: &mut Vec<u8>) {
        padded(self.day, 2, out);
        out.push(b'/');
        out.extend_from_slice(self.month_name());
        out.push(b'/');
        padded(self.year, 4, out);
        out.push(b':');
        self.clock(out);
    }

    /// RFC 3164 4.1.2, as syslog(3) writes it: `Nov 21 10:11:12`, a day below ten with a space.
    pub(super) fn rfc3164(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.month_name());
        out.extend_from_slice(if self.day < 10 { b"  " } else { b" " });
        decimal(self.day, out);
        out.push(b' ');
        self.clock(out);
    }

    fn clock(&self, out: &mut Vec<u8>) {
        padded(self.hour, 2, out);
        out.push(b':');
        padded(self.minute, 2, out);
        out.push(b':');
        padded(self.second, 2, out);
    }

    fn month_name(&self) -> &'static [u8] {
        MONTHS.get(self.month as usize - 1).copied().unwrap_or_default()
    }
}

/// Year, month and day of a day since 1970 (Hinnant, "chrono-compatible low-level date algorithms"): years begin in March, so
/// that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn dates_agree_with_the_calendar() {
        let mut day = 0;
        for year in 1970..2200u64 {
            let leap = year % 4 == 0 && year % 100 != 0 || year % 400 == 0;
            let days = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            for (month, days) in (1..).zip(days) {
                for date in 1..=days {
                    assert_eq!(civil(day), (year, month, date));
                    day += 1;
                }
            }
        }
    }

    #[test]
    fn moments_are_written_in_four_ways() {
        // date -u -d @1795083072
        let moment = Moment::new(1_795_083_072_000_042);
        assert_eq!(text(|out| moment.rfc3339(out)), "2026-11-19T10:11:12.000042Z");
        assert_eq!(text(|out| moment.apache(out)), "19/Nov/2026:10:11:12 +0000");
        assert_eq!(text(|out| moment.haproxy(out)), "19/Nov/2026:10:11:12.000");
        assert_eq!(text(|out| Moment::new(7_089).haproxy(out)), "01/Jan/1970:00:00:00.007");
        assert_eq!(text(|out| moment.rfc3164(out)), "Nov 19 10:11:12");
        assert_eq!(text(|out| Moment::new(-5).rfc3164(out)), "Jan  1 00:00:00");
    }

    #[test]
    fn numbers_and_addresses_agree_with_the_standard_library() {
        for number in [0, 1, 9, 10, 99, 100, 65_535, u64::MAX - 1, u64::MAX] {
            assert_eq!(text(|out| decimal(number, out)), number.to_string());
        }
        for address in ["0.0.0.0:0", "255.255.255.255:65535", "10.0.0.1:80", "[::1]:443", "[2001:db8::7]:1"] {
            assert_eq!(text(|out| socket(address.parse().unwrap(), out)), address);
        }
        assert_eq!(text(|out| socket("[::ffff:10.0.0.1]:80".parse().unwrap(), out)), "10.0.0.1:80");
    }
}
