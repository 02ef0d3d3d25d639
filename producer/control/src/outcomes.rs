//! What is stored of jobs that have ended.

use std::time::Duration;

use embed_client::{
    Client,
    nats::stored::{self, Which},
    outcome_of,
};
use embed_schemas::{JobId, Outcome, Slug, headers, streams, subjects};

use crate::Error;

/// For one answer of the server.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An outcome that is stored.
#[derive(Debug, Clone)]
pub struct StoredOutcome {
    /// What it is.
    pub outcome: Outcome,
    /// Its sequence in the stream of results.
    pub sequence: u64,
    /// When it was stored, RFC 3339.
    pub time: String,
    /// The digest of the request, if its worker wrote it down.
    pub digest: Option<String>,
}

/// The outcome of a job, of this tenant or of none, if one is stored.
///
/// # Errors
/// [`Error::Provision`] if the stream does not answer, [`embed_client::Error::BadAnswer`] if what is stored cannot be read, or is the outcome of
/// another job.
pub async fn outcome(
    client: &Client,
    model: &Slug,
    tenant: Option<&Slug>,
    id: &JobId,
) -> Result<Option<StoredOutcome>, Error> {
    let (stream, subject) = (streams::results_stream(model), subjects::result_for(model, tenant, id));
    let found = stored::read(client.nats(), &stream, Which::LastOn(&subject), TIMEOUT).await;
    let found = found.map_err(|error| Error::Provision {
        what: format!("cannot read the outcome of job {id} from stream {stream}"),
        reason: error.to_string(),
    })?;
    let Some(found) = found else { return Ok(None) };
    let outcome = outcome_of(&found, id, None)?;
    let digest = found.header(headers::REQUEST_DIGEST).map(str::to_owned);
    Ok(Some(StoredOutcome { outcome, sequence: found.sequence, time: found.time, digest }))
}
