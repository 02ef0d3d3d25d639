//! Rows of tables: what their columns hold as text, id, and what comes along.

use std::{borrow::Cow, io, sync::Arc};

use arrow_array::{Array, ArrayRef, BooleanArray, LargeStringArray, RecordBatch, RecordBatchOptions, cast::AsArray};
use arrow_cast::{CastOptions, can_cast_types, cast, cast_with_options, display::array_value_to_string};
use arrow_json::{LineDelimitedWriter, WriterBuilder, writer::LineDelimited};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use arrow_select::nullif::nullif;

use super::{
    columns::{field_at, plain},
    fields::{Fields, Read, TextOf, unplanned},
    lines::row,
    look::is_text,
    select::Selection,
    tables::{Batch, Batches, Input, Opened, contained, roots},
};
use crate::row::{Along, Position, Row};

/// The rows of a table.
pub(super) struct Cells {
    batches: Batches,
    view: View,
    selection: Selection,
    open: Option<(Prepared, usize)>,
    at: Position,
    /// Rows and bytes of the file, if they are known: how far a row is in it.
    size: Option<(u64, u64)>,
}

/// Which columns are read, and for what.
#[derive(Clone)]
struct View {
    fields: Fields,
    schema: SchemaRef,
    /// What comes along.
    keep: Vec<String>,
    /// The columns of the output, if it has any.
    columns: Option<SchemaRef>,
}

impl Cells {
    /// Opens a table behind a row.
    pub(super) fn open(
        input: Input,
        format: super::Format,
        bytes: Option<u64>,
        (fields, columns): (Fields, Option<SchemaRef>),
        selection: Selection,
        at: Position,
    ) -> io::Result<Self> {
        let (view, opened, roots) = match input {
            Input::Stream(_) => {
                let opened = Opened::new(input, format, None)?;
                (View::new(fields, opened.schema(), columns)?, opened, Vec::new())
            }
            Input::Whole(source) => {
                let opened = Opened::new(Input::Whole(source.clone()), format, None)?;
                let view = View::new(fields, opened.schema(), columns)?;
                let roots = roots(&view.schema, view.names());
                let opened = match opened {
                    parquet @ Opened::Parquet(..) => parquet,
                    _ => Opened::new(Input::Whole(source), format, Some(roots.clone()))?,
                };
                (view, opened, roots)
            }
        };
        let size = opened.rows().zip(bytes);
        let batches = Batches::new(opened, roots, selection, at.lines);
        Ok(Self { batches, view, selection, open: None, at, size })
    }

    /// The next row; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Row>> {
        loop {
            let Some((prepared, next)) = &mut self.open else {
                let Some(batch) = self.batches.next()? else { return Ok(None) };
                self.open = Some((contained(|| Prepared::new(&batch, &self.view))?, 0));
                continue;
            };
            if *next == prepared.rows {
                self.open = None;
                continue;
            }
            let n = *next;
            *next += 1;
            self.at.lines = prepared.before + n as u64 + 1;
            if let Some((rows, bytes)) = self.size {
                // It is a share of the bytes, which fit.
                self.at.bytes = (u128::from(bytes) * u128::from(self.at.lines) / u128::from(rows.max(1))) as u64;
            }
            if self.selection.takes_row(self.at.lines)
                && let Some((read, along)) = prepared.read(n, &self.view)
            {
                let line = self.at.lines;
                let row = row(&mut self.at, line, Ok(read));
                return Ok(Some(Row { along: along.unwrap_or(row.along), ..row }));
            }
        }
    }
}

