//! `ringlog group --reset-offsets`: where a group's offsets are to be moved, and moving them.
//!
//! Owner: the command that runs. Invariants: without `--execute` nothing is changed; a new offset lies between the
//! beginning and the end of its partition. Must not: move the offsets of a group that has members.

use std::collections::BTreeMap;

use super::client::{ClientError, Cluster, PartitionId, Result};
use super::group::{GroupArguments, NOBODY, commit, committed, described, scope};
use super::table;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

#[derive(clap::Args)]
pub(super) struct ResetArguments {
    /// To the oldest record
    #[arg(long, group = "target")]
    to_earliest: bool,
    /// To the end
    #[arg(long, group = "target")]
    to_latest: bool,
    /// To where it is (for --export)
    #[arg(long, group = "target")]
    to_current: bool,
    /// To this offset
    #[arg(long, group = "target", value_name = "OFFSET")]
    to_offset: Option<i64>,
    /// By so many records, forward or (negative) back
    #[arg(long, group = "target", value_name = "N", allow_hyphen_values = true)]
    shift_by: Option<i64>,
    /// To the first record of that time: 2026-01-31T12:00:00.000, UTC unless it ends with an offset
    #[arg(long, group = "target", value_name = "TIME")]
    to_datetime: Option<String>,
    /// To the first record of the last PnDTnHnMnS
    #[arg(long, group = "target", value_name = "DURATION")]
    by_duration: Option<String>,
    /// To what a file of lines topic,partition,offset says
    #[arg(long, group = "target", value_name = "FILE")]
    from_file: Option<std::path::PathBuf>,
    /// Only show what would be done (the default)
    #[arg(long)]
    dry_run: bool,
    /// Do it
    #[arg(long, conflicts_with = "dry_run")]
    execute: bool,
    /// Print lines topic,partition,offset instead of a table
    #[arg(long)]
    export: bool,
}

pub(super) fn run(
    cluster: &mut Cluster,
    arguments: &GroupArguments,
    reset: &ResetArguments,
    group: &str,
) -> Result<()> {
    let state = described(cluster, group)?.map_or_else(|| "Dead".to_owned(), |found| found.state);
    if !["Empty", "Dead"].contains(&state.as_str()) {
        return Err(ClientError::Refused(format!(
            "Assignments can only be reset if the group '{group}' is inactive, but the current state is {state}."
        )));
    }
    let targets = targets(cluster, arguments, reset, group)?;
    if reset.execute {
        commit(cluster, group, NOBODY, &targets)?;
    } else if !reset.dry_run && !reset.export {
        eprintln!("Nothing was changed: add --execute to move the offsets.");
    }
    if reset.export {
        targets.iter().for_each(|((topic, index), offset)| println!("\"{topic}\",{index},{offset}"));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = targets
        .iter()
        .map(|((topic, index), offset)| {
            vec![group.to_owned(), topic.clone(), index.to_string(), offset.to_string()]
        })
        .collect();
    print!("{}", table::render(&["GROUP", "TOPIC", "PARTITION", "NEW-OFFSET"], &rows));
    Ok(())
}

/// The new offset of each partition.
fn targets(
    cluster: &mut Cluster,
    arguments: &GroupArguments,
    reset: &ResetArguments,
    group: &str,
) -> Result<BTreeMap<PartitionId, i64>> {
    let wrong = |what: String| ClientError::Protocol(what);
    let from_file = reset.from_file.as_ref().map(|path| read_targets(path)).transpose()?;
    let partitions: Vec<PartitionId> = match &from_file {
        Some(targets) => targets.keys().cloned().collect(),
        None => scope(cluster, arguments, group)?,
    };
    let mut at = |timestamp: i64| {
        cluster.offsets(&partitions.iter().map(|id| (id.clone(), timestamp)).collect(), false)
    };
    let (earliest, latest) = (at(EARLIEST)?, at(LATEST)?);
    let wanted = if let Some(targets) = from_file {
        targets
    } else if reset.to_earliest {
        earliest.clone()
    } else if reset.to_latest {
        latest.clone()
    } else if let Some(offset) = reset.to_offset {
        partitions.iter().map(|id| (id.clone(), offset)).collect()
    } else if let Some(time) = &reset.to_datetime {
        let ms = parse_datetime(time).ok_or_else(|| wrong(format!("--to-datetime {time}: not a time")))?;
        at(ms)?
    } else if let Some(duration) = &reset.by_duration {
        let ms = parse_duration(duration)
            .ok_or_else(|| wrong(format!("--by-duration {duration}: not a duration")))?;
        at((crate::rt::wall_ms() - ms).max(0))?
    } else if reset.to_current || reset.shift_by.is_some() {
        let shift = reset.shift_by.unwrap_or(0);
        let current = committed(cluster, group)?;
        let from = |id: &PartitionId| current.get(id).or_else(|| latest.get(id)).copied().unwrap_or(0);
        partitions.iter().map(|id| (id.clone(), from(id).saturating_add(shift))).collect()
    } else {
        return Err(wrong("where to? --to-earliest, --to-latest, --to-offset, --shift-by, ...".to_owned()));
    };
    let bounded = wanted.into_iter().map(|(id, offset)| {
        let (first, end) = (earliest.get(&id).copied().unwrap_or(0), latest.get(&id).copied().unwrap_or(0));
        // No record that young: the end.
        let offset = if offset == -1 { end } else { offset.clamp(first, end.max(first)) };
        (id, offset)
    });
    Ok(bounded.collect())
}

fn read_targets(path: &std::path::Path) -> Result<BTreeMap<PartitionId, i64>> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| ClientError::Io(shown.clone(), error))?;
    let line_of = |line: &str| {
        let mut fields = line.split(',').map(|field| field.trim().trim_matches('"'));
        let topic = fields.next()?.to_owned();
        Some(((topic, fields.next()?.parse().ok()?), fields.next()?.parse().ok()?))
    };
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            line_of(line).ok_or_else(|| ClientError::Protocol(format!("{shown}: not understood: {line}")))
        })
        .collect()
}

