//! What a worker answers: the vectors with what made them, or an error.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
#[cfg(feature = "schema")]
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, SeqAccess, Visitor},
    ser::SerializeSeq,
};

use crate::{Encoding, JobId, Slug, Storage, WireError};

/// How a job or call ended. On the wire, a failure is the form that has the field `error`.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Vectors. Single texts may still have failed: see [`Item::error`].
    Result(EmbedResult),
    /// No vectors at all.
    Failure(EmbedFailure),
}

/// A job or call that failed as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct EmbedFailure {
    /// The job's id, where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<JobId>,
    /// What went wrong.
    pub error: WireError,
}

/// The vectors of one request.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbedResult {
    /// The job's id.
    pub id: JobId,
    /// The model that made the vectors.
    pub model: Slug,
    /// The variant of the model.
    pub variant: Slug,
    /// The version of the model in the registry.
    pub version: String,
    /// Fingerprint of the embedding space: vectors with the same `space` may be compared.
    pub space: String,
    /// Components of a vector.
    pub dim: u32,
    /// Number format of the vectors.
    pub encoding: Encoding,
    /// All rows, in the order of the request's texts, row-major, [`Storage::row_bytes`] each. The row of a text that
    /// failed is zero.
    pub vectors: Bytes,
    /// What is known of each text.
    pub items: Vec<Item>,
    /// Where the time went.
    pub timing: Timing,
}

/// What is known of one text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct Item {
    /// Tokens that went into the model, special tokens included.
    pub tokens: u32,
    /// Whether the text was cut to the model's limit.
    pub truncated: bool,
    /// Why this text has no vector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<WireError>,
}

/// Where the time went, in microseconds, as the worker's clock saw it. Where the texts of a request rode in several
/// batches, the longest of each stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct Timing {
    /// Waiting for a batch.
    pub queue_us: u64,
    /// Waiting for the tokenizer, and tokenizing.
    pub tokenize_us: u64,
    /// In the engine.
    pub infer_us: u64,
    /// From arrival at the worker until the answer was encoded.
    pub total_us: u64,
    /// Texts in the (largest) batch.
    pub batch_size: u32,
}

impl EmbedResult {
    fn storage(&self) -> Storage {
        self.encoding.storage()
    }

    /// The bytes of one row, or `None` if there is no such row.
    #[must_use]
    pub fn row_bytes(&self, row: usize) -> Option<&[u8]> {
        let size = self.storage().row_bytes(self.dim as usize);
        self.vectors.get(row.checked_mul(size)?..row.checked_add(1)?.checked_mul(size)?)
    }

    /// The vector of one text as floating point, or why it has none.
    ///
    /// # Errors
    /// The error of that text; [`crate::ErrorCode::InvalidRequest`] if there is no such text.
    pub fn vector(&self, row: usize) -> Result<Vec<f32>, WireError> {
        let missing = || WireError::invalid(format!("the result has {} rows, there is no row {row}", self.items.len()));
        if let Some(error) = &self.items.get(row).ok_or_else(missing)?.error {
            return Err(error.clone());
        }
        let bytes = self.row_bytes(row).ok_or_else(missing)?;
        Ok(self.storage().decode_row(bytes, self.dim as usize))
    }
}

impl Outcome {
    /// The job's id, where it is known.
    #[must_use]
    pub const fn id(&self) -> Option<&JobId> {
        match self {
            Self::Result(result) => Some(&result.id),
            Self::Failure(failure) => failure.id.as_ref(),
        }
    }

    /// The vectors, or the error.
    ///
    /// # Errors
    /// If the job failed as a whole.
    pub fn into_result(self) -> Result<EmbedResult, WireError> {
        match self {
            Self::Result(result) => Ok(result),
            Self::Failure(failure) => Err(failure.error),
        }
    }
}

/// [`EmbedResult`] as it is written.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "EmbedResult"))]
struct ResultOut<'a> {
    /// The job's id.
    id: &'a JobId,
    /// The model that made the vectors.
    model: &'a Slug,
    /// The variant of the model.
    variant: &'a Slug,
    /// The version of the model in the registry.
    version: &'a str,
    /// Fingerprint of the embedding space: vectors with the same `space` may be compared.
    space: &'a str,
    /// Components of a vector.
    dim: u32,
    /// Number format of the vectors.
    encoding: Encoding,
    /// One row per text, in the order of the request. MessagePack: one `bin`, row-major, little-endian. JSON: an array of
    /// rows, each an array of numbers, a base64 string, or null where the text failed.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<JsonRow>"))]
    vectors: VectorsOut<'a>,
    /// What is known of each text.
    items: &'a [Item],
    /// Where the time went.
    timing: Timing,
}

/// A row in JSON.
#[cfg(feature = "schema")]
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[expect(dead_code, reason = "only its schema is used")]
enum JsonRow {
    Numbers(Vec<f32>),
    Base64(String),
    Failed(()),
}

struct VectorsOut<'a>(&'a EmbedResult);

