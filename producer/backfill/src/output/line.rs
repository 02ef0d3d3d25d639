//! The lines of the output: what a row becomes.

use std::{collections::BTreeMap, io::Write, sync::Arc};

use embed_schemas::WireError;
use serde::{Serialize, de::IgnoredAny};

use super::rows::Entry;
use crate::{
    Plan,
    row::{Along, Done, Label, Origin, Vector, Window},
};

/// What the files are called that are read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files(Arc<[String]>);

impl Files {
    pub(crate) fn of(plan: &Plan) -> Self {
        Self(plan.files.iter().map(|file| file.location.clone()).collect())
    }

    /// The one in which a row is.
    pub(crate) fn name(&self, origin: Origin) -> &str {
        self.0.get(origin.file).map_or("", String::as_str)
    }

    /// The same, if there are several: a line says little then.
    pub(crate) fn told(&self, origin: Origin) -> Option<&str> {
        (self.0.len() > 1).then(|| self.name(origin))
    }
}

/// Of a row that has a vector.
#[derive(Serialize)]
struct Stored<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<Window>,
    /// `None` where it is in a file of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<&'a [f32]>,
    tokens: u32,
    truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
}

/// Of a row that has none.
#[derive(Serialize)]
struct Failed<'a> {
    error: &'a WireError,
}

/// Of a row that has none, in a file of such rows.
#[derive(Serialize)]
struct Rejected<'a> {
    file: &'a str,
    line: u64,
    #[serde(flatten)]
    error: &'a WireError,
}

/// Writes the lines of a row: one for each of its vectors, or one with its error.
pub(super) fn write(out: &mut Vec<u8>, row: &Done, files: &Files) {
    let file = files.told(row.origin);
    match &row.content {
        Ok(vectors) => {
            for Vector { values, tokens, truncated, window } in vectors {
                let (tokens, truncated, window) = (*tokens, *truncated, *window);
                let what = Stored { window, embedding: Some(values), tokens, truncated, digest: None };
                object(out, Some(&row.label), by_line(&row.label, file), &what, &row.along);
            }
        }
        Err(error) => object(out, Some(&row.label), file, &Failed { error }, &row.along),
    }
}

/// Writes the line of a vector in a part, with the vector or without.
pub(super) fn write_entry(out: &mut Vec<u8>, entry: &Entry, embedding: Option<&[f32]>, files: &Files) {
    let Entry { label, origin, along, tokens, truncated, window, digest } = entry;
    let (tokens, truncated, window) = (*tokens, *truncated, *window);
    let digest = digest.map(|digest| format!("{digest:?}"));
    let what = Stored { window, embedding, tokens, truncated, digest };
    object(out, Some(label), by_line(label, files.told(*origin)), &what, along);
}

/// Writes the line of a row that has no vector, into a file of such rows.
pub(super) fn write_rejected(out: &mut Vec<u8>, row: &Done, files: &Files, error: &WireError) {
    let label = Some(&row.label).filter(|label| matches!(label, Label::Id(_)));
    let what = Rejected { file: files.name(row.origin), line: row.origin.line, error };
    object(out, label, None, &what, &Along::Nothing);
}

/// The file of a row that is called by its line in it.
fn by_line<'a>(label: &Label, file: Option<&'a str>) -> Option<&'a str> {
    file.filter(|_| matches!(label, Label::Line(_)))
}

/// Whether a field of this name comes along.
fn has(along: &Along, name: &str) -> bool {
    let Along::Json(along) = along else { return false };
    let object = || {
        let object = format!("{{{}}}", along.strip_prefix(',')?);
        serde_json::from_str::<BTreeMap<String, IgnoredAny>>(&object).ok()
    };
    along.contains(name) && object().is_some_and(|fields| fields.contains_key(name))
}

