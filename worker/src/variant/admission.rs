//! What may come into the worker: texts and bytes that it has room for, and calls that it can answer in time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytesize::ByteSize;
use embed_engine::runner::RunStats;
use embed_schemas::{ErrorCode, Lane, WireError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::service_rate::ServiceRate;
use crate::config::LimitsConfig;

/// A caller that is turned away is not told to come back earlier than this.
const LEAST_RETRY: Duration = Duration::from_millis(10);
/// Share of a call's deadline that may go into waiting and running, as far as can be told when it comes: the rest is for what cannot. At
/// 0.75, one answer in forty was late under three times the load that a busy machine can take; at this, hardly any.
const OF_DEADLINE: f64 = 0.6;
/// Bytes are counted in these, rounded up.
const BLOCK: usize = 1024;

/// Room for the texts and bytes of one lane.
#[derive(Debug)]
struct Room {
    texts: Arc<Semaphore>,
    text_capacity: usize,
    blocks: Arc<Semaphore>,
    block_capacity: usize,
    /// What is in the worker, in texts and blocks. What is only reserved is not.
    used: [AtomicUsize; 2],
}

/// Room for what is asked for and has not come yet, until it is dropped.
#[derive(Debug)]
pub struct Reservation {
    room: Arc<Room>,
    texts: OwnedSemaphorePermit,
    blocks: OwnedSemaphorePermit,
}

/// The share of something that is in the worker, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    room: Arc<Room>,
    texts: OwnedSemaphorePermit,
    blocks: OwnedSemaphorePermit,
}

/// What a variant admits.
#[derive(Debug)]
pub struct Admission {
    lanes: [Arc<Room>; 3],
    rpc_max_wait: Duration,
    rate: ServiceRate,
}

fn blocks(bytes: usize) -> usize {
    bytes.div_ceil(BLOCK)
}

fn permits(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl Room {
    fn new(texts: usize, bytes: usize) -> Self {
        let (text_capacity, block_capacity) = (texts.min(Semaphore::MAX_PERMITS), blocks(bytes).max(1));
        let (texts, blocks) = (Arc::new(Semaphore::new(text_capacity)), Arc::new(Semaphore::new(block_capacity)));
        Self { texts, text_capacity, blocks, block_capacity, used: Default::default() }
    }

    /// What so much takes; more than everything is everything.
    fn amounts(&self, texts: usize, bytes: usize) -> (u32, u32) {
        (permits(texts.min(self.text_capacity)), permits(blocks(bytes).min(self.block_capacity)))
    }

    fn try_acquire(self: &Arc<Self>, texts: usize, bytes: usize) -> Option<Permit> {
        let (texts, blocks) = self.amounts(texts, bytes);
        let texts = Arc::clone(&self.texts).try_acquire_many_owned(texts).ok()?;
        let blocks = Arc::clone(&self.blocks).try_acquire_many_owned(blocks).ok()?;
        Some(Permit::new(self, texts, blocks))
    }

    async fn reserve(self: &Arc<Self>, texts: usize, bytes: usize) -> Reservation {
        let (texts, blocks) = self.amounts(texts, bytes);
        let never_closed = "the semaphores are never closed";
        let texts = Arc::clone(&self.texts).acquire_many_owned(texts).await.expect(never_closed);
        let blocks = Arc::clone(&self.blocks).acquire_many_owned(blocks).await.expect(never_closed);
        Reservation { room: Arc::clone(self), texts, blocks }
    }
}

impl Reservation {
    /// Takes so much out of it, for something that has come. `None`, and nothing is different, if it has less.
    pub fn split(&mut self, texts: usize, bytes: usize) -> Option<Permit> {
        if self.texts.num_permits() < texts || self.blocks.num_permits() < blocks(bytes) {
            return None;
        }
        Some(Permit::new(&self.room, self.texts.split(texts)?, self.blocks.split(blocks(bytes))?))
    }

    /// Texts that it has room for.
    #[must_use]
    pub fn texts(&self) -> usize {
        self.texts.num_permits()
    }

    /// Bytes that it has room for.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.blocks.num_permits() * BLOCK
    }
}

