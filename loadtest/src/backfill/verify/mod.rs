//! Whether an output is what it should be: every row once, and vectors as direct calls give them.

mod parts;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use embed_client::{CallOptions, Client};
use embed_schemas::{EmbedRequest, Slug};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::corpus::{Corpus, Row};

/// What tells that an output is complete.
const MANIFEST: &str = "manifest.json";
/// What asks DuckDB.
const SCRIPT: &str = include_str!("duckdb.py");
/// Rows whose vectors are compared with direct calls'.
pub(super) const SAMPLES: usize = 200;
/// What the cosine of two vectors of the same text is above, however their texts were batched.
const ALIKE: f64 = 0.9999;
/// For a direct call, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a reader finds in an output.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Found {
    rows: u64,
    distinct: u64,
    /// Rows without a vector.
    missing: u64,
    /// Components of the shortest vector, and of the longest.
    shortest: u64,
    longest: u64,
    /// Of the ids.
    sum: u64,
    samples: Vec<Sample>,
    /// Parts that are there.
    #[serde(skip)]
    parts: usize,
    /// Parts that the manifest names, and their rows.
    #[serde(skip)]
    named: (usize, u64),
}

/// A row of an output.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Sample {
    id: u64,
    category: String,
    score: f64,
    embedding: Vec<f32>,
}

/// How an output is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Verified {
    /// Who read it.
    pub reader: &'static str,
    /// Rows that there should be.
    pub wanted: u64,
    /// Distinct ids.
    pub distinct: u64,
    /// Rows that were compared with direct calls.
    pub sampled: usize,
    /// Of those, how many are alike.
    pub alike: usize,
    /// The smallest cosine.
    pub worst: f64,
    /// Seconds that reading it took, without bringing it here.
    pub seconds: f64,
    /// What is not as it should be.
    pub problems: Vec<String>,
}

/// Reads the files of an output by DuckDB, if this Python has it, and otherwise by the library that wrote them.
pub(super) fn read(
    python: &Path,
    folder: &Path,
    files: &[PathBuf],
    wanted: &[u64],
) -> anyhow::Result<(Found, &'static str)> {
    let is = |path: &&PathBuf, first: &str, last: &str| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(first) && name.ends_with(last)
    };
    let manifest = files.iter().find(|path| is(path, MANIFEST, "")).context("the output has no manifest.json")?;
    ensure!(!files.iter().any(|path| is(&path, "failed-", "")), "the output has a file of failed rows");
    let parts: Vec<&PathBuf> = files.iter().filter(|path| is(path, "part-", ".parquet")).collect();
    ensure!(!parts.is_empty(), "the output has no parts");
    let (found, reader) = match by_duckdb(python, folder, wanted)? {
        Some(found) => (found, "DuckDB"),
        None => (parts::read(&parts, &wanted.iter().copied().collect())?, "the crate parquet"),
    };
    Ok((Found { parts: parts.len(), named: named(&fs::read(manifest)?)?, ..found }, reader))
}

/// What a manifest says of the parts: how many there are, and their rows.
fn named(manifest: &[u8]) -> anyhow::Result<(usize, u64)> {
    let manifest: Value = serde_json::from_slice(manifest).context(MANIFEST)?;
    let parts = manifest["parts"].as_array().with_context(|| format!("{MANIFEST} names no parts"))?;
    Ok((parts.len(), parts.iter().filter_map(|part| part["rows"].as_u64()).sum()))
}

fn by_duckdb(python: &Path, folder: &Path, wanted: &[u64]) -> anyhow::Result<Option<Found>> {
    let wanted: Vec<String> = wanted.iter().map(u64::to_string).collect();
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT]).arg(folder).arg(wanted.join(",")).stdin(Stdio::null());
    // Without Python there is no DuckDB either.
    let Ok(output) = command.output() else { return Ok(None) };
    ensure!(output.status.success(), "DuckDB: {}", String::from_utf8_lossy(&output.stderr).trim());
    serde_json::from_slice(&output.stdout).context("DuckDB's answer")
}

