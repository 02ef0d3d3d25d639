//! Room for what is under way, shared between those who ask. Pure: time is an argument.

use std::{collections::HashMap, sync::Arc, time::Duration};

/// How long somebody who was refused counts as one who wants a share.
const REMEMBERED: Duration = Duration::from_secs(2);

/// Who asks: a key's name.
pub(crate) type Who = Arc<str>;

/// Room for a number of texts, or of bytes. While half of it is free, anybody may have it; then nobody gets more than an equal share.
#[derive(Debug)]
pub(crate) struct Shares {
    room: usize,
    taken: usize,
    by: HashMap<Who, Share>,
    /// Whether what is more than all the room gets in when nothing else is.
    takes_more: bool,
}

#[derive(Debug)]
struct Share {
    taken: usize,
    asked: Duration,
}

impl Shares {
    /// What is more than all the room gets in when nothing else is.
    pub(crate) fn new(room: usize) -> Self {
        Self { room, taken: 0, by: HashMap::new(), takes_more: true }
    }

    /// What is more than all the room never gets in.
    pub(crate) fn strict(room: usize) -> Self {
        Self { takes_more: false, ..Self::new(room) }
    }

    /// Takes so much room, which [`Shares::leave`] gives back. Whether there was any.
    pub(crate) fn enter(&mut self, who: &Who, texts: usize, now: Duration) -> bool {
        self.by.retain(|_, share| share.taken > 0 || now.saturating_sub(share.asked) < REMEMBERED);
        let wanted = self.by.len() + usize::from(!self.by.contains_key(who));
        let share = self.by.entry(Arc::clone(who)).or_insert(Share { taken: 0, asked: now });
        share.asked = now;
        let fits = self.taken + texts <= self.room || self.takes_more && self.taken == 0;
        let is_crowded = self.taken + texts > self.room / 2;
        let is_fair = share.taken == 0 || share.taken + texts <= self.room / wanted;
        if !fits || is_crowded && !is_fair {
            return false;
        }
        share.taken += texts;
        self.taken += texts;
        true
    }

    /// Gives room back.
    pub(crate) fn leave(&mut self, who: &Who, texts: usize) {
        if let Some(share) = self.by.get_mut(who) {
            share.taken -= texts;
            self.taken -= texts;
        }
    }

    /// Texts that are under way.
    pub(crate) const fn taken(&self) -> usize {
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_comes_second_gets_a_share_of_what_another_would_take_whole() {
        let (mut shares, now) = (Shares::new(100), Duration::ZERO);
        let [a, b]: [Who; 2] = ["a".into(), "b".into()];
        assert!((0..100).all(|_| shares.enter(&a, 1, now)), "alone, it has it all");
        assert!(!shares.enter(&b, 1, now));
        for _ in 0..50 {
            shares.leave(&a, 1);
            assert!(!shares.enter(&a, 1, now), "what comes free is for the other");
            assert!(shares.enter(&b, 1, now));
        }
        shares.leave(&a, 1);
        assert!(shares.enter(&a, 1, now), "each has half");
        (0..50).for_each(|_| shares.leave(&b, 1));
        assert!((0..50).all(|_| shares.enter(&a, 1, now + REMEMBERED)), "the other is gone");
    }

    #[test]
    fn what_is_more_than_all_the_room_gets_in_alone_or_never() {
        let (a, now): (Who, _) = ("a".into(), Duration::ZERO);
        assert!(Shares::new(5).enter(&a, 6, now) && !Shares::strict(5).enter(&a, 6, now));
        assert!(Shares::strict(5).enter(&a, 5, now));
    }

    proptest! {
        #[test]
        fn room_is_never_exceeded_and_all_comes_back(
            steps in prop::collection::vec((0usize..4, 1usize..30, any::<bool>()), 1..200),
        ) {
            let mut shares = Shares::new(40);
            let mut held: Vec<(Who, usize)> = Vec::new();
            for (who, texts, leaves) in steps {
                if leaves && !held.is_empty() {
                    let (who, texts) = held.remove(who % held.len());
                    shares.leave(&who, texts);
                } else {
                    let who: Who = who.to_string().into();
                    if shares.enter(&who, texts, Duration::ZERO) {
                        held.push((who, texts));
                    }
                }
                prop_assert_eq!(shares.taken(), held.iter().map(|(_, texts)| texts).sum::<usize>());
                prop_assert!(shares.taken() <= 40);
            }
            for (who, texts) in held {
                shares.leave(&who, texts);
            }
            prop_assert!(shares.enter(&"new".into(), 400, Duration::ZERO), "whatever it is, nothing else is there");
        }
    }
}
