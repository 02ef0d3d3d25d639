//! A controller's metrics, while clients hold as many connections to them as they get.

use crate::support::{PATIENCE, command::embed, routed::alone};
use embed_testkit::Daemon;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Clients that send half of a request, and keep the connection; and how many descriptors the controller may have besides those that it
/// has.
const SLOW: usize = 300;
const DESCRIPTORS: u64 = 128;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_do_not_keep_others_from_a_controllers_metrics() {
    let (node, _client) = alone(&["a"]).await;
    let mut command = embed(&["rollout", "-s", &node.url, "--sys-user=sys", "--sys-password=pw", "--mappings-file"]);
    command.arg(node.mappings()).args(["run", "--metrics-listen=127.0.0.1:0"]).env("HOME", node.folder.path());
    let mut controller = Daemon::spawn(&mut command);
    controller.wait_for_log("/metrics");
    let log = controller.log();
    let address = log.split("http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap().to_owned();
    controller.limit_descriptors(DESCRIPTORS);
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        // Whoever is closed at once is slow no more.
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nX-Slow: ").await;
        slow.push(stream);
    }
    let ask = async {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = timeout(PATIENCE, ask).await.expect("an answer while others are slow");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(controller.is_running());
}
