//! Whatever is taken from, added to, or changed in a flawless run is found, and nothing else.

use proptest::prelude::*;

use super::*;

/// A job of its own texts; every third has no id.
fn job(number: u64) -> Job {
    let first = u32::try_from(number).unwrap() * 2;
    Job {
        number,
        lane: if number.is_multiple_of(5) { "bulk" } else { "job" },
        id: (!number.is_multiple_of(3)).then(|| format!("j-{number}")),
        texts: vec![first, first + 1, 7],
        expect: Expect::Vectors,
        accepted: true,
        at: number as f64,
    }
}

fn stored(job: &Job) -> Stored {
    Stored {
        incarnation: 0,
        id: job.id.clone().unwrap_or_else(|| format!("made-{}", job.number)),
        rows: Ok(job.texts.iter().copied().map(Some).collect()),
    }
}

fn bad(number: u64) -> (Job, Dead) {
    let job = Job { expect: Expect::DeadLetter, ..job(number) };
    let dead = Dead { id: job.id.clone(), key: key(&job.texts), code: "unknown_prompt".into() };
    (job, dead)
}

fn flawless(count: u64) -> (Vec<Job>, Vec<Stored>) {
    let jobs: Vec<_> = (0..count).map(job).collect();
    let stored = jobs.iter().map(stored).collect();
    (jobs, stored)
}

fn found(judgement: &Judgement) -> Vec<(Wrong, Option<u64>)> {
    judgement.findings.iter().map(|finding| (finding.what, finding.number)).collect()
}

proptest! {
    #[test]
    fn a_flawless_run_has_no_findings(count in 0u64..50, seed: u64) {
        let (jobs, mut all) = flawless(count);
        fastrand::Rng::with_seed(seed).shuffle(&mut all);
        let judgement = judge(&jobs, &all, &[]);
        prop_assert_eq!(found(&judgement), []);
        prop_assert_eq!(judgement.counts.values().map(|counts| counts.stored).sum::<u64>(), count);
    }

    #[test]
    fn what_is_missing_is_lost(count in 1u64..50, which: prop::sample::Index) {
        let (mut jobs, mut all) = flawless(count);
        let n = which.index(all.len());
        all.remove(n);
        prop_assert_eq!(found(&judge(&jobs, &all, &[])), [(Wrong::Lost, Some(n as u64))]);
        jobs[n].accepted = false;
        prop_assert_eq!(found(&judge(&jobs, &all, &[])), [], "nobody was told that it was accepted");
    }

    #[test]
    fn what_is_there_twice_is_doubled(count in 1u64..50, which: prop::sample::Index, other: bool, accepted: bool) {
        let (mut jobs, mut all) = flawless(count);
        let n = which.index(all.len());
        jobs[n].accepted = accepted;
        let mut again = all[n].clone();
        if other {
            again.id = "made-of-another".into();
        }
        all.push(again.clone());
        prop_assert_eq!(found(&judge(&jobs, &all, &[])), [(Wrong::Doubled, Some(n as u64))]);
        again.incarnation = 1;
        *all.last_mut().unwrap() = again;
        prop_assert_eq!(found(&judge(&jobs, &all, &[])), [], "the stream was made anew in between");
    }

    #[test]
    fn vectors_of_another_are_wrong(count in 2u64..50, which: prop::sample::Index, row in 0usize..3) {
        let (jobs, mut all) = flawless(count);
        let n = which.index(all.len());
        all[n].rows.as_mut().unwrap()[row] = None;
        let findings = found(&judge(&jobs, &all, &[]));
        if jobs[n].id.is_some() || row == 2 {
            prop_assert_eq!(findings, [(Wrong::Wrong, Some(n as u64))]);
        } else {
            // Without an id and without its first vectors, nobody can tell whose it is.
            prop_assert_eq!(findings, [(Wrong::Lost, Some(n as u64)), (Wrong::Wrong, None)]);
        }
    }

    #[test]
    fn the_dead_are_dead_without_cause_unless_they_cannot_be_served(count in 1u64..50, which: prop::sample::Index) {
        let (mut jobs, mut all) = flawless(count);
        let n = which.index(all.len());
        let (bad, letter) = bad(n as u64);
        all.remove(n);
        prop_assert_eq!(found(&judge(&jobs, &all, std::slice::from_ref(&letter))), [(Wrong::Dead, Some(n as u64))]);
        jobs[n] = bad;
        prop_assert_eq!(found(&judge(&jobs, &all, std::slice::from_ref(&letter))), []);
        prop_assert_eq!(found(&judge(&jobs, &all, &[letter.clone(), letter])), [(Wrong::Doubled, Some(n as u64))]);
        prop_assert_eq!(found(&judge(&jobs, &all, &[])), [(Wrong::Lost, Some(n as u64))]);
    }
}

#[test]
fn a_failure_is_an_outcome_of_those_that_cannot_be_served() {
    let (job, letter) = bad(1);
    let failure = Stored { incarnation: 0, id: "j-1".into(), rows: Err("unknown_prompt".into()) };
    assert_eq!(found(&judge(std::slice::from_ref(&job), std::slice::from_ref(&failure), &[letter])), []);
    let good = Job { expect: Expect::Vectors, ..job };
    assert_eq!(found(&judge(&[good], &[failure], &[])), [(Wrong::Dead, Some(1))]);
}
