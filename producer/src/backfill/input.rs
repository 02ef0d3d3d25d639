//! Lines of the input, as rows: an id and a text, or what is wrong with the line.

use std::io::{self, BufRead};

use embed_schemas::{ErrorCode, WireError};
use serde_json::{Map, Value};

use super::Position;

/// Longest line that is read into memory.
const MAX_LINE: usize = 64 * 1024 * 1024;

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// Counted from 0.
    pub(super) number: u64,
    /// What the output calls it.
    pub(super) id: Value,
    /// The text, or why there is none.
    pub(super) text: Result<String, WireError>,
    /// The input after this row.
    pub(super) end: Position,
}

/// The rows of an input.
#[derive(Debug)]
pub(super) struct Input<R> {
    reader: R,
    text_field: String,
    id_field: String,
    at: Position,
}

impl<R: BufRead> Input<R> {
    /// Reads on from `at`; the reader must stand there.
    pub(super) fn new(reader: R, at: Position, text_field: &str, id_field: &str) -> Self {
        Self { reader, text_field: text_field.to_owned(), id_field: id_field.to_owned(), at }
    }

    /// The next row; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Row>> {
        loop {
            let (line, length) = read_line(&mut self.reader, MAX_LINE)?;
            if length == 0 {
                return Ok(None);
            }
            self.at.bytes += length;
            self.at.lines += 1;
            if line.as_ref().is_ok_and(|line| line.trim_ascii().is_empty()) {
                continue;
            }
            let number = self.at.rows;
            self.at.rows += 1;
            let (id, text) = match line {
                Ok(line) => self.parse(&line),
                Err(TooLong) => (None, Err(format!("longer than {MAX_LINE} bytes"))),
            };
            let error = |reason| WireError::new(ErrorCode::InvalidRequest, format!("line {}: {reason}", self.at.lines));
            return Ok(Some(Row {
                number,
                id: id.unwrap_or_else(|| number.into()),
                text: text.map_err(error),
                end: self.at,
            }));
        }
    }

    fn parse(&self, line: &[u8]) -> (Option<Value>, Result<String, String>) {
        let mut row: Map<String, Value> = match serde_json::from_slice(line) {
            Ok(row) => row,
            Err(error) => return (None, Err(format!("not a JSON object: {error}"))),
        };
        let id = match row.remove(&self.id_field) {
            Some(Value::Array(_) | Value::Object(_)) => {
                return (None, Err(format!("`{}` must be a string, a number, a boolean or null", self.id_field)));
            }
            id => id,
        };
        let text = match row.remove(&self.text_field) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(format!("`{}` is not a string", self.text_field)),
            None => Err(format!("there is no field `{}`", self.text_field)),
        };
        (id, text)
    }
}

/// The line has more bytes than are read into memory.
#[derive(Debug, PartialEq, Eq)]
struct TooLong;

/// Reads up to and with the next newline. Returns the line and the number of bytes read, 0 at the end.
fn read_line(reader: &mut impl BufRead, limit: usize) -> io::Result<(Result<Vec<u8>, TooLong>, u64)> {
    let mut line = Ok(Vec::new());
    let mut length = 0;
    loop {
        let available = match reader.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let newline = available.iter().position(|byte| *byte == b'\n');
        let taken = newline.map_or(available.len(), |at| at + 1);
        line = match line {
            Ok(mut line) if line.len() + taken <= limit => {
                line.extend_from_slice(&available[..taken]);
                Ok(line)
            }
            _ => Err(TooLong),
        };
        reader.consume(taken);
        length += taken as u64;
        if newline.is_some() || taken == 0 {
            return Ok((line, length));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn rows(text: &str, at: Position) -> Vec<Row> {
        let mut input = Input::new(&text.as_bytes()[at.bytes as usize..], at, "text", "id");
        std::iter::from_fn(|| input.next().unwrap()).collect()
    }

    #[test]
    fn rows_have_ids_and_numbers() {
        let text = "{\"text\":\"a\"}\n\n{\"id\":\"x\",\"text\":\"b\",\"more\":[1]}\n";
        let rows = rows(text, Position::default());
        assert_eq!(rows.iter().map(|r| r.id.clone()).collect::<Vec<_>>(), [json!(0), json!("x")]);
        assert_eq!(rows[1].end, Position { bytes: text.len() as u64, lines: 3, rows: 2 });
    }

    #[test]
    fn bad_rows_name_their_line_and_keep_their_id() {
        let text = "nonsense\n{\"id\":1}\n\n{\"id\":2,\"text\":3}\n{\"id\":[],\"text\":\"t\"}\n[1]";
        let rows = rows(text, Position::default());
        let errors: Vec<_> = rows.iter().map(|r| r.text.clone().unwrap_err().message).collect();
        for (error, expected) in errors.iter().zip([
            "line 1: not a JSON object",
            "line 2: there is no field `text`",
            "line 4: `text` is not a string",
            "line 5: `id` must be",
            "line 6: not a JSON object",
        ]) {
            assert!(error.starts_with(expected), "{error}");
        }
        assert_eq!(
            rows.iter().map(|r| r.id.clone()).collect::<Vec<_>>(),
            [json!(0), json!(1), json!(2), json!(3), json!(4)]
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped() {
        let mut reader = io::BufReader::with_capacity(3, "0123456789\nab\n".as_bytes());
        assert_eq!(read_line(&mut reader, 8).unwrap(), (Err(TooLong), 11));
        assert_eq!(read_line(&mut reader, 8).unwrap(), (Ok(b"ab\n".to_vec()), 3));
        assert_eq!(read_line(&mut reader, 8).unwrap(), (Ok(vec![]), 0));
    }

    proptest! {
        /// Reading on from the end of any row gives what reading through gives.
        #[test]
        fn reading_can_go_on_anywhere(lines in prop::collection::vec("[ a{}\":1]{0,6}|\\{\"text\":\"[a-z]*\"\\}", 0..12), cut in 0usize..12) {
            let text = lines.join("\n");
            let all = rows(&text, Position::default());
            if let Some(row) = all.get(cut) {
                prop_assert_eq!(&rows(&text, row.end)[..], &all[cut + 1..]);
            }
        }
    }
}
