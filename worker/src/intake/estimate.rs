//! How large the next messages will be, from those that came. Pure.

/// What is smaller moves the estimate by one part in this many.
const MEMORY: usize = 16;

/// The size that the next message is taken to have: of all lately, the largest. An estimate that is too small lets more come than there is
/// room for, so it follows what is larger at once, and what is smaller slowly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Estimate {
    /// As a room counts them.
    pub(super) tokens: usize,
    pub(super) bytes: usize,
}

impl Estimate {
    /// Nothing is known yet: as large as a message can be.
    pub(super) const fn largest(most_tokens: usize, max_payload: usize) -> Self {
        Self { tokens: most_tokens, bytes: max_payload }
    }

    /// A job came. What is no job tells nothing of those that are.
    pub(super) fn saw(&mut self, tokens: usize, bytes: usize) {
        self.tokens = toward(self.tokens, tokens.max(1));
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
            before in prop::collection::vec((1..=65_536usize, 1..1_000_000usize), 0..50),
            last in (1..=65_536usize, 1..1_000_000usize),
        ) {
            let mut estimate = Estimate::largest(65_536, 1 << 20);
            for (tokens, bytes) in before {
                estimate.saw(tokens, bytes);
                prop_assert!(estimate.tokens >= tokens && estimate.bytes >= bytes);
            }
            for _ in 0..1000 {
                estimate.saw(last.0, last.1);
            }
            prop_assert_eq!((estimate.tokens, estimate.bytes), last);
        }
    }
}
