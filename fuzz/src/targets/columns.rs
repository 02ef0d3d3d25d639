//! Parquet and Arrow rows of a backfill. A random change of such a file is refused at its end, where the footer is. So an input is a list of
//! changes of a file that can be read, each at a place and such as lengths, numbers of values and encodings are written; the footer's own
//! length is kept true. An input that begins as such a file does is one.

use std::{
    cell::Cell,
    panic,
    sync::{Arc, LazyLock, Once},
};

use arrow_array::{
    ArrayRef, BooleanArray, DictionaryArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray,
    StructArray,
    types::{Int32Type, Int64Type},
};
use arrow_ipc::{
    CompressionType,
    writer::{FileWriter, IpcWriteOptions, StreamWriter},
};
use embed_backfill::Format;
use parquet::{
    arrow::ArrowWriter,
    basic::{BrotliLevel, Compression, Encoding, GzipLevel, ZstdLevel},
    file::properties::{WriterProperties, WriterVersion},
};

use super::written::{parameters, read_on};

const ROWS: i64 = 20;
/// Rows in a row group, or in a batch.
const TOGETHER: usize = 8;
/// Bytes of a change: its place in two, its kind, a value.
const CHANGE: usize = 4;
/// More of them, and nothing is left of the file.
const MOST_CHANGES: usize = 64;
/// Numbers that lengths and counts are not.
const EXTREMES: [i64; 8] = [-1, 0, i32::MAX as i64, i32::MIN as i64, 1 << 20, 1 << 30, 1 << 46, i64::MAX];
/// What every column is asked for as, if it is there.
const KEPT: [&[&str]; 2] = [&["all"], &[]];

static PARQUET: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let gzip = Compression::GZIP(GzipLevel::default());
    let brotli = Compression::BROTLI(BrotliLevel::default());
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let codecs =
        [Compression::UNCOMPRESSED, Compression::SNAPPY, gzip, brotli, Compression::LZ4, zstd, Compression::LZ4_RAW];
    let mut files: Vec<_> = codecs.map(|codec| parquet_file(|builder| builder.set_compression(codec))).into();
    files.push(parquet_file(|builder| builder.set_writer_version(WriterVersion::PARQUET_2_0)));
    for encoding in [Encoding::PLAIN, Encoding::DELTA_BYTE_ARRAY, Encoding::DELTA_LENGTH_BYTE_ARRAY] {
        files.push(parquet_file(|builder| {
            let column = "text".into();
            builder.set_dictionary_enabled(false).set_column_encoding(column, encoding)
        }));
    }
    files
});

static ARROW: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let compressions = [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)];
    compressions.into_iter().flat_map(arrow_files).collect()
});

/// Rows with what columns may be.
fn rows() -> RecordBatch {
    let text = |n: i64| (n % 5 != 3).then(|| format!("text number {n} {}", "ab ".repeat(n as usize)));
    let languages: DictionaryArray<Int32Type> = (0..ROWS).map(|n| ["de", "en"].get(n as usize % 3).copied()).collect();
    let tags = (0..ROWS).map(|n| Some((0..n % 4).map(Some).collect::<Vec<_>>()));
    let halves: ArrayRef = Arc::new((0..ROWS).map(|n| Some(n as f64 / 2.0)).collect::<Float64Array>());
    let flags: ArrayRef = Arc::new((0..ROWS).map(|n| Some(n % 2 == 0)).collect::<BooleanArray>());
    let inner = StructArray::try_from(vec![("half", halves), ("flag", flags)]).expect("columns of one length");
    let columns: [(&str, ArrayRef); 5] = [
        ("id", Arc::new((0..ROWS).collect::<Int64Array>())),
        ("text", Arc::new((0..ROWS).map(text).collect::<StringArray>())),
        ("lang", Arc::new(languages)),
        ("tags", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(tags))),
        ("doc", Arc::new(inner)),
    ];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

type Builder = parquet::file::properties::WriterPropertiesBuilder;

fn parquet_file(change: impl FnOnce(Builder) -> Builder) -> Vec<u8> {
    let rows = rows();
    let builder = WriterProperties::builder().set_max_row_group_row_count(Some(TOGETHER));
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(change(builder).build())).expect("a writer");
    writer.write(&rows).expect("what is in memory can be written");
    writer.into_inner().expect("what is in memory can be written")
}

/// A file, and a stream.
fn arrow_files(compression: Option<CompressionType>) -> [Vec<u8>; 2] {
    let rows = rows();
    let options = IpcWriteOptions::default().try_with_compression(compression).expect("it is compiled in");
    let file = FileWriter::try_new_with_options(Vec::new(), rows.schema_ref(), options.clone());
    let stream = StreamWriter::try_new_with_options(Vec::new(), rows.schema_ref(), options);
    let (mut file, mut stream) = (file.expect("a writer"), stream.expect("a writer"));
    for begin in (0..rows.num_rows()).step_by(TOGETHER) {
        let some = rows.slice(begin, TOGETHER.min(rows.num_rows() - begin));
        file.write(&some).expect("what is in memory can be written");
        stream.write(&some).expect("what is in memory can be written");
    }
    [file.into_inner(), stream.into_inner()].map(|bytes| bytes.expect("what is in memory can be written"))
}

/// A file without a change, and with some at places all over it.
fn seeds(files: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let changed = |n: usize| {
        let mut rng = fastrand::Rng::with_seed(n as u64);
        let number = n as u8;
        [vec![number], [number].into_iter().chain(std::iter::repeat_with(|| rng.u8(..)).take(5 * CHANGE)).collect()]
    };
    (0..files.len()).flat_map(changed).chain([files[0].clone()]).collect()
}

