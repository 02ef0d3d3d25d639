//! Rows of CSV and TSV: the first record names the columns, every value is a string.
//!
//! A record with a stray quote, or with too many or too few fields, is a bad row. It ends with the line on which it begins: a quote that nobody
//! closes does not take the rows below with it.

use std::{
    borrow::Cow,
    collections::VecDeque,
    io::{self, BufRead},
};

use super::{
    fields::{Fields, Read, TextOf, not_utf8, put, unplanned},
    format::Format,
    lines::{BYTE_ORDER_MARK, MAX_LINE, TooLong, read_line, row},
    select::Selection,
};
use crate::row::{Position, Row};

/// Most bytes of a record of several lines. One that seems to have more has a quote that is not closed.
const MAX_RECORD: usize = 16 << 20;

/// The rows of a file.
pub(super) struct Records<R> {
    lines: Lines<R>,
    header: Header,
    fields: Fields,
    selection: Selection,
    at: Position,
}

/// The names of columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) names: Vec<String>,
    delimiter: u8,
}

impl Header {
    /// Reads the first record; `None` of a file that has none.
    pub(super) fn read(mut reader: impl BufRead, format: Format) -> io::Result<Option<(Self, Position)>> {
        let delimiter = if format == Format::Tsv { b'\t' } else { b',' };
        let mut at = Position::default();
        if reader.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
            reader.consume(BYTE_ORDER_MARK.len());
            at.bytes = BYTE_ORDER_MARK.len() as u64;
        }
        let mut lines = Lines { reader, pushed_back: VecDeque::new() };
        let Some(record) = lines.record(&mut at, delimiter, None)? else { return Ok(None) };
        let line = record.line;
        let wrong = |reason: String| io::Error::other(format!("line {line}, which names the columns: {reason}"));
        let bytes = record.bytes.map_err(wrong)?;
        let names = parsed(&bytes, delimiter).map_err(wrong)?;
        let twice = names.iter().enumerate().find(|(n, name)| names[..*n].contains(name));
        if let Some((_, name)) = twice {
            return Err(wrong(format!("there are two called `{name}`")));
        }
        Ok(Some((Self { names, delimiter }, at)))
    }

    /// Makes sure that there is an id, if one was named, or found in another file.
    pub(super) fn check(&self, fields: &Fields) -> io::Result<()> {
        let Fields { id, needs_id, .. } = fields;
        if *needs_id && !self.names.contains(id) {
            return Err(io::Error::other(format!("there is no column `{id}`: there are {}", self.names.join(", "))));
        }
        Ok(())
    }

    fn value<'a>(&self, record: &'a [String], name: &str) -> Option<&'a str> {
        let at = self.names.iter().position(|known| known == name)?;
        record.get(at).map(String::as_str)
    }
}

impl<R: BufRead> Records<R> {
    /// Reads on from `at`, which is behind the header; the reader must stand there.
    pub(super) fn new(reader: R, at: Position, header: Header, fields: Fields, selection: Selection) -> Self {
        Self { lines: Lines { reader, pushed_back: VecDeque::new() }, header, fields, selection, at }
    }

    /// What is read from.
    pub(super) const fn reader(&self) -> &R {
        &self.lines.reader
    }

