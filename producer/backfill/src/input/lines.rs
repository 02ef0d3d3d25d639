//! JSON lines, as rows: an id, a text and what comes along with them, or what is wrong with the line.

use std::io::{self, BufRead};

use embed_schemas::{ErrorCode, WireError};

use super::{
    fields::{Fields, Read},
    select::Selection,
};
use crate::row::{Along, Label, Origin, Position, Row};

/// Longest line that is read into memory.
pub(super) const MAX_LINE: usize = 64 * 1024 * 1024;
/// What some programs write before the first line.
pub(super) const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The rows of a file.
#[derive(Debug)]
pub(super) struct Lines<R> {
    reader: R,
    fields: Fields,
    selection: Selection,
    at: Position,
}

impl<R: BufRead> Lines<R> {
    /// Reads on from `at`; the reader must stand there.
    pub(super) const fn new(reader: R, at: Position, fields: Fields, selection: Selection) -> Self {
        Self { reader, fields, selection, at }
    }

    /// What is read from.
    pub(super) const fn reader(&self) -> &R {
        &self.reader
    }

    /// The next row; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Row>> {
        loop {
            let (line, length) = read_line(&mut self.reader, MAX_LINE)?;
            if length == 0 {
                return Ok(None);
            }
            let is_first = self.at.lines == 0;
            self.at.bytes += length;
            self.at.lines += 1;
            let line = line.as_deref().map(|line| match line.strip_prefix(BYTE_ORDER_MARK) {
                Some(rest) if is_first => rest,
                _ => line,
            });
            if line.is_ok_and(|line| line.trim_ascii().is_empty()) || !self.selection.takes_line(self.at.lines) {
                continue;
            }
            let read = match line {
                Ok(line) => self.fields.read(line).transpose(),
                Err(TooLong) => Some(Err(format!("longer than {MAX_LINE} bytes"))),
            };
            if let Some(read) = read {
                let line = self.at.lines;
                return Ok(Some(row(&mut self.at, line, read)));
            }
        }
    }
}

/// The row that ends at `at`, and was begun on a line; it is counted.
pub(super) fn row(at: &mut Position, line: u64, read: Result<Read, String>) -> Row {
    let number = at.rows;
    at.rows += 1;
    let Read { id, text, along } =
        read.unwrap_or_else(|reason| Read { id: None, text: Err(reason), along: String::new() });
    let error = |reason| WireError::new(ErrorCode::InvalidRequest, format!("line {line}: {reason}"));
    Row {
        number,
        label: id.map_or(Label::Line(line), Label::Id),
        content: text.map_err(error),
        along: Along::Json(along),
        digest: None,
        reused: false,
        origin: Origin { file: at.file, line },
        end: *at,
    }
}

/// Skips lines of a text.
pub(super) fn skip(reader: &mut impl BufRead, lines: u64) -> io::Result<()> {
    for _ in 0..lines {
        // What is longer than none is dropped.
        let _ = read_line(reader, 0)?;
    }
    Ok(())
}

/// The line has more bytes than are read into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong;

/// Reads up to and with the next newline. Returns the line and the number of bytes read, 0 at the end.
pub(super) fn read_line(reader: &mut impl BufRead, limit: usize) -> io::Result<(Result<Vec<u8>, TooLong>, u64)> {
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

    use super::*;
    use crate::{Parameters, Reading};

    fn fields(keep: &[&str]) -> Fields {
        let keep = keep.iter().map(ToString::to_string).collect();
        Fields::of(&Parameters { keep, ..crate::tests::parameters() }).unwrap()
    }

    fn rows_with(keep: &[&str], text: &str, at: Position) -> Vec<Row> {
        let selection = Selection::of(&Reading::default(), 0, "f");
        let mut input = Lines::new(&text.as_bytes()[at.bytes as usize..], at, fields(keep), selection);
        std::iter::from_fn(|| input.next().unwrap()).collect()
    }

    fn rows(text: &str, at: Position) -> Vec<Row> {
        rows_with(&[], text, at)
    }

    fn id(json: &str) -> Label {
        Label::Id(json.into())
    }

    #[test]
    fn rows_have_ids_or_lines() {
        let text = "{\"text\":\"a\"}\n\n{\"id\":\"x\",\"text\":\"b\",\"more\":[1]}\n";
        let rows = rows(text, Position::default());
        assert_eq!(rows.iter().map(|row| row.label.clone()).collect::<Vec<_>>(), [Label::Line(1), id("\"x\"")]);
        assert_eq!(rows.iter().map(|row| row.number).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(rows[1].end, Position { file: 0, bytes: text.len() as u64, lines: 3, rows: 2 });
    }

    #[test]
    fn ids_are_carried_on_as_they_were_written() {
        for written in [
            "18446744073709551616",
            "-123456789012345678901234567890",
            "1.10",
            "1e400",
            "0.1000000000000000055511151231257827",
            "\"\\u00e4\"",
            "null",
            "false",
            "[1, 2]",
            "{\"b\": 1.0, \"a\":2}",
        ] {
            let row = &rows(&format!("{{\"id\": {written} , \"text\": \"t\"}}"), Position::default())[0];
            assert_eq!((&row.label, row.content.as_deref()), (&id(written), Ok("t")));
        }
    }

    #[test]
    fn bad_rows_name_their_line_and_keep_their_id() {
        let text = "nonsense\n{\"id\":1}\n\n{\"id\":2,\"text\":3}\n{\"id\":3,\"text\":\"\\ud83d\"}\n[1]";
        let rows = rows(text, Position::default());
        let errors: Vec<_> = rows.iter().map(|r| r.content.clone().unwrap_err().message).collect();
        for (error, expected) in errors.iter().zip([
            "line 1: not a JSON object",
            "line 2: there is no field `text`",
            "line 4: `text` is not a string",
            "line 5: not a JSON object: unexpected end of hex escape, in `text`",
            "line 6: not a JSON object",
        ]) {
            assert!(error.starts_with(expected), "{error}");
        }
        assert_eq!(
            rows.iter().map(|r| r.label.clone()).collect::<Vec<_>>(),
            [Label::Line(1), id("1"), id("2"), Label::Line(5), Label::Line(6)]
        );
    }

    #[test]
    fn a_byte_order_mark_is_skipped_where_it_is_one() {
        let text = "\u{feff}{\"id\":1,\"text\":\"a\"}\n\u{feff}{\"id\":2,\"text\":\"b\"}\n";
        let all = rows(text, Position::default());
        assert_eq!((&all[0].label, &all[1].label), (&id("1"), &Label::Line(2)));
        assert_eq!(rows(text, all[0].end)[..], all[1..]);
    }

    #[test]
    fn other_fields_come_along() {
        let text = "{\"n\": 1.50, \"id\": 1, \"text\": \"a\", \"\\\"x\": {\"y\": []}}";
        let along = |keep: &[&str]| match rows_with(keep, text, Position::default())[0].along.clone() {
            Along::Json(json) => json,
            other => panic!("{other:?}"),
        };
        assert_eq!(along(&[]), "");
        assert_eq!(along(&["n", "missing"]), ",\"n\":1.50");
        assert_eq!(along(&["all"]), ",\"\\\"x\":{\"y\": []},\"n\":1.50");
        assert_eq!(along(&["n", "text"]), ",\"n\":1.50,\"text\":\"a\"");
        let row = &rows_with(&["all"], "{\"text\":\"a\",\"embedding\":1}", Position::default())[0];
        assert!(row.content.as_ref().unwrap_err().message.contains("`embedding` cannot come along"), "{row:?}");
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
