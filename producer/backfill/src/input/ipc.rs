//! Arrow's files and streams, with a bound on what they may unpack to. A compressed buffer says itself how large it is unpacked, and the library
//! takes as much memory before it unpacks anything: the process ends if there is not as much. So that is looked at first.

use std::{
    collections::VecDeque,
    io::{self, Read},
    sync::Arc,
};

use arrow_array::RecordBatch;
use arrow_ipc::{
    Block, Message, MessageHeader,
    convert::try_fb_to_schema,
    reader::{FileDecoder, read_footer_length},
    root_as_footer, root_as_message,
};
use arrow_schema::{ArrowError, SchemaRef};
use bytes::Bytes;
use parquet::file::reader::{ChunkReader, Length};

use super::source::Source;

/// Most bytes that the buffers of a batch, or of a dictionary, may unpack to together.
const MAX_UNPACKED: u64 = 4 << 30;
/// Before the length of a message's metadata, but in streams of before.
const MARKER: [u8; 4] = [0xff; 4];
/// The end of a file: the footer's length, and the magic.
const TRAILER: usize = 10;

fn wrong(what: impl Into<String>) -> ArrowError {
    ArrowError::IpcError(what.into())
}

/// Checks what the buffers of a message say that they unpack to.
fn check(message: &Message<'_>, body: &[u8]) -> Result<(), ArrowError> {
    let batch = match message.header_type() {
        MessageHeader::RecordBatch => message.header_as_record_batch(),
        MessageHeader::DictionaryBatch => message.header_as_dictionary_batch().and_then(|dictionary| dictionary.data()),
        _ => None,
    };
    let Some(batch) = batch.filter(|batch| batch.compression().is_some()) else { return Ok(()) };
    // It comes first in each buffer; -1 stands for one that is not compressed. What lies outside is an error of the library's.
    let said = |at: i64| {
        let said = body.get(usize::try_from(at).ok()?..)?.first_chunk()?;
        u64::try_from(i64::from_le_bytes(*said)).ok()
    };
    let buffers = batch.buffers().into_iter().flatten();
    let unpacked = buffers.filter_map(|buffer| said(buffer.offset())).fold(0, u64::saturating_add);
    if unpacked > MAX_UNPACKED {
        return Err(wrong(format!(
            "a batch of rows says that it has {unpacked} bytes when it is unpacked, at most {MAX_UNPACKED} are taken: write smaller batches"
        )));
    }
    Ok(())
}

/// A file, read batch by batch in the order of its footer.
pub(super) struct ArrowFile {
    source: Source,
    decoder: FileDecoder,
    schema: SchemaRef,
    blocks: VecDeque<Block>,
}

impl ArrowFile {
    /// Reads what it is. `columns`: those that are read, all if `None`.
    pub(super) fn open(source: Source, columns: Option<Vec<usize>>) -> Result<Self, ArrowError> {
        let footer_end = Length::len(&source).checked_sub(TRAILER as u64).ok_or_else(|| wrong("it ends too early"))?;
        let trailer = bytes(&source, footer_end, TRAILER as u64)?;
        let length = read_footer_length(*trailer.first_chunk().ok_or_else(|| wrong("it ends too early"))?)? as u64;
        let begins = footer_end.checked_sub(length).ok_or_else(|| wrong("its footer is longer than the file"))?;
        let footer = bytes(&source, begins, length)?;
        let footer = root_as_footer(&footer).map_err(|error| wrong(format!("its footer cannot be read: {error}")))?;
        let schema = footer.schema().ok_or_else(|| wrong("its footer has no schema"))?;
        if !schema.endianness().equals_to_target_endianness() {
            return Err(wrong("its numbers have another order of bytes than those of this machine"));
        }
        let whole = Arc::new(try_fb_to_schema(schema)?);
        let mut decoder = FileDecoder::new(whole.clone(), footer.version());
        let mut schema = whole;
        if let Some(columns) = columns {
            schema = Arc::new(schema.project(&columns)?);
            decoder = decoder.with_projection(columns);
        }
        for block in footer.dictionaries().into_iter().flatten() {
            let content = read(&source, block)?;
            decoder.read_dictionary(block, &content.into())?;
        }
        let batches = footer.recordBatches().ok_or_else(|| wrong("its footer has no list of batches"))?;
        Ok(Self { decoder, schema, blocks: batches.iter().copied().collect(), source })
    }

    pub(super) fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

impl Iterator for ArrowFile {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let block = self.blocks.pop_front()?;
        let content = read(&self.source, &block);
        content.and_then(|content| self.decoder.read_record_batch(&block, &content.into())).transpose()
    }
}

/// So many bytes of a file, if it has them.
fn bytes(source: &Source, at: u64, length: u64) -> Result<Bytes, ArrowError> {
    let length = usize::try_from(length).map_err(|error| wrong(error.to_string()))?;
    source.get_bytes(at, length).map_err(|error| wrong(error.to_string()))
}

/// A message with its body, as the footer says where it is.
fn read(source: &Source, block: &Block) -> Result<Bytes, ArrowError> {
    let number = |value: i64| u64::try_from(value).map_err(|_| wrong("its footer names a negative place or length"));
    let (at, metadata) = (number(block.offset())?, number(block.metaDataLength().into())?);
    let length = metadata.checked_add(number(block.bodyLength())?).ok_or_else(|| wrong("a batch without end"))?;
    let content = bytes(source, at, length)?;
    let begin = if content.starts_with(&MARKER) { 2 * MARKER.len() } else { MARKER.len() };
    let message = content.get(begin..).map(root_as_message);
    match message.ok_or_else(|| wrong("a batch that is shorter than its length"))? {
        Ok(message) => check(&message, &content[metadata as usize..])?,
        Err(error) => return Err(wrong(format!("a batch cannot be read: {error}"))),
    }
    Ok(content)
}