    /// The next row; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Row>> {
        while let Some(record) =
            self.lines.record(&mut self.at, self.header.delimiter, Some(self.header.names.len()))?
        {
            if self.selection.takes_line(record.line)
                && let Some(read) = record.bytes.and_then(|bytes| self.read(&bytes)).transpose()
            {
                return Ok(Some(row(&mut self.at, record.line, read)));
            }
        }
        Ok(None)
    }

    fn read(&self, bytes: &[u8]) -> Result<Option<Read>, String> {
        let Self { header, fields, .. } = self;
        let record = parsed(bytes, header.delimiter)?;
        let (has, names) = (record.len(), header.names.len());
        if has != names {
            return Err(format!("it has {has} fields, and the header {names}: is a quote missing, or one too many?"));
        }
        let value = |name: &str| header.value(&record, name).filter(|text| !text.is_empty()).map(Cow::Borrowed);
        if !fields.takes(value) {
            return Ok(None);
        }
        let mut text = match &fields.text {
            TextOf::Template(template) => template.fill(value),
            TextOf::Field(name) => header
                .value(&record, name)
                .map(ToOwned::to_owned)
                .ok_or_else(|| format!("there is no column `{name}`: there are {}", header.names.join(", "))),
        };
        let mut along = String::new();
        for (name, value) in header.names.iter().zip(&record) {
            if fields.is_among_all(name) || fields.kept().any(|kept| kept == name) {
                if fields.columns.as_ref().is_some_and(|columns| !columns.iter().any(|column| column == name)) {
                    text = Err(unplanned(name));
                } else if fields.is_taken(name) {
                    text = Err(format!("`{name}` cannot come along, since the output has a field of that name"));
                } else {
                    put(&mut along, name, &quoted(value));
                }
            }
        }
        Ok(Some(Read { id: value(&fields.id).map(|id| quoted(&id)), text, along }))
    }
}

fn quoted(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

/// The fields of a record that is well-formed.
/// Whether lines that are one record by their quotes have so many fields.
fn has_fields(first: &[u8], more: &[Vec<u8>], delimiter: u8, names: usize) -> bool {
    let lines: Vec<u8> = first.iter().chain(more.iter().flatten()).copied().collect();
    parsed(&lines, delimiter).is_ok_and(|record| record.len() == names)
}

fn parsed(bytes: &[u8], delimiter: u8) -> Result<Vec<String>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| not_utf8(&error))?;
    let mut reader =
        csv::ReaderBuilder::new().delimiter(delimiter).has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut record = csv::StringRecord::new();
    reader.read_record(&mut record).map_err(|error| error.to_string())?;
    let fields = record.iter().map(ToOwned::to_owned).collect();
    if reader.read_record(&mut record).map_err(|error| error.to_string())? {
        return Err("there is a carriage return in it without a line feed behind it".into());
    }
    Ok(fields)
}

/// A record as it is written.
struct Record {
    /// The line on which it begins, counted from 1.
    line: u64,
    bytes: Result<Vec<u8>, String>,
}

type Line = (Result<Vec<u8>, TooLong>, u64);

/// Lines of a file, some of which have been read too early.
struct Lines<R> {
    reader: R,
    pushed_back: VecDeque<Line>,
}

impl<R: BufRead> Lines<R> {
    fn line(&mut self) -> io::Result<Line> {
        self.pushed_back.pop_front().map_or_else(|| read_line(&mut self.reader, MAX_LINE), Ok)
    }

    /// The next record; blank lines are none.
    fn record(&mut self, at: &mut Position, delimiter: u8, names: Option<usize>) -> io::Result<Option<Record>> {
        loop {
            let (line, length) = self.line()?;
            if length == 0 {
                return Ok(None);
            }
            at.bytes += length;
            at.lines += 1;
            let number = at.lines;
            let line = match line {
                Ok(line) if line.iter().all(|byte| b"\r\n".contains(byte)) => continue,
                Ok(line) => line,
                Err(TooLong) => {
                    return Ok(Some(Record { line: number, bytes: Err(format!("longer than {MAX_LINE} bytes")) }));
                }
            };
            return Ok(Some(Record { line: number, bytes: self.rest(line, at, delimiter, names)? }));
        }
    }

