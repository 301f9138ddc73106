//! No input makes the parser panic, and what it says about rubbish keeps its promises.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail loudly")]

use fourfold_config::{
    DIAGNOSTICS_KEPT_MAX, DIAGNOSTICS_PRINTED_MAX, Diagnostics, Flags, Question, Severity, explain,
    from_flags, parse, parse_count, parse_duration_ms,
};
use proptest::prelude::*;

const VALID: [&str; 4] = [
    include_str!("../../../tests/configs/good/http-every-key.toml"),
    include_str!("../../../tests/configs/good/every-key.toml"),
    include_str!("../../../tests/configs/good/shared-space.toml"),
    include_str!("../../../tests/configs/good/minimal.json"),
];

/// Fragments that steer mutations towards the interesting corners.
const FRAGMENTS: [&str; 30] = [
    "{",
    "{host}",
    "[[listener.route.header]]\n",
    "[listener.access_log]\n",
    "%",
    "/../",
    "[[pool]]\n",
    "[pool]\n",
    "[[pool.server]]\n",
    "[[listener.route]]\n",
    "[log]\n",
    "=",
    "\"",
    "'''",
    "{",
    "}",
    "]",
    "[[",
    "\u{0}",
    "\u{7f}\u{85}",
    "\r",
    "é€😀",
    "-1",
    "18446744073709551616",
    "0s",
    "::",
    "[::]:1",
    "255.255.255.255-0.0.0.0",
    "/128",
    "\\ud800",
];

fn hold(outcome: Result<fourfold_config::Checked, Diagnostics>, bytes: &[u8]) {
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
    let found = match outcome {
        Ok(checked) => {
            assert!(!checked.warnings.has_errors());
            assert!(!checked.plan.listeners.is_empty());
            assert!(
                checked
                    .plan
                    .listeners
                    .iter()
                    .all(|one| one.pool.is_none_or(|pool| pool < checked.plan.pools.len()))
            );
            assert!(checked.plan.pools.iter().all(|pool| !pool.servers.is_empty()));
            checked.warnings
        }
        Err(found) => {
            assert!(found.has_errors());
            found
        }
    };
    for item in found.iter() {
        assert!(item.line.is_none_or(|line| (1..=lines).contains(&line)), "{item:?}");
        assert!(!item.message.chars().any(char::is_control), "{item:?}");
        assert_ne!(item.code.as_str(), "internal", "{item:?}");
    }
    assert!(found.iter().count() <= DIAGNOSTICS_KEPT_MAX);
    let shown = found.render_human();
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    assert_eq!(found.to_json()["errors"], found.error_count());
}

#[derive(Clone, Debug)]
enum Mutation {
    Insert(usize, usize),
    Remove(usize, usize),
    Set(usize, u8),
    /// Copies a stretch elsewhere.
    Copy(usize, usize, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        (any::<usize>(), 0..FRAGMENTS.len()).prop_map(|(at, which)| Mutation::Insert(at, which)),
        (any::<usize>(), 1..40usize).prop_map(|(at, len)| Mutation::Remove(at, len)),
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (any::<usize>(), 1..80usize, any::<usize>()).prop_map(|(at, len, to)| Mutation::Copy(at, len, to)),
    ]
}

