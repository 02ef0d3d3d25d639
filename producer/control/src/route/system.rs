//! The servers, asked through the system account: which there are, what they hold, and that they read their files again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_nats::{Client, HeaderMap, RequestErrorKind};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Claims, RouteError,
    mapping::{self, Mappings},
};
use embed_client::nats;

/// What the server writes in place of a name that it has not heard yet.
const NAME_UNKNOWN: &str = "Server name unknown";
/// For one question to one server.
const TIMEOUT: Duration = Duration::from_secs(2);
/// For all servers to say that they are there. Those that are take milliseconds.
const ROLL_CALL: Duration = Duration::from_secs(1);

/// A server that answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Server {
    /// Its name, for people and for recognising it after a restart. The id, if it was given no name.
    pub(super) name: String,
    /// Its id, new at every start.
    pub(super) id: String,
}

/// What a server holds of an account.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Held {
    /// Its mappings.
    pub(super) mappings: Mappings,
    /// When it last read the account, RFC 3339.
    pub(super) since: Option<String>,
}

/// A roll call.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct RollCall {
    /// Who answers, by name.
    pub(super) present: Vec<Server>,
    /// The names of those that the cluster knows, and that do not answer.
    pub(super) missing: Vec<String>,
    /// How many more do not answer, whose names nobody knows that does.
    pub(super) unnamed: usize,
}

/// When a server syncs to disk what it acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Before it acknowledges.
    Always,
    /// Now and then: what came since the last time can be lost with its power.
    Every(Duration),
    /// It does not say: it has no JetStream, or is of before.
    Unknown,
}

/// A connection to the system account.
#[derive(Debug, Clone)]
pub(super) struct System {
    client: Client,
}

impl System {
    pub(super) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// Asks which servers there are. Waits for those that are known, by name, and for as many as any server knows of: one
    /// that has just started may know of itself alone.
    pub(super) async fn roll_call(&self, known: &[String]) -> Result<RollCall, RouteError> {
        let what = "cannot ask the servers through the system account";
        let mut expected = 1;
        let mut present: Vec<Server> = Vec::new();
        self.scatter("$SYS.REQ.SERVER.PING", Bytes::new(), what, |answer| {
            present.extend(server_of(&answer));
            let active = answer["statsz"]["active_servers"].as_u64().and_then(|n| usize::try_from(n).ok());
            expected = expected.max(active.unwrap_or(usize::MAX));
            present.len() < expected || known.iter().any(|name| present.iter().all(|server| server.name != *name))
        })
        .await?;
        present.sort();
        present.dedup();
        if present.is_empty() {
            return Err(RouteError::System {
                what: what.to_owned(),
                reason: "none answers: are these the credentials of a user of the system account?".to_owned(),
            });
        }
        let asked = present.iter().map(|server| self.ask(server, "JSZ", Value::Null));
        let answers: Vec<Value> = futures::future::join_all(asked).await.into_iter().flatten().collect();
        Ok(roll_call_of(present, &answers))
    }

    /// When each of so many servers syncs what it acknowledges, by its name.
    pub(super) async fn syncs(&self, servers: usize) -> Result<BTreeMap<String, SyncPolicy>, RouteError> {
        let mut found = BTreeMap::new();
        self.scatter("$SYS.REQ.SERVER.PING.VARZ", Bytes::new(), "cannot ask how servers sync", |answer| {
            if let Some(server) = server_of(&answer) {
                found.insert(server.name, sync_of(&answer["data"]["jetstream"]["config"]));
            }
            found.len() < servers
        })
        .await?;
        Ok(found)
    }

    /// The mappings that a server holds for an account.
    pub(super) async fn held(&self, server: &Server, account: &str) -> Result<Held, String> {
        let answer = self.ask(server, "ACCOUNTZ", json!({ "account": account })).await?;
        let detail = &answer["data"]["account_detail"];
        if !detail.is_object() {
            return Err(format!("it says nothing of account {account}"));
        }
        let since = detail["update_time"].as_str().map(str::to_owned);
        Ok(Held { mappings: mapping::from_account(detail), since })
    }

