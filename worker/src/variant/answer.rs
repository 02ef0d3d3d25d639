//! How large an answer will be, before anything is computed. Pure.
//!
//! In MessagePack that is known to some bytes. In JSON the digits of a number are as they come: what is told is the average over the
//! components of a vector of length one, and of that a little less, so that what would just fit is not refused; it is measured again when it
//! has been computed.

use embed_schemas::{Encoding, ErrorCode, Format, Storage, WireError};

/// Names, versions, timing, headers, and what the server adds.
const BESIDE_ROWS: usize = 800;
/// What is said of each text: tokens, and whether it was cut.
const ITEM_JSON: usize = 31;
const ITEM_MESSAGE_PACK: usize = 20;
/// Of the average, what an answer surely has.
const SURELY: f64 = 0.98;

/// An answer that is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub(super) format: Format,
    pub(super) encoding: Encoding,
    pub(super) texts: usize,
    pub(super) dim: usize,
}

impl Answer {
    /// Bytes of a row, with what is said of its text.
    fn row_bytes(self) -> f64 {
        let storage = self.encoding.storage();
        let (dim, stored) = (self.dim as f64, storage.row_bytes(self.dim) as f64);
        match (self.format, self.encoding) {
            (Format::MessagePack, _) => stored + ITEM_MESSAGE_PACK as f64,
            (Format::Json, Encoding::Base64) => (stored / 3.0).ceil() * 4.0 + 3.0 + ITEM_JSON as f64,
            // Sign, digits and comma. The more components, the smaller they are, and so the more zeros they begin with.
            (Format::Json, _) => {
                let digits = match storage {
                    Storage::F32 | Storage::F16 => dim * (10.9 + 0.152 * dim.max(1.0).log2()),
                    Storage::I8 => dim * 3.3,
                    Storage::U1 => stored * 3.56,
                };
                digits * SURELY + 2.0 + ITEM_JSON as f64
            }
        }
    }

    /// Bytes of the message.
    pub(super) fn bytes(self) -> usize {
        BESIDE_ROWS + (self.row_bytes() * self.texts as f64) as usize
    }

    /// How many texts fit into a message.
    fn most_texts(self, max_payload: usize) -> usize {
        (max_payload.saturating_sub(BESIDE_ROWS) as f64 / self.row_bytes()) as usize
    }

    /// Checks that it fits into a message.
    ///
    /// # Errors
    /// [`ErrorCode::ResultTooLarge`], with what would fit.
    pub(super) fn check(self, max_payload: usize) -> Result<(), WireError> {
        let bytes = self.bytes();
        if bytes <= max_payload {
            return Ok(());
        }
        let Self { format, encoding, texts, .. } = self;
        let others = [
            (Format::Json, Encoding::Base64),
            (Format::Json, Encoding::I8),
            (Format::Json, Encoding::U1),
            (Format::MessagePack, Encoding::F32),
            (Format::MessagePack, Encoding::F16),
            (Format::MessagePack, Encoding::I8),
            (Format::MessagePack, Encoding::U1),
        ];
        let fits = |(format, encoding): &(Format, Encoding)| {
            Self { format: *format, encoding: *encoding, ..self }.bytes() <= max_payload
        };
        let named = |(format, encoding): (Format, Encoding)| format!("{encoding} in {}", name(format));
        let all = others.into_iter().filter(fits).map(named).collect::<Vec<_>>();
        let all = if all.is_empty() { String::new() } else { format!("; all of them fit as {}", all.join(", ")) };
        Err(WireError::new(
            ErrorCode::ResultTooLarge,
            format!(
                "the answer for {texts} texts would have about {bytes} bytes as {encoding} in {}, the server's max_payload is {max_payload}: \
                 send fewer texts at once, at most {} of them{all}",
                name(format),
                self.most_texts(max_payload),
            ),
        ))
    }
}

const fn name(format: Format) -> &'static str {
    match format {
        Format::Json => "JSON",
        Format::MessagePack => "MessagePack",
    }
}

#[cfg(test)]
mod tests {
    use embed_schemas::{EmbedResult, Item, Outcome, Timing};
    use proptest::prelude::*;

    use super::*;

    /// The bytes of an answer whose vectors have a length of one and no direction of their own.
    fn measured(answer: Answer, seed: u64) -> usize {
        let Answer { format, encoding, texts, dim } = answer;
        let mut state = seed;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let mut vectors = Vec::new();
        for _ in 0..texts {
            let mut row: Vec<f32> = (0..dim).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect();
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.iter_mut().for_each(|x| *x /= norm);
            encoding.storage().encode_row(&row, &mut vectors);
        }
        let item = Item { tokens: 12, truncated: false, error: None };
        let result = EmbedResult {
            id: "worker-1".parse().unwrap(),
            model: "all-minilm-l6-v2".parse().unwrap(),
            variant: "fp32".parse().unwrap(),
            version: "v1.0.0".to_owned(),
            space: format!("sha256:{}", "0".repeat(64)),
            dim: dim as u32,
            encoding,
            vectors: vectors.into(),
            items: vec![item; texts],
            timing: Timing::default(),
        };
        format.encode(&Outcome::Result(result)).len()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn what_is_told_is_what_comes(
            format in prop::sample::select(vec![Format::Json, Format::MessagePack]),
            encoding in prop::sample::select(Encoding::ALL.to_vec()),
            texts in 100..257usize, dim in prop::sample::select(vec![128usize, 384, 1024]), seed: u64,
        ) {
            prop_assume!(format == Format::Json || encoding != Encoding::Base64);
            let answer = Answer { format, encoding, texts, dim };
            let (told, came) = (answer.bytes() as f64, measured(answer, seed) as f64);
            prop_assert!(told <= came + BESIDE_ROWS as f64 && told >= came * 0.95, "{} for {}", told, came);
        }
    }

    #[test]
    fn a_refusal_says_what_fits() {
        let answer = Answer { format: Format::Json, encoding: Encoding::Float, texts: 256, dim: 384 };
        let error = answer.check(1 << 20).unwrap_err();
        assert_eq!(error.code, ErrorCode::ResultTooLarge);
        for words in ["max_payload is 1048576", "fewer texts", "at most 2", "base64 in JSON", "f32 in MessagePack"] {
            assert!(error.message.contains(words), "{words}: {error}");
        }
        let most = answer.most_texts(1 << 20);
        assert!(Answer { texts: most, ..answer }.check(1 << 20).is_ok());
        assert!(Answer { texts: most + 1, ..answer }.check(1 << 20).is_err());
        assert!(
            answer.check(1 << 12).unwrap_err().message.ends_with("at most 0 of them"),
            "nothing is offered that does not fit"
        );
    }
}
