//! Which variants models have, and the consumers of those that come and go while workers run.

use std::collections::BTreeMap;

use async_nats::Client;
use embed_schemas::{
    Lane, Slug,
    serving::DesiredVariant,
    streams::{self, StreamSettings},
    subjects,
};
use serde_json::{Value, json};

use super::{ModelVariants, Report, call_when_ready, consumers, ensure};
use embed_client::nats::api::STREAM_NOT_FOUND;

use crate::{Error, registry::RegisteredModel};

const MILLISECOND: u64 = 1_000_000;

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

/// Adds the variants of the bucket `embed_models`. One that says `default` there comes first, as workers see it.
#[must_use]
pub fn with_desired(
    mut models: Vec<ModelVariants>,
    desired: &BTreeMap<(Slug, Slug), DesiredVariant>,
) -> Vec<ModelVariants> {
    for ((model, variant), wanted) in desired {
        let known = models.iter().position(|one| one.model == *model);
        let index = known.unwrap_or_else(|| {
            models.push(ModelVariants { model: model.clone(), variants: Vec::new() });
            models.len() - 1
        });
        let variants = &mut models[index].variants;
        if wanted.default == Some(true) {
            variants.retain(|one| one != variant);
            variants.insert(0, variant.clone());
        } else if !variants.contains(variant) {
            variants.push(variant.clone());
        }
    }
    models
}

/// What the stream of a model's jobs says of its consumers.
#[derive(Debug)]
pub(crate) struct Consumers {
    /// The variant that takes what is sent without a variant.
    pub(crate) default: Option<Slug>,
    /// As the consumers that are there were made, so that a new one is like them.
    settings: StreamSettings,
    /// Jobs that are not done, by the consumer's name.
    waiting: BTreeMap<String, u64>,
}

impl Consumers {
    /// Reads them from the server.
    ///
    /// # Errors
    /// [`Error::NoStream`] if the model has no stream.
    pub(crate) async fn of(client: &Client, model: &Slug) -> Result<Self, Error> {
        let stream = streams::jobs_stream(model);
        let listed = call_when_ready(client, &format!("CONSUMER.LIST.{stream}"), &json!({})).await;
        let listed = listed.map_err(|error| match error.is(STREAM_NOT_FOUND) {
            true => embed_client::Error::NoStream { model: model.clone(), stream: stream.clone() }.into(),
            false => {
                Error::Provision { what: format!("cannot list the consumers of {stream}"), reason: error.to_string() }
            }
        })?;
        Ok(Self::read(model, listed["consumers"].as_array().map_or(&[], Vec::as_slice)))
    }

    fn read(model: &Slug, consumers: &[Value]) -> Self {
        let bare = subjects::bare(Lane::Job, model);
        let takes_bare = |consumer: &Value| {
            let config = &consumer["config"];
            let filters = config["filter_subjects"].as_array().map_or(&[][..], Vec::as_slice);
            filters.iter().chain([&config["filter_subject"]]).any(|filter| *filter == bare)
        };
        let default = consumers.iter().find(|consumer| takes_bare(consumer));
        let name = default.and_then(|consumer| consumer["name"].as_str());
        let variant = name.and_then(|name| name.strip_suffix(&format!("-{}", Lane::Job))?.parse().ok());
        let mut settings = StreamSettings::default();
        if let Some(config) = default.or(consumers.first()).map(|consumer| &consumer["config"]) {
            settings.ack_wait_ms = config["ack_wait"].as_u64().map_or(settings.ack_wait_ms, |wait| wait / MILLISECOND);
            settings.max_ack_pending = config["max_ack_pending"].as_i64().unwrap_or(settings.max_ack_pending);
            // Where deliveries have no bound yet, there may be no stream that says which job has had them all.
            settings.max_deliver = config["max_deliver"].as_i64().unwrap_or(settings.max_deliver);
        }
        let count = |consumer: &Value, field: &str| consumer[field].as_u64().unwrap_or_default();
        let waiting = consumers.iter().filter_map(|consumer| {
            let name = consumer["name"].as_str()?.to_owned();
            Some((name, count(consumer, "num_pending") + count(consumer, "num_ack_pending")))
        });
        Self { default: variant, settings, waiting: waiting.collect() }
    }

    /// Jobs of a variant that are not done.
    pub(crate) fn waiting(&self, variant: &Slug) -> u64 {
        Lane::STORED.iter().filter_map(|lane| self.waiting.get(&streams::consumer(variant, *lane))).sum()
    }

    /// Makes the consumers of a variant, where they are missing. As the default it takes the subjects that name no
    /// variant from the one that had them.
    ///
    /// # Errors
    /// [`Error::Provision`] if the server refuses.
    pub(crate) async fn add(
        &self,
        client: &Client,
        model: &Slug,
        variant: &Slug,
        default: bool,
    ) -> Result<Report, Error> {
        let mut report = Report::default();
        let before = self.default.as_ref().filter(|before| default && *before != variant);
        // A work queue refuses two consumers of one subject: the one before lets go first.
        for object in before.into_iter().flat_map(|before| consumers(model, before, false, &self.settings)) {
            ensure(client, object, &mut report).await?;
        }
        let default = default || self.default.as_ref() == Some(variant);
        for object in consumers(model, variant, default, &self.settings) {
            ensure(client, object, &mut report).await?;
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slug(name: &str) -> Slug {
        name.parse().unwrap()
    }

    #[test]
    fn the_buckets_default_comes_first() {
        let models = vec![ModelVariants { model: slug("m"), variants: vec![slug("fp32"), slug("int8")] }];
        let entry = |model: &str, variant: &str, json: &str| {
            ((slug(model), slug(variant)), serde_json::from_str::<DesiredVariant>(json).unwrap())
        };
        let desired =
            [entry("m", "canary", "{}"), entry("m", "int8", r#"{"default":true}"#), entry("other", "a", "{}")];
        let all = with_desired(models, &desired.into());
        assert_eq!(all[0].variants, ["int8", "fp32", "canary"].map(slug));
        assert_eq!((all[1].model.as_str(), &all[1].variants[..]), ("other", &[slug("a")][..]));
    }

    #[test]
    fn new_consumers_are_like_those_that_are_there() {
        let consumer = |name: &str, filters: Value| json!({"name": name, "config": {"filter_subjects": filters, "ack_wait": 2_000_000_000, "max_ack_pending": 7, "max_deliver": -1}});
        let listed = [
            consumer("int8-bulk", json!(["embed.bulk.m.int8", "embed.bulk.m"])),
            consumer("fp32-job", json!(["embed.job.m.fp32"])),
            consumer("int8-job", json!(["embed.job.m.int8", "embed.job.m"])),
        ];
        let read = Consumers::read(&slug("m"), &listed);
        assert_eq!(read.default, Some(slug("int8")));
        let StreamSettings { ack_wait_ms, max_ack_pending, max_deliver, .. } = read.settings;
        assert_eq!((ack_wait_ms, max_ack_pending, max_deliver), (2_000, 7, -1));
        assert_eq!(Consumers::read(&slug("m"), &[]).default, None);
    }
}
