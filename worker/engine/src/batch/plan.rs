//! What the planner takes and gives: texts that wait, batches, and what a free engine is to do.

use std::time::Instant;

use embed_schemas::Lane;

use super::turns::Owner;
use crate::shape::Form;

/// A text that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<T> {
    /// Where it came from.
    pub lane: Lane,
    /// Its tokens.
    pub length: usize,
    /// When it began to wait.
    pub arrival: Instant,
    /// After this moment nobody needs it.
    pub deadline: Option<Instant>,
    /// Whose it is: those who wait are served in turn.
    pub owner: Owner,
    /// Nothing else may run at the same time but texts with the same number here, whose caller they share.
    pub alone: Option<u64>,
    /// Its run is to be compared with others, and so must be as they are: on one core.
    pub compared: bool,
    /// Nobody's: more of its kind are not to be expected because of it.
    pub probe: bool,
    /// Whatever the caller wants back.
    pub payload: T,
}

impl<T> Entry<T> {
    /// Whether nobody needs it any more.
    pub(super) fn has_expired(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }
}

/// Texts to run together.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch<T> {
    /// The texts, longest last.
    pub entries: Vec<Entry<T>>,
    /// Tokens of the longest text: the width of the padded batch.
    pub width: usize,
    /// How to lay it out.
    pub form: Form,
    /// Why it starts now.
    pub reason: Reason,
}

/// Why a batch starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// An online call is there.
    Online,
    /// There are as many texts as a batch may have.
    Full,
    /// Its oldest text has waited long enough.
    Waited,
    /// Its oldest text has waited longer than its lane allows.
    Aged,
    /// It is to run alone.
    Alone,
    /// The queue is being emptied.
    Draining,
}

impl Reason {
    /// The value of the metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Full => "full",
            Self::Waited => "waited",
            Self::Aged => "aged",
            Self::Alone => "alone",
            Self::Draining => "draining",
        }
    }
}

/// What a free engine is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Action<T> {
    /// Run this.
    Run(Batch<T>),
    /// Ask again at this moment, or when something arrives.
    WaitUntil(Instant),
    /// Ask again when something arrives.
    Idle,
}

/// The planner's answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Step<T> {
    /// Texts whose deadline has passed: they are out of the queue and were not run.
    pub expired: Vec<Entry<T>>,
    /// What to do.
    pub action: Action<T>,
}
