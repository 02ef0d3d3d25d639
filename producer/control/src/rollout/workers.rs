//! Who serves the variants of a rollout.

use embed_client::Client;
use embed_rollout::{Rollout, state::Versions};
use embed_schemas::serving::{VariantState, VariantStatus};

use crate::Error;

/// What workers say that they serve.
#[derive(Debug)]
pub(super) struct Serving {
    /// The versions of both variants, over all workers.
    pub(super) versions: Versions,
    /// Whether some worker can take what is sent to the candidate: it is loaded, or will be when it is asked for.
    pub(super) candidate: bool,
}

impl Serving {
    /// Asks all workers.
    ///
    /// # Errors
    /// If nobody can be asked.
    pub(super) async fn ask(client: &Client, rollout: &Rollout) -> Result<Self, Error> {
        let statuses = client.statuses().await?;
        let of = |variant| statuses.get(&(rollout.model.clone(), variant)).map_or(&[][..], Vec::as_slice);
        let (from, to) = (of(rollout.from.clone()), of(rollout.to.clone()));
        let version = |status: &VariantStatus| status.live.as_ref().map(|live| live.version.clone());
        Ok(Self {
            versions: Versions {
                from: from.iter().filter_map(version).collect(),
                to: to.iter().filter_map(version).collect(),
            },
            candidate: to.iter().any(|status| matches!(status.state, VariantState::Live | VariantState::Cold)),
        })
    }
}
