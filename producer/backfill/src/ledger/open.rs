//! A runner takes a backfill, or is refused.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use embed_client::Client;
use embed_schemas::{JobId, streams::BACKFILLS_BUCKET};
use tokio::time::Instant;

use super::{
    Keeper, Live, Wish,
    entry::{Entry, PlanPieces},
    keeper::{self, Given},
    place,
    store::{Found, Store, is_denied},
};
use crate::{Error, State};

/// In a tenant's account there is no bucket, and nobody to say so.
const TENANTS_PATIENCE: Duration = Duration::from_secs(2);
/// A bucket without a leader for longer than it takes to choose one is not waited for by who can do without.
const PATIENCE: Duration = Duration::from_secs(15);
/// An entry that changes while it is being taken is read again so often.
const ATTEMPTS: usize = 4;

/// Where rows go, as far as it matters who may write there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// On this machine: a lock guards it, which this run has, and the state stands beside it as well.
    Local(PathBuf),
    /// Elsewhere: nothing but the lease guards it, and nothing but the bucket keeps the state.
    Remote(String),
}

impl Target {
    /// On this machine.
    pub(crate) fn local(path: &Path) -> Self {
        Self::Local(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
    }

    /// The same by its name in the bucket.
    pub(super) fn named(name: &str) -> Self {
        if name.contains("://") { Self::Remote(name.to_owned()) } else { Self::Local(name.into()) }
    }

    /// Its name in the bucket.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Local(path) => path.to_string_lossy().into_owned(),
            Self::Remote(location) => location.clone(),
        }
    }

    /// Whether the bucket is all there is.
    pub(super) const fn is_all(&self) -> bool {
        matches!(self, Self::Remote(_))
    }
}

/// Takes a backfill for this run: `None` if the bucket cannot be used, and need not be. `wish`: what is wanted of it from now on.
///
/// # Errors
/// If somebody else runs it, or an output elsewhere is another backfill's (unless `force`, which makes it this one's).
pub(crate) async fn open(
    client: &Client,
    state: &State,
    target: &Target,
    wish: Wish,
    force: bool,
    lease: Duration,
) -> Result<Option<Keeper>, Error> {
    let taken = take(Store::new(client.nats()), state, target, wish, force, lease);
    let taken = match (&state.parameters.tenant, target) {
        (Some(_), Target::Local(_)) => match tokio::time::timeout(TENANTS_PATIENCE, taken).await {
            Ok(taken) => taken,
            Err(_) => return Ok(None),
        },
        (None, Target::Local(_)) => match tokio::time::timeout(PATIENCE, taken).await {
            Ok(taken) => taken,
            Err(_) => {
                unrecorded(&format!("the bucket {BACKFILLS_BUCKET} has not answered for {} s", PATIENCE.as_secs()));
                return Ok(None);
            }
        },
        (_, Target::Remote(_)) => taken.await,
    };
    match (taken, target) {
        (Ok(given), _) => Ok(Some(Keeper::start(given))),
        (Err(error), Target::Remote(location)) if is_denied(&error) => Err(Error::Backfill(format!(
            "{error}. The state of a backfill into {location} is kept in the bucket {BACKFILLS_BUCKET}: have `embed init` make it, and \
             permit its use (`embed init --print-permissions backfill`)"
        ))),
        // Refused, or unknown: an output that a lock guards can do without the bucket, but not against somebody's will.
        (Err(error @ Error::Backfill(_)), _) | (Err(error), Target::Remote(_)) => Err(error),
        (Err(error), Target::Local(_)) => {
            unrecorded(&error.to_string());
            Ok(None)
        }
    }
}

fn unrecorded(why: &str) {
    tracing::warn!(
        "{why}: how far this backfill is is recorded beside its output only, and `embed backfill list`, `pause` and `cancel` do not know it"
    );
}

