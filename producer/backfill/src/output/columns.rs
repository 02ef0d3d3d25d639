//! Rows as columns: what comes along, the vector, and what is known of it.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, FixedSizeBinaryArray, FixedSizeListArray, Float16Array, Float32Array, RecordBatch,
    UInt32Array, UInt64Array,
};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use arrow_select::interleave::interleave_record_batch;
use half::{f16, slice::HalfFloatSliceExt};

use super::{VectorType, layout::Layout, rows::Rows};
use crate::{
    Error,
    row::{Along, Window},
};

/// The vector.
pub(super) const EMBEDDING: &str = "embedding";
/// The tokens that went into it.
pub(super) const TOKENS: &str = "tokens";
/// Whether its text was cut.
pub(super) const TRUNCATED: &str = "truncated";
/// Of which part of its text it is, counted from 0, and the characters of that.
pub(super) const WINDOW: [&str; 3] = ["window", "start", "end"];
/// What the vector is of.
pub(super) const DIGEST: &str = "digest";
const DIGEST_BYTES: i32 = 16;
/// Of the numbers of a vector: as the format of Parquet calls it.
pub(super) const ELEMENT: &str = "element";

/// What the columns of a part are.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    schema: SchemaRef,
    vector_type: VectorType,
    windows: bool,
    dimensions: i32,
}

impl Columns {
    /// `along`: what comes along.
    pub(super) fn new(along: &Schema, layout: &Layout, dimensions: usize) -> Result<Self, Error> {
        let Layout { vector_type, windows, .. } = *layout;
        let dimensions = i32::try_from(dimensions)
            .map_err(|_| Error::Backfill(format!("vectors of {dimensions} numbers are too long for a column")))?;
        let mut fields: Vec<Arc<Field>> = along.fields().to_vec();
        let element = element(vector_type);
        fields.push(Arc::new(Field::new(EMBEDDING, DataType::FixedSizeList(element, dimensions), false)));
        fields.push(Arc::new(Field::new(TOKENS, DataType::UInt32, false)));
        fields.push(Arc::new(Field::new(TRUNCATED, DataType::Boolean, false)));
        if windows {
            for (name, kind) in WINDOW.into_iter().zip([DataType::UInt32, DataType::UInt64, DataType::UInt64]) {
                fields.push(Arc::new(Field::new(name, kind, true)));
            }
        }
        fields.push(Arc::new(Field::new(DIGEST, DataType::FixedSizeBinary(DIGEST_BYTES), true)));
        Ok(Self { schema: Arc::new(Schema::new(fields)), vector_type, windows, dimensions })
    }

    pub(super) const fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The rows in columns.
    pub(super) fn batch(&self, rows: Rows) -> Result<RecordBatch, ArrowError> {
        let (mut columns, known) = self.beside_vectors(&rows)?;
        let values: ArrayRef = match self.vector_type {
            VectorType::F32 => Arc::new(Float32Array::from(rows.values)),
            VectorType::F16 => Arc::new(Float16Array::from(halves(&rows.values)?)),
        };
        columns.push(Arc::new(FixedSizeListArray::try_new(element(self.vector_type), self.dimensions, values, None)?));
        columns.extend(known);
        RecordBatch::try_new(self.schema.clone(), columns)
    }

    /// The columns before that of the vectors, and those behind it: what comes along, and what is known of each vector.
    pub(super) fn beside_vectors(&self, rows: &Rows) -> Result<(Vec<ArrayRef>, Vec<ArrayRef>), ArrowError> {
        let entries = &rows.entries;
        let tokens = UInt32Array::from_iter_values(entries.iter().map(|entry| entry.tokens));
        let truncated: Vec<bool> = entries.iter().map(|entry| entry.truncated).collect();
        let digests = FixedSizeBinaryArray::try_from_sparse_iter_with_size(
            entries.iter().map(|entry| entry.digest.map(|digest| digest.0)),
            DIGEST_BYTES,
        )?;
        let mut known: Vec<ArrayRef> = vec![Arc::new(tokens), Arc::new(BooleanArray::from(truncated))];
        if self.windows {
            let of = |part: fn(Window) -> u64| -> UInt64Array {
                entries.iter().map(|entry| entry.window.map(part)).collect()
            };
            let index: UInt32Array = entries.iter().map(|entry| entry.window.map(|window| window.index)).collect();
            known.extend([
                Arc::new(index) as ArrayRef,
                Arc::new(of(|window| window.start)),
                Arc::new(of(|window| window.end)),
            ]);
        }
        known.push(Arc::new(digests));
        Ok((along(rows)?, known))
    }
}

/// What comes along with rows.
fn along(rows: &Rows) -> Result<Vec<ArrayRef>, ArrowError> {
    let mut batches: Vec<&Arc<RecordBatch>> = Vec::new();
    let mut places = Vec::with_capacity(rows.len());
    for entry in &rows.entries {
        let Along::Columns(batch, row) = &entry.along else {
            return Err(ArrowError::SchemaError("a row with a vector has no columns".into()));
        };
        if !batches.last().is_some_and(|last| Arc::ptr_eq(last, batch)) {
            batches.push(batch);
        }
        places.push((batches.len() - 1, *row));
    }
    let batches: Vec<&RecordBatch> = batches.into_iter().map(|batch| &**batch).collect();
    Ok(interleave_record_batch(&batches, &places)?.columns().to_vec())
}

/// Makes sure that what comes along has names of its own.
///
/// # Errors
/// If it has not; the message says what to do.
pub(super) fn check_names(along: &Schema) -> Result<(), Error> {
    let reserved = [EMBEDDING, TOKENS, TRUNCATED, DIGEST].into_iter().chain(WINDOW);
    for (n, field) in along.fields().iter().enumerate() {
        let name = field.name();
        if reserved.clone().any(|reserved| reserved == name) {
            return Err(Error::Backfill(format!(
                "the column `{name}` cannot come along, since the output has one of that name: rename it in the input, or name others \
                 with --keep"
            )));
        }
        if along.fields().iter().take(n).any(|before| before.name() == name) {
            return Err(Error::Backfill(format!("the column `{name}` comes along twice: name it once with --keep")));
        }
    }
    Ok(())
}

fn element(vector_type: VectorType) -> Arc<Field> {
    let kind = match vector_type {
        VectorType::F32 => DataType::Float32,
        VectorType::F16 => DataType::Float16,
    };
    Arc::new(Field::new(ELEMENT, kind, false))
}

/// Numbers in half the room. What is too large for that is refused: it would be infinite.
pub(super) fn halves(values: &[f32]) -> Result<Vec<f16>, ArrowError> {
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(values);
    // Neither is one that the worker has rounded already: its own numbers are finite.
    match halves.iter().zip(values).find(|(half, _)| half.is_infinite()) {
        Some((_, value)) => {
            Err(ArrowError::ComputeError(format!("{value} does not fit into f16: begin anew with --vector-type f32")))
        }
        None => Ok(halves),
    }
}
