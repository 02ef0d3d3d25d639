//! Whether a job's id is its own, and an outcome that of the job: the same id with the same content is the same job, with other content a
//! conflict.
//!
//! What is stored under a job's id need not come from a worker that had this job: whoever may publish where outcomes are stored can put one
//! there, and so could a worker that answers where it is told to. So nothing is believed for the place where it was found alone.

use embed_schemas::{EmbedRequest, JobId, Outcome, Slug, WireError, headers, streams, subjects, wire};

use super::{
    Client,
    publish::{ACK_TIMEOUT, Published},
};
use crate::{
    Error,
    nats::stored::{self, ReadError, Stored, Which},
};

/// Reads an outcome, if it is that of this job: it says so itself, and vectors come with the digest of the request that they answer. Without
/// a `digest` to compare with, only the id is looked at. Pure.
///
/// # Errors
/// [`Error::Wire`] with `id_conflict` if another request has the id, [`Error::BadAnswer`] if it is another job's outcome, or cannot be told
/// to be this one's.
pub fn outcome_of(stored: &Stored, id: &JobId, digest: Option<&str>) -> Result<Outcome, Error> {
    let bad = |reason: String| Error::BadAnswer { from: stored.subject.clone(), reason };
    let of = stored.header(headers::REQUEST_DIGEST);
    if digest.zip(of).is_some_and(|(ours, of)| ours != of) {
        return Err(WireError::id_conflict(id).into());
    }
    let outcome = wire::decode_outcome(&stored.payload).map_err(|error| bad(error.to_string()))?;
    if let Some(other) = is_of_another(&outcome, id) {
        return Err(bad(format!("it is the outcome of another job, {other}, and not of {id}")));
    }
    // A failure of what a worker cannot read has no digest.
    if digest.is_some() && of.is_none() && matches!(outcome, Outcome::Result(_)) {
        return Err(bad(format!(
            "it does not say which request it answers ({} is missing): it is not from a worker of this version, or from none. Publish the \
             job under another id",
            headers::REQUEST_DIGEST
        )));
    }
    Ok(outcome)
}

/// The id that an outcome names, if it is not this one. A failure of what cannot be read names none.
pub(super) fn is_of_another<'a>(outcome: &'a Outcome, id: &JobId) -> Option<&'a JobId> {
    outcome.id().filter(|of| *of != id)
}

impl Client {
    /// The sequence of the outcome that is stored under this id, if there is one.
    ///
    /// # Errors
    /// As [`outcome_of`]; [`Error::Ended`] if the job has failed.
    pub(super) async fn known(
        &self,
        model: &Slug,
        tenant: Option<&Slug>,
        id: &JobId,
        job: &EmbedRequest,
    ) -> Result<Option<u64>, Error> {
        let subject = subjects::result_for(model, tenant, id);
        let Some(found) = self.readable(&streams::results_stream(model), Which::LastOn(&subject)).await else {
            return Ok(None);
        };
        match outcome_of(&found, id, Some(&job.digest()))? {
            Outcome::Failure(failure) => Err(Error::Ended { id: id.clone(), error: Box::new(failure.error) }),
            Outcome::Result(_) => Ok(Some(found.sequence)),
        }
    }

    /// Checks that the server dropped a job as a duplicate of one with the same content.
    ///
    /// # Errors
    /// As [`Client::known`].
    pub(super) async fn is_the_same(
        &self,
        model: &Slug,
        tenant: Option<&Slug>,
        published: &Published,
        job: &EmbedRequest,
    ) -> Result<(), Error> {
        let Some(first) = self.readable(&published.stream, Which::Sequence(published.sequence)).await else {
            // It is done, or it is not permitted to look.
            return self.known(model, tenant, &published.id, job).await.map(|_| ());
        };
        match wire::decode_request(&first.payload, None) {
            Ok((first, _)) if first.digest() != job.digest() => Err(WireError::id_conflict(&published.id).into()),
            _ => Ok(()),
        }
    }

    /// A message that can be had, and is there.
    async fn readable(&self, stream: &str, which: Which<'_>) -> Option<Stored> {
        let found = stored::read(self.nats(), stream, which, ACK_TIMEOUT).await;
        found.unwrap_or_else(|error: ReadError| {
            tracing::debug!(stream, ?which, %error, "a stream cannot be read");
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;
    use embed_schemas::{EmbedFailure, EmbedResult, Encoding, ErrorCode, Format, Timing};
    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> JobId {
        text.parse().unwrap()
    }

    fn stored(outcome: &Outcome, digest: Option<&str>) -> Stored {
        let mut headers = HeaderMap::new();
        if let Some(digest) = digest {
            headers.insert(headers::REQUEST_DIGEST, digest);
        }
        let payload = Format::MessagePack.encode(outcome);
        Stored { sequence: 1, subject: "embed.result.m.mine".into(), time: String::new(), headers, payload }
    }

    fn vectors(of: &str) -> Outcome {
        Outcome::Result(EmbedResult {
            id: id(of),
            model: "m".parse().unwrap(),
            variant: "v".parse().unwrap(),
            version: "v1".into(),
            space: "s".into(),
            dim: 1,
            encoding: Encoding::F32,
            vectors: vec![0; 4].into(),
            items: vec![embed_schemas::Item::default()],
            timing: Timing::default(),
        })
    }

    fn failure(of: Option<&str>) -> Outcome {
        let error = WireError::new(ErrorCode::EngineFailed, "x");
        Outcome::Failure(EmbedFailure { id: of.map(id), error })
    }

    #[test]
    fn an_outcome_is_believed_for_what_it_says_and_not_for_where_it_is() {
        let (mine, ours) = (id("mine"), Some("SHA-256=a"));
        assert!(outcome_of(&stored(&vectors("mine"), ours), &mine, ours).is_ok());
        assert!(outcome_of(&stored(&vectors("mine"), None), &mine, None).is_ok());
        let refused = |outcome: &Outcome, of: Option<&str>, digest: Option<&str>| {
            outcome_of(&stored(outcome, of), &mine, digest).unwrap_err()
        };
        assert!(refused(&vectors("theirs"), ours, ours).to_string().contains("another job, theirs"));
        assert!(refused(&vectors("theirs"), None, None).to_string().contains("another job, theirs"));
        assert!(refused(&failure(Some("theirs")), None, ours).to_string().contains("another job, theirs"));
        assert_eq!(refused(&vectors("mine"), Some("SHA-256=b"), ours).code(), "id_conflict");
        assert!(refused(&vectors("mine"), None, ours).to_string().contains("Embed-Request-Digest is missing"));
    }

    #[test]
    fn a_failure_of_what_could_not_be_read_is_heard() {
        assert!(outcome_of(&stored(&failure(None), None), &id("mine"), Some("SHA-256=a")).is_ok());
        assert!(outcome_of(&stored(&failure(Some("mine")), None), &id("mine"), Some("SHA-256=a")).is_ok());
    }

    proptest! {
        #[test]
        fn vectors_are_those_of_the_job_or_not_believed(
            of in "mine|theirs", says in prop::option::of("a|b"), wanted in prop::option::of("a|b"),
        ) {
            let read = outcome_of(&stored(&vectors(&of), says.as_deref()), &id("mine"), wanted.as_deref());
            prop_assert_eq!(read.is_ok(), of == "mine" && (wanted.is_none() || wanted == says));
        }
    }
}
