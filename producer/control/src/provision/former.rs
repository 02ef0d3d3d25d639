//! The stream that held the dead letters of all models gives way to those that each model has: no two streams may take one subject. What
//! is in it stays there, and is read.

use async_nats::Client;
use embed_schemas::{
    Slug,
    streams::{self, FORMER_DEAD_STREAM},
};

use super::{Error, ModelVariants, Object, as_map};
use crate::stream_names;

/// As it is to be, for these models to have streams of their own. `None`: it is not there.
///
/// # Errors
/// If the server cannot be asked.
pub(super) async fn dead_letters(client: &Client, models: &[ModelVariants]) -> Result<Option<Object>, Error> {
    let object = |others: &[Slug]| Object {
        stream: FORMER_DEAD_STREAM.to_owned(),
        consumer: None,
        wanted: as_map(&streams::former_dead_stream(others)),
        left: Vec::new(),
    };
    if object(&[]).read(client).await?.is_none() {
        return Ok(None);
    }
    let names = stream_names::all(client).await.map_err(|error| Error::Provision {
        what: "cannot tell which models have dead letters".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(Some(object(&without_their_own(&names, models))))
}

/// Models that have neither a stream of dead letters nor get one now. Pure.
fn without_their_own(names: &[String], models: &[ModelVariants]) -> Vec<Slug> {
    let prefix = streams::results_stream_prefix();
    let all = names.iter().filter_map(|name| name.strip_prefix(prefix)?.parse::<Slug>().ok());
    let mut others: Vec<Slug> = all
        .filter(|model| !models.iter().any(|one| one.model == *model) && !names.contains(&streams::dead_stream(model)))
        .collect();
    others.sort();
    others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_that_are_not_provisioned_now_keep_what_they_have() {
        let names = ["EMBED_RESULTS_a", "EMBED_RESULTS_b", "EMBED_RESULTS_c", "EMBED_DEAD_b", "EMBED_DEAD", "OTHER"];
        let names = names.map(str::to_owned);
        let models = [ModelVariants { model: "c".parse().unwrap(), variants: Vec::new() }];
        assert_eq!(without_their_own(&names, &models), ["a".parse().unwrap()]);
    }
}
