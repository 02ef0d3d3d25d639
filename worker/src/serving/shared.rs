//! What the controllers of all variants share.

use embed_engine::model::Loader;
use embed_schemas::Slug;
use parking_lot::RwLock;

use super::{ServedVariants, VariantSpec, budget::Memory};
use crate::{config::Config, intake::IntakeContext, supervise::Supervisor};

/// What controllers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) served: ServedVariants,
    pub(super) loader: Loader,
    pub(super) intake: IntakeContext,
    pub(super) supervisor: Supervisor,
    pub(super) memory: Memory,
    /// What is wanted of all variants.
    pub(super) wanted: RwLock<Vec<VariantSpec>>,
}

impl Shared {
    /// The variants that stay loaded.
    pub(super) fn pinned(&self) -> Vec<(Slug, Slug)> {
        self.wanted.read().iter().filter(|one| one.config.pinned).map(VariantSpec::key).collect()
    }

    /// Whether another variant of the model is to be the default.
    pub(super) fn is_other_default_wanted(&self, model: &Slug, variant: &Slug) -> bool {
        self.wanted.read().iter().any(|one| one.default && one.model == *model && one.variant != *variant)
    }
}
