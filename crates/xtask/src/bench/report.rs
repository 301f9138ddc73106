//! Writes results and makes `docs/benchmarks.md` of them.

use super::million::{self, Million};
use super::results::{
    DIRECT, FaultSample, FillSample, HoldSample, Measure, PacedSample, Protocol, Results, ReuseSample,
    SlowSample, Spread,
};
use crate::workspace;
use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

/// More than this, and whole-machine figures say more about others than about the subjects.
const UNACCOUNTED_MAX: f64 = 0.2;

fn results_dir() -> PathBuf {
    workspace::root().join("benches/results")
}

/// Where the results of a run are kept, as far as it has come.
pub struct Place(PathBuf);

impl Place {
    /// Of no earlier run: a second one of a day gets a number.
    pub fn free(kind: &str, date: &str) -> Result<Place> {
        let folder = results_dir();
        fs::create_dir_all(&folder)?;
        let names = (1..).map(|run| match run {
            1 => format!("{kind}-{date}.json"),
            run => format!("{kind}-{date}-{run:02}.json"),
        });
        let free = names.map(|name| folder.join(name)).find(|path| !path.exists());
        Ok(Place(free.context("no free file name")?))
    }

    pub fn write(&self, results: &impl Serialize) -> Result<()> {
        fs::write(&self.0, serde_json::to_string_pretty(results)? + "\n")?;
        println!("written: {}", self.0.display());
        Ok(())
    }
}

/// Results of a kind, the newest by name, which begins with the date, first.
fn results_of<T: DeserializeOwned>(kind: &str) -> Result<impl Iterator<Item = Result<(String, T)>>> {
    let prefix = format!("{kind}-");
    let names = fs::read_dir(results_dir()).context("no results yet: cargo xtask bench tcp")?;
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> =
        names.filter(|name| name.starts_with(&prefix) && name.ends_with(".json")).collect();
    names.sort_by_key(|name| name.trim_end_matches(".json").to_string());
    Ok(names.into_iter().rev().map(|name| {
        let text = fs::read_to_string(results_dir().join(&name))?;
        let results = serde_json::from_str(&text).with_context(|| name.clone())?;
        Ok((name, results))
    }))
}

/// The document and its pictures, all from the raw figures.
pub fn write() -> Result<()> {
    let path = workspace::root().join("docs/benchmarks.md");
    let images = workspace::root().join("docs/images");
    fs::create_dir_all(&images)?;
    let mut text = String::from(
        "# Benchmarks\n\nMade by `cargo xtask bench report` of the raw figures in `benches/results`; do not edit.\n\n",
    );
    let mut pictures = Vec::new();
    for websockets in [false, true] {
        // Of a million, the newest run that went through.
        let whole = |million: &Million| million.websockets == websockets && million.aborted.is_none();
        let newest =
            results_of::<Million>("million")?.find(|one| one.as_ref().map_or(true, |(_, one)| whole(one)));
        if let Some((name, million)) = newest.transpose()? {
            text.push_str(&million::section(&name, &million));
            pictures.extend(million::pictures(&million));
            println!("{} from benches/results/{name}", path.display());
        }
    }
    for protocol in [Protocol::Tcp, Protocol::Http] {
        if let Some((name, results)) = fullest(results_of(protocol.name())?)? {
            text.push_str(&document(&name, &results));
            pictures.extend(super::pictures::of(&results));
            println!("{} from benches/results/{name}", path.display());
        }
    }
    for (file, svg) in pictures {
        fs::write(images.join(file), svg)?;
    }
    fs::write(&path, text.trim_end().to_string() + "\n")?;
    Ok(())
}

/// The newest of those with the most scenarios: a run of a few does not take the place of one of all.
fn fullest(results: impl Iterator<Item = Result<(String, Results)>>) -> Result<Option<(String, Results)>> {
    let results = results.collect::<Result<Vec<_>>>()?;
    let scenarios = |one: &Results| one.scenarios().len() + one.hold_scenarios().len();
    // Of equals `max_by_key` takes the last, and the newest is the first.
    Ok(results.into_iter().rev().max_by_key(|(_, one)| scenarios(one)))
}

