//! The footer of a Parquet file, looked at before the library reads it: for a group of a schema, the library takes as much memory as that says
//! that it has children, 16 GiB in a file of a few kilobytes, and follows groups within groups as deep as they go.
//!
//! It is a Thrift struct in the compact protocol. It is walked as the library walks it, which takes the type of a field that it knows from the format,
//! not from the file: a field with another type than the format's is refused, so that both see the same.

use std::{io, sync::Arc};

use parquet::{
    arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions},
    file::{
        FOOTER_SIZE,
        metadata::{FooterTail, ParquetMetaDataReader},
        reader::{ChunkReader, Length},
    },
};

use super::{source::Source, varints::Varints};

/// Most values within values, and most groups within groups. A list within a group takes two.
const MOST_LEVELS: usize = 64;

/// Longest values of a column whose values all have one length, in bytes: such a column takes that for each row, also where nothing is.
const LONGEST_FIXED: i64 = 64 << 10;

const ENDS: &str = "it ends too early, or a number in it has no end";

// The types of Thrift's compact protocol. A boolean of a field has two: it is its type.
const STOP: u8 = 0;
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;
const UUID: u8 = 13;

/// Reads what a Parquet file says of itself.
pub(super) fn read(source: &Source) -> io::Result<ArrowReaderMetadata> {
    let end = Length::len(source).checked_sub(FOOTER_SIZE as u64);
    let end = end.ok_or_else(|| io::Error::other("it is too short for a Parquet file"))?;
    let tail = source.get_bytes(end, FOOTER_SIZE).map_err(io::Error::other)?;
    let tail = FooterTail::try_from(&tail[..]).map_err(io::Error::other)?;
    if tail.is_encrypted_footer() {
        return Err(io::Error::other("its footer is encrypted: write it without encryption"));
    }
    let length = tail.metadata_length();
    let begin = end.checked_sub(length as u64).ok_or_else(|| damaged("it is longer than the file"))?;
    let footer = source.get_bytes(begin, length).map_err(io::Error::other)?;
    check(&footer)?;
    let metadata = ParquetMetaDataReader::decode_metadata(&footer).map_err(io::Error::other)?;
    // What Arrow has written of its own types is taken: they are what the writer meant.
    ArrowReaderMetadata::try_new(Arc::new(metadata), ArrowReaderOptions::new()).map_err(io::Error::other)
}

fn damaged(what: &str) -> io::Error {
    io::Error::other(format!("its footer is damaged ({what}): write the file again from its source"))
}

/// Refuses what would take more memory, or time, than the bytes of the footer are worth.
fn check(footer: &[u8]) -> io::Result<()> {
    let mut walk = Walk { left: Varints(footer), length: footer.len(), claimed: 0 };
    walk.value(STRUCT, Of::File, MOST_LEVELS).map(drop)
}

/// Which struct of the format it is, as far as the schema can be seen from it.
#[derive(Clone, Copy)]
enum Of {
    File,
    Element,
    Logical,
    Decimal,
    Time,
    Unit,
    Integer,
    Variant,
    Geography,
    /// Any other, and what is no struct.
    Other,
}

impl Of {
    /// The type that a field has in the format, and what that is of; `None` of fields that the library skips by what the file says.
    fn field(self, id: i16) -> Option<(u8, Self)> {
        Some(match (self, id) {
            (Self::File, 2) => (LIST, Self::Element),
            (Self::File, 4 | 5 | 7) => (LIST, Self::Other),
            (Self::File, 3) => (I64, Self::Other),
            (Self::File, 6) | (Self::Element, 4) | (Self::Geography, 1) => (BINARY, Self::Other),
            (Self::File, 1) | (Self::Element, 1..=9) | (Self::Decimal, 1 | 2) | (Self::Geography, 2) => {
                (I32, Self::Other)
            }
            (Self::Element, 10) => (STRUCT, Self::Logical),
            (Self::Logical, 5) => (STRUCT, Self::Decimal),
            (Self::Logical, 7 | 8) => (STRUCT, Self::Time),
            (Self::Logical, 10) => (STRUCT, Self::Integer),
            (Self::Logical, 16) => (STRUCT, Self::Variant),
            (Self::Logical, 17 | 18) => (STRUCT, Self::Geography),
            (Self::Logical, 1..=15) | (Self::Unit, 1..=3) => (STRUCT, Self::Other),
            (Self::Time, 1) | (Self::Integer, 2) => (TRUE, Self::Other),
            (Self::Time, 2) => (STRUCT, Self::Unit),
            (Self::Integer | Self::Variant, 1) => (BYTE, Self::Other),
            _ => return None,
        })
    }
}