impl View {
    fn new(fields: Fields, schema: SchemaRef, columns: Option<SchemaRef>) -> io::Result<Self> {
        let names = || schema.fields().iter().map(|field| format!("`{}`", field.name())).collect::<Vec<_>>().join(", ");
        let missing = |name: &str| io::Error::other(format!("there is no column `{name}`: there are {}", names()));
        let all = schema.fields().iter().map(|field| field.name().as_str()).filter(|name| fields.is_among_all(name));
        for name in fields.texts() {
            let found = field_at(&schema, name).ok_or_else(|| missing(name))?;
            if matches!(fields.text, TextOf::Field(_)) && !is_text(&found) {
                return Err(io::Error::other(format!("the column `{name}` holds {found}, no text")));
            }
        }
        if fields.needs_id && field_at(&schema, &fields.id).is_none() {
            return Err(missing(&fields.id));
        }
        if let Some(name) =
            fields.filters.iter().map(|filter| &filter.column).find(|name| field_at(&schema, name).is_none())
        {
            return Err(missing(name));
        }
        let keep: Vec<String> = match &columns {
            // A column that only other files have is null in the rows of this one.
            Some(columns) => {
                let known = |name: &str| columns.column_with_name(name).is_some();
                if let Some(name) = all.clone().find(|name| !known(name)) {
                    return Err(io::Error::other(unplanned(name)));
                }
                columns.fields().iter().map(|column| column.name().clone()).collect()
            }
            None => {
                let keep: Vec<&str> = fields.kept().chain(all).collect();
                if let Some(name) = keep.iter().find(|name| fields.is_taken(name)) {
                    return Err(io::Error::other(format!(
                        "`{name}` cannot come along, since the output has a field of that name: name others with --keep"
                    )));
                }
                if let Some(name) = keep.iter().find(|name| field_at(&schema, name).is_none()) {
                    return Err(missing(name));
                }
                keep.into_iter().map(ToOwned::to_owned).collect()
            }
        };
        for column in columns.iter().flat_map(|columns| columns.fields()) {
            if let Some(found) = field_at(&schema, column.name())
                && !(can_cast_types(&found, column.data_type()) && can_cast_types(column.data_type(), &found))
            {
                let (name, planned) = (column.name(), column.data_type());
                return Err(io::Error::other(format!(
                    "the column `{name}` holds {found}, and that of the output {planned}"
                )));
            }
        }
        Ok(Self { fields, schema, keep, columns })
    }

    /// All columns that are needed.
    fn names(&self) -> impl Iterator<Item = &str> {
        let filters = self.fields.filters.iter().map(|filter| filter.column.as_str());
        let texts = self.fields.texts().into_iter();
        texts.chain(filters).chain([self.fields.id.as_str()]).chain(self.keep.iter().map(String::as_str))
    }
}

/// A batch whose columns are as they are needed.
struct Prepared {
    rows: usize,
    before: u64,
    /// Columns of which templates and filters are made.
    values: Vec<(String, ArrayRef)>,
    texts: Option<LargeStringArray>,
    /// In JSON.
    ids: Option<Vec<String>>,
    along: PreparedAlong,
}

enum PreparedAlong {
    Json(Vec<String>),
    /// The columns of the output; for each that is of another type here, what it was, and what is left of that.
    Columns(Arc<RecordBatch>, Vec<(usize, ArrayRef, ArrayRef)>),
    Nothing,
}

impl Prepared {
    fn new(batch: &Batch, view: &View) -> io::Result<Self> {
        let Batch { rows: batch, before } = batch;
        let fields = &view.fields;
        let texts = match &fields.text {
            TextOf::Field(name) => {
                let column =
                    column(batch, name)?.ok_or_else(|| io::Error::other(format!("there is no column `{name}`")))?;
                Some(cast(&column, &DataType::LargeUtf8).map_err(io::Error::other)?.as_string::<i64>().clone())
            }
            TextOf::Template(_) => None,
        };
        let named = if texts.is_some() { Vec::new() } else { fields.texts() };
        let mut values = Vec::new();
        for name in named.into_iter().chain(fields.filters.iter().map(|filter| filter.column.as_str())) {
            if let Some(column) = column(batch, name)? {
                values.push((name.to_owned(), column));
            }
        }
        let ids = match column(batch, &fields.id)? {
            Some(ids) => {
                let prefix = r#"{"id":"#.len();
                let lines = json(vec![("id".into(), ids)], batch.num_rows())?;
                Some(lines.into_iter().map(|line| line[prefix..line.len() - 1].to_owned()).collect())
            }
            None => None,
        };
        let along = match &view.columns {
            Some(columns) => in_columns(batch, columns)?,
            None if view.keep.is_empty() => PreparedAlong::Nothing,
            None => {
                let mut kept = Vec::new();
                for name in &view.keep {
                    kept.extend(column(batch, name)?.map(|column| (name.clone(), column)));
                }
                let lines = json(kept, batch.num_rows())?;
                PreparedAlong::Json(lines.into_iter().map(|line| format!(",{}", &line[1..line.len() - 1])).collect())
            }
        };
        Ok(Self { rows: batch.num_rows(), before: *before, values, texts, ids, along })
    }

