//! Where anything is published on somebody else's behalf: to inboxes, and nowhere else. What is refused is counted, and told now and then.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::Client;
use embed_schemas::{
    inbox::{self, NoInbox},
    metrics as names,
};
use metrics::{Counter, counter};
use parking_lot::Mutex;

/// Whoever wants a log full of lines gets one in this time.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Bytes of a subject that are told.
const TOLD: usize = 120;

/// What would have been published, or believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The answer to a call.
    Call,
    /// The copy of a job's outcome.
    Copy,
    /// The answer to a question about the worker.
    Discovery,
    /// The acknowledgement of a job that no stream has delivered.
    Delivery,
}

impl Refused {
    const ALL: [Self; 4] = [Self::Call, Self::Copy, Self::Discovery, Self::Delivery];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Copy => "copy",
            Self::Discovery => "discovery",
            Self::Delivery => "delivery",
        }
    }
}

/// Decides where answers may go. Clones are the same.
#[derive(Debug, Clone)]
pub struct Replies(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    prefixes: Vec<String>,
    counters: [Counter; 4],
    quiet: Mutex<Quiet>,
}

impl Replies {
    /// Answers go to inboxes as all clients have them, to those of the worker's own user, and below these prefixes.
    #[must_use]
    pub fn new(client: &Client, prefixes: &[String]) -> Self {
        let own = client.new_inbox();
        let own = own.rsplit_once('.').map(|(prefix, _)| prefix.to_owned());
        let prefixes = own.into_iter().chain(prefixes.iter().cloned()).collect();
        let counters = Refused::ALL.map(|what| counter!(names::REPLIES_REFUSED_TOTAL, names::KIND => what.as_str()));
        Self(Arc::new(Shared { prefixes, counters, quiet: Mutex::default() }))
    }

    /// Whether something may be published here for somebody. What may not is counted and told.
    ///
    /// # Errors
    /// Why not.
    pub fn allow(&self, what: Refused, subject: &str) -> Result<(), NoInbox> {
        let checked = self.check(subject);
        if let Err(why) = &checked {
            self.refuse(what, subject, why);
        }
        checked
    }

    /// The same without a word.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, subject: &str) -> Result<(), NoInbox> {
        inbox::check(subject, &self.0.prefixes)
    }

    /// Counts something that is not done, and tells of it if nothing was told lately.
    pub fn refuse(&self, what: Refused, subject: &str, why: &dyn std::fmt::Display) {
        self.0.counters[what as usize].increment(1);
        if let Some(not_told) = self.0.quiet.lock().speaks(Instant::now()) {
            // As Rust's `Debug` writes it: on one line, whatever is in it.
            let subject = &subject[..subject.floor_char_boundary(TOLD)];
            tracing::warn!(what = what.as_str(), ?subject, %why, not_told, "nothing is published there on anybody's behalf");
        }
    }
}

/// One line in a while.
#[derive(Debug, Default)]
struct Quiet {
    told: Option<Instant>,
    not_told: u64,
}

impl Quiet {
    /// Whether it is time for a line, and how much was not told since the last.
    fn speaks(&mut self, now: Instant) -> Option<u64> {
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < TELL_EVERY) {
            self.not_told += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.not_told))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lines_are_few_and_nothing_is_left_uncounted(steps in prop::collection::vec(0u64..4_000, 1..200)) {
            let start = Instant::now();
            let (mut quiet, mut now, mut lines, mut counted) = (Quiet::default(), start, 0u64, 0u64);
            for ms in &steps {
                now += Duration::from_millis(*ms);
                if let Some(not_told) = quiet.speaks(now) {
                    lines += 1;
                    counted += 1 + not_told;
                }
            }
            prop_assert!(lines <= 1 + now.duration_since(start).as_secs() / TELL_EVERY.as_secs());
            prop_assert_eq!(counted + quiet.not_told, steps.len() as u64);
        }
    }

    #[test]
    fn each_kind_is_counted_as_itself() {
        assert!(Refused::ALL.iter().enumerate().all(|(n, what)| *what as usize == n));
    }
}
