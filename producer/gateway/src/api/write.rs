//! Vectors as JSON, written once and straight into the answer.

use base64::{Engine, prelude::BASE64_STANDARD};
use embed_client::EmbedResult;

/// A row as an array of numbers.
pub(crate) fn numbers(result: &EmbedResult, row: usize, out: &mut Vec<u8>) {
    let row = components(result, row);
    // The shortest digits that give the same 32 bits back.
    let written = serde_json::to_writer(&mut *out, &Row(row));
    debug_assert!(written.is_ok(), "numbers can be written");
}

/// A row as base64 of its bytes: little-endian 32-bit floating point, as they came.
pub(crate) fn base64(result: &EmbedResult, row: usize, out: &mut Vec<u8>) {
    let bytes = result.row_bytes(row).unwrap_or_default();
    out.push(b'"');
    let begin = out.len();
    out.resize(begin + bytes.len().div_ceil(3) * 4, 0);
    let written = BASE64_STANDARD.encode_slice(bytes, &mut out[begin..]).unwrap_or_default();
    out.truncate(begin + written);
    out.push(b'"');
}

/// A string, quoted.
pub(crate) fn string(text: &str, out: &mut Vec<u8>) {
    let written = serde_json::to_writer(&mut *out, text);
    debug_assert!(written.is_ok(), "text can be written");
}

/// A whole number.
pub(crate) fn number(number: u64, out: &mut Vec<u8>) {
    let written = serde_json::to_writer(&mut *out, &number);
    debug_assert!(written.is_ok(), "a number can be written");
}

/// Room for the vectors of an answer, so that it need not grow.
pub(crate) fn room_for(result: &EmbedResult) -> Vec<u8> {
    Vec::with_capacity(result.vectors.len() * 3 + result.items.len() * 64 + 256)
}

fn components(result: &EmbedResult, row: usize) -> &[[u8; 4]] {
    result.row_bytes(row).unwrap_or_default().as_chunks::<4>().0
}

struct Row<'a>(&'a [[u8; 4]]);

impl serde::Serialize for Row<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|bytes| f32::from_le_bytes(*bytes)))
    }
}

#[cfg(test)]
mod tests {
    use embed_client::{Encoding, Item};
    use proptest::prelude::*;

    use super::*;

    fn result(row: &[f32]) -> EmbedResult {
        let mut vectors = Vec::new();
        Encoding::F32.storage().encode_row(row, &mut vectors);
        EmbedResult {
            id: "a".parse().unwrap(),
            model: "m".parse().unwrap(),
            variant: "v".parse().unwrap(),
            version: "v1".into(),
            space: "s".into(),
            dim: u32::try_from(row.len()).unwrap(),
            encoding: Encoding::F32,
            vectors: vectors.into(),
            items: vec![Item::default()],
            timing: embed_schemas::Timing::default(),
        }
    }

    proptest! {
        #[test]
        fn both_forms_are_the_same_bits(row in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::ZERO, 0..40)) {
            let (result, mut text, mut packed) = (result(&row), Vec::new(), Vec::new());
            numbers(&result, 0, &mut text);
            base64(&result, 0, &mut packed);
            // As a client reads it: a double, which it makes a float of.
            let read: Vec<f64> = serde_json::from_slice(&text).unwrap();
            let read: Vec<u32> = read.into_iter().map(|number| (number as f32).to_bits()).collect();
            prop_assert_eq!(&read, &row.iter().map(|number| number.to_bits()).collect::<Vec<_>>());
            let packed: String = serde_json::from_slice(&packed).unwrap();
            prop_assert_eq!(BASE64_STANDARD.decode(packed).unwrap(), &result.vectors[..]);
        }
    }
}
