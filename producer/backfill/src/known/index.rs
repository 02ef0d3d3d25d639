//! Which texts are known, or still coming.

use std::collections::HashMap;

use embed_schemas::WireError;
use foldhash::fast::RandomState;

use crate::row::{Digest, Vector};

/// In place of a place: what comes of the text is not told yet.
const COMING: u32 = u32::MAX;

/// What to do with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// It is to be embedded.
    New,
    /// It can be taken when its turn comes.
    Known,
}

/// What came of a text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Held {
    /// Its vectors have this place.
    Place(u32),
    /// What could not be given a place: an error, or vectors for which there was no room.
    Content(Result<Vec<Vector>, WireError>),
}

/// Texts by their digest.
#[derive(Debug)]
pub(super) struct Index {
    places: HashMap<Digest, u32, RandomState>,
    /// How often a text that is coming was asked about since.
    waiting: HashMap<Digest, usize>,
    /// What has no place, for those who had asked about it by then.
    held: HashMap<Digest, (Result<Vec<Vector>, WireError>, usize)>,
    /// Whether more is remembered.
    open: bool,
    limit: usize,
}

impl Index {
    /// `open`: whether texts that are asked about are remembered. `limit`: how many are, at most.
    pub(super) fn new(open: bool, limit: usize) -> Self {
        Self { places: HashMap::default(), waiting: HashMap::new(), held: HashMap::new(), open, limit }
    }

    /// Remembers a text that has a place. Returns whether it is remembered.
    pub(super) fn load(&mut self, digest: Digest, place: Option<u32>) -> bool {
        if self.places.contains_key(&digest) {
            return true;
        }
        let Some(place) = place.filter(|_| self.places.len() < self.limit) else { return false };
        self.places.insert(digest, place);
        true
    }

    /// Whether a text has a place.
    pub(super) fn knows(&self, digest: Digest) -> bool {
        self.places.get(&digest).is_some_and(|place| *place != COMING)
    }

    /// Remembers nothing more.
    pub(super) const fn close(&mut self) {
        self.open = false;
    }

    /// What to do with a text.
    pub(super) fn ask(&mut self, digest: Digest) -> Asked {
        match self.places.get(&digest) {
            Some(&COMING) => {
                *self.waiting.entry(digest).or_default() += 1;
                Asked::Known
            }
            Some(_) => Asked::Known,
            None => {
                // Once there is no room, there is none any more: else a text that is not remembered and one that is could be coming at once.
                self.open &= self.places.len() < self.limit;
                if self.open {
                    self.places.insert(digest, COMING);
                }
                Asked::New
            }
        }
    }

    /// Whether what comes of a text is to be told.
    pub(super) fn awaits(&self, digest: Digest) -> bool {
        self.places.get(&digest) == Some(&COMING)
    }

    /// What came of a text: its place, or else what those get who have asked about it. Who asks from here on finds the place, or has it embedded again.
    pub(super) fn tell(
        &mut self,
        digest: Digest,
        place: Option<u32>,
        content: impl FnOnce() -> Result<Vec<Vector>, WireError>,
    ) {
        let waiting = self.waiting.remove(&digest);
        match (place, waiting) {
            (Some(place), _) => {
                self.places.insert(digest, place);
            }
            (None, waiting) => {
                self.places.remove(&digest);
                if let Some(waiting) = waiting {
                    self.held.insert(digest, (content(), waiting));
                }
            }
        }
    }

    /// What came of a text, for one who has asked about it. `None` if it was not told.
    pub(super) fn take(&mut self, digest: Digest) -> Option<Held> {
        // Those who asked before it was told that it has no place come before those who have asked since.
        if let Some((content, waiting)) = self.held.get_mut(&digest) {
            *waiting -= 1;
            let content = content.clone();
            if *waiting == 0 {
                self.held.remove(&digest);
            }
            return Some(Held::Content(content));
        }
        self.places.get(&digest).filter(|place| **place != COMING).map(|place| Held::Place(*place))
    }

    /// Whether nothing is coming, and nobody waits.
    #[cfg(test)]
    pub(super) fn is_settled(&self) -> bool {
        self.waiting.is_empty() && self.held.is_empty() && self.places.values().all(|place| *place != COMING)
    }
}
