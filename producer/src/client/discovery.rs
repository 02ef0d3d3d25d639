//! Which models workers serve right now, as their micro service tells.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use embed_schemas::{Lane, Slug, subjects};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use super::Client;
use crate::Error;

/// How long workers have to answer.
const WINDOW: Duration = Duration::from_millis(300);

/// A model that at least one worker serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServedModel {
    /// The model.
    pub model: Slug,
    /// The variants that can be chosen.
    pub variants: Vec<Slug>,
}

/// The answer to `$SRV.INFO`, as far as it matters here.
#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    subject: String,
}

impl Client {
    /// Asks all workers what they serve. Takes 300 milliseconds, less if there is none.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn served(&self) -> Result<Vec<ServedModel>, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::nats("cannot ask which models are served", error);
        let inbox = self.nats.new_inbox();
        let mut answers = self.nats.subscribe(inbox.clone()).await.map_err(|e| failed(&e))?;
        let subject = format!("$SRV.INFO.{}", subjects::SERVICE_NAME);
        self.nats.publish_with_reply(subject, inbox, Bytes::new()).await.map_err(|e| failed(&e))?;
        let mut found = Vec::new();
        let collect = async {
            while let Some(answer) = answers.next().await {
                if answer.status.is_some() {
                    break; // nobody listens
                }
                if let Ok(info) = serde_json::from_slice::<Info>(&answer.payload) {
                    found.extend(info.endpoints.into_iter().map(|endpoint| endpoint.subject));
                }
            }
        };
        // The end of the window is the usual end: nobody knows how many workers there are.
        let _ = tokio::time::timeout(WINDOW, collect).await;
        Ok(models_of(found.iter().map(String::as_str)))
    }

    /// The error for a model that nobody serves, with what is served instead.
    pub(super) async fn unknown_model(&self, model: &Slug, variant: Option<&Slug>) -> Error {
        let target = match variant {
            Some(variant) => format!("variant {variant} of model {model}"),
            None => format!("model {model}"),
        };
        let served = self.served().await.unwrap_or_default();
        let names = |served: ServedModel| {
            let ServedModel { model, variants } = served;
            std::iter::once(model.to_string()).chain(variants.into_iter().map(move |v| format!("{model}.{v}")))
        };
        Error::UnknownModel { target, served: served.into_iter().flat_map(names).collect() }
    }
}

fn models_of<'a>(subjects: impl Iterator<Item = &'a str>) -> Vec<ServedModel> {
    let mut models: BTreeMap<Slug, Vec<Slug>> = BTreeMap::new();
    for target in subjects.filter_map(subjects::parse).filter(|target| target.lane == Lane::Rpc) {
        let variants = models.entry(target.model).or_default();
        variants.extend(target.variant);
    }
    models
        .into_iter()
        .map(|(model, mut variants)| {
            variants.sort();
            variants.dedup();
            ServedModel { model, variants }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_many_workers_are_one_list() {
        let found = models_of(
            ["embed.rpc.m", "embed.rpc.m.int8", "embed.rpc.m.fp32", "embed.rpc.m.int8", "embed.rpc.a", "other.x"]
                .into_iter(),
        );
        let slugs = |names: &[&str]| names.iter().map(|n| n.parse().unwrap()).collect::<Vec<Slug>>();
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].model.as_str(), "m");
        assert_eq!(found[1].variants, slugs(&["fp32", "int8"]));
    }
}
