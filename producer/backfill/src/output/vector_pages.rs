//! The column of vectors of a Parquet file, whole pages at a time. All vectors of a file have the same length, so that where each begins need
//! not be worked out number by number, which costs the library more than the numbers themselves.

use std::sync::Arc;

use bytes::Bytes;
use parquet::{
    basic::{Compression, Encoding, EncodingMask, ZstdLevel},
    column::{
        page::{CompressedPage, Page, PageReader, PageWriter},
        writer::ColumnCloseResult,
    },
    errors::{ParquetError, Result},
    file::{
        metadata::{ColumnChunkMetaData, ParquetMetaData},
        page_index::offset_index::{OffsetIndexMetaData, PageLocation},
        serialized_reader::SerializedPageReader,
        writer::{SerializedPageWriter, TrackedWrite},
    },
    schema::types::ColumnDescPtr,
};
use zstd::{bulk::Compressor, zstd_safe::CParameter};

use super::{VectorType, columns::halves};

/// Bytes of numbers in a page: as many vectors as fit, and at least one.
const PAGE_BYTES: usize = 1 << 20;
/// Bytes of a number, and so planes of its page.
const PLANES: usize = size_of::<f32>();

/// How the column is compressed.
pub(super) fn compression() -> Compression {
    Compression::ZSTD(ZstdLevel::default())
}

/// How numbers are laid out: halves are not split, since DuckDB does not read them so.
pub(super) const fn encoding(vector_type: VectorType) -> Encoding {
    match vector_type {
        VectorType::F32 => Encoding::BYTE_STREAM_SPLIT,
        VectorType::F16 => Encoding::PLAIN,
    }
}

/// Writes columns.
pub(super) struct VectorWriter {
    vector_type: VectorType,
    dimensions: usize,
    compressor: Compressor<'static>,
    /// A page before it is compressed.
    page: Vec<u8>,
}

impl VectorWriter {
    /// For vectors of so many numbers.
    pub(super) fn new(vector_type: VectorType, dimensions: usize) -> Result<Self> {
        let mut compressor = Compressor::new(1)?;
        // Of a vector, only signs and exponents can be compressed, and these as letters, not as words: looking for words takes half of the time,
        // and what it finds is dearer than its letters.
        compressor.set_parameter(CParameter::HashLog(6))?;
        compressor.set_parameter(CParameter::MinMatch(7))?;
        Ok(Self { vector_type, dimensions: dimensions.max(1), compressor, page: Vec::new() })
    }

    /// The column of a row group: its bytes, and what the file says of it.
    pub(super) fn write(&mut self, column: ColumnDescPtr, values: &[f32]) -> Result<(Bytes, ColumnCloseResult)> {
        if (column.max_def_level(), column.max_rep_level()) != (1, 1) || !values.len().is_multiple_of(self.dimensions) {
            return Err(ParquetError::General(format!("{} is no column of whole vectors", column.path())));
        }
        let mut out = TrackedWrite::new(Vec::with_capacity(size_of_val(values)));
        let mut pages = SerializedPageWriter::new(&mut out);
        let (mut locations, mut rows, mut uncompressed) = (Vec::new(), 0, 0);
        let at_once = (PAGE_BYTES / PLANES / self.dimensions).max(1) * self.dimensions;
        for values in values.chunks(at_once) {
            self.page.clear();
            levels(&mut self.page, values.len() / self.dimensions, self.dimensions);
            match self.vector_type {
                VectorType::F32 => split(&mut self.page, values),
                VectorType::F16 => {
                    let halves = halves(values).map_err(|error| ParquetError::General(error.to_string()))?;
                    let start = self.page.len();
                    // Into room that is there already, as numbers are encoded for messages.
                    self.page.resize(start + size_of_val(&*halves), 0);
                    let bytes = self.page[start..].as_chunks_mut().0;
                    bytes.iter_mut().zip(halves).for_each(|(bytes, half)| *bytes = half.to_le_bytes());
                }
            }
            let page = Page::DataPage {
                buf: self.compressor.compress(&self.page)?.into(),
                num_values: number(values.len())?,
                encoding: encoding(self.vector_type),
                def_level_encoding: Encoding::RLE,
                rep_level_encoding: Encoding::RLE,
                statistics: None,
            };
            let written = pages.write_page(CompressedPage::new(page, self.page.len()))?;
            uncompressed += written.uncompressed_size;
            locations.push(PageLocation {
                offset: number(written.offset)?,
                compressed_page_size: number(written.compressed_size)?,
                first_row_index: number(rows)?,
            });
            rows += values.len() / self.dimensions;
        }
        pages.close()?;
        let bytes = Bytes::from(out.into_inner()?);
        let encodings = [Encoding::RLE, encoding(self.vector_type)];
        let metadata = ColumnChunkMetaData::builder(column)
            .set_encodings_mask(EncodingMask::new_from_encodings(encodings.iter()))
            .set_compression(compression())
            .set_num_values(number(values.len())?)
            .set_total_compressed_size(number(bytes.len())?)
            .set_total_uncompressed_size(number(uncompressed)?)
            .set_data_page_offset(0)
            .build()?;
        let close = ColumnCloseResult {
            bytes_written: bytes.len() as u64,
            rows_written: rows as u64,
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: Some(OffsetIndexMetaData {
                page_locations: locations,
                unencoded_byte_array_data_bytes: None,
            }),
        };
        Ok((bytes, close))
    }
}

