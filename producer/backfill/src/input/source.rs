//! The bytes of a file: one on a disk or in an object store, standard input, or memory.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    os::{fd::AsFd, unix::fs::FileExt},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parquet::{
    errors::ParquetError,
    file::reader::{ChunkReader, Length},
};

use super::{
    format::{Compression, refusal},
    remote::Remote,
};

/// In place of a file: standard input, or standard output.
const STREAM: &str = "-";
/// Bytes that are read at once.
const BUFFER: usize = 1 << 18;

/// Whether a location stands for standard input or output.
pub(crate) fn is_stream(location: &str) -> bool {
    location == STREAM
}

/// A file that can be read anywhere. What was appended since the backfill began does not count.
#[derive(Clone)]
pub(super) struct Source {
    bytes: Whole,
    length: u64,
    at: u64,
}

#[derive(Clone)]
enum Whole {
    Local(Arc<File>),
    Remote(Remote),
    Memory(Bytes),
}

impl Source {
    pub(super) fn local(location: &str, length: u64) -> io::Result<Self> {
        Ok(Self { bytes: Whole::Local(Arc::new(File::open(location)?)), length, at: 0 })
    }

    pub(super) const fn remote(remote: Remote, length: u64) -> Self {
        Self { bytes: Whole::Remote(remote), length, at: 0 }
    }

    pub(super) const fn memory(bytes: Bytes) -> Self {
        let length = bytes.len() as u64;
        Self { bytes: Whole::Memory(bytes), length, at: 0 }
    }

    /// Its first bytes, as many as tell what it is.
    pub(super) fn head(&self) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        self.clone().take(8).read_to_end(&mut head)?;
        Ok(head)
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // What is asked for is in memory, and so is as much of it as is left.
        let most = self.length.saturating_sub(self.at).min(buffer.len() as u64) as usize;
        let buffer = &mut buffer[..most];
        let read = match &self.bytes {
            Whole::Local(file) => file.read_at(buffer, self.at)?,
            Whole::Remote(remote) => remote.read_at(self.at, buffer)?,
            Whole::Memory(bytes) => (&bytes[bytes.len().min(self.at as usize)..]).read(buffer)?,
        };
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::other("a place before its beginning"))?;
        Ok(self.at)
    }
}

impl Length for Source {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Source {
    type T = BufReader<Self>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(Self { at: start, ..self.clone() }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        // Whoever asks has read the length in the file, which may say anything.
        if start.saturating_add(length as u64) > self.length {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} of {}", self.length)));
        }
        let mut bytes = vec![0; length];
        Self { at: start, ..self.clone() }.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// A file that is read from its beginning to its end, as text.
pub(super) struct Text {
    reader: Box<dyn BufRead + Send>,
    /// Bytes of the file that have been taken, before anything is unpacked.
    taken: Arc<AtomicU64>,
    /// Bytes that the file has from where it is read on.
    expected: Option<u64>,
    compression: Compression,
}

impl Text {
    /// Opens a file at its beginning, or at a byte of one that is not compressed.
    pub(super) fn open(mut source: Source, compression: Compression, at: u64) -> io::Result<Self> {
        source.seek(SeekFrom::Start(at))?;
        let expected = Some(source.length.saturating_sub(at));
        Self::unpacked(source, compression, expected, at == 0)
    }

    /// Standard input, of which something may have been read already.
    pub(super) fn stream(head: Vec<u8>, compression: Compression) -> io::Result<Self> {
        Self::unpacked(io::Cursor::new(head).chain(standard_input()?), compression, None, true)
    }

    fn unpacked(
        raw: impl Read + Send + 'static,
        compression: Compression,
        expected: Option<u64>,
        at_beginning: bool,
    ) -> io::Result<Self> {
        let taken = Arc::new(AtomicU64::new(0));
        let raw = BufReader::with_capacity(BUFFER, Counted { inner: raw, taken: taken.clone() });
        let reader: Box<dyn BufRead + Send> = match compression {
            Compression::None => Box::new(raw),
            Compression::Gzip => Box::new(BufReader::with_capacity(BUFFER, flate2::bufread::MultiGzDecoder::new(raw))),
            Compression::Zstd => Box::new(BufReader::with_capacity(BUFFER, zstd::Decoder::with_buffer(raw)?)),
        };
        let mut text = Self { reader, taken, expected, compression };
        if at_beginning && let Some(reason) = refusal(text.fill_buf()?) {
            return Err(io::Error::other(reason));
        }
        Ok(text)
    }

    /// Bytes of the file that have been taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Makes sure that a file that was read to its end has had all the bytes that it had when the backfill began.
    pub(super) fn check_whole(&self) -> io::Result<()> {
        match self.expected.map_or(0, |expected| expected.saturating_sub(self.taken())) {
            0 => Ok(()),
            left => Err(io::Error::other(format!(
                "{left} bytes that it had when the backfill began are missing: something has cut it meanwhile"
            ))),
        }
    }
}

impl Read for Text {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Text {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let compression = self.compression;
        self.reader.fill_buf().map_err(|error| said(error, compression))
    }

    fn consume(&mut self, amount: usize) {
        self.reader.consume(amount);
    }
}

/// Says what is the matter where the library's words do not.
fn said(error: io::Error, compression: Compression) -> io::Error {
    match (compression, error.kind()) {
        (Compression::None, _) | (_, io::ErrorKind::Interrupted) => error,
        (_, io::ErrorKind::UnexpectedEof) => io::Error::other("it is cut short: compressed data is missing"),
        _ => io::Error::other(format!("its compressed data cannot be read ({error})")),
    }
}

struct Counted<R> {
    inner: R,
    taken: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.taken.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Standard input, unbuffered.
pub(super) fn standard_input() -> io::Result<File> {
    Ok(io::stdin().as_fd().try_clone_to_owned()?.into())
}
