//! What is measured: a graph of a version, and what runs it.

use std::fmt;

use embed_engine::settings::Provider;
use embed_schemas::{Precision, Slug, model::GraphForm};
use serde::Serialize;

/// What was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Subject {
    /// The model.
    pub(super) model: Slug,
    /// Its version.
    pub(super) version: String,
    /// The graph's precision.
    pub(super) precision: Precision,
    /// The graph's operators.
    pub(super) form: GraphForm,
    /// What runs it.
    pub(super) provider: Provider,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.model, self.precision)?;
        if self.provider.on_device() {
            write!(f, " on {}", self.provider)?;
        }
        if self.form == GraphForm::Packed { f.write_str(", packed") } else { Ok(()) }
    }
}