/// What the row is called, the file in which it is unless a field of that name comes along, what became of it, what comes along.
fn object(out: &mut Vec<u8>, label: Option<&Label>, file: Option<&str>, what: &impl Serialize, along: &Along) {
    let labelled = match label {
        Some(Label::Id(id)) => write!(out, "{{\"id\":{id}"),
        Some(Label::Line(line)) => write!(out, "{{\"line\":{line}"),
        None => Ok(()),
    };
    let labelled = labelled.and_then(|()| match file.filter(|_| !has(along, "file")) {
        Some(file) => write!(out, ",\"file\":{}", serde_json::Value::from(file)),
        None => Ok(()),
    });
    let opened = out.len();
    labelled
        .and_then(|()| Ok(serde_json::to_writer(&mut *out, what)?))
        .expect("rows have string keys, and memory takes every write");
    if label.is_some() {
        // One object instead of two: what was written begins with a brace, and ends with one.
        out[opened] = b',';
    }
    out.pop();
    if let Along::Json(along) = along {
        out.extend_from_slice(along.as_bytes());
    }
    out.extend_from_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    use embed_schemas::ErrorCode;
    use serde_json::{Value, json};

    use super::*;
    use crate::row::{Position, Row};

    fn failed(label: Label, along: &str) -> Done {
        Row {
            number: 0,
            label,
            content: Err(WireError::new(ErrorCode::TextTooLong, "no")),
            along: Along::Json(along.into()),
            digest: None,
            reused: false,
            origin: Origin { file: 1, line: 9 },
            end: Position { file: 2, ..Position::default() },
        }
    }

    fn files(names: &[&str]) -> Files {
        Files(names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn of_several_files_the_one_is_named_in_which_a_row_is() {
        let lines = |files: &Files, row: &Done| {
            let mut out = Vec::new();
            write(&mut out, row, files);
            let vector = Vector { values: vec![1.0], tokens: 1, truncated: false, window: None };
            write(&mut out, &row.clone().with(|_| Ok(vec![vector])), files);
            let text = String::from_utf8(out).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
        };
        let two = files(&["/a.jsonl", "/b.jsonl"]);
        for (files, label, along, of_failed, of_stored) in [
            (&files(&["/a.jsonl"]), Label::Line(9), "", Value::Null, Value::Null),
            (&two, Label::Line(9), ",\"x\":\"file\"", json!("/b.jsonl"), json!("/b.jsonl")),
            (&two, Label::Id("7".into()), "", json!("/b.jsonl"), Value::Null),
            // A field of that name is the user's.
            (&two, Label::Line(9), ",\"file\":\"mine\"", json!("mine"), json!("mine")),
        ] {
            let lines = lines(files, &failed(label, along));
            assert_eq!((&lines[0]["file"], &lines[1]["file"]), (&of_failed, &of_stored), "{lines:?}");
        }
    }

    #[test]
    fn lines_are_objects_with_what_comes_along() {
        let mut out = Vec::new();
        write(&mut out, &failed(Label::Id("1e400".into()), ""), &Files::default());
        write(&mut out, &failed(Label::Line(7), ",\"a\":[1]"), &Files::default());
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("{\"id\":1e400,\"error\":{"), "{text}");
        let second: Value = serde_json::from_str(lines[1]).unwrap();
        assert_eq!(
            (&second["line"], &second["a"], &second["error"]["message"]),
            (&json!(7), &json!([1]), &json!("no"))
        );
    }

    #[test]
    fn rows_without_a_vector_are_found_in_their_file() {
        let mut out = Vec::new();
        for label in [Label::Id("\"a\"".into()), Label::Line(9)] {
            let row = failed(label, ",\"a\":[1]");
            write_rejected(&mut out, &row, &files(&["/other", "/in.csv"]), row.content.as_ref().unwrap_err());
        }
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let said = |line: &Value| (line["file"] == "/in.csv", line["line"] == 9, line["code"] == "text_too_long");
        assert_eq!((said(&lines[0]), lines[0]["id"].as_str()), ((true, true, true), Some("a")), "{text}");
        assert_eq!((said(&lines[1]), lines[1].get("id")), ((true, true, true), None), "{text}");
    }
}
