//! The lines of the output: what a row becomes.

use std::io::Write;

use embed_schemas::{EmbedResult, WireError};
use serde::Serialize;

use super::input::{Label, Row};

/// Of a row that has a vector.
#[derive(Serialize)]
struct Stored<'a> {
    embedding: &'a [f32],
    tokens: u32,
    truncated: bool,
}

/// Of a row that has none.
#[derive(Serialize)]
struct Failed<'a> {
    error: &'a WireError,
}

/// Writes the line of a row that has row `n` of a result; the error of one that has no vector comes back.
pub(super) fn write_row(out: &mut Vec<u8>, row: &Row, result: &EmbedResult, n: usize) -> Result<(), WireError> {
    match result.vector(n) {
        Ok(embedding) => {
            let item = &result.items[n];
            line(out, row, &Stored { embedding: &embedding, tokens: item.tokens, truncated: item.truncated });
            Ok(())
        }
        Err(error) => {
            write_error(out, row, &error);
            Err(error)
        }
    }
}

/// Writes the line of a row that has no vector.
pub(super) fn write_error(out: &mut Vec<u8>, row: &Row, error: &WireError) {
    line(out, row, &Failed { error });
}

/// What the row is called, what became of it, what comes along.
fn line(out: &mut Vec<u8>, row: &Row, what: &impl Serialize) {
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
    out.extend_from_slice(row.along.as_bytes());
    out.extend_from_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    use embed_schemas::ErrorCode;
    use serde_json::{Value, json};

    use super::*;
    use crate::backfill::Position;

    #[test]
    fn lines_are_objects_with_what_comes_along() {
        let row = |label: Label, along: &str| Row {
            number: 0,
            label,
            text: Ok("a".into()),
            along: along.into(),
            end: Position::default(),
        };
        let error = WireError::new(ErrorCode::TextTooLong, "no");
        let mut out = Vec::new();
        write_error(&mut out, &row(Label::Id("1e400".into()), ""), &error);
        write_error(&mut out, &row(Label::Line(7), ",\"a\":[1]"), &error);
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