/// `2026-01-31T12:00:00.000`, with `Z` or `+01:00` behind it or nothing (UTC), as milliseconds since 1970.
fn parse_datetime(text: &str) -> Option<i64> {
    let (date, time) = text.split_once('T')?;
    let zone_at = time.find(['Z', '+', '-']).unwrap_or(time.len());
    let (time, zone) = time.split_at(zone_at);
    let numbers = |text: &str, separator: char| -> Option<Vec<i64>> {
        text.split(separator).map(|part| part.parse().ok()).collect()
    };
    let [year, month, day] = numbers(date, '-')?[..] else { return None };
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let clock = numbers(time, ':')?;
    let (hour, minute, second) = match clock[..] {
        [hour, minute] => (hour, minute, 0),
        [hour, minute, second] => (hour, minute, second),
        _ => return None,
    };
    let valid = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..=9999).contains(&year)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..60).contains(&second);
    if !valid || fraction.is_empty() || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let ms: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let zone_minutes = match zone {
        "" | "Z" => 0,
        zone => {
            let digits: String = zone[1..].chars().filter(|c| *c != ':').collect();
            let (hours, minutes) = (digits.get(..2)?.parse::<i64>().ok()?, digits.get(2..).unwrap_or("0"));
            let minutes = hours * 60 + if minutes.is_empty() { 0 } else { minutes.parse::<i64>().ok()? };
            if zone.starts_with('-') { -minutes } else { minutes }
        }
    };
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some((seconds - zone_minutes * 60) * 1000 + ms)
}

/// Days of the Gregorian calendar; a year is taken to begin in March, so that leap days come last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// `P1DT2H3M4S` in milliseconds.
fn parse_duration(text: &str) -> Option<i64> {
    let rest = text.strip_prefix('P')?;
    let (days, clock) = rest.split_once('T').unwrap_or((rest, ""));
    let mut total_ms = 0i64;
    let mut add = |part: &str, units: &[(char, i64)]| -> Option<()> {
        let mut rest = part;
        for (unit, ms) in units {
            if let Some((number, after)) = rest.split_once(*unit) {
                let number: i64 = number.parse().ok()?;
                total_ms = total_ms.checked_add(number.checked_mul(*ms)?)?;
                rest = after;
            }
        }
        rest.is_empty().then_some(())
    };
    add(days, &[('W', 604_800_000), ('D', 86_400_000)])?;
    add(clock, &[('H', 3_600_000), ('M', 60_000), ('S', 1000)])?;
    (rest.len() > 1).then_some(total_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_and_without_a_zone() {
        assert_eq!(parse_datetime("1970-01-01T00:00:00.000"), Some(0));
        assert_eq!(parse_datetime("2000-02-29T12:30:15.5Z"), Some(951_827_415_500));
        assert_eq!(parse_datetime("2026-11-20T12:00:00+01:00"), Some(1_795_172_400_000));
        assert_eq!(parse_datetime("2026-11-20T12:00-0130"), parse_datetime("2026-11-20T13:30Z"));
        for bad in ["", "2026-11-20", "2026-13-01T00:00", "2026-01-01T25:00", "xT00:00", "2026-01-01T00:00.x"]
        {
            assert_eq!(parse_datetime(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_are_iso_8601() {
        assert_eq!(parse_duration("P1DT2H3M4S"), Some(93_784_000));
        assert_eq!((parse_duration("PT0S"), parse_duration("P7D")), (Some(0), Some(604_800_000)));
        for bad in ["", "P", "1D", "P1X", "PT1D", "PT9999999999999999H"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
