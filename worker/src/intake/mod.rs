//! Intake: messages from NATS become requests of a pipeline.
//!
//! Online calls are answered at once if they cannot be answered in time. Stored jobs are pulled, one durable consumer for each
//! variant and lane, only as there is room for them, and are leases from the moment they arrive.

mod again;
mod calls;
mod estimate;
mod exhausted;
mod jobs;
mod removal;
mod sender;
mod shadow;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{HeaderMap, Message};
use embed_schemas::{JobId, WireError};
use tokio::sync::Semaphore;

pub use calls::{Endpoint, subscribe_bare, subscribe_pinned, subscribe_probe};
pub use jobs::{JobIntake, PullStatus};
pub use removal::RemovalIntake;
pub use shadow::ShadowIntake;

use crate::{
    connection::Connections, jetstream::ServerClock, lease::Keeper, publish::Publisher, spans::Tracer,
    supervise::Supervisor,
};

/// What all intakes of a worker share. Clones are the same.
#[derive(Debug, Clone)]
pub struct IntakeContext {
    /// The worker's id.
    pub worker: Arc<str>,
    /// To the servers.
    pub connections: Connections,
    /// Ends what came in.
    pub publisher: Publisher,
    /// Keeps leases.
    pub keeper: Keeper,
    /// What time it is at the server.
    pub clock: ServerClock,
    /// Starts tasks.
    pub supervisor: Supervisor,
    /// Records requests.
    pub tracer: Tracer,
    /// Of the jobs that were delivered before, one at a time runs.
    one_again: Arc<Semaphore>,
    calls: Arc<AtomicU64>,
}

impl IntakeContext {
    /// What all intakes of a worker share.
    #[must_use]
    pub fn new(
        worker: &str,
        connections: Connections,
        publisher: Publisher,
        keeper: Keeper,
        supervisor: Supervisor,
        tracer: Tracer,
    ) -> Self {
        let (clock, one_again, calls) = (ServerClock::default(), Arc::new(Semaphore::new(1)), Arc::default());
        Self { worker: worker.into(), connections, publisher, keeper, clock, supervisor, tracer, one_again, calls }
    }

    /// An id for a call that has none. Nothing is stored under it.
    fn call_id(&self) -> JobId {
        let n = self.calls.fetch_add(1, Ordering::Relaxed);
        format!("{}-{n}", self.worker).parse().expect("the worker's id was checked when it started")
    }
}

/// Why a message is none that could be served, whatever its payload says: its sender has put together headers that cannot be read as a whole. What
/// is missing may be what matters.
fn malformed(message: &Message) -> Option<WireError> {
    let fix = "every header is one line `Name: value` in UTF-8, under the line `NATS/1.0`";
    let defect = message.headers.as_ref().and_then(HeaderMap::defect).map(|defect| defect.to_string());
    let status = || message.status.map(|_| "they begin with a status, as only a server's do".to_owned());
    defect.or_else(status).map(|what| WireError::invalid(format!("headers: {what}; {fix}")))
}

/// A pause that grows as long as what it is for fails.
#[derive(Debug)]
struct Backoff {
    next: Duration,
    first: Duration,
    longest: Duration,
}

impl Backoff {
    const fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, first, longest }
    }

    fn grow(&mut self) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.longest);
        pause
    }

    const fn reset(&mut self) {
        self.next = self.first;
    }
}
