//! Which variants the models of a registry have. Pure.

use embed_schemas::Slug;

use super::ModelVariants;
use crate::{Error, registry::RegisteredModel};

/// The variants of each registered model: those that were named, in their order, else its default.
///
/// # Errors
/// [`Error::Settings`] if a variant of a model is named that the registry does not have, [`Error::Registry`] if a model has no
/// artefact.
pub fn variants(models: &[RegisteredModel], named: &[(Slug, Slug)]) -> Result<Vec<ModelVariants>, Error> {
    for (model, variant) in named {
        if !models.iter().any(|m| m.slug() == model) {
            let known = models.iter().map(|m| m.slug().as_str()).collect::<Vec<_>>().join(", ");
            return Err(Error::Settings(format!(
                "--variant {model}={variant}: the registry has no model {model}; it has {known}"
            )));
        }
    }
    models
        .iter()
        .map(|model| {
            let mut variants: Vec<Slug> = Vec::new();
            for (_, variant) in named.iter().filter(|(m, _)| m == model.slug()) {
                if !variants.contains(variant) {
                    variants.push(variant.clone());
                }
            }
            if variants.is_empty() {
                variants.extend(model.default_variant());
            }
            if variants.is_empty() {
                return Err(Error::Registry(format!("model {}: its metadata lists no artefact", model.slug())));
            }
            Ok(ModelVariants { model: model.slug().clone(), variants })
        })
        .collect()
}