    /// The lines of a record, of which the first has been read; only those that belong to it are behind `at`.
    fn rest(
        &mut self,
        first: Vec<u8>,
        at: &mut Position,
        delimiter: u8,
        names: Option<usize>,
    ) -> io::Result<Result<Vec<u8>, String>> {
        let mut quotes = Quotes::Outside;
        let mut more: Vec<Vec<u8>> = Vec::new();
        let mut size = first.len();
        let wrong = loop {
            match quotes.after(more.last().unwrap_or(&first), delimiter) {
                Err(column) => {
                    let line = at.lines + more.len() as u64;
                    break format!(
                        "there is text behind a closing quote, on line {line}, at byte {column}: a quote in a value is written twice"
                    );
                }
                Ok(Quotes::Inside) => {}
                Ok(_)
                    if !more.is_empty() && names.is_some_and(|names| !has_fields(&first, &more, delimiter, names)) =>
                {
                    let lines = more.len() + 1;
                    break format!(
                        "a quote on it makes a record of {lines} lines with another number of fields than the header has"
                    );
                }
                Ok(_) => {
                    at.lines += more.len() as u64;
                    at.bytes += more.iter().map(|line| line.len() as u64).sum::<u64>();
                    let mut record = first;
                    more.iter().for_each(|line| record.extend_from_slice(line));
                    return Ok(Ok(record));
                }
            }
            match self.line()? {
                (Ok(line), length) if length > 0 && size + line.len() <= MAX_RECORD => {
                    size += line.len();
                    more.push(line);
                }
                beyond => {
                    if beyond.1 > 0 {
                        self.pushed_back.push_front(beyond);
                    }
                    break "a quote is opened on it and never closed".into();
                }
            }
            quotes = Quotes::Inside;
        };
        // They were taken from the front, if they had been there already.
        for line in more.into_iter().rev() {
            let length = line.len() as u64;
            self.pushed_back.push_front((Ok(line), length));
        }
        Ok(Err(wrong))
    }
}

/// Where in a record we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quotes {
    /// In no quoted field.
    Outside,
    Inside,
}

