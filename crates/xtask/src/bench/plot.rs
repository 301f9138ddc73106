//! Pictures of results: lines over an axis, and bars with their spread, as SVG without a script or a font of its own.
//!
//! A picture brings its background along, light or dark as the reader's system is, so that it is readable on any page.

mod axis;
mod bars;
mod lines;

pub use axis::{Scale, Unit};
pub use bars::{Bar, Bars, Group};
pub use lines::{Band, Lines, Panel, Series};

use std::fmt::Write;

const WIDTH: f64 = 860.0;
/// Around everything, and between a picture's parts.
const MARGIN: f64 = 18.0;
/// For the numbers of the upright axis.
const LEFT: f64 = 78.0;
/// For names at the ends of lines and figures at the ends of bars.
const RIGHT: f64 = 150.0;
const TITLE: f64 = 30.0;
const SUBTITLE: f64 = 20.0;
/// Series have these in turn; told apart also by those who see few colours, on either background.
const COLOURS: [&str; 6] = ["#2f81f7", "#e8833a", "#2da44e", "#a371f7", "#d4527a", "#7d8590"];

const STYLE: &str = "text{font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2328}\
.title{font-size:17px;font-weight:600}.panel{font-weight:600}.soft,.tick{fill:#59636e;font-size:12px}.page{fill:#fff;stroke:#d1d9e0}\
.grid{stroke:#d1d9e0;stroke-width:1}.axis{stroke:#818b98;stroke-width:1}.band{fill:#818b98;fill-opacity:.10}\
.line{fill:none;stroke-width:2;stroke-linejoin:round}.whisker{stroke:#1f2328;stroke-width:1.5}.mark{stroke:#d1242f;stroke-dasharray:4 3}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.soft,.tick{fill:#9198a1}.page{fill:#0d1117;stroke:#3d444d}.grid{stroke:#2a313c}\
.axis{stroke:#656c76}.whisker{stroke:#e6edf3}.mark{stroke:#f85149}}";

/// An SVG that is being written.
pub(super) struct Svg {
    text: String,
    height: f64,
}

impl Svg {
    fn new(height: f64, title: &str, subtitle: &str) -> Svg {
        let mut svg = Svg { text: String::new(), height };
        svg.raw(&format!(
            "<rect class=\"page\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\"/>",
            WIDTH - 1.0,
            height - 1.0
        ));
        svg.label("title", MARGIN, MARGIN + 12.0, "start", title);
        svg.label("soft", MARGIN, MARGIN + 12.0 + SUBTITLE, "start", subtitle);
        svg
    }

    fn raw(&mut self, element: &str) {
        self.text.push_str(element);
        self.text.push('\n');
    }

    fn label(&mut self, class: &str, x: f64, y: f64, anchor: &str, text: &str) {
        let text = escape(text);
        self.raw(&format!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    fn line(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        self.raw(&format!(
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        ));
    }

    fn rect(&mut self, attributes: &str, (x, y): (f64, f64), (width, height): (f64, f64)) {
        let (width, height) = (width.max(0.0), height.max(0.0));
        self.raw(&format!(
            "<rect {attributes} x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
        ));
    }

    fn path(&mut self, colour: &str, points: &[(f64, f64)]) {
        let mut d = String::new();
        for (n, (x, y)) in points.iter().enumerate() {
            // Writing into a String cannot fail.
            let _ = write!(d, "{}{x:.1} {y:.1}", if n == 0 { "M" } else { "L" });
        }
        self.raw(&format!("<path class=\"line\" stroke=\"{colour}\" d=\"{d}\"/>"));
    }

    fn finish(self, title: &str) -> String {
        let (height, title) = (self.height, escape(title));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
             role=\"img\" aria-label=\"{title}\">\n<style>{STYLE}</style>\n{}</svg>\n",
            self.text
        )
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn colour(index: usize) -> &'static str {
    COLOURS[index % COLOURS.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::Spread;

    #[test]
    fn a_line_picture_shows_every_point_and_its_names() {
        let series =
            Series { name: "held <1>".into(), colour: 0, points: vec![(0.0, 0.0), (1.0, 10.0), (2.0, 5.0)] };
        let panel =
            Panel { title: "connections".into(), scale: Scale::from_zero(Unit::Count), series: vec![series] };
        let bands = vec![Band { name: "opening".into(), from: 0.0, to: 1.0 }];
        let lines = Lines {
            title: "a & b".into(),
            subtitle: String::new(),
            x: Scale::from_zero(Unit::Seconds),
            x_title: String::new(),
            panels: vec![panel],
            bands,
            marks: false,
        };
        let svg = lines.draw();
        assert!(
            svg.contains("held &lt;1&gt;") && svg.contains("a &amp; b") && svg.contains("opening"),
            "{svg}"
        );
        let path = svg.lines().find(|line| line.contains("class=\"line\"")).unwrap();
        assert_eq!(path.matches(['M', 'L']).count(), 3, "{path}");
    }

    #[test]
    fn bars_show_median_spread_and_the_reference() {
        let spread = Spread { median: 0.8, min: 0.7, max: 0.9 };
        let bar = Bar { name: "fourfold".into(), colour: 0, spread, failed: false };
        let group = Group { title: "small".into(), bars: vec![bar] };
        let bars = Bars {
            title: "t".into(),
            subtitle: String::new(),
            unit: Unit::Ratio,
            reference: Some(1.0),
            groups: vec![group],
        };
        let svg = bars.draw();
        assert!(
            svg.contains("0.80 (0.70–0.90)") && svg.contains("class=\"mark\"") && svg.contains("whisker"),
            "{svg}"
        );
    }
}
