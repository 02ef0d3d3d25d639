//! A corpus as Parquet files of several row groups.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};

use super::corpus::{Corpus, Row};

/// Most rows of a file.
const FILE_ROWS: usize = 250_000;
/// Row groups of a file.
const GROUPS: usize = 5;
/// Files of a corpus that is smaller: what begins with another file is to be seen in a small run too.
const FILES: usize = 3;

/// The files of a corpus, one after the other.
pub(super) fn encode(corpus: &Corpus) -> impl Iterator<Item = anyhow::Result<Vec<u8>>> + '_ {
    let rows = corpus.ids().count();
    let per_file = rows.div_ceil(FILES).clamp(1, FILE_ROWS);
    let mut ids = corpus.ids();
    std::iter::from_fn(move || {
        let rows: Vec<Row> = ids.by_ref().take(per_file).map(|id| corpus.row(id)).collect();
        (!rows.is_empty()).then(|| file(&rows))
    })
}

fn file(rows: &[Row]) -> anyhow::Result<Vec<u8>> {
    let per_group = rows.len().div_ceil(GROUPS);
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(per_group)).build();
    let mut groups = rows.chunks(per_group).map(batch);
    let first = groups.next().transpose()?;
    let Some(first) = first else { return Ok(Vec::new()) };
    let mut writer = ArrowWriter::try_new(Vec::new(), first.schema(), Some(properties))?;
    writer.write(&first)?;
    for group in groups {
        writer.write(&group?)?;
    }
    Ok(writer.into_inner()?)
}

fn batch(rows: &[Row]) -> anyhow::Result<RecordBatch> {
    let ids = rows.iter().map(|row| i64::try_from(row.id)).collect::<Result<Vec<_>, _>>()?;
    let columns: [(&str, ArrayRef); 4] = [
        ("id", Arc::new(Int64Array::from(ids))),
        ("text", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.text)))),
        ("category", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.category)))),
        ("score", Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.score)))),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;
    use crate::texts;

    #[test]
    fn every_row_is_in_one_of_the_files_and_they_have_several_groups() {
        let corpus = Corpus::new(1, 1000, &texts::load(None, 1).unwrap());
        let files: Vec<Vec<u8>> = encode(&corpus).collect::<Result<_, _>>().unwrap();
        assert_eq!(files.len(), FILES);
        let mut ids = Vec::new();
        for file in files {
            let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(file)).unwrap();
            assert_eq!(reader.metadata().num_row_groups(), GROUPS);
            for batch in reader.build().unwrap() {
                let batch = batch.unwrap();
                let column = batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap();
                ids.extend(column.values().iter().map(|id| u64::try_from(*id).unwrap()));
            }
        }
        assert!(ids.into_iter().eq(0..1000));
    }
}
