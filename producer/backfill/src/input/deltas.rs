//! Texts of a Parquet page whose lengths are written as deltas. How many there are is a number before the first, and the library takes as much
//! memory as that says: so it is looked at first.

use parquet::{
    basic::Encoding,
    column::page::Page,
    errors::{ParquetError, Result},
    schema::types::ColumnDescriptor,
};

use super::varints::Varints;

/// Values that a page of texts has at most: writers end a page at 20 000 rows or 1 MiB, or at the row group's million.
const MOST_VALUES: u64 = 1 << 26;

/// Refuses a page of texts which says that it has more lengths than the page has values.
pub(super) fn check(page: &Page, column: &ColumnDescriptor) -> Result<()> {
    let lists = match page.encoding() {
        Encoding::DELTA_LENGTH_BYTE_ARRAY => 1,
        // What each text has in common with the one before, and what is left of it.
        Encoding::DELTA_BYTE_ARRAY => 2,
        _ => return Ok(()),
    };
    let most = u64::from(page.num_values()).min(MOST_VALUES);
    let Some(mut values) = values(page, column) else { return Ok(()) };
    for _ in 0..lists {
        // What ends too early is an error of the library's, before it takes any memory.
        let Some(header) = Header::read(&mut values) else { return Ok(()) };
        if header.count > most {
            return Err(ParquetError::General(format!(
                "a page says that it has {} lengths of texts, at most {most} are taken: it is damaged, or has to be written in smaller pages",
                header.count
            )));
        }
        if header.skip(&mut values).is_none() {
            return Ok(());
        }
    }
    Ok(())
}

/// What stands behind the levels of a data page.
fn values<'a>(page: &'a Page, column: &ColumnDescriptor) -> Option<Varints<'a>> {
    let mut bytes = Varints(page.buffer());
    match page {
        Page::DataPage { num_values, rep_level_encoding, def_level_encoding, .. } => {
            let levels = [(column.max_rep_level(), rep_level_encoding), (column.max_def_level(), def_level_encoding)];
            for (most, encoding) in levels.into_iter().filter(|(most, _)| *most > 0) {
                let length = if *encoding == Encoding::RLE {
                    u32::from_le_bytes(*bytes.take(4)?.first_chunk()?).into()
                } else {
                    // Packed, each with as many bits as the largest needs.
                    let bits = u64::from(i16::BITS - most.leading_zeros());
                    (u64::from(*num_values) * bits).div_ceil(8)
                };
                bytes.take(length)?;
            }
        }
        Page::DataPageV2 { rep_levels_byte_len, def_levels_byte_len, .. } => {
            bytes.take(u64::from(*rep_levels_byte_len) + u64::from(*def_levels_byte_len))?;
        }
        Page::DictionaryPage { .. } => return None,
    }
    Some(bytes)
}

/// What stands before numbers that are written as deltas, in blocks of smaller blocks.
struct Header {
    block: u64,
    smaller: u64,
    count: u64,
}

impl Header {
    fn read(bytes: &mut Varints<'_>) -> Option<Self> {
        let header = Self { block: bytes.unsigned()?, smaller: bytes.unsigned()?, count: bytes.unsigned()? };
        bytes.signed()?;
        Some(header)
    }

    /// Goes behind the numbers.
    fn skip(&self, bytes: &mut Varints<'_>) -> Option<()> {
        let each = self.block.checked_div(self.smaller).filter(|each| *each > 0)?;
        let mut left = self.count.saturating_sub(1);
        while left > 0 {
            bytes.signed()?;
            for width in bytes.take(self.smaller)? {
                if left == 0 {
                    // Widths of blocks that are not there.
                    break;
                }
                bytes.take(u64::from(*width).checked_mul(each)? / 8)?;
                left = left.saturating_sub(each);
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, RecordBatch, StringArray};
    use bytes::Bytes;
    use parquet::{
        arrow::ArrowWriter,
        file::{
            properties::{WriterProperties, WriterVersion},
            reader::{FileReader, SerializedFileReader},
        },
    };

    use super::*;

    const TEXTS: usize = 500;

    fn with_count(page: &Page, count: i64, second: bool, column: &ColumnDescriptor) -> Page {
        let whole = page.buffer();
        let mut bytes = values(page, column).unwrap();
        if second {
            Header::read(&mut bytes).unwrap().skip(&mut bytes).unwrap();
        }
        bytes.unsigned().unwrap();
        bytes.unsigned().unwrap();
        let begin = whole.len() - bytes.0.len();
        bytes.unsigned().unwrap();
        let mut left = count as u64;
        let mut changed = whole[..begin].to_vec();
        while left >= 0x80 {
            changed.push(left as u8 | 0x80);
            left >>= 7;
        }
        changed.push(left as u8);
        changed.extend_from_slice(bytes.0);
        let mut page = page.clone();
        match &mut page {
            Page::DataPage { buf, .. } | Page::DataPageV2 { buf, .. } | Page::DictionaryPage { buf, .. } => {
                *buf = Bytes::from(changed);
            }
        }
        page
    }

    #[test]
    fn more_lengths_than_values_are_refused_and_what_is_written_is_not() {
        let texts: StringArray =
            (0..TEXTS).map(|n| (n % 7 != 3).then(|| format!("{}{n}", "ab".repeat(n % 50)))).collect();
        let rows = RecordBatch::try_from_iter([("text", Arc::new(texts) as ArrayRef)]).unwrap();
        for encoding in [Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY] {
            for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
                let properties = WriterProperties::builder().set_writer_version(version);
                let properties = properties.set_dictionary_enabled(false).set_encoding(encoding).build();
                let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).unwrap();
                writer.write(&rows).unwrap();
                let file = SerializedFileReader::new(Bytes::from(writer.into_inner().unwrap())).unwrap();
                let group = file.get_row_group(0).unwrap();
                let column = group.metadata().column(0).column_descr();
                let page = group.get_column_page_reader(0).unwrap().get_next_page().unwrap().unwrap();
                assert_eq!(page.encoding(), encoding);
                check(&page, column).unwrap();
                for second in [false, true].into_iter().take(if encoding == Encoding::DELTA_BYTE_ARRAY { 2 } else { 1 })
                {
                    for count in [TEXTS as i64 + 1, 1 << 46, -1] {
                        let error = check(&with_count(&page, count, second, column), column).unwrap_err().to_string();
                        assert!(error.contains(&format!("it has {} lengths", count as u64)), "{error}");
                    }
                }
            }
        }
    }
}
