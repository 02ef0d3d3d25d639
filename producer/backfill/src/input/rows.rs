//! All rows, file after file.

use std::{collections::VecDeque, io, path::Path};

use bytes::Bytes;
use embed_schemas::{ErrorCode, WireError};

use super::{
    InputFile, Plan, Reading,
    cells::Cells,
    columns::{TOGETHER, in_columns},
    csv::{Header, Records},
    fields::Fields,
    format::{Compression, Format},
    is_stream,
    lines::{Lines, skip},
    plan::Opener,
    select::Selection,
    source::{Source, Text, standard_input},
    tables::Input,
};
use crate::{
    Error, Parameters,
    row::{Along, Label, Origin, Position, Row},
};

/// What is said of a row that stands for what was left out of a file.
pub(crate) const REST_OF_A_FILE: &str = "the rest of the file is left out";

/// All rows, read by whoever asks; it may take as long as a file or standard input takes. None of the runtime's own threads may ask if files
/// are in an object store.
pub(crate) struct Rows {
    plan: Plan,
    fields: Fields,
    reading: Reading,
    opener: Opener,
    at: Position,
    open: Option<Open>,
    /// Rows that have been put into columns together.
    ready: VecDeque<Row>,
    /// What ends the rows, once those before it are taken.
    end: Option<Error>,
}

/// A file that is being read.
enum Open {
    Lines(Lines<Text>),
    Records(Records<Text>),
    Cells(Box<Cells>),
}

impl Open {
    fn next(&mut self) -> io::Result<Option<Row>> {
        match self {
            Self::Lines(lines) => lines.next(),
            Self::Records(records) => records.next(),
            Self::Cells(cells) => cells.next(),
        }
    }

    fn text(&self) -> Option<&Text> {
        match self {
            Self::Lines(lines) => Some(lines.reader()),
            Self::Records(records) => Some(records.reader()),
            Self::Cells(_) => None,
        }
    }
}

impl Rows {
    pub(super) const fn new(plan: Plan, fields: Fields, reading: Reading, opener: Opener, at: Position) -> Self {
        Self { plan, fields, reading, opener, at, open: None, ready: VecDeque::new(), end: None }
    }

    fn read(&mut self) -> Result<Option<Row>, Error> {
        loop {
            let Some(file) = self.plan.files.get(self.at.file).cloned() else { return Ok(None) };
            if self.reading.limit.is_some_and(|limit| self.at.rows >= limit) {
                return Ok(None);
            }
            match self.read_file(&file) {
                Ok(Some(row)) => {
                    self.at = row.end;
                    return Ok(Some(row));
                }
                Ok(None) => self.leave_file(),
                Err(error) => {
                    let at = if file.format.is_lines() { "line" } else { "row" };
                    let reason = match self.at.lines {
                        0 => error.to_string(),
                        lines => format!("behind {at} {lines}: {error}"),
                    };
                    if !self.reading.skip_bad_files {
                        return Err(Error::file(&file.location)(io::Error::new(error.kind(), reason)));
                    }
                    return Ok(Some(self.skip_file(&file, &reason)));
                }
            }
        }
    }

    /// The next row of a file; `None` at its end.
    fn read_file(&mut self, file: &InputFile) -> io::Result<Option<Row>> {
        if let Some(reason) = &file.unreadable {
            return Err(io::Error::other(reason.clone()));
        }
        if file.bytes == Some(0) && file.format.is_lines() {
            return Ok(None);
        }
        let open = match self.open.take() {
            Some(open) => Some(open),
            None => self.open_file(file)?,
        };
        // A CSV without a header has nothing else either.
        let Some(open) = open else { return Ok(None) };
        let open = self.open.insert(open);
        let Some(mut row) = open.next()? else {
            open.text().map_or(Ok(()), Text::check_whole)?;
            return Ok(None);
        };
        if file.compression != Compression::None
            && let Some(text) = open.text()
        {
            // Where lines lie in it is of no use to anybody, and how far it has been read is.
            row.end.bytes = text.taken();
        }
        Ok(Some(row))
    }

