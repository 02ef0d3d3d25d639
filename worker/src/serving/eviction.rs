//! Which variants make room for another. Pure: sizes and times come in as arguments.

use std::time::Instant;

use embed_engine::model::Weights;

/// Something that is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Loaded<T> {
    /// What it is.
    pub(super) what: T,
    /// Its weights.
    pub(super) weights: Weights,
    /// When it was last used.
    pub(super) last_used: Instant,
    /// Whether it must stay.
    pub(super) pinned: bool,
}

/// What to unload so that `new` fits into the budget as well, the least recently used first. `None` if even everything that may go
/// is not enough.
pub(super) fn make_room<T: Copy>(loaded: &[Loaded<T>], new: &Weights, budget: u64) -> Option<Vec<T>> {
    let mut going: Vec<&Loaded<T>> = loaded.iter().filter(|one| !one.pinned).collect();
    going.sort_by_key(|one| one.last_used);
    let pinned = || loaded.iter().filter(|one| one.pinned);
    // What is shared by who goes and who stays takes as much as before: each step is reckoned anew.
    let fits = |out: &usize| {
        let stays = pinned().chain(going[*out..].iter().copied());
        Weights::total(stays.map(|one| &one.weights).chain([new])) <= budget
    };
    let out = (0..=going.len()).find(fits)?;
    Some(going[..out].iter().map(|one| one.what).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use embed_engine::settings::Provider;

    use super::*;

    /// Some of these share graphs.
    fn weights() -> impl Strategy<Value = Weights> {
        (prop::collection::btree_map(0..6u8, 0..1000u64, 0..3), 0..300u64).prop_map(|(graphs, own)| {
            let shared = graphs.into_iter().map(|(graph, bytes)| ((Provider::Cpu, graph.to_string()), bytes));
            Weights { shared: shared.collect(), own }
        })
    }

    fn loaded(epoch: Instant) -> impl Strategy<Value = Vec<Loaded<usize>>> {
        prop::collection::vec((weights(), 0..100u64, any::<bool>()), 0..12).prop_map(move |all| {
            let one = |(what, (weights, age, pinned))| Loaded {
                what,
                weights,
                last_used: epoch + Duration::from_secs(age),
                pinned,
            };
            all.into_iter().enumerate().map(one).collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_left_fits_and_nothing_more_than_needed_goes(
            loaded in loaded(Instant::now()),
            new in weights(),
            budget in 0..6000u64,
        ) {
            let with = |keep: &dyn Fn(&Loaded<usize>) -> bool| {
                Weights::total(loaded.iter().filter(|one| keep(one)).map(|one| &one.weights).chain([&new]))
            };
            match make_room(&loaded, &new, budget) {
                Some(out) => {
                    prop_assert!(out.iter().all(|what| !loaded[*what].pinned));
                    prop_assert!(with(&|one| !out.contains(&one.what)) <= budget);
                    if let Some((last, before)) = out.split_last() {
                        // Without the last to go it would not fit, and nobody who stays was used before it.
                        prop_assert!(with(&|one| !before.contains(&one.what)) > budget);
                        let stays = |one: &&Loaded<usize>| !one.pinned && !out.contains(&one.what);
                        prop_assert!(loaded.iter().filter(stays).all(|one| one.last_used >= loaded[*last].last_used));
                    }
                }
                None => prop_assert!(with(&|one| one.pinned) > budget),
            }
        }
    }
}
