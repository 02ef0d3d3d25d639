//! How vectors are stored and sent: number formats, row layout, and their JSON forms.

use std::{fmt, str::FromStr};

use half::{f16, slice::HalfFloatSliceExt};
#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a request asks for, and what a result says it holds.
///
/// | encoding | MessagePack: bytes a row | JSON: a row |
/// |---|---|---|
/// | `f32` (default), `float` | 4 x dim, IEEE 754 | array of numbers |
/// | `f16` | 2 x dim, IEEE 754 half | array of numbers, rounded to half precision |
/// | `i8` | dim | array of integers -127..=127 |
/// | `u1` | dim / 8, rounded up | array of integers 0..=255 |
/// | `base64` | (JSON only) | base64 of the row's `f32` bytes |
///
/// All byte forms are little-endian and row-major.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// 32-bit floating point.
    #[default]
    F32,
    /// 16-bit floating point.
    F16,
    /// 8-bit integers. Each row is scaled so that its largest component is 127: the direction is kept, the norm is not,
    /// so compare by cosine.
    I8,
    /// One bit a component, its sign (1 for positive), first component in the highest bit. Compare by Hamming distance.
    U1,
    /// The same numbers as `f32`, under the name that HTTP embedding services use.
    Float,
    /// JSON only: base64 of little-endian `f32`.
    Base64,
}

/// The number format behind an [`Encoding`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point.
    F16,
    /// 8-bit integers.
    I8,
    /// One bit a component.
    U1,
}

impl Encoding {
    /// All encodings.
    pub const ALL: [Self; 6] = [Self::F32, Self::F16, Self::I8, Self::U1, Self::Float, Self::Base64];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::I8 => "i8",
            Self::U1 => "u1",
            Self::Float => "float",
            Self::Base64 => "base64",
        }
    }

    /// The number format.
    #[must_use]
    pub const fn storage(self) -> Storage {
        match self {
            Self::F32 | Self::Float | Self::Base64 => Storage::F32,
            Self::F16 => Storage::F16,
            Self::I8 => Storage::I8,
            Self::U1 => Storage::U1,
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Encoding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|encoding| encoding.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not an encoding: use f32, f16, i8, u1, float or base64"))
    }
}

impl Storage {
    /// Bytes of one row of `dim` components.
    #[must_use]
    pub const fn row_bytes(self, dim: usize) -> usize {
        match self {
            Self::F32 => 4 * dim,
            Self::F16 => 2 * dim,
            Self::I8 => dim,
            Self::U1 => dim.div_ceil(8),
        }
    }

    /// Appends one row, [`Storage::row_bytes`] bytes, to `out`.
    pub fn encode_row(self, row: &[f32], out: &mut Vec<u8>) {
        match self {
            // Into room that is there already: to append each number by itself takes five times as long.
            Self::F32 => {
                for (bytes, x) in extend(out, row.len()).iter_mut().zip(row) {
                    *bytes = x.to_le_bytes();
                }
            }
            Self::F16 => {
                // Many at once: the processor has an instruction for eight.
                let mut halves = [f16::ZERO; AT_ONCE];
                for (bytes, row) in extend(out, row.len()).chunks_mut(AT_ONCE).zip(row.chunks(AT_ONCE)) {
                    let halves = &mut halves[..row.len()];
                    halves.convert_from_f32_slice(row);
                    bytes.iter_mut().zip(halves).for_each(|(bytes, half)| *bytes = half.to_le_bytes());
                }
            }
            Self::I8 => {
                let largest = row.iter().fold(0f32, |m, x| m.max(x.abs()));
                let scale = if largest > 0.0 { 127.0 / largest } else { 0.0 };
                // The cast saturates, so no component can wrap around.
                out.extend(row.iter().map(|x| ((x * scale).round() as i8).cast_unsigned()));
            }
            Self::U1 => {
                for eight in row.chunks(8) {
                    let mut byte = 0u8;
                    for (i, x) in eight.iter().enumerate() {
                        byte |= u8::from(*x > 0.0) << (7 - i);
                    }
                    out.push(byte);
                }
            }
        }
    }

