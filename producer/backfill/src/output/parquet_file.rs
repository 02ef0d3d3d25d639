//! Rows -> a file of Parquet, a row group at a time.

use arrow_array::ArrayRef;
use arrow_schema::FieldRef;
use parquet::{
    arrow::{
        ArrowWriter,
        arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves},
    },
    errors::{ParquetError, Result},
    file::{
        properties::{EnabledStatistics, WriterProperties},
        writer::SerializedFileWriter,
    },
    schema::types::{ColumnDescPtr, ColumnPath},
};

use super::{
    VectorType,
    columns::{Columns, DIGEST, ELEMENT, EMBEDDING},
    rows::Rows,
    sink::Sink,
    vector_pages::{VectorWriter, compression, encoding},
};

/// A file that is being written.
pub(super) struct ParquetFile {
    columns: Columns,
    writer: SerializedFileWriter<Sink>,
    factory: ArrowRowGroupWriterFactory,
    /// The column of the vectors.
    column: ColumnDescPtr,
    vectors: VectorWriter,
}

impl ParquetFile {
    pub(super) fn new(columns: Columns, vector_type: VectorType, dimensions: usize) -> Result<Self> {
        let properties = Some(properties(vector_type));
        let writer = ArrowWriter::try_new(Sink::default(), columns.schema().clone(), properties)?;
        let (writer, factory) = writer.into_serialized_writer()?;
        let mut all = writer.schema_descr().columns().iter();
        let column = all.find(|column| *column.path() == vectors()).ok_or_else(|| missing(EMBEDDING))?.clone();
        Ok(Self { columns, writer, factory, column, vectors: VectorWriter::new(vector_type, dimensions)? })
    }

    /// Writes rows as a row group.
    pub(super) fn write(&mut self, rows: &Rows) -> Result<()> {
        let (along, known) = self.columns.beside_vectors(rows)?;
        let schema = self.columns.schema().clone();
        let (along_fields, ours) = schema.fields().split_at(along.len());
        // One for each column of the file: what comes along may have several.
        let mut writers = self.factory.create_column_writers(self.writer.flushed_row_groups().len())?.into_iter();
        let along = chunks(&mut writers, along_fields, &along)?;
        writers.next();
        let known = chunks(&mut writers, &ours[1..], &known)?;
        let (vectors, of_vectors) = self.vectors.write(self.column.clone(), &rows.values)?;
        let mut group = self.writer.next_row_group()?;
        along.into_iter().try_for_each(|chunk| chunk.append_to_row_group(&mut group))?;
        group.append_column(&vectors, of_vectors)?;
        known.into_iter().try_for_each(|chunk| chunk.append_to_row_group(&mut group))?;
        group.close()?;
        Ok(())
    }

    /// Where its bytes are, but for the last few.
    pub(super) fn sink(&mut self) -> &mut Sink {
        self.writer.inner_mut()
    }

    /// Ends it.
    pub(super) fn finish(self) -> Result<Sink> {
        self.writer.into_inner()
    }
}

/// Columns of a row group.
fn chunks(
    writers: &mut impl Iterator<Item = ArrowColumnWriter>,
    fields: &[FieldRef],
    arrays: &[ArrayRef],
) -> Result<Vec<ArrowColumnChunk>> {
    let mut chunks = Vec::new();
    for (field, array) in fields.iter().zip(arrays) {
        for leaf in compute_leaves(field, array)? {
            let mut writer = writers.next().ok_or_else(|| missing(field.name()))?;
            writer.write(&leaf)?;
            chunks.push(writer.close()?);
        }
    }
    Ok(chunks)
}

fn missing(column: &str) -> ParquetError {
    ParquetError::General(format!("the file has no column for `{column}`"))
}

/// The path of the vectors' numbers.
fn vectors() -> ColumnPath {
    ColumnPath::new([EMBEDDING, "list", ELEMENT].map(ToOwned::to_owned).to_vec())
}

/// Digests do not repeat, and nobody looks for a range of them. How vectors are written, [`VectorWriter`] says; here it stands for the record.
fn properties(vector_type: VectorType) -> WriterProperties {
    WriterProperties::builder()
        .set_max_row_group_row_count(None)
        .set_compression(compression())
        .set_column_dictionary_enabled(vectors(), false)
        .set_column_encoding(vectors(), encoding(vector_type))
        .set_column_statistics_enabled(vectors(), EnabledStatistics::None)
        .set_column_dictionary_enabled(ColumnPath::from(DIGEST), false)
        .set_column_statistics_enabled(ColumnPath::from(DIGEST), EnabledStatistics::None)
        .build()
}
