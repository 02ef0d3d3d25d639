//! Of several engines for the same version, the fastest.

use std::time::{Duration, Instant};

use super::{loaded::LoadedModel, warm_up};
use crate::settings::Provider;

/// Rounds in which each has its turn. The shortest counts: what else the machine does only makes runs longer.
const ROUNDS: usize = 5;
/// After this long, no other round is begun.
const ROUNDS_FOR: Duration = Duration::from_secs(2);

/// How many hundredths faster than the ones behind it one must be to be preferred: which is chosen should not depend on chance.
const CLEARLY: u32 = 5;

/// Takes the fastest: measured in turns, each with one of its engines, with texts of `longest` tokens at most. `None` if there is none.
pub(super) fn fastest(mut loaded: Vec<LoadedModel>, longest: usize) -> Option<LoadedModel> {
    let mut best: Vec<Option<Duration>> = vec![None; loaded.len()];
    let begun = Instant::now();
    for round in 0..ROUNDS {
        if loaded.len() < 2 || (round > 0 && begun.elapsed() > ROUNDS_FOR) {
            break;
        }
        for (one, best) in loaded.iter_mut().zip(&mut best) {
            let one_by_one = one.report.one_by_one;
            let took = one.engines.first_mut().map(|engine| warm_up::time_all(engine, longest, one_by_one));
            let took = took.and_then(|took| {
                let provider = one.report.provider;
                took.inspect_err(|error| tracing::warn!(%provider, %error, "a provider could not be measured")).ok()
            });
            *best = best.iter().copied().chain(took).min();
        }
    }
    let measured: Vec<(Provider, Duration)> =
        loaded.iter().zip(&best).filter_map(|(one, took)| Some((one.report.provider, (*took)?))).collect();
    if loaded.is_empty() {
        return None;
    }
    let mut chosen = loaded.swap_remove(choose(&best));
    tracing::info!(?measured, provider = %chosen.report.provider, "the fastest provider is taken");
    chosen.report.measured = measured;
    chosen.report.measured.sort_by_key(|(provider, took)| (*provider != chosen.report.provider, *took));
    Some(chosen)
}

/// The last one, unless one before it is clearly faster.
fn choose(took: &[Option<Duration>]) -> usize {
    let longest = Duration::MAX / 200;
    let of = |i: usize| took[i].unwrap_or(longest);
    (0..took.len())
        .rev()
        .reduce(|best, one| if of(one) * (100 + CLEARLY) < of(best) * 100 { one } else { best })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_not_clearly_faster_is_left() {
        let ms = |all: &[u64]| all.iter().map(|ms| (*ms > 0).then(|| Duration::from_millis(*ms))).collect::<Vec<_>>();
        for (took, expected) in [
            (&[100, 100][..], 1),
            (&[96, 100], 1),
            (&[90, 100], 0),
            (&[100, 90], 1),
            (&[0, 100], 1),
            (&[100, 0], 0),
            (&[0, 0], 1),
            (&[100], 0),
            (&[], 0),
        ] {
            assert_eq!(choose(&ms(took)), expected, "{took:?}");
        }
    }
}
