//! One workload: key figures, curves, time, cores, limits, notes.
//!
//! Owner: `report_html`.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::chart::{self, Bar, Curve, Line, LinesChart, Timeline, curve_of, escape, thousands};
use crate::compare::{self, Comparison};
use crate::runs::{Phase, Run, primary_tags, tag_title};

/// Width of a chart that fills the page, and of one of two.
const WIDE: f64 = 1000.0;
const HALF: f64 = 492.0;
/// Lines of a latency chart: name, quantile, class.
const LEVELS: [(&str, f64, &str); 4] =
    [("p50", 0.5, "q0"), ("p99", 0.99, "q1"), ("p99.9", 0.999, "q2"), ("max", 1.0, "q3")];

/// A run's part of the section.
struct Side<'a> {
    index: usize,
    run: &'a Run,
    phase: String,
    tags: Vec<String>,
    time: Timeline,
}

/// The section of a phase.
pub(super) fn section(
    runs: &[Run],
    name: &str,
    of: &dyn Fn(&Run) -> String,
    comparisons: &[Comparison],
) -> String {
    let sides: Vec<Side> = runs
        .iter()
        .enumerate()
        .filter_map(|(index, run)| {
            let phase = of(run);
            let first = *run.phase(&phase).first()?;
            let tags = primary_tags(&run.tags(&phase), first.is_open_loop());
            let time = chart::timeline(run, &phase, tags.first().map_or("", String::as_str));
            Some(Side { index, run, phase, tags, time })
        })
        .collect();
    let mut out = format!("<section class=\"phase\" id=\"{0}\"><h2>{0}</h2>\n", escape(name));
    out += &parameters(&sides);
    out += &percentile_charts(&sides);
    out += &over_time(&sides);
    out += &roofline(&sides);
    out += &verdict_table(comparisons, name);
    out += &notes(&sides);
    out + "</section>\n"
}

/// How it was loaded, in a line: what all sides share.
fn parameters(sides: &[Side]) -> String {
    let all: Vec<_> = sides
        .iter()
        .filter_map(|side| side.run.phase(&side.phase).first()?.info.as_ref().map(|info| &info.parameters))
        .collect();
    let Some(first) = all.first() else { return String::new() };
    let shared: Vec<String> = first
        .iter()
        .filter(|(key, value)| all.iter().all(|other| other.get(*key) == Some(value)))
        .map(|(key, value)| {
            format!("<span><b>{}</b> {}</span>", escape(&key.replace('_', " ")), escape(value))
        })
        .collect();
    format!("<p class=\"parameters\">{}</p>\n", shared.join(" "))
}

/// One chart for each kind of latency that stands for the phase, and one that shows what a service time hides.
fn percentile_charts(sides: &[Side]) -> String {
    let mut out = String::new();
    let tags: BTreeSet<&String> = sides.iter().flat_map(|side| &side.tags).collect();
    // Bare files have no tags in common: their first ones are one chart.
    let mixed =
        sides.len() > 1 && sides.iter().any(|side| !side.tags.iter().any(|tag| sides[0].tags.contains(tag)));
    let kinds: Vec<Option<&String>> =
        if mixed { vec![None] } else { tags.into_iter().rev().map(Some).collect() };
    for kind in kinds {
        let mut curves: Vec<Curve> = Vec::new();
        let mut title = kind.map_or("latency".to_owned(), |tag| format!("{} time", tag_title(tag)));
        for side in sides {
            let Some(tag) = kind.or(side.tags.first()) else { continue };
            let Some(values) = side.run.merged(&side.phase, tag) else { continue };
            let rounds = side.run.phase(&side.phase);
            if rounds.len() > 1 {
                let faint = rounds.iter().filter_map(|round| round.merged(tag));
                curves.extend(faint.map(|values| curve_of(side.index, "", &values, true)));
            }
            curves.push(curve_of(side.index, &side.run.name, &values, false));
        }
        if sides.len() == 1 && kind.is_some_and(|tag| tag == "response") {
            // The same requests as a closed-loop tool would have shown them.
            if let Some(values) = sides[0].run.merged(&sides[0].phase, "service") {
                curves.iter_mut().for_each(|curve| curve.name = "response".into());
                curves.push(curve_of(1, "service", &values, false));
                title = "response time, and the service time that hides the waiting (dashed)".into();
            }
        }
        if !curves.is_empty() {
            writeln!(out, "<figure>{}</figure>", chart::percentiles(&title, &curves, false)).ok();
        }
    }
    out
}

