//! What is known when a run begins: rows of a previous output, and those that the backfill has written itself.

use std::{path::Path, sync::Arc};

use embed_client::Client;
use tokio::sync::mpsc;

use super::{
    Known, LIMITS,
    before::Before,
    dispensed_with, lines,
    previous::{self, Made, Previous, Rows},
    unusable,
};
use crate::{Error, Parameters, PartRows, State, output::is_table, parameters::Reuse};

/// Rows that one thread hands to another, and how often it may be ahead.
const ROWS_AT_ONCE: usize = 512;
const READ_AHEAD: usize = 4;

/// Gathers what is known. `None` if nothing is to be. A run that reuses vectors takes no others than of their space.
///
/// # Errors
/// If the previous output cannot be read, or none of its rows can be equal.
pub(crate) async fn begin(client: &Client, state: &mut State, output: &Path) -> Result<Option<Arc<Known>>, Error> {
    let Reuse { equal, previous } = state.parameters.reuse.clone();
    if !equal && previous.is_none() {
        return Ok(None);
    }
    let known = match Known::new(&state.parameters, equal, LIMITS) {
        // Nobody has asked for more than that equal texts cost less.
        Err(error) if previous.is_none() => {
            dispensed_with(&error);
            return Ok(None);
        }
        known => Arc::new(known.map_err(unusable)?),
    };
    // A table is not read back: its rows may be anybody's.
    if equal && state.done.rows > 0 && !is_table(&output.to_string_lossy()) {
        let rows: Rows = match state.parameters.writing.format {
            None => Box::new(lines::Pairs::open(state, output)?),
            Some(_) => {
                let rows = PartRows::recorded(&output.to_string_lossy(), &state.parameters, &state.mark)?;
                Box::new(rows.map(|row| row.map(Before::from)))
            }
        };
        let (texts, _) = loaded(&known, rows, false).await?;
        tracing::debug!(texts, "rows that are written are known");
    }
    if let Some(location) = previous {
        let location = previous::absolute(&location)?;
        // It may be resumed from elsewhere.
        state.parameters.reuse.previous = Some(location.clone());
        let Previous { made, rows } = previous::open(&location, output).await?;
        made.fits(&state.parameters).map_err(|why| {
            Error::Backfill(format!("--reuse {location}: none of its rows would be the same, since {why}"))
        })?;
        if let Some(space) = space_of(client, &made, state, &location).await? {
            let (texts, remembered) = loaded(&known, rows, true).await?;
            if remembered < texts {
                tracing::warn!("of {texts} rows of {location}, {remembered} can be reused: there is no room for more");
            }
            state.space = Some(space);
        }
    }
    Ok(Some(known))
}

/// The space of a previous output, if its vectors are of use. If not, that is said, and all is embedded.
async fn space_of(client: &Client, made: &Made, state: &State, location: &str) -> Result<Option<String>, Error> {
    let Some(space) = made.space.clone() else { return Ok(None) };
    let served = match state.space {
        None => served_spaces(client, &state.parameters).await?,
        Some(_) => Vec::new(),
    };
    match previous::usable(&space, state.space.as_deref(), &served) {
        Ok(()) => Ok(Some(space)),
        Err(why) => {
            tracing::warn!("nothing of {location} is reused, since {why}");
            Ok(None)
        }
    }
}

/// The spaces of what jobs are answered by, as far as workers say.
async fn served_spaces(client: &Client, parameters: &Parameters) -> Result<Vec<String>, Error> {
    let Parameters { model, variant, .. } = parameters;
    let mut spaces = Vec::new();
    for ((of, name), statuses) in client.statuses().await? {
        let is_meant = |default: bool| variant.as_ref().map_or(default, |variant| *variant == name);
        let live = statuses.into_iter().filter(|status| of == *model && is_meant(status.default));
        spaces.extend(live.filter_map(|status| Some(status.live?.space)));
    }
    spaces.sort();
    spaces.dedup();
    Ok(spaces)
}

/// Remembers rows, by a thread that may wait for them, while another one reads the next.
async fn loaded(known: &Arc<Known>, mut rows: Rows, ids: bool) -> Result<(u64, u64), Error> {
    let (sender, mut receiver) = mpsc::channel::<Vec<_>>(READ_AHEAD);
    let read = tokio::task::spawn_blocking(move || {
        loop {
            let some: Vec<_> = rows.by_ref().take(ROWS_AT_ONCE).collect();
            if some.is_empty() || sender.blocking_send(some).is_err() {
                return;
            }
        }
    });
    let known = known.clone();
    let loaded = tokio::task::spawn_blocking(move || {
        let rows = std::iter::from_fn(|| receiver.blocking_recv());
        known.load(rows.flatten(), ids)
    });
    let (read, loaded) = tokio::join!(read, loaded);
    // Where reading has failed in a way that nobody expected, what came is not all.
    let failed = |error| Error::Backfill(format!("a task failed: {error}"));
    read.map_err(failed)?;
    loaded.map_err(failed)?
}
