//! A variant: the name that traffic is sent to, with its admission and its metrics. Versions come and go behind it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use embed_schemas::{ErrorCode, JobId, Lane, Slug, WireError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    config::LimitsConfig,
    engine::{RunStats, Slots},
    pace::Pace,
    telemetry::VariantMetrics,
};

/// A caller that is turned away is not told to come back earlier than this.
const LEAST_RETRY: Duration = Duration::from_millis(10);

/// A variant that is being served.
#[derive(Debug)]
pub struct Variant {
    /// The model's slug.
    pub model: Slug,
    /// The variant's name.
    pub name: Slug,
    /// Counters and histograms.
    pub metrics: VariantMetrics,
    /// Texts that may still be taken in, by lane.
    admission: [Arc<Semaphore>; 3],
    capacity: [usize; 3],
    rpc_max_wait: Duration,
    /// How often a job is tried.
    pub max_deliveries: u64,
    pace: Pace,
    slots: Arc<Slots>,
    id_prefix: String,
    ids_made: AtomicU64,
}

impl Variant {
    /// A variant with nothing in it, and room for one run: until [`Variant::resize`] says how many engines serve it. `id_prefix` is unique among all workers.
    pub fn new(model: Slug, name: Slug, limits: &LimitsConfig, id_prefix: String) -> Self {
        let capacity = [limits.rpc_texts, limits.job_texts, limits.bulk_texts];
        Self {
            metrics: VariantMetrics::new(&model, &name),
            model,
            name,
            admission: capacity.map(|texts| Arc::new(Semaphore::new(texts))),
            capacity,
            rpc_max_wait: limits.rpc_max_wait,
            max_deliveries: limits.max_deliveries,
            pace: Pace::new(1),
            slots: Arc::new(Slots::new(1)),
            id_prefix,
            ids_made: AtomicU64::new(0),
        }
    }

    /// Permits for texts of this lane: one for each text that is in the worker.
    pub const fn admission(&self, lane: Lane) -> &Arc<Semaphore> {
        &self.admission[lane.index()]
    }

    /// Room for runs, shared by all its versions.
    pub const fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// From now on, so many engines serve it.
    pub fn resize(&self, engines: usize) {
        self.slots.resize(engines);
        self.pace.resize(engines);
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
