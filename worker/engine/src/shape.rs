//! Shapes of runs: what a batch amounts to, to which shape a device pads it, and what computes it.

/// What computes: a device, or on the CPU a core. Runners of one unit share its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Unit(pub usize);

/// How the rows of a run are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Form {
    /// Every row as wide as the longest: padding is computed.
    #[default]
    Padded,
    /// Row after row without padding.
    Packed,
    /// As padded, computed by several cores at once.
    Spread,
}

impl Form {
    /// The form's name, as in metrics and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Padded => "padded",
            Self::Packed => "packed",
            Self::Spread => "spread",
        }
    }
}

/// What a batch amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shape {
    /// Texts.
    pub rows: usize,
    /// Tokens of the longest.
    pub width: usize,
    /// Tokens, without padding.
    pub tokens: usize,
    /// Pairs of tokens of one row, which is what attention goes over: the sum of the squares of the lengths.
    pub pairs: usize,
}

impl Shape {
    /// Rows that are all of the same length, or have been padded to it.
    #[must_use]
    pub const fn full(rows: usize, width: usize) -> Self {
        Self { rows, width, tokens: rows * width, pairs: rows * width * width }
    }

    /// Rows of these lengths.
    #[must_use]
    pub fn of(lengths: impl IntoIterator<Item = usize>) -> Self {
        lengths.into_iter().fold(Self::default(), Self::with)
    }

    /// The same and one more row.
    #[must_use]
    pub fn with(self, length: usize) -> Self {
        Self {
            rows: self.rows + 1,
            width: self.width.max(length),
            tokens: self.tokens + length,
            pairs: self.pairs + length * length,
        }
    }
}

/// The shapes to which batches are padded before they run. Without steps, none: a run is as large as its texts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Padding {
    widths: Vec<(usize, usize)>,
    rows: Vec<(usize, usize)>,
    longest: usize,
}

impl Padding {
    /// Pairs of a bound and a step: sizes up to the bound are rounded up to a multiple of the step. Beyond the last bound,
    /// the last step goes on. No width is rounded beyond `longest`, which is all that the model takes.
    #[must_use]
    pub const fn new(widths: Vec<(usize, usize)>, rows: Vec<(usize, usize)>, longest: usize) -> Self {
        Self { widths, rows, longest }
    }

    /// Rows and width of the run.
    #[must_use]
    pub fn of(&self, rows: usize, width: usize) -> (usize, usize) {
        (round(rows, &self.rows), round(width, &self.widths).min(self.longest.max(width)))
    }
}

fn round(size: usize, steps: &[(usize, usize)]) -> usize {
    let step = steps.iter().find(|(bound, _)| size <= *bound).or(steps.last()).map_or(1, |(_, step)| *step);
    size.next_multiple_of(step.max(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn padding_covers_and_repeats(
            rows in 1usize..3000, width in 1usize..600, longest in 1usize..600, step in 1usize..70,
        ) {
            let padding = Padding::new(vec![(64, 8), (256, 16)], vec![(8, 1), (64, step)], longest);
            let (padded_rows, padded_width) = padding.of(rows, width);
            prop_assert!(padded_rows >= rows && padded_width >= width);
            prop_assert!(padded_width <= longest.max(width));
            prop_assert!(padded_rows - rows < step.max(1) && padded_width - width < 16);
            // What has been padded fits as it is.
            prop_assert_eq!(padding.of(padded_rows, padded_width), (padded_rows, padded_width));
        }

        #[test]
        fn a_shape_counts_what_it_is_made_of(lengths in prop::collection::vec(1usize..300, 0..50)) {
            let shape = Shape::of(lengths.iter().copied());
            prop_assert_eq!(shape.rows, lengths.len());
            prop_assert_eq!(shape.tokens, lengths.iter().sum::<usize>());
            prop_assert!(shape.tokens <= Shape::full(shape.rows, shape.width).tokens);
            prop_assert!(shape.pairs <= Shape::full(shape.rows, shape.width).pairs);
        }
    }

    #[test]
    fn without_steps_nothing_is_padded() {
        assert_eq!(Padding::default().of(7, 13), (7, 13));
    }
}
