//! The overview of all workloads, and the machine's limits.
//!
//! Owner: `report_html`.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::phase::rate_text;
use crate::chart::escape;
use crate::report::short_ns;
use crate::roofline::CEILING;
use crate::runs::{Phase, Run, leaves, primary_tags, tag_title};

/// A line for each workload and run: the figures that are asked for first.
pub(super) fn overview(runs: &[Run], names: &[String], of: &dyn Fn(&Run, &str) -> String) -> String {
    let mut out = "<section id=\"overview\"><h2>Overview</h2>\n<div class=\"scroll\"><table class=\"wide\"><thead><tr>\
                   <th>workload</th><th>run</th><th>records/s</th><th>GB/s</th><th>latency</th><th>p50</th><th>p99</th>\
                   <th>p99.9</th><th>max</th><th>of its limit</th><th>server cores</th>\
                   <th>MB/s per core</th></tr></thead>\n"
        .to_owned();
    for name in names {
        out += "<tbody>";
        for (index, run) in runs.iter().enumerate() {
            let phase = of(run, name);
            let rounds = run.phase(&phase);
            if rounds.is_empty() {
                continue;
            }
            let link = format!("<a href=\"#{0}\">{0}</a>", escape(name));
            // Writing to a String cannot fail.
            writeln!(
                out,
                "<tr><th>{}</th><td><i class=\"dot f{index}\"></i>{}</td>{}</tr>",
                if index == 0 { link } else { String::new() },
                escape(&run.name),
                cells(run, &phase, &rounds)
            )
            .ok();
        }
        out += "</tbody>";
    }
    out + "</table></div>\n<p class=\"aside\">Rates, shares and cores are medians of the rounds; quantiles are those \
           of all rounds’ samples together.</p></section>\n"
}

fn cells(run: &Run, phase: &str, rounds: &[&Phase]) -> String {
    let median = |read: &dyn Fn(&Phase) -> Option<f64>| {
        crate::suite::median(&mut rounds.iter().filter_map(|round| read(round)).collect::<Vec<_>>())
    };
    let mut rates: Vec<f64> = rounds.iter().filter_map(|round| round.records_per_s()).collect();
    let gb = median(&|round| {
        let info = round.info.as_ref()?;
        let both = [&info.produced, &info.consumed];
        both.into_iter().flatten().map(|rates| rates.gb_per_s).reduce(f64::max)
    });
    let cores = median(&|round| round.info.as_ref()?.server_cpu_cores);
    let open = rounds.first().is_some_and(|round| round.is_open_loop());
    let tag = primary_tags(&run.tags(phase), open).into_iter().next_back().unwrap_or_default();
    let values = run.merged(phase, &tag);
    let quantile =
        |q: f64| values.as_ref().map_or("–".into(), |values| short_ns(values.value_at_quantile(q)));
    let text =
        |value: Option<f64>, digits: usize| value.map_or("–".into(), |value| format!("{value:.digits$}"));
    let share = run.binding_limit(phase).map_or("–".into(), |(name, percent)| {
        let what = name.split_once(' ').map_or(name.as_str(), |(_, what)| what);
        format!("{percent:.0} % <small>{}</small>", escape(what))
    });
    let per_core = gb.zip(cores).filter(|(_, cores)| *cores > 0.005).map(|(gb, cores)| gb * 1000.0 / cores);
    format!(
        "<td>{}</td><td>{}</td><td class=\"left\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{share}</td>\
         <td>{}</td><td>{}</td>",
        rate_text(&mut rates).unwrap_or("–".into()),
        text(gb, 3),
        if values.is_some() { tag_title(&tag) } else { "–" },
        quantile(0.5),
        quantile(0.99),
        quantile(0.999),
        quantile(1.0),
        text(cores, 2),
        text(per_core, 0),
    )
}

/// What the machine gave, as the run measured it.
pub(super) fn limits(runs: &[Run]) -> String {
    let mut out = String::new();
    let mut shown: Vec<BTreeMap<String, String>> = Vec::new();
    for run in runs {
        let Some(found) =
            run.rounds.iter().map(|round| leaves(&round.roofline)).find(|found| !found.is_empty())
        else {
            continue;
        };
        if shown.contains(&found) {
            continue;
        }
        let mut rows: Vec<(String, String)> = Vec::new();
        let figures = found.iter().filter_map(|(name, text)| Some((name, text.parse::<f64>().ok()?)));
        for (name, value) in figures {
            if let Some(what) = name.strip_prefix("disk_gb_per_s.") {
                rows.push((format!("disk, {}", what.replace('_', " ")), format!("{value:.2} GB/s")));
            } else if let Some(what) = name.strip_prefix("loopback_gb_per_s.") {
                let (way, count) = what.split_once('_').unwrap_or((what, ""));
                rows.push((format!("loopback {way}, {count} connections"), format!("{value:.2} GB/s")));
            } else if let Some(what) =
                name.strip_prefix("write_flush.").and_then(|n| n.strip_suffix(".p50_ns"))
            {
                let p99 = found.get(&format!("write_flush.{what}.p99_ns")).and_then(|text| text.parse().ok());
                let text = format!("{} / {}", short_ns(value as u64), p99.map_or("–".into(), short_ns));
                rows.push((format!("write {what} + fdatasync, p50 / p99"), text));
            } else if name == "crc_gb_per_s" && value > 0.0 {
                rows.push(("CRC32C, one core".into(), format!("{value:.2} GB/s")));
            }
        }
        rows.extend(sinks(&run.rounds[0].roofline, "sinks", "sink"));
        rows.extend(sinks(&run.rounds[0].roofline, "ceilings", CEILING));
        let lines: String = rows
            .iter()
            .map(|(name, text)| format!("<tr><th>{}</th><td>{}</td></tr>", escape(name), escape(text)))
            .collect();
        writeln!(out, "<div class=\"scroll\"><table><tbody>{lines}</tbody></table></div>").ok();
        shown.push(found);
    }
    if out.is_empty() {
        out
    } else {
        format!("<section id=\"limits\"><h2>What this machine gives</h2>\n{out}</section>\n")
    }
}

fn sinks(roofline: &serde_json::Value, key: &str, what: &str) -> Vec<(String, String)> {
    let list = roofline.get(key).and_then(|sinks| sinks.as_array()).cloned().unwrap_or_default();
    list.iter()
        .filter_map(|sink| {
            let number = |name: &str| sink.get(name)?.as_f64();
            let sync = if sink.get("sync")?.as_bool()? { " with fdatasync" } else { "" };
            let name = format!(
                "{what}{sync}, {} connections × {} × {} bytes",
                number("connections")?,
                number("in_flight")?,
                number("request_bytes")?
            );
            let mut text = format!("{:.2} GB/s", number("gb_per_s")?);
            if sink.get("generator_bottleneck").and_then(serde_json::Value::as_bool) == Some(true) {
                text += ", the generator was the limit";
            }
            Some((name, text))
        })
        .collect()
}
