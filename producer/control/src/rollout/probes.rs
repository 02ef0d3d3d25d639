//! Shadow calls: the same texts to both variants, and how far their vectors agree.

use std::time::Duration;

use embed_rollout::Rollout;
use embed_schemas::{EmbedRequest, Slug};

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

/// 0 for vectors that cannot be compared: those agree in nothing.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return 0.0;
    }
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    if cosine.is_finite() { cosine } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_are_numbers() {
        assert!((cosine(&[1.0, 1.0], &[2.0, 2.0]) - 1.0).abs() < 1e-12);
        assert!(cosine(&[1.0, 0.0], &[0.0, 1.0]).abs() < 1e-12);
        assert_eq!(cosine(&[0.0], &[1.0]), 0.0);
        assert_eq!(cosine(&[f32::NAN], &[1.0]), 0.0);
        assert_eq!(cosine(&[1.0], &[1.0, 0.0]), 0.0);
    }

    #[test]
    fn the_built_in_texts_are_enough_and_differ() {
        let texts = built_in();
        let least = embed_rollout::Config::default().probes.min_probes;
        assert!(texts.len() >= 2 * least, "{}", texts.len());
        let distinct: std::collections::BTreeSet<_> = texts.iter().collect();
        assert_eq!(distinct.len(), texts.len());
    }
}
