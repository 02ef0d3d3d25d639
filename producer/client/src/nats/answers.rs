//! The answers to all calls of a client, on one subscription. A subscription for each call is two messages more to the server, and work there and here:
//! more than the call itself. (The library has one of its own, which keeps an entry for every request that timed out.)

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, HeaderMap, Message, RequestError, RequestErrorKind, StatusCode};
use bytes::Bytes;
use embed_connect::Refusals;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::{sync::oneshot, task::AbortHandle};

/// Who waits, by the last token of the subject that the answer comes on.
type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Message>>>>;

/// Where the answers to calls come. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers(Arc<Mutex<Option<Arc<Inbox>>>>);

/// One subscription.
#[derive(Debug)]
struct Inbox {
    /// With a dot at its end.
    prefix: String,
    waiting: Waiting,
    next: AtomicU64,
    reader: AbortHandle,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// A call that waits. Nobody does once it is dropped.
struct Place<'a> {
    waiting: &'a Waiting,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.number);
    }
}

impl Inbox {
    async fn open(client: &Client) -> Result<Self, RequestError> {
        let prefix = format!("{}.", super::inbox(client));
        let mut answers = client.subscribe(format!("{prefix}*")).await?;
        let waiting = Waiting::default();
        let of = Arc::clone(&waiting);
        let read = async move {
            while let Some(answer) = answers.next().await {
                let number = answer.subject.rsplit_once('.').and_then(|(_, number)| number.parse::<u64>().ok());
                let waits = number.and_then(|number| of.lock().remove(&number));
                if let Some(waits) = waits {
                    // Who went away meanwhile needs none.
                    let _ = waits.send(answer);
                }
            }
        };
        let reader = tokio::spawn(read).abort_handle();
        Ok(Self { prefix, waiting, next: AtomicU64::new(0), reader })
    }
}

impl Answers {
    async fn inbox(&self, client: &Client) -> Result<Arc<Inbox>, RequestError> {
        if let Some(inbox) = &*self.0.lock() {
            return Ok(Arc::clone(inbox));
        }
        let opened = Arc::new(Inbox::open(client).await?);
        Ok(Arc::clone(self.0.lock().get_or_insert(opened)))
    }

    /// As [`super::request`], but for the inbox.
    pub(crate) async fn request(
        &self,
        client: &Client,
        subject: &str,
        headers: HeaderMap,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        // From before the subscription, which may be what is refused.
        let refusals = Refusals::of(client);
        let inbox = self.inbox(client).await?;
        let number = inbox.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        inbox.waiting.lock().insert(number, sender);
        let _place = Place { waiting: &inbox.waiting, number };
        let all = format!("{}*", inbox.prefix);
        let answer = async {
            let reply = format!("{}{number}", inbox.prefix);
            client.publish_with_reply_and_headers(subject.to_owned(), reply, headers, payload).await?;
            match receiver.await {
                Ok(answer) if answer.status == Some(StatusCode::NO_RESPONDERS) => {
                    Err(RequestError::with_source(RequestErrorKind::NoResponders, "no responders"))
                }
                Ok(answer) => Ok(answer),
                Err(_) => Err(RequestError::with_source(RequestErrorKind::Other, "the connection is closed")),
            }
        };
        let answered = super::unless_refused(&refusals, &[subject, &all], answer, timeout).await;
        if let Err(error) = &answered
            && super::refusal(error).is_some_and(|refusal| refusal.subject == all)
        {
            // It may be permitted when it is tried again.
            self.0.lock().take_if(|known| Arc::ptr_eq(known, &inbox));
        }
        answered
    }
}
