//! What was accepted, against what was heard of it: each job has an outcome, or is a dead letter. Pure.

use std::collections::{BTreeMap, HashSet};

use async_nats::header::HeaderBlock;
use embed_schemas::{JobId, Slug, headers, streams, wire::readable_id};

use super::{
    messages::{Hostile, Kind},
    sender::{Heard, job},
};

/// What became of the jobs of a kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fate {
    /// The server has stored them.
    pub accepted: u64,
    /// There is an outcome, and no dead letter.
    pub outcome: u64,
    /// They are dead letters.
    pub dead: u64,
    /// Neither.
    pub lost: u64,
}

/// Accounts for jobs: which of the seed's, and their sequences. Gives what became of each kind, and the numbers of those that are lost.
#[must_use]
pub fn account(model: &Slug, seed: u64, accepted: &[(u64, u64)], heard: &Heard) -> (BTreeMap<Kind, Fate>, Vec<u64>) {
    let made = made_ids(model, &heard.ids);
    let mut fates: BTreeMap<Kind, Fate> = BTreeMap::new();
    let mut lost = Vec::new();
    for (n, sequence) in accepted {
        let job = job(model, seed, *n);
        let fate = fates.entry(job.kind).or_default();
        fate.accepted += 1;
        if heard.dead.contains(sequence) {
            fate.dead += 1;
        } else if made.contains(sequence) || ids(&job).iter().any(|id| heard.ids.contains(id.as_str())) {
            fate.outcome += 1;
        } else {
            fate.lost += 1;
            lost.push(*n);
        }
    }
    (fates, lost)
}

/// The sequences of jobs that have an id of the worker's making, from their place in the stream.
fn made_ids(model: &Slug, ids: &HashSet<String>) -> HashSet<u64> {
    let prefix = format!("{}-", streams::jobs_stream(model));
    let sequence = |id: &String| id.strip_prefix(&prefix)?.split('-').next()?.parse().ok();
    ids.iter().filter_map(sequence).collect()
}

/// The ids under which a job's outcome may be: what it says itself, as far as that can be read, and what its headers say.
fn ids(job: &Hostile) -> Vec<JobId> {
    let block = job.headers.as_deref().map(HeaderBlock::parse).unwrap_or_default();
    let header = |name| block.headers.get(name).map(async_nats::HeaderValue::as_str);
    let content_type = header(headers::CONTENT_TYPE);
    let own = [readable_id(&job.payload, content_type), readable_id(&job.payload, None)];
    let named = header(headers::MSG_ID).and_then(|id| id.parse().ok());
    own.into_iter().chain([named]).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_that_was_accepted_is_accounted_for() {
        let model: Slug = "m".parse().unwrap();
        let accepted: Vec<(u64, u64)> = (0..200).map(|n| (n, n + 1)).collect();
        let (fates, lost) = account(&model, 1, &accepted, &Heard::default());
        assert_eq!(lost.len(), 200);
        assert_eq!(fates.values().map(|fate| fate.accepted).sum::<u64>(), 200);
        // The first is a dead letter, the second has an id from its place, and all that have an id have an outcome.
        let made = format!("{}-2-abc", streams::jobs_stream(&model));
        let own = (0..200).flat_map(|n| ids(&job(&model, 1, n))).map(|id| id.to_string());
        let heard = Heard { ids: own.chain([made]).collect(), dead: [1].into(), forged: 0 };
        let (fates, lost) = account(&model, 1, &accepted, &heard);
        assert_eq!(fates.values().map(|fate| fate.dead).sum::<u64>(), 1);
        assert!(!lost.contains(&0) && !lost.contains(&1) && !lost.is_empty());
        assert!(lost.iter().all(|n| ids(&job(&model, 1, *n)).is_empty()), "{lost:?}");
    }
}
