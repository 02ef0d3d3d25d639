//! What is left to do once a rollout has been promoted: its candidate becomes the default, the route that gave it its traffic is not needed any
//! more, and neither is the variant that it has replaced.

use std::time::Duration;

use embed_client::Client;
use embed_rollout::{Rollout, state};
use embed_schemas::{
    Lane, RouteRecord, Slug, Weights,
    routes::{Lanes, describe},
};

use super::RolloutError;
use crate::{
    Error,
    models::{self, Unserve},
    route::{Change, Outcome, RouteError, Router},
};

/// Something that ends a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The candidate takes what is sent to the model without a variant.
    Default,
    /// The route is removed: everything goes to the default variant.
    Route,
    /// The variant that was replaced is not wanted any more.
    Unserve,
}

impl Ending {
    /// In words, as what is to be done.
    #[must_use]
    pub fn describe(self, rollout: &Rollout) -> String {
        let Rollout { model, from, to, .. } = rollout;
        match self {
            Self::Default => format!("make {to} the default variant of {model}"),
            Self::Route => format!("remove the route of {model}"),
            Self::Unserve => format!("unserve {from}"),
        }
    }
}

/// What is to be done to end a promoted rollout, in order. What is done already is left out.
///
/// # Errors
/// [`Error::Settings`] if it was not promoted, if somebody else has given its traffic to others since, if a lane was not part of it, or if workers' configuration decides.
pub async fn endings(client: &Client, router: &Router, rollout: &Rollout) -> Result<Vec<Ending>, RolloutError> {
    let Rollout { model, from, to, .. } = rollout;
    let refuse = |why: String| Err(Error::Settings(why).into());
    if rollout.outcome() != Some(state::Outcome::Promoted) {
        let state = rollout.phase.as_str();
        return refuse(format!(
            "the rollout {} of {model} is {state}: only a promoted one can be finished",
            rollout.id
        ));
    }
    let (_, route) = router.current(model).await?;
    if let Some(why) = route.as_ref().and_then(|record| elsewhere(record, rollout)) {
        return refuse(why);
    }
    let (statuses, wanted) = (client.statuses().await?, models::desired(client).await?);
    let of = |variant: &embed_schemas::Slug| (model.clone(), variant.clone());
    let is_default = statuses.get(&of(to)).is_some_and(|statuses| statuses.iter().all(|status| status.default));
    let lanes = route.as_ref().map(|record| record.lanes.clone()).unwrap_or_default();
    let unmoved = unmoved(&lanes, to, is_default);
    if !unmoved.is_empty() {
        let unmoved: Vec<_> = unmoved.into_iter().map(Lane::as_str).collect();
        return refuse(format!(
            "nothing was found out about {to} on lanes that this rollout did not move: {}. Roll them out, or set their route, first",
            unmoved.join(", ")
        ));
    }
    if !is_default && !wanted.contains_key(&of(to)) {
        return refuse(format!(
            "workers' configuration serves {to}: make it the default there (`default = true`), and finish again"
        ));
    }
    let routed = route.is_some_and(|record| !record.lanes.is_empty());
    let all =
        [(Ending::Default, !is_default), (Ending::Route, routed), (Ending::Unserve, wanted.contains_key(&of(from)))];
    Ok(all.into_iter().filter(|(_, needed)| *needed).map(|(ending, _)| ending).collect())
}

/// Why there is nothing to finish, if a route gives anything to another than the candidate.
fn elsewhere(record: &RouteRecord, rollout: &Rollout) -> Option<String> {
    let (all, Rollout { model, to, .. }) = (Weights::all_to(rollout.to.clone()), rollout);
    record.lanes.values().any(|weights| *weights != all).then(|| {
        let (who, lanes) = (&record.who, describe(&record.lanes));
        format!("{who} has set the route of {model} to {lanes}: not all is at {to}, so there is nothing to finish")
    })
}

/// Lanes that neither the route nor the default gives to the candidate: making it the default would move them.
fn unmoved(lanes: &Lanes, to: &Slug, is_default: bool) -> Vec<Lane> {
    let all = Weights::all_to(to.clone());
    Lane::ALL.into_iter().filter(|lane| !lanes.get(lane).map_or(is_default, |weights| *weights == all)).collect()
}

/// Does one of them. Waits up to `timeout` for workers. Gives back what else there is to know.
///
/// # Errors
/// What is done stays done: the same again goes on.
pub async fn end(
    client: &Client,
    router: &Router,
    rollout: &Rollout,
    ending: Ending,
    who: &str,
    timeout: Duration,
) -> Result<Option<String>, RolloutError> {
    let Rollout { model, from, to, .. } = rollout;
    match ending {
        Ending::Default => {
            models::make_default(client, model, to, who).await?.wait(client, timeout, |_| {}).await?;
            Ok(None)
        }
        Ending::Route => {
            // Whoever has given traffic to others since, while workers were waited for, say, has a reason.
            let (revision, route) = router.current(model).await?;
            if let Some(why) = route.as_ref().and_then(|record| elsewhere(record, rollout)) {
                return Err(Error::Settings(why).into());
            }
            let note = Some(format!("end of rollout {}", rollout.id));
            let change = Change { note, only_after: Some(revision), ..Change::clear(who) };
            match router.set(model, &change).await? {
                Outcome::Applied(applied) => {
                    let missing = applied.missing.join(", ");
                    Ok((!missing.is_empty())
                        .then(|| format!("{missing} do not answer: run `embed route sync` when they are back")))
                }
                // The variant that was replaced stays, as long as some server may send to it.
                end @ (Outcome::Unwritten { .. }
                | Outcome::HalfApplied { .. }
                | Outcome::Undone { .. }
                | Outcome::Superseded { .. }) => Err(RouteError::ended(end).into()),
            }
        }
        Ending::Unserve => {
            let what = Unserve { model: model.clone(), variant: from.clone(), default: Some(to.clone()), force: false };
            let waiting = models::unserve(client, &what).await?.waiting;
            Ok((waiting > 0)
                .then(|| format!("{waiting} jobs that had been sent to {from} wait until somebody serves it")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_that_was_not_rolled_out_is_not_moved_by_the_end() {
        let (a, b): (Slug, Slug) = ("a".parse().unwrap(), "b".parse().unwrap());
        let rpc = Lanes::from([(Lane::Rpc, Weights::all_to(b.clone()))]);
        let rest: Vec<_> = Lane::ALL.into_iter().filter(|lane| *lane != Lane::Rpc).collect();
        assert_eq!(unmoved(&rpc, &b, false), rest);
        assert_eq!(unmoved(&rpc, &b, true), []);
        assert_eq!(unmoved(&rpc, &a, true), [Lane::Rpc]);
        let all = Lane::ALL.into_iter().map(|lane| (lane, Weights::all_to(b.clone()))).collect();
        assert_eq!(unmoved(&all, &b, false), []);
        assert_eq!(unmoved(&Lanes::new(), &b, true), []);
    }
}