fn document(name: &str, results: &Results) -> String {
    let machine = &results.machine;
    let protocol = results.protocol.name();
    let mut text = format!("## {}\n\n", protocol.to_uppercase());
    // Writing into a String cannot fail.
    let _ = write!(
        text,
        "From [`benches/results/{name}`](../benches/results/{name}); repeat with `cargo xtask bench {protocol}`.\n\n\
         Measured {} at commit {} on {} cores ({}), {} GiB, Linux {}, local ports {}, at most {} descriptors per table; \
         {:.1} % of the machine was busy before anything was started. {} rounds, {} s per window, everything on loopback. \
         Machines differ and are noisy: ratios say more than microseconds.\n\n",
        results.date,
        results.commit,
        machine.cores,
        machine.cpu,
        machine.memory_gib,
        machine.kernel,
        machine.local_ports,
        machine.descriptors_hard,
        machine.background * 100.0,
        results.rounds,
        results.seconds_per_window,
    );
    text.push_str(match results.protocol {
        Protocol::Tcp => "Client and origin are the same small epoll programs for every subject, one thread each; every subject has one thread. ",
        Protocol::Http => "The client is the same small epoll program for every subject and the origin is `fourfold origin --mode http`, one thread \
            each; every subject has one thread and keeps connections to the origin (nginx `keepalive 64`, HAProxy `http-reuse always`). ",
    });
    text.push_str(
        "A figure is the CPU time of the whole machine (`/proc/stat`, everything but idle, waiting and stolen) divided by \
         operations; *added* is that minus the direct path's figure of the same round. Ratios are of \
         the medians, against the better of nginx and HAProxy, and in brackets what 90 % of 1 000 drawings of the rounds give \
         (bootstrap). *Processes only* is the scheduler's account of client, subject and origin, which other users of \
         the machine do not disturb and which does not see kernel threads. Other figures are the median, and in brackets minimum \
         and maximum over the rounds.\n\n",
    );
    let _ = write!(
        text,
        "{:.0} % of the machine's busy time in the windows was not client, subject or origin.{}\n\n",
        results.unaccounted() * 100.0,
        if results.unaccounted() > UNACCOUNTED_MAX {
            " **The machine was not quiet: believe the processes-only columns before the whole-machine ones.**"
        } else {
            ""
        }
    );
    for (subject, version) in &results.versions {
        let _ = writeln!(text, "- {subject}: {version}");
    }
    for line in &results.absent {
        let _ = writeln!(text, "- not measured: {line}");
    }
    text.push('\n');
    for (file, _) in super::pictures::of(results) {
        let _ = write!(text, "![{}](images/{file})\n\n", file.trim_end_matches(".svg").replace('-', " "));
    }
    text.push_str(&tables(results));
    text
}

pub fn tables(results: &Results) -> String {
    let mut text = String::new();
    for scenario in results.scenarios() {
        match Measure::of(scenario) {
            Measure::AddedCpu => cpu_table(&mut text, results, scenario),
            Measure::BytesPerCpu => bulk_table(&mut text, results, scenario),
        }
    }
    if !results.paced.is_empty() {
        paced_table(&mut text, results);
    }
    for scenario in results.hold_scenarios() {
        hold_table(&mut text, results, scenario);
    }
    if !results.reuses.is_empty() {
        reuse_table(&mut text, results);
    }
    if !results.slow.is_empty() {
        slow_table(&mut text, results);
    }
    if !results.faults.is_empty() {
        fault_tables(&mut text, results);
    }
    if !results.fills.is_empty() {
        fill_table(&mut text, results);
    }
    verdicts(&mut text, results);
    text
}