    /// The connections of an account to a server, with how each has proved who it is.
    pub(super) async fn connections(&self, server: &Server, account: &str) -> Result<Vec<Value>, String> {
        let answer = self.ask(server, "CONNZ", json!({ "auth": true, "acc": account })).await?;
        Ok(answer["data"]["connections"].as_array().cloned().unwrap_or_default())
    }

    /// Has a server read its configuration again.
    pub(super) async fn reload(&self, server: &Server) -> Result<(), String> {
        self.ask(server, "RELOAD", Value::Null).await.map(drop)
    }

    /// The claims of an account as each server knows them, as JWTs. Waits for so many; servers that know none say nothing.
    pub(super) async fn claims(&self, account: &str, servers: usize) -> Result<Vec<String>, RouteError> {
        let subject = format!("$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP");
        let what = "cannot look up the account's claims";
        let mut tokens = Vec::new();
        self.gather(subject, Bytes::new(), what, |payload| {
            tokens.extend(String::from_utf8(payload.to_vec()).ok().filter(|token| !token.is_empty()));
            tokens.len() < servers
        })
        .await?;
        if tokens.is_empty() {
            let reason = format!("no server knows account {account}");
            return Err(RouteError::System { what: what.to_owned(), reason });
        }
        Ok(tokens)
    }

    /// The keys that may sign claims.
    pub(super) async fn operator_keys(&self) -> Result<Vec<String>, RouteError> {
        let mut keys = Vec::new();
        self.scatter("$SYS.REQ.SERVER.PING.VARZ", Bytes::new(), "cannot ask whom the server trusts", |answer| {
            let operators = answer["data"]["trusted_operators_jwt"].as_array().cloned().unwrap_or_default();
            let tokens = operators.iter().filter_map(Value::as_str);
            keys.extend(
                tokens.filter_map(|token| Claims::decode(token).ok()).flat_map(|claims| claims.operator_keys()),
            );
            false
        })
        .await?;
        Ok(keys)
    }

    /// Gives all servers new claims. The answers of those that refuse them, by server; who says nothing is seen later, when
    /// asked what it holds.
    pub(super) async fn update_claims(
        &self,
        token: String,
        servers: usize,
    ) -> Result<BTreeMap<String, String>, RouteError> {
        let mut refusals = BTreeMap::new();
        let mut answers = 0;
        self.scatter("$SYS.REQ.CLAIMS.UPDATE", token.into(), "cannot update the account's claims", |answer| {
            answers += 1;
            if let Some(error) = error_of(&answer) {
                refusals.insert(server_of(&answer).map_or_else(|| "?".to_owned(), |s| s.name), error);
            }
            answers < servers
        })
        .await?;
        Ok(refusals)
    }

    /// One question to one server.
    async fn ask(&self, server: &Server, what: &str, body: Value) -> Result<Value, String> {
        let subject = format!("$SYS.REQ.SERVER.{}.{what}", server.id);
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let answer = nats::request(&self.client, subject, HeaderMap::new(), body, TIMEOUT).await;
        let payload = answer.map_err(|error| reason(&error))?.payload;
        let answer: Value = serde_json::from_slice(&payload).map_err(|error| format!("broken JSON: {error}"))?;
        error_of(&answer).map_or(Ok(answer), Err)
    }

    /// One question to all servers, whose number nobody knows, answered in JSON: `take` says whether to wait for more.
    async fn scatter(
        &self,
        subject: &str,
        body: Bytes,
        what: &str,
        mut take: impl FnMut(Value) -> bool,
    ) -> Result<(), RouteError> {
        self.gather(subject.to_owned(), body, what, |payload| match serde_json::from_slice(payload) {
            Ok(answer) => take(answer),
            Err(_) => true,
        })
        .await
    }

    /// One question to all servers, whatever the form of the answers.
    async fn gather(
        &self,
        subject: String,
        body: Bytes,
        what: &str,
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), RouteError> {
        let failed = |reason: String| RouteError::System { what: what.to_owned(), reason };
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.map_err(|e| failed(e.to_string()))?;
        self.client.publish_with_reply(subject, inbox, body).await.map_err(|e| failed(e.to_string()))?;
        let deadline = Instant::now() + ROLL_CALL;
        while let Ok(Some(answer)) = tokio::time::timeout_at(deadline, answers.next()).await {
            if answer.status.is_some() {
                return Err(failed(
                    "nobody listens: this is no user of the system account, or accounts are no JWTs here".to_owned(),
                ));
            }
            if !take(&answer.payload) {
                break;
            }
        }
        Ok(())
    }
}

