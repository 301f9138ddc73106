//! Who counts as one: an address, a prefix, the value of a header field.

use std::hash::{DefaultHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One IPv4 address is one client, or one NAT.
pub const V4_PREFIX_DEFAULT: u8 = 32;
/// RFC 4291 2.5.1: whoever has an IPv6 network has 2^64 addresses in it at least, so that an address says nothing.
pub const V6_PREFIX_DEFAULT: u8 = 64;

/// Makes keys that clients cannot steer: which of them share a place in the table depends on the seed.
#[derive(Clone, Debug)]
pub struct KeyMaker {
    seed: [u64; 2],
    v4_mask: u32,
    v6_mask: u128,
}

impl KeyMaker {
    /// The seed should be random and secret. Prefix lengths beyond the family's bits count as whole addresses.
    #[must_use]
    pub fn new(seed: [u64; 2], v4_prefix: u8, v6_prefix: u8) -> Self {
        let behind = |bits: u32, prefix: u8| bits.saturating_sub(u32::from(prefix));
        Self {
            seed,
            v4_mask: u32::MAX.checked_shl(behind(Ipv4Addr::BITS, v4_prefix)).unwrap_or(0),
            v6_mask: u128::MAX.checked_shl(behind(Ipv6Addr::BITS, v6_prefix)).unwrap_or(0),
        }
    }

    /// The key of the address's prefix. An IPv4-mapped IPv6 address is the IPv4 address.
    #[must_use]
    pub fn address(&self, ip: IpAddr) -> u64 {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.hash(4, &(ip.to_bits() & self.v4_mask).to_be_bytes()),
            IpAddr::V6(ip) => self.hash(6, &(ip.to_bits() & self.v6_mask).to_be_bytes()),
        }
    }

    /// The key of a name, the value of a header field say.
    #[must_use]
    pub fn name(&self, name: &[u8]) -> u64 {
        self.hash(0, name)
    }

    /// The standard library's SipHash under its fixed key: with a secret in front of the message nobody outside can find two
    /// that collide.
    fn hash(&self, kind: u8, bytes: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        for part in self.seed {
            hasher.write_u64(part);
        }
        hasher.write_u8(kind);
        hasher.write(bytes);
        hasher.finish()
    }
}
