//! Whose turn it is among those who wait in one lane. Pure.
//!
//! Fair queueing by tokens: every request has a *tag*, the moment at which it would be done if all senders who wait were served side by
//! side, each at the same pace. Time is counted in tokens for that: it advances by what is taken, divided by the senders who wait. Whoever
//! would be done first goes first, and is done without being served side by side: so a small request overtakes a large one, of two equal
//! ones the earlier is done before the later begins, and what is large is overtaken only by as much as its share allows, whatever comes.
//!
//! What one sender has waiting is one request after the other, so that many requests get no more than one. Senders who were never served
//! before (*newcomers*) have one share together, or a sender under ever new names would have as many as it has names. Who has been served
//! since has a share of its own for all that it has waiting, or whoever always has something waiting would never be anything else.

use std::collections::{BTreeSet, HashMap, VecDeque};

/// Whose a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Who sent it. Each has a share.
    pub sender: u64,
    /// The request that it is part of. A later one has a larger number.
    pub request: u64,
    /// Whether the sender has never been served before.
    pub newcomer: bool,
}

/// A token in virtual time.
const TOKEN: u64 = 1 << 10;
/// Whose tag is no farther off than this, in tokens, has its turn at about the same time as whoever is next.
const ABOUT: u64 = 64;

/// Who waits, and in which order. `K` tells texts apart.
#[derive(Debug)]
pub(super) struct Turns<K> {
    now: u64,
    senders: HashMap<u64, Sender>,
    requests: HashMap<u64, Waiting<K>>,
    /// Tags, and the requests that have them.
    order: BTreeSet<(u64, u64)>,
    /// Senders who wait and were never served before.
    newcomers: u64,
}

#[derive(Debug)]
struct Sender {
    /// The tag of its last request.
    tag: u64,
    texts: usize,
    newcomer: bool,
}

#[derive(Debug)]
struct Waiting<K> {
    sender: u64,
    tag: u64,
    texts: usize,
    tokens: u64,
    /// In order of arrival. Those that were taken out of turn are skipped when they come to the front.
    order: VecDeque<K>,
}

impl<K: Copy> Turns<K> {
    pub(super) fn new() -> Self {
        Self { now: 0, senders: HashMap::new(), requests: HashMap::new(), order: BTreeSet::new(), newcomers: 0 }
    }

    /// A text of so many tokens waits from now on.
    pub(super) fn push(&mut self, owner: Owner, key: K, tokens: usize) {
        if !owner.newcomer {
            self.is_known(owner.sender);
        }
        let Self { now, senders, requests, order, newcomers } = self;
        let sender = senders.entry(owner.sender).or_insert_with(|| {
            *newcomers += u64::from(owner.newcomer);
            Sender { tag: *now, texts: 0, newcomer: owner.newcomer }
        });
        // One share for all of them: each is as slow as they are many.
        let pace = if sender.newcomer { *newcomers } else { 1 };
        sender.texts += 1;
        let tokens = tokens as u64;
        sender.tag = sender.tag.max(*now).saturating_add(tokens.saturating_mul(TOKEN).saturating_mul(pace));
        let request = requests.entry(owner.request).or_insert_with(|| {
            order.insert((sender.tag, owner.request));
            Waiting { sender: owner.sender, tag: sender.tag, texts: 0, tokens: 0, order: VecDeque::with_capacity(1) }
        });
        if request.tag != sender.tag {
            order.remove(&(request.tag, owner.request));
            request.tag = sender.tag;
            order.insert((request.tag, owner.request));
        }
        request.texts += 1;
        request.tokens = request.tokens.saturating_add(tokens);
        request.order.push_back(key);
    }

    /// Somebody is no newcomer, or no longer: what it has waiting is as if it had never been one.
    fn is_known(&mut self, key: u64) {
        let Self { now, senders, requests, order, newcomers } = self;
        let Some(sender) = senders.get_mut(&key).filter(|sender| sender.newcomer) else { return };
        sender.newcomer = false;
        sender.tag = *now;
        *newcomers -= 1;
        let mut own: Vec<_> = requests.iter_mut().filter(|(_, request)| request.sender == key).collect();
        own.sort_unstable_by_key(|(number, _)| **number);
        for (number, request) in own {
            sender.tag = sender.tag.saturating_add(request.tokens.saturating_mul(TOKEN));
            order.remove(&(request.tag, *number));
            request.tag = sender.tag;
            order.insert((request.tag, *number));
        }
    }

    /// A text waits no longer. `served`: because it is run, and not because nobody needs it any more.
    pub(super) fn take(&mut self, owner: Owner, tokens: usize, served: bool) {
        if served {
            self.now = self.now.saturating_add((tokens as u64).saturating_mul(TOKEN) / self.sharing());
        }
        if let Some(request) = self.requests.get_mut(&owner.request) {
            request.texts -= 1;
            request.tokens = request.tokens.saturating_sub(tokens as u64);
            if request.texts == 0 {
                let tag = request.tag;
                self.order.remove(&(tag, owner.request));
                self.requests.remove(&owner.request);
            }
        }
        if let Some(sender) = self.senders.get_mut(&owner.sender) {
            sender.texts -= 1;
            if sender.texts == 0 {
                self.newcomers -= u64::from(sender.newcomer);
                self.senders.remove(&owner.sender);
            }
        }
        if self.senders.is_empty() {
            // Everybody has had what is theirs.
            self.now = 0;
        }
    }

