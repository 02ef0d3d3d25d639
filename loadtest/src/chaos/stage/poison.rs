//! A job that kills whoever computes it, from outside: no real model dies of a text.
//!
//! The relay in front of each worker waits for the result of the job with the poison's id on its way to the server. That is the
//! moment at which the job has been computed, whenever that is: alone or in a batch, at once or after others. The result does not
//! pass, the connection is cut, and the worker gets SIGKILL; whatever it says in between does not pass. So the job is never
//! done, and whatever was computed with it is lost with its worker, as if the computation had killed it. What is stored under its id
//! when it has become a dead letter, that it failed, passes: it holds no vector, and is told by its size.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use embed_schemas::{JobId, Slug, subjects};
use embed_testkit::Way;

/// What is stored of a job that failed is smaller than this, and a vector larger, in bytes.
const FAILURE: usize = 1200;

/// The poisons of a run. One that was not waited for kills all the same.
#[derive(Debug, Default, Clone)]
pub(super) struct Poison {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    jobs: Mutex<Vec<JobId>>,
    /// The traps that have sprung, one for each worker.
    sprung: Mutex<Vec<Arc<AtomicBool>>>,
    deaths: AtomicUsize,
}

/// What looks into the relay of one worker.
#[derive(Debug, Clone)]
pub(super) struct Trap {
    shared: Arc<Shared>,
    model: Slug,
    has_sprung: Arc<AtomicBool>,
}

impl Poison {
    /// A trap for the next worker.
    pub(super) fn trap(&self, model: &Slug) -> Trap {
        let has_sprung = Arc::new(AtomicBool::new(false));
        self.shared.sprung.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&has_sprung));
        Trap { shared: Arc::clone(&self.shared), model: model.clone(), has_sprung }
    }

    /// From now on, this job kills.
    pub(super) fn add(&self, id: JobId) {
        self.shared.deaths.store(0, Ordering::SeqCst);
        self.shared.jobs.lock().unwrap_or_else(PoisonError::into_inner).push(id);
    }

    /// The id of the last, and how many it has killed.
    pub(super) fn last(&self) -> Option<(String, usize)> {
        let jobs = self.shared.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.last().map(|id| (id.to_string(), self.shared.deaths.load(Ordering::SeqCst)))
    }

    /// Whether the n-th worker is to die.
    pub(super) fn has_sprung(&self, n: usize) -> bool {
        self.trap_of(n).load(Ordering::SeqCst)
    }

    /// It has died, and another takes its place.
    pub(super) fn reset(&self, n: usize) {
        self.trap_of(n).store(false, Ordering::SeqCst);
    }

    fn trap_of(&self, n: usize) -> Arc<AtomicBool> {
        Arc::clone(&self.shared.sprung.lock().unwrap_or_else(PoisonError::into_inner)[n])
    }
}

impl Trap {
    pub(super) fn lets_pass(&self, way: Way, bytes: &[u8]) -> bool {
        if way == Way::ToClient {
            return true;
        }
        // The dead say no more.
        if self.has_sprung.load(Ordering::SeqCst) {
            return false;
        }
        let jobs = self.shared.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !jobs.iter().any(|id| is_vector(bytes, &format!("{} ", subjects::store(&self.model, id)))) {
            return true;
        }
        self.has_sprung.store(true, Ordering::SeqCst);
        self.shared.deaths.fetch_add(1, Ordering::SeqCst);
        false
    }
}

/// Whether a vector is published on this subject: `HPUB <subject> [reply] <bytes of headers> <bytes in all>`. A line whose end has
/// not come passes; it is seen again with what follows, and without its payload it is nothing.
fn is_vector(bytes: &[u8], subject: &str) -> bool {
    let begins = bytes.windows(subject.len()).position(|window| window == subject.as_bytes());
    let rest = begins.map_or(&[][..], |at| &bytes[at..]);
    let line = rest.iter().position(|byte| *byte == b'\r').and_then(|end| std::str::from_utf8(&rest[..end]).ok());
    line.and_then(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).is_some_and(|size| size > FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_withheld_and_a_failure_passes() {
        let (poison, model) = (Poison::default(), "m".parse().unwrap());
        let (trap, other) = (poison.trap(&model), poison.trap(&model));
        let vector = b"HPUB embed.store.m.c-1 _INBOX.x 12 1734\r\n";
        assert!(trap.lets_pass(Way::ToServer, vector), "nothing is poison yet");
        poison.add("c-1".parse().unwrap());
        assert!(trap.lets_pass(Way::ToClient, vector));
        assert!(trap.lets_pass(Way::ToServer, b"HPUB embed.store.m.c-12 _INBOX.x 12 1734\r\n"));
        assert!(trap.lets_pass(Way::ToServer, b"HPUB embed.store.m.c-1 _INBOX.x 12 17"));
        assert!(trap.lets_pass(Way::ToServer, b"HPUB embed.store.m.c-1 _INBOX.x 12 300\r\n"));
        assert!(!other.lets_pass(Way::ToServer, vector));
        assert!(!poison.has_sprung(0) && poison.has_sprung(1));
        assert!(!other.lets_pass(Way::ToServer, b"PING\r\n"), "the dead say no more");
        poison.reset(1);
        assert!(other.lets_pass(Way::ToServer, b"PING\r\n"));
        poison.add("c-2".parse().unwrap());
        assert!(!trap.lets_pass(Way::ToServer, vector), "it kills all the same");
        assert_eq!(poison.last(), Some(("c-2".to_owned(), 1)));
    }
}
