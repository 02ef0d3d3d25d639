//! A text and its tokens -> its windows. Pure.

use std::ops::Range;

use super::ends::Marks;

/// What a window may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Tokens of the text.
    pub(super) tokens: usize,
    /// Tokens that are those of the window before too.
    pub(super) overlap: usize,
    pub(super) bytes: usize,
}

/// Cuts a text into windows, in bytes: the first begins where it begins, the last ends where it ends, and there is no gap between them. One
/// window may have one character more than it should, if that alone is too much.
///
/// `starts` are those of the tokens of the whole text. `count` counts the tokens of a part of it, which can be more, alone.
pub(super) fn cut<E>(
    text: &str,
    starts: &[usize],
    limits: Limits,
    count: impl Fn(&str) -> Result<usize, E>,
) -> Result<Vec<Range<usize>>, E> {
    let marks = Marks::new(text, starts);
    let mut windows = Vec::new();
    let (mut at, mut before) = (0, 0);
    loop {
        let mut end = end_of_window(&marks, at, limits, &count)?;
        if end <= before && at < before {
            // The window has no more than the one before: it had to be made so short.
            at = before;
            end = end_of_window(&marks, at, limits, &count)?;
        }
        windows.push(at..end);
        if end == text.len() {
            return Ok(windows);
        }
        at = marks.begin(at, end, limits.overlap);
        before = end;
    }
}

fn end_of_window<E>(
    marks: &Marks<'_>,
    at: usize,
    limits: Limits,
    count: &impl Fn(&str) -> Result<usize, E>,
) -> Result<usize, E> {
    let part = |end: usize| &marks.text[at..end];
    let mut most = limits.tokens;
    let mut end;
    loop {
        end = marks.end(at, most, limits.bytes);
        let tokens = count(part(end))?;
        if tokens <= limits.tokens {
            return Ok(end);
        }
        let had = marks.between(at, end).min(most);
        if had <= 1 {
            break;
        }
        most = (had * limits.tokens / tokens).clamp(1, had - 1);
    }
    // What was one token in the whole is many by itself.
    loop {
        let character = marks.character(at);
        end = marks.text.floor_char_boundary(at + (end - at) / 2).max(character);
        if end == character || count(part(end))? <= limits.tokens {
            return Ok(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// A tokenizer: a word of up to five letters is a token, a longer one has a token for each three, one of more than 30 is unknown.
    fn tokens(text: &str) -> Vec<usize> {
        let mut starts = Vec::new();
        let mut at = 0;
        for word in text.split_inclusive(char::is_whitespace) {
            let letters: Vec<usize> = word.trim_end().char_indices().map(|(n, _)| at + n).collect();
            match letters.len() {
                0 => {}
                1..=5 | 31.. => starts.push(letters[0]),
                _ => starts.extend(letters.iter().step_by(3)),
            }
            at += word.len();
        }
        starts
    }

    fn windows(text: &str, limits: Limits) -> Vec<&str> {
        let count = |part: &str| Ok::<_, Infallible>(tokens(part).len());
        let Ok(windows) = cut(text, &tokens(text), limits, count);
        windows.into_iter().map(|window| &text[window]).collect()
    }

    const SMALL: Limits = Limits { tokens: 8, overlap: 2, bytes: 1000 };

    #[test]
    fn windows_end_with_sentences() {
        let text = "One two three four. Five six seven. Eight nine ten eleven! Twelve";
        // Two tokens overlap at most, and begin with a word.
        assert_eq!(
            windows(text, SMALL),
            ["One two three four. Five six seven. ", "seven. Eight nine ten eleven! ", "Twelve"]
        );
        let text = "one two three four five\nsix\nseven eight nine ten";
        assert_eq!(windows(text, SMALL)[0], "one two three four five\nsix\n");
    }

    #[test]
    fn what_ends_nowhere_is_cut_at_words_and_between_characters() {
        assert_eq!(windows("a b c d e f g h i j", SMALL), ["a b c d e f g h ", "g h i j"]);
        let limits = Limits { tokens: 8, overlap: 0, bytes: 12 };
        assert_eq!(
            windows(&"\u{4E2D}".repeat(10), limits),
            ["\u{4E2D}".repeat(4), "\u{4E2D}".repeat(4), "\u{4E2D}".repeat(2)]
        );
    }

    #[test]
    fn an_unknown_word_that_is_many_tokens_in_parts_is_cut_until_they_fit() {
        let text = "x".repeat(2000);
        for window in windows(&text, Limits { bytes: 30, ..SMALL }) {
            assert!(tokens(window).len() <= 8 && window.len() <= 30, "{window}");
        }
    }

    #[test]
    fn nothing_is_one_window() {
        assert_eq!(windows("", SMALL), [""]);
        assert_eq!(windows(" \n ", SMALL), [" \n "]);
    }

    proptest! {
        #[test]
        fn every_character_is_in_a_window_and_every_window_fits(
            parts in prop::collection::vec("[a-z\u{E9}\u{4E2D}\u{1F600}.!\u{3002} \n]{0,40}", 0..20),
            size in 1usize..20,
            overlap in 0usize..10,
            bytes in 4usize..200,
        ) {
            let text = parts.concat();
            let limits = Limits { tokens: size, overlap: overlap.min(size / 2), bytes };
            let count = |part: &str| Ok::<_, Infallible>(tokens(part).len());
            let Ok(all) = cut(&text, &tokens(&text), limits, count);
            prop_assert_eq!(all[0].start, 0);
            prop_assert_eq!(all[all.len() - 1].end, text.len());
            for pair in all.windows(2) {
                prop_assert!(pair[1].start <= pair[0].end, "no gap");
                prop_assert!(pair[0].start < pair[1].start && pair[0].end < pair[1].end, "each goes on");
            }
            for window in all {
                // Slicing would fail within a character.
                let part = &text[window];
                let fits = tokens(part).len() <= size && part.len() <= bytes;
                prop_assert!(fits || part.chars().count() == 1, "{}", part);
            }
        }
    }
}