struct Walk<'a> {
    left: Varints<'a>,
    length: usize,
    /// Elements that lists and maps say that they have. Each takes a byte at least.
    claimed: usize,
}

impl Walk<'_> {
    fn take(&mut self, bytes: u64) -> io::Result<&[u8]> {
        self.left.take(bytes).ok_or_else(|| damaged(ENDS))
    }

    fn byte(&mut self) -> io::Result<u8> {
        self.left.byte().ok_or_else(|| damaged(ENDS))
    }

    fn unsigned(&mut self) -> io::Result<u64> {
        self.left.unsigned().ok_or_else(|| damaged(ENDS))
    }

    fn signed(&mut self) -> io::Result<i64> {
        self.left.signed().ok_or_else(|| damaged(ENDS))
    }

    /// A value: of numbers that number, of elements of the schema their children.
    fn value(&mut self, kind: u8, of: Of, levels: usize) -> io::Result<i64> {
        let levels = levels.checked_sub(1).ok_or_else(|| damaged("values within values without end"))?;
        match kind {
            // The library takes none for one in a list either.
            TRUE | FALSE => {}
            BYTE => return self.byte().map(i64::from),
            I16 | I32 | I64 => return self.signed(),
            DOUBLE => drop(self.take(8)?),
            UUID => drop(self.take(16)?),
            BINARY => {
                let length = self.unsigned()?;
                self.take(length)?;
            }
            LIST | SET => self.list(of, levels)?,
            MAP => self.map(levels)?,
            STRUCT => return self.fields(of, levels),
            _ => return Err(damaged("a type that there is not")),
        }
        Ok(0)
    }

    fn fields(&mut self, of: Of, levels: usize) -> io::Result<i64> {
        let (mut id, mut children) = (0_i16, 0);
        loop {
            let header = self.byte()?;
            let kind = header & 0xf;
            if kind == STOP {
                return Ok(children);
            }
            id = match header >> 4 {
                // As the library does it, with what is too large too.
                0 => self.signed()? as i16,
                more => id.checked_add(more.into()).ok_or_else(|| damaged("fields without end"))?,
            };
            let (expected, inner) = of.field(id).unwrap_or((kind, Of::Other));
            if expected != kind && (expected, kind) != (TRUE, FALSE) {
                return Err(damaged(&format!("field {id} has the type {kind}, not {expected}")));
            }
            let value = self.value(kind, inner, levels)?;
            if matches!((of, id), (Of::Element, 2)) && !(0..=LONGEST_FIXED).contains(&i64::from(value as i32)) {
                return Err(io::Error::other(format!(
                    "a column has values of {value} bytes each, more than {LONGEST_FIXED}: write it with values of the length that they have (BYTE_ARRAY)"
                )));
            }
            if matches!((of, id), (Of::Element, 5)) {
                // As the library does it, with what is too large too.
                children = i64::from(value as i32);
            }
        }
    }

    /// Counts the elements of a list or of a map.
    fn claim(&mut self, size: u64) -> io::Result<usize> {
        let size = usize::try_from(size).ok().filter(|size| *size <= self.left.0.len());
        let claimed = size.and_then(|size| Some((size, self.claimed.checked_add(size)?)));
        let claimed = claimed.filter(|(_, claimed)| *claimed <= self.length);
        let (size, claimed) = claimed.ok_or_else(|| damaged("a list that is longer than what is there"))?;
        self.claimed = claimed;
        Ok(size)
    }

    fn list(&mut self, of: Of, levels: usize) -> io::Result<()> {
        let header = self.byte()?;
        if header == 0 {
            // So do some write one that is empty.
            return Ok(());
        }
        let size = match header >> 4 {
            15 => self.unsigned()?,
            size => size.into(),
        };
        let size = self.claim(size)?;
        let kind = header & 0xf;
        let mut open = Levels::default();
        for n in 0..size {
            let children = self.value(kind, of, levels)?;
            if matches!(of, Of::Element) {
                open.element(children, size - n - 1)?;
            }
        }
        Ok(())
    }

    fn map(&mut self, levels: usize) -> io::Result<()> {
        let size = self.unsigned()?;
        let size = self.claim(size)?;
        if size == 0 {
            return Ok(());
        }
        let kinds = self.byte()?;
        for _ in 0..size {
            self.value(kinds >> 4, Of::Other, levels)?;
            self.value(kinds & 0xf, Of::Other, levels)?;
        }
        Ok(())
    }
}