pub fn title(protocol: Protocol, scenario: &str) -> &str {
    match (protocol, scenario) {
        (Protocol::Tcp, "small") => "Small requests: 64 bytes each way over 64 warm connections",
        (Protocol::Tcp, "new") => {
            "New connections: connect, 64 bytes each way, the origin closes; 16 at a time"
        }
        (_, "bulk-1") => "Bulk: one stream from the origin to the client",
        (_, "bulk-64") => "Bulk: 64 streams from the origin to the client",
        (Protocol::Http, "small") => "Small responses: 100 bytes, 64 warm client connections",
        (_, "10k") => "Larger responses: 10 KB, 64 warm client connections",
        (Protocol::Http, "new") => "A new client connection per request, 100 bytes; 16 at a time",
        (_, "ws") => "WebSocket: 32 bytes each way over 64 connections",
        (_, other) => other,
    }
}

pub fn sorted_subjects<'a>(results: &'a Results, scenario: &str) -> Vec<&'a str> {
    in_order(results.subjects(scenario))
}

/// As in every other table.
pub fn in_order(mut subjects: Vec<&str>) -> Vec<&str> {
    subjects.sort_by_key(|subject| super::subject::ALL.iter().position(|kind| kind.name() == *subject));
    subjects
}

fn cpu_table(text: &mut String, results: &Results, scenario: &str) {
    let _ = writeln!(text, "### {}\n", title(results.protocol, scenario));
    text.push_str("| | CPU per operation, us | ratio | added, us | ratio | processes only, us | ratio | p50, us | p99, us | failed |\n");
    text.push_str("|---|---|---|---|---|---|---|---|---|---|\n");
    for subject in sorted_subjects(results, scenario) {
        let cell = |value| show(results.spread(scenario, subject, value), 1);
        let ratio = |value: fn(&Results, &str, &str) -> Option<Spread>| match subject {
            DIRECT => String::new(),
            _ => show(value(results, scenario, subject), 2),
        };
        let added = if subject == DIRECT { String::new() } else { cell(Results::figure) };
        let _ = writeln!(
            text,
            "| {subject} | {} | {} | {added} | {} | {} | {} | {} | {} | {} |",
            cell(Results::cost_us),
            ratio(Results::whole_ratio),
            ratio(Results::ratio),
            cell(Results::processes_us),
            ratio(Results::processes_ratio),
            show(results.latency(scenario, subject, |measured| measured.p50_us), 0),
            show(results.latency(scenario, subject, |measured| measured.p99_us), 0),
            results.failures(scenario, subject),
        );
    }
    text.push('\n');
}

fn bulk_table(text: &mut String, results: &Results, scenario: &str) {
    let _ = writeln!(text, "### {}\n", title(results.protocol, scenario));
    text.push_str(
        "| | GB per CPU second | ratio (more is better) | ratio, processes only | GB/s | failed |\n",
    );
    text.push_str("|---|---|---|---|---|---|\n");
    for subject in sorted_subjects(results, scenario) {
        let figure = results.per_round(|round| Some(results.figure(round, scenario, subject)? / 1e9));
        let ratio = |value: fn(&Results, &str, &str) -> Option<Spread>| match subject {
            DIRECT => String::new(),
            _ => show(value(results, scenario, subject), 2),
        };
        let _ = writeln!(
            text,
            "| {subject} | {} | {} | {} | {} | {} |",
            show(figure, 2),
            ratio(Results::ratio),
            ratio(Results::processes_ratio),
            show(results.spread(scenario, subject, Results::gigabytes_per_second), 2),
            results.failures(scenario, subject)
        );
    }
    text.push('\n');
}

