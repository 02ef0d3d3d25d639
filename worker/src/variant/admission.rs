//! What may come into the worker: texts and bytes that it has room for, and calls that it can answer in time.
//!
//! Room and time are counted in tokens, as far as can be told before tokenizing ([`Size`]). Calls are taken in by sender: what one has here
//! already is before its own calls, and of what others have, no more than its share leaves them (see [`Senders`]).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytesize::ByteSize;
use embed_engine::{batch::Form, runner::RunStats};
use embed_schemas::{ErrorCode, Lane, MAX_TEXTS, WireError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    senders::{Entered, Sender, Senders},
    service_rate::ServiceRate,
    size::{LEAST_ROOM, Size},
};
use crate::config::LimitsConfig;

/// A caller that is turned away is not told to come back earlier than this.
const LEAST_RETRY: Duration = Duration::from_millis(10);
/// Share of a call's deadline that may go into waiting and running, as far as can be told when it comes: the rest is for what cannot. At
/// 0.75, one answer in forty was late under three times the load that a busy machine can take; at this, hardly any.
const OF_DEADLINE: f64 = 0.6;
/// Nothing waits longer than this for others, whatever its deadline says: who has more time has a job. With deadlines of years, calls would
/// wait for as long as there is room.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Bytes are counted in these, rounded up.
const BLOCK: usize = 1024;
/// So many requests are in a room at a time, if they come, however long their texts are.
const LEAST_AT_A_TIME: usize = 4;

/// Room for the tokens and bytes of one lane.
#[derive(Debug)]
struct Room {
    tokens: Arc<Semaphore>,
    token_capacity: usize,
    blocks: Arc<Semaphore>,
    block_capacity: usize,
    /// What is in the worker, in texts and blocks. What is only reserved is not.
    used: [AtomicUsize; 2],
    /// For jobs that are taken in beyond the room for tokens.
    ahead: Arc<Semaphore>,
    ahead_capacity: usize,
}

/// Room for what is asked for and has not come yet, until it is dropped.
#[derive(Debug)]
pub struct Reservation {
    room: Arc<Room>,
    tokens: OwnedSemaphorePermit,
    blocks: OwnedSemaphorePermit,
    /// In place of tokens, for one job.
    ahead: Option<OwnedSemaphorePermit>,
}

/// The share of something that is in the worker, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    room: Arc<Room>,
    texts: usize,
    _tokens: OwnedSemaphorePermit,
    blocks: OwnedSemaphorePermit,
    _ahead: Option<OwnedSemaphorePermit>,
    call: Option<Entered>,
}

/// What a variant admits.
#[derive(Debug)]
pub struct Admission {
    lanes: [Arc<Room>; 3],
    rpc_max_wait: Duration,
    call_tokens: usize,
    sender_header: Option<Arc<str>>,
    senders: Senders,
    rate: ServiceRate,
}

fn blocks(bytes: usize) -> usize {
    bytes.div_ceil(BLOCK)
}

fn permits(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

const NEVER_CLOSED: &str = "the semaphores are never closed";

impl Room {
    fn new(texts: usize, bytes: usize, ahead: usize) -> Self {
        let most = Semaphore::MAX_PERMITS.min(u32::MAX as usize);
        let token_capacity = texts.saturating_mul(LEAST_ROOM).min(most);
        let block_capacity = blocks(bytes).clamp(1, most);
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            tokens: semaphore(token_capacity),
            token_capacity,
            blocks: semaphore(block_capacity),
            block_capacity,
            used: Default::default(),
            ahead: semaphore(ahead),
            ahead_capacity: ahead,
        }
    }

    /// What something takes of the room, in tokens: by its texts at least, and by their tokens no more than a share, so that several of the
    /// largest are here at a time, and the engines have something to do while the next one comes.
    fn cost(&self, size: &Size) -> usize {
        size.room().min((self.token_capacity / LEAST_AT_A_TIME).max(size.texts * LEAST_ROOM))
    }

    /// What so much takes; more than everything is everything.
    fn amounts(&self, tokens: usize, bytes: usize) -> (u32, u32) {
        (permits(tokens.min(self.token_capacity)), permits(blocks(bytes).min(self.block_capacity)))
    }

    fn try_acquire(self: &Arc<Self>, size: &Size) -> Option<Permit> {
        let (tokens, blocks) = self.amounts(self.cost(size), size.bytes);
        let tokens = Arc::clone(&self.tokens).try_acquire_many_owned(tokens).ok()?;
        let blocks = Arc::clone(&self.blocks).try_acquire_many_owned(blocks).ok()?;
        Some(Permit::new(self, size.texts, tokens, blocks, None))
    }

    async fn reserve(self: &Arc<Self>, tokens: usize, bytes: usize) -> Reservation {
        let (tokens, blocks) = self.amounts(tokens, bytes);
        let tokens = Arc::clone(&self.tokens).acquire_many_owned(tokens).await.expect(NEVER_CLOSED);
        let blocks = Arc::clone(&self.blocks).acquire_many_owned(blocks).await.expect(NEVER_CLOSED);
        Reservation { room: Arc::clone(self), tokens, blocks, ahead: None }
    }

    /// Room for one job of at most so many bytes, whatever its tokens.
    async fn reserve_ahead(self: &Arc<Self>, bytes: usize) -> Reservation {
        let ahead = Arc::clone(&self.ahead).acquire_owned().await.expect(NEVER_CLOSED);
        Reservation { ahead: Some(ahead), ..self.reserve(0, bytes).await }
    }
}

