//! Who has calls in a variant, how much of each, and who has been served before.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;

use super::size::Size;

/// Senders that are remembered to have been served, twice over.
const REMEMBERED: usize = 4096;

/// Who sent a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    key: u64,
    /// Whether somebody who is trusted said so.
    named: bool,
}

impl Sender {
    /// Somebody who is trusted says who it is.
    #[must_use]
    pub const fn named(key: u64) -> Self {
        Self { key, named: true }
    }

    /// It is told by what it chose itself.
    #[must_use]
    pub const fn unnamed(key: u64) -> Self {
        Self { key, named: false }
    }
}

/// What somebody has in the worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) calls: usize,
    /// Of the room, in tokens.
    pub(super) room: usize,
    pub(super) bytes: usize,
    /// To the engines, in tokens.
    pub(super) work: usize,
}

impl Held {
    fn add(&mut self, size: &Size) {
        self.calls += 1;
        self.room += size.room();
        self.bytes += size.bytes;
        self.work += size.work();
    }

    fn subtract(&mut self, size: &Size) {
        self.calls -= 1;
        self.room -= size.room();
        self.bytes -= size.bytes;
        self.work -= size.work();
    }

    fn subtract_all(&mut self, other: &Self) {
        self.calls -= other.calls;
        self.room -= other.room;
        self.bytes -= other.bytes;
        self.work -= other.work;
    }
}

/// All senders of a variant's calls. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Senders(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Those that have something in the worker, and whether they are newcomers.
    held: HashMap<u64, (Held, bool)>,
    newcomers: usize,
    of_newcomers: Held,
    all: Held,
    known: Known,
}

/// Who has been served before, the latest of them.
#[derive(Debug, Default)]
struct Known {
    latest: HashSet<u64>,
    before: HashSet<u64>,
}

impl Known {
    fn contains(&self, key: u64) -> bool {
        self.latest.contains(&key) || self.before.contains(&key)
    }

    fn insert(&mut self, key: u64) {
        if self.latest.insert(key) && self.latest.len() >= REMEMBERED {
            self.before = std::mem::take(&mut self.latest);
        }
    }
}

/// A call that is in the worker, until it is dropped: then its sender has been served.
#[derive(Debug)]
pub(super) struct Entered {
    senders: Senders,
    sender: Sender,
    newcomer: bool,
    size: Size,
}

impl Entered {
    /// As the engine is told of it.
    pub(super) const fn sender(&self) -> embed_engine::pipeline::Sender {
        embed_engine::pipeline::Sender { key: self.sender.key, newcomer: self.newcomer }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let Self { senders, sender, size, .. } = self;
        let mut state = senders.0.lock();
        let State { held, newcomers, of_newcomers, all, known } = &mut *state;
        all.subtract(size);
        if let Some((own, newcomer)) = held.get_mut(&sender.key) {
            // Served for the first time. Whoever always has something here would stay a newcomer otherwise, among ever new ones.
            if std::mem::take(newcomer) {
                *newcomers -= 1;
                of_newcomers.subtract_all(own);
            }
            own.subtract(size);
            if own.calls == 0 {
                held.remove(&sender.key);
            }
        }
        if !sender.named {
            known.insert(sender.key);
        }
    }
}

impl Senders {
    /// A call enters.
    pub(super) fn enter(&self, sender: Sender, size: Size) -> Entered {
        let mut state = self.0.lock();
        let newcomer = !sender.named && !state.known.contains(sender.key);
        // While a sender has something here, it stays what it was, until the first of that is served.
        let State { held, newcomers, all, .. } = &mut *state;
        let (held, newcomer) = held.entry(sender.key).or_insert_with(|| {
            *newcomers += usize::from(newcomer);
            (Held::default(), newcomer)
        });
        held.add(&size);
        all.add(&size);
        let newcomer = *newcomer;
        if newcomer {
            state.of_newcomers.add(&size);
        }
        drop(state);
        Entered { senders: self.clone(), sender, newcomer, size }
    }

    /// What this sender has in the worker, and what all have. All newcomers have what they have together: names are easily made up.
    pub(super) fn held(&self, sender: Sender) -> (Held, Held) {
        let state = self.0.lock();
        let own = match state.held.get(&sender.key) {
            Some((held, false)) => *held,
            None if sender.named || state.known.contains(sender.key) => Held::default(),
            _ => state.of_newcomers,
        };
        (own, state.all)
    }

