//! What is stored of jobs that have ended.

use std::time::Duration;

use async_nats::{
    HeaderMap, RequestErrorKind,
    header::{NATS_SEQUENCE, NATS_TIME_STAMP},
};
use bytes::Bytes;
use embed_client::{Client, nats};
use embed_schemas::{JobId, Outcome, Slug, headers, streams, subjects, wire};

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

/// The outcome of a job, if one is stored.
///
/// # Errors
/// [`Error::Provision`] if the stream does not answer, [`embed_client::Error::BadAnswer`] if what is stored cannot be read.
pub async fn outcome(client: &Client, model: &Slug, id: &JobId) -> Result<Option<StoredOutcome>, Error> {
    let stream = streams::results_stream(model);
    let call = format!("DIRECT.GET.{stream}.{}", subjects::result(model, id));
    let subject = embed_connect::api_subject(client.nats(), &call);
    let failed = |reason: String| {
        let what = format!("cannot read the outcome of job {id} from stream {stream}");
        Err(Error::Provision { what, reason })
    };
    let message = match nats::request(client.nats(), subject, HeaderMap::new(), Bytes::new(), TIMEOUT).await {
        Ok(message) => message,
        Err(error) if error.kind() == RequestErrorKind::NoResponders => {
            return failed(
                "there is no such stream, or it has no leader; run `embed init` if it was never made".into(),
            );
        }
        Err(error) => return failed(error.to_string()),
    };
    match message.status.map(|status| status.as_u16()) {
        None => {}
        Some(404) => return Ok(None),
        Some(status) => return failed(format!("status {status}")),
    }
    let text = |name: &str| Some(message.headers.as_ref()?.get(name)?.as_str().to_owned());
    let time = text(NATS_TIME_STAMP.as_ref()).unwrap_or_default();
    let bad = |error: wire::DecodeError| embed_client::Error::BadAnswer {
        from: format!("the outcome of job {id}"),
        reason: error.error.to_string(),
    };
    let outcome = wire::decode_outcome(&message.payload).map_err(bad)?;
    let sequence = text(NATS_SEQUENCE.as_ref()).and_then(|text| text.parse().ok()).unwrap_or_default();
    Ok(Some(StoredOutcome { outcome, sequence, time, digest: text(headers::REQUEST_DIGEST) }))
}