fn hold_table(text: &mut String, results: &Results, scenario: &str) {
    text.push_str(hold_preface(scenario));
    let waits = results.protocol == Protocol::Tcp;
    text.push_str("| | held | failed | seconds | per second | bytes per connection |");
    text.push_str(if waits { " wait of the first tenth, us | of the last tenth, us |\n" } else { "\n" });
    text.push_str(if waits { "|---|---|---|---|---|---|---|---|\n" } else { "|---|---|---|---|---|---|\n" });
    for subject in in_order(results.hold_subjects(scenario)) {
        let cell = |value: fn(&HoldSample) -> Option<f64>, digits| {
            show(results.hold_spread(scenario, subject, value), digits)
        };
        let _ = write!(
            text,
            "| {subject} | {} | {} | {} | {} | {} |",
            cell(|hold| Some(hold.full.held as f64), 0),
            cell(|hold| Some((hold.first.failed + hold.full.failed) as f64), 0),
            cell(|hold| Some(hold.seconds()), 2),
            cell(|hold| Some(hold.full.held as f64 / hold.seconds()), 0),
            cell(HoldSample::bytes_per_connection, 0),
        );
        if waits {
            let first = cell(|hold| Some(f64::from(hold.first.first_tenth_us)), 0);
            let last = cell(|hold| Some(f64::from(hold.full.last_tenth_us)), 0);
            let _ = write!(text, " {first} | {last} |");
        }
        text.push('\n');
    }
    text.push('\n');
}

fn hold_preface(scenario: &str) -> &'static str {
    match scenario {
        "idle" => {
            "### Idle keep-alive clients\n\n\
             Each has had one answer and keeps its connection. Sizes are what the descriptor limit allows: nginx has six workers, \
             HAProxy and Envoy one process. Memory is the growth of the resident memory of all its processes between two \
             sizes.\n\n"
        }
        "ws-idle" => {
            "### Idle WebSockets\n\n\
             To two origins; each has sent a message and got it back. Sizes are what the descriptor limit and, for nginx, the ports \
             of one source allow. Memory is the growth of the resident memory of all its processes between two sizes, per pair of \
             connections.\n\n"
        }
        _ => {
            "### Holding idle connections\n\n\
             To one upstream address, each connection proved by a token of its own, there and back. Sizes are what the descriptor \
             limit allows: nginx has six workers and one source, HAProxy and Envoy one process, Fourfold eight sources. Memory is the \
             growth of the resident memory of all its processes between two sizes.\n\n"
        }
    }
}

fn paced_table(text: &mut String, results: &Results) {
    let rate = results.paced.first().map_or(0.0, |paced| paced.rate);
    let _ = write!(
        text,
        "### Latency at half load\n\n\
         {rate:.0} requests per second for everybody, half of what the slower of nginx and HAProxy can do; an open loop over 64 \
         connections, 100 bytes, each request timed from when it was intended. Microseconds.\n\n\
         | | p50 | ratio | p99 | ratio | p99.9 | max | failed | not started |\n|---|---|---|---|---|---|---|---|---|\n"
    );
    for subject in in_order(results.paced_subjects()) {
        let cell = |value: fn(&PacedSample) -> f64| show(results.paced_spread(subject, value), 0);
        let ratio = |value: fn(&PacedSample) -> f64| match subject {
            DIRECT => String::new(),
            _ => show(results.paced_ratio(subject, value), 2),
        };
        let _ = writeln!(
            text,
            "| {subject} | {} | {} | {} | {} | {} | {} | {} | {} |",
            cell(|paced| paced.p50_us as f64),
            ratio(|paced| paced.p50_us as f64),
            cell(|paced| paced.p99_us as f64),
            ratio(|paced| paced.p99_us as f64),
            cell(|paced| paced.p999_us as f64),
            cell(|paced| paced.max_us as f64),
            cell(|paced| paced.failed as f64),
            cell(|paced| paced.not_started as f64),
        );
    }
    text.push('\n');
}

