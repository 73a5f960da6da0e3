//! Bars (share of a limit) and the map of cores over time.
//!
//! Owner: `chart`. Must not: draw a bar past its frame; what is above 100 % says so in its label.

use super::{Anchor, Scale, Svg};

/// Height of one bar's row.
const ROW: f64 = 26.0;
const LEFT: f64 = 250.0;
/// Height of a core's row, at most.
const CORE_ROW_MAX: f64 = 26.0;

/// One bar.
#[derive(Debug, Clone)]
pub(crate) struct Bar {
    /// The run: its colour.
    pub(crate) run: usize,
    /// What stands in front.
    pub(crate) name: String,
    /// Length in percent.
    pub(crate) percent: f64,
    /// What stands behind.
    pub(crate) label: String,
}

/// Horizontal bars on a frame of 0 to 100 %.
pub(crate) fn bars(title: &str, width: f64, list: &[Bar]) -> String {
    if list.is_empty() {
        return String::new();
    }
    let right = width - 240.0;
    let bottom = 26.0 + ROW * list.len() as f64;
    let mut svg = Svg::new(width, bottom + 24.0);
    let x = Scale::linear(0.0, 100.0, LEFT, right);
    svg.text("title", (0.0, 14.0), Anchor::Start, title);
    for value in x.ticks() {
        svg.line("grid", (x.at(value), 24.0), (x.at(value), bottom));
        svg.text("tick", (x.at(value), bottom + 16.0), Anchor::Middle, &format!("{value} %"));
    }
    for (index, bar) in list.iter().enumerate() {
        let top = 26.0 + ROW * index as f64;
        svg.text("label", (LEFT - 8.0, top + 16.0), Anchor::End, &bar.name);
        let length = (x.at(bar.percent) - LEFT).max(1.0);
        svg.rect(&format!("bar f{}", bar.run), (LEFT, top + 4.0), (length, ROW - 9.0));
        svg.text("label", (LEFT + length + 8.0, top + 16.0), Anchor::Start, &bar.label);
    }
    svg.line("axis", (LEFT, 24.0), (LEFT, bottom));
    svg.finish(title, None)
}

/// A row for each core, a cell for each column, darker when busier.
pub(crate) fn core_map(title: &str, width: f64, seconds: &[f64], cores: &[Vec<Option<f64>>]) -> String {
    if cores.is_empty() || seconds.is_empty() {
        return String::new();
    }
    let left = 58.0;
    let row = (220.0 / cores.len() as f64).clamp(3.0, CORE_ROW_MAX);
    let bottom = 28.0 + row * cores.len() as f64;
    let mut svg = Svg::new(width, bottom + 24.0);
    svg.text("title", (left, 16.0), Anchor::Start, title);
    let cell = (width - left - 12.0) / seconds.len() as f64;
    let every = (cores.len() / 16).max(1);
    for (core, shares) in cores.iter().enumerate() {
        let top = 28.0 + row * core as f64;
        if core % every == 0 {
            svg.text("tick", (left - 7.0, top + row / 2.0 + 4.0), Anchor::End, &format!("core {core}"));
        }
        for (column, share) in shares.iter().enumerate() {
            let Some(share) = share else { continue };
            let at = left + cell * column as f64;
            svg.put(format_args!(
                r#"<rect class="heat" x="{at:.1}" y="{top:.1}" width="{:.2}" height="{:.1}" fill-opacity="{:.2}"><title>core {core}, {} s: {:.0} % busy</title></rect>"#,
                (cell - 0.6).max(0.4),
                (row - 1.5).max(1.5),
                0.06 + 0.94 * share.clamp(0.0, 1.0),
                seconds[column],
                share * 100.0
            ));
        }
    }
    let x = Scale::linear(0.0, seconds.len() as f64, left, width - 12.0);
    let step = (seconds.len() / 6).max(1);
    for column in (0..seconds.len()).step_by(step) {
        svg.text(
            "tick",
            (x.at(column as f64), bottom + 16.0),
            Anchor::Start,
            &format!("{:.0} s", seconds[column]),
        );
    }
    svg.finish(title, None)
}
