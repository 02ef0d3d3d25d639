//! Which fields of a row are of interest, and what they hold in a line of JSON.
//!
//! Ids and what comes along are never read: they are carried on as they were written, whatever a number in them would lose otherwise.

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::value::RawValue;

use super::{Plan, options::Filter, template::Template};
use crate::Parameters;

/// In place of names of fields: all of them, but for id and text.
pub(super) const ALL: &str = "all";
/// What a field is called if nothing else is said.
pub(super) const TEXT: &str = "text";
/// What a row's id is called if nothing else is said.
pub(super) const ID: &str = "id";
/// Names that the lines of the output use themselves: no other field of a row can come along under one of them.
const NAMES: [&str; 9] = ["id", "line", "embedding", "tokens", "truncated", "error", "code", "digest", "window"];
/// Names that the columns of the output use themselves.
const COLUMNS: [&str; 7] = ["embedding", "tokens", "truncated", "window", "start", "end", "digest"];

/// A row of JSON lines.
pub(super) type Map = BTreeMap<String, Box<RawValue>>;

/// Which fields of a row are of interest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(super) text: TextOf,
    pub(super) id: String,
    /// Whether every file has to have one: it was named, or found in the first.
    pub(super) needs_id: bool,
    /// Those that come along.
    pub(super) keep: Vec<String>,
    pub(super) filters: Vec<Filter>,
    /// Those that there can be, if they were decided when the backfill began.
    pub(super) columns: Option<Vec<String>>,
}

/// Where a text comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TextOf {
    Field(String),
    Template(Template),
}

impl Fields {
    /// Those that a backfill names.
    ///
    /// # Errors
    /// If one cannot come along, or the template is none.
    pub(crate) fn of(parameters: &Parameters) -> Result<Self, String> {
        let Parameters { text_field, id_field, keep, reading, .. } = parameters;
        let named = |name: &str, default: &str| if name.is_empty() { default } else { name }.to_owned();
        let text = match &reading.template {
            Some(template) => TextOf::Template(Template::parse(template)?),
            None => TextOf::Field(named(text_field, TEXT)),
        };
        let (id, needs_id, filters) = (named(id_field, ID), !id_field.is_empty(), reading.filters.clone());
        let mut fields = Self { text, id, needs_id, keep: Vec::new(), filters, columns: None };
        for name in keep {
            if !fields.keep.contains(name) {
                fields.keep.push(name.clone());
            }
        }
        Ok(fields)
    }

    /// As [`Fields::of`], with what was decided when the backfill began.
    ///
    /// # Errors
    /// As there.
    pub(super) fn planned(parameters: &Parameters, plan: &Plan) -> Result<Self, String> {
        let mut fields = Self::of(parameters)?;
        if let (TextOf::Field(text), Some(chosen)) = (&mut fields.text, &plan.text_field) {
            text.clone_from(chosen);
        }
        if let Some(chosen) = &plan.id_field {
            fields.id.clone_from(chosen);
            fields.needs_id = true;
        }
        fields.columns = plan.columns.as_ref().map(|columns| {
            columns.fields().iter().map(|column| column.name().clone()).filter(|name| *name != fields.id).collect()
        });
        if let Some(name) = fields.keep.iter().find(|name| fields.is_taken(name)) {
            return Err(format!("--keep {name}: the output has a field of that name; rename it in the input"));
        }
        Ok(fields)
    }

    /// Whether the output has a field of its own of that name.
    pub(super) fn is_taken(&self, name: &str) -> bool {
        match &self.columns {
            Some(_) => is_column(name) || name == self.id,
            None => NAMES.contains(&name),
        }
    }

    /// Whether all that a row has comes along.
    pub(super) fn keeps_all(&self) -> bool {
        self.keep.iter().any(|name| name == ALL)
    }

    /// The fields that are named, but for [`ALL`].
    pub(super) fn kept(&self) -> impl Iterator<Item = &str> {
        self.keep.iter().map(String::as_str).filter(|name| *name != ALL)
    }

    /// Whether a field comes along since all do.
    pub(super) fn is_among_all(&self, name: &str) -> bool {
        let is_text = matches!(&self.text, TextOf::Field(text) if text == name);
        self.keeps_all() && !is_text && name != self.id && !self.keep.iter().any(|kept| kept == name)
    }

