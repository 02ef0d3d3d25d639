//! The rows of an output in parts, for whoever reuses or checks them.

use std::{collections::VecDeque, iter::Peekable};

use arrow_array::{
    Array, BooleanArray, FixedSizeBinaryArray, FixedSizeListArray, Float16Array, Float32Array, RecordBatch,
    UInt32Array, UInt64Array,
};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{ArrowError, DataType};
use bytes::Bytes;
use half::slice::HalfFloatSliceExt;
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Manifest, Mark, PartFile, StoredFile, VectorType,
    columns::{DIGEST, EMBEDDING, TOKENS, TRUNCATED, WINDOW},
    manifest::sha256,
    npy,
    place::Place,
    vector_pages::VectorReader,
};
use crate::{
    Error, Parameters,
    row::{Digest, Vector, Window},
};

/// Rows that are decoded at once.
const BATCH: usize = 1024;

/// A row of an output in parts.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredRow {
    /// What it is called, in JSON; `None` if it has no id.
    pub id: Option<String>,
    /// What its vectors are of, if that is known.
    pub digest: Option<Digest>,
    /// Its vectors, of which there are several if its text was split; none if it has an error instead.
    pub vectors: Vec<Vector>,
}

/// The bytes of a part on their way, and of the file of what belongs to its vectors, if it has one.
#[derive(Debug)]
struct Coming {
    bytes: Fetch,
    ids: Option<Fetch>,
}

type Fetch = AbortOnDropHandle<Result<Bytes, Error>>;

/// The rows of an output in parts: those that have vectors, then those that have none. It is for a thread: whoever asks waits until they
/// are read.
#[derive(Debug)]
pub struct PartRows {
    place: Place,
    runtime: Handle,
    vector_type: VectorType,
    dimensions: usize,
    id_column: Option<String>,
    /// What is still to be read, and whether it is a part.
    files: VecDeque<(PartFile, bool)>,
    /// The next of them, which is fetched while the one before it is used.
    coming: Option<Coming>,
    rows: Option<Grouped>,
}

impl PartRows {
    /// Of a finished output, at the location that the manifest was read from. It has to be opened in a runtime.
    ///
    /// # Errors
    /// If the location cannot be opened.
    pub fn open(location: &str, manifest: &Manifest) -> Result<Self, Error> {
        let Manifest { parts, failed, vector_type, dimensions, id_column, .. } = manifest.clone();
        let mark = Mark { parts, failed, dimensions, ..Mark::default() };
        Ok(Self::of(Manifest::place(location)?, vector_type, id_column, &mark))
    }

    /// Of what is complete of an output. It has to be opened in a runtime.
    ///
    /// # Errors
    /// If the location cannot be opened.
    pub fn recorded(location: &str, parameters: &Parameters, mark: &Mark) -> Result<Self, Error> {
        let id_column = Some(parameters.id_field.clone());
        Ok(Self::of(Manifest::place(location)?, parameters.writing.vector_type, id_column, mark))
    }

    pub(super) fn of(place: Place, vector_type: VectorType, id_column: Option<String>, mark: &Mark) -> Self {
        let Mark { parts, failed, dimensions, .. } = mark;
        let parts = parts.iter().map(|part| (part.clone(), true));
        let files = parts.chain(failed.iter().map(|file| (file.clone(), false)));
        Self {
            place,
            runtime: Handle::current(),
            vector_type,
            dimensions: dimensions.unwrap_or_default(),
            id_column,
            files: files.collect(),
            coming: None,
            rows: None,
        }
    }

    /// Begins to fetch the bytes of a file, which have to be those that were written.
    fn fetch(&self, file: &StoredFile) -> Fetch {
        let (place, file) = (self.place.clone(), file.clone());
        AbortOnDropHandle::new(self.runtime.spawn(async move {
            let bytes = place.get(&file.name).await?;
            let checked = tokio::task::spawn_blocking(move || match sha256(&bytes) == file.sha256 {
                true => Ok(bytes),
                false => Err(failed(&place, &file.name, &"it holds something else than what was written")),
            });
            checked.await.map_err(|error| Error::Backfill(format!("a task failed: {error}")))?
        }))
    }

