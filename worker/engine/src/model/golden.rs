//! A version that does not reproduce its golden vectors is not served.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use embed_schemas::{ModelMetadata, Precision, Storage, model::GoldenSet};

use crate::{
    engine::{Engine, EngineError, Input, cosine},
    settings::{EngineConfig, Provider},
    shape::Form,
    tokenize::TextTokenizer,
};

/// Precisions below FP32 are held to this cosine.
const LEAST_COSINE: f32 = 0.98;

/// On a device, components of FP32 vectors may differ by this much, if the version does not allow more: its kernels add in
/// another order.
const DEVICE_TOLERANCE: f32 = 1e-3;

/// How close vectors must come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tolerance {
    /// No component may differ by more than the version's tolerance, or this.
    Component(f32),
    /// The cosine must be at least [`LEAST_COSINE`].
    Cosine,
}

impl Tolerance {
    /// What a precision is held to where it runs.
    #[must_use]
    pub fn of(precision: Precision, provider: Provider, config: &EngineConfig) -> Self {
        match (precision, provider) {
            (Precision::Fp32, Provider::Cpu) => Self::Component(0.0),
            // TensorRT computes FP32 in TF32.
            (Precision::Fp32, Provider::Cuda) if !config.cuda.tf32 => Self::Component(DEVICE_TOLERANCE),
            _ => Self::Cosine,
        }
    }
}

/// The golden texts did not come out as they should.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// The file cannot be understood.
    #[error("golden.json: {0}")]
    Invalid(String),
    /// The engine failed.
    #[error("golden text {index}: {source}")]
    Engine {
        /// Which text.
        index: usize,
        /// What happened.
        source: EngineError,
    },
    /// Something came out differently.
    #[error("golden text {index} ({text:?}): {what}: the version is not what was validated, so it is not served")]
    Differs {
        /// Which text.
        index: usize,
        /// The text.
        text: String,
        /// The difference.
        what: String,
    },
}

/// Embeds the golden texts and compares tokens, truncation and vectors.
///
/// # Errors
/// On the first text that differs.
pub fn verify_golden(
    json: &[u8],
    metadata: &ModelMetadata,
    tolerance: Tolerance,
    form: Form,
    tokenizer: &TextTokenizer,
    engine: &mut impl Engine,
) -> Result<(), GoldenError> {
    let golden: GoldenSet = serde_json::from_slice(json).map_err(|e| GoldenError::Invalid(e.to_string()))?;
    if golden.items.is_empty() {
        return Err(GoldenError::Invalid("it has no texts, so nothing can be verified".into()));
    }
    let mut input = Input { form, ..Input::default() };
    for (index, item) in golden.items.iter().enumerate() {
        let differs = |what: String| GoldenError::Differs { index, text: item.text.chars().take(40).collect(), what };
        let prompt = match &item.prompt {
            Some(name) => Some(metadata.prompts.get(name).ok_or_else(|| differs(format!("no prompt `{name}`")))?),
            None => None,
        };
        let tokens = tokenizer.encode(prompt.map(String::as_str), &item.text, true).map_err(|e| differs(e.message))?;
        if (tokens.ids.len(), tokens.truncated) != (item.tokens as usize, item.truncated) {
            return Err(differs(format!(
                "{} tokens (cut: {}), expected {} (cut: {})",
                tokens.ids.len(),
                tokens.truncated,
                item.tokens,
                item.truncated
            )));
        }
        let bytes = BASE64_STANDARD
            .decode(&item.vector_f32_base64)
            .map_err(|e| GoldenError::Invalid(format!("text {index}: {e}")))?;
        let expected = Storage::F32.decode_row(&bytes, metadata.dimension as usize);
        input.fill([tokens.ids.as_slice()].into_iter());
        let vector = engine.embed(&input).map_err(|source| GoldenError::Engine { index, source })?;
        if vector.len() != expected.len() {
            return Err(differs(format!("{} components, expected {}", vector.len(), expected.len())));
        }
        compare(&vector, &expected, tolerance, golden.tolerance).map_err(differs)?;
    }
    Ok(())
}

fn compare(vector: &[f32], expected: &[f32], held_to: Tolerance, tolerance: f32) -> Result<(), String> {
    let pairs = || vector.iter().zip(expected);
    if let Tolerance::Component(least) = held_to {
        let tolerance = tolerance.max(least);
        let difference =
            pairs().map(|(a, b)| (a - b).abs()).fold(0.0, |max: f32, d| if d > max || d.is_nan() { d } else { max });
        return if difference <= tolerance {
            Ok(())
        } else {
            Err(format!("a component is off by {difference}, at most {tolerance} is allowed"))
        };
    }
    let cosine = cosine(vector, expected);
    if cosine >= LEAST_COSINE {
        Ok(())
    } else {
        Err(format!("the cosine is {cosine}, at least {LEAST_COSINE} is needed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_a_number_never_passes() {
        assert!(compare(&[f32::NAN, 0.0], &[0.0, 0.0], Tolerance::Component(0.0), 0.1).is_err());
        assert!(compare(&[f32::NAN, 0.0], &[1.0, 0.0], Tolerance::Cosine, 0.1).is_err());
        assert!(compare(&[0.05, 1.0], &[0.0, 1.0], Tolerance::Component(0.0), 0.1).is_ok());
        assert!(compare(&[0.2, 1.0], &[0.0, 1.0], Tolerance::Component(0.0), 0.1).is_err());
    }
}
