//! How large the next messages will be, from those that came. Pure.

use embed_schemas::MAX_TEXTS;

/// What is smaller moves the estimate by one part in this many.
const MEMORY: usize = 16;

/// The size that the next message is taken to have: of all lately, the largest. An estimate that is too small lets more come than there is
/// room for, so it follows what is larger at once, and what is smaller slowly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Estimate {
    pub(super) texts: usize,
    pub(super) bytes: usize,
}

impl Estimate {
    /// Nothing is known yet: as large as a message can be.
    pub(super) const fn largest(max_payload: usize) -> Self {
        Self { texts: MAX_TEXTS, bytes: max_payload }
    }

    /// A job came. What is no job tells nothing of those that are.
    pub(super) fn saw(&mut self, texts: usize, bytes: usize) {
        self.texts = toward(self.texts, texts.max(1));
        self.bytes = toward(self.bytes, bytes.max(1));
    }
}

fn toward(old: usize, new: usize) -> usize {
    if new >= old { new } else { old - (old - new).div_ceil(MEMORY) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_estimate_is_never_below_the_last_and_comes_down_to_what_stays(
            before in prop::collection::vec((1..=MAX_TEXTS, 1..1_000_000usize), 0..50),
            last in (1..=MAX_TEXTS, 1..1_000_000usize),
        ) {
            let mut estimate = Estimate::largest(1 << 20);
            for (texts, bytes) in before {
                estimate.saw(texts, bytes);
                prop_assert!(estimate.texts >= texts && estimate.bytes >= bytes);
            }
            for _ in 0..1000 {
                estimate.saw(last.0, last.1);
            }
            prop_assert_eq!((estimate.texts, estimate.bytes), last);
        }
    }
}
