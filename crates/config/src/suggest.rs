//! Did you mean: the nearest of the words that would have been right.

/// Longer words are not compared; no key or choice comes near.
const WORD_CHARS_MAX: usize = 64;

/// The candidate nearest to `word`, if near enough that it may have been meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = plain(word);
    if word.is_empty() || word.len() > WORD_CHARS_MAX {
        return None;
    }
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= WORD_CHARS_MAX)
        .filter_map(|candidate| {
            let other = plain(candidate);
            let far = (word.len().max(other.len()) / 3).max(1);
            let distance = distance(&word, &other);
            let (short, long) = if word.len() < other.len() { (&word, &other) } else { (&other, &word) };
            let begins = short.len() >= 3 && long.starts_with(short);
            (distance <= far || begins).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `maxConnections`, `max-connections` and `Max_Connections` all mean `max_connections`.
fn plain(word: &str) -> Vec<char> {
    word.chars()
        .filter(|c| !matches!(c, '_' | '-'))
        .take(WORD_CHARS_MAX + 1)
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

/// Optimal string alignment: insertions, deletions, substitutions, and neighbours swapped.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, &ca) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &cb) in b.iter().enumerate() {
            let mut best = (above[j] + usize::from(ca != cb)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && ca == b[j - 1] && a[i - 1] == cb {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_finger_are_recognised() {
        let keys = ["max_connections", "bind", "pool", "backlog"];
        assert_eq!(nearest("max_conections", keys), Some("max_connections"));
        assert_eq!(nearest("maxConnections", keys), Some("max_connections"));
        assert_eq!(nearest("bnid", keys), Some("bind"));
        assert_eq!(nearest("pools", keys), Some("pool"));
        assert_eq!(nearest("max", keys), Some("max_connections"));
        assert_eq!(nearest("binding", keys), Some("bind"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("", keys), None);
        assert_eq!(nearest(&"x".repeat(10_000), keys), None);
    }
}
