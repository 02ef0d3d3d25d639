//! A version that does not reproduce its golden vectors is not served.

use std::collections::BTreeSet;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use embed_schemas::{
    Artefact, ModelMetadata, Precision, Storage,
    model::{GoldenItem, GoldenSet},
};

use crate::{
    engine::{Engine, EngineError, Input, cosine},
    settings::{EngineConfig, Provider},
    shape::Form,
    tokenize::TextTokenizer,
};

/// Precisions below FP32 are held to this cosine, whatever a version says of itself.
const LEAST_COSINE: f32 = 0.98;

/// A graph may be this many times as far from FP32 as it was when it was validated: kernels of other devices round elsewhere.
const FARTHER: f32 = 2.0;
/// What is computed in BF16 has been as near as 0.99997 to FP32 in each text.
const LEAST_COSINE_BF16: f32 = 0.9995;

/// And by this much more, for what is computed in 16 bits on a device, and was not where it was validated.
const FARTHER_BY: f32 = 1e-3;
/// In 8 bits it cannot come this many times as near: what does is not computed in 8 bits.
const NEARER: f32 = 4.0;
/// Less than this of FP16 and of 8 bits cannot be told apart.
const TELLING: f32 = 1e-4;

/// FP32 is held to this one, whatever the version's tolerance is: a tolerance is for the last bits of numbers.
const LEAST_COSINE_FP32: f32 = 0.999;

/// Most that a version may allow a component to differ by. What different processors make of a graph differs by a hundredth of it.
const MOST_TOLERANCE: f32 = 0.01;

/// Fewer different texts say nothing of a version.
const FEWEST_TEXTS: usize = 3;
/// Each is run before a version is served.
const MOST_TEXTS: usize = 1000;

/// On a device, components of FP32 vectors may differ by this much, if the version does not allow more: its kernels add in
/// another order.
const DEVICE_TOLERANCE: f32 = 1e-3;

/// How close vectors must come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tolerance {
    /// No component may differ by more than the version's tolerance, or this, and the direction must be nearly the same.
    Component(f32),
    /// Cosines are to be as they were when the graph was validated.
    Cosine {
        /// The least that a text may have, [`LEAST_COSINE`] or more.
        least: f32,
        /// The most that they may have in the mean: beyond, the products are not computed in 8 bits.
        most_mean: Option<f32>,
    },
}

impl Tolerance {
    /// What a graph is held to where it runs: by its precision, and by what was measured when it was validated.
    ///
    /// # Errors
    /// If what its metadata says of that cannot be.
    pub fn of(artefact: &Artefact, provider: Provider, config: &EngineConfig) -> Result<Self, GoldenError> {
        match (artefact.precision, provider) {
            (Precision::Fp32, Provider::Cpu | Provider::Openvino) => Ok(Self::Component(0.0)),
            (Precision::Bf16, _) => Ok(Self::Cosine { least: LEAST_COSINE_BF16, most_mean: None }),
            // TensorRT computes FP32 in TF32.
            (Precision::Fp32, Provider::Cuda) if !config.cuda.tf32 => Ok(Self::Component(DEVICE_TOLERANCE)),
            _ => Self::as_validated(artefact),
        }
    }

    fn as_validated(artefact: &Artefact) -> Result<Self, GoldenError> {
        let distance = |key: &str| match artefact.validation.as_ref().and_then(|validation| validation.get(key)) {
            // Versions from before it was measured, and those that nobody validated.
            None | Some(serde_json::Value::Null) => Ok(None),
            Some(value) => {
                match value.as_f64().map(|cosine| cosine as f32).filter(|cosine| (-1.0..=1.001).contains(cosine)) {
                    Some(cosine) => Ok(Some((1.0 - cosine).max(0.0))),
                    None => Err(GoldenError::Validation {
                        file: artefact.file.file.clone(),
                        what: format!("`{key}` is {value}, it must be a cosine"),
                    }),
                }
            }
        };
        let (least, mean) = (distance("golden_cosine_min")?, distance("golden_cosine_mean")?);
        // Versions from before the mean was measured were measured on a CPU alone, whatever they were made for.
        let least = least.filter(|_| mean.is_some()).map_or(LEAST_COSINE, |far| 1.0 - far * FARTHER - FARTHER_BY);
        let eight_bits = matches!(artefact.precision, Precision::Int8 | Precision::Fp8);
        let telling = mean.map(|far| far / NEARER).filter(|near| eight_bits && *near >= TELLING);
        Ok(Self::Cosine { least: least.max(LEAST_COSINE), most_mean: telling.map(|near| 1.0 - near) })
    }
}

