//! Changes the route of a rollout, and never over a change of somebody else.

use embed_rollout::Rollout;
use embed_schemas::{
    RouteState, Weights,
    routes::{Lanes, describe},
};

use super::RolloutError;
use crate::route::{Change, OnFailure, Outcome, RouteError, Router, taken_back};

/// What came of an attempt to set a step's weights.
#[derive(Debug)]
pub(super) enum Set {
    /// Every server that answers holds them; the route has this revision now. Those that do not answer are named.
    Done(u64, Vec<String>),
    /// Somebody else has changed the route, or a check of the route fails.
    Stuck(String),
}

/// What came of an attempt to give everything back.
#[derive(Debug)]
pub(super) enum Back {
    /// The baseline has all traffic. Servers that do not answer are named.
    Done(Vec<String>),
    /// The route is somebody else's by now, and no person has asked for it to be overruled.
    NotOurs(String),
}

/// Gives the candidate a step's share.
///
/// # Errors
/// What may go better another time.
pub(super) async fn set(router: &Router, rollout: &Rollout, step: usize, revision: u64) -> Result<Set, RolloutError> {
    let (wanted, model) = (weights(rollout, rollout.percent_of(step)), &rollout.model);
    let (found, record) = router.current(model).await?;
    // What was tried before, by this controller or one that did not live to tell: it holds, or was taken back since a server did not answer.
    let ours = record.is_some_and(|record| {
        let tried = taken_back(&record).unwrap_or(&record.lanes);
        record.who == who(rollout) && holds(tried, rollout, &wanted)
    });
    let note = format!("step {} of {}", step + 1, rollout.config.plan.steps.len());
    let change = Change {
        lanes: rollout.lanes.clone(),
        note: Some(note),
        // Spaces are the rollout's own concern; whether variants are served is checked before.
        force: !rollout.config.probes.required,
        only_after: Some(if ours { found } else { revision }),
        ..Change::to(wanted.clone(), &who(rollout))
    };
    match router.set(model, &change).await {
        Ok(Outcome::Applied(applied)) => {
            let (found, record) = router.current(model).await?;
            match record {
                Some(record) if holds(&record.lanes, rollout, &wanted) => Ok(Set::Done(found, applied.missing)),
                record => Ok(Set::Stuck(changed(record.as_ref()))),
            }
        }
        // In effect, and it has no revision that a stage could rest on: it is written down the next time.
        Ok(end @ (Outcome::Unwritten { .. } | Outcome::HalfApplied { .. } | Outcome::Undone { passing: true, .. })) => {
            Err(RouteError::ended(end).into())
        }
        Ok(end @ (Outcome::Undone { passing: false, .. } | Outcome::Superseded { .. })) => {
            Ok(Set::Stuck(end.to_string()))
        }
        Err(error) if error.retryable() => Err(error.into()),
        Err(error) => Ok(Set::Stuck(error.to_string())),
    }
}

/// Gives everything back to the baseline, wherever it can be done. A route that somebody else has changed meanwhile is overruled only if a
/// person aborts the rollout.
///
/// # Errors
/// If it is not so everywhere. To be tried again.
pub(super) async fn give_back(router: &Router, rollout: &Rollout, reason: &str) -> Result<Back, RolloutError> {
    let mut only_after = None;
    // Without the bucket nobody else has written to it either.
    if !rollout.is_aborted()
        && let Ok((revision, record)) = router.current(&rollout.model).await
    {
        if !is_ours(rollout, record.as_ref()) {
            return Ok(Back::NotOurs(changed(record.as_ref())));
        }
        only_after = Some(revision);
    }
    let change = Change {
        lanes: rollout.lanes.clone(),
        note: Some(reason.to_owned()),
        force: true,
        on_failure: OnFailure::Keep,
        only_after,
        ..Change::all_to(rollout.from.clone(), &who(rollout))
    };
    match router.set(&rollout.model, &change).await? {
        Outcome::Applied(applied) => Ok(Back::Done(applied.missing)),
        // Whatever servers hold by now they keep; it is not over before all do, and it is written down. One that somebody else was faster than
        // is looked at anew: theirs is left to them, unless a person has aborted this one.
        end @ (Outcome::Unwritten { .. }
        | Outcome::HalfApplied { .. }
        | Outcome::Undone { .. }
        | Outcome::Superseded { .. }) => Err(RouteError::ended(end).into()),
    }
}

/// Why the route is no longer as this stage has set it, if so.
///
/// # Errors
/// If the bucket cannot be read.
pub(super) async fn changed_since(router: &Router, rollout: &Rollout) -> Result<Option<String>, RouteError> {
    let Some(stage) = rollout.stage() else { return Ok(None) };
    let (revision, record) = router.current(&rollout.model).await?;
    if revision == stage.route_revision {
        return Ok(None);
    }
    let as_set = record
        .as_ref()
        .is_some_and(|record| holds(&record.lanes, rollout, &weights(rollout, rollout.percent_of(stage.step))));
    // A server that was down and is back, say: the weights are the same.
    Ok((!as_set).then(|| changed(record.as_ref())))
}

/// Whether all traffic of the rollout's lanes goes to the baseline: otherwise, to what.
pub(super) fn elsewhere(
    rollout: &Rollout,
    route: Option<&embed_schemas::RouteRecord>,
    default: bool,
) -> Option<String> {
    let all = Weights::all_to(rollout.from.clone());
    let lanes = route.map(|record| record.lanes.clone()).unwrap_or_default();
    if let Some(record) = route.filter(|record| record.state == RouteState::Applying) {
        return Some(format!("a change of {} is not finished: run `embed route sync`", record.who));
    }
    // A lane without a route goes to the default variant.
    let there = rollout.lanes.iter().all(|lane| lanes.get(lane).map_or(default, |weights| *weights == all));
    (!there).then(|| {
        format!(
            "the traffic is not all at {}: {}. Run `embed route set {} --all-to {}` first, or name another variant with --from",
            rollout.from,
            describe(&lanes),
            rollout.model,
            rollout.from
        )
    })
}

/// Whether this rollout was the last to change the route, or it has the weights that this rollout has set all the same.
fn is_ours(rollout: &Rollout, record: Option<&embed_schemas::RouteRecord>) -> bool {
    let set = weights(rollout, rollout.percent());
    record.is_some_and(|record| record.who == who(rollout) || holds(&record.lanes, rollout, &set))
}

fn weights(rollout: &Rollout, percent: f64) -> Weights {
    // Steps are whole percents: the rollout was refused otherwise.
    let percent = percent as u8;
    let shares = [(rollout.to.clone(), percent), (rollout.from.clone(), 100 - percent)];
    Weights::new(shares.into_iter().filter(|(_, share)| *share > 0)).expect("two variants that share 100 percent")
}

fn holds(lanes: &Lanes, rollout: &Rollout, wanted: &Weights) -> bool {
    rollout.lanes.iter().all(|lane| lanes.get(lane) == Some(wanted))
}

fn changed(record: Option<&embed_schemas::RouteRecord>) -> String {
    match record {
        Some(record) => format!("{} has changed the route to {}", record.who, describe(&record.lanes)),
        None => "somebody has removed the route".to_owned(),
    }
}

fn who(rollout: &Rollout) -> String {
    format!("rollout {}", rollout.id)
}