impl Quotes {
    /// After a line. The error is the byte, counted from 1, of what stands behind a closing quote. A quote within a field that does not begin
    /// with one is text.
    fn after(self, line: &[u8], delimiter: u8) -> Result<Self, usize> {
        let (mut quotes, mut begins) = (self, true);
        let mut bytes = line.iter().enumerate().peekable();
        while let Some((_, &byte)) = bytes.next() {
            match (quotes, byte) {
                (Self::Outside, b'"') if begins => quotes = Self::Inside,
                (Self::Outside, _) => begins = byte == delimiter,
                (Self::Inside, b'"') => {
                    if bytes.next_if(|(_, next)| **next == b'"').is_some() {
                        continue;
                    }
                    quotes = Self::Outside;
                    begins = false;
                    match bytes.peek() {
                        None => {}
                        Some((_, next)) if **next == delimiter || **next == b'\n' => {}
                        Some((at, b'\r')) if line.get(at + 1).is_none_or(|next| *next == b'\n') => {}
                        Some((at, _)) => return Err(at + 1),
                    }
                }
                (Self::Inside, _) => {}
            }
        }
        Ok(quotes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Parameters, Reading,
        row::{Along, Label},
    };

    fn rows_of(text: &[u8], at: Option<Position>, format: Format) -> Vec<Row> {
        let parameters = Parameters { keep: vec!["all".into()], ..crate::tests::parameters() };
        let fields = Fields::of(&parameters).unwrap();
        let Some((header, start)) = Header::read(text, format).unwrap() else { return Vec::new() };
        let at = at.unwrap_or(start);
        let selection = Selection::of(&Reading::default(), 0, "f");
        let mut records = Records::new(&text[at.bytes as usize..], at, header, fields, selection);
        std::iter::from_fn(|| records.next().unwrap()).collect()
    }

    fn rows(text: &str) -> Vec<Row> {
        rows_of(text.as_bytes(), None, Format::Csv)
    }

    fn shown(rows: &[Row]) -> Vec<String> {
        let text = |row: &Row| row.content.clone().unwrap_or_else(|error| error.message);
        rows.iter().map(text).collect()
    }

    #[test]
    fn values_are_strings_under_the_names_of_the_first_line() {
        let rows = rows("\u{feff}id,text,\"n,m\"\r\n\r\n1,\"a \"\"b\"\"\r\nc\",007\r\n,5\" pipe,\r\n");
        assert_eq!(shown(&rows), ["a \"b\"\r\nc", "5\" pipe"]);
        assert_eq!((&rows[0].label, &rows[1].label), (&Label::Id("\"1\"".into()), &Label::Line(5)));
        assert_eq!(rows[0].along, Along::Json(",\"n,m\":\"007\"".into()));
        assert_eq!(rows[0].end.lines, 4);
        let tabs = rows_of(b"id\ttext\n1\ta,b\n", None, Format::Tsv);
        assert_eq!(shown(&tabs), ["a,b"]);
    }

    #[test]
    fn a_stray_quote_costs_its_own_row_only() {
        let rows = rows("id,text\n1,\"abc\n2,def\n3,\"x\"\n4,\"y\"z\n5,a,b\n6,ok\n7,\"never\n8,last");
        assert_eq!(shown(&rows)[1..3], ["def", "x"]);
        let said = shown(&rows);
        for (n, part) in [
            (0, "line 2: there is text behind a closing quote, on line 4, at byte 4"),
            (3, "line 5: there is text behind a closing quote, on line 5, at byte 6"),
            (4, "line 6: it has 3 fields, and the header 2"),
            (6, "line 8: a quote is opened on it and never closed"),
        ] {
            assert!(said[n].starts_with(part), "{}", said[n]);
        }
        assert_eq!((said[5].as_str(), said[7].as_str(), rows.len()), ("ok", "last", 8));
    }

    /// Another quote may seem to close it, lines below.
    #[test]
    fn a_stray_quote_that_is_closed_by_another_costs_no_row_between() {
        let said = shown(&rows("id,text\n1,\"5 inch\n2,def\n3,x\",y\n4,ok\n5,\"two\nlines\"\n"));
        assert!(said[0].starts_with("line 2: a quote on it makes a record of 3 lines"), "{}", said[0]);
        assert_eq!((said[1].as_str(), said[3].as_str(), said[4].as_str(), said.len()), ("def", "ok", "two\nlines", 5));
    }

    #[test]
    fn other_encodings_and_broken_headers_are_said() {
        let rows = rows_of(b"id,text\n1,caf\xe9\n2,ok\n", None, Format::Csv);
        assert!(shown(&rows)[0].starts_with("line 2: not UTF-8, at byte 6"), "{rows:?}");
        for (text, part) in [("a,a\n", "two called `a`"), ("\"a\n", "line 1, which names the columns: a quote")] {
            let error = Header::read(text.as_bytes(), Format::Csv).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(Header::read(&b"\n"[..], Format::Csv).unwrap().is_none());
    }

    proptest! {
        /// Reading on from the end of any row gives what reading through gives, and no line is lost.
        #[test]
        fn reading_can_go_on_anywhere(lines in prop::collection::vec("[a,\"]{0,6}", 0..12), cut in 0usize..12) {
            let text = format!("id,text\n{}", lines.join("\n"));
            let all = rows(&text);
            if let Some(row) = all.get(cut) {
                prop_assert_eq!(&rows_of(text.as_bytes(), Some(row.end), Format::Csv)[..], &all[cut + 1..]);
            }
            let written = lines.iter().filter(|line| !line.is_empty()).count();
            prop_assert!(all.len() <= written && (written == 0 || !all.is_empty()));
        }

        /// What a writer writes is what is read.
        #[test]
        fn what_is_written_is_read(values in prop::collection::vec("[a,\"\n\r ]{1,6}", 1..12)) {
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(["id", "text"]).unwrap();
            values.iter().for_each(|value| writer.write_record(["1", value]).unwrap());
            let written = writer.into_inner().unwrap();
            prop_assert_eq!(shown(&rows_of(&written, None, Format::Csv)), values);
        }
    }
}
