//! From the registry into a file of the cache: resumed where it stopped, summed on the way, a blob only when whole and right.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    path::Path,
};

use embed_schemas::{
    ModelMetadata,
    model::{FileRef, version_path},
};
use futures::StreamExt;
use object_store::{GetOptions, GetRange, path::Path as ObjectPath};
use tokio::task;

use super::{Cache, unless_gone};
use crate::{
    IntegrityError, Progress, Registry, RegistryError, Step,
    integrity::{Sum, check_size},
};

/// Bytes that are summed and written at once.
const PIECE: usize = 1 << 20;

/// What failed, so that it is known what becomes of the partial file.
enum Failure {
    /// The registry: what is there is good, and the next try goes on after it.
    Registry(RegistryError),
    /// The content.
    Content(IntegrityError),
    /// The disk.
    Disk(io::Error),
}

impl Cache {
    /// Downloads a file. `open` is the partial file, and its lock is ours.
    pub(super) async fn download(
        &self,
        registry: &Registry,
        metadata: &ModelMetadata,
        file: &FileRef,
        open: File,
        partial: &Path,
        progress: &dyn Progress,
    ) -> Result<(), RegistryError> {
        // Whatever goes wrong but the registry: nobody can go on with what is there.
        let discard = || fs::remove_file(partial).or_else(unless_gone).map_err(RegistryError::io(partial));
        if let Err(error) = self.make_room(file.bytes, partial).await {
            discard()?;
            return Err(error);
        }
        let path = version_path(&metadata.slug, &metadata.version, &file.file);
        let mut sink = Sink::resume(open, file.bytes).await.map_err(RegistryError::io(partial))?;
        let mut resumed = sink.bytes() > 0;
        progress.begin(Step::Download, &file.file, file.bytes);
        progress.advance(sink.bytes());
        let failure = loop {
            let before = sink.bytes();
            match receive(registry, &path, file, &mut sink, progress).await {
                Ok(()) => match sink.finish(file, partial, &self.inner.blobs).await {
                    Ok(()) => return Ok(()),
                    // What an earlier try left may be to blame.
                    Err((Failure::Content(_), Some(emptied))) if resumed => {
                        (sink, resumed) = (emptied, false);
                        progress.begin(Step::Download, &file.file, file.bytes);
                    }
                    Err((failure, _)) => break failure,
                },
                // The store's client has tried for as long as it was told to. A connection that breaks after having worked
                // for longer than that deserves another try; one that brings nothing does not.
                Err(Failure::Registry(error)) if error.retryable() && sink.bytes() > before => {
                    tracing::info!(%error, have = sink.bytes(), of = file.bytes, "resuming a download");
                }
                Err(failure) => break failure,
            }
        };
        match failure {
            Failure::Registry(error) => {
                if !error.is_store() {
                    discard()?;
                }
                Err(error)
            }
            Failure::Content(source) => {
                discard()?;
                Err(RegistryError::integrity(&metadata.slug, &metadata.version)(source))
            }
            Failure::Disk(error) => {
                discard()?;
                Err(self.write_error(error, file.bytes, partial))
            }
        }
    }
}

/// Appends what is missing.
async fn receive(
    registry: &Registry,
    path: &str,
    file: &FileRef,
    sink: &mut Sink,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let there = registry.head(path).await.map_err(Failure::Registry)?;
    let there = there.ok_or_else(|| {
        Failure::Registry(RegistryError::Missing { location: registry.location().to_owned(), path: path.to_owned() })
    })?;
    check_size(file, there.size).map_err(Failure::Content)?;
    if sink.bytes() == file.bytes {
        return Ok(());
    }
    let failed = |error| Failure::Registry(registry.store_error(path, error));
    let range = (sink.bytes() > 0).then(|| GetRange::Offset(sink.bytes()));
    let options = GetOptions { range, ..GetOptions::default() };
    let found = registry.store().get_opts(&ObjectPath::from(path), options).await.map_err(failed)?;
    let mut content = found.into_stream();
    while let Some(piece) = content.next().await {
        match piece {
            Ok(piece) => {
                sink.write(&piece).await.map_err(Failure::Disk)?;
                progress.advance(piece.len() as u64);
            }
            Err(error) => {
                // What came before it is kept.
                sink.flush().await.map_err(Failure::Disk)?;
                return Err(failed(error));
            }
        }
    }
    sink.flush().await.map_err(Failure::Disk)
}

/// A partial file, with the sum of what is in it. It moves between here and threads that may block.
struct Sink {
    parts: Option<(File, Sum)>,
    buffer: Vec<u8>,
    bytes: u64,
}

impl Sink {
    /// Goes on after what is there.
    async fn resume(mut open: File, longest: u64) -> io::Result<Self> {
        let work = move || {
            if open.metadata()?.len() > longest {
                open.set_len(0)?;
            }
            let mut sum = Sum::default();
            let mut buffer = vec![0; PIECE];
            open.rewind()?;
            loop {
                match open.read(&mut buffer)? {
                    0 => break,
                    read => sum.update(&buffer[..read]),
                }
            }
            Ok((open, sum))
        };
        let (open, sum) = blocking(work).await?;
        Ok(Self { bytes: sum.bytes(), parts: Some((open, sum)), buffer: Vec::with_capacity(PIECE) })
    }

    /// Bytes that were taken in.
    const fn bytes(&self) -> u64 {
        self.bytes
    }

    async fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(piece);
        self.bytes += piece.len() as u64;
        if self.buffer.len() < PIECE { Ok(()) } else { self.flush().await }
    }

    async fn flush(&mut self) -> io::Result<()> {
        let (mut file, mut sum) = self.take()?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let work = move || {
            file.write_all(&buffer)?;
            sum.update(&buffer);
            buffer.clear();
            Ok((file, sum, buffer))
        };
        let (file, sum, buffer) = blocking(work).await?;
        (self.parts, self.buffer) = (Some((file, sum)), buffer);
        Ok(())
    }

    /// Makes it a blob, if it is what the metadata says; else gives it back, emptied, if it can be.
    async fn finish(&mut self, file: &FileRef, partial: &Path, blobs: &Path) -> Result<(), (Failure, Option<Self>)> {
        let (open, sum) = self.take().map_err(|error| (Failure::Disk(error), None))?;
        if let Err(error) = sum.check(file) {
            let emptied = open.set_len(0).and_then(|()| (&open).rewind());
            let emptied = emptied.is_ok().then(|| Self {
                parts: Some((open, Sum::default())),
                buffer: Vec::with_capacity(PIECE),
                bytes: 0,
            });
            return Err((Failure::Content(error), emptied));
        }
        let (from, to, folder) = (partial.to_owned(), blobs.join(&file.sha256), blobs.to_owned());
        let work = move || {
            open.sync_all()?;
            fs::rename(from, to)?;
            // The name is on the disk as well, before anybody relies on it.
            File::open(folder)?.sync_all()
        };
        blocking(work).await.map_err(|error| (Failure::Disk(error), None))
    }

    fn take(&mut self) -> io::Result<(File, Sum)> {
        self.parts.take().ok_or_else(|| io::Error::other("an earlier write failed"))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    task::spawn_blocking(work).await.map_err(io::Error::other).flatten()
}