/// The golden texts did not come out as they should.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// The file cannot be understood.
    #[error("golden.json: {0}")]
    Invalid(String),
    /// What the metadata says of an artefact cannot be.
    #[error("metadata.json: `validation` of {file}: {what}")]
    Validation {
        /// The artefact.
        file: String,
        /// What is wrong.
        what: String,
    },
    /// The vectors are too good to be what they are called.
    #[error(
        "the golden texts have a mean cosine of {mean} to FP32, and in 8 bits, as this graph was validated, at most {most} is possible: something else \
         runs, so it is not served"
    )]
    Nearer {
        /// The mean.
        mean: f32,
        /// The most.
        most: f32,
    },
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

/// Reads the golden texts, and refuses what could not tell a version that is in order from one that is not.
///
/// # Errors
/// If it cannot be understood, has too few texts or too many, or would let any vector pass.
pub fn read_golden(json: &[u8], metadata: &ModelMetadata) -> Result<GoldenSet, GoldenError> {
    let invalid = |reason: String| Err(GoldenError::Invalid(reason));
    let golden: GoldenSet = serde_json::from_slice(json).map_err(|e| GoldenError::Invalid(e.to_string()))?;
    if !(0.0..=MOST_TOLERANCE).contains(&golden.tolerance) {
        return invalid(format!("`tolerance` is {}, it must be 0 to {MOST_TOLERANCE}", golden.tolerance));
    }
    let texts: BTreeSet<_> = golden.items.iter().map(|item| (&item.prompt, &item.text)).collect();
    if texts.len() < FEWEST_TEXTS || golden.items.len() > MOST_TEXTS {
        let (found, different) = (golden.items.len(), texts.len());
        return invalid(format!(
            "`items` has {found} texts, {different} of them different; it must have {FEWEST_TEXTS} different ones to {MOST_TEXTS}"
        ));
    }
    let mut vectors = Vec::with_capacity(golden.items.len());
    for (index, item) in golden.items.iter().enumerate() {
        let vector = vector(item, index, metadata)?;
        if !vector.iter().all(|x| x.is_finite()) || vector.iter().all(|x| *x == 0.0) {
            return invalid(format!("text {index}: `vector_f32_base64` must be finite numbers, and not all 0"));
        }
        vectors.push(vector);
    }
    if vectors.iter().all(|vector| *vector == vectors[0]) {
        return invalid("`items` all have the same vector, so texts cannot be told apart by it".into());
    }
    Ok(golden)
}

fn vector(item: &GoldenItem, index: usize, metadata: &ModelMetadata) -> Result<Vec<f32>, GoldenError> {
    let invalid = |reason: String| GoldenError::Invalid(format!("text {index}: `vector_f32_base64`: {reason}"));
    let bytes = BASE64_STANDARD.decode(&item.vector_f32_base64).map_err(|e| invalid(e.to_string()))?;
    let dimension = metadata.dimension as usize;
    if bytes.len() != dimension * size_of::<f32>() {
        return Err(invalid(format!("{} bytes, expected {dimension} numbers of four", bytes.len())));
    }
    Ok(Storage::F32.decode_row(&bytes, dimension))
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
    let golden = read_golden(json, metadata)?;
    let mut input = Input { form, ..Input::default() };
    let mut cosines = 0.0;
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
        let expected = vector(item, index, metadata)?;
        input.fill([tokens.ids.as_slice()].into_iter());
        let vector = engine.embed(&input).map_err(|source| GoldenError::Engine { index, source })?;
        if vector.len() != expected.len() {
            return Err(differs(format!("{} components, expected {}", vector.len(), expected.len())));
        }
        cosines += compare(&vector, &expected, tolerance, golden.tolerance).map_err(differs)?;
    }
    let mean = cosines / golden.items.len() as f32;
    match tolerance {
        Tolerance::Cosine { most_mean: Some(most), .. } if mean > most => Err(GoldenError::Nearer { mean, most }),
        _ => Ok(()),
    }
}

