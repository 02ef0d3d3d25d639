//! What comes along with rows into outputs that have columns: which columns these are, and how values written as text become them.

use std::{collections::BTreeMap, sync::Arc};

use arrow_array::{
    ArrayRef, RecordBatch,
    builder::{BooleanBuilder, Float64Builder, Int64Builder, StringBuilder},
    new_null_array,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use embed_schemas::{ErrorCode, WireError};
use serde_json::value::RawValue;

use super::fields::{Fields, Map};
use crate::row::{Along, Label, Row};

/// Rows that share a batch.
pub(super) const TOGETHER: usize = 256;
/// Integers up to here are exact as floating-point numbers.
const EXACT: u64 = 1 << 53;

/// Of a table: the id and what is kept, as the table has them.
pub(super) fn of_table(schema: &Schema, fields: &Fields) -> Result<Schema, String> {
    let mut columns = Vec::new();
    if let Some(id) = field_at(schema, &fields.id) {
        columns.push(Field::new(&fields.id, plain(&id), true));
    }
    let others = schema.fields().iter().map(|field| field.name().as_str());
    for name in fields.kept().chain(others.filter(|name| fields.is_among_all(name))) {
        let found = field_at(schema, name).ok_or_else(|| format!("--keep {name}: there is no such column"))?;
        columns.push(Field::new(name, plain(&found), true));
    }
    Ok(Schema::new(columns))
}

/// Of lines of JSON, by the first of them.
pub(super) fn of_rows(rows: &[Map], fields: &Fields) -> Schema {
    let mut names: Vec<String> = fields.kept().map(ToOwned::to_owned).collect();
    for name in rows.iter().flat_map(BTreeMap::keys) {
        if fields.is_among_all(name) && !names.contains(name) {
            names.push(name.clone());
        }
    }
    let of = |name: &str| rows.iter().filter_map(|row| find(row, name)).collect::<Vec<_>>();
    let id = match kind(&of(&fields.id)) {
        DataType::Int64 => DataType::Int64,
        _ => DataType::Utf8,
    };
    let mut columns = vec![Field::new(&fields.id, id, true)];
    columns.extend(names.iter().map(|name| Field::new(name, kind(&of(name)), true)));
    Schema::new(columns)
}

/// Of CSV, whose values are strings.
pub(super) fn of_header(names: &[String], fields: &Fields) -> Result<Schema, String> {
    let schema = Schema::new(names.iter().map(|name| Field::new(name, DataType::Utf8, true)).collect::<Vec<_>>());
    of_table(&schema, fields)
}

fn find<'a>(row: &'a Map, path: &str) -> Option<&'a RawValue> {
    // A path into an object is written as text, whatever it leads to.
    row.get(path).map(AsRef::as_ref)
}

/// The type that holds values exactly.
fn kind(values: &[&RawValue]) -> DataType {
    let values: Vec<&str> = values.iter().map(|value| value.get()).filter(|value| *value != "null").collect();
    let all = |is: fn(&str) -> bool| !values.is_empty() && values.iter().all(|value| is(value));
    if all(|value| value.parse::<i64>().is_ok()) {
        DataType::Int64
    } else if all(|value| as_float(value).is_some()) {
        DataType::Float64
    } else if all(|value| matches!(value, "true" | "false")) {
        DataType::Boolean
    } else {
        DataType::Utf8
    }
}

/// A number in JSON, if it is not an integer that would be rounded.
fn as_float(value: &str) -> Option<f64> {
    if value.starts_with('"') {
        return None;
    }
    let is_integer = !value.contains(['.', 'e', 'E']);
    let is_exact = value.parse::<i64>().is_ok_and(|integer| integer.unsigned_abs() <= EXACT);
    value.parse().ok().filter(|number: &f64| number.is_finite() && (!is_integer || is_exact))
}

/// A type without the ways of storing it that not all readers know.
pub(super) fn plain(of: &DataType) -> DataType {
    match of {
        DataType::Dictionary(_, values) => plain(values),
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        other => other.clone(),
    }
}

/// The type of a column by its name, or by a path such as `doc.body.text`.
pub(super) fn field_at(schema: &Schema, path: &str) -> Option<DataType> {
    if let Ok(field) = schema.field_with_name(path) {
        return Some(field.data_type().clone());
    }
    let (name, rest) = path.split_once('.')?;
    match schema.field_with_name(name).ok()?.data_type() {
        DataType::Struct(fields) => field_at(&Schema::new(fields.clone()), rest),
        _ => None,
    }
}

