//! Files of bounded size, each visible when it is complete, and a manifest when all of them are.

use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Mark, PartFormat,
    columns::{Columns, check_names},
    encode::Encoder,
    layout::{Layout, PartFile, StoredFile},
    line::{self, Files},
    manifest::Manifest,
    names::{self, MANIFEST},
    place::Place,
    rows::Rows,
    upload::Upload,
};
use crate::{Error, Plan, State, row::Done};

/// Bytes of rows without a vector after which a part is closed.
const FAILED_BYTES: usize = 8 << 20;

/// An output in parts.
#[derive(Debug)]
pub(crate) struct Parts {
    place: Place,
    layout: Layout,
    files: Files,
    /// What is complete.
    mark: Mark,
    /// Rows that are not encoded yet.
    waiting: Rows,
    open: Option<Part>,
    /// What is on its way to its place while the next part is written.
    closing: Option<AbortOnDropHandle<Result<Closed, Error>>>,
    failed: FailedRows,
    /// Something could not be written: what is written since the last part was closed counts for nothing, whatever is there of it.
    broken: bool,
}

/// Rows without a vector, in lines.
#[derive(Debug, Default)]
struct FailedRows {
    lines: Vec<u8>,
    rows: u64,
}

/// Files that are complete: of rows without a vector, and of those with one.
#[derive(Debug, Default)]
struct Closed {
    failed: Option<PartFile>,
    part: Option<PartFile>,
}

/// A part that is not closed yet.
struct Part {
    number: u32,
    /// It encodes while other rows come.
    encoder: JoinHandle<Result<Encoder, Error>>,
    uploads: Vec<Upload>,
    rows: u64,
    truncated: u64,
    /// Bytes of its vectors.
    bytes: u64,
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part").field("number", &self.number).field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl Parts {
    pub(super) fn new(place: Place, layout: Layout, plan: &Plan) -> Result<Self, Error> {
        if let Some(columns) = &layout.columns {
            check_names(columns)?;
        }
        Ok(Self {
            place,
            layout,
            files: Files::of(plan),
            mark: Mark::default(),
            waiting: Rows::default(),
            open: None,
            closing: None,
            failed: FailedRows::default(),
            broken: false,
        })
    }

    /// Makes sure that nothing is there that is not to be overwritten.
    pub(super) async fn refuse_overwriting(&self) -> Result<(), Error> {
        if self.place.is_empty().await? {
            return Ok(());
        }
        let location = self.place.location();
        Err(Error::Backfill(format!(
            "{location} is not empty: name another folder, or pass --force, which removes the parts and the manifest that are there"
        )))
    }

    /// Goes on after what was recorded. What is there of parts beyond it is removed, and written again: nobody was told of it. `may_write`
    /// is waited for once it is known what is there: whoever takes over after that writes to other files.
    pub(super) async fn go_on(
        &mut self,
        mark: &Mark,
        may_write: impl Future<Output = Result<(), Error>>,
    ) -> Result<(), Error> {
        let location = self.place.location().to_owned();
        let mut found = self.place.list().await?;
        for file in mark.parts.iter().chain(&mark.failed).flat_map(PartFile::files) {
            let StoredFile { name, bytes, .. } = file;
            match found.remove(name) {
                Some(found) if found == *bytes => {}
                Some(found) => {
                    return Err(Error::Backfill(format!(
                        "{location}/{name} has {found} bytes, and {bytes} were recorded: it was changed since; begin anew with --force"
                    )));
                }
                None => {
                    return Err(Error::Backfill(format!(
                        "{location}/{name} was recorded, and is gone: put it back, or begin anew with --force"
                    )));
                }
            }
        }
        may_write.await?;
        // The manifest first: without it, nobody takes the rest for complete.
        let ours = found.into_keys().filter(|name| names::is_ours(name));
        let (manifest, rest): (Vec<String>, Vec<String>) = ours.partition(|name| name == MANIFEST);
        for name in manifest.into_iter().chain(rest) {
            self.place.delete(&name).await?;
        }
        self.place.sweep(names::is_ours)?;
        self.mark = mark.clone();
        Ok(())
    }