/// Throughput of all sides on one chart; latency of each, on one scale; cores.
fn over_time(sides: &[Side]) -> String {
    let longest = sides.iter().max_by_key(|side| side.time.seconds.len());
    let Some(longest) = longest.filter(|side| side.time.seconds.len() > 1) else { return String::new() };
    let mut charts: Vec<String> = Vec::new();
    let several = sides.len() > 1;
    let line = |side: &Side, name: &str, class: String, values: &[Option<f64>]| Line {
        class,
        run: side.index,
        name: if several { side.run.name.clone() } else { name.to_owned() },
        values: values.to_vec(),
    };
    let rates: Vec<Line> = sides
        .iter()
        .map(|side| line(side, "records/s", format!("curve s{}", side.index), &side.time.records_per_s))
        .collect();
    let counted = sides.iter().all(|side| side.time.counted);
    let levels: Vec<Vec<Line>> = sides.iter().map(latency_lines).collect();
    let (low, high) = chart::range_of(levels.iter().flatten());
    for (side, lines) in sides.iter().zip(&levels) {
        let tag = side.tags.first().map_or("", |tag| tag_title(tag));
        let title = if several { format!("{tag}, {}", side.run.name) } else { format!("{tag} time") };
        charts.push(chart::lines(&LinesChart {
            title: &title,
            width: HALF,
            seconds: &side.time.seconds,
            lines,
            marks: &side.time.marks,
            latency: true,
            range: Some((low, high)),
            named: true,
        }));
    }
    for side in sides {
        let suffix = if several { format!(", {}", side.run.name) } else { String::new() };
        charts.push(cores_used(side, &format!("cores used{suffix}")));
        let title = format!("busy share of each core{suffix}");
        charts.push(chart::core_map(&title, HALF, &side.time.seconds, &side.time.cores));
        charts.push(behind(side, &format!("records behind{suffix}")));
    }
    charts.retain(|chart| !chart.is_empty());
    // Throughput comes first, and takes the whole width where it would stand beside a hole.
    let wide = charts.len().is_multiple_of(2);
    let throughput = chart::lines(&LinesChart {
        title: if counted { "records/s" } else { "records/s (by intended second)" },
        width: if wide { WIDE } else { HALF },
        seconds: &longest.time.seconds,
        lines: &rates,
        marks: &longest.time.marks,
        latency: false,
        range: None,
        named: false,
    });
    let class = if wide { " class=\"full\"" } else { "" };
    let figures: String = charts.iter().map(|chart| format!("<figure>{chart}</figure>\n")).collect();
    let first =
        if throughput.is_empty() { throughput } else { format!("<figure{class}>{throughput}</figure>\n") };
    format!("<div class=\"pair\">\n{first}{figures}</div>\n")
}

fn latency_lines(side: &Side) -> Vec<Line> {
    LEVELS
        .iter()
        .map(|(name, quantile, class)| Line {
            class: format!("level {class}"),
            run: side.index,
            name: (*name).to_owned(),
            values: side
                .time
                .latency
                .iter()
                .map(|values| values.as_ref().map(|values| values.value_at_quantile(*quantile).max(1) as f64))
                .collect(),
        })
        .collect()
}

fn cores_used(side: &Side, title: &str) -> String {
    let line = |name: &str, class: &str, values: &[Option<f64>]| Line {
        class: format!("level {class}"),
        run: side.index,
        name: name.to_owned(),
        values: values.to_vec(),
    };
    let lines =
        [line("server", "q2", &side.time.server_cores), line("harness", "q0", &side.time.harness_cores)];
    plain(side, title, &lines)
}

fn behind(side: &Side, title: &str) -> String {
    let lines = [Line {
        class: format!("curve s{}", side.index),
        run: side.index,
        name: "behind".into(),
        values: side.time.lag_records.clone(),
    }];
    if lines[0].values.iter().flatten().all(|value| *value == 0.0) {
        String::new()
    } else {
        plain(side, title, &lines)
    }
}

fn plain(side: &Side, title: &str, lines: &[Line]) -> String {
    chart::lines(&LinesChart {
        title,
        width: HALF,
        seconds: &side.time.seconds,
        lines,
        marks: &side.time.marks,
        latency: false,
        range: None,
        named: true,
    })
}

fn bar_name(side: &Side, way: &str, what: &str) -> String {
    format!("{} {way}, of the {what}", side.run.name)
}

