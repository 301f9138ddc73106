//! Pictures of the comparisons with peers, each of the same figures as a table of `docs/benchmarks.md`.

use super::plot::{Bar, Bars, Group, Lines, Panel, Scale, Series, Unit};
use super::report::{in_order, sorted_subjects, title};
use super::results::{DIRECT, FillSample, HoldSample, Measure, Protocol, Results, Spread};
use super::subject::{self, Kind};

/// File name and content of each picture that there are figures for.
pub fn of(results: &Results) -> Vec<(String, String)> {
    let file = |name: &str| format!("{}-{name}.svg", results.protocol.name());
    let mut pictures = Vec::new();
    let mut add = |name: &str, bars: Bars| {
        if bars.groups.iter().any(|group| !group.bars.is_empty()) {
            pictures.push((file(name), bars.draw()));
        }
    };
    let under = format!("median, smallest and largest of {} rounds; {}", results.rounds, results.date);
    add(
        "added-cpu",
        Bars {
            title: format!(
                "{}: CPU added by the proxy, against the better of nginx and HAProxy",
                name(results)
            ),
            subtitle: format!("whole machine, less is better; {under}"),
            unit: Unit::Ratio,
            reference: Some(1.0),
            groups: ratios(results, Measure::AddedCpu),
        },
    );
    add(
        "bulk",
        Bars {
            title: format!(
                "{}: bytes per CPU second, against the better of nginx and HAProxy",
                name(results)
            ),
            subtitle: format!("whole machine, more is better; {under}"),
            unit: Unit::Ratio,
            reference: Some(1.0),
            groups: ratios(results, Measure::BytesPerCpu),
        },
    );
    add(
        "memory",
        Bars {
            title: format!("{}: user memory of the proxy per idle connection", name(results)),
            subtitle: format!("growth between two sizes, less is better; {}", results.date),
            unit: Unit::Bytes,
            reference: None,
            groups: memory(results),
        },
    );
    if results.protocol == Protocol::Tcp && !results.fills.is_empty() {
        pictures.push((file("connect-time"), connect_time(results).draw()));
    }
    pictures
}

fn name(results: &Results) -> String {
    results.protocol.name().to_uppercase()
}

/// A subject has its colour wherever it is drawn.
fn colour(name: &str) -> usize {
    let known = subject::ALL.iter().filter(|kind| **kind != Kind::Direct);
    known.rev().position(|kind| kind.name() == name).unwrap_or(5)
}

fn ratios(results: &Results, measure: Measure) -> Vec<Group> {
    let scenarios = results.scenarios().into_iter().filter(|scenario| Measure::of(scenario) == measure);
    let group = |scenario: &str| Group {
        title: title(results.protocol, scenario).into(),
        bars: sorted_subjects(results, scenario)
            .into_iter()
            .filter(|subject| *subject != DIRECT)
            .filter_map(|subject| {
                let failed = results.failures(scenario, subject) > 0;
                bar(subject, results.ratio(scenario, subject)?, failed)
            })
            .collect(),
    };
    scenarios.map(group).collect()
}

fn bar(subject: &str, spread: Spread, failed: bool) -> Option<Bar> {
    Some(Bar { name: subject.into(), colour: colour(subject), spread, failed })
}

fn memory(results: &Results) -> Vec<Group> {
    let group = |scenario: &str| Group {
        title: match (results.protocol, scenario) {
            (_, "idle") => "Keep-alive clients".into(),
            (_, "ws-idle") => "WebSockets, a connection to each side".into(),
            _ => "Proxied TCP connections, a connection to each side".into(),
        },
        bars: in_order(results.hold_subjects(scenario))
            .into_iter()
            .filter_map(|subject| {
                let failures = |hold: &HoldSample| Some((hold.first.failed + hold.full.failed) as f64);
                let failed = results.hold_spread(scenario, subject, failures).is_some_and(|n| n.max > 0.0);
                bar(
                    subject,
                    results.hold_spread(scenario, subject, HoldSample::bytes_per_connection)?,
                    failed,
                )
            })
            .collect(),
    };
    results.hold_scenarios().into_iter().map(group).collect()
}

fn connect_time(results: &Results) -> Lines {
    let fill = |subject: &str| {
        let wait = |value: fn(&FillSample) -> f64| Some(results.fill_spread(subject, value)?.median);
        let held = wait(|fill| fill.filled.held as f64)?;
        let first = wait(|fill| f64::from(fill.filled.first_tenth_us))?;
        let last = wait(|fill| f64::from(fill.filled.last_tenth_us))?;
        Some(Series {
            name: subject.into(),
            colour: colour(subject),
            points: vec![(0.05 * held, first), (0.95 * held, last)],
        })
    };
    let hold = |subject: &str| {
        let scenario = *results.hold_scenarios().first()?;
        let wait = |value: fn(&HoldSample) -> Option<f64>| {
            Some(results.hold_spread(scenario, subject, value)?.median)
        };
        let (first, full) =
            (wait(|hold| Some(hold.first.held as f64))?, wait(|hold| Some(hold.full.held as f64))?);
        let points = vec![
            (0.05 * first, wait(|hold| Some(f64::from(hold.first.first_tenth_us)))?),
            (0.95 * first, wait(|hold| Some(f64::from(hold.first.last_tenth_us)))?),
            (first + 0.05 * (full - first), wait(|hold| Some(f64::from(hold.full.first_tenth_us)))?),
            (first + 0.95 * (full - first), wait(|hold| Some(f64::from(hold.full.last_tenth_us)))?),
        ];
        Some(Series { name: subject.into(), colour: colour(subject), points })
    };
    let panel = |title: &str, series: Vec<Series>| Panel {
        title: title.into(),
        scale: Scale::logarithmic(Unit::Microseconds),
        series,
    };
    let holds =
        results.hold_scenarios().first().map_or(Vec::new(), |scenario| results.hold_subjects(scenario));
    Lines {
        title: "TCP: from the client's connect to its token's return, against connections held".into(),
        subtitle: format!(
            "medians of the first and the last tenth of those that were opened; {}",
            results.date
        ),
        x: Scale::from_zero(Unit::Count),
        x_title: "connections held".into(),
        panels: vec![
            panel(
                "As many as the descriptor limit allows",
                in_order(holds).into_iter().filter_map(hold).collect(),
            ),
            panel(
                "One source to one upstream address, to the last port",
                in_order(results.fill_subjects()).into_iter().filter_map(fill).collect(),
            ),
        ],
        bands: Vec::new(),
        marks: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::{Cpu, Measured, Sample};

    #[test]
    fn a_picture_for_what_was_measured_and_none_for_what_was_not() {
        let sample = |subject: &str, busy: f64| Sample {
            round: 0,
            scenario: "small".into(),
            subject: subject.into(),
            measured: Measured {
                operations: 1_000,
                cpu: Cpu { user: busy, ..Cpu::default() },
                ..Measured::default()
            },
        };
        let samples = vec![sample(DIRECT, 1.0), sample("nginx", 2.0), sample("fourfold-epoll", 3.0)];
        let pictures = of(&Results { rounds: 1, samples, ..Results::default() });
        let names: Vec<&str> = pictures.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["tcp-added-cpu.svg"]);
        assert!(pictures[0].1.contains("fourfold-epoll") && pictures[0].1.contains("2.00"));
    }
}
