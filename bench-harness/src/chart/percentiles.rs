//! Percentile curves: latency over "nines", both logarithmic, all runs on the same axes.
//!
//! Owner: `chart`. A curve ends where its samples do: at 1 - 1/count, with its largest value.
//! Must not: extrapolate a tail.

use hdrhistogram::Histogram;
use serde_json::json;

use super::scale::tick_ns;
use super::{Anchor, Scale, Svg};
use crate::report::short_ns;

/// Size of the picture, and of the legend that a standalone one has below.
pub(super) const WIDTH: f64 = 1000.0;
pub(super) const HEIGHT: f64 = 400.0;
pub(super) const LEGEND: f64 = 34.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 985.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 356.0;
/// Points of a decade of nines.
const POINTS_PER_DECADE: usize = 40;
/// Nines at most: beyond, no run has samples.
const DECADES_MAX: usize = 9;

/// One run's curve.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    /// Index of the run: its colour.
    pub(crate) run: usize,
    /// Name in the legend.
    pub(crate) name: String,
    /// A single round behind the whole: drawn thin.
    pub(crate) faint: bool,
    /// Samples.
    pub(crate) count: u64,
    /// Value at each point, from the lowest percentile on; the largest value at the end.
    values: Vec<f64>,
}

/// log10(1 / (1 - p)) of a point.
fn nines(point: usize) -> f64 {
    point as f64 / POINTS_PER_DECADE as f64
}

/// Reads the curve of a histogram.
pub(crate) fn curve_of(run: usize, name: &str, values: &Histogram<u64>, faint: bool) -> Curve {
    let last = ((values.len().max(1) as f64).log10() * POINTS_PER_DECADE as f64).floor() as usize;
    let last = last.min(DECADES_MAX * POINTS_PER_DECADE);
    let mut read: Vec<f64> = (0..=last)
        .map(|point| values.value_at_quantile(1.0 - 10f64.powf(-nines(point))).max(1) as f64)
        .collect();
    if let Some(end) = read.last_mut() {
        *end = values.max().max(1) as f64;
    }
    Curve { run, name: name.to_owned(), faint, count: values.len(), values: read }
}

/// p as a reader writes it.
fn percent(nines: f64) -> String {
    let percent = 100.0 * (1.0 - 10f64.powf(-nines));
    let digits = (nines.ceil() as usize).clamp(1, 9);
    format!("p{}", format!("{percent:.digits$}").trim_end_matches('0').trim_end_matches('.'))
}

fn hover(curves: &[Curve], points: usize, x: Scale) -> serde_json::Value {
    let step = (points / 160).max(1);
    let shown: Vec<usize> = (0..points).step_by(step).collect();
    let rows: Vec<serde_json::Value> = curves
        .iter()
        .filter(|curve| !curve.faint)
        .map(|curve| {
            let cells: Vec<String> = shown
                .iter()
                .map(|point| curve.values.get(*point).map_or(String::new(), |value| short_ns(*value as u64)))
                .collect();
            json!({"run": curve.run, "name": curve.name, "v": cells})
        })
        .collect();
    let positions: Vec<f64> = shown.iter().map(|point| x.at(nines(*point)).round()).collect();
    let labels: Vec<String> = shown.iter().map(|point| percent(nines(*point))).collect();
    json!({"x": positions, "l": labels, "top": TOP, "bottom": BOTTOM, "rows": rows})
}

/// The picture; `legend` for one that stands alone.
pub(crate) fn percentiles(title: &str, curves: &[Curve], legend: bool) -> String {
    let mut svg = Svg::new(WIDTH, HEIGHT + if legend { LEGEND } else { 0.0 });
    let points = curves.iter().map(|curve| curve.values.len()).max().unwrap_or(1);
    let all = || curves.iter().flat_map(|curve| curve.values.iter().copied());
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(1.0, f64::max));
    let x = Scale::linear(0.0, nines(points.max(POINTS_PER_DECADE) - 1), LEFT, RIGHT);
    let y = Scale::logarithmic(low, high, BOTTOM, TOP);
    svg.text("title", (LEFT, 18.0), Anchor::Start, title);
    for value in y.ticks() {
        svg.line("grid", (LEFT, y.at(value)), (RIGHT, y.at(value)));
        svg.text("tick", (LEFT - 8.0, y.at(value) + 4.0), Anchor::End, &tick_ns(value));
    }
    let end = nines(points - 1);
    let marks = [0.0, std::f64::consts::LOG10_2].into_iter().chain((1..=DECADES_MAX).map(|k| k as f64));
    for mark in marks.filter(|mark| *mark <= end + 0.02) {
        svg.line("grid", (x.at(mark), TOP), (x.at(mark), BOTTOM));
        svg.text(
            "tick",
            (x.at(mark), BOTTOM + 18.0),
            Anchor::Middle,
            &percent(mark).replacen("p0", "min", 1),
        );
    }
    svg.line("axis", (LEFT, BOTTOM), (RIGHT, BOTTOM));
    svg.text(
        "tick",
        ((LEFT + RIGHT) / 2.0, BOTTOM + 38.0),
        Anchor::Middle,
        "percentile, on a scale of 1/(1-p)",
    );
    // Thin ones first, so that they lie behind.
    for faint in [true, false] {
        for curve in curves.iter().filter(|curve| curve.faint == faint) {
            let path: Vec<Option<(f64, f64)>> = curve
                .values
                .iter()
                .enumerate()
                .map(|(point, value)| Some((x.at(nines(point)), y.at(*value))))
                .collect();
            let class = if faint { "faint" } else { "curve" };
            svg.path(&format!("{class} s{}", curve.run), &format!(" data-run=\"{}\"", curve.run), &path);
        }
    }
    if legend {
        let mut at = LEFT;
        for curve in curves.iter().filter(|curve| !curve.faint) {
            let base = HEIGHT + 14.0;
            svg.line(&format!("curve s{}", curve.run), (at, base - 4.0), (at + 28.0, base - 4.0));
            let label = format!("{} ({} samples)", curve.name, super::thousands(curve.count as f64));
            svg.text("legend", (at + 34.0, base), Anchor::Start, &label);
            at += 34.0 + label.chars().count() as f64 * 7.4 + 24.0;
        }
    }
    svg.finish(title, (!legend).then(|| hover(curves, points, x)).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::new_histogram;

    #[test]
    fn a_curve_ends_with_its_samples() {
        let mut values = new_histogram();
        for value in 1..=1000u64 {
            values.record(value * 1000).unwrap();
        }
        let curve = curve_of(0, "a", &values, false);
        assert_eq!(curve.values.len(), 3 * POINTS_PER_DECADE + 1);
        assert_eq!(curve.values.last().copied(), Some(values.max() as f64));
        let median = curve.values[(0.301 * POINTS_PER_DECADE as f64) as usize];
        assert!((median / 500_000.0 - 1.0).abs() < 0.05, "{median}");
        assert_eq!(
            [0.0, std::f64::consts::LOG10_2, 1.0, 2.0, 3.0, 4.0].map(percent),
            ["p0", "p50", "p90", "p99", "p99.9", "p99.99"]
        );
        let picture = percentiles("a < b", &[curve], true);
        assert!(picture.contains("a &lt; b") && picture.contains("s0") && !picture.contains("NaN"));
    }
}