    fn open_file(&mut self, file: &InputFile) -> io::Result<Option<Open>> {
        let selection = Selection::of(&self.reading, self.at.file, &file.location);
        let fields = self.fields.clone();
        let mut at = self.at;
        if !file.format.is_lines() {
            let input = if is_stream(&file.location) {
                let head = io::Cursor::new(std::mem::take(&mut self.plan.head));
                Input::Stream(Box::new(io::BufReader::new(io::Read::chain(head, standard_input()?))))
            } else {
                Input::Whole(self.opener.open(file)?)
            };
            let columns = self.plan.columns.clone();
            let cells = Cells::open(input, file.format, file.bytes, (fields, columns), selection, at)?;
            return Ok(Some(Open::Cells(Box::new(cells))));
        }
        let is_compressed = file.compression != Compression::None;
        let begun = at.lines > 0;
        let source = if is_stream(&file.location) { None } else { Some(self.opener.open(file)?) };
        let mut text = match source.clone() {
            None => Text::stream(std::mem::take(&mut self.plan.head), file.compression)?,
            Some(source) if is_compressed || file.format != Format::Jsonl => Text::open(source, file.compression, 0)?,
            Some(source) => Text::open(source, Compression::None, at.bytes)?,
        };
        if file.format == Format::Jsonl {
            if is_compressed {
                skip(&mut text, at.lines)?;
            }
            return Ok(Some(Open::Lines(Lines::new(text, at, fields, selection))));
        }
        let Some((header, behind)) = Header::read(&mut text, file.format)? else { return Ok(None) };
        header.check(&fields)?;
        match source {
            Some(source) if begun && !is_compressed => text = Text::open(source, Compression::None, at.bytes)?,
            _ if begun => skip(&mut text, at.lines - behind.lines)?,
            _ => at = Position { file: at.file, rows: at.rows, ..behind },
        }
        Ok(Some(Open::Records(Records::new(text, at, header, fields, selection))))
    }

    fn leave_file(&mut self) {
        self.open = None;
        self.at = Position { file: self.at.file + 1, bytes: 0, lines: 0, rows: self.at.rows };
    }

    /// What stands for the rest of a file that cannot be read.
    fn skip_file(&mut self, file: &InputFile, reason: &str) -> Row {
        let (number, origin) = (self.at.rows, Origin { file: self.at.file, line: self.at.lines + 1 });
        self.leave_file();
        self.at.rows += 1;
        let message = format!("{}: {reason}: {REST_OF_A_FILE}", file.location);
        Row {
            number,
            label: Label::Line(origin.line),
            content: Err(WireError::new(ErrorCode::InvalidRequest, message)),
            along: Along::Nothing,
            digest: None,
            reused: false,
            origin,
            end: self.at,
        }
    }

    /// As [`Rows::read`], with what comes along in columns where it is wanted so.
    fn prepared(&mut self) -> Result<Option<Row>, Error> {
        let Some(columns) = self.plan.columns.clone() else { return self.read() };
        if self.ready.is_empty() {
            let mut rows = Vec::new();
            while rows.len() < TOGETHER && self.end.is_none() {
                match self.read() {
                    Ok(Some(row)) => rows.push(row),
                    Ok(None) => break,
                    Err(error) => self.end = Some(error),
                }
            }
            in_columns(&mut rows, &columns, &self.fields.id);
            self.ready = rows.into();
        }
        match (self.ready.pop_front(), self.end.take()) {
            (Some(row), end) => {
                self.end = end;
                Ok(Some(row))
            }
            (None, Some(error)) => Err(error),
            (None, None) => Ok(None),
        }
    }
}

/// The error of a file that cannot be read, or ends too early, is the last item.
impl Iterator for Rows {
    type Item = Result<Row, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.prepared().transpose()
    }
}

/// Where a row ends, and its text or what is wrong with it.
pub type ReadRow = (Position, Result<String, WireError>);

/// Reads a file as a backfill does, from `at` on: where each row ends, and its text or what is wrong with it.
///
/// # Errors
/// If a field cannot come along, or the file cannot be read.
pub fn read_rows(bytes: Bytes, format: Format, at: Position, parameters: &Parameters) -> Result<Vec<ReadRow>, Error> {
    let fields = Fields::planned(parameters, &Plan::default()).map_err(Error::Backfill)?;
    let selection = Selection::of(&parameters.reading, at.file, "");
    let length = bytes.len() as u64;
    let source = Source::memory(bytes);
    let read = || -> io::Result<Vec<Row>> {
        let mut open = match format {
            Format::Jsonl => {
                Open::Lines(Lines::new(Text::open(source, Compression::None, at.bytes)?, at, fields, selection))
            }
            Format::Csv | Format::Tsv => {
                let begins = Header::read(Text::open(source.clone(), Compression::None, 0)?, format)?;
                let Some((header, behind)) = begins else { return Ok(Vec::new()) };
                let at = if at.lines > 0 { at } else { behind };
                Open::Records(Records::new(
                    Text::open(source, Compression::None, at.bytes)?,
                    at,
                    header,
                    fields,
                    selection,
                ))
            }
            Format::Parquet | Format::Arrow => {
                let input = Input::Whole(source);
                Open::Cells(Box::new(Cells::open(input, format, Some(length), (fields, None), selection, at)?))
            }
        };
        std::iter::from_fn(|| open.next().transpose()).collect()
    };
    let rows = read().map_err(Error::file(Path::new("the input")))?;
    Ok(rows.into_iter().map(|row| (row.end, row.content)).collect())
}