fn reuse_table(text: &mut String, results: &Results) {
    let interval = results.reuses.first().map_or(0.0, |reuse| reuse.interval_s);
    let _ = write!(
        text,
        "### Many clients, few upstream connections\n\n\
         Every client keeps its connection and sends one request every {interval:.0} s. Upstream connections as the origin counts \
         them. Sizes are what the descriptor limit allows.\n\n\
         | | clients | answered | failed | upstream connections at once | made in all | p50, us | p99, us | p99.9, us |\n\
         |---|---|---|---|---|---|---|---|---|\n"
    );
    for subject in in_order(results.reuse_subjects()) {
        let cell = |value: fn(&ReuseSample) -> f64| show(results.reuse_spread(subject, value), 0);
        let _ = writeln!(
            text,
            "| {subject} | {} | {} | {} | {} | {} | {} | {} | {} |",
            cell(|reuse| reuse.held as f64),
            cell(|reuse| reuse.answered as f64),
            cell(|reuse| reuse.failed as f64),
            cell(|reuse| reuse.upstream_max as f64),
            cell(|reuse| reuse.upstream_made as f64),
            cell(|reuse| reuse.p50_us as f64),
            cell(|reuse| reuse.p99_us as f64),
            cell(|reuse| reuse.p999_us as f64),
        );
    }
    text.push('\n');
}

fn slow_table(text: &mut String, results: &Results) {
    text.push_str(
        "### Others while slow clients attack\n\n\
         Heads, bodies and readers that go on dripping, a byte or a line each in 8 s, and come again when they are thrown out, as many \
         at a time as the descriptor limit allows, at most 20 000; others send 1 000 requests per second over 32 connections. *Before* is the \
         same load through the same subject without the attack. Time-outs of the peers are an hour, Fourfold's are its \
         defaults. Microseconds.\n\n\
         | attack | | attackers | p50 before | p50 | p99 before | p99 | p99 / before | failed | memory each, B |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for attack in results.attacks() {
        for subject in in_order(results.slow_subjects(attack)) {
            let cell = |value: fn(&SlowSample) -> f64, digits| {
                show(results.slow_spread(attack, subject, value), digits)
            };
            let _ = writeln!(
                text,
                "| {attack} | {subject} | {} | {} | {} | {} | {} | {} | {} | {} |",
                cell(|slow| slow.attackers as f64, 0),
                cell(|slow| slow.calm_p50_us as f64, 0),
                cell(|slow| slow.p50_us as f64, 0),
                cell(|slow| slow.calm_p99_us as f64, 0),
                cell(|slow| slow.p99_us as f64, 0),
                cell(SlowSample::ratio, 2),
                cell(|slow| slow.failed as f64, 0),
                cell(SlowSample::bytes_per_attacker, 0),
            );
        }
    }
    text.push('\n');
}

fn fault_tables(text: &mut String, results: &Results) {
    text.push_str(
        "### A server of two fails\n\n\
         An open loop of 3 000 requests per second, half of them POST with 200 bytes, by a client that never tries twice. *Killed*: five \
         times by SIGKILL, a second each time, and started again. *Frozen*: for 6 s by SIGSTOP, with a time-out of 1 s per try. All are \
         to repeat GETs and no POST that has been sent, and balance as they do by themselves. A request is lost that was not answered with 200; a POST is done twice that \
         was delivered to servers more than once.\n\n",
    );
    for fault in ["killed", "frozen"] {
        let _ = write!(
            text,
            "| {fault} | GETs lost | POSTs lost | POSTs done twice | slowest GET, ms | slowest POST, ms | p99, ms | not started |\n\
             |---|---|---|---|---|---|---|---|\n"
        );
        for subject in in_order(results.fault_subjects(fault)) {
            let cell = |value: fn(&FaultSample) -> f64, digits| {
                show(results.fault_spread((fault, subject), value), digits)
            };
            let _ = writeln!(
                text,
                "| {subject} | {} | {} | {} | {} | {} | {} | {} |",
                cell(|one| one.lost_gets as f64, 0),
                cell(|one| one.lost_posts as f64, 0),
                cell(|one| one.posts_twice as f64, 0),
                cell(|one| one.slowest_get_us as f64 / 1e3, 1),
                cell(|one| one.slowest_post_us as f64 / 1e3, 1),
                cell(|one| one.p99_us as f64 / 1e3, 1),
                cell(|one| one.not_started as f64, 0),
            );
        }
        text.push('\n');
    }
}