    fn begin(&self, part: &PartFile) -> Coming {
        Coming { bytes: self.fetch(&part.file), ids: part.ids.as_ref().map(|ids| self.fetch(ids)) }
    }

    fn wait(&self, fetch: Fetch) -> Result<Bytes, Error> {
        let fetched = self.runtime.block_on(fetch);
        fetched.map_err(|error| Error::Backfill(format!("a task failed: {error}")))?
    }

    fn read(&self, part: &PartFile, is_part: bool, coming: Coming) -> Result<Entries, Error> {
        let PartFile { file: StoredFile { name, .. }, rows, .. } = part;
        let bytes = self.wait(coming.bytes)?;
        let failed = |reason: &dyn std::fmt::Display| failed(&self.place, name, reason);
        let damaged = |error: ArrowError| failed(&error);
        Ok(match name.rsplit_once('.').map(|(_, ending)| ending) {
            Some("parquet") => parquet(bytes, self.id_column.as_deref()).map_err(damaged)?,
            Some("arrow") => arrow(bytes, self.id_column.as_deref()).map_err(damaged)?,
            Some("npy") => {
                let Some(ids) = coming.ids else { return Err(failed(&"the manifest names no ids for it")) };
                let rows = usize::try_from(*rows).unwrap_or(usize::MAX);
                if !npy::is_header(&bytes, self.vector_type, rows, self.dimensions) {
                    return Err(failed(&"its shape is not what the manifest says"));
                }
                let vectors = npy_vectors(bytes.slice(npy::HEADER..), self.vector_type, self.dimensions);
                let ids = lines(self.wait(ids)?, false);
                Box::new(ids.zip(vectors).map(|(entry, values)| {
                    let mut entry = entry?;
                    entry.vector = entry.vector.map(|vector| Vector { values, ..vector });
                    Ok(entry)
                }))
            }
            _ => lines(bytes, is_part),
        })
    }

    fn next_row(&mut self) -> Result<Option<StoredRow>, Error> {
        loop {
            if let Some(rows) = &mut self.rows
                && let Some(row) = rows.next()
            {
                return row.map(Some).map_err(|error| Error::Backfill(format!("{}: {error}", self.place.location())));
            }
            // What it was made of is not needed any more.
            self.rows = None;
            let Some((part, is_part)) = self.files.pop_front() else { return Ok(None) };
            let coming = self.coming.take().unwrap_or_else(|| self.begin(&part));
            self.coming = self.files.front().map(|(next, _)| self.begin(next));
            self.rows = Some(Grouped(self.read(&part, is_part, coming)?.peekable()));
        }
    }
}

fn failed(place: &Place, name: &str, reason: &dyn std::fmt::Display) -> Error {
    Error::Backfill(format!("{}/{name}: {reason}", place.location()))
}

/// The error of a part that cannot be read is the last item.
impl Iterator for PartRows {
    type Item = Result<StoredRow, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.next_row().transpose();
        if let Some(Err(_)) = row {
            self.files.clear();
            (self.coming, self.rows) = (None, None);
        }
        row
    }
}

/// What a part says of one vector, or of one row without any.
struct Entry {
    id: Option<String>,
    digest: Option<Digest>,
    vector: Option<Vector>,
}

type Entries = Box<dyn Iterator<Item = Result<Entry, ArrowError>> + Send>;

/// Rows: the vectors of one are one after another, and their windows are counted.
struct Grouped(Peekable<Entries>);

impl std::fmt::Debug for Grouped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Grouped")
    }
}

impl Iterator for Grouped {
    type Item = Result<StoredRow, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Entry { id, digest, vector } = match self.0.next()? {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        let mut vectors = Vec::from_iter(vector);
        let goes_on = |entry: &Result<Entry, ArrowError>| {
            let Ok(Entry { vector: Some(Vector { window, .. }), .. }) = entry else { return false };
            window.is_some_and(|window| window.index > 0)
        };
        while let Some(Ok(entry)) = self.0.next_if(goes_on) {
            vectors.extend(entry.vector);
        }
        Some(Ok(StoredRow { id, digest, vectors }))
    }
}