    /// Holds no more than so many bytes before they are durable, whatever was asked for.
    pub(crate) fn hold_at_most(&mut self, bytes: u64) {
        self.layout.part_bytes = self.layout.part_bytes.min(bytes);
    }

    /// Takes the rows of a group.
    pub(super) async fn write(&mut self, rows: &[Done]) -> Result<(), Error> {
        // Until it is known to be otherwise.
        let was_broken = std::mem::replace(&mut self.broken, true);
        for row in rows {
            match &row.content {
                Ok(vectors) => {
                    for vector in vectors {
                        self.check_dimensions(vector.values.len())?;
                        self.waiting.push(row, vector);
                    }
                }
                Err(error) => {
                    line::write_rejected(&mut self.failed.lines, row, &self.files, error);
                    self.failed.rows += 1;
                }
            }
        }
        if self.waiting.bytes() >= self.layout.group_bytes || self.waiting.holds_much() {
            self.encode().await?;
        }
        self.broken = was_broken;
        Ok(())
    }

    fn check_dimensions(&mut self, dimensions: usize) -> Result<(), Error> {
        let before = *self.mark.dimensions.get_or_insert(dimensions);
        if before != dimensions {
            return Err(Error::Backfill(format!(
                "results have vectors of {before} and of {dimensions} numbers, which cannot be in one output: the model has changed; begin \
                 anew with --force"
            )));
        }
        Ok(())
    }

    /// Whether so much is written that a part is to be closed.
    pub(crate) fn is_full(&self) -> bool {
        let encoded = self.open.as_ref().map_or(0, |part| part.bytes);
        encoded + self.waiting.bytes() as u64 >= self.layout.part_bytes || self.failed.lines.len() >= FAILED_BYTES
    }

    /// Closes the part that is being written if it is large enough, or `now`. Returns whether all that was written is in complete parts.
    pub(super) async fn settle(&mut self, now: bool) -> Result<bool, Error> {
        if self.broken {
            return Ok(false);
        }
        if !now && !self.is_full() {
            let is_empty = self.open.is_none() && self.waiting.is_empty() && self.failed.rows == 0;
            return Ok(is_empty && self.closing.is_none());
        }
        self.close().await?;
        self.closed().await?;
        Ok(true)
    }

