//! What numbers are, and where they stand on an axis.

/// How a number is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Count,
    Seconds,
    Microseconds,
    Bytes,
    Percent,
    Ratio,
}

impl Unit {
    pub fn show(self, value: f64) -> String {
        match self {
            Unit::Count => thousands(value, &[(1e6, "M"), (1e3, "k")], ""),
            Unit::Seconds => format!("{} s", short(value)),
            Unit::Microseconds => thousands(value, &[(1e6, " s"), (1e3, " ms")], " us"),
            Unit::Bytes => thousands(value, &[(1e9, " GB"), (1e6, " MB"), (1e3, " KB")], " B"),
            Unit::Percent => format!("{} %", short(value)),
            Unit::Ratio => format!("{value:.2}"),
        }
    }
}

fn thousands(value: f64, steps: &[(f64, &str)], rest: &str) -> String {
    let step = steps.iter().find(|(from, _)| value.abs() >= *from);
    let (by, name) = step.copied().unwrap_or((1.0, rest));
    format!("{}{name}", short(value / by))
}

/// At most three figures, without zeros behind the point.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').into(),
        false => text,
    }
}

/// An axis before it knows its values.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    pub unit: Unit,
    logarithmic: bool,
}

impl Scale {
    pub fn from_zero(unit: Unit) -> Scale {
        Scale { unit, logarithmic: false }
    }
    pub fn logarithmic(unit: Unit) -> Scale {
        Scale { unit, logarithmic: true }
    }

    /// An axis from `pixels.0` to `pixels.1` that has room for all `values`.
    pub fn fit(self, values: impl Iterator<Item = f64> + Clone, pixels: (f64, f64)) -> Axis {
        let most = values.clone().fold(0.0, f64::max);
        if !self.logarithmic {
            let step = nice_step(most / 4.0);
            let top = (most / step).ceil().max(1.0) * step;
            let ticks = (0..=(top / step).round() as u32).map(|n| f64::from(n) * step).collect();
            return Axis { scale: self, low: 0.0, high: top, pixels, ticks };
        }
        let least = values.filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min).min(most.max(1.0));
        let (first, last) = (least.log10().floor() as i32, most.max(1.0).log10().ceil() as i32);
        let last = last.max(first + 1);
        let ticks = (first..=last).map(|power| 10f64.powi(power)).collect();
        Axis { scale: self, low: f64::from(first), high: f64::from(last), pixels, ticks }
    }
}

/// 1, 2 or 5 times a power of ten, not below `raw`.
fn nice_step(raw: f64) -> f64 {
    if raw <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= raw * 0.999_999);
    step.unwrap_or(10.0) * power
}

#[derive(Debug)]
pub struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    pixels: (f64, f64),
    pub ticks: Vec<f64>,
}

impl Axis {
    pub fn at(&self, value: f64) -> f64 {
        let value = if self.scale.logarithmic { value.max(f64::MIN_POSITIVE).log10() } else { value };
        let share = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        self.pixels.0 + share * (self.pixels.1 - self.pixels.0)
    }

    pub fn show(&self, value: f64) -> String {
        match self.scale.unit {
            _ if value == 0.0 => "0".into(),
            unit => unit.show(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_hold_every_value() {
        let axis = Scale::from_zero(Unit::Count).fit([0.0, 1_000_000.0].into_iter(), (0.0, 100.0));
        assert_eq!(axis.ticks, [0.0, 500_000.0, 1_000_000.0]);
        assert_eq!((axis.at(0.0), axis.at(1_000_000.0)), (0.0, 100.0));
        let axis = Scale::from_zero(Unit::Bytes).fit([370e6].into_iter(), (100.0, 0.0));
        assert!(*axis.ticks.last().unwrap() >= 370e6 && axis.ticks.len() >= 4, "{axis:?}");
        let axis = Scale::logarithmic(Unit::Microseconds).fit([30.0, 9_000.0].into_iter(), (100.0, 0.0));
        assert_eq!(axis.ticks, [10.0, 100.0, 1_000.0, 10_000.0]);
        assert_eq!(axis.at(100.0).round(), 67.0);
    }

    #[test]
    fn numbers_are_short() {
        let shown = [
            (Unit::Count, 1_000_000.0, "1M"),
            (Unit::Count, 1_500.0, "1.5k"),
            (Unit::Microseconds, 1_234.0, "1.23 ms"),
            (Unit::Bytes, 18_200_000_000.0, "18.2 GB"),
            (Unit::Percent, 100.0, "100 %"),
            (Unit::Seconds, 0.5, "0.5 s"),
        ];
        for (unit, value, text) in shown {
            assert_eq!(unit.show(value), text);
        }
    }
}
