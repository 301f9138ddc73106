//! Bars in groups, each with its spread.

use super::axis::{Scale, Unit};
use super::{MARGIN, SUBTITLE, Svg, TITLE, WIDTH, colour};
use crate::bench::results::Spread;

const BAR: f64 = 17.0;
const BAR_GAP: f64 = 6.0;
const GROUP_TITLE: f64 = 26.0;
const GROUP_GAP: f64 = 10.0;
const FOOT: f64 = 34.0;
/// For the names.
const NAMES: f64 = 140.0;
/// For the figures behind the bars.
const FIGURES: f64 = 170.0;

pub struct Bar {
    pub name: String,
    /// The same subject has the same everywhere.
    pub colour: usize,
    pub spread: Spread,
    /// Something went wrong in it, which a figure alone would hide.
    pub failed: bool,
}

pub struct Group {
    pub title: String,
    pub bars: Vec<Bar>,
}

pub struct Bars {
    pub title: String,
    pub subtitle: String,
    pub unit: Unit,
    /// A value to compare with.
    pub reference: Option<f64>,
    pub groups: Vec<Group>,
}

impl Bars {
    pub fn draw(&self) -> String {
        let top = MARGIN + TITLE + SUBTITLE;
        let body: f64 = self.groups.iter().map(Group::height).sum();
        let height = top + body + FOOT;
        let mut svg = Svg::new(height, &self.title, &self.subtitle);
        let values = self.groups.iter().flat_map(|group| &group.bars).map(|bar| bar.spread.max);
        let values = values.chain(self.reference);
        let x = Scale::from_zero(self.unit).fit(values, (NAMES, WIDTH - FIGURES));
        for tick in &x.ticks {
            svg.line("grid", (x.at(*tick), top), (x.at(*tick), height - FOOT));
            svg.label("tick", x.at(*tick), height - FOOT + 18.0, "middle", &x.show(*tick));
        }
        let mut y = top;
        for group in &self.groups {
            svg.label("panel", MARGIN, y + GROUP_TITLE - 8.0, "start", &group.title);
            y += GROUP_TITLE;
            for bar in &group.bars {
                self.bar(&mut svg, bar, |value| x.at(value), y);
                y += BAR + BAR_GAP;
            }
            y += GROUP_GAP;
        }
        if let Some(reference) = self.reference {
            svg.line("mark", (x.at(reference), top), (x.at(reference), height - FOOT));
        }
        svg.finish(&self.title)
    }

    fn bar(&self, svg: &mut Svg, bar: &Bar, at: impl Fn(f64) -> f64, y: f64) {
        let Spread { median, min, max } = bar.spread;
        let middle = y + BAR / 2.0;
        svg.label("", NAMES - 10.0, middle + 4.5, "end", &bar.name);
        let fill = format!("rx=\"2\" fill=\"{}\"", colour(bar.colour));
        svg.rect(&fill, (NAMES, y), (at(median) - NAMES, BAR));
        if min < max {
            svg.line("whisker", (at(min), middle), (at(max), middle));
            for end in [min, max] {
                svg.line("whisker", (at(end), middle - 4.0), (at(end), middle + 4.0));
            }
        }
        svg.label("soft", at(max.max(median)) + 8.0, middle + 4.0, "start", &self.figure(bar));
    }

    fn figure(&self, bar: &Bar) -> String {
        let Spread { median, min, max } = bar.spread;
        let failed = if bar.failed { ", failures" } else { "" };
        match min < max {
            true => format!(
                "{} ({}–{}){failed}",
                self.unit.show(median),
                self.unit.show(min),
                self.unit.show(max)
            ),
            false => format!("{}{failed}", self.unit.show(median)),
        }
    }
}

impl Group {
    fn height(&self) -> f64 {
        GROUP_TITLE + self.bars.len() as f64 * (BAR + BAR_GAP) + GROUP_GAP
    }
}
