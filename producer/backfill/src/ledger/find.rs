//! A backfill by its id or its output, from its state beside the output and its entry in the bucket, of which the later one holds.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use embed_client::Client;

use super::{
    Live, Phase, Runner, Target, Wish, place,
    store::{Found, Store},
};
use crate::{Error, Mark, State, output::location, state_path};

/// What is recorded of a backfill.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) state: State,
    pub(crate) target: Target,
    pub(super) found: Option<Found>,
}

/// How a backfill stands.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its state.
    pub state: State,
    /// Where its rows go.
    pub output: String,
    /// What the bucket says of it, if it can be asked and knows it.
    pub entry: Option<KnownEntry>,
}

/// What the bucket says of a backfill.
#[derive(Debug, Clone)]
pub struct KnownEntry {
    /// How it stands.
    pub phase: Phase,
    /// What is wanted of it.
    pub wish: Wish,
    /// Who runs it, or has.
    pub runner: Option<Runner>,
    /// For how long nobody else may run it.
    pub lease_left: Duration,
    /// How far it was.
    pub progress: Live,
}

/// Finds a backfill by its output or its id. Without a connection, only what is on this machine is found.
///
/// # Errors
/// [`Error::Backfill`] if there is none.
pub async fn look(client: Option<&Client>, name: &Path) -> Result<Known, Error> {
    let store = client.map(|client| Store::new(client.nats()));
    let Recorded { state, target, found } = find(store.as_ref(), name, |_| true).await?;
    let entry = match (&store, &found) {
        (Some(store), Some(found)) => Some(known(found, store.now_ms().await?)),
        _ => None,
    };
    Ok(Known { state, output: target.name(), entry })
}

pub(super) fn known(found: &Found, now_ms: u64) -> KnownEntry {
    let Found { entry, at_ms, .. } = found;
    let left = entry.lease_left(*at_ms, now_ms);
    KnownEntry {
        phase: entry.phase(left),
        wish: entry.wish,
        runner: entry.runner.clone(),
        lease_left: left,
        progress: entry.progress.clone(),
    }
}

/// Finds a backfill that is to go on, or to end. `fits`: whether an output on this machine holds what a state says of it.
///
/// # Errors
/// As [`look`].
pub(crate) async fn recorded(client: &Client, name: &Path, fits: impl Fn(&Mark) -> bool) -> Result<Recorded, Error> {
    find(Some(&Store::new(client.nats())), name, fits).await
}

async fn find(store: Option<&Store>, name: &Path, fits: impl Fn(&Mark) -> bool) -> Result<Recorded, Error> {
    // The one name that an output has, however it was written.
    let name = Path::new(&location(name)).to_owned();
    let name = name.as_path();
    if let Some(state) = beside(name)? {
        let found = match store {
            Some(store) => told(store.get(state.id.as_str()).await),
            None => None,
        };
        return later(store, Some(state), found, Target::local(name), fits).await;
    }
    let found = match store {
        Some(store) => in_bucket(store, name).await?,
        None => None,
    };
    let Some(found) = found else { return Err(unknown(name)) };
    let target = Target::named(&found.entry.output);
    let state = match &target {
        Target::Local(path) => beside(path)?,
        Target::Remote(_) => None,
    };
    if let Some(other) = state.as_ref().filter(|state| state.id != found.entry.state.id) {
        return Err(Error::Backfill(format!(
            "backfill {} was overwritten: {} is the output of backfill {} now",
            found.entry.state.id,
            target.name(),
            other.id
        )));
    }
    later(store, state, Some(found), target, fits).await
}

/// The state beside an output on this machine.
fn beside(output: &Path) -> Result<Option<State>, Error> {
    // A name with a scheme would be looked for in the working folder.
    if output.to_string_lossy().contains("://") { Ok(None) } else { State::find(output) }
}

/// Without the bucket, what stands beside the output has to do.
fn told(found: Result<Option<Found>, Error>) -> Option<Found> {
    found.unwrap_or_else(|error| {
        tracing::debug!(%error, "the bucket of backfills cannot be asked");
        None
    })
}

