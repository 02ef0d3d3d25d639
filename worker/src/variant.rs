//! A variant as the running worker knows it: names, metadata, admission, metrics.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use embed_schemas::{EmbedRequest, ErrorCode, Format, JobId, Lane, ModelMetadata, Precision, Slug, WireError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{config::LimitsConfig, engine::RunStats, model::Selected, pace::Pace, telemetry::VariantMetrics};

/// A caller that is turned away is not told to come back earlier than this.
const LEAST_RETRY: Duration = Duration::from_millis(10);

/// A variant that is being served.
#[derive(Debug)]
pub struct Variant {
    /// The model's slug.
    pub model: Slug,
    /// The variant's name.
    pub name: Slug,
    /// Whether it answers on subjects that name no variant.
    pub is_default: bool,
    /// What the registry says of the version.
    pub metadata: ModelMetadata,
    /// The precision of the graph in use.
    pub precision: Precision,
    /// Counters and histograms.
    pub metrics: VariantMetrics,
    /// Texts that may still be taken in, by lane.
    admission: [Arc<Semaphore>; 3],
    capacity: [usize; 3],
    rpc_max_wait: Duration,
    pace: Pace,
    id_prefix: String,
    ids_made: AtomicU64,
}

impl Variant {
    /// A variant with nothing in it. `id_prefix` is unique among all workers.
    pub fn new(selected: &Selected, limits: &LimitsConfig, runners: usize, id_prefix: String) -> Self {
        let capacity = [limits.rpc_texts, limits.job_texts, limits.bulk_texts];
        Self {
            model: selected.model.clone(),
            name: selected.variant.clone(),
            is_default: selected.is_default,
            metadata: selected.metadata.clone(),
            precision: selected.artefact.precision,
            metrics: VariantMetrics::new(&selected.model, &selected.variant),
            admission: capacity.map(|texts| Arc::new(Semaphore::new(texts))),
            capacity,
            rpc_max_wait: limits.rpc_max_wait,
            pace: Pace::new(runners),
            id_prefix,
            ids_made: AtomicU64::new(0),
        }
    }

    /// Permits for texts of this lane: one for each text that is in the worker.
    pub const fn admission(&self, lane: Lane) -> &Arc<Semaphore> {
        &self.admission[lane.index()]
    }

    /// Whether the online calls that are in the worker leave no time for another. Asked before a call is read: refusing
    /// must cost next to nothing, or refusals take the time that answers need.
    ///
    /// # Errors
    /// [`ErrorCode::Overloaded`], with a hint when to try again.
    pub fn has_time(&self) -> Result<(), WireError> {
        let wait = self.pace.time_for(self.in_flight(Lane::Rpc));
        // A model whose runs take long cannot be held to a short wait: a call or two may always be before this one.
        let longest = self.rpc_max_wait.max(self.pace.one_text() * 2);
        if wait <= longest { Ok(()) } else { Err(overloaded(wait - longest)) }
    }

    /// Admits an online call, if there is room for its texts.
    ///
    /// # Errors
    /// [`ErrorCode::Overloaded`], with a hint when to try again.
    pub fn admit_call(&self, texts: usize) -> Result<OwnedSemaphorePermit, WireError> {
        let permits = u32::try_from(texts).unwrap_or(u32::MAX);
        let permit = Arc::clone(self.admission(Lane::Rpc)).try_acquire_many_owned(permits);
        permit.map_err(|_| overloaded(self.pace.time_for(texts)))
    }

    /// Notes what a run took: what calls have to wait for is estimated from it.
    pub fn ran(&self, stats: &RunStats) {
        self.metrics.run(stats);
        if stats.lane == Lane::Rpc {
            self.pace.record(stats.texts, stats.took);
        }
    }

    /// Texts of this lane that are in the worker.
    pub fn in_flight(&self, lane: Lane) -> usize {
        self.capacity[lane.index()].saturating_sub(self.admission(lane).available_permits())
    }

    /// Waits until no text of this lane is in the worker.
    pub async fn idle(&self, lane: Lane) {
        let all = u32::try_from(self.capacity[lane.index()]).unwrap_or(u32::MAX);
        // The semaphore is never closed; a permit that is taken and dropped changes nothing.
        let _ = self.admission(lane).acquire_many(all).await;
    }

    /// A new id for a request that has none.
    pub fn make_id(&self) -> JobId {
        let n = self.ids_made.fetch_add(1, Ordering::Relaxed);
        format!("{}-{n}", self.id_prefix).parse().expect("the prefix was checked when the worker started")
    }

    /// Checks a request against the model.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownPrompt`], [`ErrorCode::UnsupportedDimensions`], [`ErrorCode::ResultTooLarge`].
    pub fn check(&self, request: &EmbedRequest, format: Format, max_payload: usize) -> Result<(), WireError> {
        if let Some(prompt) = &request.prompt
            && !self.metadata.prompts.contains_key(prompt)
        {
            return Err(WireError::new(
                ErrorCode::UnknownPrompt,
                format!("prompt: {} has no prompt {prompt:?}; {}", self.metadata.model_name, self.known_prompts()),
            ));
        }
        if let Some(dimensions) = request.dimensions
            && dimensions != self.metadata.dimension
            && !self.metadata.dimensions.contains(&dimensions)
        {
            return Err(WireError::new(
                ErrorCode::UnsupportedDimensions,
                format!(
                    "dimensions: {} has {} dimensions and cannot be asked for {dimensions}; {}",
                    self.metadata.model_name,
                    self.metadata.dimension,
                    match self.metadata.dimensions.as_slice() {
                        [] => "leave `dimensions` out".to_owned(),
                        known => format!("choose from {known:?}"),
                    }
                ),
            ));
        }
        let dim = request.dimensions.unwrap_or(self.metadata.dimension) as usize;
        let rows = request.texts.len();
        // A lower bound: what is surely too large is refused before it is computed, the rest is measured afterwards.
        let least = match format {
            Format::MessagePack => rows * request.encoding_for(format).storage().row_bytes(dim),
            Format::Json => rows * dim * 2,
        };
        if least > max_payload { Err(result_too_large(least, max_payload)) } else { Ok(()) }
    }

    fn known_prompts(&self) -> String {
        let names: Vec<String> = self.metadata.prompts.keys().map(|name| format!("`{name}`")).collect();
        match names.as_slice() {
            [] => "it has none, so leave `prompt` out".to_owned(),
            names => format!("it has {}", names.join(", ")),
        }
    }
}

/// The error of a call that came when there was too much to do.
fn overloaded(late: Duration) -> WireError {
    let late = u64::try_from(late.max(LEAST_RETRY).as_millis()).unwrap_or(u64::MAX);
    WireError {
        retry_after_ms: Some(late),
        ..WireError::new(
            ErrorCode::Overloaded,
            "this worker has more online calls than it can answer in time; try again later",
        )
    }
}

/// The error of a request whose answer does not fit into a message.
pub fn result_too_large(bytes: usize, max_payload: usize) -> WireError {
    WireError::new(
        ErrorCode::ResultTooLarge,
        format!(
            "the answer would have {bytes} bytes or more, the server's max_payload is {max_payload}; \
             send fewer texts at once, or ask for a smaller encoding (MessagePack instead of JSON, f16, i8, u1)"
        ),
    )
}