    /// How many shares there are.
    fn sharing(&self) -> u64 {
        (self.senders.len() as u64 - self.newcomers + self.newcomers.min(1)).max(1)
    }

    /// The first texts of the requests whose turn comes next, in that order. `waits` tells whether a text still does.
    pub(super) fn first(&mut self, waits: impl Fn(&K) -> bool) -> impl Iterator<Item = K> {
        let Self { order, requests, .. } = self;
        order.iter().filter_map(move |(_, request)| {
            let order = &mut requests.get_mut(request)?.order;
            while order.front().is_some_and(|key| !waits(key)) {
                order.pop_front();
            }
            order.front().copied()
        })
    }

    /// Whether anybody waits but this sender.
    pub(super) fn others(&self, sender: u64) -> bool {
        self.senders.len() > usize::from(self.senders.contains_key(&sender))
    }

    /// Until which tag others may ride with a text of this owner, whose turn it is: until those whose turn comes at about the same time.
    pub(super) fn with(&self, owner: Owner) -> u64 {
        let tag = self.tag(owner);
        tag.saturating_add((tag.saturating_sub(self.now)).max(ABOUT * TOKEN))
    }

    /// The tag of the request that a text is part of.
    pub(super) fn tag(&self, owner: Owner) -> u64 {
        self.requests.get(&owner.request).map_or(u64::MAX, |request| request.tag)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Serves one text after the other, whoever's turn it is.
    #[derive(Default)]
    struct Server {
        waiting: HashMap<u64, (Owner, usize)>,
        keys: u64,
    }

    impl Server {
        fn push(&mut self, turns: &mut Turns<u64>, owner: Owner, texts: usize, tokens: usize) {
            for _ in 0..texts {
                self.keys += 1;
                self.waiting.insert(self.keys, (owner, tokens));
                turns.push(owner, self.keys, tokens);
            }
        }

        fn serve(&mut self, turns: &mut Turns<u64>) -> Option<(Owner, usize)> {
            let key = turns.first(|key| self.waiting.contains_key(key)).next()?;
            let (owner, tokens) = self.waiting.remove(&key).unwrap();
            turns.take(owner, tokens, true);
            Some((owner, tokens))
        }
    }

    fn owner(sender: u64, request: u64) -> Owner {
        Owner { sender, request, newcomer: false }
    }

    #[test]
    fn a_small_request_overtakes_large_ones_and_equal_ones_keep_their_order() {
        let (mut turns, mut server) = (Turns::new(), Server::default());
        for request in 0..12 {
            server.push(&mut turns, owner(request, request), 256, 254);
        }
        for _ in 0..100 {
            server.serve(&mut turns);
        }
        server.push(&mut turns, owner(99, 99), 1, 16);
        assert_eq!(server.serve(&mut turns).unwrap().0.request, 99);
        let rest: Vec<u64> = std::iter::from_fn(|| server.serve(&mut turns)).map(|(owner, _)| owner.request).collect();
        assert!(rest.is_sorted(), "one after the other");
        assert_eq!(rest.len(), 12 * 256 - 100);
    }

    #[test]
    fn many_requests_of_one_sender_have_one_share() {
        let (mut turns, mut server) = (Turns::new(), Server::default());
        for request in 0..1000 {
            server.push(&mut turns, owner(1, request), 1, 10);
        }
        for request in 1000..1010 {
            server.push(&mut turns, owner(2, request), 1, 10);
        }
        let first: Vec<u64> = (0..20).map(|_| server.serve(&mut turns).unwrap().0.sender).collect();
        assert_eq!(first.iter().filter(|sender| **sender == 2).count(), 10, "{first:?}");
    }

    #[test]
    fn who_is_not_known_has_one_share_together_with_all_others_like_it() {
        let (mut turns, mut server) = (Turns::new(), Server::default());
        for name in 0..1000 {
            server.push(&mut turns, Owner { sender: 10_000 + name, request: name, newcomer: true }, 1, 10);
        }
        for request in 1000..1010 {
            server.push(&mut turns, owner(2, request), 1, 10);
        }
        let first: Vec<u64> = (0..40).map(|_| server.serve(&mut turns).unwrap().0.sender).collect();
        assert_eq!(first.iter().filter(|sender| **sender == 2).count(), 10, "{first:?}");
    }

    #[test]
    fn who_was_served_has_a_share_of_its_own_though_it_always_had_something_waiting() {
        let (mut turns, mut server) = (Turns::new(), Server::default());
        let newcomer = |sender, request| Owner { sender, request, newcomer: true };
        for name in 0..1000 {
            server.push(&mut turns, newcomer(10_000 + name, name), 1, 10);
        }
        for request in 1000..1010 {
            server.push(&mut turns, newcomer(2, request), 1, 10);
        }
        let first = |server: &mut Server, turns: &mut Turns<u64>| {
            (0..22).filter(|_| server.serve(turns).unwrap().0.sender == 2).count()
        };
        assert_eq!(first(&mut server, &mut turns), 0, "after those who came before it");
        // The first of them has been served elsewhere.
        server.push(&mut turns, owner(2, 1010), 1, 10);
        assert_eq!(first(&mut server, &mut turns), 11);
        while server.serve(&mut turns).is_some() {}
        assert_eq!((turns.newcomers, turns.order.len()), (0, 0));
    }

    #[test]
    fn only_those_whose_turn_it_is_about_now_ride_along() {
        let mut turns = Turns::new();
        let (short, other, heavy) = (owner(1, 1), owner(2, 2), owner(3, 3));
        (0..256).for_each(|key| turns.push(heavy, key, 16));
        turns.push(short, 1000, 16);
        turns.push(other, 1001, 20);
        let until = turns.with(short);
        assert!(turns.tag(other) <= until && turns.tag(heavy) > until);
        assert!(turns.others(1) && turns.tag(heavy) <= turns.with(heavy));
    }

    #[derive(Debug, Clone)]
    enum Event {
        Push { sender: u64, newcomer: bool, again: bool, texts: usize, tokens: usize },
        Serve(usize),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0..5u64, any::<bool>(), any::<bool>(), 1..20usize, 1..300usize).prop_map(
                |(sender, newcomer, again, texts, tokens)| Event::Push { sender, newcomer, again, texts, tokens }
            ),
            (0..40usize).prop_map(Event::Serve),
        ]
    }

    proptest! {
        /// Whatever comes and goes, everybody is served in the end, and nothing is left over.
        #[test]
        fn everybody_is_served_once(events in prop::collection::vec(event(), 1..60)) {
            let (mut turns, mut server) = (Turns::new(), Server::default());
            let (mut pushed, mut served) = (0, 0);
            for (request, event) in events.into_iter().enumerate() {
                match event {
                    Event::Push { sender, newcomer, again, texts, tokens } => {
                        // Under names of their own, or those of some who are known by now, or will be.
                        let sender = if newcomer && !again { 1000 + request as u64 } else { sender };
                        server.push(&mut turns, Owner { sender, request: request as u64, newcomer }, texts, tokens);
                        pushed += texts;
                    }
                    Event::Serve(count) => served += (0..count).map_while(|_| server.serve(&mut turns)).count(),
                }
            }
            served += std::iter::from_fn(|| server.serve(&mut turns)).count();
            prop_assert_eq!(served, pushed);
            prop_assert!(turns.senders.is_empty() && turns.requests.is_empty() && turns.order.is_empty());
            prop_assert_eq!((turns.now, turns.newcomers), (0, 0));
        }

        /// One who asks for a little now and then, beside one who asks for whatever it likes, waits for no more than one text of it.
        #[test]
        fn who_asks_for_little_does_not_wait_for_who_asks_for_much(
            heavy in prop::collection::vec((1..257usize, 1..512usize), 1..20), tokens in 1..64usize, before in 0..200usize,
        ) {
            let (mut turns, mut server) = (Turns::new(), Server::default());
            for (request, (texts, length)) in heavy.into_iter().enumerate() {
                server.push(&mut turns, owner(1, request as u64), texts, length.max(tokens));
            }
            for _ in 0..before {
                server.serve(&mut turns);
            }
            server.push(&mut turns, owner(2, 1000), 1, tokens);
            let ahead = std::iter::from_fn(|| server.serve(&mut turns)).take_while(|(owner, _)| owner.sender == 1).count();
            prop_assert!(ahead <= 1, "{} texts went first", ahead);
        }

        /// Two who always have something waiting get the same, to within a request of each.
        #[test]
        fn who_always_has_something_waiting_gets_the_same(a in (1..20usize, 1..300usize), b in (1..20usize, 1..300usize)) {
            let (mut turns, mut server) = (Turns::new(), Server::default());
            let (mut got, mut request) = ([0usize; 2], 0);
            for _ in 0..3000 {
                for (sender, (texts, tokens)) in [(0, a), (1, b)] {
                    while server.waiting.values().filter(|(owner, _)| owner.sender == sender).count() < 40 {
                        request += 1;
                        server.push(&mut turns, owner(sender, request), texts, tokens);
                    }
                }
                let (owner, tokens) = server.serve(&mut turns).unwrap();
                got[owner.sender as usize] += tokens;
            }
            // What one may be ahead: what it has waiting.
            let most = 2 * 60 * a.1.max(b.1);
            prop_assert!(got[0].abs_diff(got[1]) <= most, "{:?}", got);
        }
    }
}
