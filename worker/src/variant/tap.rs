//! The tap: a share of the texts that a variant serves is given to another variant as well, which is compared with it.
//!
//! Nothing waits for it, and nothing of it reaches a caller. While nobody wants a shadow it is one look at a flag for each request.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use arc_swap::ArcSwapOption;
use embed_engine::pipeline::Embedded;
use embed_schemas::{
    EmbedRequest, EmbedResult, Encoding, Lane, Outcome,
    shadow::{ShadowTexts, ShadowWish},
};

use super::{ServedVersion, Variant};

/// Texts that are taken of one request at most, so that a message has room for them and a candidate is not held up by one.
const MOST_TEXTS: usize = 32;
/// Bytes of texts that are taken of one request at most.
const MOST_BYTES: usize = 64 * 1024;

/// Where a variant's texts are tapped.
#[derive(Debug, Default)]
pub struct Tap {
    /// Whether there is any: what most requests look at.
    is_open: AtomicBool,
    tapping: ArcSwapOption<Tapping>,
}

/// A shadow that somebody wants of a variant.
#[derive(Debug)]
pub struct Tapping {
    /// What is wanted.
    pub wish: ShadowWish,
    /// Which texts are taken follows from it.
    seed: u64,
    /// Texts that have come so far.
    seen: AtomicU64,
    /// Requests that had texts to give, which were dropped, and not told of yet.
    dropped: AtomicU64,
}

/// What is taken of a request, before it is served.
#[derive(Debug)]
pub struct Sample {
    tapping: Arc<Tapping>,
    lane: Lane,
    /// Without its texts.
    request: EmbedRequest,
    /// With their places in the request.
    texts: Vec<(usize, String)>,
}

/// What was taken, with what was served.
#[derive(Debug)]
pub struct Tapped {
    /// By whose wish.
    pub tapping: Arc<Tapping>,
    /// To be given on.
    pub texts: ShadowTexts,
}

impl Tap {
    /// From now on this is wanted; `seed` decides which texts are taken. The same wish, said again, changes nothing. Whether this is
    /// another.
    pub fn set(&self, wish: Option<&ShadowWish>, seed: u64) -> bool {
        let now = self.tapping.load();
        if now.as_ref().map(|tapping| &tapping.wish) == wish {
            return false;
        }
        let (seen, dropped) = (AtomicU64::new(0), AtomicU64::new(0));
        self.tapping.store(wish.map(|wish| Arc::new(Tapping { wish: wish.clone(), seed, seen, dropped })));
        self.is_open.store(wish.is_some(), Ordering::Release);
        true
    }

    /// What is to be taken of a request that came on this lane. `None`, as mostly: nothing.
    pub fn sample(&self, lane: Lane, request: &EmbedRequest) -> Option<Box<Sample>> {
        if !self.is_open.load(Ordering::Acquire) {
            return None;
        }
        let now = self.tapping.load();
        let tapping = now.as_ref()?;
        if !tapping.wish.lanes.contains(&lane) {
            return None;
        }
        let first = tapping.seen.fetch_add(request.texts.len() as u64, Ordering::Relaxed);
        let texts = pick(tapping.seed, first, tapping.wish.share, &request.texts);
        (!texts.is_empty()).then(|| {
            let request = EmbedRequest {
                prompt: request.prompt.clone(),
                truncate: request.truncate,
                dimensions: request.dimensions,
                ..EmbedRequest::new(Vec::<String>::new())
            };
            Box::new(Sample { tapping: Arc::clone(tapping), lane, request, texts })
        })
    }
}

impl Tapping {
    /// What was taken of so many requests was dropped.
    pub fn dropped(&self, requests: u64) {
        self.dropped.fetch_add(requests, Ordering::Relaxed);
    }

