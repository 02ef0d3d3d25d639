//! Which variants to serve: the configuration's list, or everything that the registry has.

use std::collections::BTreeMap;

use embed_engine::model::{RegistryError, ResolveError, ResolvedModel, Source, resolve};
use embed_schemas::{Precision, Slug, slug::SlugError};

use super::VariantSpec;
use crate::config::{Config, VariantConfig};

/// A variant that is to be served, and the version that it means now.
#[derive(Debug)]
pub struct Selected {
    /// What is asked for, with its name fixed: another version may have another first precision. Required if the configuration names it.
    pub spec: VariantSpec,
    /// What that is now, or why it cannot be served: that keeps no other from being served.
    pub resolved: Result<ResolvedModel, ResolveError>,
}

/// The configuration cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The registry lacks something, or a name has no slug.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The registry is empty.
    #[error("the registry has no model: import one, for example with `embed-models import`")]
    NoModel,
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

/// Resolves the configured variants against the registry, or else the current versions of all its models.
///
/// # Errors
/// If the configuration is contradictory, or there is nothing that could be served; the message says what and the fix.
pub async fn select(source: &Source, config: &Config) -> Result<Vec<Selected>, SelectError> {
    let mut variants = config.variant.clone();
    let named = !variants.is_empty();
    if !named {
        variants.extend(source.models().await?.into_iter().map(|model| VariantConfig::of(model.into())));
    }
    if variants.is_empty() {
        return Err(SelectError::NoModel);
    }
    let mut selected: Vec<Selected> = Vec::new();
    let mut claims: BTreeMap<Slug, Vec<(usize, Option<bool>)>> = BTreeMap::new();
    for variant in &variants {
        let resolved = resolve(source, &variant.spec(), &config.engine).await;
        let (model, name) = match &resolved {
            Ok(resolved) => (resolved.model.clone(), resolved.variant.clone()),
            Err(_) => names(source, variant).await.map_err(ResolveError::from)?,
        };
        if selected.iter().any(|other| other.spec.model == model && other.spec.variant == name) {
            return Err(SelectError::Twice { model, variant: name });
        }
        claims.entry(model.clone()).or_default().push((selected.len(), variant.default));
        let config = VariantConfig { name: Some(name.to_string()), ..variant.clone() };
        let spec = VariantSpec { model, variant: name, config, default: false, required: named };
        selected.push(Selected { spec, resolved });
    }
    for (model, claims) in claims {
        let claimed: Vec<usize> = claims.iter().filter(|(_, c)| *c == Some(true)).map(|(i, _)| *i).collect();
        let open = claims.iter().find(|(_, c)| c.is_none()).map(|(i, _)| *i);
        match (claimed.as_slice(), open) {
            ([one], _) => selected[*one].spec.default = true,
            ([], Some(first)) => selected[first].spec.default = true,
            // Every variant said `default = false`: another worker serves the default.
            ([], None) => {}
            (many, _) => return Err(SelectError::Defaults { model, count: many.len() }),
        }
    }
    if let Some(first) = selected.iter().position(|one| one.resolved.is_err())
        && selected.iter().all(|one| one.resolved.is_err())
        && let Err(error) = selected.swap_remove(first).resolved
    {
        return Err(error.into());
    }
    Ok(selected)
}

/// The names of a variant that cannot be served now: without others, what clients take for its name.
async fn names(source: &Source, variant: &VariantConfig) -> Result<(Slug, Slug), SlugError> {
    let model = Slug::from_name(&variant.model)?;
    if let Some(name) = &variant.name {
        return Ok((model, Slug::from_name(name)?));
    }
    let metadata = source.metadata(&model, &variant.version).await.ok();
    let first = metadata.and_then(|metadata| Some(metadata.artefacts.first()?.precision));
    let name = variant.precision.or(first).unwrap_or(Precision::Fp32).variant();
    Ok((model, name))
}
