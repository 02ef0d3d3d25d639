//! What was accepted, compared with what was stored: by id, and by vector. Pure.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

/// A job that was published.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its number, and what it is called in reports.
    pub number: u64,
    /// Its lane.
    pub lane: &'static str,
    /// Its id, if its publisher gave it one.
    pub id: Option<String>,
    /// Its texts, as places in the list of references. The first two are those of no other job.
    pub texts: Vec<u32>,
    /// What is to become of it.
    pub expect: Expect,
    /// Whether the server has acknowledged it. One that it has not may be stored or not, but not twice.
    pub accepted: bool,
    /// When it was accepted or given up, seconds from the start of the run.
    pub at: f64,
}

/// What is to become of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Vectors.
    Vectors,
    /// A dead letter.
    DeadLetter,
}

/// An outcome that was found in the results stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// How often the stream had been made anew. Who takes a stream away takes what was stored with it.
    pub incarnation: u32,
    /// The id under which it is stored.
    pub id: String,
    /// For each row, the reference that it equals, if it equals one; or the code of a failure.
    pub rows: Result<Vec<Option<u32>>, String>,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead {
    /// The job's id, if its publisher gave it one.
    pub id: Option<String>,
    /// The first two texts, as places in the list of references, where they are there.
    pub key: Option<(u32, u32)>,
    /// Why.
    pub code: String,
}

/// What went wrong with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wrong {
    /// It was accepted, and nothing became of it.
    Lost,
    /// More than one thing was stored for it.
    Doubled,
    /// What was stored is not its vectors, or vectors where there should be none.
    Wrong,
    /// It became a dead letter, or failed, and nothing was wrong with it.
    Dead,
}

impl Wrong {
    /// All.
    pub const ALL: [Self; 4] = [Self::Lost, Self::Doubled, Self::Wrong, Self::Dead];
}

/// A job with which something went wrong.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// What.
    pub what: Wrong,
    /// The job's number; `None` if it is nobody's.
    pub number: Option<u64>,
    /// The job's lane.
    pub lane: &'static str,
    /// Its id, or that under which something is stored.
    pub id: Option<String>,
    /// When it was accepted, seconds from the start.
    pub at: f64,
    /// What was found.
    pub found: String,
}

/// Jobs, by what became of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Published and acknowledged.
    pub accepted: u64,
    /// Published, and nobody knows: the acknowledgement never came.
    pub unknown: u64,
    /// Those of both whose vectors are stored, or whose dead letter is where there should be one.
    pub stored: u64,
}

/// The verdict.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Judgement {
    /// By lane, those with an id and those without apart.
    pub counts: BTreeMap<String, Counts>,
    /// What went wrong.
    pub findings: Vec<Finding>,
}

impl Judgement {
    /// How many times this went wrong.
    #[must_use]
    pub fn count(&self, what: Wrong) -> usize {
        self.findings.iter().filter(|finding| finding.what == what).count()
    }
}

/// What there is of one job.
#[derive(Debug, Default)]
struct Found<'a> {
    outcomes: Vec<&'a Stored>,
    letters: Vec<&'a Dead>,
}

