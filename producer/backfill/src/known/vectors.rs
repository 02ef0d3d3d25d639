//! Vectors in a temporary file without a name: rows of one size, found by their place.

use std::{
    env,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::row::{Vector, Window};

/// Bytes that are written at once.
const BUFFER: usize = 1 << 20;
/// Tokens, flags, and the window's numbers.
const HEAD: usize = 4 + 4 + 4 + 8 + 8;
/// Its text was cut.
const TRUNCATED: u32 = 1;
/// It is of a window.
const WINDOW: u32 = 2;
/// Another vector of the same text follows.
const MORE: u32 = 4;

/// The file. One that cannot grow any more can still be read.
#[derive(Debug)]
pub(super) struct Vectors {
    file: File,
    /// Values of each vector, once there is one.
    dimensions: Option<usize>,
    /// Rows that are in the file.
    written: u32,
    /// Rows after them.
    buffer: Vec<u8>,
    /// Bytes that the file may have.
    limit: u64,
}

impl Vectors {
    /// An empty one.
    pub(super) const fn on(file: File, limit: u64) -> Self {
        Self { file, dimensions: None, written: 0, buffer: Vec::new(), limit }
    }

    fn row_bytes(&self) -> usize {
        HEAD + self.dimensions.unwrap_or(0) * size_of::<f32>()
    }

    /// Adds the vectors of a text, and returns their place. `None` if there is no room, or they are of another length than those before.
    ///
    /// # Errors
    /// If the file cannot be written. What was added before is not lost.
    pub(super) fn add(&mut self, vectors: &[Vector]) -> io::Result<Option<u32>> {
        let Some(first) = vectors.first() else { return Ok(None) };
        let dimensions = *self.dimensions.get_or_insert(first.values.len());
        if vectors.iter().any(|vector| vector.values.len() != dimensions) {
            return Ok(None);
        }
        let row = self.row_bytes();
        if self.buffer.len() >= BUFFER {
            self.file.write_all_at(&self.buffer, u64::from(self.written) * row as u64)?;
            // Far fewer rows than numbers: see the limit below.
            self.written += u32::try_from(self.buffer.len() / row).unwrap_or(u32::MAX);
            self.buffer.clear();
        }
        let place = u64::from(self.written) + (self.buffer.len() / row) as u64;
        let end = place + vectors.len() as u64;
        // The highest number is no place.
        if end * row as u64 > self.limit || end >= u64::from(u32::MAX) {
            return Ok(None);
        }
        for (n, vector) in vectors.iter().enumerate() {
            encode(vector, n + 1 < vectors.len(), &mut self.buffer);
        }
        Ok(u32::try_from(place).ok())
    }

    /// The vectors at a place.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn get(&self, mut place: u32) -> io::Result<Vec<Vector>> {
        let bytes = self.row_bytes();
        let mut row = vec![0; bytes];
        let mut vectors = Vec::new();
        loop {
            match place.checked_sub(self.written) {
                Some(n) => {
                    let from = n as usize * bytes;
                    let buffered = self.buffer.get(from..from + bytes);
                    row.copy_from_slice(buffered.ok_or(io::ErrorKind::UnexpectedEof)?);
                }
                None => self.file.read_exact_at(&mut row, u64::from(place) * bytes as u64)?,
            }
            let (vector, more) = decode(&row);
            vectors.push(vector);
            if !more {
                return Ok(vectors);
            }
            place += 1;
        }
    }
}

/// A file for it.
pub(super) fn file() -> io::Result<File> {
    tempfile::tempfile_in(folder())
}

/// Where large files may lie that need not outlive us: `/tmp` is often in memory.
pub(super) fn folder() -> PathBuf {
    let large = Path::new("/var/tmp");
    match env::var_os("TMPDIR") {
        None if large.is_dir() => large.to_owned(),
        _ => env::temp_dir(),
    }
}

fn encode(vector: &Vector, more: bool, out: &mut Vec<u8>) {
    let Vector { values, tokens, truncated, window } = vector;
    let flag = |flag, is_set| if is_set { flag } else { 0 };
    let flags = flag(TRUNCATED, *truncated) | flag(WINDOW, window.is_some()) | flag(MORE, more);
    let Window { index, start, end } = window.unwrap_or(Window { index: 0, start: 0, end: 0 });
    for number in [*tokens, flags, index] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&start.to_le_bytes());
    out.extend_from_slice(&end.to_le_bytes());
    values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
}

/// A vector, and whether another one of the same text follows.
fn decode(row: &[u8]) -> (Vector, bool) {
    let (head, values) = row.split_at(HEAD);
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let flags = word(4);
    let window = (flags & WINDOW != 0).then(|| Window { index: word(8), start: long(12), end: long(20) });
    let values = values.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    let vector = Vector { values: values.collect(), tokens: word(0), truncated: flags & TRUNCATED != 0, window };
    (vector, flags & MORE != 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn empty(limit: u64) -> Vectors {
        Vectors::on(file().unwrap(), limit)
    }

    fn vector(dimensions: usize) -> impl Strategy<Value = Vector> {
        let window = prop::option::of(any::<(u32, u64, u64)>());
        let window = window.prop_map(|w| w.map(|(index, start, end)| Window { index, start, end }));
        let values = prop::collection::vec(-1e9f32..1e9, dimensions);
        (values, any::<u32>(), any::<bool>(), window).prop_map(|(values, tokens, truncated, window)| Vector {
            values,
            tokens,
            truncated,
            window,
        })
    }

    fn plain(value: f32, dimensions: usize) -> Vector {
        Vector { values: vec![value; dimensions], tokens: 1, truncated: false, window: None }
    }

    proptest! {
        #[test]
        fn what_is_added_is_found(
            texts in (1usize..6).prop_flat_map(|n| prop::collection::vec(prop::collection::vec(vector(n), 1..4), 1..20)),
        ) {
            let mut vectors = empty(1 << 20);
            let places: Vec<u32> = texts.iter().map(|text| vectors.add(text).unwrap().unwrap()).collect();
            for (text, place) in texts.iter().zip(places) {
                prop_assert_eq!(&vectors.get(place).unwrap(), text);
            }
        }
    }

    #[test]
    fn it_is_found_in_the_file_and_before_it_is_there() {
        const DIMENSIONS: usize = 1000;
        let mut vectors = empty(u64::MAX);
        let places: Vec<u32> =
            (0..600u16).map(|n| vectors.add(&[plain(n.into(), DIMENSIONS)]).unwrap().unwrap()).collect();
        assert!(vectors.written > 0 && !vectors.buffer.is_empty());
        for (n, place) in (0u16..).zip(places) {
            assert_eq!(vectors.get(place).unwrap(), [plain(n.into(), DIMENSIONS)]);
        }
    }

    #[test]
    fn what_does_not_fit_is_not_taken() {
        let mut vectors = empty(2 * (HEAD as u64 + 8));
        let place = vectors.add(&[plain(1.0, 2)]).unwrap().unwrap();
        assert_eq!(vectors.add(&[plain(1.0, 3)]).unwrap(), None);
        assert_eq!(vectors.add(&[plain(2.0, 2), plain(3.0, 2)]).unwrap(), None);
        assert!(vectors.add(&[plain(2.0, 2)]).unwrap().is_some());
        assert_eq!(vectors.add(&[plain(3.0, 2)]).unwrap(), None);
        assert_eq!(vectors.get(place).unwrap(), [plain(1.0, 2)]);
    }
}
