//! What vectors, and calls on their way, are known by. Pure.

use embed_schemas::{EmbedRequest, Format, Slug};
use sha2::{Digest, Sha256};

/// A SHA-256 over everything that decides what a vector is.
pub(super) type Key = [u8; 32];

/// What is asked for, whatever the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    /// Whose entries these are: nobody else's are found.
    pub(super) scope: &'a str,
    pub(super) model: &'a Slug,
    /// `None`: whichever the route chooses.
    pub(super) variant: Option<&'a Slug>,
    /// Its texts count for nothing.
    pub(super) request: &'a EmbedRequest,
}

/// Makes the keys of all texts of a request: what is common to them is read once.
pub(super) struct Keys(Sha256);

impl Keys {
    /// The keys of vectors of this space. Where a variant is named, another version of it has other vectors.
    pub(super) fn of_vectors(asked: Asked<'_>, space: &str, version: &str) -> Self {
        let version = asked.variant.map(|_| version);
        Self::begin("vector", asked, Some(space), version)
    }

    /// The keys of calls on their way: whose answers can stand for each other.
    pub(super) fn of_calls(asked: Asked<'_>, space: Option<&str>) -> Self {
        Self::begin("call", asked, space, None)
    }

    fn begin(what: &str, asked: Asked<'_>, space: Option<&str>, version: Option<&str>) -> Self {
        let EmbedRequest { id: _, texts: _, prompt, truncate, encoding: _, dimensions, deadline_ms: _ } = asked.request;
        let encoding = asked.request.encoding_for(Format::MessagePack);
        // As JSON, nothing in it can be read in two ways; its length tells where the text begins.
        let Asked { scope, model, variant, request: _ } = asked;
        let common =
            serde_json::json!([what, scope, model, variant, space, version, prompt, truncate, encoding, dimensions])
                .to_string();
        let mut digest = Sha256::new();
        digest.update((common.len() as u64).to_le_bytes());
        digest.update(common);
        Self(digest)
    }

    /// The key of one text.
    pub(super) fn of(&self, text: &str) -> Key {
        self.0.clone().chain_update(text).finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use embed_schemas::Encoding;

    use super::*;

    #[test]
    fn whatever_changes_a_vector_changes_its_key() {
        let (m, n): (Slug, Slug) = ("m".parse().unwrap(), "n".parse().unwrap());
        let request = EmbedRequest::new(["not looked at"]);
        let requests = [
            request.clone(),
            EmbedRequest { prompt: Some("query".into()), ..request.clone() },
            EmbedRequest { prompt: Some(String::new()), ..request.clone() },
            EmbedRequest { truncate: false, ..request.clone() },
            EmbedRequest { encoding: Some(Encoding::F16), ..request.clone() },
            EmbedRequest { dimensions: Some(8), ..request.clone() },
        ];
        let mut keys = HashSet::new();
        let mut count = 0;
        for request in &requests {
            for (scope, model, variant) in [("", &m, None), ("a", &m, None), ("", &n, None), ("", &m, Some(&n))] {
                let asked = Asked { scope, model, variant, request };
                for text in ["", "a", "b"] {
                    let versions: &[&str] = if variant.is_some() { &["v1", "v2"] } else { &["v1"] };
                    for space in ["s", "t"] {
                        for version in versions {
                            keys.insert(Keys::of_vectors(asked, space, version).of(text));
                            count += 1;
                        }
                    }
                    for space in [None, Some("s")] {
                        keys.insert(Keys::of_calls(asked, space).of(text));
                        count += 1;
                    }
                }
            }
        }
        assert_eq!(keys.len(), count);
    }

    #[test]
    fn what_changes_no_vector_changes_no_key() {
        let m: Slug = "m".parse().unwrap();
        let plain = EmbedRequest::new(["x"]);
        let same = EmbedRequest {
            id: Some("i".parse().unwrap()),
            deadline_ms: Some(5),
            encoding: Some(Encoding::F32),
            ..EmbedRequest::new(["y", "z"])
        };
        let key = |request: &EmbedRequest, version: &str| {
            let asked = Asked { scope: "", model: &m, variant: None, request };
            Keys::of_vectors(asked, "s", version).of("a")
        };
        assert_eq!(key(&plain, "v1"), key(&same, "v2"), "without a variant, the space is what counts");
    }
}