/// Compares.
#[must_use]
pub fn judge(jobs: &[Job], stored: &[Stored], dead: &[Dead]) -> Judgement {
    let by_id: HashMap<&str, usize> =
        jobs.iter().enumerate().filter_map(|(n, job)| Some((job.id.as_deref()?, n))).collect();
    let by_key: HashMap<(u32, u32), usize> =
        jobs.iter().enumerate().filter_map(|(n, job)| Some((key(&job.texts)?, n))).collect();
    let mut found: Vec<Found<'_>> = jobs.iter().map(|_| Found::default()).collect();
    let mut judgement = Judgement::default();
    for outcome in stored {
        let key = || key(&outcome.rows.as_ref().ok()?.iter().take(2).copied().collect::<Option<Vec<_>>>()?);
        match by_id.get(outcome.id.as_str()).copied().or_else(|| by_key.get(&key()?).copied()) {
            Some(n) => found[n].outcomes.push(outcome),
            // The worker stores a failure under an id of its own making; whose it is, only the dead letter says.
            None if outcome.rows.is_err() => {}
            None => judgement.findings.push(nobodys(outcome)),
        }
    }
    for letter in dead {
        let id = letter.id.as_deref().and_then(|id| by_id.get(id));
        if let Some(n) = id.or_else(|| by_key.get(&letter.key?)) {
            found[*n].letters.push(letter);
        }
    }
    for (job, found) in jobs.iter().zip(&found) {
        let counts = judgement.counts.entry(group(job)).or_default();
        counts.accepted += u64::from(job.accepted);
        counts.unknown += u64::from(!job.accepted);
        let wrong = look(job, found);
        let there = match job.expect {
            Expect::Vectors => !found.outcomes.is_empty(),
            Expect::DeadLetter => !found.letters.is_empty() || !found.outcomes.is_empty(),
        };
        counts.stored += u64::from(wrong.is_empty() && there);
        judgement.findings.extend(wrong.into_iter().map(|(what, found)| Finding {
            what,
            number: Some(job.number),
            lane: job.lane,
            id: job.id.clone(),
            at: job.at,
            found,
        }));
    }
    judgement.findings.sort_by(|a, b| a.what.cmp(&b.what).then(a.at.total_cmp(&b.at)));
    judgement
}

fn group(job: &Job) -> String {
    let bad = if job.expect == Expect::DeadLetter { ", cannot be served" } else { "" };
    format!("{} {} id{bad}", job.lane, if job.id.is_some() { "with" } else { "without" })
}

/// What tells a job from all others.
fn key(texts: &[u32]) -> Option<(u32, u32)> {
    Some((*texts.first()?, *texts.get(1)?))
}

fn nobodys(outcome: &Stored) -> Finding {
    let found = format!("stored under {}, and it is the result of no job", outcome.id);
    Finding { what: Wrong::Wrong, number: None, lane: "", id: Some(outcome.id.clone()), at: 0.0, found }
}

fn look(job: &Job, found: &Found<'_>) -> Vec<(Wrong, String)> {
    let mut wrong = Vec::new();
    let vectors: Vec<_> = found.outcomes.iter().filter_map(|o| Some((*o, o.rows.as_ref().ok()?))).collect();
    let failures: Vec<_> = found.outcomes.iter().filter_map(|o| o.rows.as_ref().err()).collect();
    let mut times: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    found.outcomes.iter().for_each(|o| times.entry(o.incarnation).or_default().push(&o.id));
    if let Some(ids) = times.values().find(|ids| ids.len() > 1) {
        wrong.push((Wrong::Doubled, format!("stored {} times, under {}", ids.len(), ids.join(", "))));
    }
    if found.letters.len() > 1 {
        wrong.push((Wrong::Doubled, format!("{} dead letters", found.letters.len())));
    }
    match job.expect {
        Expect::Vectors => {
            let other = |rows: &[Option<u32>]| {
                rows.len() != job.texts.len() || rows.iter().zip(&job.texts).any(|(row, text)| *row != Some(*text))
            };
            if let Some((outcome, _)) = vectors.iter().find(|(_, rows)| other(rows)) {
                wrong.push((Wrong::Wrong, format!("what is stored under {} are not its vectors", outcome.id)));
            }
            let codes = found.letters.iter().map(|letter| &letter.code).chain(failures).cloned();
            let codes: Vec<String> = codes.collect();
            if !codes.is_empty() {
                wrong.push((Wrong::Dead, codes.join(", ")));
            } else if found.outcomes.is_empty() && job.accepted {
                wrong.push((Wrong::Lost, "nothing".to_owned()));
            }
        }
        Expect::DeadLetter => {
            if !vectors.is_empty() {
                wrong.push((Wrong::Wrong, "vectors, and it cannot be served".to_owned()));
            } else if found.letters.is_empty() && failures.is_empty() && job.accepted {
                // Where no letter can be stored, the failure is all there is.
                wrong.push((Wrong::Lost, "neither a dead letter nor a failure".to_owned()));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests;
