//! The pages of a Parquet file, each looked at before it is decoded: of a dictionary of numbers, the library takes as much memory as its header says that
//! it has values, 16 GiB in a file of a few kilobytes.

use std::{
    iter::{self, FusedIterator},
    sync::Arc,
};

use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReader, RowGroups, RowSelection, RowSelector},
        parquet_to_arrow_field_levels,
    },
    basic::Type,
    column::page::{Page, PageIterator, PageMetadata, PageReader},
    errors::{ParquetError, Result},
    file::{
        metadata::{ParquetMetaData, RowGroupMetaData},
        serialized_reader::SerializedPageReader,
    },
    schema::types::ColumnDescriptor,
};

use super::{deltas, source::Source};

/// The rows of a row group, some at a time.
pub(super) type Rows = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

/// Reads a row group behind so many of its rows.
pub(super) fn read(
    source: &Source,
    metadata: &ArrowReaderMetadata,
    mask: &ProjectionMask,
    number: usize,
    skip: usize,
    at_once: usize,
) -> Result<Rows> {
    let group = Group { source: Arc::new(source.clone()), metadata: metadata.metadata().clone(), number };
    let fields = metadata.schema().fields();
    let levels = parquet_to_arrow_field_levels(metadata.parquet_schema(), mask.clone(), Some(fields))?;
    let rest = group.num_rows().saturating_sub(skip);
    let behind = |selection| ParquetRecordBatchReader::try_new_with_row_groups(&levels, &group, at_once, selection);
    if skip > 0 {
        let mut rows = behind(Some(RowSelection::from(vec![RowSelector::skip(skip), RowSelector::select(rest)])))?;
        // Pages of a damaged file may not have the rows that they say. What could be read all the same can still be, from the beginning.
        if let Some(Ok(first)) = rows.next() {
            return Ok(Box::new(iter::once(Ok(first)).chain(rows)));
        }
    }
    let mut left = skip;
    Ok(Box::new(behind(None)?.filter_map(move |batch| {
        let Ok(batch) = batch else { return Some(batch) };
        let (rows, skipped) = (batch.num_rows(), left.min(batch.num_rows()));
        left -= skipped;
        (skipped < rows).then(|| Ok(batch.slice(skipped, rows - skipped)))
    })))
}

/// A row group of a file.
struct Group {
    source: Arc<Source>,
    metadata: Arc<ParquetMetaData>,
    number: usize,
}

impl RowGroups for Group {
    fn num_rows(&self) -> usize {
        usize::try_from(self.metadata.row_group(self.number).num_rows()).unwrap_or(0)
    }

    fn column_chunks(&self, column: usize) -> Result<Box<dyn PageIterator>> {
        let chunk = self.metadata.row_group(self.number).column(column);
        let pages = SerializedPageReader::new(self.source.clone(), chunk, self.num_rows(), None)?;
        let pages = Honest { pages, column: chunk.column_descr_ptr() };
        Ok(Box::new(One(Some(Box::new(pages)))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(iter::once(self.metadata.row_group(self.number)))
    }

    fn metadata(&self) -> &ParquetMetaData {
        &self.metadata
    }
}

/// Bits that a value of a dictionary takes at least.
fn value_bits(column: &ColumnDescriptor) -> usize {
    match column.physical_type() {
        Type::BOOLEAN => 1,
        // Of texts, their length.
        Type::INT32 | Type::FLOAT | Type::BYTE_ARRAY => 32,
        Type::INT64 | Type::DOUBLE => 64,
        Type::INT96 => 96,
        Type::FIXED_LEN_BYTE_ARRAY => usize::try_from(column.type_length()).unwrap_or(0).saturating_mul(8),
    }
}

/// The one column chunk that a row group has of a column.
struct One(Option<Box<dyn PageReader>>);

impl Iterator for One {
    type Item = Result<Box<dyn PageReader>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(Ok)
    }
}

impl FusedIterator for One {}

impl PageIterator for One {}

/// Pages that hold as many values as they say.
struct Honest {
    pages: SerializedPageReader<Source>,
    column: Arc<ColumnDescriptor>,
}

impl Honest {
    fn check(&self, page: Option<Page>) -> Result<Option<Page>> {
        if let Some(Page::DictionaryPage { buf, num_values, .. }) = &page
            && (*num_values as usize).saturating_mul(value_bits(&self.column)) > buf.len().saturating_mul(8)
        {
            let bytes = buf.len();
            return Err(ParquetError::General(format!(
                "a dictionary of {bytes} bytes says that it has {num_values} values"
            )));
        }
        page.iter().try_for_each(|page| deltas::check(page, &self.column))?;
        Ok(page)
    }
}

impl Iterator for Honest {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Honest {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        self.check(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }

    fn supports_deferred_dictionary(&self) -> bool {
        self.pages.supports_deferred_dictionary()
    }

    fn take_deferred_dictionary(&mut self) -> Result<Option<Page>> {
        let page = self.pages.take_deferred_dictionary()?;
        self.check(page)
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pages.at_record_boundary()
    }
}