    /// The fields that make the text.
    pub(super) fn texts(&self) -> Vec<&str> {
        match &self.text {
            TextOf::Field(name) => vec![name],
            TextOf::Template(template) => template.fields().collect(),
        }
    }

    /// Whether a row is one of those that are wanted; `value`: a field, `None` if it is null or not there.
    pub(super) fn takes<'a>(&self, value: impl Fn(&str) -> Option<Cow<'a, str>>) -> bool {
        self.filters.iter().all(|filter| filter.takes(&value(&filter.column).unwrap_or_default()))
    }

    /// Reads a line. The error of a row that is none; `None` if it is not wanted.
    pub(super) fn read(&self, line: &[u8]) -> Result<Option<Read>, String> {
        let line = std::str::from_utf8(line).map_err(|error| not_utf8(&error))?;
        let fields: BTreeMap<String, &RawValue> = serde_json::from_str(line)
            .map_err(|error| format!("not a JSON object: {}, column {}", what_of(&error), error.column()))?;
        let value = |name: &str| find(&fields, name).and_then(as_text);
        if !self.takes(value) {
            return Ok(None);
        }
        let mut text = match &self.text {
            TextOf::Template(template) => template.fill(value),
            TextOf::Field(name) => match find(&fields, name) {
                Some(text) if text.get().starts_with('"') => Ok(serde_json::from_str(text.get())
                    .map_err(|error| format!("not a JSON object: {}, in `{name}`", what_of(&error)))?),
                Some(_) => Err(format!("`{name}` is not a string")),
                None => Err(format!("there is no field `{name}`")),
            },
        };
        let mut along = String::new();
        let named = self.kept().filter_map(|name| Some((name, find(&fields, name)?)));
        let others = fields.iter().filter(|(name, _)| self.is_among_all(name));
        for (name, value) in named.chain(others.map(|(name, value)| (name.as_str(), *value))) {
            if self.is_taken(name) {
                text = Err(format!(
                    "`{name}` cannot come along, since the output has a field of that name: name others with --keep"
                ));
            } else if self.columns.as_ref().is_some_and(|columns| !columns.iter().any(|column| column == name)) {
                text = Err(unplanned(name));
            } else {
                put(&mut along, name, value.get());
            }
        }
        Ok(Some(Read { id: find(&fields, &self.id).map(|id| id.get().to_owned()), text, along }))
    }
}

/// Whether an output with columns has one of its own of that name.
pub(super) fn is_column(name: &str) -> bool {
    COLUMNS.contains(&name)
}

/// What is said of a field that the columns of the output do not have.
pub(super) fn unplanned(name: &str) -> String {
    format!(
        "`{name}` is not among the columns of the output, which the first rows decided: name it with --keep, or leave it out by naming others"
    )
}

/// Adds a field to an object that has no end yet.
pub(super) fn put(object: &mut String, name: &str, value: &str) {
    object.push(',');
    object.push_str(&serde_json::Value::from(name).to_string());
    object.push(':');
    object.push_str(value);
}

/// A field by its name, or by a path such as `doc.body.text`.
fn find<'a>(fields: &BTreeMap<String, &'a RawValue>, path: &str) -> Option<&'a RawValue> {
    if let Some(value) = fields.get(path) {
        return Some(value);
    }
    let (name, rest) = path.split_once('.')?;
    let inner = fields.get(name)?;
    find(&serde_json::from_str(inner.get()).ok()?, rest)
}

/// A value as text: what a string says, anything else as it is written. `None` of null.
fn as_text(value: &RawValue) -> Option<Cow<'_, str>> {
    match value.get() {
        "null" => None,
        text if text.starts_with('"') => serde_json::from_str(text).ok().map(Cow::Owned),
        text => Some(Cow::Borrowed(text)),
    }
}

/// What is said of bytes that are no text.
pub(super) fn not_utf8(error: &std::str::Utf8Error) -> String {
    format!("not UTF-8, at byte {}: is it in another encoding?", error.valid_up_to() + 1)
}

/// What is wrong, without the place, which is that in a part of the input only.
fn what_of(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what).to_owned()
}

/// What a line holds.
pub(super) struct Read {
    pub(super) id: Option<String>,
    pub(super) text: Result<String, String>,
    pub(super) along: String,
}
