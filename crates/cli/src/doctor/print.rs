//! The report for people: the first limit at the top, then by group, the worst first.

use fourfold_doctor::{Belief, Finding, Group, Remedy, Report, Status};
use std::io::IsTerminal;

/// Bold and colours, where a terminal wants them (no-color.org).
struct Style(bool);

impl Style {
    fn of_stdout() -> Style {
        Style(std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none())
    }

    fn bold(&self, text: &str) -> String {
        self.with("1", text)
    }

    fn with(&self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn sign(&self, status: Status) -> String {
        match status {
            Status::Fail => self.with("31", "✗"),
            Status::Warn => self.with("33", "!"),
            Status::Pass => self.with("32", "✓"),
        }
    }
}

pub fn report(report: &Report, subject: &str) {
    let style = Style::of_stdout();
    let asked = if report.connections_asked_for { "asked for" } else { "derived from the machine" };
    println!("{subject}: {} connections, {asked}\n", number(report.connections));
    println!("{}\n", style.bold(&headline(report)));
    for group in groups(report) {
        println!("{}", style.bold(group.title()));
        report.findings.iter().filter(|one| one.group == group).for_each(|one| finding(one, &style));
        println!();
    }
    println!("{}", sums(report));
}

/// The one line that is read when only one is.
pub fn headline(report: &Report) -> String {
    let Some((first, limit)) = report.first().and_then(|first| Some((first, first.limit?))) else {
        return "No limit is known".into();
    };
    let at = format!("{} {}", number(limit.number), limit.measure.noun());
    let short = match (limit.is_enough(), first.status) {
        (true, _) => format!("enough for what is wanted ({})", number(limit.wanted)),
        (false, Status::Warn) => format!("{} may be wanted", number(limit.wanted)),
        (false, _) => format!("{} are wanted", number(limit.wanted)),
    };
    format!("First limit: {} at {at}; {short}", first.title)
}

/// Those first in which something binds first.
fn groups(report: &Report) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let worst_first = [Status::Fail, Status::Warn, Status::Pass];
    for one in worst_first.into_iter().flat_map(|status| report.of(status)) {
        if !groups.contains(&one.group) {
            groups.push(one.group);
        }
    }
    groups
}

fn finding(one: &Finding, style: &Style) {
    println!("  {} {}: {}", style.sign(one.status), one.title, one.what);
    if one.status == Status::Pass {
        return;
    }
    line("why", &one.why);
    one.remedies.iter().for_each(remedy);
    line("see", one.reference);
}

fn remedy(remedy: &Remedy) {
    line("do", &remedy.command);
    for way in &remedy.lasting {
        let place = way.file.map_or_else(|| way.way.to_owned(), |file| format!("{}, {file}", way.way));
        line("lasting", &format!("{place}: {}", way.text.trim().replace('\n', " ")));
    }
    line("risk", &remedy.risk);
}

fn line(label: &str, text: &str) {
    if !text.is_empty() {
        println!("      {label:<8} {text}");
    }
}

fn sums(report: &Report) -> String {
    let count = |status| report.of(status).count();
    let (fail, warn, pass) = (count(Status::Fail), count(Status::Warn), count(Status::Pass));
    let fixable = report.changes().len();
    let hint = match fixable {
        0 => String::new(),
        n => format!("; --fix changes {n} setting{}", if n == 1 { "" } else { "s" }),
    };
    format!("{fail} failed, {warn} warned, {pass} passed{hint}")
}

pub fn folklore(beliefs: &[Belief]) {
    let style = Style::of_stdout();
    for one in beliefs {
        println!("{}\n  {}\n  see {}\n", style.bold(&format!("\"{}\"", one.said)), one.truth, one.reference);
    }
}

/// In groups of three, as people read it.
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_grouped() {
        assert_eq!(super::number(0), "0");
        assert_eq!(super::number(999), "999");
        assert_eq!(super::number(28_232), "28 232");
        assert_eq!(super::number(1_000_000), "1 000 000");
    }
}
