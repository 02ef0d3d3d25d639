//! Where texts begin when their padding is taken out, and what blocks of threads attention is computed in. Pure.

/// Queries that one block of threads computes: `QUERIES` in `kernels.cu`.
pub(crate) const QUERIES: usize = 64;

/// Numbers that describe a tile: a text's first token, its length, the first query, and one that fills the 16 bytes up.
pub(crate) const TILE: usize = 4;

/// A batch without its padding.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packing {
    /// Where each text begins, and behind the last.
    pub(crate) starts: Vec<i32>,
    /// The tiles, one after the other.
    pub(crate) tiles: Vec<i32>,
}

impl Packing {
    /// Of a mask of `width` columns, which is 1 where a text is and 0 behind it. `None` if there are more tokens than can be counted.
    pub(crate) fn of(mask: &[i64], width: usize) -> Option<Self> {
        let rows = mask.chunks(width.max(1));
        let (mut starts, mut tiles) = (Vec::with_capacity(rows.len() + 1), Vec::new());
        let mut start = 0_i32;
        starts.push(start);
        for row in rows {
            let length = row.partition_point(|bit| *bit != 0);
            let signed = i32::try_from(length).ok()?;
            for first in (0..length).step_by(QUERIES) {
                tiles.extend([start, signed, i32::try_from(first).ok()?, 0]);
            }
            start = start.checked_add(signed)?;
            starts.push(start);
        }
        Some(Self { starts, tiles })
    }

    /// Tokens of all texts.
    pub(crate) fn tokens(&self) -> usize {
        self.starts.last().map_or(0, |end| usize::try_from(*end).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lengths: &[usize], width: usize) -> Packing {
        let mask: Vec<i64> = lengths.iter().flat_map(|length| (0..width).map(|at| i64::from(at < *length))).collect();
        Packing::of(&mask, width).unwrap()
    }

    #[test]
    fn texts_lie_one_after_the_other() {
        let packing = of(&[3, 0, 5], 6);
        assert_eq!(packing.starts, [0, 3, 3, 8]);
        assert_eq!(packing.tiles, [0, 3, 0, 0, 3, 5, 0, 0], "a text of nothing has no queries");
        assert_eq!(packing.tokens(), 8);
    }

    #[test]
    fn every_query_is_in_one_tile() {
        let lengths = [1, 63, 64, 65, 128, 200];
        let packing = of(&lengths, 256);
        let mut seen = vec![0; packing.tokens()];
        for tile in packing.tiles.chunks(TILE) {
            let [start, length, first] = [tile[0], tile[1], tile[2]].map(|n| usize::try_from(n).unwrap());
            (first..length.min(first + QUERIES)).for_each(|query| seen[start + query] += 1);
        }
        assert!(seen.iter().all(|times| *times == 1));
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(Packing::of(&[], 0), Some(Packing { starts: vec![0], tiles: vec![] }));
    }
}
