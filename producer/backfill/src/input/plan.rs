//! What is read, decided once: when the backfill begins.

use std::{
    cmp::Ordering,
    collections::HashSet,
    io::{self, BufReader, Read},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use arrow_schema::{Schema, SchemaRef};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::{
    Rows, columns, count,
    fields::{Fields, is_column},
    find::{Found, Stores, find, is_remote},
    format::{Compression, Format, by_ending, by_magic},
    identity, in_a_thread, is_stream,
    look::{self, Look, choose},
    remote::{Object, Remote},
    select::Selection,
    source::{Source, Text, standard_input},
};
use crate::{Error, Parameters, row::Position};

/// What is read, as it was when the backfill began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The files, in the order in which they are read. One that is called `-` is standard input.
    pub files: Vec<InputFile>,
    /// The field that is taken for the text, where nothing was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_field: Option<String>,
    /// The field that is taken for the id, where nothing was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_field: Option<String>,
    /// What comes along into an output that has columns: the id, if there is one, then the others. `None`: JSON comes along.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "columns::written")]
    pub columns: Option<SchemaRef>,
    /// What the user should know of these choices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What the ids of jobs have in them since a file was read as it was mended, so that none has the id of a job of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mended: Option<String>,
    /// What has been read of standard input.
    #[serde(skip)]
    pub(crate) head: Vec<u8>,
}

/// A file that is read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputFile {
    /// Its path or address, or `-`.
    pub location: String,
    /// Bytes. `None` of standard input.
    pub bytes: Option<u64>,
    /// SHA-256 of these bytes in hexadecimal digits, if it is known.
    pub sha256: Option<String>,
    /// What tells it from another of the same size, if that is not known: the tag that an object store gives it, or the time of its last
    /// change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Why nothing can be read of it, where it is left out for that: a failed row stands for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
    /// Its format.
    #[serde(default)]
    pub format: Format,
    /// How it is compressed as a whole.
    #[serde(default, skip_serializing_if = "Compression::is_none")]
    pub compression: Compression,
}

impl InputFile {
    fn unreadable(location: String, error: &Error) -> Self {
        let said = error.to_string();
        let reason = said.strip_prefix(&format!("{location}: ")).unwrap_or(&said).to_owned();
        Self { location, unreadable: Some(reason), ..Self::default() }
    }
}

/// In what form fields come along: as the output needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carry {
    /// As JSON.
    Json,
    /// As columns, which the plan names.
    Columns,
}

impl Plan {
    /// Looks at what is to be read.
    ///
    /// # Errors
    /// If there is nothing, a file cannot be read, or a column that is named is not there.
    pub(crate) async fn make(parameters: &Parameters, carry: Carry) -> Result<Self, Error> {
        Self::make_from(parameters, carry, Stores::default()).await
    }

    pub(super) async fn make_from(parameters: &Parameters, carry: Carry, stores: Stores) -> Result<Self, Error> {
        let mut plan = Self::default();
        let skip_bad_files = parameters.reading.skip_bad_files;
        let mut digested = 0;
        let (mut seen, mut twice) = (HashSet::new(), Vec::new());
        for input in &parameters.inputs {
            if is_stream(input) {
                plan.files.push(InputFile { location: input.clone(), ..InputFile::default() });
                continue;
            }
            for found in find(&stores, input, parameters.reading.format.is_some(), &mut plan.notes).await? {
                // By a link, too.
                let real = match &found {
                    Found::Remote(location, _) => location.into(),
                    Found::Local(path) => std::fs::canonicalize(path).unwrap_or_else(|_| path.clone()),
                };
                if !seen.insert(real) {
                    twice.push(found.location());
                    continue;
                }
                plan.files.push(match found {
                    Found::Remote(location, meta) => identity::of_object(location, &meta),
                    Found::Local(path) => {
                        let may_read = identity::DIGESTED.saturating_sub(digested);
                        let location = path.to_string_lossy().into_owned();
                        match in_a_thread(move || identity::look(&path, may_read)).await {
                            // One that is not there is named by mistake.
                            Err(error) if skip_bad_files && Path::new(&location).exists() => {
                                InputFile { bytes: Some(0), ..InputFile::unreadable(location, &error) }
                            }
                            looked => {
                                let file = looked?;
                                digested += file.sha256.as_ref().and(file.bytes).unwrap_or(0);
                                file
                            }
                        }
                    }
                });
            }
        }
        if let Some(first) = twice.first() {
            plan.notes.push(format!("{first}: it is named twice, and read once ({} such files)", twice.len()));
        }
        if plan.files.iter().filter(|file| is_stream(&file.location)).count() > 1 {
            return Err(Error::Backfill("standard input can be read once: name `-` once".into()));
        }
        let parameters = parameters.clone();
        let runtime = Handle::try_current().ok();
        in_a_thread(move || {
            let opener = Opener { stores, runtime };
            plan.find_formats(&parameters, &opener)?;
            plan.choose(&parameters, carry, &opener)?;
            Ok(plan)
        })
        .await
    }