fn fill_table(text: &mut String, results: &Results) {
    text.push_str(
        "### One source, one upstream, to the last port\n\n\
         99 % of the default range is filled, each connection proved by a token; then, at 95 %, random ones are reset and others \
         opened, 10 000 times; the same at 5 %, before, is what that is compared with. Waits are medians from the client's connect \
         to its token's return, with 256 connections under way.\n\n\
         | | held | failed | first tenth, us | last tenth, us | last / first | churn at 95 %, us | at 95 % / at 5 % | churn failed |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for subject in results.fill_subjects() {
        let cell = |value: fn(&FillSample) -> f64, digits| show(results.fill_spread(subject, value), digits);
        let _ = writeln!(
            text,
            "| {subject} | {} | {} | {} | {} | {} | {} | {} | {} |",
            cell(|fill| fill.filled.held as f64, 0),
            cell(|fill| fill.filled.failed as f64, 0),
            cell(|fill| f64::from(fill.filled.first_tenth_us), 0),
            cell(|fill| f64::from(fill.filled.last_tenth_us), 0),
            cell(FillSample::last_to_first_tenth, 2),
            cell(|fill| f64::from(fill.churned.median_us), 0),
            cell(FillSample::churn_to_baseline, 2),
            cell(|fill| fill.churned.failed as f64, 0),
        );
    }
    text.push('\n');
}

/// Where Fourfold wins and where it loses, in words: a loss must not have to be found in a table.
fn verdicts(text: &mut String, results: &Results) {
    let mut lines = Vec::new();
    for scenario in results.scenarios() {
        for subject in
            sorted_subjects(results, scenario).iter().filter(|subject| subject.starts_with("fourfold"))
        {
            let Some(ratio) = results.ratio(scenario, subject) else { continue };
            let won = match Measure::of(scenario) {
                Measure::AddedCpu => ratio.median <= 1.0,
                Measure::BytesPerCpu => ratio.median >= 1.0,
            };
            let word = if won { "better or equal" } else { "WORSE" };
            let processes = show(results.processes_ratio(scenario, subject), 2);
            lines.push(format!(
                "- {scenario}, {subject}: {word} than the better of nginx and HAProxy: {}; processes only: {processes}",
                show(Some(ratio), 2)
            ));
        }
    }
    if !lines.is_empty() {
        let _ = writeln!(text, "### In short\n\n{}\n", lines.join("\n"));
    }
}

/// `12.3 (11.0-14.1)`; one number when there is no spread, and a dash when there is nothing.
fn show(spread: Option<Spread>, digits: usize) -> String {
    let Some(Spread { median, min, max }) = spread else { return "–".into() };
    if min == max {
        return format!("{median:.digits$}");
    }
    format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::{Cpu, Measured, Sample};

    #[test]
    fn a_loss_is_said_in_words() {
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
        let samples = vec![sample("direct", 1.0), sample("nginx", 2.0), sample("fourfold-epoll", 3.0)];
        let text = tables(&Results { rounds: 1, samples, ..Results::default() });
        assert!(text.contains("fourfold-epoll: WORSE") && text.contains("2.00"), "{text}");
    }

    #[test]
    fn the_newest_of_the_fullest_runs_is_shown() {
        let run = |name: &str, scenarios: &[&str]| {
            let sample = |scenario: &&str| Sample {
                round: 0,
                scenario: (*scenario).into(),
                subject: "nginx".into(),
                measured: Measured::default(),
            };
            let samples = scenarios.iter().map(sample).collect();
            Ok((name.to_string(), Results { samples, ..Results::default() }))
        };
        let newest_first = [run("4", &["small"]), run("3", &["small", "new"]), run("2", &["new", "small"])];
        assert_eq!(fullest(newest_first.into_iter()).unwrap().unwrap().0, "3");
        assert!(fullest(std::iter::empty()).unwrap().is_none());
    }

    #[test]
    fn numbers_are_shown_with_their_spread() {
        assert_eq!(show(Some(Spread { median: 2.0, min: 1.0, max: 3.5 }), 1), "2.0 (1.0–3.5)");
        assert_eq!(show(None, 1), "–");
    }
}
