//! The tokenizer of the version that is served, from the registry.

use std::collections::BTreeSet;

use embed_client::Client;
use embed_registry::{Registry, RegistryError};
use embed_schemas::{ModelMetadata, Slug, serving::VariantStatus};
use embed_tokenize::TextTokenizer;

use super::{Cutter, Long, LongMode};
use crate::{Error, Parameters};

/// What a backfill does with long texts, with everything that was left open: version, window, overlap. `registry`: where the version is.
///
/// # Errors
/// [`Error::Backfill`] if it cannot be done; [`Error::Control`] if the registry does not have what is served.
pub(crate) async fn settle(client: &Client, parameters: &Parameters, registry: Option<&str>) -> Result<Long, Error> {
    let long = &parameters.long;
    if long.mode == LongMode::Truncate {
        return match (long.window, long.overlap) {
            (None, None) => Ok(long.clone()),
            _ => Err(Error::Backfill(
                "windows and their overlap are for long texts that are split, or whose mean is taken".into(),
            )),
        };
    }
    let registry = open(registry)?;
    let version = match &long.version {
        Some(version) => version.clone(),
        None => served(client, &registry, parameters).await?,
    };
    let long = Long { version: Some(version), ..long.clone() };
    let Cutter { window, overlap, .. } = load(&registry, parameters, &long).await?;
    // As many as a model's tokens, of which there are at most 32,768.
    let number = |n: usize| u32::try_from(n).ok();
    Ok(Long { window: number(window), overlap: number(overlap), ..long })
}

/// What cuts the texts of a backfill, if they are cut here.
///
/// # Errors
/// As [`settle`].
pub(crate) async fn cutter(parameters: &Parameters, registry: Option<&str>) -> Result<Option<Cutter>, Error> {
    match parameters.long.mode {
        LongMode::Truncate => Ok(None),
        LongMode::Split | LongMode::Mean => load(&open(registry)?, parameters, &parameters.long).await.map(Some),
    }
}

fn open(location: Option<&str>) -> Result<Registry, Error> {
    let location = location.ok_or_else(|| {
        Error::Backfill(
            "long texts are cut with the model's tokenizer, which is in the registry: name it with --registry".into(),
        )
    })?;
    Registry::open(location).map_err(registry_error)
}

fn registry_error(error: RegistryError) -> Error {
    embed_control::Error::from(error).into()
}

/// The version whose tokenizer the workers have. If several are served, they must mean the same by a token.
async fn served(client: &Client, registry: &Registry, parameters: &Parameters) -> Result<String, Error> {
    let Parameters { model, variant, space, .. } = parameters;
    let of = |(of, name): &(Slug, Slug)| of == model && variant.as_ref().is_none_or(|variant| variant == name);
    let statuses = client.statuses().await?.into_iter().filter(|(key, _)| of(key)).flat_map(|(_, statuses)| statuses);
    let versions = live(statuses, space.as_deref());
    let mut versions = versions.into_iter();
    let Some(first) = versions.next() else {
        // Nobody has loaded it yet: what they will load, most likely.
        return Ok(registry.current(model).await.map_err(registry_error)?.version);
    };
    let metadata = |version: String| async move { registry.metadata(model, &version).await.map_err(registry_error) };
    let first = metadata(first).await?;
    for version in versions {
        let other = metadata(version).await?;
        if cuts_by(&first, parameters) != cuts_by(&other, parameters) {
            return Err(Error::Backfill(format!(
                "{model} is served in the versions {} and {}, whose tokens are not the same: choose one with --variant",
                first.version, other.version
            )));
        }
    }
    Ok(first.version)
}

/// The versions that are loaded, in one space or in any.
fn live(statuses: impl Iterator<Item = VariantStatus>, space: Option<&str>) -> BTreeSet<String> {
    let live = statuses.filter_map(|status| status.live);
    live.filter(|live| space.is_none_or(|space| space == live.space)).map(|live| live.version).collect()
}

