//! How often clients may come: the limits of one listener, over all shards together.
//!
//! A limit is exact to the difference of shards' clocks, a turn: a table of keys is shared, in stripes with a lock each. What was
//! counted by the limits before the one that refuses stays counted.

use fourfold_config::http::{RateKey, RateLimit};
use fourfold_l4::rate::{KeyMaker, Limiter, RetryAfter, V4_PREFIX_DEFAULT, V6_PREFIX_DEFAULT};
use std::net::IpAddr;

#[derive(Default)]
pub(crate) struct Rates(Vec<Limit>);

struct Limit {
    key: RateKey,
    keys: KeyMaker,
    limiter: Limiter,
}

impl Rates {
    pub fn new(limits: &[RateLimit], secret: [u64; 2]) -> Self {
        Self(limits.iter().map(|limit| Limit::new(limit, secret)).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Counts one event of `ip`'s. `field` finds the value of a request's field by its name.
    pub fn take<'a>(
        &self,
        ip: IpAddr,
        field: impl Fn(&str) -> Option<&'a [u8]>,
        now_us: u64,
    ) -> Result<(), RetryAfter> {
        self.0.iter().try_for_each(|limit| limit.limiter.take(limit.key_of(ip, &field), now_us))
    }
}

impl Limit {
    fn new(limit: &RateLimit, secret: [u64; 2]) -> Self {
        let (v4, v6) = match limit.key {
            RateKey::Prefix(v4, v6) => (v4, v6),
            RateKey::Global | RateKey::Header(_) => (V4_PREFIX_DEFAULT, V6_PREFIX_DEFAULT),
        };
        let keys_max = if limit.key == RateKey::Global { 1 } else { limit.keys_max };
        Self {
            key: limit.key.clone(),
            keys: KeyMaker::new(secret, v4, v6),
            limiter: Limiter::new(limit.rate(), keys_max),
        }
    }

    fn key_of<'a>(&self, ip: IpAddr, field: &impl Fn(&str) -> Option<&'a [u8]>) -> u64 {
        match &self.key {
            RateKey::Global => self.keys.name(b""),
            RateKey::Prefix(..) => self.keys.address(ip),
            RateKey::Header(name) => {
                field(name).map_or_else(|| self.keys.address(ip), |value| self.keys.name(value))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(key: RateKey) -> RateLimit {
        RateLimit { key, count: 1, per_ms: 1000, burst: 2, keys_max: 1000 }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn every_limit_must_have_room() {
        let each = RateLimit { burst: 3, ..limit(RateKey::Prefix(32, 64)) };
        let rates = Rates::new(&[each, limit(RateKey::Global)], [1, 2]);
        let none = |_: &str| None;
        assert!(rates.take(ip("10.0.0.1"), none, 0).is_ok());
        assert!(rates.take(ip("10.0.0.2"), none, 0).is_ok());
        let refused = rates.take(ip("10.0.0.3"), none, 0).unwrap_err();
        assert_eq!(refused.seconds(), 1);
        assert!(rates.take(ip("10.0.0.3"), none, 1_000_000).is_ok());
    }

    #[test]
    fn a_field_tells_clients_apart_and_its_absence_falls_back_to_the_address() {
        let rates = Rates::new(&[limit(RateKey::Header("x-key".into()))], [1, 2]);
        let a = |name: &str| (name == "x-key").then_some(&b"a"[..]);
        let none = |_: &str| None;
        for address in ["10.0.0.1", "10.0.0.2"] {
            assert!(rates.take(ip(address), a, 0).is_ok());
        }
        assert!(rates.take(ip("10.0.0.3"), a, 0).is_err());
        assert!(rates.take(ip("10.0.0.3"), none, 0).is_ok());
    }
}
