//! Arrays of NumPy: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use super::VectorType;

/// Bytes before the numbers: a multiple of 64, as the format asks for.
pub(super) const HEADER: usize = 128;
/// The format's name, its version, and the length of what comes next, in two bytes.
const FIXED: usize = 10;
const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";

/// What comes before the numbers of so many vectors.
pub(super) fn header(vector_type: VectorType, rows: usize, dimensions: usize) -> Vec<u8> {
    let kind = kind(vector_type);
    let what = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({rows}, {dimensions}), }}");
    let room = HEADER - FIXED;
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&(room as u16).to_le_bytes());
    header.extend_from_slice(format!("{what:<width$}\n", width = room - 1).as_bytes());
    header
}

/// Whether bytes begin as [`header`] makes it.
pub(super) fn is_header(bytes: &[u8], vector_type: VectorType, rows: usize, dimensions: usize) -> bool {
    bytes.starts_with(&header(vector_type, rows, dimensions))
}

const fn kind(vector_type: VectorType) -> &'static str {
    match vector_type {
        VectorType::F32 => "<f4",
        VectorType::F16 => "<f2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_of_one_length() {
        for (rows, dimensions) in [(0, 1), (1, 384), (usize::MAX, i32::MAX as usize)] {
            let header = header(VectorType::F16, rows, dimensions);
            assert_eq!((header.len(), header.last()), (HEADER, Some(&b'\n')));
        }
    }
}