/// Puts what comes along with rows of text into columns. A row with a value that does not fit becomes a bad one.
pub(super) fn in_columns(rows: &mut [Row], schema: &SchemaRef, id_field: &str) {
    let mut columns: Vec<Column> = schema.fields().iter().map(|field| Column::new(field.data_type())).collect();
    let mut placed = Vec::new();
    for row in rows.iter_mut() {
        if !matches!(row.along, Along::Json(_)) {
            continue;
        }
        match values(row, schema, id_field) {
            Ok(values) => {
                columns.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
                placed.push(row);
            }
            Err(reason) => {
                let line = row.origin.line;
                row.along = Along::Nothing;
                if row.content.is_ok() {
                    row.content = Err(WireError::new(ErrorCode::InvalidRequest, format!("line {line}: {reason}")));
                }
            }
        }
    }
    if placed.is_empty() {
        return;
    }
    let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(placed.len()));
    let columns = columns.into_iter().map(Column::finish).collect();
    let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options);
    let batch = Arc::new(batch.expect("every column was made for its field, with a value for each row"));
    for (n, row) in placed.into_iter().enumerate() {
        row.along = Along::Columns(batch.clone(), n);
    }
}

/// The values of a row, in the order of the columns.
fn values(row: &Row, schema: &SchemaRef, id_field: &str) -> Result<Vec<Value>, String> {
    let Along::Json(along) = &row.along else { return Ok(Vec::new()) };
    let object = format!("{{{}}}", along.strip_prefix(',').unwrap_or_default());
    let written: BTreeMap<String, &RawValue> = serde_json::from_str(&object).map_err(|error| error.to_string())?;
    let fields = schema.fields().iter();
    fields
        .map(|field| {
            let id = match &row.label {
                // Nothing that is kept is called as it.
                Label::Id(id) if field.name() == id_field && !written.contains_key(field.name()) => Some(id.as_str()),
                _ => None,
            };
            let value = id.or_else(|| written.get(field.name()).map(|value| value.get()));
            value_of(value, field)
        })
        .collect()
}

#[derive(Debug)]
enum Value {
    Null,
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Text(String),
}

fn value_of(written: Option<&str>, field: &Field) -> Result<Value, String> {
    let Some(written) = written.filter(|written| *written != "null") else { return Ok(Value::Null) };
    let text = || serde_json::from_str(written).unwrap_or_else(|_| written.to_owned());
    let value = match field.data_type() {
        DataType::Int64 => written.parse().ok().map(Value::Integer),
        DataType::Float64 => as_float(written).map(Value::Float),
        DataType::Boolean => written.parse().ok().map(Value::Boolean),
        // Of a table that was read first, with which text is read, too.
        other if !matches!(other, DataType::Utf8) => {
            return Err(format!(
                "`{}` is a column of {other} in the output, which a line of text cannot fill: leave it out of --keep",
                field.name()
            ));
        }
        _ if written.starts_with('"') => Some(Value::Text(text())),
        // What it is in JSON.
        _ => Some(Value::Text(written.to_owned())),
    };
    value.ok_or_else(|| {
        let shown: String = written.chars().take(100).collect();
        format!("`{}` is {shown}, and the first rows made it a column of {}", field.name(), field.data_type())
    })
}

enum Column {
    Integers(Int64Builder),
    Floats(Float64Builder),
    Booleans(BooleanBuilder),
    Texts(StringBuilder),
    /// Of a type that nothing in text has: so many nulls.
    Nulls(DataType, usize),
}

impl Column {
    fn new(of: &DataType) -> Self {
        match of {
            DataType::Int64 => Self::Integers(Int64Builder::new()),
            DataType::Float64 => Self::Floats(Float64Builder::new()),
            DataType::Boolean => Self::Booleans(BooleanBuilder::new()),
            DataType::Utf8 => Self::Texts(StringBuilder::new()),
            other => Self::Nulls(other.clone(), 0),
        }
    }

