//! What the micro service protocol says of one endpoint.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use async_nats::service::{endpoint, error};
use embed_schemas::WireError;
use parking_lot::Mutex;

/// What the micro service says of one endpoint.
#[derive(Debug)]
pub struct EndpointStats {
    name: String,
    subject: String,
    queue_group: String,
    requests: AtomicUsize,
    errors: AtomicUsize,
    nanoseconds: AtomicU64,
    last_error: Mutex<Option<WireError>>,
}

impl EndpointStats {
    /// An endpoint that has answered nothing yet.
    pub const fn new(name: String, subject: String, queue_group: String) -> Self {
        Self {
            name,
            subject,
            queue_group,
            requests: AtomicUsize::new(0),
            errors: AtomicUsize::new(0),
            nanoseconds: AtomicU64::new(0),
            last_error: Mutex::new(None),
        }
    }

    /// Counts an answer.
    pub fn answered(&self, took: Duration, error: Option<&WireError>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if let Some(error) = error {
            self.errors.fetch_add(1, Ordering::Relaxed);
            *self.last_error.lock() = Some(error.clone());
        }
    }

    /// Where it is asked.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The endpoint, for `INFO`.
    pub fn info(&self) -> endpoint::Info {
        endpoint::Info {
            name: self.name.clone(),
            subject: self.subject.clone(),
            queue_group: self.queue_group.clone(),
            metadata: HashMap::new(),
        }
    }

    /// Its counts, for `STATS`.
    pub fn stats(&self) -> endpoint::Stats {
        let requests = self.requests.load(Ordering::Relaxed);
        let processing_time = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed));
        let last_error = self.last_error.lock().clone();
        endpoint::Stats {
            name: self.name.clone(),
            subject: self.subject.clone(),
            requests,
            errors: self.errors.load(Ordering::Relaxed),
            processing_time,
            average_processing_time: processing_time / u32::try_from(requests.max(1)).unwrap_or(u32::MAX),
            last_error: last_error.map(|e| error::Error { status: e.to_string(), code: usize::from(e.code.status()) }),
            data: None,
            queue_group: self.queue_group.clone(),
        }
    }
}
