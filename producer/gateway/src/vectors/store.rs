//! Vectors in an object store: read within a bound of time, and written behind the answers, within a bound of memory.
//!
//! An object is written once, and read by whoever has its name. One that is damaged counts as none, and is written again when it has been computed.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, path::Path};
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    digest::Digest,
    object::{self, Kept},
};
use crate::metrics;

/// Objects that are read at the same time, of all calls.
const READS: usize = 64;
/// Objects that are read at the same time for those who show no key, beside those.
const GUESTS: usize = 16;
/// Objects that are written at the same time.
const WRITES: usize = 16;
/// How long one write may take, with what the store's client tries again in it. After that the vector is not kept.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// Reads that fail one after another, or calls that wait in vain, before nobody waits for the store any more.
const FAILURES: u32 = 8;
/// For so long.
const PAUSE: Duration = Duration::from_secs(5);
/// Objects that are remembered as damaged.
const DAMAGED: usize = 1024;
/// What room for writes is counted in.
const UNIT: usize = 1 << 10;

/// The vectors of a store.
#[derive(Debug)]
pub(super) struct VectorObjects {
    store: Arc<dyn ObjectStore>,
    reads: Semaphore,
    guests: Semaphore,
    trouble: Mutex<Trouble>,
    queue: mpsc::UnboundedSender<Write>,
    /// For what waits to be written.
    room: Arc<Semaphore>,
    units: u32,
    /// Objects that are to be replaced, since they are damaged, each once. Those that are too many are found damaged again.
    damaged: Mutex<VecDeque<(String, Digest)>>,
    _writer: AbortOnDropHandle<()>,
}

/// How reading goes.
#[derive(Debug, Default)]
struct Trouble {
    /// Failures since the last that was none.
    failures: u32,
    until: Option<Instant>,
}

/// An object that is to be written.
struct Write {
    path: Path,
    object: Bytes,
    mode: PutMode,
    _room: OwnedSemaphorePermit,
}

/// Why a vector could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the store of vectors: {0}")]
    Store(#[from] StoreError),
    #[error("the store of vectors does not answer in time")]
    Late,
    #[error("as many are read already for those who show no key as may be")]
    Busy,
}

impl VectorObjects {
    /// In a runtime: it writes behind the caller's back, until it is dropped. `waiting`: bytes that may wait for it.
    pub(super) fn new(store: Arc<dyn ObjectStore>, waiting: usize) -> Self {
        let (queue, writes) = mpsc::unbounded_channel();
        let units = u32::try_from(waiting.div_ceil(UNIT)).unwrap_or(u32::MAX).min(1 << 28);
        let writer = AbortOnDropHandle::new(tokio::spawn(write_all(Arc::clone(&store), writes)));
        Self {
            store,
            reads: Semaphore::new(READS),
            guests: Semaphore::new(GUESTS),
            trouble: Mutex::default(),
            queue,
            room: Arc::new(Semaphore::new(units as usize)),
            units,
            damaged: Mutex::default(),
            _writer: writer,
        }
    }

    /// One vector, if it is there. `is_guest`: for somebody who shows no key, and is not to be in the way of those who do.
    pub(super) async fn read(
        &self,
        space: &str,
        digest: Digest,
        within: Duration,
        is_guest: bool,
    ) -> Result<Option<Kept>, ReadError> {
        let read = async {
            if !is_guest {
                return self.get(space, digest).await;
            }
            let _place = self.guests.try_acquire().map_err(|_| ReadError::Busy)?;
            self.fetch(space, digest).await
        };
        let read = timeout(within, read).await.unwrap_or(Err(ReadError::Late));
        metrics::vectors_read(outcome(&read), 1);
        read
    }

    /// Those of many that are there, as far as they come in time.
    pub(super) async fn find(&self, space: &str, digests: &[Digest], within: Duration) -> Vec<Option<Kept>> {
        let mut found = vec![None; digests.len()];
        if self.is_paused() {
            metrics::vectors_read("skipped", digests.len());
            return found;
        }
        let deadline = Instant::now() + within;
        let read = |(n, digest): (usize, &Digest)| {
            let digest = *digest;
            async move { (n, self.get(space, digest).await) }
        };
        let mut reads = stream::iter(digests.iter().enumerate()).map(read).buffer_unordered(READS);
        let mut left = digests.len();
        while left > 0 {
            let Ok(Some((n, read))) = timeout_at(deadline, reads.next()).await else { break };
            left -= 1;
            metrics::vectors_read(outcome(&read), 1);
            self.noted(read.as_ref().err());
            found[n] = read.ok().flatten();
        }
        if left > 0 {
            metrics::vectors_read("late", left);
            self.noted(Some(&ReadError::Late));
        }
        found
    }

    async fn get(&self, space: &str, digest: Digest) -> Result<Option<Kept>, ReadError> {
        let _read = self.reads.acquire().await;
        self.fetch(space, digest).await
    }

