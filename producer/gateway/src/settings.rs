//! What a gateway is told.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use embed_schemas::Slug;

use crate::BatchSettings;

/// Nobody waits longer for an answer.
const A_DAY: Duration = Duration::from_secs(86_400);

/// What a gateway is told.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The model of a request that names none. Left out: the only one that is served, if there is only one.
    pub default_model: Option<Slug>,
    /// Names that clients use, and the models that they mean by them.
    pub aliases: BTreeMap<String, Slug>,
    /// A TOML file of keys. Looked at again whenever it changes.
    pub key_file: Option<PathBuf>,
    /// More keys, as `name=sha256:<hex>` or `name=<key>`, separated by commas or line ends.
    pub keys: Option<String>,
    /// Origins whose pages may ask, as browsers send them. None: no answer can be read by a page of another origin.
    pub cors_origins: Vec<String>,
    /// The registry, for what only it knows of models: dimensions, lengths, golden vectors.
    pub registry: Option<String>,
    /// Whether `/metrics` is served among the rest, where a key is asked for if there are any.
    pub metrics: bool,
    /// Bytes of vectors that are kept for whoever asks for the same again. Left out: none are kept.
    pub cache_bytes: Option<u64>,
    /// Where files and batches are kept: a folder, or a bucket of an object store. Left out: none are taken.
    pub files: Option<String>,
    /// Bounds of files and batches.
    pub batches: BatchSettings,
    /// Bounds that hold for everybody.
    pub bounds: Bounds,
}

/// Bounds that hold for everybody; keys may have narrower ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of a request's body.
    pub body: usize,
    /// Bytes of all bodies that are being read or answered.
    pub bodies: usize,
    /// Texts of one request.
    pub inputs: usize,
    /// Texts that are under way, of all requests.
    pub texts: usize,
    /// How long a body may take to arrive.
    pub body_time: Duration,
    /// How long an answer may take, for each 512 texts of a request that have to be computed after one another.
    pub timeout: Duration,
    /// HTTP connections.
    pub connections: usize,
    /// How long requests that have begun are waited for at the end.
    pub drain: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            body: 16 << 20,
            bodies: 256 << 20,
            inputs: 2048,
            texts: 16_384,
            body_time: Duration::from_secs(20),
            timeout: Duration::from_secs(10),
            connections: 10_000,
            drain: Duration::from_secs(25),
        }
    }
}

impl Bounds {
    /// How long the answer to so many texts may take: calls of 64 texts, 8 of them at a time.
    pub(crate) fn timeout_for(&self, texts: usize) -> Duration {
        let waves = u32::try_from(texts.div_ceil(512)).unwrap_or(u32::MAX).max(1);
        self.timeout.saturating_mul(waves).min(A_DAY)
    }
}
