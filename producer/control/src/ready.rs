//! Waiting for JetStream: it has no leader for a while after a server has died, answers nothing while it starts, and places no replicas on servers of
//! which its leader has not heard yet.

use std::time::Duration;

use async_nats::Client;
use embed_client::nats::api::{self, ApiError};
use serde_json::Value;
use tokio::time::Instant;

/// Between two calls.
const AGAIN: Duration = Duration::from_millis(100);

/// JetStream's code for "no suitable peers for placement".
const NO_PEERS: u64 = 10005;

/// One call of JetStream's API, made again for so long while nobody answers it, or while too few servers of a cluster are seen by its leader.
///
/// # Errors
/// As [`api::call`].
pub(crate) async fn call(
    client: &Client,
    subject: &str,
    body: &Value,
    timeout: Duration,
    within: Duration,
) -> Result<Value, ApiError> {
    let deadline = Instant::now() + within;
    loop {
        match api::call(client, subject, body, timeout).await {
            Err(ApiError::NotReady(reason)) if Instant::now() < deadline => {
                tracing::debug!(subject, reason, "JetStream is not ready yet");
                tokio::time::sleep(AGAIN).await;
            }
            // Every server says that it is healthy before that.
            Err(ApiError::Refused { code: NO_PEERS, description }) if Instant::now() < deadline => {
                tracing::debug!(subject, description, "the cluster is not complete yet");
                tokio::time::sleep(AGAIN).await;
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use embed_testkit::NatsServer;
    use futures::StreamExt;

    use super::*;

    #[tokio::test]
    async fn a_cluster_that_is_not_complete_yet_is_waited_for_and_not_for_ever() {
        let server = NatsServer::start();
        let client = async_nats::connect(server.url()).await.unwrap();
        let mut asked = client.subscribe(embed_connect::api_subject(&client, "TEST")).await.unwrap();
        client.flush().await.unwrap();
        let answering = client.clone();
        tokio::spawn(async move {
            let refusal = r#"{"error":{"code":400,"err_code":10005,"description":"no suitable peers for placement, peer offline"}}"#;
            for answer in [refusal, r#"{"is":"made"}"#].into_iter().chain(std::iter::repeat(refusal)) {
                let Some(message) = asked.next().await else { return };
                answering.publish(message.reply.unwrap(), answer.into()).await.unwrap();
            }
        });
        let one = Duration::from_secs(60);
        let made = call(&client, "TEST", &Value::Null, one, one).await.unwrap();
        assert_eq!(made["is"], "made");
        let error = call(&client, "TEST", &Value::Null, one, Duration::from_millis(300)).await.unwrap_err();
        assert!(error.is(NO_PEERS) && error.to_string().contains("peer offline"), "{error}");
    }
}
