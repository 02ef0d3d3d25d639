//! One version of a model, as it is being served.

use std::time::SystemTime;

use embed_schemas::{
    Artefact, EmbedRequest, ErrorCode, Format, ModelMetadata, WireError,
    serving::{CURRENT_VERSION, LiveVersion, SkippedProvider},
};

use super::result_too_large;
use crate::model::{Running, Selected, Skipped};

/// A version that is loaded.
#[derive(Debug)]
pub struct Version {
    /// What the registry says of it.
    pub metadata: ModelMetadata,
    /// What it runs on.
    pub running: Running,
    /// The graph that was to be tried first.
    wanted: Artefact,
    since: SystemTime,
}

impl Version {
    /// A version that was loaded now.
    pub fn new(selected: &Selected, running: Running) -> Self {
        let (metadata, wanted) = (selected.metadata.clone(), selected.artefact().clone());
        Self { metadata, running, wanted, since: SystemTime::now() }
    }

    /// The graph in use.
    pub const fn artefact(&self) -> &Artefact {
        &self.running.artefact
    }

    /// Whether it is the one that was selected, file by file.
    pub fn is(&self, selected: &Selected) -> bool {
        self.wanted.file == selected.artefact().file
            && self.metadata.version == selected.metadata.version
            && self.metadata.tokenizer == selected.metadata.tokenizer
    }

    /// As it is told to whoever asks.
    pub fn status(&self) -> LiveVersion {
        LiveVersion {
            version: self.metadata.version.clone(),
            precision: self.artefact().precision,
            provider: self.running.provider.to_string(),
            space: self.metadata.space.clone(),
            since: humantime::format_rfc3339_seconds(self.since).to_string(),
            devices: self.running.devices.clone(),
            skipped: self.running.skipped.iter().map(skipped).collect(),
            nodes_elsewhere: self.running.nodes_elsewhere.and_then(|nodes| u32::try_from(nodes).ok()),
        }
    }

    /// Checks a request against the model.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownPrompt`], [`ErrorCode::UnsupportedDimensions`], [`ErrorCode::ResultTooLarge`].
    pub fn check(&self, request: &EmbedRequest, format: Format, max_payload: usize) -> Result<(), WireError> {
        if let Some(prompt) = &request.prompt
            && !self.metadata.prompts.contains_key(prompt)
        {
            return Err(WireError::new(
                ErrorCode::UnknownPrompt,
                format!("prompt: {} has no prompt {prompt:?}; {}", self.metadata.model_name, self.known_prompts()),
            ));
        }
        if let Some(dimensions) = request.dimensions
            && dimensions != self.metadata.dimension
            && !self.metadata.dimensions.contains(&dimensions)
        {
            return Err(WireError::new(
                ErrorCode::UnsupportedDimensions,
                format!(
                    "dimensions: {} has {} dimensions and cannot be asked for {dimensions}; {}",
                    self.metadata.model_name,
                    self.metadata.dimension,
                    match self.metadata.dimensions.as_slice() {
                        [] => "leave `dimensions` out".to_owned(),
                        known => format!("choose from {known:?}"),
                    }
                ),
            ));
        }
        let dim = request.dimensions.unwrap_or(self.metadata.dimension) as usize;
        let rows = request.texts.len();
        // A lower bound: what is surely too large is refused before it is computed, the rest is measured afterwards.
        let least = match format {
            Format::MessagePack => rows * request.encoding_for(format).storage().row_bytes(dim),
            Format::Json => rows * dim * 2,
        };
        if least > max_payload { Err(result_too_large(least, max_payload)) } else { Ok(()) }
    }

    fn known_prompts(&self) -> String {
        let names: Vec<String> = self.metadata.prompts.keys().map(|name| format!("`{name}`")).collect();
        match names.as_slice() {
            [] => "it has none, so leave `prompt` out".to_owned(),
            names => format!("it has {}", names.join(", ")),
        }
    }
}

fn skipped(skipped: &Skipped) -> SkippedProvider {
    SkippedProvider { provider: skipped.provider.to_string(), reason: skipped.reason.clone() }
}

/// What a person reads of a version that is wanted: `current (v1.0.0)`, or `v1.0.0`.
pub(super) fn describe_wanted(wanted: &str, version: &str) -> String {
    if wanted == CURRENT_VERSION { format!("{wanted} ({version})") } else { version.to_owned() }
}
