//! A long text in stretches: what the library makes of one takes a hundred times its bytes.

/// Most bytes of a stretch.
const MAX_SEGMENT: usize = 32 << 10;

/// Stretches of a text, each with where it begins. They end behind white space, where there is any.
pub(crate) fn segments(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = &text[at..];
        if rest.is_empty() {
            return None;
        }
        let begin = at;
        let end = if rest.len() <= MAX_SEGMENT { rest.len() } else { end_of_segment(rest) };
        at += end;
        Some((begin, &rest[..end]))
    })
}

fn end_of_segment(text: &str) -> usize {
    let most = &text[..text.floor_char_boundary(MAX_SEGMENT)];
    let space = most.char_indices().rev().find(|(_, c)| c.is_whitespace());
    space.map_or(most.len(), |(at, c)| at + c.len_utf8())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_is_left_out(word in "[a\u{E9}\u{4E2D} ]{1,40}", times in 0usize..3000) {
            let text = word.repeat(times);
            let all: Vec<(usize, &str)> = segments(&text).collect();
            let mut at = 0;
            for (begin, segment) in &all {
                prop_assert_eq!(*begin, at);
                prop_assert!(!segment.is_empty() && segment.len() <= MAX_SEGMENT);
                prop_assert_eq!(&text[at..at + segment.len()], *segment);
                at += segment.len();
            }
            prop_assert_eq!(at, text.len());
            for (_, segment) in all.iter().rev().skip(1).filter(|_| word.contains(' ')) {
                prop_assert!(segment.ends_with(' '));
            }
        }
    }
}
