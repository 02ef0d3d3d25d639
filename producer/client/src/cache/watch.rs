//! What workers serve, looked at again and again while the cache is in use.
//!
//! Nobody tells a client when a model changes to another space. So all workers are asked, several times within the time for which an answer
//! is believed; and an answer that is another than was to be expected ends that time at once.

use std::{sync::Arc, time::Duration};

use embed_schemas::{EmbedResult, Slug};
use parking_lot::Mutex;
use tokio::{sync::Notify, task::AbortHandle, time::Instant};

use super::current::{Current, Served};
use crate::Client;

/// After the last use, workers are asked for so long: whoever asks seldom finds what was kept all the same.
const KEEP_LOOKING: Duration = Duration::from_mins(5);
/// Looks within the time for which one is believed.
const LOOKS: u32 = 3;

/// What is known of the workers. Ends with its last user.
#[derive(Debug)]
pub(super) struct Watch {
    client: Client,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// How long what was seen is believed, counted from before it was asked for.
    believed: Duration,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    seen: Option<(Instant, Served)>,
    /// Answers that were others than was to be expected: what was asked for before one of them says nothing.
    contradictions: u64,
    used: Option<Instant>,
    task: Option<AbortHandle>,
}

impl Watch {
    pub(super) fn new(client: &Client, believed: Duration) -> Self {
        let shared = Shared { believed, state: Mutex::default(), changed: Notify::new() };
        Self { client: client.clone(), shared: Arc::new(shared) }
    }

    /// What whoever asks now would get, if that is known.
    pub(super) fn current(&self, model: &Slug, variant: Option<&Slug>) -> Option<Current> {
        let now = Instant::now();
        let mut state = self.shared.state.lock();
        state.used = Some(now);
        if state.task.is_none() {
            let task = tokio::spawn(look(self.client.clone(), Arc::clone(&self.shared)));
            state.task = Some(task.abort_handle());
        }
        let (asked, served) = state.seen.as_ref()?;
        let is_fresh = now.saturating_duration_since(*asked) < self.shared.believed;
        is_fresh.then(|| served.current(model, variant).cloned()).flatten()
    }

    /// Compares an answer with what was to be expected.
    pub(super) fn answered(&self, model: &Slug, variant: Option<&Slug>, answer: &EmbedResult) {
        let mut state = self.shared.state.lock();
        if state.seen.as_ref().is_some_and(|(_, served)| served.is_contradicted(model, variant, answer)) {
            tracing::debug!(%model, space = answer.space, "workers have changed: nothing is served from the cache until it is known to what");
            state.seen = None;
            state.contradictions += 1;
            drop(state);
            self.shared.changed.notify_one();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(task) = self.shared.state.lock().task.take() {
            task.abort();
        }
    }
}

async fn look(client: Client, shared: Arc<Shared>) {
    loop {
        let (asked, before) = {
            let mut state = shared.state.lock();
            let now = Instant::now();
            if state.used.is_none_or(|used| now.saturating_duration_since(used) > KEEP_LOOKING) {
                state.task = None;
                return;
            }
            (now, state.contradictions)
        };
        match client.workers().await {
            Ok(workers) => {
                let served = Served::of(&workers);
                let mut state = shared.state.lock();
                if state.contradictions == before {
                    state.seen = Some((asked, served));
                }
            }
            Err(error) => tracing::debug!(%error, "cannot look what workers serve: nothing is served from the cache"),
        }
        let _ = tokio::time::timeout(shared.believed / LOOKS, shared.changed.notified()).await;
    }
}
