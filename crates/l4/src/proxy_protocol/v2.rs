//! Version 2: a binary block.

use super::{Addresses, Malformed, Parsed, V2_FIXED_BYTES, V2_LENGTH_MAX, V2_SIGNATURE};
use crate::crc32c::crc32c;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

/// Section 2.2: two addresses of 108 bytes each.
const UNIX_BYTES: usize = 216;
const TLV_CRC32C: u8 = 0x03;
const CRC32C_BYTES: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Unspecified,
    Inet,
    Inet6,
    Unix,
}

/// The fixed part, checked.
struct Fixed {
    local: bool,
    family: Family,
    length: usize,
}

/// `bytes` starts with the signature.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let Some(fixed) = bytes.get(V2_SIGNATURE.len()..V2_FIXED_BYTES).and_then(<[u8]>::first_chunk) else {
        return Ok(Parsed::More);
    };
    let fixed = parse_fixed(*fixed)?;
    let used = V2_FIXED_BYTES + fixed.length;
    let Some(header) = bytes.get(..used) else { return Ok(Parsed::More) };
    // "Discard the protocol block including the family which is ignored" (section 2.2).
    let addresses = if fixed.local { None } else { parse_block(header, fixed.family)? };
    Ok(Parsed::Header { used, addresses })
}

fn parse_fixed([version_command, family_transport, high, low]: [u8; 4]) -> Result<Fixed, Malformed> {
    if version_command >> 4 != 2 {
        return Err(Malformed::V2Version);
    }
    // "Receivers must drop connections presenting unexpected values here" (section 2.2).
    let local = match version_command & 0xF {
        0 => true,
        1 => false,
        _ => return Err(Malformed::V2Command),
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > V2_LENGTH_MAX {
        return Err(Malformed::V2TooLong);
    }
    let family = if local { Family::Unspecified } else { parse_family(family_transport)? };
    if length < family.bytes() {
        return Err(Malformed::V2Addresses);
    }
    Ok(Fixed { local, family, length })
}

fn parse_family(byte: u8) -> Result<Family, Malformed> {
    let family = match byte >> 4 {
        0 => Family::Unspecified,
        1 => Family::Inet,
        2 => Family::Inet6,
        3 => Family::Unix,
        // "Must be rejected as invalid by receivers" (section 2.2), and so below.
        _ => return Err(Malformed::V2Family),
    };
    match byte & 0xF {
        0 => Ok(Family::Unspecified),
        1 | 2 => Ok(family),
        _ => Err(Malformed::V2Transport),
    }
}

impl Family {
    fn bytes(self) -> usize {
        match self {
            Family::Unspecified => 0,
            Family::Inet => 12,
            Family::Inet6 => 36,
            Family::Unix => UNIX_BYTES,
        }
    }
}

/// Addresses and TLVs of a whole header.
fn parse_block(header: &[u8], family: Family) -> Result<Option<Addresses>, Malformed> {
    if family == Family::Unspecified {
        // How many bytes the addresses have is unknown, and so is where TLVs begin.
        return Ok(None);
    }
    let tlvs = V2_FIXED_BYTES + family.bytes();
    check_tlvs(header, tlvs)?;
    let block = header.get(V2_FIXED_BYTES..tlvs).unwrap_or_default();
    match family {
        Family::Inet => addresses::<4>(block).map(Some),
        Family::Inet6 => addresses::<16>(block).map(Some),
        Family::Unspecified | Family::Unix => Ok(None),
    }
}

/// Two addresses of `N` bytes, then two ports, in network byte order.
fn addresses<const N: usize>(block: &[u8]) -> Result<Addresses, Malformed>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = block.split_first_chunk::<N>().ok_or(Malformed::V2Addresses)?;
    let (destination, rest) = rest.split_first_chunk::<N>().ok_or(Malformed::V2Addresses)?;
    let [source_high, source_low, destination_high, destination_low] =
        *rest.first_chunk::<4>().ok_or(Malformed::V2Addresses)?;
    Ok(Addresses::new(
        SocketAddr::new(IpAddr::from(*source), u16::from_be_bytes([source_high, source_low])),
        SocketAddr::new(IpAddr::from(*destination), u16::from_be_bytes([destination_high, destination_low])),
    ))
}

/// Every TLV from `at` on must end where the next begins or the header ends. None but the checksum is read.
fn check_tlvs(header: &[u8], mut at: usize) -> Result<(), Malformed> {
    let mut checksum = None;
    while at < header.len() {
        let [kind, high, low] =
            *header.get(at..).and_then(<[u8]>::first_chunk::<3>).ok_or(Malformed::V2Tlv)?;
        let value = at + 3..at + 3 + usize::from(u16::from_be_bytes([high, low]));
        if value.end > header.len() {
            return Err(Malformed::V2Tlv);
        }
        at = value.end;
        if kind == TLV_CRC32C && checksum.replace(value).is_some() {
            return Err(Malformed::V2Checksum);
        }
    }
    checksum.map_or(Ok(()), |value| check_crc32c(header, &value))
}

/// "Replace the 32 bits of the checksum field in the received PROXY header with all '0's and calculate a CRC32c checksum value
/// of the whole PROXY header" (section 2.2.3).
fn check_crc32c(header: &[u8], field: &Range<usize>) -> Result<(), Malformed> {
    let said = header.get(field.clone()).and_then(|value| <[u8; CRC32C_BYTES]>::try_from(value).ok());
    let zeroed = header.iter().enumerate().map(|(at, byte)| if field.contains(&at) { 0 } else { *byte });
    let found = crc32c(zeroed).to_be_bytes();
    if said == Some(found) { Ok(()) } else { Err(Malformed::V2Checksum) }
}
