//! What a million texts cost. Pure: the clock and the count of texts are arguments.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Texts of a million.
const MILLION: f64 = 1e6;

/// The price of devices over the texts of the last while.
#[derive(Debug)]
pub(super) struct Cost {
    price_per_hour: f64,
    window: Duration,
    /// How many texts had been embedded, when. The first is as old as the window, or the oldest there is.
    samples: VecDeque<(Instant, u64)>,
}

impl Cost {
    /// One device costs `price_per_hour`.
    pub(super) const fn new(price_per_hour: f64, window: Duration) -> Self {
        Self { price_per_hour, window, samples: VecDeque::new() }
    }

    /// What a million texts cost with so many devices, where `texts` had been embedded until `now`. `None` if none was lately.
    pub(super) fn per_million(&mut self, now: Instant, texts: u64, devices: usize) -> Option<f64> {
        self.samples.push_back((now, texts));
        let old = |sample: &(Instant, u64)| now.saturating_duration_since(sample.0) >= self.window;
        while self.samples.get(1).is_some_and(old) {
            self.samples.pop_front();
        }
        let (since, before) = *self.samples.front()?;
        let hours = now.saturating_duration_since(since).as_secs_f64() / 3600.0;
        let embedded = texts.saturating_sub(before);
        (embedded > 0).then(|| self.price_per_hour * devices as f64 * hours / embedded as f64 * MILLION)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn idle_devices_have_no_cost_per_text_and_old_texts_do_not_count() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut cost = Cost::new(3.6, Duration::from_secs(60));
        assert_eq!(cost.per_million(at(0), 5, 2), None);
        // 10 s of 2 devices at 0.001 a second, for 1,000 texts.
        let near = |value: Option<f64>, wanted: f64| (value.unwrap() - wanted).abs() < 1e-9;
        assert!(near(cost.per_million(at(10), 1_005, 2), 20.0));
        // The idle time counts.
        assert!(near(cost.per_million(at(60), 1_005, 2), 120.0));
        assert_eq!(cost.per_million(at(75), 1_005, 2), None);
    }

    proptest! {
        #[test]
        fn at_a_steady_rate_the_cost_is_steady(rate in 1u64..1_000_000, devices in 1usize..9, every in 1u64..20, price in 0.1f64..50.0) {
            let start = Instant::now();
            let mut cost = Cost::new(price, Duration::from_secs(60));
            let expected = price * devices as f64 / 3600.0 / rate as f64 * 1e6;
            for step in 0..100 {
                let now = start + Duration::from_secs(step * every);
                let found = cost.per_million(now, step * every * rate, devices);
                prop_assert_eq!(found.is_some(), step > 0);
                if let Some(found) = found {
                    prop_assert!((found / expected - 1.0).abs() < 1e-9, "{} {}", found, expected);
                }
                prop_assert!(cost.samples.len() as u64 <= 60 / every + 2);
            }
        }
    }
}
