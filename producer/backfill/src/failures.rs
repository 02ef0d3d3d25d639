//! Why rows have no vector, as far as it is worth telling beside the rows themselves: how many by code, and the first of each.

use std::collections::BTreeMap;

use embed_schemas::WireError;
use serde::{Deserialize, Serialize};

/// Rows of one code that are quoted.
const QUOTED: usize = 3;
/// Characters of a message that are quoted.
const MESSAGE: usize = 300;

/// Rows without a vector, by the code of their error.
pub type Failures = BTreeMap<String, Reason>;

/// Files that are named of those that are left out.
const NAMED: usize = 100;

/// Files of which rows are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// How many.
    pub files: u64,
    /// The first of them.
    pub first: Vec<String>,
}

impl Skipped {
    /// For serde.
    pub(crate) const fn is_none(&self) -> bool {
        self.files == 0
    }

    pub(crate) fn add(&mut self, later: Self) {
        self.files += later.files;
        let room = NAMED.saturating_sub(self.first.len());
        self.first.extend(later.first.into_iter().take(room));
    }

    /// Counts a file.
    pub(crate) fn count(&mut self, file: &str) {
        self.add(Self { files: 1, first: vec![file.to_owned()] });
    }
}

/// Rows that have no vector for the same reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// How many.
    pub rows: u64,
    /// The first of them.
    pub first: Vec<Example>,
}

/// One row, and why it has no vector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// The file in which it is, if there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Its line there, counted from 1.
    pub line: u64,
    /// The message of its error.
    pub message: String,
}

impl Example {
    /// Where it is, for people.
    #[must_use]
    pub fn place(&self) -> String {
        let file = self.file.as_ref().map(|file| format!("{file}, ")).unwrap_or_default();
        format!("{file}line {}", self.line)
    }
}

/// Counts a row.
pub(crate) fn count(failures: &mut Failures, file: Option<&str>, line: u64, error: &WireError) {
    let reason = failures.entry(error.code.as_str().to_owned()).or_default();
    reason.rows += 1;
    if reason.first.len() < QUOTED {
        let (file, message) = (file.map(ToOwned::to_owned), error.message.chars().take(MESSAGE).collect());
        reason.first.push(Example { file, line, message });
    }
}

/// Adds what came later.
pub(crate) fn add(failures: &mut Failures, later: Failures) {
    for (code, Reason { rows, first }) in later {
        let reason = failures.entry(code).or_default();
        reason.rows += rows;
        let room = QUOTED.saturating_sub(reason.first.len());
        reason.first.extend(first.into_iter().take(room));
    }
}

/// The first of each code, in one line.
pub(crate) fn first(failures: &Failures) -> String {
    let all: Vec<String> = failures
        .iter()
        .filter_map(|(code, reason)| {
            reason.first.first().map(|row| format!("{code} ({}: {})", row.place(), row.message))
        })
        .collect();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use embed_schemas::ErrorCode;

    use super::*;

    #[test]
    fn all_are_counted_and_the_first_are_quoted() {
        let error = |code, text: &str| WireError::new(code, text);
        let mut all = Failures::new();
        for chunk in 0..3 {
            let mut failures = Failures::new();
            for line in [2 * chunk + 1, 2 * chunk + 2] {
                count(&mut failures, None, line, &error(ErrorCode::TextTooLong, &"x".repeat(1000)));
            }
            count(&mut failures, Some("f"), 2 * chunk + 1, &error(ErrorCode::InvalidRequest, "no"));
            add(&mut all, failures);
        }
        let of = |code: ErrorCode| &all[code.as_str()];
        assert_eq!((of(ErrorCode::TextTooLong).rows, of(ErrorCode::InvalidRequest).rows), (6, 3));
        let lines: Vec<u64> = of(ErrorCode::TextTooLong).first.iter().map(|example| example.line).collect();
        assert_eq!(lines, [1, 2, 3]);
        assert_eq!(of(ErrorCode::TextTooLong).first[0].message.len(), MESSAGE);
        assert!(first(&all).contains("invalid_request (f, line 1: no)"), "{}", first(&all));
    }
}
