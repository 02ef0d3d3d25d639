//! Windows joined into blocks, in the form in which resampling them is cheap.
//!
//! Neighbouring windows resemble each other, so blocks of them are resampled, not windows. What a resample needs is
//! worked out once: for each block and each latency bucket in use, how many of the block's latencies are at or below it. A percentile
//! of a resample is then a binary search, each step of which adds up one number for each block.

use embed_schemas::{
    ErrorCode, WindowCounts,
    latency::{BUCKETS, bucket_bounds},
};

use super::{Evidence, counted};

/// Both arms in blocks of the same time: what happens to both at once is resampled together, and cancels in a ratio.
#[derive(Debug)]
pub(crate) struct Blocks {
    /// Number of blocks.
    pub(crate) len: usize,
    windows: usize,
    /// Baseline, candidate.
    pub(crate) arms: [ArmBlocks; 2],
}

/// One arm, a number for each block.
#[derive(Debug)]
pub(crate) struct ArmBlocks {
    pub(crate) requests: Vec<f64>,
    pub(crate) failed: Vec<f64>,
    pub(crate) tokens: Vec<f64>,
    pub(crate) busy: Vec<f64>,
    /// Latencies in each block.
    pub(crate) latencies: Vec<u32>,
    /// Buckets in use, rising.
    buckets: Vec<u16>,
    /// Row for each bucket in use: latencies at or below it, for each block.
    cumulative: Vec<u32>,
}

/// Windows in a block: the longer the series, the longer the blocks, and the more of them. The square root favours blocks
/// that are too long over ones that are too short: those make the interval wider, these make it wrong.
fn block_length(windows: usize, min_block: usize) -> usize {
    ((0.6 * (windows as f64).sqrt()).round() as usize).max(min_block).max(1)
}

impl Blocks {
    pub(crate) fn new(evidence: &Evidence, min_block: usize, ignored: &[ErrorCode]) -> Self {
        let windows = evidence.windows();
        let len = windows / block_length(windows, min_block);
        Self { len, windows, arms: evidence.arms().map(|arm| ArmBlocks::new(arm, len, ignored)) }
    }

    /// By how much blocks of this length understate the variance of a series whose neighbouring windows have this
    /// correlation (first-order autoregressive): a block knows nothing of what reaches beyond its end.
    pub(crate) fn inflation(&self, correlation: f64) -> f64 {
        let length = self.windows as f64 / self.len.max(1) as f64;
        let within =
            (1..length.ceil() as i32).map(|k| (1.0 - f64::from(k) / length) * correlation.powi(k)).sum::<f64>();
        (1.0 + correlation) / (1.0 - correlation) / (1.0 + 2.0 * within)
    }

    /// Degrees of freedom of a variance between blocks: as many blocks as would be independent, less one.
    pub(crate) fn df(&self, correlation: f64) -> f64 {
        (self.len as f64 / self.inflation(correlation) - 1.0).max(1.0)
    }
}

impl ArmBlocks {
    fn new(windows: &[WindowCounts], len: usize, ignored: &[ErrorCode]) -> Self {
        let zero = || vec![0.0; len];
        let (mut requests, mut failed, mut tokens, mut busy) = (zero(), zero(), zero(), zero());
        let mut used = vec![false; BUCKETS];
        let block_of = |window: usize| window * len / windows.len();
        for (i, window) in windows.iter().enumerate().take(if len == 0 { 0 } else { windows.len() }) {
            let (block, (all, bad)) = (block_of(i), counted(window, ignored));
            requests[block] += all as f64;
            failed[block] += bad as f64;
            tokens[block] += window.tokens as f64;
            busy[block] += window.busy_us as f64;
            window.latency_us.buckets().for_each(|(bucket, _)| used[usize::from(bucket)] = true);
        }
        let buckets: Vec<u16> = (0..BUCKETS as u16).filter(|b| used[usize::from(*b)]).collect();
        let mut row_of = vec![0; BUCKETS];
        buckets.iter().enumerate().for_each(|(row, bucket)| row_of[usize::from(*bucket)] = row);
        let mut cumulative = vec![0u32; buckets.len() * len];
        for (i, window) in windows.iter().enumerate().take(if len == 0 { 0 } else { windows.len() }) {
            for (bucket, n) in window.latency_us.buckets() {
                let cell = &mut cumulative[row_of[usize::from(bucket)] * len + block_of(i)];
                *cell = cell.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
            }
        }
        for at in len..cumulative.len() {
            cumulative[at] = cumulative[at].saturating_add(cumulative[at - len]);
        }
        let latencies = cumulative[cumulative.len().saturating_sub(len)..].to_vec();
        let latencies = if latencies.is_empty() { vec![0; len] } else { latencies };
        Self { requests, failed, tokens, busy, latencies, buckets, cumulative }
    }

