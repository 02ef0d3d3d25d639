//! Vectors in a temporary file without a name: rows of one size, found by their place.

use std::{
    env,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use half::{f16, slice::HalfFloatSliceExt};

use crate::{
    VectorType,
    row::{Vector, Window},
};

/// Bytes that are written at once, and that are read at once where what is asked for lies one behind the other.
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
    /// As the output keeps them: what it rounds is rounded here.
    vector_type: VectorType,
    /// Values of each vector, once there is one.
    dimensions: Option<usize>,
    /// Rows that are in the file.
    written: u32,
    /// Rows after them.
    buffer: Vec<u8>,
    ahead: Ahead,
    /// Bytes that the file may have.
    limit: u64,
}

/// Rows of the file that were read before they were asked for.
#[derive(Debug, Default)]
struct Ahead {
    /// The place of the first.
    from: u32,
    rows: Vec<u8>,
    /// The place behind the row that was asked for last.
    next: u32,
    /// How many rows are read at once: twice as many each time, as long as each is asked for in its turn.
    at_once: u32,
}

impl Vectors {
    /// An empty one.
    pub(super) fn on(file: File, vector_type: VectorType, limit: u64) -> Self {
        Self { file, vector_type, dimensions: None, written: 0, buffer: Vec::new(), ahead: Ahead::default(), limit }
    }

    fn row_bytes(&self) -> usize {
        HEAD + self.dimensions.unwrap_or(0) * self.vector_type.width()
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
            encode(vector, n + 1 < vectors.len(), self.vector_type, &mut self.buffer);
        }
        Ok(u32::try_from(place).ok())
    }

    /// The vectors at a place.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn get(&mut self, mut place: u32) -> io::Result<Vec<Vector>> {
        let mut vectors = Vec::with_capacity(1);
        loop {
            let vector_type = self.vector_type;
            let (vector, more) = decode(self.row(place)?, vector_type);
            vectors.push(vector);
            if !more {
                return Ok(vectors);
            }
            place += 1;
        }
    }

    /// The row at a place.
    fn row(&mut self, place: u32) -> io::Result<&[u8]> {
        let bytes = self.row_bytes();
        if let Some(n) = place.checked_sub(self.written) {
            return nth(&self.buffer, n, bytes);
        }
        let Ahead { from, rows, next, at_once } = &mut self.ahead;
        let is_read = |from: u32, rows: &[u8]| {
            place.checked_sub(from).is_some_and(|n| (n as usize + 1).saturating_mul(bytes) <= rows.len())
        };
        if !is_read(*from, rows) {
            // Far fewer than numbers.
            let most = u32::try_from(BUFFER / bytes).unwrap_or(u32::MAX).max(1);
            *at_once = if place == *next { at_once.saturating_mul(2).clamp(1, most) } else { 1 };
            let count = (*at_once).min(self.written - place);
            *from = place;
            rows.clear();
            rows.resize(count as usize * bytes, 0);
            let read = self.file.read_exact_at(rows, u64::from(place) * bytes as u64);
            if read.is_err() {
                rows.clear();
            }
            read?;
        }
        *next = place + 1;
        nth(rows, place - *from, bytes)
    }
}

fn nth(rows: &[u8], n: u32, bytes: usize) -> io::Result<&[u8]> {
    let from = n as usize * bytes;
    rows.get(from..from + bytes).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
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

fn encode(vector: &Vector, more: bool, vector_type: VectorType, out: &mut Vec<u8>) {
    let Vector { values, tokens, truncated, window } = vector;
    let flag = |flag, is_set| if is_set { flag } else { 0 };
    let flags = flag(TRUNCATED, *truncated) | flag(WINDOW, window.is_some()) | flag(MORE, more);
    let Window { index, start, end } = window.unwrap_or(Window { index: 0, start: 0, end: 0 });
    for number in [*tokens, flags, index] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&start.to_le_bytes());
    out.extend_from_slice(&end.to_le_bytes());
    let at = out.len();
    out.resize(at + values.len() * vector_type.width(), 0);
    match vector_type {
        VectorType::F32 => {
            let (numbers, _) = out[at..].as_chunks_mut();
            numbers.iter_mut().zip(values).for_each(|(bytes, value)| *bytes = value.to_le_bytes());
        }
        VectorType::F16 => {
            let mut halves = vec![f16::ZERO; values.len()];
            halves.convert_from_f32_slice(values);
            let (numbers, _) = out[at..].as_chunks_mut();
            numbers.iter_mut().zip(halves).for_each(|(bytes, half)| *bytes = half.to_le_bytes());
        }
    }
}

/// A vector, and whether another one of the same text follows.
fn decode(row: &[u8], vector_type: VectorType) -> (Vector, bool) {
    let (head, values) = row.split_at(HEAD);
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let flags = word(4);
    let window = (flags & WINDOW != 0).then(|| Window { index: word(8), start: long(12), end: long(20) });
    let values = vector_type.numbers(values);
    let vector = Vector { values, tokens: word(0), truncated: flags & TRUNCATED != 0, window };
    (vector, flags & MORE != 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn empty(limit: u64) -> Vectors {
        of(VectorType::F32, limit)
    }

    fn of(vector_type: VectorType, limit: u64) -> Vectors {
        Vectors::on(file().unwrap(), vector_type, limit)
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
        // One behind the other, and here and there.
        let all: Vec<(u16, u32)> = (0..).zip(places).collect();
        let jumps = (0..all.len()).map(|n| &all[n * 7 % all.len()]);
        for (n, place) in all.iter().chain(all[100..].iter().rev()).chain(jumps).chain(&all) {
            assert_eq!(vectors.get(*place).unwrap(), [plain((*n).into(), DIMENSIONS)]);
        }
        assert!(vectors.ahead.at_once > 100, "many are read at once: {}", vectors.ahead.at_once);
    }

    #[test]
    fn halves_take_half_the_room_and_are_what_an_output_in_halves_keeps() {
        let mut vectors = of(VectorType::F16, 2 * (HEAD as u64 + 4));
        let given = Vector { tokens: 7, truncated: true, ..plain(1.0 / 3.0, 2) };
        let place = vectors.add(std::slice::from_ref(&given)).unwrap().unwrap();
        assert!(vectors.add(std::slice::from_ref(&given)).unwrap().is_some());
        assert_eq!(vectors.add(std::slice::from_ref(&given)).unwrap(), None);
        let rounded = f16::from_f32(1.0 / 3.0).to_f32();
        assert_eq!(vectors.get(place).unwrap(), [Vector { values: vec![rounded; 2], ..given }]);
        // What no half can hold is refused when it is written.
        let mut vectors = of(VectorType::F16, 1 << 20);
        let place = vectors.add(&[plain(1e9, 2)]).unwrap().unwrap();
        assert_eq!(vectors.get(place).unwrap(), [plain(f32::INFINITY, 2)]);
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
