//! What OUTPUT names: a file of lines, standard output, or a place for files of bounded size.

use std::path::{Path, PathBuf};

use half::{f16, slice::HalfFloatSliceExt};
use serde::{Deserialize, Serialize};

use super::{postgres::Postgres, rows::PART_BYTES};
use crate::{Error, input::is_stream};

/// The form of an output in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartFormat {
    /// Parquet.
    Parquet,
    /// Arrow IPC files, also known as Feather.
    Arrow,
    /// JSON lines.
    Jsonl,
    /// Vectors as an array of NumPy, and what belongs to them as JSON lines beside it.
    Npy,
}

impl PartFormat {
    pub(crate) const ALL: [Self; 4] = [Self::Parquet, Self::Arrow, Self::Jsonl, Self::Npy];

    /// How its files end.
    pub(crate) const fn ending(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
            Self::Jsonl => "jsonl",
            Self::Npy => "npy",
        }
    }

    /// Whether what comes along is wanted as columns, not as JSON.
    #[must_use]
    pub const fn is_columnar(self) -> bool {
        matches!(self, Self::Parquet | Self::Arrow)
    }
}

/// How the numbers of vectors are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VectorType {
    /// As they come.
    #[default]
    F32,
    /// In half the room, rounded.
    F16,
}

impl VectorType {
    /// Bytes of a number.
    pub(crate) const fn width(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// Numbers that lie one behind the other, the lowest byte of each first.
    pub(crate) fn numbers(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            Self::F16 => {
                let halves: Vec<f16> = bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes)).collect();
                halves.to_f32_vec()
            }
        }
    }
}

/// How an output is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Writing {
    /// The form of an output in parts. When a backfill begins, `None` leaves it to how the output is called; in its state, it is what was
    /// decided, and `None` means a single file of JSON lines.
    pub format: Option<PartFormat>,
    /// How the numbers of vectors are kept.
    pub vector_type: VectorType,
    /// Bytes of vectors after which a part is closed.
    pub part_bytes: u64,
    /// Where rows without a vector go if the output is a table: a file of JSON lines. They are only counted if `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<PathBuf>,
}

impl Default for Writing {
    fn default() -> Self {
        Self { format: None, vector_type: VectorType::F32, part_bytes: PART_BYTES, failed: None }
    }
}

/// What an output is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Standard output.
    Stream,
    /// A file of JSON lines that is appended to.
    Lines(PathBuf),
    /// A table of PostgreSQL.
    Postgres(String),
    /// Files of bounded size in a folder, or below a prefix of an object store.
    Parts {
        /// As the stores are named.
        location: String,
        format: PartFormat,
    },
}

impl Target {
    /// What a new backfill writes to.
    pub(crate) fn choose(output: &Path, writing: &Writing) -> Result<Self, Error> {
        let location = location(output);
        let ending = Path::new(&location).extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let refused = |reason: &str| Err(Error::Backfill(format!("{location}: {reason}")));
        if Postgres::is_meant(&location) {
            let plain = Writing { failed: writing.failed.clone(), ..Writing::default() };
            return match *writing == plain {
                true => Ok(Self::Postgres(location)),
                false => {
                    refused("a table has neither --format nor --vector-type nor parts: see `vector=` in its address")
                }
            };
        }
        if writing.failed.is_some() {
            return refused(
                "--failed is for tables: rows without a vector are in the output, or in files beside its parts",
            );
        }
        let by_ending = PartFormat::ALL.into_iter().find(|format| format.ending() == ending);
        let path = PathBuf::from(&location);
        let is_remote = is_remote(&location);
        // A device or a pipe, too.
        let is_file = || writing.format.or(by_ending).is_none() && path.exists() && !path.is_dir();
        let is_lines = !is_remote && (matches!(ending, "jsonl" | "ndjson") || is_file());
        if is_stream(&location) || is_lines {
            return match writing {
                Writing { format: None | Some(PartFormat::Jsonl), vector_type: VectorType::F32, .. } if is_lines => {
                    Ok(Self::Lines(path))
                }
                Writing { format: None | Some(PartFormat::Jsonl), vector_type: VectorType::F32, .. } => {
                    Ok(Self::Stream)
                }
                Writing { vector_type: VectorType::F16, format: None | Some(PartFormat::Jsonl), .. } => {
                    refused(HALF_OF_JSON)
                }
                Writing { .. } => refused("this is a file of JSON lines: name a folder for other formats"),
            };
        }
        if is_remote && writing.format.is_none() && matches!(ending, "jsonl" | "ndjson") {
            return refused(
                "a file of lines grows, which objects do not: name a prefix, and have parts with --format jsonl",
            );
        }
        let format = writing.format.or(by_ending).unwrap_or(PartFormat::Parquet);
        if format == PartFormat::Jsonl && writing.vector_type == VectorType::F16 {
            return refused(HALF_OF_JSON);
        }
        Ok(Self::Parts { location, format })
    }

