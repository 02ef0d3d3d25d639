//! Which variants are to give texts to a shadow: those of which a wish was heard lately.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use async_nats::{Client, Subscriber};
use embed_schemas::{
    Slug,
    shadow::{SHADOW_SUBJECT, ShadowWish},
    wire::decode_shadow_wish,
};
use futures::StreamExt;
use tokio::time::sleep_until;

use super::ServedVariants;

/// The longest that a wish holds without being said again, whatever it says of itself.
const LONGEST: Duration = Duration::from_secs(60);

/// Follows what is wanted, for ever.
pub async fn follow_shadows(client: Client, served: ServedVariants) {
    let mut heard = match client.subscribe(SHADOW_SUBJECT).await {
        Ok(heard) => heard,
        Err(error) => return tracing::error!(%error, "no shadow can be followed"),
    };
    let mut changes = served.changes();
    let mut wishes = Wishes::default();
    loop {
        tokio::select! {
            wish = next(&mut heard) => match wish {
                Some(wish) => wishes.hear(wish, Instant::now()),
                // Only while the worker ends.
                None => return,
            },
            // A variant that is served since may be one of which texts are wanted.
            _ = changes.changed() => {}
            () = expiry(&wishes) => {}
        }
        wishes.forget(Instant::now());
        for one in served.all() {
            let variant = &one.deployment.variant;
            let wish = wishes.of(&variant.model, &variant.name);
            if variant.tap.set(wish, seed()) {
                match wish {
                    Some(ShadowWish { id, model, from, to, share, .. }) => {
                        tracing::info!(%model, id, share, "texts of {from} are given to {to} as well, to be compared");
                    }
                    None => {
                        tracing::info!(model = %variant.model, "texts of {} are not given to a shadow any more", variant.name);
                    }
                }
            }
        }
    }
}

/// The next wish that can be read.
async fn next(heard: &mut Subscriber) -> Option<ShadowWish> {
    loop {
        match decode_shadow_wish(&heard.next().await?.payload) {
            Ok(wish) => return Some(wish),
            Err(error) => tracing::warn!(%error, "{SHADOW_SUBJECT}: the wish cannot be read"),
        }
    }
}

async fn expiry(wishes: &Wishes) {
    match wishes.next_end() {
        Some(end) => sleep_until(end.into()).await,
        None => std::future::pending().await,
    }
}

fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // Any will do, as long as workers do not all take the texts at the same places.
    (now.as_nanos() as u64) ^ u64::from(std::process::id()).rotate_left(32)
}

/// What is wanted, and until when. Of each variant one wish: the last.
#[derive(Debug, Default)]
struct Wishes(HashMap<(Slug, Slug), (ShadowWish, Instant)>);

impl Wishes {
    /// A wish without a time to live takes back what was wanted.
    fn hear(&mut self, wish: ShadowWish, now: Instant) {
        let key = (wish.model.clone(), wish.from.clone());
        match Duration::from_millis(wish.ttl_ms).min(LONGEST) {
            Duration::ZERO => drop(self.0.remove(&key)),
            ttl => drop(self.0.insert(key, (wish, now + ttl))),
        }
    }

    fn forget(&mut self, now: Instant) {
        self.0.retain(|_, (_, end)| *end > now);
    }

    fn next_end(&self) -> Option<Instant> {
        self.0.values().map(|(_, end)| *end).min()
    }

    fn of(&self, model: &Slug, variant: &Slug) -> Option<&ShadowWish> {
        self.0.get(&(model.clone(), variant.clone())).map(|(wish, _)| wish)
    }
}

#[cfg(test)]
mod tests {
    use embed_schemas::Lane;

    use super::*;

    fn wish(from: &str, ttl_ms: u64) -> ShadowWish {
        ShadowWish {
            id: "x".into(),
            model: "m".parse().unwrap(),
            from: from.parse().unwrap(),
            to: "z".parse().unwrap(),
            lanes: Lane::ALL.to_vec(),
            share: 0.5,
            tell_texts: true,
            ttl_ms,
        }
    }

    #[test]
    fn a_wish_holds_until_it_is_not_said_any_more_or_taken_back() {
        let (mut wishes, start) = (Wishes::default(), Instant::now());
        let model = "m".parse().unwrap();
        let is = |wishes: &Wishes, from: &str| wishes.of(&model, &from.parse().unwrap()).is_some();
        let at = |ms| start + Duration::from_millis(ms);
        wishes.hear(wish("a", 1_000), start);
        wishes.hear(wish("b", u64::MAX), start);
        assert_eq!(wishes.next_end(), Some(at(1_000)));
        wishes.hear(wish("a", 1_000), at(900));
        wishes.forget(at(1_500));
        assert!(is(&wishes, "a") && is(&wishes, "b") && !is(&wishes, "c"));
        wishes.forget(at(1_900));
        assert!(!is(&wishes, "a"));
        wishes.forget(start + LONGEST);
        assert!(!is(&wishes, "b"), "nothing holds for ever");
        wishes.hear(wish("a", 1_000), start);
        wishes.hear(wish("a", 0), start);
        assert!(!is(&wishes, "a") && wishes.next_end().is_none());
    }
}
