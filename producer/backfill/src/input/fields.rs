//! Which fields of a row are of interest, and what they hold in a line of JSON.
//!
//! Ids and what comes along are never read: they are carried on as they were written, whatever a number in them would lose otherwise.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::Parameters;

/// In place of names of fields: all of them, but for id and text.
const ALL: &str = "all";
/// Names that the lines of the output use themselves: no other field of a row can come along under one of them.
const NAMES: [&str; 6] = ["id", "line", "embedding", "tokens", "truncated", "error"];

/// Which fields of a row are of interest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fields {
    text: String,
    id: String,
    /// Those that come along.
    keep: Vec<String>,
}

impl Fields {
    /// Those that a backfill names.
    ///
    /// # Errors
    /// If one cannot come along.
    pub(crate) fn of(parameters: &Parameters) -> Result<Self, String> {
        let Parameters { text_field, id_field, keep, .. } = parameters;
        if let Some(name) = keep.iter().find(|name| NAMES.contains(&name.as_str())) {
            return Err(format!("--keep {name}: the output has a field of that name; rename it in the input"));
        }
        Ok(Self { text: text_field.clone(), id: id_field.clone(), keep: keep.clone() })
    }

    fn comes_along(&self, name: &str) -> bool {
        self.keep.iter().any(|kept| kept == name || kept == ALL && name != self.text && name != self.id)
    }

    /// Reads a line. The error of a row that is none.
    pub(super) fn read(&self, line: &[u8]) -> Result<Read, String> {
        let fields: BTreeMap<String, &RawValue> = serde_json::from_slice(line)
            .map_err(|error| format!("not a JSON object: {}, column {}", what_of(&error), error.column()))?;
        let mut text = match fields.get(&self.text) {
            Some(text) if text.get().starts_with('"') => Ok(serde_json::from_str(text.get())
                .map_err(|error| format!("not a JSON object: {}, in `{}`", what_of(&error), self.text))?),
            Some(_) => Err(format!("`{}` is not a string", self.text)),
            None => Err(format!("there is no field `{}`", self.text)),
        };
        let mut along = String::new();
        for (name, value) in fields.iter().filter(|(name, _)| self.comes_along(name)) {
            if NAMES.contains(&name.as_str()) {
                text = Err(format!(
                    "`{name}` cannot come along, since the output has a field of that name: name others with --keep"
                ));
                continue;
            }
            along.push(',');
            along.push_str(&serde_json::Value::from(name.as_str()).to_string());
            along.push(':');
            along.push_str(value.get());
        }
        Ok(Read { id: fields.get(&self.id).map(|id| id.get().to_owned()), text, along })
    }
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
