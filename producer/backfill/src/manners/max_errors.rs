//! How many rows may fail before a run stops.

use std::{fmt, str::FromStr};

/// Rows that a share is judged by, at least: the first few say little.
const ENOUGH: u64 = 100;
/// Of a whole.
const MILLION: f64 = 1e6;

/// How many rows of a run may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxErrors {
    /// So many.
    Rows(u64),
    /// So many of a million, once there are 100.
    Millionths(u32),
}

impl MaxErrors {
    /// Whether more have failed than may.
    pub(crate) fn is_exceeded(self, failed: u64, rows: u64) -> bool {
        match self {
            Self::Rows(most) => failed > most,
            Self::Millionths(most) => {
                rows >= ENOUGH && u128::from(failed) * 1_000_000 > u128::from(rows) * u128::from(most)
            }
        }
    }
}

/// `100`, or `0.5%`.
impl FromStr for MaxErrors {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither a number of rows, such as 100, nor a share of them, such as 0.5%");
        match text.strip_suffix('%') {
            None => text.parse().map(Self::Rows).map_err(|_| wrong()),
            Some(percent) => match percent.trim_end().parse::<f64>() {
                // In range: nothing is lost but what is below a millionth.
                Ok(percent) if (0.0..=100.0).contains(&percent) => {
                    Ok(Self::Millionths((percent / 100.0 * MILLION).round() as u32))
                }
                _ => Err(wrong()),
            },
        }
    }
}

impl fmt::Display for MaxErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(rows) => write!(f, "{rows}"),
            Self::Millionths(share) => write!(f, "{}%", f64::from(*share) / MILLION * 100.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_shares_are_read_and_judged() {
        let read = |text: &str| text.parse::<MaxErrors>().unwrap();
        assert!(!read("0").is_exceeded(0, 9) && read("0").is_exceeded(1, 9));
        assert!(!read("7").is_exceeded(7, 7) && read("7").is_exceeded(8, 1_000_000));
        let share = read("0.5%");
        assert_eq!((share, share.to_string().as_str()), (MaxErrors::Millionths(5_000), "0.5%"));
        assert!(!share.is_exceeded(99, 99) && share.is_exceeded(1, 100));
        assert!(!share.is_exceeded(5, 1_000) && share.is_exceeded(6, 1_000));
        assert!(!read("100 %").is_exceeded(1_000, 1_000));
        for wrong in ["", "%", "-1", "101%", "1.5", "many", "NaN%"] {
            assert!(wrong.parse::<MaxErrors>().unwrap_err().contains("such as 0.5%"), "{wrong}");
        }
    }
}