/// The columns of a part, without those that came along.
fn parquet(bytes: Bytes, id: Option<&str>) -> Result<Entries, ArrowError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes.clone())?.with_batch_size(BATCH);
    let dimensions = match builder.schema().field_with_name(EMBEDDING)?.data_type() {
        DataType::FixedSizeList(_, dimensions) => usize::try_from(*dimensions).unwrap_or(0),
        _ => return Err(missing(EMBEDDING)),
    };
    // Whole pages of the vectors, the rest row by row.
    let (schema, metadata) = (builder.parquet_schema(), builder.metadata().clone());
    let place = schema.columns().iter().position(|column| column.path().parts()[0] == EMBEDDING);
    let mut vectors = VectorReader::new(bytes, metadata, place.ok_or_else(|| missing(EMBEDDING))?, dimensions);
    let columns = wanted(builder.schema(), id, false);
    let mask = ProjectionMask::roots(schema, columns);
    let batches = builder.with_projection(mask).build()?;
    let id = id.map(ToOwned::to_owned);
    Ok(Box::new(batches.flat_map(move |batch| {
        let entries = batch.and_then(|batch| {
            let vectors = vectors.read(batch.num_rows())?;
            of_batch(&batch, id.as_deref(), &vectors)
        });
        each(entries)
    })))
}

fn arrow(bytes: Bytes, id: Option<&str>) -> Result<Entries, ArrowError> {
    let reader = arrow_ipc::reader::FileReader::try_new(std::io::Cursor::new(bytes.clone()), None)?;
    let columns = wanted(&reader.schema(), id, true);
    let batches = arrow_ipc::reader::FileReader::try_new(std::io::Cursor::new(bytes), Some(columns))?;
    let id = id.map(ToOwned::to_owned);
    Ok(Box::new(batches.flat_map(move |batch| {
        let entries = batch.and_then(|batch| {
            let vectors: &FixedSizeListArray = column(&batch, EMBEDDING).ok_or_else(|| missing(EMBEDDING))?;
            let vectors = numbers(vectors.values()).ok_or_else(|| missing(EMBEDDING))?;
            of_batch(&batch, id.as_deref(), &vectors)
        });
        each(entries)
    })))
}

/// The entries of a batch, or its error.
fn each(entries: Result<Vec<Entry>, ArrowError>) -> impl Iterator<Item = Result<Entry, ArrowError>> {
    let (entries, error) = match entries {
        Ok(entries) => (entries, None),
        Err(error) => (Vec::new(), Some(Err(error))),
    };
    entries.into_iter().map(Ok).chain(error)
}

fn missing(name: &str) -> ArrowError {
    ArrowError::SchemaError(format!("there is no column `{name}` as it was written"))
}

/// The columns that are read, with the vectors or without them.
fn wanted(schema: &arrow_schema::Schema, id: Option<&str>, vectors: bool) -> Vec<usize> {
    let ours = |name: &str| [TOKENS, TRUNCATED, DIGEST].contains(&name) || WINDOW.contains(&name);
    let is_wanted = |name: &str| id == Some(name) || ours(name) || vectors && name == EMBEDDING;
    let fields = schema.fields().iter().enumerate();
    fields.filter(|(_, field)| is_wanted(field.name())).map(|(n, _)| n).collect()
}

