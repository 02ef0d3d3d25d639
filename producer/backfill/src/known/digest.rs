//! What tells equal rows: a digest of a text and of how it is embedded. The space is not in it; it is compared for all rows at once.

use std::fmt;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::{Long, Parameters, row::Digest};

/// Bytes that SHA-256 takes at once.
const BLOCK: usize = 64;

/// How texts are embedded, as far as their vectors differ by it. What is added is left out where it is as it was, so that the digests of before
/// stay what they are.
#[derive(Serialize)]
struct Manner<'a> {
    prompt: Option<&'a str>,
    truncate: bool,
    dimensions: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    long: Option<&'a Long>,
}

/// Makes digests.
#[derive(Clone)]
pub(crate) struct Digests {
    /// Of the manner.
    begun: Sha256,
}

impl fmt::Debug for Digests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digests")
    }
}

impl Digests {
    /// For what a backfill does.
    pub(crate) fn of(parameters: &Parameters) -> Self {
        let Parameters { prompt, truncate, dimensions, long, .. } = parameters;
        let long = (!long.is_default()).then_some(long);
        let manner = Manner { prompt: prompt.as_deref(), truncate: *truncate, dimensions: *dimensions, long };
        let manner = serde_json::to_vec(&manner).expect("strings and numbers are written as JSON");
        // A whole block, so that it is computed once and not for each row.
        let mut block = [0; BLOCK];
        block[..32].copy_from_slice(&Sha256::digest(manner));
        Self { begun: Sha256::new_with_prefix(block) }
    }

    /// The digest of a text. It takes 130 ns for 50 bytes, and 480 ns for 500.
    pub(crate) fn digest(&self, text: &str) -> Digest {
        let whole = self.begun.clone().chain_update(text).finalize();
        let mut half = [0; 16];
        half.copy_from_slice(&whole[..16]);
        Digest(half)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::tests::parameters;

    #[test]
    fn a_digest_is_of_the_text_and_of_how_it_is_embedded() {
        let of = |parameters: &Parameters, text: &str| Digests::of(parameters).digest(text);
        let plain = parameters();
        let others = [
            Parameters { prompt: Some("query".into()), ..plain.clone() },
            Parameters { truncate: false, ..plain.clone() },
            Parameters { dimensions: Some(2), ..plain.clone() },
        ];
        let mut seen: HashSet<Digest> = others.iter().map(|other| of(other, "a")).collect();
        seen.extend(["a", "b", "", "a "].map(|text| of(&plain, text)));
        assert_eq!(seen.len(), 7);
        // Where the text comes from does not matter.
        let moved = Parameters { inputs: vec!["/other".into()], text_field: "body".into(), chunk: 1, ..plain.clone() };
        assert_eq!(of(&moved, "a"), of(&plain, "a"));
        // Digests are kept in outputs: they must stay what they are.
        assert_eq!(format!("{:?}", of(&plain, "a")), "b09177170133cb6ddc4bd7b4dfb97ec1");
    }
}