    fn push(&mut self, value: Value) {
        match (self, value) {
            (Self::Integers(column), Value::Integer(value)) => column.append_value(value),
            (Self::Floats(column), Value::Float(value)) => column.append_value(value),
            (Self::Booleans(column), Value::Boolean(value)) => column.append_value(value),
            (Self::Texts(column), Value::Text(value)) => column.append_value(value),
            (Self::Integers(column), _) => column.append_null(),
            (Self::Floats(column), _) => column.append_null(),
            (Self::Booleans(column), _) => column.append_null(),
            (Self::Texts(column), _) => column.append_null(),
            (Self::Nulls(_, rows), _) => *rows += 1,
        }
    }

    fn finish(self) -> ArrayRef {
        match self {
            Self::Integers(mut column) => Arc::new(column.finish()),
            Self::Floats(mut column) => Arc::new(column.finish()),
            Self::Booleans(mut column) => Arc::new(column.finish()),
            Self::Texts(mut column) => Arc::new(column.finish()),
            Self::Nulls(of, rows) => new_null_array(&of, rows),
        }
    }
}

/// A schema within a record: as Arrow writes it, in base64.
pub(super) mod written {
    use std::sync::Arc;

    use arrow_ipc::{
        convert::{IpcSchemaEncoder, try_fb_to_schema},
        root_as_schema,
    };
    use arrow_schema::SchemaRef;
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[allow(clippy::ref_option, reason = "that is how it is called")]
    pub(in super::super) fn serialize<S: Serializer>(schema: &Option<SchemaRef>, to: S) -> Result<S::Ok, S::Error> {
        let written =
            |schema: &SchemaRef| BASE64_STANDARD.encode(IpcSchemaEncoder::new().schema_to_fb(schema).finished_data());
        schema.as_ref().map(written).serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SchemaRef>, D::Error> {
        let read = |text: String| {
            let bytes = BASE64_STANDARD.decode(text).map_err(D::Error::custom)?;
            let schema = root_as_schema(&bytes).map_err(D::Error::custom)?;
            try_fb_to_schema(schema).map(Arc::new).map_err(D::Error::custom)
        };
        Option::<String>::deserialize(from)?.map(read).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Parameters,
        row::{Origin, Position},
    };

    fn map(text: &str) -> Map {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_first_rows_decide_and_nothing_is_rounded() {
        let parameters = Parameters { keep: vec!["all".into()], ..crate::tests::parameters() };
        let fields = Fields::of(&parameters).unwrap();
        let rows = [
            map(r#"{"id": 1, "text": "a", "n": 1, "f": 1, "b": true, "s": "x", "o": {"a": 1}, "z": null}"#),
            map(
                r#"{"id": 2, "text": "b", "n": null, "f": 1.5, "b": false, "s": 3, "big": 9007199254740993, "more": 1.5}"#,
            ),
            map(r#"{"id": 2, "text": "b", "big": 1.5}"#),
        ];
        let schema = Arc::new(of_rows(&rows, &fields));
        let types: Vec<String> = schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
        assert_eq!(
            types,
            ["id Int64", "b Boolean", "f Float64", "n Int64", "o Utf8", "s Utf8", "z Utf8", "big Utf8", "more Float64"]
        );
        let row = |id: &str, along: &str| Row {
            number: 0,
            label: Label::Id(id.into()),
            content: Ok("t".into()),
            along: Along::Json(along.into()),
            digest: None,
            reused: false,
            origin: Origin { file: 0, line: 4 },
            end: Position { lines: 4, ..Position::default() },
        };
        let mut rows = [
            row("5", r#","b":true,"f":2,"n":1.0"#),
            row("6", r#","o":{"a":[1]},"s":"\u00e4""#),
            row("\"x\"", ""),
            row("7", r#","f":9007199254740993"#),
        ];
        in_columns(&mut rows, &schema, "id");
        let error = |row: &Row| row.content.clone().unwrap_err().message;
        assert!(error(&rows[0]).starts_with("line 4: `n` is 1.0, and the first rows made it a column of Int64"));
        assert!(error(&rows[2]).contains("`id` is \"x\"") && error(&rows[3]).contains("`f` is 9007199254740993"));
        let Along::Columns(batch, 0) = &rows[1].along else { panic!("{:?}", rows[1].along) };
        let shown = |n: usize| arrow_cast::display::array_value_to_string(batch.column(n), 0).unwrap();
        assert_eq!(
            (shown(0), shown(4), shown(5), batch.num_rows()),
            ("6".into(), r#"{"a":[1]}"#.into(), "ä".into(), 1)
        );
    }
}