    /// What a backfill that was begun writes to.
    pub(crate) fn recorded(output: &Path, writing: &Writing) -> Self {
        let location = location(output);
        match writing.format {
            Some(format) => Self::Parts { location, format },
            None if Postgres::is_meant(&location) => Self::Postgres(location),
            None => Self::Lines(location.into()),
        }
    }

    /// What is recorded of it.
    pub(crate) const fn format(&self) -> Option<PartFormat> {
        match self {
            Self::Stream | Self::Lines(_) | Self::Postgres(_) => None,
            Self::Parts { format, .. } => Some(*format),
        }
    }
}

const HALF_OF_JSON: &str = "JSON has no f16: leave out --vector-type, or choose another --format";

/// Whether it is on an object store.
pub(crate) fn is_remote(location: &str) -> bool {
    location.contains("://")
}

/// An output by the one name that it has, however it was written: local ones without a scheme and without slashes at the end.
pub(crate) fn location(output: &Path) -> String {
    let given = output.to_string_lossy();
    let local = given.strip_prefix("file://").unwrap_or(&given);
    match local.trim_end_matches('/') {
        "" if !local.is_empty() => "/".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(output: &str, format: Option<PartFormat>, vector_type: VectorType) -> Result<Target, String> {
        let writing = Writing { format, vector_type, ..Writing::default() };
        Target::choose(Path::new(output), &writing).map_err(|error| error.to_string())
    }

    #[test]
    fn the_name_says_what_it_is() {
        use PartFormat::{Arrow, Jsonl, Npy, Parquet};
        let parts = |location: &str, format| Ok(Target::Parts { location: location.into(), format });
        let full = VectorType::F32;
        assert_eq!(choose("-", None, full), Ok(Target::Stream));
        assert_eq!(choose("-", Some(Jsonl), full), Ok(Target::Stream));
        assert_eq!(choose("/x/out.jsonl", None, full), Ok(Target::Lines("/x/out.jsonl".into())));
        assert_eq!(choose("/dev/null", None, full), Ok(Target::Lines("/dev/null".into())));
        assert_eq!(choose("/x/out/", None, full), parts("/x/out", Parquet));
        assert_eq!(choose("file:///x/out.arrow", None, full), parts("/x/out.arrow", Arrow));
        assert_eq!(choose("out.npy", None, VectorType::F16), parts("out.npy", Npy));
        assert_eq!(choose("s3://bucket/prefix/", Some(Jsonl), full), parts("s3://bucket/prefix", Jsonl));
        assert!(choose("s3://bucket/out.jsonl", None, full).unwrap_err().contains("name a prefix"));
        assert!(choose("out.jsonl", Some(Parquet), full).unwrap_err().contains("name a folder"));
        for output in ["out.jsonl", "-"] {
            assert!(choose(output, None, VectorType::F16).unwrap_err().contains("no f16"));
        }
        assert!(choose("out", Some(Jsonl), VectorType::F16).unwrap_err().contains("no f16"));
    }
}