    /// Requests that were dropped since the last call.
    pub fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

impl Sample {
    /// Puts what was served beside the texts. `None` if none of them was. Takes less than a microsecond for each text.
    pub fn served(
        self,
        id: &embed_schemas::JobId,
        variant: &Variant,
        version: &ServedVersion,
        embedded: &Embedded,
    ) -> Option<Tapped> {
        let Self { tapping, lane, mut request, texts } = self;
        let metadata = version.metadata();
        let model_dim = metadata.dimension as usize;
        // Shortened vectors are compared as they are; length makes no difference to a cosine.
        let dim = request.dimensions.map_or(model_dim, |dim| dim as usize);
        let storage = Encoding::F16.storage();
        let (mut vectors, mut items) = (Vec::with_capacity(storage.row_bytes(dim) * texts.len()), Vec::new());
        for (place, text) in texts {
            let Some(one) = embedded.texts.get(place).filter(|one| one.item.error.is_none()) else { continue };
            let Some(row) = one.vector(model_dim).and_then(|row| row.get(..dim)) else { continue };
            if row.iter().all(|x| x.is_finite()) {
                storage.encode_row(row, &mut vectors);
                items.push(one.item.clone());
                request.texts.push(text);
            }
        }
        if items.is_empty() {
            return None;
        }
        let served = Outcome::Result(EmbedResult {
            id: id.clone(),
            model: variant.model.clone(),
            variant: variant.name.clone(),
            version: metadata.version.clone(),
            space: metadata.space.clone(),
            dim: u32::try_from(dim).unwrap_or(u32::MAX),
            encoding: Encoding::F16,
            vectors: vectors.into(),
            items,
            timing: embedded.timing,
        });
        let ShadowWish { id, tell_texts, .. } = &tapping.wish;
        let texts = ShadowTexts { id: id.clone(), lane, request, served, dropped: 0, tell_texts: *tell_texts };
        Some(Tapped { tapping, texts })
    }
}

/// The texts that are taken of a request whose first text has this number, with their places. The same seed and numbers give the same.
fn pick(seed: u64, first: u64, share: f64, texts: &[String]) -> Vec<(usize, String)> {
    let mut bytes = 0;
    let mut picked = Vec::new();
    for (place, text) in texts.iter().enumerate() {
        if !is_picked(seed, first + place as u64, share) {
            continue;
        }
        bytes += text.len();
        if picked.len() == MOST_TEXTS || bytes > MOST_BYTES {
            break;
        }
        picked.push((place, text.clone()));
    }
    picked
}

/// Whether a text is taken, by its number: a share of all, with no pattern in it. This is SplitMix64.
fn is_picked(seed: u64, number: u64, share: f64) -> bool {
    let x = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    // 53 bits are what a float holds.
    (((x ^ (x >> 31)) >> 11) as f64) < share * (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wish(share: f64, lanes: &[Lane]) -> ShadowWish {
        ShadowWish {
            id: "x".into(),
            model: "m".parse().unwrap(),
            from: "a".parse().unwrap(),
            to: "b".parse().unwrap(),
            lanes: lanes.to_vec(),
            share,
            tell_texts: true,
            ttl_ms: 1_000,
        }
    }

    proptest! {
        #[test]
        fn a_share_of_the_texts_is_taken(seed in any::<u64>(), share in 0.02..1.0f64) {
            let picked = (0..10_000).filter(|n| is_picked(seed, *n, share)).count() as f64;
            // Six standard deviations.
            let spread = 6.0 * (10_000.0 * share * (1.0 - share)).sqrt();
            prop_assert!((picked - 10_000.0 * share).abs() <= spread + 1.0, "{} of 10000 at {}", picked, share);
        }

        #[test]
        fn what_is_taken_is_bounded(lengths in prop::collection::vec(0usize..9_000, 0..256), seed in any::<u64>()) {
            let texts: Vec<String> = lengths.iter().map(|n| "x".repeat(*n)).collect();
            let picked = pick(seed, 7, 1.0, &texts);
            prop_assert!(picked.len() <= MOST_TEXTS && picked.iter().map(|(_, text)| text.len()).sum::<usize>() <= MOST_BYTES);
            prop_assert!(picked.iter().all(|(place, text)| texts[*place] == *text));
            prop_assert!(picked.is_sorted_by(|a, b| a.0 < b.0));
        }
    }

    #[test]
    fn nothing_is_taken_that_nobody_wants() {
        let (tap, request) = (Tap::default(), EmbedRequest::new(["a", "b"]));
        assert!(tap.sample(Lane::Rpc, &request).is_none());
        tap.set(Some(&wish(1.0, &[Lane::Rpc])), 0);
        assert!(tap.sample(Lane::Job, &request).is_none());
        let sample = tap.sample(Lane::Rpc, &request).unwrap();
        assert_eq!(sample.texts, [(0, "a".to_owned()), (1, "b".to_owned())]);
        // The same wish again: what was counted stays.
        sample.tapping.dropped(1);
        tap.set(Some(&wish(1.0, &[Lane::Rpc])), 1);
        assert_eq!(tap.sample(Lane::Rpc, &request).unwrap().tapping.take_dropped(), 1);
        tap.set(None, 0);
        assert!(tap.sample(Lane::Rpc, &request).is_none());
    }
}