/// The groups of a schema that the next element is in: the schema is a list, each group followed by what is in it.
#[derive(Default)]
struct Levels {
    /// Of each, how many of its children are still to come.
    to_come: Vec<usize>,
    /// All of them.
    all: usize,
}

impl Levels {
    /// Takes the next element, behind which so many follow.
    fn element(&mut self, children: i64, behind: usize) -> io::Result<()> {
        if let Some(siblings) = self.to_come.last_mut() {
            *siblings -= 1;
            self.all -= 1;
        }
        let children = usize::try_from(children).ok().filter(|children| *children <= behind);
        let all = children.and_then(|children| self.all.checked_add(children)).filter(|all| *all <= behind);
        let (Some(children), Some(all)) = (children, all) else {
            return Err(damaged("a group of its schema says that it has more columns than follow"));
        };
        self.all = all;
        self.to_come.push(children);
        if self.to_come.len() > MOST_LEVELS {
            return Err(damaged("its schema has groups within groups without end"));
        }
        while self.to_come.last() == Some(&0) {
            self.to_come.pop();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use parquet::{
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::{parser::parse_message_type, types::Type},
    };
    use proptest::prelude::*;

    use super::*;

    fn number(number: i64) -> Vec<u8> {
        let mut left = ((number << 1) ^ (number >> 63)) as u64;
        let mut bytes = Vec::new();
        while left >= 0x80 {
            bytes.push(left as u8 | 0x80);
            left >>= 7;
        }
        bytes.push(left as u8);
        bytes
    }

    /// A footer with groups that say that they have so many children, and without row groups. Of 0, a leaf of numbers.
    fn footer(children: &[i64]) -> Vec<u8> {
        let mut bytes =
            vec![0x10 | I32, 2, 0x10 | LIST, 0xf0 | STRUCT, children.len() as u8 | 0x80, (children.len() >> 7) as u8];
        for (n, children) in children.iter().enumerate() {
            let mut last = 0;
            let mut field = |id: u8, kind: u8, value: &[u8]| {
                bytes.push((id - last) << 4 | kind);
                bytes.extend_from_slice(value);
                last = id;
            };
            if *children == 0 && n > 0 {
                field(1, I32, &number(2));
            }
            if n > 0 {
                field(3, I32, &number(0));
            }
            field(4, BINARY, b"\x01c");
            if *children != 0 {
                field(5, I32, &number(*children));
            }
            bytes.push(STOP);
        }
        bytes.extend([0x10 | I64, 0, 0x10 | LIST, STRUCT, STOP]);
        bytes
    }

    fn file(footer: &[u8]) -> Source {
        let length = footer.len() as u32;
        Source::memory([b"PAR1", footer, &length.to_le_bytes(), b"PAR1"].concat().into())
    }

    fn error(footer: &[u8]) -> String {
        read(&file(footer)).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn a_schema_that_says_that_it_is_large_takes_no_memory() {
        read(&file(&footer(&[2, 0, 1, 0]))).map(drop).unwrap();
        for children in [4, 1 << 20, i32::MAX.into(), -1, i32::MIN.into()] {
            for children in [[children, 0, 1, 0], [2, 0, children, 0]] {
                let error = error(&footer(&children));
                assert!(
                    error.contains("damaged") && error.contains("more columns than follow"),
                    "{children:?}: {error}"
                );
            }
        }
        let deep = |levels: usize| footer(&[vec![1; levels], vec![0]].concat());
        read(&file(&deep(MOST_LEVELS - 1))).map(drop).unwrap();
        assert!(error(&deep(MOST_LEVELS)).contains("groups within groups"));
        assert!(error(&deep(10_000)).contains("groups within groups"));
    }

    #[test]
    fn what_takes_more_than_its_bytes_is_refused_in_words() {
        let unknown = |kind: u8, bytes: &[u8]| {
            let whole = footer(&[1, 0]);
            [&whole[..whole.len() - 1], &[0xc0 | kind], bytes, &[STOP]].concat()
        };
        read(&file(&unknown(LIST, &[0x20 | I32, 0, 0]))).map(drop).unwrap();
        // Booleans, for which the library reads nothing, and as often as it is told.
        assert!(error(&unknown(LIST, &[0xf0 | TRUE, 0xff, 0xff, 0xff, 0xff, 7])).contains("a list that is longer"));
        assert!(error(&unknown(MAP, &[0xff, 0xff, 0xff, 0xff, 7, 0x11])).contains("a list that is longer"));
        assert!(error(&unknown(LIST, &[0x10 | LIST; 100])).contains("values within values"));
        assert!(error(&unknown(BINARY, &[0xff; 20])).contains("no end"));
        // The library would read the text as a number, and take what is in it for fields.
        let mut other = footer(&[1, 0]);
        other[0] = 0x10 | BINARY;
        assert!(error(&other).contains("field 1 has the type 8, not 5"));
        for (bytes, words) in [
            (&b"PAR1"[..], "too short"),
            (b"PAR1\xff\xff\xff\x7fPAR1", "damaged (it is longer than the file)"),
            (b"PAR1\x01\0\0\0PARE", "encrypted"),
        ] {
            let error = read(&Source::memory(bytes.to_vec().into())).map(drop).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn values_of_one_length_are_bounded() {
        let file = |length: i64| {
            let schema = format!("message m {{ OPTIONAL FIXED_LEN_BYTE_ARRAY ({length}) a; }}");
            let schema = Arc::new(parse_message_type(&schema).unwrap());
            let writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(WriterProperties::builder().build()));
            Source::memory(writer.unwrap().into_inner().unwrap().into())
        };
        read(&file(LONGEST_FIXED)).map(drop).unwrap();
        for length in [LONGEST_FIXED + 1, i32::MAX.into()] {
            let error = read(&file(length)).map(drop).unwrap_err().to_string();
            assert!(error.contains(&format!("{length} bytes each")), "{error}");
        }
    }

    #[test]
    fn all_types_of_the_format_are_taken() {
        let schema = "message m { REQUIRED BYTE_ARRAY a (UTF8); OPTIONAL INT32 b (DECIMAL(9,2)); OPTIONAL INT32 c (DATE);
            OPTIONAL INT32 d (TIME(MILLIS,true)); OPTIONAL INT64 e (TIMESTAMP(NANOS,false)); OPTIONAL INT32 f (INTEGER(16,true));
            OPTIONAL BYTE_ARRAY g (JSON); OPTIONAL BYTE_ARRAY h (BSON); OPTIONAL BYTE_ARRAY i (ENUM);
            OPTIONAL FIXED_LEN_BYTE_ARRAY (16) j (UUID); OPTIONAL FIXED_LEN_BYTE_ARRAY (2) k (FLOAT16);
            OPTIONAL group l (LIST) { REPEATED group list { OPTIONAL INT64 element; } }
            OPTIONAL group m (MAP) { REPEATED group key_value { REQUIRED BYTE_ARRAY key (UTF8); OPTIONAL BOOLEAN value; } }
            OPTIONAL INT96 n; OPTIONAL DOUBLE o; OPTIONAL INT64 p (INTEGER(64,false)); }";
        let schema: Arc<Type> = Arc::new(parse_message_type(schema).unwrap());
        let writer =
            SerializedFileWriter::new(Vec::new(), schema.clone(), Arc::new(WriterProperties::builder().build()));
        let bytes = writer.unwrap().into_inner().unwrap();
        let read = read(&Source::memory(bytes.into())).unwrap();
        assert_eq!(read.parquet_schema().root_schema(), &*schema);
    }

    proptest! {
        #[test]
        fn what_the_library_can_read_is_let_through(children in prop::collection::vec(-1..5_i64, 1..12)) {
            let bytes = footer(&children);
            let is_checked = check(&bytes).is_ok();
            // No number is large here: the library may see all.
            let is_read = ParquetMetaDataReader::decode_metadata(&bytes).is_ok();
            prop_assert!(is_checked || !is_read);
            let length = children.len();
            // Columns that all groups together still wait for.
            let mut owed = 1;
            let fits = children.iter().enumerate().all(|(n, children)| {
                owed = (owed - 1).max(0) + children;
                *children >= 0 && owed <= (length - n - 1) as i64
            });
            prop_assert_eq!(is_checked, fits);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..60_usize) {
            let _ = check(&bytes);
            let mut whole = footer(&[2, 0, 1, 0]);
            whole.splice(at.min(whole.len())..at.min(whole.len()), bytes);
            let _ = check(&whole);
        }
    }
}
