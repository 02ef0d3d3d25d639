//! Who serves the variants of a rollout.

use std::collections::BTreeSet;

use embed_client::WorkerInfo;
use embed_rollout::{Rollout, state::Versions};
use embed_schemas::{
    Slug,
    serving::{VariantState, VariantStatus},
};

use super::means::Means;
use crate::Error;

/// Versions of one variant that are kept with a rollout. While a version is swapped, there are two.
const MOST_VERSIONS: usize = 16;

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
    pub(super) async fn ask(means: &Means<'_>, rollout: &Rollout) -> Result<Self, Error> {
        let workers = means.known.ask(means.client, means.time.now_ms()).await?;
        let [from, to] = [&rollout.from, &rollout.to].map(|variant| statuses(&workers, &rollout.model, variant));
        let versions = |statuses: &[&VariantStatus]| {
            let all = statuses.iter().filter_map(|status| Some(status.live.as_ref()?.version.clone()));
            all.collect::<BTreeSet<_>>().into_iter().take(MOST_VERSIONS).collect()
        };
        Ok(Self {
            versions: Versions { from: versions(&from), to: versions(&to) },
            candidate: to.iter().any(|status| matches!(status.state, VariantState::Live | VariantState::Cold)),
        })
    }
}

/// What workers say of a variant: one status for each that has it.
pub(super) fn statuses<'a>(workers: &'a [WorkerInfo], model: &Slug, variant: &Slug) -> Vec<&'a VariantStatus> {
    let key = (model.clone(), variant.clone());
    workers.iter().filter_map(|worker| worker.variants.get(&key)).collect()
}
