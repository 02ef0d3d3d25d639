//! From a version's metadata to the graph that each provider runs.

use embed_registry::RegistryError;
use embed_schemas::{Artefact, ModelMetadata, Slug, slug::SlugError};

use super::provider_chain::{ProviderGraph, Skipped, chain, name};
use crate::settings::{EngineConfig, ModelSpec};

/// A version, and the graphs of it that can be run.
#[derive(Debug, Clone)]
pub struct ResolvedModel {
    /// The model.
    pub model: Slug,
    /// The name of its variant.
    pub variant: Slug,
    /// The version's metadata.
    pub metadata: ModelMetadata,
    /// The providers to try, with the graph that each runs. There is at least one.
    pub chain: Vec<ProviderGraph>,
    /// Providers that the version has no graph for.
    pub skipped: Vec<Skipped>,
    /// Whether the fastest of the chain is to be taken instead of the first.
    pub measures: bool,
    /// What was asked for.
    pub spec: ModelSpec,
}

/// What is asked for is not there.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The registry failed, or lacks something.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A name has no slug.
    #[error("variant: {0}")]
    Name(#[from] SlugError),
    /// The version has no graph that could be run.
    #[error("variant: {model} {version} has no {wanted}graph for {providers}; it has {known}")]
    Precision {
        /// The model.
        model: Slug,
        /// The version.
        version: String,
        /// The precision that was asked for, and a space. Empty if none was.
        wanted: String,
        /// The providers that were to run it.
        providers: String,
        /// What there is, with the forms.
        known: String,
    },
}

impl ResolvedModel {
    /// The graph of the first provider of the chain.
    #[must_use]
    pub fn artefact(&self) -> &Artefact {
        &self.chain[0].graph
    }

    /// What tells it apart from another version, or another graph of it: version and SHA-256 of the graph to be tried first.
    #[must_use]
    pub fn identity(&self) -> (String, String) {
        (self.metadata.version.clone(), self.artefact().file.sha256.clone())
    }
}

/// Chooses the graphs of a version, by provider.
///
/// # Errors
/// If there is none.
pub fn graphs(
    model: Slug,
    metadata: ModelMetadata,
    spec: &ModelSpec,
    engine: &EngineConfig,
) -> Result<ResolvedModel, ResolveError> {
    let measures = spec.measures(engine);
    let (chain, skipped) = chain(spec.chain(engine), measures, spec.precision, &metadata.artefacts, engine.cuda.packed);
    let Some(first) = chain.first() else {
        return Err(ResolveError::Precision {
            model: model.clone(),
            version: metadata.version.clone(),
            wanted: spec.precision.map(|p| format!("{p} ")).unwrap_or_default(),
            providers: list(spec.chain(engine).iter().map(ToString::to_string)),
            known: list(metadata.artefacts.iter().map(|a| format!("{} ({} form)", a.precision, name(a.form)))),
        });
    };
    let variant = match &spec.variant {
        Some(name) => Slug::from_name(name)?,
        None => spec.precision.unwrap_or(first.graph.precision).variant(),
    };
    Ok(ResolvedModel { model, variant, metadata, chain, skipped, measures, spec: spec.clone() })
}

fn list(all: impl Iterator<Item = String>) -> String {
    all.collect::<Vec<_>>().join(", ")
}
