//! A column that comes along: which type it has in a table, and how its values get there.
//!
//! Rows are copied, in PostgreSQL's binary form, into a table for the moment first, whose columns have few types; from there they are cast.

use std::error::Error as StdError;

use arrow_array::{
    Array, ArrayRef,
    cast::AsArray,
    types::{Date32Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType},
};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_json::writer::{EncoderOptions, make_encoder};
use arrow_schema::{DataType, Field, TimeUnit};
use tokio_postgres::types::ToSql;

use super::target::quoted;

/// Why a row has no place in a table.
pub(super) const NO_NULL: &str = "PostgreSQL takes no text with a character U+0000";

/// A value as it is copied.
pub(super) type Value = Box<dyn ToSql + Sync + Send>;

/// A column that comes along.
#[derive(Debug, Clone)]
pub(super) struct Column {
    /// Its name, quoted.
    pub(super) name: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Boolean,
    Small,
    Integer,
    Big,
    Real,
    Double,
    Text,
    Bytes,
    /// Numbers that fit into no other.
    Numeric,
    Time,
    Date,
    Timestamp {
        zone: bool,
    },
    /// Lists, structures, and all else.
    Json,
}

impl Kind {
    fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Boolean => Self::Boolean,
            DataType::Int8 | DataType::Int16 | DataType::UInt8 => Self::Small,
            DataType::Int32 | DataType::UInt16 => Self::Integer,
            DataType::Int64 | DataType::UInt32 => Self::Big,
            DataType::Float16 | DataType::Float32 => Self::Real,
            DataType::Float64 => Self::Double,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => Self::Text,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                Self::Bytes
            }
            DataType::UInt64
            | DataType::Decimal32(..)
            | DataType::Decimal64(..)
            | DataType::Decimal128(..)
            | DataType::Decimal256(..) => Self::Numeric,
            DataType::Time32(_) | DataType::Time64(_) => Self::Time,
            DataType::Date32 | DataType::Date64 => Self::Date,
            DataType::Timestamp(_, zone) => Self::Timestamp { zone: zone.is_some() },
            DataType::Dictionary(_, values) => Self::of(values),
            _ => Self::Json,
        }
    }

    /// The type that all values of the kind are brought to, one by one. `None`: their own.
    fn canonical(self, own: &DataType) -> Option<DataType> {
        Some(match self {
            Self::Boolean => DataType::Boolean,
            Self::Small => DataType::Int16,
            Self::Integer => DataType::Int32,
            Self::Big => DataType::Int64,
            Self::Real => DataType::Float32,
            Self::Double => DataType::Float64,
            Self::Text | Self::Numeric | Self::Time => DataType::Utf8,
            Self::Bytes => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Timestamp { .. } => match own {
                DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
                DataType::Dictionary(_, values) => return self.canonical(values),
                _ => return None,
            },
            Self::Json => return None,
        })
    }
}

impl Column {
    /// Of a field of the input.
    pub(super) fn of(field: &Field) -> Self {
        Self { name: quoted(field.name()), kind: Kind::of(field.data_type()) }
    }