impl Permit {
    fn new(room: &Arc<Room>, texts: OwnedSemaphorePermit, blocks: OwnedSemaphorePermit) -> Self {
        for (used, more) in room.used.iter().zip([&texts, &blocks]) {
            used.fetch_add(more.num_permits(), Ordering::Relaxed);
        }
        Self { room: Arc::clone(room), texts, blocks }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        for (used, less) in self.room.used.iter().zip([&self.texts, &self.blocks]) {
            used.fetch_sub(less.num_permits(), Ordering::Relaxed);
        }
    }
}

impl Admission {
    /// Room as the limits say.
    #[must_use]
    pub fn new(limits: &LimitsConfig) -> Self {
        let rooms = [
            (limits.rpc_texts, limits.rpc_bytes),
            (limits.job_texts, limits.job_bytes),
            (limits.bulk_texts, limits.bulk_bytes),
        ];
        let room = |(texts, bytes): (usize, ByteSize)| {
            Arc::new(Room::new(texts, usize::try_from(bytes.as_u64()).unwrap_or(usize::MAX)))
        };
        let lanes = rooms.map(room);
        Self { lanes, rpc_max_wait: limits.rpc_max_wait, rate: ServiceRate::new(1) }
    }

    /// From now on, so many engines serve the variant.
    pub fn resize(&self, engines: usize) {
        self.rate.resize(engines);
    }

    /// Notes what a run took: what calls have to wait for is estimated from it.
    pub fn ran(&self, stats: &RunStats) {
        if stats.lane == Lane::Rpc {
            self.rate.record(stats.texts, stats.took);
        }
    }

    /// Waits for room for at least so many texts and bytes in a stored lane, and takes all that `most` allows of what is free then.
    pub async fn reserve(&self, lane: Lane, least: (usize, usize), most: (usize, usize)) -> Reservation {
        let room = &self.lanes[lane.index()];
        let mut reserved = room.reserve(least.0, least.1).await;
        let more = |free: usize, has: usize, most: usize| free.min(most.saturating_sub(has));
        let texts = more(room.texts.available_permits(), reserved.texts.num_permits(), most.0);
        if let Ok(extra) = Arc::clone(&room.texts).try_acquire_many_owned(permits(texts)) {
            reserved.texts.merge(extra);
        }
        let most_blocks = blocks(most.1).min(room.block_capacity);
        let more_blocks = more(room.blocks.available_permits(), reserved.blocks.num_permits(), most_blocks);
        if let Ok(extra) = Arc::clone(&room.blocks).try_acquire_many_owned(permits(more_blocks)) {
            reserved.blocks.merge(extra);
        }
        reserved
    }

    /// Room for a job that came without any reserved, if there is some now.
    #[must_use]
    pub fn try_admit(&self, lane: Lane, texts: usize, bytes: usize) -> Option<Permit> {
        self.lanes[lane.index()].try_acquire(texts, bytes)
    }

    /// What all of a lane's room is: texts and bytes.
    #[must_use]
    pub fn capacity(&self, lane: Lane) -> (usize, usize) {
        let room = &self.lanes[lane.index()];
        (room.text_capacity, room.block_capacity * BLOCK)
    }

    /// Whether a call that has not been read yet is to be refused: the calls before it leave no time even for the most patient. Costs
    /// next to nothing, or refusals would take the time that answers need.
    ///
    /// # Errors
    /// [`ErrorCode::Overloaded`], with a hint when to try again.
    pub fn has_time_for_any(&self) -> Result<(), WireError> {
        let free = self.lanes[Lane::Rpc.index()].texts.available_permits();
        if free == 0 { Err(overloaded(self.wait())) } else { Ok(()) }
    }

    /// Admits an online call, if it can be answered in time: within `deadline` from now on, or `limits.rpc_max_wait` if the caller does
    /// not say. A worker that has no other calls admits every one.
    ///
    /// # Errors
    /// [`ErrorCode::Overloaded`], with a hint when it is worth trying again.
    pub fn admit_call(&self, texts: usize, bytes: usize, deadline: Option<Duration>) -> Result<Permit, WireError> {
        if self.in_flight(Lane::Rpc) > 0 {
            let wait = self.wait();
            let (needed, allowed) = match deadline {
                Some(deadline) => (wait + self.rate.time_for(texts), deadline.mul_f64(OF_DEADLINE)),
                None => (wait, self.rpc_max_wait),
            };
            if needed > allowed {
                return Err(overloaded(needed - allowed));
            }
        }
        let permit = self.lanes[Lane::Rpc.index()].try_acquire(texts, bytes);
        permit.ok_or_else(|| overloaded(self.rate.time_for(texts)))
    }

