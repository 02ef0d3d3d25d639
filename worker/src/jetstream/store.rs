//! Publishing into streams, with the server's word that a message is stored. Many may be under way; acknowledgements come on one
//! subscription, and one that never comes leaves nothing behind.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, HeaderMap, Message, Subject, SubscribeError};
use bytes::Bytes;
use embed_connect::{Refusal, Refusals};
use futures::StreamExt;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::{sync::oneshot, time::timeout};

use super::api::ServerError;
use crate::supervise::{Supervisor, Task};

/// How long an acknowledgement may take. Storing again what was stored already does no harm.
const TIMEOUT: Duration = Duration::from_secs(5);

/// "wrong last sequence", as a single server and as a cluster says it.
const WRONG_LAST_SEQUENCE: [u32; 2] = [10071, 10164];
/// The subject is another stream's than the one that the message is for.
const OTHER_STREAM: u32 = 10060;
/// Refusals that end when somebody makes room: no message, or no bytes, may be added to the stream or to the account.
const FULL: [u32; 5] = [10077, 10122, 10047, 10023, 10028];
/// Refusals of this very message: too large for its stream, headers that cannot be read.
const UNACCEPTABLE: [u32; 3] = [10054, 10097, 10072];

/// Publishes into streams. Clones are the same.
#[derive(Debug, Clone)]
pub struct StoreClient {
    client: Client,
    inbox: Arc<str>,
    waiting: Arc<Waiting>,
    _acknowledgements: Arc<Task>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: AtomicU64,
    answers: Mutex<HashMap<u64, oneshot::Sender<Message>>>,
}

/// A message is not stored, as far as is known.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The stream holds something on this subject already.
    #[error("the stream holds a message on this subject already")]
    Exists,
    /// There is no room.
    #[error("the stream is full: {0}")]
    Full(String),
    /// No stream takes the subject.
    #[error("no stream takes this subject; if it has not been made yet, run `embed init`")]
    NoStream,
    /// Another stream takes the subject.
    #[error("another stream takes this subject: {0}")]
    OtherStream(String),
    /// The server will never take this message.
    #[error("the server does not take the message: {0}")]
    Unacceptable(String),
    /// The worker's user may not publish this. Until somebody changes that, no retry helps.
    #[error("{0}")]
    Forbidden(#[from] Refusal),
    /// Refused for now, or not answered.
    #[error("{0}")]
    Unanswered(String),
}

impl StoreClient {
    /// Starts to listen for acknowledgements.
    ///
    /// # Errors
    /// If the subscription fails.
    pub async fn start(client: Client, supervisor: &Supervisor) -> Result<Self, SubscribeError> {
        let inbox: Arc<str> = client.new_inbox().into();
        let mut answers = client.subscribe(format!("{inbox}.*")).await?;
        let waiting = Arc::new(Waiting::default());
        let heard = Arc::clone(&waiting);
        let task = supervisor.spawn("the listener for acknowledgements", async move {
            while let Some(answer) = answers.next().await {
                tracing::trace!(subject = %answer.subject, "acknowledged");
                let number = answer.subject.rsplit('.').next().and_then(|number| number.parse().ok());
                if let Some(waiter) = number.and_then(|number: u64| heard.answers.lock().remove(&number)) {
                    // It may have given up.
                    let _ = waiter.send(answer);
                }
            }
        });
        Ok(Self { client, inbox, waiting, _acknowledgements: Arc::new(task) })
    }

