//! Values to positions on an axis, and where its ticks are: at 1, 2 or 5 times a power of ten.

use crate::number::{significant, to_step};

/// Beyond this, values are not drawn: differences between them would drown in rounding.
const LARGEST: f64 = 1e15;
/// Over so many, there is room for ticks within a decade.
const FEW_DECADES: usize = 3;

/// An axis with a range. The range is kept as it is drawn: as logarithms on a logarithmic axis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    log: bool,
    from: f64,
    to: f64,
}

impl Scale {
    /// Covers the values. A `round` scale begins and ends at a tick, and a linear one then includes 0; others cover
    /// what there is, and `pad` at both ends. `None` if nothing can be drawn.
    pub(crate) fn covering(values: impl Iterator<Item = f64>, log: bool, round: bool, pad: f64) -> Option<Self> {
        let values = values.filter_map(|value| drawn(value, log));
        let (mut from, mut to) = values.fold((f64::MAX, f64::MIN), |(from, to), v| (from.min(v), to.max(v)));
        if from > to {
            return None;
        }
        if round && !log {
            (from, to) = (from.min(0.0), to.max(0.0));
        }
        (from, to) = (from - pad, to + pad);
        if to - from <= to.abs().max(from.abs()) * 1e-9 {
            let more = if log { 0.3 } else { (to.abs() * 0.5).max(0.5) };
            (from, to) = if round && !log { (0.0, 1.0) } else { (from - more, to + more) };
        }
        Some(if round { Self { log, from, to }.rounded() } else { Self { log, from, to } })
    }

    /// 0 to 1 for values in the range; `None` if a value cannot be drawn.
    pub(crate) fn position(&self, value: f64) -> Option<f64> {
        Some((drawn(value, self.log)? - self.from) / (self.to - self.from))
    }

    /// Where bars stand on: 0, or the lower end of a logarithmic axis.
    pub(crate) fn baseline(&self) -> f64 {
        if self.log { 0.0 } else { ((0.0 - self.from) / (self.to - self.from)).clamp(0.0, 1.0) }
    }

    /// How much of the axis a distance takes, given as it is drawn.
    pub(crate) fn share(&self, distance: f64) -> f64 {
        distance / (self.to - self.from)
    }

    /// About `wanted` ticks, each a position and a label.
    pub(crate) fn ticks(&self, wanted: usize) -> Vec<(f64, String)> {
        let place = |drawn: f64| (drawn - self.from) / (self.to - self.from);
        if self.log {
            return self
                .log_ticks(wanted)
                .into_iter()
                .map(|value| (place(value.log10()), significant(value, 2)))
                .collect();
        }
        let step = step(self.to - self.from, wanted);
        let (first, last) = ((self.from / step - 1e-6).ceil() as i64, (self.to / step + 1e-6).floor() as i64);
        (first..=last).map(|n| n as f64 * step).map(|value| (place(value), to_step(value, step))).collect()
    }

    fn rounded(self) -> Self {
        if self.log {
            let (from, to) = (round_log(self.from, f64::floor), round_log(self.to, f64::ceil));
            return if from < to { Self { from, to, ..self } } else { Self { to: from + 1.0, from, ..self } };
        }
        let step = step(self.to - self.from, 5);
        let (from, to) = ((self.from / step + 1e-6).floor() * step, (self.to / step - 1e-6).ceil() * step);
        Self { from, to, ..self }
    }

