//! Models in the registry: layout, metadata, and the pointer to the current version.

use std::collections::BTreeMap;

#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Slug;

/// Folder of all models, below the registry's root.
pub const MODELS_DIR: &str = "models";
/// Name of a version's metadata.
pub const METADATA_FILE: &str = "metadata.json";
/// Name of a model's pointer to its current version.
pub const CURRENT_FILE: &str = "current.json";

/// `models/<slug>/current.json`
#[must_use]
pub fn current_path(model: &Slug) -> String {
    format!("{MODELS_DIR}/{model}/{CURRENT_FILE}")
}

/// `models/<slug>/<version>/<file>`
#[must_use]
pub fn version_path(model: &Slug, version: &str, file: &str) -> String {
    format!("{MODELS_DIR}/{model}/{version}/{file}")
}

/// What is known of one version of a model: `metadata.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct ModelMetadata {
    /// The model's name as its authors write it, such as `all-MiniLM-L6-v2`.
    pub model_name: String,
    /// The slug of `model_name`.
    pub slug: Slug,
    /// Where the model comes from, such as `sentence-transformers/all-MiniLM-L6-v2`.
    pub model_id: String,
    /// The version, such as `v1.0.0`.
    pub version: String,
    /// Components of a vector.
    pub dimension: u32,
    /// Most tokens of a text, special tokens included.
    pub max_seq_length: u32,
    /// How token states become one vector. It is part of the graph; stated here for readers.
    pub pooling: Pooling,
    /// Whether vectors have unit length. Part of the graph as well.
    pub normalized: bool,
    /// Smaller numbers of dimensions that may be asked for (Matryoshka models). Empty if none.
    #[serde(default)]
    pub dimensions: Vec<u32>,
    /// Named texts that may be put before the input.
    #[serde(default)]
    pub prompts: BTreeMap<String, String>,
    /// Fingerprint of the embedding space: the same for all precisions of the same weights.
    pub space: String,
    /// The tokenizer, in the format of Hugging Face's `tokenizers`, without truncation and padding.
    pub tokenizer: FileRef,
    /// Texts with their vectors: a version that does not reproduce them is not served.
    pub golden: FileRef,
    /// The graphs.
    pub artefacts: Vec<Artefact>,
    /// The model's licence, as an SPDX identifier.
    #[serde(default)]
    pub license: Option<String>,
    /// When the version was made, RFC 3339.
    pub created_at: String,
    /// The name of the prompt for texts that come with none, one of `prompts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_prompt: Option<String>,
    /// Where the weights came from: their `source`, the hub's `revision`, and the `sha256` of each file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<serde_json::Map<String, serde_json::Value>>,
    /// Whether the weights are random: such a version serves to measure speed, and its vectors mean nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub random_weights: bool,
    /// The recipe of the model whose vectors this one was trained to, if it is a distilled one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
}

impl ModelMetadata {
    /// What is put before a text for which this prompt was asked; the model's default for one that comes with none. An empty name asks for none.
    #[must_use]
    pub fn prompt_text(&self, name: Option<&str>) -> Option<&str> {
        self.prompts.get(name.or(self.default_prompt.as_deref())?).map(String::as_str)
    }

    /// Whether this prompt may be asked for: the model has it, or the name is empty.
    #[must_use]
    pub fn has_prompt(&self, name: &str) -> bool {
        name.is_empty() || self.prompts.contains_key(name)
    }
}

/// How token states become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The mean over the tokens.
    Mean,
    /// The state of the first token.
    Cls,
    /// The largest value of each component over the tokens.
    Max,
    /// The mean over the tokens, of which the n-th counts n times.
    WeightedMean,
    /// The state of the last token.
    Last,
}

/// A file of a version, with what is needed to verify it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct FileRef {
    /// Name below the version's folder.
    pub file: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256, 64 hexadecimal digits.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^[0-9a-f]{64}$")))]
    pub sha256: String,
}

/// One graph: a precision in one form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct Artefact {
    /// The number format of the graph.
    pub precision: Precision,
    /// Which operators the graph is made of.
    #[serde(default)]
    pub form: GraphForm,
    /// The ONNX file.
    #[serde(flatten)]
    pub file: FileRef,
    /// How it was quantized. `batch_dependent`: by scales that are taken from each run, so a vector depends on what else is in it. `accuracy_loss`:
    /// by how much the mean cosine to FP32 is below 1, such as `0.2%`, or null where it was not measured.
    #[serde(default)]
    pub quantization: Option<serde_json::Map<String, serde_json::Value>>,
    /// How fast it was, and what it takes (`latency_p95_ms`, `throughput_qps`, `batch_size`, `gpu_memory_mb`); null where it was not measured.
    #[serde(default)]
    pub performance: Option<serde_json::Map<String, serde_json::Value>>,
    /// How close it comes to the original: `cosine_similarity_vs_fp32`, `recall_at_k`, and more. By `golden_cosine_min` and `golden_cosine_mean`, its
    /// cosines to the golden vectors when it was validated, a worker tells whether it runs as it was validated.
    #[serde(default)]
    pub validation: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Artefact {
    /// Whether it says of itself that a text's vector depends on what else is in a run.
    #[must_use]
    pub fn is_batch_dependent(&self) -> bool {
        let said = self.quantization.as_ref().and_then(|quantization| quantization.get("batch_dependent"));
        said.and_then(serde_json::Value::as_bool).unwrap_or_default()
    }
}

/// The number format of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floating point.
    Fp32,
    /// 16-bit floating point.
    Fp16,
    /// 8-bit integers.
    Int8,
    /// 8-bit floating point.
    Fp8,
    /// 16-bit floating point with the range of 32 bits (bfloat16). No graph is written in it: it is what a graph in FP32 is computed in.
    Bf16,
}

impl Precision {
    /// The precision's name, as in files and configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
            Self::Fp8 => "fp8",
            Self::Bf16 => "bf16",
        }
    }

    /// The name of a variant that is called after its precision.
    #[must_use]
    pub fn variant(self) -> Slug {
        Slug::from_name(self.as_str()).expect("a precision's name is a slug")
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which operators a graph is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum GraphForm {
    /// Fused attention (`com.microsoft`), for the CPU and CUDA providers.
    #[default]
    Contrib,
    /// Standard operators only, for TensorRT.
    Plain,
    /// Without padding (`com.microsoft` packed attention), for CUDA.
    Packed,
    /// Without padding, of the worker's own operators (`ai.akidb`), for CUDA.
    Kernels,
}

/// `current.json`: which version is current, and how that came to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct CurrentPointer {
    /// The current version.
    pub version: String,
    /// The last moves of the pointer, oldest first.
    #[serde(default)]
    pub history: Vec<PointerMove>,
}

/// One move of the pointer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct PointerMove {
    /// The version before, if there was one.
    pub from: Option<String>,
    /// The version after.
    pub to: String,
    /// Who moved it.
    pub who: String,
    /// When, RFC 3339.
    pub when: String,
}

/// `golden.json`: texts with the vectors that the version's FP32 graph gives them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct GoldenSet {
    /// Largest absolute difference of a component, for FP32. Other precisions are held to a cosine.
    pub tolerance: f32,
    /// The texts.
    pub items: Vec<GoldenItem>,
}

/// One golden text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct GoldenItem {
    /// The text.
    pub text: String,
    /// The prompt to put before it.
    #[serde(default)]
    pub prompt: Option<String>,
    /// Its tokens.
    pub tokens: u32,
    /// Whether it is cut.
    pub truncated: bool,
    /// Its vector: base64 of little-endian `f32`.
    pub vector_f32_base64: String,
}
