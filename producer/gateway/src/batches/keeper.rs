//! All batches: those that were under way when a gateway ended go on, and what is too old goes.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Shared, now, runner,
    store::{Failure, Owner},
};

/// Signs, and looks for batches that nobody sees to any more, in the time after which somebody is taken for gone.
const LOOKS: u32 = 3;
/// Between two looks for what is too old.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// Runs until it is dropped.
pub(super) async fn keep(shared: Arc<Shared>) {
    let takeover = shared.settings.takeover;
    let mut looks = tokio::time::interval((takeover / LOOKS).max(Duration::from_millis(100)));
    let mut swept: Option<Instant> = None;
    for look in 0_u32.. {
        looks.tick().await;
        if let Err(error) = give_sign(&shared).await {
            tracing::warn!(%error, "cannot say which batches are run here");
        }
        // Whoever ran what a folder has was here before us.
        let gone = if look == 0 && shared.is_alone { 0 } else { takeover.as_secs() };
        if let Err(error) = take_over(&shared, gone).await {
            tracing::warn!(%error, "cannot look for batches that are to go on");
        }
        if swept.is_none_or(|swept| swept.elapsed() >= SWEEP_EVERY) {
            swept = Some(Instant::now());
            if let Err(error) = sweep(&shared).await {
                tracing::warn!(%error, "cannot remove files and batches that are too old");
            }
        }
    }
}

/// Lets other gateways know that what is run here, or waits for room, is seen to.
async fn give_sign(shared: &Shared) -> Result<(), Failure> {
    let running: Vec<_> = shared.running.lock().keys().cloned().collect();
    for (owner, id) in running {
        shared.store.open(&owner, &id).await?;
    }
    Ok(())
}

async fn take_over(shared: &Arc<Shared>, gone: u64) -> Result<(), Failure> {
    for (owner, id, seen) in shared.store.all_open().await? {
        if seen + gone <= now() {
            begin(shared, owner, id);
        }
    }
    Ok(())
}

/// Runs a batch, unless it is run here already.
pub(super) fn begin(shared: &Arc<Shared>, owner: Owner, id: String) {
    let token = CancellationToken::new();
    let key = (owner.clone(), id.clone());
    {
        let mut running = shared.running.lock();
        if running.contains_key(&key) {
            return;
        }
        running.insert(key.clone(), token.clone());
    }
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let run = async {
            let _room = shared.room.acquire().await;
            runner::run(&shared, owner, id, token).await;
        };
        shared.stop.run_until_cancelled(run).await;
        shared.running.lock().remove(&key);
    });
}

/// Has a batch that is run here stopped.
pub(super) fn cancel(shared: &Shared, owner: &Owner, id: &str) {
    if let Some(token) = shared.running.lock().get(&(owner.clone(), id.to_owned())) {
        token.cancel();
    }
}

async fn sweep(shared: &Shared) -> Result<(), Failure> {
    let store = &shared.store;
    for owner in store.owners().await? {
        for id in store.files(&owner).await? {
            let file = store.file(&owner, &id).await?;
            if file.is_some_and(|file| file.file.expires_at.is_some_and(|at| at <= now())) {
                store.remove_file(&owner, &id).await?;
            }
        }
        let kept = (shared.settings.window + shared.settings.file_age).as_secs();
        for id in store.batches(&owner).await? {
            let state = store.batch(&owner, &id).await?;
            if state.is_some_and(|state| state.batch.status.is_over() && state.batch.created_at + kept <= now()) {
                store.remove_batch(&owner, &id).await?;
            }
        }
    }
    Ok(())
}
