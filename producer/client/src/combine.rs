//! Putting the answers to the parts of one request together, and what must not be put together. Pure.

use embed_schemas::{EmbedResult, Timing};

use crate::Error;

/// One result from those of the parts, in order. `parts` must not be empty.
///
/// # Errors
/// [`Error::MixedSpaces`] if the vectors cannot be compared with each other.
pub(super) fn combine(mut parts: Vec<EmbedResult>) -> Result<EmbedResult, Error> {
    let mut rest = parts.split_off(1).into_iter().peekable();
    let mut first = parts.remove(0);
    if rest.peek().is_none() {
        return Ok(first);
    }
    let mut vectors = Vec::from(first.vectors);
    for part in rest {
        if (&part.space, part.dim, part.encoding) != (&first.space, first.dim, first.encoding) {
            return Err(Error::MixedSpaces {
                first: format!("{} {}", first.variant, first.version),
                second: format!("{} {}", part.variant, part.version),
            });
        }
        vectors.extend_from_slice(&part.vectors);
        first.items.extend(part.items);
        first.timing = longest(first.timing, part.timing);
    }
    first.vectors = vectors.into();
    Ok(first)
}

/// Refuses vectors of another space than the expected one, if one is expected.
pub(super) fn check_space(expected: Option<&str>, result: &EmbedResult) -> Result<(), Error> {
    match expected {
        Some(expected) if expected != result.space => Err(Error::OtherSpace {
            expected: expected.to_owned(),
            found: result.space.clone(),
            from: format!("{} {} of {}", result.variant, result.version, result.model),
        }),
        _ => Ok(()),
    }
}

fn longest(a: Timing, b: Timing) -> Timing {
    Timing {
        queue_us: a.queue_us.max(b.queue_us),
        tokenize_us: a.tokenize_us.max(b.tokenize_us),
        infer_us: a.infer_us.max(b.infer_us),
        total_us: a.total_us.max(b.total_us),
        batch_size: a.batch_size.max(b.batch_size),
    }
}

#[cfg(test)]
mod tests {
    use embed_schemas::{Encoding, Item};

    use super::*;

    fn part(rows: &[u8], space: &str) -> EmbedResult {
        EmbedResult {
            id: "a".parse().unwrap(),
            model: "m".parse().unwrap(),
            variant: "v".parse().unwrap(),
            version: "v1".into(),
            space: space.into(),
            dim: 1,
            encoding: Encoding::I8,
            vectors: rows.to_vec().into(),
            items: rows.iter().map(|row| Item { tokens: u32::from(*row), ..Item::default() }).collect(),
            timing: Timing { infer_us: rows.len() as u64, ..Timing::default() },
        }
    }

    #[test]
    fn rows_keep_their_order() {
        let all = combine(vec![part(&[1, 2], "s"), part(&[3], "s")]).unwrap();
        assert_eq!(&all.vectors[..], [1, 2, 3]);
        assert_eq!(all.items.iter().map(|item| item.tokens).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(all.timing.infer_us, 2);
    }

    #[test]
    fn another_space_is_refused_by_name() {
        let result = part(&[1], "t");
        assert!(check_space(None, &result).is_ok() && check_space(Some("t"), &result).is_ok());
        let error = check_space(Some("s"), &result).unwrap_err().to_string();
        assert!(error.contains("v v1 of m") && error.contains("expected space s"), "{error}");
    }

    #[test]
    fn spaces_are_not_mixed() {
        assert!(matches!(combine(vec![part(&[1], "s"), part(&[3], "t")]), Err(Error::MixedSpaces { .. })));
    }
}