    /// Decades; what is between them where there are few; every n-th where there are many.
    fn log_ticks(&self, wanted: usize) -> Vec<f64> {
        let (first, last) = ((self.from + 1e-9).floor() as i32, (self.to - 1e-9).ceil() as i32);
        let decades = (last - first).unsigned_abs() as usize;
        let factors: &[f64] = match self.to - self.from {
            span if span < 0.7 => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
            _ if decades <= FEW_DECADES => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let every = decades.div_ceil(wanted.max(1)).max(1);
        let inside = |value: &f64| (self.from - 1e-9..=self.to + 1e-9).contains(&value.log10());
        let powers = (first..=last).step_by(every).map(|power| 10f64.powi(power));
        powers.flat_map(|power| factors.iter().map(move |factor| factor * power)).filter(inside).collect()
    }
}

/// A value as it is drawn, if it can be.
pub(crate) fn drawn(value: f64, log: bool) -> Option<f64> {
    match value.is_finite() && value.abs() <= LARGEST {
        true if log => (value > 1.0 / LARGEST).then(|| value.log10()),
        true => Some(value),
        false => None,
    }
}

/// 1, 2 or 5 times a power of ten, so that no more than `wanted` of them cover the span.
fn step(span: f64, wanted: usize) -> f64 {
    let rough = span / wanted.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough * 0.999_999).unwrap_or(10.0) * power
}

/// The next logarithm of 1, 2 or 5 times a power of ten.
fn round_log(log: f64, round: fn(f64) -> f64) -> f64 {
    let power = (log + 1e-9).floor();
    let marks = [0.0, 2f64.log10(), 5f64.log10(), 1.0];
    let near = |mark: &f64| (power + mark - log).abs() < 1e-9;
    let between = marks.windows(2).find(|pair| (pair[0]..pair[1]).contains(&(log - power).max(0.0)));
    let (below, above) = between.map_or((0.0, 1.0), |pair| (pair[0], pair[1]));
    power + marks.iter().copied().find(near).unwrap_or(if round(0.5) == 0.0 { below } else { above })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(values: &[f64], log: bool, round: bool) -> Vec<String> {
        let scale = Scale::covering(values.iter().copied(), log, round, 0.0).unwrap();
        scale.ticks(6).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_where_people_expect_them() {
        assert_eq!(labels(&[0.0, 10.0], false, false), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(labels(&[3.0, 97.0], false, true), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(labels(&[0.0, 0.3], false, false), ["0.00", "0.05", "0.10", "0.15", "0.20", "0.25", "0.30"]);
        assert_eq!(labels(&[1.0, 10_000.0], true, true), ["1", "10", "100", "1,000", "10,000"]);
        assert_eq!(labels(&[3.0, 40.0], true, true), ["2", "5", "10", "20", "50"]);
        assert_eq!(labels(&[2.5, 4.0], true, true), ["2", "3", "4", "5"]);
        assert_eq!(labels(&[7.0], false, true), ["0", "2", "4", "6", "8"]);
        assert_eq!(labels(&[0.0], false, true), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
    }

    #[test]
    fn nothing_to_draw_has_no_scale() {
        assert!(Scale::covering([f64::NAN, -1.0, 0.0, f64::INFINITY].into_iter(), true, true, 0.0).is_none());
    }

    proptest! {
        #[test]
        fn ticks_are_in_the_range_and_in_order(
            values in prop::collection::vec(-1e9f64..1e9, 1..6), log: bool, round: bool, wanted in 5usize..10,
        ) {
            let values = values.into_iter().map(|value| if log { value.abs() + 1e-6 } else { value });
            let scale = Scale::covering(values.clone(), log, round, 0.0).unwrap();
            for value in values {
                prop_assert!((-1e-6..=1.000_001).contains(&scale.position(value).unwrap()));
            }
            let ticks = scale.ticks(wanted);
            prop_assert!(ticks.len() <= (wanted + 1).max(10), "{ticks:?}");
            prop_assert!(ticks.iter().all(|(at, _)| (-1e-6..=1.000_001).contains(at)), "{ticks:?}");
            prop_assert!(ticks.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1), "{ticks:?}");
            prop_assert!(ticks.len() >= 2 || log && !round, "{ticks:?}");
        }

        #[test]
        fn steps_are_1_2_or_5(span in 1e-6f64..1e12, wanted in 1usize..10) {
            let step = step(span, wanted);
            let mantissa = step / 10f64.powf((step * 1.000_001).log10().floor());
            prop_assert!([1.0, 2.0, 5.0].iter().any(|m| (mantissa - m).abs() < 1e-6), "{mantissa}");
            prop_assert!(step * wanted as f64 >= span * 0.999 && step * wanted as f64 <= span * 2.6);
        }
    }
}
