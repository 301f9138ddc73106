//! The value of a cookie that keeps a client at its server.
//!
//! It says which server and nothing else: not its address, not its place in the configuration. It is not
//! secret and not trusted further than that: who forges one picks a server that would have taken the client
//! anyway, and whether that server is usable is asked as for any other.

use crate::hash::mix;

/// Hexadecimal digits: 64 bits of id, 16 of check.
pub const COOKIE_BYTES: usize = 20;

/// The cookie's value for the server with this id; `salt` tells pools apart (the hash of the pool's name), so that a
/// cookie of one does not stick in another that has the same server.
#[must_use]
pub fn cookie(id: u64, salt: u64) -> [u8; COOKIE_BYTES] {
    let mut value = [0; COOKIE_BYTES];
    let digits = u128::from(masked(id, salt)) << 16 | u128::from(check(id, salt));
    for (place, byte) in value.iter_mut().rev().enumerate() {
        *byte = b"0123456789abcdef"[(digits >> (4 * place)) as usize & 15];
    }
    value
}

/// The id in a cookie's value; `None` for anything that [`cookie`] has not written with this salt.
#[must_use]
pub fn parse(value: &[u8], salt: u64) -> Option<u64> {
    if value.len() != COOKIE_BYTES {
        return None;
    }
    let digits = value.iter().try_fold(0u128, |digits, byte| Some(digits << 4 | u128::from(hex(*byte)?)))?;
    let id = masked((digits >> 16) as u64, salt);
    (digits as u16 == check(id, salt)).then_some(id)
}

/// Own inverse. The same server looks different in each pool.
fn masked(id: u64, salt: u64) -> u64 {
    id ^ mix(salt, 0)
}

fn check(id: u64, salt: u64) -> u16 {
    mix(id, salt) as u16
}

/// Lower case only: one server has one value.
fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}