    /// Reads one row of `dim` components back as floating point: `i8` as -127..=127, `u1` as -1 and 1.
    ///
    /// Components that `bytes` is too short for are left out.
    #[must_use]
    pub fn decode_row(self, bytes: &[u8], dim: usize) -> Vec<f32> {
        match self {
            Self::F32 => bytes.as_chunks::<4>().0.iter().take(dim).map(|b| f32::from_le_bytes(*b)).collect(),
            Self::F16 => {
                let halves = bytes.as_chunks::<2>().0.iter().take(dim).map(|b| f16::from_le_bytes(*b));
                halves.collect::<Vec<_>>().to_f32_vec()
            }
            Self::I8 => bytes.iter().take(dim).map(|b| f32::from(b.cast_signed())).collect(),
            Self::U1 => bytes
                .iter()
                .flat_map(|byte| (0..8).map(move |i| if byte >> (7 - i) & 1 == 1 { 1.0 } else { -1.0 }))
                .take(dim)
                .collect(),
        }
    }
}

/// Numbers that are rounded to halves at once.
const AT_ONCE: usize = 64;

/// Room for so many numbers more, of `N` bytes each.
fn extend<const N: usize>(out: &mut Vec<u8>, numbers: usize) -> &mut [[u8; N]] {
    let start = out.len();
    out.resize(start + N * numbers, 0);
    out[start..].as_chunks_mut().0
}

/// The cosine of two vectors. 0 for vectors that cannot be compared: those agree in nothing.
#[must_use]
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return 0.0;
    }
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    if cosine.is_finite() { cosine } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cosines_are_numbers() {
        assert!((cosine(&[1.0, 1.0], &[2.0, 2.0]) - 1.0).abs() < 1e-12);
        assert!(cosine(&[1.0, 0.0], &[0.0, 1.0]).abs() < 1e-12);
        assert_eq!(cosine(&[0.0], &[1.0]), 0.0);
        assert_eq!(cosine(&[f32::NAN], &[1.0]), 0.0);
        assert_eq!(cosine(&[1.0], &[1.0, 0.0]), 0.0);
    }

    #[test]
    fn the_bits_are_packed_as_numpy_packs_them() {
        let mut out = Vec::new();
        Storage::U1.encode_row(&[1.0, -1.0, 0.5, 0.0, -0.0, -3.0, 2.0, 1.0, 1.0], &mut out);
        assert_eq!(out, [0b1010_0011, 0b1000_0000]);
        assert_eq!(Storage::U1.decode_row(&out, 9), [1.0, -1.0, 1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn a_row_of_zeros_stays_zero() {
        let mut out = Vec::new();
        Storage::I8.encode_row(&[0.0; 4], &mut out);
        assert_eq!(out, [0; 4]);
    }

    proptest! {
        #[test]
        fn a_row_has_the_promised_size_and_keeps_its_direction(row in prop::collection::vec(-1f32..1f32, 32..200)) {
            prop_assume!(row.iter().any(|x| x.abs() > 0.1));
            for (storage, least) in [(Storage::F32, 1.0), (Storage::F16, 0.9999), (Storage::I8, 0.999), (Storage::U1, 0.5)] {
                // Behind what is there already.
                let mut out = vec![7];
                storage.encode_row(&row, &mut out);
                let out = out.strip_prefix(&[7]).expect("it stays");
                prop_assert_eq!(out.len(), storage.row_bytes(row.len()));
                let back = storage.decode_row(out, row.len());
                prop_assert_eq!(back.len(), row.len());
                let cosine = cosine(&row, &back);
                prop_assert!(cosine > least - 1e-6, "{:?}: {}", storage, cosine);
            }
        }
    }
}
