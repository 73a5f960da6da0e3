//! Pictures as SVG: percentile curves, lines over time, bars, core maps.
//!
//! Owner: `compare` and `report`. Colours are classes, so that a page can turn them round in the dark; a picture that
//! stands alone brings its own style. Invariants: axes of runs beside each other are shared; a missing cell is a gap.
//! Must not: smooth, or leave out a largest value when it thins.

mod bars;
mod lines;
mod percentiles;
mod png;
mod scale;
mod timeline;

use std::fmt::{Display, Write};

pub(crate) use self::bars::{Bar, bars, core_map};
pub(crate) use self::lines::{Line, LinesChart, Mark, lines, range_of};
pub(crate) use self::percentiles::{Curve, curve_of, percentiles};
pub(crate) use self::png::write_png;
pub(crate) use self::scale::{Scale, thousands};
pub(crate) use self::timeline::{Timeline, timeline};
use crate::runs::{Run, primary_tags, tag_title};

/// Style of a picture that stands alone: the page's light colours, spelt out.
const STANDALONE: &str = include_str!("standalone.css");

/// An SVG under construction.
#[derive(Debug)]
pub(crate) struct Svg {
    body: String,
    width: f64,
    height: f64,
}

/// Text for XML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Where a text is held.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Anchor {
    /// Its left end.
    Start,
    /// Its middle.
    Middle,
    /// Its right end.
    End,
}

impl Svg {
    fn new(width: f64, height: f64) -> Self {
        Self { body: String::new(), width, height }
    }

    fn put(&mut self, item: impl Display) {
        // Writing to a String cannot fail.
        writeln!(self.body, "{item}").ok();
    }

    fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        self.put(format_args!(
            r#"<line class="{class}" x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}"/>"#,
            from.0, from.1, to.0, to.1
        ));
    }

    fn rect(&mut self, class: &str, at: (f64, f64), size: (f64, f64)) {
        self.put(format_args!(
            r#"<rect class="{class}" x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}"/>"#,
            at.0, at.1, size.0, size.1
        ));
    }

    fn text(&mut self, class: &str, at: (f64, f64), anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.put(format_args!(
            r#"<text class="{class}" x="{:.1}" y="{:.1}" text-anchor="{anchor}">{}</text>"#,
            at.0,
            at.1,
            escape(text)
        ));
    }

    /// A line through points, broken where there is none.
    fn path(&mut self, class: &str, attributes: &str, points: &[Option<(f64, f64)>]) {
        let mut steps = String::new();
        let mut down = false;
        for (index, point) in points.iter().enumerate() {
            let Some((x, y)) = point else {
                down = false;
                continue;
            };
            write!(steps, "{}{x:.1} {y:.1}", if down { 'L' } else { 'M' }).ok();
            // A lone point between gaps would not be seen.
            if !down && points.get(index + 1).is_none_or(Option::is_none) {
                write!(steps, "h0.1").ok();
            }
            down = true;
        }
        if !steps.is_empty() {
            self.put(format_args!(r#"<path class="{class}"{attributes} d="{steps}"/>"#));
        }
    }

    /// The finished element. `hover` is JSON for the page's script; `title` is what a screen reader says.
    fn finish(self, title: &str, hover: Option<&serde_json::Value>) -> String {
        let hover =
            hover.map_or_else(String::new, |data| format!(r#" data-hover="{}""#, escape(&data.to_string())));
        format!(
            "<svg class=\"chart\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" role=\"img\"{hover}>\
             <title>{}</title>\n{}</svg>\n",
            escape(title),
            self.body,
            w = self.width,
            h = self.height,
        )
    }
}

/// The curves of a phase in all runs, with a legend and its own style; `None` when no run has samples.
pub(crate) fn standalone(runs: &[Run], phase: &str, tag: Option<&str>) -> Option<String> {
    let mut curves = Vec::new();
    let mut shown = String::new();
    for (index, run) in runs.iter().enumerate() {
        // A bare file's phase has the file's name.
        let names = run.phase_names();
        let name = if names.iter().any(|known| known == phase) { phase } else { names.first()? };
        let open = run.phase(name).first().is_some_and(|phase| phase.is_open_loop());
        let tag = match tag {
            Some(tag) => tag.to_owned(),
            None => primary_tags(&run.tags(name), open).first()?.clone(),
        };
        let Some(values) = run.merged(name, &tag) else { continue };
        if shown.is_empty() {
            shown = format!("{phase}: {} time", tag_title(&tag));
        }
        curves.push(curve_of(index, &run.name, &values, false));
    }
    if curves.is_empty() {
        return None;
    }
    let svg = percentiles(&shown, &curves, true);
    let at = svg.find("<title>")?;
    let (w, h) = (percentiles::WIDTH, percentiles::HEIGHT + percentiles::LEGEND);
    Some(format!(
        "{}<style>{STANDALONE}</style><rect class=\"paper\" x=\"0\" y=\"0\" width=\"{w}\" height=\"{h}\"/>{}",
        &svg[..at],
        &svg[at..]
    ))
}