async fn in_bucket(store: &Store, name: &Path) -> Result<Option<Found>, Error> {
    let text = name.to_string_lossy();
    if let Ok(id) = text.parse::<embed_schemas::JobId>()
        && !text.contains(['.', '*', '>'])
        && let Some(found) = store.get(id.as_str()).await?
    {
        return Ok(Some(found));
    }
    if let Target::Remote(location) = Target::named(&text) {
        let Some(id) = store.claimed(&location).await?.1 else { return Ok(None) };
        return store.get(id.as_str()).await;
    }
    // The last into this output; ids are sorted by time.
    let Target::Local(path) = Target::local(name) else { return Ok(None) };
    let output = path.to_string_lossy();
    let found = store.all().await?.into_iter().rfind(|found| found.entry.output == output);
    let Some(found) = found else { return Ok(None) };
    // Another machine's file of this name is another file.
    if found.entry.host != place::host() {
        return Err(Error::Backfill(format!(
            "there is no backfill into {output} on this machine; backfill {0} into a file of this name was run on {1}. If that is the same file, \
             say so: name the backfill by its id, {0}",
            found.entry.state.id, found.entry.host
        )));
    }
    Ok(Some(found))
}

/// What holds of what stands beside the output and in the bucket: the later one that fits the output.
async fn later(
    store: Option<&Store>,
    beside: Option<State>,
    found: Option<Found>,
    target: Target,
    fits: impl Fn(&Mark) -> bool,
) -> Result<Recorded, Error> {
    let state = match (beside, &found, store) {
        (Some(beside), Some(found), Some(store)) if found.entry.state.saves > beside.saves => {
            which(beside, store.whole(&found.entry).await?, fits)
        }
        (Some(beside), Some(found), _) => {
            // It may hold for a file that is appended to, which has no parts.
            let mut recorded = State { plan: beside.plan.clone(), ..found.entry.state.clone() };
            recorded.parameters.inputs.clone_from(&beside.parameters.inputs);
            which(beside, recorded, fits)
        }
        (None, Some(found), Some(store)) => store.whole(&found.entry).await?,
        (Some(beside), ..) => beside,
        (None, ..) => return Err(unknown(Path::new(&target.name()))),
    };
    Ok(Recorded { state, target, found })
}

fn which(beside: State, recorded: State, fits: impl Fn(&Mark) -> bool) -> State {
    let (later, earlier) = if recorded.saves > beside.saves { (recorded, beside) } else { (beside, recorded) };
    if !fits(&later.mark) && fits(&earlier.mark) { earlier } else { later }
}

fn unknown(name: &Path) -> Error {
    Error::Backfill(format!(
        "there is no backfill into {}: its state would be in {}, and in the bucket there is none with this output or id",
        name.display(),
        state_path(name).display()
    ))
}

impl Recorded {
    /// The output, if it is on this machine.
    pub(crate) fn path(&self) -> PathBuf {
        self.target.name().into()
    }
}

#[cfg(test)]
mod tests {
    use embed_schemas::removal::RemovalKey;

    use super::*;
    use crate::{Plan, tests::parameters};

    #[test]
    fn the_later_state_that_fits_the_output_holds() {
        let state = |saves, bytes| State {
            saves,
            mark: Mark { bytes, ..Mark::default() },
            ..State::new(RemovalKey::from_random([7; 32]), parameters(), Plan::default())
        };
        let chosen = |beside: (u64, u64), recorded: (u64, u64), has: u64| {
            let (beside, recorded) = (state(beside.0, beside.1), state(recorded.0, recorded.1));
            which(beside, recorded, |mark| mark.bytes <= has).saves
        };
        assert_eq!(chosen((2, 20), (1, 10), 20), 2);
        assert_eq!(chosen((1, 10), (2, 20), 20), 2);
        // What stands beside a file that came back from a backup, or the bucket of a server that did.
        assert_eq!(chosen((1, 10), (2, 20), 15), 1);
        assert_eq!(chosen((2, 20), (1, 10), 15), 1);
        // Neither fits: the later says what is wrong.
        assert_eq!(chosen((1, 10), (2, 20), 5), 2);
    }
}