    /// The work that is done before a call of this sender with so much work begins its last run, at most: while it has something to do,
    /// everybody else gets no more of the engines than it does.
    pub(super) fn before(&self, sender: Sender, work: usize) -> usize {
        let state = self.0.lock();
        let held = state.held.get(&sender.key);
        let own = held.map_or(0, |(held, _)| held.work);
        let newcomer =
            held.map_or_else(|| !sender.named && !state.known.contains(sender.key), |(_, newcomer)| *newcomer);
        let shares = state.held.len() - state.newcomers + usize::from(state.newcomers > 0);
        let until_done = if newcomer {
            // All newcomers have one share, and each of them is as slow as they are many.
            let newcomers = state.newcomers + usize::from(held.is_none());
            let known = state.held.len() - state.newcomers;
            (known + 1).saturating_mul(newcomers).saturating_mul(own + work) - (own + work)
        } else {
            (shares - usize::from(held.is_some())).saturating_mul(own + work)
        };
        own + (state.all.work - own).min(until_done)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(texts: usize, tokens: usize) -> Size {
        Size { texts, tokens, bytes: 4 * tokens }
    }

    fn known(senders: &Senders, key: u64) -> Sender {
        let sender = Sender::unnamed(key);
        drop(senders.enter(sender, size(1, 1)));
        sender
    }

    #[test]
    fn a_small_call_has_little_before_it_whatever_another_sender_has() {
        let senders = Senders::default();
        let (honest, heavy) = (known(&senders, 1), known(&senders, 2));
        let _calls: Vec<_> = (0..10).map(|_| senders.enter(heavy, size(256, 60_000))).collect();
        let work = size(1, 16).work();
        assert_eq!(senders.before(honest, work), work, "as much as it asks for itself");
        assert!(senders.before(heavy, work) >= 600_000, "behind its own");
        // Somebody who was never here is not behind those either.
        assert_eq!(senders.before(Sender::unnamed(3), work), work);
    }

    #[test]
    fn ever_new_names_have_one_share_and_those_who_were_served_have_their_own() {
        let senders = Senders::default();
        let honest = known(&senders, 1);
        let work = size(1, 16).work();
        let calls: Vec<_> = (100..1100).map(|key| senders.enter(Sender::unnamed(key), size(1, 16))).collect();
        assert!(calls.iter().all(|call| call.sender().newcomer));
        assert_eq!(senders.before(honest, work), work);
        assert_eq!(senders.before(Sender::named(5), work), work);
        assert_eq!(senders.before(Sender::unnamed(5), work), 1000 * work, "after all of them");
        drop(calls);
        assert!(!senders.enter(Sender::unnamed(100), size(1, 16)).sender().newcomer);
        assert_eq!(senders.held(honest), (Held::default(), Held::default()));
    }

    #[test]
    fn who_was_served_is_known_though_it_always_has_something_here() {
        let senders = Senders::default();
        let work = size(1, 16).work();
        let flood: Vec<_> = (100..200).map(|key| senders.enter(Sender::unnamed(key), size(1, 16))).collect();
        let honest = Sender::unnamed(1);
        let (first, second) = (senders.enter(honest, size(1, 16)), senders.enter(honest, size(1, 16)));
        assert!(second.sender().newcomer && senders.before(honest, work) > 100 * work);
        drop(first);
        let third = senders.enter(honest, size(1, 16));
        assert!(!third.sender().newcomer);
        assert_eq!(senders.before(honest, work), 2 * work + 3 * work, "its own, and as much of the others'");
        drop((flood, second, third));
        let state = senders.0.lock();
        assert_eq!((state.newcomers, state.of_newcomers, state.all), (0, Held::default(), Held::default()));
    }

    #[test]
    fn what_is_remembered_of_names_is_bounded() {
        let senders = Senders::default();
        (0..10 * REMEMBERED as u64).for_each(|key| drop(senders.enter(Sender::unnamed(key), size(1, 1))));
        let known = &senders.0.lock().known;
        assert!(known.latest.len() <= REMEMBERED && known.before.len() <= REMEMBERED);
        assert!(known.contains(10 * REMEMBERED as u64 - 1) && !known.contains(0));
    }

    proptest! {
        #[test]
        fn nobody_waits_for_more_than_there_is_and_nothing_is_left(
            calls in prop::collection::vec((0..6u64, any::<bool>(), 1..50usize, 1..500usize), 0..60), ask in 1..5000usize,
        ) {
            let senders = Senders::default();
            known(&senders, 0);
            let mut entered = Vec::new();
            for (key, named, texts, tokens) in calls {
                let sender = if named { Sender::named(100 + key) } else { Sender::unnamed(key) };
                entered.push(senders.enter(sender, size(texts, tokens)));
                let before = senders.before(sender, ask);
                let state = senders.0.lock();
                prop_assert!(before >= state.held[&sender.key].0.work && before <= state.all.work);
            }
            drop(entered);
            let state = senders.0.lock();
            prop_assert!(state.held.is_empty());
            prop_assert_eq!((state.newcomers, state.of_newcomers, state.all), (0, Held::default(), Held::default()));
        }
    }
}
