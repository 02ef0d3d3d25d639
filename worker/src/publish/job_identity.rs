//! What the outcome of a job is stored by.

use embed_schemas::{JobId, Slug};

/// What a job's outcome is stored by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobIdentity {
    /// Its id.
    pub id: JobId,
    /// Whose it is, if the subject on which it is stored says so.
    pub tenant: Option<Slug>,
    /// [`embed_schemas::EmbedRequest::digest`]: two jobs of one id with different ones are in conflict. `None` where the job cannot be read.
    pub digest: Option<String>,
}
