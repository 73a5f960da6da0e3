//! Axes: from values to positions, and where the ticks are.
//!
//! Owner: `chart`. Must not: draw.

/// A linear or logarithmic axis between two positions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    logarithmic: bool,
}

impl Scale {
    /// An axis whose ends are the values given.
    pub(crate) fn linear(low: f64, high: f64, from: f64, to: f64) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self { low, high, from, to, logarithmic: false }
    }

    /// A logarithmic axis that holds all the values, with some air, in nanoseconds or anything positive.
    pub(crate) fn logarithmic(low: f64, high: f64, from: f64, to: f64) -> Self {
        let low = low.max(1.0);
        let high = high.max(low * 1.5);
        Self { low: low / 1.15, high: high * 1.15, from, to, logarithmic: true }
    }

    /// Position of a value.
    pub(crate) fn at(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Values worth a line: 1, 2 and 5 of each decade, or fewer when there are many decades; about five on a linear
    /// axis.
    pub(crate) fn ticks(&self) -> Vec<f64> {
        if !self.logarithmic {
            let step = nice_step((self.high - self.low) / 5.0);
            let first = (self.low / step).ceil() as i64;
            return (first..).map(|k| k as f64 * step).take_while(|v| *v <= self.high * 1.0001).collect();
        }
        let decades = (self.high / self.low).log10();
        let parts: &[f64] = if decades > 4.0 {
            &[1.0]
        } else if decades > 2.0 {
            &[1.0, 3.0]
        } else {
            &[1.0, 2.0, 5.0]
        };
        let first = self.low.log10().floor() as i32;
        (first..first + 20)
            .flat_map(|power| parts.iter().map(move |part| part * 10f64.powi(power)))
            .filter(|value| *value >= self.low && *value <= self.high)
            .collect()
    }
}

/// 1, 2 or 5 times a power of ten, at least as large.
fn nice_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|part| part * power)
        .into_iter()
        .find(|step| *step >= least)
        .unwrap_or(power * 10.0)
}

/// A count with three significant digits and a unit: 1.23 M.
pub(crate) fn thousands(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        v if v >= 999.5e6 => (value / 1e9, " G"),
        v if v >= 999.5e3 => (value / 1e6, " M"),
        v if v >= 9_999.5 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        v if unit.is_empty() && v.fract() == 0.0 => 0,
        v if v < 10.0 => 2,
        v if v < 100.0 => 1,
        _ => 0,
    };
    format!("{scaled:.digits$}{unit}")
}

/// The label of a tick on a linear axis: as `thousands`, without zeros behind the point.
pub(crate) fn tick_count(value: f64) -> String {
    let text = thousands(value);
    let (number, unit) =
        text.split_once(' ').map_or((text.as_str(), String::new()), |(n, u)| (n, format!(" {u}")));
    let number =
        if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number };
    format!("{number}{unit}")
}

/// The label of a latency tick, in nanoseconds.
pub(crate) fn tick_ns(value: f64) -> String {
    let (scaled, unit) = match value {
        v if v >= 1e9 => (value / 1e9, "s"),
        v if v >= 1e6 => (value / 1e6, "ms"),
        v if v >= 1e3 => (value / 1e3, "µs"),
        _ => (value, "ns"),
    };
    format!("{} {unit}", (scaled * 1000.0).round() / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_lie_inside_and_are_round() {
        let log = Scale::logarithmic(450_000.0, 52_000_000.0, 0.0, 1.0);
        assert_eq!(log.ticks(), [1e6, 3e6, 1e7, 3e7]);
        assert!(log.at(1e6) > 0.0 && log.at(1e9) <= 1.0 && log.at(0.0) == 0.0);
        let linear = Scale::linear(0.0, 1.0e6, 0.0, 100.0);
        assert_eq!(linear.ticks(), [0.0, 2e5, 4e5, 6e5, 8e5, 1e6]);
        assert!((linear.at(5e5) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in
            [(0.0, "0"), (7.0, "7"), (9.874, "9.87"), (20_000.0, "20.0 k"), (1.5e9, "1.50 G")]
        {
            assert_eq!(thousands(value), text);
        }
        assert_eq!(
            (tick_count(3e6), tick_count(0.25), tick_count(100.0)),
            ("3 M".into(), "0.25".into(), "100".into())
        );
        assert_eq!((tick_ns(3e6), tick_ns(500.0)), ("3 ms".into(), "500 ns".into()));
    }
}