fn number<T, U: TryFrom<T>>(number: T) -> Result<U> {
    U::try_from(number).map_err(|_| ParquetError::General("a row group is too large".into()))
}

/// Where vectors begin, and that each number is there: levels of repetition and of definition, in runs of equal ones.
fn levels(page: &mut Vec<u8>, vectors: usize, dimensions: usize) {
    let with_length = |page: &mut Vec<u8>, write: &dyn Fn(&mut Vec<u8>)| {
        let at = page.len();
        page.extend([0; 4]);
        write(page);
        // A page is far smaller than 4 GiB.
        let length = (page.len() - at - 4) as u32;
        page[at..at + 4].copy_from_slice(&length.to_le_bytes());
    };
    with_length(page, &|page| match dimensions {
        1 => run(page, 0, vectors),
        _ => (0..vectors).for_each(|_| {
            run(page, 0, 1);
            run(page, 1, dimensions - 1);
        }),
    });
    with_length(page, &|page| run(page, 1, vectors * dimensions));
}

/// So many levels of one value, as the format's hybrid encoding writes them: their number with a bit 0 behind it as a varint, then the value.
fn run(page: &mut Vec<u8>, level: u8, count: usize) {
    let mut rest = (count as u64) << 1;
    while rest >= 0x80 {
        page.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    page.extend([rest as u8, level]);
}

/// The first bytes of all numbers, then the second, and so on.
fn split(page: &mut Vec<u8>, values: &[f32]) {
    let at = page.len();
    page.resize(at + size_of_val(values), 0);
    for (n, plane) in page[at..].chunks_exact_mut(values.len().max(1)).enumerate() {
        plane.iter_mut().zip(values).for_each(|(byte, value)| *byte = (value.to_bits() >> (8 * n)) as u8);
    }
}

/// Reads the column of a file, row group after row group.
pub(super) struct VectorReader {
    file: Arc<Bytes>,
    metadata: Arc<ParquetMetaData>,
    /// Which of the columns it is.
    column: usize,
    dimensions: usize,
    /// The row group that is next.
    next: usize,
    pages: Option<SerializedPageReader<Bytes>>,
    /// What is left of a page.
    values: Vec<f32>,
    at: usize,
}

impl VectorReader {
    /// Of a file that is in memory.
    pub(super) fn new(file: Bytes, metadata: Arc<ParquetMetaData>, column: usize, dimensions: usize) -> Self {
        let file = Arc::new(file);
        Self { file, metadata, column, dimensions, next: 0, pages: None, values: Vec::new(), at: 0 }
    }

    /// The vectors of the next rows, one behind the other.
    pub(super) fn read(&mut self, rows: usize) -> Result<Vec<f32>> {
        let count = rows.saturating_mul(self.dimensions);
        let mut read = Vec::new();
        while read.len() < count {
            if self.at == self.values.len() {
                self.next_page()?;
            }
            let some = (self.values.len() - self.at).min(count - read.len());
            read.extend_from_slice(&self.values[self.at..self.at + some]);
            self.at += some;
        }
        Ok(read)
    }

    fn next_page(&mut self) -> Result<()> {
        loop {
            if let Some(pages) = &mut self.pages {
                if let Some(page) = pages.get_next_page()? {
                    self.values = numbers(&page)?;
                    self.at = 0;
                    return Ok(());
                }
                self.pages = None;
            }
            let missing = || ParquetError::General("it has fewer vectors than rows".into());
            let group = self.metadata.row_groups().get(self.next).ok_or_else(missing)?;
            self.next += 1;
            let rows = usize::try_from(group.num_rows()).unwrap_or(0);
            let column = group.columns().get(self.column).ok_or_else(missing)?;
            self.pages = Some(SerializedPageReader::new(self.file.clone(), column, rows, None)?);
        }
    }
}

/// The numbers of a page. That there are as many as it says, and in which of two ways they are written, is all that it takes from what it holds:
/// the file is known to be the one that was written.
fn numbers(page: &Page) -> Result<Vec<f32>> {
    let other = || ParquetError::General("its vectors are not as they were written".into());
    let Page::DataPage { buf, num_values, encoding, .. } = page else { return Err(other()) };
    let mut rest = &buf[..];
    for _ in ["repetition", "definition"] {
        let (length, levels) = rest.split_first_chunk().ok_or_else(other)?;
        rest = levels.get(u32::from_le_bytes(*length) as usize..).ok_or_else(other)?;
    }
    let count = *num_values as usize;
    match encoding {
        Encoding::BYTE_STREAM_SPLIT if rest.len() == count * PLANES => Ok(join(rest, count)),
        Encoding::PLAIN => {
            let is_whole = |kind: &VectorType| rest.len() == count * kind.width();
            let kind = [VectorType::F32, VectorType::F16].into_iter().find(is_whole);
            kind.map(|kind| kind.numbers(rest)).ok_or_else(other)
        }
        _ => Err(other()),
    }
}

/// As [`split`], the other way round.
fn join(planes: &[u8], count: usize) -> Vec<f32> {
    let mut bits = vec![0; count];
    for (n, plane) in planes.chunks_exact(count.max(1)).enumerate() {
        bits.iter_mut().zip(plane).for_each(|(bits, byte)| *bits |= u32::from(*byte) << (8 * n));
    }
    bits.into_iter().map(f32::from_bits).collect()
}

#[cfg(test)]
mod tests {
    use arrow_array::{Array, ArrayRef, FixedSizeListArray, Float16Array, Float32Array, RecordBatch};
    use arrow_schema::{DataType, Field};
    use half::slice::HalfFloatSliceExt;
    use parquet::{
        arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
        file::{
            metadata::{PageIndexPolicy, ParquetMetaDataReader},
            properties::WriterProperties,
        },
        schema::types::ColumnPath,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::output::columns::{ELEMENT, EMBEDDING};

    fn path() -> ColumnPath {
        ColumnPath::new([EMBEDDING, "list", ELEMENT].map(ToOwned::to_owned).to_vec())
    }

    fn batch(values: &[f32], vector_type: VectorType, dimensions: usize) -> RecordBatch {
        let (kind, values): (_, ArrayRef) = match vector_type {
            VectorType::F32 => (DataType::Float32, Arc::new(Float32Array::from(values.to_vec()))),
            VectorType::F16 => (DataType::Float16, Arc::new(Float16Array::from(halves(values).unwrap()))),
        };
        let element = Arc::new(Field::new(ELEMENT, kind, false));
        let list = FixedSizeListArray::new(element, i32::try_from(dimensions).unwrap(), values, None);
        let field = Field::new(EMBEDDING, list.data_type().clone(), false);
        RecordBatch::try_new(Arc::new(arrow_schema::Schema::new(vec![field])), vec![Arc::new(list)]).unwrap()
    }

    fn properties(vector_type: VectorType) -> WriterProperties {
        WriterProperties::builder()
            .set_compression(compression())
            .set_dictionary_enabled(false)
            .set_column_encoding(path(), encoding(vector_type))
            .build()
    }

    /// A file of one column, of which each of these is a row group: as the library writes it, and as it is written here.
    fn files(groups: &[Vec<f32>], vector_type: VectorType, dimensions: usize) -> [Bytes; 2] {
        let schema = batch(&[], vector_type, dimensions).schema();
        let new = || ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties(vector_type))).unwrap();
        let mut library = new();
        let (mut ours, _) = new().into_serialized_writer().unwrap();
        let column = ours.schema_descr().column(0);
        let mut writer = VectorWriter::new(vector_type, dimensions).unwrap();
        for values in groups {
            library.write(&batch(values, vector_type, dimensions)).unwrap();
            library.flush().unwrap();
            let mut group = ours.next_row_group().unwrap();
            let (bytes, close) = writer.write(column.clone(), values).unwrap();
            group.append_column(&bytes, close).unwrap();
            group.close().unwrap();
        }
        [library.into_inner().unwrap().into(), ours.into_inner().unwrap().into()]
    }

    fn check(groups: &[Vec<f32>], vector_type: VectorType, dimensions: usize, at_once: usize) {
        let all = groups.concat();
        let rows = all.len() / dimensions;
        let whole = batch(&all, vector_type, dimensions);
        let files = files(groups, vector_type, dimensions);
        for file in &files {
            let reader = ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap().with_batch_size(rows.max(1));
            let read: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
            assert!(read.is_empty() && rows == 0 || read == [whole.clone()], "{vector_type:?} {dimensions}");

            let metadata = Arc::new(ParquetMetaDataReader::new().parse_and_finish(file).unwrap());
            let mut reader = VectorReader::new(file.clone(), metadata, 0, dimensions);
            let mut vectors = Vec::new();
            for before in (0..rows).step_by(at_once) {
                vectors.extend(reader.read(at_once.min(rows - before)).unwrap());
            }
            let rounded = match vector_type {
                VectorType::F32 => all.clone(),
                VectorType::F16 => halves(&all).unwrap().to_f32_vec(),
            };
            assert_eq!(vectors, rounded);
            assert!(reader.read(1).unwrap_err().to_string().contains("fewer vectors than rows"));
        }
    }

    proptest! {
        #[test]
        fn the_library_and_we_read_what_either_writes(
            dimensions in 1usize..40,
            rows in prop::collection::vec(1usize..30, 0..4),
            seed: u64,
            is_half: bool,
            at_once in 1usize..40,
        ) {
            let mut numbers = (seed..).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / 1e5 - 80.0);
            let groups: Vec<Vec<f32>> =
                rows.iter().map(|rows| numbers.by_ref().take(rows * dimensions).collect()).collect();
            check(&groups, if is_half { VectorType::F16 } else { VectorType::F32 }, dimensions, at_once);
        }
    }

    #[test]
    fn several_pages_and_what_they_cost() {
        // As of a model: nothing repeats.
        let values: Vec<f32> = (0..384 * 1500).map(|_| rand::random_range(-0.5..0.5)).collect();
        check(std::slice::from_ref(&values), VectorType::F32, 384, 1024);
        let [library, ours] = files(std::slice::from_ref(&values), VectorType::F32, 384);
        assert!(ours.len() <= library.len(), "{} bytes, and {} by the library", ours.len(), library.len());
        let pages = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
        let pages = pages.parse_and_finish(&ours).unwrap();
        let index = pages.page_index_for_row_group(0);
        assert_eq!(index.offset_index(0).map(|of| of.page_locations().len()), Some(3));
    }

    #[test]
    fn another_page_is_refused() {
        let page = |buf: &[u8], encoding| Page::DataPage {
            buf: Bytes::copy_from_slice(buf),
            num_values: 1,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let whole = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 128, 63];
        for encoding in [Encoding::PLAIN, Encoding::BYTE_STREAM_SPLIT] {
            assert_eq!(numbers(&page(&whole, encoding)).unwrap(), [1.0]);
        }
        let far = [255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 128, 63];
        for (buf, encoding) in [
            (&whole[..], Encoding::RLE_DICTIONARY),
            (&whole[..11], Encoding::PLAIN),
            (&whole[..3], Encoding::PLAIN),
            (&far, Encoding::PLAIN),
        ] {
            assert!(numbers(&page(buf, encoding)).unwrap_err().to_string().contains("not as they were written"));
        }
    }
}