fn server_of(answer: &Value) -> Option<Server> {
    let text = |field: &str| answer["server"][field].as_str().map(str::to_owned);
    Some(Server { name: text("name")?, id: text("id")? })
}

/// Who does not answer, by what those that do say of their cluster.
fn roll_call_of(present: Vec<Server>, answers: &[Value]) -> RollCall {
    let clusters =
        || answers.iter().map(|answer| &answer["data"]["meta_cluster"]).filter(|cluster| cluster.is_object());
    let peers = clusters().filter_map(|cluster| cluster["replicas"].as_array()).flatten();
    // A server that has just started knows others by their number alone; earlier versions say names only where they lead.
    let names = peers.filter_map(|peer| peer["name"].as_str()).filter(|name| !name.starts_with(NAME_UNKNOWN));
    let missing: BTreeSet<&str> = names.filter(|name| present.iter().all(|server| server.name != *name)).collect();
    let missing: Vec<String> = missing.into_iter().map(str::to_owned).collect();
    let size = clusters().filter_map(|cluster| cluster["cluster_size"].as_u64()).max().unwrap_or_default();
    let size = usize::try_from(size).unwrap_or_default();
    RollCall { unnamed: size.saturating_sub(present.len() + missing.len()), present, missing }
}

fn sync_of(config: &Value) -> SyncPolicy {
    match (config["sync_always"].as_bool(), config["sync_interval"].as_u64()) {
        (Some(true), _) => SyncPolicy::Always,
        (_, Some(interval)) => SyncPolicy::Every(Duration::from_nanos(interval)),
        (_, None) => SyncPolicy::Unknown,
    }
}

fn error_of(answer: &Value) -> Option<String> {
    let error = &answer["error"];
    error.is_object().then(|| error["description"].as_str().unwrap_or("no reason given").trim().replace("\n\n", "; "))
}

fn reason(error: &async_nats::RequestError) -> String {
    match error.kind() {
        RequestErrorKind::TimedOut => format!("no answer within {} s", TIMEOUT.as_secs()),
        RequestErrorKind::NoResponders => "nobody listens".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str) -> Server {
        Server { name: name.into(), id: format!("N{name}") }
    }

    #[test]
    fn who_does_not_answer_is_counted_though_nobody_knows_the_name() {
        let follower = json!({ "data": { "meta_cluster": { "name": "c", "cluster_size": 3 } } });
        let leader = json!({ "data": { "meta_cluster": {
            "leader": "n1", "cluster_size": 3, "replicas": [{ "name": "n2" }, { "name": "n3" }]
        } } });
        let call = |present: &[&str], answers: &[&Value]| {
            let answers: Vec<Value> = answers.iter().copied().cloned().collect();
            let call = roll_call_of(present.iter().map(|name| server(name)).collect(), &answers);
            (call.missing, call.unnamed)
        };
        assert_eq!(call(&["n1", "n2", "n3"], &[&leader, &follower, &follower]), (vec![], 0));
        assert_eq!(call(&["n1", "n3"], &[&leader, &follower]), (vec!["n2".to_owned()], 0));
        assert_eq!(call(&["n2", "n3"], &[&follower, &follower]), (vec![], 1), "it is being elected");
        assert_eq!(call(&["n2"], &[&follower]), (vec![], 2), "the majority is lost");
        let started = json!({ "data": { "meta_cluster": { "cluster_size": 3, "replicas": [
            { "name": "n1" }, { "name": "Server name unknown at this time (peerID: 44jzkV9D)" },
            { "name": "Server name unknown at this time (peerID: BXScrY9i)" }
        ] } } });
        assert_eq!(call(&["n1"], &[&started]), (vec![], 2), "it was started again, alone");
        assert_eq!(call(&["n1", "n2", "n3"], &[&started, &follower]), (vec![], 0), "it was started again");
        assert_eq!(call(&["n1"], &[&json!({ "data": {} })]), (vec![], 0), "it is alone");
    }
}
