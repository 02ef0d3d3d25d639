//! The answers to all calls of a client, on one subscription. A subscription for each call is two messages more to the server, and work there and here:
//! more than the call itself. (The library has one of its own, which keeps an entry for every request that timed out.)

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::{Client, HeaderMap, Message, RequestError, RequestErrorKind, StatusCode};
use bytes::Bytes;
use embed_connect::Refusals;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::{sync::oneshot, task::AbortHandle, time};

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
    /// What is subscribed to.
    all: String,
    /// From before the subscription.
    refusals: Refusals,
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
        let (all, refusals) = (format!("{prefix}*"), Refusals::of(client));
        let mut answers = client.subscribe(all.clone()).await?;
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
            // The connection is closed, and nobody is to wait for what cannot come.
            of.lock().clear();
        };
        let reader = tokio::spawn(read).abort_handle();
        Ok(Self { prefix, all, refusals, waiting, next: AtomicU64::new(0), reader })
    }

    /// Whether answers can come: the server may refuse the subscription, or take it away when its permissions change, also while nobody waits.
    fn is_good(&self) -> bool {
        !self.reader.is_finished() && self.refusals.concerning(&[self.all.as_str()]).now_or_never().is_none()
    }
}

impl Answers {
    async fn inbox(&self, client: &Client) -> Result<Arc<Inbox>, RequestError> {
        if let Some(inbox) = self.0.lock().as_ref().filter(|inbox| inbox.is_good()) {
            return Ok(Arc::clone(inbox));
        }
        let opened = Arc::new(Inbox::open(client).await?);
        let mut known = self.0.lock();
        // Another call may have opened one meanwhile.
        match known.as_ref().filter(|inbox| inbox.is_good()) {
            Some(inbox) => Ok(Arc::clone(inbox)),
            None => Ok(Arc::clone(known.insert(opened))),
        }
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
        let begun = Instant::now();
        // From before the subscription, which may be what is refused.
        let refusals = Refusals::of(client);
        let late = |_| RequestError::from(RequestErrorKind::TimedOut);
        let inbox = time::timeout(timeout, self.inbox(client)).await.map_err(late)??;
        let number = inbox.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        inbox.waiting.lock().insert(number, sender);
        let _place = Place { waiting: &inbox.waiting, number };
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
        let left = timeout.saturating_sub(begun.elapsed());
        super::unless_refused(&refusals, &[subject, &inbox.all], answer, left).await
    }
}

#[cfg(test)]
mod tests {
    use embed_connect::ConnectSettings;
    use embed_testkit::{NatsServer, PATIENCE};

    use super::*;

    #[tokio::test]
    async fn an_inbox_that_is_refused_while_nobody_waits_is_not_used_again() {
        let server = NatsServer::start_with(
            r#"
            authorization { users: [ {user: "u", password: "u", permissions: {subscribe: {deny: ["_INBOX.>"]}}} ] }
            no_auth_user: "u"
            "#,
        );
        let settings = ConnectSettings { server: Some(server.url()), ..ConnectSettings::default() };
        let client = crate::nats::connect(&settings, "test").await.unwrap();
        let answers = Answers::default();
        let first = answers.inbox(&client).await.unwrap();
        let refused = async {
            while first.is_good() {
                time::sleep(Duration::from_millis(10)).await;
            }
        };
        time::timeout(PATIENCE, refused).await.expect("the server refuses it");
        let second = answers.inbox(&client).await.unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
    }
}
