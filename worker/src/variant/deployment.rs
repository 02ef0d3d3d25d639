//! A variant with the version that is live at this moment, and who waits for one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use embed_schemas::{
    ErrorCode, WireError,
    serving::{CURRENT_VERSION, FailedVersion, VariantState, VariantStatus},
};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::{ServedVersion, Variant};

/// A variant on this worker, and what answers for it now.
#[derive(Debug)]
pub struct Deployment {
    /// The variant.
    pub variant: Arc<Variant>,
    live: ArcSwapOption<ServedVersion>,
    phase: watch::Sender<Phase>,
    /// Somebody waits for a version to be loaded.
    asked: AtomicBool,
    /// Wakes whoever can load one.
    demand: Notify,
    started: Instant,
    /// Milliseconds after `started`.
    last_used: AtomicU64,
    record: Mutex<Record>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    In(VariantState),
    /// The worker stops, or does not serve it any more.
    Closed,
}

/// Why no jobs are to be pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pause {
    /// No version can be loaded.
    Unavailable(String),
    /// The engines fail whatever they are given.
    Broken(String),
}

impl Pause {
    /// Why, for a person.
    #[must_use]
    pub fn reason(&self) -> &str {
        let (Self::Unavailable(reason) | Self::Broken(reason)) = self;
        reason
    }
}

/// What is only told.
#[derive(Debug, Default)]
struct Record {
    default: bool,
    wanted: String,
    previous: Option<String>,
    failed: Option<FailedVersion>,
}

impl Deployment {
    /// A variant of which nothing is loaded.
    #[must_use]
    pub fn new(variant: Arc<Variant>) -> Self {
        Self {
            variant,
            live: ArcSwapOption::empty(),
            phase: watch::Sender::new(Phase::In(VariantState::Cold)),
            asked: AtomicBool::new(false),
            demand: Notify::new(),
            started: Instant::now(),
            last_used: AtomicU64::new(0),
            record: Mutex::default(),
        }
    }

    /// What answers now, if anything is loaded. Whoever holds it can finish with it, whatever comes to its place.
    #[must_use]
    pub fn live(&self) -> Option<Arc<ServedVersion>> {
        let live = self.live.load_full()?;
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_used.store(now, Ordering::Relaxed);
        Some(live)
    }

    /// The same, without counting as use.
    #[must_use]
    pub fn peek(&self) -> Option<Arc<ServedVersion>> {
        self.live.load_full()
    }

    /// What answers, as soon as it is loaded.
    ///
    /// # Errors
    /// [`ErrorCode::ModelUnavailable`] if it cannot be loaded, [`ErrorCode::ShuttingDown`] if the worker stops.
    pub async fn when_live(&self) -> Result<Arc<ServedVersion>, WireError> {
        let mut phase = self.phase.subscribe();
        loop {
            if let Some(live) = self.live() {
                return Ok(live);
            }
            match *phase.borrow_and_update() {
                Phase::In(VariantState::Failed) => return Err(self.unavailable()),
                Phase::Closed => return Err(shutting_down()),
                Phase::In(_) => {}
            }
            self.asked.store(true, Ordering::Relaxed);
            self.demand.notify_one();
            // The sender is in `self`.
            let _ = phase.changed().await;
        }
    }

    /// Why jobs are to stay in their stream, if they are.
    #[must_use]
    pub fn pause(&self) -> Option<Pause> {
        match self.peek() {
            Some(live) => live.pipeline.broken().map(Pause::Broken),
            None if *self.phase.borrow() == Phase::In(VariantState::Failed) => {
                Some(Pause::Unavailable(self.unavailable().message))
            }
            None => None,
        }
    }

    /// Whether there is something to answer with, or will be as soon as somebody asks: it is not so where what is wanted has failed and
    /// nothing else is live.
    #[must_use]
    pub fn can_serve(&self) -> bool {
        *self.phase.borrow() != Phase::In(VariantState::Failed)
    }

    /// Waits until its state changes.
    pub async fn changed(&self) {
        let _ = self.phase.subscribe().changed().await;
    }

    /// Waits until somebody needs a version to be loaded.
    pub async fn demanded(&self) {
        self.demand.notified().await;
    }

    /// Whether somebody waits for a version to be loaded.
    #[must_use]
    pub fn is_asked_for(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// When it was last used.
    #[must_use]
    pub fn last_used(&self) -> Instant {
        self.started + Duration::from_millis(self.last_used.load(Ordering::Relaxed))
    }

    /// Puts a version in its place, at once and for all who come from now on. Gives back the one before.
    pub fn put(&self, version: Option<Arc<ServedVersion>>) -> Option<Arc<ServedVersion>> {
        let state = if version.is_some() { VariantState::Live } else { VariantState::Cold };
        let before = self.live.swap(version);
        if state == VariantState::Live {
            self.asked.store(false, Ordering::Relaxed);
        }
        self.enter(state);
        before
    }

    fn enter(&self, state: VariantState) {
        self.phase.send_if_modified(|phase| {
            let changes = *phase != Phase::Closed && *phase != Phase::In(state);
            if changes {
                *phase = Phase::In(state);
            }
            changes
        });
    }

    /// Says that a version is being loaded; nothing changes for a variant that is live.
    pub fn loading(&self) {
        if self.peek().is_none() {
            self.enter(VariantState::Loading);
        }
    }

    /// Notes that a version could not go live. What was live stays; whoever waited for it hears why.
    pub fn failed(&self, version: &str, reason: String) {
        let when = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        self.record.lock().failed = Some(FailedVersion { version: version.to_owned(), reason, when });
        if self.peek().is_none() {
            self.asked.store(false, Ordering::Relaxed);
            self.enter(VariantState::Failed);
        }
    }

    /// Forgets the failure: it is going to be tried again, or a version is live.
    pub fn forget_failure(&self) {
        self.record.lock().failed = None;
        if *self.phase.borrow() == Phase::In(VariantState::Failed) {
            self.enter(VariantState::Cold);
        }
    }

    /// From now on nobody waits for a version: the worker stops, or does not serve the variant any more.
    pub fn close(&self) {
        self.phase.send_replace(Phase::Closed);
    }

    /// Notes what is wanted, for whoever asks.
    pub fn note(&self, wanted: String, default: bool) {
        let mut record = self.record.lock();
        record.wanted = wanted;
        record.default = default;
    }

    /// Notes which version is kept warm.
    pub fn note_previous(&self, previous: Option<String>) {
        self.record.lock().previous = previous;
    }

    /// The error of a call that nothing can answer.
    fn unavailable(&self) -> WireError {
        let failed = self.record.lock().failed.clone();
        let failed = failed.unwrap_or_else(|| FailedVersion {
            version: CURRENT_VERSION.to_owned(),
            reason: "it is not loaded".to_owned(),
            when: String::new(),
        });
        failed.unavailable(&self.variant.model, &self.variant.name)
    }

    /// What is told of it.
    #[must_use]
    pub fn status(&self) -> VariantStatus {
        let live = self.peek().map(|version| version.status());
        let state = match *self.phase.borrow() {
            Phase::In(state) => state,
            Phase::Closed if live.is_some() => VariantState::Live,
            Phase::Closed => VariantState::Cold,
        };
        let record = self.record.lock();
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

/// The error of a call that comes too late.
pub(crate) fn shutting_down() -> WireError {
    WireError::new(ErrorCode::ShuttingDown, "this worker is stopping; send it again, and another one takes it")
}
