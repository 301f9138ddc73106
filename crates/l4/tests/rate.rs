//! Rate limits against an exact reference, and under those who want more than their share.

use fourfold_base::prng::Prng;
use fourfold_l4::rate::{Gcra, KeyMaker, Keyed, Limiter, Rate, RetryAfter};
use proptest::prelude::*;
use std::collections::HashMap;
use std::net::IpAddr;

const SECOND: u64 = 1_000_000;

/// The rule in exact fractions: time counts in units of 1/`count` of a microsecond.
struct Exact {
    count: u128,
    period_us: u128,
    burst: u128,
    full_at: HashMap<u64, u128>,
}

impl Exact {
    fn new(count: u32, period_us: u64, burst: u32) -> Self {
        let (count, period_us, burst) = (u128::from(count), u128::from(period_us), u128::from(burst));
        Self { count, period_us, burst, full_at: HashMap::new() }
    }

    /// How far ahead of its allowance the key would be; it may be so by `burst - 1` periods.
    fn ahead(&self, key: u64, now_us: u64) -> u128 {
        let now = u128::from(now_us) * self.count;
        self.full_at.get(&key).map_or(0, |full_at| full_at.saturating_sub(now))
    }

    fn allows(&self, key: u64, now_us: u64) -> bool {
        self.ahead(key, now_us) <= (self.burst - 1) * self.period_us
    }

    fn spend(&mut self, key: u64, now_us: u64) {
        let now = u128::from(now_us) * self.count;
        let full_at = self.full_at.entry(key).or_default();
        *full_at = (*full_at).max(now) + self.period_us;
    }
}

/// Hashes as [`KeyMaker`] makes them.
fn key(number: u64) -> u64 {
    KeyMaker::new([1, 2], 32, 64).name(&number.to_be_bytes())
}

proptest! {
    /// Rates whose interval is a whole number of nanoseconds: every answer is the reference's.
    #[test]
    fn one_limit_is_exact(
        (count, burst) in (prop_oneof![Just(1u32), Just(5), Just(1000), Just(64_000)], 1u32..20),
        steps in proptest::collection::vec(0u64..400_000, 1..300),
    ) {
        let (rate, mut exact, mut limit) = (Rate::per_second(count, burst), Exact::new(count, SECOND, burst), Gcra::default());
        let mut now = 0;
        for step in steps {
            now += step / u64::from(count);
            match limit.take(rate, now) {
                Ok(()) => {
                    prop_assert!(exact.allows(0, now), "passed too early at {}", now);
                    exact.spend(0, now);
                }
                // Refused rightly, and the wait is the shortest that helps.
                Err(RetryAfter { us }) => {
                    prop_assert!(!exact.allows(0, now + us - 1) && exact.allows(0, now + us), "wait {} at {}", us, now);
                }
            }
        }
    }

    /// Any rate, far more keys than places: what passes is always within the exact allowance of its key.
    #[test]
    fn nobody_passes_more_often_than_the_rate(
        (count, period_us, burst) in (1u32..2000, 1u64..3 * SECOND, 1u32..6),
        seed in any::<u64>(),
        keys in 1u32..200,
    ) {
        let (mut keyed, mut exact) = (Keyed::new(Rate::new(count, period_us, burst), 8), Exact::new(count, period_us, burst));
        let (mut rng, mut now) = (Prng::new(seed), 0);
        for _ in 0..2000 {
            now += u64::from(rng.below(u32::try_from(period_us / u64::from(count)).unwrap() / 8 + 2));
            let key = key(u64::from(rng.below(keys)));
            let passed = keyed.take(key, now).is_ok();
            prop_assert!(!passed || exact.allows(key, now), "{} passed too early at {}", key, now);
            if passed {
                exact.spend(key, now);
            }
        }
    }

    /// As many keys at once as were asked for: each has the whole of its own allowance.
    #[test]
    fn keys_do_not_share_an_allowance(seed in any::<u64>(), burst in 1u32..6) {
        let mut keyed = Keyed::new(Rate::per_second(10, burst), 1000);
        let mut exact = Exact::new(10, SECOND, burst);
        let (mut rng, mut now, mut wrong) = (Prng::new(seed), 0, 0);
        for _ in 0..20_000 {
            now += u64::from(rng.below(300));
            let key = key(u64::from(rng.below(1000)));
            let (expected, passed) = (exact.allows(key, now), keyed.take(key, now).is_ok());
            if passed {
                exact.spend(key, now);
            }
            wrong += u32::from(expected != passed);
        }
        // Sets fill unevenly: one that overflows makes a new key inherit a debt.
        prop_assert!(wrong <= 20, "{} of 20000 answers differ", wrong);
    }
}

#[test]
fn a_burst_then_the_rate() {
    let (rate, mut limit) = (Rate::per_second(10, 3), Gcra::default());
    let taken = |limit: &mut Gcra, now| limit.take(rate, now).map_err(|retry| retry.us);
    let start = 5 * SECOND;
    assert_eq!([start, start, start].map(|now| taken(&mut limit, now)), [Ok(()); 3]);
    assert_eq!(taken(&mut limit, start), Err(100_000));
    assert_eq!(taken(&mut limit, start + 99_999), Err(1));
    assert_eq!(taken(&mut limit, start + 100_000), Ok(()));
    assert_eq!(taken(&mut limit, start + 100_000), Err(100_000));
    // A rest restores the burst and no more.
    let later = start + 3600 * SECOND;
    assert_eq!([later; 4].map(|now| taken(&mut limit, now)), [Ok(()), Ok(()), Ok(()), Err(100_000)]);
}