    async fn fetch(&self, space: &str, digest: Digest) -> Result<Option<Kept>, ReadError> {
        let path = path_of(space, digest);
        let bytes = match self.store.get(&path).await {
            Ok(found) => found.bytes().await?,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match object::read(&bytes, space, digest) {
            Ok(kept) => Ok(Some(kept)),
            Err(error) => {
                tracing::error!(%path, %error, "a vector is computed anew");
                metrics::vectors_read("damaged", 1);
                note(&mut self.damaged.lock(), (space.to_owned(), digest));
                Ok(None)
            }
        }
    }

    fn is_paused(&self) -> bool {
        self.trouble.lock().until.is_some_and(|until| Instant::now() < until)
    }

    fn noted(&self, error: Option<&ReadError>) {
        let mut trouble = self.trouble.lock();
        let Some(error) = error else { return trouble.failures = 0 };
        trouble.failures += 1;
        if trouble.failures >= FAILURES {
            *trouble = Trouble { failures: 0, until: Some(Instant::now() + PAUSE) };
            tracing::warn!(%error, "nobody waits for kept vectors for a while; workers are asked for all");
        }
    }

    /// Has an object written some time, unless too many wait already, or it is there.
    pub(super) fn keep(&self, space: &str, digest: Digest, object: Bytes) {
        let units = u32::try_from(object.len().div_ceil(UNIT)).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(units) else {
            return metrics::vectors_written("dropped");
        };
        let mode = {
            let mut damaged = self.damaged.lock();
            let place = damaged.iter().position(|(of, one)| of == space && *one == digest);
            match place {
                Some(place) => {
                    damaged.remove(place);
                    PutMode::Overwrite
                }
                None => PutMode::Create,
            }
        };
        // The writer lives as long as we do.
        let _ = self.queue.send(Write { path: path_of(space, digest), object, mode, _room: room });
    }

    /// Waits until all is written that waits for it.
    pub(super) async fn written(&self) {
        // It is never closed.
        let _ = self.room.acquire_many(self.units).await;
    }
}

fn outcome(read: &Result<Option<Kept>, ReadError>) -> &'static str {
    match read {
        Ok(Some(_)) => "hit",
        Ok(None) => "miss",
        Err(ReadError::Store(_)) => "failed",
        Err(ReadError::Late) => "late",
        Err(ReadError::Busy) => "skipped",
    }
}

/// Remembers an object, in the place of the one that has been remembered longest if there are too many.
fn note(damaged: &mut VecDeque<(String, Digest)>, object: (String, Digest)) {
    if damaged.contains(&object) {
        return;
    }
    if damaged.len() >= DAMAGED {
        damaged.pop_front();
    }
    damaged.push_back(object);
}

/// Folders of two digits, so that none has too much in it.
fn path_of(space: &str, digest: Digest) -> Path {
    let digest = digest.to_string();
    Path::from_iter(["vectors", space, &digest[..2], &digest])
}

async fn write_all(store: Arc<dyn ObjectStore>, mut writes: mpsc::UnboundedReceiver<Write>) {
    // Not all stores can refuse what is there already. There, the same is written over the same.
    let can_create = AtomicBool::new(true);
    let next = stream::poll_fn(|context| writes.poll_recv(context));
    next.for_each_concurrent(WRITES, |write| write_one(&*store, write, &can_create)).await;
}

async fn write_one(store: &dyn ObjectStore, write: Write, can_create: &AtomicBool) {
    let Write { path, object, mode, _room } = write;
    let put = async {
        if mode == PutMode::Create && can_create.load(Ordering::Relaxed) {
            match store.put_opts(&path, object.clone().into(), PutMode::Create.into()).await {
                Err(StoreError::NotImplemented { .. } | StoreError::NotSupported { .. }) => {
                    can_create.store(false, Ordering::Relaxed);
                }
                put => return put,
            }
        }
        store.put(&path, object.into()).await
    };
    metrics::vectors_written(match timeout(WRITE_TIME, put).await {
        Ok(Ok(_)) => "stored",
        Ok(Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. })) => "known",
        Ok(Err(error)) => {
            tracing::warn!(%path, %error, "a vector is not kept");
            "failed"
        }
        Err(_) => {
            tracing::warn!(%path, "a vector is not kept: the store does not answer in time");
            "failed"
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::digest::{Digests, Prompt};

    #[test]
    fn the_damaged_are_remembered_once_each_and_the_oldest_makes_room() {
        let digests = Digests::new(Prompt::Default, None);
        let object = |n: usize| ("s".to_owned(), digests.of(&n.to_string()));
        let mut damaged = VecDeque::new();
        for _ in 0..2 {
            (0..DAMAGED).for_each(|n| note(&mut damaged, object(n)));
        }
        assert_eq!((damaged.len(), damaged.front()), (DAMAGED, Some(&object(0))));
        note(&mut damaged, object(DAMAGED));
        assert_eq!((damaged.len(), damaged.front()), (DAMAGED, Some(&object(1))));
    }

    #[tokio::test]
    async fn who_shows_no_key_takes_no_place_of_those_who_do() {
        let objects = VectorObjects::new(Arc::new(object_store::memory::InMemory::new()), UNIT);
        let digest = Digests::new(Prompt::Default, None).of("x");
        let read = async |is_guest| objects.read("s", digest, Duration::from_secs(5), is_guest).await;
        let guests = objects.guests.try_acquire_many(GUESTS as u32).unwrap();
        assert!(matches!(read(true).await, Err(ReadError::Busy)));
        assert!(matches!(read(false).await, Ok(None)));
        drop(guests);
        let _reads = objects.reads.try_acquire_many(READS as u32).unwrap();
        assert!(matches!(read(true).await, Ok(None)));
    }
}
