//! Which variants models have, and the consumers of those that come and go while workers run.

use std::collections::BTreeMap;

use async_nats::Client;
use embed_schemas::{
    Lane, Slug,
    serving::DesiredVariant,
    streams::{self, StreamSettings},
    subjects,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{ModelVariants, Report, call_when_ready, consumers, ensure};
use embed_client::nats::api::{ApiError, STREAM_NOT_FOUND};

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
    depths: BTreeMap<String, QueueDepth>,
}

/// What a consumer has yet to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct QueueDepth {
    /// Jobs that it has not delivered yet.
    pub waiting: u64,
    /// Jobs that workers hold and have not acknowledged.
    pub held: u64,
    /// Of these, jobs that were delivered before.
    pub redelivered: u64,
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
            false => match (format!("cannot list the consumers of {stream}"), error) {
                (what, ApiError::Refused { code: 0, description }) => Error::rejected(what, description),
                (what, error) => Error::Provision { what, reason: error.to_string() },
            },
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
        let depths = consumers.iter().filter_map(|consumer| {
            let name = consumer["name"].as_str()?.to_owned();
            let [waiting, held, redelivered] =
                ["num_pending", "num_ack_pending", "num_redelivered"].map(|field| count(consumer, field));
            Some((name, QueueDepth { waiting, held, redelivered }))
        });
        Self { default: variant, settings, depths: depths.collect() }
    }

    /// Jobs of a variant that are not done.
    pub(crate) fn waiting(&self, variant: &Slug) -> u64 {
        let depths = Lane::STORED.iter().filter_map(|lane| self.depths.get(&streams::consumer(variant, *lane)));
        depths.map(|depth| depth.waiting + depth.held).sum()
    }

    /// What each variant has yet to do, in each lane that is stored.
    pub(crate) fn depths(&self) -> impl Iterator<Item = (Slug, Lane, QueueDepth)> {
        self.depths.iter().filter_map(|(name, depth)| {
            let (variant, lane) = name.rsplit_once('-')?;
            Some((variant.parse().ok()?, lane.parse().ok()?, *depth))
        })
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

    #[test]
    fn what_waits_is_told_by_variant_and_lane() {
        let listed = [
            json!({"name": "int8-q-job", "num_pending": 7, "num_ack_pending": 2, "num_redelivered": 1}),
            json!({"name": "somebody"}),
        ];
        let read = Consumers::read(&slug("m"), &listed);
        let depth = QueueDepth { waiting: 7, held: 2, redelivered: 1 };
        assert_eq!(read.depths().collect::<Vec<_>>(), [(slug("int8-q"), Lane::Job, depth)]);
        assert_eq!(read.waiting(&slug("int8-q")), 9);
    }
}