#[test]
fn retry_after_in_whole_seconds_is_never_too_short() {
    for (us, seconds) in [(1, 1), (999_999, 1), (1_000_000, 1), (1_000_001, 2), (59_000_001, 60)] {
        assert_eq!(RetryAfter { us }.seconds(), seconds);
    }
}

#[test]
fn extreme_rates_and_times_do_not_overflow() {
    for rate in [Rate::new(0, 0, 0), Rate::new(u32::MAX, 1, u32::MAX), Rate::new(1, u64::MAX, u32::MAX)] {
        let mut keyed = Keyed::new(rate, 0);
        for now in [0, 1, u64::MAX / 1000, u64::MAX - 1, u64::MAX] {
            let _ = keyed.take(7, now);
        }
    }
    // A clock that steps back takes nothing from anybody and gives nothing.
    let mut limit = Gcra::default();
    let rate = Rate::per_second(1, 1);
    assert_eq!(limit.take(rate, 10 * SECOND), Ok(()));
    assert_eq!(limit.take(rate, 9 * SECOND), Err(RetryAfter { us: 2 * SECOND }));
}

/// A key that has spent everything brings as many others to the same point, so that it is pushed out of the table: it
/// comes back to its debt.
#[test]
fn flooding_the_table_resets_nobody() {
    let (rate, attacker) = (Rate::per_second(1, 5), key(u64::MAX));
    let mut keyed = Keyed::new(rate, 64);
    let mut passed = 0;
    for other in 0..100_000 {
        // Ten seconds altogether.
        let now = other * 100;
        passed += u32::from(keyed.take(attacker, now).is_ok());
        for _ in 0..6 {
            let _ = keyed.take(key(other), now);
        }
    }
    assert!(passed <= 5 + 10, "{passed} passed");
}

/// A client within its rate passes while another sends a thousand times as much as allowed.
#[test]
fn one_key_cannot_starve_another() {
    let mut keyed = Keyed::new(Rate::per_second(10, 2), 64);
    let mut greedy = 0;
    for now in (0..10 * SECOND).step_by(100) {
        greedy += u32::from(keyed.take(key(1), now).is_ok());
        if now % 100_000 == 0 {
            assert_eq!(keyed.take(key(2), now), Ok(()), "at {now}");
        }
    }
    assert_eq!(greedy, 2 + 99);
}

/// Single events of ever new keys, as many per second as the table has places times the rate: clients within their rate
/// hardly notice.
#[test]
fn a_flood_of_new_keys_leaves_others_their_rate() {
    let mut keyed = Keyed::new(Rate::per_second(10, 5), 1024);
    let (mut refused, mut asked) = (0, 0);
    for event in 0..100_000u64 {
        let now = event * 100;
        let _ = keyed.take(key(1_000_000 + event), now);
        if event % 10 == 0 {
            // A hundred clients, ten times a second each.
            asked += 1;
            refused += u32::from(keyed.take(key(event / 10 % 100), now).is_err());
        }
    }
    assert!(refused * 100 <= asked, "{refused} of {asked} refused");
}

#[test]
fn addresses_of_one_prefix_are_one_client() {
    let maker = KeyMaker::new([3, 4], 24, 64);
    let key = |text: &str| maker.address(text.parse::<IpAddr>().unwrap());
    assert_eq!(key("10.0.0.1"), key("10.0.0.255"));
    assert_ne!(key("10.0.0.1"), key("10.0.1.1"));
    assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
    assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:0:0:1"));
    assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
    assert_ne!(KeyMaker::new([3, 5], 24, 64).name(b"a"), maker.name(b"a"));
    let everybody = KeyMaker::new([3, 4], 0, 0);
    assert_eq!(everybody.address("1.1.1.1".parse().unwrap()), everybody.address("2.2.2.2".parse().unwrap()));
    let whole = KeyMaker::new([3, 4], 255, 255);
    assert_ne!(whole.address("::1".parse().unwrap()), whole.address("::2".parse().unwrap()));
}

#[test]
fn shards_share_one_allowance() {
    let limiter = Limiter::new(Rate::per_second(1, 100), 1000);
    let passed: usize = std::thread::scope(|scope| {
        let shard = || (0..1000).filter(|number| limiter.take(key(number % 2), 0).is_ok()).count();
        let shards: Vec<_> = (0..4).map(|_| scope.spawn(shard)).collect();
        shards.into_iter().map(|shard| shard.join().unwrap()).sum()
    });
    assert_eq!(passed, 200);
}

#[test]
fn a_new_rate_holds_at_once() {
    let mut keyed = Keyed::new(Rate::per_second(1, 1), 10);
    assert_eq!(keyed.take(1, 0), Ok(()));
    assert!(keyed.take(1, SECOND / 2).is_err());
    keyed.set_rate(Rate::per_second(1, 2));
    assert_eq!(keyed.take(1, SECOND / 2), Ok(()));
}
