//! What a producer sends: the same type as an online call, a job, or a chunk of a backfill.

use base64::{Engine, prelude::BASE64_URL_SAFE};
#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Encoding, Format, JobId, WireError};

/// Most texts in one request.
pub const MAX_TEXTS: usize = 256;

/// A request to embed 1 to [`MAX_TEXTS`] texts.
///
/// The model, and the variant if one is wanted, are chosen by the subject on which it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EmbedRequest {
    /// The job's id, made by the worker if left out. The result of a job is stored under it, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<JobId>,
    /// The texts, in the order in which their vectors are wanted.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 256)))]
    pub texts: Vec<String>,
    /// The name of one of the model's prompts, such as `query` or `passage`; it is put before every text. Left out: the default one, if there is one; empty: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// A text longer than the model takes is cut, and the result says so. With `false` it is an error of that text.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub truncate: bool,
    /// The number format of the vectors: `f32` in MessagePack and `float` in JSON if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
    /// A smaller number of dimensions, where the model's metadata allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub dimensions: Option<u32>,
    /// Milliseconds after which nobody needs the answer: from the worker's receipt of an online call, from the
    /// publication of a job. Expired work is answered with `deadline_exceeded` and not computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
const fn is_true(value: &bool) -> bool {
    *value
}

impl EmbedRequest {
    /// A request for these texts, with everything else left to the defaults.
    pub fn new(texts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { texts: texts.into_iter().map(Into::into).collect(), truncate: true, ..Self::default() }
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// [`crate::ErrorCode::InvalidRequest`], naming the field and the fix.
    pub fn validate(&self, format: Format) -> Result<(), WireError> {
        if self.texts.is_empty() {
            return Err(WireError::invalid("texts: the list is empty; send 1 to 256 texts"));
        }
        if self.texts.len() > MAX_TEXTS {
            return Err(WireError::invalid(format!(
                "texts: {} texts in one request, at most {MAX_TEXTS} are taken; send several requests",
                self.texts.len()
            )));
        }
        if self.dimensions == Some(0) {
            return Err(WireError::invalid("dimensions: must be at least 1; leave it out for the model's own"));
        }
        if format == Format::MessagePack && self.encoding == Some(Encoding::Base64) {
            return Err(WireError::invalid(
                "encoding: `base64` is for JSON; in MessagePack use `f32`, which is sent as bytes",
            ));
        }
        Ok(())
    }

    /// What the request asks for, as `SHA-256=<base64url>`: the same for the same texts and options, whatever the id and the deadline.
    #[must_use]
    pub fn digest(&self) -> String {
        let Self { id: _, texts, prompt, truncate, encoding, dimensions, deadline_ms: _ } = self;
        let mut digest = Sha256::new();
        // Nothing in it may be read in two ways: what varies in length comes with its length.
        let mut add = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        let options = serde_json::json!([prompt, truncate, encoding, dimensions]);
        add(options.to_string().as_bytes());
        for text in texts {
            add(text.as_bytes());
        }
        sha256_header(&digest.finalize())
    }

    /// The encoding to answer with, in this format.
    #[must_use]
    pub fn encoding_for(&self, format: Format) -> Encoding {
        self.encoding.unwrap_or(match format {
            Format::Json => Encoding::Float,
            Format::MessagePack => Encoding::F32,
        })
    }
}

/// A SHA-256 as it stands in a header: `SHA-256=<base64url>`, as NATS's object store writes it.
#[must_use]
pub fn sha256_header(digest: &[u8]) -> String {
    format!("SHA-256={}", BASE64_URL_SAFE.encode(digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_that_of_the_content() {
        let request = EmbedRequest::new(["ab", "c"]);
        let same = EmbedRequest { id: Some("x".parse().unwrap()), deadline_ms: Some(1), ..request.clone() };
        assert_eq!(request.digest(), same.digest());
        let others = [
            EmbedRequest::new(["a", "bc"]),
            EmbedRequest::new(["c", "ab"]),
            EmbedRequest { prompt: Some("query".into()), ..request.clone() },
            EmbedRequest { truncate: false, ..request.clone() },
            EmbedRequest { encoding: Some(Encoding::F16), ..request.clone() },
            EmbedRequest { dimensions: Some(8), ..request.clone() },
        ];
        let digests: std::collections::BTreeSet<_> =
            others.iter().chain([&request]).map(EmbedRequest::digest).collect();
        assert_eq!(digests.len(), others.len() + 1);
    }
}
