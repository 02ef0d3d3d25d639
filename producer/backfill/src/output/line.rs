//! The lines of the output: what a row becomes.

use std::io::Write;

use embed_schemas::WireError;
use serde::Serialize;

use crate::row::{Along, Done, Label, Row, Vector, Window};

/// Of a row that has a vector.
#[derive(Serialize)]
struct Stored<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<Window>,
    embedding: &'a [f32],
    tokens: u32,
    truncated: bool,
}

/// Of a row that has none.
#[derive(Serialize)]
struct Failed<'a> {
    error: &'a WireError,
}

/// Writes the lines of a row: one for each of its vectors, or one with its error.
pub(super) fn write(out: &mut Vec<u8>, row: &Done) {
    match &row.content {
        Ok(vectors) => {
            for Vector { values, tokens, truncated, window } in vectors {
                line(out, row, &Stored { window: *window, embedding: values, tokens: *tokens, truncated: *truncated });
            }
        }
        Err(error) => line(out, row, &Failed { error }),
    }
}

/// What the row is called, what became of it, what comes along.
fn line<T>(out: &mut Vec<u8>, row: &Row<T>, what: &impl Serialize) {
    let written = match &row.label {
        Label::Id(id) => write!(out, "{{\"id\":{id}"),
        Label::Line(line) => write!(out, "{{\"line\":{line}"),
    };
    let opened = out.len();
    written
        .and_then(|()| Ok(serde_json::to_writer(&mut *out, what)?))
        .expect("rows have string keys, and memory takes every write");
    // One object instead of two: what was written begins with a brace, and ends with one.
    out[opened] = b',';
    out.pop();
    if let Along::Json(along) = &row.along {
        out.extend_from_slice(along.as_bytes());
    }
    out.extend_from_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    use embed_schemas::ErrorCode;
    use serde_json::{Value, json};

    use super::*;
    use crate::row::Position;

    #[test]
    fn lines_are_objects_with_what_comes_along() {
        let row = |label: Label, along: &str| Row {
            number: 0,
            label,
            content: Err(WireError::new(ErrorCode::TextTooLong, "no")),
            along: Along::Json(along.into()),
            end: Position::default(),
            digest: None,
            reused: false,
        };
        let mut out = Vec::new();
        write(&mut out, &row(Label::Id("1e400".into()), ""));
        write(&mut out, &row(Label::Line(7), ",\"a\":[1]"));
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("{\"id\":1e400,\"error\":{"), "{text}");
        let second: Value = serde_json::from_str(lines[1]).unwrap();
        assert_eq!(
            (&second["line"], &second["a"], &second["error"]["message"]),
            (&json!(7), &json!([1]), &json!("no"))
        );
    }
}