/// Ids to look at: some that are new in this corpus, if there are any, and others from all over it.
pub(super) fn choose(corpus: &Corpus) -> Vec<u64> {
    let some = |ids: Vec<u64>, count: usize| -> Vec<u64> {
        ids.iter().step_by(ids.len().div_ceil(count).max(1)).copied().collect()
    };
    let new = if corpus.is_changed() { some(corpus.new_ids().collect(), SAMPLES / 2) } else { Vec::new() };
    let rest = some(corpus.ids().collect(), SAMPLES - new.len());
    new.into_iter().chain(rest).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The vectors of rows by direct calls.
pub(super) async fn ask(client: &Client, model: &Slug, rows: &[Row]) -> anyhow::Result<Vec<Vec<f32>>> {
    let request = EmbedRequest::new(rows.iter().map(|row| row.text.as_str()));
    let options = CallOptions::default().timeout(PATIENCE);
    let result = client.embed(model, request, &options).await.context("the direct call")?;
    (0..rows.len()).map(|row| result.vector(row).with_context(|| format!("row {row} of the direct call"))).collect()
}

/// Judges what was found. `rows` and `vectors`: of those that were to be looked at.
pub(super) fn judge(
    (found, reader): (&Found, &'static str),
    corpus: &Corpus,
    rows: &[Row],
    vectors: &[Vec<f32>],
    seconds: f64,
) -> Verified {
    let (wanted, sum) = corpus.ids().fold((0, 0), |(count, sum), id| (count + 1, sum + id));
    let dimensions = vectors.first().map_or(0, Vec::len) as u64;
    let mut problems = Vec::new();
    let mut check = |holds: bool, problem: String| {
        if !holds {
            problems.push(problem);
        }
    };
    check(found.rows == wanted, format!("{} rows instead of {wanted}", found.rows));
    check(found.distinct == found.rows, format!("{} distinct ids in {} rows", found.distinct, found.rows));
    check(found.sum == sum, format!("the ids add up to {} instead of {sum}", found.sum));
    check(
        found.named == (found.parts, found.rows),
        format!(
            "the manifest names {} parts of {} rows, and there are {} of {}",
            found.named.0, found.named.1, found.parts, found.rows
        ),
    );
    check(found.missing == 0, format!("{} rows without a vector", found.missing));
    check(
        (found.shortest, found.longest) == (dimensions, dimensions),
        format!("vectors of {} to {} components instead of {dimensions}", found.shortest, found.longest),
    );
    let (mut alike, mut worst) = (0, f64::INFINITY);
    for (row, vector) in rows.iter().zip(vectors) {
        let Some(sample) = found.samples.iter().find(|sample| sample.id == row.id) else {
            check(false, format!("row {} cannot be found", row.id));
            continue;
        };
        let same = (&*sample.category, sample.score) == (row.category, row.score);
        check(same, format!("row {} has not the columns that it came with", row.id));
        let cosine = cosine(&sample.embedding, vector);
        worst = worst.min(cosine);
        alike += usize::from(cosine > ALIKE);
        check(cosine > ALIKE, format!("row {} has another vector than a direct call's: cosine {cosine:.5}", row.id));
    }
    Verified { reader, wanted, distinct: found.distinct, sampled: rows.len(), alike, worst, seconds, problems }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    if a.len() == b.len() { dot(a, b) / (dot(a, a) * dot(b, b)).sqrt() } else { f64::NAN }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array, Float64Array, Int64Array, RecordBatch, StringArray};
    use arrow_schema::{DataType, Field};
    use parquet::arrow::ArrowWriter;

    use super::*;
    use crate::texts;

    /// A vector that tells the rows of a small corpus apart.
    fn vector(id: u64) -> Vec<f32> {
        let angle = id as f32 / 100.0;
        vec![angle.cos(), angle.sin()]
    }

    fn write(path: &Path, rows: &[Row]) {
        let vectors = Arc::new(Float32Array::from_iter_values(rows.iter().flat_map(|row| vector(row.id))));
        let item = Arc::new(Field::new("item", DataType::Float32, false));
        let columns: [(&str, ArrayRef); 4] = [
            ("id", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| i64::try_from(row.id).unwrap())))),
            ("category", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.category)))),
            ("score", Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.score)))),
            ("embedding", Arc::new(FixedSizeListArray::try_new(item, 2, vectors, None).unwrap())),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn a_whole_output_passes_and_what_is_wrong_is_named() {
        let corpus = Corpus::new(1, 100, &texts::load(None, 1).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let rows: Vec<Row> = corpus.ids().map(|id| corpus.row(id)).collect();
        let paths = ["part-00000.parquet", "part-00001.parquet", "manifest.json"].map(|name| folder.path().join(name));
        write(&paths[0], &rows[..60]);
        write(&paths[1], &rows[60..]);
        fs::write(&paths[2], r#"{"parts": [{"rows": 60}, {"rows": 40}]}"#).unwrap();
        let sampled = choose(&corpus);
        assert_eq!(sampled.len(), 100);
        let nowhere = folder.path().join("python");
        let (found, reader) = read(&nowhere, folder.path(), &paths, &sampled).unwrap();
        let vectors: Vec<Vec<f32>> = rows.iter().map(|row| vector(row.id)).collect();
        let judge = |found: &Found, vectors: &[Vec<f32>]| judge((found, reader), &corpus, &rows, vectors, 0.0);
        let verified = judge(&found, &vectors);
        assert_eq!((verified.problems.as_slice(), verified.alike, verified.distinct), (&[][..], 100, 100));

        // A row is there twice, and another is not; one has another's vector.
        write(&paths[1], &[&rows[60..99], &rows[..1]].concat());
        let (found, _) = read(&nowhere, folder.path(), &paths, &sampled).unwrap();
        let mut others = vectors;
        others.swap(3, 50);
        let verified = judge(&found, &others);
        let problems = verified.problems.join("\n");
        for problem in ["99 distinct ids in 100", "add up to", "row 99 cannot be found", "row 3 has another vector"] {
            assert!(problems.contains(problem), "{problem}: {problems}");
        }
        assert_eq!((verified.alike, verified.distinct), (97, 99));
        let error = read(&nowhere, folder.path(), &paths[..2], &sampled).unwrap_err();
        assert!(error.to_string().contains("manifest.json"), "{error}");
    }

    #[test]
    fn of_a_changed_corpus_half_of_what_is_looked_at_is_new() {
        let corpus = Corpus::new(1, 100_000, &texts::load(None, 1).unwrap()).changed(0.02);
        let new: BTreeSet<u64> = corpus.new_ids().collect();
        let chosen = choose(&corpus);
        let fresh = chosen.iter().filter(|id| new.contains(id)).count();
        assert!((80..=110).contains(&fresh) && (150..=SAMPLES).contains(&chosen.len()), "{fresh} {}", chosen.len());
    }
}