impl Reservation {
    /// Takes so much out of it, for something that has come. `None`, and nothing is different, if it has less.
    pub fn split(&mut self, size: &Size) -> Option<Permit> {
        if self.ahead.is_some()
            && let Some(permit) = self.room.try_acquire(size)
        {
            // There is room by now.
            return Some(permit);
        }
        let (room, blocks) = (self.room.cost(size), blocks(size.bytes));
        if self.blocks.num_permits() < blocks {
            return None;
        }
        let (tokens, ahead) = if self.tokens.num_permits() >= room {
            (self.tokens.split(room)?, None)
        } else {
            (self.tokens.split(0)?, Some(self.ahead.take()?))
        };
        let blocks = self.blocks.split(blocks)?;
        Some(Permit::new(&self.room, size.texts, tokens, blocks, ahead))
    }

    /// Tokens that it has room for.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens.num_permits()
    }

    /// Bytes that it has room for.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.blocks.num_permits() * BLOCK
    }
}

impl Permit {
    fn new(
        room: &Arc<Room>,
        texts: usize,
        tokens: OwnedSemaphorePermit,
        blocks: OwnedSemaphorePermit,
        ahead: Option<OwnedSemaphorePermit>,
    ) -> Self {
        room.used[0].fetch_add(texts, Ordering::Relaxed);
        room.used[1].fetch_add(blocks.num_permits(), Ordering::Relaxed);
        Self { room: Arc::clone(room), texts, _tokens: tokens, blocks, _ahead: ahead, call: None }
    }

    /// Who sent it, if it is a call.
    #[must_use]
    pub fn sender(&self) -> Option<embed_engine::pipeline::Sender> {
        self.call.as_ref().map(Entered::sender)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.room.used[0].fetch_sub(self.texts, Ordering::Relaxed);
        self.room.used[1].fetch_sub(self.blocks.num_permits(), Ordering::Relaxed);
    }
}

impl Admission {
    /// Room as the limits say.
    #[must_use]
    pub fn new(limits: &LimitsConfig) -> Self {
        let rooms = [
            (limits.rpc_texts, limits.rpc_bytes, 0),
            (limits.job_texts, limits.job_bytes, limits.job_lookahead.min(Semaphore::MAX_PERMITS)),
            (limits.bulk_texts, limits.bulk_bytes, 0),
        ];
        let room = |(texts, bytes, ahead): (usize, ByteSize, usize)| {
            Arc::new(Room::new(texts, usize::try_from(bytes.as_u64()).unwrap_or(usize::MAX), ahead))
        };
        Self {
            lanes: rooms.map(room),
            rpc_max_wait: limits.rpc_max_wait,
            call_tokens: limits.call_tokens,
            sender_header: limits.sender_header.as_deref().map(Arc::from),
            senders: Senders::default(),
            rate: ServiceRate::new(1),
        }
    }

    /// From now on, so many engines serve the variant.
    pub fn resize(&self, engines: usize) {
        self.rate.resize(engines);
    }

    /// Notes what a run took: what calls have to wait for is estimated from it.
    pub fn ran(&self, stats: &RunStats) {
        // A run on all cores is one that nothing waited behind: it does not tell how long what waits takes, and is better than nothing.
        if stats.lane == Lane::Rpc && (stats.form != Form::Spread || !self.rate.is_known()) {
            let size = Size { texts: stats.texts, tokens: stats.tokens, bytes: 0 };
            self.rate.record(size.work(), stats.busy);
        }
    }

    /// The header that says who sent a call, if one is trusted.
    #[must_use]
    pub fn sender_header(&self) -> Option<&str> {
        self.sender_header.as_deref()
    }