async fn take(
    store: Store,
    state: &State,
    target: &Target,
    wish: Wish,
    force: bool,
    lease: Duration,
) -> Result<Given, Error> {
    let id = &state.id;
    let me = keeper::runner(lease);
    for _ in 0..ATTEMPTS {
        let found = store.get(id.as_str()).await?;
        let claim = match target {
            Target::Remote(location) => Some(may_claim(&store, location, id, force).await?),
            Target::Local(_) => None,
        };
        let (after, plan, parts) = match &found {
            Some(found) => {
                refuse_running(&store, found, target).await?;
                if found.entry.wish == Wish::Cancel && wish != Wish::Cancel {
                    return Err(Error::Backfill(format!(
                        "backfill {id} is to be cancelled: end that with `embed backfill cancel {id}`"
                    )));
                }
                if target.is_all() && found.entry.state.saves > state.saves {
                    return Err(Error::Backfill(format!(
                        "backfill {id} has gone on meanwhile, run by somebody else: look with `embed backfill status {id}`, and try again"
                    )));
                }
                (found.revision, found.entry.plan.clone(), found.entry.parts.clone())
            }
            None => (store.revision(id.as_str()).await?, PlanPieces::default(), Vec::new()),
        };
        let progress = found.map_or_else(Live::default, |found| found.entry.progress);
        let mut entry = Entry {
            state: state.clone(),
            plan,
            parts,
            inputs_left: 0,
            output: target.name(),
            host: place::host(),
            runner: Some(me.clone()),
            wish,
            progress: Live {
                rows: state.done.rows,
                failed: state.failed,
                input_bytes: state.plan.bytes_before(state.done),
                input_size: state.plan.bytes(),
                updated: embed_control::now(),
                ..progress
            },
        };
        store.keep_all(&mut entry, state).await?;
        let asked = Instant::now();
        let Some(revision) = store.put(&entry, after).await? else { continue };
        if let (Some((claim, true)), Target::Remote(location)) = (claim, target)
            && !store.claim(location, id, claim).await?
        {
            store.remove(&entry, revision).await?;
            return Err(Error::Backfill(format!("another backfill into {location} has begun at the same time")));
        }
        let (target, state) = (target.clone(), state.clone());
        return Ok(Given { store, target, me, state, entry, revision, asked });
    }
    Err(Error::Backfill(format!("backfill {id} is being taken by somebody else at the same time")))
}

/// One that somebody runs is theirs, until the lease is over. With the lock of its output, whoever has run it on this machine is gone.
async fn refuse_running(store: &Store, found: &Found, target: &Target) -> Result<(), Error> {
    let Found { entry, at_ms, .. } = found;
    let Some(runner) = &entry.runner else { return Ok(()) };
    let is_here = runner.place.is_some() && runner.place == place::place();
    if matches!(target, Target::Local(_)) && is_here {
        return Ok(());
    }
    let left = entry.lease_left(*at_ms, store.now_ms().await?);
    if left.is_zero() {
        return Ok(());
    }
    let left = Duration::from_secs(left.as_secs() + 1);
    Err(Error::Backfill(format!(
        "backfill {} into {} is run by {runner}. If that has died, its lease is over in {}: try again then. To stop it: `embed backfill pause {0}`",
        entry.state.id,
        entry.output,
        humantime::format_duration(left)
    )))
}

/// Whether an output is this backfill's, or can be: the revision of its claim, and whether it is to be claimed.
async fn may_claim(store: &Store, location: &str, id: &JobId, force: bool) -> Result<(u64, bool), Error> {
    let (revision, claimed) = store.claimed(location).await?;
    let other = match claimed {
        None => return Ok((revision, true)),
        Some(other) if other == *id => return Ok((revision, false)),
        Some(other) => other,
    };
    let Some(found) = store.get(other.as_str()).await? else { return Ok((revision, true)) };
    refuse_running(store, &found, &Target::Remote(location.to_owned())).await?;
    let state = &found.entry.state;
    if force {
        store.remove(&found.entry, found.revision).await?;
        let (revision, _) = store.claimed(location).await?;
        return Ok((revision, true));
    }
    Err(Error::Backfill(match (state.finished, state.cancelled) {
        (true, _) | (_, true) => {
            format!("{location} is the output of backfill {other}, which has ended: pass --force to begin anew")
        }
        (false, false) => format!(
            "backfill {other} into {location} is unfinished: go on with `embed backfill resume {location}`, or pass --force to begin anew"
        ),
    }))
}

/// Removes the entry of a backfill whose output another is about to overwrite. What stays of it does no harm.
pub(crate) async fn forget(client: &Client, id: &JobId) {
    let store = Store::new(client.nats());
    let removed = async {
        match store.get(id.as_str()).await? {
            Some(found) => store.remove(&found.entry, found.revision).await,
            None => Ok(true),
        }
    };
    if let Err(error) = removed.await {
        tracing::debug!(%error, "the entry of the backfill before stays");
    }
}