pub(super) fn parquet_seeds() -> Vec<Vec<u8>> {
    seeds(&PARQUET)
}

pub(super) fn arrow_seeds() -> Vec<Vec<u8>> {
    seeds(&ARROW)
}

pub(super) fn parquet(input: &[u8]) {
    let is_file = input.starts_with(b"PAR1");
    check(Format::Parquet, &if is_file { input.to_vec() } else { changed(&PARQUET, input, Some(8)) });
}

pub(super) fn arrow(input: &[u8]) {
    if input.starts_with(b"ARROW1") || input.starts_with(&[0xff; 4]) {
        return check(Format::Arrow, input);
    }
    // Every other is a stream, which has no footer.
    let is_stream = input.first().is_some_and(|number| usize::from(*number) % ARROW.len() % 2 == 1);
    check(Format::Arrow, &changed(&ARROW, input, (!is_stream).then_some(10)));
}

/// The file that an input's first byte names, with its changes. `footer`: how many bytes before the end the footer's length stands.
fn changed(files: &[Vec<u8>], input: &[u8], footer: Option<usize>) -> Vec<u8> {
    let (number, changes) = input.split_first().unwrap_or((&0, &[]));
    let mut file = files[usize::from(*number) % files.len()].clone();
    let length_at = |file: &Vec<u8>| footer.map(|before| file.len() - before);
    for change in changes.chunks_exact(CHANGE).take(MOST_CHANGES) {
        // The end stays: without it, nothing is read.
        let most = file.len() - footer.unwrap_or(0);
        let Some(places) = most.checked_sub(8).filter(|places| *places > 0) else { break };
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % places;
        let extreme = EXTREMES[usize::from(change[3]) % EXTREMES.len()];
        let before = file.len();
        let footer_length =
            length_at(&file).map_or(0, |at| i32::from_le_bytes(file[at..at + 4].try_into().expect("four")));
        match change[2] % 8 {
            0 => file[at] = change[3],
            1 => file[at] ^= 1 << (change[3] % 8),
            2 => file[at..at + 4].copy_from_slice(&(extreme as i32).to_le_bytes()),
            3 => file[at..at + 8].copy_from_slice(&extreme.to_le_bytes()),
            4 => file.insert(at, change[3]),
            5 => drop(file.remove(at)),
            6 => {
                // A number as Parquet's footer and page headers have them.
                let behind = file[at..most].iter().position(|byte| *byte < 0x80).map_or(at + 1, |end| at + end + 1);
                file.splice(at..behind, variable(extreme));
            }
            _ => file[at..at + 4].fill(change[3]),
        }
        if let Some(length_at) = length_at(&file)
            && at + footer_length as usize >= most
        {
            let grown = footer_length + file.len() as i32 - before as i32;
            file[length_at..length_at + 4].copy_from_slice(&grown.to_le_bytes());
        }
    }
    file
}

/// Seven bits a byte, the sign last.
fn variable(number: i64) -> Vec<u8> {
    let mut left = ((number << 1) ^ (number >> 63)) as u64;
    let mut bytes = Vec::new();
    while left >= 0x80 {
        bytes.push(left as u8 | 0x80);
        left >>= 7;
    }
    bytes.push(left as u8);
    bytes
}

thread_local! {
    /// Where our own code has panicked, on this thread.
    static OURS: Cell<Option<String>> = const { Cell::new(None) };
}

/// The libraries' panics are caught where they are called, as the error of a file. A panic of ours is not to be taken for one.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            match panic.location() {
                // Dependencies, and the standard library, are compiled from absolute paths.
                Some(location) if location.file().starts_with('/') => {}
                location => {
                    OURS.set(Some(location.map_or_else(String::new, ToString::to_string)));
                    usual(panic);
                }
            }
        }));
    });
}

/// A table is refused in words or read, and reading can go on behind any of its rows.
fn check(format: Format, file: &[u8]) {
    watch_panics();
    for keep in KEPT {
        read_on(file, format, &parameters(keep));
    }
    let ours = OURS.take();
    assert!(ours.is_none(), "a panic of ours was taken for the library's: {ours:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_can_be_read_and_changes_keep_the_footer_in_its_place() {
        for (format, files, footer) in [(Format::Parquet, &PARQUET, 8), (Format::Arrow, &ARROW, 10)] {
            for (n, file) in files.iter().enumerate() {
                let unchanged = changed(files, &[n as u8], Some(footer));
                assert_eq!(&unchanged, file);
                let rows = read_on(file, format, &parameters(KEPT[0])).expect("it can be read");
                assert_eq!((rows.len() as i64, rows.iter().filter(|(_, text)| text.is_ok()).count()), (ROWS, 16));
            }
        }
        let file = &PARQUET[0];
        let length = |file: &[u8]| i32::from_le_bytes(file[file.len() - 8..file.len() - 4].try_into().unwrap());
        // One byte more within the footer, and one within the data.
        let near_end = (file.len() - 20) as u16;
        let more = changed(&PARQUET, &[&[0], &near_end.to_le_bytes()[..], &[4, 7]].concat(), Some(8));
        assert_eq!((more.len(), length(&more)), (file.len() + 1, length(file) + 1));
        let more = changed(&PARQUET, &[0, 10, 0, 4, 7], Some(8));
        assert_eq!((more.len(), length(&more)), (file.len() + 1, length(file)));
    }
}
