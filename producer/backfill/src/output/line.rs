//! The lines of the output: what a row becomes.

use std::io::Write;

use embed_schemas::WireError;
use serde::Serialize;

use super::rows::Entry;
use crate::row::{Along, Done, Label, Vector, Window};

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
pub(super) fn write(out: &mut Vec<u8>, row: &Done) {
    match &row.content {
        Ok(vectors) => {
            for Vector { values, tokens, truncated, window } in vectors {
                let (tokens, truncated, window) = (*tokens, *truncated, *window);
                let what = Stored { window, embedding: Some(values), tokens, truncated, digest: None };
                object(out, Some(&row.label), &what, &row.along);
            }
        }
        Err(error) => object(out, Some(&row.label), &Failed { error }, &row.along),
    }
}

/// Writes the line of a vector in a part, with the vector or without.
pub(super) fn write_entry(out: &mut Vec<u8>, entry: &Entry, embedding: Option<&[f32]>) {
    let Entry { label, along, tokens, truncated, window, digest } = entry;
    let (tokens, truncated, window) = (*tokens, *truncated, *window);
    let digest = digest.map(|digest| format!("{digest:?}"));
    object(out, Some(label), &Stored { window, embedding, tokens, truncated, digest }, along);
}

/// Writes the line of a row that has no vector, into a file of such rows.
pub(super) fn write_rejected(out: &mut Vec<u8>, row: &Done, file: &str, error: &WireError) {
    let label = Some(&row.label).filter(|label| matches!(label, Label::Id(_)));
    object(out, label, &Rejected { file, line: row.end.lines, error }, &Along::Nothing);
}

/// What the row is called, what became of it, what comes along.
fn object(out: &mut Vec<u8>, label: Option<&Label>, what: &impl Serialize, along: &Along) {
    let labelled = match label {
        Some(Label::Id(id)) => write!(out, "{{\"id\":{id}"),
        Some(Label::Line(line)) => write!(out, "{{\"line\":{line}"),
        None => Ok(()),
    };
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
            end: Position { lines: 9, ..Position::default() },
        }
    }

    #[test]
    fn lines_are_objects_with_what_comes_along() {
        let mut out = Vec::new();
        write(&mut out, &failed(Label::Id("1e400".into()), ""));
        write(&mut out, &failed(Label::Line(7), ",\"a\":[1]"));
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
            write_rejected(&mut out, &row, "/in.csv", row.content.as_ref().unwrap_err());
        }
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let said = |line: &Value| (line["file"] == "/in.csv", line["line"] == 9, line["code"] == "text_too_long");
        assert_eq!((said(&lines[0]), lines[0]["id"].as_str()), ((true, true, true), Some("a")), "{text}");
        assert_eq!((said(&lines[1]), lines[1].get("id")), ((true, true, true), None), "{text}");
    }
}