    fn find_formats(&mut self, parameters: &Parameters, opener: &Opener) -> Result<(), Error> {
        for file in &mut self.files {
            if file.unreadable.is_some() {
                continue;
            }
            match find_format(file, parameters, opener) {
                Err(error) if parameters.reading.skip_bad_files => {
                    *file = InputFile { bytes: file.bytes, ..InputFile::unreadable(file.location.clone(), &error) };
                    continue;
                }
                found => found?,
            }
            if file.bytes == Some(0) {
                self.notes.push(format!("{}: it is empty", file.location));
            }
        }
        Ok(())
    }

    /// Decides on fields and columns by the first file that has any.
    fn choose(&mut self, parameters: &Parameters, carry: Carry, opener: &Opener) -> Result<(), Error> {
        let mut look = None;
        for file in &self.files {
            let found = if is_stream(&file.location) {
                // Whoever writes to it may take long. Lines of JSON have the usual names, if nothing else is said.
                if carry == Carry::Json && file.format == Format::Jsonl {
                    continue;
                }
                let head = Head::default();
                let found = look_at_stream(file, &head);
                self.head = head.taken();
                found
            } else if file.unreadable.is_some() || file.bytes == Some(0) && file.format.is_lines() {
                continue;
            } else {
                opener.open(file).and_then(|source| look_at(file, source))
            };
            match found {
                Ok(Some(found)) => {
                    look = Some((file.location.clone(), found));
                    break;
                }
                Ok(None) => {}
                // It is told again, as a row that failed, when it is read.
                Err(_) if parameters.reading.skip_bad_files => {}
                Err(error) => return Err(Error::file(&file.location)(error)),
            }
        }
        if let Some((location, look)) = &look {
            let chosen = choose(look, parameters, location).map_err(Error::Backfill)?;
            (self.text_field, self.id_field) = (chosen.text, chosen.id);
            self.notes.extend(chosen.notes);
        }
        // Which names are taken depends on whether there are columns.
        self.columns = (carry == Carry::Columns).then(|| Arc::new(Schema::empty()));
        let fields = Fields::planned(parameters, self).map_err(Error::Backfill)?;
        if carry == Carry::Columns {
            let schema = match &look {
                Some((_, Look::Table(schema))) => columns::of_table(schema, &fields).map_err(Error::Backfill)?,
                Some((_, Look::Header(names))) => columns::of_header(names, &fields).map_err(Error::Backfill)?,
                Some((_, Look::Rows(rows))) => columns::of_rows(rows, &fields),
                None => columns::of_rows(&[], &fields),
            };
            let mut names = schema.fields().iter().map(|field| field.name());
            if let Some(name) = names.find(|name| is_column(name)) {
                return Err(Error::Backfill(format!(
                    "`{name}` cannot come along, since the output has a column of that name: rename it in the input, or name others with --keep"
                )));
            }
            self.columns = Some(Arc::new(schema));
        }
        Ok(())
    }

    /// Rows of this shard up to a position, and all of them, before any is left out for another reason: `None` unless all files say how many
    /// they have.
    pub(crate) async fn count(&self, parameters: &Parameters, until: Position) -> Option<(u64, u64)> {
        let (files, reading) = (self.files.clone(), parameters.reading.clone());
        let opener = Opener { stores: Stores::default(), runtime: Handle::try_current().ok() };
        if files.iter().any(|file| file.format != Format::Parquet || file.unreadable.is_some()) {
            return None;
        }
        let count = in_a_thread(move || {
            let (mut among, mut all) = (0, 0);
            for (n, file) in files.iter().enumerate() {
                let selection = Selection::of(&reading, n, &file.location);
                let first = match n.cmp(&until.file) {
                    Ordering::Less => u64::MAX,
                    Ordering::Equal => until.lines,
                    Ordering::Greater => 0,
                };
                let rows = opener.open(file).and_then(|source| count::rows(source, selection, first));
                let (more, rows) = rows.map_err(Error::file(&file.location))?;
                (among, all) = (among + more, all + rows);
            }
            Ok((among, all))
        });
        // Whoever reads it says what is wrong.
        count.await.ok()
    }

