//! All findings on one machine, ranked by which binds first.

use crate::capacity::Capacity;
use crate::check::{CHECKS, Group};
use crate::facts::Facts;
use crate::finding::{Change, Found, Limit, Remedy, Status};
use crate::folklore::FOLKLORE;
use crate::wanted::Wanted;
use serde::Serialize;

/// What programs may rely on in `--json`.
pub const REPORT_VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub group: Group,
    pub title: &'static str,
    pub status: Status,
    pub what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    pub reference: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remedies: Vec<Remedy>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub version: u32,
    /// Connections that were judged: those asked for, or what `run` would derive.
    pub connections: u64,
    pub connections_asked_for: bool,
    /// Index into `findings` of what binds first, which is the first of them.
    pub first_limit: Option<usize>,
    /// Those with a limit in the order in which they bind, then what else is wrong, then what is right.
    pub findings: Vec<Finding>,
}

/// Looks at everything.
#[must_use]
pub fn examine(facts: &Facts, wanted: &Wanted) -> Report {
    let capacity = Capacity::new(facts, wanted);
    let mut findings: Vec<Finding> = CHECKS
        .iter()
        .flat_map(|check| {
            let named = |found| named(check.id, check.group, check.title, check.reference, found);
            (check.look)(&capacity).into_iter().map(named)
        })
        .collect();
    findings.extend(FOLKLORE.iter().filter_map(|belief| {
        let found = (belief.trace)(facts)?;
        Some(named(belief.id, Group::Folklore, "a belief", belief.reference, found))
    }));
    // A stable sort: a tie is told in the order of the table.
    findings.sort_by_key(|one| (one.limit.map_or(u64::MAX, |limit| limit.connections), one.status));
    Report {
        version: REPORT_VERSION,
        connections: capacity.connections(),
        connections_asked_for: wanted.connections.is_some(),
        first_limit: findings.first().filter(|one| one.limit.is_some()).map(|_| 0),
        findings,
    }
}

fn named(
    check: &'static str,
    group: Group,
    title: &'static str,
    reference: &'static str,
    found: Found,
) -> Finding {
    let Found { status, what, limit, why, remedies } = found;
    Finding { check, group, title, status, what, limit, why, reference, remedies }
}

impl Report {
    #[must_use]
    pub fn first(&self) -> Option<&Finding> {
        self.findings.get(self.first_limit?)
    }

    pub fn of(&self, status: Status) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |one| one.status == status)
    }

    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.of(Status::Fail).next().is_some()
    }

    /// What `--fix` may do, each setting once, to the last value asked for it.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::new();
        let all = self.findings.iter().filter(|one| one.status != Status::Pass).flat_map(|one| &one.remedies);
        for change in all.filter_map(|remedy| remedy.change.as_ref()) {
            let known = changes.iter_mut().find(|one| one.setting == change.setting);
            match known {
                // Two listeners, two pools: what is enough for both.
                Some(known) if wider(&change.value, &known.value) => known.value.clone_from(&change.value),
                Some(_) => {}
                None => changes.push(change.clone()),
            }
        }
        changes
    }
}

/// Whether a setting's value is more than another: a larger last number, or an earlier start of a range.
fn wider(one: &str, other: &str) -> bool {
    let numbers = |text: &str| text.split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<u64>>();
    let (one, other) = (numbers(one), numbers(other));
    match (one.as_slice(), other.as_slice()) {
        ([first, _], [than, _]) => first < than,
        (one, other) => one.last() > other.last(),
    }
}