/// What decides where a text is cut.
fn cuts_by<'a>(metadata: &'a ModelMetadata, parameters: &Parameters) -> (&'a str, u32, Option<&'a str>) {
    let prompt = metadata.prompt_text(parameters.prompt.as_deref());
    (&metadata.tokenizer.sha256, metadata.max_seq_length, prompt)
}

async fn load(registry: &Registry, parameters: &Parameters, long: &Long) -> Result<Cutter, Error> {
    let model = &parameters.model;
    let version = long.version.as_deref().unwrap_or_default();
    let metadata = registry.metadata(model, version).await.map_err(registry_error)?;
    let file = registry.read_verified(model, version, &metadata.tokenizer).await.map_err(registry_error)?;
    // Texts of any length are counted.
    let tokenizer = TextTokenizer::new(&file, &metadata, usize::MAX);
    let tokenizer = tokenizer.map_err(|error| Error::Backfill(format!("{model} {version}: {error}")))?;
    assemble(tokenizer, &metadata, parameters.prompt.as_deref(), long).map_err(Error::Backfill)
}

fn assemble(
    tokenizer: TextTokenizer,
    metadata: &ModelMetadata,
    prompt: Option<&str>,
    long: &Long,
) -> Result<Cutter, String> {
    if let Some(name) = prompt.filter(|name| !metadata.has_prompt(name)) {
        let names = metadata.prompts.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(format!("the model has no prompt {name:?}; it has: {names}"));
    }
    let prompt = metadata.prompt_text(prompt).map(str::to_owned);
    let around = tokenizer.count(prompt.as_deref(), "").map_err(|error| error.to_string())?;
    let room = (metadata.max_seq_length as usize).saturating_sub(around);
    let (window, overlap) = long.numbers(room)?;
    Ok(Cutter { tokenizer, prompt, around, window, overlap, mode: long.mode })
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// The tokenizer and metadata of the real model.
    pub(crate) fn real() -> (TextTokenizer, ModelMetadata) {
        let version = embed_testkit::registry().join("models/all-minilm-l6-v2/v1.0.0");
        let read = |file| std::fs::read(version.join(file)).unwrap();
        let metadata: ModelMetadata = serde_json::from_slice(&read("metadata.json")).unwrap();
        (TextTokenizer::new(&read("tokenizer.json"), &metadata, usize::MAX).unwrap(), metadata)
    }

    #[test]
    fn prompts_take_their_part_of_the_window() {
        let assembled = |prompt, window| {
            let (tokenizer, mut metadata) = real();
            metadata.prompts.insert("query".into(), "query: ".into());
            let long = Long { mode: LongMode::Split, window, ..Long::default() };
            assemble(tokenizer, &metadata, prompt, &long)
        };
        // Two special tokens, and two of the prompt.
        assert_eq!(assembled(None, None).unwrap().window, 254);
        assert_eq!(assembled(Some("query"), None).unwrap().window, 252);
        assert!(assembled(Some("query"), Some(253)).unwrap_err().contains("252"));
        let unknown = assembled(Some("passage"), None).unwrap_err();
        assert!(unknown.contains("passage") && unknown.contains("it has: query"), "{unknown}");
    }

    #[test]
    fn versions_are_those_that_are_loaded_in_the_space() {
        let status = |version: &str, space: &str| {
            let live = json!({"version": version, "precision": "fp32", "provider": "cpu", "space": space, "since": ""});
            serde_json::from_value::<VariantStatus>(
                json!({"state": "live", "default": true, "wanted": "current", "live": live}),
            )
            .unwrap()
        };
        let all = [status("v1", "a"), status("v2", "b"), status("v2", "b")];
        let versions = |space| live(all.iter().cloned(), space).into_iter().collect::<Vec<_>>();
        assert_eq!(versions(None), ["v1", "v2"]);
        assert_eq!(versions(Some("a")), ["v1"]);
        assert_eq!(versions(Some("c")), Vec::<String>::new());
    }
}
