//! A text -> its pieces.

use embed_schemas::WireError;
use embed_tokenize::TextTokenizer;

use super::{
    LongMode,
    cut::{Limits, cut},
};
use crate::row::{Piece, Window};

/// Most bytes of a window: what has so many, and so few tokens, is no language. Workers take four times as many.
const MAX_BYTES: usize = 64 << 10;

/// Cuts the texts of one backfill.
#[derive(Debug)]
pub(crate) struct Cutter {
    pub(super) tokenizer: TextTokenizer,
    /// What is put before each text, and so before each window.
    pub(super) prompt: Option<String>,
    /// Tokens that stand around every text: special ones, and those of the prompt.
    pub(super) around: usize,
    /// Most tokens of a text's window.
    pub(super) window: usize,
    pub(super) overlap: usize,
    pub(super) mode: LongMode,
}

impl Cutter {
    /// The pieces of a text, each of which the model takes as a whole; of one that it takes as a whole, one. None has more than `bytes` bytes.
    ///
    /// # Errors
    /// If the text cannot be tokenized.
    pub(crate) fn pieces(&self, text: String, bytes: usize) -> Result<Vec<Piece>, WireError> {
        let limits = Limits { tokens: self.window, overlap: self.overlap, bytes: bytes.min(MAX_BYTES) };
        let has_windows = self.mode == LongMode::Split;
        if text.len() <= limits.bytes && self.count(&text)? <= self.window {
            let end = text.chars().count() as u64;
            return Ok(vec![Piece { text, window: has_windows.then_some(Window { index: 0, start: 0, end }) }]);
        }
        let ranges = cut(&text, &self.tokenizer.starts(&text)?, limits, |part| self.count(part))?;
        // Both go forward only, so that no character is counted more than twice.
        let (mut starts, mut ends) = (Characters::of(&text), Characters::of(&text));
        let piece = |(index, range): (u32, std::ops::Range<usize>)| {
            let window = Window { index, start: starts.before(range.start), end: ends.before(range.end) };
            Piece { text: text[range].to_owned(), window: has_windows.then_some(window) }
        };
        Ok((0..).zip(ranges).map(piece).collect())
    }

    /// The tokens of a text behind the prompt, without what stands around every text.
    fn count(&self, text: &str) -> Result<usize, WireError> {
        Ok(self.tokenizer.count(self.prompt.as_deref(), text)?.saturating_sub(self.around))
    }
}

/// Counts the characters before positions that come in order.
struct Characters<'a> {
    text: &'a str,
    at: usize,
    counted: u64,
}

impl<'a> Characters<'a> {
    const fn of(text: &'a str) -> Self {
        Self { text, at: 0, counted: 0 }
    }

    fn before(&mut self, position: usize) -> u64 {
        self.counted += self.text[self.at..position].chars().count() as u64;
        self.at = position;
        self.counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::windows::tokenizer::tests::real;

    fn cutter(prompt: Option<&str>, window: usize, mode: LongMode) -> Cutter {
        let (tokenizer, _) = real();
        let around = tokenizer.count(prompt, "").unwrap();
        Cutter { tokenizer, prompt: prompt.map(ToOwned::to_owned), around, window, overlap: window / 10, mode }
    }

    fn sentences(count: usize) -> String {
        (0..count).map(|n| format!("This is sentence number {n} of na\u{EF}ve caf\u{E9}s. ")).collect()
    }

    #[test]
    fn windows_of_a_real_tokenizer_fit_and_cover_the_text() {
        let text = sentences(400);
        for prompt in [None, Some("passage: ")] {
            let cutter = cutter(prompt, 200, LongMode::Split);
            let pieces = cutter.pieces(text.clone(), usize::MAX).unwrap();
            let characters: Vec<char> = text.chars().collect();
            let mut covered = 0;
            for (piece, index) in pieces.iter().zip(0..) {
                let window = piece.window.unwrap();
                assert_eq!(window.index, index);
                assert!(window.start <= covered && window.end > covered);
                covered = window.end;
                let part: String = characters[window.start as usize..window.end as usize].iter().collect();
                assert_eq!(part, piece.text);
                let tokens = cutter.tokenizer.encode(prompt, &piece.text, false).unwrap();
                assert!(tokens.ids.len() <= 200 + cutter.around, "{}", tokens.ids.len());
                assert!(piece.text.trim_end().ends_with('.') && piece.text.starts_with("This"), "{}", piece.text);
            }
            assert_eq!(covered, characters.len() as u64);
        }
    }

    #[test]
    fn what_fits_is_one_piece() {
        for text in ["", "  \n", "a short text"] {
            let whole = |mode| cutter(None, 254, mode).pieces(text.to_owned(), 1000).unwrap();
            assert_eq!(whole(LongMode::Mean), [Piece { text: text.to_owned(), window: None }]);
            let window = Some(Window { index: 0, start: 0, end: text.chars().count() as u64 });
            assert_eq!(whole(LongMode::Split), [Piece { text: text.to_owned(), window }]);
        }
    }

    #[test]
    fn five_megabytes_of_anything_are_cut() {
        let cutter = cutter(None, 254, LongMode::Mean);
        let one_word = "x".repeat(5 << 20);
        let pieces = cutter.pieces(one_word, 1 << 20).unwrap();
        assert!(pieces.iter().all(|piece| piece.text.len() <= MAX_BYTES));
        let prose = sentences((5 << 20) / 40);
        let pieces = cutter.pieces(prose, 1 << 20).unwrap();
        assert!(pieces.len() > 4000, "{}", pieces.len());
        assert!(pieces.iter().all(|piece| piece.window.is_none()));
    }
}