    /// Its type in a table that is made, and what is taken for it in one that is there.
    pub(super) const fn types(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Boolean => &["boolean"],
            Kind::Small => &["smallint", "integer", "bigint"],
            Kind::Integer => &["integer", "bigint"],
            Kind::Big => &["bigint"],
            Kind::Real => &["real", "double precision"],
            Kind::Double => &["double precision"],
            Kind::Text => &["text", "character varying"],
            Kind::Bytes => &["bytea"],
            Kind::Numeric => &["numeric"],
            Kind::Time => &["time without time zone"],
            Kind::Date => &["date"],
            Kind::Timestamp { zone: false } => &["timestamp without time zone"],
            Kind::Timestamp { zone: true } => &["timestamp with time zone"],
            Kind::Json => &["jsonb"],
        }
    }

    /// Its type in the table for the moment.
    pub(super) const fn staged(&self) -> &'static str {
        match self.kind {
            Kind::Numeric | Kind::Time | Kind::Json => "text",
            Kind::Date => "integer",
            Kind::Timestamp { .. } => "bigint",
            _ => self.types()[0],
        }
    }

    /// From the one to the other.
    pub(super) fn cast(&self) -> String {
        let name = &self.name;
        match self.kind {
            Kind::Numeric | Kind::Time | Kind::Json => format!("{name}::{}", self.types()[0]),
            Kind::Date => format!("date 'epoch' + {name}"),
            Kind::Timestamp { zone: false } => format!("timestamp 'epoch' + {name} * interval '1 microsecond'"),
            Kind::Timestamp { zone: true } => format!("timestamptz 'epoch' + {name} * interval '1 microsecond'"),
            _ => name.clone(),
        }
    }

    /// The value of a row. The error says why the table cannot hold it.
    pub(super) fn value(&self, field: &Field, array: &ArrayRef, row: usize) -> Result<Value, String> {
        self.read(field, array, row).map_err(|error| format!("{}: {error}", field.name()))
    }

    fn read(&self, field: &Field, array: &ArrayRef, row: usize) -> Result<Value, Box<dyn StdError>> {
        let mut one = array.slice(row, 1);
        if let Some(canonical) = self.kind.canonical(array.data_type())
            && canonical != *array.data_type()
        {
            one = cast_with_options(&one, &canonical, &CastOptions { safe: false, ..CastOptions::default() })?;
        }
        let is_there = one.is_valid(0);
        Ok(match self.kind {
            Kind::Boolean => Box::new(is_there.then(|| one.as_boolean().value(0))),
            Kind::Small => Box::new(is_there.then(|| one.as_primitive::<Int16Type>().value(0))),
            Kind::Integer => Box::new(is_there.then(|| one.as_primitive::<Int32Type>().value(0))),
            Kind::Big => Box::new(is_there.then(|| one.as_primitive::<Int64Type>().value(0))),
            Kind::Real => Box::new(is_there.then(|| one.as_primitive::<Float32Type>().value(0))),
            Kind::Double => Box::new(is_there.then(|| one.as_primitive::<Float64Type>().value(0))),
            Kind::Date => Box::new(is_there.then(|| one.as_primitive::<Date32Type>().value(0))),
            Kind::Timestamp { .. } => {
                Box::new(is_there.then(|| one.as_primitive::<TimestampMicrosecondType>().value(0)))
            }
            Kind::Bytes => Box::new(is_there.then(|| one.as_binary::<i32>().value(0).to_owned())),
            Kind::Text | Kind::Numeric | Kind::Time => {
                let text = is_there.then(|| one.as_string::<i32>().value(0).to_owned());
                if text.as_ref().is_some_and(|text| text.contains('\0')) {
                    return Err(NO_NULL.into());
                }
                Box::new(text)
            }
            Kind::Json => {
                let text = if is_there { Some(json(field, &one)?) } else { None };
                if text.as_ref().is_some_and(|text| has_null_character(text)) {
                    return Err(NO_NULL.into());
                }
                Box::new(text)
            }
        })
    }
}

/// The only value of an array, in JSON.
fn json(field: &Field, one: &ArrayRef) -> Result<String, Box<dyn StdError>> {
    let options = EncoderOptions::default();
    let field = field.clone().into();
    let mut text = Vec::new();
    make_encoder(&field, one, &options)?.encode(0, &mut text);
    Ok(String::from_utf8(text)?)
}

/// Whether a string in JSON has the escape of U+0000, and not one of a backslash before other letters.
fn has_null_character(json: &str) -> bool {
    let backslashes = |end: usize| json[..end].bytes().rev().take_while(|byte| *byte == b'\\').count();
    json.match_indices("\\u0000").any(|(at, _)| backslashes(at) % 2 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_of_null_is_found_where_it_is_one() {
        assert!(has_null_character(r#"["a\u0000"]"#) && has_null_character(r#"["\\\u0000"]"#));
        assert!(!has_null_character(r#"["\\u0000", "\u00001"]"#.replace("\\u00001", "").as_str()));
    }
}
