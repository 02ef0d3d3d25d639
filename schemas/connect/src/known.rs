//! What is known of a connection beside what the client library keeps: where JetStream's API is, and what the server does not permit.
//!
//! Connections are passed on as the library's own clients, which have no room for it. So it is kept here, by the one thing that all
//! clones of a client share, their statistics; and for as long as these are there.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use async_nats::{Client, Event, ServerError, Statistics};
use tokio::sync::watch;

/// Where JetStream's API is, if nothing says otherwise.
pub(crate) const API: &str = "$JS.API";
/// Refusals that are remembered. Each is looked for at once, by whoever has just sent what was refused.
const REMEMBERED: usize = 64;

static CONNECTIONS: Mutex<Vec<(Weak<Statistics>, Arc<Known>)>> = Mutex::new(Vec::new());

/// What is known of one connection.
#[derive(Debug)]
pub(crate) struct Known {
    /// Where JetStream's API is.
    pub(crate) api: String,
    /// What the server refused, with a number, the last at the end.
    refusals: Mutex<VecDeque<(u64, Refusal)>>,
    count: watch::Sender<u64>,
}

/// What the server does not permit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server does not permit this user to {what} {subject:?}{}", hint(.what, .subject))]
pub struct Refusal {
    /// `publish on` or `subscribe to`.
    pub what: &'static str,
    /// The subject; where a message is mapped to another, that one.
    pub subject: String,
}

fn hint(what: &str, subject: &str) -> String {
    let mapped = what == "publish on" && subject.starts_with("embed.") && subject.split('.').count() == 4;
    match (mapped, subject.rsplit_once('.')) {
        (true, Some((bare, _))) => {
            format!(": a route sends what is published on {bare} there, so allow {bare}.* as well")
        }
        _ if what == "subscribe to" => ": allow it, or choose an --inbox-prefix that is allowed".to_owned(),
        _ => String::new(),
    }
}

impl Known {
    pub(crate) fn new(api: String) -> Arc<Self> {
        Arc::new(Self { api, refusals: Mutex::default(), count: watch::Sender::new(0) })
    }

    /// Takes note of what the server says, if it is a refusal.
    pub(crate) fn hear(&self, event: &Event) {
        let Event::ServerError(ServerError::Other(text)) = event else { return };
        let Some(refusal) = parse(text) else { return };
        let mut refusals = lock(&self.refusals);
        let number = refusals.back().map_or(1, |(last, _)| last + 1);
        refusals.push_back((number, refusal));
        if refusals.len() > REMEMBERED {
            refusals.pop_front();
        }
        self.count.send_replace(number);
    }
}

/// `Permissions Violation for Publish to "embed.rpc.m.b"`, with the library's or the server's prefix.
fn parse(text: &str) -> Option<Refusal> {
    let at = text.to_ascii_lowercase().find("permissions violation for ")?;
    let mut words = text[at..].split_whitespace().skip(3);
    let what = match words.next()?.to_ascii_lowercase().as_str() {
        "publish" => "publish on",
        "subscription" => "subscribe to",
        _ => return None,
    };
    let subject = text[at..].split('"').nth(1)?.to_owned();
    Some(Refusal { what, subject })
}

/// Keeps what is known of a client that has just connected.
pub(crate) fn keep(client: &Client, known: Arc<Known>) {
    let mut connections = lock(&CONNECTIONS);
    connections.retain(|(statistics, _)| statistics.strong_count() > 0);
    connections.push((Arc::downgrade(&client.statistics()), known));
}

/// What is known of a client, if it is one of ours.
pub(crate) fn of(client: &Client) -> Option<Arc<Known>> {
    let statistics = client.statistics();
    let connections = lock(&CONNECTIONS);
    let found = connections.iter().find(|(kept, _)| kept.as_ptr() == Arc::as_ptr(&statistics));
    found.map(|(_, known)| Arc::clone(known))
}

/// Listens to what a server refuses of a connection, from now on.
#[derive(Debug)]
pub struct Refusals {
    known: Option<Arc<Known>>,
    since: u64,
}

impl Refusals {
    /// From now on.
    #[must_use]
    pub fn of(client: &Client) -> Self {
        let known = of(client);
        let since = known.as_ref().map_or(0, |known| *known.count.borrow());
        Self { known, since }
    }

    /// Ends when the server refuses something on one of these subjects, or on what it maps them to. Never, for a connection that was not
    /// made here.
    pub async fn concerning(&self, subjects: &[&str]) -> Refusal {
        let Some(known) = &self.known else { return std::future::pending().await };
        let mut count = known.count.subscribe();
        loop {
            let found = lock(&known.refusals)
                .iter()
                .find(|(number, refusal)| {
                    *number > self.since && subjects.iter().any(|subject| concerns(refusal, subject))
                })
                .map(|(_, refusal)| refusal.clone());
            if let Some(refusal) = found {
                return refusal;
            }
            if count.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

fn concerns(refusal: &Refusal, subject: &str) -> bool {
    refusal.subject.strip_prefix(subject).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whoever panicked with it left it as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_refuses_is_read() {
        let refusal = parse("Permissions Violation for Publish to \"embed.rpc.m.b\"").unwrap();
        assert_eq!((refusal.what, refusal.subject.as_str()), ("publish on", "embed.rpc.m.b"));
        assert!(refusal.to_string().ends_with("so allow embed.rpc.m.* as well"), "{refusal}");
        let refusal = parse("permissions violation for subscription to \"_INBOX.Ab.1\" using queue \"q\"").unwrap();
        assert_eq!((refusal.what, refusal.subject.as_str()), ("subscribe to", "_INBOX.Ab.1"));
        assert!(refusal.to_string().contains("--inbox-prefix"), "{refusal}");
        assert_eq!(parse("maximum connections exceeded"), None);
    }

    #[test]
    fn a_refusal_concerns_who_has_sent_what_was_refused() {
        let refused = |subject: &str| Refusal { what: "publish on", subject: subject.to_owned() };
        assert!(concerns(&refused("embed.rpc.m"), "embed.rpc.m"));
        assert!(concerns(&refused("embed.rpc.m.b"), "embed.rpc.m"));
        assert!(!concerns(&refused("embed.rpc.m2"), "embed.rpc.m"));
        assert!(!concerns(&refused("embed.rpc.m"), "embed.rpc.m.b"));
    }

    #[tokio::test]
    async fn only_what_is_refused_afterwards_is_heard() {
        let known = Known::new(API.to_owned());
        let say = |subject: &str| {
            let text = format!("Permissions Violation for Publish to \"{subject}\"");
            known.hear(&Event::ServerError(ServerError::Other(text)));
        };
        say("a");
        let refusals = Refusals { known: Some(known.clone()), since: *known.count.borrow() };
        say("b");
        for n in 0..REMEMBERED {
            say(&format!("c.{n}"));
        }
        say("a.x");
        assert_eq!(refusals.concerning(&["a"]).await.subject, "a.x");
    }
}
