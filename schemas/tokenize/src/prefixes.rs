//! The tree that `tokenizers` makes of a Unigram model's entries has a node for each beginning that they have, of any length, those they
//! share once. A node takes some 340 bytes, so their number is what such a model costs; how long its entries are says little.

use std::borrow::Cow;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// How many beginnings the entries of a list have.
///
/// # Errors
/// If it is no list of texts with a score each.
pub(super) fn count(entries: &RawValue) -> Result<usize, String> {
    let entries: Vec<(Text<'_>, IgnoredAny)> =
        serde_json::from_str(entries.get()).map_err(|error| error.to_string())?;
    let mut texts: Vec<&[u8]> = entries.iter().map(|(Text(text), _)| text.as_bytes()).collect();
    // Those that begin alike are neighbours.
    texts.sort_unstable();
    let new = |pair: &[&[u8]]| pair[1].len() - pair[0].iter().zip(pair[1]).take_while(|(a, b)| a == b).count();
    Ok(texts.first().map_or(0, |first| first.len()) + texts.windows(2).map(new).sum::<usize>())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_beginning_is_counted_once(texts in proptest::collection::vec("[ab\u{E9}\u{4E2D}\"]{0,6}", 0..40)) {
            let entries: Vec<_> = texts.iter().map(|text| (text, -1.5)).collect();
            let entries = serde_json::value::to_raw_value(&entries).unwrap();
            let beginnings: HashSet<&[u8]> =
                texts.iter().flat_map(|text| (1..=text.len()).map(|end| &text.as_bytes()[..end])).collect();
            prop_assert_eq!(count(&entries), Ok(beginnings.len()));
        }
    }
}
