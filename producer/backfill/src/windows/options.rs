//! What is asked for.

use serde::{Deserialize, Serialize};

/// Fewest tokens of a window: of fewer, a vector says nothing.
pub(super) const MIN_WINDOW: usize = 8;

/// What becomes of texts that are longer than the model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LongMode {
    /// Their beginning is embedded, by the worker.
    #[default]
    Truncate,
    /// They are taken apart into windows, and each has its vector.
    Split,
    /// They are taken apart into windows, and have the mean of the vectors.
    Mean,
}

/// How long texts are embedded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Long {
    /// What becomes of them.
    #[serde(default)]
    pub mode: LongMode,
    /// Most tokens of a window, special tokens and those of the prompt aside. What the model takes if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    /// Tokens of a window that are those of the one before it too, at most. A tenth of the window if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<u32>,
    /// The model's version whose tokenizer says what a token is. The one that is served when the backfill is begun, if `None`; it is kept then,
    /// so that a run that goes on cuts as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl Long {
    /// Whether it is what it is if nothing is asked for.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The same with its numbers: window and overlap. `room`: tokens that the model takes of a text. The error says what cannot be.
    pub(super) fn numbers(&self, room: usize) -> Result<(usize, usize), String> {
        // As far as u32 goes, usize does.
        let number = |n: u32| n as usize;
        let window = self.window.map_or(room, number);
        if window > room {
            return Err(format!("a window of {window} tokens: the model takes {room} of a text, beside the prompt"));
        }
        if window < MIN_WINDOW {
            let why = if self.window.is_some() { "" } else { ", which is what the prompt leaves room for" };
            return Err(format!("a window of {window} tokens{why}: it must have at least {MIN_WINDOW}"));
        }
        let overlap = self.overlap.map_or(window / 10, number);
        if overlap > window / 2 {
            return Err(format!(
                "an overlap of {overlap} tokens: at most half of a window, {}, can overlap",
                window / 2
            ));
        }
        Ok((window, overlap))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fit_the_model() {
        let numbers = |window, overlap| Long { window, overlap, ..Long::default() }.numbers(254);
        assert_eq!(numbers(None, None), Ok((254, 25)));
        assert_eq!(numbers(Some(100), Some(50)), Ok((100, 50)));
        assert_eq!(numbers(Some(8), Some(0)), Ok((8, 0)));
        for (window, overlap, word) in [(255, 0, "takes 254"), (7, 0, "at least 8"), (100, 51, "half of a window, 50")]
        {
            let error = numbers(Some(window), Some(overlap)).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        assert!(Long::default().numbers(3).unwrap_err().contains("prompt"));
    }
}
