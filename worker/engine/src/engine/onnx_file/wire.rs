//! Messages in protobuf's wire format, read field by field where they lie: nothing is copied, and what is not asked for is stepped over.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
};

/// Longest number, in bytes.
const LONGEST: usize = 10;
/// Bytes of a file that are read at once.
const WINDOW: u64 = 1 << 16;

/// Where a message lies.
pub trait Source {
    /// Bytes of it.
    fn size(&self) -> u64;

    /// Fills the buffer from there on. What is asked for lies within [`Source::size`].
    ///
    /// # Errors
    /// If it cannot be read.
    fn read_at(&mut self, at: u64, into: &mut [u8]) -> io::Result<()>;
}

impl Source for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&mut self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(at).map_err(io::Error::other)?;
        let found = self.get(start..).and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A file, of which only what is asked for is read.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    size: u64,
    window: Vec<u8>,
    start: u64,
}

impl FileSource {
    /// A message that a file holds.
    ///
    /// # Errors
    /// If its size cannot be told.
    pub fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size, window: Vec::new(), start: 0 })
    }
}

impl Source for FileSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&mut self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let end = at + into.len() as u64;
        if at < self.start || end > self.start + self.window.len() as u64 {
            self.file.seek(SeekFrom::Start(at))?;
            self.window.clear();
            self.start = at;
            (&self.file).take(WINDOW.max(into.len() as u64)).read_to_end(&mut self.window)?;
        }
        let mut window = self.window.as_slice();
        window.read_at(at - self.start, into)
    }
}

/// What is wrong with a message.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// It is not in the wire format.
    #[error("at byte {0} it is no protobuf message")]
    Malformed(u64),
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// A number.
    Number(u64),
    /// A number of fixed size, which nobody asks for.
    Fixed,
    /// A text, bytes, or a message: where it lies.
    Bytes(Range<u64>),
}

/// The next field of a message, which lies in `left`; what is behind the field is left in it. `None` at the end.
///
/// # Errors
/// If there is no field.
pub(super) fn next(source: &mut impl Source, left: &mut Range<u64>) -> Result<Option<(u32, Value)>, WireError> {
    if left.is_empty() {
        return Ok(None);
    }
    let at = left.start;
    let malformed = || WireError::Malformed(at);
    let key = u32::try_from(number(source, left)?).map_err(|_| malformed())?;
    let value = match key & 7 {
        0 => Value::Number(number(source, left)?),
        1 => take(left, 8).map(|_| Value::Fixed)?,
        2 => {
            let length = number(source, left)?;
            Value::Bytes(take(left, length)?)
        }
        5 => take(left, 4).map(|_| Value::Fixed)?,
        // Groups, which ONNX has none of, and what is nothing.
        _ => return Err(malformed()),
    };
    if key >> 3 == 0 {
        return Err(malformed());
    }
    Ok(Some((key >> 3, value)))
}

/// A text that is no longer than `most` bytes, or what is not: its beginning. It is only ever compared or shown.
///
/// # Errors
/// If it cannot be read.
pub(super) fn text(source: &mut impl Source, at: &Range<u64>, most: u64) -> Result<String, WireError> {
    let mut bytes = vec![0; usize::try_from((at.end - at.start).min(most)).unwrap_or_default()];
    source.read_at(at.start, &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The numbers of a packed list.
///
/// # Errors
/// If it is none.
pub(super) fn numbers(source: &mut impl Source, mut at: Range<u64>, most: usize) -> Result<Vec<u64>, WireError> {
    let mut found = Vec::new();
    while !at.is_empty() && found.len() < most {
        found.push(number(source, &mut at)?);
    }
    Ok(found)
}

/// So many bytes, which are stepped over.
fn take(left: &mut Range<u64>, bytes: u64) -> Result<Range<u64>, WireError> {
    let end = left.start.checked_add(bytes).filter(|end| *end <= left.end).ok_or(WireError::Malformed(left.start))?;
    let taken = left.start..end;
    left.start = end;
    Ok(taken)
}

fn number(source: &mut impl Source, left: &mut Range<u64>) -> Result<u64, WireError> {
    let mut bytes = [0; LONGEST];
    let there = usize::try_from(left.end - left.start).unwrap_or(LONGEST).min(LONGEST);
    source.read_at(left.start, &mut bytes[..there])?;
    let mut value = 0_u64;
    for (i, byte) in bytes[..there].iter().enumerate() {
        // Bits beyond the sixty-fourth are dropped, as protobuf's own readers do.
        value |= u64::from(byte & 0x7F).checked_shl(7 * i as u32).unwrap_or_default();
        if byte & 0x80 == 0 {
            left.start += i as u64 + 1;
            return Ok(value);
        }
    }
    Err(WireError::Malformed(left.start))
}