    /// Bytes of all files. `None` if standard input is one.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Bytes before a position, of all files.
    #[must_use]
    pub fn bytes_before(&self, at: Position) -> u64 {
        self.files.iter().take(at.file).filter_map(|file| file.bytes).sum::<u64>() + at.bytes
    }

    /// Whether a run can go on: what standard input held is gone.
    #[must_use]
    pub fn can_be_read_again(&self) -> bool {
        self.files.iter().all(|file| !is_stream(&file.location))
    }

    /// Opens the files at a position.
    ///
    /// # Errors
    /// If a field cannot come along.
    pub(crate) fn rows(&self, parameters: &Parameters, at: Position) -> Result<Rows, Error> {
        self.rows_from(parameters, at, Stores::default())
    }

    pub(super) fn rows_from(&self, parameters: &Parameters, at: Position, stores: Stores) -> Result<Rows, Error> {
        let fields = Fields::planned(parameters, self).map_err(Error::Backfill)?;
        let opener = Opener { stores, runtime: Handle::try_current().ok() };
        Ok(Rows::new(self.clone(), fields, parameters.reading.clone(), opener, at))
    }
}

/// Finds out what a file is.
pub(super) fn find_format(file: &mut InputFile, parameters: &Parameters, opener: &Opener) -> Result<(), Error> {
    let (format, compression) = by_ending(&file.location);
    (file.format, file.compression) = match parameters.reading.format.or(format) {
        Some(format) => (format, compression),
        // Standard input cannot be looked at without waiting for it.
        None if is_stream(&file.location) || compression != Compression::None => (Format::Jsonl, compression),
        None => {
            let head = opener.open(file).and_then(|source| source.head()).map_err(Error::file(&file.location))?;
            by_magic(&head).unwrap_or_default()
        }
    };
    if !file.format.is_lines() {
        file.compression = Compression::None;
        if compression != Compression::None {
            return Err(Error::Backfill(format!(
                "{}: a table is compressed within its file, and not as a whole: decompress it",
                file.location
            )));
        }
    }
    Ok(())
}

/// Opens files, wherever they are.
pub(super) struct Opener {
    pub(super) stores: Stores,
    /// What waits for object stores.
    pub(super) runtime: Option<Handle>,
}

impl Opener {
    pub(super) fn open(&self, file: &InputFile) -> io::Result<Source> {
        let bytes = file.bytes.unwrap_or(u64::MAX);
        if !is_remote(&file.location) {
            return Source::local(&file.location, bytes);
        }
        let (store, path) = self.stores.open(&file.location).map_err(io::Error::other)?;
        let runtime = self.runtime.clone().ok_or_else(|| io::Error::other("there is no runtime to read it with"))?;
        // A tag that we made ourselves says nothing to the store.
        let e_tag = file.tag.clone().filter(|tag| !tag.starts_with("changed "));
        Ok(Source::remote(Remote::new(Object { store, path, e_tag, bytes }, runtime), bytes))
    }
}

fn look_at(file: &InputFile, source: Source) -> io::Result<Option<Look>> {
    if file.format.is_lines() {
        return Look::at_text(Text::open(source, file.compression, 0)?, file.format, look::ROWS);
    }
    Look::at_table(source, file.format).map(Some)
}

/// Looks at the first row of standard input, whose bytes are kept: whoever writes it may take long for a second one.
fn look_at_stream(file: &InputFile, head: &Head) -> io::Result<Option<Look>> {
    let stream = Kept { inner: standard_input()?, head: head.clone() };
    if file.format == Format::Arrow {
        return look::at_stream(Box::new(stream)).map(Some);
    }
    if !file.format.is_lines() {
        return Err(io::Error::other(
            "Parquet cannot be read from standard input, since its end comes first: write it to a file",
        ));
    }
    Look::at_text(BufReader::new(stream), file.format, 1)
}

/// What has been read of a stream.
#[derive(Clone, Default)]
struct Head(Arc<Mutex<Vec<u8>>>);

impl Head {
    fn taken(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A stream of which what is read is kept.
struct Kept<R> {
    inner: R,
    head: Head,
}

impl<R: Read> Read for Kept<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.head.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_of_a_stream_is_kept() {
        let head = Head::default();
        let mut stream = Kept { inner: &b"one\ntwo\n"[..], head: head.clone() };
        stream.read_exact(&mut [0; 5]).unwrap();
        assert_eq!(head.taken(), b"one\nt");
    }
}
