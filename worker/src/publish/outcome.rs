//! From what a pipeline made of a request to its outcome on the wire.

use std::time::{Duration, Instant};

use embed_engine::pipeline::{Embedded, EmbeddedText};
use embed_schemas::{EmbedFailure, EmbedResult, Encoding, ErrorCode, Format, Item, JobId, Outcome, WireError};

use crate::{
    metrics::Demand,
    variant::{ServedVersion, Variant},
};

/// What was asked, as far as the outcome depends on it.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The job's id.
    pub id: JobId,
    /// The encoding of the question, and so of the answer.
    pub format: Format,
    /// The number format of the vectors.
    pub encoding: Encoding,
    /// Components wanted, if fewer than the model's.
    pub dimensions: Option<u32>,
    /// When it arrived.
    pub received: Instant,
    /// What it brought with it.
    pub demand: Demand,
}

/// The outcome of a request. Rows are copied once, into the bytes that are sent.
pub(super) fn outcome(ask: &Ask, variant: &Variant, version: &ServedVersion, embedded: Embedded) -> Outcome {
    let Embedded { mut texts, mut timing, .. } = embedded;
    if let Some(error) = failed_as_a_whole(&texts) {
        return Outcome::Failure(EmbedFailure { id: Some(ask.id.clone()), error });
    }
    let metadata = version.metadata();
    let model_dim = metadata.dimension as usize;
    let dim = ask.dimensions.map_or(model_dim, |d| d as usize);
    let storage = ask.encoding.storage();
    let mut vectors = Vec::with_capacity(storage.row_bytes(dim) * texts.len());
    for text in &mut texts {
        let before = vectors.len();
        match text.vector(model_dim) {
            Some(row) if is_finite(row) => match ask.dimensions {
                Some(_) => storage.encode_row(&shorten(row, dim), &mut vectors),
                None => storage.encode_row(row, &mut vectors),
            },
            found => {
                if found.is_some() {
                    text.item.error = Some(WireError::new(
                        ErrorCode::EngineFailed,
                        "the model gave numbers that are not finite for this text",
                    ));
                }
                vectors.resize(before + storage.row_bytes(dim), 0);
            }
        }
    }
    timing.total_us = micros(ask.received.elapsed());
    Outcome::Result(EmbedResult {
        id: ask.id.clone(),
        model: variant.model.clone(),
        variant: variant.name.clone(),
        version: metadata.version.clone(),
        space: metadata.space.clone(),
        dim: u32::try_from(dim).unwrap_or(u32::MAX),
        encoding: ask.encoding,
        vectors: vectors.into(),
        items: texts.into_iter().map(|text| text.item).collect::<Vec<Item>>(),
        timing,
    })
}

/// Whether all components are. It looks at all of them, several at a time: ending early takes more than twice as long where none is to be found.
fn is_finite(row: &[f32]) -> bool {
    row.iter().fold(true, |finite, x| finite & x.is_finite())
}

/// Whether trying again can help: the engine failed, not the text.
pub(super) fn failed_in_engine(outcome: &Outcome) -> bool {
    let failed = |error: &Option<WireError>| error.as_ref().is_some_and(|e| e.code == ErrorCode::EngineFailed);
    matches!(outcome, Outcome::Result(result) if result.items.iter().any(|item| failed(&item.error)))
}

/// A deadline concerns the job, not its texts: if it struck all of them, the job failed. So did one that no engine can take now.
fn failed_as_a_whole(texts: &[EmbeddedText]) -> Option<WireError> {
    let code = |text: &EmbeddedText| text.item.error.as_ref().map(|error| error.code);
    if let Some(unavailable) = texts.iter().find(|text| code(text) == Some(ErrorCode::ModelUnavailable)) {
        return unavailable.item.error.clone();
    }
    let first = texts.first()?.item.error.as_ref()?;
    let all = texts.iter().all(|text| code(text) == Some(first.code));
    (first.code == ErrorCode::DeadlineExceeded && all).then(|| first.clone())
}

/// The first components, at unit length again: how Matryoshka models are shortened.
fn shorten(row: &[f32], dim: usize) -> Vec<f32> {
    let row = &row[..dim.min(row.len())];
    let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    row.iter().map(|x| x / norm).collect()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_component_that_is_not_finite_is_found_wherever_it_is() {
        assert!(is_finite(&[]) && is_finite(&[f32::MAX; 384]));
        for (at, wrong) in [(0, f32::NAN), (200, f32::INFINITY), (383, f32::NEG_INFINITY)] {
            let mut row = [1.0; 384];
            row[at] = wrong;
            assert!(!is_finite(&row), "{wrong} at {at}");
        }
    }

    #[test]
    fn shortened_vectors_have_unit_length() {
        let short = shorten(&[3.0, 4.0, 100.0], 2);
        assert_eq!(short, [0.6, 0.8]);
        assert!(shorten(&[0.0, 0.0, 1.0], 2).iter().all(|x| x.is_finite()));
    }
}
