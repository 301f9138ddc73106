//! Hashes that mean the same on every machine and in every version: who is stuck to which server rests on them.
//!
//! XXH3 with a fixed seed. Not secret: a client that picks its own key picks its server, as with any
//! consistent hashing that several load balancers have to agree on.

use twox_hash::XxHash3_64;

/// The hash of what a client is told apart by: its address, a header, a cookie, a path.
#[must_use]
pub fn hash_key(key: &[u8]) -> u64 {
    XxHash3_64::oneshot(key)
}

/// Stable over restarts and over the order in the configuration: the hash of the server's address as configured.
#[must_use]
pub fn server_id(address: &str) -> u64 {
    hash_key(address.as_bytes())
}

/// Two numbers into one, well mixed (the finaliser of splitmix64).
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    let mut z = a ^ b.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that must never change: cookies and other load balancers rely on them.
    #[test]
    fn hashes_are_pinned() {
        assert_eq!(hash_key(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(mix(0, 0), 0xe220_a839_7b1d_cdaf);
    }
}
