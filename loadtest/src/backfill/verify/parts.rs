//! The same without DuckDB: through the library that wrote the files.

use std::{collections::BTreeSet, fs::File, path::Path};

use anyhow::{Context, ensure};
use arrow_array::{
    Array, RecordBatch,
    cast::AsArray,
    types::{Float32Type, Float64Type, Int64Type},
};
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};

use super::{Found, Sample};

/// Rows that are looked at together.
const BATCH: usize = 4096;

/// Reads all parts.
pub(super) fn read(parts: &[impl AsRef<Path>], wanted: &BTreeSet<u64>) -> anyhow::Result<Found> {
    let (mut found, mut ids) = (Found::default(), Vec::new());
    for part in parts {
        let part = part.as_ref();
        read_part(part, wanted, &mut found, &mut ids).with_context(|| part.display().to_string())?;
    }
    found.rows = ids.len() as u64;
    found.sum = ids.iter().sum();
    ids.sort_unstable();
    ids.dedup();
    found.distinct = ids.len() as u64;
    found.samples.sort_by_key(|sample| sample.id);
    Ok(found)
}

fn read_part(part: &Path, wanted: &BTreeSet<u64>, found: &mut Found, ids: &mut Vec<u64>) -> anyhow::Result<()> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(part)?)?;
    let columns = ProjectionMask::columns(builder.parquet_schema(), ["id", "category", "score", "embedding"]);
    for batch in builder.with_projection(columns).with_batch_size(BATCH).build()? {
        read_batch(&batch?, wanted, found, ids)?;
    }
    Ok(())
}

fn read_batch(
    batch: &RecordBatch,
    wanted: &BTreeSet<u64>,
    found: &mut Found,
    ids: &mut Vec<u64>,
) -> anyhow::Result<()> {
    let column = |name: &str| batch.column_by_name(name).with_context(|| format!("there is no column `{name}`"));
    let embeddings = column("embedding")?;
    let embeddings = embeddings.as_fixed_size_list_opt().context("`embedding` is no list of a fixed size")?;
    let numbers = column("id")?.as_primitive_opt::<Int64Type>().context("`id` is not as in the input")?;
    let categories = column("category")?.as_string_opt::<i32>().context("`category` is not as in the input")?;
    let scores = column("score")?.as_primitive_opt::<Float64Type>().context("`score` is not as in the input")?;
    ensure!(numbers.null_count() == 0, "a row has no id");
    found.missing += embeddings.null_count() as u64;
    let dimensions = u64::try_from(embeddings.value_length())?;
    found.shortest = if ids.is_empty() { dimensions } else { found.shortest.min(dimensions) };
    found.longest = found.longest.max(dimensions);
    for (row, id) in numbers.values().iter().enumerate() {
        let id = u64::try_from(*id)?;
        ids.push(id);
        if wanted.contains(&id) && embeddings.is_valid(row) {
            let vector = embeddings.value(row);
            let vector = vector.as_primitive_opt::<Float32Type>().context("`embedding` is not of 32-bit numbers")?;
            found.samples.push(Sample {
                id,
                category: categories.value(row).to_owned(),
                score: scores.value(row),
                embedding: vector.values().to_vec(),
            });
        }
    }
    Ok(())
}
