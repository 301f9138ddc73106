//! The retry budget and the cookie that keeps a client at its server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use fourfold_balance::retry::{BudgetRules, RetryBudget};
use fourfold_balance::{server_id, sticky};
use proptest::prelude::*;

const RULES: BudgetRules = BudgetRules { percent: 20, per_second_min: 0, window_ms: 10_000 };

fn taken(budget: &mut RetryBudget, now: u64, wanted: usize) -> usize {
    (0..wanted).filter(|_| budget.take_retry(now)).count()
}

#[test]
fn a_fifth_of_the_requests_may_be_retried() {
    let mut budget = RetryBudget::new(RULES, 0);
    assert_eq!(taken(&mut budget, 0, 10), 0);
    (0..100).for_each(|n| budget.handle_request(n));
    assert_eq!(budget.left(100), 20);
    assert_eq!(taken(&mut budget, 100, 100), 20);
}

#[test]
fn what_is_not_spent_in_the_window_is_lost() {
    let mut budget = RetryBudget::new(RULES, 5_000);
    (0..100).for_each(|_| budget.handle_request(5_000));
    assert_eq!(budget.left(14_000), 20);
    assert_eq!(budget.left(15_000), 0);
}

#[test]
fn the_oldest_is_spent_first() {
    let mut budget = RetryBudget::new(RULES, 0);
    for now in [0, 9_000] {
        (0..100).for_each(|_| budget.handle_request(now));
    }
    assert_eq!(taken(&mut budget, 9_000, 20), 20);
    assert_eq!(budget.left(11_000), 20, "what came last is still there");
}

#[test]
fn a_quiet_pool_has_its_minimum() {
    let mut budget = RetryBudget::new(BudgetRules { per_second_min: 3, ..RULES }, 0);
    // Ten seconds' worth is saved at most.
    assert_eq!(taken(&mut budget, 3_600_000, 100), 30);
    assert_eq!(taken(&mut budget, 3_601_000, 100), 3);
}

#[test]
fn in_an_outage_load_grows_by_the_percentage_and_no_more() {
    let mut budget = RetryBudget::new(RULES, 0);
    let (mut requests, mut retries) = (0, 0);
    for now in 0..60_000 {
        requests += 1;
        budget.handle_request(now);
        // Each request fails, and its retries fail too.
        retries += taken(&mut budget, now, 3);
    }
    assert!(retries * 5 <= requests && retries * 5 > requests * 98 / 100, "{retries} of {requests}");
}

proptest! {
    /// Over any stretch of time: no more than the percentage of the requests of that stretch and of the window
    /// before, and the minimum for as long.
    #[test]
    fn the_budget_is_never_exceeded(
        percent in 0..100u32,
        per_second_min in 0..20u32,
        steps in proptest::collection::vec((0..500u64, 0..20u32, 0..20u32), 1..300),
        start in 0..1_000_000u64,
    ) {
        let rules = BudgetRules { percent, per_second_min, window_ms: 10_000 };
        let mut budget = RetryBudget::new(rules, start);
        let mut history: Vec<(u64, u32, u32)> = Vec::new();
        let mut now = start;
        for (ms, requests, wanted) in steps {
            now += ms;
            (0..requests).for_each(|_| budget.handle_request(now));
            history.push((now, requests, taken(&mut budget, now, wanted as usize) as u32));
        }
        for from in 0..history.len() {
            let since = history[from].0;
            let retries: u32 = history[from..].iter().map(|step| step.2).sum();
            let requests: u32 =
                history.iter().filter(|step| step.0 + 10_000 >= since).map(|step| step.1).sum();
            let seconds = (now - since) as f64 / 1000.0 + 11.0;
            let most = f64::from(requests * percent) / 100.0 + f64::from(per_second_min) * seconds;
            prop_assert!(f64::from(retries) <= most + 1e-6, "{retries} retries, {most} allowed");
        }
    }

    #[test]
    fn a_cookie_says_which_server_and_nothing_else_is_believed(id: u64, salt: u64, other: u64, value: Vec<u8>) {
        let cookie = sticky::cookie(id, salt);
        prop_assert_eq!(sticky::parse(&cookie, salt), Some(id));
        prop_assert!(cookie.iter().all(|byte| byte.is_ascii_hexdigit()));
        if other != salt {
            prop_assert_ne!(sticky::cookie(id, other), cookie);
        }
        prop_assert!(sticky::parse(&value, salt).is_none_or(|id| sticky::cookie(id, salt)[..] == value));
    }
}

#[test]
fn a_cookie_that_was_changed_is_nobodys() {
    let cookie = sticky::cookie(server_id("10.0.0.1:80"), 5);
    for place in 0..sticky::COOKIE_BYTES {
        for digit in b"0123456789abcdef".iter().filter(|digit| **digit != cookie[place]) {
            let mut changed = cookie;
            changed[place] = *digit;
            assert_eq!(sticky::parse(&changed, 5), None, "{}", String::from_utf8_lossy(&changed));
        }
    }
}

#[test]
fn strange_cookies_are_none() {
    let cookie = sticky::cookie(server_id("10.0.0.1:80"), 5);
    let upper = cookie.map(|byte| byte.to_ascii_uppercase());
    for value in
        [&b""[..], b"0", &cookie[1..], &[cookie.as_slice(), b"0"].concat(), &[b'g'; 20], &[0xff; 20], &upper]
    {
        assert_eq!(sticky::parse(value, 5), None);
    }
}

/// Clients carry these for weeks, through restarts, upgrades and other instances.
#[test]
fn a_cookie_s_value_does_not_change() {
    let cookie = sticky::cookie(server_id("10.0.0.1:80"), 5);
    assert_eq!(std::str::from_utf8(&cookie), Ok("1d6b0272c89b9d6a5a56"));
}
