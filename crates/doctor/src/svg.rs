//! A picture of a plan: each limit against connections, on a logarithmic scale, and a line at what is wanted.

use crate::plan::{Load, PlannedLimit};
use std::fmt::Write;

const WIDTH: f64 = 900.0;
const LEFT: f64 = 260.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 60.0;
const ROW: f64 = 30.0;
const BAR: f64 = 18.0;

/// Stands for itself: no script, no font, nothing from elsewhere.
#[must_use]
pub fn picture(load: &Load) -> String {
    let scale = Scale::of(load);
    let height = TOP + ROW * load.limits.len() as f64 + 50.0;
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <title>Where each limit binds, and {} connections</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"20\" y=\"28\" font-size=\"16\">Where each limit binds, in connections</text>",
        load.connections
    );
    for (row, limit) in load.limits.iter().enumerate() {
        bar(&mut out, &scale, limit, load.connections, TOP + ROW * row as f64);
    }
    axis(&mut out, &scale, height - 42.0);
    wanted(&mut out, &scale, load.connections, height - 42.0);
    out.push_str("</svg>\n");
    out
}

struct Scale {
    /// Powers of ten.
    low: f64,
    high: f64,
}

impl Scale {
    fn of(load: &Load) -> Scale {
        let all = || load.limits.iter().map(|limit| limit.connections).chain([load.connections]);
        let power = |n: u64| (n.max(1) as f64).log10();
        let low = all().filter(|n| *n > 0).map(power).fold(f64::MAX, f64::min);
        let high = all().map(power).fold(0.0, f64::max);
        Scale { low: (low.floor() - 1.0).clamp(0.0, 18.0), high: high.ceil().max(1.0) }
    }

    fn x(&self, n: u64) -> f64 {
        let power = (n.max(1) as f64).log10().clamp(self.low, self.high);
        LEFT + (power - self.low) / (self.high - self.low).max(1.0) * (WIDTH - LEFT - RIGHT)
    }
}

fn bar(out: &mut String, scale: &Scale, limit: &PlannedLimit, wanted: u64, y: f64) {
    let colour = if limit.connections < wanted { "#c0392b" } else { "#2e7d5b" };
    let (x, middle) = (scale.x(limit.connections), y + BAR - 4.0);
    let (title, number) = (limit.title, short(limit.connections));
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{middle:.1}\" text-anchor=\"end\">{title}</text>\n\
         <rect x=\"{LEFT:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR:.1}\" fill=\"{colour}\"/>\n\
         <text x=\"{:.1}\" y=\"{middle:.1}\">{number}</text>",
        LEFT - 10.0,
        (x - LEFT).max(1.0),
        x + 6.0,
    );
}

fn axis(out: &mut String, scale: &Scale, y: f64) {
    for power in scale.low as u32..=scale.high as u32 {
        let n = 10u64.saturating_pow(power);
        let x = scale.x(n);
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>\n\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555555\">{}</text>",
            TOP - 6.0,
            y + 16.0,
            short(n)
        );
    }
}

fn wanted(out: &mut String, scale: &Scale, connections: u64, y: f64) {
    let x = scale.x(connections);
    let _ = writeln!(
        out,
        "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{y:.1}\" stroke=\"#1a1a1a\" stroke-width=\"2\" stroke-dasharray=\"6 3\"/>\n\
         <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{} wanted</text>",
        TOP - 12.0,
        y + 34.0,
        short(connections)
    );
}

/// Three digits and a letter.
fn short(n: u64) -> String {
    let (value, letter) = match n {
        0..=9_999 => return n.to_string(),
        10_000..=999_999 => (n as f64 / 1e3, "k"),
        1_000_000..=999_999_999 => (n as f64 / 1e6, "M"),
        _ => (n as f64 / 1e9, "G"),
    };
    match value {
        value if value >= 100.0 => format!("{value:.0}{letter}"),
        value if value.fract() < 0.05 => format!("{value:.0}{letter}"),
        value => format!("{value:.1}{letter}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_binds_too_early_is_red_and_ends_before_the_line() {
        let limit = |title, connections| PlannedLimit { check: "", title, connections };
        let limits = vec![limit("tuples", 28_232), limit("memory", 2_000_000), limit("nothing", 0)];
        let load = Load { version: 1, connections: 100_000, needs: vec![], machines: 1, limits };
        let text = picture(&load);
        assert_eq!(text.matches("#c0392b").count(), 2);
        assert_eq!(text.matches("#2e7d5b").count(), 1);
        let scale = Scale::of(&load);
        assert!(scale.x(28_232) < scale.x(100_000) && scale.x(100_000) < scale.x(2_000_000));
        assert!(text.contains("28.2k") && text.contains("100k wanted") && text.ends_with("</svg>\n"));
    }
}
