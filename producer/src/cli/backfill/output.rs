//! How the output of a backfill is written.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use embed_backfill::{PartFormat, VectorType, Writing};

use crate::cli::parse_bytes;

/// Bytes below which a part is not worth its file.
const SMALLEST: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// The form of OUTPUT, a folder or a prefix, as files of bounded size beside a manifest [default: as OUTPUT ends, else parquet]
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<FormatArg>,
    /// How the numbers of vectors are kept
    #[arg(long, value_enum, default_value = "f32", value_name = "TYPE")]
    vector_type: VectorTypeArg,
    /// Bytes of vectors after which a file is complete, and the next begins; no more than a quarter of what the stream of results may hold
    #[arg(long, default_value = "64MiB", value_parser = parse_part_bytes, value_name = "BYTES")]
    part_size: u64,
    /// Where rows without a vector go, with their reasons, if OUTPUT is a table: a file of JSON lines
    #[arg(long, value_name = "FILE")]
    failed: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormatArg {
    /// Parquet
    Parquet,
    /// Arrow IPC files (Feather)
    Arrow,
    /// JSON lines
    Jsonl,
    /// Arrays of NumPy, with ids and what comes along as JSON lines beside each
    Npy,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum VectorTypeArg {
    /// As they come
    F32,
    /// In half the room, rounded
    F16,
}

impl OutputArgs {
    pub(crate) fn writing(&self) -> Writing {
        let format = self.format.map(|format| match format {
            FormatArg::Parquet => PartFormat::Parquet,
            FormatArg::Arrow => PartFormat::Arrow,
            FormatArg::Jsonl => PartFormat::Jsonl,
            FormatArg::Npy => PartFormat::Npy,
        });
        let vector_type = match self.vector_type {
            VectorTypeArg::F32 => VectorType::F32,
            VectorTypeArg::F16 => VectorType::F16,
        };
        Writing { format, vector_type, part_bytes: self.part_size, failed: self.failed.clone() }
    }
}

fn parse_part_bytes(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        bytes if bytes < SMALLEST => Err("use 1MiB or more".to_owned()),
        bytes => Ok(bytes),
    }
}
