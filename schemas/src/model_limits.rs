//! What a version of a model may ask for. A registry holds data: whoever writes one must not be able to have its readers take all memory,
//! so what is out of all proportion is refused before anything is made of it. The bounds leave room above every model that is known.

use crate::ModelMetadata;

/// Most bytes of a graph: ONNX files are protobuf messages, which cannot have more.
pub const MAX_GRAPH_BYTES: u64 = (1 << 31) - 1;
/// Most bytes of `tokenizer.json`. Those of multilingual models have up to 34 million.
pub const MAX_TOKENIZER_BYTES: u64 = 64 << 20;
/// Most bytes of `golden.json`.
pub const MAX_GOLDEN_BYTES: u64 = 16 << 20;
/// Most tokens of a text.
pub const MAX_SEQ_LENGTH: u32 = 32_768;
/// Most components of a vector.
pub const MAX_DIMENSION: u32 = 16_384;
/// Most numbers of dimensions that may be asked for, most prompts, and most graphs.
pub const MAX_ENTRIES: usize = 64;
/// Most bytes of a prompt, which goes before every text.
pub const MAX_PROMPT_BYTES: usize = 8 << 10;
/// Most bytes of a name or identifier.
pub const MAX_FIELD_BYTES: usize = 1 << 10;

impl ModelMetadata {
    /// Checks sizes and numbers against what any model can need.
    ///
    /// # Errors
    /// The field, what it says, and what it may say.
    pub fn check_limits(&self) -> Result<(), String> {
        let at_most = |field: &str, found: u64, most: u64| {
            if found <= most {
                return Ok(());
            }
            Err(format!("`{field}` is {found}, at most {most} is taken"))
        };
        at_most("dimension", self.dimension.into(), MAX_DIMENSION.into())?;
        at_most("max_seq_length", self.max_seq_length.into(), MAX_SEQ_LENGTH.into())?;
        at_most("tokenizer.bytes", self.tokenizer.bytes, MAX_TOKENIZER_BYTES)?;
        at_most("golden.bytes", self.golden.bytes, MAX_GOLDEN_BYTES)?;
        for artefact in &self.artefacts {
            at_most("artefacts.bytes", artefact.file.bytes, MAX_GRAPH_BYTES)?;
        }
        let entries = MAX_ENTRIES as u64;
        at_most("number of artefacts", self.artefacts.len() as u64, entries)?;
        at_most("number of dimensions", self.dimensions.len() as u64, entries)?;
        at_most("number of prompts", self.prompts.len() as u64, entries)?;
        if let Some(wrong) = self.dimensions.iter().find(|dimension| !(1..=self.dimension).contains(dimension)) {
            return Err(format!("`dimensions` has {wrong}, it takes 1 to {}, which is `dimension`", self.dimension));
        }
        if let Some(name) = self.default_prompt.as_ref().filter(|name| !self.prompts.contains_key(*name)) {
            return Err(format!("`default_prompt` is {name:?}, which is none of `prompts`"));
        }
        for (name, prompt) in &self.prompts {
            at_most("length of a prompt's name", name.len() as u64, MAX_FIELD_BYTES as u64)?;
            at_most("length of a prompt in bytes", prompt.len() as u64, MAX_PROMPT_BYTES as u64)?;
        }
        for (field, text) in [
            ("model_name", Some(&self.model_name)),
            ("model_id", Some(&self.model_id)),
            ("space", Some(&self.space)),
            ("license", self.license.as_ref()),
            ("created_at", Some(&self.created_at)),
            ("teacher", self.teacher.as_ref()),
        ] {
            at_most(&format!("length of {field}"), text.map_or(0, String::len) as u64, MAX_FIELD_BYTES as u64)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn refusal(field: &str, value: Value) -> String {
        let file = |name: &str| json!({"file": name, "bytes": 1, "sha256": "ab".repeat(32)});
        let mut metadata = json!({
            "model_name": "m", "slug": "m", "model_id": "a/m", "version": "v1", "dimension": 384, "max_seq_length": 512,
            "pooling": "mean", "normalized": true, "space": "s", "tokenizer": file("tokenizer.json"),
            "golden": file("golden.json"), "artefacts": [], "created_at": "2026-01-01T00:00:00Z",
        });
        metadata[field] = value;
        let metadata: ModelMetadata = serde_json::from_value(metadata).unwrap();
        metadata.check_limits().err().unwrap_or_default()
    }

    #[test]
    fn each_refusal_names_the_field_and_the_limit() {
        assert_eq!(refusal("license", Value::Null), "");
        let huge = |name: &str| json!({"file": name, "bytes": 1_u64 << 40, "sha256": "ab".repeat(32)});
        let prompts = |length: usize| json!({"query": "x".repeat(length)});
        for (field, value, named, limit) in [
            ("max_seq_length", json!(u32::MAX), "`max_seq_length` is 4294967295", "32768"),
            ("dimension", json!(u32::MAX), "`dimension` is 4294967295", "16384"),
            ("tokenizer", huge("tokenizer.json"), "`tokenizer.bytes` is", "67108864"),
            ("golden", huge("golden.json"), "`golden.bytes` is", "16777216"),
            ("dimensions", json!([256, 385]), "`dimensions` has 385", "1 to 384"),
            ("dimensions", json!([0]), "`dimensions` has 0", "1 to 384"),
            ("dimensions", json!(vec![1; 65]), "number of dimensions", "64"),
            ("prompts", prompts(8193), "length of a prompt", "8192"),
            ("default_prompt", json!("query"), "`default_prompt` is \"query\"", "none of `prompts`"),
            ("space", json!("s".repeat(1025)), "length of space", "1024"),
        ] {
            let said = refusal(field, value);
            assert!(said.contains(named) && said.contains(limit), "{said}");
        }
        assert_eq!(refusal("prompts", prompts(8192)), "");
    }
}