    /// The client that it publishes with.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Publishes, and waits until the message is stored.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn store(
        &self,
        subject: impl Into<Subject>,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), StoreError> {
        let number = self.waiting.next.fetch_add(1, Ordering::Relaxed);
        let (answered, answer) = oneshot::channel();
        self.waiting.answers.lock().insert(number, answered);
        let _forget = Forget(&self.waiting, number);
        let (subject, reply) = (subject.into(), format!("{}.{number}", self.inbox));
        // The server says so on its own, and acknowledges nothing.
        let refusals = Refusals::of(&self.client);
        let sent = async {
            self.client.publish_with_reply_and_headers(subject.clone(), reply, headers, payload).await.map_err(
                |error| match error.kind() {
                    async_nats::PublishErrorKind::MaxPayloadExceeded | async_nats::PublishErrorKind::InvalidSubject => {
                        StoreError::Unacceptable(error.to_string())
                    }
                    _ => StoreError::Unanswered(error.to_string()),
                },
            )?;
            answer.await.map_err(|_| StoreError::Unanswered("the connection is closed".to_owned()))
        };
        // Without a server, even sending can wait for ever.
        let concerned = [subject.as_str()];
        let answer = tokio::select! {
            biased;
            answer = timeout(TIMEOUT, sent) => answer,
            refusal = refusals.concerning(&concerned) => return Err(refusal.into()),
        };
        match answer {
            Ok(answer) => read(&answer?),
            Err(_) => Err(StoreError::Unanswered(format!("no acknowledgement within {} s", TIMEOUT.as_secs()))),
        }
    }
}

/// Forgets who waits, however that ends.
struct Forget<'a>(&'a Waiting, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.answers.lock().remove(&self.1);
    }
}

/// What an acknowledgement says.
fn read(answer: &Message) -> Result<(), StoreError> {
    #[derive(Deserialize)]
    struct Ack {
        error: Option<ServerError>,
        stream: Option<String>,
        seq: Option<u64>,
    }
    if answer.status.is_some_and(|status| status.as_u16() == 503) {
        return Err(StoreError::NoStream);
    }
    let ack: Ack = serde_json::from_slice(&answer.payload)
        .map_err(|error| StoreError::Unanswered(format!("the acknowledgement cannot be read: {error}")))?;
    match ack {
        Ack { error: Some(error), .. } => Err(classify(&error)),
        Ack { stream: Some(_), seq: Some(_), .. } => Ok(()),
        // Whatever came here, it is not a stream's word.
        _ => Err(StoreError::Unanswered("what came is no acknowledgement".to_owned())),
    }
}

fn classify(error: &ServerError) -> StoreError {
    let text = format!("{} ({})", error.description, error.err_code);
    if WRONG_LAST_SEQUENCE.contains(&error.err_code) {
        StoreError::Exists
    } else if error.err_code == OTHER_STREAM {
        StoreError::OtherStream(text)
    } else if UNACCEPTABLE.contains(&error.err_code) {
        StoreError::Unacceptable(text)
    } else if FULL.contains(&error.err_code) || error.description.contains("maximum") {
        StoreError::Full(text)
    } else {
        StoreError::Unanswered(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_streams_word_is_an_acknowledgement() {
        let answer = |payload: &'static str| Message {
            subject: "_INBOX.x.1".into(),
            reply: None,
            payload: payload.into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        };
        assert!(read(&answer(r#"{"stream":"EMBED_RESULTS_m","seq":7}"#)).is_ok());
        // Such as the answer to a call whose sender named this inbox.
        for other in [r#"{"id":"x","model":"m","vectors":[]}"#, "{}", r#"{"seq":7}"#, "x"] {
            assert!(matches!(read(&answer(other)), Err(StoreError::Unanswered(_))), "{other}");
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        let of = |err_code, description: &str| {
            classify(&ServerError { code: 400, err_code, description: description.to_owned() })
        };
        assert!(matches!(of(10071, "wrong last sequence: 3"), StoreError::Exists));
        assert!(matches!(of(10164, "wrong last sequence"), StoreError::Exists));
        assert!(matches!(of(10077, "maximum bytes exceeded"), StoreError::Full(_)));
        assert!(matches!(of(10054, "message size exceeds maximum allowed"), StoreError::Unacceptable(_)));
        assert!(matches!(of(10060, "expected stream does not match"), StoreError::OtherStream(_)));
        assert!(matches!(of(10076, "raft: no leader"), StoreError::Unanswered(_)));
    }
}
