//! A job that kills whoever computes it, from outside: no real model dies of a text.
//!
//! The relay in front of each worker waits for the result of the job with the poison's id on its way to the server. That is the
//! moment at which the job has been computed, whenever that is: alone or in a batch, at once or after others. The result does not
//! pass, the connection is cut, and the worker gets SIGKILL; it could not have done anything in between. So the job is never
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

/// The poison of a run: one job at a time.
#[derive(Debug, Default, Clone)]
pub(super) struct Poison {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    job: Mutex<Option<JobId>>,
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
    pub(super) fn set(&self, id: JobId) {
        self.shared.deaths.store(0, Ordering::SeqCst);
        *self.shared.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
    }

    /// It kills nobody any more. How many it has killed.
    pub(super) fn clear(&self) -> usize {
        *self.shared.job.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.shared.deaths.load(Ordering::SeqCst)
    }

    /// The id of the job that kills.
    pub(super) fn id(&self) -> Option<String> {
        self.shared.job.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(JobId::to_string)
    }

    /// Whether the n-th worker is to die; asked once for each death.
    pub(super) fn has_sprung(&self, n: usize) -> bool {
        let sprung = self.shared.sprung.lock().unwrap_or_else(PoisonError::into_inner);
        sprung[n].swap(false, Ordering::SeqCst)
    }
}

impl Trap {
    pub(super) fn lets_pass(&self, way: Way, bytes: &[u8]) -> bool {
        if way == Way::ToClient {
            return true;
        }
        let id = self.shared.job.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(id) = id else { return true };
        if !is_vector(bytes, &format!("{} ", subjects::result(&self.model, &id))) {
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
        let vector = b"HPUB embed.result.m.c-1 _INBOX.x 12 1734\r\n";
        assert!(trap.lets_pass(Way::ToServer, vector), "nothing is poison yet");
        poison.set("c-1".parse().unwrap());
        assert!(trap.lets_pass(Way::ToClient, vector));
        assert!(trap.lets_pass(Way::ToServer, b"HPUB embed.result.m.c-12 _INBOX.x 12 1734\r\n"));
        assert!(trap.lets_pass(Way::ToServer, b"HPUB embed.result.m.c-1 _INBOX.x 12 17"));
        assert!(trap.lets_pass(Way::ToServer, b"HPUB embed.result.m.c-1 _INBOX.x 12 300\r\n"));
        assert!(!other.lets_pass(Way::ToServer, vector));
        assert!(!poison.has_sprung(0) && poison.has_sprung(1) && !poison.has_sprung(1));
        assert_eq!(poison.clear(), 1);
        assert!(other.lets_pass(Way::ToServer, vector), "it is over");
    }
}
