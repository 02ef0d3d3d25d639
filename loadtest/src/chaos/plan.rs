//! Which faults come when. Pure: the same seed and kinds give the same plan.

use std::time::Duration;

use serde::Serialize;

use super::kinds::{Kind, Part};

/// Every so many steps, a second fault begins while the first lasts.
const MIXED_EVERY: usize = 3;
/// Between the recovery from one fault and the next, seconds.
const CALM: (f64, f64) = (0.5, 3.0);

/// A fault, as it is planned.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Fault {
    /// The kind.
    #[serde(serialize_with = "name")]
    pub kind: &'static Kind,
    /// How long it lasts, seconds.
    pub lasts: f64,
    /// Which worker or server, modulo how many there are.
    pub target: usize,
}

fn name<S: serde::Serializer>(kind: &&'static Kind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.name)
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Before it.
    pub calm: Duration,
    /// The fault.
    pub fault: Fault,
    /// One that overlaps with it, of another part.
    pub beside: Option<Fault>,
}

impl Step {
    /// The fault that begins first and ends last, and the one in between. While servers are away nothing else can be begun, so
    /// they go in between.
    #[must_use]
    pub fn nested(&self) -> (Fault, Option<Fault>) {
        match self.beside {
            Some(beside) if self.fault.kind.part == Part::Server => (beside, Some(self.fault)),
            beside => (self.fault, beside),
        }
    }
}

/// An endless plan: every kind once, in a random order, then again in another.
#[derive(Debug)]
pub struct Plan {
    kinds: Vec<&'static Kind>,
    ack_wait: f64,
    random: fastrand::Rng,
    left: Vec<&'static Kind>,
    steps: usize,
}

impl Plan {
    /// A plan of these kinds. Times that are counted in ack waits are times this one.
    #[must_use]
    pub fn new(seed: u64, kinds: &[&'static Kind], ack_wait: Duration) -> Self {
        Self {
            kinds: kinds.to_vec(),
            ack_wait: ack_wait.as_secs_f64(),
            random: fastrand::Rng::with_seed(seed),
            left: Vec::new(),
            steps: 0,
        }
    }

    fn fault(&mut self, kind: &'static Kind) -> Fault {
        let lasts = kind.lasts.at(self.random.f64(), self.ack_wait);
        Fault { kind, lasts: (lasts * 1000.0).round() / 1000.0, target: self.random.usize(..1 << 16) }
    }
}

impl Iterator for Plan {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.left.is_empty() {
            self.left.clone_from(&self.kinds);
            self.random.shuffle(&mut self.left);
        }
        let kind = self.left.pop()?;
        let calm = Duration::from_secs_f64(CALM.0 + (CALM.1 - CALM.0) * self.random.f64());
        let fault = self.fault(kind);
        self.steps += 1;
        let others: Vec<_> = self.kinds.iter().copied().filter(|other| other.part != kind.part).collect();
        let mixed = self.steps.is_multiple_of(MIXED_EVERY) && !others.is_empty();
        let beside = mixed.then(|| self.random.usize(..others.len())).map(|n| self.fault(others[n]));
        Some(Step { calm, fault, beside })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::chaos::kinds::KINDS;

    fn all() -> Vec<&'static Kind> {
        KINDS.iter().collect()
    }

    #[test]
    fn no_kinds_no_plan() {
        assert_eq!(Plan::new(1, &[], Duration::from_secs(1)).next(), None);
    }

    proptest! {
        #[test]
        fn the_seed_alone_decides(seed: u64) {
            let steps = || Plan::new(seed, &all(), Duration::from_secs(5)).take(100).collect::<Vec<_>>();
            prop_assert_eq!(steps(), steps());
            prop_assert_ne!(steps(), Plan::new(seed ^ 1, &all(), Duration::from_secs(5)).take(100).collect::<Vec<_>>());
        }

        #[test]
        fn every_kind_comes_once_before_any_comes_again(seed: u64) {
            let names = |steps: &[Step]| steps.iter().map(|step| step.fault.kind.name).collect::<BTreeSet<_>>();
            let steps: Vec<_> = Plan::new(seed, &all(), Duration::from_secs(5)).take(2 * KINDS.len()).collect();
            let (first, second) = steps.split_at(KINDS.len());
            prop_assert_eq!((names(first).len(), names(second).len()), (KINDS.len(), KINDS.len()));
        }

        #[test]
        fn faults_that_overlap_are_of_different_parts_and_last_as_their_kind_says(seed: u64, ack_wait in 1u64..60) {
            for step in Plan::new(seed, &all(), Duration::from_secs(ack_wait)).take(60) {
                prop_assert!(step.beside.is_none_or(|beside| beside.kind.part != step.fault.kind.part));
                let (outer, inner) = step.nested();
                prop_assert!(inner.is_none() || outer.kind.part != Part::Server);
                for fault in [Some(step.fault), step.beside].into_iter().flatten() {
                    let bound = |share| fault.kind.lasts.at(share, ack_wait as f64);
                    prop_assert!((bound(0.0) - 0.001..=bound(1.0) + 0.001).contains(&fault.lasts), "{fault:?}");
                }
            }
        }
    }
}
