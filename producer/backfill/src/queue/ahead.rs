//! Groups that are done before one that comes before them. They wait here, so that the queue does not stand still while one job is
//! held up, and within a bound, since they wait in memory.

use std::collections::BTreeMap;

/// What is done, to be taken in order.
#[derive(Debug)]
pub(crate) struct Ahead<T> {
    /// The number of the next to be taken.
    next: u64,
    /// By number: bytes, and what is done.
    held: BTreeMap<u64, (usize, T)>,
    bytes: usize,
    limit: usize,
}

impl<T> Ahead<T> {
    /// Nothing yet; numbers begin with 0. `limit`: bytes that may wait.
    pub(crate) const fn new(limit: usize) -> Self {
        Self { next: 0, held: BTreeMap::new(), bytes: 0, limit }
    }

    /// Takes in number `number`. It may be more than there is room for: what was begun has to go somewhere.
    pub(crate) fn push(&mut self, number: u64, bytes: usize, item: T) {
        self.bytes += bytes;
        self.held.insert(number, (bytes, item));
    }

    /// The next in order, if it is done.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let (bytes, item) = self.held.remove(&self.next)?;
        self.bytes -= bytes;
        self.next += 1;
        Some(item)
    }

    /// Whether more may be begun. Always while nothing waits.
    pub(crate) fn has_room(&self) -> bool {
        self.held.is_empty() || self.bytes < self.limit
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn all_come_out_once_and_in_order_and_what_waits_is_bounded(
            picks in prop::collection::vec(0usize..8, 1..60),
            limit in 0usize..50,
        ) {
            const WINDOW: usize = 8;
            const BYTES: usize = 7;
            let mut ahead = Ahead::new(limit);
            let (mut running, mut out) = (Vec::new(), Vec::new());
            let mut begun = 0;
            let mut picks = picks.into_iter();
            loop {
                // As the driver does: a window of jobs under way, as long as there is room for what they come to.
                while begun < 40 && running.len() < WINDOW && ahead.has_room() {
                    running.push(begun);
                    begun += 1;
                }
                if running.is_empty() {
                    break;
                }
                let pick = picks.next().unwrap_or(0) % running.len();
                let number = running.remove(pick);
                ahead.push(number, BYTES, number);
                while let Some(number) = ahead.pop() {
                    out.push(number);
                }
                prop_assert!(ahead.bytes == ahead.held.len() * BYTES && ahead.bytes <= limit + WINDOW * BYTES);
            }
            prop_assert_eq!(out, (0..40).collect::<Vec<_>>());
        }
    }
}
