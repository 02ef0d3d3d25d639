//! What is to be served: the configuration's variants, and over them those of the bucket `embed_models`. Pure.

use std::collections::BTreeMap;

use embed_schemas::{Slug, serving::DesiredVariant};

use crate::config::VariantConfig;

/// The variants of the bucket, by model and name.
pub(super) type Bucket = BTreeMap<(Slug, Slug), DesiredVariant>;

/// A variant that is to be served.
#[derive(Debug, Clone, PartialEq)]
pub struct VariantSpec {
    /// The model.
    pub model: Slug,
    /// The variant's name.
    pub variant: Slug,
    /// Version, precision and the rest, with `name` set.
    pub config: VariantConfig,
    /// Whether it answers on subjects that name no variant.
    pub default: bool,
    /// Whether the configuration names it: the worker is not ready without it.
    pub required: bool,
}

impl VariantSpec {
    /// What tells it apart from others.
    #[must_use]
    pub fn key(&self) -> (Slug, Slug) {
        (self.model.clone(), self.variant.clone())
    }
}

/// Puts the bucket's variants over those of the configuration: one of the same name replaces version, precision and
/// pinning, and one that says `default` takes that from the others of its model.
pub(super) fn overlay(base: &[VariantSpec], bucket: &Bucket) -> Vec<VariantSpec> {
    let mut all = base.to_vec();
    for ((model, variant), desired) in bucket {
        match all.iter_mut().find(|one| one.model == *model && one.variant == *variant) {
            Some(one) => apply(&mut one.config, desired),
            None => {
                let mut config = VariantConfig::of(model.to_string());
                config.name = Some(variant.to_string());
                apply(&mut config, desired);
                let (model, variant) = (model.clone(), variant.clone());
                all.push(VariantSpec { model, variant, config, default: false, required: false });
            }
        }
    }
    for ((model, variant), _) in bucket.iter().filter(|(_, desired)| desired.default == Some(true)) {
        for one in all.iter_mut().filter(|one| one.model == *model) {
            one.default = one.variant == *variant;
        }
    }
    all
}

fn apply(config: &mut VariantConfig, desired: &DesiredVariant) {
    config.version.clone_from(&desired.version);
    config.precision = desired.precision;
    config.pinned = desired.pinned;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Vec<VariantSpec> {
        let mut config = VariantConfig::of("m".to_owned());
        config.name = Some("a".to_owned());
        vec![VariantSpec {
            model: "m".parse().unwrap(),
            variant: "a".parse().unwrap(),
            config,
            default: true,
            required: true,
        }]
    }

    fn bucket(entries: &[(&str, &str)]) -> Bucket {
        let parse = |(variant, json): &(&str, &str)| {
            (("m".parse().unwrap(), variant.parse().unwrap()), serde_json::from_str(json).unwrap())
        };
        entries.iter().map(parse).collect()
    }

    #[test]
    fn the_bucket_changes_versions_and_adds_variants() {
        let all = overlay(&base(), &bucket(&[("a", r#"{"version":"v2"}"#), ("b", r#"{"precision":"int8"}"#)]));
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].config.version, "v2");
        assert!(all[0].default && all[0].required);
        assert!(!all[1].default && !all[1].required);
        assert_eq!(overlay(&base(), &Bucket::new()), base(), "without the bucket, the configuration");
    }

    #[test]
    fn a_model_has_one_default() {
        let all = overlay(&base(), &bucket(&[("b", r#"{"default":true}"#)]));
        assert_eq!(all.iter().map(|one| one.default).collect::<Vec<_>>(), [false, true]);
    }
}