    /// Sum of a column, each block taken as often as `times` says.
    fn at(&self, row: usize, times: &[u32]) -> u64 {
        let len = times.len();
        weighted(&self.cumulative[row * len..][..len], times)
    }

    /// The percentile `q` of the latencies in microseconds, each block taken as often as `times` says. `None` without latencies.
    pub(crate) fn quantile(&self, q: f64, times: &[u32]) -> Option<f64> {
        let total = weighted(&self.latencies, times);
        if total == 0 {
            return None;
        }
        let rank = q * total as f64;
        let (mut low, mut high) = (0, self.buckets.len() - 1);
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.at(middle, times) as f64 >= rank {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let below = if low == 0 { 0 } else { self.at(low - 1, times) };
        let inside = (self.at(low, times) - below).max(1);
        let (lower, width) = bucket_bounds(self.buckets[low]);
        Some(f64::from(lower) + f64::from(width) * ((rank - below as f64) / inside as f64).clamp(0.0, 1.0))
    }
}

fn weighted(column: &[u32], times: &[u32]) -> u64 {
    column.iter().zip(times).map(|(n, t)| u64::from(*n) * u64::from(*t)).sum()
}

#[cfg(test)]
mod tests {
    use embed_schemas::LatencySketch;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_percentile_of_all_blocks_is_that_of_the_merged_sketch(
            windows in prop::collection::vec(prop::collection::vec(1u64..100_000, 0..30), 8..60),
            q in 0.01f64..0.99,
        ) {
            let mut all = LatencySketch::default();
            let counts: Vec<WindowCounts> = windows.iter().map(|latencies| {
                let latency_us: LatencySketch = latencies.iter().copied().collect();
                all.merge(&latency_us);
                WindowCounts { requests: latencies.len() as u64, latency_us, ..WindowCounts::default() }
            }).collect();
            let len = counts.len() / 4;
            let blocks = ArmBlocks::new(&counts, len, &[]);
            match (blocks.quantile(q, &vec![1; len]), all.quantile(q)) {
                (Some(a), Some(b)) => prop_assert!((a - b).abs() <= 1e-6 * b, "{a} {b}"),
                (a, b) => prop_assert_eq!(a, b),
            }
            prop_assert_eq!(blocks.requests.iter().sum::<f64>(), all.count() as f64);
        }
    }

    #[test]
    fn longer_blocks_understate_less() {
        let blocks = |windows, len| Blocks { len, windows, arms: [(); 2].map(|()| ArmBlocks::new(&[], 0, &[])) };
        // Single windows of a series with correlation 0.5: the long-run variance is three times theirs.
        assert!((blocks(40, 40).inflation(0.5) - 3.0).abs() < 1e-12);
        assert!((blocks(40, 10).inflation(0.5) - 3.0 / 2.0625).abs() < 1e-12);
        assert!(blocks(400, 10).inflation(0.5) < 1.06);
        assert!((blocks(40, 10).inflation(0.0) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn no_windows_no_blocks() {
        let blocks = ArmBlocks::new(&[], 0, &[]);
        assert_eq!(blocks.quantile(0.5, &[]), None);
        let empty = ArmBlocks::new(&vec![WindowCounts::default(); 20], 4, &[]);
        assert_eq!(empty.quantile(0.5, &[1; 4]), None);
    }
}
