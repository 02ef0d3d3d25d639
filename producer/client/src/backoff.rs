//! How long to wait before trying again. Pure: randomness is an argument.

use std::time::Duration;

/// Exponential back-off with jitter: half of every pause is random, so that many clients do not return at once.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    most: Duration,
}

impl Backoff {
    /// Begins with pauses around `first` and never exceeds `most`.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { next: first, most }
    }

    /// The next pause. `advice` is what the other side asks for; it is kept to, within the bounds of jitter upwards.
    /// `random` is uniform in 0..1.
    pub fn pause(&mut self, advice: Option<Duration>, random: f64) -> Duration {
        let pause = match advice {
            Some(advice) => advice.mul_f64(1.0 + random / 2.0),
            None => self.next.mul_f64(0.5 + random / 2.0),
        };
        self.next = (self.next * 2).min(self.most);
        pause.min(self.most.max(advice.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_double_up_to_the_bound() {
        let mut backoff = Backoff::new(100 * MS, 500 * MS);
        let pauses = std::array::from_fn::<_, 5, _>(|_| backoff.pause(None, 1.0));
        assert_eq!(pauses, [100 * MS, 200 * MS, 400 * MS, 500 * MS, 500 * MS]);
    }

    proptest! {
        #[test]
        fn advice_is_kept_to(random in 0.0..1.0, advice_ms in 0u32..10_000) {
            let advice = advice_ms * MS;
            let pause = Backoff::new(MS, 1000 * MS).pause(Some(advice), random);
            prop_assert!(pause >= advice && pause <= (advice + advice / 2).max(1000 * MS));
        }

        #[test]
        fn no_pause_is_longer_than_the_bound(random in 0.0..1.0, n in 1usize..40) {
            let mut backoff = Backoff::new(10 * MS, 700 * MS);
            for _ in 0..n {
                let pause = backoff.pause(None, random);
                prop_assert!(pause >= 5 * MS && pause <= 700 * MS);
            }
        }
    }
}