    /// Has the part that is being written closed while the next one is written. One may be on its way at a time: one before it is waited for.
    pub(super) async fn close(&mut self) -> Result<(), Error> {
        self.closed().await?;
        self.broken = true;
        if !self.waiting.is_empty() {
            self.encode().await?;
        }
        let number = self.mark.next_part;
        let failed = std::mem::take(&mut self.failed);
        let part = self.open.take();
        if failed.rows > 0 || part.is_some() {
            self.mark.next_part = number + 1;
            let (place, name) = (self.place.clone(), self.layout.run.failed(number));
            self.closing = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                let mut closed = Closed::default();
                if failed.rows > 0 {
                    closed.failed = Some(failed.close(&place, name).await?);
                }
                if let Some(part) = part {
                    closed.part = Some(part.close().await?);
                }
                Ok(closed)
            })));
        }
        self.broken = false;
        Ok(())
    }

    /// Whether nothing is on its way, or has arrived.
    pub(super) fn has_closed(&self) -> bool {
        self.closing.as_ref().is_none_or(AbortOnDropHandle::is_finished)
    }

    /// Waits for what is on its way.
    pub(super) async fn closed(&mut self) -> Result<(), Error> {
        let Some(closing) = &mut self.closing else { return Ok(()) };
        // Until it is known to be otherwise.
        let was_broken = std::mem::replace(&mut self.broken, true);
        let closed = finished(closing.await);
        self.closing = None;
        let Closed { failed, part } = closed?;
        self.mark.failed.extend(failed);
        self.mark.parts.extend(part);
        self.broken = was_broken;
        Ok(())
    }

    /// What is complete.
    pub(super) fn mark(&self) -> Mark {
        self.mark.clone()
    }

    /// Says what all of it is: from now on it is complete. What a run has left that was taken over while it wrote is removed first;
    /// `may_write` as in [`Parts::go_on`].
    pub(super) async fn finish(
        &self,
        state: &State,
        may_write: impl Future<Output = Result<(), Error>>,
    ) -> Result<(), Error> {
        let mut found = self.place.list().await?;
        may_write.await?;
        for file in self.mark.parts.iter().chain(&self.mark.failed).flat_map(PartFile::files) {
            found.remove(&file.name);
        }
        for name in found.into_keys().filter(|name| names::is_ours(name) && name != MANIFEST) {
            self.place.delete(&name).await?;
        }
        let manifest = Manifest::new(state, &self.layout);
        let mut bytes = serde_json::to_vec_pretty(&manifest).expect("a manifest has string keys");
        bytes.push(b'\n');
        self.place.put(MANIFEST, bytes).await
    }

    /// Has the rows that wait encoded, while others come.
    async fn encode(&mut self) -> Result<(), Error> {
        let rows = std::mem::take(&mut self.waiting);
        let mut part = match self.open.take() {
            Some(part) => part,
            None => self.open()?,
        };
        part.rows += rows.len() as u64;
        part.truncated += rows.truncated();
        part.bytes += rows.bytes() as u64;
        let mut encoder = part.encoded().await?;
        part.encoder = tokio::task::spawn_blocking(move || encoder.write(rows).map(|()| encoder));
        self.open = Some(part);
        Ok(())
    }

    fn open(&self) -> Result<Part, Error> {
        let Layout { format, vector_type, .. } = self.layout;
        let number = self.mark.next_part;
        let dimensions = self.mark.dimensions.unwrap_or_default();
        let along = self.layout.columns.as_deref().filter(|_| format.is_columnar());
        let columns = along.map(|along| Columns::new(along, &self.layout, dimensions)).transpose()?;
        let mut files = vec![self.layout.run.part(number, format)];
        if format == PartFormat::Npy {
            files.push(self.layout.run.ids(number));
        }
        let uploads =
            files.into_iter().map(|name| Upload::new(self.place.clone(), name, self.layout.chunk_bytes)).collect();
        let of_rows = self.files.clone();
        let encoder =
            tokio::task::spawn_blocking(move || Encoder::new(format, columns, vector_type, dimensions, of_rows));
        Ok(Part { number, encoder, uploads, rows: 0, truncated: 0, bytes: 0 })
    }
}

impl FailedRows {
    async fn close(self, place: &Place, name: String) -> Result<PartFile, Error> {
        let Self { lines, rows } = self;
        let file = StoredFile { bytes: lines.len() as u64, sha256: super::manifest::sha256(&lines), name };
        place.put(&file.name, lines).await?;
        Ok(PartFile { file, rows, truncated: 0, ids: None })
    }
}

impl Part {
    /// Waits for what is being encoded, and sends what came of it.
    async fn encoded(&mut self) -> Result<Encoder, Error> {
        let mut encoder = finished((&mut self.encoder).await)?;
        for (upload, bytes) in self.uploads.iter_mut().zip(encoder.take()) {
            upload.push(bytes).await?;
        }
        Ok(encoder)
    }

    async fn close(mut self) -> Result<PartFile, Error> {
        let encoder = self.encoded().await?;
        let sinks = finished(tokio::task::spawn_blocking(move || encoder.finish()).await)?;
        let Self { uploads, rows, truncated, .. } = self;
        let mut files = Vec::new();
        for (mut upload, mut sink) in uploads.into_iter().zip(sinks) {
            upload.push(sink.take()).await?;
            let (bytes, sha256) = sink.sum();
            files.push(StoredFile { name: upload.name().to_owned(), bytes, sha256 });
            upload.finish().await?;
        }
        let mut files = files.into_iter();
        let file = files.next().expect("a part has a file");
        Ok(PartFile { file, rows, truncated, ids: files.next() })
    }
}

fn finished<T>(task: Result<Result<T, Error>, tokio::task::JoinError>) -> Result<T, Error> {
    task.map_err(|error| Error::Backfill(format!("a task failed: {error}")))?
}