/// The bytes of a stream, each message looked at before it is handed on.
pub(super) struct Checked<R> {
    stream: R,
    /// Of the message that is being handed on: its metadata, and its body if that is compressed.
    head: Vec<u8>,
    at: usize,
    /// Bytes of its body that are handed on as they come.
    body: u64,
}

impl<R: Read> Checked<R> {
    pub(super) const fn new(stream: R) -> Self {
        Self { stream, head: Vec::new(), at: 0, body: 0 }
    }

    /// What comes is as long as it comes: the lengths in it are no reason to take memory.
    fn fill(&mut self, length: u64) -> io::Result<bool> {
        Ok((&mut self.stream).take(length).read_to_end(&mut self.head)? as u64 == length)
    }

    /// Reads up to the body of the next message, or behind that. What cannot be read is handed on: the library says so.
    fn next_message(&mut self) -> io::Result<()> {
        self.head.clear();
        self.at = 0;
        if !self.fill(4)? || self.head.starts_with(&MARKER) && !self.fill(4)? {
            return Ok(());
        }
        let begins = self.head.len();
        let length = self.head.last_chunk().map_or(0, |length| i32::from_le_bytes(*length));
        let Ok(length @ 1..) = u64::try_from(length) else { return Ok(()) };
        if !self.fill(length)? {
            return Ok(());
        }
        let ends = self.head.len();
        let Ok(message) = root_as_message(&self.head[begins..]) else { return Ok(()) };
        let body = u64::try_from(message.bodyLength()).unwrap_or(0);
        let batch = message.header_as_record_batch();
        let batch = batch.or_else(|| message.header_as_dictionary_batch().and_then(|dictionary| dictionary.data()));
        if batch.is_none_or(|batch| batch.compression().is_none()) {
            self.body = body;
            return Ok(());
        }
        self.fill(body)?;
        let (metadata, body) = self.head[begins..].split_at(ends - begins);
        root_as_message(metadata).map_or(Ok(()), |message| check(&message, body)).map_err(io::Error::other)
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.head.len() && self.body == 0 {
            self.next_message()?;
        }
        if self.at < self.head.len() {
            let read = (&self.head[self.at..]).read(buffer)?;
            self.at += read;
            return Ok(read);
        }
        let read = (&mut self.stream).take(self.body).read(buffer)?;
        self.body -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use arrow_array::StringArray;
    use arrow_ipc::{
        CompressionType,
        reader::StreamReader,
        writer::{FileWriter, IpcWriteOptions, StreamWriter},
    };

    use super::*;

    const LENGTH: i64 = 2_000;

    /// A batch with one column, in a file and in a stream.
    fn written(compression: Option<CompressionType>) -> [Vec<u8>; 2] {
        let texts = StringArray::from(vec!["x".repeat(LENGTH as usize)]);
        let batch = RecordBatch::try_from_iter([("text", Arc::new(texts) as _)]).unwrap();
        let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
        let mut file = FileWriter::try_new_with_options(Vec::new(), batch.schema_ref(), options.clone()).unwrap();
        let mut stream = StreamWriter::try_new_with_options(Vec::new(), batch.schema_ref(), options).unwrap();
        file.write(&batch).unwrap();
        stream.write(&batch).unwrap();
        [file.into_inner().unwrap(), stream.into_inner().unwrap()]
    }

    type Batches = Result<Vec<RecordBatch>, ArrowError>;

    fn read_file(file: &[u8]) -> Batches {
        ArrowFile::open(Source::memory(file.to_vec().into()), None)?.collect()
    }

    fn read_stream(stream: &[u8]) -> Batches {
        StreamReader::try_new(Checked::new(Cursor::new(stream.to_vec())), None)?.collect()
    }

    #[test]
    fn what_says_that_it_is_large_takes_no_memory() {
        for compression in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
            let [file, stream] = written(compression);
            let batches = read_file(&file).unwrap();
            assert_eq!(batches[0].num_rows(), 1);
            assert_eq!(read_stream(&stream).unwrap(), batches);
            if compression.is_none() {
                continue;
            }
            for large in [i64::MAX, 1 << 46, 1 << 33] {
                let lie = |bytes: &[u8]| {
                    let honest = LENGTH.to_le_bytes();
                    // The last: the texts come behind their places, of which one is the same number.
                    let at = bytes.windows(8).rposition(|window| window == honest).unwrap();
                    [&bytes[..at], &large.to_le_bytes(), &bytes[at + 8..]].concat()
                };
                for error in [read_file(&lie(&file)).unwrap_err(), read_stream(&lie(&stream)).unwrap_err()] {
                    assert!(error.to_string().contains("bytes when it is unpacked, at most 4294967296"), "{error}");
                }
            }
        }
    }

    #[test]
    fn what_is_cut_off_or_points_elsewhere_is_an_error_in_words() {
        for compression in [None, Some(CompressionType::LZ4_FRAME)] {
            let [file, stream] = written(compression);
            for end in 0..file.len() {
                assert!(!read_file(&file[..end]).unwrap_err().to_string().is_empty());
            }
            for end in 0..stream.len() {
                // Without its end mark it is as good as with it.
                let _ = read_stream(&stream[..end]);
            }
            for at in 0..file.len() {
                for value in [0, 0x7f, 0x80, 0xff] {
                    let mut changed = file.clone();
                    changed[at] = value;
                    // Whatever comes of it, nothing that ends the process.
                    let _ = std::panic::catch_unwind(|| read_file(&changed).map(drop));
                }
            }
        }
    }
}