impl Serialize for VectorsOut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let result = self.0;
        if !serializer.is_human_readable() {
            return serializer.serialize_bytes(&result.vectors);
        }
        let mut rows = serializer.serialize_seq(Some(result.items.len()))?;
        for (i, item) in result.items.iter().enumerate() {
            let bytes = result.row_bytes(i).unwrap_or_default();
            match (&item.error, result.encoding) {
                (Some(_), _) => rows.serialize_element(&())?,
                (None, Encoding::Base64) => rows.serialize_element(&BASE64_STANDARD.encode(bytes))?,
                (None, Encoding::U1) => rows.serialize_element(bytes)?,
                (None, Encoding::I8) => {
                    rows.serialize_element(&bytes.iter().map(|b| b.cast_signed()).collect::<Vec<_>>())?;
                }
                (None, Encoding::F32 | Encoding::F16 | Encoding::Float) => {
                    rows.serialize_element(&result.storage().decode_row(bytes, result.dim as usize))?;
                }
            }
        }
        rows.end()
    }
}

impl Serialize for EmbedResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ResultOut {
            id: &self.id,
            model: &self.model,
            variant: &self.variant,
            version: &self.version,
            space: &self.space,
            dim: self.dim,
            encoding: self.encoding,
            vectors: VectorsOut(self),
            items: &self.items,
            timing: self.timing,
        }
        .serialize(serializer)
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Result(result) => result.serialize(serializer),
            Self::Failure(failure) => failure.serialize(serializer),
        }
    }
}

#[cfg(feature = "schema")]
impl JsonSchema for EmbedResult {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EmbedResult".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        ResultOut::json_schema(generator)
    }
}

/// [`Outcome`] as it is read: both forms at once, so that a large result is read in one pass.
#[derive(Deserialize)]
struct OutcomeIn {
    id: Option<JobId>,
    error: Option<WireError>,
    model: Option<Slug>,
    variant: Option<Slug>,
    version: Option<String>,
    space: Option<String>,
    dim: Option<u32>,
    encoding: Option<Encoding>,
    vectors: Option<VectorsIn>,
    items: Option<Vec<Item>>,
    timing: Option<Timing>,
}

enum VectorsIn {
    Packed(Vec<u8>),
    Rows(Vec<RowIn>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RowIn {
    Numbers(Vec<f32>),
    Base64(String),
    Failed(()),
}

impl<'de> Deserialize<'de> for VectorsIn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = VectorsIn;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the bytes of all rows, or an array of rows")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<VectorsIn, E> {
                Ok(VectorsIn::Packed(bytes.to_vec()))
            }

            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<VectorsIn, E> {
                Ok(VectorsIn::Packed(bytes))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<VectorsIn, A::Error> {
                let mut rows = Vec::new();
                while let Some(row) = seq.next_element()? {
                    rows.push(row);
                }
                Ok(VectorsIn::Rows(rows))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = OutcomeIn::deserialize(deserializer)?;
        if let Some(error) = read.error {
            return Ok(Self::Failure(EmbedFailure { id: read.id, error }));
        }
        fn need<T, E: de::Error>(field: Option<T>, name: &'static str) -> Result<T, E> {
            field.ok_or_else(|| E::missing_field(name))
        }
        let dim = need(read.dim, "dim")?;
        let encoding = need(read.encoding, "encoding")?;
        let items = need(read.items, "items")?;
        let size = encoding.storage().row_bytes(dim as usize);
        let vectors = match need(read.vectors, "vectors")? {
            VectorsIn::Packed(bytes) => bytes,
            VectorsIn::Rows(rows) => pack(&rows, encoding, size).map_err(de::Error::custom)?,
        };
        if Some(vectors.len()) != items.len().checked_mul(size) {
            return Err(de::Error::custom(format!(
                "vectors: {} bytes for {} items of {size} bytes each",
                vectors.len(),
                items.len()
            )));
        }
        Ok(Self::Result(EmbedResult {
            id: need(read.id, "id")?,
            model: need(read.model, "model")?,
            variant: need(read.variant, "variant")?,
            version: need(read.version, "version")?,
            space: need(read.space, "space")?,
            dim,
            encoding,
            vectors: vectors.into(),
            items,
            timing: need(read.timing, "timing")?,
        }))
    }
}

/// JSON rows -> the packed form.
fn pack(rows: &[RowIn], encoding: Encoding, row_bytes: usize) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        let before = out.len();
        match (row, encoding) {
            (RowIn::Failed(()), _) => out.resize(before + row_bytes, 0),
            (RowIn::Base64(text), Encoding::Base64) => {
                BASE64_STANDARD.decode_vec(text, &mut out).map_err(|e| format!("vectors[{i}]: {e}"))?;
            }
            (RowIn::Numbers(row), Encoding::I8) => out.extend(row.iter().map(|x| (*x as i8).cast_unsigned())),
            (RowIn::Numbers(row), Encoding::U1) => out.extend(row.iter().map(|x| *x as u8)),
            (RowIn::Numbers(row), Encoding::F32 | Encoding::F16 | Encoding::Float) => {
                encoding.storage().encode_row(row, &mut out);
            }
            (RowIn::Numbers(_), Encoding::Base64) | (RowIn::Base64(_), _) => {
                return Err(format!("vectors[{i}]: not in the form of the encoding `{encoding}`"));
            }
        }
        if out.len() != before + row_bytes {
            return Err(format!("vectors[{i}]: {} bytes, expected {row_bytes}", out.len() - before));
        }
    }
    Ok(out)
}
