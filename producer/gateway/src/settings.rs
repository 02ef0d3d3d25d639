//! What a gateway is told.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use embed_schemas::Slug;

/// Nobody waits longer for an answer.
const A_DAY: Duration = Duration::from_secs(86_400);

/// Texts of one request, whatever the settings say: what is read of a list takes memory beside its bytes.
pub const MOST_INPUTS: usize = 65_536;

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
    /// Vectors that outlive the gateway.
    pub vectors: VectorSettings,
    /// Bounds that hold for everybody.
    pub bounds: Bounds,
}

/// The second level of the cache: vectors in an object store, each under what it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VectorSettings {
    /// A folder, or a bucket of an object store. Left out: none are kept there.
    pub location: Option<String>,
    /// Whether they are given to whoever knows their text, without a key, and may be kept by caches that serve many.
    pub public: bool,
    /// How long a call waits for the store before it asks workers.
    pub wait: Duration,
    /// Bytes of vectors that wait to be written. What is more is not kept.
    pub waiting: usize,
}

impl Default for VectorSettings {
    fn default() -> Self {
        Self { location: None, public: false, wait: Duration::from_millis(100), waiting: 64 << 20 }
    }
}

/// Bounds of files and batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSettings {
    /// Bytes of a file.
    pub max_file_bytes: u64,
    /// Bytes of one line of it.
    pub max_line_bytes: usize,
    /// Requests of a batch.
    pub max_lines: u64,
    /// Files and batches of one owner at the same time.
    pub max_objects: usize,
    /// How long files are kept.
    pub file_age: Duration,
    /// After so long, what is not done of a batch is not done any more.
    pub window: Duration,
    /// After so long without a sign, a gateway that ran a batch of a bucket is taken for gone, and another goes on with it.
    pub takeover: Duration,
    /// Batches that are run at the same time; others wait.
    pub at_once: usize,
    /// Jobs of one batch in flight at the same time.
    pub in_flight: usize,
    /// Files that are received at the same time: 4 MiB of memory each.
    pub uploads: usize,
}

impl Default for BatchSettings {
    fn default() -> Self {
        let days = |days: u64| Duration::from_secs(days * 24 * 3600);
        Self {
            max_file_bytes: 200 << 20,
            max_line_bytes: 8 << 20,
            max_lines: 50_000,
            max_objects: 1_000,
            file_age: days(30),
            window: days(1),
            takeover: Duration::from_secs(180),
            at_once: 4,
            in_flight: 16,
            uploads: 16,
        }
    }
}

/// Bounds that hold for everybody; keys may have narrower ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of a request's body.
    pub body: usize,
    /// Bytes of all bodies that are being read or answered.
    pub bodies: usize,
    /// Texts of one request, at most [`MOST_INPUTS`].
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
