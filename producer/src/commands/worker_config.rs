//! What a worker's configuration file says that concerns streams and consumers. Everything else in it is the worker's own, and so is
//! checking it.

use std::{fs, path::Path};

use anyhow::Context;
use embed_connect::ConnectSettings;
use embed_control::registry::RegisteredModel;
use embed_schemas::{Precision, Slug};
use serde::Deserialize;

/// A worker's configuration, in part.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WorkerConfig {
    /// Where models come from.
    pub(super) registry: Option<String>,
    /// The connection.
    pub(super) nats: ConnectSettings,
    /// What is served; every model if there is none.
    variant: Vec<Variant>,
}

#[derive(Debug, Deserialize)]
struct Variant {
    model: String,
    name: Option<String>,
    precision: Option<Precision>,
    default: Option<bool>,
}

impl WorkerConfig {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).map_err(|error| {
            // Without the line that it quotes, and without what it has found there: a password may stand in it.
            let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count().max(1));
            let what =
                if error.message().starts_with("invalid type") { "a value of the wrong type" } else { error.message() };
            anyhow::anyhow!("{}, line {line}: {what}", path.display())
        })
    }

    /// The models that it names.
    pub(super) fn models(&self) -> anyhow::Result<Vec<Slug>> {
        self.variant.iter().map(Variant::slug).collect()
    }

    /// The models of the registry that such a worker serves.
    pub(super) fn served(&self, registered: Vec<RegisteredModel>) -> anyhow::Result<Vec<RegisteredModel>> {
        let served = self.models()?;
        Ok(registered.into_iter().filter(|model| served.is_empty() || served.contains(model.slug())).collect())
    }

    /// Its variants, those that are a default first, named as the worker names them.
    pub(super) fn variants(&self, registered: &[RegisteredModel]) -> anyhow::Result<Vec<(Slug, Slug)>> {
        let mut variants = Vec::new();
        for default in [true, false] {
            for variant in self.variant.iter().filter(|variant| (variant.default == Some(true)) == default) {
                let model = variant.slug()?;
                let name = match (&variant.name, variant.precision) {
                    (Some(name), _) => Some(Slug::from_name(name).with_context(|| format!("variant.name {name:?}"))?),
                    (None, Some(precision)) => Some(precision.variant()),
                    // A model that the registry does not have is refused by name later.
                    (None, None) => match registered.iter().find(|one| *one.slug() == model) {
                        Some(one) => one.default_variant(),
                        None => Some(Precision::Fp32.variant()),
                    },
                };
                variants.extend(name.map(|name| (model, name)));
            }
        }
        Ok(variants)
    }
}

impl Variant {
    fn slug(&self) -> anyhow::Result<Slug> {
        Slug::from_name(&self.model).with_context(|| format!("variant.model {:?}", self.model))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_come_first_and_what_is_the_workers_own_is_left_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("worker.toml");
        fs::write(
            &file,
            "registry = \"/r\"\n[nats]\nserver = \"nats://h:4222\"\n[batch]\nmax_texts = 8\n[[variant]]\nmodel = \"M 1\"\n\
             precision = \"int8\"\n[[variant]]\nmodel = \"M 1\"\nname = \"Main\"\ndefault = true\nproviders = [\"cpu\"]\n",
        )
        .unwrap();
        let config = WorkerConfig::read(&file).unwrap();
        assert_eq!((config.registry.as_deref(), config.nats.server.as_deref()), (Some("/r"), Some("nats://h:4222")));
        let variants: Vec<String> =
            config.variants(&[]).unwrap().iter().map(|(model, name)| format!("{model}={name}")).collect();
        assert_eq!(variants, ["m-1=main", "m-1=int8"]);
        fs::write(&file, "[[variant]]\nname = 3\n").unwrap();
        assert!(WorkerConfig::read(&file).unwrap_err().to_string().contains("worker.toml"));
    }
}
