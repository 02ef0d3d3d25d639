//! Cutting texts whose lengths are all known into batches. The planner, which knows only what waits, is compared with this.

/// Positions of texts that run together.
pub(super) type Group = Vec<usize>;

/// All texts in order of length, cut into batches as large as the budget allows (padding included; a single text may
/// exceed it). The longest come first, so that at the end no runner is left alone with a large batch.
pub(super) fn sorted(lengths: &[usize], max_texts: usize, max_tokens: usize) -> Vec<Group> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(lengths[*i]));
    let mut rest = order.as_slice();
    let mut groups = Vec::new();
    while let Some(longest) = rest.first() {
        let fit = (max_tokens / lengths[*longest].max(1)).clamp(1, max_texts.max(1));
        let (group, after) = rest.split_at(fit.min(rest.len()));
        groups.push(group.to_vec());
        rest = after;
    }
    groups
}

/// Texts in order of arrival, `size` to a batch, whatever their lengths.
pub(super) fn arrival(texts: usize, size: usize) -> Vec<Group> {
    (0..texts).step_by(size).map(|first| (first..texts.min(first + size)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn arrival_order_is_kept() {
        assert_eq!(arrival(5, 2), [vec![0, 1], vec![2, 3], vec![4]]);
        assert!(arrival(0, 2).is_empty());
    }

    #[test]
    fn the_budget_counts_padding() {
        assert_eq!(sorted(&[3, 10, 4, 600, 9], 64, 20), [vec![3], vec![1, 4], vec![2, 0]]);
    }

    proptest! {
        #[test]
        fn budgets_hold_every_text_comes_once_and_lengths_descend(
            lengths in prop::collection::vec(1usize..300, 0..200), max_texts in 1usize..70, max_tokens in 1usize..600,
        ) {
            let groups = sorted(&lengths, max_texts, max_tokens);
            for group in &groups {
                let width = group.iter().map(|i| lengths[*i]).max().unwrap();
                prop_assert!(group.len() <= max_texts);
                prop_assert!(group.len() == 1 || group.len() * width <= max_tokens);
            }
            let order: Vec<usize> = groups.concat();
            prop_assert!(order.is_sorted_by_key(|i| std::cmp::Reverse(lengths[*i])));
            let mut all = order;
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
        }
    }
}