fn column<'a, T: Array + 'static>(batch: &'a RecordBatch, name: &str) -> Option<&'a T> {
    batch.column_by_name(name)?.as_any().downcast_ref()
}

/// The rows of a batch; `vectors`: all of theirs, one behind the other.
fn of_batch(batch: &RecordBatch, id: Option<&str>, vectors: &[f32]) -> Result<Vec<Entry>, ArrowError> {
    let dimensions = vectors.len().checked_div(batch.num_rows()).unwrap_or(0);
    let tokens: &UInt32Array = column(batch, TOKENS).ok_or_else(|| missing(TOKENS))?;
    let truncated: &BooleanArray = column(batch, TRUNCATED).ok_or_else(|| missing(TRUNCATED))?;
    let digests: &FixedSizeBinaryArray = column(batch, DIGEST).ok_or_else(|| missing(DIGEST))?;
    let [index, start, end] = WINDOW;
    let windows: Option<(&UInt32Array, &UInt64Array, &UInt64Array)> = column(batch, index)
        .zip(column(batch, start))
        .zip(column(batch, end))
        .map(|((index, start), end)| (index, start, end));
    let options = FormatOptions::default();
    let ids = id.and_then(|id| batch.column_by_name(id));
    let ids =
        ids.map(|ids| Ok::<_, ArrowError>((ids, ArrayFormatter::try_new(ids.as_ref(), &options)?))).transpose()?;
    let entry = |n: usize| {
        let id = match &ids {
            Some((ids, text)) if !ids.is_null(n) => Some(json(ids.data_type(), text.value(n).try_to_string()?)),
            _ => None,
        };
        let mut digest = [0; 16];
        let digest = (!digests.is_null(n)).then(|| {
            digest.copy_from_slice(digests.value(n));
            Digest(digest)
        });
        let window = windows.filter(|(index, ..)| !index.is_null(n)).map(|(index, start, end)| Window {
            index: index.value(n),
            start: start.value(n),
            end: end.value(n),
        });
        let values = vectors[n * dimensions..(n + 1) * dimensions].to_vec();
        let vector = Vector { values, tokens: tokens.value(n), truncated: truncated.value(n), window };
        Ok(Entry { id, digest, vector: Some(vector) })
    };
    (0..batch.num_rows()).map(entry).collect()
}

/// A value as JSON: a number as it is, all else as a string.
fn json(kind: &DataType, text: String) -> String {
    if kind.is_numeric() || *kind == DataType::Boolean { text } else { serde_json::Value::from(text).to_string() }
}

fn numbers(values: &dyn Array) -> Option<Vec<f32>> {
    if let Some(values) = values.as_any().downcast_ref::<Float32Array>() {
        return Some(values.values().to_vec());
    }
    let values = values.as_any().downcast_ref::<Float16Array>()?;
    Some(values.values().to_f32_vec())
}

/// The numbers of an array of NumPy.
fn npy_vectors(bytes: Bytes, vector_type: VectorType, dimensions: usize) -> impl Iterator<Item = Vec<f32>> + Send {
    let size = (vector_type.width() * dimensions).max(1);
    (0..bytes.len() / size).map(move |n| vector_type.numbers(&bytes[n * size..(n + 1) * size]))
}

/// What matters of a line.
#[derive(Deserialize)]
struct Line {
    /// `null` is an id, too.
    #[serde(default, deserialize_with = "present")]
    id: Option<Box<RawValue>>,
    window: Option<Window>,
    embedding: Option<Vec<f32>>,
    #[serde(default)]
    tokens: u32,
    #[serde(default)]
    truncated: bool,
    digest: Option<String>,
    code: Option<String>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// Lines of JSON. `whole`: those of rows with a vector have it.
fn lines(bytes: Bytes, whole: bool) -> Entries {
    let mut at = 0;
    let line = move || {
        let rest = &bytes[at..];
        if rest.is_empty() {
            return None;
        }
        let length = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
        let read = serde_json::from_slice::<Line>(&rest[..length]);
        at += length;
        Some(read.map_err(|error| ArrowError::JsonError(error.to_string())).and_then(|line| of_line(line, whole)))
    };
    Box::new(std::iter::from_fn(line))
}

fn of_line(line: Line, whole: bool) -> Result<Entry, ArrowError> {
    let Line { id, window, embedding, tokens, truncated, digest, code } = line;
    let id = id.map(|id| id.get().to_owned());
    if code.is_some() {
        return Ok(Entry { id, digest: None, vector: None });
    }
    if whole && embedding.is_none() {
        return Err(ArrowError::JsonError("a row has no vector".into()));
    }
    let digest = digest
        .as_deref()
        .map(|digits| parse(digits).ok_or_else(|| ArrowError::JsonError(format!("{digits} is no digest"))));
    let vector = Vector { values: embedding.unwrap_or_default(), tokens, truncated, window };
    Ok(Entry { id, digest: digest.transpose()?, vector: Some(vector) })
}

fn parse(digits: &str) -> Option<Digest> {
    u128::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 32).map(|number| Digest(number.to_be_bytes()))
}
