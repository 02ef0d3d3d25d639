//! Which variants to serve: the configuration's list, or everything that the registry has.

use std::collections::BTreeMap;

use embed_engine::model::{RegistryError, ResolveError, ResolvedModel, Source, resolve};
use embed_schemas::{ModelMetadata, Precision, Slug, slug::SlugError};

use super::VariantSpec;
use crate::config::{Config, VariantConfig};

/// What is to be served.
#[derive(Debug)]
pub struct Selection {
    /// The variants, in the order in which they were named.
    pub variants: Vec<Selected>,
    /// Those that have no name as long as the registry does not tell their precision.
    pub unnamed: Vec<Unnamed>,
}

/// A variant that is to be served, and the version that it means now.
#[derive(Debug)]
pub struct Selected {
    /// What is asked for, with its name fixed: another version may have another first precision. Required if the configuration names it.
    pub spec: VariantSpec,
    /// What that is now, or why it cannot be served: that keeps no other from being served.
    pub resolved: Result<ResolvedModel, ResolveError>,
}

/// A variant that is called after its precision, and none of its model's versions can be read: a guess could be the name of something else.
#[derive(Debug, Clone)]
pub struct Unnamed {
    /// The model.
    pub model: Slug,
    /// What is asked for.
    pub config: VariantConfig,
    /// Whether it answers on subjects that name no variant.
    pub default: bool,
    /// Whether the configuration names it.
    pub required: bool,
    /// Why its precision is not known.
    pub reason: String,
}

impl Unnamed {
    /// The variant, now that its name is known.
    pub(super) fn named(self, variant: Slug) -> VariantSpec {
        let Self { model, config, default, required, .. } = self;
        let config = VariantConfig { name: Some(variant.to_string()), ..config };
        VariantSpec { model, variant, config, default, required }
    }
}

impl std::fmt::Display for Unnamed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { model, reason, .. } = self;
        write!(
            f,
            "{model}: its variant has no name before its precision is known (set `name` or `precision`): {reason}"
        )
    }
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
pub async fn select(source: &Source, config: &Config) -> Result<Selection, SelectError> {
    let mut variants = config.variant.clone();
    let required = !variants.is_empty();
    if !required {
        variants.extend(source.models().await?.into_iter().map(|model| VariantConfig::of(model.into())));
    }
    if variants.is_empty() {
        return Err(SelectError::NoModel);
    }
    let mut found: Vec<(Unnamed, Option<Slug>, Result<ResolvedModel, ResolveError>)> = Vec::new();
    let mut claims: BTreeMap<Slug, Vec<(usize, Option<bool>)>> = BTreeMap::new();
    for variant in variants {
        let model = Slug::from_name(&variant.model).map_err(ResolveError::from)?;
        let resolved = resolve(source, &variant.spec(), &config.engine).await;
        let name = match &resolved {
            Ok(resolved) => Some(resolved.variant.clone()),
            Err(_) => name(source, &model, &variant).await.map_err(ResolveError::from)?,
        };
        if let Some(variant) = &name
            && found.iter().any(|(other, name, _)| other.model == model && name.as_ref() == Some(variant))
        {
            return Err(SelectError::Twice { model, variant: variant.clone() });
        }
        claims.entry(model.clone()).or_default().push((found.len(), variant.default));
        let reason = resolved.as_ref().err().map(ToString::to_string).unwrap_or_default();
        found.push((Unnamed { model, config: variant, default: false, required, reason }, name, resolved));
    }
    for (model, claims) in claims {
        let claimed: Vec<usize> = claims.iter().filter(|(_, c)| *c == Some(true)).map(|(i, _)| *i).collect();
        let open = claims.iter().find(|(_, c)| c.is_none()).map(|(i, _)| *i);
        match (claimed.as_slice(), open) {
            ([one], _) => found[*one].0.default = true,
            ([], Some(first)) => found[first].0.default = true,
            // Every variant said `default = false`: another worker serves the default.
            ([], None) => {}
            (many, _) => return Err(SelectError::Defaults { model, count: many.len() }),
        }
    }
    if found.iter().all(|(.., resolved)| resolved.is_err())
        && let Err(error) = found.swap_remove(0).2
    {
        return Err(error.into());
    }
    let mut selection = Selection { variants: Vec::new(), unnamed: Vec::new() };
    for (one, name, resolved) in found {
        match name {
            Some(name) => selection.variants.push(Selected { spec: one.named(name), resolved }),
            None => selection.unnamed.push(one),
        }
    }
    Ok(selection)
}

/// What a variant is called, as far as that can be told without the version that it means.
///
/// # Errors
/// If its name has no slug.
pub(super) async fn name(source: &Source, model: &Slug, variant: &VariantConfig) -> Result<Option<Slug>, SlugError> {
    if let Some(name) = &variant.name {
        return Slug::from_name(name).map(Some);
    }
    let precision = match variant.precision {
        Some(precision) => Some(precision),
        None => first_precision(source, model, &variant.version).await,
    };
    Ok(precision.map(Precision::variant))
}

/// The first precision of a version, as clients take it for the variant's name. If it cannot be read, that of the newest that can: names stay while versions
/// come and go.
async fn first_precision(source: &Source, model: &Slug, version: &str) -> Option<Precision> {
    let first = |metadata: ModelMetadata| Some(metadata.artefacts.first()?.precision);
    match source.metadata(model, version).await {
        Ok(metadata) => return first(metadata),
        // It would not tell of the others either.
        Err(error) if error.is_store() => return None,
        Err(_) => {}
    }
    for version in source.registry().versions(model).await.ok()?.iter().rev() {
        if let Some(precision) = source.metadata(model, version).await.ok().and_then(first) {
            return Some(precision);
        }
    }
    None
}
