//! What a file is: its format, and whether it is compressed.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The format of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A JSON object on each line.
    #[default]
    Jsonl,
    /// Fields with commas between them, named by the first line.
    Csv,
    /// Fields with tabs between them, named by the first line.
    Tsv,
    /// Parquet.
    Parquet,
    /// Arrow IPC: a file, also called Feather, or a stream.
    Arrow,
}

impl Format {
    /// Whether it is text, which can be compressed as a whole.
    pub(super) const fn is_lines(self) -> bool {
        matches!(self, Self::Jsonl | Self::Csv | Self::Tsv)
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        by_name(text).ok_or_else(|| format!("`{text}` is none of jsonl, csv, tsv, parquet, arrow"))
    }
}

/// How a file as a whole is compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all, or within its format.
    #[default]
    None,
    /// With gzip.
    Gzip,
    /// With zstd.
    Zstd,
}

impl Compression {
    /// For serde.
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "that is how it is called")]
    pub(super) fn is_none(&self) -> bool {
        *self == Self::None
    }
}

fn by_name(name: &str) -> Option<Format> {
    Some(match name.to_ascii_lowercase().as_str() {
        "jsonl" | "ndjson" | "json" => Format::Jsonl,
        "csv" => Format::Csv,
        "tsv" | "tab" => Format::Tsv,
        "parquet" | "parq" | "pq" => Format::Parquet,
        "arrow" | "arrows" | "feather" | "ipc" => Format::Arrow,
        _ => return None,
    })
}

/// What the name of a file says.
pub(super) fn by_ending(location: &str) -> (Option<Format>, Compression) {
    let name = location.rsplit('/').next().unwrap_or_default();
    let (name, compression) = match name.rsplit_once('.') {
        Some((before, "gz" | "gzip")) => (before, Compression::Gzip),
        Some((before, "zst" | "zstd")) => (before, Compression::Zstd),
        _ => (name, Compression::None),
    };
    (name.rsplit_once('.').and_then(|(_, ending)| by_name(ending)), compression)
}

/// What the first bytes of a file say, if they are those of one that is no text.
pub(super) fn by_magic(head: &[u8]) -> Option<(Format, Compression)> {
    Some(match head {
        [b'P', b'A', b'R', b'1', ..] => (Format::Parquet, Compression::None),
        // A stream begins with a mark of continuation.
        [b'A', b'R', b'R', b'O', b'W', b'1', ..] | [0xff, 0xff, 0xff, 0xff, ..] => (Format::Arrow, Compression::None),
        [0x1f, 0x8b, ..] => (Format::Jsonl, Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => (Format::Jsonl, Compression::Zstd),
        _ => return None,
    })
}

/// Why the first bytes are those of no text that can be read.
pub(super) fn refusal(head: &[u8]) -> Option<String> {
    if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] = head
        && !head.starts_with(&[0xff; 4])
    {
        return Some("it is written in UTF-16: convert it to UTF-8 (`iconv -f UTF-16 -t UTF-8`)".into());
    }
    by_magic(head).map(|(format, compression)| match (format, compression) {
        (_, Compression::Gzip) => "it is compressed with gzip: let its name end in .gz".into(),
        (_, Compression::Zstd) => "it is compressed with zstd: let its name end in .zst".into(),
        (Format::Parquet, _) => "it is a Parquet file: let its name end so, or pass --input-format parquet".into(),
        _ => "it is an Arrow file: let its name end so, or pass --input-format arrow".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_a_file_is() {
        for (name, format, compression) in [
            ("/a.b/rows.jsonl", Some(Format::Jsonl), Compression::None),
            ("rows.CSV.gz", Some(Format::Csv), Compression::Gzip),
            ("rows.tsv.zst", Some(Format::Tsv), Compression::Zstd),
            ("s3://b/p/part-0.parquet", Some(Format::Parquet), Compression::None),
            ("rows.arrow", Some(Format::Arrow), Compression::None),
            ("/a.csv/rows", None, Compression::None),
            ("rows.gz", None, Compression::Gzip),
            ("-", None, Compression::None),
        ] {
            assert_eq!(by_ending(name), (format, compression), "{name}");
        }
        assert_eq!("Parquet".parse(), Ok(Format::Parquet));
        assert!("xml".parse::<Format>().is_err());
    }

    #[test]
    fn first_bytes_say_what_a_file_is_not() {
        assert!(refusal(&[0xff, 0xfe, b'{', 0]).unwrap().contains("UTF-16"));
        assert!(refusal(b"PAR1").unwrap().contains("parquet"));
        assert!(refusal(&[0x1f, 0x8b, 8]).unwrap().contains(".gz"));
        assert_eq!(refusal("\u{feff}{}".as_bytes()), None);
        assert_eq!(refusal(b""), None);
    }
}
