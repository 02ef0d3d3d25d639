//! What people want of backfills, wherever those run.

use std::{path::Path, time::Duration};

use embed_client::Client;
use embed_schemas::{JobId, Slug};
use serde::Serialize;

use super::{
    Live, Phase, Runner, Target, Wish, find,
    find::{Recorded, known, recorded},
    open,
    store::{Found, Store},
};
use crate::{Error, Pace, State, output::Output, queue};

/// Between two looks whether a runner has obeyed.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// An entry that changes while a wish is written is read again so often.
const ATTEMPTS: usize = 10;

/// A backfill in the list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Listed {
    /// Its id.
    pub id: JobId,
    /// How it stands.
    pub phase: Phase,
    /// What it reads.
    pub inputs: Vec<String>,
    /// Where its rows go.
    pub output: String,
    /// The host on which it was last run.
    pub host: String,
    /// The model.
    pub model: Slug,
    /// The variant, if one was asked for.
    pub variant: Option<Slug>,
    /// Who runs it.
    pub runner: Option<Runner>,
    /// How far it is.
    pub progress: Live,
}

/// What became of a wish.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Asked {
    /// The backfill.
    pub id: JobId,
    /// Where its rows go.
    pub output: String,
    /// How it stands now.
    pub phase: Phase,
    /// Rows written.
    pub rows: u64,
}

/// All backfills that the bucket knows, the oldest first.
///
/// # Errors
/// If the bucket cannot be read.
pub async fn list(client: &Client) -> Result<Vec<Listed>, Error> {
    let store = Store::new(client.nats());
    let now_ms = store.now_ms().await?;
    Ok(store.all().await?.into_iter().map(|found| listed(found, now_ms)).collect())
}

fn listed(found: Found, now_ms: u64) -> Listed {
    let find::KnownEntry { phase, .. } = known(&found, now_ms);
    let super::entry::Entry { state, output, host, runner, progress, inputs_left, .. } = found.entry;
    let State { id, mut parameters, .. } = state;
    if inputs_left > 0 {
        parameters.inputs.push(format!("… and {inputs_left} more"));
    }
    let (model, variant) = (parameters.model, parameters.variant);
    // Whoever has gone runs nothing.
    let runner = runner.filter(|_| matches!(phase, Phase::Running | Phase::Stopping));
    Listed { id, phase, inputs: parameters.inputs, output, host, model, variant, runner, progress }
}

/// Removes the entries of backfills that ended so long ago, and says which. Outputs stay, and states beside them.
///
/// # Errors
/// If the bucket cannot be read or written.
pub async fn remove_old(client: &Client, age: Duration) -> Result<Vec<JobId>, Error> {
    let store = Store::new(client.nats());
    let now_ms = store.now_ms().await?;
    let mut removed = Vec::new();
    for found in store.all().await? {
        let is_old = Duration::from_millis(now_ms.saturating_sub(found.at_ms)) >= age;
        let has_ended = matches!(known(&found, now_ms).phase, Phase::Finished | Phase::Cancelled);
        if is_old && has_ended && store.remove(&found.entry, found.revision).await? {
            removed.push(found.entry.state.id);
        }
    }
    Ok(removed)
}

/// Has whoever runs a backfill keep what is done, and end. Waits until that is so, or the lease is over.
///
/// # Errors
/// If there is no such backfill in the bucket, it has ended, or the bucket cannot be used.
pub async fn pause(client: &Client, name: &Path) -> Result<Asked, Error> {
    let store = Store::new(client.nats());
    let found = wish(&store, client, name, Wish::Pause).await?;
    settled(&store, &found.entry.state.id).await
}

/// Ends a backfill for good: whoever runs it stops, and results that are left are removed. What is written stays.
///
/// # Errors
/// As [`pause`].
pub async fn cancel(client: &Client, name: &Path, pace: &Pace) -> Result<Asked, Error> {
    let store = Store::new(client.nats());
    let Recorded { state, found, .. } = recorded(client, name, |_| true).await?;
    refuse_ended(&state)?;
    if found.is_some() {
        let found = wish(&store, client, name, Wish::Cancel).await?;
        let asked = settled(&store, &found.entry.state.id).await?;
        if asked.phase == Phase::Cancelled {
            return Ok(asked);
        }
    }
    // Nobody runs it.
    cancel_here(client, name, pace).await
}

async fn cancel_here(client: &Client, name: &Path, pace: &Pace) -> Result<Asked, Error> {
    let Recorded { target, state, .. } = recorded(client, name, |_| true).await?;
    // A file that is not on this machine is nobody's here.
    let lock = match &target {
        Target::Local(path) if path.exists() => Some(Output::reopen(path, &state.parameters, &state.plan).await?),
        _ => None,
    };
    let Recorded { mut state, .. } = recorded(client, name, |_| true).await?;
    refuse_ended(&state)?;
    let keeper = open(client, &state, &target, Wish::Cancel, false, pace.lease).await?;
    state.cancelled = true;
    state.saves += 1;
    if let (Target::Local(path), Some(_)) = (&target, &lock) {
        state.save(path.as_path())?;
    }
    queue::Purger::start(client, &state).finish(true, queue::perhaps_stored(&state)).await;
    let progress = Live {
        rows: state.done.rows,
        failed: state.failed,
        input_bytes: state.plan.bytes_before(state.done),
        input_size: state.plan.bytes(),
        updated: embed_control::now(),
        ..Live::default()
    };
    if let Some(keeper) = keeper {
        keeper.close(&state, progress).await;
    }
    Ok(Asked { id: state.id, output: target.name(), phase: Phase::Cancelled, rows: state.done.rows })
}

fn refuse_ended(state: &State) -> Result<(), Error> {
    let ended = match (state.cancelled, state.finished) {
        (true, _) => "cancelled",
        (_, true) => "finished",
        (false, false) => return Ok(()),
    };
    Err(Error::Backfill(format!("backfill {} is {ended} already", state.id)))
}

/// Writes down what is wanted. Gives back what was found before.
async fn wish(store: &Store, client: &Client, name: &Path, wanted: Wish) -> Result<Found, Error> {
    for _ in 0..ATTEMPTS {
        let Recorded { state, found, target } = recorded(client, name, |_| true).await?;
        let Some(mut found) = found else {
            return Err(Error::Backfill(format!(
                "the bucket does not know the backfill into {}: whoever runs it can be stopped with Ctrl-C or SIGTERM",
                target.name()
            )));
        };
        refuse_ended(&state)?;
        // A cancellation is not taken back.
        if found.entry.wish == wanted || found.entry.wish == Wish::Cancel {
            return Ok(found);
        }
        found.entry.wish = wanted;
        // To whoever has gone, what is written now would be one more lease.
        if known(&found, store.now_ms().await?).lease_left.is_zero() {
            found.entry.runner = None;
        }
        if store.put(&found.entry, found.revision).await?.is_some() {
            return Ok(found);
        }
    }
    Err(Error::Backfill(format!("what is recorded of {} changes all the time: try again", name.display())))
}

/// Waits until nobody runs it any more, or whoever did was not heard of for as long as the lease.
async fn settled(store: &Store, id: &JobId) -> Result<Asked, Error> {
    loop {
        let gone = || Error::Backfill(format!("backfill {id} was removed from the bucket by somebody else"));
        let found = store.get(id.as_str()).await?.ok_or_else(gone)?;
        let find::KnownEntry { phase, lease_left, progress, .. } = known(&found, store.now_ms().await?);
        if lease_left.is_zero() {
            return Ok(Asked { id: id.clone(), output: found.entry.output, phase, rows: progress.rows });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
