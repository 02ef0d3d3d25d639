//! The HTTP endpoint, while clients hold as many of its connections as they get.

use std::{process::Command, time::Duration};

use crate::support::{Stack, http_get, provision};
use embed_schemas::{EmbedRequest, Format, streams::StreamSettings};
use embed_testkit::{Daemon, NatsServer, PATIENCE, Relay};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

/// Clients that send half of a request, and keep the connection.
const SLOW: usize = 300;
/// Descriptors that the worker may have beyond those that it has when it is ready: enough for its own bound, and not for all of them.
const DESCRIPTORS: u64 = 128;

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_of_http_take_nothing_that_others_need() {
    let nats = NatsServer::start();
    let relay = Relay::start(nats.address());
    let client = async_nats::connect(nats.url()).await.unwrap();
    provision(&client, &StreamSettings { ack_wait_ms: 2_000, ..StreamSettings::default() }).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_embed-worker"));
    command.args([
        "run",
        "--server",
        &format!("nats://{}", relay.address()),
        "--metrics-addr",
        "127.0.0.1:0",
        "--json",
    ]);
    command.env("EMBED_REGISTRY", embed_testkit::registry());
    let worker = Daemon::spawn(&mut command);
    let ready = worker.json_line();
    let stack = Stack { client, worker, ready, nats };
    stack.worker.limit_descriptors(DESCRIPTORS);
    let address = stack.ready["metrics_url"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();

    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        // Whoever is closed at once is slow no more.
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nX-Slow: ").await;
        slow.push(stream);
    }
    let answer = timeout(PATIENCE, http_get(&address, "/healthz")).await.expect("an answer while others are slow");
    assert_eq!(answer.0, 200);

    // A connection to NATS that is lost can be made anew.
    relay.go_down();
    stack.wait_until(|| stack.worker.log().contains("disconnected")).await;
    let _ = timeout(PATIENCE, http_get(&address, "/healthz")).await.expect("an answer without a server");
    relay.mend();
    // The worker calls itself through it.
    while timeout(PATIENCE, http_get(&address, "/readyz")).await.expect("an answer").0 != 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let answered = timeout(PATIENCE, stack.call(&EmbedRequest::new(["a"]), Format::Json)).await.expect("an answer");
    assert_eq!(answered.unwrap().items.len(), 1);
    drop(slow);
}
