//! Where a window had best begin and end: at a sentence, else at a word.

use unicode_segmentation::UnicodeSegmentation;

/// A text, where its tokens begin, and where its sentences do. All in bytes, and between two characters.
pub(super) struct Marks<'a> {
    pub(super) text: &'a str,
    tokens: Vec<usize>,
    sentences: Vec<usize>,
}

impl<'a> Marks<'a> {
    /// `starts`: where the tokens begin. Of a tokenizer that takes characters apart, that can be within one.
    pub(super) fn new(text: &'a str, starts: &[usize]) -> Self {
        let mut last = 0;
        let inside = |start: &usize| {
            last = text.floor_char_boundary(*start).max(last);
            last
        };
        let mut tokens: Vec<usize> = starts.iter().map(inside).collect();
        if let Some(first) = tokens.first_mut() {
            // What stands before it goes with it.
            *first = 0;
        }
        // Unicode ends them at line ends as well.
        let sentences = text.split_sentence_bound_indices().map(|(start, _)| start).collect();
        Self { text, tokens, sentences }
    }

    /// The position after `count` tokens, the one that `at` is in included. It is beyond `at`, unless that is the end.
    pub(super) fn after(&self, at: usize, count: usize) -> usize {
        let next = self.tokens.partition_point(|start| *start <= at);
        self.tokens.get(next + count.max(1) - 1).copied().unwrap_or(self.text.len())
    }

    /// The position `count` tokens before `end`.
    fn before(&self, end: usize, count: usize) -> usize {
        let next = self.tokens.partition_point(|start| *start < end);
        if count == 0 { end } else { next.checked_sub(count).map_or(0, |at| self.tokens[at]) }
    }

    /// How many tokens lie from one position to another, at least 1.
    pub(super) fn between(&self, at: usize, end: usize) -> usize {
        let from = self.tokens.partition_point(|start| *start <= at);
        self.tokens.partition_point(|start| *start < end).saturating_sub(from) + 1
    }

    /// Where a window from `at` that may have `count` tokens and `bytes` bytes ends: with a sentence if one ends in its last quarter.
    pub(super) fn end(&self, at: usize, count: usize, bytes: usize) -> usize {
        let text = self.text;
        let mut last = self.after(at, count);
        if last - at > bytes {
            last = text.floor_char_boundary(at + bytes).max(self.character(at));
        }
        if last == text.len() {
            return last;
        }
        let mut quarter = self.after(at, count - count / 4);
        if quarter >= last {
            quarter = text.ceil_char_boundary(at + (last - at).div_ceil(4) * 3).min(last);
        }
        let sentence = self.sentences.partition_point(|start| *start <= last).checked_sub(1);
        if let Some(end) = sentence.map(|n| self.sentences[n]).filter(|end| *end >= quarter && *end > at) {
            return end;
        }
        let space = text[quarter..last].char_indices().rev().find(|(_, c)| c.is_whitespace());
        space.map_or(last, |(n, c)| quarter + n + c.len_utf8())
    }

    /// Where the window after `at..end` begins: at most `overlap` tokens and half of the window before its end, at a sentence or a word
    /// if one begins there.
    pub(super) fn begin(&self, at: usize, end: usize, overlap: usize) -> usize {
        let half = self.text.ceil_char_boundary(at + (end - at).div_ceil(2));
        let first = self.before(end, overlap).max(half);
        if first >= end {
            return end;
        }
        let late = self.before(end, overlap / 4);
        let sentence = self.sentences.get(self.sentences.partition_point(|start| *start < first));
        if let Some(sentence) = sentence.filter(|start| **start <= late && **start < end) {
            return *sentence;
        }
        if self.text[..first].ends_with(char::is_whitespace) {
            return first;
        }
        let rest = &self.text[first..end];
        let word = rest.find(char::is_whitespace).map(|space| rest[space..].trim_start());
        word.map_or(first, |word| end - word.len())
    }

    /// The position after the character at `at`.
    pub(super) fn character(&self, at: usize) -> usize {
        self.text[at..].chars().next().map_or(at, |c| at + c.len_utf8())
    }
}