/// Gives back the cosine.
fn compare(vector: &[f32], expected: &[f32], held_to: Tolerance, tolerance: f32) -> Result<f32, String> {
    let pairs = || vector.iter().zip(expected);
    if let Tolerance::Component(least) = held_to {
        let tolerance = tolerance.max(least);
        let difference =
            pairs().map(|(a, b)| (a - b).abs()).fold(0.0, |max: f32, d| if d > max || d.is_nan() { d } else { max });
        // What is not a number is no less than anything.
        if difference.is_nan() || difference > tolerance {
            return Err(format!("a component is off by {difference}, at most {tolerance} is allowed"));
        }
    }
    let least = match held_to {
        Tolerance::Component(_) => LEAST_COSINE_FP32,
        Tolerance::Cosine { least, .. } => least,
    };
    let cosine = cosine(vector, expected);
    if cosine >= least { Ok(cosine) } else { Err(format!("the cosine is {cosine}, at least {least} is needed")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_a_number_never_passes() {
        assert!(compare(&[f32::NAN, 0.0], &[0.0, 0.0], Tolerance::Component(0.0), 0.1).is_err());
        let cosine = Tolerance::Cosine { least: LEAST_COSINE, most_mean: None };
        assert!(compare(&[f32::NAN, 0.0], &[1.0, 0.0], cosine, 0.1).is_err());
        assert!(compare(&[0.005, 1.0], &[0.0, 1.0], Tolerance::Component(0.0), 0.01).is_ok());
        assert!(compare(&[0.05, 1.0], &[0.0, 1.0], Tolerance::Component(0.0), 0.1).is_err(), "another direction");
        assert!(compare(&[0.0, 0.0], &[0.0, 0.0], Tolerance::Component(0.0), 0.1).is_err(), "no direction");
        assert!(compare(&[0.2, 1.0], &[0.0, 1.0], Tolerance::Component(0.0), 0.1).is_err());
    }

    fn artefact(precision: &str, validation: &serde_json::Value) -> Artefact {
        let json = serde_json::json!({
            "precision": precision, "file": "x.onnx", "bytes": 1, "sha256": "0".repeat(64), "validation": validation
        });
        serde_json::from_value(json).unwrap()
    }

    fn held_to(precision: &str, validation: &serde_json::Value) -> Tolerance {
        Tolerance::of(&artefact(precision, validation), Provider::Tensorrt, &EngineConfig::default()).unwrap()
    }

    #[test]
    fn an_artefact_is_held_to_its_own_validation() {
        use serde_json::{Value, json};

        let near = |found: Tolerance, least: f32, most: Option<f32>| {
            let Tolerance::Cosine { least: l, most_mean: m } = found else { panic!("{found:?}") };
            assert!((l - least).abs() < 1e-5 && m.is_some() == most.is_some(), "{found:?}");
            assert!(m.zip(most).is_none_or(|(a, b)| (a - b).abs() < 1e-5), "{found:?}");
        };
        // Before it was measured, or nobody did.
        for unmeasured in [Value::Null, json!({}), json!({"golden_cosine_min": null, "golden_cosine_mean": null})] {
            near(held_to("int8", &unmeasured), 0.98, None);
        }
        // As it was measured on a CPU, before the mean was.
        near(held_to("fp16", &json!({"golden_cosine_min": 0.999_999})), 0.98, None);
        let int8 = json!({"golden_cosine_min": 0.995, "golden_cosine_mean": 0.998});
        near(held_to("int8", &int8), 0.989, Some(0.9995));
        near(held_to("fp8", &int8), 0.989, Some(0.9995));
        // What is no 8 bits may come as near as it likes; an INT8 graph in its place would be too far.
        let fp16 = json!({"golden_cosine_min": 0.999_999, "golden_cosine_mean": 0.999_999});
        near(held_to("fp16", &fp16), 0.999, None);
        // No version talks its way below the floor.
        near(held_to("int8", &json!({"golden_cosine_min": 0.5, "golden_cosine_mean": -1.0})), 0.98, Some(0.5));
        // So near that nothing is to be told from it.
        near(held_to("int8", &json!({"golden_cosine_min": 0.9999, "golden_cosine_mean": 0.9999})), 0.9988, None);
        for (key, value) in [("golden_cosine_min", json!("0.9")), ("golden_cosine_mean", json!(2.0))] {
            let said = Tolerance::of(&artefact("int8", &json!({key: value})), Provider::Cpu, &EngineConfig::default());
            let said = said.unwrap_err().to_string();
            assert!(said.contains(key) && said.contains("x.onnx"), "{said}");
        }
    }

    /// The real metadata, for vectors of two components.
    fn metadata() -> ModelMetadata {
        let version = embed_testkit::registry().join("models/all-minilm-l6-v2/v1.0.0");
        let metadata = std::fs::read(version.join("metadata.json")).unwrap();
        ModelMetadata { dimension: 2, ..serde_json::from_slice(&metadata).unwrap() }
    }

    fn refusal(tolerance: f32, items: &[(&str, &[f32])]) -> String {
        let item = |(text, vector): &(&str, &[f32])| GoldenItem {
            text: (*text).to_owned(),
            prompt: None,
            tokens: 3,
            truncated: false,
            vector_f32_base64: BASE64_STANDARD.encode(vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>()),
        };
        let golden = GoldenSet { tolerance, items: items.iter().map(item).collect() };
        let read = read_golden(&serde_json::to_vec(&golden).unwrap(), &metadata());
        read.err().map_or_else(|| "read".to_owned(), |error| error.to_string())
    }

    #[test]
    fn golden_texts_that_would_let_anything_pass_are_refused() {
        const GOOD: [(&str, &[f32]); 3] = [("a", &[1.0, 0.0]), ("b", &[0.0, 1.0]), ("c", &[0.6, 0.8])];
        assert_eq!(refusal(1e-4, &GOOD), "read");
        for tolerance in [0.02, 2.0, -1.0, f32::MAX] {
            let said = refusal(tolerance, &GOOD);
            assert!(said.contains("`tolerance` is") && said.contains("0 to 0.01"), "{said}");
        }
        for (items, named) in [
            (&[][..], "has 0 texts"),
            (&GOOD[..2], "2 of them different"),
            (&[GOOD[0], GOOD[1], GOOD[0], GOOD[0]], "has 4 texts, 2 of them different"),
            (&vec![GOOD[0]; 1001][..], "to 1000"),
            (
                &[GOOD[0], GOOD[1], ("c", &[0.0, 0.0])],
                "text 2: `vector_f32_base64` must be finite numbers, and not all 0",
            ),
            (&[GOOD[0], GOOD[1], ("c", &[f32::NAN, 1.0])], "text 2"),
            (&[GOOD[0], GOOD[1], ("c", &[1.0])], "4 bytes, expected 2 numbers"),
            (&[GOOD[0], ("b", &[1.0, 0.0]), ("c", &[1.0, 0.0])], "the same vector"),
        ] {
            let said = refusal(1e-4, items);
            assert!(said.contains(named), "{said}");
        }
    }
}