/// Median share of each limit over the rounds.
fn roofline(sides: &[Side]) -> String {
    let mut list = Vec::new();
    for side in sides {
        let phases = side.run.phase(&side.phase);
        let infos: Vec<_> = phases.iter().filter_map(|phase| phase.info.as_ref()).collect();
        let limits: BTreeSet<&String> = infos.iter().flat_map(|info| info.percent_of.keys()).collect();
        let mut own: Vec<Bar> = Vec::new();
        for limit in limits {
            let mut shares: Vec<f64> =
                infos.iter().filter_map(|info| info.percent_of.get(limit).copied()).collect();
            let Some(percent) = crate::suite::median(&mut shares) else { continue };
            let (way, what) = limit.split_once(' ').unwrap_or(("", limit));
            let rates = |phase: &&Phase| {
                let info = phase.info.as_ref()?;
                let rates = if way == "out" { info.consumed.as_ref()? } else { info.produced.as_ref()? };
                Some(rates.gb_per_s)
            };
            let mut reached: Vec<f64> = phases.iter().filter_map(rates).collect();
            let reached = crate::suite::median(&mut reached).unwrap_or(0.0);
            own.push(Bar {
                run: side.index,
                name: bar_name(side, way, what),
                percent,
                label: format!(
                    "{percent:.0} %  ({reached:.2} of {:.2} GB/s)",
                    reached * 100.0 / percent.max(0.01)
                ),
            });
        }
        if let Some((limit, _)) = side.run.binding_limit(&side.phase) {
            let (way, what) = limit.split_once(' ').unwrap_or(("", &limit));
            let name = bar_name(side, way, what);
            own.iter_mut().filter(|bar| bar.name == name).for_each(|bar| bar.label += "  ← binds");
        }
        list.extend(own);
    }
    let picture = chart::bars("share of this machine’s limits", WIDE, &list);
    if picture.is_empty() { picture } else { format!("<figure>{picture}</figure>\n") }
}

fn verdict_table(comparisons: &[Comparison], name: &str) -> String {
    let mut out = String::new();
    for comparison in comparisons {
        let rows: Vec<_> = comparison.rows.iter().filter(|row| row.phase == name).collect();
        if rows.is_empty() {
            continue;
        }
        write!(
            out,
            "<div class=\"scroll\"><table><thead><tr><th></th><th>{}</th><th>{}</th><th>difference</th>\
             <th>interval</th><th>verdict{}</th></tr></thead><tbody>",
            escape(&comparison.base),
            escape(&comparison.other),
            if comparison.forced { " (not comparable)" } else { "" }
        )
        .ok();
        for row in rows {
            let what = row
                .tag
                .as_ref()
                .map_or(row.metric.to_owned(), |tag| format!("{} {}", tag_title(tag), row.metric));
            let interval = row.interval.map_or("–".into(), |(low, high)| {
                format!("{} … {}", compare::delta(low), compare::delta(high))
            });
            let word = compare::word(row);
            write!(
                out,
                "<tr><th>{}</th><td>{}</td><td>{}</td><td>{}</td><td>{interval}</td><td class=\"v {}\">{word}</td></tr>",
                escape(&what),
                compare::figure(row, row.base),
                compare::figure(row, row.other),
                compare::delta(row.ratio),
                compare::css_class(row)
            )
            .ok();
        }
        out += "</tbody></table></div>\n";
    }
    out
}

/// What the runs say of themselves, each once with the number of rounds that said it.
fn notes(sides: &[Side]) -> String {
    let mut items = Vec::new();
    for side in sides {
        let mut said: Vec<(String, usize, usize)> = Vec::new();
        let rounds = side.run.phase(&side.phase);
        for (number, round) in rounds.iter().enumerate() {
            let Some(info) = &round.info else { continue };
            let mut own = info.notes.clone();
            let lost = [
                (info.unsent_requests, "requests were due and never sent"),
                (info.unanswered_requests, "requests were never answered"),
                (info.undelivered_records.unwrap_or(0), "records were acknowledged and never received"),
            ];
            own.extend(
                lost.iter().filter(|(count, _)| *count > 0).map(|(count, text)| format!("{count} {text}")),
            );
            for note in own {
                match said.iter_mut().find(|(known, ..)| *known == note) {
                    Some(known) => known.1 += 1,
                    None => said.push((note, 1, number + 1)),
                }
            }
        }
        for (note, times, first) in said {
            let which = match (rounds.len(), times) {
                (1, _) => String::new(),
                (all, times) if all == times => ", all rounds".into(),
                (_, 1) => format!(", round {first}"),
                (_, times) => format!(", {times} rounds"),
            };
            let alarm =
                if note.contains("BOTTLENECK") || note.contains("never") { " class=\"alarm\"" } else { "" };
            items.push(format!(
                "<li{alarm}><b>{}{which}:</b> {}</li>",
                escape(&side.run.name),
                escape(&note)
            ));
        }
    }
    if items.is_empty() {
        return String::new();
    }
    format!("<h3>Self-check</h3><ul class=\"notes\">{}</ul>\n", items.join(""))
}

/// Records a second in words, for the overview.
pub(super) fn rate_text(values: &mut [f64]) -> Option<String> {
    crate::suite::median(values).map(thousands)
}
