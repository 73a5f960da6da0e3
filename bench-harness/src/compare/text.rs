//! A comparison in words and as a Markdown table.
//!
//! Owner: `compare`; the report uses the same words. Must not: round a difference away that has a verdict.

use std::fmt::Write;

use super::{Comparison, Method, Row, Verdict};
use crate::report::short_ns;

/// A figure with its unit.
pub(crate) fn figure(row: &Row, value: f64) -> String {
    match row.tag {
        Some(_) => short_ns(value as u64),
        None => crate::chart::thousands(value),
    }
}

/// A ratio as a difference in percent, or as a factor when it is large.
pub(crate) fn delta(ratio: f64) -> String {
    let percent = (ratio - 1.0) * 100.0;
    match percent {
        _ if !percent.is_finite() => "-".into(),
        _ if ratio >= 3.0 => format!("× {ratio:.2}"),
        _ if ratio < 0.1 => format!("× {ratio:.3}"),
        _ if percent.abs() < 0.05 => "±0.0 %".into(),
        _ if percent.abs() < 10.0 => format!("{percent:+.1} %"),
        _ => format!("{percent:+.0} %"),
    }
}

/// A verdict in a word or two; `better` depends on the metric.
pub(crate) fn word(row: &Row) -> &'static str {
    let throughput = row.tag.is_none();
    match row.verdict {
        Verdict::Faster if throughput => "more",
        Verdict::Slower if throughput => "less",
        Verdict::Faster => "faster",
        Verdict::Slower => "SLOWER",
        Verdict::NoDifference => "no difference shown",
        Verdict::Undecided => "undecided",
        Verdict::Shown if row.metric == "max" => "(not judged)",
        Verdict::Shown => "(too few samples)",
    }
}

/// The class of a verdict in a page.
pub(crate) fn css_class(row: &Row) -> &'static str {
    match row.verdict {
        Verdict::Faster => "better",
        Verdict::Slower => "worse",
        Verdict::NoDifference => "same",
        Verdict::Undecided | Verdict::Shown => "open",
    }
}

/// Where the intervals come from, in words.
pub(crate) fn method_words(comparison: &Comparison) -> String {
    let (a, b) = comparison.rounds;
    match comparison.method {
        Method::PairedRounds => {
            let pairs = a.min(b);
            format!(
                "Intervals: bootstrap over {pairs} paired rounds, so run-to-run noise is in them. A difference is the \
                 mean of the rounds’ ratios, not the ratio of the medians beside it."
            )
        }
        Method::WithinRuns => format!(
            "Intervals: block bootstrap over the seconds WITHIN the runs ({a} and {b} rounds): noise from run to run \
             is NOT in them. Five or more interleaved rounds decide."
        ),
        Method::None => "No intervals: there is nothing to resample.".into(),
    }
}

/// The overall verdict as one phrase.
pub(crate) fn phrase(comparison: &Comparison) -> String {
    let within = if comparison.method == Method::WithinRuns { " in these very runs" } else { "" };
    let other = &comparison.other;
    match comparison.overall {
        None => "not comparable".into(),
        Some(Verdict::Slower) if comparison.rows.iter().any(|row| row.verdict == Verdict::Faster) => {
            format!("mixed: {other} is slower in some, faster in others{within}")
        }
        Some(Verdict::Slower) => format!("{other} is slower{within}"),
        Some(Verdict::Faster) => format!("{other} is faster{within}"),
        Some(Verdict::NoDifference) => format!("no difference shown{within}"),
        Some(_) if comparison.rows.iter().any(|row| row.verdict == Verdict::Faster) => {
            format!("undecided as a whole: {other} is faster where it could be told{within}")
        }
        Some(_) => "undecided: the noise hides any difference".into(),
    }
}

/// The largest differences that were shown, in a sentence.
pub(crate) fn sentence(comparison: &Comparison) -> String {
    let mut shown: Vec<&Row> = comparison
        .rows
        .iter()
        .filter(|row| matches!(row.verdict, Verdict::Faster | Verdict::Slower))
        .collect();
    shown.sort_by(|a, b| b.ratio.ln().abs().total_cmp(&a.ratio.ln().abs()));
    let parts: Vec<String> = shown
        .iter()
        .take(3)
        .map(|row| {
            let what = row.tag.as_ref().map_or(row.metric.to_owned(), |tag| format!("{tag} {}", row.metric));
            format!("{} {what} {}", row.phase, delta(row.ratio))
        })
        .collect();
    if parts.is_empty() { String::new() } else { format!("Largest: {}.", parts.join("; ")) }
}

/// Everything about one comparison.
pub(super) fn table(comparison: &Comparison) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    writeln!(out, "{} against {} (the base)\n", comparison.other, comparison.base).ok();
    if !comparison.differences.is_empty() {
        let said = match (comparison.refused(), comparison.forced) {
            (true, true) => {
                "NOT COMPARABLE, compared by --force. Whatever is said below may come from these:"
            }
            (true, false) => {
                "NOT COMPARABLE: the runs differ in what matters (--force compares them anyway):"
            }
            _ => "Not known on both sides, or different on purpose perhaps:",
        };
        writeln!(out, "{said}\n\n| what | {} | {} | |", comparison.base, comparison.other).ok();
        writeln!(out, "| --- | --- | --- | --- |").ok();
        for difference in &comparison.differences {
            let cell = |value: &Option<String>| value.clone().unwrap_or_else(|| "not known".into());
            let mark = match (difference.refuses, &difference.base, &difference.other) {
                (true, ..) => "differs",
                (false, Some(_), Some(_)) => "differs, and is only said",
                _ => "",
            };
            let (base, other) = (cell(&difference.base), cell(&difference.other));
            writeln!(out, "| {} | {base} | {other} | {mark} |", difference.what).ok();
        }
        writeln!(out).ok();
    }
    if comparison.overall.is_none() {
        return out;
    }
    let label = if comparison.forced { " (NOT COMPARABLE)" } else { "" };
    writeln!(
        out,
        "| phase | figure | {} | {} | difference | interval | verdict{label} |",
        comparison.base, comparison.other
    )
    .ok();
    writeln!(out, "| --- | --- | ---: | ---: | ---: | --- | --- |").ok();
    for row in &comparison.rows {
        let name = row
            .tag
            .as_ref()
            .map_or(row.metric.to_owned(), |tag| format!("{} {}", crate::runs::tag_title(tag), row.metric));
        let interval =
            row.interval.map_or("-".into(), |(low, high)| format!("{} … {}", delta(low), delta(high)));
        writeln!(
            out,
            "| {} | {name} | {} | {} | {} | {interval} | {} |",
            row.phase,
            figure(row, row.base),
            figure(row, row.other),
            delta(row.ratio),
            word(row),
        )
        .ok();
    }
    writeln!(out, "\n{}", method_words(comparison)).ok();
    let sentence = sentence(comparison);
    let space = if sentence.is_empty() { "" } else { " " };
    writeln!(out, "Verdict{label}: {}.{space}{sentence}\n", phrase(comparison)).ok();
    out
}