    /// What the next call has to wait for.
    fn wait(&self) -> Duration {
        self.rate.time_for(self.in_flight(Lane::Rpc))
    }

    /// Texts of this lane that are in the worker.
    #[must_use]
    pub fn in_flight(&self, lane: Lane) -> usize {
        self.lanes[lane.index()].used[0].load(Ordering::Relaxed)
    }

    /// Bytes of this lane that are in the worker, in whole KiB.
    #[must_use]
    pub fn bytes_in_flight(&self, lane: Lane) -> usize {
        self.lanes[lane.index()].used[1].load(Ordering::Relaxed) * BLOCK
    }

    /// Waits until no text of this lane is in the worker.
    pub async fn idle(&self, lane: Lane) {
        let room = &self.lanes[lane.index()];
        // The semaphore is never closed; a permit that is taken and dropped changes nothing.
        let _ = room.texts.acquire_many(permits(room.text_capacity)).await;
    }
}

/// The error of a call that came when there was too much to do.
fn overloaded(late: Duration) -> WireError {
    let late = u64::try_from(late.max(LEAST_RETRY).as_millis()).unwrap_or(u64::MAX);
    WireError {
        retry_after_ms: Some(late),
        ..WireError::new(
            ErrorCode::Overloaded,
            "this worker has more online calls than it can answer in time; try again later, or allow more time in `deadline_ms`",
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use embed_engine::batch::{Form, Reason};

    use super::*;

    fn admission() -> Admission {
        let limits = LimitsConfig { rpc_max_wait: Duration::from_millis(100), ..LimitsConfig::default() };
        let admission = Admission::new(&limits.resolved(false));
        admission.resize(2);
        admission
    }

    fn ran(admission: &Admission, texts: usize, took: Duration) {
        let stats = RunStats {
            texts,
            rows: texts,
            width: 8,
            tokens: 8 * texts,
            row_tokens: 8 * texts,
            form: Form::Padded,
            started: Instant::now(),
            took,
            lane: Lane::Rpc,
            reason: Reason::Online,
            oldest_wait: Duration::ZERO,
        };
        (0..100).for_each(|_| admission.ran(&stats));
    }

    #[test]
    fn a_call_is_admitted_by_what_other_calls_leave_of_its_deadline() {
        let admission = admission();
        // 2 ms a text on each of two engines.
        ran(&admission, 1, Duration::from_millis(2));
        let ms = |n| Some(Duration::from_millis(n));
        let alone = admission.admit_call(256, 1000, ms(1)).expect("nobody is before it");
        // 256 ms are before the next ones.
        assert!(admission.admit_call(1, 10, ms(1000)).is_ok());
        let refusal = admission.admit_call(1, 10, ms(200)).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::Overloaded);
        assert!(refusal.retry_after_ms.is_some_and(|wait| (50..200).contains(&wait)), "{refusal:?}");
        assert!(admission.admit_call(1, 10, None).is_err(), "by default, 100 ms");
        drop(alone);
        assert!(admission.admit_call(1, 10, None).is_ok());
    }

    #[tokio::test]
    async fn what_is_reserved_can_be_split_and_comes_back() {
        let admission = admission();
        let (texts, bytes) = admission.capacity(Lane::Bulk);
        let mut all = admission.reserve(Lane::Bulk, (1, 1), (texts, bytes)).await;
        assert_eq!((all.texts(), all.bytes()), (texts, bytes));
        assert!(admission.try_admit(Lane::Bulk, 1, 1).is_none());
        let job = all.split(64, 5000).unwrap();
        drop(all);
        assert_eq!((admission.in_flight(Lane::Bulk), admission.bytes_in_flight(Lane::Bulk)), (64, 5 * 1024));
        drop(job);
        assert_eq!((admission.in_flight(Lane::Bulk), admission.bytes_in_flight(Lane::Bulk)), (0, 0));
        assert!(
            admission.try_admit(Lane::Bulk, 10 * texts, 10 * bytes).is_some(),
            "more than everything is everything"
        );
    }
}
