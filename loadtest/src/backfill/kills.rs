//! Which process is killed when. Pure.

use std::time::Duration;

use fastrand::Rng;
use serde::Serialize;

/// A process that a backfill needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Party {
    /// `embed`, which goes on with `embed backfill resume`.
    Producer,
    /// One of the workers.
    Worker,
    /// nats-server.
    Server,
    /// The S3 server.
    Store,
}

impl Party {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Producer, Self::Worker, Self::Server, Self::Store];

    /// In words.
    #[must_use]
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Producer => "embed",
            Self::Worker => "worker",
            Self::Server => "nats-server",
            Self::Store => "S3 server",
        }
    }
}

/// A process is killed, and started again after a while.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Kill {
    /// Whose process.
    pub party: Party,
    /// Which of several.
    pub target: usize,
    /// When so much of the rows has been embedded.
    pub at: f64,
    /// For how long it is gone.
    pub gone: Duration,
}

/// So many kills, in the order in which they come: each party's once, as far as the number allows, then anybody's.
#[must_use]
pub(super) fn plan(seed: u64, kills: usize) -> Vec<Kill> {
    let mut rng = Rng::with_seed(seed);
    let mut parties = Party::ALL;
    rng.shuffle(&mut parties);
    let more = std::iter::repeat_with(|| Party::ALL[rng.usize(..Party::ALL.len())]);
    let mut parties: Vec<Party> = parties.into_iter().chain(more.take(kills)).take(kills).collect();
    rng.shuffle(&mut parties);
    // Early enough that there is something left to do after the last, however long it takes to start again, late enough that something has been done.
    let mut moments: Vec<f64> = parties.iter().map(|_| 0.05 + rng.f64() * 0.6).collect();
    moments.sort_by(f64::total_cmp);
    let kill = |(party, at)| Kill { party, target: rng.usize(..), at, gone: Duration::from_millis(rng.u64(100..1500)) };
    parties.into_iter().zip(moments).map(kill).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_party_is_hit_and_moments_ascend(seed: u64, kills in 0usize..20) {
            let plan = plan(seed, kills);
            prop_assert_eq!(plan.len(), kills);
            let hit = Party::ALL.iter().filter(|party| plan.iter().any(|kill| kill.party == **party)).count();
            prop_assert!(hit >= kills.min(Party::ALL.len()));
            prop_assert!(plan.is_sorted_by(|a, b| a.at <= b.at));
            prop_assert!(plan.iter().all(|kill| (0.05..0.65).contains(&kill.at)));
            prop_assert_eq!(super::plan(seed, kills), plan);
        }
    }
}
