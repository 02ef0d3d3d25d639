//! Deliveries are not attempts: a message is delivered again because a worker stopped, a connection was cut, or a neighbour killed the
//! worker that had both. What counts is written down, in a stream of its own, since the worker that could remember it may be dead.
//!
//! A message that comes for the first time runs in company, and nothing is written down. One that comes again may have killed its worker,
//! so it runs alone, one at a time in a worker, and before that an attempt is written down. If the worker dies, the message comes again and
//! there is an attempt that never ended: this message's doing, since nothing else ran. Handed back in good order, the attempt is taken back.

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use embed_schemas::{Slug, streams, subjects};
use serde::{Deserialize, Serialize};

use super::Delivery;
use crate::jetstream::{
    StoreClient, StoreError,
    api::{self, ApiError},
};

/// What is known of attempts at one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attempts {
    /// Runs alone that began and, as far as is known, killed their worker.
    #[serde(default)]
    pub begun: u64,
    /// Runs in which the engine failed on it.
    #[serde(default)]
    pub failed: u64,
}

impl Attempts {
    /// How many there were. Whoever kills its worker when it runs alone did so in company before.
    #[must_use]
    pub const fn count(self) -> u64 {
        let in_company = if self.begun > 0 { 1 } else { 0 };
        self.begun + in_company + self.failed
    }

    /// One more run alone begins.
    #[must_use]
    pub const fn begin(self) -> Self {
        Self { begun: self.begun + 1, ..self }
    }

    /// The run that began last ended with a failure of the engine.
    #[must_use]
    pub const fn fail(self, ran_alone: bool) -> Self {
        Self { begun: self.begun.saturating_sub(ran_alone as u64), failed: self.failed + 1 }
    }
}

/// Where attempts are written down. Clones are the same.
#[derive(Debug, Clone)]
pub struct AttemptStore {
    store: StoreClient,
}

impl AttemptStore {
    /// A store on this connection.
    #[must_use]
    pub const fn new(store: StoreClient) -> Self {
        Self { store }
    }

    /// What is written down of a message.
    ///
    /// # Errors
    /// If the stream does not answer.
    pub async fn read(&self, model: &Slug, delivery: &Delivery) -> Result<Attempts, ApiError> {
        let subject = subjects::attempts(model, &delivery.key());
        let stored = api::last_on_subject(self.store.client(), streams::ATTEMPTS_STREAM, &subject).await?;
        // What cannot be read was not written by us.
        Ok(stored.and_then(|stored| serde_json::from_slice(&stored.payload).ok()).unwrap_or_default())
    }

    /// Writes it down, and waits until that is stored.
    ///
    /// # Errors
    /// If it cannot be stored.
    pub async fn write(&self, model: &Slug, delivery: &Delivery, attempts: Attempts) -> Result<(), StoreError> {
        let (subject, payload) = Self::message(model, delivery, attempts);
        self.store.store(subject, HeaderMap::new(), payload).await
    }

    /// What is written down, as a message.
    ///
    /// # Panics
    /// Never: it is two numbers.
    #[must_use]
    pub fn message(model: &Slug, delivery: &Delivery, attempts: Attempts) -> (Subject, Bytes) {
        let payload = serde_json::to_vec(&attempts).expect("two numbers");
        (subjects::attempts(model, &delivery.key()).into(), payload.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_dies_alone_died_in_company_before() {
        let none = Attempts::default();
        assert_eq!(none.count(), 0, "deliveries do not count");
        assert_eq!(none.begin().count(), 2);
        assert_eq!(none.fail(false).count(), 1, "the engine failed in company, the worker lives");
        assert_eq!(none.begin().fail(true).count(), 1);
    }

    proptest! {
        #[test]
        fn what_is_given_back_counts_for_nothing(begun in 0..20u64, failed in 0..20u64) {
            let before = Attempts { begun, failed };
            let during = before.begin();
            prop_assert!(during.count() > before.count());
            prop_assert_eq!(Attempts { begun: during.begun - 1, ..during }, before);
            prop_assert_eq!(during.fail(true), Attempts { begun, failed: failed + 1 });
        }
    }
}
