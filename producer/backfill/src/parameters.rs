//! What a backfill does, and how it is run.

use std::time::Duration;

use embed_otlp::Recorder;
use embed_schemas::{EmbedRequest, Encoding, Slug};
use serde::{Deserialize, Serialize};

use crate::{Long, LongMode, Manners, Reading, Retry, VectorType, Writing};

/// What a backfill does. Kept with its state, so that it is the same after a resume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// What to read, one after another: files, patterns, folders, prefixes of object stores; `-` for standard input.
    pub inputs: Vec<String>,
    /// The model.
    pub model: Slug,
    /// The variant; left to the route if `None`.
    pub variant: Option<Slug>,
    /// Whose jobs they are: see [`embed_client::PublishOptions::tenant`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Slug>,
    /// A prompt of the model.
    pub prompt: Option<String>,
    /// Whether texts that are too long are cut.
    pub truncate: bool,
    /// A smaller number of dimensions.
    pub dimensions: Option<u32>,
    /// The only embedding space whose vectors are of use. That of the first vectors if `None`.
    #[serde(default)]
    pub space: Option<String>,
    /// The field that holds the text. If it is empty: `text`, or what looks like it.
    pub text_field: String,
    /// The field that holds the row's id. If it is empty: `id`, or what looks like it.
    pub id_field: String,
    /// Other fields that come along into the output; `all` for all but id and text.
    #[serde(default)]
    pub keep: Vec<String>,
    /// How the input is read, and which of its rows.
    #[serde(default)]
    pub reading: Reading,
    /// Rows in one job, 1 to 256.
    pub chunk: usize,
    /// Which rows need not be embedded.
    #[serde(default)]
    pub reuse: Reuse,
    /// How the output is written.
    #[serde(default)]
    pub writing: Writing,
    /// What becomes of texts that are longer than the model takes.
    #[serde(default, skip_serializing_if = "Long::is_default")]
    pub long: Long,
    /// Only rows that failed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// How results come: decided when a backfill begins, and kept, since it is part of what its jobs are known by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
}

/// Which rows need not be embedded, since an equal one has been.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reuse {
    /// Those whose text has come before. Not so where nothing is said of it: states of before have groups with all rows in them.
    pub equal: bool,
    /// Those that a previous output has: the output of a finished backfill.
    pub previous: Option<String>,
}

impl Parameters {
    /// Every row of these inputs, by this model, in jobs of [`Parameters::CHUNK`] rows, and nothing else said: fields by their usual names,
    /// texts that are too long cut, equal ones embedded each time.
    #[must_use]
    pub fn new(model: Slug, inputs: Vec<String>) -> Self {
        Self {
            inputs,
            model,
            variant: None,
            tenant: None,
            prompt: None,
            truncate: true,
            dimensions: None,
            space: None,
            text_field: String::new(),
            id_field: String::new(),
            keep: Vec::new(),
            reading: Reading::default(),
            chunk: Self::CHUNK,
            reuse: Reuse::default(),
            writing: Writing::default(),
            long: Long::default(),
            retry: None,
            encoding: None,
        }
    }

    /// Rows in one job.
    pub const CHUNK: usize = 64;

    /// A job without texts and id.
    pub(crate) fn template(&self) -> EmbedRequest {
        EmbedRequest {
            prompt: self.prompt.clone(),
            truncate: self.truncate,
            dimensions: self.dimensions,
            encoding: self.encoding,
            ..EmbedRequest::default()
        }
    }

    /// The same for a backfill that begins: vectors that are written as halves come as halves, which is the same rounding, earlier. A mean of several is
    /// rounded once, at its end.
    pub(crate) fn begun(self) -> Self {
        let is_rounded = self.writing.vector_type == VectorType::F16 && self.long.mode != LongMode::Mean;
        Self { encoding: is_rounded.then_some(Encoding::F16), ..self }
    }
}

/// How a backfill is run. May differ from run to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// Jobs in flight, at least 1.
    pub window: usize,
    /// Give up if no result at all comes for so long.
    pub stall_timeout: Duration,
    /// A job that has had no result for so long is looked for, and published again if it is in no stream and has none: a server
    /// that lost power, or a stream that was made anew, can have lost it. Then it is looked for again after the same time.
    pub missing_after: Duration,
    /// Bytes of results that may wait in memory for one that comes before them, beside those of a window. No more than a quarter of
    /// what the stream of results may hold, since they are there, too, until they are written.
    pub ahead_bytes: usize,
    /// Leave results in their stream after they are written, until they expire.
    pub keep_results: bool,
    /// For how long a run that was last heard of may still write: then another may take over. It is renewed six times within.
    pub lease: Duration,
    /// The registry of the model: needed where texts are cut into windows.
    pub registry: Option<String>,
    /// Go on behind files that cannot be read, even if the backfill was begun without [`Reading::skip_bad_files`].
    pub skip_bad_files: bool,
    /// How it behaves towards others.
    pub manners: Manners,
    /// Records jobs.
    pub recorder: Recorder,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            window: 32,
            stall_timeout: Duration::from_secs(600),
            missing_after: Duration::from_secs(10),
            ahead_bytes: 64 << 20,
            keep_results: false,
            lease: Duration::from_secs(30),
            registry: None,
            skip_bad_files: false,
            manners: Manners::default(),
            recorder: Recorder::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_asked_for_as_they_are_written() {
        let encoding = |vector_type, mode| {
            let mut parameters = Parameters::new("model".parse().unwrap(), Vec::new());
            parameters.writing.vector_type = vector_type;
            parameters.long.mode = mode;
            (parameters.template().encoding, parameters.begun().template().encoding)
        };
        for mode in [LongMode::Truncate, LongMode::Split, LongMode::Mean] {
            assert_eq!(encoding(VectorType::F32, mode), (None, None), "{mode:?}");
        }
        // One that was begun before there was this is resumed as it was.
        assert_eq!(encoding(VectorType::F16, LongMode::Truncate), (None, Some(Encoding::F16)));
        assert_eq!(encoding(VectorType::F16, LongMode::Split), (None, Some(Encoding::F16)));
        assert_eq!(
            encoding(VectorType::F16, LongMode::Mean),
            (None, None),
            "a mean is of numbers that were not rounded"
        );
    }
}
