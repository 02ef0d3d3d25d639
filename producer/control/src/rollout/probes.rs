//! Probes: the same texts to both variants, and how far their vectors agree.

use std::time::Duration;

use embed_rollout::Rollout;
use embed_schemas::{EmbedRequest, Slug, encoding::cosine};

use embed_client::{CallOptions, Client};

use crate::Error;

/// Longest wait for the vectors of all probes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Texts of many lengths and kinds, where the caller names none.
const TEXTS: &str = include_str!("probes.txt");

/// The texts that come with this library.
pub(super) fn built_in() -> Vec<String> {
    lines(TEXTS)
}

/// One text a line; empty lines are left out.
pub(super) fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// The cosine of both variants' vectors for each text. The calls name their variants, so no route is in their way; they count
/// in the variants' statistics, one request each. It takes no longer than `most`, so that a lease outlasts it.
pub(super) async fn cosines(
    client: &Client,
    rollout: &Rollout,
    texts: &[String],
    most: Duration,
) -> Result<Vec<f64>, Error> {
    let vectors = |variant: &Slug| {
        let options = CallOptions::default().variant(variant.clone()).timeout(PATIENCE.min(most));
        let (model, request) = (rollout.model.clone(), EmbedRequest::new(texts.iter().cloned()));
        async move {
            let result = client.embed(&model, request, &options).await?;
            (0..texts.len()).map(|row| Ok(result.vector(row)?)).collect::<Result<Vec<Vec<f32>>, Error>>()
        }
    };
    let (from, to) = tokio::try_join!(vectors(&rollout.from), vectors(&rollout.to))?;
    Ok(from.iter().zip(&to).map(|(a, b)| cosine(a, b)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_texts_are_enough_and_differ() {
        let texts = built_in();
        let least = embed_rollout::Config::default().probes.min_probes;
        assert!(texts.len() >= 2 * least, "{}", texts.len());
        let distinct: std::collections::BTreeSet<_> = texts.iter().collect();
        assert_eq!(distinct.len(), texts.len());
    }
}
