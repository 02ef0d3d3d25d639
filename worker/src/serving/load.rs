//! From a resolved version to one that can go live: engines verified and warm, threads started and settled.

use std::{sync::Arc, time::Instant};

use embed_engine::{
    model::{LoadError, Loader, ResolveError, ResolvedModel},
    pipeline::{Pipeline, PipelineContext},
};
use embed_schemas::metrics as names;
use metrics::{counter, histogram};

use crate::{
    config::Config,
    metrics::variant_labels,
    supervise::Supervisor,
    variant::{ServedVersion, Variant},
};

/// A version cannot go live.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It cannot be found out what is to be loaded, or there is nothing that could be.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// It cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The system refuses a thread.
    #[error("a thread to serve it: {0}")]
    Thread(#[from] std::io::Error),
}

/// Loads a version: nothing is different until it goes live. `aside`: at the lowest priority, since others are being served.
///
/// # Errors
/// If it cannot be loaded.
pub(super) async fn load_version(
    config: &Config,
    loader: &Loader,
    supervisor: &Supervisor,
    variant: &Arc<Variant>,
    resolved: &ResolvedModel,
    aside: bool,
) -> Result<Arc<ServedVersion>, StartError> {
    let started = Instant::now();
    let loaded = loader.load(resolved, aside).await?;
    let labels = variant_labels(&variant.model, &variant.name);
    let report = &loaded.report;
    if !report.skipped.is_empty() {
        let [model, variant] = labels.clone();
        let on = (names::PROVIDER, report.provider.to_string());
        counter!(names::PROVIDER_FALLBACKS_TOTAL, &[model, variant, on]).increment(1);
        let skipped: Vec<_> = report.skipped.iter().map(|one| format!("{}: {}", one.provider, one.reason)).collect();
        tracing::error!(
            model = %resolved.model, variant = %resolved.variant, provider = %report.provider,
            precision = %report.artefact.precision, ?skipped,
            "fell back to another execution provider; set `strict` to make this an error"
        );
    }
    histogram!(names::MODEL_LOAD_SECONDS, &labels).record(started.elapsed());
    let context = PipelineContext {
        batch: &config.batch,
        tokenizer_threads: config.tokenize.threads,
        nice: config.engine.nice,
        limit: Arc::clone(variant.run_limit()),
        observer: Arc::clone(variant) as _,
        on_death: supervisor.on_death(),
    };
    let pipeline = Pipeline::start(resolved.metadata.clone(), loaded, context)?;
    pipeline.settled().await;
    Ok(Arc::new(ServedVersion::new(resolved, pipeline)))
}
