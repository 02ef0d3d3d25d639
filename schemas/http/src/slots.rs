//! Places for connections: a bounded number, and who has to give up one when there is none.

use std::{
    cmp::Reverse,
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    task::{AbortHandle, JoinHandle},
    time::Instant,
};

/// How long a client may take to say what it wants before its connection is closed in preference to one whose request is being answered.
const GRACE: Duration = Duration::from_millis(250);

/// All places.
#[derive(Debug)]
pub(crate) struct Slots {
    /// A permit for each place. It is kept until a connection is closed indeed, which is later than when it was told to.
    free: Arc<Semaphore>,
    count: u32,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    by: HashMap<u64, Holder>,
    last: u64,
}

/// Who has a place.
#[derive(Debug)]
struct Holder {
    /// Its network: see [`network_of`].
    peer: IpAddr,
    /// When it began to do what it does.
    since: Instant,
    /// Whether a request is being answered; otherwise the client has to do something.
    answering: bool,
    task: Option<AbortHandle>,
}

/// A place, given back when the last of its clones is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Slot(Arc<Place>);

#[derive(Debug)]
struct Place {
    id: u64,
    taken: Arc<Mutex<Taken>>,
    changed: Notify,
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    /// At least one.
    pub(crate) fn new(count: usize) -> Self {
        let count = u32::try_from(count.max(1)).unwrap_or(u32::MAX);
        Self { free: Arc::new(Semaphore::new(count as usize)), count, taken: Arc::default() }
    }

    /// A place, if need be that of another.
    pub(crate) async fn take(&self, peer: IpAddr) -> Slot {
        let permit = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                self.free_one();
                Arc::clone(&self.free).acquire_owned().await.expect("it is never closed")
            }
        };
        let mut taken = lock(&self.taken);
        taken.last += 1;
        let id = taken.last;
        let peer = network_of(peer);
        taken.by.insert(id, Holder { peer, since: Instant::now(), answering: false, task: None });
        drop(taken);
        Slot(Arc::new(Place { id, taken: Arc::clone(&self.taken), changed: Notify::new(), _permit: permit }))
    }

    /// Waits until no connection is left.
    pub(crate) async fn all_free(&self) {
        // It is never closed.
        let _ = self.free.acquire_many(self.count).await;
    }

    /// Closes a connection, if there is one.
    pub(crate) fn free_one(&self) {
        let mut taken = lock(&self.taken);
        if let Some(id) = taken.first_to_go(Instant::now())
            && let Some(Holder { task: Some(task), .. }) = taken.by.remove(&id)
        {
            task.abort();
        }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        for holder in lock(&self.taken).by.values() {
            holder.task.iter().for_each(AbortHandle::abort);
        }
    }
}

impl Taken {
    /// Of the address that has the most places, whoever keeps waiting for its client, and of those whoever does what it does for longest.
    fn first_to_go(&self, now: Instant) -> Option<u64> {
        let mut places: HashMap<IpAddr, usize> = HashMap::new();
        for holder in self.by.values() {
            *places.entry(holder.peer).or_default() += 1;
        }
        let rank = |(id, holder): &(&u64, &Holder)| {
            let waits = !holder.answering && now.saturating_duration_since(holder.since) >= GRACE;
            (Reverse(places[&holder.peer]), Reverse(waits), holder.since, **id)
        };
        self.by.iter().min_by_key(rank).map(|(id, _)| *id)
    }
}

impl Slot {
    /// Says which task to end when the place is needed.
    pub(crate) fn is_held_by(&self, task: &JoinHandle<()>) {
        match lock(&self.0.taken).by.get_mut(&self.0.id) {
            Some(holder) => holder.task = Some(task.abort_handle()),
            // It was needed already.
            None => task.abort(),
        }
    }

    /// A request's head is there.
    pub(crate) fn answers(&self) {
        self.set(true);
    }

    /// From now on, it waits for its client.
    pub(crate) fn waits(&self) {
        self.set(false);
    }

    fn set(&self, answering: bool) {
        if let Some(holder) = lock(&self.0.taken).by.get_mut(&self.0.id) {
            (holder.since, holder.answering) = (Instant::now(), answering);
        }
        self.0.changed.notify_one();
    }

    /// Since when it does what it does, and whether that is to answer.
    pub(crate) fn state(&self) -> (Instant, bool) {
        let taken = lock(&self.0.taken);
        // Whoever has lost its place is about to be ended.
        taken.by.get(&self.0.id).map_or_else(|| (Instant::now(), true), |holder| (holder.since, holder.answering))
    }

    /// Waits until that is something else.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.taken).by.remove(&self.id);
    }
}

/// Whose an address is: of IPv6, everybody has at least the 2^64 of a network, and could come as somebody else each time.
fn network_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    // Nothing is done behind the lock that could leave half of something.
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who goes first of these: an address, how long it does what it does, and whether that is to answer.
    fn first(holders: &[(u8, u64, bool)]) -> Option<u64> {
        let start = Instant::now();
        let now = start + Duration::from_secs(3600);
        let mut taken = Taken::default();
        for (id, (address, millis, answering)) in (0..).zip(holders) {
            let (peer, since) = (IpAddr::from([10, 0, 0, *address]), now - Duration::from_millis(*millis));
            taken.by.insert(id, Holder { peer, since, answering: *answering, task: None });
        }
        taken.first_to_go(now)
    }

    #[tokio::test]
    async fn addresses_of_one_network_of_ipv6_are_one() {
        let slots = Slots::new(3);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut held = Vec::new();
        // The other has come first, and waits for longest.
        for peer in ["2001:db8:1::1", "2001:db8:2::1", "2001:db8:2::ffff:1"] {
            let slot = slots.take(address(peer)).await;
            slot.is_held_by(&tokio::spawn(std::future::pending()));
            held.push((slot.0.id, slot));
        }
        let first = lock(&slots.taken).first_to_go(Instant::now());
        assert_eq!(first, Some(held[1].0), "the oldest of those that two addresses of one network have");
        assert_eq!(network_of(address("::ffff:10.0.0.1")), address("10.0.0.1"));
    }

    #[test]
    fn whoever_keeps_others_waiting_goes_first() {
        assert_eq!(first(&[]), None);
        assert_eq!(first(&[(1, 5, false), (1, 9, false)]), Some(1), "the oldest");
        assert_eq!(first(&[(1, 900, true), (1, 800, false)]), Some(1), "a request that is answered stays");
        assert_eq!(
            first(&[(1, 900, true), (1, 5, false)]),
            Some(0),
            "a client that has only come may say what it wants"
        );
        assert_eq!(first(&[(1, 900, false), (2, 5, true), (2, 4, true)]), Some(1), "of the address that has the most");
    }
}
