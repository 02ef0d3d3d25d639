//! Which variants to serve: the configuration's list, or everything that the registry has.

use std::collections::BTreeMap;

use embed_schemas::{Artefact, ModelMetadata, Slug, slug::SlugError};

use super::{Link, RegistryError, Skipped, Source, chain::chain};
use crate::config::{Config, EngineConfig, VariantConfig};

/// A variant, resolved to a version and a graph.
#[derive(Debug, Clone)]
pub struct Selected {
    /// The model.
    pub model: Slug,
    /// The variant's name.
    pub variant: Slug,
    /// Whether it answers on subjects that name no variant.
    pub is_default: bool,
    /// The version's metadata.
    pub metadata: ModelMetadata,
    /// The providers to try, with the graph that each runs. There is at least one.
    pub chain: Vec<Link>,
    /// Providers that the version has no graph for.
    pub skipped: Vec<Skipped>,
    /// What was configured.
    pub config: VariantConfig,
}

/// The configuration cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// The registry failed, or lacks something.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A name has no slug.
    #[error("variant: {0}")]
    Name(#[from] SlugError),
    /// The registry is empty.
    #[error("the registry has no model: import one, for example with `embed-models import`")]
    NoModel,
    /// The version has no such graph.
    #[error("variant: {model} {version} has no {wanted} graph; it has {known}")]
    Precision {
        /// The model.
        model: Slug,
        /// The version.
        version: String,
        /// What was asked for.
        wanted: String,
        /// What there is.
        known: String,
    },
    /// Two variants have the same name.
    #[error("variant: {model} has two variants called `{variant}`; give one another `name`")]
    Twice {
        /// The model.
        model: Slug,
        /// The name.
        variant: Slug,
    },
    /// More or fewer than one default variant.
    #[error(
        "variant: {model} has {count} variants with `default = true`; exactly one variant of a model is its default"
    )]
    Defaults {
        /// The model.
        model: Slug,
        /// How many.
        count: usize,
    },
}

impl Selected {
    /// The graph of the first provider of the chain.
    #[must_use]
    pub fn artefact(&self) -> &Artefact {
        &self.chain[0].graph
    }
}

/// Resolves the configured variants against the registry.
///
/// # Errors
/// If something is missing or contradictory; the message says what and the fix.
pub async fn select(source: &Source, config: &Config) -> Result<Vec<Selected>, SelectError> {
    let mut variants = config.variant.clone();
    if variants.is_empty() {
        variants.extend(source.models().await?.into_iter().map(|model| VariantConfig::of(model.into())));
    }
    if variants.is_empty() {
        return Err(SelectError::NoModel);
    }
    let mut selected: Vec<Selected> = Vec::new();
    let mut claims: BTreeMap<Slug, Vec<(usize, Option<bool>)>> = BTreeMap::new();
    for variant in &variants {
        let one = resolve(source, variant, &config.engine).await?;
        if selected.iter().any(|other| other.model == one.model && other.variant == one.variant) {
            return Err(SelectError::Twice { model: one.model, variant: one.variant });
        }
        claims.entry(one.model.clone()).or_default().push((selected.len(), variant.default));
        selected.push(one);
    }
    for (model, claims) in claims {
        let claimed: Vec<usize> = claims.iter().filter(|(_, c)| *c == Some(true)).map(|(i, _)| *i).collect();
        let open = claims.iter().find(|(_, c)| c.is_none()).map(|(i, _)| *i);
        match (claimed.as_slice(), open) {
            ([one], _) => selected[*one].is_default = true,
            ([], Some(first)) => selected[first].is_default = true,
            // Every variant said `default = false`: another worker serves the default.
            ([], None) => {}
            (many, _) => return Err(SelectError::Defaults { model, count: many.len() }),
        }
    }
    Ok(selected)
}

/// Resolves one variant against the registry. Whether it is a default is for its caller to say.
///
/// # Errors
/// If the model, the version or the precision is missing.
pub async fn resolve(source: &Source, config: &VariantConfig, engine: &EngineConfig) -> Result<Selected, SelectError> {
    let model = Slug::from_name(&config.model)?;
    let metadata = source.metadata(&model, &config.version).await?;
    graphs(model, metadata, config, engine)
}

/// Chooses the graphs of a version that a variant runs, by provider.
///
/// # Errors
/// If there is none.
pub fn graphs(
    model: Slug,
    metadata: ModelMetadata,
    config: &VariantConfig,
    engine: &EngineConfig,
) -> Result<Selected, SelectError> {
    let (chain, skipped) = chain(config.chain(engine), config.precision, &metadata.artefacts, engine.cuda.packed);
    let Some(first) = chain.first() else {
        return Err(SelectError::Precision {
            model: model.clone(),
            version: metadata.version.clone(),
            wanted: config.precision.map(|p| p.to_string()).unwrap_or_default(),
            known: metadata.artefacts.iter().map(|a| a.precision.to_string()).collect::<Vec<_>>().join(", "),
        });
    };
    let variant = match &config.name {
        Some(name) => Slug::from_name(name)?,
        None => config.precision.unwrap_or(first.graph.precision).variant(),
    };
    Ok(Selected { model, variant, is_default: false, metadata, chain, skipped, config: config.clone() })
}

/// The version that a model's pointer named before it was moved the last time, for a variant that follows the pointer.
/// `None` if there is none, or it cannot be found out.
pub async fn previous_of_current(source: &Source, config: &VariantConfig, engine: &EngineConfig) -> Option<Selected> {
    let model = Slug::from_name(&config.model).ok()?;
    let pointer = source.registry().current(&model).await.ok()?;
    let before = pointer.history.last()?.from.clone()?;
    resolve(source, &VariantConfig { version: before, ..config.clone() }, engine).await.ok()
}