    /// Waits for room for at least so many tokens and bytes in a stored lane, and takes all that `most` allows of what is free then.
    ///
    /// While there is none for the tokens, room for one job of at most `largest` bytes whose tokens do not matter, if the lane has such: so
    /// that a small one is not left in the stream behind large ones.
    pub async fn reserve(
        &self,
        lane: Lane,
        least: (usize, usize),
        most: (usize, usize),
        largest: usize,
    ) -> Reservation {
        let room = &self.lanes[lane.index()];
        let mut reserved = tokio::select! {
            biased;
            reserved = room.reserve(least.0, least.1) => reserved,
            ahead = room.reserve_ahead(largest) => return ahead,
        };
        let more = |free: usize, has: usize, most: usize| free.min(most.saturating_sub(has));
        let tokens = more(room.tokens.available_permits(), reserved.tokens.num_permits(), most.0);
        if let Ok(extra) = Arc::clone(&room.tokens).try_acquire_many_owned(permits(tokens)) {
            reserved.tokens.merge(extra);
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
    pub fn try_admit(&self, lane: Lane, size: &Size) -> Option<Permit> {
        self.lanes[lane.index()].try_acquire(size)
    }

    /// The same, for one whose tokens do not matter, if the lane has such.
    #[must_use]
    pub fn try_admit_ahead(&self, lane: Lane, size: &Size) -> Option<Permit> {
        let room = &self.lanes[lane.index()];
        let (tokens, blocks) = room.amounts(0, size.bytes);
        let ahead = Arc::clone(&room.ahead).try_acquire_owned().ok()?;
        let tokens = Arc::clone(&room.tokens).try_acquire_many_owned(tokens).ok()?;
        let blocks = Arc::clone(&room.blocks).try_acquire_many_owned(blocks).ok()?;
        Some(Permit::new(room, size.texts, tokens, blocks, Some(ahead)))
    }

    /// What something takes of a lane's room, in tokens.
    #[must_use]
    pub fn cost(&self, lane: Lane, size: &Size) -> usize {
        self.lanes[lane.index()].cost(size)
    }

    /// The most that anything takes of a lane's room, in tokens.
    #[must_use]
    pub fn largest_cost(&self, lane: Lane) -> usize {
        (self.lanes[lane.index()].token_capacity / LEAST_AT_A_TIME).max(MAX_TEXTS * LEAST_ROOM)
    }

    /// What all of a lane's room is: tokens and bytes.
    #[must_use]
    pub fn capacity(&self, lane: Lane) -> (usize, usize) {
        let room = &self.lanes[lane.index()];
        (room.token_capacity, room.block_capacity * BLOCK)
    }

    /// Whether a call that has not been read yet is to be refused: there is no room for it, or its sender has as much as all others could
    /// still have. Costs next to nothing, or refusals would take the time that answers need.
    ///
    /// # Errors
    /// [`ErrorCode::Overloaded`], with a hint when to try again.
    pub fn has_room_for(&self, sender: Sender) -> Result<(), WireError> {
        let room = &self.lanes[Lane::Rpc.index()];
        let (own, all) = self.senders.held(sender);
        let (tokens, bytes) = (room.tokens.available_permits(), room.blocks.available_permits() * BLOCK);
        match own {
            _ if tokens == 0 || bytes == 0 => Err(overloaded(self.rate.time_for(all.work))),
            own if own.room > tokens || own.bytes > bytes => Err(overloaded(self.rate.time_for(own.work))),
            _ => Ok(()),
        }
    }

    /// Checks a call against what one may cost at most.
    ///
    /// # Errors
    /// [`ErrorCode::CallTooLarge`].
    pub fn check_call(&self, size: &Size) -> Result<(), WireError> {
        if size.tokens <= self.call_tokens {
            return Ok(());
        }
        Err(WireError::new(
            ErrorCode::CallTooLarge,
            format!(
                "texts: about {} tokens are more than this worker takes in one call (limits.call_tokens: {}); \
                 send fewer texts at once, or publish them as a job",
                size.tokens, self.call_tokens
            ),
        ))
    }

    /// Admits an online call, if it can be answered in time: within `deadline` from now on, and after a minute of waiting at most, or after
    /// `limits.rpc_max_wait` if the caller does not say. A worker that has no other calls admits every one.
    ///
    /// # Errors
    /// [`ErrorCode::Overloaded`], with a hint when it is worth trying again.
    pub fn admit_call(&self, sender: Sender, size: Size, deadline: Option<Duration>) -> Result<Permit, WireError> {
        if self.in_flight(Lane::Rpc) > 0 {
            let wait = self.rate.time_for(self.senders.before(sender, size.work()));
            let own = self.rate.time_for(size.work());
            let (needed, allowed) = match deadline {
                Some(deadline) => (wait + own, deadline.mul_f64(OF_DEADLINE).min(LONGEST_WAIT + own)),
                None => (wait, self.rpc_max_wait),
            };
            if needed > allowed {
                return Err(overloaded(needed - allowed));
            }
        }
        let permit = self.lanes[Lane::Rpc.index()].try_acquire(&size);
        let mut permit = permit.ok_or_else(|| overloaded(self.rate.time_for(size.work())))?;
        permit.call = Some(self.senders.enter(sender, size));
        Ok(permit)
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
        // The semaphores are never closed; permits that are taken and dropped change nothing.
        let _tokens = room.tokens.acquire_many(permits(room.token_capacity)).await;
        let _ahead = room.ahead.acquire_many(permits(room.ahead_capacity)).await;
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
mod tests;
