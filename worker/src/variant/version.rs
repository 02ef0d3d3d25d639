//! One version of a model, as it is being served.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use embed_engine::{
    model::{LoadReport, ResolvedModel, Skipped},
    pipeline::Pipeline,
};
use embed_schemas::{
    Artefact, EmbedRequest, ErrorCode, Format, ModelMetadata, WireError,
    serving::{CURRENT_VERSION, LiveVersion, SkippedProvider},
};

use super::answer::Answer;

/// A version that is loaded, with the threads that serve it.
#[derive(Debug)]
pub struct ServedVersion {
    /// Takes requests.
    pub pipeline: Pipeline,
    /// The graph that was to be tried first.
    wanted: Artefact,
    since: SystemTime,
    loaded: Instant,
}

impl ServedVersion {
    /// A version that was loaded now.
    #[must_use]
    pub fn new(resolved: &ResolvedModel, pipeline: Pipeline) -> Self {
        Self { pipeline, wanted: resolved.artefact().clone(), since: SystemTime::now(), loaded: Instant::now() }
    }

    /// When it was loaded.
    #[must_use]
    pub const fn loaded(&self) -> Instant {
        self.loaded
    }

    /// What the registry says of it.
    #[must_use]
    pub const fn metadata(&self) -> &ModelMetadata {
        self.pipeline.metadata()
    }

    /// What it runs on.
    #[must_use]
    pub const fn report(&self) -> &LoadReport {
        self.pipeline.report()
    }

    /// Whether it is the one that is meant, file by file.
    #[must_use]
    pub fn is(&self, resolved: &ResolvedModel) -> bool {
        self.wanted.file == resolved.artefact().file
            && self.wanted.precision == resolved.artefact().precision
            && self.metadata().version == resolved.metadata.version
            && self.metadata().tokenizer == resolved.metadata.tokenizer
    }

    /// As it is told to whoever asks.
    pub fn status(&self) -> LiveVersion {
        LiveVersion {
            version: self.metadata().version.clone(),
            precision: self.report().artefact.precision,
            provider: self.report().provider.to_string(),
            space: self.metadata().space.clone(),
            since: humantime::format_rfc3339_seconds(self.since).to_string(),
            devices: self.report().devices.clone(),
            skipped: self.report().skipped.iter().map(skipped).collect(),
            nodes_elsewhere: self.report().nodes_elsewhere.and_then(|nodes| u32::try_from(nodes).ok()),
            online_run_us: u64::try_from(self.pipeline.online_run().as_micros()).ok(),
        }
    }

    /// Checks a request against the model.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownPrompt`], [`ErrorCode::UnsupportedDimensions`], [`ErrorCode::ResultTooLarge`].
    pub fn check(&self, request: &EmbedRequest, format: Format, max_payload: usize) -> Result<(), WireError> {
        if let Some(prompt) = &request.prompt
            && !self.metadata().has_prompt(prompt)
        {
            return Err(WireError::new(
                ErrorCode::UnknownPrompt,
                format!("prompt: {} has no prompt {prompt:?}; {}", self.metadata().model_name, self.known_prompts()),
            ));
        }
        if let Some(dimensions) = request.dimensions
            && dimensions != self.metadata().dimension
            && !self.metadata().dimensions.contains(&dimensions)
        {
            return Err(WireError::new(
                ErrorCode::UnsupportedDimensions,
                format!(
                    "dimensions: {} has {} dimensions and cannot be asked for {dimensions}; {}",
                    self.metadata().model_name,
                    self.metadata().dimension,
                    match self.metadata().dimensions.as_slice() {
                        [] => "leave `dimensions` out".to_owned(),
                        known => format!("choose from {known:?}"),
                    }
                ),
            ));
        }
        let dim = request.dimensions.unwrap_or(self.metadata().dimension) as usize;
        // What will be too large is refused before it is computed.
        Answer { format, encoding: request.encoding_for(format), texts: request.texts.len(), dim }.check(max_payload)
    }

    /// What is put before the texts of a request that was checked.
    #[must_use]
    pub fn prompt(&self, request: &EmbedRequest) -> Option<Arc<str>> {
        self.metadata().prompt_text(request.prompt.as_deref()).map(Arc::from)
    }

    fn known_prompts(&self) -> String {
        let names: Vec<String> = self.metadata().prompts.keys().map(|name| format!("`{name}`")).collect();
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
#[must_use]
pub fn describe_wanted(wanted: &str, version: &str) -> String {
    if wanted == CURRENT_VERSION { format!("{wanted} ({version})") } else { version.to_owned() }
}

/// The error of a request whose answer, as it was computed, does not fit into a message.
#[must_use]
pub fn result_too_large(bytes: usize, max_payload: usize) -> WireError {
    WireError::new(
        ErrorCode::ResultTooLarge,
        format!(
            "the answer would have {bytes} bytes or more, the server's max_payload is {max_payload}; \
             send fewer texts at once, or ask for a smaller encoding (MessagePack instead of JSON, f16, i8, u1)"
        ),
    )
}