fn apply(bytes: &mut Vec<u8>, mutation: &Mutation) {
    let len = bytes.len();
    let at = |n: usize| n % (len + 1);
    match mutation {
        Mutation::Insert(place, which) => {
            let place = at(*place);
            bytes.splice(place..place, FRAGMENTS[*which].bytes());
        }
        Mutation::Remove(place, count) => {
            let place = at(*place);
            bytes.drain(place..(place + count).min(len));
        }
        Mutation::Set(place, byte) => {
            let place = at(*place);
            if let Some(target) = bytes.get_mut(place) {
                *target = *byte;
            }
        }
        Mutation::Copy(place, count, to) => {
            let place = at(*place);
            let piece = bytes[place..(place + count).min(len)].to_vec();
            let to = at(*to);
            bytes.splice(to..to, piece);
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        hold(parse("x.toml", &bytes), &bytes);
    }

    #[test]
    fn arbitrary_text(text in "(\\{)?\\PC{0,200}") {
        hold(parse("x.toml", text.as_bytes()), text.as_bytes());
    }

    #[test]
    fn mutated_configuration(which in 0..VALID.len(), mutations in proptest::collection::vec(mutation(), 1..8)) {
        let mut bytes = VALID[which].as_bytes().to_vec();
        for mutation in &mutations {
            apply(&mut bytes, mutation);
        }
        hold(parse("x.toml", &bytes), &bytes);
    }

    #[test]
    fn arbitrary_flags(listen in "\\PC{0,40}", to in "\\PC{0,40}", source in "[0-9a-f:./-]{0,40}", count in "\\PC{0,20}") {
        let (listen, to, source) = ([listen], [to], [source]);
        let flags = Flags {
            listen: &listen, to: &to, source: &source, max_connections: Some(&count), ..Flags::default()
        };
        hold(from_flags(&flags), b"");
    }

    #[test]
    fn arbitrary_questions(url in "(http://|/)?\\PC{0,40}", method in "\\PC{0,8}", header in "\\PC{0,30}") {
        let plan = parse("x.toml", VALID[0].as_bytes()).unwrap().plan;
        for headers in [vec![], vec![header]] {
            let question = Question { url: url.clone(), method: method.clone(), headers, from: None };
            match explain(&plan, &question) {
                Ok(explanation) => {
                    prop_assert!(!explanation.to_string().contains(|c: char| c.is_control() && c != '\n'));
                }
                Err(error) => prop_assert!(!error.to_string().contains(char::is_control)),
            }
        }
    }

    #[test]
    fn counts_are_read_back(number in any::<u64>()) {
        prop_assert_eq!(parse_count(&number.to_string()), Ok(number));
    }

    #[test]
    fn durations_are_read_back(hours in 0..1_000u64, minutes in 0..60u64, ms in 0..1_000u64) {
        let text = format!("{hours}h{minutes}m{ms}ms");
        prop_assert_eq!(parse_duration_ms(&text), Ok(hours * 3_600_000 + minutes * 60_000 + ms));
    }

    #[test]
    fn values_of_any_text(text in "\\PC{0,30}") {
        let _ = (parse_count(&text), parse_duration_ms(&text));
    }
}

#[test]
fn a_flood_of_mistakes_is_counted_and_cut() {
    let count = DIAGNOSTICS_KEPT_MAX * 3;
    let text: String = (0..count).map(|n| format!("key_{n} = 1\n")).collect();
    let found = parse("flood.toml", text.as_bytes()).unwrap_err();
    let errors = count + 2; // no listener, no pool
    assert_eq!(found.error_count(), errors);
    assert_eq!(found.iter().count(), DIAGNOSTICS_KEPT_MAX);
    let shown = found.render_human();
    assert_eq!(shown.matches(": error: ").count(), DIAGNOSTICS_PRINTED_MAX);
    let rest = errors - DIAGNOSTICS_PRINTED_MAX;
    assert!(shown.ends_with(&format!("… and {rest} more ({errors} errors, 0 warnings in all)\n")), "{shown}");
    assert_eq!(found.to_json()["omitted"], errors - DIAGNOSTICS_KEPT_MAX);
}

#[test]
fn deep_nesting_is_survived() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let text = format!("{{\"pool\": {}1{}}}", open.repeat(20_000), close.repeat(20_000));
        hold(parse("deep.json", text.as_bytes()), text.as_bytes());
    }
    let text = format!("pool = {}1{}", "[".repeat(20_000), "]".repeat(20_000));
    hold(parse("deep.toml", text.as_bytes()), text.as_bytes());
    let text = format!("[{}]\n", vec!["a"; 20_000].join("."));
    hold(parse("dotted.toml", text.as_bytes()), text.as_bytes());
}

#[test]
fn a_message_that_repeats_the_file_is_harmless_on_a_terminal() {
    let text = "\"\\u001b]0;gotcha\\u0007\" = 1\nlog.level = \"\\u001b[31m\"\n";
    let found = parse("x.toml", text.as_bytes()).unwrap_err();
    assert!(found.iter().any(|item| item.severity == Severity::Error && item.code.as_str() == "unknown-key"));
    assert!(!found.render_human().contains('\u{1b}'));
}

/// Quadratic work on one endless line once took minutes for a file of the largest size.
#[test]
fn one_endless_line_of_mistakes_is_read_once() {
    let text = "=".repeat(1 << 20);
    let found = parse("line.toml", text.as_bytes()).unwrap_err();
    assert!(found.error_count() >= text.len());
    assert!(found.render_human().lines().all(|line| line.chars().count() < 500));
}

#[test]
fn lists_longer_than_their_limit_are_refused() {
    let listeners = "[[listener]]\n".repeat(1_025);
    let sources =
        (0..1_025).map(|n| format!("\"10.0.{}.{}\"", n / 256, n % 256)).collect::<Vec<_>>().join(", ");
    let text = format!(
        "{listeners}[[pool]]\nname = \"p\"\nsources = [{sources}]\n[[pool.server]]\naddress = \"a:1\"\n"
    );
    let found = parse("many.toml", text.as_bytes()).unwrap_err();
    let messages: Vec<&str> = found.iter().map(|item| item.message.as_str()).collect();
    assert_eq!(messages, ["more than 1_024 [[listener]]", "`sources` has more than 1_024 entries"]);
}
