//! Which vectors would be made now: the space of a model, and the version of a variant, as far as workers agree on it. Pure.

use std::collections::{HashMap, hash_map::Entry};

use embed_schemas::{EmbedResult, Slug};

use crate::WorkerInfo;

/// What whoever asks now would get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Current {
    pub(super) space: String,
    /// Of the variant. Empty where none is named: vectors of one space stand for each other.
    pub(super) version: String,
}

/// What there is of each model, and of each variant. What workers do not agree on is `None`.
#[derive(Debug, Default)]
pub(super) struct Served(HashMap<(Slug, Option<Slug>), Option<Current>>);

impl Served {
    /// From what all workers say. A model has one space if all of its variants do: which of them a route chooses is not known here. Whether
    /// one that is not loaded would be another is not known either, so a model without a live default has none.
    pub(super) fn of(workers: &[WorkerInfo]) -> Self {
        let mut served = Self::default();
        let variants = || workers.iter().flat_map(|worker| &worker.variants);
        for ((model, variant), status) in variants() {
            if let Some(live) = &status.live {
                let of_variant = Current { space: live.space.clone(), version: live.version.clone() };
                let of_model = Current { version: String::new(), ..of_variant.clone() };
                served.add((model.clone(), Some(variant.clone())), of_variant);
                served.add((model.clone(), None), of_model);
            }
        }
        let has_default =
            |model: &Slug| variants().any(|((of, _), status)| of == model && status.default && status.live.is_some());
        served.0.retain(|(model, variant), _| variant.is_some() || has_default(model));
        served
    }

    fn add(&mut self, what: (Slug, Option<Slug>), current: Current) {
        match self.0.entry(what) {
            Entry::Vacant(entry) => {
                entry.insert(Some(current));
            }
            Entry::Occupied(mut entry) if entry.get().as_ref() != Some(&current) => {
                entry.insert(None);
            }
            Entry::Occupied(_) => {}
        }
    }

    /// What would be made now, if that is known.
    pub(super) fn current(&self, model: &Slug, variant: Option<&Slug>) -> Option<&Current> {
        self.0.get(&(model.clone(), variant.cloned()))?.as_ref()
    }

    /// Whether an answer is another than was to be expected: something has changed.
    pub(super) fn is_contradicted(&self, model: &Slug, variant: Option<&Slug>, answer: &EmbedResult) -> bool {
        self.current(model, variant).is_some_and(|Current { space, version }| {
            *space != answer.space || variant.is_some() && *version != answer.version
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use embed_schemas::serving::{LiveVersion, VariantState, VariantStatus};
    use proptest::prelude::*;

    use super::*;

    type Said = (String, String, Option<(String, String)>, bool);

    fn worker(variants: &[Said]) -> WorkerInfo {
        let status = |live: &Option<(String, String)>, default: bool| VariantStatus {
            state: if live.is_some() { VariantState::Live } else { VariantState::Cold },
            default,
            wanted: "current".into(),
            live: live.clone().map(|(version, space)| LiveVersion {
                version,
                precision: embed_schemas::Precision::Fp32,
                provider: "cpu".into(),
                space,
                since: String::new(),
                devices: Vec::new(),
                skipped: Vec::new(),
                nodes_elsewhere: None,
                online_run_us: None,
            }),
            previous: None,
            failed: None,
        };
        let of = |(model, variant, live, default): &Said| {
            ((model.parse().unwrap(), variant.parse().unwrap()), status(live, *default))
        };
        WorkerInfo { id: "w".into(), variants: variants.iter().map(of).collect() }
    }

    fn said() -> impl Strategy<Value = Said> {
        ("[mn]", "[ab]", prop::option::of(("v[12]", "[st]")), any::<bool>())
    }

    proptest! {
        /// Nothing is current that any worker would not make: however the workers stand.
        #[test]
        fn only_what_all_agree_on_is_current(workers in prop::collection::vec(prop::collection::vec(said(), 0..4), 0..4)) {
            let workers: Vec<WorkerInfo> = workers.iter().map(|variants| worker(variants)).collect();
            let served = Served::of(&workers);
            for model in ["m", "n"] {
                let model: Slug = model.parse().unwrap();
                let live = || {
                    let all = workers.iter().flat_map(|worker| &worker.variants).filter(|((of, _), _)| *of == model);
                    all.filter_map(|((_, variant), status)| Some((variant, status.default, status.live.as_ref()?)))
                };
                let spaces: BTreeSet<&str> = live().map(|(_, _, live)| live.space.as_str()).collect();
                let known = spaces.len() == 1 && live().any(|(_, default, _)| default);
                let expected = known.then(|| spaces.iter().next().copied()).flatten();
                prop_assert_eq!(served.current(&model, None).map(|current| current.space.as_str()), expected);
                for variant in ["a", "b"] {
                    let variant: Slug = variant.parse().unwrap();
                    let of = || live().filter(|(name, ..)| **name == variant);
                    let made: BTreeSet<(&str, &str)> =
                        of().map(|(_, _, live)| (live.space.as_str(), live.version.as_str())).collect();
                    let current = served.current(&model, Some(&variant));
                    prop_assert_eq!(current.is_some(), made.len() == 1);
                    prop_assert!(current.is_none_or(|c| made.contains(&(c.space.as_str(), c.version.as_str()))));
                }
            }
        }
    }
}
