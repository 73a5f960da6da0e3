//! Lines over time: throughput, latency quantiles, cores.
//!
//! Owner: `chart`. Must not: join across a gap.

use serde_json::json;

use super::scale::{tick_count, tick_ns};
use super::{Anchor, Scale, Svg, thousands};
use crate::report::short_ns;

/// Height of a chart over time.
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 58.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 190.0;
/// Height of a name at the end of a line.
const NAME_ROW: f64 = 12.0;

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// Its classes: colour and weight.
    pub(crate) class: String,
    /// The run that switches it on and off.
    pub(crate) run: usize,
    /// What it is called at its end and under the pointer.
    pub(crate) name: String,
    /// A value for each column.
    pub(crate) values: Vec<Option<f64>>,
}

/// A vertical line with a word: where a round begins.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    /// In seconds.
    pub(crate) at: f64,
    /// The word.
    pub(crate) text: String,
}

/// A chart of lines that share both axes.
#[derive(Debug)]
pub(crate) struct LinesChart<'a> {
    /// Heading.
    pub(crate) title: &'a str,
    /// Width of the picture.
    pub(crate) width: f64,
    /// Seconds of each column.
    pub(crate) seconds: &'a [f64],
    /// The lines.
    pub(crate) lines: &'a [Line],
    /// Where rounds begin.
    pub(crate) marks: &'a [Mark],
    /// Logarithmic nanoseconds, else linear counts from zero.
    pub(crate) latency: bool,
    /// Ends of the value axis, when charts beside each other share it.
    pub(crate) range: Option<(f64, f64)>,
    /// Whether lines are named at their ends.
    pub(crate) named: bool,
}

/// Smallest and largest value of some lines.
pub(crate) fn range_of<'a>(lines: impl IntoIterator<Item = &'a Line>) -> (f64, f64) {
    let values = lines.into_iter().flat_map(|line| line.values.iter().flatten().copied());
    values.fold((f64::INFINITY, 0.0), |(low, high), value| (low.min(value), high.max(value)))
}

/// The picture, or nothing when no line has a value.
pub(crate) fn lines(chart: &LinesChart) -> String {
    let (low, high) = chart.range.unwrap_or_else(|| range_of(chart.lines));
    if !low.is_finite() || chart.seconds.is_empty() {
        return String::new();
    }
    let right = chart.width - if chart.named { 52.0 } else { 12.0 };
    let mut svg = Svg::new(chart.width, HEIGHT);
    let y = if chart.latency {
        Scale::logarithmic(low, high, BOTTOM, TOP)
    } else {
        Scale::linear(0.0, high * 1.08, BOTTOM, TOP)
    };
    let last = chart.seconds.last().copied().unwrap_or(1.0);
    let x = Scale::linear(chart.seconds[0].min(0.0), last.max(1.0), LEFT, right);
    svg.text("title", (LEFT, 16.0), Anchor::Start, chart.title);
    for value in y.ticks() {
        svg.line("grid", (LEFT, y.at(value)), (right, y.at(value)));
        let label = if chart.latency { tick_ns(value) } else { tick_count(value) };
        svg.text("tick", (LEFT - 7.0, y.at(value) + 4.0), Anchor::End, &label);
    }
    for value in x.ticks() {
        svg.text("tick", (x.at(value), BOTTOM + 17.0), Anchor::Middle, &format!("{value} s"));
    }
    for mark in chart.marks {
        svg.line("mark", (x.at(mark.at), TOP), (x.at(mark.at), BOTTOM));
        svg.text("note", (x.at(mark.at) + 3.0, BOTTOM + 32.0), Anchor::Start, &mark.text);
    }
    svg.line("axis", (LEFT, BOTTOM), (right, BOTTOM));
    let mut ends: Vec<(f64, &str)> = Vec::new();
    for line in chart.lines {
        let points: Vec<Option<(f64, f64)>> = chart
            .seconds
            .iter()
            .zip(&line.values)
            .map(|(second, value)| value.map(|value| (x.at(*second), y.at(value))))
            .collect();
        svg.path(&line.class, &format!(" data-run=\"{}\"", line.run), &points);
        let end = points.iter().rev().flatten().next();
        ends.extend(end.filter(|_| chart.named).map(|(_, at)| (*at, line.name.as_str())));
    }
    // Names that would lie over each other move down, and up again where the frame ends.
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut place = f64::NEG_INFINITY;
    let mut places: Vec<f64> = Vec::new();
    for (at, _) in &ends {
        place = at.max(place + NAME_ROW);
        places.push(place);
    }
    let mut most = BOTTOM;
    for ((_, name), place) in ends.iter().zip(&mut places).rev() {
        *place = place.min(most);
        most = *place - NAME_ROW;
        svg.text("name", (right + 6.0, *place + 4.0), Anchor::Start, name);
    }
    svg.finish(chart.title, Some(&hover(chart, x)))
}

fn hover(chart: &LinesChart, x: Scale) -> serde_json::Value {
    let text = |value: f64| if chart.latency { short_ns(value as u64) } else { thousands(value) };
    let rows: Vec<serde_json::Value> = chart
        .lines
        .iter()
        .map(|line| {
            let cells: Vec<String> =
                line.values.iter().map(|value| value.map_or(String::new(), text)).collect();
            json!({"run": line.run, "name": line.name, "v": cells})
        })
        .collect();
    let positions: Vec<f64> =
        chart.seconds.iter().map(|second| (x.at(*second) * 10.0).round() / 10.0).collect();
    let labels: Vec<String> = chart.seconds.iter().map(|second| format!("{second:.0} s")).collect();
    json!({"x": positions, "l": labels, "top": TOP, "bottom": BOTTOM, "rows": rows})
}
