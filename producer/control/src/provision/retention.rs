//! How long results are kept, and how many fit: said when streams are made, before somebody finds out.

use std::time::Duration;

use embed_client::{Client, Fill};
use embed_schemas::Slug;
use serde::Serialize;

use crate::registry::RegisteredModel;

/// Texts in a job of a backfill, if nothing else is said.
const TEXTS: u64 = 64;

/// What the stream of a model's results holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Retention {
    /// The model.
    pub model: Slug,
    /// Seconds for which results are kept. `None`: for ever.
    pub max_age_s: Option<u64>,
    /// Bytes that results may take. `None`: any.
    pub max_bytes: Option<u64>,
    /// Components of the model's vectors.
    pub dimension: u64,
    /// Results of one text that fit, about, in `f32`. `None`: any number.
    pub results: Option<u64>,
    /// Vectors that fit in results of 64 texts, about, in `f32`. `None`: any number.
    pub vectors: Option<u64>,
    /// What is to be said if the stream is nearly full.
    pub warning: Option<String>,
}

/// What is kept for each of these models, as far as the server tells.
pub async fn retention(client: &Client, models: &[RegisteredModel]) -> Vec<Retention> {
    let mut all = Vec::new();
    for model in models {
        match client.results_fill(model.slug()).await {
            Ok(fill) => all.push(Retention::of(model.slug(), u64::from(model.metadata.dimension), &fill)),
            Err(error) => tracing::debug!(%error, "how many results fit is not known"),
        }
    }
    all
}

impl Retention {
    fn of(model: &Slug, dimension: u64, fill: &Fill) -> Self {
        Self {
            model: model.clone(),
            max_age_s: fill.max_age.map(|age| age.as_secs()),
            max_bytes: fill.max_bytes,
            dimension,
            results: fill.room_for(dimension, 1),
            vectors: fill.room_for(dimension, TEXTS).map(|results| results * TEXTS),
            warning: fill.warning(),
        }
    }
}

impl std::fmt::Display for Retention {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: kept ", self.model)?;
        match self.max_age_s {
            Some(age) => write!(f, "for {}", humantime::format_duration(Duration::from_secs(age)))?,
            None => write!(f, "for ever")?,
        }
        let (Some(bytes), Some(results), Some(vectors)) = (self.max_bytes, self.results, self.vectors) else {
            return write!(f, ", without a limit of bytes");
        };
        write!(
            f,
            ", {} in all: about {results} of one text, or {vectors} vectors in jobs of {TEXTS} ({} dimensions, f32)",
            human(bytes),
            self.dimension
        )
    }
}

/// Bytes in the largest unit of which there is at least one.
fn human(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        // Precise enough for people.
        Some((name, unit)) if bytes % unit == 0 => format!("{} {name}", bytes / unit),
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        assert_eq!([17, 2048, 3 << 29, 2 << 30].map(human), ["17 bytes", "2 KiB", "1.5 GiB", "2 GiB"]);
    }
}
