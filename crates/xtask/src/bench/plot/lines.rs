//! Panels of lines over one common axis.

use super::axis::{Axis, Scale};
use super::{LEFT, MARGIN, RIGHT, SUBTITLE, Svg, TITLE, WIDTH, colour};

const PANEL: f64 = 130.0;
const PANEL_TITLE: f64 = 30.0;
/// For the common axis' numbers.
const FOOT: f64 = 40.0;
/// Between two names at the ends of lines.
const NAME: f64 = 15.0;

pub struct Series {
    pub name: String,
    /// The same subject has the same everywhere.
    pub colour: usize,
    pub points: Vec<(f64, f64)>,
}

pub struct Panel {
    pub title: String,
    pub scale: Scale,
    pub series: Vec<Series>,
}

/// A stretch of the common axis with a name.
pub struct Band {
    pub name: String,
    pub from: f64,
    pub to: f64,
}

pub struct Lines {
    pub title: String,
    pub subtitle: String,
    pub x: Scale,
    pub x_title: String,
    pub panels: Vec<Panel>,
    pub bands: Vec<Band>,
    /// Few points: each is marked.
    pub marks: bool,
}

impl Lines {
    pub fn draw(&self) -> String {
        let top = MARGIN + TITLE + SUBTITLE;
        let height = top + self.panels.len() as f64 * (PANEL + PANEL_TITLE) + FOOT;
        let mut svg = Svg::new(height, &self.title, &self.subtitle);
        let xs =
            self.panels.iter().flat_map(|panel| &panel.series).flat_map(|one| &one.points).map(|(x, _)| *x);
        let x = self.x.fit(xs, (LEFT, WIDTH - RIGHT));
        for (index, panel) in self.panels.iter().enumerate() {
            let low = top + index as f64 * (PANEL + PANEL_TITLE) + PANEL_TITLE + PANEL;
            self.panel(&mut svg, panel, &x, low, index == 0);
        }
        let foot = height - FOOT;
        for tick in &x.ticks {
            svg.label("tick", x.at(*tick), foot + 18.0, "middle", &x.show(*tick));
        }
        svg.label("soft", (LEFT + WIDTH - RIGHT) / 2.0, foot + 34.0, "middle", &self.x_title);
        svg.finish(&self.title)
    }

    fn panel(&self, svg: &mut Svg, panel: &Panel, x: &Axis, low: f64, first: bool) {
        let high = low - PANEL;
        svg.label("panel", LEFT, high - 10.0, "start", &panel.title);
        for (index, band) in self.bands.iter().enumerate() {
            let (from, to) = (x.at(band.from), x.at(band.to));
            if index % 2 == 0 {
                svg.rect("class=\"band\"", (from, high), (to - from, PANEL));
            }
            if first {
                svg.label("soft", (from + to) / 2.0, high + 14.0, "middle", &band.name);
            }
        }
        let ys = panel.series.iter().flat_map(|one| &one.points).map(|(_, y)| *y);
        let y = panel.scale.fit(ys, (low, high));
        for tick in &y.ticks {
            svg.line("grid", (LEFT, y.at(*tick)), (WIDTH - RIGHT, y.at(*tick)));
            svg.label("tick", LEFT - 8.0, y.at(*tick) + 4.0, "end", &y.show(*tick));
        }
        svg.line("axis", (LEFT, low), (WIDTH - RIGHT, low));
        let mut ends = Vec::new();
        for (index, Series { points, colour: number, .. }) in panel.series.iter().enumerate() {
            let points: Vec<_> = points.iter().map(|(px, py)| (x.at(*px), y.at(*py))).collect();
            svg.path(colour(*number), &points);
            if self.marks {
                for (px, py) in &points {
                    svg.raw(&format!(
                        "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"3\" fill=\"{}\"/>",
                        colour(*number)
                    ));
                }
            }
            ends.extend(points.last().map(|(_, py)| (*py, index)));
        }
        name_ends(svg, panel, ends, (high, low));
    }
}

/// Names beside the ends of their lines, moved apart where these are close.
fn name_ends(svg: &mut Svg, panel: &Panel, mut ends: Vec<(f64, usize)>, (high, low): (f64, f64)) {
    ends.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut above = high - NAME;
    let count = ends.len();
    for (rank, (wanted, index)) in ends.into_iter().enumerate() {
        // Room for those that are still to come.
        let lowest = low - (count - 1 - rank) as f64 * NAME;
        above = wanted.min(lowest).max(above + NAME);
        let left = WIDTH - RIGHT + 8.0;
        if let Some(series) = panel.series.get(index) {
            let fill = format!("rx=\"2\" fill=\"{}\"", colour(series.colour));
            svg.rect(&fill, (left, above - 5.0), (10.0, 10.0));
            svg.label("", left + 16.0, above + 4.5, "start", &series.name);
        }
    }
}
