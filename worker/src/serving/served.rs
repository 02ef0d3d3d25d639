//! A variant with the version that is live at this moment.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use embed_schemas::{
    ErrorCode, WireError,
    serving::{FailedVersion, VariantState, VariantStatus},
};
use tokio::sync::{Notify, watch};

use super::{Pipeline, Variant};

/// A caller whose variant cannot be loaded is told to come back after this.
const RETRY_UNAVAILABLE: Duration = Duration::from_secs(5);

/// A variant, and what answers for it now.
#[derive(Debug)]
pub struct Served {
    /// The variant.
    pub variant: Arc<Variant>,
    live: ArcSwapOption<Pipeline>,
    state: watch::Sender<VariantState>,
    /// Somebody waits for a version to be loaded.
    asked: AtomicBool,
    /// Wakes whoever can load one.
    demand: Arc<Notify>,
    started: Instant,
    /// Milliseconds after `started`.
    last_used: AtomicU64,
    record: Mutex<Record>,
}

/// What is only told.
#[derive(Debug, Default)]
struct Record {
    default: bool,
    wanted: String,
    previous: Option<String>,
    failed: Option<FailedVersion>,
}

impl Served {
    /// A variant of which nothing is loaded. `demand` is notified when somebody needs it.
    pub fn new(variant: Arc<Variant>, demand: Arc<Notify>) -> Self {
        Self {
            variant,
            live: ArcSwapOption::empty(),
            state: watch::Sender::new(VariantState::Cold),
            asked: AtomicBool::new(false),
            demand,
            started: Instant::now(),
            last_used: AtomicU64::new(0),
            record: Mutex::default(),
        }
    }

    /// What answers now, if anything is loaded. Whoever holds it can finish with it, whatever comes to its place.
    pub fn live(&self) -> Option<Arc<Pipeline>> {
        let live = self.live.load_full()?;
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_used.store(now, Ordering::Relaxed);
        Some(live)
    }

    /// The same, without counting as use.
    pub fn peek(&self) -> Option<Arc<Pipeline>> {
        self.live.load_full()
    }

    /// What answers, as soon as it is loaded.
    ///
    /// # Errors
    /// [`ErrorCode::ModelUnavailable`] if it cannot be loaded.
    pub async fn pipeline(&self) -> Result<Arc<Pipeline>, WireError> {
        let mut state = self.state.subscribe();
        loop {
            if let Some(live) = self.live() {
                return Ok(live);
            }
            if *state.borrow_and_update() == VariantState::Failed {
                return Err(self.unavailable());
            }
            self.ask();
            // The sender is in `self`.
            let _ = state.changed().await;
        }
    }

    /// Waits until it can be loaded, or is. Asks for nothing.
    pub async fn loadable(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| *state != VariantState::Failed).await;
    }

    fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
        self.demand.notify_one();
    }

    /// Whether somebody has asked for it since the last call.
    pub(super) fn take_asked(&self) -> bool {
        self.asked.swap(false, Ordering::Relaxed)
    }

    /// When it was last used.
    pub(super) fn last_used(&self) -> Instant {
        self.started + Duration::from_millis(self.last_used.load(Ordering::Relaxed))
    }

    /// Puts a version in its place, at once and for all who come from now on. Gives back the one before.
    pub(super) fn put(&self, pipeline: Option<Arc<Pipeline>>) -> Option<Arc<Pipeline>> {
        let state = if pipeline.is_some() { VariantState::Live } else { VariantState::Cold };
        let before = self.live.swap(pipeline);
        self.state.send_replace(state);
        before
    }

    /// Says that a version is being loaded; nothing changes for a variant that is live.
    pub(super) fn loading(&self) {
        self.state.send_if_modified(|state| {
            let changes = *state != VariantState::Live && *state != VariantState::Loading;
            if changes {
                *state = VariantState::Loading;
            }
            changes
        });
    }

    /// Notes that a version could not go live. What was live stays.
    pub(super) fn failed(&self, version: &str, reason: String) {
        let when = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        self.record().failed = Some(FailedVersion { version: version.to_owned(), reason, when });
        if self.peek().is_none() {
            self.state.send_replace(VariantState::Failed);
        }
    }

    /// Forgets the failure: it is going to be tried again, or a version is live.
    pub(super) fn forget_failure(&self) {
        self.record().failed = None;
        self.state.send_if_modified(|state| {
            let changes = *state == VariantState::Failed;
            if changes {
                *state = VariantState::Cold;
            }
            changes
        });
    }

    /// Notes what is wanted, for whoever asks.
    pub(super) fn note(&self, wanted: String, default: bool) {
        let mut record = self.record();
        record.wanted = wanted;
        record.default = default;
    }

    /// Notes which version is kept warm.
    pub(super) fn note_previous(&self, previous: Option<String>) {
        self.record().previous = previous;
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        // Nothing under this lock leaves the record half-changed.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error of a call that nothing can answer.
    fn unavailable(&self) -> WireError {
        let reason = match &self.record().failed {
            Some(failed) => format!("version {}: {}", failed.version, failed.reason),
            None => "it is not loaded".to_owned(),
        };
        let Variant { model, name, .. } = &*self.variant;
        let message = format!("variant {name} of model {model} cannot be served now: {reason}");
        WireError {
            retry_after_ms: u64::try_from(RETRY_UNAVAILABLE.as_millis()).ok(),
            ..WireError::new(ErrorCode::ModelUnavailable, message)
        }
    }

    /// What is told of it.
    pub fn status(&self) -> VariantStatus {
        let live = self.peek().map(|pipeline| pipeline.version.status());
        let state = *self.state.borrow();
        let record = self.record();
        VariantStatus {
            state,
            default: record.default,
            wanted: record.wanted.clone(),
            live,
            previous: record.previous.clone(),
            failed: record.failed.clone(),
        }
    }
}
