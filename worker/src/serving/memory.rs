//! Which variants make room for another. Pure: sizes and times come in as arguments.

use std::time::Instant;

/// Something that is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loaded<T> {
    /// What it is.
    pub(super) what: T,
    /// Bytes of its weights that nothing else shares.
    pub(super) bytes: u64,
    /// When it was last used.
    pub(super) last_used: Instant,
    /// Whether it must stay.
    pub(super) pinned: bool,
}

/// What to unload so that `needed` bytes more fit into the budget, the least recently used first. `None` if even
/// everything that may go is not enough.
pub(super) fn make_room<T: Copy>(loaded: &[Loaded<T>], needed: u64, budget: u64) -> Option<Vec<T>> {
    let mut used: u64 = loaded.iter().map(|one| one.bytes).sum();
    let mut candidates: Vec<&Loaded<T>> = loaded.iter().filter(|one| !one.pinned).collect();
    candidates.sort_by_key(|one| one.last_used);
    let mut out = Vec::new();
    for one in candidates {
        if used.saturating_add(needed) <= budget {
            break;
        }
        used -= one.bytes;
        out.push(one.what);
    }
    (used.saturating_add(needed) <= budget).then_some(out)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn loaded(epoch: Instant) -> impl Strategy<Value = Vec<Loaded<usize>>> {
        prop::collection::vec((0..1000u64, 0..100u64, any::<bool>()), 0..12).prop_map(move |all| {
            let one = |(what, (bytes, age, pinned))| Loaded {
                what,
                bytes,
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
            needed in 0..3000u64,
            budget in 0..6000u64,
        ) {
            let sum = |keep: &dyn Fn(&Loaded<usize>) -> bool| {
                loaded.iter().filter(|one| keep(one)).map(|one| one.bytes).sum::<u64>()
            };
            match make_room(&loaded, needed, budget) {
                Some(out) => {
                    prop_assert!(out.iter().all(|what| !loaded[*what].pinned));
                    prop_assert!(sum(&|one| !out.contains(&one.what)) + needed <= budget);
                    if let Some((last, before)) = out.split_last() {
                        // Without the last to go it would not fit, and nobody who stays was used before it.
                        prop_assert!(sum(&|one| !before.contains(&one.what)) + needed > budget);
                        let stays = |one: &&Loaded<usize>| !one.pinned && !out.contains(&one.what);
                        prop_assert!(loaded.iter().filter(stays).all(|one| one.last_used >= loaded[*last].last_used));
                    }
                }
                None => prop_assert!(sum(&|one| one.pinned) + needed > budget),
            }
        }
    }
}