    /// A row; `None` if it is not wanted.
    fn read(&self, n: usize, view: &View) -> Option<(Read, Option<Along>)> {
        let fields = &view.fields;
        let value = |name: &str| {
            let (_, column) = self.values.iter().find(|(known, _)| known == name)?;
            if column.is_null(n) { None } else { array_value_to_string(column, n).ok().map(Cow::Owned) }
        };
        if !fields.takes(value) {
            return None;
        }
        let mut text = match (&fields.text, &self.texts) {
            (TextOf::Template(template), _) => template.fill(value),
            (TextOf::Field(_), Some(texts)) if texts.is_valid(n) => Ok(texts.value(n).to_owned()),
            (TextOf::Field(name), _) => Err(format!("`{name}` is null")),
        };
        let mut json = String::new();
        let along = match &self.along {
            PreparedAlong::Nothing => None,
            PreparedAlong::Json(lines) => {
                json.clone_from(&lines[n]);
                None
            }
            PreparedAlong::Columns(batch, before) => {
                let shown = |column: &ArrayRef| array_value_to_string(column, n).unwrap_or_default();
                if let Some((at, was, _)) = before.iter().find(|(_, was, left)| shown(was) != shown(left)) {
                    let field = batch.schema_ref().field(*at);
                    let shown = shown(was);
                    text = Err(format!(
                        "`{}` is {shown}, and the output's column holds {}",
                        field.name(),
                        field.data_type()
                    ));
                }
                Some(Along::Columns(batch.clone(), n))
            }
        };
        let id = self.ids.as_ref().map(|ids| ids[n].clone()).filter(|id| id != "null");
        Some((Read { id, text, along: json }, along))
    }
}

fn in_columns(batch: &RecordBatch, schema: &SchemaRef) -> io::Result<PreparedAlong> {
    let safe = CastOptions { safe: true, ..CastOptions::default() };
    let mut columns = Vec::new();
    let mut before = Vec::new();
    for (at, field) in schema.fields().iter().enumerate() {
        columns.push(match column(batch, field.name())? {
            None => arrow_array::new_null_array(field.data_type(), batch.num_rows()),
            Some(found) if found.data_type() == field.data_type() => found,
            Some(found) => {
                let now = cast_with_options(&found, field.data_type(), &safe).map_err(io::Error::other)?;
                if plain(found.data_type()) != *field.data_type() {
                    // What it becomes must become again what it was: casts round and cut.
                    let left = cast_with_options(&now, found.data_type(), &safe).map_err(io::Error::other)?;
                    before.push((at, found, left));
                }
                now
            }
        });
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options).map_err(io::Error::other)?;
    Ok(PreparedAlong::Columns(Arc::new(batch), before))
}

/// A column by its name, or by a path such as `doc.body.text`. What is in an object that is null is null.
fn column(batch: &RecordBatch, path: &str) -> io::Result<Option<ArrayRef>> {
    if let Some(column) = batch.column_by_name(path) {
        return Ok(Some(column.clone()));
    }
    let Some((name, rest)) = path.split_once('.') else { return Ok(None) };
    let Some(outer) = batch.column_by_name(name).and_then(|column| column.as_struct_opt()) else { return Ok(None) };
    if outer.columns().is_empty() {
        return Ok(None);
    }
    let inner =
        RecordBatch::from(arrow_array::StructArray::new(outer.fields().clone(), outer.columns().to_vec(), None));
    let Some(found) = column(&inner, rest)? else { return Ok(None) };
    if outer.null_count() == 0 {
        return Ok(Some(found));
    }
    let nulls: BooleanArray = (0..outer.len()).map(|n| Some(outer.is_null(n))).collect();
    nullif(&found, &nulls).map(Some).map_err(io::Error::other)
}

/// A JSON object for each row, with nulls.
fn json(columns: Vec<(String, ArrayRef)>, rows: usize) -> io::Result<Vec<String>> {
    let fields: Vec<Field> =
        columns.iter().map(|(name, column)| Field::new(name, column.data_type().clone(), true)).collect();
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options);
    let mut writer: LineDelimitedWriter<Vec<u8>> =
        WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    writer.write(&batch.map_err(io::Error::other)?).map_err(io::Error::other)?;
    writer.finish().map_err(io::Error::other)?;
    let text = String::from_utf8(writer.into_inner()).map_err(io::Error::other)?;
    Ok(text.lines().map(ToOwned::to_owned).collect())
}
